# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of 8- and 4-bit codes: what is stored, how far it is from the weight, and what the kernels make of it."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from engine import bias_of, layer_of, random_tensor, target_of, tensor_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sparseconv.pruning.verify import outputs_of
from strategies import Case, cases, close, same_bits
from torch import nn
from zoo import ZOO, create
from zoo_base import sites

import sparseconv
import sparseconv.nn as spnn
from sparseconv import pruning
from sparseconv.formats import (
    QuantizedConv,
    QuantizedLinear,
    QuantizedWeight,
    quantize,
    quantize_weight,
    to_dense,
)
from sparseconv.formats.layer import refuses
from sparseconv.formats.quantized import lloyd

OPTIONS: list[dict[str, Any]] = [
    {"bits": 8},
    {"bits": 8, "scale": "minmax"},
    {"bits": 4},
    {"bits": 4, "group_size": 5, "scale": "minmax"},
    {"bits": 4, "codebook": True},
]
OPTIONS_IDS = ["8", "8-minmax", "4", "4-minmax-5", "codebook"]
shapes = st.tuples(
    st.integers(1, 4), st.integers(1, 70), st.sampled_from([1, 2, 3, 15, 16, 17, 63, 64, 65, 128, 131])
)


def weight_of(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
    q = quantize_weight(weight_of(shape, seed), **options)
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
    weight = weight_of(shape, seed) * 2.0**power
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
    weight = weight_of((2, 37, 9))
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
    weight = weight_of((3, 64, 20))
    weight[0, ::32] *= 8
    kinds = {s: quantize_weight(weight, bits, scale=s).decode().double() for s in ("minmax", "mse")}
    errors = {s: float((d - weight.double()).square().sum()) for s, d in kinds.items()}
    assert errors["mse"] <= errors["minmax"] * (1 if bits == 8 else 0.95)


@pytest.mark.parametrize(
    ("options", "decibels"), list(zip(OPTIONS, [40, 39, 20, 21, 19], strict=True)), ids=OPTIONS_IDS
)
def test_signal_to_noise_of_normal_weights(options: dict[str, Any], decibels: float) -> None:
    """8 bits of normal weights: a step of 2 * 4.4 / 254 sigma and its square over 12 make 40 dB; a bit is 6 dB."""
    weight = weight_of((27, 64, 64)).double()
    noise = quantize_weight(weight, **options).decode().double() - weight
    got = 10 * float(torch.log10(weight.square().mean() / noise.square().mean()))
    assert decibels <= got < decibels + 7, got


@pytest.mark.parametrize("options", OPTIONS, ids=OPTIONS_IDS)
def test_zeros_stay_zeros(options: dict[str, Any]) -> None:
    weight = weight_of((2, 40, 30)) * (weight_of((2, 40, 30), 1) > 0.5) + 0.0
    assert bool((quantize_weight(weight, **options).decode()[weight == 0] == 0).all())
    for nothing in (torch.zeros(1, 3, 4), torch.zeros(2, 0, 3), torch.zeros(1, 5, 0), -torch.zeros(1, 2, 2)):
        assert torch.equal(quantize_weight(nothing, **options).decode(), torch.zeros_like(nothing))


# --- the codebook ----------------------------------------------------------------------------------------------------


def test_a_codebook_is_what_scikit_learn_finds_from_the_same_start() -> None:
    values = weight_of((2000,)).double()
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
    weight = weight_of((3, 20, 21)).double()
    q = quantize_weight(weight, 4, codebook=True)
    assert q.table is not None and q.scales is None
    distance = (weight[..., None] - q.table.double()).abs()
    close((weight - q.decode().double()).abs(), distance.amin(-1), 1e-12)


# --- kernels ---------------------------------------------------------------------------------------------------------


@given(case=cases(with_target=True), options=st.sampled_from(OPTIONS))
@settings(max_examples=60)
def test_any_convolution_equals_the_oracle_on_the_decoded_weight(case: Case, options: dict[str, Any]) -> None:
    target = None if case.rel.submanifold else target_of(case)
    if case.rel.submanifold and case.out_sites != list(case.sites):
        return
    dense = layer_of(case)
    q = QuantizedConv(dense, **options)
    x = tensor_of(case)
    weight = q.decoded().double().numpy()
    expected = oracle.conv(
        case.numbers["features"], weight, bias_of(case), case.pairs, len(case.out_sites), case.groups
    )
    y = q(x, target)
    close(y.features, expected)
    same_bits(y.features.detach(), q.to_dense()(x, target).features.detach())
    single = copy.deepcopy(q).float()
    narrow = single(x.replace(x.features.float()), None if target is None else target)
    close(narrow.features, expected, 1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=OPTIONS_IDS)
@pytest.mark.parametrize(
    ("c_in", "c_out", "groups"), [(33, 70, 1), (128, 192, 1), (24, 36, 3), (6, 10, 2), (40, 40, 40)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_wide_convolutions_are_the_dense_ones_bit_for_bit(
    options: dict[str, Any], c_in: int, c_out: int, groups: int, dtype: torch.dtype
) -> None:
    x = random_tensor(3, 300, c_in, extent=8, batch_size=2, dtype=dtype)
    q = QuantizedConv(spnn.SubMConv3d(c_in, c_out, 3, groups=groups, dtype=dtype), **options)
    y, dense = q(x).features, q.to_dense()
    if dtype == torch.bfloat16:  # the dense layer rounds its weight to bfloat16, this one does not
        wide = copy.deepcopy(q).float()
        exact = wide(x.replace(x.features.float())).features
        assert ((y.float() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()
    else:
        same_bits(y.detach(), dense(x).features.detach())
        close(y, dense.double()(x.replace(x.features.double())).features.detach(), 1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=OPTIONS_IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_linear_layers_equal_the_decoded_one_and_rows_do_not_see_each_other(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    for c_in, c_out, rows in [
        (1, 1, 3),
        (100, 64, 9),
        (257, 200, 17),
        (40, 130, 700),
        (513, 65, 1),
        (0, 5, 2),
    ]:
        x = weight_of((rows, c_in), 3).to(dtype)
        torch.manual_seed(0)
        q = QuantizedLinear(nn.Linear(c_in, c_out).to(dtype), **options)
        y = q(x)
        weight = q.decoded()[0].double()
        exact = x.double() @ weight + q.bias.detach().double()
        close(y.double(), exact, {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype])
        alone = torch.cat([q(x[r : r + 1]) for r in range(min(rows, 20))])
        same_bits(alone.detach(), y[:20].detach())
        assert q(x.view(1, rows, c_in)).shape == (1, rows, c_out) and q(x[:0]).shape == (0, c_out)


@pytest.mark.parametrize("options", OPTIONS, ids=OPTIONS_IDS)
def test_bits_do_not_depend_on_threads(options: dict[str, Any]) -> None:
    x = random_tensor(3, 3000, 48, extent=18, grad=True)
    conv = QuantizedConv(spnn.SubMConv3d(48, 80, 3), **options)
    linear = QuantizedLinear(nn.Linear(3000, 200), **options)
    row = weight_of((1, 3000)).requires_grad_()
    first = None
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        a, b = conv(x).features, linear(row)
        got = [a, b, *torch.autograd.grad(a.sin().sum() + b.sin().sum(), [x.features, row, conv.bias])]
        first = first or got
        for p, q in zip(got, first, strict=True):
            same_bits(p.detach(), q.detach())


def test_infinities_and_nans_of_the_input_arrive_where_the_dense_layer_has_them() -> None:
    x = random_tensor(3, 200, 8, extent=7)
    x.features[3, 1], x.features[50, 7], x.features[9, 2] = float("nan"), float("inf"), -float("inf")
    for options in OPTIONS:
        q = QuantizedConv(spnn.SubMConv3d(8, 70, 3), **options)
        close(q(x).features, q.to_dense()(x).features.detach(), 1e-5)
        linear = QuantizedLinear(nn.Linear(8, 70), **options)
        for rows in (x.features[3:4], x.features[9:10], x.features):
            close(linear(rows), linear.to_dense()(rows).detach(), 1e-5)
        assert not bool(torch.isfinite(linear(x.features[3])).any())


@pytest.mark.parametrize("options", OPTIONS, ids=OPTIONS_IDS)
def test_input_and_bias_have_the_gradients_of_the_dense_layer(options: dict[str, Any]) -> None:
    x = random_tensor(3, 40, 4, extent=5, dtype=torch.float64, grad=True)
    for layer in (
        spnn.SubMConv3d(4, 5, 3),
        spnn.SubMConv3d(4, 6, 3, groups=2),
        spnn.Conv3d(4, 5, 3, stride=2, padding=1),
        spnn.ConvTranspose3d(4, 5, 2, stride=2),
    ):
        q = QuantizedConv(layer.double(), **options)
        dense = q.to_dense()
        a, b = q(x).features, dense(x).features
        cotangent = torch.cos(torch.arange(a.numel(), dtype=torch.float64)).view_as(a)
        ours = torch.autograd.grad(a, [x.features, q.bias], cotangent)
        theirs = torch.autograd.grad(b, [x.features, dense.bias], cotangent)
        for p, r in zip(ours, theirs, strict=True):
            same_bits(p, r)
    linear = QuantizedLinear(nn.Linear(4, 5).double(), **options)
    rows = x.features.detach()[:3].requires_grad_()
    assert torch.autograd.gradcheck(linear, rows) and torch.autograd.gradgradcheck(linear, rows)
    conv = QuantizedConv(spnn.SubMConv3d(4, 3, 3).double(), **options)
    few = random_tensor(3, 6, 4, extent=2, dtype=torch.float64)

    def f(features: torch.Tensor) -> torch.Tensor:
        return conv(few.replace(features)).features

    features = few.features.clone().requires_grad_()
    assert torch.autograd.gradcheck(f, features) and torch.autograd.gradgradcheck(f, features)


CHECK_ON_ONE_SET = """
import sys; sys.path.insert(0, {tests!r})
import torch, test_formats_quantized as t
for dtype in (torch.float32, torch.float64, torch.bfloat16):
    for options in t.OPTIONS:
        t.test_linear_layers_equal_the_decoded_one_and_rows_do_not_see_each_other(options, dtype)
        for c_in, c_out, groups in ((33, 70, 1), (24, 36, 3), (40, 40, 40)):
            t.test_wide_convolutions_are_the_dense_ones_bit_for_bit(options, c_in, c_out, groups, dtype)
print("done")
"""


@pytest.mark.parametrize("name", ["generic", "avx2"])
def test_on_lower_instruction_sets(name: str) -> None:
    order = ["generic", "avx2", "avx512", "avx512bf16"]
    if order.index(name) > order.index(str(sparseconv.show_config()["instruction_set"])):
        pytest.skip(f"this machine has no {name}")
    code = CHECK_ON_ONE_SET.format(tests=os.path.dirname(__file__))
    environment = {**os.environ, "SPARSECONV_ISA": name}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0 and done.stdout.strip().endswith("done"), done.stderr[-3000:]


# --- layers in networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ZOO))
def test_networks_with_codes_are_the_decoded_networks(name: str) -> None:
    model, x = create(name), ZOO[name].scan()
    options = OPTIONS[len(name) % len(OPTIONS)]
    q = quantize(model, **options)
    kinds = [m for m in q.modules() if isinstance(m, QuantizedConv | QuantizedLinear)]
    before = [m for m in model.modules() if isinstance(m, spnn.SparseConvolution | nn.Linear)]
    assert len(kinds) == sum(refuses(m) is None for m in before)
    dense = to_dense(q)
    assert [type(m) for m in dense.modules()] == [type(m) for m in model.modules()]
    ours, decoded, original = (outputs_of(net, x, None) for net in (q, dense, model))
    for a, b in zip(ours, decoded, strict=True):
        close(a, b, 1e-10)
    changed = any(not torch.equal(a, b) for a, b in zip(ours, original, strict=True))
    assert changed == bool(kinds) and (kinds or name == "PointNet")  # of torch's dense convolutions alone


def test_a_state_dict_loads_into_a_fresh_network_and_hostile_ones_are_refused() -> None:
    model, x = create("UNet").float(), sites(dtype=torch.float32)
    q = quantize(model, 4)
    state = q.state_dict()
    assert state["deep.0.codes"].dtype == torch.uint8 and "deep.0.weight" not in state
    fresh = quantize(create("UNet", seed=9).float(), 4)
    fresh.load_state_dict(state)
    assert torch.equal(fresh(x).features, q(x).features)
    held = {k: v.clone() for k, v in fresh.state_dict().items()}
    for name, wrong in {
        "deep.0.codes": state["deep.0.codes"][1:],
        "up.codes": state["up.codes"].float(),
        "head.scales": state["head.scales"].float(),
        "stem.0.scales": torch.full_like(state["stem.0.scales"], float("nan")),
        "head.table": torch.full((16,), float("inf")),
    }.items():
        with pytest.raises(ValueError, match=name.rpartition(".")[0].replace(".", r"\.")):
            fresh.load_state_dict({**state, name: wrong})
    for k, v in fresh.state_dict().items():
        assert torch.equal(v, held[k])
    with pytest.raises(ValueError, match="codes"):
        quantize(model, 8).load_state_dict(state)


def test_profiles_count_packed_weights_as_what_they_stand_for() -> None:
    model, x = create("UNet"), sites()
    table = pruning.profile({"dense": model, "packed": quantize(model, 4)}, [x], rounds=1)
    dense, packed = table["dense"], table["packed"]
    assert packed.macs == dense.macs and packed.parameters == dense.parameters
    assert packed.nonzero < dense.nonzero and packed.size < 0.3 * dense.size
    assert [layer.name for layer in packed.layers] == [layer.name for layer in dense.layers]
    assert all(layer.milliseconds > 0 for layer in packed.layers)


def test_copies_pickles_and_types() -> None:
    q = QuantizedConv(spnn.SubMConv3d(8, 9, 3), bits=4)
    x = random_tensor(3, 50, 8, extent=5)
    for other in (copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        same_bits(other(x).features.detach(), q(x).features.detach())
    wide = copy.deepcopy(q).double().bfloat16().float()
    assert wide.scales.dtype == torch.bfloat16 and wide.table.dtype == torch.float32
    assert torch.equal(wide.decoded(), q.decoded())
    eight = QuantizedConv(spnn.SubMConv3d(8, 9, 3), bits=8).bfloat16()
    assert eight.scales.dtype == torch.float32 and eight.bias.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert q(x).features.dtype == torch.bfloat16
    assert "bits=4" in repr(q) and "SubMConv3d" in repr(q)
    dense = spnn.Conv3d(8, 9, 3, stride=2, padding=1, anchor="torch", groups=1, bias=False)
    dense.taps, dense.weight = dense.taps[3:9], nn.Parameter(dense.weight.detach()[3:9])
    back = QuantizedConv(dense).to_dense()
    assert torch.equal(back.taps, dense.taps) and back.bias is None and back.geometry == dense.geometry


def test_what_is_left_alone() -> None:
    model = nn.Sequential(
        nn.Linear(4, 4), nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    )
    model[0].register_forward_hook(lambda *a: None)
    q = quantize(model)
    assert [type(m).__name__ for m in q][:2] == ["Linear", "QuantizedLinear"]
    assert not isinstance(q[2], QuantizedLinear)
    assert not isinstance(quantize(model, ignore=["1"])[1], QuantizedLinear)
    assert isinstance(quantize(nn.Linear(3, 3)), QuantizedLinear)
    with pytest.raises(ValueError, match="nothing"):
        quantize(model, ignore=["nothing"])
    with pytest.raises(TypeError, match="list"):
        quantize(model, ignore="1")


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
