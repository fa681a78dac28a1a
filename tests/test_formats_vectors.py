# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Vector-sparse weights: the format against loops, the kernels against the oracle and against the dense layers."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from engine import bias_of, layer_of, random_tensor, refuses, target_of, tensor_of
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, close, same_bits

import sparseconv
import sparseconv.nn as snn
from sparseconv import _native_vectors, formats, pruning
from sparseconv.formats import VectorSparseConv, VectorSparseLinear, VectorWeight, pack_vectors, to_vectors

GROUPS = (1, 1, 2, 3)
DENSITIES = (0.0, 0.1, 0.5, 0.9, 1.0)


def rows_of(weight: np.ndarray, groups: int) -> list[tuple[int, int, int, slice]]:
    """(tap, block, channel, columns) of every row of up to 16 output channels of one group, in the format's order."""
    taps, channels, c_out = weight.shape
    width = c_out // groups
    blocks = []
    for g in range(groups):
        blocks += [
            slice(g * width + c, min(g * width + c + 16, (g + 1) * width)) for c in range(0, width, 16)
        ]
    return [
        (t, b, c, columns) for t in range(taps) for b, columns in enumerate(blocks) for c in range(channels)
    ]


def vector_pattern(weight: np.ndarray, groups: int, density: float, seed: int) -> np.ndarray:
    """bool of the weight's shape: rows of 16 that stay."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(weight.shape, bool)
    for t, _, c, columns in rows_of(weight, groups):
        mask[t, c, columns] = rng.random() < density
    return mask


@st.composite
def weights(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    groups = draw(st.sampled_from(GROUPS))
    taps, channels = draw(st.integers(0, 4)), draw(st.sampled_from([0, 1, 2, 7, 8, 9, 15, 16, 17, 33]))
    width = draw(st.sampled_from([0, 1, 7, 15, 16, 17, 31, 32, 33, 48]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.standard_normal((taps, channels, groups * width))
    if draw(st.booleans()):
        weight = weight * (rng.random(weight.shape) < 0.2)  # single zeros within rows
    weight = weight * vector_pattern(weight, groups, draw(st.sampled_from(DENSITIES)), 1)
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    return torch.from_numpy(weight).to(dtype), groups


@given(drawn=weights())
def test_round_trip_order_and_size(drawn: tuple[torch.Tensor, int]) -> None:
    weight, groups = drawn
    packed = pack_vectors(weight, groups=groups)
    assert torch.equal(packed.unpack(), weight) and packed.unpack().dtype == weight.dtype
    numbers = weight.double().numpy()
    rows = rows_of(numbers, groups)
    kept = [row for row in rows if numbers[row[0], row[2], row[3]].any()]
    assert packed.rows == len(rows) and packed.stored == len(kept)
    for j, (t, _, c, columns) in enumerate(kept):
        want = np.zeros(16)
        want[: columns.stop - columns.start] = numbers[t, c, columns]
        assert packed.values[j].double().tolist() == want.tolist()
    offsets, channels = packed.lists()
    assert channels.tolist() == [c for _, _, c, _ in kept]
    blocks = packed.blocks
    of_list = [t * blocks + b for t, b, _, _ in kept]
    assert offsets.tolist() == [sum(i < n for i in of_list) for n in range(len(weight) * blocks + 1)]
    element = 8 * weight.element_size()
    assert packed.size_in_bits == -(-len(rows) // 8) * 8 + 16 * len(kept) * element


@given(drawn=weights(), seed=st.integers(0, 99))
def test_a_mask_says_what_is_stored(drawn: tuple[torch.Tensor, int], seed: int) -> None:
    weight, groups = drawn
    mask = torch.from_numpy(np.random.default_rng(seed).random(weight.shape) < 0.05)
    packed = pack_vectors(weight, mask, groups=groups)
    assert torch.equal(packed.unpack(), weight * mask)
    rows = rows_of(mask.numpy(), groups)
    assert packed.stored == sum(mask[t, c, columns].any().item() for t, _, c, columns in rows)


def test_numbers_that_are_not_finite_are_stored() -> None:
    weight = torch.zeros(1, 3, 20)
    weight[0, 0, 3], weight[0, 1, 19] = float("nan"), float("inf")
    packed = pack_vectors(weight)
    assert packed.stored == 2
    same_bits(packed.unpack(), weight)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_vector_wise_nm_mask_keeps_the_largest_rows_of_each_block(groups: int) -> None:
    weight = torch.randn(3, 8, 40 * groups, generator=torch.Generator().manual_seed(0))
    mask = formats.vector_mask(weight, 2, 4, groups=groups)
    numbers = weight.double().numpy()
    for t in range(3):
        for columns in {(r[3].start, r[3].stop) for r in rows_of(numbers, groups)}:
            block = slice(*columns)
            for c in (0, 4):
                norms = np.linalg.norm(numbers[t, c : c + 4, block], axis=1)
                want = np.argsort(-norms)[:2]
                got = mask[t, c : c + 4, block].numpy()
                assert set(np.nonzero(got.all(1))[0]) == set(want) and got.any(1).sum() == 2
    assert pack_vectors(weight, mask, groups=groups).density == 0.5


# --- kernels ------------------------------------------------------------------------------------------------------------


def pruned(case: Case, density: float, wide: int = 0) -> Case:
    """The case with rows of 16 output channels of its weight at zero; `wide` more output channels for a group."""
    case = replace(case, c_out=case.c_out + wide * case.groups)
    weight = case.numbers["weight"]
    weight *= vector_pattern(weight, case.groups, density, case.seed)
    return case


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


def same_sums(got: torch.Tensor, want: torch.Tensor) -> None:
    """The same bits, but for the sign of zeros; to rounding in bfloat16, whose dense sums take channels in pairs."""
    if got.dtype == torch.bfloat16:
        got, want = got.detach().float(), want.detach().float()
        assert ((got - want).abs() <= 2**-7 * want.abs() + 1e-4).all()
        return
    same_bits(got + 0.0, want + 0.0)


LAYERS = {
    "SubMConv3d": lambda a, b, **k: snn.SubMConv3d(a, b, 3, **k),
    "Conv3d": lambda a, b, **k: snn.Conv3d(a, b, 3, stride=2, padding=1, **k),
    "ConvTranspose3d": lambda a, b, **k: snn.ConvTranspose3d(a, b, 2, stride=2, **k),
    "InverseConv3d": lambda a, b, **k: snn.InverseConv3d(a, b, 3, stride=2, padding=1, **k),
}


def pruned_layer(
    name: str, c_in: int, c_out: int, density: float, dtype: torch.dtype = torch.float32, **options: int
) -> snn.SparseConvolution:
    layer = LAYERS[name](c_in, c_out, **options).to(dtype)
    groups = options.get("groups", 1)
    with torch.no_grad():
        pattern = vector_pattern(np.empty(layer.weight.shape), groups, density, 3)
        layer.weight.mul_(torch.from_numpy(pattern))
    return layer


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


def small_arguments() -> tuple[torch.Tensor, ...]:
    x = random_tensor(2, 12, 4, extent=4, dtype=torch.float64)
    kernel_map = sparseconv.build_kernel_map(x.coords, kernel_size=3, submanifold=True)
    dense = torch.from_numpy(np.random.default_rng(0).standard_normal((9, 2, 34)))
    mask = torch.from_numpy(vector_pattern(dense.numpy(), 2, 0.2, 5))
    packed = pack_vectors(dense, mask, groups=2)
    return x.features, packed, kernel_map


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
    order = ["generic", "avx2", "avx512", "avx512bf16"]
    if order.index(str(sparseconv.show_config()["instruction_set"])) <= order.index(name):
        pytest.skip(f"{name} is what the other tests run on")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider", "-k", ISA_TESTS],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "SPARSECONV_ISA": name},
    )
    assert done.returncode == 0, done.stdout[-3000:]


# --- layers and networks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_to_dense_state_dict_and_copies(name: str) -> None:
    dense = pruned_layer(name, 20, 36, 0.4, groups=2)
    layer = VectorSparseConv.from_dense(dense)
    back = layer.to_dense()
    assert type(back) is type(dense) and back.geometry == dense.geometry
    assert set(layer.state_dict()) == {"values", "present", "bias"}
    assert torch.equal(back.weight, dense.weight) and torch.equal(back.bias, dense.bias)
    other = VectorSparseConv.from_dense(pruned_layer(name, 20, 36, 0.9, groups=2))
    other.load_state_dict(layer.state_dict())  # any pattern of the same shape
    for twin in (other, copy.deepcopy(layer), VectorSparseConv.from_dense(back)):
        assert torch.equal(twin.decoded(), dense.weight) and torch.equal(twin.offsets, layer.offsets)
    double = copy.deepcopy(layer).double()
    assert double.values.dtype == torch.float64 and double.present.dtype == torch.uint8
    assert [n for n, _ in layer.named_parameters()] == ["bias", "values"] or layer.values.requires_grad


def test_hostile_state_dicts_are_refused_and_change_nothing() -> None:
    x = random_tensor(3, 100, 20, extent=6)
    layer = VectorSparseConv(pruned_layer("SubMConv3d", 20, 36, 0.4))
    good = {k: v.clone() for k, v in layer.state_dict().items()}
    before = layer(x).features
    bits = good["present"].clone()
    bits[0] ^= 1
    padded = good["values"].clone()
    last = layer.packed.unpack(torch.ones_like(layer.values))[..., 32:].abs().sum() > 0
    assert last
    padded[:, 4:] = 1.0
    longer = torch.cat([good["present"], good["present"][:1]])
    over = good["present"].clone()
    over[-1] |= 0x80
    assert layer.packed.rows % 8, "there are bits after the last row"
    hostile = {
        "another bit": {"present": bits},
        "a row too few": {"values": good["values"][1:]},
        "a column too few": {"values": good["values"][:, :8]},
        "numbers beyond the last channel": {"values": padded},
        "a byte too many": {"present": longer},
        "bits after the last row": {"present": over},
        "another type": {"present": good["present"].to(torch.int64)},
        "whole numbers": {"values": good["values"].to(torch.int32)},
        "a scalar": {"values": torch.tensor(1.0)},
    }
    for what, change in hostile.items():
        with pytest.raises(ValueError, match=r"present|values"):
            layer.load_state_dict({**good, **change})
        same_bits(layer(x).features, before)
        assert what
    with pytest.raises(ValueError, match="together"):
        layer.load_state_dict({k: v for k, v in good.items() if k != "present"}, strict=False)


def test_the_core_checks_the_lists_that_it_gets() -> None:
    features, packed, kernel_map = small_arguments()
    offsets, channels = packed.lists()
    out = features.new_empty(len(features), 34)

    def call(offsets: torch.Tensor, channels: torch.Tensor, values: torch.Tensor) -> None:
        _native_vectors.vectors_gather_gemm(
            features, offsets, channels, values, None, kernel_map.pairs, kernel_map.tap_offsets, 2, out
        )

    call(offsets, channels, packed.values)
    for place, value in ((0, 1), (3, 10**9), (3, -1), (-1, 10**6)):
        bad = offsets.clone()
        bad[place] = value
        refuses(lambda bad=bad: call(bad, channels, packed.values), "offsets")
    for value in (-1, 2, 2**31 - 1):
        bad = channels.clone()
        bad[0] = value
        refuses(lambda bad=bad: call(offsets, bad, packed.values), "channels")
    refuses(lambda: call(offsets[:-1], channels, packed.values), "offsets")
    refuses(lambda: call(offsets, channels, packed.values[:-1]), "values")
    refuses(lambda: call(offsets, channels, packed.values.float()), "values", kind=TypeError)


def test_bad_arguments() -> None:
    refuses(lambda: pack_vectors(torch.ones(2, 3)), r"\[2, 3\]")
    refuses(lambda: pack_vectors(torch.ones(1, 2, 3, dtype=torch.int64)), "int64", kind=TypeError)
    refuses(lambda: pack_vectors(torch.ones(1, 2, 3), groups=2), "groups", "2")
    refuses(lambda: pack_vectors(torch.ones(1, 2, 3), torch.ones(2, 2, 3, dtype=torch.bool)), "mask")
    refuses(lambda: pack_vectors(torch.ones(1, 2, 3), torch.ones(1, 2, 3)), "mask", kind=TypeError)
    refuses(lambda: VectorWeight((1, 2), 1, torch.zeros(1, dtype=torch.uint8), torch.ones(0, 16)), "shape")
    refuses(lambda: formats.vector_mask(torch.ones(1, 6, 16), 2, 4), "multiple")
    refuses(lambda: to_vectors(torch.nn.Linear(4, 4), -1.0), "min_gain")
    refuses(lambda: VectorSparseConv(torch.nn.Linear(4, 4)), "Linear", kind=TypeError)
    layer = VectorSparseConv(pruned_layer("SubMConv3d", 20, 36, 0.4))
    refuses(lambda: layer(random_tensor(3, 9, 21, extent=4)), "20", "21")
    refuses(lambda: layer(random_tensor(3, 9, 20, extent=4, dtype=torch.float64)), "float64", kind=TypeError)


def pruned_network() -> tuple[torch.nn.Module, torch.nn.Module, sparseconv.SparseTensor]:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {
            "body": snn.Sequential(
                snn.SubMConv3d(4, 64, 3), snn.ReLU(), snn.SubMConv3d(64, 64, 3), snn.ReLU()
            ),
            "head": snn.Sequential(snn.Linear(64, 96), snn.ReLU(), snn.Linear(96, 5)),
        }
    )
    network = snn.Sequential(*model["body"], *model["head"]).eval()
    x = random_tensor(3, 400, 4, extent=10)
    plan = pruning.make_plan(
        network,
        [x],
        granularity=pruning.Vectors(16),
        ratio=pruning.Uniform(0.75),
        criterion=pruning.Magnitude(),
    )
    return network, plan.apply(network), x


def test_a_pruned_network_swaps_what_pays_and_says_so() -> None:
    _, masked, x = pruned_network()
    swapped, report = to_vectors(masked)
    chosen = {layer.name for layer in report.layers if layer.chosen}
    assert {"2"} <= chosen and isinstance(swapped[2], VectorSparseConv)
    assert [layer.name for layer in report.layers] == ["0", "2", "4", "6"]
    by_name = {layer.name: layer for layer in report.layers}
    assert abs(by_name["2"].density - 0.25) < 0.01 and by_name["2"].gain > 2
    assert by_name["2"].bits < 0.3 * by_name["2"].dense_bits
    close(swapped(x).features, masked(x).features, 1e-6)
    text = str(report)
    assert "vectors" in text and len(text.splitlines()) == 5
    left, report = to_vectors(masked, ignore=["2"])
    assert isinstance(left[2], snn.SubMConv3d) and "ignored" in str(report)
    everything, report = to_vectors(masked, 0)
    assert all(layer.chosen for layer in report.layers)
    close(everything(x).features, masked(x).features, 1e-5)
    dense, report = to_vectors(pruned_network()[0])
    assert not any(layer.chosen for layer in report.layers) and isinstance(dense[2], snn.SubMConv3d)


def test_fine_tuning_moves_the_stored_rows_only() -> None:
    _, masked, x = pruned_network()
    swapped, _ = to_vectors(masked, 0)
    absent = swapped[2].decoded() == 0

    def loss(model: torch.nn.Module, batch: sparseconv.SparseTensor) -> torch.Tensor:
        return (model(batch).features - 1).square().mean()

    losses = pruning.fine_tune(swapped, [x], loss, steps=5, lr=0.02, progress=False)
    assert losses[-1] < losses[0]
    after = swapped[2].decoded()
    assert (after[absent] == 0).all() and not torch.equal(after, masked[2].weight)
    refined = copy.deepcopy(swapped)
    refined.load_state_dict(swapped.state_dict())
    same_bits(refined(x).features, swapped(x).features)


def test_autocast_and_compile() -> None:
    x = random_tensor(3, 200, 24, extent=7)
    dense = pruned_layer("SubMConv3d", 24, 40, 0.5)
    layer = VectorSparseConv(dense)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, want = layer(x).features, dense(x).features
    assert got.dtype == torch.bfloat16
    same_sums(got, want)
    linear = VectorSparseLinear(torch.nn.Linear(20, 30))
    compiled = torch.compile(linear, fullgraph=True, backend="eager")
    rows = torch.randn(9, 20)
    same_bits(compiled(rows), linear(rows))


def test_the_benchmark_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import vectors

    monkeypatch.setattr(vectors, "LINEAR", ((3, 20, 40),))
    options = [
        "--scan",
        "dense-grid@5",
        "--channels",
        "24",
        "--seconds",
        "0.01",
        "--json",
        str(tmp_path / "a.json"),
    ]
    before = torch.get_num_threads()
    try:
        result = vectors.main(options)
    finally:
        torch.set_num_threads(before)
    assert len(result["rows"]) == 8 and (tmp_path / "a.json").exists()
    assert all(row["forward"]["ratio"] > 0 for row in result["rows"])
