# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What each operator does with the channels that go through it: products with weights, norms, sums, reductions.

A rule is called after the operator has run. Operators that only move data have theirs in `rules_of_views.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves

from . import rules_of_views
from .channel_ids import Ids
from .follow import Axes, ChannelFollower, Rule

RULES: dict[str, Rule] = dict(rules_of_views.RULES)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule under names of operators; those without a namespace are torch's own."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name if "::" in name or name == "pointwise" else f"aten::{name}"] = function
        return function

    return register


# --- products with weights --------------------------------------------------------------------------------------------------


@rule("sparseconv::gather_gemm")
def _convolution(f: ChannelFollower, args: Any, _: Any, out: Tensor) -> None:
    features, weight, bias, *_rest = args
    groups, transpose = args[8], args[9]
    source = f.axes(features)[1]
    if f.is_made(weight) and groups == features.shape[1]:  # sums over sites: a depthwise product with ones
        f.carry(out, [None, source])
        return
    reads, makes = (2, 1) if transpose else (1, 2)
    axes = f.axes(weight)
    made = _grouped_product(f, source, axes[reads], axes[makes], groups, features.shape[1])
    if bias is not None:
        made = f.tie(made, f.axes(bias)[0])
    f.carry(out, [None, made])


def _grouped_product(
    f: ChannelFollower, source: Ids | None, reads: Ids | None, makes: Ids | None, groups: int, channels: int
) -> Ids | None:
    """Ties a product's input channels to the weight's axis that reads them; returns what it makes.

    In a depthwise product channel i goes with all that is made of it; otherwise what is removed from one group of channels is
    removed from all, so that the groups stay equal.
    """
    if makes is not None:
        f.ids.produce(makes)
    if groups == 1:
        f.tie(source, reads)
        return makes
    if reads is None or makes is None:
        for ids in (source, reads, makes):
            f.freeze(ids, "the weight of a grouped product is computed")
        return makes
    source = f.foreign(channels) if source is None else source
    if channels == groups:
        f.tie(np.repeat(source, len(makes) // groups), makes)
        return makes
    for part in source.reshape(groups, -1):
        f.tie(part, reads)
    for part in makes.reshape(groups, -1)[1:]:
        f.tie(makes[: len(part)], part)
    return makes


@rule("addmm", "mm", "bmm", "baddbmm")
def _product(f: ChannelFollower, args: Any, _: Any, out: Tensor) -> None:
    first, second = args[-2:]
    a, b = f.axes(first), f.axes(second)
    f.tie(a[-1], b[-2])
    for operand, made in ((first, a[-2]), (second, b[-1])):
        if f.weight_name(operand) is not None and made is not None:
            f.ids.produce(made)
    axes: Axes = [*a[:-1], b[-1]]
    if len(args) == 3:
        _tie_broadcast(f, axes, args[0], out)
    f.carry(out, axes)


@rule("convolution")
def _dense_convolution(f: ChannelFollower, args: Any, _: Any, out: Tensor) -> None:
    features, weight, bias = args[:3]
    transposed, groups = args[6], args[8]
    axes, source = f.axes(weight), f.axes(features)[1]
    if transposed and groups > 1:
        for ids in (source, *axes):
            f.freeze(ids, "a grouped transposed dense convolution")
        return
    reads, makes = (axes[0], axes[1]) if transposed else (axes[1], axes[0])
    made = _grouped_product(f, source, reads, makes, groups, features.shape[1])
    if bias is not None:
        made = f.tie(made, f.axes(bias)[0])
    f.carry(out, [None, made, *[None] * (out.ndim - 2)])


# --- channel by channel -----------------------------------------------------------------------------------------------------


@rule(
    "pointwise",
    "_prelu_kernel",
    "native_dropout",
    "addcmul",
    "addcdiv",
    "where",
    "masked_fill",
    "lerp",
    "clamp",
)
def _pointwise(f: ChannelFollower, args: Any, kwargs: Any, out: Any) -> None:
    for result in (x for x in tree_leaves(out) if isinstance(x, Tensor)):
        operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        axes: Axes = [None] * result.ndim
        for x in operands:  # followed ones first, so that the others meet them
            if any(a is not None for a in f.axes(x)):
                _tie_broadcast(f, axes, x, result)
        for x in operands:
            if all(a is None for a in f.axes(x)) and x is not result:
                _tie_broadcast(f, axes, x, result)
        if any(x is result for x in operands) and f.is_part(result):
            for ids in axes:
                f.freeze(ids, "is written into a part of another array")
        f.carry(result, axes)


def _tie_broadcast(f: ChannelFollower, axes: Axes, x: Tensor, out: Tensor) -> None:
    """Ties the axes of `x` to those of `out` that it is broadcast over; fills in what `axes` does not have yet."""
    for back in range(1, x.ndim + 1):
        own, size = f.axes(x)[-back], x.shape[-back]
        if size != out.shape[-back]:  # one channel for all
            f.freeze(own, "one channel is spread over several")
        elif axes[-back] is None:
            axes[-back] = own
        elif own is not None:
            f.tie(axes[-back], own)
        elif size > 1 and not f.is_made(x):
            f.freeze(axes[-back], "meets data that is not made by a layer")


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm",
      "_native_batch_norm_legit_functional", "miopen_batch_norm", "batch_norm_elemt")  # fmt: skip
def _batch_norm(f: ChannelFollower, args: Any, _: Any, out: Any) -> None:
    axes = f.axes(args[0])
    channels = axes[1]
    for x in args[1:5]:
        if isinstance(x, Tensor) and x.ndim == 1 and len(x) == args[0].shape[1]:
            channels = f.tie(f.axes(x)[0], channels)
    f.carry(out[0] if isinstance(out, tuple) else out, [axes[0], channels, *axes[2:]])


@rule("native_layer_norm", "native_group_norm", "_fused_rms_norm", "rms_norm")
def _norm_across(f: ChannelFollower, args: Any, _: Any, out: Any) -> None:
    first = out[0] if isinstance(out, tuple) else out
    for x in tree_leaves(args):
        for ids in f.axes(x) if isinstance(x, Tensor) else ():
            f.freeze(ids, "a norm that mixes channels")
    f.carry(first, f.axes(args[0]))


@rule("sparseconv::max_pool", "sparseconv::gather_sum", "sparseconv::gather_max")
def _rows_reduced(f: ChannelFollower, args: Any, _: Any, out: Any) -> None:
    f.carry(out[0] if isinstance(out, tuple) else out, [None, f.axes(args[0])[1]])


@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d",
      "_adaptive_avg_pool3d", "adaptive_max_pool2d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
      "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_nearest_exact2d",
      "reflection_pad2d", "replication_pad2d", "grid_sampler_2d", "grid_sampler_3d")  # fmt: skip
def _over_cells(f: ChannelFollower, args: Any, _: Any, out: Any) -> None:
    """Dense maps [B, C, *shape]: the channels stay."""
    axes = f.axes(args[0])
    for ids in axes[2:]:
        f.freeze(ids, "channels used as cells")
    for x in out if isinstance(out, tuple) else (out,):
        f.carry(x, [*axes[:2], *[None] * (x.ndim - 2)])


# --- across an axis ---------------------------------------------------------------------------------------------------------


@rule("sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "prod", "var", "std", "logsumexp", "any", "all",
      "linalg_vector_norm", "norm", "median", "count_nonzero", "var_mean", "std_mean", "aminmax")  # fmt: skip
def _reduction(f: ChannelFollower, args: Any, kwargs: Any, out: Any) -> None:
    x = args[0]
    if len(args) > 1 and isinstance(args[1], Tensor):  # max(a, b)
        _pointwise(f, args, kwargs, out)
        return
    dims = kwargs.get("dim", kwargs.get("axis"))
    if dims is None:
        position = 2 if f.op in ("linalg_vector_norm", "norm") else 1
        dims = args[position] if len(args) > position and not isinstance(args[position], bool) else None
    if isinstance(dims, int):
        dims = [dims]
    reduced = set(range(x.ndim)) if not dims else {d % x.ndim for d in dims}
    axes = f.axes(x)
    for d in reduced:
        f.freeze(axes[d], "is reduced over channels")
    for result in (r for r in tree_leaves(out) if isinstance(r, Tensor)):
        kept = result.ndim == x.ndim
        f.carry(result, [None if d in reduced else a for d, a in enumerate(axes) if kept or d not in reduced])


@rule("_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "argsort", "topk", "flip", "roll", "logcumsumexp", "kthvalue",
      "_softmax_backward_data", "cummax", "cummin", "glu", "renorm")  # fmt: skip
def _along(f: ChannelFollower, args: Any, kwargs: Any, out: Any) -> None:
    """Operators that mix the positions of one axis (or of several: flip and roll)."""
    x = args[0]
    axes = list(f.axes(x))
    position = {"topk": 2, "kthvalue": 2, "roll": 2}.get(f.op, 1)
    dims = kwargs.get("dim", kwargs.get("dims", args[position] if len(args) > position else -1))
    for d in {v % x.ndim for v in ([dims] if isinstance(dims, int) else dims or range(x.ndim))}:
        f.freeze(axes[d], "mixes or orders channels")
        axes[d] = None
    for result in (r for r in tree_leaves(out) if isinstance(r, Tensor) and r.ndim == x.ndim):
        f.carry(result, list(axes))
