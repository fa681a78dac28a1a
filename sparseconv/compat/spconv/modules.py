# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: A001, A002, D102

"""spconv's containers, and torch's norms and activations that take its tensor."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from .core import SparseConvTensor


class SparseModule(nn.Module):
    """The base of modules that take and return a SparseConvTensor inside a SparseSequential."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.name = name
        self._sparse_unique_name = ""


def is_spconv_module(module: Any) -> bool:
    """Whether a SparseSequential hands the tensor itself to `module`, and not its features."""
    return isinstance(module, SparseModule | SparseBatchNorm | SparseReLU)


def is_sparse_conv(module: Any) -> bool:
    """Whether `module` is a convolution."""
    from .convolution import SparseConvolution

    return isinstance(module, SparseConvolution)


def assign_name_for_sparse_modules(module: nn.Module) -> None:
    """Tells every SparseModule its name in `module`."""
    for name, child in module.named_modules():
        if isinstance(child, SparseModule):
            child._sparse_unique_name = name


class SparseSequential(SparseModule):
    """Modules one after the other, from arguments, an OrderedDict or keywords. Plain ones act on the features."""

    def __init__(self, *args: Any, **kwargs: nn.Module) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for place, module in enumerate(args):
                self.add_module(str(place), module)
        for name, module in kwargs.items():
            if name in self._modules:
                raise ValueError(f"SparseSequential: there is a module named {name!r} already")
            self.add_module(name, module)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"SparseSequential: index {index} is out of range for {len(self)} modules")
        return list(self._modules.values())[index]

    def __len__(self) -> int:
        return len(self._modules)

    def add(self, module: nn.Module, name: str | None = None) -> None:
        """Appends a module."""
        name = str(len(self._modules)) if name is None else name
        if name in self._modules:
            raise KeyError(f"SparseSequential: there is a module named {name!r} already")
        self.add_module(name, module)

    def forward(self, input: Any) -> Any:
        """Runs the modules; a plain one does not see a tensor without rows."""
        for module in self._modules.values():
            if module is None:
                continue
            if isinstance(input, SparseConvTensor) and not is_spconv_module(module):
                if input.indices.shape[0]:
                    input = input.replace_feature(module(input.features))
            else:
                input = module(input)
        return input


class _OnFeatures:
    """Mixed into a module of torch: a SparseConvTensor's features are what it takes."""

    def forward(self, input: Any) -> Any:
        if isinstance(input, SparseConvTensor):
            return input.replace_feature(super().forward(input.features))  # type: ignore[misc]
        return super().forward(input)  # type: ignore[misc]


class SparseBatchNorm(_OnFeatures, nn.BatchNorm1d):
    """BatchNorm1d over the rows."""


class SparseSyncBatchNorm(_OnFeatures, nn.SyncBatchNorm):
    """SyncBatchNorm over the rows of all processes."""


class SparseReLU(_OnFeatures, nn.ReLU):
    """ReLU."""


class SparseIdentity(_OnFeatures, nn.Identity):
    """The features as they are."""


class Identity(nn.Module):
    """The input as it is."""

    def forward(self, input: Any) -> Any:
        return input

    def input_spatial_size(self, out_size: Any) -> Any:
        """The same."""
        return out_size


class ToDense(SparseModule):
    """To [B, C, *spatial]."""

    def forward(self, x: SparseConvTensor) -> Any:
        return x.dense()


class RemoveGrid(SparseModule):
    """Lets go of the grid that was set aside."""

    def forward(self, x: SparseConvTensor) -> SparseConvTensor:
        x.grid = None  # type: ignore[assignment]
        return x
