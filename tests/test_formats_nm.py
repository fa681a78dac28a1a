# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""N:M weights: masks, packing, the order of channels, layers, the operand of sparse tensor cores, training."""

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
from sparseconv.pruning.verify import outputs_of
from strategies import Case, cases, close, same_bits
from torch import nn
from torch.nn.utils import parametrize
from torch.sparse import _semi_structured_conversions as conversions
from zoo import ZOO, create

import sparseconv.nn as spnn
from sparseconv import pruning
from sparseconv.formats import (
    NMConv,
    NMLinear,
    NMWeight,
    check_nm,
    kept_magnitude,
    mma_sp_operand_a,
    nm_mask,
    pack_nm,
    search_permutation,
)

patterns = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(sorted)


def random_weight(shape: tuple[int, ...], seed: int, density: float = 1.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(*shape, generator=g)
    return torch.where(torch.rand(*shape, generator=g) < density, weight, 0)


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


# --- operand A of mma.sp ---------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("c_in", "c_out"), [(32, 16), (64, 32), (20, 7), (100, 40)])
def test_operand_a_multiplies_like_the_weight(c_in: int, c_out: int, dtype: torch.dtype) -> None:
    weight = masked((2, c_in, c_out), 2, 4, density=0.8).to(dtype)
    a, metadata = mma_sp_operand_a(pack_nm(weight))
    assert a.shape == (2, -(-c_out // 16), -(-c_in // 32), 32, 4, 2) and metadata.shape == a.shape[:4]
    points = torch.zeros(a.shape[2] * 32, 8)
    points[:c_in] = random_weight((c_in, 8), 5)
    for selector, tap, tile in itertools.product((0, 1), range(2), range(a.shape[1])):
        parts = [
            mma_sp(a[tap, tile, k], metadata[tap, tile, k], points[32 * k : 32 * k + 32], selector)
            for k in range(a.shape[2])
        ]
        expected = torch.zeros(16, 8, dtype=torch.float64)
        rows = weight[tap, :, 16 * tile : 16 * tile + 16].t().double() @ points[:c_in].double()
        expected[: len(rows)] = rows
        close(torch.stack(parts).sum(0), expected, 1e-12)
    with pytest.raises(ValueError, match="2:4"):
        mma_sp_operand_a(pack_nm(weight.float()))


# --- the order of channels -------------------------------------------------------------------------------------------


def partitions(items: tuple[int, ...], m: int) -> Iterator[list[int]]:
    if not items:
        yield []
    for rest in itertools.combinations(items[1:], m - 1) if items else ():
        first = (items[0], *rest)
        for others in partitions(tuple(i for i in items if i not in first), m):
            yield [*first, *others]


@given(
    pattern=st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (2, 3), (1, 1), (2, 2), (4, 8), (2, 5)]),
    runs=st.integers(0, 4),
    rows=st.integers(0, 9),
    seed=st.integers(0, 9999),
)
@settings(max_examples=60)
def test_an_order_is_a_permutation_and_never_worse(
    pattern: tuple[int, int], runs: int, rows: int, seed: int
) -> None:
    n, m = pattern
    x = random_weight((rows, runs * m), seed).abs()
    order = search_permutation(x, n, m)
    assert order.sort().values.tolist() == list(range(runs * m))
    assert kept_magnitude(x[:, order], n, m) >= kept_magnitude(x, n, m)
    few = search_permutation(x, n, m, rows=2)
    assert kept_magnitude(x[:, few], n, m) >= kept_magnitude(x, n, m)
    assert torch.equal(order, search_permutation(x, n, m))
    if runs == 2 and m <= 5 and rows:  # two runs: the best of all
        best = max(kept_magnitude(x[:, p], n, m) for p in partitions(tuple(range(2 * m)), m))
        assert kept_magnitude(x[:, order], n, m) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_an_order_of_three_runs_is_near_the_best_of_all(seed: int) -> None:
    """5775 orders of 12 channels in runs of four: the search finds at least 99 % of what can be gained."""
    x = random_weight((7, 12), seed).abs() ** 3
    best = max(kept_magnitude(x[:, p]) for p in partitions(tuple(range(12)), 4))
    start, got = kept_magnitude(x), kept_magnitude(x[:, search_permutation(x)])
    assert best > start and got - start >= 0.99 * (best - start)


def test_large_channels_spread_over_runs() -> None:
    x = torch.full((5, 16), 0.1)
    x[:, :8] = 1.0  # two runs of large ones, two of small ones: half of the large ones would go
    order = search_permutation(x)
    assert kept_magnitude(x) == pytest.approx(5 * (4 + 0.4))
    assert kept_magnitude(x[:, order]) == pytest.approx(5 * 8)
    with pytest.raises(ValueError, match="multiple of 4"):
        search_permutation(x[:, :6])
    with pytest.raises(ValueError, match="not negative"):
        search_permutation(-x)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_permuted_networks_compute_the_same(name: str) -> None:
    model, x = create(name), ZOO[name].scan()
    analysis = pruning.analyze(model, [x])
    expected = outputs(model, name)
    new, lines = pruning.permute_channels(model, [x], analysis=analysis)
    for a, b in zip(outputs(new, name), expected, strict=True):
        close(a, b, 1e-6)
    assert len(lines) == len(analysis.channels)
    for line in lines:
        assert line.after >= line.before or line.left
    same = [torch.equal(a, b) for a, b in zip(new.parameters(), model.parameters(), strict=True)]
    assert any(line.after > line.before for line in lines) == (not all(same))
    if name in ("UNet", "Residual", "DeepUNet", "Twice"):
        assert all(line.after > line.before for line in lines), lines


def outputs(model: nn.Module, name: str) -> list[torch.Tensor]:
    return [y.detach() for y in outputs_of(model, ZOO[name].scan(), None)]


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


def test_linear_layers_take_tensors_and_refuse_others() -> None:
    layer = NMLinear(nm_layer(nn.Linear(10, 3), 1, 4), 1, 4)
    x = random_weight((2, 5, 10), 1)
    close(layer(x), layer.to_dense()(x).detach(), 1e-6)
    assert layer(x[:, :0]).shape == (2, 0, 3) and "1:4" in repr(layer)
    with pytest.raises(ValueError, match="10"):
        layer(x[..., :9])
    with pytest.raises(ValueError, match="Linear: weight is not 2:4"):
        NMLinear(nn.Linear(8, 8))


# --- to_nm -----------------------------------------------------------------------------------------------------------


def test_to_nm_of_a_network_that_was_not_pruned_leaves_it_and_says_where() -> None:
    model = create("UNet")
    new, report = pruning.to_nm(model)
    assert all(layer.choice == "dense" and "not 2:4" in layer.reason for layer in report.layers)
    assert report.bits == report.dense_bits and not any(isinstance(m, NMConv) for m in new.modules())
    assert "left: deep.0" in str(report)


@pytest.mark.parametrize("criterion", [pruning.Magnitude(), pruning.OBS()], ids=["magnitude", "sparsegpt"])
@pytest.mark.parametrize("name", ["UNet", "Residual", "InversePair"])
def test_to_nm_prunes_packs_and_measures(name: str, criterion: pruning.Criterion) -> None:
    model, x = create(name), ZOO[name].scan()
    before = copy.deepcopy(model.state_dict())
    new, report = pruning.to_nm(model, [x], criterion=criterion, permute=True, rounds=2)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    packed = {n for n, m in new.named_modules() if isinstance(m, NMConv | NMLinear)}
    assert packed == {layer.name for layer in report.layers if layer.choice == "packed"} and len(packed) > 2
    for layer in report.layers:
        if layer.choice == "packed":
            assert layer.ms > 0 and layer.dense_ms > 0 and layer.bits < 0.6 * layer.dense_bits
            assert layer.bits == new.get_submodule(layer.name).size_in_bits
    assert any(p.after > p.before for p in report.permuted)
    again = pruning.permute_channels(model, [x])[0]
    plan = pruning.make_plan(again, [x], granularity=pruning.NM(), criterion=criterion)
    close(new(x).features, plan.apply(again)(x).features.detach(), 1e-9)
    fresh, _ = pruning.to_nm(create(name, seed=7), [x], criterion=pruning.Magnitude(), rounds=0)
    fresh.load_state_dict(new.state_dict())
    assert torch.equal(fresh(x).features, new(x).features)


def test_sparsegpt_loses_less_of_the_output_than_magnitude() -> None:
    model, x = create("UNet"), ZOO["UNet"].scan()
    want = model(x).features.detach()
    errors = []
    for criterion in (pruning.OBS(), pruning.Magnitude()):
        got = pruning.to_nm(model, [x], criterion=criterion, rounds=0)[0](x).features
        errors.append(float((got - want).norm() / want.norm()))
    assert errors[0] < 0.8 * errors[1]


def test_output_channels_can_share_a_mask() -> None:
    """Of each run the input channels whose |w|, summed over 16 output channels, are largest: by brute force."""
    model = spnn.Sequential(spnn.SubMConv3d(4, 8, 3), spnn.SubMConv3d(8, 40, 3), spnn.Linear(40, 8))
    x = random_tensor(3, 50, 4, extent=5)
    plan = pruning.make_plan(
        model, [x], granularity=pruning.NM(2, 4, outputs=16), criterion=pruning.Magnitude(p=1)
    )
    weight, mask = model[1].weight.detach(), plan.masks()["1.weight"]
    for tap, run, first in itertools.product(range(27), (0, 4), (0, 16, 32)):
        part = mask[tap, run : run + 4, first : first + 16]
        rows = weight[tap, run : run + 4, first : first + 16].abs().double().sum(1)
        assert bool((part == part[:, :1]).all()) and int(part[:, 0].sum()) == 2
        best = max(rows[list(c)].sum() for c in itertools.combinations(range(4), 2))
        assert float(rows[part[:, 0]].sum()) == pytest.approx(float(best), rel=1e-12)
    new, report = pruning.to_nm(model, [x], criterion=pruning.Magnitude(), outputs=16, rounds=0)
    assert report["1"].choice == "packed" and new[1].n == 2
    with pytest.raises(ValueError, match="outputs must be"):
        pruning.NM(2, 4, outputs=0)


def test_to_nm_refuses_and_ignores() -> None:
    model, x = create("UNet"), ZOO["UNet"].scan()
    with pytest.raises(ValueError, match="at least one scan"):
        pruning.to_nm(model, criterion=pruning.Magnitude())
    with pytest.raises(ValueError, match="n <= m"):
        pruning.to_nm(model, n=5)
    _, report = pruning.to_nm(model, [x], criterion=pruning.Magnitude(), ignore=["deep"], rounds=0)
    assert (
        report["deep.0"].reason == "ignored" and report["up"].choice == "packed" and report["up"].ms is None
    )
    with pytest.raises(KeyError, match="nothing"):
        report["nothing"]


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linear", [False, True])
def test_the_straight_through_gradient_is_the_papers(linear: bool) -> None:
    weight = random_weight((6, 8), 2) if linear else random_weight((3, 8, 5), 2)
    dense = weight.double().requires_grad_()
    masked_weight = pruning.SRSTE(decay=0.3, linear=linear)(dense)
    mask = nm_mask(weight.t()[None])[0].t() if linear else nm_mask(weight)
    assert torch.equal(masked_weight, torch.where(mask, dense, 0))
    cotangent = random_weight(tuple(weight.shape), 9).double()
    (grad,) = torch.autograd.grad(masked_weight, dense, cotangent)
    close(grad, cotangent + 0.3 * torch.where(mask, 0, dense.detach()), 1e-15)
    with pytest.raises(ValueError, match="decay"):
        pruning.SRSTE(decay=-1)


def test_a_network_trains_sparse_and_ends_nm() -> None:
    model, x = create("UNet"), ZOO["UNet"].scan()
    model.train()
    target = random_weight((len(x), 5), 4).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    first, masks = None, []
    with pruning.sparse_training(model, decay=1e-3, ignore=["head"]) as names:
        assert "deep.0" in names and "head" not in names and "stem.0" in names
        for _ in range(15):
            loss = (model(x).features - target).square().mean()
            first = first or float(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            masks.append(model.get_submodule("deep.0").weight.detach() != 0)
    assert float(loss) < first and not torch.equal(masks[0], masks[-1])  # pruned weights came back
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    new, report = pruning.to_nm(model, ignore=["head"])
    assert {layer.name for layer in report.layers if layer.choice == "packed"} == set(names)
    close(new.eval()(x).features, model.eval()(x).features.detach(), 1e-10)
