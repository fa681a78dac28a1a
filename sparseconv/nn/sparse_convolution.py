# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The base class of all convolution layers.

Its weight is `[K, C_in / groups, C_out]`, one matrix per tap, and `taps` lists which cell of the kernel each of those
matrices belongs to. A pruned kernel is the same layer with fewer rows in both.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import functional, kernel_map
from ..geometry import Geometry, Ints
from ..kernel_map import check_taps
from ..pairs import KernelMap
from ..sites import Sites
from ..tensor import SparseTensor
from ._layer import SparseLayer, check_input, check_ndim


class SparseConvolution(SparseLayer):
    """Base of all convolution layers; use the classes of `sparseconv.nn.conv`, which fix axes and kind."""

    ndim: ClassVar[int]
    submanifold: ClassVar[bool] = False
    transposed: ClassVar[bool] = False
    needs_target: ClassVar[bool] = False

    weight: nn.Parameter  # [K, C_in / groups, C_out], row t belongs to taps[t]
    bias: nn.Parameter | None  # [C_out]
    taps: Tensor  # [K, D] int32, cells 0 .. k-1 of the kernel per axis; not part of the state dict

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
        self._kept_tap_key: tuple[Tensor, int, bytes] | None = None
        self._taps_in_order = True  # whether a complete list of taps is in the kernel's own order
        self.register_buffer("taps", self.geometry.all_taps().to(self.weight.device), persistent=False)
        self.reset_parameters()

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Cells of the kernel along each axis."""
        return self.geometry.kernel_size

    @property
    def stride(self) -> tuple[int, ...]:
        """Step between the sites of the coarser side, in cells of the finer one."""
        return self.geometry.stride

    @property
    def padding(self) -> tuple[int, ...]:
        """Cells by which the kernel starts before a site."""
        return self.geometry.padding

    @property
    def dilation(self) -> tuple[int, ...]:
        """Distance between neighbouring taps, in cells."""
        return self.geometry.dilation

    @property
    def output_padding(self) -> tuple[int, ...]:
        """Cells added to the end of a transposed layer's output shape."""
        return self.geometry.output_padding

    @property
    def anchor(self) -> str:
        """Which cell of the kernel meets a site: "torch" or "minkowski"."""
        return self.geometry.anchor

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

    def forward(self, x: SparseTensor, target: SparseTensor | None = None) -> SparseTensor:
        """Convolve `x`; with `target`, put the result on that tensor's sites (a site without a pair gets the bias).

        Raises TypeError for anything but SparseTensors, ValueError for another number of axes or channels, for a
        target whose stride does not fit, and where `taps` and `weight` have different lengths.
        """
        ndim = self.ndim
        check_ndim(self, check_input(self, x), ndim)
        sites = None
        if target is not None:
            check_ndim(self, check_input(self, target, "target"), ndim, "target")
            sites = target.sites
        elif self.needs_target:
            raise ValueError(
                f"{type(self).__name__}: needs the tensor whose sites the output takes: layer(x, target)"
            )
        pairs, sites = self._lookup(x, sites)
        out = functional.conv(
            x.features, self.weight, self.bias, pairs, groups=self.groups, name=type(self).__name__
        )
        return SparseTensor.on(sites, out)

    def kernel_map(self, x: SparseTensor, target: SparseTensor | None = None) -> KernelMap:
        """The map that `forward(x, target)` computes over, from the cache of `x` or built and kept there."""
        check_ndim(self, check_input(self, x), self.ndim)
        if target is not None:
            check_ndim(self, check_input(self, target, "target"), self.ndim, "target")
        return self._lookup(x, None if target is None else target.sites)[0]

    def _lookup(self, x: SparseTensor, target: Sites | None) -> tuple[KernelMap, Sites]:
        # Attributes of a module are looked up in three dictionaries: each is read once.
        taps, geometry = self.taps, self.geometry
        if taps.shape[0] != self.weight.shape[0]:
            raise ValueError(
                f"{type(self).__name__}: weight {list(self.weight.shape)} must have one row per tap, "
                f"but taps is {list(taps.shape)}"
            )
        if self._taps_in_order and taps.shape[0] == geometry.volume:
            return kernel_map.lookup(x.sites, geometry, None, target)
        return kernel_map.lookup(x.sites, geometry, taps, target, taps_key=self._tap_key(taps))

    def _tap_key(self, taps: Tensor) -> bytes | None:
        """What stands for `taps` in the cache of maps: read from the tensor once, not at every call."""
        if torch.compiler.is_compiling():
            return None
        kept = self._kept_tap_key
        if kept is None or kept[0] is not taps or kept[1] != taps._version:
            self._kept_tap_key = kept = (taps, taps._version, kernel_map.tap_key(taps))
        return kept[2]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "taps":
            self._taps_in_order = self._check_taps(value)
            value = value.contiguous()
        super().__setattr__(name, value)

    def _check_taps(self, taps: Any) -> bool:
        """Raise unless `taps` is a list of distinct cells of the kernel; return whether it is the whole list in order."""
        if not isinstance(taps, Tensor):
            raise TypeError(f"taps must be an int32 tensor [K, {self.ndim}], got {type(taps).__name__}")
        if taps.device.type == "meta":
            return True
        rows = check_taps(taps.cpu(), self.geometry)
        return rows is not None and torch.equal(rows, self.geometry.all_taps())

    def extra_repr(self) -> str:
        """Say the channels and what differs from the defaults, as torch's layers do."""
        g = self.geometry
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={g.kernel_size}"
        if not self.submanifold:
            text += f", stride={g.stride}"
            if any(g.padding):
                text += f", padding={g.padding}"
        if any(d != 1 for d in g.dilation):
            text += f", dilation={g.dilation}"
        if any(g.output_padding):
            text += f", output_padding={g.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if g.anchor != "torch":
            text += f", anchor={g.anchor!r}"
        if self.taps.shape[0] != g.volume:
            text += f", taps={self.taps.shape[0]} of {g.volume}"
        return text
