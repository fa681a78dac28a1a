# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Max pooling over a kernel map, and sums and maxima over lists of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _native, mapping
from ._library import below_autograd, define, recording


def _max_pool(features: Tensor, pairs: Tensor, tap_offsets: Tensor, n_out: int) -> tuple[Tensor, Tensor]:
    out = features.new_empty(n_out, features.shape[1])
    argmax = torch.empty(n_out, features.shape[1], dtype=torch.int32, device=features.device)
    _native.max_pool(features.contiguous(), pairs, tap_offsets, out, argmax)
    return out, argmax


def _max_pool_fake(features: Tensor, pairs: Tensor, tap_offsets: Tensor, n_out: int) -> tuple[Tensor, Tensor]:
    out = features.new_empty(n_out, features.shape[1])
    return out, torch.empty_like(out, dtype=torch.int32)


def _max_pool_grad(
    grad_out: Tensor, argmax: Tensor, reverse_pairs: Tensor, reverse_offsets: Tensor, n_in: int
) -> Tensor:
    grad_in = grad_out.new_empty(n_in, grad_out.shape[1])
    _native.max_pool_grad(grad_out.contiguous(), argmax, reverse_pairs, reverse_offsets, grad_in)
    return grad_in


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, pairs: Tensor, tap_offsets: Tensor, n_out: int
    ) -> tuple[Tensor, Tensor]:
        with below_autograd():
            out, argmax = torch.ops.sparseconv.max_pool.default(features, pairs, tap_offsets, n_out)
        ctx.mark_non_differentiable(argmax)
        ctx.save_for_backward(pairs, tap_offsets, argmax)
        ctx.n_in = features.shape[0]
        return out, argmax

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pairs, tap_offsets, argmax = ctx.saved_tensors
        reverse_pairs, reverse_offsets = torch.ops.sparseconv.reverse_pairs.default(
            pairs, tap_offsets, ctx.n_in
        )
        grad = torch.ops.sparseconv.max_pool_grad.default(
            grads[0], argmax, reverse_pairs, reverse_offsets, ctx.n_in
        )
        return grad, None, None, None


define(
    "max_pool(Tensor features, Tensor pairs, Tensor tap_offsets, SymInt n_out) -> (Tensor, Tensor)",
    _max_pool,
    _max_pool_fake,
    recording("max_pool", _MaxPool, 1),
)
define(
    "max_pool_grad(Tensor grad_out, Tensor argmax, Tensor reverse_pairs, Tensor reverse_offsets, SymInt n_in) -> Tensor",
    _max_pool_grad,
    lambda grad_out, argmax, reverse_pairs, reverse_offsets, n_in: grad_out.new_empty(
        n_in, grad_out.shape[1]
    ),
)


def _group_rows_fake(index: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(index), index.new_empty(groups + 1)


define(
    "group_rows(Tensor index, SymInt groups) -> (Tensor, Tensor)",
    lambda i, n: mapping.group_rows(i, n),
    _group_rows_fake,
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
        with below_autograd():
            return torch.ops.sparseconv.gather_sum.default(x, offsets, cols, weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        offsets, cols, weights = ctx.saved_tensors
        order, col_offsets = torch.ops.sparseconv.group_rows.default(cols, ctx.rows)
        row_of_entry = torch.repeat_interleave(offsets.diff(), output_size=cols.shape[0])
        weights = None if weights is None else weights[order]
        return (
            torch.ops.sparseconv.gather_sum.default(grads[0], col_offsets, row_of_entry[order], weights),
            None,
            None,
            None,
        )


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
        with below_autograd():
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


define(
    "gather_sum(Tensor x, Tensor offsets, Tensor cols, Tensor? weights) -> Tensor",
    _gather_sum,
    _gather_sum_fake,
    recording("gather_sum", _GatherSum, 1),
)
define(
    "gather_max(Tensor x, Tensor offsets, Tensor cols) -> (Tensor, Tensor)",
    _gather_max,
    _gather_max_fake,
    recording("gather_max", _GatherMax, 1),
)
