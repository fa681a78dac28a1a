# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints without pickle: tensors in safetensors, everything else in JSON, replaced in one step.

A folder holds `checkpoint.json` and the tensor file it names. The tensors are written under a new name first
and the JSON is exchanged last, so that whoever reads `checkpoint.json`, after a crash too, finds a pair that
belongs together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

NAME = "checkpoint.json"


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    *,
    settings: Mapping[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
    progress: Mapping[str, Any],
) -> None:
    """Save the weights, the optimizer's state, the state of torch's generators, `settings` and `progress`
    (with `step` in it).
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    record: dict[str, Any] = {"format": 1, "settings": dict(settings), "progress": dict(progress)}
    if optimizer is not None:
        state = optimizer.state_dict()
        tensors |= {
            f"optimizer.{i}.{key}": value
            for i, entry in state["state"].items()
            for key, value in entry.items()
        }
        record["param_groups"] = state["param_groups"]
    folder.mkdir(parents=True, exist_ok=True)
    record["tensors"] = f"step-{int(progress['step']):07d}.safetensors"
    part = folder / (record["tensors"] + ".part")
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, part)
    _replace(part, folder / record["tensors"])
    part = folder / (NAME + ".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    _replace(part, folder / NAME)
    for old in folder.glob("step-*.safetensors*"):
        if old.name != record["tensors"]:
            old.unlink()


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON record and the tensors of a checkpoint; raises `FileNotFoundError` or `ValueError`
    that name the file.
    """
    path = folder / NAME
    record = json.loads(path.read_text())
    if record.get("format") != 1:
        raise ValueError(f"{path}: expected a checkpoint of format 1, got {record.get('format')!r}")
    return record, load_file(folder / record["tensors"])


def load_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load the weights of a checkpoint into a model of the same shape."""
    model.load_state_dict(
        {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    )


def load_training(
    optimizer: torch.optim.Optimizer, record: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Put the optimizer and torch's generators back to where the checkpoint was taken."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": record["param_groups"]})
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])


def _replace(part: Path, final: Path) -> None:
    """Give a fully written file its final name, its bytes on the disk before that."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, final)
