# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Convolution layers against the oracle: every geometry, targets, inverses, pruned taps, layouts, types."""

from __future__ import annotations

import copy
from fractions import Fraction

import numpy as np
import oracle
import pytest
import torch
from engine import bias_of, layer_of, map_options, out_stride, random_tensor, target_of, tensor_of
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, close, coords_of, same_bits

import sparseconv
import sparseconv.nn as spnn
from sparseconv import functional, kernel_map


def expected(case: Case) -> np.ndarray:
    numbers = case.numbers
    return oracle.conv(
        numbers["features"], numbers["weight"], bias_of(case), case.pairs, len(case.out_sites), case.groups
    )


def check_sites(y: sparseconv.SparseTensor, case: Case) -> None:
    assert [tuple(r) for r in y.coords.tolist()] == case.out_sites
    assert y.batch_size == case.batch_size
    shape = oracle.output_shape(case.rel, case.shape)
    assert (None if y.spatial_shape is None else tuple(y.spatial_shape)) == shape
    assert tuple(Fraction(s) for s in y.stride) == out_stride(case)


@given(case=cases())
def test_any_layer_equals_the_oracle(case: Case) -> None:
    y = layer_of(case)(tensor_of(case))
    check_sites(y, case)
    close(y.features, expected(case))


@given(case=cases(with_target=True))
def test_any_layer_onto_the_sites_of_another_tensor(case: Case) -> None:
    if case.rel.submanifold:
        return
    y = layer_of(case)(tensor_of(case), target_of(case))
    check_sites(y, case)
    close(y.features, expected(case))
    touched = {o for _, _, o in case.pairs}
    for row in set(range(len(case.out_sites))) - touched:  # a site without a pair gets the bias, to the bit
        bias = (
            torch.from_numpy(case.numbers["bias"])
            if case.bias
            else torch.zeros(case.c_out, dtype=torch.float64)
        )
        assert torch.equal(y.features[row].detach(), bias)


@given(case=cases())
def test_float32(case: Case) -> None:
    y = layer_of(case, torch.float32)(tensor_of(case, torch.float32))
    assert y.features.dtype == torch.float32
    close(y.features, expected(case), 1e-5)


@given(case=cases(), data=st.data())
def test_pruned_taps_equal_zeroed_weights(case: Case, data: st.DataObject) -> None:
    kept = sorted(data.draw(st.sets(st.integers(0, case.rel.volume - 1))))
    whole, pruned = layer_of(case), layer_of(case)
    assert whole.taps.tolist() == [list(t) for t in case.rel.taps()] and whole.taps.dtype == torch.int32
    assert "taps" not in whole.state_dict()
    with torch.no_grad():
        dropped = [t for t in range(case.rel.volume) if t not in kept]
        whole.weight[dropped] = 0
    pruned.taps = whole.taps[kept]
    pruned.weight = torch.nn.Parameter(whole.weight.detach()[kept].clone())
    a, b = whole(tensor_of(case)), pruned(tensor_of(case))
    assert torch.equal(a.coords, b.coords)
    close(b.features, a.features)


@given(case=cases(kind="conv"))
def test_inverse_is_the_transposed_layer_onto_the_partner(case: Case) -> None:
    """Bit for bit, whether the partner's map lies in the cache (reversed) or has to be built."""
    x = tensor_of(case)
    options = case.layer_options
    y = layer_of(case)(x)
    inverse = getattr(spnn, f"InverseConv{case.rel.ndim}d")(
        case.c_out, case.c_in, case.rel.kernel, groups=case.groups, bias=case.bias, **options
    ).double()
    transposed = getattr(spnn, f"ConvTranspose{case.rel.ndim}d")(
        case.c_out, case.c_in, case.rel.kernel, groups=case.groups, bias=case.bias, **options
    ).double()
    with torch.no_grad():
        for name, value in transposed.named_parameters():
            value.copy_(inverse.get_parameter(name))
    cached = inverse(y, x)
    fresh_x = tensor_of(case)
    fresh_y = sparseconv.SparseTensor(
        y.features.detach(), y.coords, stride=y.stride, spatial_shape=y.spatial_shape, batch_size=y.batch_size
    )
    built = inverse(fresh_y, fresh_x)
    via_transposed = transposed(fresh_y, fresh_x)
    y.clear_cache()
    x.clear_cache()
    cleared = inverse(y, x)
    for other in (built, via_transposed, cleared):
        same_bits(other.features, cached.features)
    assert torch.equal(cached.coords, x.coords)
    swapped = sorted(((t, o, i) for t, i, o in case.pairs), key=lambda p: (p[0], p[2]))
    weight, bias = inverse.weight.detach().numpy(), inverse.bias.detach().numpy() if case.bias else None
    close(
        cached.features, oracle.conv(y.features.detach(), weight, bias, swapped, len(case.sites), case.groups)
    )


@given(case=cases(kind="conv"), data=st.data())
def test_a_pruned_inverse_does_not_take_its_partners_whole_map(case: Case, data: st.DataObject) -> None:
    kept = sorted(data.draw(st.sets(st.integers(0, case.rel.volume - 1))))
    x = tensor_of(case)
    y = layer_of(case)(x)
    name, options = f"InverseConv{case.rel.ndim}d", case.layer_options
    whole = getattr(spnn, name)(
        case.c_out, 2 * case.groups, case.rel.kernel, groups=case.groups, **options
    ).double()
    pruned = copy.deepcopy(whole)
    with torch.no_grad():
        whole.weight[[t for t in range(case.rel.volume) if t not in kept]] = 0
    pruned.taps = whole.taps[kept]
    pruned.weight = torch.nn.Parameter(whole.weight.detach()[kept].clone())
    for _ in range(2):  # the first call finds the partner's map in the cache, the second its own
        close(pruned(y, x).features, whole(y, x).features)


@given(case=cases(enlarge=False))
def test_the_gather_scatter_dataflow_agrees(case: Case) -> None:
    kmap = sparseconv.build_kernel_map(coords_of(case.sites, case.rel.ndim), **map_options(case))
    numbers = {name: torch.from_numpy(value) for name, value in case.numbers.items()}
    bias = numbers["bias"] if case.bias else None
    for dataflow in ("fused", "gather_scatter"):
        out = functional.conv(
            numbers["features"], numbers["weight"], bias, kmap, groups=case.groups, dataflow=dataflow
        )
        close(out, expected(case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [(1, 16), (4, 32), (16, 16), (32, 33), (64, 7), (96, 128), (13, 13)])
def test_thousands_of_rows(channels: tuple[int, int], dtype: torch.dtype) -> None:
    """Many blocks of rows, full and partial tiles; against gather, matmul and index_add over the oracle's pairs."""
    c_in, c_out = channels
    x = random_tensor(3, 2500, c_in, extent=16, batch_size=2, dtype=dtype)
    layer = spnn.SubMConv3d(c_in, c_out, 3).to(dtype)
    sites = oracle.rows_of(x.coords.numpy())
    rel = oracle.make(3, 3, submanifold=True)
    out = layer.bias.detach().double().repeat(len(sites), 1)
    pairs = np.array(oracle.pairs(rel, sites, sites))
    for t in range(27):
        rows = torch.from_numpy(pairs[pairs[:, 0] == t])
        product = x.features.double()[rows[:, 1]] @ layer.weight.detach().double()[t]
        out.index_add_(0, rows[:, 2], product)
    close(layer(x).features, out, 1e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("layout", ["torch dense", "spconv", "flipped copy"])
def test_the_weight_may_have_any_strides(layout: str) -> None:
    """Forward and gradient; the gradient keeps the weight's strides."""
    x = random_tensor(3, 300, 6, extent=8, dtype=torch.float64)
    kmap = sparseconv.build_kernel_map(x.coords, kernel_size=3, submanifold=True)
    plain = torch.randn(27, 6, 10, dtype=torch.float64)
    if layout == "torch dense":  # [C_out, C_in, K]
        base = plain.permute(2, 1, 0).contiguous().requires_grad_()
        view = base.permute(2, 1, 0)
    elif layout == "spconv":  # [C_out, K, C_in]
        base = plain.permute(2, 0, 1).contiguous().requires_grad_()
        view = base.permute(1, 2, 0)
    else:
        base = plain.transpose(1, 2).contiguous().requires_grad_()
        view = base.transpose(1, 2)
    reference = plain.clone().requires_grad_()
    a = functional.conv(x.features, view, None, kmap)
    b = functional.conv(x.features, reference, None, kmap)
    close(a, b)
    cotangent = torch.randn_like(a)
    a.backward(cotangent)
    b.backward(cotangent)
    assert base.grad.shape == base.shape and base.grad.stride() == base.stride()
    moved = {"torch dense": (2, 1, 0), "spconv": (1, 2, 0), "flipped copy": (0, 2, 1)}[layout]
    close(base.grad.permute(*moved), reference.grad)


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("name", ["SubMConv3d", "Conv3d", "ConvTranspose3d"])
def test_empty_and_one_voxel_scans(rows: int, name: str) -> None:
    coords = torch.zeros(rows, 4, dtype=torch.int32)
    features = torch.ones(rows, 3, requires_grad=True)
    x = sparseconv.SparseTensor(features, coords, batch_size=2)
    y = getattr(spnn, name)(3, 5, 3)(x)
    assert y.features.shape == (0 if rows == 0 else 1 if name == "SubMConv3d" else 27, 5)
    y.features.sum().backward()
    assert features.grad.shape == (rows, 3)


def test_a_layer_without_an_output_site() -> None:
    """Stride 3, kernel 1: nothing of a voxel at 1 arrives anywhere."""
    features = torch.ones(1, 2, requires_grad=True)
    x = sparseconv.SparseTensor(features, torch.tensor([[0, 1, 1]], dtype=torch.int32))
    layer = spnn.Conv2d(2, 3, 1, stride=3)
    y = layer(x)
    assert y.features.shape == (0, 3) and y.coords.shape == (0, 3)
    y.features.sum().backward()
    assert torch.equal(features.grad, torch.zeros(1, 2))
    assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


def test_strides_multiply_and_divide() -> None:
    x = random_tensor(2, 60, 2, extent=12)
    down = spnn.Conv2d(2, 2, 2, stride=(2, 3))(x)
    assert tuple(down.stride) == (2, 3)
    up = spnn.ConvTranspose2d(2, 2, 2, stride=(4, 3))(down)
    assert tuple(Fraction(s) for s in up.stride) == (Fraction(1, 2), Fraction(1))
    assert [type(s) for s in up.stride] == [Fraction, int]
    assert repr(spnn.MaxPool2d((2, 1))(up).stride) == "(1, 1)", "whole numbers are ints again"
    with pytest.raises(ValueError):
        spnn.ConvTranspose2d(2, 2, 2, stride=2)(down, x)  # (1, 3/2) is not x's stride
    with pytest.raises(ValueError):
        _ = down + x


def test_minkowski_with_a_shape_equals_the_bounded_oracle_for_odd_kernels() -> None:
    for stride in (1, 2, 3):
        case = Case(
            oracle.make(2, (3, 5), stride, dilation=(2, 1), anchor="minkowski"),
            ((0, 6, 0), (0, 0, 4), (1, 3, 3), (1, 6, 4)), (7, 5), 2, 1, 2, 3, True, 5,
        )  # fmt: skip
        y = layer_of(case)(tensor_of(case))
        check_sites(y, case)
        close(y.features, expected(case))


def test_generative_layers_do_not_depend_on_what_was_computed_before() -> None:
    x = random_tensor(3, 80, 2, extent=12)
    up = spnn.ConvTranspose3d(2, 2, 2, stride=2)
    alone = up(spnn.Conv3d(2, 2, 2, stride=2)(x))
    fresh = sparseconv.SparseTensor(alone.features.detach(), alone.coords)
    down = spnn.Conv3d(2, 2, 2, stride=2)(x)
    _ = spnn.InverseConv3d(2, 2, 2, stride=2)(down, x)  # leaves the partner's map in the cache
    again = up(down)
    assert torch.equal(again.coords, alone.coords) and len(fresh.coords) == 8 * len(down.coords)


def test_a_cached_map_refuses_another_geometry() -> None:
    """A map is a matter of both tensors: features of another length do not slip through."""
    x = random_tensor(3, 80, 2, extent=6)
    kmap, _ = kernel_map.lookup(x.sites, kernel_map.Geometry.make(3, 3, submanifold=True))
    with pytest.raises(ValueError, match=r"\d+"):
        functional.conv(torch.ones(len(x.coords) + 1, 2), torch.ones(27, 2, 2), None, kmap)


def test_the_comparison_can_fail() -> None:
    with pytest.raises(AssertionError):
        close(torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64) + 1e-9)
    with pytest.raises(AssertionError):
        close(torch.ones(3), torch.tensor([1.0, float("nan"), 1.0]))
    with pytest.raises(AssertionError):
        close(torch.ones(3, 1), torch.ones(3))
