# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Sites: a set of occupied cells, shared by every tensor whose features live on them, with the kernel maps built for it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from . import _native, mapping
from .geometry import Rational


def as_stride(stride: Rational | Sequence[Rational], ndim: int) -> tuple[Rational, ...]:
    """One positive rational per axis; whole numbers as int."""
    values = tuple(stride) if isinstance(stride, Sequence) else (stride,) * ndim
    if len(values) != ndim:
        raise ValueError(f"stride must be one rational or {ndim}, got {len(values)}: {stride!r}")
    if any(isinstance(v, bool) or not isinstance(v, int | Fraction) for v in values):
        raise TypeError(f"stride must be int or Fraction per axis, got {stride!r}")
    if any(v <= 0 for v in values):
        raise ValueError(f"stride must be positive on every axis, got {stride!r}")
    return tuple(int(v) if v == int(v) else v for v in values)


class Sites:
    """An immutable set of cells.

    Attributes:
        coords: int32 [N, 1 + D], contiguous, unique rows; column 0 is the batch index.
        stride: what one cell measures in cells of the input grid, a rational per axis.
        spatial_shape: all coordinates lie in [0, spatial_shape); None = unbounded.
        batch_size: samples, trailing empty ones included.
        maps: kernel maps and their output sites by what they were built for (sparseconv.kernel_map fills it).
    """

    __slots__ = ("__weakref__", "_bounds", "batch_size", "coords", "maps", "spatial_shape", "stride")

    def __init__(
        self,
        coords: Tensor,
        stride: tuple[Rational, ...],
        spatial_shape: tuple[int, ...] | None,
        batch_size: int,
        bounds: list[int] | None = None,
    ) -> None:
        """Trusts its arguments; `Sites.checked` does not. `bounds`: see there, where they are known."""
        mark_rows_dynamic(coords)
        self._bounds = bounds
        self.coords = coords
        self.stride = stride
        self.spatial_shape = spatial_shape
        self.batch_size = batch_size
        self.maps: dict[Any, Any] = {}

    @staticmethod
    def checked(
        coords: Tensor,
        stride: Rational | Sequence[Rational] = 1,
        spatial_shape: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> Sites:
        """Sites from a user: checks type, shape, bounds, batch range and uniqueness, once."""
        if not isinstance(coords, Tensor):
            raise TypeError(f"coords must be a torch.Tensor int32 [N, 1 + D], got {type(coords).__name__}")
        if coords.dtype != torch.int32:
            raise TypeError(f"coords must be int32 [N, 1 + D], got {coords.dtype}")
        if coords.ndim != 2 or not 2 <= coords.shape[1] <= 5:
            raise ValueError(f"coords must be [N, 1 + D] with D from 1 to 4, got {list(coords.shape)}")
        ndim = coords.shape[1] - 1
        shape = None if spatial_shape is None else check_spatial_shape(spatial_shape, ndim)
        check_batch_size(batch_size)
        _native.require_device(coords.device)
        coords = coords.contiguous()
        bounds, repeat = mapping.bounds_and_repeat(coords) if coords.shape[0] else (None, None)
        if bounds is not None:
            _check_range(bounds, shape, batch_size)
        duplicate = mapping.find_duplicate(coords, bounds, repeat)
        if duplicate is not None:
            first, second = duplicate
            raise ValueError(
                f"coords must be unique, rows {first} and {second} are both {coords[second].tolist()}"
            )
        if batch_size is None:
            batch_size = 1 if bounds is None else int(bounds[1][0]) + 1
            check_batch_size(batch_size)
        flat = None if bounds is None else [*bounds[0], *bounds[1]]
        return Sites(coords, as_stride(stride, ndim), shape, batch_size, flat)

    @property
    def ndim(self) -> int:
        """Number of axes D."""
        return self.coords.shape[1] - 1

    @property
    def device(self) -> torch.device:
        """Where the coordinates lie."""
        return self.coords.device

    @property
    def bounds(self) -> list[int] | None:
        """A range that holds every column: lowest values, then highest; read from the rows once, None without rows.

        Sites made by a layer carry the range that the layer can reach. None in a compiled graph, which cannot know them.
        """
        if torch.compiler.is_compiling():
            return None
        if self._bounds is None and self.coords.shape[0]:
            low, high = mapping.bounds_of(self.coords)
            self._bounds = [*low, *high]
        return self._bounds

    def __len__(self) -> int:
        return self.coords.shape[0]

    def clear_cache(self) -> None:
        """Forgets the kernel maps built for these sites."""
        self.maps.clear()

    def same_as(self, other: Sites) -> bool:
        """Whether both hold the same rows in the same order."""
        return self is other or (
            self.coords.shape == other.coords.shape
            and (self.coords is other.coords or torch.equal(self.coords, other.coords))
        )

    def with_coords(self, coords: Tensor) -> Sites:
        """The same grid with other coordinates, trusted; no maps."""
        return Sites(coords, self.stride, self.spatial_shape, self.batch_size)

    def __getstate__(self) -> tuple[Any, ...]:
        return self.coords, self.stride, self.spatial_shape, self.batch_size  # the maps can be built again

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __repr__(self) -> str:
        bounded = "" if self.spatial_shape is None else f", spatial_shape={self.spatial_shape}"
        return f"Sites({len(self)} rows, stride={self.stride}{bounded}, batch_size={self.batch_size})"


def mark_rows_dynamic(rows: Tensor) -> None:
    """Says to torch.compile, ahead of its first look, that the number of rows varies: so the next scan compiles nothing.

    This is `torch._dynamo.maybe_mark_dynamic(rows, 0)` without the second that importing torch._dynamo takes.
    """
    if torch.compiler.is_compiling():
        return
    marks: Any = rows
    marks._dynamo_weak_dynamic_indices = {0, *getattr(rows, "_dynamo_weak_dynamic_indices", ())}
    marks._has_dynamo_dim_marking = True


def check_batch_size(batch_size: int | None, lowest: int = 0) -> None:
    """Raises unless batch_size is None or an int in [lowest, 2^31): batch indices are int32."""
    if batch_size is None:
        return
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"batch_size must be an int, got {batch_size!r}")
    if not lowest <= batch_size < 2**31:
        raise ValueError(f"batch_size must be in [{lowest}, 2^31), got {batch_size}")


def check_spatial_shape(spatial_shape: Sequence[int], ndim: int) -> tuple[int, ...]:
    """spatial_shape as a tuple; raises unless it is one int per axis in [1, 2^31]: coordinates are int32."""
    return check_cells(spatial_shape, ndim, "spatial_shape", lowest=1)


def check_cells(values: Sequence[int], ndim: int, name: str, lowest: int) -> tuple[int, ...]:
    """One whole number per axis in [lowest, 2^31] as a tuple; whole numbers of NumPy and torch are taken, floats are not."""
    try:
        cells = tuple(operator.index(value) for value in values)
    except TypeError:
        raise TypeError(f"{name} must be {ndim} ints, got {values!r}") from None
    if len(cells) != ndim or any(not lowest <= cell <= 2**31 for cell in cells):
        wanted = "positive ints" if lowest == 1 else f"ints of at least {lowest}"
        raise ValueError(f"{name} must be {ndim} {wanted}, at most 2^31, got {cells}")
    return cells


def _check_range(bounds: mapping.Bounds, shape: tuple[int, ...] | None, batch_size: int | None) -> None:
    """Raises where rows lie outside the batch or the shape."""
    low, high = bounds
    if low[0] < 0 or (batch_size is not None and high[0] >= batch_size):
        wanted = "not be negative" if batch_size is None else f"lie in [0, {batch_size})"
        raise ValueError(f"batch indices (column 0 of coords) must {wanted}, got {low[0]} .. {high[0]}")
    for axis, size in enumerate(shape or ()):
        if low[axis + 1] < 0 or high[axis + 1] >= size:
            raise ValueError(
                f"coords must lie in [0, spatial_shape), axis {axis} has shape {size}, got {low[axis + 1]} .. {high[axis + 1]}"
            )
