# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What every layer shares: the marker class and the checks of its inputs."""

from typing import Any

from torch import Tensor, nn

from ..tensor import SparseTensor


class SparseLayer(nn.Module):
    """Base of our modules that take a SparseTensor."""


def check_input(layer: nn.Module, x: Any, role: str = "input") -> SparseTensor:
    """Return `x` if it is a SparseTensor; raises TypeError that names the layer and what came."""
    if not isinstance(x, SparseTensor):
        raise TypeError(f"{type(layer).__name__}: {role} must be a SparseTensor, got {type(x).__name__}")
    return x


def check_ndim(layer: nn.Module, x: SparseTensor, ndim: int, role: str = "input") -> None:
    """Raise ValueError unless `x` has `ndim` spatial axes."""
    if x.ndim != ndim:
        raise ValueError(
            f"{type(layer).__name__}: {role} must have {ndim} spatial axes "
            f"(coords [N, {1 + ndim}]), got {x.ndim} (coords [N, {1 + x.ndim}])"
        )


def check_channels(layer: nn.Module, features: Tensor, channels: int) -> None:
    """Raise ValueError unless `features` is [N, channels]."""
    if features.ndim != 2 or features.shape[1] != channels:
        raise ValueError(
            f"{type(layer).__name__}: features must be [N, {channels}], got {list(features.shape)}"
        )
