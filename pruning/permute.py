# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Channels in an order that N:M sparsity likes: the same network, its coupled channels permuted together."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..formats import kept_magnitude, search_permutation
from .analysis import Analysis, analyze, axes_of, canonical, is_empty
from .calls import Forward
from .surgery import tensor_of
from .units import Member, Units, select
from .verify import difference, outputs_of, probe_of

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Permuted:
    """A group of channels: the share of its readers' |w| that N:M keeps before and after, and why it was left, if it was."""

    group: str
    channels: int
    before: float = 0.0
    after: float = 0.0
    left: str | None = None


def permute_channels(
    model: Model,
    scans: Iterable[Any],
    *,
    n: int = 2,
    m: int = 4,
    forward: Forward | None = None,
    analysis: Analysis | None = None,
    rows: int = 2048,
) -> tuple[Model, list[Permuted]]:
    """A copy of `model` whose channels stand in an order of which N:M masks keep more; it computes the same function.

    A group's channels are what `analyze` found to be removed together: they are reordered in everything that makes, norms, adds
    or reads them. The order is searched for over the weights of all layers that read the group, and tried: a group whose new
    order changes the outputs on the first scan (a norm over parts of the channels, say) is left.

    Args:
        model: any module; it is not changed.
        scans: as for `analyze`.
        n, m: the pattern.
        forward: (model, scan) -> outputs, where a scan is no plain input.
        analysis: of this model on these scans, where it was made before.
        rows: as for `search_permutation`.

    Returns:
        The copy, and a line for every group.

    Source: Pool and Yu, "Channel permutations for N:M sparsity" (NeurIPS 2021).
    """
    scans = list(scans)
    analysis = analyze(model, scans, forward=forward) if analysis is None else analysis
    model = copy.deepcopy(model)
    if not analysis.channels:
        return model, []
    first = next((s for s in scans if not is_empty(s)), scans[0])
    probe, scan = probe_of(model, first, forward)
    expected = outputs_of(probe, scan, forward)
    lines = []
    for units in analysis.channels:
        try:
            magnitude = _read_magnitude(model, analysis, units, m)
        except _RefusedError as error:
            lines.append(Permuted(units.name, units.count, left=str(error)))
            continue
        total = float(magnitude.sum(dtype=torch.float64)) or 1.0
        order = search_permutation(magnitude, n, m, rows=rows)
        before, after = (kept_magnitude(x, n, m) / total for x in (magnitude, magnitude[:, order]))
        reason = None
        if not torch.equal(order, torch.arange(units.count)):
            trial = copy.deepcopy(probe)
            try:
                _reorder(trial, units, order)
                reason = difference(expected, outputs_of(trial, scan, forward))
                if reason is None:
                    _reorder(model, units, order)
            except _RefusedError as error:
                reason = str(error)
        lines.append(Permuted(units.name, units.count, before, before if reason else after, reason))
    return model, lines


class _RefusedError(Exception):
    """Why a group's channels cannot be reordered."""


def _read_magnitude(model: nn.Module, analysis: Analysis, units: Units, m: int) -> Tensor:
    """|w| of all that reads the group's channels, [rows, channels]: a run of a reader must be a run of the group."""
    if units.count % m:
        raise _RefusedError(f"{units.count} channels are no multiple of {m}")
    parts = []
    for member in units.members:
        layer = analysis.layers.get(member.tensor)
        if layer is None or member.axis != axes_of(layer)[0]:
            continue
        weight = canonical(layer, tensor_of(model, member.tensor).detach()).abs()
        if layer.groups > 1:
            if weight.shape[1] > 1:
                raise _RefusedError(f"{layer.name} reads them in {layer.groups} groups")
            continue
        parts += _blocks(weight, member.unit, units.count, m, layer.name)
    if not parts:
        raise _RefusedError("no layer reads them")
    return torch.cat(parts)


def _blocks(weight: Tensor, unit: Tensor, count: int, m: int, name: str) -> list[Tensor]:
    """The rows of one reader, [K * C_out, count] for each time that it reads the group (a tensor joined with itself: twice)."""
    rows = weight.transpose(1, 2).flatten(0, 1).float().cpu()
    found: list[Tensor] = []
    filled: list[set[int]] = []
    for start in range(0, len(unit), m):
        run = unit[start : start + m].tolist()
        if all(u < 0 for u in run):
            continue
        number = max(run) // m
        if sorted(run) != list(range(number * m, number * m + m)):
            raise _RefusedError(f"they do not fall on whole runs of {m} input channels of {name}")
        place = next((i for i, done in enumerate(filled) if number not in done), len(filled))
        if place == len(filled):
            found.append(rows.new_zeros(len(rows), count))
            filled.append(set())
        filled[place].add(number)
        found[place][:, run] = rows[:, start : start + m]
    return found


def _reorder(model: nn.Module, units: Units, order: Tensor) -> None:
    """Gives unit u's place everywhere to unit order[u], in place."""
    sources = []
    for member in units.members:
        if member.axis is None or tensor_of(model, member.tensor).is_meta:
            continue
        sources.append((tensor_of(model, member.tensor), member.axis, _source(member, order)))
    with torch.no_grad():
        for tensor, axis, source in sources:
            tensor.copy_(select(tensor, axis, source.to(tensor.device)))


def _source(member: Member, order: Tensor) -> Tensor:
    """For each position of an axis the one whose content it takes: the same occurrence of the unit that comes in its place."""
    places: dict[int, list[int]] = {}
    for position, unit in enumerate(member.unit.tolist()):
        places.setdefault(unit, []).append(position)
    source = torch.arange(len(member.unit))
    for unit, new in enumerate(order.tolist()):
        here, there = places.get(unit, []), places.get(new, [])
        if len(here) != len(there):
            raise _RefusedError(f"{member.tensor} has some of them more often than others")
        for position, origin in zip(here, there, strict=True):
            source[position] = origin
    return source
