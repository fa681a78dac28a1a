# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark: a tiny run of all suites, and that it would notice engines that disagree. No time is ever judged."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engines
import memory
import numpy as np
import pytest
import scans
import suite_network
import throughput
import torch
from checks import agree, difference
from layers import MAP_LAYERS, Layer
from report import Check, Report
from settings import parse

HAS_SPCONV = importlib.util.find_spec("spconv") is not None
TINY = "--quick --scan dense-grid@6 --channels 4,8 --repeats 2 --seconds 0.01".split()


def points(seed: int, n: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-4, 4, (n, 3)).astype(np.float32)


def empty_report() -> Report:
    return Report({"name": "test", "instruction_set": "generic", "date": "", "versions": {}}, {})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Report, Path]]:
    """All suites against all peers on a few hundred voxels, the sweeps of the scale part made up."""
    threads, simulated = torch.get_num_threads(), scans._simulated_points
    scans._simulated_points = points
    folder = tmp_path_factory.mktemp("benchmark")
    np.save(
        folder / "few.npy", points(0)[:300]
    )  # far enough apart for several voxels at a sixteenth of the resolution
    arguments = [*TINY, "--scan", f"{folder / 'few.npy'}@0.2", "--against", "spconv,torch,dense,minkowski"]
    whole = suite_network.run
    try:
        suite_network.run = lambda found, *rest: whole(found[1:], *rest)
        yield throughput.main([*arguments, "--output", str(folder)]), folder
    finally:
        suite_network.run = whole
        torch.set_num_threads(threads)
        scans._simulated_points = simulated


def test_the_engines_agree_and_are_all_timed(tiny: tuple[Report, Path]) -> None:
    report, _ = tiny
    assert report.checks
    assert not report.disagreements
    timed = {name for row in report.rows for name in row.milliseconds}
    assert {"sparseconv", "torch", "dense"} <= timed
    assert ("spconv" in timed) == HAS_SPCONV
    if importlib.util.find_spec("MinkowskiEngine") is None:
        assert any(note.startswith("minkowski is left out") for note in report.notes)


def test_every_part_was_measured(tiny: tuple[Report, Path]) -> None:
    report, _ = tiny
    parts = {(row.suite, row.part) for row in report.rows}
    words = {
        "maps": ["one map from nothing", "two threads", "scale"],
        "conv": [
            "equal channels, forward + gradients",
            "unequal channels, forward",
            "bfloat16",
            "host time",
            "memory",
        ],
        "network": ["maps included, forward", "maps included, training step"],
    }
    for suite, expected in words.items():
        for word in expected:
            if word == "two threads" and len(os.sched_getaffinity(0)) < 2:
                continue
            assert any(s == suite and word in part for s, part in parts), (suite, word, parts)
    assert {row.case for row in report.rows if row.suite == "network"} >= {"MinkUNet18", "VoxelBackbone8x"}
    forward = [r for r in report.rows if r.part == "submanifold, equal channels, forward"]
    assert [r.case for r in forward] == ["SubM k3 4->4", "SubM k3 8->8"] * 2
    for row in forward[:2]:
        assert {"GFLOP/s", "FMA peak GFLOP/s", "% of FMA peak", "of sgemm", "pairs", "rows"} <= set(
            row.numbers
        )
        assert row.numbers["rows"] == 216
        assert (
            row.numbers["pairs"] == (6 * 3 - 2) ** 3
        )  # along each axis 3 taps of 6 cells, less 2 at the ends


def test_json(tiny: tuple[Report, Path]) -> None:
    _, folder = tiny
    (file,) = folder.glob("*.json")
    text = file.read_text()
    found = json.loads(text)
    assert set(found) == {"schema", "machine", "settings", "rows", "checks", "notes"}
    assert found["schema"] == 1
    assert {"name", "cpu", "cores", "instruction_set", "date", "versions"} <= set(found["machine"])
    assert found["settings"]["scans"] == ["dense grid 6^3", "few 0.2 m"]
    for row in found["rows"]:
        check_row(row)
    assert all(set(c) == {"case", "against", "what", "error", "tolerance", "agrees"} for c in found["checks"])
    assert str(folder) not in text  # no path of the machine


def check_row(row: dict[str, Any]) -> None:
    keys = {"suite", "part", "scan", "case", "threads", "milliseconds", "times_faster", "numbers"}
    assert set(row) == keys
    assert row["milliseconds"] or row["numbers"]
    for spread in [*row["milliseconds"].values(), *row["times_faster"].values()]:
        assert set(spread) == {"median", "q1", "q3", "lowest", "n"}
        assert 0 < spread["lowest"] <= spread["q1"] <= spread["median"] <= spread["q3"]
        assert spread["n"] >= 2
    assert all(isinstance(v, int | float) and math.isfinite(v) for v in row["numbers"].values())


def test_markdown_and_pictures(tiny: tuple[Report, Path]) -> None:
    report, folder = tiny
    (file,) = folder.glob("*.md")
    text = file.read_text()
    assert f"{len(report.checks)} of {len(report.checks)} comparisons" in text
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (folder / picture).stat().st_size > 1000
    assert len(list(folder.glob("*.png"))) >= 4
    tables = re.findall(r"^\|.*\|$", text, re.M)
    assert len(tables) > len(report.rows)
    assert str(folder) not in text


# --- disagreement -----------------------------------------------------------------------------------------------------


class Wrong(engines.Ours):
    """Ours with one weight of one tap changed."""

    name = "wrong"

    def runner(self, layer: Layer, scan: scans.Scan, weight: torch.Tensor, options: Any) -> engines.Runner:
        other = weight.clone()
        other[0, 0, 0] += 0.5
        return super().runner(layer, scan, other, options)


def test_engines_that_disagree_are_reported_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "load_engines", lambda _: ([engines.Ours(), Wrong()], []))
    for name in ("threads_conv", "bfloat16"):
        monkeypatch.setattr(throughput.scaling, name, lambda *_: None)
    monkeypatch.setattr(throughput.memory, "run", lambda *_: None)
    report = throughput.main(["conv", *TINY])
    assert any(c.against == "wrong" and c.what == "output" for c in report.disagreements)
    assert not any("wrong" in row.milliseconds for row in report.rows if "3" in row.case.split()[1])
    assert any("sparseconv" in row.milliseconds for row in report.rows)


@pytest.mark.parametrize("changed", ["output", "gradient of the input", "gradient of the weight"])
def test_each_result_is_compared(changed: str) -> None:
    layer, scan = Layer("conv", 3, 5, 3, 2, 1), scans.dense_grid(5)
    weight = layer.make_weight()
    good = engines.Ours().runner(layer, scan, weight, engines.Options())
    bad = engines.TorchEngine().runner(layer, scan, weight, engines.Options())
    features = torch.randn(125, 3)
    grad = torch.randn(27, 5)
    report = empty_report()
    assert agree(report, "case", {"a": good, "b": bad}, features, grad) == ["a", "b"]
    if changed == "output":
        bad.outputs = lambda out: out + 1e-2  # type: ignore[method-assign]
    elif changed == "gradient of the input":
        bad.grad_inputs = lambda g: g.flip(0)  # type: ignore[method-assign]
    else:
        bad.grad_weight = lambda: torch.zeros(27, 3, 5)  # type: ignore[method-assign]
    assert agree(report, "case", {"a": good, "b": bad}, features, grad) == ["a"]
    assert [c.what for c in report.disagreements] == [changed]


@pytest.mark.skipif(not HAS_SPCONV, reason="spconv is not installed")
@pytest.mark.parametrize("layer", MAP_LAYERS, ids=lambda layer: layer.geometry)
def test_maps_that_disagree_are_noticed(layer: Layer) -> None:
    from spconv_engine import differing_pairs

    torch.set_num_threads(1)
    scan = scans.from_points("points", points(0), 0.4)
    ours = engines.map_of(layer, scan)
    assert differing_pairs(layer, scan, ours) == 0
    ours.pairs[0] = ours.pairs[1]
    assert differing_pairs(layer, scan, ours) > 0


def test_differences() -> None:
    one = torch.ones(3, 2)
    assert difference(one, one) == 0
    assert difference(one, torch.ones(2, 3)) == math.inf
    assert difference(one + 0.5, one) == 0.5
    assert difference(1000 * one + 0.5, 1000 * one) == pytest.approx(5e-4)
    assert not Check("", "", "", math.nan, 1.0).agrees


@pytest.mark.skipif(not HAS_SPCONV, reason="spconv is not installed")
@pytest.mark.parametrize("name", ["MinkUNet18", "VoxelBackbone8x"])
def test_networks_that_disagree_are_noticed(name: str) -> None:
    torch.set_num_threads(1)
    scan = scans.from_points("points", points(0)[:1000], 0.2)
    networks = suite_network.networks_of(name, scan, ["spconv"])
    report = empty_report()
    assert suite_network.compare(name, scan, networks, report)[-1] == "spconv"
    weight = next(p for n, p in networks["spconv"].module.named_parameters() if p.dim() == 5)
    with torch.no_grad():
        weight.mul_(1.05)
        weight[0] += 0.05
    assert "spconv" not in suite_network.compare(name, scan, networks, report)
    assert report.disagreements


@pytest.mark.parametrize("name", ["MinkUNet18", "VoxelBackbone8x"])
def test_networks_on_the_spconv_api_are_compared_and_timed(name: str) -> None:
    """`network --via spconv-api`: the drop-in beside our own layers, without spconv; one that disagrees is not timed."""
    settings = parse(["--suite", "network", "--via", "spconv-api", "--against", "none", "--repeats", "1"])
    assert settings.suites == ("network",) == parse(["network"]).suites
    scan = scans.from_points("points", points(0)[:1000], 0.2)
    networks = suite_network.networks_of(name, scan, [], via_spconv_api=True)
    report = empty_report()
    assert suite_network.DROP_IN in suite_network.compare(name, scan, networks, report)
    suite_network.measure(name, scan, [], settings, report)
    for row in report.rows:
        assert suite_network.DROP_IN in row.milliseconds
        assert row.numbers["drop-in, times the native layers' time"] > 0
    assert len(report.rows) == 2
    with torch.no_grad():
        weight = next(p for p in networks[suite_network.DROP_IN].module.parameters() if p.dim() == 5)
        weight[0] += 0.05
    assert suite_network.DROP_IN not in suite_network.compare(name, scan, networks, report)


def test_peak_memory_counts_results_and_scratch() -> None:
    """The features of 13,824 voxels with 64 channels take 3.5 MB; the pass cannot need less."""
    found = memory.measure("sparseconv", 64, scans.dense_grid(24), 1)
    results = 24**3 * 64 * 4
    assert results * 0.9 <= found["forward"] <= 8 * results
    assert found["forward + gradients"] >= 1.8 * results
