# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels of vector-sparse weights against the oracle and against the dense layers."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import oracle
import pytest
import torch
from engine import bias_of, layer_of, random_tensor, target_of, tensor_of
from hypothesis import given
from hypothesis import strategies as st
from instruction_sets import HERE
from strategies import Case, cases, close, same_bits
from vector_cases import (
    DENSITIES,
    LAYERS,
    pruned,
    pruned_layer,
    same_sums,
    small_arguments,
    vector_pattern,
)

import sparseconv
import sparseconv.nn as snn
from sparseconv import _native_vectors
from sparseconv.formats import VectorSparseConv, VectorSparseLinear


@given(
    case=cases(max_volume=27),
    density=st.sampled_from(DENSITIES),
    wide=st.sampled_from([0, 15, 30]),
    data=st.data(),
)
def test_any_layer_and_its_gradients_equal_the_oracle(
    case: Case, density: float, wide: int, data: st.DataObject
) -> None:
    case = pruned(case, density, wide)
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32]))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    layer = VectorSparseConv(layer_of(case, dtype))
    x = tensor_of(case, dtype, grad=True)
    y = layer(x)
    assert [tuple(r) for r in y.coords.tolist()] == case.out_sites
    numbers = case.numbers
    n_out = len(case.out_sites)
    close(
        y.features,
        oracle.conv(numbers["features"], numbers["weight"], bias_of(case), case.pairs, n_out, case.groups),
        tolerance,
    )
    y.features.backward(torch.from_numpy(numbers["cotangent"]).to(dtype))
    grad_x, grad_w, grad_bias = oracle.conv_gradients(
        numbers["features"], numbers["weight"], numbers["cotangent"], case.pairs, case.groups
    )
    close(x.features.grad, grad_x, tolerance)
    stored = layer.packed.unpack(torch.ones_like(layer.values)).detach().numpy() != 0
    close(layer.packed.unpack(layer.values.grad), grad_w * stored, tolerance)
    if case.bias:
        close(layer.bias.grad, grad_bias, tolerance)


@given(case=cases(with_target=True, max_volume=27))
def test_onto_the_sites_of_another_tensor(case: Case) -> None:
    if case.rel.submanifold:
        return
    case = pruned(case, 0.5)
    dense = layer_of(case)
    same_sums(
        VectorSparseConv(dense)(tensor_of(case), target_of(case)).features,
        dense(tensor_of(case), target_of(case)).features,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels", [(64, 64, 1), (33, 50, 1), (16, 16, 1), (300, 20, 1), (36, 72, 3)])
@pytest.mark.parametrize("name", LAYERS)
def test_thousands_of_rows_equal_the_dense_layer(
    name: str, channels: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """Full and partial tiles. Forward, weights and bias to the bit; the gradient of the input to rounding."""
    c_in, c_out, groups = channels
    torch.manual_seed(0)
    dense = pruned_layer(name, c_in, c_out, 0.3, dtype, groups=groups)
    layer = VectorSparseConv(dense)
    partner = random_tensor(3, 1500, 1, extent=14, batch_size=2, dtype=dtype)
    sites = (
        snn.Conv3d(1, 1, 3, stride=2, padding=1).to(dtype)(partner) if name == "InverseConv3d" else partner
    )
    features = torch.randn(len(sites.features), c_in).to(dtype)
    outputs = []
    for module in (dense, layer):
        x = sites.replace(features.clone().requires_grad_())
        y = module(x, partner) if name == "InverseConv3d" else module(x)
        generator = torch.Generator().manual_seed(1)
        y.features.backward(torch.randn(y.features.shape, generator=generator).to(dtype))
        outputs.append((y.features, x.features.grad))
    same_sums(outputs[1][0], outputs[0][0])
    close(
        outputs[1][1].double(),
        outputs[0][1].double(),
        {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2}[dtype],
    )
    stored = layer.packed.unpack(torch.ones_like(layer.values)) != 0
    same_sums(layer.packed.unpack(layer.values.grad), dense.weight.grad * stored)
    same_bits(layer.bias.grad, dense.bias.grad)


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_and_one_voxel_scans(rows: int) -> None:
    features = torch.ones(rows, 20, requires_grad=True)
    x = sparseconv.SparseTensor(features, torch.zeros(rows, 4, dtype=torch.int32), batch_size=1)
    layer = VectorSparseConv(pruned_layer("SubMConv3d", 20, 20, 0.5))
    layer(x).features.sum().backward()
    assert features.grad.shape == (rows, 20) and layer.values.grad.shape == layer.values.shape


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_nothing_and_everything_stored(density: float) -> None:
    x = random_tensor(3, 200, 24, extent=6)
    dense = pruned_layer("SubMConv3d", 24, 40, density)
    layer = VectorSparseConv(dense)
    assert layer.density == density
    same_sums(layer(x).features, dense(x).features)


def test_pruned_taps() -> None:
    x = random_tensor(3, 300, 24, extent=7)
    dense = pruned_layer("SubMConv3d", 24, 40, 0.5)
    keep = torch.tensor([0, 5, 13, 20, 26])
    dense.taps, dense.weight = dense.taps[keep], torch.nn.Parameter(dense.weight.detach()[keep])
    layer = VectorSparseConv(dense)
    same_sums(layer(x).features, dense(x).features)
    back = layer.to_dense()
    assert torch.equal(back.taps, dense.taps) and torch.equal(back.weight, dense.weight)


def test_absent_rows_are_not_multiplied() -> None:
    """0 * inf is not formed; what a stored row meets propagates."""
    weight = torch.zeros(1, 2, 32)
    weight[0, 0, :16] = 1.0
    dense = snn.SubMConv3d(2, 32, 1, bias=False)
    with torch.no_grad():
        dense.weight.copy_(weight)
    features = torch.tensor([[1.0, float("inf")], [float("nan"), 1.0], [float("-inf"), float("nan")]])
    x = sparseconv.SparseTensor(features, torch.tensor([[0, i, 0, 0] for i in range(3)], dtype=torch.int32))
    y = VectorSparseConv(dense)(x).features
    assert (y[0, :16] == 1).all() and y[1, :16].isnan().all() and (y[2, :16] == -float("inf")).all()
    assert (y[:, 16:] == 0).all() and dense(x).features[0].isnan().all()


@pytest.mark.parametrize("rows", [0, 1, 2, 29, 700])
def test_linear(rows: int) -> None:
    torch.manual_seed(0)
    dense = torch.nn.Linear(130, 75)
    mask = torch.from_numpy(vector_pattern(np.empty((1, 130, 75)), 1, 0.3, 0))[0].t()
    layer = VectorSparseLinear.from_dense(dense, mask)
    back = layer.to_dense()
    assert torch.equal(back.weight, dense.weight * mask) and torch.equal(back.bias, dense.bias)
    a, b = (torch.randn(rows, 130, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab")
    want, got = torch.nn.functional.linear(a.double(), back.weight.double(), back.bias.double()), layer(b)
    close(got, want, 1e-5)
    want.sum().backward()
    got.sum().backward()
    close(b.grad, a.grad, 1e-5)
    close(layer.packed.unpack(layer.values.grad)[0], back.weight.grad.t() * mask.t(), 1e-5)
    wide = torch.randn(2, rows, 130)
    same_bits(
        layer(wide)[1], layer(wide[1])
    )  # any leading axes; the bits of a row do not depend on the others


def test_a_linear_layer_trains_after_inference_mode() -> None:
    layer = VectorSparseLinear(torch.nn.Linear(20, 30))
    with torch.inference_mode():
        layer(torch.randn(37, 20))
    layer(torch.randn(37, 20, requires_grad=True)).sum().backward()
    assert layer.values.grad.shape == layer.values.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_for_every_number_of_threads(dtype: torch.dtype) -> None:
    x = random_tensor(3, 3000, 40, extent=16, dtype=dtype)
    kernel_map = sparseconv.build_kernel_map(x.coords, kernel_size=3, submanifold=True)
    layer = VectorSparseConv(pruned_layer("SubMConv3d", 40, 72, 0.4, dtype))
    grad = torch.randn(len(x.coords), 72).to(dtype)
    reverse = kernel_map.reverse()
    before, device_of = None, _native_vectors.device_of
    try:
        for threads in (1, 2, 3, -1, -3):  # negative: blocks in scrambled order
            _native_vectors.device_of = lambda _, threads=threads: threads
            out, back = grad.new_empty(len(x.coords), 72), grad.new_empty(len(x.coords), 40)
            values = torch.empty_like(layer.values.detach())
            lists = (layer.offsets, layer.channels)
            arrays = (kernel_map.pairs, kernel_map.tap_offsets)
            _native_vectors.vectors_gather_gemm(
                x.features, *lists, layer.values.detach(), None, *arrays, 1, out
            )
            _native_vectors.vectors_gather_back(
                grad, *lists, layer.values.detach(), reverse.pairs, reverse.tap_offsets, 1, False, back
            )
            _native_vectors.vectors_gather_outer(x.features, grad, *lists, *arrays, 1, values)
            for got, want in zip((out, back, values), before or (out, back, values), strict=True):
                same_bits(got, want)
            before = (out, back, values)
    finally:
        _native_vectors.device_of = device_of


def test_gradcheck_of_all_three_operators() -> None:
    features, packed, kernel_map = small_arguments()
    offsets, channels = packed.lists()
    arrays = (kernel_map.pairs, kernel_map.tap_offsets)
    reverse = (kernel_map.reverse().pairs, kernel_map.reverse().tap_offsets)
    x, values = features.clone().requires_grad_(), packed.values.clone().requires_grad_()
    bias = torch.randn(34, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(len(features), 34, dtype=torch.float64, requires_grad=True)
    operators = torch.ops.sparseconv
    n = len(features)

    def forward(x: torch.Tensor, v: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return operators.vector_conv(x, v, b, offsets, channels, *arrays, None, None, n, 34, 2, False)

    def back(g: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return operators.vector_back(g, v, offsets, channels, *reverse, *arrays, n, 4, 2, False)

    def outer(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return operators.vector_outer(x, g, offsets, channels, *arrays, *reverse, 2, False)

    options = {"nondet_tol": 0.0, "fast_mode": True}
    assert torch.autograd.gradcheck(forward, (x, values, bias), **options)
    assert torch.autograd.gradcheck(back, (grad, values), **options)
    assert torch.autograd.gradcheck(outer, (x, grad), **options)
    assert torch.autograd.gradgradcheck(forward, (x, values, bias), **options)
    flipped = operators.vector_back(grad, values, offsets, channels, *arrays, *arrays, n, 4, 2, True)
    close(flipped, back(grad, values))  # a mirrored map is its own reverse with the taps backwards


ISA_TESTS = "thousands_of_rows and SubMConv3d or linear or number_of_threads"


@pytest.mark.parametrize("name", ["generic", "avx2"])
def test_other_instruction_sets(name: str) -> None:
    if name not in HERE[:-1]:
        pytest.skip(f"{name} is what the other tests run on")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider", "-k", ISA_TESTS],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "SPARSECONV_ISA": name},
    )
    assert done.returncode == 0, done.stdout[-3000:]
