# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Convolutions and linear layers over weights of 8- and 4-bit codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import functional
from .. import nn as snn
from ..ops.codes import decode
from ..ops.quantized import quantized_conv, quantized_linear
from ..pairs import KernelMap
from .layer import (
    Dense,
    PackedConv,
    PackedLayer,
    PackedLinear,
    autocast,
    canonical_weight,
    check_features,
    check_rows,
)
from .quantized import QuantizedWeight, quantize_weight
from .swapping import Model, swap


class _Quantized(PackedLayer):
    """A layer's `QuantizedWeight`, in its buffers."""

    parts: ClassVar[tuple[str, ...]] = ("codes", "scales", "table")
    codes: Tensor
    scales: Tensor | None
    table: Tensor | None

    def _hold(self, weight: QuantizedWeight) -> None:
        self.bits, self.group_size, self._shape = weight.bits, weight.group_size, weight.shape
        for name in self.parts:
            self.register_buffer(name, getattr(weight, name))

    @property
    def packed(self) -> QuantizedWeight:
        """The weight as it is stored."""
        return QuantizedWeight(self._shape, self.bits, self.codes, self.scales, self.table, self.group_size)

    def decoded(self) -> Tensor:
        """The weight [K, C_in / groups, C_out] in float32, exactly as the kernels use it."""
        return decode(self.codes, self.bits, self.table, self.scales, self.group_size, self._shape)

    def extra_repr(self) -> str:
        """The layer's own words and the bits."""
        return f"{super().extra_repr()}, bits={self.bits}"


class QuantizedConv(_Quantized, PackedConv):
    """A convolution over codes of 8 or 4 bits, for features in float32, float64 or bfloat16.

    The core decodes the codes where it packs the weight for its kernels anyway, so the sums are those of `to_dense()`, bit for
    bit in float32 and float64. On a GPU the weight is decoded into a temporary dense one. Input and bias have gradients.

    Args:
        layer: any convolution of `sparseconv.nn`.
        weight: its packed weight; None = `quantize_weight(layer.weight, **options)`.
    """

    def __init__(
        self, layer: snn.SparseConvolution, weight: QuantizedWeight | None = None, **options: Any
    ) -> None:
        super().__init__(layer)
        self._hold(_fitting(layer, weight, options))

    def multiply(self, features: Tensor, pairs: KernelMap) -> Tensor:
        """See `KernelLayer.multiply`."""
        features, bias = autocast(features, self.bias)
        check_rows(self, features, bias)
        if features.device.type != "cpu":
            weight = self.decoded().to(features.dtype)
            name = type(self).__name__
            return functional.conv(features, weight, bias, pairs, groups=self.groups, name=name)
        reverse_pairs = reverse_offsets = None
        reverse_flip = False
        if features.requires_grad and torch.is_grad_enabled():
            reverse_pairs, reverse_offsets, reverse_flip = pairs.reverse_arrays()
        return quantized_conv(
            features,
            self.codes,
            self.table,
            self.scales,
            bias,
            pairs.pairs,
            pairs.tap_offsets,
            reverse_pairs,
            reverse_offsets,
            pairs.n_out,
            self.out_channels,
            self.groups,
            self.bits,
            self.group_size,
            reverse_flip,
        )


class QuantizedLinear(_Quantized, PackedLinear):
    """A linear layer over codes of 8 or 4 bits, for inputs in float32, float64 or bfloat16.

    A single row is multiplied by codes that are decoded in registers, more rows by pieces decoded into the first-level cache: the
    bits of a row do not depend on the others. On a GPU the weight is decoded into a temporary dense one.

    Args:
        layer: `torch.nn.Linear` or `sparseconv.nn.Linear`.
        weight: its packed weight of shape [1, C_in, C_out]; None = made with `quantize_weight(..., **options)`.
    """

    def __init__(self, layer: nn.Linear, weight: QuantizedWeight | None = None, **options: Any) -> None:
        super().__init__(layer)
        self._hold(_fitting(layer, weight, options))

    def rows(self, x: Tensor) -> Tensor:
        """[N, C_out] from [N, C_in]."""
        x, bias = autocast(x, self.bias)
        check_features(self, x, bias)
        if x.device.type != "cpu":
            return nn.functional.linear(x, self.decoded()[0].t().to(x.dtype), bias)
        return quantized_linear(
            x, self.codes, self.table, self.scales, bias, self.out_features, self.bits, self.group_size
        )


def _fitting(layer: Dense, weight: QuantizedWeight | None, options: dict[str, Any]) -> QuantizedWeight:
    dense = canonical_weight(layer)
    if weight is None:
        return quantize_weight(dense, **options)
    if tuple(dense.shape) != weight.shape:
        raise ValueError(
            f"the packed weight must be {list(dense.shape)} like the layer's, got {list(weight.shape)}"
        )
    return weight


def quantize(
    model: Model,
    bits: int = 8,
    *,
    group_size: int = 32,
    codebook: bool = False,
    scale: str = "mse",
    ignore: Sequence[str] = (),
) -> Model:
    """A copy of `model` for inference whose convolutions and linear layers hold codes of 8 or 4 bits.

    Activations stay floating point (W8A16, W4A16). Layers with hooks, parametrizations or a forward of their own are left as they
    are. Fold norms first (`sparseconv.fuse`): scales are per output channel, which a norm changes.

    A state dict of the result loads into `quantize(fresh_model, ...)` with the same options, whatever that model's weights.

    Args:
        model: any module; it is not changed.
        bits, group_size, codebook, scale: as for `quantize_weight`.
        ignore: names or patterns ("head", "up.*") of layers to leave.

    Raises:
        ValueError, TypeError: as `quantize_weight`, and for patterns that name nothing.

    Sources: Jacob et al., CVPR 2018 (symmetric per-channel int8); Dettmers et al., "8-bit optimizers" (ICLR 2022) and Frantar et
    al., "GPTQ" (ICLR 2023), for groups with a scale each.
    """

    def make(name: str, layer: Dense) -> nn.Module:
        options: dict[str, Any] = {
            "bits": bits,
            "group_size": group_size,
            "codebook": codebook,
            "scale": scale,
        }
        try:
            if isinstance(layer, nn.Linear):
                return QuantizedLinear(layer, **options)
            return QuantizedConv(layer, **options)
        except ValueError as error:
            raise ValueError(f"{name or type(layer).__name__}: {error}") from error

    return swap(model, make, ignore)[0]
