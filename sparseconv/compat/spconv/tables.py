# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: A002, D102

"""Modules over several tensors: channels side by side, sums, and one module after another on the same input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .constants import SpconvError
from .core import SparseConvTensor
from .functional import same_grid, same_rows, sparse_add_hash_based
from .modules import SparseModule


def _joined(
    name: str, inputs: Sequence[SparseConvTensor], join: Callable[[list[Tensor]], Tensor]
) -> SparseConvTensor:
    same_grid(name, inputs)
    first = inputs[0]
    for other in inputs[1:]:
        if not same_rows(first, other):
            raise SpconvError(
                f"{name}: the tensors must have the same indices; AddTableMisaligned adds others"
            )
    return first.replace_feature(join([x.features for x in inputs]))


class _Table(SparseModule):
    def input_spatial_size(self, out_size: Any) -> Any:
        """The same."""
        return out_size


class JoinTable(_Table):
    """Channels of tensors on the same rows side by side."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        return _joined("JoinTable", input, lambda parts: torch.cat(parts, 1))


class AddTable(_Table):
    """The sum of tensors on the same rows."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        return _joined("AddTable", input, lambda parts: sum(parts[1:], parts[0]))


class AddTableMisaligned(_Table):
    """The sum of tensors of one shape on different rows."""

    def forward(self, input: Sequence[SparseConvTensor]) -> SparseConvTensor:
        return sparse_add_hash_based(*input)


class ConcatTable(SparseModule):
    """A list of what each module makes of the input."""

    def forward(self, input: Any) -> list[Any]:
        return [module(input) for module in self._modules.values() if module is not None]

    def input_spatial_size(self, out_size: Any) -> Any:
        """That of the first module."""
        first: Any = next(iter(self._modules.values()))
        return first.input_spatial_size(out_size)

    def add(self, module: nn.Module) -> ConcatTable:
        """Appends a module."""
        self.add_module(str(len(self._modules)), module)
        return self
