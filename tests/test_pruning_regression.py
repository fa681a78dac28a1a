# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""LASSO, ThiNet and least squares against scikit-learn, exhaustive search and numpy on explicitly gathered contributions."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
import torch.nn as nn
from sklearn.linear_model import Lasso as CoordinateDescent
from small_nets import Residual, chain, context, gathered, scan
from sparseconv.pruning import NM, Channels, FineGrained, Lasso, Offsets, ThiNet, analyze, make_plan

import sparseconv
import sparseconv.nn as spnn

BOTH = [Lasso(), ThiNet()]


def pair(channels: int = 7, kernel: int = 2, stride: int = 2) -> tuple[nn.Module, sparseconv.SparseTensor]:
    """Two layers with a ReLU between them; the second reads `channels`."""
    torch.manual_seed(3)
    make = {1: spnn.SubMConv3d, 2: spnn.Conv3d}[stride]
    options = {"stride": 2} if stride == 2 else {}
    net = spnn.Sequential(
        spnn.SubMConv3d(4, channels, 3), spnn.ReLU(), make(channels, 5, kernel, **options)
    ).double()
    return net, scan(4, 300, 4)


def contributions(net: nn.Module, x: sparseconv.SparseTensor) -> np.ndarray:
    """Z of `pair`: [channels, n_out * C_out], by loops over coordinates."""
    with torch.no_grad():
        inner, out = net[1](net[0](x)), net(x)
    layer = net[2]
    kernel = layer.kernel_size[0]
    strided = len(out) != len(inner)
    rows = gathered(inner, out.coords, kernel, 2 if strided else 1, 0 if strided else None)
    weight = layer.weight.detach().numpy()  # [K, C, C_out]
    rows = rows.reshape(len(out), *weight.shape[:2])
    return np.einsum("nkc,kco->cno", rows, weight).reshape(weight.shape[1], -1)


def scores(criterion: Lasso | ThiNet, net: nn.Module, scans) -> np.ndarray:
    found = context(net, scans)
    (units,) = found.analysis.channels
    return criterion.scores(found, [units])[0].numpy()


# --- LASSO -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (1, 1)])
def test_channels_enter_at_the_penalty_where_the_lasso_takes_them(kernel: int, stride: int) -> None:
    """Coordinate descent on the explicit contributions has a channel just below its penalty and not just above."""
    net, x = pair(kernel=kernel, stride=stride)
    z = contributions(net, x)
    y = z.sum(0)
    z, y = z / np.linalg.norm(y), y / np.linalg.norm(y)
    entered = scores(Lasso(), net, [x])
    assert abs(entered.max() - np.abs(z @ y).max()) < 1e-10, "the first enters at max |Z^T Y|"
    for channel, penalty in enumerate(entered):
        assert penalty > 0
        for factor, inside in ((1.002, False), (0.998, True)):
            descent = CoordinateDescent(
                alpha=penalty * factor / z.shape[1], fit_intercept=False, tol=1e-12, max_iter=100000
            )
            coefficient = descent.fit(z.T, y).coef_[channel]
            assert (coefficient != 0) == inside, (channel, penalty, factor, coefficient)


def test_planted_channels_are_found_and_the_fit_is_exact() -> None:
    """Identity 13: channels outside of S reach the outputs as noise of 1e-6 only."""
    net, x = pair(8)
    planted = {1, 4, 6}
    with torch.no_grad():
        for channel in set(range(8)) - planted:
            net[2].weight[:, channel] *= 1e-6
    for criterion in BOTH:
        entered = scores(criterion, net, [x])
        assert set(np.argsort(entered)[-3:].tolist()) == planted, criterion
        plan = make_plan(net, [x], granularity=Channels(round_to=1), criterion=criterion, ratio=5 / 8)
        smaller = plan.apply(net)
        assert smaller[2].weight.shape == (8, 3, 5)
        expected = net(x).features
        assert (smaller(x).features - expected).norm() < 1e-5 * expected.norm()


def test_a_channel_that_others_replace_never_enters_and_nothing_is_lost_without_it() -> None:
    net, x = pair(6)
    with torch.no_grad():
        net[0].weight[:, :, 2] = net[0].weight[:, :, 5]
        net[0].bias[2] = net[0].bias[5]
        net[2].weight[:, 2] = 0.5 * net[2].weight[:, 5]
        net[0].weight[:, :, 0] = 0
        net[0].bias[0] = 0  # a dead one
    entered = scores(Lasso(), net, [x])
    assert entered[0] == 0 and min(entered[2], entered[5]) < 1e-6 * max(entered[2], entered[5])
    plan = make_plan(net, [x], granularity=Channels(round_to=1), criterion=Lasso(), ratio=2 / 6)
    expected = net(x).features
    assert (plan.apply(net)(x).features - expected).norm() < 1e-5 * expected.norm()


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    net, x = pair()
    with pytest.raises(ImportError, match="Lasso needs scikit-learn: pip install scikit-learn"):
        make_plan(net, [x], criterion=Lasso())
    make_plan(net, [x], criterion=ThiNet())


# --- ThiNet ----------------------------------------------------------------------------------------------------------


def missing(z: np.ndarray, removed) -> float:
    return float(np.square(z[list(removed)].sum(0)).sum())


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (1, 1)])
def test_greedy_removal_is_greedy_on_the_outputs(kernel: int, stride: int) -> None:
    net, x = pair(7, kernel, stride)
    z = contributions(net, x)
    order: list[int] = []
    while len(order) < 7:
        left = [c for c in range(7) if c not in order]
        order.append(min(left, key=lambda c: missing(z, [*order, c])))
    place = scores(ThiNet(), net, [x])
    assert np.argsort(place).tolist() == order
    np.testing.assert_allclose(np.sort(place), np.arange(1, 8) / 7)


def test_greedy_and_exhaustive_search() -> None:
    """Identity 15: never better than the best set, and the best where contributions are orthogonal."""
    net, x = pair(9)
    z = contributions(net, x)
    order = np.argsort(scores(ThiNet(), net, [x]))
    for size in range(1, 9):
        best = min(missing(z, s) for s in itertools.combinations(range(9), size))
        assert missing(z, order[:size]) >= best * (1 - 1e-12)
        assert missing(z, order[:size]) <= 1.5 * best
    with torch.no_grad():  # each channel makes an output of its own
        net = spnn.Sequential(spnn.SubMConv3d(4, 9, 3), spnn.ReLU(), spnn.Linear(9, 9)).double()
        net[2].weight.copy_(torch.diag(torch.rand(9, dtype=torch.float64) + 0.1))
        inner = net[1](net[0](x)).features
    z = (inner * net[2].weight.diagonal()).t().detach()[:, :, None].numpy() * np.eye(9)[:, None]
    z = z.reshape(9, -1)
    order = np.argsort(scores(ThiNet(), net, [x]))
    for size in range(1, 9):
        best = min(missing(z, s) for s in itertools.combinations(range(9), size))
        assert abs(missing(z, order[:size]) - best) < 1e-9 * best


# --- least squares ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (1, 1)])
@pytest.mark.parametrize("kind", [Lasso, ThiNet])
def test_the_readers_are_fitted_by_least_squares(kind, kernel: int, stride: int) -> None:
    """Identity 14, and the fit itself against numpy's."""
    net, x = pair(7, kernel, stride)
    plan = make_plan(net, [x], granularity=Channels(round_to=1), criterion=kind(damping=1e-9), ratio=3 / 7)
    kept = plan.steps[0].cuts["2.weight"][1]
    assert int(kept.sum()) == 4
    expected = net(x)
    with torch.no_grad():
        outputs = [plan.apply(net, values=values)(x).features for values in (True, False)]
        errors = [float((out - expected.features).square().sum()) for out in outputs]
    assert errors[0] < 0.95 * errors[1]
    with torch.no_grad():
        inner = net[1](net[0](x))
        part = inner.replace(inner.features[:, kept].contiguous())
    rows = gathered(part, expected.coords, kernel, stride, 0 if stride == 2 else None)
    fit = np.linalg.lstsq(rows, (expected.features - net[2].bias).detach().numpy(), rcond=None)[0]
    found = plan.apply(net)[2].weight.detach().numpy().reshape(fit.shape)
    np.testing.assert_allclose(rows @ found, rows @ fit, atol=1e-6)
    update = plan.steps[0].updates["2.weight"]
    assert (update[:, ~kept] == 0).all() and update.dtype == torch.float64


@pytest.mark.parametrize("kind", [Lasso, ThiNet])
@pytest.mark.parametrize("damping", [1e-9, 1e-3, 10.0])
def test_the_fit_is_never_worse_than_plain_removal(kind, damping: float) -> None:
    """Each layer on its own inputs, whatever the damping (identity 14)."""
    net, x = chain(), scan(2, 300, 4)
    criterion = kind(damping=damping)
    found = context(net, [x])
    for units in found.analysis.channels:
        removed = torch.arange(units.count) % 3 != 0
        updates = criterion.update(found, [units], [removed])
        ((name, new),) = updates.items()
        layer = net[int(name.split(".")[0])]
        seen = []
        hook = layer.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))  # noqa: B023
        net(x)
        hook.remove()
        old = layer.weight.detach().clone()
        plain = old.clone().index_fill_(1, removed.nonzero()[:, 0], 0)
        errors = []
        for weight in (new, plain):
            layer.weight.data = weight
            errors.append(float((layer(seen[0][0]).features - seen[0][1].features).detach().square().sum()))
        layer.weight.data = old
        assert errors[0] <= errors[1] * (1 + 1e-9)
        assert damping > 1 or errors[0] < 0.9 * errors[1]


class TwoReaders(nn.Module):
    """A layer whose channels go to a convolution and, scaled by 1000, to a linear layer, and join others for a third."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem, self.side = spnn.SubMConv3d(4, 6, 3), spnn.SubMConv3d(4, 3, 1)
        self.first, self.second, self.both = spnn.SubMConv3d(6, 4, 3), spnn.Linear(6, 5), spnn.Linear(9, 2)
        self.double()
        self.second.weight.data *= 1000

    def forward(self, x: sparseconv.SparseTensor) -> tuple[object, ...]:
        y, z = self.stem(x), self.side(x)
        return self.first(y), self.second(y), self.both(sparseconv.cat([y, z]))


def test_all_readers_count_alike_and_all_are_fitted() -> None:
    net, x = TwoReaders(), scan(4, 200, 4)
    found = context(net, [x])
    stem = next(u for u in found.analysis.channels if u.count == 6)
    with torch.no_grad():
        y, outputs = net.stem(x), net(x)
    taps = gathered(y, x.coords, 3).reshape(200, 27, 6)
    parts = [
        np.einsum("nkc,kco->cno", taps, net.first.weight.detach().numpy()),
        np.einsum("nc,oc->cno", y.features.numpy(), net.second.weight.detach().numpy()),
        np.einsum("nc,oc->cno", y.features.numpy(), net.both.weight[:, :6].detach().numpy()),
    ]
    z = np.concatenate([(p / np.linalg.norm(p.sum(0))).reshape(6, -1) for p in parts], axis=1) / np.sqrt(3)
    assert abs(Lasso().scores(found, [stem])[0].max() - np.abs(z @ z.sum(0)).max()) < 1e-10
    place = ThiNet().scores(found, [stem])[0]
    assert int(place.argmin()) == int(np.square(z).sum(1).argmin())
    plan = make_plan(
        net, [x], granularity=Channels(round_to=1), criterion=ThiNet(), ratio=0.34, analysis=found.analysis
    )
    assert set(plan.steps[0].updates) == {"first.weight", "second.weight", "both.weight"}
    assert plan.steps[0].updates["both.weight"].shape == (2, 9)
    gone = ~plan.steps[0].cuts["both.weight"][1]
    assert int(gone[:6].sum()) == 2 and int(gone[6:].sum()) == 1, "two groups share one reader"
    better, worse = plan.apply(net)(x), plan.apply(net, values=False)(x)
    for a, b, expected in zip(better, worse, outputs, strict=True):
        assert (a.features - expected.features).norm() < (b.features - expected.features).norm()


def test_plain_linear_layers_and_dense_convolutions() -> None:
    torch.manual_seed(6)
    nets = [
        (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(60, 5)),
        (
            nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3, stride=2, padding=1)),
            torch.randn(2, 2, 9, 9),
        ),
        (nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2)), torch.randn(2, 2, 9, 9)),
    ]
    for net, x in nets:
        net, x = net.double(), x.double()
        for criterion in BOTH:
            plan = make_plan(net, [x], granularity=Channels(round_to=1), criterion=criterion, ratio=0.25)
            expected = net(x)
            errors = [(plan.apply(net, values=v)(x) - expected).norm() for v in (True, False)]
            assert errors[0] < 0.98 * errors[1]


def test_residual_channels_and_chains_get_plans_that_are_the_same_every_time() -> None:
    x = scan(2, 200, 4)
    for net in (Residual(), chain()):
        for criterion in BOTH:
            first, second = (
                make_plan(net, [x], granularity=Channels(round_to=2), criterion=criterion) for _ in "ab"
            )
            assert first.to_json() == second.to_json()
            for name, value in first.steps[0].updates.items():
                assert torch.equal(value, second.steps[0].updates[name])
            first.apply(net)(x)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", BOTH)
@pytest.mark.parametrize("granularity", [FineGrained(), NM(), Offsets()])
def test_other_granularities_are_refused(criterion, granularity) -> None:
    with pytest.raises(
        ValueError, match=rf"{type(criterion).__name__} chooses channels .* use granularity=Channels\(\)"
    ):
        make_plan(chain(), [scan(1)], granularity=granularity, criterion=criterion)


def test_large_layers_are_refused_with_their_size() -> None:
    with pytest.raises(ValueError, match="6: taps times input channels are 216, more than largest=100"):
        make_plan(chain(), [scan(1)], criterion=ThiNet(largest=100))
    assert analyze(chain(), [scan(1)]).channels


@pytest.mark.parametrize("options", [{"damping": -1}, {"rows": 0}, {"memory": 0}])
def test_bad_options(options) -> None:
    for kind in (Lasso, ThiNet):
        with pytest.raises(ValueError, match=f"{kind.__name__}: "):
            kind(**options)
