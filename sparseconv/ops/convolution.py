# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The two operators of a convolution, gather_gemm and gather_outer, and the bias gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _native
from ._library import below_autograd, define, recording, records, unwatched


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
        if unwatched(features, weight, bias):
            return _gather_gemm(features, weight, bias, *rest)
        with below_autograd():
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
            reverse_pairs, reverse_offsets = torch.ops.sparseconv.reverse_pairs.default(
                pairs, tap_offsets, n_in
            )
            reverse_flip = flip
        if need_features:
            grad_features = torch.ops.sparseconv.gather_gemm.default(
                grad, weight, None, reverse_pairs, reverse_offsets, pairs, tap_offsets,
                n_in, groups, not transpose, reverse_flip, flip,
            )  # fmt: skip
        if need_weight:
            outer = torch.ops.sparseconv.gather_outer.default
            if transpose:  # y = x @ W^T: W's input side is the output's
                grad_weight = outer(
                    grad, features, reverse_pairs, reverse_offsets, pairs, tap_offsets, groups
                )
                grad_weight = grad_weight.flip(0) if reverse_flip else grad_weight
            else:
                grad_weight = outer(
                    features, grad, pairs, tap_offsets, reverse_pairs, reverse_offsets, groups
                )
                grad_weight = grad_weight.flip(0) if flip else grad_weight
        if need_bias:
            grad_bias = torch.ops.sparseconv.column_sum.default(grad)
        return grad_features, grad_weight, grad_bias, *([None] * 9)


def gather_gemm(features: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """The operator sparseconv::gather_gemm, with the dispatcher left out where nobody would notice."""
    if unwatched(features, weight, bias):
        if records(features, weight, bias):
            result: Tensor = _GatherGemm.apply(features, weight, bias, *rest)
            return result
        return _gather_gemm(features, weight, bias, *rest)
    through_dispatcher: Tensor = torch.ops.sparseconv.gather_gemm(features, weight, bias, *rest)
    return through_dispatcher


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


def _gather_outer_fake(
    features: Tensor, grad_out: Tensor, pairs: Tensor, tap_offsets: Tensor, *rest: Any
) -> Tensor:
    return features.new_empty(tap_offsets.shape[0] - 1, features.shape[1] // rest[-1], grad_out.shape[1])


class _GatherOuter(torch.autograd.Function):
    """W[t] = sum over pairs (i, o) of x[i] (x) g[o]: linear in both, so its derivatives are convolutions by the cotangent."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, grad_out: Tensor, *rest: Any) -> Tensor:
        *arrays, groups = rest
        ctx.save_for_backward(features, grad_out, *arrays)
        ctx.groups = groups
        with below_autograd():
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


def _column_sum(x: Tensor) -> Tensor:
    out = x.new_empty(x.shape[1])
    _native.column_sum(x.contiguous(), out)
    return out


class _ColumnSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        with below_autograd():
            return torch.ops.sparseconv.column_sum.default(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].expand(ctx.rows, -1)


define(
    "gather_gemm(Tensor features, Tensor weight, Tensor? bias, Tensor pairs, Tensor tap_offsets, Tensor? reverse_pairs, "
    "Tensor? reverse_offsets, SymInt n_out, int groups, bool transpose, bool flip, bool reverse_flip) -> Tensor",
    _gather_gemm,
    _gather_gemm_fake,
    recording("gather_gemm", _GatherGemm, 3),
)
define(
    "gather_outer(Tensor features, Tensor grad_out, Tensor pairs, Tensor tap_offsets, Tensor? reverse_pairs, "
    "Tensor? reverse_offsets, int groups) -> Tensor",
    _gather_outer,
    _gather_outer_fake,
    recording("gather_outer", _GatherOuter, 2),
)
define(
    "column_sum(Tensor x) -> Tensor",
    _column_sum,
    lambda x: x.new_empty(x.shape[1]),
    recording("column_sum", _ColumnSum, 1),
)
