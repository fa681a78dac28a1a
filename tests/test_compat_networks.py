# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Networks in the manner of OpenPCDet's and Pointcept's on the drop-in and on spconv's wheel: outputs, files, training."""

from __future__ import annotations

import io
from types import ModuleType

import numpy as np
import pytest
import torch
from engine import real_points
from spconv_engines import CHANNELS, ENGINES, assert_same, engine, scan_of
from spconv_twins import TWINS, Network, build
from torch import Tensor, nn

from sparseconv import convert

Engines = tuple[ModuleType, ModuleType]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    """The wheel and the drop-in."""
    wheel, drop_in = (engine(name, monkeypatch) for name in ENGINES)
    return wheel, drop_in


def through_a_file(source: nn.Module, target: nn.Module) -> None:
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    assert str(target.load_state_dict(torch.load(file))) == "<All keys matched successfully>"


@pytest.mark.parametrize("name", TWINS)
def test_outputs_and_files(engines: Engines, name: str) -> None:
    """The wheel's file in the drop-in and the drop-in's in the wheel; the same outputs on several scans."""
    wheel, drop_in = engines
    theirs, ours = build(name, wheel), build(name, drop_in, seed=1)
    through_a_file(theirs, ours)
    for seed in range(3):
        with torch.no_grad():
            assert_same(ours(*scan_of(seed)), theirs(*scan_of(seed)))
    other = build(name, wheel, seed=2)
    through_a_file(ours, other)
    for key, value in theirs.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


@pytest.mark.parametrize("name", TWINS)
def test_training_step(engines: Engines, name: str) -> None:
    """In training mode, norms included: the loss, every gradient, and the running statistics after it."""
    made = []
    for sp in engines:
        network = build(name, sp).train()
        network.load_state_dict(build(name, engines[0]).state_dict())
        made.append(network)
        outputs = [v if isinstance(v, Tensor) else v.features for v in network(*scan_of()).values()]
        torch.stack([v.square().mean() for v in outputs if v.is_floating_point()]).sum().backward()
    theirs, ours = made
    for (key, a), (_, b) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), key
        if a.grad is not None:
            error = float((a.grad - b.grad).abs().max())
            assert error <= 2e-4 * max(float(a.grad.abs().max()), 1e-2), f"{key}: {error}"
    for (key, a), (_, b) in zip(theirs.named_buffers(), ours.named_buffers(), strict=True):
        if key.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def street(network: Network) -> tuple[Tensor, Tensor, int]:
    """A 16 m crop of a sweep at 0.2 m, first-come order, z y x; sets the network's shape."""
    points = real_points("kitti_odometry_00_000000.bin")
    points = points[(np.abs(points[:, :2]) < 16).all(1)][:, ::-1]
    cells = np.floor((points - points.min(0)) / 0.2).astype(np.int32)
    _, first = np.unique(cells, axis=0, return_index=True)
    cells = cells[np.sort(first)]
    network.shape = [int(n) for n in cells.max(0) + 2]
    features = torch.randn(len(cells), CHANNELS, generator=torch.Generator().manual_seed(0))
    return features, torch.from_numpy(np.pad(cells, ((0, 0), (1, 0)))), 1


@pytest.mark.parametrize("name", TWINS)
def test_real_scan(engines: Engines, name: str) -> None:
    """The wheel, the drop-in, and our layers in the networks of both."""
    wheel, drop_in = engines
    theirs, ours = build(name, wheel), build(name, drop_in)
    ours.load_state_dict(theirs.state_dict())
    scan, _ = (street(network) for network in (theirs, ours))
    assert len(scan[0]) > 5000
    with torch.no_grad():
        want = theirs(*scan)
        for network in (ours, convert.from_spconv(theirs), convert.from_spconv(ours)):
            assert_same(network(*scan), want)
