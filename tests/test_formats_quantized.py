# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of 8- and 4-bit codes: what is stored, how far it is from the weight, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine import random_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from strategies import close
from torch import nn
from weights import OPTIONS, OPTIONS_IDS, random_weight

import sparseconv.nn as spnn
from sparseconv.formats import (
    QuantizedConv,
    QuantizedLinear,
    QuantizedWeight,
    quantize,
    quantize_weight,
)
from sparseconv.formats.quantized import lloyd

shapes = st.tuples(
    st.integers(1, 4), st.integers(1, 70), st.sampled_from([1, 2, 3, 15, 16, 17, 63, 64, 65, 128, 131])
)


def read_code(packed: bytes, bits: int, shape: tuple[int, ...], tap: int, i: int, o: int) -> int:
    """One code, looked up as csrc/sparse/quantized_kernels.h describes it."""
    _, c_in, c_out = shape

    def row(block: int) -> int:
        return (min(64, c_out - 64 * block) * bits + 7) // 8

    blocks = (c_out + 63) // 64
    at = tap * c_in * sum(row(b) for b in range(blocks))
    at += c_in * sum(row(b) for b in range(o // 64)) + i * row(o // 64)
    if bits == 8:
        byte = packed[at + o % 64]
        return byte - 256 if byte > 127 else byte
    return packed[at + o % 64 % row(o // 64)] >> (4 * (o % 64 // row(o // 64))) & 15


# --- the format ------------------------------------------------------------------------------------------------------


@given(shape=shapes, options=st.sampled_from(OPTIONS), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_stored_bytes_hold_every_code_and_the_decoded_weight_is_exactly_theirs(
    shape: tuple[int, int, int], options: dict[str, Any], seed: int
) -> None:
    q = quantize_weight(random_weight(shape, seed), **options)
    taps, c_in, c_out = shape
    packed, raw, decoded = bytes(q.codes.numpy()), q.raw_codes(), q.decode()
    random = np.random.default_rng(seed)
    for _ in range(40):
        t, i, o = (int(random.integers(n)) for n in shape)
        code = read_code(packed, q.bits, shape, t, i, o)
        assert code == int(raw[t, i, o])
        value = np.float32(code) if q.table is None else np.float32(q.table[code])
        if q.scales is not None:
            scale = q.scales[o] if q.bits == 8 else q.scales[t, i // q.group_size, o]
            value = np.float32(value * np.float32(float(scale)))
        assert value == np.float32(decoded[t, i, o])
    row = c_out if q.bits == 8 else (c_out + 1) // 2  # blocks of 64 channels are whole bytes
    runs = -(-c_in // q.group_size)
    extra = 32 * c_out if q.bits == 8 else 512 if q.scales is None else 512 + 16 * taps * runs * c_out
    assert q.size_in_bits == 8 * taps * c_in * row + extra


@given(shape=shapes, seed=st.integers(0, 99), power=st.integers(-30, 30), group=st.integers(1, 40))
@settings(max_examples=60)
def test_without_clipping_no_weight_is_further_than_half_a_step(
    shape: tuple[int, int, int], seed: int, power: int, group: int
) -> None:
    weight = random_weight(shape, seed) * 2.0**power
    for bits in (8, 4):
        q = quantize_weight(weight, bits, scale="minmax", group_size=group)
        scale = q.scales.double()
        scale = scale if bits == 8 else scale.repeat_interleave(group, 1)[:, : shape[1]]
        codes = q.raw_codes().double() - (0 if bits == 8 else 8)
        assert int(codes.abs().max()) <= (127 if bits == 8 else 7)
        error = (weight.double() - codes * scale).abs()
        assert bool((error <= scale / 2 * (1 + 1e-12)).all())
        exact = codes * scale  # what float32 rounds
        assert bool(((q.decode().double() - exact).abs() <= exact.abs() * 2.0**-24 + 2.0**-150).all())


def test_a_scale_is_the_least_number_of_its_type_that_clips_nothing() -> None:
    weight = random_weight((2, 37, 9))
    q = quantize_weight(weight, 4, scale="minmax", group_size=8)
    for t in range(2):
        for run in range(5):
            top = weight[t, run * 8 : run * 8 + 8].abs().amax(0).double() / 7
            scale = q.scales[t, run]
            assert bool((scale.double() >= top).all())
            below = torch.nextafter(scale, torch.zeros_like(scale))
            assert bool((below.double() < top).all())


@pytest.mark.parametrize("bits", [8, 4])
def test_the_least_square_error_is_no_larger_and_with_outliers_much_smaller(bits: int) -> None:
    weight = random_weight((3, 64, 20))
    weight[0, ::32] *= 8
    kinds = {s: quantize_weight(weight, bits, scale=s).decode().double() for s in ("minmax", "mse")}
    errors = {s: float((d - weight.double()).square().sum()) for s, d in kinds.items()}
    assert errors["mse"] <= errors["minmax"] * (1 if bits == 8 else 0.95)


@pytest.mark.parametrize(
    ("options", "decibels"), list(zip(OPTIONS, [40, 39, 20, 21, 19], strict=True)), ids=OPTIONS_IDS
)
def test_signal_to_noise_of_normal_weights(options: dict[str, Any], decibels: float) -> None:
    """8 bits of normal weights: a step of 2 * 4.4 / 254 sigma and its square over 12 make 40 dB; a bit is 6 dB."""
    weight = random_weight((27, 64, 64)).double()
    noise = quantize_weight(weight, **options).decode().double() - weight
    got = 10 * float(torch.log10(weight.square().mean() / noise.square().mean()))
    assert decibels <= got < decibels + 7, got


@pytest.mark.parametrize("options", OPTIONS, ids=OPTIONS_IDS)
def test_zeros_stay_zeros(options: dict[str, Any]) -> None:
    weight = random_weight((2, 40, 30)) * (random_weight((2, 40, 30), 1) > 0.5) + 0.0
    assert bool((quantize_weight(weight, **options).decode()[weight == 0] == 0).all())
    for nothing in (torch.zeros(1, 3, 4), torch.zeros(2, 0, 3), torch.zeros(1, 5, 0), -torch.zeros(1, 2, 2)):
        assert torch.equal(quantize_weight(nothing, **options).decode(), torch.zeros_like(nothing))


# --- the codebook ----------------------------------------------------------------------------------------------------


def test_a_codebook_is_what_scikit_learn_finds_from_the_same_start() -> None:
    values = random_weight((2000,)).double()
    start = torch.linspace(0, 1, 16, dtype=torch.float64) * (values.max() - values.min()) + values.min()
    means = KMeans(16, init=start[:, None].numpy(), n_init=1, max_iter=100, tol=0).fit(
        values[:, None].numpy()
    )
    close(lloyd(values, 16), np.sort(means.cluster_centers_[:, 0]), 1e-9)
    errors = []
    for rounds in range(12):
        centroids = lloyd(values, 16, rounds)
        errors.append(float((values[:, None] - centroids).abs().amin(1).square().sum()))
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]


@given(count=st.integers(1, 15), zeros=st.booleans(), seed=st.integers(0, 999))
def test_few_distinct_values_are_stored_exactly_where_lloyd_separates_them(
    count: int, zeros: bool, seed: int
) -> None:
    levels = torch.arange(1, count + 1).float()  # evenly spaced, as the centroids start
    weight = levels[torch.randint(count, (2, 9, 11), generator=torch.Generator().manual_seed(seed))]
    if zeros:
        weight[0, :2] = 0
    if len(weight.unique()) in (1, 15, 16) or (
        len(weight[weight != 0].unique()) <= 8 and bool((levels <= 8).all())
    ):
        close(quantize_weight(weight, 4, codebook=True).decode(), weight, 1e-6)


def test_each_weight_gets_its_nearest_entry() -> None:
    weight = random_weight((3, 20, 21)).double()
    q = quantize_weight(weight, 4, codebook=True)
    assert q.table is not None and q.scales is None
    distance = (weight[..., None] - q.table.double()).abs()
    close((weight - q.decode().double()).abs(), distance.amin(-1), 1e-12)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"bits": 3}, "bits must be 8 or 4"),
    ({"scale": "max"}, "scale must be one of"),
    ({"group_size": 0}, "group_size must be"),
    ({"codebook": True}, "16 entries"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        quantize_weight(torch.ones(1, 2, 3), **options)
    with pytest.raises(ValueError, match=words):
        quantize(nn.Linear(4, 4), **options)


def test_bad_weights_and_inputs() -> None:
    with pytest.raises(ValueError, match="finite"):
        quantize_weight(torch.full((1, 1, 1), float("inf")))
    with pytest.raises(ValueError, match=r"\[K, C_in, C_out\]"):
        quantize_weight(torch.ones(2, 2))
    with pytest.raises(TypeError, match="floating"):
        quantize_weight(torch.ones(1, 2, 2, dtype=torch.int32))
    good = quantize_weight(torch.ones(1, 4, 4))
    with pytest.raises(ValueError, match=r"codes must be torch.uint8 \[16\]"):
        QuantizedWeight(good.shape, 8, good.codes[:-1], good.scales, None)
    with pytest.raises(ValueError, match="scales must be"):
        QuantizedWeight(good.shape, 8, good.codes, None, None)
    with pytest.raises(ValueError, match="table must be"):
        QuantizedWeight(good.shape, 4, good.codes[:8], None, None)
    with pytest.raises(ValueError, match="like the layer's"):
        QuantizedLinear(nn.Linear(4, 5), good)
    with pytest.raises(TypeError, match="convolution"):
        QuantizedConv(nn.Linear(3, 3))  # type: ignore[arg-type]
    linear = QuantizedLinear(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"\[..., 4\], got \[2, 3\]"):
        linear(torch.ones(2, 3))
    with pytest.raises(TypeError, match="bias"):
        linear(torch.ones(2, 4, dtype=torch.float64))
    with pytest.raises(TypeError, match="float16"):
        linear(torch.ones(2, 4, dtype=torch.float16))
    with pytest.raises(TypeError, match="SparseTensor"):
        linear([1.0])
    conv = QuantizedConv(spnn.SubMConv3d(4, 4, 3))
    with pytest.raises(ValueError, match=r"\[N, 4\]"):
        conv(random_tensor(3, 5, 3, extent=4))
    with pytest.raises(ValueError, match="codes must have"):
        torch.ops.sparseconv.quantized_linear(
            torch.ones(1, 4), linear.codes[1:], None, linear.scales, None, 4, 8, 32
        )
