# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the benchmark: rounds that interleave, ratios of pairs, ceilings, scans and options. No time is ever judged."""

from __future__ import annotations

import re
import time
from pathlib import Path

import engines
import numpy as np
import pytest
import scans
import throughput
import torch
from machine import Rulers
from timing import Budget, Spread, Task, Timings, interleave, ratios

import sparseconv


def points(seed: int, n: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-4, 4, (n, 3)).astype(np.float32)


# --- timing -----------------------------------------------------------------------------------------------------------


def test_rounds_are_interleaved_and_warmed_up() -> None:
    ran: list[str] = []
    tasks = {name: Task(lambda n=name: ran.append(n)) for name in "abc"}
    timings = interleave(tasks, Budget(rounds=4, seconds=60), warmup=2)
    assert timings.order == list("abc") * 4
    assert ran == list("abc") * 2 + list("aabbcc") * 4  # short tasks run twice in a turn
    assert {name: len(s) for name, s in timings.seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_round_is_never_cut_and_the_least_is_kept() -> None:
    timings = interleave({"a": Task(lambda: None), "b": Task(lambda: None)}, Budget(100, 0.0, 3))
    assert timings.order == ["a", "b"] * 3


def test_preparation_is_handed_over_anew_each_time() -> None:
    made: list[object] = []
    got: list[object] = []

    def prepare() -> object:
        made.append(object())
        return made[-1]

    interleave({"a": Task(got.append, prepare)}, Budget(3, 60.0), warmup=1)
    assert got == made
    assert len(set(map(id, made))) == 7


def test_the_second_run_of_a_short_task_counts_and_the_only_one_of_a_long_task() -> None:
    """The first run of each turn is slow: caches that another task filled."""
    sleeps = {"short": iter([0.0] + [0.02, 0.0] * 2), "long": iter([0.0] + [0.06] * 2)}
    tasks = {name: Task(lambda n=name: time.sleep(next(sleeps[n]))) for name in sleeps}
    timings = interleave(tasks, Budget(2, 60.0))
    assert max(timings.seconds["short"]) < 0.015 < 0.02 <= min(timings.cold["short"])
    assert timings.seconds["long"] == timings.cold["long"]
    assert min(timings.seconds["long"]) >= 0.06


def test_turns_of_one_run_where_that_is_asked_for() -> None:
    ran: list[str] = []
    timings = interleave({"a": Task(lambda: ran.append("a"))}, Budget(3, 60.0), again=False)
    assert len(ran) == 4  # one of them warms up
    assert timings.seconds == timings.cold


def test_ratios_are_of_pairs() -> None:
    """A machine that slows down tenfold half way changes no ratio."""
    timings = Timings({"slow": [2.0, 2.0, 20.0, 20.0, 20.0], "fast": [1.0, 1.0, 10.0, 10.0, 10.0]})
    assert ratios(timings, "slow", "fast") == Spread(2.0, 2.0, 2.0, 2.0, 5)


def test_spread() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 3.0]) == Spread(2.5, 1.75, 3.25, 1.0, 4)
    assert Spread.of([1.0]).scaled(1e3) == Spread(1e3, 1e3, 1e3, 1e3, 1)


def test_ceilings() -> None:
    assert sparseconv.fma_peak() > 0
    rulers = Rulers()
    rulers.add_gemm(8, 8)
    rulers.add_copy(1 << 20)
    timings = interleave(rulers.tasks, Budget(2, 0.0, 2))
    assert len(timings.figures[Rulers.FMA]) == 2
    assert min(timings.figures[Rulers.FMA]) > 0
    assert rulers.gemm_rates([1.0]) == [2.0 * (1 << 15) * 64 / 1e9]
    assert rulers.copy_rates([1.0]) == [2.0 * (1 << 20) / 1e9]
    assert set(timings.seconds) == {Rulers.FMA, Rulers.GEMM, Rulers.COPY}


# --- scans and options ------------------------------------------------------------------------------------------------


def test_scans_are_sorted_and_bounded() -> None:
    scan = scans.from_points("points", points(0), 0.4)
    assert torch.equal(engines.lexicographic(scan.coords), torch.arange(len(scan)))
    assert scan.coords.amin(0).tolist() == [0] * 4
    assert tuple((scan.coords.amax(0) + 1)[1:].tolist()) == scan.shape
    cells = np.floor((points(0).astype(np.float64) - points(0).min(0)) / 0.4).astype(np.int32)
    _, first = np.unique(cells, axis=0, return_index=True)
    np.testing.assert_array_equal(scan.in_scan_order().coords[:, 1:].numpy(), cells[np.sort(first)])


def test_merged_sweeps_have_the_size_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "_simulated_points", points)
    for size in (10, 5_000, 20_000):
        scan = scans.merged(size, 0.2)
        assert len(scan) == size
        assert torch.equal(engines.lexicographic(scan.coords), torch.arange(size))
        assert len(torch.unique(scan.coords, dim=0)) == size


def test_scan_options(tmp_path: Path) -> None:
    np.save(tmp_path / "two words.npy", points(0))
    (one,) = scans.open_scan(f"{tmp_path / 'two words.npy'}@0.5", 0.1)
    assert one.label == "two words 0.5 m"
    (grid,) = scans.open_scan("dense-grid@4", 0.1)
    assert len(grid) == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "suites are"),
        (["conv", "--against", "nobody"], "--against takes"),
        (["conv", "--channels", "1,x"], "--channels takes"),
        (["conv", "--threads", "0"], "must be positive"),
        (["conv", "--scan", "/no/such/scan.bin"], "no such|No such"),
        (["conv", "--device", "cuda"], "CPU only"),
    ],
)
def test_wrong_options_say_what_is_wrong(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        throughput.main(arguments)
    assert re.search(message, f"{stop.value} {capsys.readouterr().err}")
