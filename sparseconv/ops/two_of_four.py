# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Convolution with a 2:4 weight on a GPU's sparse tensor cores; the gradient of the input runs over the dense weight.

The weight travels twice: as `formats.mma_sp_operands` gives it, and dense, [K, C_in, C_out]. It has no gradient. Where sparse
tensor cores do not run, the dense kernels compute.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _native
from ._library import below_autograd, define, recording

TYPES = (torch.float16, torch.bfloat16)


def runs_on(features: Tensor) -> bool:
    """Whether sparse tensor cores take these."""
    return _native.on_gpu(features) and features.dtype in TYPES


def _two_of_four_conv(
    features: Tensor,
    bias: Tensor | None,
    values: Tensor,
    metadata: Tensor,
    weight: Tensor,
    pairs: Tensor,
    tap_offsets: Tensor,
    reverse_pairs: Tensor | None,
    reverse_offsets: Tensor | None,
    n_out: int,
    reverse_flip: bool,
) -> Tensor:
    out = features.new_empty(n_out, weight.shape[2])
    bias = None if bias is None else bias.contiguous()
    features = features.contiguous()
    if runs_on(features):
        _native.gather_gemm_2to4(features, values, metadata, bias, pairs, tap_offsets, out)
    else:
        _native.gather_gemm(features, weight, bias, pairs, tap_offsets, 1, False, False, out)
    return out


def _two_of_four_conv_fake(features: Tensor, *rest: Any) -> Tensor:
    return features.new_empty(rest[8], rest[3].shape[2])


class _TwoOfFourConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        ctx.save_for_backward(*rest[2:7])
        ctx.n_in, ctx.flip = features.shape[0], rest[8]
        with below_autograd():
            out: Tensor = torch.ops.sparseconv.two_of_four_conv.default(features, bias, *rest)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, pairs, tap_offsets, reverse_pairs, reverse_offsets = ctx.saved_tensors
        grad_features = grad_bias = None
        if ctx.needs_input_grad[0]:
            flip = ctx.flip
            if reverse_pairs is None:
                reverse = torch.ops.sparseconv.reverse_pairs.default
                (reverse_pairs, reverse_offsets), flip = reverse(pairs, tap_offsets, ctx.n_in), False
            grad_features = torch.ops.sparseconv.gather_gemm.default(
                grads[0], weight, None, reverse_pairs, reverse_offsets, pairs, tap_offsets,
                ctx.n_in, 1, True, flip, False,
            )  # fmt: skip
        if ctx.needs_input_grad[1]:
            grad_bias = torch.ops.sparseconv.column_sum.default(grads[0])
        return grad_features, grad_bias, *([None] * 9)


define(
    "two_of_four_conv(Tensor features, Tensor? bias, Tensor values, Tensor metadata, Tensor weight, Tensor pairs, "
    "Tensor tap_offsets, Tensor? reverse_pairs, Tensor? reverse_offsets, SymInt n_out, bool reverse_flip) -> Tensor",
    _two_of_four_conv,
    _two_of_four_conv_fake,
    recording("two_of_four_conv", _TwoOfFourConv, 2),
)
