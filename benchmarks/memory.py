# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Peak extra memory of a layer: how far the resident memory of a process of its own rises during one pass.

The kernel's high-water mark is reset before the pass (Linux: /proc/self/clear_refs), and the allocator gives every array back
at once (MALLOC_MMAP_THRESHOLD_), so the peak counts results and scratch and nothing that was there before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from layers import Layer
from scans import Scan

if TYPE_CHECKING:
    from report import Report
    from settings import Settings

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


def run(scans: list[Scan], engines: list[str], settings: Settings, report: Report) -> None:
    """Rows of SubM k3 at the middle number of channels: forward, and forward with both gradients."""
    from report import Row

    channels = settings.channels[len(settings.channels) // 2]
    layer = Layer("subm", channels, channels)
    measured = [e for e in engines if e in ("sparseconv", "spconv")]
    for scan in [max(scans, key=len)] if settings.quick else scans:
        rows = {
            name: Row("conv", "peak extra memory", scan.label, f"{layer.label}, {name}", settings.threads, {})
            for name in ("forward", "forward + gradients")
        }
        for engine in measured:
            try:
                found = measure(engine, channels, scan, settings.threads)
            except (OSError, subprocess.CalledProcessError) as error:
                report.note(f"Peak memory of {engine} could not be measured: {error}")
                continue
            for name, row in rows.items():
                row.numbers[f"{engine} MB"] = found[name] / 1e6
        for name, row in rows.items():
            results = 4e-6 * channels * len(scan) * (1 if name == "forward" else 2)
            if row.numbers:
                row.numbers["results MB"] = results + (0 if name == "forward" else 4e-6 * 27 * channels**2)
                report.add(row)


def measure(engine: str, channels: int, scan: Scan, threads: int) -> dict[str, float]:
    """Bytes by which each pass raises the peak, measured in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scan.pt"
        torch.save({"coords": scan.coords, "shape": list(scan.shape)}, file)
        command = [sys.executable, __file__, engine, str(channels), str(threads), str(file)]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _kilobytes(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise OSError(f"{STATUS} has no {field}")


def _child(engine: str, channels: int, threads: int, file: str) -> dict[str, float]:
    from engines import Engine, Options, Ours
    from suite_conv import backward_task, forward_task

    torch.set_num_threads(threads)
    loaded = torch.load(file, weights_only=True)
    scan = Scan("", loaded["coords"], tuple(loaded["shape"]), torch.arange(len(loaded["coords"])))
    chosen: Engine = Ours()
    if engine == "spconv":
        from spconv_engine import SpconvEngine

        chosen = SpconvEngine()
    layer = Layer("subm", channels, channels)
    runner = chosen.runner(layer, scan, layer.make_weight(), Options())
    features, grad = scan.features(channels), scan.features(channels, 1)
    found = {}
    for name, body in (
        ("forward", forward_task(runner, features)),
        ("forward + gradients", backward_task(runner, features, grad)),
    ):
        body()  # libraries load what they need
        runner.weight.grad = None
        _forget(body)
        before = _kilobytes("VmRSS")
        RESET.write_text("5")
        kept = body()
        found[name] = 1024.0 * (_kilobytes("VmHWM") - before)
        del kept
    return found


def _forget(body: object) -> None:
    """Drops the gradient that a pass left at its input, so that the next one allocates it again."""
    for cell in getattr(body, "__closure__", None) or ():
        if isinstance(cell.cell_contents, torch.Tensor):
            cell.cell_contents.grad = None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])) + "\n")
