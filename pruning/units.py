# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What pruning chooses among: units (a weight, a tap, a channel ...) and the elements of the network's tensors that each owns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Member:
    """The part of one tensor that belongs to a set of units.

    Attributes:
        tensor: the name of a parameter or buffer.
        unit: int64, the unit that owns each element or position, -1 = none. With `axis`, [positions along that axis]; without,
            any shape that broadcasts to the tensor's.
        axis: the axis whose positions the units own; None where units own single elements or blocks, which can be zeroed but not
            taken out. -2 and -1 are the axes of a buffer that is read as a matrix, see `as_matrix`.
        scored: whether criteria count it; buffers (running statistics, taps) only follow.
    """

    tensor: str
    unit: Tensor
    axis: int | None = None
    scored: bool = True

    def spread(self, shape: Sequence[int]) -> Tensor:
        """`unit` in a shape that broadcasts to a tensor of this shape."""
        return self.unit if self.axis is None else spread(self.unit, self.axis, shape)


def as_matrix(x: Tensor) -> Tensor:
    """A weight [C_out, 1, ..., C_in] of spconv's layers with a kernel of one cell: they read the buffer as [C_in, C_out]."""
    return x.reshape(x.shape[-1], x.shape[0])


def from_matrix(x: Tensor, ndim: int) -> Tensor:
    """Back to [C_out, 1, ..., C_in] with `ndim` axes."""
    return x.reshape(x.shape[1], *[1] * (ndim - 2), x.shape[0])


def spread(values: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """Values [positions along an axis] in a shape that broadcasts to a tensor of this shape."""
    if axis >= 0:
        return values.view([-1 if d == axis else 1 for d in range(len(shape))])
    matrix = (values[:, None] if axis == -2 else values).expand(shape[-1], shape[0])
    return from_matrix(matrix, len(shape))


def select(x: Tensor, axis: int, positions: Tensor) -> Tensor:
    """The positions int64 of an axis of a tensor."""
    if axis >= 0:
        return x.index_select(axis, positions)
    return from_matrix(as_matrix(x).index_select(axis, positions), x.ndim)


def length(shape: Sequence[int], axis: int) -> int:
    """Positions along an axis of a tensor of this shape."""
    return shape[axis] if axis >= 0 else shape[-1 if axis == -2 else 0]


@dataclass(frozen=True, eq=False)
class Units:
    """Units of one kind that compete with each other: the taps of a layer, the channels of a group, ...

    Attributes:
        name: of the layer or group, for tables.
        count: how many.
        members: what they own.
        layers: names of the layers whose weights they own.
        makers: of these, the ones that compute the channels; the others norm or read them. Empty where units are no channels.
        cost: float64 [count], the multiply-accumulates per scan that go with each unit; zeros where no call was seen.
        share: float64 [count], what a ratio counts: 1 for each unit, or its pairs, so that a ratio is a share of the work.
        keep: the lowest number of units that stay.
        multiple: kept units are a multiple of this where the group is large enough.
        blocks: for N:M, (n, m): in each run of m consecutive units at most n stay, whatever the ratio.
    """

    name: str
    count: int
    members: tuple[Member, ...]
    layers: tuple[str, ...]
    cost: Tensor
    share: Tensor | None = None
    keep: int = 1
    multiple: int = 1
    blocks: tuple[int, int] | None = None
    makers: tuple[str, ...] = ()

    def sums(self, values: Mapping[str, Tensor]) -> Tensor:
        """The sum of `values` (by tensor name, of the tensors' shapes) over the scored elements of each unit: float64 [count].

        Differentiable. An element that a unit owns twice, by its input and by its output channel, counts once.
        """
        device = next((v.device for v in values.values()), torch.device("cpu"))
        result = torch.zeros(self.count + 1, dtype=torch.float64, device=device)
        for name, value in values.items():
            for unit in self.owners(name, value.shape):
                flat = unit.expand(value.shape).reshape(-1).to(device)
                result = result.index_add(
                    0, torch.where(flat < 0, self.count, flat), value.double().reshape(-1)
                )
        return result[: self.count]

    def owners(self, name: str, shape: Sequence[int]) -> list[Tensor]:
        """Who owns a tensor's elements: int64 units that broadcast to it, -1 = none, one tensor for each scored member.

        Where several members give an element to the same unit, all but the first have -1.
        """
        found: list[Tensor] = []
        for member in self.members:
            if member.tensor == name and member.scored:
                unit = member.spread(shape)
                for other in found:
                    unit = torch.where(unit == other, -1, unit)
                found.append(unit)
        return found

    def mask(self, removed: Tensor, member: Member, shape: torch.Size) -> Tensor:
        """bool of the tensor's shape: False where an element belongs to a removed unit (bool [count])."""
        gone = torch.cat([removed, removed.new_zeros(1)])
        return ~gone[member.spread(shape)].expand(shape)
