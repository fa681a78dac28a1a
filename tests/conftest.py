# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures, hypothesis profiles and the tolerances of the suite.

Tolerances. float64: 1e-10 absolute on values of order one, about 1e5 roundings of room: only a wrong term can break
it. float32: 1e-5 of the largest value in the array, about 100 roundings, since each output sums tens to hundreds of
products. Peers (spconv) run in float32 with another order of summation: 1e-4.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]

# The same examples on every machine in "ci", so that a red run can be repeated; "thorough" looks for new ones.
hypothesis.settings.register_profile(
    "ci",
    max_examples=40,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
)
hypothesis.settings.register_profile(
    "thorough",
    parent=hypothesis.settings.get_profile("ci"),
    max_examples=300,
    derandomize=False,
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def _seed_and_threads() -> Iterator[None]:
    """Every test starts from the same seed and leaves torch's thread count as it was (where torch is in use at all)."""
    torch = sys.modules.get("torch")  # test_native.py runs without it
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


ON_GPU = "gather_gemm gather_outer column_sum max_pool max_pool_grad gather_sum gather_max".split()


@pytest.fixture(scope="session")
def emulated() -> ModuleType:
    """The GPU's functions on the CPU: emulated CUDA kernels (csrc/tools/emulate), built."""
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_emulated"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("_emulated", ROOT / "build" / "emulated" / "_emulated.so")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def on_emulated_gpu(emulated: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sends the package's functions to the emulated kernels, in the order that a seed gives; maps are made as on a GPU."""
    from sparseconv import _native, _native_cuda, _torch_maps

    def use(seed: int) -> None:
        for name in ON_GPU:
            monkeypatch.setattr(_native, name, functools.partial(getattr(_native_cuda, name), emulated, seed))
        monkeypatch.setattr(_torch_maps, "needed", lambda _: True)

    return use
