# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""How much is pruned, and where: from scores of units to the units that go."""

from __future__ import annotations

import fnmatch
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .analysis import Analysis, axes_of
from .surgery import keep_of
from .units import Units


class Ratio(ABC):
    """Base of all ratios."""

    @abstractmethod
    def choose(self, groups: Sequence[Units], scores: Sequence[Tensor], analysis: Analysis) -> list[Tensor]:
        """bool [count] for every group: the units that go. `scores` are importances, float64 [count] each."""


def lowest(units: Units, score: Tensor, ratio: float) -> Tensor:
    """The units of one group that go: the least important ones, until their share is as near to `ratio` as it gets.

    Ties are broken by the order of the units, so equal scores never remove more than was asked for.
    """
    check_ratio(ratio)
    if units.blocks is not None:
        return _pattern(units, score)
    share = torch.ones(units.count, dtype=torch.float64) if units.share is None else units.share
    order = torch.argsort(_rank(units, score), stable=True)
    reached = torch.cat([share.new_zeros(1), share[order].cumsum(0)])
    number = int((reached - ratio * reached[-1]).abs().argmin())
    removed = torch.zeros(units.count, dtype=torch.bool)
    removed[order[: units.count - kept_units(units, units.count - number)]] = True
    return removed


def kept_units(units: Units, wanted: int) -> int:
    """The number of units that stay where `wanted` should: a multiple, at least what must stay, at most all."""
    if units.count >= units.multiple > 1:
        least = math.ceil(max(units.keep, 1) / units.multiple)
        wanted = max(least, math.floor(wanted / units.multiple + 0.5)) * units.multiple
    return min(units.count, max(wanted, units.keep))


def _rank(units: Units, score: Tensor) -> Tensor:
    """Importance for what a unit costs, where units cost differently."""
    return score if units.share is None else score / units.share


def _pattern(units: Units, score: Tensor) -> Tensor:
    """N:M: in each run of m units all but the n most important go; the first of equals stays."""
    n, m = units.blocks or (1, 1)
    order = torch.argsort(score.view(-1, m), dim=1, descending=True, stable=True)
    removed = torch.ones(units.count // m, m, dtype=torch.bool)
    removed.scatter_(1, order[:, :n], False)
    return removed.view(-1)


def check_ratio(ratio: float) -> float:
    """`ratio`, if it is in [0, 1]."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"a pruning ratio must be in [0, 1], got {ratio!r}")
    return ratio


@dataclass(frozen=True)
class Uniform(Ratio):
    """The same share of every layer or group."""

    ratio: float = 0.5

    def __post_init__(self) -> None:
        check_ratio(self.ratio)

    def choose(self, groups: Sequence[Units], scores: Sequence[Tensor], analysis: Analysis) -> list[Tensor]:  # noqa: ARG002
        """See `Ratio.choose`."""
        return [lowest(u, s, self.ratio) for u, s in zip(groups, scores, strict=True)]


@dataclass(frozen=True)
class PerLayer(Ratio):
    """A share for each layer or group, by name or pattern ("up.*"); the first that fits a group or one of its layers.

    For channels these are the layers that make them: a group does not go by the name of a layer that only reads it.
    """

    ratios: Mapping[str, float] = field(default_factory=dict)
    default: float = 0.0

    def __post_init__(self) -> None:
        for value in (*self.ratios.values(), self.default):
            check_ratio(value)

    def match(self, *names: str) -> float:
        """The share of what goes by these names."""
        for pattern, ratio in self.ratios.items():
            if any(name == pattern or fnmatch.fnmatchcase(name, pattern) for name in names):
                return ratio
        return self.default

    def check(self, names: Iterable[str]) -> None:
        """Raises ValueError where a name or pattern fits none of `names`."""
        names = list(dict.fromkeys(names))
        for pattern in self.ratios:
            if pattern not in names and not fnmatch.filter(names, pattern):
                raise ValueError(
                    f"PerLayer: {pattern!r} names no layer or group; there are {', '.join(names)}"
                )

    def choose(self, groups: Sequence[Units], scores: Sequence[Tensor], analysis: Analysis) -> list[Tensor]:  # noqa: ARG002
        """See `Ratio.choose`; raises ValueError for a name that fits nothing."""
        self.check([name for u in groups for name in (u.name, *(u.makers or u.layers))])
        return [
            lowest(u, s, self.match(u.name, *(u.makers or u.layers)))
            for u, s in zip(groups, scores, strict=True)
        ]


@dataclass(frozen=True)
class Global(Ratio):
    """One ranking over all layers and groups: the least important units of the network go.

    Args:
        ratio: the share that goes.
        most: the largest share that a single group may lose, which guards against groups that would vanish.
        normalize: divide the scores of a group by their mean, without which layers of other scales are not comparable.
        by: "units", or "macs": rank by importance per multiply-accumulate, so that the share is one of the work.
    """

    ratio: float = 0.5
    most: float = 0.9
    normalize: bool = True
    by: str = "units"

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        check_ratio(self.most)
        if self.by not in ("units", "macs"):
            raise ValueError(f'Global: by must be "units" or "macs", got {self.by!r}')

    def choose(self, groups: Sequence[Units], scores: Sequence[Tensor], analysis: Analysis) -> list[Tensor]:  # noqa: ARG002
        """See `Ratio.choose`."""
        if any(u.blocks for u in groups):
            return [lowest(u, s, self.ratio) for u, s in zip(groups, scores, strict=True)]
        if not groups:
            return []
        shares = [self._share(u) for u in groups]
        ranks = [self._rank(u, s, share) for u, s, share in zip(groups, scores, shares, strict=True)]
        # A unit is never chosen where its group would lose too much: it and all that come after it in its group rank last.
        open_ranks = torch.cat([self._guard(u, r, s) for u, r, s in zip(groups, ranks, shares, strict=True)])
        share = torch.cat(shares)
        order = torch.argsort(open_ranks, stable=True)
        order = order[: int((open_ranks < math.inf).sum())]
        reached = torch.cat([share.new_zeros(1), share[order].cumsum(0)])
        number = int((reached - self.ratio * share.sum()).abs().argmin())
        gone = torch.zeros(len(share), dtype=torch.bool)
        gone[order[:number]] = True
        parts = gone.split([u.count for u in groups])
        return [self._round(u, r, part) for u, r, part in zip(groups, ranks, parts, strict=True)]

    def _guard(self, units: Units, rank: Tensor, share: Tensor) -> Tensor:
        """`rank`, infinite from where the group would lose more than `most`, or more than may go."""
        order = torch.argsort(rank, stable=True)
        spare = units.count - max(units.keep, 1 if units.multiple > 1 else 0)
        shut = share[order].cumsum(0) > self.most * float(share.sum()) * (1 + 1e-12)
        shut |= torch.arange(units.count) >= spare
        guarded = rank.clone()
        guarded[order[shut]] = math.inf
        return guarded

    def _share(self, units: Units) -> Tensor:
        if self.by == "macs" and bool((units.cost > 0).any()):
            return units.cost.clamp(min=1e-12)
        return torch.ones(units.count, dtype=torch.float64) if units.share is None else units.share

    def _rank(self, units: Units, score: Tensor, share: Tensor) -> Tensor:
        mean = float(score.mean()) if self.normalize and units.count else 0.0
        return (score / mean if mean > 0 else score) / (
            share if self.by == "macs" or units.share is not None else 1.0
        )

    @staticmethod
    def _round(units: Units, rank: Tensor, gone: Tensor) -> Tensor:
        """The same group with a legal number of units."""
        kept = kept_units(units, units.count - int(gone.sum()))
        if kept == units.count - int(gone.sum()):
            return gone
        order = torch.argsort(rank, stable=True)
        result = torch.zeros_like(gone)
        result[order[: units.count - kept]] = True
        return result


@dataclass(frozen=True)
class Macs(Ratio):
    """The ratio at which the network's multiply-accumulates come nearest to a share of what they are now.

    Args:
        share: of the multiply-accumulates that stay, in (0, 1].
        most, normalize, by: as for `Global`, whose ratio is searched.
    """

    share: float = 0.5
    most: float = 0.9
    normalize: bool = True
    by: str = "units"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"Macs: share must be in (0, 1], got {self.share!r}")

    def choose(self, groups: Sequence[Units], scores: Sequence[Tensor], analysis: Analysis) -> list[Tensor]:
        """See `Ratio.choose`."""
        low, high = 0.0, 1.0
        best: tuple[float, list[Tensor]] | None = None
        for _ in range(16):
            ratio = (low + high) / 2
            removed = Global(ratio, self.most, self.normalize, self.by).choose(groups, scores, analysis)
            share = remaining_macs(analysis, groups, removed) / max(analysis.macs, 1.0)
            if best is None or abs(share - self.share) < best[0]:
                best = abs(share - self.share), removed
            low, high = (ratio, high) if share > self.share else (low, ratio)
        return best[1] if best is not None else []


def remaining_macs(analysis: Analysis, groups: Sequence[Units], removed: Sequence[Tensor]) -> float:
    """Multiply-accumulates per scan that stay when units go: exact for channels and taps, since taps never change sites."""
    if any(m.axis is None for u in groups for m in u.members):
        saved = sum(float(u.cost[gone].sum()) for u, gone in zip(groups, removed, strict=True))
        return analysis.macs - saved
    cuts = keep_of(groups, removed)
    total = 0.0
    for layer in analysis.layers.values():
        axes = cuts.get(layer.weight, {})
        reads, makes = axes_of(layer)
        factor = 1.0
        for axis in {reads, makes} & set(axes):
            factor *= float(axes[axis].double().mean())
        if layer.pairs is not None and 0 in axes and layer.axes is None:
            factor *= float(layer.pairs[axes[0]].sum() / layer.pairs.sum().clamp(min=1e-12))
        total += layer.macs * factor
    return total
