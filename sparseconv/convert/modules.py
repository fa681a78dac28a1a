# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""torch's dense layers as ours and back.

A converted layer on a tensor with `spatial_shape` computes what the dense layer computes on the dense grid, at the
sites that exist. Training a norm differs: ours sees the present sites only.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from .. import nn as snn
from ..nn.pool import Pool
from ..nn.sparse_convolution import SparseConvolution
from .layouts import tap_index, weight_from, weight_to

_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: snn.BatchNorm,
    nn.BatchNorm2d: snn.BatchNorm,
    nn.BatchNorm3d: snn.BatchNorm,
    nn.SyncBatchNorm: snn.SyncBatchNorm,
    nn.LayerNorm: snn.LayerNorm,
    nn.GroupNorm: snn.GroupNorm,
    nn.InstanceNorm1d: snn.InstanceNorm,
    nn.InstanceNorm2d: snn.InstanceNorm,
    nn.InstanceNorm3d: snn.InstanceNorm,
}
# Row-wise layers have the same name on both sides.
_ROWWISE: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, name): getattr(snn, name)
    for name in (
        "CELU ELU GELU SELU Dropout Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU Linear LogSigmoid "
        "Mish PReLU RReLU ReLU ReLU6 Sigmoid SiLU Softplus Softshrink Softsign Tanh Tanhshrink Threshold"
    ).split()
}


def from_torch(module: nn.Module, *, submanifold: bool = False) -> nn.Module:
    """Return the sparse layer with the weights, device, dtype and mode of a dense torch layer (a copy).

    Takes convolutions, transposed convolutions, max and average pooling, norms, activations, Dropout, Linear and
    Sequential of these. With submanifold=True every convolution of stride 1 becomes a SubMConv; strided ones stay Conv.
    Raises ValueError where a setting has no sparse counterpart, TypeError where a whole layer has none.
    """
    return _from_torch(module, submanifold, on_grid=False)


def _from_torch(module: nn.Module, submanifold: bool, on_grid: bool) -> nn.Module:
    """`on_grid`: the layer stands beside convolutions, so that its input is [B, C, *shape]."""
    if type(module) is nn.Sequential:
        on_grid = on_grid or any(isinstance(m, _ConvNd) for m in module.modules())
        layer: nn.Module = snn.Sequential()
        for name, part in module.named_children():
            layer.add_module(name, _from_torch(part, submanifold, on_grid))
        return layer.train(module.training)
    if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        return _conv_from_torch(module, submanifold)
    if type(module) in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
        return _conv_from_torch(module, False)
    if type(module) in (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d):
        return _pool_from_torch(module)
    new_type = _NORMS.get(type(module)) or _ROWWISE.get(type(module))
    if new_type is None:
        raise TypeError(f"from_torch: {type(module).__name__} has no sparse counterpart")
    if on_grid and isinstance(module, nn.LayerNorm | nn.Linear):
        raise ValueError(
            f"from_torch: {type(module).__name__} among convolutions works on the last axis of the grid, ours on channels"
        )
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) != 1:
        raise ValueError(
            f"from_torch: LayerNorm must normalise the channels alone, got {module.normalized_shape}"
        )
    if new_type is snn.InstanceNorm and getattr(module, "track_running_stats", False):
        raise ValueError("from_torch: InstanceNorm with track_running_stats=True has no sparse counterpart")
    return _as(module, new_type)


def to_torch(layer: nn.Module, *, ndim: int | None = None) -> nn.Module:
    """Return the dense torch layer with the weights, device, dtype and mode of one of ours (a copy).

    Taps that were pruned come out as zero weights; an InverseConv becomes a ConvTranspose. `ndim`, the axes of the dense
    grid, matters for norms and Linear (a 1x1 convolution on a grid): None means plain rows [N, C], and in a Sequential
    the axes of its convolutions. Raises ValueError where a setting has no dense counterpart (four axes, the "minkowski"
    anchor), TypeError where a whole layer has none.
    """
    if isinstance(layer, snn.Sequential):
        if ndim is None:
            ndim = next((m.ndim for m in layer.modules() if isinstance(m, SparseConvolution | Pool)), None)
        dense: nn.Module = nn.Sequential()
        for name, part in layer.named_children():
            dense.add_module(name, to_torch(part, ndim=ndim))
        return dense.train(layer.training)
    if isinstance(layer, SparseConvolution):
        return _conv_to_torch(layer)
    if isinstance(layer, Pool):
        return _pool_to_torch(layer)
    if ndim is not None and isinstance(layer, snn.Linear):
        return _linear_to_torch(layer, ndim)
    if ndim is not None and isinstance(layer, snn.LayerNorm):
        raise ValueError(f"to_torch: LayerNorm has no dense counterpart on a grid of {ndim} axes")
    new_type: type[nn.Module] | None
    if type(layer) in (snn.BatchNorm, snn.InstanceNorm):
        new_type = getattr(nn, f"{type(layer).__name__}{ndim or 1}d", None)
    else:
        new_type = {ours: theirs for theirs, ours in (*_NORMS.items(), *_ROWWISE.items())}.get(type(layer))
    if new_type is None:
        raise TypeError(f"to_torch: {type(layer).__name__} has no dense counterpart")
    return _as(layer, new_type)


def _linear_to_torch(layer: snn.Linear, ndim: int) -> nn.Module:
    conv: nn.Module = getattr(nn, f"Conv{ndim}d")(
        layer.in_features,
        layer.out_features,
        1,
        bias=layer.bias is not None,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    _copy_parameters(layer, conv, layer.weight.detach().reshape(*layer.weight.shape, *(1,) * ndim))
    return conv.train(layer.training)


def _as(module: nn.Module, new_type: type[nn.Module]) -> nn.Module:
    """A copy of `module` as a class with the same attributes: ours subclass torch's and add no state."""
    layer = copy.deepcopy(module)
    object.__setattr__(layer, "__class__", new_type)
    return layer


def _conv_from_torch(module: Any, submanifold: bool) -> nn.Module:
    name = type(module).__name__
    if module.padding_mode != "zeros":
        raise ValueError(
            f'from_torch: {name} with padding_mode="{module.padding_mode}" has no sparse counterpart, only "zeros" has'
        )
    dilation, kernel = module.dilation, module.kernel_size
    spans = [
        d * (k - 1) for d, k in zip(dilation, kernel, strict=True)
    ]  # cells that "same" padding adds per axis, both ends
    same = [s // 2 for s in spans]
    settings: dict[str, Any] = {"dilation": dilation}
    submanifold = submanifold and all(s == 1 for s in module.stride)
    if module.padding == "same" and not submanifold and any(s % 2 for s in spans):
        raise ValueError(
            f'from_torch: {name} with kernel_size={kernel}, dilation={dilation} and padding="same" pads the two ends '
            "differently; only a submanifold layer has that"
        )
    padding = {"same": same, "valid": [0] * len(kernel)}.get(module.padding, module.padding)
    if submanifold:
        if list(padding) != same:
            raise ValueError(
                f"from_torch: a submanifold {name} with kernel_size={kernel} and dilation={dilation} needs padding "
                f"{tuple(same)}, got {tuple(padding)}"
            )
    else:
        settings |= {"stride": module.stride, "padding": tuple(padding)}
    if module.transposed:
        settings["output_padding"] = module.output_padding
    layer: SparseConvolution = getattr(snn, f"SubM{name}" if submanifold else name)(
        module.in_channels,
        module.out_channels,
        kernel,
        groups=module.groups,
        bias=module.bias is not None,
        device=module.weight.device,
        dtype=module.weight.dtype,
        **settings,
    )
    weight = weight_from(
        "torch", module.weight.detach(), kernel, transposed=module.transposed, groups=module.groups
    )
    _copy_parameters(module, layer, weight)
    return layer.train(module.training)


def _conv_to_torch(layer: SparseConvolution) -> nn.Module:
    name, g = type(layer).__name__, layer.geometry
    if layer.ndim > 3:
        raise ValueError(
            f"to_torch: {name} has no dense counterpart, torch has convolutions of at most 3 axes"
        )
    if g.anchor != "torch":
        raise ValueError(
            f'to_torch: {name} with anchor="{g.anchor}" has no dense counterpart, only "torch" has'
        )
    settings: dict[str, Any] = {"dilation": g.dilation}
    if layer.submanifold:
        spans = [d * (k - 1) for d, k in zip(g.dilation, g.kernel_size, strict=True)]
        settings["padding"] = "same" if any(s % 2 for s in spans) else tuple(s // 2 for s in spans)
    else:
        settings |= {"stride": g.stride, "padding": g.padding}
    if layer.transposed:
        settings["output_padding"] = g.output_padding
    channels = layer.weight.shape[1] * layer.groups, layer.weight.shape[2]
    dense: nn.Module = getattr(
        nn, f"ConvTranspose{layer.ndim}d" if layer.transposed else f"Conv{layer.ndim}d"
    )(
        *channels,
        g.kernel_size,
        groups=layer.groups,
        bias=layer.bias is not None,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
        **settings,
    )
    full = full_weight(layer)
    weight = weight_to("torch", full, g.kernel_size, transposed=layer.transposed, groups=layer.groups)
    _copy_parameters(layer, dense, weight)
    return dense.train(layer.training)


def full_weight(layer: SparseConvolution) -> torch.Tensor:
    """The layer's weight with a row for every cell of the kernel, zero where the tap was pruned: no gradient."""
    weight = layer.weight.detach()
    full = weight.new_zeros(layer.geometry.volume, *weight.shape[1:])
    full[tap_index(layer.taps, layer.kernel_size)] = weight
    return full


def _copy_parameters(source: Any, layer: Any, weight: torch.Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(source.bias)
    layer.weight.requires_grad_(source.weight.requires_grad)
    if layer.bias is not None:
        layer.bias.requires_grad_(source.bias.requires_grad)


def _pool_from_torch(module: Any) -> nn.Module:
    name = type(module).__name__
    if module.ceil_mode:
        raise ValueError(f"from_torch: {name} with ceil_mode=True has no sparse counterpart")
    settings: dict[str, Any] = {}
    if name.startswith("Max"):
        if module.return_indices:
            raise ValueError(f"from_torch: {name} with return_indices=True has no sparse counterpart")
        settings["dilation"] = module.dilation
    else:
        if getattr(module, "divisor_override", None) is not None:
            raise ValueError(f"from_torch: {name} with divisor_override has no sparse counterpart")
        padding = module.padding if isinstance(module.padding, tuple) else (module.padding,)
        if not module.count_include_pad and any(padding):
            raise ValueError(
                f"from_torch: {name} with padding and count_include_pad=False has no sparse counterpart"
            )
        settings["count"] = "kernel"
    layer: nn.Module = getattr(snn, name)(module.kernel_size, module.stride, module.padding, **settings)
    return layer.train(module.training)


def _pool_to_torch(layer: Any) -> nn.Module:
    name, g = type(layer).__name__, layer.geometry
    if g.anchor != "torch":
        raise ValueError(
            f'to_torch: {name} with anchor="{g.anchor}" has no dense counterpart, only "torch" has'
        )
    if layer.ndim > 3:
        raise ValueError(f"to_torch: {name} has no dense counterpart, torch has pooling of at most 3 axes")
    settings: dict[str, Any] = {}
    if name.startswith("Max"):
        settings["dilation"] = g.dilation
    elif layer.count != "kernel" or any(d != 1 for d in g.dilation):
        raise ValueError(f'to_torch: {name} has a dense counterpart with count="kernel" and dilation 1 only')
    dense: nn.Module = getattr(nn, name)(g.kernel_size, g.stride, g.padding, **settings)
    return dense.train(layer.training)
