# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: what is measured, on what, how long, against whom."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from engines import Options
from timing import Budget

SUITES = ("maps", "conv", "network", "fc")
PEERS = ("spconv", "torch", "dense", "minkowski")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """One run."""

    suites: tuple[str, ...]
    scans: tuple[str, ...]
    voxel: float
    scan_order: bool
    channels: tuple[int, ...]
    other_channels: int
    threads: int
    options: Options
    against: tuple[str, ...]
    via: str
    budget: Budget
    quick: bool
    machine: str | None
    json: Path | None
    markdown: Path | None
    plot: Path | None
    output: Path | None


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Reads the command line; exits with a message where it cannot be followed."""
    parser = argparse.ArgumentParser(
        prog="throughput.py",
        description="Measure sparseconv beside other engines: interleaved, compared first, medians of paired rounds.",
    )
    add = parser.add_argument
    add("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; default: all there are")
    add("--suite", action="append", default=[], metavar="SUITE", help="the same, repeatable")
    add(
        "--scan",
        action="append",
        metavar="PATH|simulated|dense-grid|standard",
        help="repeatable; PATH@0.05 and simulated@0.05 state a voxel size, dense-grid@32 its cells per axis; standard is a "
        "simulated sweep and the real scans in ../shared/data or $SPARSECONV_DATA, where they exist (default)",
    )
    add("--voxel", type=float, default=0.1, help="metres, for scans that state none (default 0.1)")
    add(
        "--scan-order",
        action="store_true",
        help="rows as the scanner saw them, not in lexicographic order as voxelize makes them",
    )
    add("--channels", default="16,32,64,96,128", help="of the SubM k3 layers (default %(default)s)")
    add(
        "--threads",
        type=int,
        default=1,
        help="default 1: spconv's CPU results are right with one thread only",
    )
    add("--device", default="cpu", help="default cpu")
    add("--dtype", default="float32", choices=tuple(DTYPES), help="default float32")
    add(
        "--against",
        default="spconv",
        metavar="LIST",
        help=f"of {','.join(PEERS)}, or none (default %(default)s)",
    )
    add(
        "--via",
        default="layers",
        choices=("layers", "spconv-api"),
        help="spconv-api: networks written on spconv's API run on sparseconv.compat.spconv too, beside our own layers",
    )
    add("--repeats", type=int, default=11, help="at most so many rounds of each measurement (default 11)")
    add(
        "--seconds",
        type=float,
        default=2.0,
        help="no new round after so long, but three at least (default 2)",
    )
    add("--quick", action="store_true", help="few channels, small scans, short: about a minute")
    add("--machine", help="name of the machine in the results, instead of the processor's")
    add("--json", type=Path, metavar="FILE", help="write the results here")
    add("--markdown", type=Path, metavar="FILE", help="write the tables here")
    add("--plot", type=Path, metavar="FOLDER", help="write pictures here")
    add(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write JSON, tables and pictures here, named after the processor",
    )
    given = parser.parse_args(arguments)

    suites = (*given.suites, *given.suite) or SUITES
    for suite in suites:
        if suite not in SUITES:
            parser.error(f"suites are {', '.join(SUITES)}, got {suite!r}")
    against = () if given.against == "none" else tuple(given.against.split(","))
    for peer in against:
        if peer not in PEERS:
            parser.error(f"--against takes {', '.join(PEERS)}, got {peer!r}")
    try:
        channels = tuple(int(c) for c in given.channels.split(","))
    except ValueError:
        parser.error(f"--channels takes numbers with commas, got {given.channels!r}")
    if min(*channels, given.threads, given.repeats, 1) < 1 or min(given.voxel, given.seconds) <= 0:
        parser.error("channels, threads, repeats, voxel and seconds must be positive")
    if given.quick:
        channels = channels if given.channels != parser.get_default("channels") else (16, 64)
        budget = Budget(min(given.repeats, 5), min(given.seconds, 0.3), 3)
        scans = tuple(given.scan or ("simulated@0.3",))
    else:
        budget = Budget(given.repeats, given.seconds, min(3, given.repeats))
        scans = tuple(given.scan or ("standard",))
    return Settings(
        suites=suites,
        scans=scans,
        voxel=given.voxel,
        scan_order=given.scan_order,
        channels=channels,
        other_channels=16 if given.quick else 32,
        threads=given.threads,
        options=Options(given.device, DTYPES[given.dtype]),
        against=against,
        via=given.via,
        budget=budget,
        quick=given.quick,
        machine=given.machine,
        json=given.json,
        markdown=given.markdown,
        plot=given.plot,
        output=given.output,
    )
