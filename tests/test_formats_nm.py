# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""N:M weights: masks, packing, the operand of sparse tensor cores, layers."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from engine import bias_of, layer_of, random_tensor, tensor_of
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases, close, same_bits
from torch import nn
from torch.sparse import _semi_structured_conversions as conversions
from weights import random_weight

import sparseconv.nn as spnn
from sparseconv.formats import (
    NMConv,
    NMLinear,
    NMWeight,
    check_nm,
    mma_sp_operands,
    nm_mask,
    pack_nm,
)

patterns = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(sorted)


def masked(shape: tuple[int, ...], n: int, m: int, seed: int = 0, density: float = 1.0) -> torch.Tensor:
    weight = random_weight(shape, seed, density)
    return torch.where(nm_mask(weight, n, m), weight, 0)


# --- masks -----------------------------------------------------------------------------------------------------------


@given(
    pattern=patterns, c_in=st.integers(0, 20), seed=st.integers(0, 999), density=st.sampled_from([0.3, 1.0])
)
def test_no_mask_keeps_more_than_the_mask_by_magnitude(
    pattern: list[int], c_in: int, seed: int, density: float
) -> None:
    n, m = pattern
    weight = random_weight((2, c_in, 3), seed, density)
    mask = nm_mask(weight, n, m)
    for tap, out in itertools.product(range(2), range(3)):
        for start in range(0, c_in, m):
            run = weight[tap, start : start + m, out].abs().tolist()
            best = max(sum(c) for c in itertools.combinations(run, min(n, len(run))))
            stays = mask[tap, start : start + m, out]
            assert int(stays.sum()) == min(n, len(run))
            assert sum(v for v, s in zip(run, stays.tolist(), strict=True) if s) == pytest.approx(best)
    check_nm(torch.where(mask, weight, 0), n, m)


def test_shares_that_masks_keep_of_normal_weights() -> None:
    """Expected values by numerical integration of order statistics, rounded: 2:4 keeps 74.5 % of |w|, 4:8 76.9, 1:4 45.9."""
    weight = random_weight((1, 8000, 200), 1).double()
    for (n, m), (share, squared) in {
        (2, 4): (0.745, 0.868),
        (4, 8): (0.769, 0.897),
        (1, 4): (0.459, 0.618),
    }.items():
        kept = torch.where(nm_mask(weight, n, m), weight, 0)
        assert float(kept.abs().sum() / weight.abs().sum()) == pytest.approx(share, abs=0.001)
        assert float(kept.square().sum() / weight.square().sum()) == pytest.approx(squared, abs=0.001)


def test_a_weight_that_is_not_nm_is_refused_and_the_place_is_named() -> None:
    weight = masked((3, 10, 5), 2, 4)
    check_nm(weight)
    weight[1, 4:8, 3] = torch.tensor([1.0, 0.0, 1.0, 1.0])
    with pytest.raises(
        ValueError, match=r"w is not 2:4: input channels 4 to 7 of tap 1 and output channel 3 hold 3 non"
    ):
        pack_nm(weight, name="w")
    weight[1, 4:8, 3] = 0.0
    weight[2, 8:10, 0] = float("nan")
    check_nm(weight)  # the last run has two channels only
    with pytest.raises(ValueError, match="input channels 8 to 9 of tap 2"):
        check_nm(torch.where(nm_mask(weight, 1, 4) | weight.isnan(), weight, 0), 1, 4)
    with pytest.raises(ValueError, match="0 < n <= m"):
        check_nm(weight, 5, 4)
    with pytest.raises(TypeError, match="int"):
        check_nm(weight, 2.0, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[K, C_in, C_out\]"):
        check_nm(weight[0])


# --- packing ---------------------------------------------------------------------------------------------------------


def read_places(metadata: bytes, count: int, m: int) -> Iterator[int]:
    """Numbers of ceil(log2 m) bits from a stream of bytes, lowest bits first."""
    stream, bits = int.from_bytes(metadata, "little"), int(np.ceil(np.log2(m))) if m > 1 else 0
    for number in range(count):
        yield stream >> number * bits & ((1 << bits) - 1)


@given(
    pattern=patterns,
    shape=st.tuples(st.integers(1, 3), st.integers(0, 37), st.integers(1, 9)),
    seed=st.integers(0, 999),
    density=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
)
def test_round_trip(
    pattern: list[int], shape: tuple[int, ...], seed: int, density: float, dtype: torch.dtype
) -> None:
    n, m = pattern
    weight = masked(shape, n, m, seed, density).to(dtype)
    packed = pack_nm(weight, n, m)
    same_bits(packed.decode(), weight)
    taps, c_in, c_out = shape
    runs, bits = -(-c_in // m), int(np.ceil(np.log2(m))) if m > 1 else 0
    element = weight.element_size() * 8
    assert packed.size_in_bits == taps * c_out * (runs * n * element + -(-runs * n * bits // 8) * 8)
    dense = torch.zeros_like(weight)
    for t, o in itertools.product(range(taps), range(c_out)):  # decoded anew, by hand
        places = list(read_places(bytes(packed.metadata[t, o].numpy()), runs * n, m))
        for run in range(runs):
            here = places[run * n : run * n + n]
            assert here == sorted(set(here)) and max(here) < m
            for place, value in zip(here, packed.values[t, o, run], strict=True):
                if run * m + place < c_in:
                    dense[t, run * m + place, o] = value
    assert torch.equal(dense, weight)


def test_sizes_of_2_4() -> None:
    for dtype, share in ((torch.float16, 9 / 16), (torch.float32, 17 / 32)):
        weight = masked((27, 64, 32), 2, 4).to(dtype)
        assert pack_nm(weight).size_in_bits == share * weight.numel() * weight.element_size() * 8


def test_nibbles_are_those_of_torch() -> None:
    """All patterns of at most two non-zeros of four, against torch's own conversion (of which the reordering is undone)."""
    table = {(0, 1): 0b0100, (0, 2): 0b1000, (1, 2): 0b1001, (0, 3): 0b1100, (1, 3): 0b1101, (2, 3): 0b1110}
    for places, nibble in table.items():
        weight = torch.zeros(1, 4, 1)
        weight[0, list(places), 0] = torch.tensor([1.0, 2.0])
        assert int(pack_nm(weight).metadata) == nibble
    for density in (0.2, 0.6, 1.0):
        weight = masked((1, 64, 96), 2, 4, 3, density).half()
        packed = pack_nm(weight)
        kept, meta = conversions.sparse_semi_structured_from_dense_cutlass(weight[0].t().contiguous())
        offsets = conversions._calculate_meta_reordering_scatter_offsets(96, 4, torch.int16, "cpu")
        ours = packed.metadata[0].contiguous().view(torch.int16)
        assert torch.equal(meta.reshape(-1)[offsets].view(96, 4), ours)
        assert torch.equal(kept, packed.values[0].flatten(1))
        assert torch.equal(
            conversions.sparse_semi_structured_to_dense_cutlass(kept, meta).t(), packed.decode()[0]
        )


def test_zeros_with_a_sign_nans_and_infinities() -> None:
    weight = torch.zeros(1, 12, 1)
    weight[0, 0], weight[0, 3] = -0.0, 5.0
    weight[0, 4], weight[0, 5] = float("nan"), -float("inf")
    weight[0, 8:12, 0] = torch.tensor([-0.0, -0.0, 1.0, -0.0])
    packed = pack_nm(weight)
    same_bits(packed.decode()[0, :8], weight[0, :8])
    assert torch.equal(packed.decode()[0, 8:], weight[0, 8:])  # no room for all three: equal, not to the bit


def test_hostile_parts_are_refused() -> None:
    packed = pack_nm(masked((2, 10, 3), 2, 4))

    def remade(**changes: Any) -> NMWeight:
        parts = {"values": packed.values, "metadata": packed.metadata, "n": 2, "m": 4, "shape": packed.shape}
        return NMWeight(**{**parts, **changes})

    remade()
    for wrong, words in [
        ({"values": packed.values[:, :, :2]}, r"values must be floating point \[2, 3, 3, 2\]"),
        ({"values": packed.values.int()}, "floating point"),
        ({"metadata": packed.metadata[..., :1]}, r"metadata must be uint8 \[2, 3, 2\]"),
        ({"metadata": packed.metadata.int()}, "uint8"),
        ({"metadata": torch.zeros_like(packed.metadata)}, "ascend"),
        ({"metadata": torch.full_like(packed.metadata, 0b00010001)}, "ascend"),
        (
            {"metadata": torch.full_like(packed.metadata, 0b11101110), "values": packed.values + 1},
            "behind the last",
        ),
        ({"n": 0}, "0 < n <= m"),
    ]:
        with pytest.raises(ValueError, match=words):
            remade(**wrong)
    three = pack_nm(masked((1, 6, 2), 1, 3), 1, 3)
    with pytest.raises(ValueError, match="ascend below 3"):
        NMWeight(three.shape, 1, 3, three.values, torch.full_like(three.metadata, 0xFF))
    with pytest.raises(TypeError, match="floating"):
        pack_nm(torch.zeros(1, 4, 4, dtype=torch.int32))


# --- operands of mma.sp ---------------------------------------------------------------------------------------------


def mma_sp(a: torch.Tensor, metadata: torch.Tensor, b: torch.Tensor, selector: int) -> torch.Tensor:
    """mma.sp.m16n8k32 by the rules of the PTX manual, lane by lane: a [32, 4, 2], metadata [32] int32, b [32, 8] -> [16, 8]."""
    dense = torch.zeros(16, 32, dtype=torch.float64)
    for lane in range(32):
        group, thread = lane // 4, lane % 4
        for i in range(8):  # a0 .. a7, two to a register
            row = group if i < 2 or 4 <= i < 6 else group + 8
            first = thread * 4 + (0 if i < 4 else 16)  # the chunk of four columns
            source = group * 4 + selector * 2 + first // 16  # the lane that holds this chunk's indices
            word = int(metadata[source]) & 0xFFFFFFFF
            nibble = word >> (16 if row >= 8 else 0) >> first % 16 & 15
            dense[row, first + (nibble >> 2 * (i % 2) & 3)] += float(a[lane, i // 2, i % 2])
    return dense @ b.double()


def lanes(values: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Registers of a warp, as the kernel loads them: from values [16, 16] and words [16] of one tile."""
    a = torch.stack(
        [
            torch.stack(
                [
                    values[g + 8 * (r % 2), 8 * (r // 2) + 2 * t :][:2] for r in range(4)
                ]  # rows g, g + 8, then 8 columns on
            )
            for g in range(8)
            for t in range(4)
        ]
    )
    return a, torch.stack([words[2 * (lane // 4) + lane % 2] for lane in range(32)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("c_in", "c_out"), [(32, 16), (64, 32), (96, 48)])
def test_operands_multiply_like_the_weight(c_in: int, c_out: int, dtype: torch.dtype) -> None:
    weight = masked((2, c_in, c_out), 2, 4, density=0.8).to(dtype)
    values, words = mma_sp_operands(pack_nm(weight))
    assert values.shape == (2, c_out, c_in // 2) and words.shape == (2, c_out // 16, c_in // 32, 16)
    points = random_weight((c_in, 8), 5)
    for selector, tap, tile in itertools.product((0, 1), range(2), range(c_out // 16)):
        rows = slice(16 * tile, 16 * tile + 16)
        parts = [
            mma_sp(
                *lanes(values[tap, rows, 16 * k : 16 * k + 16], words[tap, tile, k]),
                points[32 * k : 32 * k + 32],
                selector,
            )
            for k in range(c_in // 32)
        ]
        close(torch.stack(parts).sum(0), weight[tap, :, rows].t().double() @ points.double(), 1e-12)


@pytest.mark.parametrize(
    ("c_in", "c_out", "dtype"), [(32, 16, torch.float32), (20, 16, torch.float16), (32, 7, torch.float16)]
)
def test_operands_that_do_not_fit(c_in: int, c_out: int, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="2:4 in float16 or bfloat16 with 32 n input and 16 m output"):
        mma_sp_operands(pack_nm(masked((2, c_in, c_out), 2, 4, density=0.8).to(dtype)))


# --- layers ----------------------------------------------------------------------------------------------------------


def nm_layer(layer: nn.Module, n: int = 2, m: int = 4) -> nn.Module:
    with torch.no_grad():
        if isinstance(layer, nn.Linear):
            layer.weight.mul_(nm_mask(layer.weight.t()[None], n, m)[0].t())
        else:
            layer.weight.mul_(nm_mask(layer.weight, n, m))
    return layer


@given(case=cases(), pattern=st.sampled_from([(2, 4), (1, 3), (3, 8)]))
@settings(max_examples=40)
def test_any_convolution_equals_the_oracle(case: Case, pattern: tuple[int, int]) -> None:
    dense = nm_layer(layer_of(case), *pattern)
    layer = NMConv(dense, *pattern)
    weight = dense.weight.detach().numpy()
    expected = oracle.conv(
        case.numbers["features"], weight, bias_of(case), case.pairs, len(case.out_sites), case.groups
    )
    y = layer(tensor_of(case))
    close(y.features, expected)
    same_bits(y.features.detach(), dense(tensor_of(case)).features.detach())
    close(NMConv(dense, *pattern, kernel="vectors")(tensor_of(case)).features, expected)
    same_bits(layer.to_dense().weight.detach() + 0.0, dense.weight.detach() + 0.0)


def test_layers_have_the_dense_gradients_types_copies_and_files() -> None:
    x = random_tensor(3, 60, 8, extent=5, dtype=torch.float64, grad=True)
    for dense, layer in (
        (d := nm_layer(spnn.SubMConv3d(8, 6, 3).double()), NMConv(d)),
        (d := nm_layer(spnn.Linear(8, 6).double()), NMLinear(d)),
    ):
        a, b = layer(x).features, dense(x).features
        for p, q in zip(
            torch.autograd.grad(a.sin().sum(), [x.features, layer.bias]),
            torch.autograd.grad(b.sin().sum(), [x.features, dense.bias]),
            strict=True,
        ):
            same_bits(p, q)
        assert set(layer.state_dict()) == {"values", "metadata", "bias"}
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert other._kept is None
            same_bits(other(x).features.detach(), a.detach())
        single = copy.deepcopy(layer).float()
        assert single.values.dtype == torch.float32 and single.metadata.dtype == torch.uint8
        close(single(x.replace(x.features.float())).features, a.detach(), 1e-5)
        assert single.to_dense().weight.dtype == torch.float32
        fresh = type(layer)(nm_layer(copy.deepcopy(dense)))
        with torch.no_grad():
            fresh.values.zero_()
        assert bool((fresh(x).features == fresh.bias).all())  # what was decoded before is not kept
        fresh.load_state_dict(layer.state_dict())
        same_bits(fresh(x).features.detach(), a.detach())
        for name, wrong in {
            "metadata": torch.zeros_like(layer.metadata),
            "values": layer.values[..., :1],
        }.items():
            with pytest.raises(ValueError, match=r"N:M weight|values"):
                fresh.load_state_dict({**layer.state_dict(), name: wrong})
        same_bits(fresh(x).features.detach(), a.detach())
    x.features.detach()[3, 1], x.features.detach()[7, 2] = float("nan"), float("inf")
    close(layer(x).features, dense(x).features.detach())


def test_the_vector_sparse_kernel_computes_the_same() -> None:
    x = random_tensor(3, 400, 24, extent=9, grad=True)
    weight = spnn.SubMConv3d(24, 40, 3)
    mask = nm_mask(
        weight.weight.detach()[:, :, ::16].repeat_interleave(16, 2)[:, :, :40]
    )  # shared by 16 outputs
    weight.weight.data *= mask
    dense, rows = NMConv(weight), NMConv(weight, kernel="vectors")
    assert torch.equal(dense(x).features, rows(x).features) and "vectors" in repr(rows)
    grads = [torch.autograd.grad(f(x).features.sin().sum(), [x.features, f.bias]) for f in (dense, rows)]
    for a, b in zip(*grads, strict=True):
        close(b, a, 1e-5)
    other = pickle.loads(pickle.dumps(rows))
    assert other._rows is None and torch.equal(other(x).features, rows(x).features)
    with torch.no_grad():
        other.values.zero_()
    assert bool((other(x).features == other.bias).all())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rows(x).features.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="kernel must be one of"):
        NMConv(weight, kernel="sparse")
    with pytest.raises(ValueError, match=r"\[N, 24\]"):
        rows(random_tensor(3, 5, 3, extent=4))
    with pytest.raises(TypeError, match="float64"):
        rows(x.replace(x.features.double()))


def test_linear_layers_take_tensors_and_refuse_others() -> None:
    layer = NMLinear(nm_layer(nn.Linear(10, 3), 1, 4), 1, 4)
    x = random_weight((2, 5, 10), 1)
    close(layer(x), layer.to_dense()(x).detach(), 1e-6)
    assert layer(x[:, :0]).shape == (2, 0, 3) and "1:4" in repr(layer)
    with pytest.raises(ValueError, match="10"):
        layer(x[..., :9])
    with pytest.raises(ValueError, match="Linear: weight is not 2:4"):
        NMLinear(nn.Linear(8, 8))
