# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The pruning benchmark's settings and its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """What every row of the table shares; a finished row is used again only where all of this is the same."""

    width: float = 1.0  # channels of the dense MinkUNet18, relative to the published network
    voxel: float = 0.2  # metres
    train_sweeps: int = 160  # simulated, of each its front and its back half
    test_sweeps: int = 416  # simulated, each in a street of its own, of each one half
    dense_steps: int = 1200
    tune_steps: int = 360
    batch: int = 1  # half sweeps a step, of about 15,000 voxels each
    tune_batch: int = 3  # the same after the dense steps: in fine-tuning, and in the last steps of baselines
    lr: float = 3e-3
    tune_lr: float = 1e-3  # of the dense network that goes on
    prune_lr: float = 3e-3  # of pruned networks
    distil: float = 1.0  # weight of the dense network's scores in fine-tuning, and in the last steps of baselines; 0 = without
    decay: float = 0.01
    rank_scans: int = 16  # half sweeps of training that criteria see
    threads: int = 2
    azimuths: int = 2083  # firings of the simulated sensor in a turn

    @property
    def all_steps(self) -> int:
        """Steps a pruned network has been trained with, dense ones included."""
        return self.dense_steps + self.tune_steps

    def seen(self, step: int) -> int:
        """Half sweeps that a network has been trained on when it begins that step."""
        return min(step, self.dense_steps) * self.batch + max(step - self.dense_steps, 0) * self.tune_batch


# The whole pipeline in about two minutes: sweeps with an eighth of the firings, few steps, a narrow network.
QUICK = Task(
    width=0.25,
    voxel=0.4,
    train_sweeps=8,
    test_sweeps=8,
    dense_steps=30,
    tune_steps=6,
    rank_scans=2,
    azimuths=256,
)


@dataclass(frozen=True)
class Settings:
    """One run of the benchmark."""

    task: Task
    seeds: tuple[int, ...]
    rows: tuple[str, ...]  # names of rows, all where empty
    minutes: float  # no row begins that would not be done by then; 0 = no limit
    rounds: int  # of each timing
    resamples: int
    work: Path  # sweeps, networks and finished rows
    output: Path  # tables, JSON and picture
    machine: str | None
    quick: bool


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Reads the command line; exits with a message where it cannot be followed."""
    parser = argparse.ArgumentParser(
        prog="pruning.py",
        description="Prune a trained MinkUNet18 in several ways and measure what is gained and what is lost. "
        "A stopped run goes on where it was: finished rows are kept in --work.",
    )
    add = parser.add_argument
    add("--seeds", type=int, default=3, help="dense networks, each with all rows (default 3)")
    add("--rows", default="", metavar="NAME,NAME", help="only these rows, as the table names them")
    add("--minutes", type=float, default=0.0, help="start no row that would end later; 0 = no limit")
    add("--rounds", type=int, default=7, help="of each timing (default 7)")
    add("--resamples", type=int, default=2000, help="of the bootstrap (default 2000)")
    add("--quick", action="store_true", help="everything, tiny: about two minutes, figures mean nothing")
    add("--work", type=Path, help="folder of sweeps, networks and finished rows (default runs/pruning)")
    add("--output", type=Path, help="folder of the results (default benchmarks/results; --quick: --work)")
    add("--machine", help="name of the machine in the results, instead of the processor's")
    task = parser.add_argument_group("the task; other values want another --work")
    for field in fields(Task):
        task.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), metavar="N")
    given = parser.parse_args(arguments)
    if min(given.seeds, given.rounds) < 1 or given.resamples < 100 or given.minutes < 0:
        parser.error("seeds and rounds must be 1 or more, resamples 100 or more, minutes 0 or more")
    changed = {f.name: getattr(given, f.name) for f in fields(Task) if getattr(given, f.name) is not None}
    for name, value in changed.items():
        if value <= 0 and not (name in ("decay", "distil") and value == 0):
            parser.error(f"--{name.replace('_', '-')} must be positive, got {value}")
    root = Path(__file__).resolve().parent
    work = given.work or Path("runs/pruning-quick" if given.quick else "runs/pruning")
    return Settings(
        task=replace(QUICK if given.quick else Task(), **changed),
        seeds=tuple(range(1 if given.quick else given.seeds)),
        rows=tuple(name.strip() for name in given.rows.split(",") if name.strip()),
        minutes=given.minutes,
        rounds=min(given.rounds, 3) if given.quick else given.rounds,
        resamples=min(given.resamples, 200) if given.quick else given.resamples,
        work=work,
        output=given.output or (work if given.quick else root / "results"),
        machine=given.machine,
        quick=given.quick,
    )


def as_plain(task: Task) -> dict[str, Any]:
    """The task for JSON."""
    return asdict(task)
