# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What every layer shares: the marker class and the checks of its inputs."""

from typing import Any

import torch
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


def check_type(layer: nn.Module, features: Tensor, parameter: Tensor | None) -> None:
    """Raise TypeError unless torch's kernel takes `features` with `parameter`; float32 parameters may norm half precision."""
    if parameter is None or torch.is_autocast_enabled(features.device.type):
        return
    half = features.dtype in (torch.float16, torch.bfloat16) and not isinstance(layer, nn.Linear)
    if features.dtype != parameter.dtype and not (half and parameter.dtype == torch.float32):
        raise TypeError(
            f"{type(layer).__name__}: features must be {parameter.dtype} like the parameters, got {features.dtype}"
        )


def check_channels(layer: nn.Module, features: Tensor, channels: int) -> None:
    """Raise ValueError unless `features` is [N, channels]."""
    if features.ndim != 2 or features.shape[1] != channels:
        raise ValueError(
            f"{type(layer).__name__}: features must be [N, {channels}], got {list(features.shape)}"
        )
