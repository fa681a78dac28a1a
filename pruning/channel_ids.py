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
        self._produced: set[int] = set()

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
        """`root` of each."""
        return np.array([self.root(int(i)) for i in ids], dtype=np.int64)

    def tie(self, first: Ids, other: Ids) -> None:
        """Ties position by position; both have the same length."""
        if first is other:
            return
        for a, b in zip(first.tolist(), other.tolist(), strict=True):
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

    def reason(self, root: int) -> str | None:
        """Why a root's channels must stay; None where they need not."""
        return self._reasons.get(root)

    def produced(self, root: int) -> bool:
        """Whether a weight computes a root's channels."""
        return root in self._produced
