# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Layers over codes: kernels against the oracle and the dense layer, gradients, networks, files."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from typing import Any

import oracle
import packed_weights
import pytest
import torch
from engine import bias_of, layer_of, random_tensor, target_of, tensor_of
from hypothesis import given, settings
from hypothesis import strategies as st
from instruction_sets import HERE
from sparseconv.pruning.verify import outputs_of
from strategies import Case, cases, close, same_bits
from timing import Budget
from torch import nn
from weights import OPTIONS, OPTIONS_IDS, random_weight
from zoo import ZOO, create
from zoo_base import sites

import sparseconv.nn as spnn
from sparseconv import pruning
from sparseconv.formats import (
    QuantizedConv,
    QuantizedLinear,
    quantize,
    to_dense,
)
from sparseconv.formats.swapping import refuses

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
        x = random_weight((rows, c_in), 3).to(dtype)
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
    row = random_weight((1, 3000)).requires_grad_()
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
import sys; sys.path[:0] = [{tests!r}, {tests!r} + '/../benchmarks']
import torch, test_formats_quantized_layers as t
for dtype in (torch.float32, torch.float64, torch.bfloat16):
    for options in t.OPTIONS:
        t.test_linear_layers_equal_the_decoded_one_and_rows_do_not_see_each_other(options, dtype)
        for c_in, c_out, groups in ((33, 70, 1), (24, 36, 3), (40, 40, 40)):
            t.test_wide_convolutions_are_the_dense_ones_bit_for_bit(options, c_in, c_out, groups, dtype)
print("done")
"""


@pytest.mark.parametrize("name", ["generic", "avx2"])
def test_on_lower_instruction_sets(name: str) -> None:
    if name not in HERE:
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


def test_the_benchmark_counts_the_bits_that_layers_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "LINEAR", (("head", 96, 20),))
    monkeypatch.setattr(packed_weights, "ROWS", (1, 3))
    rows = list(packed_weights.linear_rows(False, Budget(rounds=2, seconds=60)))
    assert len(rows) == 2 * 5 and {r["rounds"] for r in rows} == {2}
    size = {r["format"]: r["kB"] * 8e3 for r in rows}
    assert size["float32"] == 32 * 96 * 20 and size["8 bits"] == 8 * 96 * 20 + 32 * 20
    assert size["4 bits, groups of 32"] == 4 * 96 * 20 + 16 * 3 * 20 + 512
    assert size["2:4"] == 20 * (24 * 2 * 32 + 24 * 4)
    assert all(r["times_float32"] == 1 for r in rows if r["format"] == "float32")
    assert len(packed_weights.table(rows).splitlines()) == 12
