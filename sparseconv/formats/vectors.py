# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The vector-sparse format: the row of one input channel over a block of 16 output channels of one tap is stored or absent.

It is what `sparseconv.pruning.Vectors(16)` leaves, and N:M masks that a block of 16 output channels shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.vectors import BLOCK


@dataclass(frozen=True)
class VectorWeight:
    """A weight [K, C_in / groups, C_out] of which some rows of 16 output channels are stored.

    Blocks of 16 output channels begin anew in every group; the last one of a group may be narrower, its rows are stored with
    zeros at the end. Rows are ordered by (tap, block, input channel).

    Attributes:
        shape: (K, C_in / groups, C_out).
        groups: that divide C_out.
        present: uint8 [ceil(K * blocks * C_in / groups / 8)], bit i % 8 of byte i // 8 says whether row i is stored.
        values: [V, 16], V the number of bits that are set.

    Raises:
        ValueError, TypeError: where these do not fit together. No content makes a kernel read elsewhere.
    """

    shape: tuple[int, int, int]
    groups: int
    present: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        _check_shape(self.shape, self.groups)
        rows = self.rows
        if not isinstance(self.present, Tensor) or self.present.dtype != torch.uint8:
            raise TypeError(f"present must be a uint8 tensor, got {_named(self.present)}")
        if not isinstance(self.values, Tensor) or not self.values.is_floating_point():
            raise TypeError(f"values must be a floating point tensor, got {_named(self.values)}")
        if tuple(self.present.shape) != (-(-rows // 8),):
            raise ValueError(
                f"present must be [{-(-rows // 8)}], a bit for each of {rows} rows, got {list(self.present.shape)}"
            )
        bits = _unpack_bits(self.present)
        if bool(bits[rows:].any()):
            raise ValueError("present has bits after its last row")
        stored = int(bits.sum())
        if tuple(self.values.shape) != (stored, BLOCK):
            raise ValueError(
                f"values must be [{stored}, {BLOCK}] as present says, got {list(self.values.shape)}"
            )
        width = self.shape[2] // self.groups
        if width % BLOCK:
            blocks = -(-width // BLOCK)
            block = bits[:rows].nonzero()[:, 0] // max(self.shape[1], 1) % blocks
            if bool((self.values.detach()[block == blocks - 1, width % BLOCK :] != 0).any()):
                raise ValueError("values beyond the last output channel of a group must be zero")

    @property
    def blocks(self) -> int:
        """Blocks of output channels of all groups."""
        return self.groups * -(-(self.shape[2] // self.groups) // BLOCK)

    @property
    def rows(self) -> int:
        """Rows that could be stored: K * blocks * C_in / groups."""
        return self.shape[0] * self.blocks * self.shape[1]

    @property
    def stored(self) -> int:
        """Rows that are."""
        return self.values.shape[0]

    @property
    def density(self) -> float:
        """Their share; 0 where there are no rows."""
        return self.stored / self.rows if self.rows else 0.0

    @property
    def size_in_bits(self) -> int:
        """A bit for each row, in whole bytes, and 16 numbers for each stored one."""
        return 8 * self.present.numel() + 8 * self.values.element_size() * self.values.numel()

    def lists(self) -> tuple[Tensor, Tensor]:
        """What the kernels read: offsets int64 [K * blocks + 1] of each (tap, block), and the channels int32 [V] of its rows."""
        shape = (self.shape[0] * self.blocks, self.shape[1])
        bits = _unpack_bits(self.present)[: self.rows].view(shape)
        offsets = torch.zeros(shape[0] + 1, dtype=torch.int64, device=bits.device)
        torch.cumsum(bits.sum(1), 0, out=offsets[1:])
        return offsets, bits.nonzero()[:, 1].to(torch.int32).contiguous()

    def unpack(self, values: Tensor | None = None) -> Tensor:
        """The dense weight [K, C_in / groups, C_out]; of other values [V, 16] where given. Differentiable."""
        taps, channels, c_out = self.shape
        values = self.values if values is None else values
        bits = _unpack_bits(self.present)[: self.rows].bool()
        flat = values.new_zeros(self.rows, BLOCK).index_put((bits.nonzero()[:, 0],), values)
        per_group = self.blocks // self.groups
        wide = flat.view(taps, self.groups, per_group, channels, BLOCK).permute(0, 3, 1, 2, 4)
        wide = wide.reshape(taps, channels, self.groups, per_group * BLOCK)
        return wide[..., : c_out // self.groups].reshape(taps, channels, c_out)


def pack_vectors(
    weight: Tensor, mask: Tensor | None = None, *, groups: int = 1, name: str = "weight"
) -> VectorWeight:
    """Stores the rows of 16 output channels that are not zero, or that `mask` names.

    Args:
        weight: [K, C_in / groups, C_out], floating point.
        mask: bool, of the same shape or one that broadcasts to it; a row with any True is stored, with zeros where it is False.
            Without it a row with any number but 0 is stored (a row of zeros of either sign unpacks as 0.0).
        groups: of the convolution; blocks of 16 begin anew in each.
        name: stands first in error messages.

    Raises:
        ValueError, TypeError: other shapes or types.
    """
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise TypeError(f"{name} must be a floating point tensor, got {_named(weight)}")
    if weight.ndim != 3:
        raise ValueError(f"{name} must be [K, C_in / groups, C_out], got {list(weight.shape)}")
    taps, channels, c_out = weight.shape
    shape = (taps, channels, c_out)
    _check_shape(shape, groups)
    dense = weight.detach()
    kept = dense != 0
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"mask must be a bool tensor, got {_named(mask)}")
        try:
            kept = mask.expand(shape)
        except RuntimeError as error:
            raise ValueError(f"mask must be {list(shape)} like {name}, got {list(mask.shape)}") from error
        dense = torch.where(kept, dense, torch.zeros((), dtype=dense.dtype, device=dense.device))
    rows = _blocked(dense, groups)
    present = _blocked(kept, groups).any(1)
    return VectorWeight(shape, groups, _pack_bits(present), rows[present].contiguous())


def vector_mask(weight: Tensor, n: int, m: int, *, groups: int = 1) -> Tensor:
    """A vector-wise N:M mask: of every m consecutive input channels, each block of 16 output channels keeps the n largest rows.

    Largest in the Euclidean norm; of equal ones the first.

    Args:
        weight: [K, C_in / groups, C_out]; C_in / groups is a multiple of m.

    Returns:
        bool, of the weight's shape.
    """
    if weight.ndim != 3 or not 0 < n <= m or weight.shape[1] % m:
        raise ValueError(
            f"vector_mask takes a weight [K, C_in / groups, C_out] with 0 < n <= m and C_in / groups a multiple of m, "
            f"got {list(weight.shape)} and {n}:{m}"
        )
    _check_shape(tuple(weight.shape), groups)
    norms = _blocked(weight.detach(), groups).norm(dim=1)
    order = norms.view(-1, m).sort(dim=1, descending=True, stable=True).indices
    kept = torch.zeros(order.shape, dtype=torch.bool, device=weight.device).scatter_(1, order[:, :n], True)
    shape = (weight.shape[0], weight.shape[1], weight.shape[2])
    ones = weight.new_ones(int(kept.sum()), BLOCK)
    width = shape[2] // groups
    if width % BLOCK:
        blocks = -(-width // BLOCK)
        block = kept.view(-1).nonzero()[:, 0] // max(shape[1], 1) % blocks
        ones[block == blocks - 1, width % BLOCK :] = 0
    return VectorWeight(shape, groups, _pack_bits(kept.view(-1)), ones).unpack() != 0


def _blocked(dense: Tensor, groups: int) -> Tensor:
    """[K, C_in / groups, C_out] as rows [K * blocks * C_in / groups, 16], padded with zeros."""
    taps, channels, c_out = dense.shape
    width = c_out // groups
    per_group = -(-width // BLOCK)
    wide = dense.new_zeros(taps, channels, groups, per_group * BLOCK)
    wide[..., :width] = dense.reshape(taps, channels, groups, width)
    return wide.view(taps, channels, groups * per_group, BLOCK).transpose(1, 2).reshape(-1, BLOCK)


def _pack_bits(bits: Tensor) -> Tensor:
    padded = bits.new_zeros(-(-len(bits) // 8) * 8)
    padded[: len(bits)] = bits
    places = 2 ** torch.arange(8, dtype=torch.int64, device=bits.device)
    return (padded.view(-1, 8).to(torch.int64) * places).sum(1).to(torch.uint8)


def _unpack_bits(packed: Tensor) -> Tensor:
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed[:, None] >> places) & 1).reshape(-1).to(torch.int64)


def _check_shape(shape: tuple[int, ...], groups: int) -> None:
    good = len(shape) == 3 and all(isinstance(n, int) and 0 <= n < 2**31 for n in shape)
    if not good:
        raise ValueError(f"a weight's shape is (K, C_in / groups, C_out), got {shape!r}")
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or shape[2] % groups:
        raise ValueError(f"groups must divide the {shape[2]} output channels, got {groups!r}")


def _named(x: object) -> str:
    return str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
