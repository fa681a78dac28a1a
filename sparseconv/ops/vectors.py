# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Convolution over vector-sparse weights: three operators, linear in two arguments each, that are each other's derivatives.

A weight travels as values [V, 16], offsets int64 [K * blocks + 1] and channels int32 [V] (csrc/sparse/vectors_kernels.h).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _native_vectors
from ._library import below_autograd, define, recording, records, unwatched

BLOCK = _native_vectors.BLOCK


def _vector_conv(
    features: Tensor,
    values: Tensor,
    bias: Tensor | None,
    offsets: Tensor,
    channels: Tensor,
    pairs: Tensor,
    tap_offsets: Tensor,
    reverse_pairs: Tensor | None,
    reverse_offsets: Tensor | None,
    n_out: int,
    c_out: int,
    groups: int,
    reverse_flip: bool,
) -> Tensor:
    out = features.new_empty(n_out, c_out)
    bias = None if bias is None else bias.contiguous()
    _native_vectors.vectors_gather_gemm(
        features.contiguous(), offsets, channels, values.contiguous(), bias, pairs, tap_offsets, groups, out
    )
    return out


def _vector_conv_fake(features: Tensor, *rest: Any) -> Tensor:
    n_out, c_out = rest[8:10]
    return features.new_empty(n_out, c_out)


def _reversed(
    pairs: Tensor, tap_offsets: Tensor, reverse_pairs: Any, reverse_offsets: Any, n_in: Any, flip: bool
) -> tuple[Tensor, Tensor, bool]:
    if reverse_pairs is not None:
        return reverse_pairs, reverse_offsets, flip
    return (*torch.ops.sparseconv.reverse_pairs.default(pairs, tap_offsets, n_in), False)


class _VectorConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, values: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        *arrays, _, _, ctx.groups, ctx.flip = rest
        ctx.save_for_backward(features, values, *arrays)
        if unwatched(features, values, bias):
            return _vector_conv(features, values, bias, *rest)
        with below_autograd():
            return torch.ops.sparseconv.vector_conv.default(features, values, bias, *rest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, values, offsets, channels, pairs, tap_offsets, reverse_pairs, reverse_offsets = (
            ctx.saved_tensors
        )
        grad = grads[0]
        n_in, c_in = features.shape
        grad_features = grad_values = grad_bias = None
        if ctx.needs_input_grad[0]:
            *reverse, flip = _reversed(pairs, tap_offsets, reverse_pairs, reverse_offsets, n_in, ctx.flip)
            grad_features = torch.ops.sparseconv.vector_back.default(
                grad, values, offsets, channels, *reverse, pairs, tap_offsets, n_in, c_in, ctx.groups, flip
            )
        if ctx.needs_input_grad[1]:
            grad_values = torch.ops.sparseconv.vector_outer.default(
                features, grad, offsets, channels, pairs, tap_offsets, reverse_pairs, reverse_offsets,
                ctx.groups, ctx.flip,
            )  # fmt: skip
        if ctx.needs_input_grad[2]:
            grad_bias = torch.ops.sparseconv.column_sum.default(grad)
        return grad_features, grad_values, grad_bias, *([None] * 10)


def vector_conv(features: Tensor, values: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """The operator sparseconv::vector_conv, with the dispatcher left out where nobody would notice."""
    if unwatched(features, values, bias):
        if records(features, values, bias):
            result: Tensor = _VectorConv.apply(features, values, bias, *rest)
            return result
        return _vector_conv(features, values, bias, *rest)
    through_dispatcher: Tensor = torch.ops.sparseconv.vector_conv(features, values, bias, *rest)
    return through_dispatcher


# --- the gradient of the input ---------------------------------------------------------------------------------------------


def _vector_back(
    grad: Tensor,
    values: Tensor,
    offsets: Tensor,
    channels: Tensor,
    reverse_pairs: Tensor,
    reverse_offsets: Tensor,
    pairs: Tensor,
    tap_offsets: Tensor,
    n_in: int,
    c_in: int,
    groups: int,
    reverse_flip: bool,
) -> Tensor:
    out = grad.new_empty(n_in, c_in)
    _native_vectors.vectors_gather_back(
        grad.contiguous(), offsets, channels, values.contiguous(), reverse_pairs, reverse_offsets, groups,
        reverse_flip, out,
    )  # fmt: skip
    return out


def _vector_back_fake(grad: Tensor, *rest: Any) -> Tensor:
    n_in, c_in = rest[7:9]
    return grad.new_empty(n_in, c_in)


class _VectorBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, values: Tensor, *rest: Any) -> Tensor:
        *arrays, _, _, ctx.groups, ctx.flip = rest
        ctx.save_for_backward(grad, values, *arrays)
        with below_autograd():
            return torch.ops.sparseconv.vector_back.default(grad, values, *rest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, values, offsets, channels, reverse_pairs, reverse_offsets, pairs, tap_offsets = (
            ctx.saved_tensors
        )
        features = grads[0]
        n_out, c_out = grad.shape
        map_and_reverse = (pairs, tap_offsets, reverse_pairs, reverse_offsets)
        grad_grad = grad_values = None
        if ctx.needs_input_grad[0]:
            grad_grad = torch.ops.sparseconv.vector_conv.default(
                features,
                values,
                None,
                offsets,
                channels,
                *map_and_reverse,
                n_out,
                c_out,
                ctx.groups,
                ctx.flip,
            )
        if ctx.needs_input_grad[1]:
            grad_values = torch.ops.sparseconv.vector_outer.default(
                features, grad, offsets, channels, *map_and_reverse, ctx.groups, ctx.flip
            )
        return grad_grad, grad_values, *([None] * 10)


# --- the gradient of the weight --------------------------------------------------------------------------------------------


def _vector_outer(
    features: Tensor,
    grad: Tensor,
    offsets: Tensor,
    channels: Tensor,
    pairs: Tensor,
    tap_offsets: Tensor,
    reverse_pairs: Tensor | None,
    reverse_offsets: Tensor | None,
    groups: int,
    reverse_flip: bool,
) -> Tensor:
    out = features.new_empty(channels.shape[0], BLOCK)
    _native_vectors.vectors_gather_outer(
        features.contiguous(), grad.contiguous(), offsets, channels, pairs, tap_offsets, groups, out
    )
    return out


def _vector_outer_fake(
    features: Tensor, grad: Tensor, offsets: Tensor, channels: Tensor, *rest: Any
) -> Tensor:
    return features.new_empty(channels.shape[0], BLOCK)


class _VectorOuter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, grad: Tensor, *rest: Any) -> Tensor:
        *arrays, ctx.groups, ctx.flip = rest
        ctx.save_for_backward(features, grad, *arrays)
        with below_autograd():
            return torch.ops.sparseconv.vector_outer.default(features, grad, *rest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, grad, offsets, channels, pairs, tap_offsets, reverse_pairs, reverse_offsets = (
            ctx.saved_tensors
        )
        values = grads[0]
        (n_in, c_in), (n_out, c_out) = features.shape, grad.shape
        *reverse, flip = _reversed(pairs, tap_offsets, reverse_pairs, reverse_offsets, n_in, ctx.flip)
        grad_features = grad_grad = None
        if ctx.needs_input_grad[0]:
            grad_features = torch.ops.sparseconv.vector_back.default(
                grad, values, offsets, channels, *reverse, pairs, tap_offsets, n_in, c_in, ctx.groups, flip
            )
        if ctx.needs_input_grad[1]:
            grad_grad = torch.ops.sparseconv.vector_conv.default(
                features, values, None, offsets, channels, pairs, tap_offsets, *reverse, n_out, c_out,
                ctx.groups, flip,
            )  # fmt: skip
        return grad_features, grad_grad, *([None] * 8)


define(
    "vector_conv(Tensor features, Tensor values, Tensor? bias, Tensor offsets, Tensor channels, Tensor pairs, "
    "Tensor tap_offsets, Tensor? reverse_pairs, Tensor? reverse_offsets, SymInt n_out, SymInt c_out, int groups, "
    "bool reverse_flip) -> Tensor",
    _vector_conv,
    _vector_conv_fake,
    recording("vector_conv", _VectorConv, 3),
)
define(
    "vector_back(Tensor grad, Tensor values, Tensor offsets, Tensor channels, Tensor reverse_pairs, "
    "Tensor reverse_offsets, Tensor pairs, Tensor tap_offsets, SymInt n_in, SymInt c_in, int groups, bool reverse_flip) "
    "-> Tensor",
    _vector_back,
    _vector_back_fake,
    recording("vector_back", _VectorBack, 2),
)
define(
    "vector_outer(Tensor features, Tensor grad, Tensor offsets, Tensor channels, Tensor pairs, Tensor tap_offsets, "
    "Tensor? reverse_pairs, Tensor? reverse_offsets, int groups, bool reverse_flip) -> Tensor",
    _vector_outer,
    _vector_outer_fake,
    recording("vector_outer", _VectorOuter, 2),
)
