# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""mIoU from confusion matrices, its bootstrap over scans, and which rows hold, win and get a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

HOLDS = 0.99  # of the dense network's mIoU, asked of the interval's lower bound
LEVEL = 0.95  # of the bootstrap interval
BASELINES = 3


def ious(confusion: Tensor) -> Tensor:
    """IoU `[..., classes]` of confusion matrices `[..., truth, label]`; NaN for classes without a point."""
    matrix = confusion.double()
    hits = matrix.diagonal(dim1=-2, dim2=-1)
    truth = matrix.sum(dim=-1)
    return torch.where(truth > 0, hits / (truth + matrix.sum(dim=-2) - hits), torch.nan)


def miou(confusion: Tensor) -> Tensor:
    """Mean IoU `[...]` over the classes that have points."""
    return ious(confusion).nanmean(dim=-1)


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether even the lower bound is 99 %."""
        return self.low >= HOLDS


def resampled(confusion: Tensor, resamples: int, seed: int = 0) -> Tensor:
    """mIoU `[resamples]` of scans drawn with replacement; the same scans for the same `seed`, so that networks are paired.

    Confusion: int64 `[scans, truth, label]`.
    """
    scans = len(confusion)
    draws = torch.randint(scans, (resamples, scans), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(resamples, scans, dtype=torch.float64)
    times.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))
    sums = times @ confusion.double().flatten(1)
    return miou(sums.view(resamples, *confusion.shape[1:]))


def ratio(of: Sequence[Tensor], to: Sequence[Tensor], resamples: int) -> Interval:
    """mIoU of one network over that of another, each given by its confusion matrices of the same scans, seed by seed.

    With several seeds it is the ratio of the means over seeds; the same scans are drawn for all networks and seeds. The
    interval is the percentile interval: scans vary in it, seeds do not.
    """
    if len(of) != len(to) or not of:
        raise ValueError(f"ratio: expected pairs of networks, got {len(of)} and {len(to)}")
    if any(a.shape != b.shape for a, b in zip(of, to, strict=True)):
        raise ValueError("ratio: networks must be judged on the same scans")
    a, b = (torch.stack([resampled(c, resamples) for c in side]).mean(0) for side in (of, to))
    value = float(
        torch.stack([miou(c.sum(0)) for c in of]).mean() / torch.stack([miou(c.sum(0)) for c in to]).mean()
    )
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(a / b, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(value, low, high)


@dataclass(frozen=True)
class Candidate:
    """A pruned row as the choice of baselines sees it."""

    name: str
    granularity: str
    speedup: float  # end to end, over the dense network
    miou: Interval  # over that of the dense network trained with as many steps


def best_rows(rows: Sequence[Candidate], count: int = BASELINES) -> list[str]:
    """The rows that get a baseline: the best of each granularity, and of these the best `count`.

    Rows that are no faster than the dense network get none: beside them stands that network itself. A row that holds 99 % is
    better than one that does not; among those that hold, the faster is better, among the others the one with the higher mIoU.
    """

    def rank(row: Candidate) -> tuple[bool, float]:
        return row.miou.holds, row.speedup if row.miou.holds else row.miou.value

    best: dict[str, Candidate] = {}
    faster = [row for row in rows if row.speedup > 1]
    for row in faster:
        if row.granularity not in best or rank(row) > rank(best[row.granularity]):
            best[row.granularity] = row
    ordered = sorted(best.values(), key=rank, reverse=True)
    if len(ordered) < count:  # fewer granularities than baselines: the next best rows
        rest = [row for row in faster if row not in ordered]
        ordered += sorted(rest, key=rank, reverse=True)
    return [row.name for row in ordered[:count]]


def dense_at(milliseconds: float, dense: Mapping[str, tuple[float, float]]) -> float | None:
    """The mIoU that dense networks have at a time: linear between those that were trained, given as (milliseconds, mIoU).

    None below the fastest; the slowest one's value above the slowest.
    """
    points = sorted(dense.values())
    if not points or milliseconds < points[0][0]:
        return None
    if milliseconds >= points[-1][0]:
        return points[-1][1]
    for (t0, m0), (t1, m1) in pairwise(points):
        if t0 <= milliseconds <= t1:
            return m0 if t1 == t0 else m0 + (m1 - m0) * (milliseconds - t0) / (t1 - t0)
    return None
