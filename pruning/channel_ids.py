# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Which channels are one and the same: a union-find over channel ids, with the reasons why some must stay."""

from __future__ import annotations

from typing import Any

import numpy as np

Ids = np.ndarray[Any, np.dtype[np.int64]]  # the channel id of every position along one axis of a tensor


class ChannelIds:
    """Ids that are tied when an operation makes them stand or fall together (a sum, a norm, a product with a weight)."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}  # of roots
        self._produced: set[int] = set()  # roots
        self._made: set[int] = set()  # ids as they are, before anything was tied to them

    def new(self, count: int) -> Ids:
        """`count` ids that are tied to nothing."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def root(self, number: int) -> int:
        """The id that stands for all that `number` is tied to."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def roots(self, ids: Ids) -> Ids:
        """`root` of each. A flattened array repeats its channels for every row, hence `unique`."""
        unique, where = np.unique(ids, return_inverse=True)
        return np.array([self.root(int(i)) for i in unique], dtype=np.int64)[where]

    def tie(self, first: Ids, other: Ids) -> None:
        """Ties position by position; both have the same length."""
        if first is other:
            return
        if len(first) != len(other):
            raise ValueError(f"{len(first)} channels cannot be tied to {len(other)}")
        for a, b in np.unique(np.stack([first, other], 1), axis=0).tolist():
            low, high = sorted((self.root(a), self.root(b)))
            if low == high:
                continue
            self._parent[high] = low
            if high in self._reasons:
                self._reasons.setdefault(low, self._reasons.pop(high))
            if high in self._produced:
                self._produced.add(low)

    def freeze(self, ids: Ids, reason: str) -> None:
        """Says that these channels must stay, and why; the first reason is kept."""
        for i in set(self.roots(ids).tolist()):
            self._reasons.setdefault(i, reason)

    def produce(self, ids: Ids) -> None:
        """Says that a weight computes these channels."""
        self._produced.update(self.roots(ids).tolist())
        self._made.update(np.unique(ids).tolist())

    def reason(self, root: int) -> str | None:
        """Why a root's channels must stay; None where they need not."""
        return self._reasons.get(root)

    def makes(self, ids: Ids) -> bool:
        """Whether these ids of a weight's axis are of channels that the weight itself computes."""
        return bool(self._made.intersection(ids.tolist()))

    def produced(self, root: int) -> bool:
        """Whether a weight computes a root's channels."""
        return root in self._produced
