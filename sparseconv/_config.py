# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What was built and what it runs on."""

from __future__ import annotations

from . import _native


def show_config() -> dict[str, object]:
    """Version, instruction set chosen at run time, threads, compiler, CUDA and its architectures, GPUs.

    Returns:
        A dictionary with the keys version, instruction_set, threads, openmp, compiler; cuda, whether the GPU module was built;
        cuda_architectures, what for; gpus, how many torch finds, 0 without a driver.
    """
    from . import __version__

    return {"version": __version__, **_native.build_config()}


def fma_peak() -> float:
    """GFLOP/s that the core's register loop of fused multiply-adds reaches now, in float32, on torch's current threads.

    It is the ceiling of every kernel: no memory is touched. The best of four runs of about 10 ms.
    """
    return _native.fma_peak_gflops()
