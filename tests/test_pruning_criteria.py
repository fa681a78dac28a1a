# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Criteria of gradients and activations and penalties, against the loss itself, loops over coordinates and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn as nn
from small_nets import Residual, chain, context, gathered, scan, without
from sparseconv.pruning import (
    NM,
    OBD,
    OBS,
    ActivationNorm,
    APoZ,
    Channels,
    FineGrained,
    Kernels,
    Lasso,
    Magnitude,
    NormScale,
    Offsets,
    Random,
    Taylor,
    ThiNet,
    Vectors,
    Wanda,
    analyze,
    make_plan,
)

import sparseconv
import sparseconv.nn as spnn
from sparseconv import pruning

GRANULARITIES = [Channels(round_to=2), Offsets(), FineGrained(), NM(2, 4), Kernels(), Vectors(4)]


def features_of(out: object) -> torch.Tensor:
    return out if isinstance(out, torch.Tensor) else out.features


def squared(model: nn.Module, x: object) -> torch.Tensor:
    """Quadratic in the weights of a linear network."""
    out = features_of(model(x))
    return (out - torch.linspace(-1, 1, out.shape[1], dtype=out.dtype)).square().sum()


def linear_loss(model: nn.Module, x: object) -> torch.Tensor:
    out = features_of(model(x))
    return (out * torch.arange(out.numel(), dtype=out.dtype).view(out.shape).sin()).sum()


def changes(model: nn.Module, scans, units, loss) -> np.ndarray:
    """The loss without each unit less the loss with it: [scans, count]."""
    with torch.no_grad():
        full = [float(loss(model, x)) for x in scans]
        gone = [[float(loss(without(model, units, u), x)) for u in range(units.count)] for x in scans]
    return np.array(gone) - np.array(full)[:, None]


def one_layer(kind: str) -> tuple[nn.Module, list]:
    if kind == "linear":
        return nn.Sequential(nn.Linear(5, 3)).double(), [
            torch.randn(9, 5).double(),
            torch.randn(7, 5).double(),
        ]
    scans = [scan(1, 30, 2, 4), scan(2, 20, 2, 4)]
    make = {"submanifold": spnn.SubMConv3d(2, 3, 3), "strided": spnn.Conv3d(2, 4, 2, stride=2)}[kind]
    return spnn.Sequential(make).double(), scans


# --- all criteria and granularities ----------------------------------------------------------------------------------

ALL, CHANNELS, SINGLE = GRANULARITIES, GRANULARITIES[:1], GRANULARITIES[2:4]
SUPPORT = [
    (Magnitude(), ALL),
    (Random(), ALL),
    (Taylor(), ALL),
    (Taylor(order=2, curvature="fisher"), ALL),
    (Taylor(order=2), GRANULARITIES[:2]),
    (OBD(), ALL),
    (NormScale(), CHANNELS),
    (APoZ(), CHANNELS),
    (ActivationNorm(), CHANNELS),
    (Wanda(), ALL),
    (Wanda(per_row=True), GRANULARITIES[2:5]),
    (OBS(), SINGLE),
    (Lasso(), CHANNELS),
    (ThiNet(), CHANNELS),
]
CASES = [(c, g, g in good) for c, good in SUPPORT for g in GRANULARITIES if c != Taylor(order=2) or g in good]


@pytest.mark.parametrize(("criterion", "granularity", "works"), CASES, ids=lambda v: str(v).split("(")[0])
def test_every_criterion_makes_plans_or_says_why_not(criterion, granularity, works: bool) -> None:
    model, scans = chain(out=4), [scan(1, 120, 4), scan(2, 120, 4)]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    frozen = model[3].weight.requires_grad_(False)
    options = {"granularity": granularity, "criterion": criterion, "loss": squared}
    options["analysis"] = analyze(model, scans)
    options["ignore"] = ["3"] if isinstance(granularity, NM) else []  # 6 input channels
    if not works:
        with pytest.raises(ValueError, match=f"{type(criterion).__name__}.*(granularity=|takes units of)"):
            make_plan(model, scans, **options)
        return
    first, second = make_plan(model, scans, **options), make_plan(model, scans, **options)
    assert first.to_json() == second.to_json(), "plans must be the same every time"
    assert sum(e.removed for e in first.steps[0].entries) > 0
    first.apply(model)(scans[0])
    # The model is left as it was found.
    assert model.training and all(m.training for m in model)
    assert not frozen.requires_grad and model[0].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_criteria_with_gradients_want_a_loss() -> None:
    model, x = one_layer("linear")
    for criterion in (Taylor(), Taylor(order=2), OBD()):
        options = {"granularity": FineGrained(), "criterion": criterion}
        with pytest.raises(ValueError, match="pass loss=, a function"):
            make_plan(model, x, **options)
        for loss, message in (
            (lambda m, x: m(x), "scalar tensor, got torch.Size"),
            (lambda m, x: m(x).sum() * float("nan"), "loss must be finite, got nan"),
            (lambda m, x: m(x).sum().detach(), "got a constant"),
        ):
            with pytest.raises(ValueError, match=message):
                make_plan(model, x, loss=loss, **options)


def test_bad_options() -> None:
    for bad, message in (
        (lambda: Taylor(order=3), "order must be 1 or 2, got 3"),
        (lambda: Taylor(order=2, curvature="exact"), 'must be "hessian" or "fisher"'),
        (lambda: ActivationNorm(p=0), "p must be positive, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            bad()
    model, x = one_layer("linear")
    with pytest.raises(ValueError, match="at most 14 units, got 15; use curvature="):
        make_plan(model, x, granularity=FineGrained(), criterion=Taylor(order=2, most=14), loss=squared)


# --- Taylor, OBD -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "submanifold", "strided"])
@pytest.mark.parametrize("granularity", [FineGrained(), Kernels(), Vectors(2), Offsets()])
def test_taylor_is_the_true_change_of_the_loss(kind: str, granularity) -> None:
    """Identity 16: first order where the loss is linear in the weights, second where it is quadratic."""
    model, scans = one_layer(kind)
    found = context(model, scans)
    groups, _ = granularity.units(model, found.analysis)
    for units in groups:
        for order, loss in ((1, linear_loss), (2, squared), (2, linear_loss)):
            expected = np.square(changes(model, scans, units, loss)).mean(0)
            score = Taylor(order).scores(context(model, scans, loss), [units])[0].numpy()
            np.testing.assert_allclose(score, expected, rtol=1e-7, atol=1e-9 * expected.max())
        first = Taylor(1).scores(context(model, scans, squared), [units])[0].numpy()
        true = np.square(changes(model, scans, units, squared)).mean(0)
        assert not np.allclose(first, true, rtol=0.01), "a quadratic loss must need the second order"


def test_the_fisher_curvature_is_the_mean_square_of_the_gradients() -> None:
    model, scans = one_layer("linear")
    weight = model[0].weight.detach().numpy()
    grads = []
    for x in scans:
        y = x.numpy() @ weight.T + model[0].bias.detach().numpy() - np.linspace(-1, 1, 3)
        grads.append(2 * y.T @ x.numpy())
    curvature = np.square(grads).mean(0) * weight**2
    found = context(model, scans, squared)
    units = Kernels().units(model, found.analysis)[0][0]
    unit = units.members[0].unit.numpy()
    score = Taylor(2, "fisher").scores(found, [units])[0].numpy()[unit]
    np.testing.assert_allclose(
        score, np.mean([(g * weight - curvature / 2) ** 2 for g in grads], axis=0), rtol=1e-10
    )
    np.testing.assert_allclose(OBD().scores(found, [units])[0].numpy()[unit], curvature / 2, rtol=1e-10)


@pytest.mark.parametrize("granularity", [FineGrained(), Offsets(), Channels()])
def test_obd_is_a_mean_over_scans_in_any_order(granularity) -> None:
    """Identity 17: two identical scans equal one, three are the mean of each alone, a batch is one sample."""
    model, scans = chain(), [scan(s, 60, 4) for s in (1, 2, 3)]
    analysis = analyze(model, scans)
    groups, _ = granularity.units(model, analysis)

    def scores(*chosen: sparseconv.SparseTensor) -> torch.Tensor:
        return torch.cat(OBD().scores(pruning.Context(model, chosen, analysis, squared), groups))

    alone = [scores(x) for x in scans]
    torch.testing.assert_close(scores(scans[0], scans[0]), alone[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(scores(*scans), sum(alone) / 3, rtol=1e-12, atol=0)
    torch.testing.assert_close(scores(*scans), scores(*scans[::-1]), rtol=1e-12, atol=0)
    assert not torch.allclose(scores(*scans), alone[2], rtol=0.01), "the last scan alone must not decide"
    if isinstance(granularity, FineGrained):
        batch = scores(sparseconv.collate(scans[:2]))
        assert not torch.allclose(batch, scores(*scans[:2]), rtol=0.01)


def test_elements_that_a_unit_owns_twice_count_once() -> None:
    """The residual's convolution reads and makes the same channels, so [:, c, c] is in unit c by two axes."""
    model, x = Residual(), scan(1, 80, 4)
    found = context(model, [x], squared)
    (units,) = found.analysis.channels
    assert [(m.tensor, m.axis) for m in units.members].count(("conv.weight", 1)) == 1 and len(
        units.members
    ) == 4
    weights = {name: p.detach() for name, p in model.named_parameters()}
    norms = []
    for c in range(5):
        around = weights["conv.weight"].clone()
        around[:, [i for i in range(5) if i != c]] = torch.where(
            torch.arange(5) == c, around[:, [i for i in range(5) if i != c]], 0
        )
        parts = [weights["stem.weight"][:, :, c], around, weights["head.weight"][:, c]]
        norms.append(sum(float(p.square().sum()) for p in parts))
    np.testing.assert_allclose(Magnitude().scores(found, [units])[0].numpy(), np.sqrt(norms), rtol=1e-12)
    # The loss is a polynomial of degree 6 in the share that goes, since three layers follow each other.
    shares = np.linspace(-0.3, 0.3, 7)
    with torch.no_grad():
        losses = [[float(squared(without(model, units, c, s), x)) for c in range(5)] for s in shares]
    _, slope, bend, *_ = np.polynomial.polynomial.polyfit(shares, losses, 6)
    np.testing.assert_allclose(Taylor().scores(found, [units])[0].numpy(), slope**2, rtol=1e-7)
    np.testing.assert_allclose(Taylor(2).scores(found, [units])[0].numpy(), (slope + bend) ** 2, rtol=1e-7)


# --- norms and penalties ---------------------------------------------------------------------------------------------


def test_channels_whose_norm_is_zero_go_first_and_are_not_missed() -> None:
    """Identity 18: gamma = beta = 0, and the output stays as it was."""
    model, x = chain(), scan(1, 150, 4)
    dead = {1: [0, 3, 4], 4: [1, 2, 5, 7], 7: [0, 1, 2, 3]}
    for layer, channels in dead.items():
        model[layer].weight.data[channels] = 0
        model[layer].bias.data[channels] = 0
        model[layer].weight.data[channels[0] + 1] *= -1
    found = context(model, [x])
    for units, score in zip(
        found.analysis.channels, NormScale().scores(found, found.analysis.channels), strict=True
    ):
        layer = next(int(m.tensor.split(".")[0]) for m in units.members if "running" in m.tensor)
        assert torch.equal(score, model[layer].weight.detach().abs())
    plan = make_plan(model, [x], granularity=Channels(round_to=1), criterion=NormScale(), ratio=0.5)
    smaller = plan.apply(model)
    assert smaller[3].weight.shape == (8, 3, 4)
    torch.testing.assert_close(smaller(x).features, model(x).features, rtol=1e-12, atol=1e-12)


def test_groups_without_a_norm_are_named() -> None:
    model = spnn.Sequential(spnn.SubMConv3d(4, 6, 3), spnn.ReLU(), spnn.Linear(6, 2)).double()
    with pytest.raises(ValueError, match="0 has no norm: leave it out by ignore=, naming one of 0, 2"):
        make_plan(model, [scan(1)], criterion=NormScale())
    with pytest.raises(ValueError, match=r"0 has no norm: use granularity=Channels\(\)"):
        make_plan(model, [scan(1)], granularity=Offsets(), criterion=NormScale())


def test_slimming_adds_exactly_the_sign_to_the_gradient_of_gamma() -> None:
    """Identity 18, by what a training step sees."""
    model, x = chain(), scan(1, 150, 4)
    model[4].weight.data[:2] = torch.tensor([0.0, -0.5])
    parameters = dict(model.named_parameters())
    plain = torch.autograd.grad(squared(model, x), list(parameters.values()))
    loss = squared(model, x) + pruning.slimming_penalty(model, 0.25)
    slim = torch.autograd.grad(loss, list(parameters.values()))
    for (name, p), a, b in zip(parameters.items(), plain, slim, strict=True):
        norm = name in ("1.weight", "4.weight", "7.weight")
        assert torch.equal(b, a + 0.25 * torch.sign(p.detach()) if norm else a), name
    total = sum(float(np.abs(model[i].weight.detach().numpy()).sum()) for i in (1, 4, 7))
    assert abs(float(pruning.slimming_penalty(model, 0.25).detach()) - 0.25 * total) < 1e-12
    with pytest.raises(ValueError, match="no norm with a scale"):
        pruning.slimming_penalty(nn.Linear(2, 2))


def test_l1_and_l2_penalties_touch_weights_alone() -> None:
    model = chain()
    parameters = dict(model.named_parameters())
    for penalty, value, slope in (
        (pruning.l1_penalty, lambda w: np.abs(w).sum(), np.sign),
        (pruning.l2_penalty, lambda w: np.square(w).sum() / 2, lambda w: w),
    ):
        loss = penalty(model, 0.5)
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        expected = 0.0
        for (name, p), grad in zip(parameters.items(), grads, strict=True):
            if name in ("0.weight", "3.weight", "6.weight", "9.weight"):
                w = p.detach().numpy()
                expected += 0.5 * float(value(w))
                np.testing.assert_allclose(grad.numpy(), 0.5 * slope(w), rtol=1e-12)
            else:
                assert grad is None, name
        assert abs(float(loss.detach()) - expected) < 1e-9
        with pytest.raises(ValueError, match=f"{penalty.__name__}: the model has no weight"):
            penalty(nn.BatchNorm1d(3))


@pytest.mark.parametrize("granularity", [Channels(), Offsets(), Vectors(4)])
def test_the_group_penalty_is_the_sum_of_norms(granularity) -> None:
    for model in (Residual(), chain()):
        analysis = analyze(model, [scan(1, 80, 4)])
        groups, _ = granularity.units(model, analysis)
        loss = pruning.group_penalty(model, groups, 0.1)
        found = pruning.Context(model, [], analysis)
        expected = 0.1 * sum(float(s.sum()) for s in Magnitude(2).scores(found, groups))
        assert abs(float(loss.detach()) - expected) < 1e-10
    loss.backward()  # against finite differences of what magnitudes say
    weight, step = model[6].weight, 1e-4
    direction = torch.randn(weight.shape, dtype=torch.float64)
    ends = []
    with torch.no_grad():
        for sign in (1, -1):
            weight += sign * step * direction
            ends.append(0.1 * sum(float(s.sum()) for s in Magnitude(2).scores(found, groups)))
            weight -= sign * step * direction
    slope = (ends[0] - ends[1]) / (2 * step)
    assert abs(float((weight.grad * direction).sum()) - slope) < 1e-5 * abs(slope)


def test_the_group_penalty_of_a_unit_at_zero_has_no_gradient_and_no_nan() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    groups = analyze(model, [torch.randn(5, 4).double()]).channels
    for p in (model[0].weight.data[1], model[0].bias.data[1:2], model[2].weight.data[:, 1]):
        p.zero_()
    pruning.group_penalty(model, groups, 1.0).backward()
    assert (model[0].weight.grad[1] == 0).all() and (model[2].weight.grad[:, 1] == 0).all()
    assert (model[0].weight.grad[0] != 0).all() and torch.isfinite(model[2].weight.grad).all()
    with pytest.raises(ValueError, match="at least one group"):
        pruning.group_penalty(model, [])


# --- activations -----------------------------------------------------------------------------------------------------


def passing(channels: int, head: nn.Module) -> nn.Module:
    """A first layer that hands its input on, a ReLU, and a head: what the head reads is known."""
    net = spnn.Sequential(spnn.Linear(channels, channels), spnn.ReLU(), head).double()
    net[0].weight.data = torch.eye(channels, dtype=torch.float64)
    net[0].bias.data.zero_()
    return net


@pytest.mark.parametrize(
    "head", [spnn.Linear(4, 2), spnn.SubMConv3d(4, 2, 3), spnn.Conv3d(4, 2, 2, stride=2)]
)
def test_zeros_of_hand_made_activations_are_counted_over_voxels(head) -> None:
    """Identity 31: shares 1, 3/5, 0 and 1/5 of zeros over the five voxels of two scans."""
    rows = [[-1, 0, 1, 2], [0, 3, 1, -1], [-2, 0, 2, 2], [-1, -1, 3, 1], [0, 5, 1, 1]]
    coords = torch.tensor([[0, i, 5 - i, 2 * i] for i in range(5)], dtype=torch.int32)
    features = torch.tensor(rows, dtype=torch.float64)
    scans = [
        sparseconv.SparseTensor(features[:2], coords[:2]),
        sparseconv.SparseTensor(features[2:], coords[2:]),
    ]
    found = context(passing(4, head), scans)
    score = APoZ().scores(found, found.analysis.channels)[0]
    np.testing.assert_allclose(score.numpy(), [0, 2 / 5, 1, 4 / 5], rtol=1e-14)
    mean = ActivationNorm().scores(found, found.analysis.channels)[0]
    np.testing.assert_allclose(mean.numpy(), [0, 8 / 5, 8 / 5, 6 / 5], rtol=1e-14)
    root = ActivationNorm(p=2).scores(found, found.analysis.channels)[0]
    np.testing.assert_allclose(root.numpy(), np.sqrt([0, 34 / 5, 16 / 5, 10 / 5]), rtol=1e-14)


def test_channels_that_are_always_zero_are_not_missed() -> None:
    model, x = chain(), scan(1, 150, 4)
    model[1].bias.data[[1, 4]] = -100
    plan = make_plan(
        model, [x], granularity=Channels(round_to=1), criterion=APoZ(), ratio=pruning.PerLayer({"0": 2 / 6})
    )
    smaller = plan.apply(model)
    assert smaller[0].weight.shape == (27, 4, 4)
    assert (~plan.steps[0].cuts["1.weight"][0]).nonzero()[:, 0].tolist() == [1, 4]
    torch.testing.assert_close(smaller(x).features, model(x).features, rtol=1e-12, atol=1e-12)


def test_activations_of_dense_grouped_and_depthwise_readers() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    first = nn.Conv2d(6, 6, 1).double()
    shown = torch.relu(first(x)).detach().movedim(1, -1).reshape(-1, 6).numpy()
    for head, fold in (
        (nn.Conv2d(6, 4, 3, padding=1), lambda v: v),
        (nn.Conv2d(6, 4, 3, groups=2), lambda v: (v[:3] + v[3:]) / 2),  # channels i and i + 3 go together
        (nn.Sequential(nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 2, 1)), None),
    ):
        model = nn.Sequential(first, nn.ReLU(), head).double()
        found = context(model, [x])
        units = found.analysis.channels[0]
        score = ActivationNorm().scores(found, [units])[0].numpy()
        means = np.abs(shown).mean(0)
        if fold is None:  # what the depthwise layer reads and what the last one reads, pooled
            later = head[0](torch.relu(first(x))).detach().movedim(1, -1).reshape(-1, 12).numpy()
            total = np.abs(shown).sum(0) + np.abs(later).sum(0).reshape(6, 2).sum(1)
            unit = next(m.unit for m in units.members if m.tensor == "0.weight")
            assert unit.tolist() == list(range(6))
            means = total / (len(shown) + 2 * len(later))
            np.testing.assert_allclose(score, means, rtol=1e-10)
        else:
            np.testing.assert_allclose(score, fold(means), rtol=1e-10)


def test_an_empty_scan_scores_nothing() -> None:
    model, x = chain(), scan(1, 150, 4)
    empty = sparseconv.SparseTensor(x.features[:0], x.coords[:0], batch_size=1)
    analysis = analyze(model, [x])
    for criterion in (APoZ(), ActivationNorm(), Wanda()):
        one, two = (
            criterion.scores(pruning.Context(model, scans, analysis), analysis.channels)
            for scans in ([x], [empty, x, empty])
        )
        none = criterion.scores(pruning.Context(model, [empty], analysis), analysis.channels)
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        assert all((s == 0).all() for s in none)


# --- Wanda -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (2, 2)])
def test_wanda_takes_the_norm_of_each_tap_and_input_channel(kernel: int, stride: int) -> None:
    make = spnn.SubMConv3d if stride == 1 else spnn.Conv3d
    layer = make(4, 6, kernel, **({} if stride == 1 else {"stride": 2})).double()
    model, scans = spnn.Sequential(layer), [scan(1, 120, 4), scan(2, 80, 4)]
    rows = [gathered(x, model(x).coords, kernel, stride, None if stride == 1 else 0) for x in scans]
    norm = np.linalg.norm(np.concatenate(rows), axis=0).reshape(-1, 4, 1)
    expected = np.abs(layer.weight.detach().numpy()) * norm
    found = context(model, scans)
    for granularity, sums in (
        (FineGrained(), lambda v: v.reshape(-1)),
        (Kernels(), lambda v: v.sum(0).reshape(-1)),
        (Vectors(3), lambda v: v.reshape(-1, 4, 2, 3).sum(3).reshape(-1)),
        (Offsets(), lambda v: v.sum((1, 2))),
    ):
        groups, _ = granularity.units(model, found.analysis)
        np.testing.assert_allclose(Wanda().scores(found, groups)[0].numpy(), sums(expected), rtol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"dilation": 2}])
def test_wanda_of_dense_convolutions(groups: int, options) -> None:
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups, **options)).double()
    found = context(model, [x])
    units = FineGrained().units(model, found.analysis)[0][0]
    score = Wanda().scores(found, [units])[0][units.members[0].unit].numpy()
    rows = nn.functional.unfold(x, 3, **options).transpose(1, 2).flatten(0, 1).numpy()
    norm = np.linalg.norm(rows, axis=0).reshape(groups, 1, 4 // groups, 3, 3)
    weight = model[0].weight.detach().numpy()
    expected = np.abs(weight) * np.broadcast_to(norm, (groups, 6 // groups, 4 // groups, 3, 3)).reshape(
        weight.shape
    )
    np.testing.assert_allclose(score, expected, rtol=1e-12)


def test_wanda_of_transposed_and_grouped_sparse_layers() -> None:
    x = scan(1, 60, 4, 5)
    for layer in (spnn.ConvTranspose3d(4, 6, 2, stride=2, groups=2), spnn.SubMConv3d(4, 8, 3, groups=4)):
        model = spnn.Sequential(layer).double()
        found = context(model, [x])
        units = FineGrained().units(model, found.analysis)[0][0]
        score = Wanda().scores(found, [units])[0].view(layer.weight.shape)
        if layer.submanifold:
            norm = np.linalg.norm(gathered(x, x.coords, 3), axis=0).reshape(27, 4).repeat(2, 1)[:, None]
        else:  # every row meets every tap once
            norm = np.linalg.norm(x.features.numpy(), axis=0).reshape(1, 2, 2).repeat(3, 1).transpose(0, 2, 1)
        np.testing.assert_allclose(score.numpy(), np.abs(layer.weight.detach().numpy()) * norm, rtol=1e-12)


def test_wanda_is_magnitude_where_all_inputs_are_alike() -> None:
    """Identity 4."""
    x = torch.randn(50, 6, dtype=torch.float64)
    x = x / x.norm(dim=0)
    model = nn.Sequential(nn.Linear(6, 5)).double()
    found = context(model, [x])
    for granularity in (FineGrained(), Kernels(), Vectors(2)):
        groups, _ = granularity.units(model, found.analysis)
        torch.testing.assert_close(Wanda().scores(found, groups)[0], Magnitude(1).scores(found, groups)[0])


def test_wanda_ranks_like_optimal_brain_damage_where_inputs_are_orthogonal() -> None:
    """Identity 4: H = 2 / n X^T X is diagonal, and h w^2 / 2 is the square of Wanda's score, over n."""
    q = torch.linalg.qr(torch.randn(50, 6, dtype=torch.float64))[0] * torch.rand(6).double()
    model = nn.Sequential(nn.Linear(6, 5)).double()
    found = context(model, [q])
    groups, _ = FineGrained().units(model, found.analysis)
    wanda, surgeon = Wanda().scores(found, groups)[0], OBS(damping=0).scores(found, groups)[0]
    h = 2 / 50 * (q * q).sum(0)
    expected = (h * model[0].weight.detach().square() / 2).numpy()
    unit = groups[0].members[0].unit
    np.testing.assert_allclose((wanda.square() / 50)[unit].numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(surgeon[unit].numpy(), expected, rtol=1e-10)
    for row in unit:
        assert torch.equal(wanda[row].argsort(), surgeon[row].argsort())


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_wanda_per_row_takes_the_lowest_of_every_output(ratio: float) -> None:
    layer = spnn.SubMConv3d(4, 6, 3).double()
    layer.weight.data *= torch.arange(1, 7) ** 2  # rows of other scales
    model, x = spnn.Sequential(layer), scan(1, 120, 4)
    norm = np.linalg.norm(gathered(x, x.coords, 3), axis=0).reshape(27, 4, 1)
    saliency = (np.abs(layer.weight.detach().numpy()) * norm).reshape(108, 6)
    masks = [
        make_plan(model, [x], granularity=FineGrained(), criterion=Wanda(per_row), ratio=ratio)
        .steps[0]
        .masks["0.weight"]
        for per_row in (True, False)
    ]
    expected = np.ones((108, 6), dtype=bool)
    for p in range(6):
        expected[np.argsort(saliency[:, p])[: int(ratio * 108)], p] = False
    assert np.array_equal(masks[0].view(108, 6).numpy(), expected)
    assert not torch.equal(*masks)
    patterns = [
        make_plan(model, [x], granularity=NM(2, 4), criterion=Wanda(per_row)).steps[0].masks["0.weight"]
        for per_row in (True, False)
    ]
    assert torch.equal(*patterns), "runs of m inputs lie within an output anyway"
