# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The EIE layer against its decoded dense layer in float64, its gradients against autograd's, and its state dict."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from instruction_sets import BEST, HERE
from torch import Tensor, nn

import sparseconv
import sparseconv.nn as spnn
from sparseconv.formats import EIELinear
from sparseconv.ops import eie

INF, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def _small_layers_use_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eie, "ENTRIES_PER_PE", 1)


def make_layer(
    inputs: int, outputs: int, density: float = 0.1, *, bias: bool = True, pes: int = 64
) -> EIELinear:
    return EIELinear.from_linear(nn.Linear(inputs, outputs, bias), density=density, pes=pes)


def activations(*shape: int, density: float = 0.4) -> Tensor:
    return torch.randn(shape) * (torch.rand(shape) < density)


def oracle(layer: EIELinear, x: Tensor) -> Tensor:
    """The decoded layer in float64, by codebook[codes]."""
    weight = layer.codebook.detach().double()[layer.matrix.codes().long()]
    return F.linear(x.double(), weight, None if layer.bias is None else layer.bias.detach().double())


def check(layer: EIELinear, x: Tensor) -> None:
    with torch.no_grad():
        got = layer(x)
    expected = oracle(layer, x)
    assert got.dtype == torch.float32 and got.shape == expected.shape
    scale = float(expected[expected.isfinite()].abs().max()) if bool(expected.isfinite().any()) else 1.0
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5 * max(scale, 1e-3), equal_nan=True)


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 4, 5, 7, 16, 17, 33])
@pytest.mark.parametrize("threads", [1, 2])
def test_equals_the_decoded_layer(batch: int, threads: int) -> None:
    torch.set_num_threads(threads)
    layer = make_layer(300, 130)
    check(layer, activations(batch, 300))
    check(layer, activations(batch, 300).abs().neg())  # negative activations are not dropped
    check(layer, torch.zeros(batch, 300))


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(0, 3), (1, 1), (1, 70), (70, 1), (5, 0), (33, 257), (64, 4099)]
)
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("bias", [False, True])
def test_shapes_and_densities(inputs: int, outputs: int, density: float, bias: bool) -> None:
    warnings.simplefilter("ignore")  # torch's, of a dense layer without outputs
    layer = make_layer(inputs, outputs, density, bias=bias, pes=3)
    for batch in (1, 6):
        check(layer, activations(batch, inputs, density=0.7))
    assert layer.matrix.nonzeros == round(density * inputs * outputs)


def test_leading_axes_and_sparse_tensors() -> None:
    layer = make_layer(12, 7)
    x = activations(2, 3, 12)
    assert torch.equal(layer(x).reshape(6, 7), layer(x.reshape(6, 12))) and layer(x[0, 0]).shape == (7,)
    sparse = sparseconv.SparseTensor(
        activations(5, 12),
        torch.arange(20, dtype=torch.int32).reshape(5, 4) * torch.tensor([0, 1, 1, 1]).int(),
    )
    head = spnn.Sequential(spnn.ReLU(), layer)
    assert torch.equal(head(sparse).features, layer(sparse.features.relu()))


@pytest.mark.parametrize("value", [INF, -INF, NAN])
@pytest.mark.parametrize("batch", [1, 9])
def test_not_finite_activations_do_what_they_do_in_the_dense_layer(value: float, batch: int) -> None:
    layer = make_layer(40, 150, 0.3)
    x = activations(batch, 40)
    x[batch // 2, 3] = value
    check(layer, x)
    got, expected = layer(x), layer.to_linear()(x)
    assert torch.equal(got.isnan(), expected.isnan()) and torch.equal(got.isinf(), expected.isinf())
    assert bool(got[batch // 2].isnan().any())
    dense = make_layer(40, 150, 1.0)  # no zero weights: infinities stay what they are
    got, expected = dense(x), dense.to_linear()(x)
    assert torch.equal(got.isinf(), expected.isinf()) and torch.equal(got.isnan(), expected.isnan())
    assert bool(got[batch // 2].isinf().all()) == (value == value)


def test_bits_depend_on_nothing_but_the_sample() -> None:
    dense = nn.Linear(500, 301)
    x = activations(21, 500)
    outputs = []
    for pes in (1, 7, 64):
        layer = EIELinear.from_linear(dense, density=0.15, pes=pes)
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            assert layer(x) is not None and layer.run_arrays[1].shape[0] == threads
            outputs += [layer(x), torch.cat([layer(row[None]) for row in x]), layer(x[:, :])]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_gradients_do_not_depend_on_the_threads() -> None:
    layer = make_layer(200, 90)
    x, grad = activations(5, 200), torch.randn(5, 90)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        inputs = x.clone().requires_grad_()
        layer.zero_grad()
        layer(inputs).backward(grad)
        found.append([inputs.grad, layer.codebook.grad, layer.bias.grad])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_gradients_are_those_of_the_dense_equivalent() -> None:
    layer = make_layer(150, 77, 0.2, pes=5)
    x, grad = activations(6, 150), torch.randn(6, 77)
    inputs = x.clone().requires_grad_()
    layer(inputs).backward(grad)
    codebook = layer.codebook.detach().double().requires_grad_()
    bias = layer.bias.detach().double().requires_grad_()
    dense_inputs = x.double().requires_grad_()
    F.linear(dense_inputs, codebook[layer.matrix.codes().long()], bias).backward(grad.double())
    assert layer.codebook.grad[0] == 0
    for got, expected in (
        (inputs.grad, dense_inputs.grad),
        (layer.codebook.grad[1:], codebook.grad[1:]),
        (layer.bias.grad, bias.grad),
    ):
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_training_moves_the_codebook_and_nothing_else() -> None:
    layer = make_layer(64, 32, 0.3)
    teacher = nn.Linear(64, 32)
    x = activations(40, 64)
    codes = layer.matrix.codes()
    optimizer = torch.optim.Adam(layer.train_codebook().parameters(), lr=1e-2, weight_decay=1e-3)
    losses = []
    for _ in range(30):
        loss = F.mse_loss(layer(x), teacher(x).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] and layer.codebook[0] == 0
    assert torch.equal(layer.matrix.codes(), codes)
    check(layer.train_codebook(False), x)
    assert not layer(x).requires_grad


# --- from a dense layer, and back -----------------------------------------------------------------------------------------


def test_from_linear_prunes_shares_and_goes_back_exactly() -> None:
    dense = nn.Linear(90, 110)
    layer = EIELinear.from_linear(dense, density=0.13)
    weight = layer.to_linear().weight.detach()
    assert torch.equal(weight, layer.codebook.detach()[layer.matrix.codes().long()])
    kept = weight != 0
    assert int(kept.sum()) == round(0.13 * 90 * 110) and len(weight.unique()) <= 16
    magnitude = dense.weight.detach().abs()
    assert float(magnitude[kept].min()) >= float(magnitude[~kept].max())
    assert torch.equal(layer.to_linear().bias, dense.bias)
    again = EIELinear.from_linear(layer.to_linear())  # 15 values: nothing is lost any more
    assert torch.equal(again.to_linear().weight, weight)


def test_a_pruned_layer_keeps_its_zeros() -> None:
    dense = nn.Linear(30, 20)
    with torch.no_grad():
        dense.weight[torch.rand(20, 30) < 0.6] = 0
    weight = EIELinear.from_linear(dense).to_linear().weight
    assert torch.equal(weight == 0, dense.weight == 0)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="Linear"):
        EIELinear.from_linear(nn.Conv2d(1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="density"):
        make_layer(4, 4, 1.5)
    broken = nn.Linear(4, 4)
    broken.weight.data[0, 0] = NAN
    with pytest.raises(ValueError, match="finite"):
        EIELinear.from_linear(broken)
    layer = make_layer(4, 4)
    with pytest.raises(ValueError, match=r"\[\.\.\., 4\], got \[2, 5\]"):
        layer(torch.zeros(2, 5))
    with pytest.raises(TypeError, match=r"float32, got torch\.float64"):
        layer(torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="bias"):
        EIELinear.from_matrix(layer.matrix, torch.zeros(3))
    with pytest.raises(ValueError, match="negative"):
        EIELinear(-1, 3)


# --- state dict -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_the_state_dict_holds_the_packed_form(bias: bool, tmp_path: Path) -> None:
    layer = make_layer(200, 100, bias=bias, pes=16)
    state = layer.state_dict()
    assert set(state) == {"entries", "pointers", "shape", "codebook", *(["bias"] if bias else [])}
    packed = sum(state[n].numel() * state[n].element_size() for n in ("entries", "pointers", "codebook"))
    assert packed * 8 == layer.matrix.size_bits()["total"]
    torch.save(state, tmp_path / "layer.pt")
    fresh = EIELinear(200, 100, bias)
    fresh.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    x = activations(3, 200)
    assert torch.equal(fresh(x), layer(x)) and fresh.matrix.pes == 16
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    inside = nn.Sequential(nn.ReLU(), EIELinear(200, 100, bias))
    inside.load_state_dict({f"1.{n}": v for n, v in state.items()})
    assert torch.equal(inside(x), layer(x.relu()))


def test_what_was_loaded_does_not_change_with_its_source() -> None:
    layer = make_layer(50, 40)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    fresh = EIELinear(50, 40)
    fresh.load_state_dict(state)
    for value in state.values():
        value.zero_()
    assert torch.equal(fresh.to_linear().weight, layer.to_linear().weight)


def hostile(name: str, state: dict[str, Tensor]) -> None:
    if name == "truncated":
        state["entries"] = state["entries"][:-3]
    elif name == "row":
        state["entries"] = torch.full_like(state["entries"], 0x1F)
    elif name == "pointers":
        state["pointers"][3, 4] = -2
    elif name == "columns":
        state["pointers"] = state["pointers"][:, 1:]
    elif name == "codebook":
        state["codebook"][0] = 1
    elif name == "type":
        state["pointers"] = state["pointers"].double()


@pytest.mark.parametrize("name", ["truncated", "row", "pointers", "columns", "codebook", "type"])
def test_hostile_state_dicts_are_refused(name: str) -> None:
    state = {n: v.clone() for n, v in make_layer(60, 70).state_dict().items()}
    hostile(name, state)
    fresh = EIELinear(60, 70)
    with pytest.raises(TypeError if name == "type" else ValueError):
        fresh.load_state_dict(state)
    assert not bool(fresh(activations(2, 60)).any())  # it is what it was


def test_another_size_and_missing_parts_are_refused() -> None:
    state = make_layer(60, 70, bias=False).state_dict()
    for size in ((60, 71), (60, 200), (60, 64)):
        with pytest.raises(ValueError, match="shape"):
            EIELinear(*size, bias=False).load_state_dict(state)
    state = make_layer(60, 70).state_dict()
    with pytest.raises(ValueError):
        EIELinear(60, 69).load_state_dict(state)
    with pytest.raises(ValueError):
        EIELinear(61, 70).load_state_dict(state)
    with pytest.raises(RuntimeError, match="entries"):
        EIELinear(60, 70).load_state_dict({n: v for n, v in state.items() if n != "entries"})


# --- torch ------------------------------------------------------------------------------------------------------------------


def test_compiles_without_graph_breaks() -> None:
    layer = make_layer(30, 20, 0.3)
    x = activations(3, 30)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), layer(x))


@pytest.mark.parametrize("instructions", ["generic", "avx2"])  # the best one runs in this process
def test_on_lower_instruction_sets(instructions: str) -> None:
    if instructions not in HERE[:-1]:
        pytest.skip(f"this machine has {BEST}")
    chosen = "equals_the_decoded_layer or finite or shapes_and_densities or bits_depend"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider", "-k", chosen],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "SPARSECONV_ISA": instructions},
    )
    assert done.returncode == 0, done.stdout[-3000:]
