# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Pruned taps: the same layer with those taps' weights at zero, with the pairs of the others and no more."""

from __future__ import annotations

import copy
from typing import Any

import oracle
import pytest
import torch
import zoo
from sparseconv.pruning import Macs, Offsets, Plan, Random, Uniform, analyze, make_plan
from strategies import close, same_bits
from torch import nn

import sparseconv
import sparseconv.nn as snn
from sparseconv import SparseTensor

LAYERS = {
    "submanifold": lambda: snn.SubMConv3d(4, 6, 3),
    "submanifold 5 1 3": lambda: snn.SubMConv3d(4, 6, (5, 1, 3), dilation=(1, 1, 2)),
    "submanifold, even": lambda: snn.SubMConv3d(4, 6, 2, bias=False),
    "strided": lambda: snn.Conv3d(4, 6, 3, stride=2, padding=1),
    "strided, grouped": lambda: snn.Conv3d(4, 6, 2, stride=2, groups=2),
    "minkowski": lambda: snn.Conv3d(4, 6, 3, stride=2, anchor="minkowski"),
    "transposed": lambda: snn.ConvTranspose3d(4, 6, 3, stride=2),
    "depthwise": lambda: snn.SubMConv3d(4, 4, 3, groups=4),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def gradients(layer: nn.Module, x: SparseTensor) -> tuple[SparseTensor, torch.Tensor, torch.Tensor]:
    features = x.features.detach().requires_grad_(True)
    out = layer(x.replace(features))
    cotangent = torch.cos(torch.arange(out.features.numel(), dtype=out.dtype)).view_as(out.features)
    grad_x, grad_w = torch.autograd.grad((out.features * cotangent).sum(), [features, layer.weight])
    return out, grad_x, grad_w


@pytest.mark.parametrize("ratio", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_without_taps_equals_zero_weights(name: str, ratio: float) -> None:
    """Outputs, output sites, and both gradients; the bias stays."""
    model, x = nn.Sequential(LAYERS[name]()).double(), zoo.sites()
    plan = make_plan(model, [x], granularity=Offsets(), criterion=Random(2), ratio=ratio)
    smaller, zeroed = plan.apply(model)[0], plan.apply(model, remove=False)[0]
    stays = plan.steps[0].cuts["0.weight"][0]
    assert 0 < len(smaller.taps) == int(stays.sum()) < len(stays)
    torch.testing.assert_close(smaller.taps, model[0].taps[stays], rtol=0, atol=0)
    a, grad_x, grad_w = gradients(smaller, x)
    b, zero_x, zero_w = gradients(zeroed, x)
    assert torch.equal(a.coords, b.coords)
    close(a.features, b.features)
    close(grad_x, zero_x)
    close(grad_w, zero_w[stays])


@pytest.mark.parametrize("method", ["hash", "sort"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_map_holds_the_kept_pairs_alone(name: str, method: str) -> None:
    """Both builders: the pairs of the kept taps, in order; checked with the loops of the oracle where they are enough."""
    layer, x = LAYERS[name]().double(), zoo.sites(n=40)
    plan = make_plan(nn.Sequential(layer), [x], granularity=Offsets(), criterion=Random(1), ratio=0.6)
    smaller = plan.apply(nn.Sequential(layer))[0]
    g = layer.geometry
    options: dict[str, Any] = {"kernel_size": g.kernel_size, "dilation": g.dilation, "anchor": g.anchor}
    options |= {"submanifold": g.submanifold, "transposed": g.transposed, "method": method}
    if not g.submanifold:
        options["stride"] = g.stride
        options |= {} if g.anchor == "minkowski" else {"padding": g.padding}
    full = sparseconv.build_kernel_map(x.coords, **options)
    part = sparseconv.build_kernel_map(x.coords, taps=smaller.taps, **options)
    stays = plan.steps[0].cuts["weight" if "weight" in plan.steps[0].cuts else "0.weight"][0].tolist()
    pieces = [
        full.pairs[full.tap_offsets[k] : full.tap_offsets[k + 1]] for k, kept in enumerate(stays) if kept
    ]
    same_bits(part.pairs, torch.cat(pieces))
    same_bits(part.out_coords, full.out_coords)
    assert part.tap_offsets.diff().tolist() == [len(p) for p in pieces]
    relation = oracle.make(
        3, g.kernel_size, g.stride, g.padding, g.dilation, (0, 0, 0), g.anchor,
        submanifold=g.submanifold, transposed=g.transposed,
    )  # fmt: skip
    sites = [tuple(row) for row in x.coords.tolist()]
    counts = [0] * len(stays)
    for pair in oracle.pairs(relation, sites, [tuple(row) for row in full.out_coords.tolist()]):
        counts[pair[0]] += 1
    assert [n for n, kept in zip(counts, stays, strict=True) if kept] == part.tap_offsets.diff().tolist()
    # What the layer computes over is that map.
    used = smaller.kernel_map(x)
    assert len(used.pairs) == sum(len(p) for p in pieces) < len(full.pairs)


def shared_net() -> nn.Module:
    torch.manual_seed(4)
    return zoo.create("DeepUNet", 3)


@pytest.mark.parametrize("shared", [False, True])
def test_a_network_without_taps_equals_zero_weights(shared: bool) -> None:
    model, x = shared_net(), zoo.sites()
    plan = make_plan(model, [x], granularity=Offsets(shared=shared), ratio=0.5)
    smaller, zeroed = plan.apply(model), plan.apply(model, remove=False)
    with torch.no_grad():
        close(smaller(x).features, zeroed(x).features)
    again = Plan.from_json(plan.to_json()).apply(model)
    with torch.no_grad():
        same_bits(again(x).features, smaller(x).features)
    copied = copy.deepcopy(smaller)
    with torch.no_grad():
        same_bits(copied(x).features, smaller(x).features)


def taps(model: nn.Module, name: str) -> set[tuple[int, ...]]:
    return {tuple(t) for t in model.get_submodule(name).taps.tolist()}


def test_layers_on_one_map_keep_the_same_taps() -> None:
    """Convolution and inverse convolution, and all submanifold layers of a level; the shared maps are really shared."""
    model = shared_net()
    x = zoo.sites()
    plan = make_plan(model, [x], granularity=Offsets(shared=True), ratio=0.5)
    smaller = plan.apply(model)
    assert taps(smaller, "d1.0") == taps(smaller, "u1") < taps(model, "u1")
    assert taps(smaller, "d2.0") == taps(smaller, "u2") < taps(model, "u2")
    assert taps(smaller, "stem.0") == taps(smaller, "j1.0") < taps(model, "j1.0")
    maps = {}

    def note(name):
        def hook(m, args, out):
            maps[name] = m.kernel_map(*args)

        return hook

    hooks = [
        m.register_forward_hook(note(n))
        for n, m in smaller.named_modules()
        if isinstance(m, snn.SparseConvolution)
    ]
    with torch.no_grad():
        smaller(x)
    for hook in hooks:
        hook.remove()
    assert maps["stem.0"] is maps["j1.0"]
    for there, back in (("d1.0", "u1"), ("d2.0", "u2")):
        ends = [sorted(map(tuple, m.pairs.tolist())) for m in (maps[there], maps[back].reverse())]
        assert ends[0] == ends[1]
    counted = {name: len(m.pairs) for name, m in maps.items()}
    full = analyze(model, [x])
    for name, stays in (
        (n, plan.steps[0].cuts[f"{n}.weight"][0]) for n in counted if f"{n}.weight" in plan.steps[0].cuts
    ):
        assert counted[name] == int(full.layers[f"{name}.weight"].pairs[stays].sum()), name


def test_per_layer_choices_differ_from_layer_to_layer() -> None:
    model = shared_net()
    smaller = make_plan(model, [zoo.sites()], granularity=Offsets(), criterion=Random(0), ratio=0.5).apply(
        model
    )
    assert taps(smaller, "stem.0") != taps(smaller, "j1.0")


def test_only_the_centre_is_a_linear_layer() -> None:
    model, x = nn.Sequential(snn.SubMConv3d(4, 6, 3)).double(), zoo.sites()
    with torch.no_grad():
        model[0].weight[13] *= 100  # the centre of 3^3
    smaller = make_plan(model, [x], granularity=Offsets(), ratio=1.0).apply(model)
    assert smaller[0].taps.tolist() == [[1, 1, 1]]
    close(smaller(x).features, x.features @ model[0].weight[13] + model[0].bias)
    assert len(smaller[0].kernel_map(x).pairs) == len(x)


def test_modules_with_one_weight_lose_the_same_taps() -> None:
    """Two modules that hold one parameter: both lists of taps are shortened with it."""
    for shared in (False, True):
        model, x = zoo.create("TiedWeights"), zoo.sites()
        plan = make_plan(model, [x], granularity=Offsets(shared=shared), criterion=Random(1), ratio=0.5)
        smaller, zeroed = plan.apply(model), plan.apply(model, remove=False)
        assert smaller.a.weight is smaller.b.weight
        assert taps(smaller, "a") == taps(smaller, "b") < taps(model, "a")
        close(smaller(x).features, zeroed(x).features)


def test_a_shared_module_on_two_levels_joins_their_maps() -> None:
    model, x = zoo.create("SharedLevels"), zoo.sites()
    plan = make_plan(model, [x], granularity=Offsets(shared=True), ratio=0.5)
    smaller = plan.apply(model)
    assert taps(smaller, "stem.0") == taps(smaller, "shared.0") < taps(model, "stem.0")
    close(smaller(x).features, plan.apply(model, remove=False)(x).features)


def test_pruned_a_second_time_and_with_channels() -> None:
    model, x = shared_net(), zoo.sites()
    first = make_plan(model, [x], granularity=Offsets(), ratio=0.4)
    half = first.apply(model)
    second = make_plan(half, [x], granularity=Offsets(shared=True), ratio=0.4)
    close(second.apply(half)(x).features, second.apply(half, remove=False)(x).features)
    third = make_plan(second.apply(half), [x], ratio=0.5)
    both = first.then(second).then(third)
    close(both.apply(model)(x).features, third.apply(second.apply(half), remove=False)(x).features)


def test_a_ratio_counts_work_and_macs_are_exact() -> None:
    """Taps of a scan have different numbers of pairs: the share of multiply-accumulates is met, not that of taps."""
    model, x = nn.Sequential(snn.SubMConv3d(4, 8, 5), snn.SubMConv3d(8, 8, 3)).double(), zoo.sites(n=300)
    before = analyze(model, [x])
    for ratio in (Uniform(0.5), Macs(0.5)):
        plan = make_plan(model, [x], granularity=Offsets(), criterion=Random(3), ratio=ratio, analysis=before)
        after = analyze(plan.apply(model), [x])
        for name, layer in before.layers.items():
            stays = plan.steps[0].cuts[name][0]
            assert after.layers[name].macs == float(layer.pairs[stays].sum()) * layer.macs / float(
                layer.pairs.sum()
            )
        assert abs(after.macs / before.macs - 0.5) < 0.1
        lost = sum(e.macs for e in plan.steps[0].entries)
        assert abs(before.macs - lost - after.macs) < 1e-6 * before.macs


def test_a_raw_weight_has_no_taps_to_lose() -> None:
    """functional.conv with a bare parameter: it is left and named."""

    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.kernel = snn.SubMConv3d(4, 4, 3), nn.Parameter(torch.randn(27, 4, 4))

        def forward(self, x):
            x = self.first(x)
            return x.replace(
                sparseconv.functional.conv(x.features, self.kernel, None, self.first.kernel_map(x))
            )

    model, x = Raw().double(), zoo.sites()
    for shared in (False, True):
        plan = make_plan(model, [x], granularity=Offsets(shared=shared), ratio=0.5)
        assert set(plan.steps[0].cuts) == {"first.weight", "first.taps"}
        assert shared or "kernel" in plan.steps[0].left
