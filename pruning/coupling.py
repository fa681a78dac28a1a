# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Groups of channels that must be removed together, from the ids that one run of the network left on its weights.

A unit is everything one channel id is tied to: the column of the weight that makes the channel, its entry in norms and biases,
and the rows of all weights that read it. Units that touch the same axes of the same tensors form a group.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .channel_ids import ChannelIds, Ids
from .follow import Axes
from .units import Member, Units

Place = tuple[str, int]  # a tensor's name and an axis


def channel_groups(
    model: nn.Module,
    ids: ChannelIds,
    tensors: Mapping[str, Axes],
    costs: Mapping[Place, float],
    flat: Collection[str] = (),
) -> tuple[list[Units], dict[str, str]]:
    """The groups, and for each layer whose channels must stay the reason.

    Args:
        model: the network.
        ids, tensors: of a finished `ChannelFollower`.
        costs: multiply-accumulates that go with one position of an axis of a weight.
        flat: tensors whose axes are those of `units.as_matrix`.
    """
    parameters = dict(model.named_parameters())
    raw: dict[Place, Ids] = {}
    held: dict[int, list[tuple[Place, int]]] = {}  # root -> (place, position)
    roots_of: dict[Place, np.ndarray] = {}
    for name, axes in tensors.items():
        for axis, own in enumerate(axes, start=-2 if name in flat else 0):
            if own is None:
                continue
            raw[name, axis] = own
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
            for name, axis in signature:
                if ids.makes(raw[name, axis]):
                    left.setdefault(_layer(name), reason)
            continue
        groups.setdefault(signature, []).append(root)
    found = []
    for signature, units_here in groups.items():
        unit_of = {root: number for number, root in enumerate(units_here)}
        members = []
        cost = torch.zeros(len(unit_of), dtype=torch.float64)
        for place in signature:
            units = torch.tensor([unit_of.get(int(r), -1) for r in roots_of[place]], dtype=torch.int64)
            members.append(Member(place[0], units, place[1], place[0] in parameters))
            _add_cost(cost, units, costs.get(place, 0.0))
        layers = tuple(dict.fromkeys(_layer(name) for name, _ in signature if name in parameters))
        makers = tuple(dict.fromkeys(_layer(place[0]) for place in signature if ids.makes(raw[place])))
        title = _title(makers or layers)
        found.append(Units(title, len(unit_of), tuple(members), layers, cost, makers=makers))
    _name_the_rest(parameters, ids, tensors, found, left)
    return found, left


def _name_the_rest(
    parameters: Mapping[str, Tensor],
    ids: ChannelIds,
    tensors: Mapping[str, Axes],
    found: Sequence[Units],
    left: dict[str, str],
) -> None:
    """Adds the reason for every weight whose channels were not followed: nothing stays without being named."""
    known = {layer for units in found for layer in units.makers}
    for name, parameter in parameters.items():
        layer = _layer(name)
        if parameter.ndim < 2 or layer in known or layer in left:
            continue
        if name not in tensors:
            left[layer] = "its weight was not used in the run"
            continue
        reasons = [
            ids.reason(root)
            for axis in tensors[name]
            if axis is not None
            for root in ids.roots(axis).tolist()
        ]
        left[layer] = next((r for r in reasons if r is not None), "its weight makes no channels")


def _lone(places: list[tuple[Place, int]]) -> bool:
    """Whether a channel is known to a single tensor: nothing reads it, or it is read where nobody looked."""
    return len({name for (name, _), _ in places}) == 1


def _add_cost(cost: Tensor, units: Tensor, each: float) -> None:
    known = units[units >= 0]
    cost.index_add_(0, known, torch.full((len(known),), each, dtype=torch.float64))


def _layer(name: str) -> str:
    owner, inside, _ = name.partition(".parametrizations.")
    return owner if inside else name.rpartition(".")[0] or name


def _title(makers: Sequence[str]) -> str:
    return makers[0] if len(makers) == 1 else f"{makers[0]} (+{len(makers) - 1})"
