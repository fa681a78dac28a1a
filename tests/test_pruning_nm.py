# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Networks with N:M weights: packed with a report, and trained with masks."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from engine import random_tensor
from strategies import close
from torch.nn.utils import parametrize
from weights import random_weight
from zoo import ZOO, create

import sparseconv.nn as spnn
from sparseconv import pruning
from sparseconv.formats import (
    NMConv,
    NMLinear,
    nm_mask,
)

# --- to_nm -----------------------------------------------------------------------------------------------------------


def test_to_nm_of_a_network_that_was_not_pruned_leaves_it_and_says_where() -> None:
    model = create("UNet")
    new, report = pruning.to_nm(model)
    assert all(layer.choice == "dense" and "not 2:4" in layer.reason for layer in report.layers)
    assert report.bits == report.dense_bits and not any(isinstance(m, NMConv) for m in new.modules())
    assert "left: deep.0" in str(report)


@pytest.mark.parametrize("criterion", [pruning.Magnitude(), pruning.OBS()], ids=["magnitude", "sparsegpt"])
@pytest.mark.parametrize("name", ["UNet", "Residual", "InversePair"])
def test_to_nm_prunes_packs_and_measures(name: str, criterion: pruning.Criterion) -> None:
    model, x = create(name), ZOO[name].scan()
    before = copy.deepcopy(model.state_dict())
    new, report = pruning.to_nm(model, [x], criterion=criterion, permute=True, rounds=2)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    packed = {n for n, m in new.named_modules() if isinstance(m, NMConv | NMLinear)}
    assert packed == {layer.name for layer in report.layers if layer.choice != "dense"} and len(packed) > 2
    for layer in report.layers:
        if layer.choice != "dense":
            assert layer.ms["packed"] > 0 and layer.ms["dense"] > 0 and layer.bits < 0.6 * layer.dense_bits
            assert layer.bits == new.get_submodule(layer.name).size_in_bits
    assert any(p.after > p.before for p in report.permuted)
    again = pruning.permute_channels(model, [x])[0]
    plan = pruning.make_plan(again, [x], granularity=pruning.NM(), criterion=criterion)
    close(new(x).features, plan.apply(again)(x).features.detach(), 1e-9)
    fresh, _ = pruning.to_nm(create(name, seed=7), [x], criterion=pruning.Magnitude(), rounds=0)
    fresh.load_state_dict(new.state_dict())
    assert torch.equal(fresh(x).features, new(x).features)


def test_sparsegpt_loses_less_of_the_output_than_magnitude() -> None:
    model, x = create("UNet"), ZOO["UNet"].scan()
    want = model(x).features.detach()
    errors = []
    for criterion in (pruning.OBS(), pruning.Magnitude()):
        got = pruning.to_nm(model, [x], criterion=criterion, rounds=0)[0](x).features
        errors.append(float((got - want).norm() / want.norm()))
    assert errors[0] < 0.8 * errors[1]


def test_output_channels_can_share_a_mask() -> None:
    """Of each run the input channels whose |w|, summed over 16 output channels, are largest: by brute force."""
    model = spnn.Sequential(spnn.SubMConv3d(4, 8, 3), spnn.SubMConv3d(8, 40, 3), spnn.Linear(40, 8))
    x = random_tensor(3, 50, 4, extent=5)
    plan = pruning.make_plan(
        model, [x], granularity=pruning.NM(2, 4, outputs=16), criterion=pruning.Magnitude(p=1)
    )
    weight, mask = model[1].weight.detach(), plan.masks()["1.weight"]
    for tap, run, first in itertools.product(range(27), (0, 4), (0, 16, 32)):
        part = mask[tap, run : run + 4, first : first + 16]
        rows = weight[tap, run : run + 4, first : first + 16].abs().double().sum(1)
        assert bool((part == part[:, :1]).all()) and int(part[:, 0].sum()) == 2
        best = max(rows[list(c)].sum() for c in itertools.combinations(range(4), 2))
        assert float(rows[part[:, 0]].sum()) == pytest.approx(float(best), rel=1e-12)
    new, report = pruning.to_nm(model, [x], criterion=pruning.Magnitude(), outputs=16, rounds=3)
    assert set(report["1"].ms) == {"dense", "packed", "vectors"} and set(report["2"].ms) == {
        "dense",
        "packed",
    }
    for name in ("0", "1"):
        layer, ms = report[name], report[name].ms
        faster = ms["vectors"] < 0.95 * ms["packed"]
        assert layer.choice == ("vectors" if faster else "packed")
        assert new.get_submodule(name).kernel == ("vectors" if faster else "dense")
    alone = pruning.to_nm(model, [x], criterion=pruning.Magnitude(), rounds=2)[1]
    assert "vectors" not in alone["1"].ms  # nothing to leave out
    unmeasured, report = pruning.to_nm(model, [x], criterion=pruning.Magnitude(), outputs=16, rounds=0)
    assert report["1"].choice == "packed" and unmeasured[1].kernel == "dense"
    assert torch.equal(unmeasured(x).features, new(x).features)
    with pytest.raises(ValueError, match="outputs must be"):
        pruning.NM(2, 4, outputs=0)


@pytest.mark.parametrize(("took", "choice"), [((3.0, 2.0, 1.0), "mma_sp"), ((3.0, 1.0, 1.0), "packed")])
def test_sparse_tensor_cores_are_chosen_where_they_were_faster(
    took: tuple[float, ...],
    choice: str,
    on_emulated_gpu: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = spnn.Sequential(spnn.SubMConv3d(32, 16, 3)).bfloat16()
    x = random_tensor(3, 60, 32, extent=6)
    x = x.replace(x.features.bfloat16())
    on_emulated_gpu(1)
    clock = itertools.cycle(took)
    monkeypatch.setattr(pruning.nm, "_forms", lambda layer: ("dense", "packed", "mma_sp"))
    monkeypatch.setattr(pruning.nm, "_milliseconds", lambda call: (call(), next(clock))[1])
    new, report = pruning.to_nm(model, [x], criterion=pruning.Magnitude(), rounds=2)
    assert report["0"].choice == choice and dict(report["0"].ms) == dict(
        zip(("dense", "packed", "mma_sp"), took, strict=True)
    )
    assert new[0].kernel == ("mma_sp" if choice == "mma_sp" else "dense")
    close(new(x).features.double(), new.double()(x.replace(x.features.double())).features, 2e-2)


def test_to_nm_refuses_and_ignores() -> None:
    model, x = create("UNet"), ZOO["UNet"].scan()
    with pytest.raises(ValueError, match="at least one scan"):
        pruning.to_nm(model, criterion=pruning.Magnitude())
    with pytest.raises(ValueError, match="n <= m"):
        pruning.to_nm(model, n=5)
    _, report = pruning.to_nm(model, [x], criterion=pruning.Magnitude(), ignore=["deep"], rounds=0)
    assert report["deep.0"].reason == "ignored" and report["up"].choice == "packed" and not report["up"].ms
    with pytest.raises(KeyError, match="nothing"):
        report["nothing"]


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linear", [False, True])
def test_the_straight_through_gradient_is_the_papers(linear: bool) -> None:
    weight = random_weight((6, 8), 2) if linear else random_weight((3, 8, 5), 2)
    dense = weight.double().requires_grad_()
    masked_weight = pruning.SRSTE(decay=0.3, linear=linear)(dense)
    mask = nm_mask(weight.t()[None])[0].t() if linear else nm_mask(weight)
    assert torch.equal(masked_weight, torch.where(mask, dense, 0))
    cotangent = random_weight(tuple(weight.shape), 9).double()
    (grad,) = torch.autograd.grad(masked_weight, dense, cotangent)
    close(grad, cotangent + 0.3 * torch.where(mask, 0, dense.detach()), 1e-15)
    with pytest.raises(ValueError, match="decay"):
        pruning.SRSTE(decay=-1)


def test_a_network_trains_sparse_and_ends_nm() -> None:
    model, x = create("UNet"), ZOO["UNet"].scan()
    model.train()
    target = random_weight((len(x), 5), 4).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    first, masks = None, []
    with pruning.sparse_training(model, decay=1e-3, ignore=["head"]) as names:
        assert "deep.0" in names and "head" not in names and "stem.0" in names
        for _ in range(15):
            loss = (model(x).features - target).square().mean()
            first = first or float(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            masks.append(model.get_submodule("deep.0").weight.detach() != 0)
    assert float(loss) < first and not torch.equal(masks[0], masks[-1])  # pruned weights came back
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    with (
        pytest.raises(ValueError, match="names no module"),
        pruning.sparse_training(model, ignore=["nothing"]),
    ):
        pass
    new, report = pruning.to_nm(model, ignore=["head"])
    assert {layer.name for layer in report.layers if layer.choice != "dense"} == set(names)
    close(new.eval()(x).features, model.eval()(x).features.detach(), 1e-10)
