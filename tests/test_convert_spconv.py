# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""convert.from_spconv and to_spconv: networks of spconv with our layers in them, and what fuse and pruning make of these."""

from __future__ import annotations

import copy
import io
import pickle
from types import ModuleType
from typing import Any

import pytest
import torch
from spconv_engines import ENGINES, assert_same, engine, scan_of, sorted_rows
from spconv_twins import TWINS, build
from torch import Tensor, nn

import sparseconv
import sparseconv.nn as spnn
from sparseconv import convert, fuse, pruning
from sparseconv.convert.spconv_layers import SpeaksSpconv


@pytest.fixture(params=ENGINES)
def sp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """spconv's wheel, then the drop-in."""
    return engine(request.param, monkeypatch)


def native_layers(model: nn.Module) -> int:
    return sum(isinstance(m, spnn.SparseConvolution) for m in model.modules())


@pytest.mark.parametrize("name", TWINS)
def test_same_outputs_and_gradients(sp: ModuleType, name: str) -> None:
    """Names and forward stay, layers are ours; weights' gradients are spconv's, permuted."""
    theirs = build(name, sp)
    ours = convert.from_spconv(theirs)
    assert (
        native_layers(ours) == sum(hasattr(m, "subm") and hasattr(m, "weight") for m in theirs.modules()) > 1
    )
    assert native_layers(theirs) == 0 and set(ours.state_dict()) == set(theirs.state_dict())
    for seed in (0, 1):
        scan = scan_of(seed)
        mine, other = ours(*scan), theirs(*scan)
        assert_same(mine, other)
    for outputs in (mine, other):
        rows = [sorted_rows(value) for value in outputs.values()]
        floats = [t for parts in rows for t in parts if t.is_floating_point()]
        torch.stack([t.square().mean() for t in floats]).sum().backward()
    grads = copy.deepcopy(ours)
    for module, source in zip(grads.modules(), ours.modules(), strict=True):
        if isinstance(module, spnn.SparseConvolution):
            module.weight.data = source.weight.grad
    expected = dict(theirs.named_parameters())
    for key, value in convert.to_spconv(grads).named_parameters():
        if key.endswith("weight") and value.ndim > 2:
            scale = expected[key].grad.abs().max()
            torch.testing.assert_close(
                value.detach(), expected[key].grad, rtol=1e-4, atol=1e-4 * float(scale)
            )


@pytest.mark.parametrize("name", TWINS)
def test_there_and_back(sp: ModuleType, name: str) -> None:
    """The classes, values, modes and requires_grad of the beginning; copies, pickles and state dicts on the way."""
    theirs = build(name, sp)
    next(theirs.parameters()).requires_grad_(False)
    ours = convert.from_spconv(theirs)
    ours.load_state_dict(copy.deepcopy(ours).state_dict())
    back = convert.to_spconv(ours)
    for a, b in zip(theirs.named_modules(), back.named_modules(), strict=True):
        assert a[0] == b[0] and type(a[1]) is type(b[1]) and a[1].training == b[1].training
        for key in ("indice_key", "kernel_size", "stride", "padding", "dilation"):
            assert getattr(a[1], key, None) == getattr(b[1], key, None)
    for (key, a), (_, b) in zip(theirs.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(a, b) and a.requires_grad == b.requires_grad, key
    assert_same(back(*scan_of()), theirs(*scan_of()), 0)
    layer = next(m for m in ours.modules() if isinstance(m, spnn.SparseConvolution))
    again = pickle.loads(pickle.dumps(layer))
    assert type(again) is type(layer) and torch.equal(again.weight, layer.weight)
    assert again.origin == layer.origin and isinstance(again, sp.SparseModule)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    convert.from_spconv(build(name, sp, seed=5)).load_state_dict(torch.load(file))


FUSED = {"detector": 6, "residual detector": 8, "unet": 8, "sum over height": 5, "segmenter": 17, "stem": 0}


@pytest.mark.parametrize("name", FUSED)
def test_fuse_folds_norms_of_features(sp: ModuleType, name: str) -> None:
    """All norms go where the forward can be traced; else its parts are fused one by one."""
    ours = convert.from_spconv(build(name, sp)).eval()
    norms = sum(isinstance(m, nn.BatchNorm1d) for m in ours.modules())
    fused = fuse(ours)
    left = sum(isinstance(m, nn.BatchNorm1d) for m in fused.modules())
    assert norms - left == FUSED[name]
    with torch.no_grad():
        assert_same(fused(*scan_of()), ours(*scan_of()))
        for key, part in list(ours.named_children()):
            setattr(ours, key, fuse(part))
        assert sum(isinstance(m, nn.BatchNorm1d) for m in ours.modules()) == (1 if name == "stem" else 0)
        assert_same(fused(*scan_of()), ours(*scan_of()))


def test_norms_that_others_see_stay(sp: ModuleType) -> None:
    """A convolution's features read twice, or put into another tensor: the norm must not be folded."""

    class Odd(sp.SparseModule):  # type: ignore[misc, name-defined]
        def __init__(self, twice: bool) -> None:
            super().__init__()
            self.conv, self.norm, self.twice = sp.SubMConv3d(4, 4, 3), nn.BatchNorm1d(4), twice

        def forward(self, x: Any) -> Any:
            y = self.conv(x)
            if self.twice:
                return y.replace_feature(self.norm(y.features) + y.features)
            return x.replace_feature(self.norm(y.features))

    features, indices, batch = scan_of()
    for twice in (True, False):
        model = convert.from_spconv(Odd(twice)).eval()
        fused = fuse(model)
        assert isinstance(fused.norm, nn.BatchNorm1d)
        x = sp.SparseConvTensor(features, indices, [21, 24, 22], batch)
        assert torch.equal(fused(x).features, model(x).features)


@pytest.mark.parametrize("name", ["detector", "unet", "segmenter"])
def test_pruning(sp: ModuleType, name: str) -> None:
    """Channels through replace_feature, containers and inverse layers; taps; and the pruned network as one of spconv's."""
    ours = convert.from_spconv(build(name, sp)).eval()
    scan = scan_of()
    for granularity in (pruning.Channels(round_to=1), pruning.Offsets()):
        plan = pruning.make_plan(ours, [scan], granularity=granularity, ratio=0.5)
        masked, small = copy.deepcopy(ours), plan.apply(ours)
        sizes = [sum(p.numel() for p in m.parameters()) for m in (small, masked)]
        assert sizes[0] < 0.75 * sizes[1]
        with torch.no_grad():
            outputs = small(*scan)
            back = convert.to_spconv(small)
            for module in back.modules():
                if hasattr(module, "indice_key"):
                    module.training = True
            assert_same(back(*scan), outputs)
        if isinstance(granularity, pruning.Channels):
            smaller = {type(m).__name__ for m in small.modules() if getattr(m, "out_channels", 99) in (4, 6)}
            assert "SubMConv3d" in smaller and (name != "segmenter" or "InverseConv3d" in smaller)


def test_native_tensors_pass_too(sp: ModuleType) -> None:
    layer = convert.from_spconv(sp.SubMConv3d(4, 5, 3))
    features, indices, batch = scan_of()
    x = sparseconv.SparseTensor(features, indices, spatial_shape=[21, 24, 22], batch_size=batch)
    out = layer(x)
    assert type(out) is sparseconv.SparseTensor
    theirs = layer(sp.SparseConvTensor(features, indices, [21, 24, 22], batch))
    assert torch.equal(out.features, theirs.features) and theirs.indices is indices
    with pytest.raises(TypeError, match="must be a SparseTensor, got Tensor"):
        layer(features)


def test_empty_scans(sp: ModuleType) -> None:
    features, indices, batch = scan_of()
    for name in ("detector", "segmenter", "pooled"):
        ours = convert.from_spconv(build(name, sp)).eval()
        for value in ours(features[:0], indices[:0], batch).values():
            assert isinstance(value, Tensor) or len(value.indices) == len(value.features) == 0


def test_shared_modules_and_maps(sp: ModuleType) -> None:
    """A layer in two places stays one layer; layers on the same rows share a map; coordinates written in place do not."""
    conv = sp.SubMConv3d(4, 4, 3, indice_key="a")
    ours = convert.from_spconv(nn.ModuleList([conv, conv, sp.SubMConv3d(4, 4, 3, indice_key="b")]))
    assert ours[0] is ours[1] and isinstance(ours[0], SpeaksSpconv)
    features, indices, batch = scan_of()
    x = sp.SparseConvTensor(features, indices, [21, 24, 22], batch)
    y = ours[2](ours[0](x))
    sites = y.indice_dict["sparseconv.sites"]
    assert len(sites) == 1 and len(next(iter(sites.values()))[2].maps) == 1
    moved = indices.clone()
    z = sp.SparseConvTensor(features, moved, [21, 24, 22], batch)
    first = ours[0](z).features
    moved[:, 0] = 1 - moved[:, 0]
    moved[:, 1] = 20 - moved[:, 1]
    fresh = sp.SparseConvTensor(features, moved.clone(), [21, 24, 22], batch)
    assert torch.equal(ours[0](z).features, ours[0](fresh).features)
    assert not torch.equal(ours[0](z).features, first)


def test_what_has_no_counterpart(sp: ModuleType) -> None:
    up = sp.SparseInverseConv3d(4, 4, 3, indice_key="down")
    with pytest.raises(
        ValueError, match=r"from_spconv: 0: expected one strided layer with indice_key='down'"
    ):
        convert.from_spconv(nn.Sequential(up))
    two = [sp.SparseConv3d(4, 4, 3, stride, indice_key="down") for stride in (2, 1)]
    with pytest.raises(ValueError, match="from_spconv: 2: expected one"):
        convert.from_spconv(nn.Sequential(*two, up))
    dilated = sp.SparseConvTranspose3d(4, 4, 3, 2, dilation=2)
    with pytest.raises(ValueError, match=r"from_spconv: 0: a transposed layer with dilation \(2, 2, 2\)"):
        convert.from_spconv(nn.Sequential(dilated))
    lost = convert.from_spconv(nn.Sequential(two[0], up))
    features, indices, batch = scan_of()
    x = sp.SparseConvTensor(features, indices, [21, 24, 22], batch)
    with pytest.raises(ValueError, match="no layer with indice_key='down' has run before"):
        lost[1](x)
    doubled = sp.SparseConvTensor(torch.cat([features] * 2), torch.cat([indices] * 2), [21, 24, 22], batch)
    with pytest.raises(ValueError, match="unique"):
        lost[0](doubled)


def test_plain_layers_to_spconv(sp: ModuleType) -> None:
    features, indices, batch = scan_of()
    x = sparseconv.SparseTensor(features, indices, spatial_shape=[21, 24, 22], batch_size=batch)
    theirs = sp.SparseConvTensor(features, indices, [21, 24, 22], batch)
    layers = [
        spnn.SubMConv3d(4, 5, 3, dilation=2),
        spnn.SubMConv3d(4, 4, 1),
        spnn.Conv3d(4, 5, (3, 2, 1), stride=2, padding=1),
        spnn.Conv3d(4, 5, 1, stride=2, bias=False),
        spnn.ConvTranspose3d(4, 5, 2, stride=2),
    ]
    for layer in layers:
        converted = convert.to_spconv(layer, sp).train()
        torch.testing.assert_close(
            converted(theirs).dense(), layer(x).dense(), rtol=1e-4, atol=1e-4, msg=str(layer)
        )
    for layer, words in (
        (spnn.SubMConv3d(4, 4, 3, groups=2), "groups"),
        (spnn.Conv3d(4, 4, 3, anchor="minkowski"), "anchor"),
        (spnn.SubMConv3d(4, 4, 2), "odd"),
        (spnn.InverseConv3d(4, 4, 2, stride=2), "indice_key"),
        (spnn.ConvTranspose3d(4, 4, 3, dilation=2), "dilation"),
        (spnn.MaxPool3d(2), "begins at zero"),
    ):
        with pytest.raises(ValueError, match=words):
            convert.to_spconv(nn.Sequential(layer), sp)


def random_layer(sp: ModuleType, ndim: int, seed: int) -> tuple[nn.Module, list[int]]:
    """A layer with random arguments that spconv takes, and a shape that it makes cells of."""
    draw = torch.Generator().manual_seed(seed)

    def ints(low: int, high: int) -> list[int]:
        return torch.randint(low, high + 1, (ndim,), generator=draw).tolist()

    kind = ["SubMConv", "SparseConv", "SparseConvTranspose", "SparseMaxPool"][seed % 4]
    kernel, stride, padding, dilation = ints(1, 3), ints(1, 3), ints(0, 1), ints(1, 2)
    if max(kernel) == 1:
        kernel[0] = 3
    make, bias = getattr(sp, f"{kind}{ndim}d"), bool(seed % 3)
    if kind == "SubMConv":
        return make(3, 4, [k | 1 for k in kernel], dilation=dilation, bias=bias), [9] * ndim
    if kind == "SparseMaxPool":
        return make(kernel, stride, padding, dilation), [11] * ndim
    if kind == "SparseConvTranspose":
        padding = [min(p, k - 1) for p, k in zip(padding, kernel, strict=True)]
        return make(3, 4, kernel, stride, padding, bias=bias), [7] * ndim
    return make(3, 4, kernel, stride, padding, dilation, bias=bias), [11] * ndim


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(12))
def test_random_layers(sp: ModuleType, ndim: int, seed: int) -> None:
    """One to four axes, random arguments, some of them with an inverse layer behind: sites, values, gradients."""
    torch.manual_seed(seed)
    layer, shape = random_layer(sp, ndim, seed)
    layers = [layer]
    if seed % 4 == 1:
        layer.indice_key = "key"
        layers.append(getattr(sp, f"SparseInverseConv{ndim}d")(4, 3, layer.kernel_size, indice_key="key"))
    theirs = nn.Sequential(*layers).train()
    ours = convert.from_spconv(theirs)
    cells = torch.unique(torch.randint(0, shape[0], (60, ndim)), dim=0)
    indices = torch.cat([torch.randint(0, 2, (len(cells), 1)), cells], 1).int()
    grads, outputs = [], []
    for model in (ours, theirs):
        features = torch.randn(
            len(indices), 3, generator=torch.Generator().manual_seed(seed)
        ).requires_grad_()
        rows = sorted_rows(model(sp.SparseConvTensor(features, indices, shape, 2)))
        rows[1].square().sum().backward()
        grads.append(features.grad)
        outputs.append(rows)
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-3)
