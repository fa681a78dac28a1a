# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What detection code uses of `cumm.tensorview`: arrays on their way into a voxel generator and out of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class Tensor:
    """An array on the CPU."""

    def __init__(self, array: Sequence[Any] | np.ndarray[Any, Any] | torch.Tensor = ()) -> None:
        self._array = array.numpy() if isinstance(array, torch.Tensor) else np.asarray(array)

    @property
    def shape(self) -> list[int]:
        """Length of each axis."""
        return list(self._array.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._array.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._array.size

    def dim(self, axis: int) -> int:
        """Length of an axis."""
        return int(self._array.shape[axis])

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy: later calls of the generator do not change it."""
        return self._array.copy()

    def numpy_view(self) -> np.ndarray[Any, Any]:
        """The memory itself, which a generator writes again at its next call."""
        return self._array

    def clone(self) -> Tensor:
        """A Tensor with memory of its own."""
        return Tensor(self._array.copy())

    def cpu(self) -> Tensor:
        """A Tensor with memory of its own."""
        return self.clone()

    def empty(self) -> bool:
        """Whether there is no element."""
        return self._array.size == 0

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self._array.astype(dtype, copy=bool(copy))

    def __len__(self) -> int:
        return len(self._array)

    def __repr__(self) -> str:
        return f"Tensor({self._array!r})"


def from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """The array as a Tensor, which shares its memory."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a numpy array, got {type(array).__name__}")
    return Tensor(array)


def to_torch(points: Any, name: str) -> torch.Tensor:
    """Points as a torch tensor without a copy: from torch, numpy, this module's Tensor or cumm's."""
    if isinstance(points, torch.Tensor):
        return points.detach()
    view = getattr(points, "numpy_view", None)
    array = view() if view is not None else points
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"{name}: points must be a torch tensor, a numpy array or a tensorview tensor, got {type(points).__name__}"
        )
    # torch refuses arrays of negative strides and warns of read-only ones; both are copied.
    return torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy())
