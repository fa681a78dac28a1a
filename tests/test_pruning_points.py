# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Rows that skip a layer's work: none is the plain layer, all is the identity, and their pairs are really absent."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import zoo
from sparseconv.pruning import Channels, Global, PerLayer, Plan, Points, make_plan
from sparseconv.pruning.points import important_rows, restrict
from strategies import close, same_bits
from torch import nn

import sparseconv.nn as snn
from sparseconv import SparseTensor, build_kernel_map

EMPTY = SparseTensor(torch.zeros(0, 6).double(), torch.zeros(0, 4, dtype=torch.int32), batch_size=2)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def layer(**options) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(snn.SubMConv3d(6, 6, 3, **options)).double()


def skipping(model: nn.Module, ratio: float, x: SparseTensor) -> nn.Module:
    return make_plan(model, [x], granularity=Points(), ratio=ratio).apply(model)


def expected_rows(x: SparseTensor, ratio: float) -> np.ndarray:
    """The rows that work, sample by sample, with plain loops."""
    importance = np.abs(x.features.detach().numpy()).mean(1)
    works = np.ones(len(x), bool)
    for sample in range(x.batch_size):
        rows = [i for i in range(len(x)) if int(x.coords[i, 0]) == sample]
        rows.sort(key=lambda i: (importance[i], -i))
        works[rows[: round(ratio * len(rows))]] = False
    return works


def test_none_is_the_plain_layer_and_all_the_identity() -> None:
    model, x = layer(), zoo.sites(channels=6)
    same_bits(skipping(model, 0.0, x)(x).features, model(x).features)
    same_bits(skipping(model, 1.0, x)(x).features, x.features)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
def test_rows_that_work_are_the_plain_layers(ratio: float, groups: int) -> None:
    model, x = layer(groups=groups), zoo.sites(channels=6, batch_size=3)
    works = torch.from_numpy(expected_rows(x, ratio))
    assert 0 < int(works.sum()) < len(x)
    out, plain = skipping(model, ratio, x)(x), model(x)
    close(out.features[works], plain.features[works])
    same_bits(out.features[~works], x.features[~works])
    assert out.sites is x.sites


def test_every_sample_loses_its_own_share() -> None:
    """A sample whose features are all small keeps as large a share as the others; ties go from the last row on."""
    x = zoo.sites(channels=6, batch_size=3)
    x = x.replace(x.features * torch.tensor([1.0, 1e-6, 1e6]).double()[x.coords[:, 0].long()][:, None])
    for ratio in (0.0, 0.3, 0.5, 1.0):
        works = important_rows(x, ratio)
        assert works.numpy().tolist() == expected_rows(x, ratio).tolist()
        for sample in range(3):
            rows = x.coords[:, 0] == sample
            assert int((~works[rows]).sum()) == round(ratio * int(rows.sum()))
    equal = important_rows(x.replace(torch.ones_like(x.features)), 0.5)
    for sample in range(3):
        kept = equal[x.coords[:, 0] == sample]
        assert kept.tolist() == sorted(kept.tolist(), reverse=True)


def test_pairs_of_skipped_rows_are_absent() -> None:
    x = zoo.sites(channels=6)
    full = build_kernel_map(x.coords, kernel_size=3, submanifold=True)
    works = important_rows(x, 0.6)
    part = restrict(full, works)
    number = {int(row): i for i, row in enumerate(works.nonzero()[:, 0])}
    expected, counts = [], []
    for k in range(27):
        pairs = full.pairs[full.tap_offsets[k] : full.tap_offsets[k + 1]].tolist()
        kept = [(i, number[o]) for i, o in pairs if o in number]
        expected += kept
        counts.append(len(kept))
    assert list(map(tuple, part.pairs.tolist())) == expected
    assert part.tap_offsets.diff().tolist() == counts
    assert sum(counts) < 0.7 * len(full.pairs)
    assert part.n_out == int(works.sum()) and part.n_in == len(x)
    assert torch.equal(part.out_coords, x.coords[works])
    assert len(full.pairs) == int(full.tap_offsets[-1])  # the full map is as it was


def test_the_layer_computes_over_the_restricted_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where the work is done: the pairs that the kernel gets."""
    from sparseconv import functional

    seen = []
    model, x = layer(), zoo.sites(channels=6)
    half = skipping(model, 0.5, x)
    kernel = functional.gather_gemm

    def count(*args):
        seen.append(len(args[3]))
        return kernel(*args)

    monkeypatch.setattr(functional, "gather_gemm", count)
    half(x), model(x)
    works = important_rows(x, 0.5)
    full = model[0].kernel_map(x)
    assert seen == [int(works[full.pairs[:, 1].long()].sum()), len(full.pairs)]


def test_gradients() -> None:
    """Against finite differences, with rows whose order of importance is far from a tie."""
    model, x = layer(), zoo.sites(channels=6, n=25)
    scale = torch.linspace(1, 5, len(x)).double()[:, None]
    x = x.replace(x.features.sign() * scale)
    half = skipping(model, 0.5, x)

    def run(features, weight, bias):
        return torch.func.functional_call(
            half, {"0.weight": weight, "0.bias": bias}, (x.replace(features),)
        ).features

    inputs = [x.features.clone(), model[0].weight.detach().clone(), model[0].bias.detach().clone()]
    assert torch.autograd.gradcheck(run, [v.requires_grad_(True) for v in inputs], fast_mode=True)
    works = important_rows(x, 0.5)
    features = x.features.clone().requires_grad_(True)
    half(x.replace(features)).features[~works].sum().backward()
    assert torch.equal(features.grad, (~works)[:, None].expand(-1, 6).double())  # the identity


def test_empty_scans_and_empty_samples() -> None:
    model = layer()
    for ratio in (0.0, 0.5, 1.0):
        half = skipping(model, ratio, zoo.sites(channels=6))
        assert half(EMPTY).features.shape == (0, 6)
        half(EMPTY).features.sum().backward()
        one = SparseTensor(
            torch.ones(1, 6).double(), torch.tensor([[1, 0, 0, 0]], dtype=torch.int32), batch_size=3
        )
        assert half(one).features.isfinite().all()
    assert important_rows(EMPTY, 0.5).shape == (0,)


def test_plans_of_points() -> None:
    """Layers that change the number of channels are named; JSON, copies and pickles keep the ratios."""
    model, x = zoo.create("Residual"), zoo.sites()
    plan = make_plan(model, [x], granularity=Points(), ratio=0.5)
    assert not plan.steps[0].points and "differ" in plan.steps[0].left["a.0"]
    model = zoo.create("Plain")
    plan = make_plan(model, [x], granularity=Points(), ratio=PerLayer({"body*": 0.75}))
    assert plan.steps[0].points == {"body.0": 0.75}
    again = Plan.from_json(plan.to_json()).apply(model)
    for other in (plan.apply(model), copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        same_bits(other(x).features, again(x).features)
        assert other.body[0].skip_ratio == 0.75 and isinstance(other.body[0], snn.SubMConv3d)
    assert type(model.body[0]) is snn.SubMConv3d
    assert "0.75" in repr(again.body[0])
    assert list(again.state_dict()) == list(model.state_dict())


def test_points_after_channels() -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    channels = make_plan(model, [x], granularity=Channels(round_to=8), ratio=0.5)
    both = channels.then(make_plan(channels.apply(model), [x], granularity=Points(), ratio=0.5))
    smaller = both.apply(model)
    assert smaller.body[0].skip_ratio == 0.5 and smaller.body[0].in_channels == 8
    assert smaller(x).features.isfinite().all()


def test_wrong_layers_and_ratios() -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    with pytest.raises(TypeError, match="Uniform or PerLayer"):
        make_plan(model, [x], granularity=Points(), ratio=Global(0.5))
    with pytest.raises(ValueError, match="no layer"):
        make_plan(model, [x], granularity=Points(), ratio=PerLayer({"nothing": 0.5}))
    plan = make_plan(model, [x], granularity=Points(), ratio=0.5)
    with pytest.raises(ValueError, match=r"body\.0"):
        plan.apply(nn.Sequential(snn.SubMConv3d(4, 4, 3)))


def test_a_network_with_bare_parameters() -> None:
    """Weights that belong to no layer are no reason to fail."""
    model, x = zoo.create("RawMatrix"), zoo.sites()
    plan = make_plan(model, [x], granularity=Points(), ratio=0.5)
    assert not plan.steps[0].points
