# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Networks written for spconv are pruned where they stand, and as their converted copies are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spconv_twins
import torch
from spconv_engines import assert_same, scan_of
from torch import nn

import sparseconv.compat.spconv as drop_in
from sparseconv import convert, fuse, pruning

TWINS = [*spconv_twins.TWINS]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def outputs(model: nn.Module, seed: int = 0) -> dict[str, Any]:
    with torch.no_grad():
        found: dict[str, Any] = model(*scan_of(seed))
    return found


def loss(model: nn.Module, scan: Any) -> torch.Tensor:
    values = [v if isinstance(v, torch.Tensor) else v.features for v in model(*scan).values()]
    return sum((v.square().mean() for v in values if v.is_floating_point()), torch.zeros(()))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", TWINS)
def test_channels_go_where_the_layers_stand(name: str, tmp_path: Path) -> None:
    network = spconv_twins.build(name, drop_in)
    for seed, ratio in ((0, 0.5), (1, 0.3)):
        plan = pruning.make_plan(
            network,
            [scan_of()],
            granularity=pruning.Channels(round_to=1),
            criterion=pruning.Random(seed),
            ratio=ratio,
        )
        smaller, zeroed = plan.apply(network), plan.apply(network, remove=False)
        for scan in (0, 3):
            assert_same(outputs(smaller, scan), outputs(zeroed, scan), tolerance=1e-6)
    if name == "pooled":  # all its channels meet outputs, or a kernel of one cell
        assert "conv" in plan.steps[0].left
        return
    assert parameters(smaller) < parameters(network)
    pruning.save(tmp_path / "pruned", smaller, plan)
    again, _ = pruning.load(tmp_path / "pruned", spconv_twins.build(name, drop_in, seed=7))
    again.eval()
    assert_same(outputs(again), outputs(smaller), tolerance=0)
    loss(smaller.train(), scan_of()).backward()
    for key, parameter in smaller.named_parameters():
        assert parameter.grad is None or parameter.grad.shape == parameter.shape, key


@pytest.mark.parametrize("name", TWINS)
def test_work_is_counted_as_in_the_converted_network(name: str) -> None:
    network = spconv_twins.build(name, drop_in)
    ours = pruning.analyze(network, [scan_of()])
    theirs = pruning.analyze(convert.from_spconv(network), [scan_of()])
    assert {layer.name: layer.macs for layer in ours.layers.values()} == {
        layer.name: layer.macs for layer in theirs.layers.values()
    }


@pytest.mark.parametrize(
    ("granularity", "criterion"),
    [
        (pruning.FineGrained(), pruning.Magnitude()),
        (pruning.Vectors(4), pruning.Magnitude()),
        (pruning.Kernels(), pruning.Taylor()),
        (pruning.NM(2, 4), pruning.Wanda()),
        (pruning.FineGrained(), pruning.OBS()),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("name", ["unet", "segmenter"])
def test_zeros_are_those_of_the_converted_network(name: str, granularity: Any, criterion: Any) -> None:
    """Weights lie in another order there, but the same ones go."""
    network = spconv_twins.build(name, drop_in)
    pruned = []
    for model in (network, convert.from_spconv(network)):
        plan = pruning.make_plan(
            model, [scan_of()], granularity=granularity, criterion=criterion, ratio=0.5, loss=loss
        )
        pruned.append(plan.apply(model))
    zeros = [sum(int((p == 0).sum()) for p in model.parameters()) for model in pruned]
    assert zeros[0] == zeros[1] > parameters(network) // 4
    assert_same(outputs(pruned[0]), outputs(pruned[1]))


def test_taps_go_after_the_network_is_converted() -> None:
    network = spconv_twins.build("unet", drop_in)
    plan = pruning.make_plan(network, [scan_of()], granularity=pruning.Offsets(), ratio=0.5)
    left = plan.steps[0].left
    assert set(left) == {layer.name for layer in pruning.analyze(network, [scan_of()]).layers.values()}
    assert all("convert.from_spconv" in reason for reason in left.values())
    converted = convert.from_spconv(network)
    plan = pruning.make_plan(converted, [scan_of()], granularity=pruning.Offsets(), ratio=0.5)
    assert parameters(plan.apply(converted)) < 0.7 * parameters(converted)


def test_pruned_networks_are_measured_and_fused() -> None:
    network = spconv_twins.build("segmenter", drop_in)
    plan = pruning.make_plan(network, [scan_of()], granularity=pruning.Channels(round_to=1), ratio=0.5)
    smaller = plan.apply(network)
    profile = pruning.profile({"dense": network, "pruned": smaller}, [scan_of()], rounds=2)
    assert "pruned" in str(profile)
    assert_same(outputs(fuse(smaller)), outputs(smaller))
