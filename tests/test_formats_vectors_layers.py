# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Vector-sparse layers in networks: state dicts, swaps, fine-tuning, bad input."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from engine import random_tensor, refuses
from strategies import close, same_bits
from vector_cases import (
    LAYERS,
    pruned_layer,
    same_sums,
    small_arguments,
)

import sparseconv
import sparseconv.nn as snn
from sparseconv import _native_vectors, formats, pruning
from sparseconv.formats import VectorSparseConv, VectorSparseLinear, VectorWeight, pack_vectors, to_vectors


@pytest.mark.parametrize("name", LAYERS)
def test_to_dense_state_dict_and_copies(name: str) -> None:
    dense = pruned_layer(name, 20, 36, 0.4, groups=2)
    layer = VectorSparseConv.from_dense(dense)
    back = layer.to_dense()
    assert type(back) is type(dense) and back.geometry == dense.geometry
    assert set(layer.state_dict()) == {"values", "present", "bias"}
    assert torch.equal(back.weight, dense.weight) and torch.equal(back.bias, dense.bias)
    other = VectorSparseConv.from_dense(pruned_layer(name, 20, 36, 0.9, groups=2))
    other.load_state_dict(layer.state_dict())  # any pattern of the same shape
    for twin in (other, copy.deepcopy(layer), VectorSparseConv.from_dense(back)):
        assert torch.equal(twin.decoded(), dense.weight) and torch.equal(twin.offsets, layer.offsets)
    double = copy.deepcopy(layer).double()
    assert double.values.dtype == torch.float64 and double.present.dtype == torch.uint8
    assert [n for n, _ in layer.named_parameters()] == ["bias", "values"] or layer.values.requires_grad


def test_hostile_state_dicts_are_refused_and_change_nothing() -> None:
    x = random_tensor(3, 100, 20, extent=6)
    layer = VectorSparseConv(pruned_layer("SubMConv3d", 20, 36, 0.4))
    good = {k: v.clone() for k, v in layer.state_dict().items()}
    before = layer(x).features
    bits = good["present"].clone()
    bits[0] ^= 1
    padded = good["values"].clone()
    last = layer.packed.unpack(torch.ones_like(layer.values))[..., 32:].abs().sum() > 0
    assert last
    padded[:, 4:] = 1.0
    longer = torch.cat([good["present"], good["present"][:1]])
    over = good["present"].clone()
    over[-1] |= 0x80
    assert layer.packed.rows % 8, "there are bits after the last row"
    hostile = {
        "another bit": {"present": bits},
        "a row too few": {"values": good["values"][1:]},
        "a column too few": {"values": good["values"][:, :8]},
        "numbers beyond the last channel": {"values": padded},
        "a byte too many": {"present": longer},
        "bits after the last row": {"present": over},
        "another type": {"present": good["present"].to(torch.int64)},
        "whole numbers": {"values": good["values"].to(torch.int32)},
        "a scalar": {"values": torch.tensor(1.0)},
    }
    for what, change in hostile.items():
        with pytest.raises(ValueError, match=r"present|values"):
            layer.load_state_dict({**good, **change})
        same_bits(layer(x).features, before)
        assert what
    with pytest.raises(ValueError, match="together"):
        layer.load_state_dict({k: v for k, v in good.items() if k != "present"}, strict=False)


def test_the_core_checks_the_lists_that_it_gets() -> None:
    features, packed, kernel_map = small_arguments()
    offsets, channels = packed.lists()
    out = features.new_empty(len(features), 34)

    def call(offsets: torch.Tensor, channels: torch.Tensor, values: torch.Tensor) -> None:
        _native_vectors.vectors_gather_gemm(
            features, offsets, channels, values, None, kernel_map.pairs, kernel_map.tap_offsets, 2, out
        )

    call(offsets, channels, packed.values)
    for place, value in ((0, 1), (3, 10**9), (3, -1), (-1, 10**6)):
        bad = offsets.clone()
        bad[place] = value
        refuses(lambda bad=bad: call(bad, channels, packed.values), "offsets")
    for value in (-1, 2, 2**31 - 1):
        bad = channels.clone()
        bad[0] = value
        refuses(lambda bad=bad: call(offsets, bad, packed.values), "channels")
    refuses(lambda: call(offsets[:-1], channels, packed.values), "offsets")
    refuses(lambda: call(offsets, channels, packed.values[:-1]), "values")
    refuses(lambda: call(offsets, channels, packed.values.float()), "values", kind=TypeError)


def test_bad_arguments() -> None:
    refuses(lambda: pack_vectors(torch.ones(2, 3)), r"\[2, 3\]")
    refuses(lambda: pack_vectors(torch.ones(1, 2, 3, dtype=torch.int64)), "int64", kind=TypeError)
    refuses(lambda: pack_vectors(torch.ones(1, 2, 3), groups=2), "groups", "2")
    refuses(lambda: pack_vectors(torch.ones(1, 2, 3), torch.ones(2, 2, 3, dtype=torch.bool)), "mask")
    refuses(lambda: pack_vectors(torch.ones(1, 2, 3), torch.ones(1, 2, 3)), "mask", kind=TypeError)
    refuses(lambda: VectorWeight((1, 2), 1, torch.zeros(1, dtype=torch.uint8), torch.ones(0, 16)), "shape")
    refuses(lambda: formats.vector_mask(torch.ones(1, 6, 16), 2, 4), "multiple")
    refuses(lambda: to_vectors(torch.nn.Linear(4, 4), -1.0), "min_gain")
    refuses(lambda: VectorSparseConv(torch.nn.Linear(4, 4)), "Linear", kind=TypeError)
    layer = VectorSparseConv(pruned_layer("SubMConv3d", 20, 36, 0.4))
    refuses(lambda: layer(random_tensor(3, 9, 21, extent=4)), "20", "21")
    refuses(lambda: layer(random_tensor(3, 9, 20, extent=4, dtype=torch.float64)), "float64", kind=TypeError)


def pruned_network() -> tuple[torch.nn.Module, torch.nn.Module, sparseconv.SparseTensor]:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {
            "body": snn.Sequential(
                snn.SubMConv3d(4, 64, 3), snn.ReLU(), snn.SubMConv3d(64, 64, 3), snn.ReLU()
            ),
            "head": snn.Sequential(snn.Linear(64, 96), snn.ReLU(), snn.Linear(96, 5)),
        }
    )
    network = snn.Sequential(*model["body"], *model["head"]).eval()
    x = random_tensor(3, 400, 4, extent=10)
    plan = pruning.make_plan(
        network,
        [x],
        granularity=pruning.Vectors(16),
        ratio=pruning.Uniform(0.75),
        criterion=pruning.Magnitude(),
    )
    return network, plan.apply(network), x


def test_a_pruned_network_swaps_what_pays_and_says_so() -> None:
    _, masked, x = pruned_network()
    swapped, report = to_vectors(masked)
    chosen = {layer.name for layer in report.layers if layer.chosen}
    assert {"2"} <= chosen and isinstance(swapped[2], VectorSparseConv)
    assert [layer.name for layer in report.layers] == ["0", "2", "4", "6"]
    by_name = {layer.name: layer for layer in report.layers}
    assert abs(by_name["2"].density - 0.25) < 0.01 and by_name["2"].gain > 2
    assert by_name["2"].bits < 0.3 * by_name["2"].dense_bits
    close(swapped(x).features, masked(x).features, 1e-6)
    text = str(report)
    assert "vectors" in text and len(text.splitlines()) == 5
    left, report = to_vectors(masked, ignore=["2"])
    assert isinstance(left[2], snn.SubMConv3d) and "ignored" in str(report)
    everything, report = to_vectors(masked, 0)
    assert all(layer.chosen for layer in report.layers)
    close(everything(x).features, masked(x).features, 1e-5)
    dense, report = to_vectors(pruned_network()[0])
    assert not any(layer.chosen for layer in report.layers) and isinstance(dense[2], snn.SubMConv3d)


def test_fine_tuning_moves_the_stored_rows_only() -> None:
    _, masked, x = pruned_network()
    swapped, _ = to_vectors(masked, 0)
    absent = swapped[2].decoded() == 0

    def loss(model: torch.nn.Module, batch: sparseconv.SparseTensor) -> torch.Tensor:
        return (model(batch).features - 1).square().mean()

    losses = pruning.fine_tune(swapped, [x], loss, steps=5, lr=0.02, progress=False)
    assert losses[-1] < losses[0]
    after = swapped[2].decoded()
    assert (after[absent] == 0).all() and not torch.equal(after, masked[2].weight)
    refined = copy.deepcopy(swapped)
    refined.load_state_dict(swapped.state_dict())
    same_bits(refined(x).features, swapped(x).features)


def test_autocast_and_compile() -> None:
    x = random_tensor(3, 200, 24, extent=7)
    dense = pruned_layer("SubMConv3d", 24, 40, 0.5)
    layer = VectorSparseConv(dense)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, want = layer(x).features, dense(x).features
    assert got.dtype == torch.bfloat16
    same_sums(got, want)
    linear = VectorSparseLinear(torch.nn.Linear(20, 30))
    compiled = torch.compile(linear, fullgraph=True, backend="eager")
    rows = torch.randn(9, 20)
    same_bits(compiled(rows), linear(rows))


def test_the_benchmark_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import vectors

    monkeypatch.setattr(vectors, "LINEAR", ((3, 20, 40),))
    options = [
        "--scan",
        "dense-grid@5",
        "--channels",
        "24",
        "--seconds",
        "0.01",
        "--json",
        str(tmp_path / "a.json"),
    ]
    before = torch.get_num_threads()
    try:
        result = vectors.main(options)
    finally:
        torch.set_num_threads(before)
    assert len(result["rows"]) == 8 and (tmp_path / "a.json").exists()
    assert all(row["forward"]["ratio"] > 0 for row in result["rows"])
