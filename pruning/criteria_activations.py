# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Criteria that look at activations: what the weights of a unit are multiplied with on real scans."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .analysis import axes_of, canonical, from_canonical
from .calls import Call, observe
from .criteria import Context, Criterion
from .gathered import squared_inputs
from .units import Member, Units, length


class _OfChannels(Criterion):
    """The mean of something over the activations that a channel's readers get: existing voxels only, of all scans and readers."""

    @abstractmethod
    def _measure(self, x: Tensor) -> Tensor:
        """For each of the activations [n, C] (float64) what is averaged."""

    def _means(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:
        """float64 [count] for each group; 0 where the scans hold no voxel at all."""
        readers = [readers_of(context, units, type(self).__name__) for units in groups]
        wanted = {member.tensor for members in readers for member in members}
        sums: dict[str, Tensor] = {}
        rows: dict[str, int] = {}

        def add(call: Call) -> None:
            if call.name in wanted:
                x = call.features.detach().movedim(1, -1).flatten(0, -2)
                total = self._measure(x.double()).sum(dim=0, dtype=torch.float64).cpu()
                sums[call.name] = sums[call.name] + total if call.name in sums else total
                rows[call.name] = rows.get(call.name, 0) + len(x)

        observe(context.model, context.scans, add, context.forward)
        result = []
        for units, members in zip(groups, readers, strict=True):
            total = torch.zeros(units.count, dtype=torch.float64)
            number = torch.zeros(units.count, dtype=torch.float64)
            for member in members:
                values = sums[member.tensor]
                units_of = _units_of_inputs(member, len(values))
                known = units_of >= 0
                total.index_add_(0, units_of[known], values[known])
                number.index_add_(0, units_of[known], torch.full_like(values[known], rows[member.tensor]))
            result.append(total / number.clamp(min=1))
        return result


@dataclass(frozen=True)
class APoZ(_OfChannels):
    """One minus the average percentage of zeros of a channel's activations: channels that are mostly zero go first.

    For channels only. Source: Hu et al., "Network trimming" (2016).
    """

    def _measure(self, x: Tensor) -> Tensor:
        return x != 0

    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:
        """See `Criterion.scores`; raises ValueError for other granularities."""
        return self._means(context, groups)


@dataclass(frozen=True)
class ActivationNorm(_OfChannels):
    """The mean over voxels of |x|^p of a channel's activations, its p-th root taken: p = 1 the mean, p = 2 the root mean square.

    For channels only. Source of p = 1: Molchanov et al., "Pruning convolutional neural networks" (2017), section 2.2.
    """

    p: float = 1.0

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise ValueError(f"ActivationNorm: p must be positive, got {self.p!r}")

    def _measure(self, x: Tensor) -> Tensor:
        return x.abs().pow(self.p)

    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:
        """See `Criterion.scores`; raises ValueError for other granularities."""
        return [mean.pow(1 / self.p) for mean in self._means(context, groups)]


def readers_of(context: Context, units: Units, name: str) -> list[Member]:
    """The parts of a group of channels that read them: axes of weights which are multiplied with their activations."""
    found = []
    for member in units.members:
        layer = context.analysis.layers.get(member.tensor)
        if layer is not None and member.axis is not None:
            reads, makes = axes_of(layer)
            each = length(context.model.get_parameter(member.tensor).shape, reads)
            depthwise = (
                layer.groups > 1 and each == 1 and not layer.transposed
            )  # channel i is read by what is made of it
            if member.axis == (makes if depthwise else reads):
                found.append(member)
    if not found:
        raise ValueError(
            f"{name} scores channels by the activations that other layers read: use granularity=Channels(); no layer reads units "
            f"of {units.name}"
        )
    return found


def _units_of_inputs(member: Member, channels: int) -> Tensor:
    """The unit of every input channel: int64 [C_in]."""
    positions = len(member.unit)
    if positions < channels:  # the same positions of every group of a grouped convolution
        return member.unit.repeat(channels // positions)
    return member.unit[:: positions // channels]  # a depthwise one may make several channels of each


@dataclass(frozen=True)
class Wanda(Criterion):
    """Sum over the unit of |w| * ||x||_2, where x is what the element w is multiplied with, over all rows of all scans.

    For a sparse convolution x runs over the pairs of the element's tap. Biases and norms, which multiply no input, do not count.

    Args:
        per_row: rank within each output channel, as in the paper: the score is the share of the channel's units that come before,
            so that a ratio takes the same share of every output channel. For units that belong to one output channel each:
            `FineGrained`, `NM`, `Kernels`.

    Source: Sun et al., "A simple and effective pruning approach for large language models" (ICLR 2024).
    """

    per_row: bool = False

    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:
        """See `Criterion.scores`; raises ValueError for units that `per_row` cannot rank."""
        layers = context.analysis.layers
        wanted = {m.tensor for u in groups for m in u.members if m.scored and m.tensor in layers}
        squares: dict[str, Tensor] = {}

        def add(call: Call) -> None:
            if call.name in wanted:
                shape = context.model.get_parameter(call.name).shape
                more = squared_inputs(call, layers[call.name], shape)
                squares[call.name] = squares[call.name] + more if call.name in squares else more

        observe(context.model, context.scans, add, context.forward)
        saliency = {
            name: context.model.get_parameter(name).detach().cpu().double().abs() * square.sqrt()
            for name, square in squares.items()
        }
        result = []
        for units in groups:
            own = {m.tensor: saliency[m.tensor] for m in units.members if m.scored and m.tensor in saliency}
            if not own:
                raise ValueError(f"Wanda: no layer multiplies by the weights of {units.name}")
            score = units.sums(own)
            result.append(self._ranked(context, units, score) if self.per_row else score)
        return result

    @staticmethod
    def _ranked(context: Context, units: Units, score: Tensor) -> Tensor:
        """(place within the output channel + something below one that grows with the score) / number of places."""
        output = _outputs(context, units)
        order = torch.argsort(score, stable=True)
        order = order[torch.argsort(output[order], stable=True)]  # by output channel, then score
        sizes = torch.bincount(output)
        starts = sizes.cumsum(0) - sizes
        place = torch.empty(units.count, dtype=torch.float64)
        place[order] = (torch.arange(units.count) - starts[output[order]]).double()
        return (place + 0.5 * score / score.max().clamp(min=1e-300)) / sizes[output]


def _outputs(context: Context, units: Units) -> Tensor:
    """The output channel of every unit: int64 [count]."""
    scored = [m for m in units.members if m.scored]
    layer = context.analysis.layers.get(scored[0].tensor)
    if len(scored) == 1 and layer is not None and scored[0].axis is None:
        weight = context.model.get_parameter(layer.weight)
        shape = canonical(layer, weight).shape
        channel = from_canonical(layer, torch.arange(shape[2]).expand(shape), weight.shape).reshape(-1)
        unit = scored[0].spread(weight.shape).expand(weight.shape).reshape(-1)
        ends = [
            channel.new_zeros(units.count).scatter_reduce(0, unit, channel, by, include_self=False)
            for by in ("amin", "amax")
        ]
        if torch.equal(*ends):
            return ends[0]
    raise ValueError(
        f"Wanda: per_row=True takes units of a single output channel (FineGrained, NM, Kernels), got those of {units.name}"
    )
