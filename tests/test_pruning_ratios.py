# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""How much goes and where: against sorting and brute force, and against work that is counted again."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from sparseconv.pruning import (
    NM,
    Analysis,
    Channels,
    FineGrained,
    Global,
    Kernels,
    Macs,
    Magnitude,
    Offsets,
    PerLayer,
    Random,
    Uniform,
    Units,
    Vectors,
    analyze,
    make_plan,
)
from torch import nn

import sparseconv.nn as snn

NOTHING = Analysis()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def units(count: int, name: str = "a", **options) -> Units:
    return Units(name, count, (), (name,), torch.zeros(count, dtype=torch.float64), **options)


def choose(ratio, groups: list[Units], scores: list) -> list[np.ndarray]:
    tensors = [torch.as_tensor(s, dtype=torch.float64) for s in scores]
    return [gone.numpy() for gone in ratio.choose(groups, tensors, NOTHING)]


# few different values, so that ties are the rule
scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0]) | st.floats(0, 10), min_size=1, max_size=60)
ratios = st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0])


@given(scores, ratios)
def test_uniform_takes_the_lowest_and_within_one_what_was_asked(values: list[float], ratio: float) -> None:
    (gone,) = choose(Uniform(ratio), [units(len(values), keep=0)], [values])
    assert abs(int(gone.sum()) - ratio * len(values)) <= 0.5 + 1e-9
    values = np.array(values)
    if gone.any() and not gone.all():
        assert values[gone].max() <= values[~gone].min()


@given(st.integers(1, 100), ratios)
def test_ties_do_not_over_prune(count: int, ratio: float) -> None:
    """All importances are equal, also at zero: still no more than the share goes, from the first on."""
    for value in (0.0, 1.0):
        (gone,) = choose(Uniform(ratio), [units(count, keep=0)], [[value] * count])
        number = int(gone.sum())
        assert abs(number - ratio * count) <= 0.5 + 1e-9
        assert gone.tolist() == [True] * number + [False] * (count - number)
        (gone,) = choose(Global(ratio, most=1.0), [units(count, keep=0)], [[value] * count])
        assert abs(int(gone.sum()) - ratio * count) <= 0.5 + 1e-9


@given(st.lists(scores, min_size=1, max_size=5), ratios, st.sampled_from([0.5, 0.9, 1.0]), st.booleans())
def test_global_takes_the_lowest_of_all(
    groups: list[list[float]], ratio: float, most: float, normalize: bool
) -> None:
    """Against one sorted list, group by group no more than `most`."""
    named = [units(len(s), str(i), keep=0) for i, s in enumerate(groups)]
    gone = choose(Global(ratio, most, normalize), named, groups)
    total = sum(map(len, groups))
    room = sum(math.floor(most * len(s) + 1e-9) for s in groups)
    assert abs(sum(int(g.sum()) for g in gone) - min(ratio * total, room)) <= 0.5 + 1e-9
    for g, s in zip(gone, groups, strict=True):
        assert g.sum() <= most * len(s) + 1e-9
    ranks = [np.array(s) / (np.mean(s) if normalize and np.mean(s) > 0 else 1) for s in groups]
    taken = [r[g].max() for r, g in zip(ranks, gone, strict=True) if g.any()]
    full = [g.sum() + 1 > most * len(g) + 1e-9 for g in gone]
    left = [r[~g].min() for r, g, f in zip(ranks, gone, full, strict=True) if not f and not g.all()]
    assert not taken or not left or max(taken) <= min(left)


@given(st.permutations(range(4)), ratios)
def test_global_does_not_depend_on_the_order_of_layers(order: list[int], ratio: float) -> None:
    rng = np.random.default_rng(5)
    values = [rng.permutation(100)[:n] + i / 7 for i, n in enumerate((8, 24, 3, 50))]  # no ties
    named = [units(len(v), str(i)) for i, v in enumerate(values)]
    expected = choose(Global(ratio), named, values)
    got = choose(Global(ratio), [named[i] for i in order], [values[i] for i in order])
    for i, gone in zip(order, got, strict=True):
        assert gone.tolist() == expected[i].tolist()


@given(st.integers(1, 70), st.sampled_from([1, 2, 8, 16]), st.integers(1, 20), ratios)
def test_kept_units_are_multiples_and_enough(count: int, multiple: int, keep: int, ratio: float) -> None:
    group = units(count, multiple=multiple, keep=keep)
    values = np.random.default_rng(count).random(count)
    for choice in (Uniform(ratio), Global(ratio, most=1.0)):
        (gone,) = choose(choice, [group], [values])
        kept = count - int(gone.sum())
        assert kept >= min(keep, count)
        assert kept == count or count < multiple or kept % multiple == 0
        if gone.any():
            assert values[gone].max() < values[~gone].min()
        wanted = count - ratio * count
        if keep <= wanted and count >= multiple and isinstance(choice, Uniform):
            assert abs(kept - wanted) <= max(
                multiple / 2 + 0.5, multiple - wanted, count - wanted if kept == count else 0
            )


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (1, 2), (3, 3)])
def test_n_of_m_is_the_best_pattern(n: int, m: int) -> None:
    """Brute force over all patterns along the input channels of every tap and output channel."""
    model = nn.Sequential(snn.SubMConv3d(24, 5, (3, 1, 1)), snn.Linear(5, 3), snn.Linear(3, 24)).double()
    x = zoo.sites(channels=24, n=20)
    plan = make_plan(model, [x], granularity=NM(n, m), ratio=0.9)
    weight, mask = model[0].weight.detach().numpy(), plan.steps[0].masks["0.weight"].numpy()
    assert mask.shape == weight.shape == (3, 24, 5)
    patterns = [p for p in itertools.product([0, 1], repeat=m) if sum(p) == n]
    for tap, out, block in itertools.product(range(3), range(5), range(24 // m)):
        part = np.s_[tap, block * m : block * m + m, out]
        best = max(float(np.abs(weight[part]) @ p) for p in patterns)
        assert int(mask[part].sum()) == n
        assert float(np.abs(weight[part]) @ mask[part]) == pytest.approx(best, rel=1e-12)
    if 5 % m:
        assert "multiple" in plan.steps[0].left["1"]
    assert float((plan.apply(model)[0].weight == 0).double().mean()) == pytest.approx(1 - n / m)


def test_n_of_m_follows_the_input_channels_of_every_kind_of_weight() -> None:
    """torch's linear and convolution layers, and products with a bare matrix, which is [C_in, C_out]."""

    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.matrix = nn.Linear(8, 12), nn.Parameter(torch.randn(12, 8))
            self.conv, self.back = nn.Conv2d(8, 6, (1, 3)), nn.ConvTranspose2d(6, 8, (3, 1))
            self.back.weight.data[:4] *= 3

        def forward(self, x):
            x = (self.linear(x) @ self.matrix).t().reshape(1, 8, 5, 4)
            return self.back(nn.functional.pad(self.conv(x), (0, 0, 0, 0)))

    model = Kinds().double()
    x = torch.randn(20, 8, dtype=torch.float64)
    masks = make_plan(model, [x], granularity=NM(2, 4)).steps[0].masks
    rows = {
        "linear.weight": masks["linear.weight"],
        "matrix": masks["matrix"].t(),
        "conv.weight": masks["conv.weight"].permute(0, 2, 3, 1),
    }
    for name, mask in rows.items():
        assert (mask.reshape(-1, 4).sum(1) == 2).all(), name
    assert "back.weight" not in masks  # 6 input channels


@pytest.mark.parametrize("granularity", [FineGrained(), Vectors(4), Kernels()])
@pytest.mark.parametrize(
    "ratio", [Uniform(0.37), Global(0.37, most=1.0), Global(0.37, most=1.0, normalize=False)]
)
def test_sparsity_of_weights_within_one_unit(granularity, ratio) -> None:
    model, x = zoo.create("Residual"), zoo.sites()
    plan = make_plan(model, [x], granularity=granularity, ratio=ratio)
    units_of, gone = (sum(getattr(e, k) for e in plan.steps[0].entries) for k in ("units", "removed"))
    assert abs(gone - 0.37 * units_of) <= (
        0.5 if isinstance(ratio, Global) else 0.5 * len(plan.steps[0].entries)
    )
    pruned = plan.apply(model)
    for name, mask in plan.steps[0].masks.items():
        weight = pruned.get_parameter(name)
        assert torch.equal(weight != 0, mask & (model.get_parameter(name) != 0)), name
    zeros = sum(int((~m).sum()) for m in plan.steps[0].masks.values())
    size = sum(m.numel() for m in plan.steps[0].masks.values())
    assert abs(zeros / size - 0.37) < 0.06


def test_blocks_are_what_they_say() -> None:
    """Vectors: rows of 4 output channels; kernels: a pair of channels over all taps. Norms by plain NumPy."""
    model, x = nn.Sequential(snn.SubMConv3d(4, 10, 3)).double(), zoo.sites()
    weight = model[0].weight.detach().numpy()
    mask = (
        make_plan(model, [x], granularity=Vectors(4), criterion=Magnitude(1))
        .steps[0]
        .masks["0.weight"]
        .numpy()
    )
    sums = {
        (k, i, b): np.abs(weight[k, i, b * 4 : b * 4 + 4]).sum()
        for k in range(27)
        for i in range(4)
        for b in range(3)
    }
    lowest = sorted(sums, key=sums.__getitem__)[: len(sums) // 2]
    expected = np.ones_like(mask)
    for k, i, b in lowest:
        expected[k, i, b * 4 : b * 4 + 4] = False
    assert (mask == expected).all()
    mask = (
        make_plan(model, [x], granularity=Kernels(), criterion=Magnitude(2))
        .steps[0]
        .masks["0.weight"]
        .numpy()
    )
    norms = np.sqrt((weight**2).sum(0))
    assert (mask == (norms >= np.sort(norms.reshape(-1))[20])[None]).all()


@pytest.mark.parametrize(
    "name", ["Plain", "UNet", "DeepUNet", "Shortcut", "Grouped", "Depthwise", "DenseHead", "PointBranch"]
)
def test_macs_are_those_of_the_pruned_network(name: str) -> None:
    """What `Macs` and a plan's table say is what an analysis of the pruned network counts."""
    model, scan = zoo.create(name), zoo.ZOO[name].scan()
    before = analyze(model, [scan])
    for share in (0.75, 0.4):
        plan = make_plan(
            model,
            [scan],
            granularity=Channels(round_to=1),
            criterion=Random(2),
            ratio=Macs(share),
            analysis=before,
        )
        from sparseconv.pruning.ratios import remaining_macs

        removed = {u.name: u for u in before.channels}
        gone = [removal(plan, removed[u.name]) for u in before.channels]
        after = analyze(plan.apply(model), [scan])
        assert after.macs == pytest.approx(remaining_macs(before, before.channels, gone), rel=1e-9)
        assert abs(after.macs / before.macs - share) < 0.1


def removal(plan, group: Units) -> torch.Tensor:
    gone = torch.zeros(group.count, dtype=torch.bool)
    for member in group.members:
        stays = plan.steps[0].cuts.get(member.tensor, {}).get(member.axis)
        if stays is not None:
            lost = member.unit[~stays]
            gone[lost[lost >= 0]] = True
    return gone


def test_macs_against_a_count_by_hand() -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    pairs = len(model.stem[0].kernel_map(x).pairs)
    analysis = analyze(model, [x])
    assert analysis.macs == pairs * (4 * 16 + 16 * 16) + len(x) * 16 * 5
    # The whole network and nothing at all.
    everything = make_plan(model, [x], granularity=Channels(round_to=1), ratio=Macs(1.0), analysis=analysis)
    assert not everything.steps[0].cuts
    least = make_plan(
        model, [x], granularity=Channels(round_to=1), ratio=Macs(1e-9, most=1.0), analysis=analysis
    )
    assert least.apply(model).stem[0].out_channels == least.apply(model).body[0].out_channels == 1
    fine = make_plan(model, [x], granularity=FineGrained(), ratio=Macs(0.3), analysis=analysis)
    assert abs(sum(e.macs for e in fine.steps[0].entries) / analysis.macs - 0.7) < 0.02


def test_macs_by_taps_and_of_single_weights() -> None:
    model, x = zoo.create("UNet"), zoo.sites(n=300)
    before = analyze(model, [x])
    for granularity in (Offsets(), Offsets(shared=True)):
        plan = make_plan(model, [x], granularity=granularity, ratio=Macs(0.6), analysis=before)
        assert abs(analyze(plan.apply(model), [x]).macs / before.macs - 0.6) < 0.08


def test_round_to_keep_and_ignore() -> None:
    model, x = zoo.create("UNet"), zoo.sites()
    smaller = make_plan(model, [x], granularity=Channels(round_to=8), ratio=0.6).apply(model)
    assert all(
        m.out_channels % 8 == 0
        for n, m in smaller.named_modules()
        if isinstance(m, snn.SparseConvolution) and n != "head"
    )
    smaller = make_plan(model, [x], granularity=Channels(round_to=1, keep=13), ratio=1.0).apply(model)
    assert smaller.stem[0].out_channels == smaller.deep[0].out_channels == 13
    smaller = make_plan(model, [x], granularity=Channels(round_to=8, keep=9), ratio=1.0).apply(model)
    assert smaller.deep[0].out_channels == 16  # the next multiple
    plan = make_plan(model, [x], granularity=Channels(round_to=1), ignore=["deep*"])
    smaller = plan.apply(model)
    assert smaller.deep[0].out_channels == 24 and smaller.deep[0].in_channels == 24
    assert smaller.stem[0].out_channels == 8
    assert "ignored" in plan.steps[0].left.values()
    with pytest.raises(ValueError, match="nowhere"):
        make_plan(model, [x], ignore=["nowhere"])
    with pytest.raises(TypeError, match="list"):
        make_plan(model, [x], ignore="deep")


def test_shares_by_name_go_to_the_layers_that_make_the_channels() -> None:
    """`deep.0` reads the channels of `down.0`, which are not meant by its name."""
    model, x = zoo.create("UNet"), zoo.sites()
    for name in ("deep.0", "deep*"):
        smaller = make_plan(model, [x], granularity=Channels(round_to=1), ratio=PerLayer({name: 0.25})).apply(
            model
        )
        assert (smaller.down[0].out_channels, smaller.deep[0].out_channels, smaller.stem[0].out_channels) == (
            24,
            18,
            16,
        )
    many = PerLayer({"stem.0": 0.0, "up": 0.75}, default=0.5)
    smaller = make_plan(model, [x], granularity=Channels(round_to=1), ratio=many).apply(model)
    assert (smaller.stem[0].out_channels, smaller.up.out_channels, smaller.join[0].out_channels) == (16, 4, 8)
    with pytest.raises(ValueError, match="bottom"):
        make_plan(model, [x], ratio=PerLayer({"bottom": 0.5}))


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_ratios_out_of_range(value: float) -> None:
    for build in (
        Uniform,
        Global,
        lambda v: PerLayer({"a": v}),
        lambda v: PerLayer({}, v),
        lambda v: Global(0.5, v),
    ):
        with pytest.raises(ValueError, match="ratio"):
            build(value)
    with pytest.raises(ValueError, match="share"):
        Macs(value)
    with pytest.raises(ValueError, match="ratio"):
        make_plan(zoo.create("Plain"), [zoo.sites()], ratio=value)
    with pytest.raises(ValueError, match="share"):
        Macs(0.0)


def test_nan_weights_are_named() -> None:
    model = zoo.create("Plain")
    with torch.no_grad():
        model.body[0].weight[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"body\.0.*NaN"):
        make_plan(model, [zoo.sites()], granularity=FineGrained())
