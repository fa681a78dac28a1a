# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The pruning benchmark: its statistics, what it counts, that a stopped run goes on, and a tiny run of everything."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pruning_measure
import pruning_rows
import pytest
import torch
from pruning_lines import GAINS, Line
from pruning_report import Table, as_json, find_targets
from pruning_rows import DENSE, PRUNED, TUNED, Row, Workshop, one
from pruning_score import Candidate, Interval, best_rows, dense_at, ious, miou, ratio, resampled
from pruning_settings import parse
from pruning_task import test_split as held_out_split
from pruning_task import train_split, training_batches
from pruning_timing import Work, layer_gain, widths_below, work_of
from pruning_training import Course, train
from sparseconv.pruning import analyze
from torch import nn

import pruning
import sparseconv
import sparseconv.nn as snn
from sparseconv import datasets

# --- statistics -----------------------------------------------------------------------------------------------------------


def plain_miou(matrix: np.ndarray) -> float:
    """Loops over classes; those without a point are left out."""
    found = []
    for c in range(len(matrix)):
        if matrix[c].sum() > 0:
            found.append(matrix[c, c] / (matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]))
    return float(np.mean(found))


def scans(seed: int, count: int = 3, classes: int = 4) -> torch.Tensor:
    found = torch.from_numpy(np.random.default_rng(seed).integers(0, 50, (count, classes, classes)))
    found[:, classes - 1] = 0  # a class without a point
    found[1:, 0] = 0  # a class that only the first scan has
    return found


def test_miou_is_the_mean_over_classes_that_have_points() -> None:
    found = scans(0)
    assert float(miou(found.sum(0))) == pytest.approx(plain_miou(found.sum(0).numpy()))
    assert ious(found.sum(0)).isnan().tolist() == [False, False, False, True]
    for scan in found:
        assert float(miou(scan)) == pytest.approx(plain_miou(scan.numpy()))


def test_the_bootstrap_draws_scans_with_replacement() -> None:
    """Three scans have 27 equally likely draws; each value's frequency is that of its draws."""
    found = scans(1)
    exact = Counter(
        round(plain_miou(found[list(draw)].sum(0).numpy()), 9)
        for draw in itertools.product(range(3), repeat=3)
    )
    drawn = Counter(round(v, 9) for v in resampled(found, 20_000).tolist())
    assert set(drawn) == set(exact)
    for value, times in exact.items():
        share = times / 27
        assert drawn[value] / 20_000 == pytest.approx(share, abs=5 * math.sqrt(share / 20_000))


def test_the_ratio_is_paired() -> None:
    """Scans of very different difficulty: the interval of a constant ratio stays narrow, since scans are shared."""
    rng = np.random.default_rng(2)
    hits = rng.integers(10, 990, 40)
    dense = torch.tensor([[[h, 1000 - h], [0, 0]] for h in hits])
    pruned = torch.tensor([[[h * 9 // 10, 1000 - h * 9 // 10], [0, 0]] for h in hits])
    found = ratio([pruned], [dense], 500)
    assert found.value == pytest.approx(0.9, abs=1e-3)
    assert found.high - found.low < 2e-3
    spread = resampled(dense, 500).std() / resampled(dense, 500).mean()
    assert float(spread) > 0.03  # the interval would be some twelve times as wide if it were not paired
    same = ratio([dense, pruned], [dense, pruned], 100)
    assert (same.value, same.low, same.high) == (1, 1, 1)


def test_the_interval_covers_the_quantiles_of_all_draws() -> None:
    a, b = scans(3, 4), scans(4, 4)
    b[:, 0] = a[:, 0]
    exact = [
        plain_miou(a[list(d)].sum(0).numpy()) / plain_miou(b[list(d)].sum(0).numpy())
        for d in itertools.product(range(4), repeat=4)
    ]
    found = ratio([a], [b], 20_000)
    low, high = np.quantile(exact, [0.025, 0.975])
    width = max(exact) - min(exact)
    assert abs(found.low - low) < 0.05 * width and abs(found.high - high) < 0.05 * width
    assert found.value == pytest.approx(plain_miou(a.sum(0).numpy()) / plain_miou(b.sum(0).numpy()))


def test_ratios_of_different_scans_are_refused() -> None:
    with pytest.raises(ValueError, match="same scans"):
        ratio([scans(0, 3)], [scans(0, 4)], 100)
    with pytest.raises(ValueError, match="pairs"):
        ratio([], [], 100)


def test_99_percent_is_asked_of_the_lower_bound() -> None:
    assert Interval(0.995, 0.99, 1.0).holds
    assert not Interval(1.0, 0.989, 1.01).holds


def candidate(name: str, granularity: str, speedup: float, value: float, low: float) -> Candidate:
    return Candidate(name, granularity, speedup, Interval(value, low, value + 0.01))


def test_baselines_sit_at_the_best_row_of_each_granularity() -> None:
    rows = [
        candidate("c2", "channels", 1.6, 1.0, 0.995),
        candidate("c4", "channels", 2.4, 0.97, 0.96),  # faster, but does not hold
        candidate("o2", "offsets", 1.5, 0.98, 0.97),
        candidate("o3", "offsets", 1.9, 0.90, 0.88),
        candidate("co", "both", 2.9, 0.999, 0.992),
        candidate("v", "vectors", 0.9, 1.01, 1.0),  # slower than the dense network
        candidate("l", "per layer", 1.1, 0.97, 0.96),
    ]
    assert best_rows(rows) == ["co", "c2", "o2"]
    assert best_rows(rows[:2]) == ["c2", "c4"]  # one granularity: its next best row
    assert best_rows([rows[5]]) == []


def test_dense_networks_are_interpolated_by_time() -> None:
    dense = {"a": (100.0, 0.6), "b": (50.0, 0.5), "c": (200.0, 0.7)}
    assert dense_at(75, dense) == pytest.approx(0.55)
    assert dense_at(150, dense) == pytest.approx(0.65)
    assert dense_at(300, dense) == 0.7
    assert dense_at(49, dense) is None


# --- what is counted ------------------------------------------------------------------------------------------------------


def cells() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.unique(rng.integers(0, 6, (60, 3)), axis=0)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.subm = snn.SubMConv3d(2, 5, 3, bias=False)
        self.down = snn.Conv3d(5, 3, 2, stride=2)
        self.up = snn.InverseConv3d(3, 4, 2, stride=2)

    def forward(self, x: sparseconv.SparseTensor) -> sparseconv.SparseTensor:
        y = self.subm(x)
        out: sparseconv.SparseTensor = self.up(self.down(y), y)
        return out


def test_work_is_pairs_times_weights_that_are_not_zero() -> None:
    places = cells()
    known = {tuple(p) for p in places.tolist()}
    coords = torch.from_numpy(np.column_stack([np.zeros(len(places)), places]).astype(np.int32))
    torch.manual_seed(0)
    net = TwoLayers()
    with torch.no_grad():
        net.subm.weight[13, 1] = 0  # of the centre tap, 5 of 10 weights
    x = sparseconv.SparseTensor(torch.randn(len(places), 2), coords)
    work = work_of(net, x)
    macs = 0
    for tap in itertools.product((-1, 0, 1), repeat=3):
        pairs = sum(tuple(np.add(p, tap)) in known for p in known)
        macs += pairs * (5 if tap == (0, 0, 0) else 10)
    assert work["subm"] == Work(macs, 2)
    assert work["down"] == Work(len(places) * 15, 3)  # stride equals size: a pair for every fine site
    assert work["up"] == Work(len(places) * 12, 3)
    assert [work[n].wide for n in work] == [False] * 3
    counted = analyze(net, [x]).layers.values()  # with weights that are zero
    assert {layer.name: layer.macs for layer in counted} == {
        "subm": macs + 5 * len(known),
        "down": work["down"].macs,
        "up": work["up"].macs,
    }
    assert net.subm.in_channels == 2 and net.subm.weight.grad is None


def test_gains_are_taken_round_by_round_over_the_chosen_layers() -> None:
    seconds = {
        "dense": {"a": [4.0, 8.0, 4.0], "b": [1.0, 1.0, 1.0]},
        "row": {"a": [2.0, 4.0, 1.0], "b": [1.0, 1.0, 1.0]},
    }
    work = {
        "dense": {"a": Work(100, 64), "b": Work(10, 8)},
        "row": {"a": Work(25, 32), "b": Work(5, 8)},
    }
    wide = layer_gain(seconds, work, "row", lambda w: w.wide)
    assert wide is not None and wide.faster.median == 2 and wide.fewer == 4 and wide.efficiency == 0.5
    both = layer_gain(seconds, work, "row", lambda _: True)
    assert both is not None and both.faster.median == 9 / 5 and both.fewer == pytest.approx(110 / 30)
    assert layer_gain(seconds, work, "row", lambda w: w.channels > 99) is None


def test_every_width_has_channels_of_its_own() -> None:
    widths = widths_below(0.5)
    assert widths == sorted(widths) and len(widths) > 10
    sizes = [sum(p.numel() for p in pruning_rows.make_network(w, 0).parameters()) for w in widths]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == sum(p.numel() for p in pruning_rows.make_network(0.5, 1).parameters())


def test_held_weights_stay_zero_while_others_learn() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight[0, 1] = 0
    mask = torch.tensor([[True, False, True], [True, True, True]])
    before = net.weight.detach().clone()
    course = Course(lr=0.1, decay=0.1, steps=3, name="")
    losses = train(net, [torch.ones(4, 3)] * 3, lambda n, x: n(x).square().mean(), course, {"weight": mask})
    assert losses[2] < losses[0]
    assert net.weight[0, 1] == 0 and bool((net.weight != before)[mask].all())


def test_no_street_is_learned_and_judged() -> None:
    task = parse(["--train-sweeps", "6", "--test-sweeps", "5"]).task
    train, test = train_split(task), held_out_split(task)
    assert train.seed != test.seed and test.per_street == 1
    assert len(train.files) == 12 and len(test.files) == 5 and not set(train.files) & set(test.files)


# --- a tiny run -----------------------------------------------------------------------------------------------------------

TINY = (
    "--quick --threads 1 --width 0.25 --voxel 0.5 --train-sweeps 2 --test-sweeps 3 --dense-steps 20 --tune-steps 2 "
    "--rank-scans 1 --rounds 1 --resamples 100"
).split()


def write_sweeps(folder: Path) -> None:
    """Half sweeps that nobody simulated: a few hundred points on a plane and on two walls."""
    task = parse(TINY).task
    folder.mkdir(parents=True)
    for i, name in enumerate([*train_split(task).files, *held_out_split(task).files]):
        rng = np.random.default_rng(i)
        points = rng.uniform(-10, 10, (600, 3)).astype(np.float32)
        labels = rng.integers(0, 3, 600).astype(np.uint8)
        points[labels == 0, 2], points[labels == 1, 1] = -1.7, 4
        labels[:20] = 255
        np.savez(folder / name, points=points, remission=rng.random(600, np.float32), labels=labels)


def test_later_steps_take_more_half_sweeps_and_go_on_in_the_order(tmp_path: Path) -> None:
    task = parse([*TINY, "--dense-steps", "5", "--tune-steps", "3", "--tune-batch", "3"]).task
    assert [task.seen(step) for step in (0, 4, 5, 6, 8)] == [0, 4, 5, 8, 14]
    write_sweeps(tmp_path / "sweeps")

    def batches(first: int, steps: int) -> list[datasets.Batch]:
        return list(training_batches(task, tmp_path / "sweeps", steps=steps, seed=3, first=first))

    whole, tuning = batches(0, 8), batches(5, 3)
    assert [b.tensor.batch_size for b in whole] == [1] * 5 + [3] * 3
    for a, b in zip(
        whole[5:], tuning, strict=True
    ):  # a pruned network is tuned on what a baseline goes on with
        assert torch.equal(a.tensor.coords, b.tensor.coords) and torch.equal(
            a.tensor.features, b.tensor.features
        )


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    write_sweeps(tmp_path / "sweeps")
    points = torch.from_numpy(np.random.default_rng(9).uniform(-8, 8, (3000, 3)).astype(np.float32))
    x, _ = sparseconv.voxelize(points, torch.rand(3000, 3), voxel_size=0.5)
    monkeypatch.setattr(pruning, "full_sweeps", lambda *_: ({"made up": x}, ["real.bin is not there"]))
    monkeypatch.setattr(pruning, "SEARCH_ROUNDS", 1)
    monkeypatch.setattr(
        pruning_measure, "THREADS", (1,)
    )  # two wait for each other where tests run side by side
    monkeypatch.setattr(
        pruning_rows, "PRUNED", (Row("channels 1/2", "channels", one("channels", 0.5, "magnitude")),)
    )
    yield tmp_path
    torch.set_num_threads(threads)


def run(folder: Path, *more: str) -> Table:
    table = pruning.main([*TINY, "--work", str(folder), *more])
    assert table is not None
    return table


def test_a_tiny_run_makes_a_table_and_a_second_one_trains_nothing(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def stopping(network: nn.Module, data: Any, loss: Any, course: Any, masks: Any) -> list[float]:
        if course.name.startswith("channels") and len(trained) < 3:
            trained.append("stopped")
            raise KeyboardInterrupt
        trained.append(course.name)
        return train(network, data, loss, course, masks)

    monkeypatch.setattr(pruning_rows, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tiny)
    assert trained == ["dense, seed 0", "dense, trained on, seed 0", "stopped"]
    table = run(tiny)
    baselines = [line.row.name for line in table.lines if line.row.beside]
    assert trained[3:] == ["channels 1/2, seed 0"] * 2 + [f"{name}, seed 0" for name in baselines]
    names = [line.row.name for line in table.lines]
    assert names == [DENSE.name, TUNED.name, "channels 1/2", *baselines]
    pruned = table.lines[2]
    assert pruned.parameters < table.lines[0].parameters
    whole = pruned.gains["whole, 1"]
    assert whole is not None and 1.5 < whole.fewer < 2.7
    assert table.lines[0].of_dense == Interval(1, 1, 1)

    monkeypatch.setattr(pruning_rows, "train", None)
    again = run(tiny)
    assert [line.mious for line in again.lines] == [line.mious for line in table.lines]
    written = json.loads(next(tiny.glob("*-pruning.json")).read_text())
    assert [line["row"]["name"] for line in written["lines"]] == names
    text = next(tiny.glob("*-pruning.md")).read_text()
    assert "real.bin is not there" in text and all(name in text for name in names)
    assert next(tiny.glob("*-pruning.png")).stat().st_size > 1000

    with pytest.raises(SystemExit, match="another task"):
        run(tiny, "--dense-steps", "21")


def test_a_row_comes_back_as_it_was(tiny: Path) -> None:
    """Plan and weights give the network that was judged, bit by bit; the seed alone decides what it learns."""
    task = parse(TINY).task
    shops = [Workshop.open(task, tiny)]
    (tiny / "other").mkdir()
    (tiny / "other" / "sweeps").symlink_to(tiny / "sweeps")
    shops.append(Workshop.open(task, tiny / "other"))
    found = []
    for shop in shops:
        for row in (DENSE, TUNED, *pruning_rows.PRUNED):  # the second one teaches the others
            shop.make(row, 1)
        network = shop.network(pruning_rows.PRUNED[0], 1)
        batches = list(pruning_rows.test_batches(task, shop.sweeps))
        got = pruning_rows.confusions(network, batches, len(batches))
        assert torch.equal(got, shop.confusion(pruning_rows.PRUNED[0], 1))
        assert (got.sum((1, 2)) == 580).all()  # points of unknown class are not judged
        found.append(network.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(found[0].values(), found[1].values(), strict=True))


def test_another_row_in_its_place_is_noticed(tiny: Path) -> None:
    shop = Workshop.open(parse(TINY).task, tiny)
    shop.make(DENSE, 0)
    with pytest.raises(ValueError, match="another row"):
        shop.finished(Row("dense", "dense", width=0.125, beside="x"), 0)
    record = shop.folder(DENSE, 0) / "row.json"
    found = json.loads(record.read_text())
    del found["row"]["lr"]  # written before rows had a learning rate of their own
    record.write_text(json.dumps(found))
    assert shop.finished(DENSE, 0) and not shop.finished(DENSE, 1)


def test_no_row_begins_without_time() -> None:
    clock = pruning.Clock(minutes=pruning.TIMING_MINUTES + 10)
    assert clock.allows("pruned")
    clock.took["pruned"] = 601
    assert not clock.allows("pruned") and clock.allows("baseline")
    assert pruning.Clock(minutes=0).allows("pruned")


def line(name: str, granularity: str, faster: float, low: float, strict: float = 0.9) -> Line:
    from pruning_timing import Gain
    from timing import Spread

    gain = Gain(Spread(faster, faster, faster, faster, 1), 4.0)
    deployed = Gain(Spread(2 * faster, 2 * faster, 2 * faster, 2 * faster, 1), 4.0)
    gains = {f"{w}, {t}": deployed if w == "deployed" else gain for w in GAINS for t in (1, 2)}
    row = Row(name, granularity, one("channels", 0.25))
    of_dense, of_trained_on = Interval(1, low, 1.01), Interval(1, strict, 1.01)
    lost = 0.002  # by bfloat16
    half = Interval(1, low - lost, 1.01), Interval(1, strict - lost, 1.01)
    return Line(row, [0], 0.5, [0.5], [], 1, 1, 10.0, 6.0, gains, of_dense, of_trained_on, [], *half)


def test_targets_ask_for_99_percent_first() -> None:
    lines = [
        line("c", "channels", 3.2, 0.995),
        line("o", "offsets", 1.7, 0.98),
        line("o per layer", "offsets per layer", 1.5, 0.992, 0.991),
        line("b", "channels + offsets", 3.9, 0.989),
    ]
    wide, _, _, offsets, offsets_strict, best, best_strict, deployed, deployed_strict = find_targets(lines)
    assert (wide.reached, wide.by, wide.met) == (3.2 / 4, "c", True)
    assert (offsets.reached, offsets.by, offsets.met) == (1.5, "o per layer", False)
    assert (best.reached, best.by, best.met) == (3.2, "c", True)
    assert (
        (best_strict.reached, best_strict.by)
        == (offsets_strict.reached, offsets_strict.by)
        == (1.5, "o per layer")
    )
    assert (deployed.reached, deployed.by, deployed.met) == (6.4, "c", True)
    assert (deployed_strict.reached, deployed_strict.met) == (None, False)  # 99.1 % less what bfloat16 loses
    assert not any(target.met for target in find_targets(lines[3:])[-6:])
    table = Table({}, {}, lines, targets=find_targets(lines))
    assert json.loads(json.dumps(as_json(table)))["lines"][0]["holds"] is True


def test_names_of_rows_are_folders_of_their_own_and_unknown_ones_are_refused() -> None:
    rows = (DENSE, TUNED, *PRUNED)
    assert len({row.slug for row in rows}) == len(rows) and len(PRUNED) <= 8
    assert all("/" not in row.slug for row in rows)
    with pytest.raises(ValueError, match="rows are"):
        pruning_rows.named_rows(["no such row"])
