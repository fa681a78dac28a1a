# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The GPU's compute functions without a GPU: whole layers over emulated CUDA kernels (csrc/tools/emulate) and CPU tensors.

What they must give comes from float64 arithmetic in plain torch over the map's pairs. Everything also runs with
blocks and threads in another order, which must not change a bit. csrc/tools/check_cuda.cpp has the kernels alone, in more shapes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from engine import random_tensor
from torch import Tensor

import sparseconv
from sparseconv import _native, _native_cuda, functional
from sparseconv import nn as spnn
from sparseconv.formats import NMConv, mma_sp_operands, nm_mask, pack_nm

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# Of the largest value: rounding of the result, and for TF32 of the operands.
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-5, torch.float64: 1e-12}


def close(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape
    limit = tolerance * (want.abs().max().item() if want.numel() else 0.0)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=limit)


def by_pairs(
    x: Tensor, weight: Tensor, bias: Tensor | None, kmap: sparseconv.KernelMap, groups: int = 1
) -> Tensor:
    out = x.new_zeros(kmap.n_out, weight.shape[2])
    for t in range(kmap.taps):
        rows, to = kmap.pairs[kmap.tap_offsets[t] : kmap.tap_offsets[t + 1]].long().T
        products = [a @ w for a, w in zip(x[rows].chunk(groups, 1), weight[t].chunk(groups, 1), strict=True)]
        out = out.index_add(0, to, torch.cat(products, 1))
    return out if bias is None else out + bias


MAPS = {
    "submanifold": {"kernel_size": 3, "submanifold": True},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "pointwise": {"kernel_size": 1},
    "even": {"kernel_size": 2, "stride": 2},
    "transposed": {"kernel_size": 2, "stride": 2, "transposed": True},
    "large": {"kernel_size": 5, "submanifold": True},
}
CHANNELS = [
    (4, 16, 1),
    (16, 33, 1),
    (3, 17, 1),
    (64, 64, 1),
    (24, 24, 24),
    (12, 30, 3),
    (1, 1, 1),
    (96, 128, 1),
]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", MAPS)
def test_convolution_and_its_gradients(
    name: str, dtype: torch.dtype, on_emulated_gpu: Callable[[int], None]
) -> None:
    channels = CHANNELS if name == "submanifold" else CHANNELS[:3]
    for rows, (c_in, c_out, groups) in enumerate(channels):
        coords = random_tensor(3, [150, 1, 200, 120][rows % 4], 1, extent=8, batch_size=2).coords
        kmap = sparseconv.build_kernel_map(coords, **MAPS[name])
        values = [
            torch.randn(shape).to(dtype)
            for shape in (
                (kmap.n_in, c_in),
                (kmap.taps, c_in // groups, c_out),
                (c_out,),
                (kmap.n_out, c_out),
            )
        ]
        wide = [v.double().requires_grad_() for v in values]
        expected = by_pairs(*wide[:3], kmap, groups)
        expected_grads = torch.autograd.grad(expected, wide[:3], wide[3])
        results = []
        for seed in (1, 2):
            on_emulated_gpu(seed)
            inputs = [v.clone().requires_grad_() for v in values[:3]]
            out = functional.conv(*inputs, kmap, groups=groups)
            results.append([out.detach(), *torch.autograd.grad(out, inputs, values[3])])
        for got, again, want in zip(*results, [expected.detach(), *expected_grads], strict=True):
            assert torch.equal(got, again)
            close(got, want, TOLERANCE[dtype])


def test_no_rows_no_pairs_no_taps(on_emulated_gpu: Callable[[int], None]) -> None:
    on_emulated_gpu(3)
    coords = torch.zeros(0, 4, dtype=torch.int32)
    for rows, taps in ((0, 27), (1, 27), (1, 0)):
        kmap = sparseconv.KernelMap(
            torch.zeros(0, 2, dtype=torch.int32),
            torch.zeros(taps + 1, dtype=torch.int64),
            coords,
            torch.zeros(rows, 4, dtype=torch.int32),
        )
        for dtype in TYPES:
            x = torch.zeros(0, 8, dtype=dtype, requires_grad=True)
            weight = torch.ones(taps, 8, 5, dtype=dtype, requires_grad=True)
            bias = torch.arange(5).to(dtype)
            out = functional.conv(x, weight, bias, kmap)
            assert torch.equal(out, bias.repeat(rows, 1))
            grads = torch.autograd.grad(out.sum(), (x, weight))
            assert grads[0].shape == (0, 8) and not grads[1].any()


@pytest.mark.parametrize("layout", ["dense", "spconv", "sliced"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_weight_may_have_any_strides(
    layout: str, dtype: torch.dtype, on_emulated_gpu: Callable[[int], None]
) -> None:
    kmap = sparseconv.build_kernel_map(
        random_tensor(3, 150, 1, extent=8).coords, kernel_size=3, submanifold=True
    )
    x = torch.randn(kmap.n_in, 16).to(dtype)
    weight = {
        "dense": torch.randn(24, 16, 27).to(dtype).permute(2, 1, 0),
        "spconv": torch.randn(24, 27, 16).to(dtype).permute(1, 2, 0),
        "sliced": torch.randn(27, 32, 24).to(dtype)[:, ::2],
    }[layout]
    assert not weight.is_contiguous()
    on_emulated_gpu(4)
    close(
        functional.conv(x, weight, None, kmap),
        by_pairs(x.double(), weight.double(), None, kmap),
        TOLERANCE[dtype],
    )


def test_features_in_the_middle_of_a_tensor(on_emulated_gpu: Callable[[int], None]) -> None:
    kmap = sparseconv.build_kernel_map(
        random_tensor(3, 100, 1, extent=8).coords, kernel_size=3, submanifold=True
    )
    x = torch.randn(kmap.n_in * 8 + 1).half()[1:].view(-1, 8)
    weight = torch.randn(27, 8, 8).half()
    on_emulated_gpu(5)
    close(functional.conv(x, weight, None, kmap), by_pairs(x.double(), weight.double(), None, kmap), 1e-3)


def test_float32_in_tf32_where_torch_is_told_so(on_emulated_gpu: Callable[[int], None]) -> None:
    kmap = sparseconv.build_kernel_map(
        random_tensor(3, 150, 1, extent=8).coords, kernel_size=3, submanifold=True
    )
    x, weight = torch.randn(kmap.n_in, 16), torch.randn(27, 16, 16)
    want = by_pairs(x.double(), weight.double(), None, kmap)
    on_emulated_gpu(6)
    plain = functional.conv(x, weight, None, kmap)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        rounded = functional.conv(x, weight, None, kmap)
    finally:
        torch.set_float32_matmul_precision(before)
    close(plain, want, 1e-6)
    close(rounded, want, 1e-3)
    assert (rounded - want).abs().max() > 20 * (plain - want).abs().max()


@pytest.mark.parametrize("dtype", TYPES[:2])
@pytest.mark.parametrize(("c_in", "c_out"), [(32, 16), (64, 80), (160, 48)])
def test_a_two_of_four_weight(c_in: int, c_out: int, dtype: torch.dtype, emulated: ModuleType) -> None:
    kmap = sparseconv.build_kernel_map(
        random_tensor(3, 150, 1, extent=8).coords, kernel_size=3, submanifold=True
    )
    x, bias = torch.randn(kmap.n_in, c_in).to(dtype), torch.randn(c_out).to(dtype)
    fours = torch.randn(27, c_in // 4, 4, c_out).to(dtype)
    dropped = torch.rand(fours.shape).argsort(2) >= torch.randint(0, 3, (27, c_in // 4, 1, c_out))
    weight = fours.masked_fill(dropped, 0).flatten(1, 2)  # 0 to 2 of each 4 left
    values, metadata = mma_sp_operands(pack_nm(weight))
    results = [x.new_empty(kmap.n_out, c_out) for _ in range(2)]
    for seed, out in enumerate(results):
        _native_cuda.gather_gemm_2to4(
            emulated, seed, x, values, metadata, bias, kmap.pairs, kmap.tap_offsets, out
        )
    assert torch.equal(*results)
    close(results[0], by_pairs(x.double(), weight.double(), bias.double(), kmap), TOLERANCE[dtype])
    with pytest.raises(ValueError, match="32 n input"):
        mma_sp_operands(pack_nm(weight[:, :16]))
    with pytest.raises(ValueError, match="float16"):
        mma_sp_operands(pack_nm(weight.float()))


@pytest.mark.parametrize("dtype", TYPES[:2])
@pytest.mark.parametrize("kind", ["SubMConv3d", "Conv3d"])
def test_a_layer_with_a_two_of_four_weight(
    kind: str, dtype: torch.dtype, on_emulated_gpu: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = getattr(spnn, kind)(32, 48, 3)
    with torch.no_grad():
        dense.weight *= nm_mask(dense.weight)
    layer = NMConv(dense, kernel="mma_sp").to(dtype)
    exact = copy.deepcopy(dense).to(dtype).double()
    x = random_tensor(3, 120, 32, extent=8)
    features, calls = x.features.to(dtype), []

    def run(own: Any, dtype: torch.dtype) -> list[Tensor]:
        leaf = features.to(dtype).requires_grad_()
        out = own(x.replace(leaf)).features
        return [out.detach(), *torch.autograd.grad(out.square().sum(), (leaf, own.bias))]

    wanted = run(exact, torch.float64)
    kernel = _native.gather_gemm_2to4
    monkeypatch.setattr(_native, "gather_gemm_2to4", lambda *a: (calls.append(1), kernel(*a))[1])
    on_emulated_gpu(5)
    found = run(layer, dtype)
    assert calls == [1]
    for got, want in zip(found, wanted, strict=True):
        close(got, want, 4 * TOLERANCE[dtype])
    on_emulated_gpu(6)
    assert all(map(torch.equal, run(layer, dtype), found))
    layer.kernel = "dense"
    close(run(layer, dtype)[0], wanted[0], TOLERANCE[dtype])
    assert len(calls) == 2
    layer.kernel = "mma_sp"
    with pytest.raises(
        ValueError, match=r"\[N, 32\]"
    ):  # what the kernel cannot take is refused as by a dense layer
        layer(x.replace(features[:, :16]))


@pytest.mark.parametrize("dtype", TYPES)
def test_max_pooling_and_its_gradient(dtype: torch.dtype, on_emulated_gpu: Callable[[int], None]) -> None:
    x = random_tensor(3, 200, 9, extent=8, batch_size=2)
    features = torch.randint(-3, 4, x.features.shape).to(dtype)  # many ties

    def run() -> tuple[Tensor, Tensor]:
        leaf = features.clone().requires_grad_()
        out = spnn.MaxPool3d(3, 2, 1)(x.replace(leaf)).features
        return out.detach(), torch.autograd.grad(out, leaf, torch.ones_like(out))[0]

    on_emulated_gpu(7)
    first = run()
    on_emulated_gpu(8)
    for a, b in zip(first, run(), strict=True):
        assert torch.equal(a, b)
    kmap = sparseconv.build_kernel_map(x.coords, kernel_size=3, stride=2, padding=1)
    wide = features.double().requires_grad_()
    table = wide[kmap.neighbors.long().clamp(min=0)].masked_fill((kmap.neighbors < 0)[..., None], -99)
    out = table.gather(0, table.argmax(0, keepdim=True))[0]
    assert torch.equal(first[0].double(), out.detach())
    assert torch.equal(first[1].double(), torch.autograd.grad(out.sum(), wide)[0])


@pytest.mark.parametrize("dtype", TYPES)
def test_lists_short_and_long(
    dtype: torch.dtype, emulated: ModuleType, on_emulated_gpu: Callable[[int], None]
) -> None:
    on_emulated_gpu(9)
    for lengths in ([3, 0, 5, 1] * 50, [700, 900]):
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        cols = torch.randint(0, 60, (int(offsets[-1]),))
        x, weights = torch.randn(60, 37).to(dtype), torch.rand(len(cols))
        weights = weights.to(torch.float64 if dtype == torch.float64 else torch.float32)
        out, best = x.new_empty(len(lengths), 37), x.new_empty(len(lengths), 37)
        arg = torch.empty(len(lengths), 37, dtype=torch.int64)
        _native.gather_sum(x, offsets, cols, weights, out)
        _native.gather_max(x, offsets, cols, best, arg)
        parts = x.double()[cols].split(lengths)
        scales = weights.double().split(lengths)
        sums = torch.stack([s @ p for p, s in zip(parts, scales, strict=True)])
        close(out, sums, TOLERANCE[dtype])
        maxima = torch.stack([p.amax(0) if len(p) else torch.zeros(37, dtype=torch.float64) for p in parts])
        assert torch.equal(best.double(), maxima)
        nonempty = torch.tensor(lengths) > 0
        assert torch.equal(x.double().gather(0, arg[nonempty]), maxima[nonempty])
        assert (arg[~nonempty] == -1).all()


def test_a_plan_sorts_rows_and_is_made_once(emulated: ModuleType) -> None:
    kmap = sparseconv.build_kernel_map(
        random_tensor(3, 300, 1, extent=9).coords, kernel_size=5, submanifold=True
    )
    plan = _native_cuda.row_plan(emulated, 1, kmap.pairs, kmap.tap_offsets, kmap.n_out)
    assert _native_cuda.row_plan(emulated, 2, kmap.pairs, kmap.tap_offsets, kmap.n_out) is plan
    assert torch.equal(plan.order.sort().values, torch.arange(kmap.n_out, dtype=torch.int32))
    assert torch.equal(plan.neighbors, kmap.neighbors[:, plan.order.long()])
    has = (plan.neighbors >= 0).T.tolist()
    groups = [tuple(row) for row in has]
    runs = [g for i, g in enumerate(groups) if i == 0 or g != groups[i - 1]]
    assert len(runs) == len(set(runs))  # rows of one mask stand together
    for tile in range(len(plan.tile_masks)):
        for tap in range(125):
            bit = plan.tile_masks[tile, tap // 32].item() >> tap % 32 & 1
            assert bit == any(row[tap] for row in has[tile * 64 : tile * 64 + 64])


def test_a_layer_and_its_gradient_make_one_plan(
    on_emulated_gpu: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    make = _native_cuda._make_plan

    def count(*args: object) -> _native_cuda.RowPlan:
        made.append(args)
        return make(*args)

    monkeypatch.setattr(_native_cuda, "_make_plan", count)
    on_emulated_gpu(10)
    x = random_tensor(3, 100, 8, extent=8, grad=True)
    layer = spnn.SubMConv3d(8, 8, 3)
    for _ in range(2):
        layer(layer(x)).features.sum().backward()
    assert len(made) == 1  # the map is its own reverse
    strided = spnn.Conv3d(8, 8, 2, stride=2)
    for _ in range(2):
        strided(x).features.sum().backward()
    assert len(made) == 3  # one for either direction


def test_wrong_arguments_raise(emulated: ModuleType) -> None:
    kmap = sparseconv.build_kernel_map(
        random_tensor(3, 50, 1, extent=8).coords, kernel_size=3, submanifold=True
    )
    x, w, out = torch.ones(kmap.n_in, 4), torch.ones(27, 4, 5), torch.ones(kmap.n_out, 5)
    pairs, offsets = kmap.pairs, kmap.tap_offsets
    run = functools.partial(_native_cuda.gather_gemm, emulated, 1)
    wrong = [
        lambda: run(x, w[:, :3], None, pairs, offsets, 1, False, False, out),
        lambda: run(x, w.double(), None, pairs, offsets, 1, False, False, out),
        lambda: run(x, w, torch.ones(4), pairs, offsets, 1, False, False, out),
        lambda: run(x, w, None, pairs, offsets, 3, False, False, out),
        lambda: run(x.int(), w, None, pairs, offsets, 1, False, False, out),
        lambda: run(x, w[:26], None, pairs, offsets, 1, False, False, out),
        lambda: _native_cuda.column_sum(emulated, 1, x, torch.ones(3)),
        lambda: _native_cuda.gather_outer(emulated, 1, x, out, pairs, offsets, 1, torch.ones(27, 4, 4)),
    ]
    accepted = []
    for number, call in enumerate(wrong):
        try:
            call()
            accepted.append(number)
        except (ValueError, TypeError):
            pass
    assert accepted == []
