# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Pruned networks in one safetensors file: the weights, and the plan in its header. No pickle, no classes."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .files import replacing
from .plan import Plan

Model = TypeVar("Model", bound=nn.Module)
KEY = "sparseconv.pruning.plan"


def save(path: Path | str, model: nn.Module, plan: Plan) -> None:
    """Writes the state dict of a pruned network and its plan; an existing file is replaced in one step."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with replacing(path) as part:
        save_file(state, part, metadata={KEY: plan.to_json(), "format": "pt"})


def load(path: Path | str, model: Model) -> tuple[Model, Plan]:
    """The pruned network of a file, made from a fresh network of the original shape, which is not changed; and its plan.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is none of `save`'s, is damaged, or belongs to another network.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from error
    if KEY not in metadata:
        raise ValueError(
            f"{path}: expected a file with a pruning plan, got one with {sorted(metadata) or 'no metadata'}"
        )
    try:
        plan = Plan.from_json(metadata[KEY])
        smaller = plan.apply(model, values=False)
        smaller.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: does not fit this network: {error}") from error
    return smaller, plan


def size_in_bytes(model: nn.Module) -> int:
    """Bytes of a network's parameters and buffers that a file would hold."""
    return sum(
        v.numel() * v.element_size() for v in model.state_dict().values() if isinstance(v, torch.Tensor)
    )
