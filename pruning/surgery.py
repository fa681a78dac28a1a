# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Removing positions from a network's tensors, and setting elements to zero or to new values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import nn as snn
from .units import Units, length, select

Cuts = Mapping[str, Mapping[int, Tensor]]  # tensor name -> axis -> bool, which positions stay


def owners(model: nn.Module, name: str) -> list[tuple[nn.Module, str]]:
    """All modules that hold the tensor called `name`, with the attribute: a shared parameter has several."""
    path, _, attribute = name.rpartition(".")
    tensor = getattr(model.get_submodule(path), attribute)
    found = []
    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            found += [(module, key) for key, value in kept.items() if value is tensor]
    return found


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """The parameter or buffer called `name`; raises ValueError where there is none."""
    path, _, attribute = name.rpartition(".")
    try:
        value = getattr(model.get_submodule(path), attribute)
    except AttributeError as error:
        raise ValueError(f"the model has no parameter or buffer {name!r}") from error
    if not isinstance(value, Tensor):
        if type(value) is int and attribute == "num_features":  # of a norm that has no tensors
            return torch.empty(value, device="meta")
        raise ValueError(f"{name!r} must be a parameter or buffer, got {type(value).__name__}")
    return value


def check_cut(name: str, tensor: Tensor, axes: Mapping[int, Tensor]) -> None:
    """Raises ValueError unless a tensor has the axes and sizes that a cut was made for."""
    for axis, stays in axes.items():
        unlike = tensor.ndim < 3 if axis < 0 else axis >= tensor.ndim
        if unlike or len(stays) != length(tensor.shape, axis):
            raise ValueError(
                f"{name}: expected {len(stays)} positions on axis {axis}, as when the plan was made, got {list(tensor.shape)}"
            )


def cut(model: nn.Module, cuts: Cuts) -> None:
    """Takes positions out of tensors, in place, and gives the layers their new numbers of channels."""
    touched: dict[nn.Module, None] = {}
    for name, axes in cuts.items():
        old = tensor_of(model, name)
        check_cut(name, old, axes)
        new = old.detach()
        for axis, stays in axes.items():
            new = select(new, axis, stays.nonzero()[:, 0].to(new.device))
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new.contiguous(), old.requires_grad)
        if old.is_meta and name.endswith(".num_features"):
            norm: Any = model.get_submodule(name.rpartition(".")[0])
            norm.num_features = int(axes[0].sum())
            continue
        for module, attribute in owners(model, name):
            setattr(module, attribute, new)
            touched[module] = None
    for module in touched:
        _rename(module)


def _rename(module: nn.Module) -> None:
    """Brings the numbers that a layer keeps of itself in line with its tensors."""
    if isinstance(module, snn.SparseConvolution):
        if module.groups == module.in_channels > 1:  # depthwise: the numbers are still those from before
            module.groups = module.weight.shape[2] * module.groups // module.out_channels
        module.in_channels, module.out_channels = (
            module.weight.shape[1] * module.groups,
            module.weight.shape[2],
        )
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        reads, makes = (0, 1) if module.transposed else (1, 0)
        if module.groups == module.in_channels > 1 and not module.transposed:
            module.groups = module.weight.shape[0] * module.groups // module.out_channels
        module.in_channels = module.weight.shape[reads] * (1 if module.transposed else module.groups)
        module.out_channels = module.weight.shape[makes] * (module.groups if module.transposed else 1)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        for x in (module.weight, module.running_mean):
            if x is not None:
                module.num_features = len(x)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)


def zero(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets the elements of parameters where a mask (bool, of the parameter's shape) is False to zero, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            tensor = tensor_like(model, name, mask, "mask is")
            tensor.masked_fill_(~mask.to(tensor.device), 0)


def write(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Gives parameters new values of their shape, in place."""
    with torch.no_grad():
        for name, value in values.items():
            tensor_like(model, name, value, "plan's values are").copy_(value)


def tensor_like(model: nn.Module, name: str, other: Tensor, what: str) -> Tensor:
    """`tensor_of(model, name)`; raises ValueError unless it has the shape of `other`, which `what` names."""
    tensor = tensor_of(model, name)
    if tensor.shape != other.shape:
        raise ValueError(f"{name}: the {what} {list(other.shape)}, the parameter {list(tensor.shape)}")
    return tensor


def keep_of(groups: Sequence[Units], removed: Sequence[Tensor]) -> dict[str, dict[int, Tensor]]:
    """The positions that stay on every axis when units (bool [count] per group) are removed."""
    cuts: dict[str, dict[int, Tensor]] = {}
    for units, gone in zip(groups, removed, strict=True):
        padded = torch.cat([gone, gone.new_zeros(1)])
        for member in units.members:
            if member.axis is None:
                raise ValueError(f"{units.name}: single elements cannot be taken out of {member.tensor}")
            stays = ~padded[member.unit]
            axes = cuts.setdefault(member.tensor, {})
            axes[member.axis] = axes[member.axis] & stays if member.axis in axes else stays
    return {name: axes for name, axes in cuts.items() if not all(bool(s.all()) for s in axes.values())}


def masks_of(model: nn.Module, groups: Sequence[Units], removed: Sequence[Tensor]) -> dict[str, Tensor]:
    """Masks of all scored tensors, bool of their shapes: False where an element belongs to a removed unit."""
    masks: dict[str, Tensor] = {}
    for units, gone in zip(groups, removed, strict=True):
        for member in units.members:
            if member.scored:
                shape = tensor_of(model, member.tensor).shape
                mask = units.mask(gone, member, shape)
                masks[member.tensor] = masks[member.tensor] & mask if member.tensor in masks else mask
    return masks
