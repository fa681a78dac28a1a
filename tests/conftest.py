# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures, hypothesis profiles and the tolerances of the suite.

Tolerances. float64: 1e-10 absolute on values of order one, about 1e5 roundings of room: only a wrong term can break
it. float32: 1e-5 of the largest value in the array, about 100 roundings, since each output sums tens to hundreds of
products. Peers (spconv) run in float32 with another order of summation: 1e-4.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import hypothesis
import pytest

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


@pytest.fixture(scope="session")
def emulated() -> ModuleType:
    """The GPU's functions on the CPU, see stand_in.py."""
    import stand_in

    return stand_in.module()


@pytest.fixture
def on_emulated_gpu() -> Iterator[Callable[[int], None]]:
    """From a call on, the package's functions run there, in the order that the call's seed gives."""
    import stand_in

    with contextlib.ExitStack() as stack:
        yield lambda seed: stack.enter_context(stand_in.gpu(seed))
