# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The pairs of a kernel map: which input row meets which output row through which tap."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from . import _native, ops, pairing  # noqa: F401  ops registers the operators

TABLE_LIMIT = 1 << 30  # bytes of a neighbour table that is still built on request


class KernelMap:
    """The pairs of a layer; immutable.

    Attributes:
        pairs: int32 [P, 2], columns (input row, output row), sorted by (tap, output row).
        tap_offsets: int64 [K + 1]; the pairs of tap k are pairs[tap_offsets[k] : tap_offsets[k + 1]].
        in_coords, out_coords: int32 [n_in, 1 + D] and [n_out, 1 + D], the coordinates of the rows.
        mirrored: tap k and tap K - 1 - k are opposite, so that the reversed map is this one with its taps in reverse order.

    Raises:
        ValueError, TypeError: for arrays that are no such map; the kernels read and write the rows it names.
    """

    # A map holds coordinates, not Sites, and a reversed map holds its origin weakly: maps hang in the caches of sites, and a
    # reference cycle would keep a scan's memory until the garbage collector comes.
    __slots__ = (
        "__weakref__",
        "_neighbors",
        "_origin",
        "_reverse",
        "in_coords",
        "mirrored",
        "out_coords",
        "pairs",
        "tap_offsets",
    )

    def __init__(
        self,
        pairs: Tensor,
        tap_offsets: Tensor,
        in_coords: Tensor,
        out_coords: Tensor,
        mirrored: bool = False,
    ) -> None:
        _check_arrays(pairs, tap_offsets, in_coords, out_coords)
        self._set(pairs, tap_offsets, in_coords, out_coords, mirrored)

    @classmethod
    def trusted(cls, *arrays: Any) -> KernelMap:
        """The constructor for what the builders made; checks nothing."""
        kernel_map = cls.__new__(cls)
        kernel_map._set(*arrays)
        return kernel_map

    def _set(
        self, pairs: Tensor, tap_offsets: Tensor, in_coords: Tensor, out_coords: Tensor, mirrored: bool
    ) -> None:
        self.pairs = pairs
        self.tap_offsets = tap_offsets
        self.in_coords = in_coords
        self.out_coords = out_coords
        self.mirrored = mirrored
        self._neighbors: Tensor | None = None
        self._reverse: KernelMap | None = None
        self._origin: weakref.ref[KernelMap] | None = None

    @property
    def n_in(self) -> int:
        """Rows of the input."""
        return self.in_coords.shape[0]

    @property
    def n_out(self) -> int:
        """Rows of the output."""
        return self.out_coords.shape[0]

    @property
    def taps(self) -> int:
        """Number of taps K."""
        return self.tap_offsets.shape[0] - 1

    @property
    def neighbors(self) -> Tensor:
        """int32 [K, n_out]: the input row that each output row reads through each tap, -1 for none.

        Raises:
            ValueError: where the table would take more than 1 GiB; its pairs hold the same in less.
        """
        if self._neighbors is None:
            size = 4 * self.taps * self.n_out
            if size > TABLE_LIMIT:
                raise ValueError(
                    f"a neighbour table is at most {TABLE_LIMIT} bytes, got {self.taps} taps x {self.n_out} rows = {size} bytes; "
                    "use pairs and tap_offsets"
                )
            self._neighbors = pairing.neighbor_table(self.pairs, self.tap_offsets, self.n_out)
        return self._neighbors

    def reverse(self) -> KernelMap:
        """The map with input and output swapped, tap k staying tap k; built once."""
        origin = None if self._origin is None else self._origin()
        if origin is not None:
            return origin
        if self._reverse is None:
            if self.mirrored:
                # (i, o) meets through tap k exactly where (o, i) meets through tap K - 1 - k: the segments, last to first.
                counts = self.tap_offsets.diff().tolist()
                pairs = torch.cat(self.pairs.split(counts)[::-1]) if counts else self.pairs
                offsets = torch.zeros_like(self.tap_offsets)
                torch.cumsum(self.tap_offsets.diff().flip(0), 0, out=offsets[1:])
            else:
                pairs, offsets = torch.ops.sparseconv.reverse_pairs(self.pairs, self.tap_offsets, self.n_in)
            self._reverse = KernelMap.trusted(pairs, offsets, self.out_coords, self.in_coords, self.mirrored)
            self._reverse._origin = weakref.ref(self)
        return self._reverse

    def select(self, taps: list[int], mirrored: bool = False) -> KernelMap:
        """The map of these of its taps, in this order; `mirrored`: whether that list is. Copies their segments, finds nothing."""
        starts = self.tap_offsets.tolist()
        segments = [self.pairs[starts[t] : starts[t + 1]] for t in taps]
        offsets = self.tap_offsets.new_zeros(len(taps) + 1)
        torch.cumsum(self.tap_offsets.diff()[taps], 0, out=offsets[1:])
        pairs = torch.cat([self.pairs[:0], *segments])
        return KernelMap.trusted(pairs, offsets, self.in_coords, self.out_coords, mirrored)

    def reverse_arrays(self) -> tuple[Tensor, Tensor, bool]:
        """What the gradient of the input runs over: pairs, tap offsets, and whether segment s belongs to tap K - 1 - s."""
        if self.mirrored:
            return self.pairs, self.tap_offsets, True
        reverse = self.reverse()
        return reverse.pairs, reverse.tap_offsets, False

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickles and deep-copies without what can be built again: the table and the reversed map, which points back weakly.
        return KernelMap, (self.pairs, self.tap_offsets, self.in_coords, self.out_coords, self.mirrored)

    def __repr__(self) -> str:
        return f"KernelMap({self.taps} taps, {self.pairs.shape[0]} pairs, {self.n_in} -> {self.n_out} rows)"


def _check_arrays(pairs: Tensor, tap_offsets: Tensor, in_coords: Tensor, out_coords: Tensor) -> None:
    wanted = (
        ("pairs", pairs, torch.int32, 2),
        ("tap_offsets", tap_offsets, torch.int64, 1),
        ("in_coords", in_coords, torch.int32, 2),
        ("out_coords", out_coords, torch.int32, 2),
    )
    for label, array, dtype, ndim in wanted:
        got = getattr(array, "dtype", type(array).__name__)
        if got != dtype:
            raise TypeError(f"KernelMap: {label} must be a tensor of {dtype}, got {got}")
        if array.ndim != ndim or not array.is_contiguous():
            raise ValueError(
                f"KernelMap: {label} must be contiguous with {ndim} axes, got {list(array.shape)}"
            )
        _native.require_device(array.device)
    if pairs.shape[1] != 2 or in_coords.shape[1] != out_coords.shape[1]:
        raise ValueError(
            f"KernelMap: pairs must be [P, 2] and both coords [n, 1 + D], got {list(pairs.shape)}, "
            f"{list(in_coords.shape)} and {list(out_coords.shape)}"
        )
    offsets = tap_offsets.tolist()
    if offsets[:1] != [0] or offsets[-1] != len(pairs) or offsets != sorted(offsets):
        raise ValueError(f"KernelMap: tap_offsets must rise from 0 to {len(pairs)}, got {offsets}")
    for column, rows in enumerate((len(in_coords), len(out_coords))):
        low, high = (int(v) for v in torch.aminmax(pairs[:, column])) if len(pairs) else (0, -1)
        if low < 0 or high >= rows:
            raise ValueError(
                f"KernelMap: column {column} of pairs must lie in [0, {rows}), got {low} .. {high}"
            )
    if not pairing.pairs_sorted(pairs, tap_offsets, 1):
        raise ValueError("KernelMap: the pairs of a tap must increase in the output row, each at most once")
