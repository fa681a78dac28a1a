# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of indices as the engine knows them: spconv's may repeat, the engine's sites may not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ... import functional
from ...mapping import find_duplicate
from ...pairs import KernelMap
from ...sites import Sites
from .constants import SpconvError


class Cells:
    """An index array with its sites.

    Where rows repeat, the engine works on the distinct cells. `first` int64 [U] is the lowest row of each, which look-ups find,
    and `cell_of_row` int64 [N] the cell of every row; both are None where all rows differ.
    """

    def __init__(
        self, indices: Tensor, sites: Sites, first: Tensor | None = None, cell_of_row: Tensor | None = None
    ) -> None:
        self.indices = indices
        self.version = indices._version
        self.sites = sites
        self.first = first
        self.cell_of_row = cell_of_row
        self._inside: WeakKeyDictionary[KernelMap, KernelMap] = WeakKeyDictionary()

    @staticmethod
    def of(indices: Tensor, spatial_shape: Sequence[int], batch_size: int) -> Cells:
        """The cells of an index array from outside; SpconvError for batch indices outside [0, batch_size)."""
        shape = tuple(spatial_shape)
        stride = (1,) * len(shape)
        sites = Sites(indices.contiguous(), stride, shape, batch_size)
        bounds = sites.bounds
        if bounds is None:  # no rows
            return Cells(indices, sites)
        low, high = bounds[: len(bounds) // 2], bounds[len(bounds) // 2 :]
        if low[0] < 0 or high[0] >= batch_size:
            raise SpconvError(f"batch indices must lie in [0, {batch_size}), got {low[0]} .. {high[0]}")
        repeated = find_duplicate(sites.coords, (low, high))
        if repeated is None:
            return Cells(indices, sites)
        warnings.warn(
            f"SparseConvTensor: rows {repeated[0]} and {repeated[1]} of indices are the same cell; look-ups find the lowest row",
            stacklevel=2,
        )
        unique, order, offsets = torch.ops.sparseconv.unique_coords(sites.coords)
        cell_of_row = torch.empty_like(order)
        cell_of_row[order] = torch.arange(len(unique)).repeat_interleave(offsets.diff())
        return Cells(indices, Sites(unique, stride, shape, batch_size), order[offsets[:-1]], cell_of_row)

    def are(self, indices: Tensor, spatial_shape: Sequence[int], batch_size: int) -> bool:
        """Whether they are still those of this index array, shape and batch."""
        return (
            self.indices is indices
            and self.version == indices._version
            and self.sites.spatial_shape == tuple(spatial_shape)
            and self.sites.batch_size == batch_size
        )

    def inside(self, found: KernelMap) -> KernelMap:
        """A submanifold layer's map as spconv has it where rows lie outside the shape.

        spconv looks for pairs from one of two neighbours only, at the one further on in the order of taps, and only inside the
        shape: pairs whose further cell lies outside are none. A row outside still sees itself.
        """
        shape, bounds = self.sites.spatial_shape, self.sites.bounds
        if shape is None or bounds is None:
            return found
        axes = len(shape)
        low, high = bounds[1 : axes + 1], bounds[axes + 2 :]
        if min(low) >= 0 and all(c < n for c, n in zip(high, shape, strict=True)):
            return found
        kept = self._inside.get(found)
        if kept is None:
            cells = self.sites.coords[:, 1:]
            valid = ((cells >= 0) & (cells < cells.new_tensor(shape))).all(1)
            counts, centre = found.tap_offsets.diff(), found.taps // 2
            tap = torch.arange(found.taps, device=cells.device).repeat_interleave(counts)
            rows = found.pairs.long()  # input row, output row = input row - (tap - centre)
            keep = (tap == centre) | valid[torch.where(tap < centre, rows[:, 1], rows[:, 0])]
            offsets = torch.zeros_like(found.tap_offsets)
            torch.cumsum(torch.bincount(tap[keep], minlength=found.taps), 0, out=offsets[1:])
            kept = KernelMap(found.pairs[keep], offsets, found.in_coords, found.out_coords)
            self._inside[found] = kept
        return kept

    def lowest(self, features: Tensor) -> Tensor:
        """One row for each cell, the lowest: [N, C] -> [U, C]."""
        return features if self.first is None else features[self.first]

    def sums(self, features: Tensor) -> Tensor:
        """The sum of the rows of each cell: [N, C] -> [U, C]."""
        if self.cell_of_row is None:
            return features
        return functional.segment_sum(features, self.cell_of_row, len(self.sites))

    def maxima(self, features: Tensor) -> Tensor:
        """The maximum of the rows of each cell: [N, C] -> [U, C]."""
        if self.cell_of_row is None:
            return features
        return functional.segment_max(features, self.cell_of_row, len(self.sites))

    def spread(self, features: Tensor) -> Tensor:
        """Every row gets its cell's: [U, C] -> [N, C]."""
        return features if self.cell_of_row is None else features[self.cell_of_row]
