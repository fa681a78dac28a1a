# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Usage: python benchmarks/pruning.py [--seeds 3] [--minutes 100] [--rows "channels 1/2"] [--quick] ...

Trains a dense MinkUNet18 on simulated sweeps, prunes it in several ways, and holds each pruned network against the dense one and
against dense networks of the same speed. Ctrl-C stops it; the same command goes on. docs/benchmarks.md says how to read the results.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from pruning_rows import DENSE, TUNED, Row, Workshop, named_rows
from pruning_score import Candidate, best_rows, ratio
from pruning_settings import Settings, parse
from pruning_task import full_sweeps, prepare
from pruning_timing import end_to_end, width_as_fast_as
from timing import ratios

SEARCH_ROUNDS = 5


@dataclass
class Clock:
    """The time that is left, and how long rows of a kind took."""

    minutes: float
    start: float = field(default_factory=time.perf_counter)
    took: dict[str, float] = field(default_factory=dict)

    def allows(self, kind: str, reserve: float) -> bool:
        """Whether a row of this kind would be done, with `reserve` seconds to spare."""
        if not self.minutes:
            return True
        spent = time.perf_counter() - self.start
        return spent + self.took.get(kind, 0.0) + reserve < 60 * self.minutes


def make_rows(shop: Workshop, rows: Sequence[Row], seed: int, clock: Clock, reserve: float) -> bool:
    """Makes those rows of a seed that are not there; False where time ran out before."""
    for row in rows:
        if shop.finished(row, seed):
            continue
        kind = row.beside and "baseline" or ("pruned" if row.stages else row.name)
        if not clock.allows(kind, reserve):
            print(f"no time left for {row.name}, seed {seed}: the same command goes on there", flush=True)
            return False
        start = time.perf_counter()
        shop.make(row, seed)
        clock.took[kind] = time.perf_counter() - start
        print(
            f"seed {seed}, {row.name}: mIoU {shop.record(row, seed)['miou']:.4f}, {clock.took[kind]:.0f} s",
            flush=True,
        )
    return True


if __name__ == "__main__":
    settings = parse()
    torch.set_num_threads(settings.task.threads)
    prepare(settings.task, settings.work / "sweeps")
    shop = Workshop.open(settings.task, settings.work)
    make_rows(shop, [DENSE, TUNED], 0, Clock(settings.minutes), 0)
