# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Pooling, unpooling and global pooling against the oracle, gradients included."""

from __future__ import annotations

import dataclasses

import numpy as np
import oracle
import pytest
import torch
from engine import random_tensor, target_of, tensor_of
from hypothesis import assume, given, settings
from strategies import Case, cases, close, same_bits

import sparseconv
import sparseconv.nn as spnn


def pool(case: Case, name: str, **options: object) -> torch.nn.Module:
    geometry = {"stride": case.rel.stride, "dilation": case.rel.dilation, "anchor": case.rel.anchor}
    if case.rel.anchor == "torch":
        geometry["padding"] = case.rel.padding
    return getattr(spnn, f"{name}{case.rel.ndim}d")(case.rel.kernel, **geometry, **options)


def cotangent(features: torch.Tensor) -> torch.Tensor:
    return torch.sin(torch.arange(1, features.numel() + 1, dtype=torch.float64)).reshape(features.shape)


def check_max(case: Case, values: np.ndarray, dtype: torch.dtype = torch.float64) -> None:
    x = tensor_of(case, dtype).replace(torch.tensor(values, dtype=dtype, requires_grad=True))
    y = pool(case, "MaxPool")(x, target_of(case)) if case.target is not None else pool(case, "MaxPool")(x)
    out, winner = oracle.max_pool(values, case.pairs, len(case.out_sites))
    assert oracle.rows_of(y.coords.numpy()) == case.out_sites
    assert torch.equal(y.features.detach().double(), torch.from_numpy(out).to(dtype).double())
    y.features.backward(cotangent(y.features).to(dtype))
    expected = oracle.max_pool_gradient(winner, cotangent(y.features).numpy(), len(values))
    close(x.features.grad, expected, 1e-10 if dtype == torch.float64 else 1e-5)


def check_avg(case: Case, count: str) -> None:
    x = tensor_of(case, grad=True)
    layer = pool(case, "AvgPool", count=count)
    y = layer(x, target_of(case)) if case.target is not None else layer(x)
    n_out, volume = len(case.out_sites), case.rel.volume
    assert oracle.rows_of(y.coords.numpy()) == case.out_sites
    close(y.features, oracle.avg_pool(case.numbers["features"], case.pairs, n_out, count, volume))
    y.features.backward(cotangent(y.features))
    grad = cotangent(y.features).numpy()
    close(x.features.grad, oracle.avg_pool_gradient(grad, case.pairs, len(case.sites), count, volume))


@given(case=cases(kind="conv"))
def test_max_pool(case: Case) -> None:
    check_max(case, case.numbers["features"])


@given(case=cases(kind="conv"))
def test_max_pool_in_float32(case: Case) -> None:
    check_max(case, case.numbers["features"].astype(np.float32).astype(np.float64), torch.float32)


@given(case=cases(kind="conv", max_rows=30))
def test_ties_go_to_the_lowest_tap(case: Case) -> None:
    rng = np.random.default_rng(case.seed)
    check_max(case, rng.integers(-1, 1, (len(case.sites), case.c_in)).astype(np.float64))


@given(case=cases(kind="conv", with_target=True))
def test_max_pool_onto_given_sites(case: Case) -> None:
    """A site without a pair holds 0, and no gradient flows from it."""
    check_max(case, case.numbers["features"])


@pytest.mark.parametrize("count", ["present", "kernel"])
@given(case=cases(kind="conv"))
def test_avg_pool(count: str, case: Case) -> None:
    check_avg(case, count)


@pytest.mark.parametrize("count", ["present", "kernel"])
@given(case=cases(kind="conv", with_target=True))
def test_avg_pool_onto_given_sites(count: str, case: Case) -> None:
    check_avg(case, count)


def test_stride_defaults_to_the_kernel_and_count_to_present() -> None:
    sites = tuple((0, x, y) for x in range(-3, 4) for y in range(0, 5, 2))
    case = Case(oracle.make(2, (3, 2), (3, 2)), sites, None, 1, 1, 2, 2, False, 4)
    for name in ("MaxPool2d", "AvgPool2d"):
        assert oracle.rows_of(getattr(spnn, name)((3, 2))(tensor_of(case)).coords.numpy()) == case.out_sites
    y = spnn.AvgPool2d((3, 2))(tensor_of(case))
    close(
        y.features, oracle.avg_pool(case.numbers["features"], case.pairs, len(case.out_sites), "present", 6)
    )
    assert tuple(y.stride) == (3, 2)


def test_minus_infinity_and_nan_go_through_max_pool() -> None:
    x = sparseconv.SparseTensor(
        torch.tensor([[-torch.inf, 1.0], [-torch.inf, torch.nan], [-5.0, 3.0]]),
        torch.tensor([[0, 0], [0, 1], [0, 2]], dtype=torch.int32),
    )
    y = spnn.MaxPool1d(2)(x)
    assert (
        y.features[0, 0] == -torch.inf
        and torch.isnan(y.features[0, 1])
        and y.features[1].tolist() == [-5.0, 3.0]
    )


@settings(max_examples=10)
@given(case=cases(kind="conv", max_rows=8, max_volume=12))
def test_gradcheck(case: Case) -> None:
    assume(case.c_in <= 5 and len(case.sites) > 0)  # torch's gradcheck refuses arrays without elements
    x = tensor_of(case, grad=True)
    for layer in (pool(case, "MaxPool"), pool(case, "AvgPool"), pool(case, "AvgPool", count="kernel")):
        assert torch.autograd.gradcheck(lambda f, layer=layer: layer(x.replace(f)).features, (x.features,))


@given(case=cases(kind="conv"))
def test_unpool_is_the_mean_over_the_coarse_sites_that_reach_a_cell(case: Case) -> None:
    x = tensor_of(case)
    coarse = pool(case, "AvgPool")(x)
    features = torch.randn(coarse.features.shape, dtype=torch.float64, requires_grad=True)
    fine = pool(case, "Unpool")(coarse.replace(features), x)
    swapped = [(t, o, i) for t, i, o in case.pairs]
    close(fine.features, oracle.avg_pool(features.detach().numpy(), swapped, len(case.sites), "present", 0))
    assert torch.equal(fine.coords, x.coords)
    fine.features.backward(cotangent(fine.features))
    grad = cotangent(fine.features).numpy()
    close(features.grad, oracle.avg_pool_gradient(grad, swapped, len(features), "present", 0))


def test_unpool_without_a_target_fills_the_whole_cell() -> None:
    x = random_tensor(3, 40, 2, extent=8, dtype=torch.float64)
    down = spnn.MaxPool3d(2)(x)
    up = spnn.Unpool3d(2)(down)
    assert len(up.coords) == 8 * len(down.coords) and tuple(up.stride) == (1, 1, 1)
    again = spnn.AvgPool3d(2)(up)
    assert torch.equal(again.coords, down.coords)
    close(again.features, down.features)


@pytest.mark.parametrize("name", ["GlobalMaxPool", "GlobalAvgPool"])
def test_global_pools_by_sample(name: str) -> None:
    """An empty sample is 0 with zero gradient, in the middle of the batch and at its end."""
    coords = torch.tensor([[2, 1, 1], [0, 0, 0], [2, 3, 0], [0, 5, 5], [0, -1, 2]], dtype=torch.int32)
    features = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    x = sparseconv.SparseTensor(features, coords, batch_size=4)
    out = getattr(spnn, name)()(x)
    assert out.shape == (4, 3)
    for sample in range(4):
        rows = features[coords[:, 0] == sample]
        if len(rows) == 0:
            assert torch.equal(out[sample], torch.zeros(3, dtype=torch.float64))
        elif name == "GlobalMaxPool":
            assert torch.equal(out[sample], rows.max(0).values)
        else:
            close(out[sample], rows.mean(0))
    reduce = (lambda f: f.max(0).values) if name == "GlobalMaxPool" else (lambda f: f.mean(0))
    weight = torch.randn(4, 3, dtype=torch.float64)
    expected = sum((reduce(features[coords[:, 0] == s]) * weight[s]).sum() for s in (0, 2))
    (reference,) = torch.autograd.grad(expected, features)
    (grad,) = torch.autograd.grad((out * weight).sum(), features)
    close(grad, reference)
    assert torch.autograd.gradcheck(lambda f: getattr(spnn, name)()(x.replace(f)), (features,))


@pytest.mark.parametrize("name", ["MaxPool3d", "AvgPool3d", "GlobalMaxPool", "GlobalAvgPool"])
def test_an_empty_scan(name: str) -> None:
    features = torch.zeros(0, 3, requires_grad=True)
    x = sparseconv.SparseTensor(features, torch.zeros(0, 4, dtype=torch.int32), batch_size=2)
    layer = getattr(spnn, name)() if name.startswith("Global") else getattr(spnn, name)(2)
    y = layer(x)
    out = y if isinstance(y, torch.Tensor) else y.features
    assert out.shape == ((2, 3) if name.startswith("Global") else (0, 3)) and not out.any()
    out.sum().backward()
    assert features.grad.shape == (0, 3)


@pytest.mark.parametrize("name", ["MaxPool3d", "AvgPool3d", "Unpool3d", "GlobalMaxPool", "GlobalAvgPool"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_for_any_run_and_thread_count(name: str, dtype: torch.dtype) -> None:
    x = random_tensor(3, 6000, 21, extent=24, batch_size=3, dtype=dtype, grad=True)
    layer = (
        getattr(spnn, name)() if name.startswith("Global") else getattr(spnn, name)(3, stride=2, padding=1)
    )
    reference = None
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        x.clear_cache()
        y = layer(x)
        out = y if isinstance(y, torch.Tensor) else y.features
        (grad,) = torch.autograd.grad(out, x.features, cotangent(out).to(dtype))
        reference = reference or (out, grad)
        same_bits(out, reference[0])
        same_bits(grad, reference[1])
    assert bool(reference[1].abs().sum() > 0)


def test_the_tie_comparison_can_fail() -> None:
    """The highest tap instead of the lowest gives another gradient."""
    case = Case(oracle.make(1, 2, 2), ((0, 0), (0, 1)), None, 1, 1, 1, 1, False, 0)
    x = np.ones((2, 1))
    _, winner = oracle.max_pool(x, case.pairs, 1)
    assert winner[0, 0] == 0
    mirrored = dataclasses.replace(case, sites=case.sites[::-1])
    assert oracle.max_pool(x, mirrored.pairs, 1)[1][0, 0] == 1
