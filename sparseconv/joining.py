# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Several sparse tensors as one: their sum, their channels side by side, their samples in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import elementwise
from .sites import Sites, check_batch_size
from .tensor import SparseTensor


def add(first: SparseTensor, other: SparseTensor, *, into_first: bool = False) -> SparseTensor:
    """`first + other`: on equal sites in the first's row order, else on their union in lexicographic order.

    Types may differ, as under autocast: torch promotes them. `into_first`: the first's features may be overwritten.
    """
    _check_channels("+", first, other)
    rows = _rows_on("+", first, other)
    if rows is None:
        coords, order, offsets = torch.ops.sparseconv.unique_coords(torch.cat([first.coords, other.coords]))
        features = torch.ops.sparseconv.gather_sum(
            torch.cat([first.features, other.features]), offsets, order, None
        )
        return SparseTensor.on(first.sites.with_coords(coords), features)
    summand = _take(other.features, rows)
    if into_first and torch.promote_types(first.dtype, summand.dtype) == first.dtype:
        elementwise.add_(first.features, summand)
        return first
    return SparseTensor.on(first.sites, first.features + summand)


def cat(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Concatenates channels of tensors on the same cells; rows in the order of the first.

    Raises:
        ValueError, TypeError: where the tensors' sites differ, and for anything but SparseTensors.
    """
    first = _first("cat", tensors)
    columns = [first.features]
    for other in tensors[1:]:
        rows = _rows_on("cat", first, other)
        if rows is None:
            raise ValueError(
                f"cat takes tensors on the same cells, got {len(first)} and {len(other)} rows that differ"
            )
        columns.append(_take(other.features, rows))
    return SparseTensor.on(first.sites, torch.cat(columns, 1))


def collate(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """One batch of several tensors: the batches follow each other, empty samples included.

    Raises:
        ValueError, TypeError: where stride, spatial_shape, channels, types or devices differ, and for anything but SparseTensors.
    """
    first = _first("collate", tensors)
    coords, total = [], 0
    for other in tensors:
        _check_equal("collate", first, other, ("ndim", "stride", "spatial_shape", "device", "dtype"))
        _check_channels("collate", first, other)
        shift = torch.zeros(1 + other.ndim, dtype=torch.int32, device=other.device)
        shift[0] = total
        coords.append(other.coords + shift)
        total += other.batch_size
        check_batch_size(total)
    sites = Sites(torch.cat(coords), first.stride, first.spatial_shape, total)
    return SparseTensor.on(sites, torch.cat([x.features for x in tensors]))


def _first(name: str, tensors: Sequence[SparseTensor]) -> SparseTensor:
    if not isinstance(tensors, list | tuple):
        raise TypeError(f"{name} takes a list of SparseTensors, got {type(tensors).__name__}")
    if not tensors:
        raise ValueError(f"{name} takes at least one tensor, got none")
    for x in tensors:
        if not isinstance(x, SparseTensor):
            raise TypeError(f"{name} takes SparseTensors, got {type(x).__name__}")
    first: SparseTensor = tensors[0]
    return first


def _check_equal(name: str, first: SparseTensor, other: SparseTensor, labels: Sequence[str]) -> None:
    for label in labels:
        have: Any = getattr(first, label)
        got: Any = getattr(other, label)
        if have != got:
            raise ValueError(f"{name} takes tensors of equal {label}, got {have} and {got}")


def _check_channels(name: str, first: SparseTensor, other: SparseTensor) -> None:
    have, got = first.features.shape[1], other.features.shape[1]
    if have != got:
        raise ValueError(f"{name} takes tensors of equal channels, got {have} and {got}")


def _rows_on(name: str, first: SparseTensor, other: SparseTensor) -> Tensor | slice | None:
    """The row of `other` for each row of `first`, where both are on the same set of cells: int64 [N], or all in order."""
    if other.sites is first.sites:
        return slice(None)
    _check_equal(name, first, other, ("ndim", "stride", "batch_size", "spatial_shape", "device"))
    if len(first) != len(other):
        return None
    rows: Tensor = torch.ops.sparseconv.find_rows(other.coords, first.coords)
    return None if bool((rows < 0).any()) else rows


def _take(features: Tensor, rows: Tensor | slice) -> Tensor:
    return features if isinstance(rows, slice) else features[rows]
