# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Usage: python benchmarks/vectors.py [--scan NAME@VOXEL] [--channels 64,128] [--threads 1] [--json FILE]

Measures SubM k3 with vector-sparse weights, of random rows at some densities, beside the dense kernels with the same weights:
forward, and forward with both gradients. Compared first, timed in turns with the register loop. Then linear layers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import Rulers, describe
from scans import open_scan
from timing import Budget, Task, interleave, ratios
from torch import Tensor, nn

import sparseconv
import sparseconv.nn as snn
from sparseconv.formats import VectorSparseConv, VectorSparseLinear, vector_gain

DENSITIES = (1.0, 0.5, 0.25, 0.125)
LINEAR = ((1, 1024, 1024), (4096, 256, 256))  # rows, C_in, C_out
TOLERANCE = 1e-5


def random_rows(weight: Tensor, density: float) -> Tensor:
    """A mask [K, C_in, C_out] that keeps rows of 16 output channels at random."""
    taps, channels, c_out = weight.shape
    kept = torch.rand(taps, channels, -(-c_out // 16), generator=torch.Generator().manual_seed(0)) < density
    return kept.repeat_interleave(16, 2)[..., :c_out]


def compare(
    dense: nn.Module, sparse: nn.Module, x: Any, budget: Budget, multiply_adds: float
) -> dict[str, Any]:
    """Times of both layers, forward and with gradients, and what the multiply-adds that are left reach of the peak."""
    out = {}
    with torch.no_grad():
        want, got = (features(layer(x)) for layer in (dense, sparse))
    error = float((want - got).abs().max() / want.abs().max())
    if not error <= TOLERANCE:
        raise SystemExit(f"vectors.py: the layers differ by {error:.2g} of the largest value")
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(1))
    for name, run in (("forward", forward), ("forward + gradients", backward)):
        rulers = Rulers()
        tasks = {
            key: Task(lambda layer=layer, run=run: run(layer, x, grad))
            for key, layer in (("dense", dense), ("sparse", sparse))
        }
        timings = interleave({**tasks, **rulers.tasks}, budget)
        ratio = ratios(timings, "dense", "sparse")
        out[name] = {
            "dense_ms": 1e3 * median(timings.seconds["dense"]),
            "sparse_ms": 1e3 * median(timings.seconds["sparse"]),
            "ratio": ratio.median,
            "ratio_q1": ratio.q1,
            "ratio_q3": ratio.q3,
            "rounds": ratio.n,
            "fma_peak_gflops": median(timings.figures[Rulers.FMA]),
        }
        if run is forward:
            rates = zip(timings.seconds["sparse"], timings.figures[Rulers.FMA], strict=True)
            out[name]["of_peak"] = median(2 * multiply_adds / s / 1e9 / peak for s, peak in rates)
    return out


def features(y: Any) -> Tensor:
    """Of a SparseTensor or a plain one."""
    return y.features if isinstance(y, sparseconv.SparseTensor) else y


def forward(layer: nn.Module, x: Any, grad: Tensor) -> None:  # noqa: ARG001  as backward
    """Without a record."""
    with torch.no_grad():
        layer(x)


def backward(layer: nn.Module, x: Any, grad: Tensor) -> None:
    """Gradients of input, weight and bias."""
    source = features(x).detach().requires_grad_()
    layer.zero_grad()
    features(layer(x.replace(source) if isinstance(x, sparseconv.SparseTensor) else source)).backward(grad)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures and prints; returns what the JSON file holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", default="simulated@0.1", help="as for throughput.py")
    parser.add_argument("--channels", default="64,128")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each comparison, at most")
    parser.add_argument("--machine", help="in place of the processor's name")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    budget = Budget(rounds=15, seconds=options.seconds)
    machine = describe(options.machine, {"sparseconv": sparseconv.__version__, "torch": torch.__version__})
    rows = []
    for scan in open_scan(options.scan, 0.1):
        for channels in map(int, options.channels.split(",")):
            x = sparseconv.SparseTensor(scan.features(channels), scan.coords)
            pairs = sparseconv.build_kernel_map(
                scan.coords, kernel_size=3, submanifold=True
            ).tap_offsets.diff()
            for density in DENSITIES:
                torch.manual_seed(0)
                dense = snn.SubMConv3d(channels, channels, 3)
                sparse = VectorSparseConv.from_dense(dense, random_rows(dense.weight, density))
                kept = sparse.offsets.diff().view(27, -1).sum(1)
                work = float((pairs * kept * 16).sum())
                row = {
                    "scan": scan.label,
                    "layer": f"SubM k3 {channels}->{channels}",
                    "density": sparse.density,
                }
                row |= {"predicted": vector_gain(sparse.packed)}
                rows.append(row | compare(sparse.to_dense(), sparse, x, budget, work))
                show(rows[-1])
    for count, c_in, c_out in LINEAR:
        for density in DENSITIES:
            torch.manual_seed(0)
            linear = nn.Linear(c_in, c_out)
            mask = random_rows(linear.weight.t()[None], density)[0].t()
            thin = VectorSparseLinear.from_dense(linear, mask)
            row = {"layer": f"linear {count} x {c_in}->{c_out}", "density": thin.density}
            row |= {"predicted": vector_gain(thin.packed)}
            work = float(count * thin.packed.stored * 16)
            rows.append(row | compare(thin.to_dense(), thin, torch.randn(count, c_in), budget, work))
            show(rows[-1])
    result = {"machine": machine, "threads": options.threads, "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


def show(row: dict[str, Any]) -> None:
    """One line."""
    ahead, back = row["forward"], row["forward + gradients"]
    print(
        f"{row['layer']:26} density {row['density']:.3f}  forward {ahead['dense_ms']:8.3f} -> {ahead['sparse_ms']:8.3f} ms, "
        f"{ahead['ratio']:.2f} times ({row['predicted']:.2f} predicted, {100 * ahead['of_peak']:.0f} % of the peak)  "
        f"with gradients {back['dense_ms']:8.3f} -> {back['sparse_ms']:8.3f} ms, {back['ratio']:.2f} times",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
