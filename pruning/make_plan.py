# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""From a network, scans and the four choices to a plan."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .analysis import Analysis, analyze
from .calls import Forward
from .criteria import Context, Criterion, Loss, Magnitude
from .granularity import Channels, Granularity, describe
from .plan import Entry, Plan, Step
from .points import Points, can_skip
from .ratios import PerLayer, Ratio, Uniform
from .surgery import keep_of, masks_of
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
    check_names(model, ignore)
    words = describe(granularity), describe(criterion), describe(chosen)
    if isinstance(granularity, Points):
        return Plan((_points_step(model, granularity, chosen, analysis, words, ignore),))
    groups, left = granularity.units(model, analysis)
    groups, left = drop_ignored(groups, left, ignore)
    context = Context(model, scans, analysis, loss, forward)
    scores = criterion.scores(context, groups)
    _check_scores(groups, scores)
    removed = chosen.choose(groups, scores, analysis)
    updates = criterion.update(context, groups, removed)
    return Plan((step_of(model, granularity, words, groups, removed, left=left, updates=updates),))


def step_of(
    model: nn.Module,
    granularity: Granularity,
    words: tuple[str, str, str],
    groups: Sequence[Units],
    removed: Sequence[Tensor],
    *,
    left: Mapping[str, str] | None = None,
    updates: Mapping[str, Tensor] | None = None,
) -> Step:
    """The step that removes units (bool [count] for each group); `words` describe granularity, criterion and ratio."""
    entries = tuple(
        Entry(u.name, u.count, int(gone.sum()), float(u.cost[gone].sum()))
        for u, gone in zip(groups, removed, strict=True)
    )
    return Step(
        *words,
        cuts=keep_of(groups, removed) if granularity.removes else {},
        masks={} if granularity.removes else masks_of(model, groups, removed),
        entries=entries,
        left=left or {},
        updates=updates or {},
    )


def _points_step(
    model: nn.Module,
    granularity: Points,
    ratio: Any,
    analysis: Analysis,
    words: tuple[str, str, str],
    ignore: Sequence[str],
) -> Step:
    """The step of a plan that skips rows."""
    if not isinstance(ratio, PerLayer | Uniform):
        raise TypeError(f"{granularity}: ratio must be Uniform or PerLayer, got {ratio!r}")
    points, entries, left = {}, [], {}
    modules = dict(model.named_modules())
    for layer in analysis.layers.values():
        module = modules.get(layer.name)  # None for a bare parameter
        if not can_skip(module):
            continue
        if getattr(module, "in_channels", 0) != getattr(module, "out_channels", 1):
            left[layer.name] = "input and output channels differ"
        elif matches(layer.name, ignore):
            left[layer.name] = "ignored"
        else:
            share = ratio.ratio if isinstance(ratio, Uniform) else ratio.match(layer.name)
            points[layer.name] = share
            entries.append(
                Entry(layer.name, round(layer.rows), round(layer.rows * share), layer.macs * share)
            )
    if isinstance(ratio, PerLayer):
        ratio.check([*points, *left])
    return Step(*words, points=points, entries=tuple(entries), left=left)


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


def check_names(model: nn.Module, ignore: Sequence[str]) -> None:
    """Raises ValueError for a pattern that names no module, TypeError for a string in place of a list."""
    if isinstance(ignore, str):
        raise TypeError(f"ignore must be a list of names or patterns, got the string {ignore!r}")
    names = [name for name, _ in model.named_modules()]
    for pattern in ignore:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"ignore: {pattern!r} names no module of the model")


def drop_ignored(
    groups: Sequence[Units], left: dict[str, str], ignore: Sequence[str]
) -> tuple[list[Units], dict[str, str]]:
    """The groups that touch no layer to be ignored, and `left` with the others."""
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
