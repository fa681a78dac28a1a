# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Convolutions and linear layers over vector-sparse weights: what is absent is neither stored nor multiplied, nor trained."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import functional
from .. import nn as snn
from ..ops._library import unwatched
from ..ops.vectors import vector_conv
from ..pairs import KernelMap
from .layer import Dense, PackedConv, PackedLayer, PackedLinear, canonical_weight, check_features
from .vectors import VectorWeight, pack_vectors

KERNEL_TYPES = (torch.float32, torch.float64, torch.bfloat16)


class _Vectors(PackedLayer):
    """A layer's `VectorWeight`: `values` is a parameter, `present` a buffer, and the kernels' lists follow from it."""

    parts: ClassVar[tuple[str, ...]] = ("values", "present")
    keeps_types = False
    values: nn.Parameter
    present: Tensor
    offsets: Tensor
    channels: Tensor

    def _hold(self, weight: VectorWeight, trains: bool) -> None:
        self._shape, self._groups = weight.shape, weight.groups
        offsets, channels = weight.lists()
        self.values = nn.Parameter(weight.values.detach().clone(), trains)
        self.register_buffer("present", weight.present.clone())
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("channels", channels, persistent=False)

    @property
    def packed(self) -> VectorWeight:
        """The weight as it is stored."""
        return VectorWeight(self._shape, self._groups, self.present, self.values.detach())

    @property
    def density(self) -> float:
        """The share of rows that are stored."""
        return self.packed.density

    def decoded(self) -> Tensor:
        """The dense weight [K, C_in / groups, C_out]."""
        return self.packed.unpack()

    def dense_dtype(self) -> torch.dtype:
        """The type of the values."""
        return self.values.dtype

    def _multiply(self, features: Tensor, pairs: KernelMap) -> Tensor:
        name = type(self).__name__
        values, bias, c_out = self.values, self.bias, self._shape[2]
        device = features.device.type
        if torch.is_autocast_enabled(device) and features.dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
            features, values = features.to(dtype), values.to(dtype)  # type: ignore[assignment]
            bias = None if bias is None else bias.to(dtype)  # type: ignore[assignment]
        c_in = self._shape[1] * self._groups
        if features.ndim != 2 or features.shape[1] != c_in:
            raise ValueError(f"{name}: features must be [N, {c_in}], got {list(features.shape)}")
        if features.shape[0] != pairs.n_in:
            raise ValueError(
                f"{name}: features must have {pairs.n_in} rows to match the kernel map, got {features.shape[0]}"
            )
        if features.dtype != values.dtype:
            raise TypeError(f"{name}: features must be {values.dtype} like the values, got {features.dtype}")
        if device != "cpu":
            weight = VectorWeight(self._shape, self._groups, self.present, values.detach()).unpack(values)
            return functional.conv(features, weight, bias, pairs, groups=self._groups, name=name)
        check_features(self, features, bias, KERNEL_TYPES)
        reverse_pairs = reverse_offsets = None
        reverse_flip = False
        if features.requires_grad and torch.is_grad_enabled():
            reverse_pairs, reverse_offsets, reverse_flip = pairs.reverse_arrays()
        return vector_conv(
            features,
            values,
            bias,
            self.offsets,
            self.channels,
            pairs.pairs,
            pairs.tap_offsets,
            reverse_pairs,
            reverse_offsets,
            pairs.n_out,
            c_out,
            self._groups,
            reverse_flip,
        )

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, *args: Any
    ) -> None:
        """Takes the rows of any pattern of this layer's shape; a pattern of another size is a new parameter."""
        values, present = state_dict.get(prefix + "values"), state_dict.get(prefix + "present")
        if values is not None and present is not None:
            try:
                weight = VectorWeight(self._shape, self._groups, present, values)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{prefix.rstrip('.') or type(self).__name__}: {error}") from error
            device = self.present.device
            if self.values.shape != values.shape:
                new = values.to(device, self.values.dtype, copy=True)
                self.values = nn.Parameter(new, self.values.requires_grad)
            self.offsets, self.channels = (x.to(device) for x in weight.lists())
        elif (values is None) != (present is None):
            raise ValueError(
                f"{prefix.rstrip('.') or type(self).__name__}: a state dict holds values and present together"
            )
        super(PackedLayer, self)._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        """The layer's own words and how much is stored."""
        return f"{super().extra_repr()}, density={self.density:.3f}"


class VectorSparseConv(_Vectors, PackedConv):
    """A convolution that stores, multiplies and trains only some rows of 16 output channels.

    Equal to `to_dense()` bit for bit on finite numbers, up to the sign of zeros (the gradient of the input: up to rounding).
    An absent row is not multiplied: where the dense layer would form 0 * inf or 0 * NaN, this one adds nothing. On a GPU the
    weight is decoded into a temporary dense one.

    Args:
        layer: any convolution of `sparseconv.nn`.
        weight: its packed weight; None = its rows that are not zero.
    """

    def __init__(self, layer: snn.SparseConvolution, weight: VectorWeight | None = None) -> None:
        super().__init__(layer)
        self._hold(_fitting(layer, weight, layer.groups), layer.weight.requires_grad)

    @classmethod
    def from_dense(cls, layer: snn.SparseConvolution, mask: Tensor | None = None) -> VectorSparseConv:
        """The layer's rows that are not zero, or that `mask` [K, C_in / groups, C_out] names."""
        if not isinstance(layer, snn.SparseConvolution):
            raise TypeError(f"{cls.__name__} is made from a convolution, got {type(layer).__name__}")
        return cls(layer, pack_vectors(layer.weight, mask, groups=layer.groups))

    def multiply(self, features: Tensor, pairs: KernelMap) -> Tensor:
        """See `KernelLayer.multiply`."""
        return self._multiply(features, pairs)


class VectorSparseLinear(_Vectors, PackedLinear):
    """A linear layer that stores, multiplies and trains only some rows of 16 output channels; see `VectorSparseConv`.

    Args:
        layer: `torch.nn.Linear` or `sparseconv.nn.Linear`.
        weight: its packed weight of shape [1, C_in, C_out]; None = its rows that are not zero.
    """

    def __init__(self, layer: nn.Linear, weight: VectorWeight | None = None) -> None:
        super().__init__(layer)
        self._hold(_fitting(layer, weight, 1), layer.weight.requires_grad)

    @classmethod
    def from_dense(cls, layer: nn.Linear, mask: Tensor | None = None) -> VectorSparseLinear:
        """The layer's rows that are not zero, or that `mask` [C_out, C_in] names."""
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"{cls.__name__} is made from a linear layer, got {type(layer).__name__}")
        turned = None if mask is None else mask.t()[None]
        return cls(layer, pack_vectors(canonical_weight(layer), turned))

    def rows(self, x: Tensor) -> Tensor:
        """[N, C_out] from [N, C_in]: a convolution of one tap, row to row."""
        rows = kept_row_map if unwatched(x) else row_map
        return self._multiply(x, rows(x.shape[0], x.device))


def row_map(n: int, device: torch.device) -> KernelMap:
    """The map of one tap that takes each of n rows to itself."""
    row = torch.arange(n, dtype=torch.int32, device=device)
    pairs, tap_offsets = torch.stack([row, row], 1), torch.tensor([0, n], device=device)
    return KernelMap.trusted(pairs, tap_offsets, row[:, None], row[:, None], True)


@functools.lru_cache(2)
def kept_row_map(n: int, device: torch.device) -> KernelMap:
    """`row_map`, which takes longer to make than a small layer."""
    with torch.inference_mode(False):
        return row_map(n, device)


def _fitting(layer: Dense, weight: VectorWeight | None, groups: int) -> VectorWeight:
    dense = canonical_weight(layer)
    if weight is None:
        return pack_vectors(dense, groups=groups)
    if tuple(dense.shape) != weight.shape or weight.groups != groups:
        raise ValueError(
            f"the packed weight must be {list(dense.shape)} in {groups} groups like the layer's, "
            f"got {list(weight.shape)} in {weight.groups}"
        )
    return weight
