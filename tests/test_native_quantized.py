# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The core's layers over codes with NumPy arrays of exactly the right size, without torch: for the sanitizers too."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from test_native import THREADS, Array, cpu, gemm_by_hand, random_map

BLOCK = 64


def coded(bits: int, taps: int, c_in: int, c_out: int, seed: int = 3) -> tuple[list[Any], Array]:
    """The arguments (bits, codes, table, scales, run) of random codes, and the weight that they stand for, float64."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256 if bits == 8 else 16, (taps, c_in, c_out)).astype(np.uint8)
    parts = []
    for tap in raw:
        for first in range(0, c_out, BLOCK):
            rows = tap[:, first : first + BLOCK]
            if bits == 4:
                half = (rows.shape[1] + 1) // 2
                high = np.zeros((c_in, half), np.uint8)
                high[:, : rows.shape[1] - half] = rows[:, half:]
                rows = rows[:, :half] | high << 4
            parts.append(rows.reshape(-1))
    codes = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    if bits == 8:
        scales = rng.uniform(0.01, 0.02, c_out).astype(np.float32)
        return [8, codes, None, scales, 1], (raw.view(np.int8).astype(np.float32) * scales).astype(np.float64)
    table = rng.standard_normal(16).astype(np.float32)
    return [4, codes, table, None, 7], table[raw].astype(np.float64)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("c_in", "c_out", "groups"),
    [(5, 7, 1), (33, 70, 1), (130, 128, 1), (6, 9, 3), (9, 9, 9), (70, 70, 70), (4, 33, 1)],
)
def test_gather_gemm_over_codes(bits: int, dtype: type, c_in: int, c_out: int, groups: int) -> None:
    rng = np.random.default_rng(1)
    x, bias = rng.standard_normal((60, c_in)).astype(dtype), rng.standard_normal(c_out).astype(dtype)
    arguments, weight = coded(bits, 5, c_in // groups, c_out)
    pairs, offsets = random_map(60, 41, 5)
    expected = gemm_by_hand(x.astype(float), weight, bias.astype(float), pairs, offsets, 41, groups)
    results = []
    for threads in THREADS:
        out = np.full((41, c_out), 7, dtype)
        scratch = np.zeros(cpu.gather_gemm_bytes(x, out, groups, 5), np.uint8)
        cpu.quantized_gather_gemm(threads, x, *arguments, bias, pairs, offsets, groups, out, scratch)
        np.testing.assert_allclose(out, expected, rtol=0, atol=(1e-3 if dtype == np.float32 else 1e-10))
        results.append(out.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("c_in", "c_out"), [(1, 1), (40, 64), (300, 128), (17, 129), (700, 31), (0, 3)])
def test_linear_over_codes(bits: int, dtype: type, c_in: int, c_out: int) -> None:
    arguments, weight = coded(bits, 1, c_in, c_out)
    rng = np.random.default_rng(2)
    for rows, with_bias in itertools.product((0, 1, 2, 9, 600), (True, False)):
        x = rng.standard_normal((rows, c_in)).astype(dtype)
        bias = rng.standard_normal(c_out).astype(dtype) if with_bias else None
        expected = x.astype(float) @ weight[0] + (0 if bias is None else bias.astype(float))
        results = []
        for threads in THREADS:
            out = np.full((rows, c_out), 7, dtype)
            cpu.quantized_linear(threads, x, *arguments, bias, out)
            np.testing.assert_allclose(out, expected, rtol=0, atol=(1e-3 if dtype == np.float32 else 1e-10))
            results.append(out.tobytes())
        assert len(set(results)) == 1


def test_wrong_sizes_are_refused() -> None:
    (bits, codes, _, scales, run), _ = coded(8, 1, 4, 6)
    x, out = np.ones((2, 4), np.float32), np.ones((2, 6), np.float32)

    def linear(*arguments: Any, to: Array = out) -> None:
        cpu.quantized_linear(1, x, *arguments, None, to)

    linear(bits, codes, None, scales, run)
    for wrong, words in [
        ((8, codes[1:].copy(), None, scales, run), "24 bytes, got 23"),
        ((8, codes, None, scales[1:].copy(), run), "6 values of float32"),
        ((8, codes, None, scales.astype(np.float64), run), "6 values of float32"),
        ((8, codes, None, None, run), "a scale for each"),
        ((4, codes[:12].copy(), None, None, run), "table of 16"),
        ((4, codes[:12].copy(), np.ones(15, np.float32), None, run), "table of 16"),
        ((4, codes[:12].copy(), np.ones(16, np.float32), None, 0), "at least 1"),
        ((3, codes, None, scales, run), "8 or 4"),
    ]:
        with pytest.raises(ValueError, match=words):
            linear(*wrong)
    with pytest.raises(ValueError, match="output"):
        linear(bits, codes, None, scales, run, to=np.ones((3, 6), np.float32))
