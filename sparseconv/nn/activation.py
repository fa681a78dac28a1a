# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Layers that act on each row alone: torch's own, applied to the features of a SparseTensor.

Each class is torch's class of the same name (arguments, parameters, state dict) behind `_Rowwise`, whose `forward`
comes first in the method order and hands torch's the features.
"""

from typing import Any

from torch import nn

from .. import elementwise
from ..tensor import SparseTensor
from ._layer import SparseLayer, check_channels, check_input, check_type


class _Rowwise(SparseLayer):
    def forward(self, x: Any) -> Any:
        """Apply the layer to the features of `x` (SparseTensor) and keep its sites."""
        x = check_input(self, x)
        return x.replace(super().forward(x.features))


class Linear(_Rowwise, nn.Linear):
    """`torch.nn.Linear` on each row's features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Map features [N, in_features] to [N, out_features]."""
        check_channels(self, check_input(self, x).features, self.weight.shape[1])
        check_type(self, x.features, self.weight)
        out: SparseTensor = super().forward(x)
        return out


class Dropout(_Rowwise, nn.Dropout):
    """`torch.nn.Dropout` on single features."""


class Identity(_Rowwise, nn.Identity):
    """Return the input."""


class ReLU(_Rowwise, nn.ReLU):
    """`torch.nn.ReLU` on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Put 0 in the place of what is negative."""
        x = check_input(self, x)
        return x.replace(elementwise.relu(x.features, self.inplace))


class ReLU6(_Rowwise, nn.ReLU6):
    """`torch.nn.ReLU6` on the features."""


class LeakyReLU(_Rowwise, nn.LeakyReLU):
    """`torch.nn.LeakyReLU` on the features."""


class PReLU(_Rowwise, nn.PReLU):
    """`torch.nn.PReLU` on the features, with one slope or one per channel."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Scale what is negative."""
        if self.num_parameters != 1:
            check_channels(self, check_input(self, x).features, self.num_parameters)
        out: SparseTensor = super().forward(x)
        return out


class RReLU(_Rowwise, nn.RReLU):
    """`torch.nn.RReLU` on the features."""


class ELU(_Rowwise, nn.ELU):
    """`torch.nn.ELU` on the features."""


class SELU(_Rowwise, nn.SELU):
    """`torch.nn.SELU` on the features."""


class CELU(_Rowwise, nn.CELU):
    """`torch.nn.CELU` on the features."""


class GELU(_Rowwise, nn.GELU):
    """`torch.nn.GELU` on the features."""


class SiLU(_Rowwise, nn.SiLU):
    """`torch.nn.SiLU` on the features."""


class Mish(_Rowwise, nn.Mish):
    """`torch.nn.Mish` on the features."""


class Sigmoid(_Rowwise, nn.Sigmoid):
    """`torch.nn.Sigmoid` on the features."""


class LogSigmoid(_Rowwise, nn.LogSigmoid):
    """`torch.nn.LogSigmoid` on the features."""


class Tanh(_Rowwise, nn.Tanh):
    """`torch.nn.Tanh` on the features."""


class Hardtanh(_Rowwise, nn.Hardtanh):
    """`torch.nn.Hardtanh` on the features."""


class Hardswish(_Rowwise, nn.Hardswish):
    """`torch.nn.Hardswish` on the features."""


class Hardsigmoid(_Rowwise, nn.Hardsigmoid):
    """`torch.nn.Hardsigmoid` on the features."""


class Hardshrink(_Rowwise, nn.Hardshrink):
    """`torch.nn.Hardshrink` on the features."""


class Softshrink(_Rowwise, nn.Softshrink):
    """`torch.nn.Softshrink` on the features."""


class Softplus(_Rowwise, nn.Softplus):
    """`torch.nn.Softplus` on the features."""


class Softsign(_Rowwise, nn.Softsign):
    """`torch.nn.Softsign` on the features."""


class Tanhshrink(_Rowwise, nn.Tanhshrink):
    """`torch.nn.Tanhshrink` on the features."""


class Threshold(_Rowwise, nn.Threshold):
    """`torch.nn.Threshold` on the features."""


class Softmax(_Rowwise, nn.Softmax):
    """`torch.nn.Softmax` over each row's channels."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__(_channel_dim("Softmax", dim))


class LogSoftmax(_Rowwise, nn.LogSoftmax):
    """`torch.nn.LogSoftmax` over each row's channels."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__(_channel_dim("LogSoftmax", dim))


def _channel_dim(name: str, dim: int) -> int:
    if dim not in (1, -1):
        raise ValueError(f"{name}: dim must be 1 (the channels of each row), got {dim!r}")
    return dim


class Rowwise(SparseLayer):
    """Make a layer of SparseTensors from any module that maps [N, C] features to [N, C'] features."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        if isinstance(module, SparseLayer):
            raise TypeError(f"Rowwise: {type(module).__name__} takes a SparseTensor itself, not its features")
        self.module = module

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply the module to the features of `x` and keep its sites."""
        x = check_input(self, x)
        return x.replace(self.module(x.features))
