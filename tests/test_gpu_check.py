# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The check of a GPU machine, where there is none: what it says, how its steps end, and its benchmark on the CPU engine."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu  # noqa: E402


@pytest.fixture
def gpu_check() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("gpu_check", str(ROOT / "tools" / "gpu_check"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_check", loader))
    sys.modules["gpu_check"] = module
    loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "gpu_check"), "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no GPU here" in done.stdout
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="no GPU here"):
        gpu.main([])


def test_steps_are_written_down_as_they_end(gpu_check: ModuleType, tmp_path: Path) -> None:
    check = gpu_check.Check({"steps": {}}, tmp_path / "found.json", minutes=1)
    assert check.step("good", [sys.executable, "-c", "print('fine')"], 30)
    assert not check.step("bad", [sys.executable, "-c", "raise SystemExit(3)"], 30)
    assert not check.step(
        "slow", [sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(60)"], 6
    )
    assert not check.step("absent", ["no-such-program-here"], 30)
    check.end = 0
    assert not check.step("late", [sys.executable, "-c", ""], 30)
    steps = json.loads((tmp_path / "found.json").read_text())["steps"]
    assert [steps[name]["status"] for name in ("good", "bad")] == [0, 3]
    assert "fine" in steps["good"]["output"] and "begun" in steps["slow"]["output"]
    assert steps["slow"]["status"].startswith("stopped") and steps["absent"]["status"].startswith(
        "does not start"
    )
    assert steps["late"]["status"] == "no time left"


def test_the_benchmark_on_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    options = "--device cpu --scan simulated@2 --channels 8,32 --types bfloat16,float32 --rounds 2"
    options = [*options.split(), "--networks", "VoxelBackbone8x,MinkUNet14", "--batches", "1,2"]
    report = gpu.main([*options, "--json", str(path)])
    assert json.loads(path.read_text()) == json.loads(json.dumps(report))
    rows = report["rows"]
    layers = ["conv", "conv", "2:4"], ["conv", "conv"]  # sparse tensor cores take 16 bits
    assert [row["suite"] for row in rows] == ["maps"] * 3 + layers[0] + layers[1] + ["network"] * 8
    for row in rows:
        assert row["suite"] != "conv" or (row["agrees"] and row["floor ms"] > 0 and row["forward ms"] > 0)
        assert row["suite"] != "2:4" or (row["agrees"] and row["forward ms, mma.sp"] > 0)
        assert row["suite"] != "network" or min(row["training step ms"], row["forward ms"]) > 0
    one, two = (row["voxels"] for row in rows if row.get("case") == "MinkUNet14" and row["type"] == "float32")
    assert two == 2 * one
