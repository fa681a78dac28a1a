# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""spconv.pytorch.hash: a table of numbers by integer keys."""

from __future__ import annotations

import torch
from torch import Tensor

_KEYS = (torch.int32, torch.int64)
_VALUES = (*_KEYS, torch.float32, torch.float64)


class HashTable:
    """Values by keys, int32 or int64. Where a key comes again its first value stays.

    Items are listed in the order in which their keys first came; spconv's order is that of its hash. Held in sorted
    arrays: an insertion sorts, a query is a binary search.

    Args: device; key_dtype, int32 or int64; value_dtype, int32, int64, float32 or float64; max_size, which spconv needs on
    a GPU, is accepted and bounds nothing.
    """

    def __init__(
        self,
        device: torch.device | str,
        key_dtype: torch.dtype,
        value_dtype: torch.dtype,
        max_size: int = -1,  # noqa: ARG002
    ) -> None:
        if key_dtype not in _KEYS or value_dtype not in _VALUES:
            raise TypeError(
                "HashTable: keys must be int32 or int64, values int32, int64, float32 or float64, "
                f"got {key_dtype} and {value_dtype}"
            )
        self.device = torch.device(device)
        self.is_cpu = self.device.type == "cpu"
        self.key_dtype, self.value_dtype = key_dtype, value_dtype
        self._keys = torch.empty(0, dtype=key_dtype, device=self.device)  # sorted
        self._places = torch.empty(0, dtype=torch.int64, device=self.device)  # of each key in _values
        self._values = torch.empty(0, dtype=value_dtype, device=self.device)  # in order of arrival

    def insert(self, keys: Tensor, values: Tensor | None = None) -> None:
        """Add keys [N] that are not there yet with their values [N], None = 0."""
        self._check(keys, values, "insert")
        new = self._find(keys)[1].nonzero()[:, 0]
        unique, inverse = torch.unique(keys[new], return_inverse=True)
        first = torch.full((len(unique),), len(new), dtype=torch.int64, device=self.device)
        first.scatter_reduce_(0, inverse, torch.arange(len(new), device=self.device), "amin")
        arrival = first.argsort()
        places = torch.empty_like(first)
        places[arrival] = torch.arange(len(first), device=self.device) + len(self._values)
        added = self._values.new_zeros(len(new)) if values is None else values[new]
        self._values = torch.cat([self._values, added[first[arrival]]])
        self._keys, order = torch.cat([self._keys, unique]).sort()
        self._places = torch.cat([self._places, places])[order]

    def query(self, keys: Tensor, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The values of keys [N] and a bool [N], True where a key is missing.

        values: where to write them; a missing key's place stays as it is, and is 0 in an array of our own.
        """
        self._check(keys, values, "query")
        place, missing = self._find(keys)
        if values is None:
            values = torch.zeros(len(keys), dtype=self.value_dtype, device=self.device)
        found = ~missing
        values[found] = self._values[place[found]]
        return values, missing

    def insert_exist_keys(self, keys: Tensor, values: Tensor) -> Tensor:
        """Give keys [N] that are there new values [N]; uint8 [N], 1 where a key is missing. The last of equal keys wins."""
        self._check(keys, values, "insert_exist_keys")
        place, missing = self._find(keys)
        rows = (~missing).nonzero()[:, 0]
        last = torch.full((len(self._values),), -1, dtype=torch.int64, device=self.device)
        last.scatter_reduce_(0, place[rows], rows, "amax")
        self._values = torch.where(last >= 0, values[last], self._values) if len(rows) else self._values
        return missing.to(torch.uint8)

    def assign_arange_(self) -> Tensor:
        """Give the items the values 0, 1, ... in the order in which `items` lists them; returns their number, int64 [1]."""
        if self.value_dtype not in _KEYS:
            raise TypeError(f"HashTable: assign_arange_ needs int32 or int64 values, got {self.value_dtype}")
        self._values = torch.arange(len(self._values), dtype=self.value_dtype, device=self.device)
        return self._count()

    def items(self, max_size: int = -1) -> tuple[Tensor, Tensor, Tensor]:
        """Keys [M], values [M] and their number, int64 [1]; max_size bounds M."""
        keys = torch.empty_like(self._keys)
        keys[self._places] = self._keys
        end = len(keys) if max_size < 0 else max_size
        return keys[:end], self._values[:end].clone(), self._count()

    def _count(self) -> Tensor:
        return torch.tensor([len(self._values)], dtype=torch.int64, device=self.device)

    def _find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Each key's place in _values, and whether it has none."""
        if len(self._keys) == 0:
            return torch.zeros(len(keys), dtype=torch.int64, device=self.device), torch.ones(
                len(keys), dtype=torch.bool, device=self.device
            )
        near = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        return self._places[near], self._keys[near] != keys

    def _check(self, keys: Tensor, values: Tensor | None, name: str) -> None:
        for array, what, dtype in ((keys, "keys", self.key_dtype), (values, "values", self.value_dtype)):
            if array is None:
                continue
            if not isinstance(array, Tensor) or array.dtype != dtype:
                raise TypeError(
                    f"HashTable.{name}: {what} must be {dtype}, got {getattr(array, 'dtype', array)}"
                )
            if array.ndim != 1 or len(array) != len(keys):
                raise ValueError(f"HashTable.{name}: {what} must be [{len(keys)}], got {list(array.shape)}")
            if array.device.type != self.device.type:
                raise ValueError(f"HashTable.{name}: {what} must be on {self.device}, got {array.device}")
