# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""A GPU where there is none: CPU tensors taken for a GPU's, and emulated CUDA kernels (csrc/tools/emulate) for the GPU module."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

from sparseconv import _native

ROOT = Path(__file__).parents[1]


@functools.cache
def module() -> ModuleType:
    """The module of emulated kernels, built."""
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_emulated"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("_emulated", ROOT / "build" / "emulated" / "_emulated.so")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@contextlib.contextmanager
def gpu(seed: int) -> Iterator[None]:
    """All functions of the package run emulated kernels, blocks and threads in the order that a seed gives."""
    core = module()
    with (
        mock.patch.object(_native, "on_gpu", return_value=True),
        mock.patch.object(_native, "gpu", return_value=(core, seed)),
    ):
        yield
