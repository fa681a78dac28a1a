# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing: every round gives each task its turn, in one order (A B A B ...), so that a slow spell of the machine
hits all of them; ratios are taken within rounds. A short task is run twice in its turn and the second run counts: the first one
finds another task's data in the caches and its own memory handed back to the system.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

SHORT = 0.05  # seconds; caches and fresh memory weigh little on a task that takes longer


@dataclass(frozen=True)
class Task:
    """What is timed: `run(prepare())`, of which only `run` counts; without `prepare`, `run()`."""

    run: Callable[..., Any]
    prepare: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Budget:
    """When a measurement stops: after `rounds`, or after `seconds` once it has `least` rounds."""

    rounds: int = 11
    seconds: float = 3.0
    least: int = 3


@dataclass
class Timings:
    """Seconds per task, one entry for each round, and the names in the order of their turns (warm-up rounds not included).

    `cold` has the first run of each turn, which is the counted one where the task is not short; `figures` what the counted runs
    returned, where that is a float.
    """

    seconds: dict[str, list[float]]
    order: list[str] = field(default_factory=list)
    cold: dict[str, list[float]] = field(default_factory=dict)
    figures: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """Median, quartiles, lowest value and number of samples."""

    median: float
    q1: float
    q3: float
    lowest: float
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        ordered = sorted(values)
        return Spread(
            median(ordered), _quantile(ordered, 0.25), _quantile(ordered, 0.75), ordered[0], len(ordered)
        )

    def scaled(self, factor: float) -> Spread:
        """In another unit."""
        return Spread(self.median * factor, self.q1 * factor, self.q3 * factor, self.lowest * factor, self.n)


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def interleave(tasks: Mapping[str, Task], budget: Budget, *, warmup: int = 1, again: bool = True) -> Timings:
    """Times the tasks in rounds; garbage is collected between rounds and never during a run.

    again=False: a turn is one run, also of a short task: for what finds its data in memory where it is used, too.
    """
    timings = Timings({name: [] for name in tasks}, cold={name: [] for name in tasks})
    for _ in range(warmup):
        for task in tasks.values():
            _run(task)
    start = time.perf_counter()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for done in range(budget.rounds):
            if done >= budget.least and time.perf_counter() - start > budget.seconds:
                break
            gc.collect(0)
            for name, task in tasks.items():
                cold, figure = _run(task)
                seconds, figure = _run(task) if again and cold < SHORT else (cold, figure)
                timings.cold[name].append(cold)
                timings.seconds[name].append(seconds)
                timings.order.append(name)
                if figure is not None:
                    timings.figures.setdefault(name, []).append(figure)
    finally:
        if collecting:
            gc.enable()
    return timings


def _run(task: Task) -> tuple[float, float | None]:
    """The seconds of one run, and what it returned if that is a float."""
    arguments = () if task.prepare is None else (task.prepare(),)
    start = time.perf_counter()
    kept = task.run(*arguments)  # freed after the clock has stopped
    seconds = time.perf_counter() - start
    return seconds, kept if isinstance(kept, float) else None


def ratios(timings: Timings, slow: str, fast: str) -> Spread:
    """How many times longer `slow` took than `fast`, round by round."""
    pairs = zip(timings.seconds[slow], timings.seconds[fast], strict=True)
    return Spread.of([a / b for a, b in pairs])
