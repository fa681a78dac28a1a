# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Layers as modules: parameters, initialisation, messages, taps, pooling, row-wise layers, Sequential, pickling."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
import torch.nn as nn
from engine import random_tensor

import sparseconv
import sparseconv.nn as spnn

KINDS = ("SubMConv", "Conv", "ConvTranspose", "InverseConv")


def scan(ndim: int = 3, channels: int = 4, **options) -> sparseconv.SparseTensor:
    options = {"extent": 8, "batch_size": 2, "dtype": torch.float64} | options
    return random_tensor(ndim, 60, channels, **options)


def empty(channels: int = 4, ndim: int = 3, batch_size: int = 2) -> sparseconv.SparseTensor:
    coords = torch.zeros(0, 1 + ndim, dtype=torch.int32)
    return sparseconv.SparseTensor(
        torch.zeros(0, channels, dtype=torch.float64), coords, batch_size=batch_size
    )


# --- convolutions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_have_the_documented_shapes(kind: str, ndim: int) -> None:
    layer = getattr(spnn, f"{kind}{ndim}d")(4, 6, 3, groups=2)
    assert layer.weight.shape == (3**ndim, 2, 6) and layer.bias.shape == (6,)
    assert layer.taps.shape == (3**ndim, ndim) and layer.taps.dtype == torch.int32
    assert layer.taps[1].tolist() == [0] * (ndim - 1) + [1], "the last axis must run fastest"
    assert list(layer.state_dict()) == ["weight", "bias"], "taps must stay out of the state dict"
    assert dict(layer.named_buffers())["taps"] is layer.taps
    assert list(getattr(spnn, f"{kind}{ndim}d")(4, 6, 3, bias=False).state_dict()) == ["weight"]


@pytest.mark.parametrize("groups", [1, 4])
def test_initial_statistics_are_those_of_torch(groups: int) -> None:
    ours, theirs = spnn.SubMConv3d(32, 64, 3, groups=groups), nn.Conv3d(32, 64, 3, groups=groups)
    bound = 1 / math.sqrt(27 * 32 / groups)
    for mine, dense in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        assert mine.abs().max() <= bound and dense.abs().max() <= bound
        assert mine.abs().max() > 0.9 * bound
    n = ours.weight.numel()
    assert abs(ours.weight.std() - theirs.weight.std()) < 5 * bound / math.sqrt(n)
    assert abs(ours.weight.mean()) < 5 * bound / math.sqrt(n)


def test_extra_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(spnn.SubMConv3d(4, 8, 3)) == "SubMConv3d(4, 8, kernel_size=(3, 3, 3))"
    layer = spnn.Conv2d(4, 8, (3, 1), stride=2, padding=(1, 0), dilation=2, groups=2, bias=False)
    assert layer.extra_repr() == (
        "4, 8, kernel_size=(3, 1), stride=(2, 2), padding=(1, 0), dilation=(2, 2), groups=2, bias=False"
    )
    assert "output_padding=(1,)" in repr(spnn.ConvTranspose1d(2, 2, 3, stride=2, output_padding=1))
    assert "anchor='minkowski'" in repr(spnn.Conv3d(4, 8, 2, stride=2, anchor="minkowski"))
    pruned = spnn.SubMConv3d(4, 8, 3)
    pruned.taps = pruned.taps[:13]
    assert "taps=13 of 27" in repr(pruned)
    assert "kernel_size=(2, 2), stride=(2, 2)" in repr(spnn.MaxPool2d(2))
    assert "count='kernel'" in repr(spnn.AvgPool2d(2, count="kernel"))


def test_wrong_input_is_named() -> None:
    layer = spnn.SubMConv3d(16, 32, 3).double()
    message = r"SubMConv3d: features must be \[N, 16\] to match weight \[27, 16, 32\], got \[\d+, 32\]"
    with pytest.raises(ValueError, match=message):
        layer(scan(channels=32))
    with pytest.raises(ValueError, match=r"Conv3d: features must be \[N, 4\] to match weight \[27, 2, 8\]"):
        spnn.Conv3d(4, 8, 3, groups=2).double()(scan(channels=2))
    with pytest.raises(TypeError, match="SubMConv3d: input must be a SparseTensor, got Tensor"):
        layer(torch.zeros(3, 16))
    with pytest.raises(ValueError, match=r"SubMConv3d: input must have 3 spatial axes .* got 2"):
        layer(scan(ndim=2, channels=16))
    with pytest.raises(ValueError, match=r"InverseConv3d: needs the tensor .* layer\(x, target\)"):
        spnn.InverseConv3d(4, 4, 2, stride=2).double()(scan())
    with pytest.raises(TypeError, match="target must be a SparseTensor, got list"):
        spnn.Conv3d(4, 4, 3).double()(scan(), [1])
    with pytest.raises(ValueError, match="multiples of groups=3"):
        spnn.Conv3d(4, 6, 3, groups=3)
    for bad in (0, -1, 2.0, None):
        with pytest.raises(ValueError, match="in_channels must be a positive int"):
            spnn.Conv3d(bad, 6, 3)
    with pytest.raises(TypeError):
        spnn.SubMConv3d(4, 4, 3, stride=2)
    with pytest.raises(TypeError, match="ReLU: input must be a SparseTensor"):
        spnn.ReLU()(torch.zeros(2, 2))
    for module, channels in ((spnn.Linear(3, 2), 3), (spnn.BatchNorm(3), 3), (spnn.GroupNorm(1, 3), 3)):
        with pytest.raises(ValueError, match=rf"features must be \[N, {channels}\], got \[\d+, 4\]"):
            module(scan())


# --- taps ------------------------------------------------------------------------------------------------------------


def keep_taps(layer: nn.Module, keep: torch.Tensor) -> nn.Module:
    pruned = copy.deepcopy(layer)
    pruned.taps = layer.taps[keep]
    pruned.weight = nn.Parameter(layer.weight.detach()[keep])
    return pruned


@pytest.mark.parametrize("kind", KINDS)
def test_a_subset_of_taps_equals_zeroed_weights(kind: str) -> None:
    options = {} if kind == "SubMConv" else {"stride": 2, "padding": 1}
    layer = getattr(spnn, f"{kind}3d")(4, 5, 3, **options).double()
    x = scan()
    target = None
    if kind == "InverseConv":
        target, x = x, spnn.Conv3d(4, 4, 3, **options).double()(x)
    keep = torch.randperm(27)[:9].sort().values
    zeroed = copy.deepcopy(layer)
    with torch.no_grad():
        zeroed.weight[[t for t in range(27) if t not in keep.tolist()]] = 0
    inputs = [x.features.detach().clone().requires_grad_() for _ in range(2)]
    outputs = [m(x.replace(f), target) for m, f in zip((keep_taps(layer, keep), zeroed), inputs, strict=True)]
    assert torch.equal(outputs[0].coords, outputs[1].coords), "pruning an offset must remove no site"
    torch.testing.assert_close(outputs[0].features, outputs[1].features, rtol=0, atol=1e-12)
    cotangent = torch.randn_like(outputs[0].features)
    for out in outputs:
        out.features.backward(cotangent)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-12)


def test_taps_may_come_in_any_order_and_be_none() -> None:
    layer, x = spnn.SubMConv3d(4, 5, 3).double(), scan()
    order = torch.randperm(27)
    torch.testing.assert_close(keep_taps(layer, order)(x).features, layer(x).features, rtol=0, atol=1e-12)
    nothing = keep_taps(layer, order[:0])(x)
    assert torch.equal(nothing.features, layer.bias.expand(len(x.coords), 5))
    assert nothing.features.requires_grad


def test_wrong_taps_raise() -> None:
    layer = spnn.SubMConv3d(4, 5, 3).double()
    with pytest.raises(TypeError, match="taps must be an int32 tensor"):
        layer.taps = [[0, 0, 0]]
    with pytest.raises(TypeError, match="taps must be an int32 tensor"):
        layer.taps = None
    with pytest.raises(TypeError, match=r"taps must be an int32 tensor .* got torch.int64"):
        layer.taps = layer.taps.long()
    for bad in (layer.taps[:, :2], layer.taps[0], layer.taps + 1, layer.taps[[0, 1, 0]]):
        with pytest.raises(ValueError, match="taps must"):
            layer.taps = bad
    layer.taps = layer.taps[:5]
    with pytest.raises(
        ValueError, match=r"weight \[27, 4, 5\] must have one row per tap, but taps is \[5, 3\]"
    ):
        layer(scan())


# --- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_layers_copy_pickle_and_save(kind: str) -> None:
    layer = getattr(spnn, f"{kind}3d")(4, 5, 3).double()
    layer = keep_taps(layer, torch.tensor([0, 5, 13]))
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    copies = (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(buffer, weights_only=False),
    )
    x = scan()
    target = x if kind == "InverseConv" else None
    for other in copies:
        assert torch.equal(other.taps, layer.taps)
        assert torch.equal(other(x, target).features, layer(x, target).features)
    fresh = getattr(spnn, f"{kind}3d")(4, 5, 3).double()
    with pytest.raises(RuntimeError, match="size mismatch"):
        fresh.load_state_dict(layer.state_dict())


def test_a_layer_on_the_meta_device_becomes_real() -> None:
    layer = spnn.SubMConv3d(4, 5, 3, device="meta")
    assert layer.weight.is_meta and layer.taps.is_meta
    layer.to_empty(device="cpu").reset_parameters()
    assert torch.equal(layer.taps, spnn.SubMConv3d(4, 5, 3).taps)
    assert layer.double()(scan()).features.isfinite().all()


# --- pooling ---------------------------------------------------------------------------------------------------------


def test_unpooling_undoes_the_site_change_of_pooling() -> None:
    x = scan()
    small = spnn.AvgPool3d(2)(x)
    back = spnn.Unpool3d(2)(small, x)
    assert torch.equal(back.coords, x.coords) and back.stride == x.stride
    parent = {tuple(c): i for i, c in enumerate(small.coords.tolist())}
    rows = [parent[(b, *(v // 2 for v in cell))] for b, *cell in x.coords.tolist()]
    torch.testing.assert_close(back.features, small.features[rows])
    spread = spnn.Unpool3d(2)(small)  # without a target: every cell of each site's block
    assert len(spread.coords) == 8 * len(small.coords)
    with pytest.raises(ValueError, match='count must be "present" or "kernel"'):
        spnn.AvgPool3d(2, count="all")


def test_global_pooling_of_an_empty_sample_is_zero_without_gradient() -> None:
    coords = torch.tensor([[0, 1, 2], [0, 3, 4], [2, 0, 0]], dtype=torch.int32)
    values = torch.tensor([[1.0, -5.0], [3.0, -7.0], [-2.0, 4.0]], dtype=torch.float64, requires_grad=True)
    x = sparseconv.SparseTensor(values, coords, batch_size=4)
    top, mean = spnn.GlobalMaxPool()(x), spnn.GlobalAvgPool()(x)
    assert top.tolist() == [[3, -5], [0, 0], [-2, 4], [0, 0]]
    assert mean.tolist() == [[2, -6], [0, 0], [-2, 4], [0, 0]]
    top.sum().backward()
    assert values.grad.tolist() == [[0, 1], [1, 0], [1, 1]]
    assert spnn.GlobalMaxPool()(empty()).tolist() == [[0.0] * 4] * 2
    assert spnn.GlobalAvgPool()(empty()).tolist() == [[0.0] * 4] * 2


# --- row-wise layers and Sequential ----------------------------------------------------------------------------------

ROWWISE = {
    "Linear": (4, 3),
    "PReLU": (4,),
    "Threshold": (0.1, 0.5),
    "Softmax": (1,),
    "LogSoftmax": (1,),
    "LayerNorm": (4,),
    **dict.fromkeys(
        "CELU ELU GELU SELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish ReLU ReLU6 "
        "Sigmoid SiLU Softplus Softshrink Softsign Tanh Tanhshrink".split(),
        (),
    ),
}


@pytest.mark.parametrize("name", ROWWISE)
def test_rowwise_layers_are_torchs_on_the_features(name: str) -> None:
    args = ROWWISE[name]
    ours, theirs = getattr(spnn, name)(*args).double(), getattr(nn, name)(*args).double()
    theirs.load_state_dict(ours.state_dict())
    for x in (scan(), empty()):
        y = ours(x)
        assert torch.equal(y.features, theirs(x.features)) and y.sites is x.sites
    assert isinstance(ours, getattr(nn, name))


@pytest.mark.parametrize("name", ["Dropout", "RReLU"])
def test_random_rowwise_layers_draw_as_torch_does(name: str) -> None:
    ours, theirs, x = getattr(spnn, name)(), getattr(nn, name)(), scan()
    torch.manual_seed(3)
    y = ours(x).features
    torch.manual_seed(3)
    assert torch.equal(y, theirs(x.features))
    assert not torch.equal(y, x.features)
    assert not torch.equal(ours.eval()(x).features, y)


def test_softmax_over_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="dim must be 1"):
        spnn.Softmax(0)


def test_sequential_mixes_sparse_and_plain_modules() -> None:
    class Block(nn.Module):  # a module of the user's own gets the SparseTensor
        def forward(self, x: sparseconv.SparseTensor) -> sparseconv.SparseTensor:
            return x + x

    class Double(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    x = scan()
    conv, norm, linear = spnn.SubMConv3d(4, 6, 3), nn.BatchNorm1d(6), nn.Linear(6, 3)
    net = spnn.Sequential(
        conv,
        nn.Sequential(norm, nn.ReLU()),
        Block(),
        spnn.Sequential(spnn.Rowwise(Double()), spnn.Dropout(0.0)),
        nn.utils.parametrizations.weight_norm(linear),
    ).double()
    y = net(x)
    expected = linear(4 * norm.eval()(conv(x).features).relu())
    norm.train()
    net.eval()
    torch.testing.assert_close(net(x).features, expected)
    assert y.features.shape == (len(x.coords), 3)
    assert list(net.state_dict())[:2] == ["0.weight", "0.bias"]
    pooled = spnn.Sequential(spnn.SubMConv3d(4, 6, 3), spnn.GlobalAvgPool(), nn.Linear(6, 2)).double()(x)
    assert pooled.shape == (2, 2)
    with pytest.raises(TypeError, match="takes a SparseTensor itself"):
        spnn.Rowwise(conv)
