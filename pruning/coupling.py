# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Groups of channels that must be removed together, from the ids that one run of the network left on its weights.

A unit is everything one channel id is tied to: the column of the weight that makes the channel, its entry in norms and biases,
and the rows of all weights that read it. Units that touch the same axes of the same tensors form a group.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from .channel_ids import ChannelIds
from .follow import Axes
from .units import Member, Units

Place = tuple[str, int]  # a tensor's name and an axis


def channel_groups(
    model: nn.Module, ids: ChannelIds, tensors: Mapping[str, Axes], costs: Mapping[Place, float]
) -> tuple[list[Units], dict[str, str]]:
    """The groups, and for each layer whose channels must stay the reason.

    Args:
        model: the network.
        ids, tensors: of a finished `ChannelFollower`.
        costs: multiply-accumulates that go with one position of an axis of a weight.
    """
    parameters = dict(model.named_parameters())
    held: dict[int, list[tuple[Place, int]]] = {}  # root -> (place, position)
    roots_of: dict[Place, np.ndarray] = {}
    for name, axes in tensors.items():
        for axis, own in enumerate(axes):
            if own is None:
                continue
            roots = roots_of[name, axis] = ids.roots(own)
            for position, root in enumerate(roots.tolist()):
                held.setdefault(root, []).append(((name, axis), position))
    groups: dict[tuple[Place, ...], list[int]] = {}
    left: dict[str, str] = {}
    for root, places in held.items():
        if not ids.produced(root):
            continue
        reason = ids.reason(root)
        signature = tuple(dict.fromkeys(place for place, _ in places))
        if reason is None and _lone(places):
            reason = "no other layer reads its channels"
        if reason is not None:
            for name, _ in _makers(signature, parameters):
                left.setdefault(_layer(name), reason)
            continue
        groups.setdefault(signature, []).append(root)
    found = []
    for signature, members_of in groups.items():
        unit_of = {root: number for number, root in enumerate(members_of)}
        members = []
        cost = torch.zeros(len(members_of), dtype=torch.float64)
        for place in signature:
            units = torch.tensor([unit_of.get(int(r), -1) for r in roots_of[place]], dtype=torch.int64)
            members.append(Member(place[0], units, place[1], place[0] in parameters))
            _add_cost(cost, units, costs.get(place, 0.0))
        layers = tuple(dict.fromkeys(_layer(name) for name, _ in signature if name in parameters))
        makers = [_layer(name) for name, _ in _makers(signature, parameters)]
        found.append(Units(_title(makers or list(layers)), len(members_of), tuple(members), layers, cost))
    return found, left


def _lone(places: list[tuple[Place, int]]) -> bool:
    """Whether a channel is known to a single tensor: nothing reads it, or it is read where nobody looked."""
    return len({name for (name, _), _ in places}) == 1


def _makers(signature: tuple[Place, ...], parameters: Mapping[str, Tensor]) -> list[Place]:
    """The places of a group that make its channels: the last axis of [K, C_in, C_out], the first of torch's weights."""
    makers = []
    for name, axis in signature:
        parameter = parameters.get(name)
        if parameter is not None and parameter.ndim > 1 and axis == (2 if parameter.ndim == 3 else 0):
            makers.append((name, axis))
    return makers


def _add_cost(cost: Tensor, units: Tensor, each: float) -> None:
    known = units[units >= 0]
    cost.index_add_(0, known, torch.full((len(known),), each, dtype=torch.float64))


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name


def _title(makers: list[str]) -> str:
    unique = list(dict.fromkeys(makers))
    return unique[0] if len(unique) == 1 else f"{unique[0]} (+{len(unique) - 1})"
