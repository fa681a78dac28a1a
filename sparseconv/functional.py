# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Convolution, pooling and segment reductions over plain tensors of features, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from . import gather_scatter
from .ops.convolution import gather_gemm
from .pairs import KernelMap

DATAFLOWS = ("fused", "gather_scatter")


def conv(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_map: KernelMap,
    *,
    groups: int = 1,
    dataflow: str = "fused",
    name: str = "conv",
) -> Tensor:
    """Sparse convolution: out[o] = bias + sum over the map's pairs (i, o) of tap t of features[i] @ weight[t].

    Args:
        features: [n_in, C_in], float32, float64 or bfloat16.
        weight: [K, C_in / groups, C_out] of the same type, any strides.
        bias: [C_out] or None.
        kernel_map: K taps, n_in input rows.
        groups: channels are split into this many independent groups.
        dataflow: "fused" (fetch on demand; the same bits on every run and for every number of threads) or "gather_scatter"
            (TorchSparse, Tang et al., MLSys 2022: gather, batched matrix products through BLAS, ordered scatter).
        name: stands first in error messages.

    Returns:
        [n_out, C_out].

    Raises:
        ValueError, TypeError: where shapes, types or devices do not match, or the map belongs to another tensor.
    """
    _check_types(name, kernel_map, features=features, weight=weight, bias=bias)
    _check_device(features, kernel_map, name)
    features, weight, bias = _autocast(features, weight, bias)
    _check_conv(features, weight, bias, kernel_map, groups, name)
    if dataflow == "gather_scatter":
        return gather_scatter.conv(features, weight, bias, kernel_map, groups)
    if dataflow != "fused":
        raise ValueError(f"{name}: dataflow must be one of {DATAFLOWS}, got {dataflow!r}")
    reverse_pairs = reverse_offsets = None
    reverse_flip = False
    if (
        features.requires_grad and torch.is_grad_enabled()
    ):  # the input's gradient runs over the reversed map: share it
        reverse_pairs, reverse_offsets, reverse_flip = kernel_map.reverse_arrays()
    return gather_gemm(
        features,
        weight,
        bias,
        kernel_map.pairs,
        kernel_map.tap_offsets,
        reverse_pairs,
        reverse_offsets,
        kernel_map.n_out,
        groups,
        False,
        False,
        reverse_flip,
    )


def _autocast(features: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Like torch's convolutions: under autocast everything but float64 runs in the autocast type."""
    device = features.device.type
    if not torch.is_autocast_enabled(device):
        return features, weight, bias
    dtype = torch.get_autocast_dtype(device)

    def cast(x: Tensor) -> Tensor:
        return x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x

    return cast(features), cast(weight), None if bias is None else cast(bias)


def _check_types(name: str, kernel_map: KernelMap, **tensors: Tensor | None) -> None:
    if not isinstance(kernel_map, KernelMap):
        raise TypeError(f"{name}: kernel_map must be a KernelMap, got {type(kernel_map).__name__}")
    for label, x in tensors.items():
        if x is None and label == "bias":
            continue
        if not isinstance(x, Tensor) or x.layout != torch.strided:
            raise TypeError(
                f"{name}: {label} must be a dense torch.Tensor, got {getattr(x, 'layout', type(x).__name__)}"
            )


def _check_device(features: Tensor, kernel_map: KernelMap, name: str) -> None:
    if features.device != kernel_map.pairs.device:
        raise ValueError(
            f"{name}: features must be on {kernel_map.pairs.device} like the map, got {features.device}"
        )


def _check_rows(features: Tensor, kernel_map: KernelMap, name: str) -> None:
    _check_types(name, kernel_map, features=features)
    if features.ndim != 2:
        raise ValueError(f"{name}: features must be [N, C], got {list(features.shape)}")
    if features.shape[0] != kernel_map.n_in:
        raise ValueError(
            f"{name}: features must have {kernel_map.n_in} rows to match the kernel map, got {features.shape[0]}: "
            "the map was built for another tensor"
        )
    _check_device(features, kernel_map, name)


def _check_conv(
    features: Tensor, weight: Tensor, bias: Tensor | None, kernel_map: KernelMap, groups: int, name: str
) -> None:
    if weight.ndim != 3:
        raise ValueError(f"{name}: weight must be [K, C_in / groups, C_out], got {list(weight.shape)}")
    taps, channels, out_channels = weight.shape
    if features.ndim != 2 or features.shape[1] != channels * groups:
        raise ValueError(
            f"{name}: features must be [N, {channels * groups}] to match weight {list(weight.shape)}"
            f"{f' in {groups} groups' if groups != 1 else ''}, got {list(features.shape)}"
        )
    _check_rows(features, kernel_map, name)
    if taps != kernel_map.taps:
        raise ValueError(
            f"{name}: weight must have {kernel_map.taps} taps to match the kernel map, got {taps}"
        )
    if not isinstance(groups, int) or groups < 1 or out_channels % groups:
        raise ValueError(
            f"{name}: groups must divide the output channels, got {groups} groups for {out_channels}"
        )
    for label, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.dtype != features.dtype:
            raise TypeError(f"{name}: {label} must be {features.dtype} like the features, got {tensor.dtype}")
        if tensor.device != features.device:
            raise ValueError(
                f"{name}: {label} must be on {features.device} like the features, got {tensor.device}"
            )
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise ValueError(f"{name}: bias must be [{out_channels}], got {list(bias.shape)}")


def max_pool(features: Tensor, kernel_map: KernelMap, *, name: str = "max_pool") -> Tensor:
    """out[o, c] = the maximum of features[i, c] over the pairs (i, o); ties go to the lowest tap, a row without a pair is 0.

    Args:
        features: [n_in, C].
        kernel_map: as for `conv`.

    Returns:
        [n_out, C].
    """
    _check_rows(features, kernel_map, name)
    out: Tensor = torch.ops.sparseconv.max_pool(
        features, kernel_map.pairs, kernel_map.tap_offsets, kernel_map.n_out
    )[0]
    return out


def accumulation(features: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, in which sums and means are taken before they are rounded once; others as they are."""
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features


def pair_counts(kernel_map: KernelMap) -> Tensor:
    """Pairs of each output row, int64 [n_out]."""
    return torch.bincount(kernel_map.pairs[:, 1], minlength=kernel_map.n_out)


def sum_pool(features: Tensor, kernel_map: KernelMap, *, name: str = "sum_pool") -> Tensor:
    """out[o] = the sum of features[i] over the pairs (i, o): a depthwise convolution with unit weights."""
    _check_rows(features, kernel_map, name)
    channels = features.shape[1]
    ones = features.new_ones(kernel_map.taps, 1, channels)
    with torch.autocast(features.device.type, enabled=False):
        return conv(features, ones, None, kernel_map, groups=channels, name=name)


def avg_pool(
    features: Tensor, kernel_map: KernelMap, *, count: str = "present", volume: int, name: str = "avg_pool"
) -> Tensor:
    """The mean over the present sites, or with count="kernel" their sum over the kernel's volume (dense on zeros).

    Args:
        features: [n_in, C].
        kernel_map: as for `conv`.
        count: "present" or "kernel".
        volume: taps of the full kernel.

    Returns:
        [n_out, C]; a row without a pair is 0.
    """
    _check_rows(features, kernel_map, name)
    total = sum_pool(accumulation(features), kernel_map, name=name)
    if count == "kernel":
        if volume < 1:
            raise ValueError(f"{name}: volume must be at least 1, got {volume}")
        return (total / volume).to(features.dtype)
    if count != "present":
        raise ValueError(f'{name}: count must be "present" or "kernel", got {count!r}')
    present = pair_counts(kernel_map).clamp(min=1).to(total.dtype)
    return (total / present[:, None]).to(features.dtype)


def unpool(features: Tensor, kernel_map: KernelMap, *, name: str = "unpool") -> Tensor:
    """Each output row takes the mean of the input rows it meets: a copy of its parent where the windows do not overlap."""
    return avg_pool(features, kernel_map, volume=1, name=name)


# --- segments -----------------------------------------------------------------------------------------------------------------


def _segments(features: Tensor, index: Tensor, n: int) -> tuple[Tensor, Tensor]:
    if not isinstance(features, Tensor) or not isinstance(index, Tensor):
        raise TypeError(
            f"segments take torch.Tensors, got features {type(features).__name__} and index {type(index).__name__}"
        )
    if features.ndim != 2 or index.ndim != 1 or index.shape[0] != features.shape[0]:
        raise ValueError(
            f"segments take features [N, C] and index [N], got {list(features.shape)} and {list(index.shape)}"
        )
    if index.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"the index of segments must be int32 or int64, got {index.dtype}")
    order, offsets = torch.ops.sparseconv.group_rows(index.to(torch.int64), n)
    return order, offsets


def segment_sum(features: Tensor, index: Tensor, n: int) -> Tensor:
    """out[s] = the sum of the rows with index s, in row order; features [N, C], index int [N] in [0, n) -> [n, C]."""
    order, offsets = _segments(features, index, n)
    result: Tensor = torch.ops.sparseconv.gather_sum(features, offsets, order, None)
    return result


def segment_mean(features: Tensor, index: Tensor, n: int) -> Tensor:
    """The mean of the rows with index s; 0 for an empty segment."""
    order, offsets = _segments(features, index, n)
    total: Tensor = torch.ops.sparseconv.gather_sum(accumulation(features), offsets, order, None)
    return (total / offsets.diff().clamp(min=1).to(total.dtype)[:, None]).to(features.dtype)


def segment_max(features: Tensor, index: Tensor, n: int) -> Tensor:
    """The maximum of the rows with index s; 0 for an empty segment, ties go to the first row."""
    order, offsets = _segments(features, index, n)
    result: Tensor = torch.ops.sparseconv.gather_max(features, offsets, order)[0]
    return result
