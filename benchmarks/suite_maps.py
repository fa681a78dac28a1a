# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel maps from nothing: all that a forward pass needs, every time on a tensor that has none.

Ours is the first call of a layer on a fresh tensor minus the same call with its map at hand, so that whatever the engine
builds late is counted; the layer has one channel in and out. "from raw coordinates" is `build_kernel_map`, which first checks
its coordinates (bounds, duplicates), as tensors made by a user are and those of voxelize and layers are not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from engines import Engine, UnsupportedError, geometry_of, make_layer, map_of, our_tensor
from layers import MAP_LAYERS, Layer
from report import OURS, Check, Report, row_of
from scans import Scan
from settings import Settings
from timing import Task, interleave

import sparseconv

FIRST, AGAIN, RAW = "*first call", "*call with the map", f"{OURS} from raw coordinates"


def run(scans: list[Scan], engines: list[Engine], settings: Settings, report: Report) -> None:
    """Every geometry on every scan, rows in lexicographic order and, for SubM, as the scanner saw them too."""
    for scan in scans:
        for layer in MAP_LAYERS:
            measure(layer, scan, engines, settings, report)
        if not settings.scan_order:
            measure(MAP_LAYERS[0], scan.in_scan_order(), engines, settings, report)


def measure(layer: Layer, scan: Scan, engines: list[Engine], settings: Settings, report: Report) -> None:
    """One geometry on one scan."""
    tasks = first_call_tasks(layer, scan)
    geometry = geometry_of(layer, scan)
    tasks[RAW] = Task(lambda: sparseconv.build_kernel_map(scan.coords, **geometry))
    kernel_map = map_of(layer, scan)
    for engine in engines:
        if engine.name == OURS:
            continue
        try:
            task, differing = engine.map_task(layer, scan, kernel_map)
        except UnsupportedError:
            continue
        case = f"{scan.label}, map of {layer.geometry}"
        if report.check(Check(case, engine.name, "pairs that differ", float(differing), 0.0)):
            tasks[engine.name] = task
    timings = interleave(tasks, settings.budget, warmup=2)
    calls = zip(timings.seconds.pop(FIRST), timings.seconds.pop(AGAIN), strict=True)
    timings.seconds[OURS] = [max(first - again, 1e-9) for first, again in calls]
    names = [OURS, RAW, *(n for n in tasks if n not in (FIRST, AGAIN, RAW))]
    row = row_of(
        ("maps", "one map from nothing", scan.label), layer.geometry, settings.threads, timings, names
    )
    row.times_faster.pop(RAW, None)
    row.numbers |= {
        "ns per voxel": row.milliseconds[OURS].median * 1e6 / max(len(scan), 1),
        "voxels": len(scan),
        "sites out": kernel_map.n_out,
        "pairs": len(kernel_map.pairs),
    }
    report.add(row)


def first_call_tasks(layer: Layer, scan: Scan) -> dict[str, Task]:
    """A layer's first call on a fresh tensor, and a call with the map at hand."""
    module = make_layer(layer, layer.make_weight())
    known = our_tensor(scan, torch.zeros(len(scan), layer.c_in))
    everything = torch.ones(len(scan), dtype=torch.bool)

    def call(x: sparseconv.SparseTensor) -> sparseconv.SparseTensor:
        with torch.no_grad():
            out: sparseconv.SparseTensor = module(x)
        return out

    fresh: Callable[[], sparseconv.SparseTensor] = lambda: known[everything]  # noqa: E731  rows chosen by a mask bring no map
    return {FIRST: Task(call, fresh), AGAIN: Task(lambda: call(known))}
