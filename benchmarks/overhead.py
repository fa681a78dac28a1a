# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Host time of one layer call where there is nothing to compute: one voxel, the map at hand, gradients recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from report import OURS, Report, row_of
from settings import Settings
from timing import Task, interleave

import sparseconv
import sparseconv.nn as snn

CALLS = 300
CHANNELS = 16


def run(engines: list[str], settings: Settings, report: Report) -> None:
    """A SubM k3 layer with bias of ours, of spconv where it is measured, and torch.nn.Linear as a scale."""
    coords = torch.zeros(1, 4, dtype=torch.int32)
    features = torch.randn(1, CHANNELS, requires_grad=True)
    layer = snn.SubMConv3d(CHANNELS, CHANNELS, 3)
    x = sparseconv.SparseTensor(features, coords, spatial_shape=(8, 8, 8))
    linear = torch.nn.Linear(CHANNELS, CHANNELS)
    calls: dict[str, Callable[[], Any]] = {OURS: lambda: layer(x)}
    if "spconv" in engines:
        import spconv.pytorch as spconv
        from spconv_engine import NATIVE

        theirs = spconv.SubMConv3d(CHANNELS, CHANNELS, 3, indice_key="a", algo=NATIVE)
        y = spconv.SparseConvTensor(features, coords, [8, 8, 8], 1)
        y.indice_dict = theirs(y).indice_dict
        calls["spconv"] = lambda: theirs(y)
    calls["torch.nn.Linear"] = lambda: linear(features)

    def repeated(call: Callable[[], Any]) -> Callable[[], None]:
        def body() -> None:
            for _ in range(CALLS):
                call()

        return body

    timings = interleave({name: Task(repeated(call)) for name, call in calls.items()}, settings.budget)
    timings.seconds = {name: [s / CALLS for s in seconds] for name, seconds in timings.seconds.items()}
    place = ("conv", "host time of one call, one voxel, map at hand, gradients recorded", "one voxel")
    row = row_of(place, f"SubM k3 {CHANNELS}->{CHANNELS} with bias", settings.threads, timings, calls)
    row.numbers = {f"{name} microseconds": s.median * 1e3 for name, s in row.milliseconds.items()}
    report.add(row)
