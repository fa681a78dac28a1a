# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""How our own times grow: with a second thread, with a narrower type, with the size of the scan."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from checks import TOLERANCE_BFLOAT16, difference, results, same_bits
from engines import OurRunner, geometry_of, map_of
from layers import MAP_LAYERS, Layer
from machine import Rulers
from report import Check, Report, Row, row_of
from scans import Scan, merged
from settings import Settings
from suite_conv import backward_task, forward_task
from suite_maps import AGAIN, FIRST, first_call_tasks
from timing import Budget, Spread, Task, interleave

import sparseconv

SIZES = (60_000, 250_000, 1_000_000, 4_000_000)
QUICK_SIZES = (5_000, 20_000)
SCALE_CHANNELS = 32
PEAK_GAIN = "FMA peak, times one thread"  # what a second thread gave the register loop


def on_threads(threads: int, body: Callable[[], Any]) -> Task:
    """A task that runs on so many threads."""
    return Task(lambda _: body(), lambda: torch.set_num_threads(threads))


def extremes(scans: list[Scan]) -> list[Scan]:
    """The smallest and the largest scan: enough for what compares us with ourselves."""
    return list({scan.label: scan for scan in (min(scans, key=len), max(scans, key=len))}.values())


def threads_conv(scans: list[Scan], settings: Settings, report: Report) -> None:
    """Two threads against one on SubM k3, and whether their results have the same bits."""
    for scan in scans if _two_cores(report) else ():
        for channels in settings.channels:
            layer = Layer("subm", channels, channels)
            runner = OurRunner(layer, scan, layer.make_weight(), settings.options)
            features, grad = scan.features(channels), scan.features(channels, 1)
            found = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.append(results(runner, features, grad))
            for what, one in found[0].items():
                differs = 0.0 if same_bits(one, found[1][what]) else 1.0
                report.check(
                    Check(f"{scan.label}, {layer.label}", "1 thread", f"bits of the {what}", differs, 0.0)
                )
            for name, body in (
                ("forward", forward_task(runner, features)),
                ("forward + gradients", backward_task(runner, features, grad)),
            ):
                one_against_two("conv", f"{layer.label}, {name}", scan, body, settings, report)
    torch.set_num_threads(settings.threads)


def threads_maps(scans: list[Scan], settings: Settings, report: Report) -> None:
    """Two threads against one on maps from nothing, and whether they are the same bits."""
    for scan in scans if _two_cores(report) else ():
        for layer in MAP_LAYERS:
            geometry = geometry_of(layer, scan)
            maps = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                maps.append(sparseconv.build_kernel_map(scan.coords, **geometry))
            equal = same_bits(maps[0].pairs, maps[1].pairs) and same_bits(
                maps[0].out_coords, maps[1].out_coords
            )
            report.check(
                Check(
                    f"{scan.label}, {layer.geometry}",
                    "1 thread",
                    "bits of the map",
                    0.0 if equal else 1.0,
                    0.0,
                )
            )
            del maps
            body = partial(sparseconv.build_kernel_map, scan.coords, **geometry)
            one_against_two("maps", layer.geometry, scan, body, settings, report)
    torch.set_num_threads(settings.threads)


def one_against_two(
    suite: str, case: str, scan: Scan, body: Callable[[], Any], settings: Settings, report: Report
) -> None:
    """A row of both, with what the register loop gains in the same rounds: other programs take cores away."""
    if not _two_cores(report):
        return
    tasks = {"2 threads": on_threads(2, body), "1 thread": on_threads(1, body)}
    for threads in (2, 1):
        tasks[f"{Rulers.FMA} {threads}"] = on_threads(threads, sparseconv.fma_peak)
    timings = interleave(tasks, settings.budget)
    place = (suite, "two threads against one", scan.label)
    row = row_of(place, case, 2, timings, ["2 threads", "1 thread"], base="2 threads")
    peaks = (timings.figures[f"{Rulers.FMA} {threads}"] for threads in (2, 1))
    row.numbers[PEAK_GAIN] = median(a / b for a, b in zip(*peaks, strict=True))
    report.add(row)


def _two_cores(report: Report) -> bool:
    if len(os.sched_getaffinity(0)) < 2:
        report.note("One core here: two threads are not measured.")
        return False
    return True


def bfloat16(scans: list[Scan], settings: Settings, report: Report) -> None:
    """Forward with features and weights stored in bfloat16 against float32."""
    for scan in scans:
        for channels in settings.channels:
            layer = Layer("subm", channels, channels)
            weight, features = layer.make_weight(), scan.features(channels)
            bodies, outputs = {}, {}
            for dtype in (torch.bfloat16, torch.float32):
                runner = OurRunner(layer, scan, weight, replace(settings.options, dtype=dtype))
                name = str(dtype).removeprefix("torch.")
                bodies[name] = Task(forward_task(runner, features))
                outputs[name] = bodies[name].run()
            error = difference(outputs["bfloat16"], outputs["float32"])
            case = f"{scan.label}, {layer.label}"
            report.check(Check(case, "float32", "bfloat16 output", error, TOLERANCE_BFLOAT16))
            timings = interleave(bodies, settings.budget)
            place = ("conv", "bfloat16 against float32, forward", scan.label)
            report.add(row_of(place, layer.label, settings.threads, timings, bodies, base="bfloat16"))


def sizes(settings: Settings, report: Report) -> None:
    """Map time per voxel and forward time per pair on merged sweeps, and what the machine's caches do to a plain gather."""
    budget = Budget(max(3, settings.budget.rounds // 2), 12.0, 3)
    scans = [merged(n) for n in (QUICK_SIZES if settings.quick else SIZES)]
    for layer in MAP_LAYERS:
        tasks = {}
        for scan in scans:
            for name, task in first_call_tasks(layer, scan).items():
                tasks[f"{name} {scan.label}"] = task
        timings = interleave(tasks, budget)
        for scan in scans:
            first, again = (timings.seconds.pop(f"{name} {scan.label}") for name in (FIRST, AGAIN))
            timings.seconds[scan.label] = [max(a - b, 1e-9) for a, b in zip(first, again, strict=True)]
        per_unit = {scan.label: len(scan) for scan in scans}
        _add_sizes(report, settings, f"map of {layer.geometry}, ns per voxel", timings.seconds, per_unit)
    layer = Layer("subm", SCALE_CHANNELS, SCALE_CHANNELS)
    tasks, pairs, gathers = {}, {}, {}
    for scan in scans:
        runner = OurRunner(layer, scan, layer.make_weight(), settings.options)
        features = scan.features(SCALE_CHANNELS).to(settings.options.dtype)
        pairs[scan.label] = len(map_of(layer, scan).pairs)
        tasks[scan.label] = Task(forward_task(runner, features))
        rows = torch.randperm(len(scan))
        gathers[scan.label] = Task(lambda f=features, r=rows: f.index_select(0, r))
    timings = interleave(tasks, budget)
    _add_sizes(report, settings, f"forward of {layer.label}, ns per pair", timings.seconds, pairs)
    timings = interleave(gathers, budget)
    units = {scan.label: len(scan) for scan in scans}
    name = f"torch.index_select of random rows, C={SCALE_CHANNELS}, ns per row"
    _add_sizes(report, settings, name, timings.seconds, units)


def _add_sizes(
    report: Report, settings: Settings, case: str, seconds: dict[str, list[float]], units: dict[str, int]
) -> None:
    """One row: milliseconds per size, and nanoseconds per voxel or pair."""
    milliseconds = {name: Spread.of(s).scaled(1e3) for name, s in seconds.items()}
    row = Row(
        "maps", "scale, rows in lexicographic order", "merged sweeps", case, settings.threads, milliseconds
    )
    each = {name: s.median * 1e6 / units[name] for name, s in milliseconds.items()}
    row.numbers = {f"ns, {name}": value for name, value in each.items()}
    names = list(each)
    row.numbers["last / first"] = each[names[-1]] / each[names[0]]
    if len(names) > 2:
        row.numbers["last / one before"] = each[names[-1]] / each[names[-2]]
    report.add(row)
