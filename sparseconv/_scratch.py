# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Working memory that a thread keeps from one call of the core to the next."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

# Bytes that a thread keeps, at most, in each slot.
SCRATCH_KEPT = 32 << 20
# Slots 0 and 1: what a map's loops find; 2 and 3: fine and coarse keys; 4: what a kernel packs or sums aside.
KERNEL_SLOT = 4


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.blocks: dict[int, Tensor] = {}


_scratch = _Scratch()


def scratch(size: int, slot: int) -> Tensor:
    """At least `size` bytes of working memory, uint8, free until the thread's next call with the same slot.

    Fresh memory costs a page fault for each page that is touched, which can take longer than the loops that use it: blocks of
    up to SCRATCH_KEPT bytes are kept for the thread's next call.
    """
    block = _scratch.blocks.get(slot)
    if block is None or len(block) < size:
        block = torch.empty(size, dtype=torch.uint8)
        if size <= SCRATCH_KEPT:
            _scratch.blocks[slot] = block
    return block
