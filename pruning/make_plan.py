# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""From a network, scans and the four choices to a plan."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from .analysis import Analysis, analyze, keep_of, masks_of
from .calls import Forward
from .criteria import Context, Criterion, Loss, Magnitude
from .granularity import Channels, Granularity, describe
from .plan import Entry, Plan, Step
from .points import Points, points_step
from .ratios import Ratio, Uniform
from .units import Units


def make_plan(
    model: nn.Module,
    scans: Iterable[Any],
    *,
    granularity: Granularity | Points | None = None,
    criterion: Criterion | None = None,
    ratio: Ratio | float = 0.5,
    loss: Loss | None = None,
    forward: Forward | None = None,
    ignore: Sequence[str] = (),
    analysis: Analysis | None = None,
) -> Plan:
    """Decides what goes. The model is not changed; `plan.apply(model)` makes the pruned network.

    Args:
        model: any module; channels are followed through its operators, so no list of layers is needed.
        scans: inputs, at least one real scan: a SparseTensor, a tuple of arguments, or what `forward` and `loss` take.
        granularity: what a unit is; None = `Channels()`.
        criterion: how important a unit is; None = `Magnitude()`.
        ratio: how much goes; a number is `Uniform(number)`.
        loss: (model, scan) -> scalar, for criteria that take gradients.
        forward: (model, scan) -> outputs, where a scan is no plain input.
        ignore: names or patterns ("classifier", "up.*") of layers to leave.
        analysis: of this model on these scans, where it was made before.

    Raises:
        ValueError, TypeError: no scan, an unknown name, a ratio out of range, a missing loss, ...
    """
    scans = list(scans)
    granularity = Channels() if granularity is None else granularity
    criterion = Magnitude() if criterion is None else criterion
    chosen = Uniform(float(ratio)) if isinstance(ratio, int | float) else ratio
    _check_types(granularity, criterion, chosen)
    analysis = analyze(model, scans, forward=forward) if analysis is None else analysis
    _check_names(model, ignore)
    words = describe(granularity), describe(criterion), describe(chosen)
    if isinstance(granularity, Points):
        return Plan((points_step(model, granularity, chosen, analysis, words, ignore),))
    groups, left = granularity.units(model, analysis)
    groups, left = _drop_ignored(groups, left, ignore)
    context = Context(model, scans, analysis, loss, forward)
    scores = criterion.scores(context, groups)
    _check_scores(groups, scores)
    removed = chosen.choose(groups, scores, analysis)
    entries = tuple(
        Entry(u.name, u.count, int(gone.sum()), float(u.cost[gone].sum()))
        for u, gone in zip(groups, removed, strict=True)
    )
    updates = criterion.update(context, groups, removed)
    if granularity.removes:
        return Plan(
            (Step(*words, cuts=keep_of(groups, removed), entries=entries, left=left, updates=updates),)
        )
    masks = masks_of(model, groups, removed)
    return Plan((Step(*words, masks=masks, entries=entries, left=left, updates=updates),))


def _check_types(granularity: object, criterion: object, ratio: object) -> None:
    for label, value, expected in (
        ("granularity", granularity, (Granularity, Points)),
        ("criterion", criterion, Criterion),
        ("ratio", ratio, Ratio),
    ):
        if not isinstance(value, expected):
            names = " or ".join(
                t.__name__ for t in (expected if isinstance(expected, tuple) else (expected,))
            )
            raise TypeError(f"make_plan: {label} must be a {names}, got {value!r}")


def _check_names(model: nn.Module, ignore: Sequence[str]) -> None:
    if isinstance(ignore, str):
        raise TypeError(f"ignore must be a list of names or patterns, got the string {ignore!r}")
    names = [name for name, _ in model.named_modules()]
    for pattern in ignore:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"ignore: {pattern!r} names no module of the model")


def _drop_ignored(
    groups: Sequence[Units], left: dict[str, str], ignore: Sequence[str]
) -> tuple[list[Units], dict[str, str]]:
    kept = []
    for units in groups:
        if any(matches(name, ignore) for name in units.layers):
            left.setdefault(units.name, "ignored")
        else:
            kept.append(units)
    return kept, left


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a layer's name fits one of the patterns, or lies below a module that does."""
    return any(fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(name, f"{p}.*") for p in patterns)


def _check_scores(groups: Sequence[Units], scores: Sequence[Tensor]) -> None:
    for units, score in zip(groups, scores, strict=True):
        if score.shape != (units.count,):
            raise ValueError(
                f"{units.name}: a criterion must score {units.count} units, got {list(score.shape)}"
            )
        if bool(score.isnan().any()):
            raise ValueError(
                f"{units.name}: the importance of some units is NaN; are there NaNs in the weights or gradients?"
            )
