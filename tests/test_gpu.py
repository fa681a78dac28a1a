# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""On a GPU, beside the CPU engine: maps, layers, networks, training with AMP. Skipped, aloud, where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine import random_tensor
from test_cuda_networks import NETWORKS, scan, step

import sparseconv
import sparseconv.nn as spnn
from sparseconv import SparseTensor
from sparseconv.models import MinkUNet14

HAVE_GPU = torch.cuda.is_available() and bool(sparseconv.show_config()["cuda"])
pytestmark = pytest.mark.skipif(
    not HAVE_GPU, reason="no GPU, or built without CUDA: nothing of sparseconv._cuda has run here"
)

MAPS: dict[str, dict[str, Any]] = {
    "submanifold": {"kernel_size": 3, "submanifold": True},
    "large": {"kernel_size": 5, "submanifold": True},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "even": {"kernel_size": 2, "stride": 2},
    "transposed": {"kernel_size": 2, "stride": 2, "transposed": True},
    "dilated": {"kernel_size": 3, "dilation": 2, "submanifold": True},
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> None:
    assert got.is_cuda and got.shape == want.shape
    assert float((got.cpu().double() - want.double()).abs().max()) <= tolerance * float(want.abs().max())


@pytest.mark.parametrize("rows", [0, 1, 700, 30000])
@pytest.mark.parametrize("name", MAPS)
def test_maps_are_those_of_the_cpu(name: str, rows: int) -> None:
    coords = random_tensor(3, rows, 1, extent=60, batch_size=3).coords
    here = sparseconv.build_kernel_map(coords, **MAPS[name])
    for method in ("hash", "sort", "auto"):
        there = sparseconv.build_kernel_map(coords.cuda(), method=method, **MAPS[name])
        for a, b in ((here, there), (here.reverse(), there.reverse())):
            for part in ("pairs", "tap_offsets", "out_coords"):
                assert torch.equal(getattr(a, part), getattr(b, part).cpu()), part
        assert torch.equal(here.neighbors, there.neighbors.cpu())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "channels", [(4, 32, 1), (64, 64, 1), (96, 48, 1), (32, 32, 32), (12, 30, 3)], ids=str
)
def test_convolution_and_its_gradients(channels: tuple[int, int, int], dtype: torch.dtype) -> None:
    """What must come out is the CPU's float64, from the values as they round."""
    c_in, c_out, groups = channels
    x = random_tensor(3, 5000, c_in, extent=40, batch_size=2)
    layer = spnn.SubMConv3d(c_in, c_out, 3, groups=groups).to(dtype)
    features, grad = x.features.to(dtype), torch.randn(len(x), c_out).to(dtype)
    results = []
    for device, kind in (("cpu", torch.float64), ("cuda", dtype), ("cuda", dtype)):
        copy = spnn.SubMConv3d(c_in, c_out, 3, groups=groups, device=device, dtype=kind)
        copy.load_state_dict(layer.state_dict())
        rows = features.to(device, kind).detach().requires_grad_()
        out = copy(SparseTensor(rows, x.coords.to(device), batch_size=2)).features
        out.backward(grad.to(device, kind))
        results.append([out.detach(), rows.grad, *(p.grad for p in copy.parameters())])
    for want, got, again in zip(*results, strict=True):
        close(got, want, TOLERANCE[dtype])
        assert torch.equal(got, again)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_is_the_cpus(name: str) -> None:
    network, x = NETWORKS[name]().double().train(), scan()
    coords, features, grads = step(network, x)
    there = step(network.cuda(), x.cuda())
    again = step(network, x.cuda())
    assert torch.equal(coords, there[0].cpu())
    for want, got, same in zip([features, *grads], [there[1], *there[2]], [again[1], *again[2]], strict=True):
        assert torch.equal(got, same)
        assert float((got.cpu() - want).norm()) <= 1e-9 * float(want.norm()) + 1e-12


def test_other_streams_and_back() -> None:
    x = random_tensor(3, 3000, 8, extent=30)
    x = x.replace(x.features.float()).cuda()
    layer = spnn.Conv3d(8, 16, 3, stride=2).cuda()
    expected = layer(x).features
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        got = layer(SparseTensor(x.features, x.coords)).features
    torch.cuda.synchronize()
    assert torch.equal(got, expected)
    assert torch.equal(x.cpu().coords, x.coords.cpu())


@pytest.mark.parametrize(
    ("name", "waits"), [("submanifold", 1), ("strided", 1), ("even", 1), ("transposed", 2)]
)
def test_how_often_the_host_waits_for_a_map(name: str, waits: int, recwarn: pytest.WarningsRecorder) -> None:
    """As docs/cuda_kernels.md says; torch warns at every wait of its own, and the core has none."""
    coords = random_tensor(3, 3000, 1, extent=40).coords.cuda()
    features = torch.ones(len(coords), 4, device="cuda")
    x, options = SparseTensor(features, coords), MAPS[name]
    geometry = {key: value for key, value in options.items() if key not in ("submanifold", "transposed")}
    kind = (
        spnn.SubMConv3d
        if options.get("submanifold")
        else spnn.ConvTranspose3d
        if options.get("transposed")
        else spnn.Conv3d
    )
    layer = kind(4, 4, **geometry, device="cuda")
    layer(SparseTensor(features, coords))  # what is set up once has been
    torch.cuda.set_sync_debug_mode("warn")
    try:
        recwarn.clear()
        layer(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in recwarn if "synchroniz" in str(w.message)]) == waits


def test_layers_over_cached_maps_are_captured_in_a_graph() -> None:
    x = scan(rows=3000)
    coords, features = x.coords.cuda(), x.features.float().cuda()
    network = spnn.Sequential(
        spnn.SubMConv3d(4, 16, 3),
        spnn.BatchNorm(16),
        spnn.ReLU(),
        spnn.SubMConv3d(16, 8, 3),
        spnn.MaxPool3d(2),
    )
    network, static = network.cuda().eval(), SparseTensor(features.clone(), coords)
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # maps, plans and workspaces are made before the capture
            for _ in range(3):
                network(static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = network(static)
        for seed in (1, 2):
            torch.manual_seed(seed)
            other = torch.randn_like(features)
            static.features.copy_(other)
            graph.replay()
            want = network(SparseTensor(other, coords))
            assert torch.equal(captured.features, want.features) and torch.equal(captured.coords, want.coords)


def test_scans_become_voxels_there() -> None:
    points, features = torch.randn(20000, 3) * 5, torch.randn(20000, 2)
    x, index = sparseconv.voxelize(points, features, voxel_size=0.3)
    y, there = sparseconv.voxelize(points.cuda(), features.cuda(), voxel_size=0.3)
    assert torch.equal(x.coords, y.coords.cpu()) and torch.equal(index, there.cpu())
    close(y.features, x.features, 1e-6)
    close(sparseconv.devoxelize(y, there), sparseconv.devoxelize(x, index), 1e-6)
    with pytest.raises(ValueError, match="rows 0 and 2"):
        SparseTensor(
            torch.ones(3, 1).cuda(), torch.tensor([[0, 1, 1, 1], [0, 2, 2, 2], [0, 1, 1, 1]]).int().cuda()
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_training_with_amp_learns(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = scan(rows=3000)
    x = x.replace(x.features.float()).cuda()
    truth = (x.features.sum(1) > 0).long()
    network = MinkUNet14(4, 2, width=0.5).cuda().train()
    optimizer, scaler = torch.optim.AdamW(network.parameters(), lr=2e-3), torch.amp.GradScaler("cuda")
    losses = []
    for _ in range(30):
        with torch.autocast("cuda", dtype=dtype):
            loss = torch.nn.functional.cross_entropy(network(x).features.float(), truth)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
