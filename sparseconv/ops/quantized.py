# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Convolution and linear layers over weights of codes. Packed weights have no gradient; inputs and biases have theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _native_quantized
from ._library import below_autograd, define, recording, records, unwatched
from .codes import decode


def _quantized_conv(
    features: Tensor,
    codes: Tensor,
    table: Tensor | None,
    scales: Tensor | None,
    bias: Tensor | None,
    pairs: Tensor,
    tap_offsets: Tensor,
    reverse_pairs: Tensor | None,
    reverse_offsets: Tensor | None,
    n_out: int,
    c_out: int,
    groups: int,
    bits: int,
    run: int,
    reverse_flip: bool,
) -> Tensor:
    out = features.new_empty(n_out, c_out)
    bias = None if bias is None else bias.contiguous()
    _native_quantized.quantized_gather_gemm(
        features.contiguous(), bits, codes, table, scales, run, bias, pairs, tap_offsets, groups, out
    )
    return out


def _quantized_conv_fake(features: Tensor, *rest: Any) -> Tensor:
    n_out, c_out = rest[8:10]
    return features.new_empty(n_out, c_out)


class _QuantizedConv(torch.autograd.Function):
    """The gradient of the input is that of gather_gemm with the decoded weight, which lives as long as the call."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, codes: Tensor, table: Any, scales: Any, bias: Any, *rest: Any
    ) -> Tensor:
        pairs, tap_offsets, reverse_pairs, reverse_offsets, *options = rest
        ctx.save_for_backward(codes, table, scales, pairs, tap_offsets, reverse_pairs, reverse_offsets)
        ctx.options, ctx.n_in, ctx.c_in = options, features.shape[0], features.shape[1]
        with below_autograd():
            return torch.ops.sparseconv.quantized_conv.default(features, codes, table, scales, bias, *rest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        codes, table, scales, pairs, tap_offsets, reverse_pairs, reverse_offsets = ctx.saved_tensors
        _, c_out, groups, bits, run, reverse_flip = ctx.options
        grad = grads[0]
        grad_features = grad_bias = None
        if ctx.needs_input_grad[0]:
            if reverse_pairs is None:
                reverse_pairs, reverse_offsets = torch.ops.sparseconv.reverse_pairs.default(
                    pairs, tap_offsets, ctx.n_in
                )
                reverse_flip = False
            shape = (tap_offsets.shape[0] - 1, ctx.c_in // groups, c_out)
            weight = decode(codes, bits, table, scales, run, shape).to(grad.dtype)
            grad_features = torch.ops.sparseconv.gather_gemm.default(
                grad, weight, None, reverse_pairs, reverse_offsets, pairs, tap_offsets,
                ctx.n_in, groups, True, reverse_flip, False,
            )  # fmt: skip
        if ctx.needs_input_grad[4]:
            grad_bias = torch.ops.sparseconv.column_sum.default(grad)
        return grad_features, None, None, None, grad_bias, *([None] * 10)


def quantized_conv(features: Tensor, codes: Tensor, table: Any, scales: Any, bias: Any, *rest: Any) -> Tensor:
    """The operator sparseconv::quantized_conv, with the dispatcher left out where nobody would notice."""
    if unwatched(features, codes, bias):
        if records(features, bias):
            result: Tensor = _QuantizedConv.apply(features, codes, table, scales, bias, *rest)
            return result
        return _quantized_conv(features, codes, table, scales, bias, *rest)
    through_dispatcher: Tensor = torch.ops.sparseconv.quantized_conv(
        features, codes, table, scales, bias, *rest
    )
    return through_dispatcher


def _quantized_linear(
    x: Tensor,
    codes: Tensor,
    table: Tensor | None,
    scales: Tensor | None,
    bias: Tensor | None,
    c_out: int,
    bits: int,
    run: int,
) -> Tensor:
    out = x.new_empty(x.shape[0], c_out)
    bias = None if bias is None else bias.contiguous()
    _native_quantized.quantized_linear(x.contiguous(), bits, codes, table, scales, run, bias, out)
    return out


def _quantized_linear_fake(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape[0], rest[4])


class _QuantizedLinear(torch.autograd.Function):
    """The gradient of the input is a convolution of one tap, row to row, by the decoded weight transposed."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, codes: Tensor, table: Any, scales: Any, bias: Any, *options: Any
    ) -> Tensor:
        ctx.save_for_backward(codes, table, scales)
        ctx.options, ctx.shape = options, x.shape
        with below_autograd():
            return torch.ops.sparseconv.quantized_linear.default(x, codes, table, scales, bias, *options)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        codes, table, scales = ctx.saved_tensors
        c_out, bits, run = ctx.options
        grad = grads[0]
        n, c_in = ctx.shape
        grad_x = grad_bias = None
        if ctx.needs_input_grad[0]:
            weight = decode(codes, bits, table, scales, run, (1, c_in, c_out)).to(grad.dtype)
            rows = torch.arange(n, dtype=torch.int32, device=grad.device)
            pairs, offsets = torch.stack([rows, rows], 1), torch.tensor([0, n], device=grad.device)
            grad_x = torch.ops.sparseconv.gather_gemm.default(
                grad, weight, None, pairs, offsets, pairs, offsets, n, 1, True, False, False
            )
        if ctx.needs_input_grad[4]:
            grad_bias = torch.ops.sparseconv.column_sum.default(grad)
        return grad_x, None, None, None, grad_bias, None, None, None


def quantized_linear(x: Tensor, codes: Tensor, table: Any, scales: Any, bias: Any, *options: Any) -> Tensor:
    """The operator sparseconv::quantized_linear, with the dispatcher left out where nobody would notice."""
    if unwatched(x, codes, bias):
        if records(x, bias):
            result: Tensor = _QuantizedLinear.apply(x, codes, table, scales, bias, *options)
            return result
        return _quantized_linear(x, codes, table, scales, bias, *options)
    through_dispatcher: Tensor = torch.ops.sparseconv.quantized_linear(
        x, codes, table, scales, bias, *options
    )
    return through_dispatcher


define(
    "quantized_conv(Tensor features, Tensor codes, Tensor? table, Tensor? scales, Tensor? bias, Tensor pairs, "
    "Tensor tap_offsets, Tensor? reverse_pairs, Tensor? reverse_offsets, SymInt n_out, int c_out, int groups, int bits, "
    "int run, bool reverse_flip) -> Tensor",
    _quantized_conv,
    _quantized_conv_fake,
    recording("quantized_conv", _QuantizedConv, 5),
)
define(
    "quantized_linear(Tensor x, Tensor codes, Tensor? table, Tensor? scales, Tensor? bias, int c_out, int bits, int run) "
    "-> Tensor",
    _quantized_linear,
    _quantized_linear_fake,
    recording("quantized_linear", _QuantizedLinear, 5),
)
