# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The machine: its name, and the ceilings that times are held against, measured in the same rounds."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from timing import Task

import sparseconv

COPY_BYTES = (
    256 << 20
)  # of the source, and again of the target: more than most last-level caches hold together
QUICK_COPY_BYTES = 64 << 20
GEMM_ROWS = 1 << 15


def describe(name: str | None, versions: dict[str, str]) -> dict[str, Any]:
    """The machine for a report; `name` replaces the processor's name and the number of cores."""
    config = sparseconv.show_config()
    cores = len(os.sched_getaffinity(0))
    return {
        "name": name or f"{cpu_name()}, {cores} cores",
        "cpu": cpu_name(),
        "cores": cores,
        "instruction_set": config["instruction_set"],
        "compiler": config["compiler"],
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


def cpu_name() -> str:
    """What the system calls the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return " ".join(line.split(":", 1)[1].replace("(R)", "").replace("(TM)", "").split())
    return platform.processor() or platform.machine()


class Rulers:
    """Ceilings as tasks that run in every round beside the engines; names start with a star."""

    FMA, GEMM, COPY = "*fma peak", "*sgemm", "*copy"

    def __init__(self) -> None:
        self._gemm_flops = 0.0
        self.tasks: dict[str, Task] = {self.FMA: Task(sparseconv.fma_peak)}

    def add_gemm(self, c_in: int, c_out: int) -> None:
        """A big matrix times [c_in, c_out], float32."""
        a, b = torch.randn(GEMM_ROWS, c_in), torch.randn(c_in, c_out)
        out = torch.empty(GEMM_ROWS, c_out)
        self._gemm_flops = 2.0 * GEMM_ROWS * c_in * c_out
        self.tasks[self.GEMM] = Task(lambda: torch.mm(a, b, out=out))

    def add_copy(self, size: int) -> None:
        """A copy between two arrays of `size` bytes."""
        source, target = torch.zeros(size // 4), torch.zeros(size // 4)
        self._copy_bytes = 2.0 * size
        self.tasks[self.COPY] = Task(lambda: target.copy_(source))

    def gemm_rates(self, seconds: Iterable[float]) -> list[float]:
        """GFLOP/s of the matrix product from its seconds."""
        return [self._gemm_flops / s / 1e9 for s in seconds]

    def copy_rates(self, seconds: Iterable[float]) -> list[float]:
        """GB/s read and written by the copy from its seconds."""
        return [self._copy_bytes / s / 1e9 for s in seconds]
