# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Usage: python benchmarks/gpu.py [--scan PATH@0.1] [--channels 32,64,128,256] [--device cuda] [--json FILE]

Maps, single layers and whole networks on a GPU. Layers stand beside the gather-bmm-scatter dataflow in torch's own operators,
compared first, and beside their floor: products over the rate of a large torch.mm of the type, bytes over a copy's bandwidth.
With --device cpu the same lines run on the CPU engine, which is how they are tested.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from scans import Scan, open_scan
from torch import Tensor

import sparseconv
import sparseconv.nn as spnn
from sparseconv import SparseTensor, functional, models

TOLERANCE = {
    torch.float32: 2e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}  # of the norm; float32 may be TF32
TYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "tf32": torch.float32,
    "float32": torch.float32,
}


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


def tensor_of(scan: Scan, channels: int, device: torch.device, dtype: torch.dtype) -> SparseTensor:
    """Random features on a scan's cells."""
    return SparseTensor(scan.features(channels).to(device, dtype), scan.coords.to(device), batch_size=1)


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


def measure_network(name: str, scan: Scan, dtype: torch.dtype, clock: Clock) -> dict[str, Any]:
    """Inference of a whole network, maps included; its peak memory on a GPU."""
    network = models.MinkUNet18(4, 20) if name == "MinkUNet18" else models.VoxelBackbone8x(4)
    network = network.eval().to(clock.device, dtype)
    x = tensor_of(scan, 4, clock.device, dtype)
    shape = scan.shape if name == "VoxelBackbone8x" else None

    def run() -> None:
        with torch.inference_mode():
            network(SparseTensor(x.features, x.coords, spatial_shape=shape, batch_size=1))

    if clock.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(clock.device)
    took = clock.turns({"forward ms": run})
    row = {"suite": "network", "scan": scan.label, "case": name, "voxels": len(scan), **took}
    if clock.device.type == "cuda":
        row["peak MiB"] = torch.cuda.max_memory_allocated(clock.device) / 2**20
    return row


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="gpu.py", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--scan", action="append", help="as for throughput.py; default simulated@0.1")
    parser.add_argument("--channels", default="32,64,128,256")
    parser.add_argument("--types", default="float16,tf32", help=f"of {','.join(TYPES)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not (torch.cuda.is_available() and sparseconv.show_config()["cuda"]):
        raise SystemExit("gpu.py: no GPU here, or sparseconv was built without CUDA")
    clock = Clock(device, given.rounds)
    scans = [scan for name in given.scan or ["simulated@0.1"] for scan in open_scan(name, 0.1)]
    rows, rates = [], {}
    for scan in scans:
        rows += measure_maps(scan, clock)
    for label in given.types.split(","):
        torch.set_float32_matmul_precision("high" if label == "tf32" else "highest")
        rates[label] = measure_rates(clock, TYPES[label])
        for scan in scans:
            for channels in map(int, given.channels.split(",")):
                rows.append(
                    {"type": label, **measure_layer(scan, channels, TYPES[label], clock, rates[label])}
                )
            for name in ("MinkUNet18", "VoxelBackbone8x"):
                rows.append({"type": label, **measure_network(name, scan, TYPES[label], clock)})
    torch.set_float32_matmul_precision("highest")
    report = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "rates": rates,
        "rows": rows,
    }
    for row in rows:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    sys.exit(0 if all(row.get("agrees", True) for row in main()["rows"]) else 1)
