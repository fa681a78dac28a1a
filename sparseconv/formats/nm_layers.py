# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Convolutions and linear layers whose state dict holds an N:M weight in its packed form."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import functional
from .. import nn as snn
from ..ops.two_of_four import runs_on
from ..ops.vectors import vector_conv
from ..pairs import KernelMap
from .layer import (
    Dense,
    PackedConv,
    PackedLayer,
    PackedLinear,
    autocast,
    canonical_weight,
    check_rows,
)
from .nm import NMWeight, decode_nm, pack_nm
from .nm_mma import fits_mma_sp, mma_sp_operands
from .vectors import pack_vectors


class _NM(PackedLayer):
    """A layer's `NMWeight`, in its buffers, and the weight decoded from it, which is kept from call to call and in no file."""

    parts: ClassVar[tuple[str, ...]] = ("values", "metadata")
    keeps_types = False
    values: Tensor
    metadata: Tensor

    def _hold(self, weight: NMWeight) -> None:
        self.n, self.m, self._shape = weight.n, weight.m, weight.shape
        self._kept: tuple[Tensor, Tensor, tuple[int, int], Tensor] | None = None
        self.register_buffer("values", weight.values)
        self.register_buffer("metadata", weight.metadata)

    @property
    def packed(self) -> NMWeight:
        """The weight as it is stored."""
        return NMWeight(self._shape, self.n, self.m, self.values, self.metadata)

    def decoded(self) -> Tensor:
        """The weight [K, C_in / groups, C_out] in the type of the values."""
        values, metadata, c_in = self.values, self.metadata, self._shape[1]
        if torch.compiler.is_compiling():
            return decode_nm(values, metadata, c_in, self.m)
        versions = (values._version, metadata._version)
        kept = self._kept
        if kept is None or kept[0] is not values or kept[1] is not metadata or kept[2] != versions:
            weight = self._arranged(decode_nm(values, metadata, c_in, self.m))
            self._kept = kept = (values, metadata, versions, weight)
        return kept[3]

    def _arranged(self, weight: Tensor) -> Tensor:
        return weight

    def dense_dtype(self) -> torch.dtype:
        """The type of the values."""
        return self.values.dtype

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def extra_repr(self) -> str:
        """The layer's own words and the pattern."""
        return f"{super().extra_repr()}, {self.n}:{self.m}"


KERNELS = ("dense", "vectors", "mma_sp")


class NMConv(_NM, PackedConv):
    """A convolution with an N:M weight, which it decodes once.

    With the dense kernels files become smaller and the speed stays. With the vector-sparse kernel, which leaves out rows of 16
    output channels that are all zero, masks that 16 output channels share pay: what is stored is the same. Both equal the dense
    layer bit for bit, but for the sign of zeros. With sparse tensor cores 2:4 in 16 bits does half of the products, in another
    order. Input and bias have gradients, the packed weight none.

    Args:
        layer: any convolution of `sparseconv.nn`, whose weight is N:M.
        n, m: the pattern.
        kernel: "dense", "vectors" (on a CPU), or "mma_sp" (on a GPU, where `formats.fits_mma_sp` holds and there is one group);
            the dense kernels compute where it cannot. An attribute of the layer, not of its state.

    Raises:
        ValueError: a weight that is not N:M; the message says where.
    """

    def __init__(self, layer: snn.SparseConvolution, n: int = 2, m: int = 4, kernel: str = "dense") -> None:
        super().__init__(layer)
        if kernel not in KERNELS:
            raise ValueError(f"NMConv: kernel must be one of {KERNELS}, got {kernel!r}")
        self.kernel = kernel
        self._rows: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._operands: tuple[Tensor, Tensor, Tensor] | None = None
        self._hold(_packed(layer, n, m))

    def multiply(self, features: Tensor, pairs: KernelMap) -> Tensor:
        """See `KernelLayer.multiply`."""
        weight = self.decoded()
        if self.kernel == "mma_sp" and not torch.compiler.is_compiling():
            cast, bias = autocast(features, self.bias)
            if self._takes_mma_sp(cast, weight, bias, pairs):
                return self._mma_sp(cast, weight, bias, pairs)
        if self.kernel != "vectors" or features.device.type != "cpu" or torch.compiler.is_compiling():
            name = type(self).__name__
            return functional.conv(features, weight, self.bias, pairs, groups=self.groups, name=name)
        features, bias = autocast(features, self.bias)
        check_rows(self, features, bias)
        if weight.dtype != features.dtype and not torch.is_autocast_enabled("cpu"):
            raise TypeError(f"NMConv: features must be {weight.dtype} like the weight, got {features.dtype}")
        reverse_pairs = reverse_offsets = None
        reverse_flip = False
        if features.requires_grad and torch.is_grad_enabled():
            reverse_pairs, reverse_offsets, reverse_flip = pairs.reverse_arrays()
        values, offsets, channels = self._vectors(weight)
        return vector_conv(
            features,
            values.to(features.dtype),
            bias,
            offsets,
            channels,
            pairs.pairs,
            pairs.tap_offsets,
            reverse_pairs,
            reverse_offsets,
            pairs.n_out,
            self.out_channels,
            self.groups,
            reverse_flip,
        )

    def _takes_mma_sp(self, features: Tensor, weight: Tensor, bias: Tensor | None, pairs: KernelMap) -> bool:
        """Whether sparse tensor cores compute this; what does not fit at all is the dense layer's to refuse."""
        return (
            self.groups == 1
            and fits_mma_sp(self.n, self.m, self._shape, weight.dtype)
            and features.ndim == 2
            and features.shape[1] == self.in_channels
            and features.dtype == weight.dtype
            and (bias is None or bias.dtype == weight.dtype)
            and features.device == weight.device
            and features.shape[0] == pairs.n_in
            and runs_on(features)
        )

    def _mma_sp(self, features: Tensor, weight: Tensor, bias: Tensor | None, pairs: KernelMap) -> Tensor:
        kept = self._operands  # values and places as the kernel reads them, until the weight is decoded anew
        if kept is None or kept[0] is not weight:
            self._operands = kept = (weight, *mma_sp_operands(self.packed))
        reverse_pairs = reverse_offsets = None
        reverse_flip = False
        if features.requires_grad and torch.is_grad_enabled():
            reverse_pairs, reverse_offsets, reverse_flip = pairs.reverse_arrays()
        out: Tensor = torch.ops.sparseconv.two_of_four_conv(
            features,
            bias,
            *kept[1:],
            weight,
            pairs.pairs,
            pairs.tap_offsets,
            reverse_pairs,
            reverse_offsets,
            pairs.n_out,
            reverse_flip,
        )
        return out

    def _vectors(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of the decoded weight that are not zero, kept until it is decoded anew."""
        kept = self._rows
        if kept is None or kept[0] is not weight:
            packed = pack_vectors(weight, groups=self.groups)
            self._rows = kept = (weight, packed.values, *packed.lists())
        return kept[1:]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_rows": None, "_operands": None}

    def extra_repr(self) -> str:
        """The convolution's words, the pattern, and the kernel."""
        return super().extra_repr() + ("" if self.kernel == "dense" else f", kernel={self.kernel!r}")


class NMLinear(_NM, PackedLinear):
    """A linear layer with an N:M weight along its input channels, which it decodes once; see `NMConv`."""

    def __init__(self, layer: nn.Linear, n: int = 2, m: int = 4) -> None:
        super().__init__(layer)
        self._hold(_packed(layer, n, m))

    def rows(self, x: Tensor) -> Tensor:
        """[N, C_out] from [N, C_in]."""
        return nn.functional.linear(x, self.decoded()[0].t(), self.bias)

    def _arranged(self, weight: Tensor) -> Tensor:
        return weight[0].t().contiguous().t()[None]  # as a linear layer's own weight lies in memory


def _packed(layer: Dense, n: int, m: int) -> NMWeight:
    return pack_nm(canonical_weight(layer), n, m, f"{type(layer).__name__}: weight")
