# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What `gpu.py` measures: kernel maps, single layers, 2:4 weights, whole networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from scans import Scan
from torch import Tensor, nn

import sparseconv
import sparseconv.nn as spnn
from sparseconv import SparseTensor, functional, models
from sparseconv.formats import NMConv, fits_mma_sp, nm_mask

TOLERANCE = {
    torch.float32: 2e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}  # of the norm; float32 may be TF32


class Clock:
    """Milliseconds of calls, interleaved: by events on a GPU, else by the host's clock."""

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device, self.rounds = device, rounds

    def once(self, call: Callable[[], Any]) -> float:
        """Milliseconds of one call, the device idle before."""
        if self.device.type == "cpu":
            begin = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - begin)
        torch.cuda.synchronize(self.device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(self.device)
        return float(start.elapsed_time(end))

    def turns(self, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Medians by name; every round gives each its turn, two rounds warm up."""
        found: dict[str, list[float]] = {name: [] for name in calls}
        for done in range(self.rounds + 2):
            for name, call in calls.items():
                took = self.once(call)
                if done >= 2:
                    found[name].append(took)
        return {name: median(times) for name, times in found.items()}


def tensor_of(
    scan: Scan, channels: int, device: torch.device, dtype: torch.dtype, batch: int = 1
) -> SparseTensor:
    """Random features on a scan's cells, `batch` times over."""
    features = torch.cat([scan.features(channels, seed) for seed in range(batch)])
    coords = scan.coords.repeat(batch, 1)
    coords[:, 0] = torch.arange(batch, dtype=torch.int32).repeat_interleave(len(scan))
    return SparseTensor(features.to(device, dtype), coords.to(device), batch_size=batch)


def distance(got: Tensor, want: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    got, want = got.double(), want.double()
    return float((got - want).norm() / want.norm().clamp(min=1e-30))


def measure_rates(clock: Clock, dtype: torch.dtype) -> dict[str, float]:
    """TFLOP/s of torch.mm and TB/s of a copy: what floors are made of."""
    size = 4096 if clock.device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=clock.device).to(dtype) for _ in "ab")
    source = torch.zeros(size * size * 4, dtype=torch.float32, device=clock.device)
    target = torch.empty_like(source)
    took = clock.turns({"mm": lambda: a @ b, "copy": lambda: target.copy_(source)})
    return {"TFLOP/s": 2 * size**3 / took["mm"] / 1e9, "TB/s": 2 * source.numel() * 4 / took["copy"] / 1e9}


def measure_maps(scan: Scan, clock: Clock) -> list[dict[str, Any]]:
    """Kernel maps from raw coordinates, checks of the coordinates included."""
    coords, rows = scan.coords.to(clock.device), []
    cases: dict[str, dict[str, Any]] = {
        "SubM k3": {"kernel_size": 3, "submanifold": True},
        "k2 s2": {"kernel_size": 2, "stride": 2},
        "k3 s2 p1": {"kernel_size": 3, "stride": 2, "padding": 1},
    }
    for name, options in cases.items():
        took = clock.turns({"ms": partial(sparseconv.build_kernel_map, coords, **options)})
        rows.append({"suite": "maps", "scan": scan.label, "case": name, "voxels": len(scan), **took})
    return rows


def measure_layer(
    scan: Scan, channels: int, dtype: torch.dtype, clock: Clock, rates: dict[str, float]
) -> dict[str, Any]:
    """A SubM k3 with its map at hand: forward, and forward with both gradients."""
    x = tensor_of(scan, channels, clock.device, dtype)
    layer = spnn.SubMConv3d(channels, channels, 3, bias=False, device=clock.device, dtype=dtype)
    kernel_map = sparseconv.build_kernel_map(x.coords, kernel_size=3, submanifold=True)
    layer(x)
    features, weight = x.features.requires_grad_(), layer.weight
    grad = torch.randn_like(features)

    def ours(record: bool) -> Tensor:
        with torch.set_grad_enabled(record):
            out: Tensor = layer(x).features
        return out

    def plain(record: bool) -> Tensor:
        with torch.set_grad_enabled(record):
            return functional.conv(features, weight, None, kernel_map, dataflow="gather_scatter")

    error = distance(ours(False), plain(False))
    calls: dict[str, Callable[[], Any]] = {
        "forward ms": lambda: ours(False),
        "forward ms, gather-bmm-scatter": lambda: plain(False),
        "with gradients ms": lambda: torch.autograd.grad(ours(True), (features, weight), grad),
        "with gradients ms, gather-bmm-scatter": lambda: torch.autograd.grad(
            plain(True), (features, weight), grad
        ),
    }
    took = clock.turns(calls) if error <= TOLERANCE[dtype] else {}
    pairs = len(kernel_map.pairs)
    flops = 2.0 * pairs * channels**2 / (rates["TFLOP/s"] * 1e9)
    moved = (pairs + len(scan)) * channels * features.element_size() / (rates["TB/s"] * 1e9)
    return {
        "suite": "conv",
        "scan": scan.label,
        "case": f"SubM k3 {channels}->{channels}",
        "pairs": pairs,
        "error": error,
        "agrees": error <= TOLERANCE[dtype],
        "floor ms": max(flops, moved),
        **took,
    }


def measure_two_of_four(scan: Scan, channels: int, dtype: torch.dtype, clock: Clock) -> dict[str, Any] | None:
    """A SubM k3 whose weight is 2:4, by dense tensor cores and by sparse ones; None where these do not take it."""
    if not fits_mma_sp(2, 4, (27, channels, channels), dtype):
        return None
    dense = spnn.SubMConv3d(channels, channels, 3, bias=False)
    with torch.no_grad():
        dense.weight.mul_(nm_mask(dense.weight))
    layer = NMConv(dense).to(clock.device, dtype)
    x = tensor_of(scan, channels, clock.device, dtype)

    def run(kernel: str) -> Tensor:
        layer.kernel = kernel
        with torch.no_grad():
            out: Tensor = layer(x).features
        return out

    error = distance(run("mma_sp"), run("dense"))
    agrees = error <= TOLERANCE[dtype]
    names = {"forward ms": "dense", "forward ms, mma.sp": "mma_sp"}
    took = clock.turns({name: partial(run, kernel) for name, kernel in names.items()}) if agrees else {}
    case = f"SubM k3 {channels}->{channels}, 2:4"
    return {"suite": "2:4", "scan": scan.label, "case": case, "error": error, "agrees": agrees, **took}


def network_of(name: str) -> nn.Module:
    """A new network of `sparseconv.models` with 4 input channels, and 20 classes where it has any."""
    if name == "VoxelBackbone8x":
        return models.VoxelBackbone8x(4)
    network: nn.Module = getattr(models, name)(4, 20)
    return network


def measure_network(name: str, scan: Scan, dtype: torch.dtype, clock: Clock, batch: int) -> dict[str, Any]:
    """A whole network on a batch, maps included: inference and a training step, launches and peak memory of each on a GPU.

    Training is under autocast where the type has 16 bits.
    """
    inference = network_of(name).eval().to(clock.device, dtype)
    training = network_of(name).to(clock.device)
    x = tensor_of(scan, 4, clock.device, dtype, batch)
    wide = x.features.float()
    shape = scan.shape if name == "VoxelBackbone8x" else None

    def fresh(features: Tensor) -> SparseTensor:
        return SparseTensor(features, x.coords, spatial_shape=shape, batch_size=batch)

    def forward() -> None:
        with torch.inference_mode():
            inference(fresh(x.features))

    def step() -> None:
        training.zero_grad()
        with torch.autocast(clock.device.type, dtype, enabled=dtype != torch.float32):
            out = training(fresh(wide))
        out = out if isinstance(out, SparseTensor) else out[0]
        out.features.float().square().mean().backward()

    calls = {"forward": forward, "training step": step}
    row = {"suite": "network", "scan": scan.label, "case": name, "batch": batch, "voxels": len(x)}
    row |= clock.turns({f"{what} ms": call for what, call in calls.items()})
    for what, call in calls.items() if clock.device.type == "cuda" else ():
        torch.cuda.reset_peak_memory_stats(clock.device)
        row[f"{what}, launches"] = launches(call)
        row[f"{what}, peak MiB"] = torch.cuda.max_memory_allocated(clock.device) / 2**20
    return row


def launches(call: Callable[[], Any]) -> int:
    """Kernels that a call starts on the GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    on_gpu = (e for e in profile.events() if e.device_type.name == "CUDA")
    return sum(not e.name.startswith(("Memcpy", "Memset")) for e in on_gpu)
