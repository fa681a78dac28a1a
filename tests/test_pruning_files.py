# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Pruned networks on disk, profiles, sensitivity scans and reports."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import zoo
from safetensors.torch import save_file
from sparseconv.pruning import (
    Channels,
    FineGrained,
    Magnitude,
    Offsets,
    PerLayer,
    Points,
    Report,
    Sensitivity,
    analyze,
    load,
    make_plan,
    profile,
    save,
    sensitivity_scan,
)
from strategies import same_bits
from torch import nn

from sparseconv import SparseTensor, pruning


def pruned(model: nn.Module, x: SparseTensor) -> tuple[nn.Module, pruning.Plan]:
    """Channels, then taps, then weights, then rows: everything a file has to restore."""
    plan = make_plan(model, [x], granularity=Channels(round_to=1), ratio=0.4)
    for granularity in (Offsets(shared=True), FineGrained(), Points()):
        plan = plan.then(make_plan(plan.apply(model), [x], granularity=granularity, ratio=0.3))
    return plan.apply(model), plan


def test_a_file_restores_the_network_in_a_fresh_one(tmp_path: Path) -> None:
    model, x = zoo.create("UNet"), zoo.sites()
    smaller, plan = pruned(model, x)
    with torch.no_grad():
        for p in smaller.parameters():
            p.add_(0.01)  # trained on
    save(tmp_path / "a.safetensors", smaller, plan)
    assert [f.name for f in tmp_path.iterdir()] == ["a.safetensors"]
    fresh = zoo.create("UNet", seed=5)
    before = copy.deepcopy(fresh.state_dict())
    back, again = load(tmp_path / "a.safetensors", fresh)
    same_bits(back(x).features, smaller(x).features)
    assert again.to_json() == plan.to_json()
    assert all(torch.equal(v, before[k]) for k, v in fresh.state_dict().items())


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    smaller, plan = pruned(model, x)
    good = tmp_path / "good.safetensors"
    save(good, smaller, plan)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(tmp_path / "none.safetensors", model)
    bare = tmp_path / "bare.safetensors"
    save_file({"a": torch.ones(2)}, bare)
    with pytest.raises(ValueError, match="pruning plan"):
        load(bare, model)
    with pytest.raises(ValueError, match="does not fit"):
        load(good, zoo.create("UNet"))
    data = good.read_bytes()
    for size in (0, 4, 100, len(data) // 2, len(data) - 1):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"safetensors|plan|fit"):
            load(cut, model)
    for place in range(8, 400, 7):
        broken = bytearray(data)
        broken[place] ^= 0x15
        cut.write_bytes(broken)
        try:
            load(cut, model)
        except ValueError:
            continue  # anything else is a failure of this test


def test_counts_are_those_of_loops() -> None:
    """Multiply-accumulates recounted pair by pair from coordinates."""
    model, x = zoo.create("Plain"), zoo.sites()
    rows = {tuple(c) for c in x.coords.tolist()}
    expected = 0
    for layer in model.modules():
        if isinstance(layer, torch.nn.Module) and hasattr(layer, "taps"):
            reach = [(k - 1) // 2 for k in layer.kernel_size]
            pairs = 0
            for b, *cell in rows:
                for tap in layer.taps.tolist():
                    there = (b, *(c + t - r for c, t, r in zip(cell, tap, reach, strict=True)))
                    pairs += there in rows
            expected += pairs * layer.in_channels * layer.out_channels
        elif isinstance(layer, nn.Linear):
            expected += len(rows) * layer.in_features * layer.out_features
    found = profile(model, [x], rounds=1, warmup=0)
    assert found.networks[0].macs == expected == analyze(model, [x]).macs
    assert sum(layer.macs for layer in found.networks[0].layers) == expected


def test_profile_of_two_networks() -> None:
    model, x = zoo.create("UNet"), zoo.sites()
    smaller, _ = pruned(model, x)
    before = copy.deepcopy(model.state_dict())
    found = profile({"dense": model, "pruned": smaller}, [x], rounds=2)
    dense, other = found.networks
    assert other.macs < dense.macs and other.parameters < dense.parameters and other.size < dense.size
    assert other.nonzero < other.parameters
    assert found.speedup("dense") == 1 and found.efficiency("dense") == 1
    assert found.efficiency("pruned") == pytest.approx(
        dense.milliseconds / other.milliseconds * other.macs / dense.macs
    )
    assert all(layer.milliseconds > 0 for n in found.networks for layer in n.layers)
    assert dense.convolutions < dense.cached * 5
    assert "GMACs" in str(found) and json.dumps(found.to_data())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(KeyError, match="no network"):
        found["other"]
    with pytest.raises(ValueError, match="rounds"):
        profile(model, [x], rounds=0)


def evaluate(x: SparseTensor) -> object:
    return lambda m: float(m.eval()(x).features.detach().square().mean())


@pytest.mark.parametrize("granularity", [Channels(round_to=1), Offsets(shared=True), FineGrained()])
def test_a_row_of_the_scan_is_a_real_prune(granularity: object) -> None:
    model, x = zoo.create("Residual"), zoo.sites()
    before = copy.deepcopy(model.state_dict())
    scan = sensitivity_scan(
        model,
        [x],
        evaluate(x),  # type: ignore[arg-type]
        granularity=granularity,  # type: ignore[arg-type]
        ratios=(0, 0.25, 0.5),
        progress=False,
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    changed = 0
    for name, row in scan.accuracy.items():
        assert sorted(row) == [0.0, 0.25, 0.5]
        for ratio in (0.25, 0.5):
            plan = make_plan(model, [x], granularity=granularity, ratio=PerLayer({name: ratio}))  # type: ignore[arg-type]
            assert sum(entry.removed for entry in plan.steps[0].entries) > 0
            assert row[ratio] == evaluate(x)(plan.apply(model))  # type: ignore[operator]
            changed += row[ratio] != row[0.0]
    assert changed > len(
        scan.accuracy
    )  # coupled layers too: a scan that prunes nothing says "robust" of them


def test_a_scan_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    path = tmp_path / "scan.json"
    whole = sensitivity_scan(model, [x], evaluate(x), ratios=(0.5,), granularity=Channels(1), progress=False)  # type: ignore[arg-type]
    calls = 0

    def stops(m: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return evaluate(x)(m)  # type: ignore[operator, no-any-return]

    with pytest.raises(KeyboardInterrupt):
        sensitivity_scan(model, [x], stops, ratios=(0.5,), granularity=Channels(1), path=path, progress=False)
    kept = sum(len(row) for row in Sensitivity.from_json(path.read_text()).accuracy.values())
    again = 0

    def counts(m: nn.Module) -> float:
        nonlocal again
        again += 1
        return evaluate(x)(m)  # type: ignore[operator, no-any-return]

    found = sensitivity_scan(
        model, [x], counts, ratios=(0.5,), granularity=Channels(1), path=path, progress=False
    )
    assert found.accuracy == whole.accuracy
    assert again + 2 == 1 + len(whole.accuracy) and kept >= 2
    with pytest.raises(ValueError, match="was made with"):
        sensitivity_scan(
            model, [x], counts, ratios=(0.5,), granularity=Channels(2), path=path, progress=False
        )
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(ValueError, match="was made with"):  # trained on: the rows are another network's
        sensitivity_scan(
            model, [x], counts, ratios=(0.5,), granularity=Channels(1), path=path, progress=False
        )


def test_a_threshold_picks_ratios() -> None:
    rows = {"a": {0.0: 1.0, 0.3: 0.98, 0.6: 0.5, 0.9: 0.99}, "b": {0.0: 1.0, 0.3: 0.2, 0.6: 0.1, 0.9: 0.0}}
    scan = Sensitivity({}, rows, {"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.5})
    assert scan.baseline == 1.0
    assert scan.ratios(0.95).ratios == {"a": 0.3, "b": 0.0}  # not 0.9, which is beyond a bad one
    assert Sensitivity.from_json(scan.to_json()) == scan
    for text in (
        "",
        "[]",
        "{}",
        '{"settings": 1}',
        '{"settings": {}, "accuracy": {"a": 3}, "parameters": {}, "macs": {}}',
    ):
        with pytest.raises(ValueError, match="not a sensitivity scan"):
            Sensitivity.from_json(text)


def test_a_scan_is_drawn(tmp_path: Path) -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    scan = sensitivity_scan(model, [x], evaluate(x), ratios=(0.5,), criterion=Magnitude(1), progress=False)  # type: ignore[arg-type]
    scan.plot(tmp_path / "scan.png")
    assert (tmp_path / "scan.png").read_bytes()[:4] == b"\x89PNG"
    assert sum(scan.macs.values()) > 0 and all(0 < v <= 1 for v in scan.parameters.values())


def test_a_report_is_one_file(tmp_path: Path) -> None:
    model, x = zoo.create("UNet"), zoo.sites()
    smaller, plan = pruned(model, x)
    found = profile({"dense": model, "pruned <b>": smaller}, [x], rounds=1)
    report = Report("Title & more")
    report.text("one < two")
    report.networks(found, {"dense": 0.5, "pruned <b>": 0.4}, label="mIoU", mark=1)
    report.front({"dense": (2.0, 0.5), "pruned <b>": (1.0, 0.4)}, label="mIoU", first="dense")
    report.layers(found, "dense", "pruned <b>")
    report.plan(plan)
    report.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "Title &amp; more" in text and "one &lt; two" in text and "<b>" not in text
    assert "data:image/png;base64," in text and 'src="http' not in text and "href" not in text
    assert "80.0%" in text and text.count("<table>") >= 2
    with pytest.raises(ValueError, match="2 cells"):
        report.table(("a", "b"), [("only one",)])
