# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""In how many goes a network is pruned, and the loop that prunes and trains in turns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn

from .criteria import Criterion, Loss
from .granularity import Channels, Granularity
from .make_plan import make_plan
from .plan import Plan
from .ratios import Ratio, Uniform, check_ratio

Model = TypeVar("Model", bound=nn.Module)


class Schedule(ABC):
    """Base of all schedules."""

    @abstractmethod
    def levels(self, final: float) -> list[float]:
        """The sparsity after every go; the last one is `final`."""


@dataclass(frozen=True)
class OneShot(Schedule):
    """Everything at once."""

    def levels(self, final: float) -> list[float]:
        """See `Schedule.levels`."""
        return [check_ratio(final)]


@dataclass(frozen=True)
class Iterative(Schedule):
    """The same amount in every go."""

    goes: int = 4

    def __post_init__(self) -> None:
        _check_goes(self.goes)

    def levels(self, final: float) -> list[float]:
        """See `Schedule.levels`."""
        check_ratio(final)
        return [final * (i + 1) / self.goes for i in range(self.goes - 1)] + [final]


@dataclass(frozen=True)
class Cubic(Schedule):
    """Much at first and less and less: s_t = s_f + (s_0 - s_f) (1 - t / n)^3 for t = 1 .. n.

    Source: Zhu and Gupta, "To prune, or not to prune" (2017), equation 1.
    """

    goes: int = 4
    start: float = 0.0

    def __post_init__(self) -> None:
        _check_goes(self.goes)
        check_ratio(self.start)

    def levels(self, final: float) -> list[float]:
        """See `Schedule.levels`."""
        check_ratio(final)
        n = self.goes
        return [final + (self.start - final) * (1 - t / n) ** 3 for t in range(1, n)] + [final]


def _check_goes(goes: int) -> None:
    if isinstance(goes, bool) or not isinstance(goes, int) or goes < 1:
        raise ValueError(f"a schedule has at least one go, got {goes!r}")


def prune(
    model: Model,
    scans: Iterable[Any],
    final: float,
    *,
    schedule: Schedule | None = None,
    granularity: Granularity | None = None,
    criterion: Criterion | None = None,
    ratio: Callable[[float], Ratio] = Uniform,
    loss: Loss | None = None,
    tune: Callable[[Model, Plan, int], None] | None = None,
    **options: Any,
) -> tuple[Model, Plan]:
    """Prunes to the sparsity `final` in the goes of a schedule, training in between.

    Args:
        model, scans, loss: as for `make_plan`; the model is not changed.
        final: the share that has gone in the end.
        schedule: None = `OneShot()`.
        granularity, criterion: as for `make_plan`.
        ratio: makes the ratio of one go from a share, such as `Uniform`, `Global` or `lambda s: Macs(1 - s)`.
        tune: (model, plan so far, number of the go) -> None, trains in place after every go.
        options: further arguments of `make_plan`.

    Returns:
        The pruned network, and the plan that makes its shape out of a fresh one.
    """
    scans = list(scans)
    granularity = Channels() if granularity is None else granularity
    plan, before = Plan(()), 0.0
    current = model
    levels = (schedule or OneShot()).levels(final)
    for go, level in enumerate(levels):
        # What was taken out is no longer there to be counted; what was zeroed is, and is chosen again.
        share = level if not granularity.removes else (level - before) / (1 - before) if before < 1 else 0.0
        part = make_plan(
            current,
            scans,
            granularity=granularity if go == len(levels) - 1 else _unrounded(granularity),
            criterion=criterion,
            ratio=ratio(max(0.0, share)),
            loss=loss,
            **options,
        )
        current = part.apply(current)
        plan, before = plan.then(part), level
        if tune is not None:
            tune(current, plan, go)
    return current, plan


def _unrounded(granularity: Granularity) -> Granularity:
    """For all goes but the last: rounding in every go would keep small groups from ever getting smaller."""
    return replace(granularity, round_to=1) if isinstance(granularity, Channels) else granularity
