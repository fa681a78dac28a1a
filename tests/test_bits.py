# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The same bits from run to run, for every thread count, and from process to process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engine import random_tensor
from strategies import same_bits

import sparseconv
import sparseconv.nn as spnn
from sparseconv import functional


def gradients_of(build: Callable[[], torch.Tensor], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    out = build()
    cotangent = torch.sin(torch.arange(out.numel(), dtype=torch.float64)).reshape(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, cotangent, retain_graph=True)]


@pytest.mark.parametrize(
    "setting",
    [
        ("SubMConv3d", 16, 16, {"kernel_size": 3}),
        ("SubMConv3d", 32, 48, {"kernel_size": 5}),
        ("SubMConv3d", 3, 64, {"kernel_size": 3}),
        ("SubMConv3d", 32, 32, {"kernel_size": 3, "groups": 32}),
        ("SubMConv3d", 24, 36, {"kernel_size": 3, "groups": 3}),
        ("Conv3d", 32, 64, {"kernel_size": 3, "stride": 2, "padding": 1}),
        ("Conv3d", 96, 128, {"kernel_size": 2, "stride": 2}),
        ("ConvTranspose3d", 32, 16, {"kernel_size": 2, "stride": 2}),
    ],
    ids=lambda s: f"{s[0]}-{s[1]}-{s[2]}-k{s[3]['kernel_size']}-g{s[3].get('groups', 1)}",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conv_has_the_same_bits_for_any_run_and_thread_count(setting: tuple, dtype: torch.dtype) -> None:
    name, c_in, c_out, options = setting
    x = random_tensor(3, 5000, c_in, extent=22, batch_size=2, dtype=dtype, grad=True)
    layer = getattr(spnn, name)(c_in, c_out, **options).to(dtype)
    inputs = [x.features, *layer.parameters()]
    reference = None
    for threads in (1, 2, 3, 2, 1):
        torch.set_num_threads(threads)
        x.clear_cache()
        results = gradients_of(lambda: layer(x).features, inputs)
        reference = reference or results
        for a, b in zip(results, reference, strict=True):
            same_bits(a, b)
    assert all(bool(r.abs().sum() > 0) for r in reference)


def test_bits_do_not_depend_on_the_other_rows() -> None:
    """A row's output is the same whichever rows stand around it in the scan (tail tiles sum in the same order)."""
    x = random_tensor(3, 3000, 32, extent=40)
    layer = spnn.SubMConv3d(32, 48, 3)
    whole = layer(x).features.detach()
    for keep in (1, 5, 6, 7, 100, 777):
        far = torch.full_like(x.coords[:keep], 1000)  # the same rows, preceded by rows that touch nothing
        far[:, 0] = 0
        far[:, 1] += 10 * torch.arange(keep, dtype=torch.int32)
        moved = sparseconv.SparseTensor(
            torch.cat([torch.ones(keep, 32), x.features]), torch.cat([far, x.coords]), batch_size=1
        )
        same_bits(layer(moved).features.detach()[keep:], whole)


def test_the_comparison_of_bits_can_fail() -> None:
    a = torch.ones(4, 4)
    for b in (torch.nextafter(a, a + 1), a.double(), a[:3]):
        with pytest.raises(AssertionError):
            same_bits(a, b)
    with pytest.raises(AssertionError):
        same_bits(torch.zeros(1), -torch.zeros(1))


@pytest.mark.parametrize("reduce", ["mean", "max", "first", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_voxelize_and_devoxelize(reduce: str, dtype: torch.dtype) -> None:
    points = (torch.rand(20000, 3, dtype=dtype) - 0.5) * 8
    values = torch.randn(20000, 5, dtype=dtype, requires_grad=True)
    batch = torch.randint(0, 3, (20000,), dtype=torch.int32)
    reference = None
    for threads in (1, 2, 3, 2, 1):
        torch.set_num_threads(threads)
        x, index = sparseconv.voxelize(points, values, voxel_size=0.3, batch=batch, reduce=reduce)
        results = [x.coords, index]
        results += gradients_of(lambda x=x: x.features, [values])
        for mode in ("nearest", "trilinear"):
            places = {"voxel_size": 0.3, "batch": batch, "mode": mode}
            results += gradients_of(
                lambda x=x, places=places: sparseconv.devoxelize(x, points, **places), [values]
            )
        reference = reference or results
        for a, b in zip(results, reference, strict=True):
            same_bits(a, b)
    assert len(reference[0]) > 8192  # more than one task


@pytest.mark.parametrize("name", ["segment_sum", "segment_mean", "segment_max"])
def test_segments(name: str) -> None:
    x = torch.randn(30000, 7, requires_grad=True)
    index = torch.randint(0, 37, (30000,))
    reference = None
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        results = gradients_of(lambda: getattr(functional, name)(x, index, 40), [x])
        reference = reference or results
        for a, b in zip(results, reference, strict=True):
            same_bits(a, b)


TRAINING = """
import hashlib, torch, sparseconv, sparseconv.nn as nn
torch.manual_seed(0); torch.set_num_threads({threads})
net = nn.Sequential(nn.SubMConv3d(3, 16, 3), nn.BatchNorm(16), nn.ReLU(), nn.Conv3d(16, 24, 3, stride=2, padding=1),
                    nn.ReLU(), nn.MaxPool3d(2), nn.Linear(24, 5))
optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
points = torch.rand(4000, 3) * 4
for step in range(4):
    x, index = sparseconv.voxelize(points, voxel_size=0.2)
    optimizer.zero_grad(); net(x).features.square().mean().backward(); optimizer.step()
print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in net.parameters())).hexdigest())
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_training_repeats_from_process_to_process(threads: int) -> None:
    run = [sys.executable, "-c", TRAINING.format(threads=threads)]
    here = Path(__file__).resolve().parents[1]
    hashes = {
        subprocess.run(run, capture_output=True, text=True, check=True, cwd=here).stdout for _ in range(2)
    }
    assert len(hashes) == 1 and len(hashes.pop()) == 65
