# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The cycle model against a machine that is run cycle by cycle, and against bounds that follow from its rules."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path

import eie
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparseconv.formats.eie_cycles import (
    Cycles,
    broadcast_gaps,
    layer_cycles,
    random_layer,
    simulate,
    work_of,
)


class Detector:
    """Leading-non-zero detection: a line of activations at a time, one non-zero a cycle, a line of zeros costs a cycle."""

    def __init__(self, active: list[bool], width: int) -> None:
        self.lines = [
            [c for c in range(start, min(start + width, len(active))) if active[c]]
            for start in range(0, len(active), width)
        ]

    def find(self) -> int | None:
        """The non-zero of this cycle; it is not searched on while the broadcast waits."""
        if self.lines and not self.lines[0]:
            self.lines.pop(0)
            return None
        return self.lines[0].pop(0) if self.lines else None

    def next_line(self) -> None:
        if self.lines and not self.lines[0]:
            self.lines.pop(0)


def run_machine(work: list[list[int]], active: list[bool], width: int, depth: int, empty: int) -> int:
    """Cycles of a machine of queues, stepped cycle by cycle."""
    pes = len(work[0]) if work else 0
    total = len(work)
    detector = Detector(active, width)
    queues: list[deque[int]] = [deque() for _ in range(pes)]  # entries left of each activation in the queue
    waiting: list[int] | None = None
    sent = cycle = 0
    while sent < total or any(queues) or waiting is not None:
        if waiting is None and sent < total and detector.find() is not None:
            detector.next_line()
            waiting = work[sent]
        if waiting is not None and all(len(q) < depth for q in queues):
            for q, entries in zip(queues, waiting, strict=True):
                q.append(max(entries, empty))
                if q[-1] == 0 and len(q) == 1:
                    q.popleft()
            waiting = None
            sent += 1
        for q in queues:
            if q:
                q[0] -= 1
                while q and q[0] == 0:
                    q.popleft()
        cycle += 1
    return cycle


@st.composite
def layers(draw: st.DrawFn) -> tuple[list[bool], list[list[int]], int]:
    pes = draw(st.integers(1, 4))
    active = draw(st.lists(st.booleans(), min_size=1, max_size=24))
    rows = st.lists(st.integers(0, 5), min_size=pes, max_size=pes)
    count = sum(active)
    return active, draw(st.lists(rows, min_size=count, max_size=count)), pes


@given(layers(), st.integers(1, 6), st.sampled_from([0, 1]))
def test_equals_the_machine(layer: tuple[list[bool], list[list[int]], int], depth: int, empty: int) -> None:
    active, work, pes = layer
    if empty == 0 and work:
        work = [
            *work[:-1],
            [entries + 1 for entries in work[-1]],
        ]  # else the last broadcast, not work, ends the machine's run
    found = simulate(
        torch.tensor(work).reshape(-1, pes),
        broadcast_gaps(torch.tensor(active), pes),
        fifo_depth=depth,
        empty_cycles=empty,
    )
    assert found.actual == run_machine(work, active, pes, depth, empty)
    assert found.entries == sum(map(sum, work)) and found.theoretical == found.entries / pes


@given(layers())
def test_bounds(layer: tuple[list[bool], list[list[int]], int]) -> None:
    _, rows, pes = layer
    work = torch.tensor(rows, dtype=torch.int64).reshape(-1, pes)
    busy = work.clamp(min=1)
    deep = [simulate(work, fifo_depth=d).actual for d in (1, 2, 4, 8, 1000)]
    assert deep[0] == int(busy.amax(1).sum()) if len(rows) else deep[0] == 0  # queues of one: all PEs in step
    assert deep == sorted(deep, reverse=True)
    assert deep[-1] >= (int(busy.sum(0).max()) if len(rows) else 0)
    if pes == 1:  # nobody to wait for
        assert len(set(deep)) == 1 and deep[0] == int(busy.sum())


def test_bounds_are_reached() -> None:
    work = torch.tensor([[5, 1], [1, 5], [5, 1], [1, 5]])
    assert simulate(work, fifo_depth=1) == Cycles(12.0, 20, 24, 2)
    assert simulate(work, fifo_depth=8).actual == 12 and simulate(work, fifo_depth=8).load_balance == 1.0
    assert simulate(work).microseconds(2.0) == (6.0, 6.0)


def test_detection_finds_one_activation_a_cycle_and_a_line_of_zeros_costs_one() -> None:
    active = torch.tensor([0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).bool()
    assert broadcast_gaps(active, 4).tolist() == [1, 1, 2]
    assert broadcast_gaps(active, 2).tolist() == [1, 1, 3]
    assert broadcast_gaps(active, 1).tolist() == [2, 1, 7]
    assert broadcast_gaps(torch.zeros(5).bool(), 4).tolist() == []
    # Too little work for the detection: it sets the pace.
    thin = simulate(torch.ones(3, 1, dtype=torch.int64), broadcast_gaps(active, 1))
    assert thin.actual == 10 and thin.load_balance == pytest.approx(0.3)


def test_work_counts_entries_and_fillers() -> None:
    mask = torch.zeros(64, 2, dtype=torch.uint8)
    mask[63, 0] = 1
    assert work_of(mask, 1).tolist() == [[4], [0]]
    assert work_of(mask, 2).tolist() == [[0, 2], [0, 0]]


def test_random_layers_have_the_shares_asked_for() -> None:
    mask, active = random_layer(1000, 640, 0.1, 0.351)
    assert int(active.sum()) == 351 and mask.shape == (640, 351)
    assert float(mask.float().mean()) == pytest.approx(0.1, abs=0.003)
    cycles = layer_cycles(mask, active, pes=64)
    assert cycles.entries >= int(mask.sum()) and cycles.theoretical <= cycles.actual
    alone = layer_cycles(mask, active, pes=1)
    assert alone.load_balance > 0.99
    assert layer_cycles(mask, active, fifo_depth=1).actual > cycles.actual


def test_no_activations() -> None:
    nothing = simulate(torch.zeros(0, 4, dtype=torch.int64))
    assert (nothing.actual, nothing.entries, nothing.load_balance) == (0, 0, 1.0)


@pytest.mark.parametrize(
    ("work", "options"),
    [
        (torch.zeros(3), {}),
        (torch.zeros(3, 2, dtype=torch.int64) - 1, {}),
        (torch.zeros(3, 2, dtype=torch.int64), {"fifo_depth": 0}),
        (torch.zeros(3, 2, dtype=torch.int64), {"empty_cycles": 2}),
        (torch.zeros(3, 2, dtype=torch.int64), {"gaps": torch.ones(2)}),
    ],
)
def test_bad_arguments(work: Tensor, options: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        simulate(work, **options)  # type: ignore[arg-type]


def test_the_command_writes_tables_and_a_picture(tmp_path: Path) -> None:
    results = eie.main(["--output", str(tmp_path), "--layers", "NT-We"])
    layer = json.loads((tmp_path / "eie-cycles.json").read_text())["layers"]["NT-We"]
    assert layer["published"]["actual_us"] == 8.0 and set(results["layers"]) == {"NT-We"}
    assert layer["queues"]["8"] == pytest.approx(layer["model"]["load_balance"])
    assert layer["speedup"]["1"] == 1.0 and layer["sizes"]["bits"]["pointers"] == 16 * 64 * 4097
    table = (tmp_path / "eie-cycles.md").read_text()
    assert table.count("| NT-We |") == 6 and "2 of 2 times are within 15%" in table
    assert (tmp_path / "eie-cycles.png").stat().st_size > 10_000
    with pytest.raises(SystemExit):
        eie.main(["--layers", "Alex-9"])
