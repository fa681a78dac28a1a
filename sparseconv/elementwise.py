# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Sums and ReLUs of features between convolutions: torch's, but in bfloat16 on a CPU by loops of the core.

Those take a quarter to a third of the time; elsewhere torch's run at the speed of memory. What records gradients, or is looked at
(torch.compile, modes, the profiler), goes to torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _native
from .ops._library import records, unwatched


def relu(x: Tensor, inplace: bool = False) -> Tensor:
    """max(0, x), into x itself where that is asked for."""
    if not _ours(x):
        return torch.relu_(x) if inplace else torch.relu(x)
    out = _written(x) if inplace else torch.empty_like(x)
    _native.relu_bf16(x, out)
    return out


def add_(x: Tensor, y: Tensor) -> Tensor:
    """x += y; as `torch.Tensor.add_`."""
    if not (_ours(x, y) and x.shape == y.shape):
        return x.add_(y)
    _native.add_bf16(x, y, _written(x))
    return x


def _ours(*tensors: Tensor) -> bool:
    return (
        all(x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.is_contiguous() for x in tensors)
        and unwatched(*tensors)
        and not records(*tensors)
    )


def _written(x: Tensor) -> Tensor:
    """x, that autograd must know to have changed."""
    torch.autograd.graph.increment_version(x)
    return x
