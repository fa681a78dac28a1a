# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Layers with packed weights in a network: put in the place of dense ones, and turned back."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

from .. import nn as snn
from .layer import Dense, PackedLayer

Model = TypeVar("Model", bound=nn.Module)


def refuses(module: nn.Module) -> str | None:
    """Why a convolution or linear layer cannot be swapped; None where it can."""
    if parametrize.is_parametrized(module):
        return "its parameters are parametrized"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return "it has hooks"
    if isinstance(module, snn.SparseConvolution):
        known = type(module).forward is snn.SparseConvolution.forward
        known = known and type(module).multiply is snn.SparseConvolution.multiply
    else:
        known = type(module) in (nn.Linear, snn.Linear)
    return None if known else "its class has a forward of its own"


def swap(
    model: Model, make: Callable[[str, Dense], nn.Module | None], ignore: Sequence[str] = ()
) -> tuple[Model, dict[str, str]]:
    """A copy of `model` with its convolutions and linear layers replaced by what `make(name, layer)` returns, None = none.

    Returns:
        The copy, and the layers that could not be replaced or were to be ignored, with the reason.

    Raises:
        ValueError, TypeError: patterns of `ignore` that name nothing.
    """
    if isinstance(ignore, str):
        raise TypeError(f"ignore must be a list of names or patterns, got the string {ignore!r}")
    model = copy.deepcopy(model)
    names = {name: module for name, module in model.named_modules() if isinstance(module, Dense)}
    everything = [name for name, _ in model.named_modules()]
    for pattern in ignore:
        if not fnmatch.filter(everything, pattern):
            raise ValueError(f"ignore: {pattern!r} names no module of the model")
    left: dict[str, str] = {}
    new: dict[nn.Module, nn.Module] = {}
    for name, module in names.items():
        ignored = any(fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(name, f"{p}.*") for p in ignore)
        reason = "ignored" if ignored else refuses(module)
        if reason is not None:
            left[name] = reason
            continue
        made = make(name, module)
        if made is not None:
            new[module] = made
    return _replaced(model, new), left


def _replaced(model: Model, new: Mapping[nn.Module, nn.Module]) -> Model:
    """`model` with other modules wherever those of `new` stand, in place."""
    if model in new:
        return new[model]  # type: ignore[return-value]
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is not None and child in new:
                parent._modules[key] = new[child]
    return model


def to_dense(model: Model) -> Model:
    """A copy of `model` whose layers with packed weights have become dense layers with the decoded weights."""
    model = copy.deepcopy(model)
    return _replaced(model, {m: m.to_dense() for m in model.modules() if isinstance(m, PackedLayer)})
