# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What a unit of pruning is: a weight, a vector, a kernel, a tap, a channel.

A granularity turns an analysed network into `Units`. Which of them go is for a criterion and a ratio to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import nn as snn
from .analysis import Analysis, Layer, canonical, from_canonical
from .calls import CONV
from .surgery import tensor_of
from .units import Member, Units


class Granularity(ABC):
    """Base of all granularities.

    Attribute `removes`: whether units are taken out of the network, so that it becomes smaller; otherwise they are zeroed.
    """

    removes = False

    @abstractmethod
    def units(self, model: nn.Module, analysis: Analysis) -> tuple[list[Units], dict[str, str]]:
        """The units of every layer or group, and the layers that have none, with the reason."""


class _Blocks(Granularity):
    """Units that are blocks of single elements of one weight."""

    def units(self, model: nn.Module, analysis: Analysis) -> tuple[list[Units], dict[str, str]]:
        """One set for every convolution and linear layer."""
        found, left = [], {}
        for layer in analysis.layers.values():
            weight = tensor_of(model, layer.weight)
            reason = self._refuses(canonical(layer, weight).shape)
            if reason:
                left[layer.name] = reason
                continue
            unit = self._unit(canonical(layer, weight).shape)
            count = int(unit.max()) + 1 if unit.numel() else 0
            member = Member(layer.weight, from_canonical(layer, unit, weight.shape))
            cost = _element_costs(layer, unit, count)
            found.append(
                Units(layer.name, count, (member,), (layer.name,), cost, keep=0, blocks=self._pattern())
            )
        return found, left

    def _refuses(self, shape: torch.Size) -> str | None:  # noqa: ARG002  a hook
        return None

    def _pattern(self) -> tuple[int, int] | None:
        return None

    @abstractmethod
    def _unit(self, shape: torch.Size) -> Tensor:
        """The unit of each element of a weight [K, C_in, C_out], int64 of that shape."""


def _element_costs(layer: Layer, unit: Tensor, count: int) -> Tensor:
    """Multiply-accumulates of each unit: an element is used once for every pair of its tap."""
    taps = unit.shape[0]
    uses = layer.pairs if layer.pairs is not None else torch.full((taps,), layer.macs / max(unit.numel(), 1))
    cost = torch.zeros(count, dtype=torch.float64)
    cost.index_add_(0, unit.reshape(-1), uses.double()[:, None, None].expand(unit.shape).reshape(-1))
    return cost


@dataclass(frozen=True)
class FineGrained(_Blocks):
    """Single weights (Han et al., "Learning both weights and connections for efficient neural networks", 2015)."""

    def _unit(self, shape: torch.Size) -> Tensor:
        return torch.arange(shape.numel()).view(shape)


@dataclass(frozen=True)
class Vectors(_Blocks):
    """The row of one input channel over a block of `size` output channels of one tap."""

    size: int = 16

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Vectors: size must be at least 1, got {self.size}")

    def _unit(self, shape: torch.Size) -> Tensor:
        taps, reads, makes = shape
        blocks = -(-makes // self.size)
        rows = torch.arange(taps * reads).view(taps, reads, 1) * blocks
        return (rows + torch.arange(makes) // self.size).contiguous()


@dataclass(frozen=True)
class Kernels(_Blocks):
    """A pair of an input and an output channel over all taps."""

    def _unit(self, shape: torch.Size) -> Tensor:
        taps, reads, makes = shape
        return torch.arange(reads * makes).view(1, reads, makes).expand(taps, reads, makes)


@dataclass(frozen=True)
class NM(_Blocks):
    """At most `n` of `m` consecutive input channels of each tap and output channel (Mishra et al., 2021: 2:4).

    Layers whose input channels are no multiple of m are left. outputs: output channels, one after the other, that share a mask;
    with 16 what goes are whole rows of `Vectors`, of which kernels on a CPU gain, and each run of m rows keeps n.
    """

    n: int = 2
    m: int = 4
    outputs: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.n <= self.m:
            raise ValueError(f"NM: 0 < n <= m must hold, got n={self.n}, m={self.m}")
        if self.outputs < 1:
            raise ValueError(f"NM: outputs must be at least 1, got {self.outputs}")

    def _refuses(self, shape: torch.Size) -> str | None:
        return None if shape[1] % self.m == 0 else f"{shape[1]} input channels are no multiple of {self.m}"

    def _pattern(self) -> tuple[int, int]:
        return self.n, self.m

    def _unit(self, shape: torch.Size) -> Tensor:
        taps, reads, makes = shape
        blocks = -(-makes // self.outputs)
        rows = torch.arange(taps * blocks * reads).view(taps, blocks, reads)
        return rows[:, torch.arange(makes) // self.outputs].movedim(1, 2)


@dataclass(frozen=True)
class Offsets(Granularity):
    """The taps of a kernel ("Not all neighbors matter", AAAI 2023).

    shared: one choice for all layers that compute over one kernel map, inverse convolutions included, so that the map shrinks;
    otherwise every layer keeps its own taps, which skips work but wants a map of its own for each choice. A ratio counts
    multiply-accumulates, which are known for each tap from the scans, and the taps that go first are those with the lowest
    importance for what they cost.
    """

    shared: bool = False
    removes = True

    def units(self, model: nn.Module, analysis: Analysis) -> tuple[list[Units], dict[str, str]]:
        """One set for every layer with more than one tap, or for the layers of every map.

        Raises ValueError for networks with layers of spconv's API: their weight has no list of taps to shorten.
        """
        holders: dict[
            int, list[str]
        ] = {}  # one weight may belong to several modules, each with its own list of taps
        for name, module in model.named_modules():
            if isinstance(module, snn.SparseConvolution):
                holders.setdefault(id(module.weight), []).append(name)
        layers, left = {}, {}
        for layer in analysis.layers.values():
            if layer.axes is not None:
                raise ValueError(
                    f"Offsets: {layer.name} is one of spconv's layers, which have all taps of their kernel: make the plan for "
                    "sparseconv.convert.from_spconv(model)"
                )
            if id(tensor_of(model, layer.weight)) in holders:
                layers[layer.name] = layer
            elif layer.kind == CONV:
                left[layer.name] = "a bare weight, which knows nothing of its taps"
        groups = analysis.maps if self.shared else [(name,) for name in layers]
        found = []
        for names in groups:
            used = [layers[name] for name in names if name in layers]
            if not used:
                continue
            units = _tap_units(model, used, holders)
            if units.count > 1:
                found.append(units)
            else:
                left.update({layer.name: "a single tap" for layer in used})
        return found, left


def _tap_units(model: nn.Module, layers: list[Layer], holders: Mapping[int, list[str]]) -> Units:
    cells: dict[tuple[int, ...], int] = {}
    rows = {}
    for layer in layers:
        taps = model.get_buffer(f"{layer.name}.taps").tolist()
        rows[layer.name] = torch.tensor(
            [cells.setdefault(tuple(tap), len(cells)) for tap in taps], dtype=torch.int64
        )
    members, cost = [], torch.zeros(len(cells), dtype=torch.float64)
    for layer in layers:
        unit = rows[layer.name]
        members.append(Member(layer.weight, unit, 0))
        for name in holders[id(tensor_of(model, layer.weight))]:
            members.append(Member(f"{name}.taps", unit, 0, scored=False))
        if layer.pairs is not None:
            size = tensor_of(model, layer.weight)[0].numel()
            cost.index_add_(0, unit, layer.pairs * size)
    names = tuple(layer.name for layer in layers)
    title = names[0] if len(names) == 1 else f"{names[0]} (+{len(names) - 1})"
    share = cost.clamp(min=1e-12) if bool((cost > 0).any()) else None  # a tap without a pair costs nothing
    return Units(title, len(cells), tuple(members), names, cost, share)


@dataclass(frozen=True)
class Channels(Granularity):
    """Channels, taken out of everything that makes, norms, adds, concatenates or reads them.

    round_to: kept channels are a multiple of it where a group has that many; kernels are fastest on multiples of 16.
    keep: the lowest number of channels that stay in a group.
    """

    round_to: int = 16
    keep: int = 1
    removes = True

    def __post_init__(self) -> None:
        if self.round_to < 1 or self.keep < 1:
            raise ValueError(
                f"Channels: round_to and keep must be at least 1, got {self.round_to} and {self.keep}"
            )

    def units(self, model: nn.Module, analysis: Analysis) -> tuple[list[Units], dict[str, str]]:  # noqa: ARG002
        """The groups that the analysis found."""
        groups = [
            Units(
                u.name,
                u.count,
                u.members,
                u.layers,
                u.cost,
                keep=self.keep,
                multiple=self.round_to,
                makers=u.makers,
            )
            for u in analysis.channels
        ]
        return groups, dict(analysis.left)


def describe(thing: object) -> str:
    """A granularity, criterion or ratio as text for tables and files."""
    values: Mapping[str, object] = getattr(thing, "__dict__", {})
    inner = ", ".join(f"{k}={v!r}" for k, v in values.items() if not k.startswith("_"))
    return f"{type(thing).__name__}({inner})"
