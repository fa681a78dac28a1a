# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Optimal brain surgeon and SparseGPT against inverses, least squares and eliminations written with numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn as nn
from small_nets import chain, context, gathered, scan
from sparseconv.pruning import NM, OBS, Channels, FineGrained, Kernels, Offsets, analyze, make_plan
from sparseconv.pruning.obs import inverse_root, optimal, sweep

import sparseconv.nn as spnn


def linear() -> tuple[nn.Module, torch.Tensor, np.ndarray]:
    x = torch.randn(80, 8, dtype=torch.float64) @ torch.randn(8, 8, dtype=torch.float64)
    return nn.Sequential(nn.Linear(8, 4)).double(), x, x.numpy()


def submanifold() -> tuple[nn.Module, object, np.ndarray]:
    x = scan(1, 250, 2)
    return spnn.Sequential(spnn.SubMConv3d(2, 3, 3)).double(), x, gathered(x, x.coords, 3)


def strided() -> tuple[nn.Module, object, np.ndarray]:
    x = scan(2, 300, 4)
    model = spnn.Sequential(spnn.Conv3d(4, 3, 2, stride=2, bias=False)).double()
    return model, x, gathered(x, model(x).coords, 2, 2, 0)


KINDS = [linear, submanifold, strided]


def as_columns(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    """A weight of the model's only layer as [S, C_out]."""
    return (x.t() if x.ndim == 2 else x.flatten(0, 1)).detach().numpy()


def plan_of(model: nn.Module, x: object, **options):
    analysis = analyze(model, [x])
    ignore = options.pop("ignore", ())
    return make_plan(model, [x], analysis=analysis, ignore=ignore, **options)


def hessian_of(x: np.ndarray) -> np.ndarray:
    return 2 / len(x) * x.T @ x


def random_case(size: int = 16, outputs: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(60, size, dtype=torch.float64) @ torch.randn(size, size, dtype=torch.float64)
    return 2 / 60 * x.t() @ x, torch.randn(size, outputs, dtype=torch.float64)


def rise(hessian: torch.Tensor, change: torch.Tensor) -> float:
    return float((change * (hessian @ change)).sum()) / 2


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", KINDS)
def test_the_score_is_the_error_after_the_best_repair(make) -> None:
    """Identity 1: delete one weight, fit the others by least squares, measure the error of the layer's outputs."""
    model, x, rows = make()
    groups, _ = FineGrained().units(model, analyze(model, [x]))
    score = OBS(damping=0).scores(context(model, [x]), groups)[0]
    weight = as_columns(model, model[0].weight)
    score = as_columns(model, score[groups[0].members[0].unit].expand(model[0].weight.shape))
    for q, p in itertools.product(range(0, len(weight), 5), range(weight.shape[1])):
        others = np.arange(len(weight)) != q
        fitted = np.linalg.lstsq(rows[:, others], rows @ weight[:, p], rcond=None)[0]
        error = np.mean((rows @ weight[:, p] - rows[:, others] @ fitted) ** 2)
        assert abs(score[q, p] - error) < 1e-10 * max(1, error), (q, p)


def test_damping_is_a_share_of_the_mean_of_the_diagonal() -> None:
    model, x, rows = submanifold()
    groups, _ = FineGrained().units(model, analyze(model, [x]))
    score = OBS(damping=0.1).scores(context(model, [x]), groups)[0]
    hessian = hessian_of(rows)
    inverse = np.linalg.inv(hessian + 0.1 * np.mean(np.diag(hessian)) * np.eye(len(hessian)))
    expected = as_columns(model, model[0].weight) ** 2 / (2 * np.diag(inverse)[:, None])
    np.testing.assert_allclose(score.view(-1, 3).numpy(), expected, rtol=1e-10)


def test_scans_are_pooled_by_rows_and_rows_are_sampled_evenly() -> None:
    model, x, rows = submanifold()
    other = scan(5, 100, 2)
    groups, _ = FineGrained().units(model, analyze(model, [x]))
    score = OBS(damping=0.1, rows=50).scores(context(model, [x, other]), groups)[0]
    chosen = [rows[[i * 250 // 50 for i in range(50)]], gathered(other, other.coords, 3)[::2]]
    hessian = hessian_of(np.concatenate(chosen))
    inverse = np.linalg.inv(hessian + 0.1 * np.mean(np.diag(hessian)) * np.eye(len(hessian)))
    expected = as_columns(model, model[0].weight) ** 2 / (2 * np.diag(inverse)[:, None])
    np.testing.assert_allclose(score.view(-1, 3).numpy(), expected, rtol=1e-9)


def test_rows_are_gathered_in_chunks(monkeypatch) -> None:
    model, x, _ = submanifold()
    dense, image = nn.Sequential(nn.Conv2d(4, 6, 3)).double(), torch.randn(2, 4, 9, 8, dtype=torch.float64)
    for net, sample in ((model, x), (dense, image)):
        groups, _ = FineGrained().units(net, analyze(net, [sample]))
        whole = OBS().scores(context(net, [sample]), groups)[0]
        monkeypatch.setattr("sparseconv.pruning.gathered._CHUNK", 8 * 54 * 7)
        parts = OBS().scores(context(net, [sample]), groups)[0]
        monkeypatch.undo()
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=0)


def test_large_layers_have_a_hessian_for_each_tap() -> None:
    model, x, rows = submanifold()
    groups, _ = FineGrained().units(model, analyze(model, [x]))
    score = OBS(damping=0, largest=53).scores(context(model, [x]), groups)[0].view(27, 2, 3)
    weight = model[0].weight.detach().numpy()
    for tap in range(27):
        inverse = np.linalg.inv(hessian_of(rows[:, 2 * tap : 2 * tap + 2]))
        expected = weight[tap] ** 2 / (2 * np.diag(inverse)[:, None])
        np.testing.assert_allclose(score[tap].numpy(), expected, rtol=1e-10)
    whole = OBS(damping=0, largest=54).scores(context(model, [x]), groups)[0].view(27, 2, 3)
    assert (whole <= score * (1 + 1e-9)).all() and (whole < 0.99 * score).any(), (
        "more inputs to repair with, less error"
    )


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_of_channels_are_layers_of_their_own(groups: int) -> None:
    x = scan(3, 250, 4)
    model = spnn.Sequential(spnn.SubMConv3d(4, 8, 3, groups=groups)).double()
    units, _ = FineGrained().units(model, analyze(model, [x]))
    score = OBS(damping=0.01).scores(context(model, [x]), units)[0].view(27, 4 // groups, 8)
    for g in range(groups):
        reads, makes = (
            slice(g * 4 // groups, (g + 1) * 4 // groups),
            slice(g * 8 // groups, (g + 1) * 8 // groups),
        )
        alone = spnn.Sequential(spnn.SubMConv3d(4 // groups, 8 // groups, 3)).double()
        alone[0].weight.data.copy_(model[0].weight[:, :, makes])
        part = x.replace(x.features[:, reads].contiguous())
        units, _ = FineGrained().units(alone, analyze(alone, [part]))
        expected = OBS(damping=0.01).scores(context(alone, [part]), units)[0]
        torch.testing.assert_close(score[:, :, makes].flatten(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    "options", [{"stride": 2, "padding": 1}, {"dilation": 2}, {"padding": 2, "groups": 2}]
)
def test_dense_convolutions_are_unfolded(options) -> None:
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, **options)).double()
    units, _ = FineGrained().units(model, analyze(model, [x]))
    score = OBS(damping=0.01).scores(context(model, [x]), units)[0]
    unit = units[0].members[0].unit
    score = score[unit].numpy()  # [C_out, C_in / g, 3, 3]
    window = {k: v for k, v in options.items() if k != "groups"}
    rows = (
        nn.functional.unfold(x, 3, **window).transpose(1, 2).flatten(0, 1).numpy()
    )  # channel first, then the taps
    groups = options.get("groups", 1)
    size, made = rows.shape[1] // groups, 6 // groups
    for g in range(groups):
        hessian = hessian_of(rows[:, g * size : (g + 1) * size])
        inverse = np.linalg.inv(hessian + 0.01 * np.mean(np.diag(hessian)) * np.eye(size))
        weight = model[0].weight[g * made : (g + 1) * made].detach().flatten(1).numpy()
        expected = weight**2 / (2 * np.diag(inverse))
        np.testing.assert_allclose(score[g * made : (g + 1) * made].reshape(made, -1), expected, rtol=1e-9)


def test_inputs_that_are_always_zero_cost_nothing() -> None:
    model, x, _ = submanifold()
    x = x.replace(x.features * torch.tensor([1.0, 0.0]))
    groups, _ = FineGrained().units(model, analyze(model, [x]))
    score = OBS(damping=0.01).scores(context(model, [x]), groups)[0].view(27, 2, 3)
    assert (score[:, 1] == 0).all() and (score[:, 0] > 0).all()


# --- new weights -----------------------------------------------------------------------------------------------------


def test_the_repair_of_a_set_is_that_of_the_inverse_hessian() -> None:
    """Identity 1 for a set M: dw = -H^-1[:, M] ([H^-1]_MM)^-1 w_M, and the error is w_M^T ([H^-1]_MM)^-1 w_M / 2."""
    hessian, weight = random_case()
    goes = torch.rand(weight.shape) < 0.4
    goes[:, 0], goes[:, 1] = True, False
    new = optimal(hessian, weight, goes)
    inverse = np.linalg.inv(hessian.numpy())
    for p in range(weight.shape[1]):
        m = goes[:, p].numpy()
        w = weight[:, p].numpy()
        inner = np.linalg.inv(inverse[np.ix_(m, m)]) if m.any() else np.zeros((0, 0))
        np.testing.assert_allclose(new[:, p].numpy(), w - inverse[:, m] @ inner @ w[m], atol=1e-9)
        error = rise(hessian, (new - weight)[:, p : p + 1])
        assert abs(error - w[m] @ inner @ w[m] / 2) < 1e-9 * max(1, error)
    assert (new[goes] == 0).all() and torch.equal(new[:, 1], weight[:, 1])


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("exact", [1024, 0])
def test_a_plan_repairs_the_outputs(make, exact: int) -> None:
    """Identity 2: the update is the least-squares fit on its mask, better than the sweep, which is better than zeros."""
    model, x, rows = make()
    plan = plan_of(model, x, granularity=FineGrained(), criterion=OBS(damping=0, exact=exact))
    mask = as_columns(model, plan.steps[0].masks["0.weight"])
    assert abs(mask.mean() - 0.5) < 0.02
    old, new = as_columns(model, model[0].weight), as_columns(model, plan.apply(model)[0].weight)
    assert (new[~mask] == 0).all() and (new[mask] != 0).all()
    best = np.zeros_like(old)
    for p in range(old.shape[1]):
        kept = mask[:, p]
        best[kept, p] = np.linalg.lstsq(rows[:, kept], rows @ old[:, p], rcond=None)[0]
    errors = [float(np.square(rows @ (w - old)).sum()) for w in (best, new, old * mask)]
    if exact:
        np.testing.assert_allclose(new, best, atol=1e-9)
    assert errors[0] <= errors[1] * (1 + 1e-9) and errors[1] < errors[2]
    unrepaired = as_columns(model, plan.apply(model, values=False)[0].weight)
    assert np.array_equal(unrepaired, old * mask)


def test_the_sweep_is_an_elimination_in_turn_and_its_error_is_exact() -> None:
    """Identity 3, against inverses of what is left; the optimum for the same mask is lower."""
    hessian, weight = random_case()
    goes = torch.rand(weight.shape) < 0.5
    new, _, error = sweep(inverse_root(hessian), weight, goes)
    expected = weight.numpy().copy()
    for j in range(len(weight)):
        inverse = np.linalg.inv(hessian.numpy()[j:, j:])  # inputs before j are settled
        for p in np.flatnonzero(goes[j].numpy()):
            expected[j:, p] -= expected[j, p] / inverse[0, 0] * inverse[:, 0]
    np.testing.assert_allclose(new.numpy(), expected, atol=1e-9)
    assert (new[goes] == 0).all()
    assert abs(error - rise(hessian, new - weight)) < 1e-9 * error
    best = rise(hessian, optimal(hessian, weight, goes) - weight)
    assert best < error < rise(hessian, -weight * goes)


def test_the_sweep_chooses_n_of_m_when_their_turn_comes() -> None:
    hessian, weight = random_case(12, 4)
    new, saliency, _ = sweep(inverse_root(hessian), weight, (2, 4))
    expected = weight.numpy().copy()
    for start in range(0, 12, 4):
        worth = np.empty((4, 4))
        for i in range(4):
            inverse = np.linalg.inv(hessian.numpy()[start + i :, start + i :])
            worth[i] = expected[start + i] ** 2 / (2 * inverse[0, 0])
        np.testing.assert_allclose(saliency[start : start + 4].numpy(), worth, rtol=1e-8)
        for i, p in itertools.product(range(4), range(4)):
            if i in np.argsort(worth[:, p])[:2]:
                j = start + i
                inverse = np.linalg.inv(hessian.numpy()[j:, j:])
                expected[j:, p] -= expected[j, p] / inverse[0, 0] * inverse[:, 0]
    np.testing.assert_allclose(new.numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("exact", [1024, 0])
def test_n_of_m_plans_hold_the_pattern(exact: int) -> None:
    x = scan(2, 300, 4)
    model = chain()
    plan = plan_of(model, x, granularity=NM(2, 4), criterion=OBS(exact=exact), ignore=["3"])
    assert sorted(plan.steps[0].updates) == ["0.weight", "6.weight", "9.weight"]
    weight = plan.apply(model)[6].weight
    assert ((weight.view(27, 2, 4, 8) != 0).sum(2) == 2).all()
    if not exact:  # the sweep's own choice and weights
        found = gathered_middle(model, x)
        hessian = torch.from_numpy(hessian_of(found))
        live = hessian.diagonal() > 0
        assert 0 < int(live.sum()) < len(live), "one of the channels should be dead"
        hessian += torch.diag(torch.where(live, 0.01 * hessian.diagonal()[live].mean(), 1))
        worth = model[6].weight.detach().flatten(0, 1) * live[:, None]
        expected = sweep(inverse_root(hessian), worth, (2, 4))[0]
        weight = weight * live.view(27, 8, 1)
        torch.testing.assert_close(weight.detach().flatten(0, 1), expected, rtol=1e-6, atol=1e-8)


def gathered_middle(model: nn.Module, x: object) -> np.ndarray:
    with torch.no_grad():
        for module in model[:6]:
            x = module(x)
    return gathered(x, x.coords, 3)


def test_every_layer_is_updated_alike_whatever_the_memory() -> None:
    model, x = chain(), scan(2, 300, 4)
    plans = [
        plan_of(model, x, granularity=FineGrained(), criterion=OBS(memory=memory))
        for memory in (2**30, 1, 2**30)
    ]
    assert len(plans[0].steps[0].updates) == 4
    for plan in plans[1:]:
        for name, value in plans[0].steps[0].updates.items():
            assert torch.equal(value, plan.steps[0].updates[name]), name
    assert not any(p.grad is not None for p in model.parameters())


def test_single_precision_networks_keep_their_type() -> None:
    model, x = chain().float(), scan(2, 300, 4)
    plan = plan_of(model, x.replace(x.features.float()), granularity=FineGrained(), criterion=OBS())
    assert {v.dtype for v in plan.steps[0].updates.values()} == {torch.float32}


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", [Channels(), Offsets(), Kernels()])
def test_units_of_several_weights_are_refused(granularity) -> None:
    with pytest.raises(
        ValueError, match=r"OBS removes single weights: use granularity=FineGrained\(\) or NM\(\)"
    ):
        make_plan(chain(), [scan(1)], granularity=granularity, criterion=OBS())


def test_too_few_rows_want_damping() -> None:
    model, x = spnn.Sequential(spnn.SubMConv3d(4, 3, 3)).double(), scan(1, 20, 4)
    with pytest.raises(
        ValueError, match="0: the inputs do not determine all of its weights: raise damping=0"
    ):
        make_plan(model, [x], granularity=FineGrained(), criterion=OBS(damping=0))
    make_plan(model, [x], granularity=FineGrained(), criterion=OBS(damping=0.01))


def test_dense_transposed_convolutions_are_refused() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 4, 2, stride=2))
    with pytest.raises(ValueError, match="0: inputs of a dense transposed convolution cannot be gathered"):
        make_plan(model, [torch.randn(1, 4, 5, 5)], granularity=FineGrained(), criterion=OBS())


@pytest.mark.parametrize("options", [{"damping": -1}, {"damping": float("nan")}, {"rows": 0}, {"exact": -1}])
def test_bad_options(options) -> None:
    with pytest.raises(ValueError, match="OBS: "):
        OBS(**options)
