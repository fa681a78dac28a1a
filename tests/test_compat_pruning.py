# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Pruning and fusing networks on the drop-in for spconv where they stand, on twins of the networks that use spconv."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from spconv_engines import CHANNELS, scan_of
from spconv_twins import TWINS, build
from torch import Tensor, nn

import sparseconv
import sparseconv.compat.spconv as sp
from sparseconv import convert, pruning

REMOVING = [name for name in TWINS if name not in ("stem", "pooled")]


def outputs(network: nn.Module, scan: tuple[Any, ...]) -> list[Tensor]:
    with torch.no_grad():
        values = network(*scan).values()
    return [v if isinstance(v, Tensor) else v.features for v in values]


def trained(name: str) -> nn.Module:
    """A network whose norms have statistics and weights of their own, in evaluation mode."""
    network = build(name, sp)
    torch.manual_seed(1)
    with torch.no_grad():
        for seed in range(3):
            network.train()(*scan_of(seed))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
    return network.eval()


def assert_close(got: list[Tensor], expected: list[Tensor], tolerance: float = 1e-6) -> None:
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("name", TWINS)
def test_channels(name: str, tmp_path: Path) -> None:
    """Smaller, equal to the masked network, and the same again from a file; the plan goes through JSON."""
    network, scan = trained(name), scan_of(5)
    before = outputs(network, scan)
    plan = pruning.make_plan(network, [scan], granularity=pruning.Channels(round_to=1), ratio=0.4)
    assert_close(outputs(network, scan), before, 0.0)
    smaller = plan.apply(network)
    count = sum(p.numel() for p in smaller.parameters())
    assert count < (0.8 if name in REMOVING else 0.95) * sum(p.numel() for p in network.parameters())
    expected = outputs(plan.apply(network, remove=False), scan)
    assert max(float((a - b).abs().max()) for a, b in zip(expected, before, strict=True)) > 1e-3
    assert_close(outputs(smaller, scan), expected)
    pruning.save(tmp_path / "pruned.safetensors", smaller, plan)
    again, read = pruning.load(tmp_path / "pruned.safetensors", build(name, sp, seed=3))
    assert_close(outputs(again.eval(), scan), outputs(smaller, scan), 0.0)
    assert str(read) == str(plan)
    for module in smaller.modules():
        if isinstance(module, sp.SparseConvolution):
            assert module.weight.shape == tuple(module.weight_shape)
            assert module.weight.shape[0] == module.out_channels


@pytest.mark.parametrize("name", REMOVING)
def test_channels_agree_with_the_native_layers(name: str) -> None:
    """The same groups as in the network with this engine's own layers, the same work, and the same outputs after."""
    network, scan = trained(name), scan_of(5)
    native = convert.from_spconv(network)
    here, there = pruning.analyze(network, [scan]), pruning.analyze(native, [scan])
    assert here.macs == there.macs > 0
    assert {u.makers: u.count for u in here.channels} == {u.makers: u.count for u in there.channels}
    assert here.left.keys() == there.left.keys()
    for units, other in zip(here.channels, there.channels, strict=True):
        assert torch.equal(units.cost, other.cost)
    options: dict[str, Any] = {"granularity": pruning.Channels(round_to=1), "ratio": 0.3}
    pruned = [pruning.make_plan(n, [scan], **options).apply(n) for n in (network, native)]
    assert_close(outputs(pruned[0], scan), outputs(pruned[1], scan), 1e-5)


def loss(network: nn.Module, scan: Any) -> Tensor:
    values = [v if isinstance(v, Tensor) else v.features for v in network(*scan).values()]
    return torch.stack([v.square().mean() for v in values if v.is_floating_point()]).sum()


CRITERIA = [
    pruning.Magnitude(),
    pruning.Taylor(),
    pruning.OBD(),
    pruning.Wanda(),
    pruning.ActivationNorm(),
    pruning.ThiNet(),
]


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: type(c).__name__)
def test_criteria_score_as_on_the_native_layers(criterion: pruning.Criterion) -> None:
    """A residual U-Net with inverse convolutions, joined channels and kernels of one cell that widen and narrow."""
    network, scan = trained("segmenter"), scan_of(5)
    of_channels = not isinstance(criterion, pruning.Wanda)
    granularity = pruning.Channels(round_to=1) if of_channels else pruning.Vectors(4)
    plans = [
        pruning.make_plan(n, [scan], granularity=granularity, criterion=criterion, ratio=0.3, loss=loss)
        for n in (network, convert.from_spconv(network))
    ]
    for here, there in zip(plans[0].steps, plans[1].steps, strict=True):
        assert [(e.name, e.units, e.removed) for e in here.entries] == [
            (e.name, e.units, e.removed) for e in there.entries
        ]
    results = [
        outputs(p.apply(n), scan) for p, n in zip(plans, (network, convert.from_spconv(network)), strict=True)
    ]
    assert_close(results[0], results[1], 1e-4)


@pytest.mark.parametrize(
    "granularity",
    [pruning.FineGrained(), pruning.Vectors(4), pruning.Kernels(), pruning.NM(2, 4)],
    ids=lambda g: type(g).__name__,
)
def test_masks(granularity: pruning.Granularity) -> None:
    """Which elements are zeroed is the same as in the native layers; fine-tuning holds them."""
    network, scan = trained("segmenter"), scan_of(5)
    native = convert.from_spconv(network)
    pruned, expected = (
        pruning.make_plan(n, [scan], granularity=granularity, ratio=0.5).apply(n) for n in (network, native)
    )
    zeros = [sum(int((p == 0).sum()) for p in n.parameters()) for n in (network, pruned, expected)]
    assert zeros[1] == zeros[2] > zeros[0] + 1000
    assert_close(outputs(pruned, scan), outputs(expected, scan), 1e-5)
    plan = pruning.make_plan(network, [scan], granularity=granularity, ratio=0.5)
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.1, momentum=0.9)
    with pruning.HeldMasks(pruned, plan.masks(), optimizer):
        loss(pruned, scan).backward()
        optimizer.step()
    for name, mask in plan.masks().items():
        assert not pruned.get_parameter(name)[~mask].any()


def test_steps_after_each_other() -> None:
    """Channels of kernels of one cell are cut again after single weights were masked: masks follow the cut."""
    network, scan = trained("segmenter"), scan_of(5)
    first = pruning.make_plan(network, [scan], granularity=pruning.FineGrained(), ratio=0.3)
    masked = first.apply(network)
    second = pruning.make_plan(masked, [scan], granularity=pruning.Channels(round_to=1), ratio=0.3)
    plan = pruning.Plan.from_json(first.then(second).to_json())
    smaller = plan.apply(network)
    for name, mask in plan.masks().items():
        assert mask.shape == smaller.get_parameter(name).shape
        assert not smaller.get_parameter(name)[~mask].any()
    assert_close(outputs(smaller, scan), outputs(second.apply(masked, remove=False), scan))


def test_offsets_name_the_way_out() -> None:
    network, scan = trained("detector"), scan_of(5)
    with pytest.raises(ValueError, match="from_spconv"):
        pruning.make_plan(network, [scan], granularity=pruning.Offsets())
    plan = pruning.make_plan(convert.from_spconv(network), [scan], granularity=pruning.Offsets(), ratio=0.3)
    assert plan.steps[0].entries


def test_profile() -> None:
    """Work is counted from the pairs; a tensor of spconv's forgets its maps between rounds."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = sp.SparseSequential(
                sp.SubMConv3d(CHANNELS, 8, 3), nn.ReLU(), sp.SubMConv3d(8, 5, 1), sp.SparseConv3d(5, 4, 2, 2)
            )

        def forward(self, x: sp.SparseConvTensor) -> sp.SparseConvTensor:
            return self.body(x)

    features, indices, batch = scan_of(0)
    network = Net().eval()
    x = sp.SparseConvTensor(features, indices, [22, 24, 22], batch)
    measured = pruning.profile(network, [x], rounds=1).networks[0]
    cells = {tuple(row) for row in indices.tolist()}
    near = [(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
    pairs = sum((s, x + a, y + b, z + c) in cells for s, x, y, z in cells for a, b, c in near)
    assert measured.macs == pairs * CHANNELS * 8 + len(cells) * 8 * 5 + len(cells) * 5 * 4
    assert not x.cells().sites.maps


@pytest.mark.parametrize("name", [name for name in TWINS if name != "stem"])
def test_fuse(name: str) -> None:
    """Every batch norm goes into the convolution before it, also of inverse layers and kernels of one cell."""
    network, scan = trained(name), scan_of(5)
    fused = sparseconv.fuse(network)
    assert not [n for n, m in fused.named_modules() if isinstance(m, nn.BatchNorm1d)]
    assert_close(outputs(fused, scan), outputs(network, scan), 1e-5)


def test_fuse_leaves_layers_with_an_activation() -> None:
    conv = sp.conv.SparseConvolution(3, CHANNELS, 4, 3, subm=True, act_type=sp.Activation.ReLU)
    network = sp.SparseSequential(conv, nn.BatchNorm1d(4)).eval()
    assert isinstance(sparseconv.fuse(network)[1], nn.BatchNorm1d)


def test_traced_tensors_need_no_patch() -> None:
    """torch.fx records a tensor that is made of traced values; the class is the same before, while and after."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = sp.SubMConv3d(CHANNELS, 4, 3)
            self.norm = nn.BatchNorm1d(4)

        def forward(self, features: Tensor, indices: Tensor) -> Tensor:
            kinds.append(sp.SparseConvTensor)
            x = self.conv(sp.SparseConvTensor(features, indices, [21, 24, 22], 2))
            return x.replace_feature(self.norm(x.features)).features

    kinds: list[type] = []
    kind, network = sp.SparseConvTensor, Net().eval()
    fused = sparseconv.fuse(network)
    assert kinds == [kind] and isinstance(fused.norm, nn.Identity)
    features, indices, _ = scan_of(0)
    torch.testing.assert_close(fused(features, indices), network(features, indices))
    assert isinstance(copy.deepcopy(sp.SparseConvTensor(features, indices, [21, 24, 22], 2)), kind)
