# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Gradients of convolutions: the oracle's loops, gradcheck, any strides."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from engine import bias_of, layer_of, map_options, random_tensor, target_of, tensor_of
from hypothesis import assume, given, settings
from strategies import Case, cases, close, coords_of, same_bits

import sparseconv
import sparseconv.nn as spnn
from sparseconv import functional


def check_gradients(case: Case, dtype: torch.dtype, atol: float) -> None:
    x = tensor_of(case, dtype, grad=True)
    layer = layer_of(case, dtype)
    y = layer(x, target_of(case)) if case.target is not None else layer(x)
    numbers = case.numbers
    y.features.backward(torch.from_numpy(numbers["cotangent"]).to(dtype))
    grad_x, grad_w, grad_b = oracle.conv_gradients(
        numbers["features"], numbers["weight"], numbers["cotangent"], case.pairs, case.groups
    )
    close(x.features.grad, grad_x, atol)
    close(layer.weight.grad, grad_w, atol)
    if bias_of(case) is not None:
        close(layer.bias.grad, grad_b, atol)


@given(case=cases())
def test_all_gradients_equal_the_oracle(case: Case) -> None:
    check_gradients(case, torch.float64, 1e-10)


@given(case=cases(with_target=True))
def test_all_gradients_onto_given_sites(case: Case) -> None:
    if not case.rel.submanifold:
        check_gradients(case, torch.float64, 1e-10)


@given(case=cases())
def test_all_gradients_in_float32(case: Case) -> None:
    check_gradients(case, torch.float32, 1e-5)


@settings(max_examples=12)
@given(case=cases(max_rows=6, max_volume=12, enlarge=False))
def test_gradcheck(case: Case) -> None:
    assume(
        case.c_in * case.c_out <= 40 and len(case.sites) > 0
    )  # torch's gradcheck refuses arrays without elements
    kmap = sparseconv.build_kernel_map(coords_of(case.sites, case.rel.ndim), **map_options(case))
    inputs = [
        torch.from_numpy(case.numbers[k].copy()).requires_grad_() for k in ("features", "weight", "bias")
    ]
    assert torch.autograd.gradcheck(
        lambda x, w, b: functional.conv(x, w, b, kmap, groups=case.groups), inputs
    )


@pytest.mark.parametrize("name", ["SubMConv2d", "Conv2d", "ConvTranspose2d"])
def test_gradcheck_of_whole_layers(name: str) -> None:
    x = random_tensor(2, 12, 3, extent=5, dtype=torch.float64, grad=True)
    layer = getattr(spnn, name)(3, 2, 3).double()

    def run(features: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return layer(x.replace(features)).features

    assert torch.autograd.gradcheck(run, (x.features, *layer.parameters()))


@given(case=cases(enlarge=False))
def test_the_gather_scatter_dataflow_has_the_same_gradients(case: Case) -> None:
    kmap = sparseconv.build_kernel_map(coords_of(case.sites, case.rel.ndim), **map_options(case))
    numbers = case.numbers
    inputs = [torch.from_numpy(numbers[k].copy()).requires_grad_() for k in ("features", "weight", "bias")]
    out = functional.conv(*inputs, kmap, groups=case.groups, dataflow="gather_scatter")
    out.backward(torch.from_numpy(numbers["cotangent"]))
    expected = oracle.conv_gradients(
        numbers["features"], numbers["weight"], numbers["cotangent"], case.pairs, case.groups
    )
    for tensor, gradient in zip(inputs, expected, strict=True):
        close(tensor.grad, gradient)


def test_only_what_requires_a_gradient_gets_one() -> None:
    x = random_tensor(3, 60, 4, extent=6)
    layer = spnn.SubMConv3d(4, 4, 3)
    layer.weight.requires_grad_(False)
    layer(x).features.sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is not None
    with torch.no_grad():
        assert not layer(x).features.requires_grad


def test_a_cotangent_may_have_any_strides() -> None:
    """Expanded (``sum().backward()``) and transposed cotangents."""
    case_x = random_tensor(3, 90, 4, extent=6, dtype=torch.float64, grad=True)
    layer = spnn.SubMConv3d(4, 6, 3).double()
    grads = []
    for make in (
        lambda o: torch.ones_like(o),
        lambda o: torch.ones((), dtype=o.dtype).expand_as(o),
        lambda o: torch.ones(o.shape[1], o.shape[0], dtype=o.dtype).t(),
    ):
        out = layer(case_x).features
        grads.append(torch.autograd.grad(out, [case_x.features, layer.weight, layer.bias], make(out)))
    for other in grads[1:]:
        for a, b in zip(other, grads[0], strict=True):
            same_bits(a, b)


def test_a_feature_matrix_may_have_any_strides() -> None:
    x = random_tensor(3, 90, 4, extent=6, dtype=torch.float64)
    layer = spnn.SubMConv3d(4, 6, 3).double()
    plain = layer(x).features
    column_major = x.features.t().contiguous().t()
    wide = torch.cat([x.features, x.features], 1)[:, :4]
    for features in (column_major, wide):
        same_bits(layer(x.replace(features)).features, plain)


def test_the_gradient_comparison_can_fail() -> None:
    """A gradient of the wrong tap (an unflipped mirror) is seen."""
    sites = [(0, 0), (0, 1), (0, 3)]
    rel = oracle.make(1, 3, submanifold=True)
    pairs = oracle.pairs(rel, sites, sites)
    rng = np.random.default_rng(0)
    x, w, g = rng.standard_normal((3, 2)), rng.standard_normal((3, 2, 2)), rng.standard_normal((3, 2))
    right = oracle.conv_gradients(x, w, g, pairs)[0]
    mirrored = oracle.conv_gradients(x, w[::-1], g, pairs)[0]
    with pytest.raises(AssertionError):
        close(mirrored, right)
