# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Training of N:M networks from scratch: dense weights are kept, the forward pass sees their N:M masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .. import nn as snn
from ..formats import nm_mask
from .make_plan import check_names, matches


class _StraightThrough(torch.autograd.Function):
    """w * mask; the gradient goes to all of w, with `decay` times what the mask removed on top."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return torch.where(mask, weight, 0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, mask = ctx.saved_tensors
        return grads[0] + ctx.decay * torch.where(mask, 0, weight), None, None


class SRSTE(nn.Module):
    """A parametrization of one weight: the N:M mask by magnitude of the dense weight, made anew in every forward pass.

    The gradient of the dense weight is that of the masked one, straight through, plus `decay` * (1 - mask) * w, which pulls
    pruned weights to zero so that the mask settles.

    Source: Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch" (ICLR 2021), equation 9.
    """

    def __init__(self, n: int = 2, m: int = 4, decay: float = 2e-4, linear: bool = False) -> None:
        super().__init__()
        if not decay >= 0:
            raise ValueError(f"SRSTE: decay must be at least 0, got {decay!r}")
        self.n, self.m, self.decay, self.linear = n, m, decay, linear

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight; [K, C_in, C_out], or [C_out, C_in] of a linear layer."""
        if self.linear:
            mask = nm_mask(weight.t()[None], self.n, self.m)[0].t()
        else:
            mask = nm_mask(weight, self.n, self.m)
        masked: Tensor = _StraightThrough.apply(weight, mask, self.decay)  # type: ignore[no-untyped-call]
        return masked


@contextmanager
def sparse_training(
    model: nn.Module, n: int = 2, m: int = 4, *, decay: float = 2e-4, ignore: Sequence[str] = ()
) -> Iterator[list[str]]:
    """Within the block, convolutions and linear layers of `model` train with N:M masks (`SRSTE`); behind it their weights are
    N:M.

    Layers whose input channels per group are no multiple of m are left dense, like layers that hold a parametrization. Make the
    optimizer
    inside the block or before it: the dense weights are the parameters that the layers had.

    Args:
        model: is changed in place.
        n, m: the pattern.
        decay: the weight of the term on pruned weights; the paper's 2e-4.
        ignore: names or patterns of layers to leave.

    Yields:
        The names of the layers that train sparse.
    """
    check_names(model, ignore)
    held: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        linear = isinstance(module, nn.Linear)
        if not (linear or isinstance(module, snn.SparseConvolution)) or parametrize.is_parametrized(module):
            continue
        if module.weight.shape[1] % m or matches(
            name, ignore
        ):  # axis 1 holds the input channels of both kinds
            continue
        parametrize.register_parametrization(module, "weight", SRSTE(n, m, decay, linear))
        held[name] = module
    try:
        yield list(held)
    finally:
        for module in held.values():
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
