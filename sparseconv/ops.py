# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The operators as torch knows them: schema, CPU kernel, fake kernel and derivative of each.

They are defined with `Library.define` and an own Autograd-key kernel, the registration with the least host time per call.
Derivatives call the operators again, so they can be differentiated too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _native, mapping

_library = torch.library.Library("sparseconv", "DEF")
_below_autograd = torch._C._AutoDispatchBelowAutograd


def _define(schema: str, kernel: Any, fake: Any, autograd: Any = None) -> None:
    name = schema.split("(")[0]
    _library.define(schema)
    _library.impl(name, kernel, "CPU")
    torch.library.register_fake(f"sparseconv::{name}", fake, lib=_library)
    if autograd is not None:
        _library.impl(name, autograd, "Autograd")


def _axes(flat: list[int]) -> list[list[int]]:
    """Relations travel flat: 4 numbers (kernel, stride, padding, dilation) per axis."""
    return [flat[i : i + 4] for i in range(0, len(flat), 4)]


# --- maps ---------------------------------------------------------------------------------------------------------------------


def _output_coords(coords: Tensor, relations: list[int], to_fine: bool, shape: list[int] | None) -> Tensor:
    return mapping.output_coords(coords, _axes(relations), to_fine, shape)


def _output_coords_fake(coords: Tensor, relations: list[int], to_fine: bool, shape: list[int] | None) -> Tensor:
    return coords.new_empty(torch.library.get_ctx().new_dynamic_size(), coords.shape[1])


def _find_pairs(fine: Tensor, coarse: Tensor, taps: Tensor, relations: list[int], method: str) -> tuple[Tensor, Tensor]:
    return mapping.find_pairs(fine, coarse, taps, _axes(relations), method)


def _find_pairs_fake(fine: Tensor, coarse: Tensor, taps: Tensor, relations: list[int], method: str) -> tuple[Tensor, Tensor]:
    pairs = fine.new_empty(torch.library.get_ctx().new_dynamic_size(), 2)
    return pairs, fine.new_empty(taps.shape[0] + 1, dtype=torch.int64)


def _reverse_pairs_fake(pairs: Tensor, tap_offsets: Tensor, n_in: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(pairs), torch.empty_like(tap_offsets)


_define(
    "output_coords(Tensor coords, int[] relations, bool to_fine, int[]? shape) -> Tensor", _output_coords, _output_coords_fake
)
_define(
    "find_pairs(Tensor fine, Tensor coarse, Tensor taps, int[] relations, str method) -> (Tensor, Tensor)",
    _find_pairs,
    _find_pairs_fake,
)
_define(
    "reverse_pairs(Tensor pairs, Tensor tap_offsets, SymInt n_in) -> (Tensor, Tensor)",
    mapping.reverse_pairs,
    _reverse_pairs_fake,
)


def _find_rows_fake(coords: Tensor, queries: Tensor) -> Tensor:
    return queries.new_empty(queries.shape[0], dtype=torch.int64)


def _unique_coords_fake(coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.library.get_ctx().new_dynamic_size()
    order = coords.new_empty(coords.shape[0], dtype=torch.int64)
    return coords.new_empty(rows, coords.shape[1]), order, coords.new_empty(rows + 1, dtype=torch.int64)


def _voxel_runs_fake(points: Tensor, batch: Tensor | None, origin: list[float], size: list[float]) -> tuple[Tensor, ...]:
    voxels = torch.library.get_ctx().new_dynamic_size()
    rows = points.new_empty(points.shape[0], dtype=torch.int64)
    coords = points.new_empty(voxels, points.shape[1] + 1, dtype=torch.int32)
    return coords, rows, torch.empty_like(rows), points.new_empty(voxels + 1, dtype=torch.int64)


_define("find_rows(Tensor coords, Tensor queries) -> Tensor", mapping.find_rows, _find_rows_fake)
_define("unique_coords(Tensor coords) -> (Tensor, Tensor, Tensor)", mapping.unique_coords, _unique_coords_fake)
_define(
    "voxel_runs(Tensor points, Tensor? batch, float[] origin, float[] size) -> (Tensor, Tensor, Tensor, Tensor)",
    mapping.voxel_runs,
    _voxel_runs_fake,
)


# --- convolution --------------------------------------------------------------------------------------------------------------


def _gather_gemm(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pairs: Tensor,
    tap_offsets: Tensor,
    reverse_pairs: Tensor | None,
    reverse_offsets: Tensor | None,
    n_out: int,
    groups: int,
    transpose: bool,
    flip: bool,
    reverse_flip: bool,
) -> Tensor:
    out = features.new_empty(n_out, _channels_out(weight, groups, transpose))
    bias = None if bias is None else bias.contiguous()
    _native.gather_gemm(features.contiguous(), weight, bias, pairs, tap_offsets, groups, transpose, flip, out)
    return out


def _channels_out(weight: Tensor, groups: int, transpose: bool) -> int:
    return weight.shape[1] * groups if transpose else weight.shape[2]


def _gather_gemm_fake(features: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    n_out, groups, transpose = rest[5:8]
    return features.new_empty(n_out, _channels_out(weight, groups, transpose))


class _GatherGemm(torch.autograd.Function):
    """y[o] = bias + sum of x[i] @ W[t]: the input's gradient is the same over the reversed map with W transposed."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        pairs, tap_offsets, reverse_pairs, reverse_offsets, *options = rest
        ctx.save_for_backward(features, weight, pairs, tap_offsets, reverse_pairs, reverse_offsets)
        ctx.options = options
        with _below_autograd():
            return torch.ops.sparseconv.gather_gemm.default(features, weight, bias, *rest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, pairs, tap_offsets, reverse_pairs, reverse_offsets = ctx.saved_tensors
        _, groups, transpose, flip, reverse_flip = ctx.options
        need_features, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad = grads[0]
        n_in = features.shape[0]
        grad_features = grad_weight = grad_bias = None
        if reverse_pairs is None and (need_features or (need_weight and transpose)):
            reverse_pairs, reverse_offsets = torch.ops.sparseconv.reverse_pairs.default(pairs, tap_offsets, n_in)
            reverse_flip = flip
        if need_features:
            grad_features = torch.ops.sparseconv.gather_gemm.default(
                grad, weight, None, reverse_pairs, reverse_offsets, pairs, tap_offsets,
                n_in, groups, not transpose, reverse_flip, flip,
            )  # fmt: skip
        if need_weight:
            outer = torch.ops.sparseconv.gather_outer.default
            if transpose:  # y = x @ W^T: W's input side is the output's
                grad_weight = outer(grad, features, reverse_pairs, reverse_offsets, pairs, tap_offsets, groups)
                grad_weight = grad_weight.flip(0) if reverse_flip else grad_weight
            else:
                grad_weight = outer(features, grad, pairs, tap_offsets, reverse_pairs, reverse_offsets, groups)
                grad_weight = grad_weight.flip(0) if flip else grad_weight
        if need_bias:
            grad_bias = torch.ops.sparseconv.column_sum.default(grad)
        return grad_features, grad_weight, grad_bias, *([None] * 9)


def _gather_gemm_autograd(features: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    recorded = features.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    if recorded and torch.is_grad_enabled():
        result: Tensor = _GatherGemm.apply(features, weight, bias, *rest)
        return result
    with _below_autograd():
        return torch.ops.sparseconv.gather_gemm.default(features, weight, bias, *rest)


def _gather_outer(
    features: Tensor,
    grad_out: Tensor,
    pairs: Tensor,
    tap_offsets: Tensor,
    reverse_pairs: Tensor | None,
    reverse_offsets: Tensor | None,
    groups: int,
) -> Tensor:
    out = features.new_empty(tap_offsets.shape[0] - 1, features.shape[1] // groups, grad_out.shape[1])
    _native.gather_outer(features.contiguous(), grad_out.contiguous(), pairs, tap_offsets, groups, out)
    return out


def _gather_outer_fake(features: Tensor, grad_out: Tensor, pairs: Tensor, tap_offsets: Tensor, *rest: Any) -> Tensor:
    return features.new_empty(tap_offsets.shape[0] - 1, features.shape[1] // rest[-1], grad_out.shape[1])


class _GatherOuter(torch.autograd.Function):
    """W[t] = sum over pairs (i, o) of x[i] (x) g[o]: linear in both, so its derivatives are convolutions by the cotangent."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, grad_out: Tensor, *rest: Any) -> Tensor:
        *arrays, groups = rest
        ctx.save_for_backward(features, grad_out, *arrays)
        ctx.groups = groups
        with _below_autograd():
            return torch.ops.sparseconv.gather_outer.default(features, grad_out, *rest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, grad_out, pairs, tap_offsets, reverse_pairs, reverse_offsets = ctx.saved_tensors
        weight = grads[0]
        n_in, n_out = features.shape[0], grad_out.shape[0]
        # The reversed arrays at hand may be those of a mirrored map, whose taps run backwards: build plain ones.
        reverse_pairs, reverse_offsets = torch.ops.sparseconv.reverse_pairs.default(pairs, tap_offsets, n_in)
        gemm = torch.ops.sparseconv.gather_gemm.default
        grad_features = grad_grad_out = None
        if ctx.needs_input_grad[0]:
            grad_features = gemm(
                grad_out, weight, None, reverse_pairs, reverse_offsets, pairs, tap_offsets,
                n_in, ctx.groups, True, False, False,
            )  # fmt: skip
        if ctx.needs_input_grad[1]:
            grad_grad_out = gemm(
                features, weight, None, pairs, tap_offsets, reverse_pairs, reverse_offsets,
                n_out, ctx.groups, False, False, False,
            )  # fmt: skip
        return grad_features, grad_grad_out, *([None] * 5)


def _gather_outer_autograd(features: Tensor, grad_out: Tensor, *rest: Any) -> Tensor:
    if (features.requires_grad or grad_out.requires_grad) and torch.is_grad_enabled():
        result: Tensor = _GatherOuter.apply(features, grad_out, *rest)
        return result
    with _below_autograd():
        return torch.ops.sparseconv.gather_outer.default(features, grad_out, *rest)


def _column_sum(x: Tensor) -> Tensor:
    out = x.new_empty(x.shape[1])
    _native.column_sum(x.contiguous(), out)
    return out


class _ColumnSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        with _below_autograd():
            return torch.ops.sparseconv.column_sum.default(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].expand(ctx.rows, -1)


def _column_sum_autograd(x: Tensor) -> Tensor:
    if x.requires_grad and torch.is_grad_enabled():
        result: Tensor = _ColumnSum.apply(x)
        return result
    with _below_autograd():
        return torch.ops.sparseconv.column_sum.default(x)


_define(
    "gather_gemm(Tensor features, Tensor weight, Tensor? bias, Tensor pairs, Tensor tap_offsets, Tensor? reverse_pairs, "
    "Tensor? reverse_offsets, SymInt n_out, int groups, bool transpose, bool flip, bool reverse_flip) -> Tensor",
    _gather_gemm,
    _gather_gemm_fake,
    _gather_gemm_autograd,
)
_define(
    "gather_outer(Tensor features, Tensor grad_out, Tensor pairs, Tensor tap_offsets, Tensor? reverse_pairs, "
    "Tensor? reverse_offsets, int groups) -> Tensor",
    _gather_outer,
    _gather_outer_fake,
    _gather_outer_autograd,
)
_define("column_sum(Tensor x) -> Tensor", _column_sum, lambda x: x.new_empty(x.shape[1]), _column_sum_autograd)


# --- pooling and segments -----------------------------------------------------------------------------------------------------


def _max_pool(features: Tensor, pairs: Tensor, tap_offsets: Tensor, n_out: int) -> tuple[Tensor, Tensor]:
    out = features.new_empty(n_out, features.shape[1])
    argmax = torch.empty(n_out, features.shape[1], dtype=torch.int32, device=features.device)
    _native.max_pool(features.contiguous(), pairs, tap_offsets, out, argmax)
    return out, argmax


def _max_pool_fake(features: Tensor, pairs: Tensor, tap_offsets: Tensor, n_out: int) -> tuple[Tensor, Tensor]:
    out = features.new_empty(n_out, features.shape[1])
    return out, torch.empty_like(out, dtype=torch.int32)


def _max_pool_grad(grad_out: Tensor, argmax: Tensor, reverse_pairs: Tensor, reverse_offsets: Tensor, n_in: int) -> Tensor:
    grad_in = grad_out.new_empty(n_in, grad_out.shape[1])
    _native.max_pool_grad(grad_out.contiguous(), argmax, reverse_pairs, reverse_offsets, grad_in)
    return grad_in


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, pairs: Tensor, tap_offsets: Tensor, n_out: int) -> tuple[Tensor, Tensor]:
        with _below_autograd():
            out, argmax = torch.ops.sparseconv.max_pool.default(features, pairs, tap_offsets, n_out)
        ctx.mark_non_differentiable(argmax)
        ctx.save_for_backward(pairs, tap_offsets, argmax)
        ctx.n_in = features.shape[0]
        return out, argmax

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pairs, tap_offsets, argmax = ctx.saved_tensors
        reverse_pairs, reverse_offsets = torch.ops.sparseconv.reverse_pairs.default(pairs, tap_offsets, ctx.n_in)
        grad = torch.ops.sparseconv.max_pool_grad.default(grads[0], argmax, reverse_pairs, reverse_offsets, ctx.n_in)
        return grad, None, None, None


def _max_pool_autograd(features: Tensor, pairs: Tensor, tap_offsets: Tensor, n_out: int) -> tuple[Tensor, Tensor]:
    if features.requires_grad and torch.is_grad_enabled():
        result: tuple[Tensor, Tensor] = _MaxPool.apply(features, pairs, tap_offsets, n_out)
        return result
    with _below_autograd():
        both: tuple[Tensor, Tensor] = torch.ops.sparseconv.max_pool.default(features, pairs, tap_offsets, n_out)
        return both


_define(
    "max_pool(Tensor features, Tensor pairs, Tensor tap_offsets, SymInt n_out) -> (Tensor, Tensor)",
    _max_pool,
    _max_pool_fake,
    _max_pool_autograd,
)
_define(
    "max_pool_grad(Tensor grad_out, Tensor argmax, Tensor reverse_pairs, Tensor reverse_offsets, SymInt n_in) -> Tensor",
    _max_pool_grad,
    lambda grad_out, argmax, reverse_pairs, reverse_offsets, n_in: grad_out.new_empty(n_in, grad_out.shape[1]),
)


def _group_rows_fake(index: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(index), index.new_empty(groups + 1)


_define(
    "group_rows(Tensor index, SymInt groups) -> (Tensor, Tensor)", lambda i, n: mapping.group_rows(i, n), _group_rows_fake
)


def _gather_sum(x: Tensor, offsets: Tensor, cols: Tensor, weights: Tensor | None) -> Tensor:
    out = x.new_empty(offsets.shape[0] - 1, x.shape[1])
    _native.gather_sum(x.contiguous(), offsets, cols, weights, out)
    return out


def _gather_sum_fake(x: Tensor, offsets: Tensor, cols: Tensor, weights: Tensor | None) -> Tensor:
    return x.new_empty(offsets.shape[0] - 1, x.shape[1])


class _GatherSum(torch.autograd.Function):
    """out[r] = sum over the list of r of weights[j] * x[cols[j]]; the gradient sums over the transposed lists."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offsets: Tensor, cols: Tensor, weights: Tensor | None) -> Tensor:
        ctx.save_for_backward(offsets, cols, weights)
        ctx.rows = x.shape[0]
        with _below_autograd():
            return torch.ops.sparseconv.gather_sum.default(x, offsets, cols, weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        offsets, cols, weights = ctx.saved_tensors
        order, col_offsets = torch.ops.sparseconv.group_rows.default(cols, ctx.rows)
        row_of_entry = torch.repeat_interleave(offsets.diff(), output_size=cols.shape[0])
        weights = None if weights is None else weights[order]
        return torch.ops.sparseconv.gather_sum.default(grads[0], col_offsets, row_of_entry[order], weights), None, None, None


def _gather_sum_autograd(x: Tensor, offsets: Tensor, cols: Tensor, weights: Tensor | None) -> Tensor:
    if x.requires_grad and torch.is_grad_enabled():
        result: Tensor = _GatherSum.apply(x, offsets, cols, weights)
        return result
    with _below_autograd():
        return torch.ops.sparseconv.gather_sum.default(x, offsets, cols, weights)


def _gather_max(x: Tensor, offsets: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
    out = x.new_empty(offsets.shape[0] - 1, x.shape[1])
    arg = torch.empty(out.shape, dtype=torch.int64, device=x.device)
    _native.gather_max(x.contiguous(), offsets, cols, out, arg)
    return out, arg


def _gather_max_fake(x: Tensor, offsets: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
    out = x.new_empty(offsets.shape[0] - 1, x.shape[1])
    return out, torch.empty_like(out, dtype=torch.int64)


class _GatherMax(torch.autograd.Function):
    """out[r] = max over the list of r; a row of x must stand in one list only, so its gradient has one source."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offsets: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
        with _below_autograd():
            out, arg = torch.ops.sparseconv.gather_max.default(x, offsets, cols)
        ctx.mark_non_differentiable(arg)
        ctx.save_for_backward(arg)
        ctx.shape = x.shape
        return out, arg

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (arg,) = ctx.saved_tensors
        # An empty list (arg -1) adds zeros to row 0, which leaves its bits as they are.
        share = torch.where(arg >= 0, grads[0], torch.zeros_like(grads[0]))
        grad = share.new_zeros(ctx.shape)
        return grad.scatter_add(0, arg.clamp(min=0), share) if grad.numel() else grad, None, None


def _gather_max_autograd(x: Tensor, offsets: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
    if x.requires_grad and torch.is_grad_enabled():
        result: tuple[Tensor, Tensor] = _GatherMax.apply(x, offsets, cols)
        return result
    with _below_autograd():
        both: tuple[Tensor, Tensor] = torch.ops.sparseconv.gather_max.default(x, offsets, cols)
        return both


_define(
    "gather_sum(Tensor x, Tensor offsets, Tensor cols, Tensor? weights) -> Tensor",
    _gather_sum,
    _gather_sum_fake,
    _gather_sum_autograd,
)
_define("gather_max(Tensor x, Tensor offsets, Tensor cols) -> (Tensor, Tensor)", _gather_max, _gather_max_fake, _gather_max_autograd)
