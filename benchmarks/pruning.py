# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Usage: python benchmarks/pruning.py [--seeds 3] [--minutes 100] [--rows "channels 1/4"] [--quick] ...

Trains a dense MinkUNet18 on simulated sweeps, prunes it in several ways, and holds each pruned network against the dense one
and against dense networks of the same speed. Ctrl-C stops it; the same command goes on. docs/benchmarks.md says how to read the
results.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from machine import describe
from pruning_lines import compare_with_baselines, make_lines
from pruning_measure import measure
from pruning_plot import draw
from pruning_report import Table, as_json, find_targets, markdown, verdicts
from pruning_rows import DENSE, TUNED, Row, Workshop, named_rows, write_text
from pruning_score import Candidate, best_rows, ratio
from pruning_settings import Settings, as_plain, parse
from pruning_task import full_sweeps, prepare
from pruning_timing import end_to_end, width_as_fast_as
from report import rounded
from scans import data_folder
from timing import ratios

import sparseconv
from sparseconv import SparseTensor

REAL = ("kitti_odometry_00_000000.bin", "waymo_spconv_benchmark_pc.npz")
SEARCH_ROUNDS = 5  # of each comparison while a baseline's width is looked for
TIMING_MINUTES = 10.0  # that --minutes leaves for the last step


@dataclass
class Clock:
    """The time that is left, and how long rows of a kind took."""

    minutes: float
    start: float = field(default_factory=time.perf_counter)
    took: dict[str, float] = field(default_factory=dict)

    def allows(self, kind: str) -> bool:
        """Whether a row of this kind would be done, with the time for timing to spare."""
        if not self.minutes:
            return True
        spent = time.perf_counter() - self.start
        return spent + self.took.get(kind, 0.0) < 60 * max(self.minutes - TIMING_MINUTES, 0.0)


def make_rows(shop: Workshop, rows: Sequence[Row], seed: int, clock: Clock) -> bool:
    """Makes those rows of a seed that are not there; False where time ran out before."""
    for row in rows:
        if shop.finished(row, seed):
            continue
        kind = "baseline" if row.beside else "pruned" if row.stages else row.name
        if not clock.allows(kind):
            print(f"no time left for {row.name}, seed {seed}: the same command goes on there", flush=True)
            return False
        start = time.perf_counter()
        shop.make(row, seed)
        clock.took[kind] = time.perf_counter() - start
        found = shop.record(row, seed)["miou"]
        print(f"seed {seed}, {row.name}: mIoU {found:.4f}, {clock.took[kind]:.0f} s", flush=True)
    return True


def choose_baselines(
    shop: Workshop, rows: Sequence[Row], seed: int, x: SparseTensor, settings: Settings
) -> tuple[Row, ...]:
    """Dense networks as fast as the best rows of a seed, measured on `x`, one thread; chosen once and kept."""
    path = settings.work / "baselines.json"
    if path.exists():
        kept = [Row(**{**entry, "stages": ()}) for entry in json.loads(path.read_text())]
        return tuple(row for row in kept if row.beside in {r.name for r in rows})
    networks = {row.name: shop.network(row, seed) for row in (DENSE, *rows)}
    torch.set_num_threads(1)
    try:
        timings = end_to_end(networks, x, settings.rounds)
        dense = shop.confusion(TUNED, seed)  # trained with as many steps as the rows
        candidates = [
            Candidate(
                row.name,
                row.granularity,
                ratios(timings, DENSE.name, row.name).median,
                ratio([shop.confusion(row, seed)], [dense], settings.resamples),
            )
            for row in rows
        ]
        found = []
        for name in best_rows(candidates):
            width, longer = width_as_fast_as(networks[name], x, shop.task.width, SEARCH_ROUNDS)
            print(f"width {width:g} takes {longer:.2f} of the time of {name}", flush=True)
            found.append(Row(f"dense as fast as {name}", "dense", width=width, beside=name))
    finally:
        torch.set_num_threads(shop.task.threads)
    write_text(path, json.dumps([asdict(row) for row in found], indent=1) + "\n")
    return tuple(found)


def make_table(
    shop: Workshop, rows: Sequence[Row], sweeps: dict[str, SparseTensor], settings: Settings
) -> Table:
    """Times the networks of the first seed and holds all seeds against each other."""
    first = settings.seeds[0]
    there = [row for row in rows if shop.finished(row, first)]
    described = {
        "task": as_plain(settings.task),
        "seeds": list(settings.seeds),
        "rounds": settings.rounds,
        "resamples": settings.resamples,
        "quick": settings.quick,
    }
    table = Table(describe(settings.machine, {"sparseconv": sparseconv.__version__}), described)
    table.machine["versions"]["torch"] = torch.__version__
    networks = {row.name: shop.network(row, first) for row in there}
    table.measured = measure(networks, sweeps, settings.rounds)
    table.machine["load_after"] = round(os.getloadavg()[0], 2)
    table.lines = make_lines(shop, there, settings.seeds, table.measured, settings.resamples)
    compare_with_baselines(shop, table.lines, settings.resamples)
    table.targets = find_targets(table.lines)
    return table


def write(table: Table, settings: Settings) -> None:
    """JSON, Markdown and the picture, named after the machine."""
    m = table.machine
    stem = re.sub(r"[^a-z0-9]+", "-", f"{m['name']} {m['instruction_set']} pruning".lower()).strip("-")
    settings.output.mkdir(parents=True, exist_ok=True)
    picture = settings.output / f"{stem}.png"
    draw(table.lines, picture)
    text = markdown(table, [picture])
    write_text(settings.output / f"{stem}.md", text)
    write_text(settings.output / f"{stem}.json", json.dumps(rounded(as_json(table)), indent=1) + "\n")
    print(text)
    print(f"wrote {settings.output / stem}.json, .md and .png")


def main(arguments: Sequence[str] | None = None) -> Table | None:
    """Runs what the command line asks for; None where not even the dense network could be made."""
    settings = parse(arguments)
    task = settings.task
    torch.set_num_threads(task.threads)
    clock = Clock(settings.minutes)
    try:
        pruned = named_rows(settings.rows)
        prepare(task, settings.work / "sweeps")
        shop = Workshop.open(task, settings.work)
        for row in (DENSE, TUNED, *pruned):
            for seed in settings.seeds:
                shop.finished(row, seed)
        sweeps, missing = full_sweeps(task, data_folder(), () if settings.quick else REAL)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"pruning.py: {error}") from error
    for sentence in missing:
        print(sentence, flush=True)
    rows: tuple[Row, ...] = (DENSE, TUNED, *pruned)
    for seed in settings.seeds:
        if not make_rows(shop, rows, seed, clock):
            break
        if seed == settings.seeds[0]:
            rows += choose_baselines(shop, pruned, seed, next(iter(sweeps.values())), settings)
            if not make_rows(shop, rows, seed, clock):
                break
    if not shop.finished(DENSE, settings.seeds[0]):
        return None
    table = make_table(shop, rows, sweeps, settings)
    table.notes = [*missing, *verdicts(table.lines)]
    write(table, settings)
    return table


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped; the same command goes on", flush=True)
        sys.exit(130)
