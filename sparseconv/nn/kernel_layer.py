# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What every convolution layer is apart from its weight: a geometry, a list of taps, and the kernel map they need."""

from typing import Any

import torch
from torch import Tensor, nn

from .. import kernel_map
from ..geometry import Geometry
from ..kernel_map import check_taps
from ..pairs import KernelMap
from ..sites import Sites
from ..tensor import SparseTensor
from ._layer import SparseLayer, check_input, check_ndim


class KernelLayer(SparseLayer):
    """A layer over a kernel map: `SparseConvolution`, and the layers with packed weights of `sparseconv.formats`."""

    ndim: int
    submanifold: bool = False
    transposed: bool = False
    needs_target: bool = False

    in_channels: int
    out_channels: int
    groups: int
    geometry: Geometry
    bias: nn.Parameter | None  # [C_out]
    taps: Tensor  # [K, D] int32, cells 0 .. k-1 of the kernel per axis; not part of the state dict

    def __init__(self) -> None:
        super().__init__()
        self._kept_tap_key: tuple[Tensor, int, bytes] | None = None
        self._taps_in_order = True  # whether a complete list of taps is in the kernel's own order

    def multiply(self, features: Tensor, pairs: KernelMap) -> Tensor:
        """The features of the output [n_out, C_out] from those of the input [n_in, C_in]; a subclass's own."""
        raise NotImplementedError

    def weight_shape(self) -> tuple[int, ...]:
        """[K, C_in / groups, C_out]; a subclass's own."""
        raise NotImplementedError

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
        return SparseTensor.on(sites, self.multiply(x.features, pairs))

    def kernel_map(self, x: SparseTensor, target: SparseTensor | None = None) -> KernelMap:
        """The map that `forward(x, target)` computes over, from the cache of `x` or built and kept there."""
        check_ndim(self, check_input(self, x), self.ndim)
        if target is not None:
            check_ndim(self, check_input(self, target, "target"), self.ndim, "target")
        return self._lookup(x, None if target is None else target.sites)[0]

    def _lookup(self, x: SparseTensor, target: Sites | None) -> tuple[KernelMap, Sites]:
        # Attributes of a module are looked up in three dictionaries: each is read once.
        taps, geometry, weight_shape = self.taps, self.geometry, self.weight_shape()
        if taps.shape[0] != weight_shape[0]:
            raise ValueError(
                f"{type(self).__name__}: weight {list(weight_shape)} must have one row per tap, "
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
