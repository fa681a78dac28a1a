# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The base class of all convolution layers.

Its weight is `[K, C_in / groups, C_out]`, one matrix per tap, and `taps` lists which cell of the kernel each of those
matrices belongs to. A pruned kernel is the same layer with fewer rows in both.
"""

import math

import torch
from torch import Tensor, nn

from .. import functional
from ..geometry import Geometry, Ints
from ..pairs import KernelMap
from .kernel_layer import KernelLayer


class SparseConvolution(KernelLayer):
    """Base of all convolution layers; use the classes of `sparseconv.nn.conv`, which fix axes and kind."""

    weight: nn.Parameter  # [K, C_in / groups, C_out], row t belongs to taps[t]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        *,
        stride: Ints = 1,
        padding: Ints = 0,
        dilation: Ints = 1,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        anchor: str = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{type(self).__name__}: {name} must be a positive int, got {value!r}")
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{type(self).__name__}: in_channels and out_channels must be multiples of groups={groups}, "
                f"got {in_channels} and {out_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups
        self.geometry = Geometry.make(
            self.ndim,
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            anchor=anchor,
            submanifold=self.submanifold,
            transposed=self.transposed,
        )
        volume = self.geometry.volume
        self.weight = nn.Parameter(
            torch.empty(volume, in_channels // groups, out_channels, device=device, dtype=dtype)
        )
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.register_buffer("taps", self.geometry.all_taps().to(self.weight.device), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias from U(-b, b) with b = 1 / sqrt(K * C_in / groups), as `torch.nn.Conv3d` does.

        That is He et al., "Delving deep into rectifiers" (2015), with the slope a = sqrt(5) of torch's layers.
        """
        fan_in = self.weight.shape[0] * self.weight.shape[1]
        bound = 1.0 / math.sqrt(fan_in) if fan_in else 0.0
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        if self._taps_in_order and self.taps.shape[0] == self.geometry.volume:
            self.taps.copy_(
                self.geometry.all_taps()
            )  # a layer built on the meta device has no taps until now

    def weight_shape(self) -> tuple[int, ...]:
        """See `KernelLayer.weight_shape`."""
        return self.weight.shape

    def multiply(self, features: Tensor, pairs: KernelMap) -> Tensor:
        """See `KernelLayer.multiply`."""
        return functional.conv(
            features, self.weight, self.bias, pairs, groups=self.groups, name=type(self).__name__
        )
