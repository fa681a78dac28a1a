# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""spconv's wheel and the drop-in by name, scans for them, and the comparison of what they return."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

ENGINES = {"wheel": "spconv.pytorch", "drop-in": "sparseconv.compat.spconv"}
SHAPE = [21, 24, 22]
CHANNELS = 4


def engine(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """spconv's wheel on one thread, with more its CPU code returns wrong rows; or the drop-in."""
    torch.set_num_threads(1)
    if name != "wheel":
        return importlib.import_module(ENGINES[name])
    if not torch.cuda.is_available():  # the wheel's backward asks for the current CUDA stream on the CPU too
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: type("Stream", (), {"cuda_stream": 0})())
    return pytest.importorskip(ENGINES[name])  # type: ignore[no-any-return]


def scan_of(seed: int = 0, rows: int = 700) -> tuple[Tensor, Tensor, int]:
    """Features, indices and batch size of two samples, rows shuffled."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.rand(rows, 3, generator=generator) ** 2 * torch.tensor(SHAPE)
    batch = torch.randint(0, 2, (rows, 1), generator=generator)
    indices = torch.unique(torch.cat([batch, cells.long()], 1), dim=0).int()
    indices = indices[torch.randperm(len(indices), generator=generator)].contiguous()
    return torch.randn(len(indices), CHANNELS, generator=generator), indices, 2


def sorted_rows(value: Any) -> tuple[Tensor, ...]:
    """A tensor of spconv as (indices, features, shape) in lexicographic order; plain tensors as they are."""
    if isinstance(value, Tensor):
        return (value,)
    order = torch.arange(len(value.indices))
    for column in reversed(range(value.indices.shape[1])):
        order = order[value.indices[order, column].argsort(stable=True)]
    return value.indices[order], value.features[order], torch.tensor(list(value.spatial_shape))


def assert_same(a: dict[str, Any], b: dict[str, Any], tolerance: float = 1e-4) -> None:
    """The same outputs, sites as sets and features by site; tolerance of the largest value."""
    assert a.keys() == b.keys()
    for name in a:
        assert isinstance(a[name], Tensor) == isinstance(b[name], Tensor), name
        for x, y in zip(sorted_rows(a[name]), sorted_rows(b[name]), strict=True):
            assert x.dtype == y.dtype and x.shape == y.shape, name
            if x.is_floating_point() and x.numel():
                error, largest = float((x - y).abs().max()), float(y.abs().max())
                assert error <= tolerance * max(largest, 1.0), f"{name}: {error} of {largest}"
            else:
                assert torch.equal(x, y), name
