# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""How many cycles the EIE accelerator takes for a layer: broadcast of activations, queues, and one entry a cycle in each PE.

Source: Han et al., "EIE" (ISCA 2016), sections IV and VI: non-zero activations are found one a cycle and broadcast to the queues
of all PEs, unless one of them is full; a PE works on the activation at its queue's head, an entry a cycle, fillers included,
and lets go of it when the column is done. Left out: the few cycles that fill the pipeline at a layer's start, and the memories'
widths, which keep pace with an entry a cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .eie import pack_eie

CLOCK_MHZ = 800.0
FIFO_DEPTH = 8


@dataclass(frozen=True)
class Cycles:
    """What a layer takes.

    Attributes:
        theoretical: cycles if the entries of the columns with an activation were dealt out evenly; what remains is `actual`'s.
        actual: cycles until the last PE is done.
        entries: that were gone through, all PEs together, fillers included.
        pes: processing elements.
    """

    theoretical: float
    actual: int
    entries: int
    pes: int

    @property
    def load_balance(self) -> float:
        """1 - cycles in which a PE had no entry to work on over all cycles, the mean over the PEs."""
        return self.theoretical / self.actual if self.actual else 1.0

    def microseconds(self, clock_mhz: float = CLOCK_MHZ) -> tuple[float, float]:
        """Theoretical and actual time at a clock."""
        return self.theoretical / clock_mhz, self.actual / clock_mhz


def broadcast_gaps(active: Tensor, pes: int) -> Tensor:
    """[count] int64: cycles from one broadcast to the next that leading-non-zero detection allows.

    Activations lie `pes` to a line; one non-zero of a line is found in a cycle, and a line without any takes a cycle too.

    Args:
        active: [cols] bool, which activations are not zero.
        pes: activations on a line.
    """
    line = active.nonzero().flatten() // pes
    has_any = torch.zeros(-(-len(active) // pes), dtype=torch.int64)
    has_any[line] = 1
    empty_before = (1 - has_any).cumsum(0)[line]
    return 1 + empty_before.diff(prepend=empty_before.new_zeros(1))


def simulate(
    work: Tensor, gaps: Tensor | None = None, *, fifo_depth: int = FIFO_DEPTH, empty_cycles: int = 1
) -> Cycles:
    """Runs a layer.

    The first broadcast is at cycle gaps[0] - 1. Column j is broadcast gaps[j] cycles after column j - 1 at the earliest, and not
    before every PE is done with column j - fifo_depth; a PE begins with it when it has it and is done with column j - 1.

    Args:
        work: [columns, pes] integers, the entries of each PE in the columns with an activation, in their order.
        gaps: [columns] integers >= 1 as of `broadcast_gaps`; None: a broadcast each cycle.
        fifo_depth: activations that a PE's queue holds, the one it works on included; at least 1.
        empty_cycles: what a column without entries costs a PE: 1, since its pointers are read and compared, or 0. At a queue's
            depth of 1 it decides nothing but the time of empty columns.

    Raises:
        ValueError: for a depth below 1, negative work, or shapes that do not match.
    """
    if (
        work.dim() != 2
        or fifo_depth < 1
        or empty_cycles not in (0, 1)
        or (work.numel() > 0 and int(work.min()) < 0)
    ):
        raise ValueError(
            f"work must be [columns, pes] and not negative, fifo_depth >= 1, empty_cycles 0 or 1; "
            f"got {list(work.shape)}, {fifo_depth}, {empty_cycles}"
        )
    columns, pes = work.shape
    steps = [1] * columns if gaps is None else [int(gap) for gap in gaps]
    if len(steps) != columns:
        raise ValueError(f"gaps must be [{columns}], got [{len(steps)}]")
    cost = work.to(torch.int64).clamp(min=empty_cycles).numpy()
    done = torch.zeros(pes, dtype=torch.int64).numpy()
    all_done: list[int] = []  # when every PE is done with column j
    broadcast = -1
    for j in range(columns):
        broadcast += steps[j]
        if j >= fifo_depth:
            broadcast = max(broadcast, all_done[j - fifo_depth])
        done.clip(min=broadcast, out=done)
        done += cost[j]
        all_done.append(int(done.max()))
    entries = int(work.sum())
    return Cycles(entries / max(pes, 1), all_done[-1] if all_done else 0, entries, pes)


def random_layer(
    inputs: int, outputs: int, weights: float, activations: float, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Independent random non-zeros: mask [outputs, active] uint8 of the columns with an activation, and active [inputs] bool.

    Args:
        inputs, outputs: of the layer.
        weights, activations: the shares that are not zero; the activations' is met exactly.
        seed: of the generator.
    """
    generator = torch.Generator().manual_seed(seed)
    active = torch.zeros(inputs, dtype=torch.bool)
    active[torch.randperm(inputs, generator=generator)[: round(inputs * activations)]] = True
    mask = torch.rand(outputs, int(active.sum()), generator=generator) < weights
    return mask.to(torch.uint8), active


def work_of(mask: Tensor, pes: int) -> Tensor:
    """[columns, pes]: entries, fillers included, of a mask [rows, columns] uint8 dealt out to so many PEs."""
    codebook = torch.zeros(16)
    return pack_eie(mask, codebook, pes=pes).entries_per_column().T.contiguous()


def layer_cycles(
    mask: Tensor, active: Tensor, *, pes: int = 64, fifo_depth: int = FIFO_DEPTH, empty_cycles: int = 1
) -> Cycles:
    """Cycles of a layer as `random_layer` gives it, or of a real one: the mask of the columns with an activation."""
    return simulate(
        work_of(mask, pes), broadcast_gaps(active, pes), fifo_depth=fifo_depth, empty_cycles=empty_cycles
    )
