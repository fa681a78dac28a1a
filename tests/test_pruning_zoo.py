# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Channels are taken out of networks of many shapes, and nothing but their zeros is missed."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import zoo
from engine import random_tensor, real_points
from sparseconv.pruning import Analysis, Channels, Random, analyze, make_plan
from sparseconv.pruning.calls import call
from torch import Tensor, nn

import sparseconv
import sparseconv.nn as snn
from sparseconv import SparseTensor, models


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The networks are tiny: a second thread only waits."""
    torch.set_num_threads(1)


@functools.cache
def analyzed(name: str) -> Analysis:
    return analyze(zoo.create(name), [zoo.ZOO[name].scan()])


def arrays(value: Any) -> Iterator[Tensor]:
    """Every floating-point array in whatever a network returns, found without the plugin's own search."""
    if isinstance(value, SparseTensor):
        yield value.features
    elif isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from arrays(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from arrays(inner)
    elif isinstance(value, zoo.Result):
        yield from arrays((value.scores, value.next))
    elif isinstance(value, zoo.Slotted):
        yield from arrays(value.inner)


def run(model: nn.Module, scan: Any) -> list[Tensor]:
    """All outputs, those that are written into the input's own dictionary included."""
    return list(arrays((call(model, scan), scan)))


def same_outputs(smaller: nn.Module, zeroed: nn.Module, scan: Any, tolerance: float = 1e-6) -> None:
    with torch.no_grad():
        got, expected = run(smaller, scan), run(zeroed, scan)
    assert len(got) == len(expected) > 0
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert b.isfinite().all() and b.numel()
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def out_channels(model: nn.Module, name: str) -> int:
    """Output channels of a layer or of a raw parameter, from its weight's shape."""
    value: Any = model
    for part in name.split("."):
        value = getattr(value, part)
    if isinstance(value, nn.Parameter):
        return value.shape[-1]
    weight = value.weight_hh if isinstance(value, nn.GRUCell) else value.weight
    if isinstance(value, snn.SparseConvolution):
        return weight.shape[2]
    if isinstance(value, nn.modules.conv._ConvNd) and value.transposed:
        return weight.shape[1] * value.groups
    return weight.shape[0]


def check_sizes(model: nn.Module) -> None:
    """The numbers that layers keep of themselves are those of their weights."""
    for name, m in model.named_modules():
        if isinstance(m, snn.SparseConvolution):
            assert m.weight.shape[1:] == (m.in_channels // m.groups, m.out_channels), name
            assert m.in_channels % m.groups == 0 and m.out_channels % m.groups == 0, name
            assert m.weight.shape[0] == m.taps.shape[0]
            assert m.bias is None or m.bias.shape == (m.out_channels,), name
        elif isinstance(m, nn.modules.conv._ConvNd):
            made, read = (m.in_channels, m.out_channels) if m.transposed else (m.out_channels, m.in_channels)
            assert m.weight.shape[:2] == (made, read // m.groups), name
            assert m.bias is None or m.bias.shape == (m.out_channels,), name
        elif isinstance(m, nn.Linear):
            assert m.weight.shape == (m.out_features, m.in_features), name
            assert m.bias is None or m.bias.shape == (m.out_features,), name
        elif isinstance(m, nn.modules.batchnorm._NormBase):
            for x in (m.weight, m.bias, m.running_mean, m.running_var):
                assert x is None or x.shape == (m.num_features,), name
        elif isinstance(m, nn.PReLU):
            assert m.weight.shape == (m.num_parameters,), name
        elif isinstance(m, nn.Embedding):
            assert m.weight.shape == (m.num_embeddings, m.embedding_dim), name


def state(model: nn.Module) -> dict[str, bytes]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: x.detach().numpy().tobytes() for name, x in tensors.items()}


def hooks(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()
    )


def train_step(model: nn.Module, scan: Any) -> None:
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    loss = sum((x.square().mean() for x in run(model, scan) if x.requires_grad), torch.zeros(()))
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is None or (p.grad.shape == p.shape and p.grad.isfinite().all()), name
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    optimizer.step()
    model.eval()


@pytest.mark.parametrize("name", zoo.ZOO)
def test_removed_channels_equal_zeros(name: str) -> None:
    """Several ratios and random choices; two scans, one of which the analysis has not seen."""
    animal = zoo.ZOO[name]
    scan = animal.scan()
    model, analysis = zoo.create(name), analyzed(name)
    for seed, ratio, round_to in ((0, 0.5, 1), (1, 0.3, 1), (2, 0.99, 1), (3, 0.4, 8)):
        plan = make_plan(
            model,
            [scan],
            granularity=Channels(round_to=round_to),
            criterion=Random(seed),
            ratio=ratio,
            analysis=analysis,
        )
        smaller, zeroed = plan.apply(model), plan.apply(model, remove=False)
        same_outputs(smaller, zeroed, scan)
        check_sizes(smaller)
        for layer in animal.shrinks if round_to == 1 else ():
            assert out_channels(smaller, layer) < out_channels(model, layer), (layer, str(plan))
        for layer in animal.stays:
            assert out_channels(smaller, layer) == out_channels(model, layer), layer
    if animal.scan is zoo.sites:
        same_outputs(smaller, zeroed, zoo.sites(seed=9, n=40, batch_size=1))


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_expected_groups_and_reasons(name: str) -> None:
    """What should shrink has no reason to stay; what stays is named; every layer with a weight is in one of both."""
    animal = zoo.ZOO[name]
    model, analysis = zoo.create(name), analyzed(name)
    for layer in animal.shrinks:
        assert layer not in analysis.left, analysis.left
    for layer, words in animal.stays.items():
        assert re.search(words, analysis.left[layer]), analysis.left
    known = {layer for group in analysis.channels for layer in group.layers} | set(analysis.left)
    for layer, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1:
            owned = dict(model.named_parameters(remove_duplicate=True))
            if f"{layer}.weight" in owned:
                assert layer in known, (layer, known)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_pruned_network_lives(name: str) -> None:
    """It trains, copies, pickles, loads a state dict into another copy, and is pruned a second time."""
    animal = zoo.ZOO[name]
    scan, model = animal.scan(), zoo.create(name, 1)
    plan = make_plan(model, [scan], granularity=Channels(round_to=1), ratio=0.4, analysis=analyzed(name))
    smaller = plan.apply(model)
    for layer in animal.shrinks:
        assert out_channels(smaller, layer) < out_channels(model, layer), layer
    train_step(smaller, scan)
    same_outputs(copy.deepcopy(smaller), smaller, scan, 0)
    if name not in (
        "Scripted",
        "ScriptedWeights",
        "WeightNorm",
    ):  # scripted and parametrized modules do not pickle
        same_outputs(pickle.loads(pickle.dumps(smaller)), smaller, scan, 0)
    buffer = io.BytesIO()
    torch.save(smaller.state_dict(), buffer)
    again = type(plan).from_json(plan.to_json()).apply(zoo.create(name, 2))
    again.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    same_outputs(again, smaller, scan, 0)
    second = make_plan(smaller, [scan], granularity=Channels(round_to=1), criterion=Random(5), ratio=0.5)
    smallest = second.apply(smaller)
    same_outputs(smallest, second.apply(smaller, remove=False), scan)
    check_sizes(smallest)
    for layer in animal.shrinks:
        assert out_channels(smallest, layer) < out_channels(smaller, layer), layer
    same_outputs(plan.then(second).apply(model), second.apply(plan.apply(model)), scan, 0)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_model_is_left_as_it_was(name: str) -> None:
    animal = zoo.ZOO[name]
    model = zoo.create(name)
    model.train()
    next(iter(model.children())).eval()  # a frozen part
    before, modes = state(model), [m.training for m in model.modules()]
    attributes = [sorted(vars(m)) for m in model.modules()]
    learns = [p.requires_grad for p in model.parameters()]
    plan = make_plan(model, [animal.scan()], ratio=0.5)
    plan.apply(model), plan.apply(model, remove=False), str(plan), plan.to_json()
    assert state(model) == before
    assert [m.training for m in model.modules()] == modes
    assert [sorted(vars(m)) for m in model.modules()] == attributes
    assert [p.requires_grad for p in model.parameters()] == learns
    assert all(p.grad is None for p in model.parameters())
    assert hooks(model) == hooks(zoo.create(name))


@pytest.mark.parametrize("name", ["Plain", "UNet", "Residual", "DenseHead", "SqueezeExcite", "Keywords"])
def test_the_first_channel_is_enough_to_find_the_difference(name: str) -> None:
    """The comparison of this file can fail: a channel that is taken out of one tensor too few, or a wrong one."""
    scan, model = zoo.ZOO[name].scan(), zoo.create(name)
    plan = make_plan(model, [scan], granularity=Channels(round_to=1), ratio=0.5)
    smaller, zeroed = plan.apply(model), plan.apply(model, remove=False)
    with torch.no_grad():
        next(p for p in smaller.parameters() if p.ndim > 1).mul_(1.001)
    with pytest.raises(AssertionError):
        same_outputs(smaller, zeroed, scan)


# --- networks of the package ----------------------------------------------------------------------------------------


def test_minkunet18_on_a_real_scan() -> None:
    points = torch.from_numpy(real_points("kitti_odometry_00_000000.bin"))
    near = points[points.abs().max(1).values < 12]
    x, _ = sparseconv.voxelize(near, torch.cat([near, near[:, :1]], 1), voxel_size=0.4)
    check_package_network(models.MinkUNet18(4, 5, width=0.25), x, unpruned={"classifier"})


def test_voxel_backbone_on_a_real_scan() -> None:
    points = torch.from_numpy(real_points("kitti_odometry_00_000000.bin")).flip(1)
    inside = (points[:, 0] > -2.5) & (points[:, 0] < 1) & (points[:, 1:].abs().max(1).values < 12)
    near = points[inside]
    features = torch.cat([near, near[:, :1]], 1)
    x, _ = sparseconv.voxelize(
        near, features, voxel_size=(0.1, 0.3, 0.3), origin=(-2.5, -12, -12), spatial_shape=(41, 80, 80)
    )
    net = models.VoxelBackbone8x(4)
    ends = {"conv1.0.0", "conv2.2.0", "conv3.2.0", "conv4.2.0", "conv_out.0"}  # its outputs
    check_package_network(net, x, unpruned=ends)


def check_package_network(model: nn.Module, x: SparseTensor, unpruned: set[str]) -> None:
    assert len(x) > 500
    model = model.double().eval()
    zoo.randomize(model)
    x = x.replace(x.features.double())
    before = state(model)
    plan = make_plan(model, [x], granularity=Channels(round_to=1), criterion=Random(1), ratio=0.5)
    smaller = plan.apply(model)
    same_outputs(smaller, plan.apply(model, remove=False), x)
    check_sizes(smaller)
    assert state(model) == before
    for name, layer in model.named_modules():
        if isinstance(layer, snn.SparseConvolution | nn.Linear):
            kept = out_channels(smaller, name) / out_channels(model, name)
            assert kept == (1 if name in unpruned else 0.5), name
    train_step(smaller, x)


# --- single cases ---------------------------------------------------------------------------------------------------


def test_groups_of_one_channel_each_after_pruning() -> None:
    """A grouped layer that keeps one input channel in every group is still in groups, and no depthwise layer."""
    model = nn.Sequential(
        snn.SubMConv3d(4, 8, 3), snn.SubMConv3d(8, 16, 3, groups=4), snn.SubMConv3d(16, 3, 1)
    )
    model, x = model.double(), zoo.sites()
    plan = make_plan(model, [x], granularity=Channels(round_to=1), criterion=Random(0), ratio=0.5)
    smaller = plan.apply(model)
    assert (smaller[1].in_channels, smaller[1].groups, smaller[1].out_channels) == (4, 4, 8)
    same_outputs(smaller, plan.apply(model, remove=False), x)
    dense = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 16, 3, groups=4), nn.Conv2d(16, 3, 1)).double()
    image = torch.randn(1, 4, 9, 9, dtype=torch.float64)
    plan = make_plan(dense, [image], granularity=Channels(round_to=1), criterion=Random(0), ratio=0.5)
    smaller = plan.apply(dense)
    assert (smaller[1].in_channels, smaller[1].groups, smaller[1].out_channels) == (4, 4, 8)
    same_outputs(smaller, plan.apply(dense, remove=False), image)


def test_several_scans_and_a_forward_of_ones_own() -> None:
    model = zoo.create("UNet")
    scans = [{"voxels": zoo.sites(s), "labels": None} for s in range(3)]
    plan = make_plan(model, scans, granularity=Channels(round_to=1), forward=lambda m, s: m(s["voxels"]))
    same_outputs(plan.apply(model), plan.apply(model, remove=False), zoo.sites(8))


def test_a_network_that_returns_nothing_is_refused() -> None:
    class Silent(zoo.Net):
        def forward(self, x):
            super().forward(x)

    with pytest.raises(ValueError, match="returns no tensor"):
        make_plan(Silent().double(), [zoo.sites()])


def test_hooks_go_where_the_network_raises() -> None:
    model = zoo.create("Plain")
    with pytest.raises(ValueError, match="features"):
        analyze(model, [zoo.sites(channels=5)])
    assert hooks(model) == 0


def test_a_dense_grid_and_an_empty_scan() -> None:
    """Channels can be followed on a scan without rows."""
    empty = SparseTensor(torch.zeros(0, 4).double(), torch.zeros(0, 4, dtype=torch.int32), batch_size=1)
    model = zoo.create("UNet")
    plan = make_plan(model, [zoo.sites(), empty], granularity=Channels(round_to=1))
    assert plan.steps[0].cuts
    same_outputs(
        plan.apply(model),
        plan.apply(model, remove=False),
        random_tensor(3, 90, 4, extent=6, dtype=torch.float64),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_of_other_types(dtype: torch.dtype) -> None:
    """Rounding is no reason to leave anything unpruned."""
    x = zoo.sites(dtype=dtype)
    model = zoo.create("Residual").to(dtype)
    plan = make_plan(model, [x], granularity=Channels(round_to=1), ratio=0.5)
    assert set(plan.steps[0].left) == {"head"}
    assert plan.apply(model).a[0].weight.dtype == dtype
    same_outputs(
        plan.apply(model), plan.apply(model, remove=False), x, 1e-4 if dtype == torch.float32 else 0.1
    )


class InsistsOnFloat32(zoo.WidthInTheScale):
    def middle(self, x):
        if x.dtype != torch.float32:
            raise TypeError("float32 alone")
        return super().middle(x)


def test_a_network_that_insists_on_its_type() -> None:
    model, x = InsistsOnFloat32().eval(), zoo.sites(dtype=torch.float32)
    plan = make_plan(model, [x], granularity=Channels(round_to=1), ratio=0.5)
    same_outputs(plan.apply(model), plan.apply(model, remove=False), x, 1e-4)
    assert "v.weight" in plan.steps[0].cuts


def test_a_last_layer_at_zero_hides_nothing() -> None:
    """A head that starts at zero puts out zeros whatever comes before: the groups are those of the trained network."""
    for name in ("WidthInTheScale", "ChannelNumbers", "HardWired", "Residual"):
        model, x = zoo.create(name), zoo.sites()
        expected = analyzed(name).left
        with torch.no_grad():
            model.head.weight.zero_()
            model.head.bias.zero_()
        assert analyze(model, [x]).left == expected, name


def test_training_code_that_asks_for_more_does_not_stop_the_analysis() -> None:
    class NeedsLabels(zoo.AuxiliaryHead):
        def forward(self, x):
            if self.training:
                raise RuntimeError("labels, please")
            return super().forward(x)

    model = NeedsLabels().double()
    analysis = analyze(model, [zoo.sites()])
    assert "not used" in analysis.left["aux.0"] and "a.0" not in analysis.left


def test_random_numbers_of_the_program_are_not_used_up() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    analyze(zoo.create("AuxiliaryHead"), [zoo.sites()])
    torch.manual_seed(5)
    model = zoo.ZOO["AuxiliaryHead"].build().double()
    torch.manual_seed(5)
    make_plan(model, [zoo.sites()])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", sorted(set(zoo.ZOO) - {"HardWired", "WidthInTheScale"}))
def test_the_rules_alone_are_right(name: str) -> None:
    """Without the trial on copies: only what the network's own code knows of its sizes is for the trial to find."""
    animal, model = zoo.ZOO[name], zoo.create(name)
    scan = animal.scan()
    analysis = analyze(model, [scan], verify=False)
    assert [u.name for u in analysis.channels] == [u.name for u in analyzed(name).channels]
    plan = make_plan(
        model, [scan], granularity=Channels(round_to=1), criterion=Random(7), ratio=0.5, analysis=analysis
    )
    same_outputs(plan.apply(model), plan.apply(model, remove=False), scan)
