# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What layers with packed weights share: they stand in a network where a dense layer stood, and know how to become it again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import nn as snn
from ..nn.kernel_layer import KernelLayer
from ..tensor import SparseTensor

Dense = snn.SparseConvolution | nn.Linear
KERNEL_TYPES = (torch.float32, torch.float64, torch.bfloat16)


class PackedLayer(nn.Module):
    """Base of layers whose state dict holds a packed weight.

    `parts` names its buffers. With `keeps_types` they stay as they are when the layer is moved to another type. Of a state dict
    they take only the right type and shape (ValueError), and `check_parts` looks at the values.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    keeps_types: ClassVar[bool] = True
    bias: nn.Parameter | None
    dtype: torch.dtype  # of the dense layer that this one was made from

    def dense_dtype(self) -> torch.dtype:
        """The type of the dense layer's weight."""
        return self.dtype

    def to_dense(self) -> nn.Module:
        """The dense layer with the decoded weight; a subclass's own."""
        raise NotImplementedError

    def decoded(self) -> Tensor:
        """The weight in numbers, [K, C_in / groups, C_out]; a subclass's own."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """The decoded weight where a dense layer has its own and in its form, decoded at every look, for code that reads it."""
        return self.decoded().to(self.dense_dtype())

    @property
    def packed(self) -> Any:
        """The weight as it is stored, whose constructor raises ValueError where it is not valid; a subclass's own."""
        raise NotImplementedError

    @property
    def size_in_bits(self) -> int:
        """Of the stored weight, exactly."""
        size: int = self.packed.size_in_bits
        return size

    def check_parts(self) -> None:
        """Raises ValueError where the packed weight is not valid."""
        _ = self.packed

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = {name: getattr(self, name) for name in self.parts}
        result = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = getattr(self, name)
            if self.keeps_types and old is not None and new.dtype != old.dtype:
                setattr(self, name, old.to(new.device))
        return result

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, *args: Any
    ) -> None:
        for name in self.parts:
            own, given = getattr(self, name), state_dict.get(prefix + name)
            if own is None or given is None:
                continue
            same_type = given.dtype == own.dtype or (
                not self.keeps_types and given.is_floating_point() and own.is_floating_point()
            )
            if not same_type or given.shape != own.shape:
                raise ValueError(
                    f"{prefix}{name}: expected {own.dtype} {list(own.shape)}, as of this layer's format, "
                    f"got {given.dtype} {list(given.shape)}"
                )
        kept = {name: getattr(self, name) for name in self.parts}
        kept = {name: None if x is None else x.clone() for name, x in kept.items()}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        try:
            self.check_parts()
        except ValueError as error:
            for name, x in kept.items():
                setattr(self, name, x)
            raise ValueError(f"{prefix.rstrip('.') or type(self).__name__}: {error}") from error


class PackedConv(PackedLayer, KernelLayer):
    """A convolution of any kind with a packed weight; made from a dense one."""

    def __init__(self, layer: snn.SparseConvolution) -> None:
        super().__init__()
        if not isinstance(layer, snn.SparseConvolution):
            raise TypeError(f"{type(self).__name__} is made from a convolution, got {type(layer).__name__}")
        self.dense_type = type(layer)
        self.ndim, self.submanifold = layer.ndim, layer.submanifold
        self.transposed, self.needs_target = layer.transposed, layer.needs_target
        self.in_channels, self.out_channels, self.groups = layer.in_channels, layer.out_channels, layer.groups
        self.geometry = layer.geometry
        self.shape: tuple[int, ...] = tuple(layer.weight.shape)
        self.dtype = layer.weight.dtype
        self.bias = _copied(layer.bias)
        self.register_buffer("taps", layer.taps.clone(), persistent=False)
        self.train(layer.training)

    def weight_shape(self) -> tuple[int, ...]:
        """[K, C_in / groups, C_out]."""
        return self.shape

    def to_dense(self) -> snn.SparseConvolution:
        """The convolution with the decoded weight, in the type of the layer that this one was made from."""
        geometry = self.geometry
        options: dict[str, Any] = {"dilation": geometry.dilation, "anchor": geometry.anchor}
        if not self.submanifold:
            options["stride"] = geometry.stride
            if geometry.anchor == "torch":
                options["padding"] = geometry.padding
        if self.transposed and not self.needs_target:
            options["output_padding"] = geometry.output_padding
        options.update(
            groups=self.groups, bias=self.bias is not None, device="meta", dtype=self.dense_dtype()
        )
        build: Callable[..., snn.SparseConvolution] = self.dense_type
        layer = build(self.in_channels, self.out_channels, geometry.kernel_size, **options)
        layer.taps = self.taps.clone()
        layer.weight = nn.Parameter(self.weight.clone())
        layer.bias = _copied(self.bias)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        """The convolution's own words."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        return f"{self.dense_type.__name__}: {text}"


class PackedLinear(PackedLayer):
    """A linear layer with a packed weight, for plain tensors [..., C_in] and, row by row, for SparseTensors."""

    acts_on_rows: ClassVar[bool] = True  # for `Sequential`: like torch's own layers

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"{type(self).__name__} is made from a linear layer, got {type(layer).__name__}")
        self.dense_type = type(layer)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype = layer.weight.dtype
        self.bias = _copied(layer.bias)
        self.train(layer.training)

    @property
    def weight(self) -> Tensor:
        """See `PackedLayer.weight`; [C_out, C_in]."""
        return self.decoded()[0].t().to(self.dense_dtype())

    def rows(self, x: Tensor) -> Tensor:
        """[N, C_out] from [N, C_in]; a subclass's own."""
        raise NotImplementedError

    def forward(self, x: Any) -> Any:
        """Map the last axis of a tensor, or each row of a SparseTensor."""
        if isinstance(x, SparseTensor):
            return x.replace(self(x.features))
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{type(self).__name__}: input must be a tensor or SparseTensor, got {type(x).__name__}"
            )
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"{type(self).__name__}: input must be [..., {self.in_features}], got {list(x.shape)}"
            )
        rows = x.reshape(math.prod(x.shape[:-1]), self.in_features)
        return self.rows(rows).reshape(*x.shape[:-1], self.out_features)

    def to_dense(self) -> nn.Linear:
        """The linear layer with the decoded weight, in the type of the layer that this one was made from."""
        layer = self.dense_type(
            self.in_features,
            self.out_features,
            self.bias is not None,
            device="meta",
            dtype=self.dense_dtype(),
        )
        layer.weight = nn.Parameter(self.weight.clone(memory_format=torch.contiguous_format))
        layer.bias = _copied(self.bias)  # type: ignore[assignment]
        return layer.train(self.training)

    def extra_repr(self) -> str:
        """Channels and bias."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def _copied(bias: Tensor | None) -> nn.Parameter | None:
    if bias is None:
        return None
    return nn.Parameter(bias.detach().clone(), bias.requires_grad)


def check_features(
    layer: nn.Module,
    features: Tensor,
    bias: Tensor | None,
    dtypes: Sequence[torch.dtype] = KERNEL_TYPES,
) -> None:
    """Raise TypeError unless the kernels take features of this type, which is the bias's."""
    if features.dtype not in dtypes:
        raise TypeError(
            f"{type(layer).__name__}: features must be float32, float64 or bfloat16, got {features.dtype}"
        )
    if bias is not None and bias.dtype != features.dtype:
        raise TypeError(
            f"{type(layer).__name__}: features must be {bias.dtype} like the bias, got {features.dtype}"
        )


def check_rows(layer: PackedConv, features: Tensor, bias: Tensor | None) -> None:
    """`check_features`, and ValueError unless they are [N, C_in]."""
    if features.ndim != 2 or features.shape[1] != layer.in_channels:
        raise ValueError(
            f"{type(layer).__name__}: features must be [N, {layer.in_channels}], got {list(features.shape)}"
        )
    check_features(layer, features, bias)


def autocast(features: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Features and bias as torch's layers take them under autocast: everything but float64 in the autocast type."""
    device = features.device.type
    if not torch.is_autocast_enabled(device) or features.dtype == torch.float64:
        return features, bias
    dtype = torch.get_autocast_dtype(device)
    return features.to(dtype), None if bias is None else bias.to(dtype)


def canonical_weight(layer: Dense) -> Tensor:
    """A layer's weight as [K, C_in / groups, C_out]."""
    weight: Tensor = layer.weight.detach()
    return weight.t()[None] if isinstance(layer, nn.Linear) else weight
