# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Whole state dicts to and from another engine, for a model of the same structure and module names."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import nn as snn
from ..nn.sparse_convolution import SparseConvolution
from .layouts import LAYOUTS, tap_index, weight_from, weight_to
from .modules import full_weight

# Where a layer of another engine keeps its tensors, if not under our names: MinkowskiEngine wraps torch's layers.
_WRAPPED: tuple[tuple[type[nn.Module], str], ...] = (
    (snn.BatchNorm, "bn"),
    (snn.Linear, "linear"),
    (snn.PReLU, "module"),
)
# Layers whose tensors [C] MinkowskiEngine keeps as [1, C], where they keep any.
_ROWS: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (SparseConvolution, ("bias",)),
    (snn.InstanceNorm, ("weight", "bias")),
)


def state_dict_from(layout: str, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return a state dict of another engine as one that `model.load_state_dict` takes.

    Args: layout, one of `LAYOUTS`; state, the other engine's state dict; model, ours, whose modules have the names of
    the other's. Weights of pruned taps are left out. Keys that belong to no convolution or norm of the model pass
    unchanged, so that `load_state_dict` reports them. Raises ValueError that names the key whose shape does not fit.
    """
    out = dict(state)
    for theirs, ours in _renamed(layout, model):
        if theirs in out:
            out[ours] = out.pop(theirs)
    for prefix, layer in _convolutions(model):
        key = f"{prefix}weight"
        if key in out:
            try:
                full = weight_from(layout, out[key], layer.kernel_size, **_settings(layer))
            except ValueError as error:
                raise ValueError(f"state_dict_from: {key}: {error}") from None
            rows = tap_index(layer.taps, layer.kernel_size).to(full.device)
            out[key] = full if len(rows) == len(full) and _ordered(rows) else full[rows]
    for key in _rows(model) if layout == "minkowski" else ():
        if key in out:
            out[key] = out[key].reshape(-1)
    return out


def state_dict_to(layout: str, model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state dict in another engine's layout and names; pruned taps come out as zeros.

    Raises ValueError where the layout cannot express a layer (groups).
    """
    out: dict[str, Tensor] = {key: value.detach() for key, value in model.state_dict().items()}
    for prefix, layer in _convolutions(model):
        try:
            weight = weight_to(layout, full_weight(layer), layer.kernel_size, **_settings(layer))
        except ValueError as error:
            raise ValueError(f"state_dict_to: {prefix}weight: {error}") from None
        out[f"{prefix}weight"] = weight
    for key in _rows(model) if layout == "minkowski" else ():
        if key in out:
            out[key] = out[key].reshape(1, -1)
    names = {ours: theirs for theirs, ours in _renamed(layout, model)}
    return {names.get(key, key): value for key, value in out.items()}


def _convolutions(model: nn.Module) -> Iterator[tuple[str, SparseConvolution]]:
    for name, layer in model.named_modules():
        if isinstance(layer, SparseConvolution):
            yield (f"{name}." if name else ""), layer


def _settings(layer: SparseConvolution) -> dict[str, Any]:
    # spconv's inverse layers have no stride of their own: a 1x1 one always reads its buffer flat.
    stride = 1 if layer.needs_target else layer.stride
    return {
        "stride": stride,
        "submanifold": layer.submanifold,
        "transposed": layer.transposed,
        "groups": layer.groups,
    }


def _rows(model: nn.Module) -> list[str]:
    """Keys of tensors [C] that MinkowskiEngine keeps as [1, C]."""
    return [
        f"{name}.{key}" if name else key
        for name, layer in model.named_modules()
        for kind, keys in _ROWS
        if isinstance(layer, kind)
        for key in keys
    ]


def _renamed(layout: str, model: nn.Module) -> list[tuple[str, str]]:
    """Pairs of (their key, our key) where the two differ."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    pairs = []
    for name, layer in model.named_modules():
        prefix = f"{name}." if name else ""
        if layout.startswith(("torchsparse", "minkowski")) and isinstance(layer, SparseConvolution):
            pairs.append((f"{prefix}kernel", f"{prefix}weight"))
        if layout == "minkowski":
            for kind, inner in _WRAPPED:
                if isinstance(layer, kind):
                    own = [
                        *dict(layer.named_parameters(recurse=False)),
                        *dict(layer.named_buffers(recurse=False)),
                    ]
                    pairs += [(f"{prefix}{inner}.{key}", f"{prefix}{key}") for key in own]
    return pairs


def _ordered(rows: Tensor) -> bool:
    return bool(torch.equal(rows, torch.arange(len(rows), device=rows.device)))
