# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Lines of the pruning benchmark's table: networks beside the dense one, and pruned ones beside a dense one of their speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from pruning_measure import Measured, mean_gain, mean_milliseconds
from pruning_rows import DENSE, TUNED, Row, Workshop
from pruning_score import Interval, dense_at, miou, ratio
from pruning_timing import Gain
from torch import Tensor

GAINS = ("whole", "fused", "half", "deployed", "convolutions", "wide", "narrow")
PAYS, LEVEL, LOSES = "yes", "not told apart", "no"


@dataclass
class Line:
    """A line of the table; ratios of mIoU are over networks of the same seeds."""

    row: Row
    seeds: list[int]
    miou: float
    mious: list[float]
    ious: list[float | None]
    parameters: int
    nonzero: int
    milliseconds: float  # end to end, mean over sweeps, one thread
    half_milliseconds: float  # the same, fused and in bfloat16
    gains: dict[str, Gain | None]  # geometric means over sweeps, by "<what>, <threads>"
    of_dense: Interval
    of_trained_on: Interval | None
    by_seed: list[Interval]
    half_of_dense: Interval  # this network fused and in bfloat16 over the dense one in float32
    half_of_trained_on: Interval | None
    baseline: str = ""  # the dense network of the same speed, or how its mIoU was found
    baseline_miou: float | None = None
    of_baseline: Interval | None = None
    pays: str = ""

    def speedup(self, what: str = "whole") -> float:
        """End to end, one thread, over the dense network; `what`: named as in `Measured`."""
        gain = self.gains[f"{what}, 1"]
        return gain.faster.median if gain is not None else math.nan


def make_lines(
    shop: Workshop, rows: Sequence[Row], seeds: Sequence[int], measured: list[Measured], resamples: int
) -> list[Line]:
    """A line for each row that at least one seed has."""
    lines = []
    for row in rows:
        have = [seed for seed in seeds if shop.finished(row, seed) and shop.finished(DENSE, seed)]
        if not have or not any(m.network == row.name for m in measured):
            continue
        mine = [shop.confusion(row, s) for s in have]
        dense = [shop.confusion(DENSE, s) for s in have]
        trained = [s for s in have if shop.finished(TUNED, s)]
        records = [shop.record(row, s) for s in have]
        half = [shop.half_confusion(row, s) for s in have]

        def of_trained_on(
            confusions: list[Tensor], have: list[int] = have, trained: list[int] = trained
        ) -> Interval | None:
            chosen = [c for c, s in zip(confusions, have, strict=True) if s in trained]
            return ratio(chosen, [shop.confusion(TUNED, s) for s in trained], resamples) if trained else None

        gains = {
            f"{what}, {threads}": mean_gain(measured, row.name, what, threads)
            for what in GAINS
            for threads in (1, 2)
        }
        lines.append(
            Line(
                row,
                have,
                mean(r["miou"] for r in records),
                [r["miou"] for r in records],
                records[0]["ious"],
                records[0]["parameters"],
                records[0]["nonzero"],
                mean_milliseconds(measured, row.name),
                mean_milliseconds(measured, row.name, "half_milliseconds"),
                gains,
                ratio(mine, dense, resamples),
                of_trained_on(mine),
                [ratio([a], [b], resamples) for a, b in zip(mine, dense, strict=True)],
                ratio(half, dense, resamples),
                of_trained_on(half),
            )
        )
    return lines


def compare_with_baselines(shop: Workshop, lines: list[Line], resamples: int) -> None:
    """Says of every pruned row whether it beats a dense network of its speed.

    Where a baseline was trained beside it, by the interval of the ratio of the two; elsewhere by what dense networks reach at
    its time, interpolated between those that were trained with the same number of steps.
    """
    baselines = {line.row.beside: line for line in lines if line.row.beside}
    for line in lines:
        if not line.row.stages:
            continue
        base = baselines.get(line.row.name)
        both = [s for s in line.seeds if base is not None and s in base.seeds]
        if base is not None and both:
            line.baseline = base.row.name
            line.baseline_miou = mean(float(miou(shop.confusion(base.row, s).sum(0))) for s in both)
            line.of_baseline = ratio(
                [shop.confusion(line.row, s) for s in both],
                [shop.confusion(base.row, s) for s in both],
                resamples,
            )
            low, high = line.of_baseline.low, line.of_baseline.high
            line.pays = PAYS if low > 1 else LOSES if high < 1 else LEVEL
            continue
        dense = {x.row.name: (x.milliseconds, x.miou) for x in lines if x.row.beside or x.row == TUNED}
        at = dense_at(line.milliseconds, dense)
        if at is None:
            line.baseline = "none so fast"
        else:
            line.baseline, line.baseline_miou = "interpolated", at
            line.pays = PAYS if line.miou > at else LOSES
