# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Usage: python benchmarks/packed_weights.py [--scan PATH@0.1] [--threads 1,2] [--quick] [--output FOLDER]

Times layers over codes of 8 and 4 bits and over 2:4 weights beside float32, interleaved, with the bytes of each. Linear layers:
the sizes of AlexNet's first two (Han et al., "EIE", ISCA 2016) and a point head; convolutions: submanifold 3x3x3 over scans.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from machine import describe
from scans import Scan, open_scan
from timing import Budget, Task, interleave, ratios
from torch import nn

import sparseconv
import sparseconv.nn as snn
from sparseconv.formats import (
    NMConv,
    NMLinear,
    QuantizedConv,
    QuantizedLinear,
    nm_mask,
    quantize_weight,
    vector_mask,
)

FORMATS: dict[str, dict[str, Any]] = {
    "8 bits": {"bits": 8},
    "4 bits, groups of 32": {"bits": 4},
    "4 bits, codebook": {"bits": 4, "codebook": True},
}
LINEAR = (("Alex-6", 9216, 4096), ("Alex-7", 4096, 4096), ("point head", 1024, 1024), ("small head", 96, 20))
ROWS = (1, 4, 16, 64)
CHANNELS = (64, 128)
FLOAT = "float32"


def linear_rows(quick: bool, budget: Budget) -> Iterable[dict[str, Any]]:
    """Every linear layer and number of rows."""
    for name, c_in, c_out in LINEAR[2:] if quick else LINEAR:
        dense = nn.Linear(c_in, c_out)
        weight = dense.weight.detach().t()[None]
        layers: dict[str, nn.Module] = {FLOAT: dense}
        bits = {FLOAT: dense.weight.numel() * 32}
        for label, options in FORMATS.items():
            packed = quantize_weight(weight, scale="minmax", **options)
            layers[label] = QuantizedLinear(dense, packed)
            bits[label] = packed.size_in_bits
        sparse = nn.Linear(c_in, c_out)
        sparse.weight.data = torch.where(nm_mask(weight), weight, 0)[0].t().contiguous()
        layers["2:4"] = NMLinear(sparse)
        bits["2:4"] = layers["2:4"].size_in_bits  # type: ignore[assignment]
        for rows in ROWS:
            x = torch.randn(rows, c_in)
            tasks = {label: Task(_call(layer, x)) for label, layer in layers.items()}
            yield from _measured(f"{name} {c_in} x {c_out}, {rows} rows", tasks, bits, budget)


def conv_rows(scans: list[Scan], channels: Iterable[int], budget: Budget) -> Iterable[dict[str, Any]]:
    """SubM k3 on every scan."""
    for scan in scans:
        for c in channels:
            x = sparseconv.SparseTensor(scan.features(c), scan.coords)
            dense = snn.SubMConv3d(c, c, 3)
            layers: dict[str, nn.Module] = {FLOAT: dense}
            for label, options in FORMATS.items():
                layers[label] = QuantizedConv(dense, scale="minmax", **options)
            sparse = snn.SubMConv3d(c, c, 3)
            sparse.weight.data = torch.where(nm_mask(sparse.weight), sparse.weight, 0)
            layers["2:4"] = NMConv(sparse)
            rows = snn.SubMConv3d(c, c, 3)
            rows.weight.data = torch.where(vector_mask(rows.weight, 2, 4), rows.weight, 0)
            layers["2:4, masks shared by 16 outputs"] = NMConv(rows, kernel="vectors")
            bits = {k: v.size_in_bits for k, v in layers.items() if k != FLOAT}
            bits[FLOAT] = dense.weight.numel() * 32  # type: ignore[assignment]
            tasks = {label: Task(_call(layer, x)) for label, layer in layers.items()}
            yield from _measured(f"SubM k3 C={c}, {scan.label}, {len(scan):,} rows", tasks, bits, budget)


def _call(layer: nn.Module, x: Any) -> Any:
    def run() -> None:
        with torch.inference_mode(not isinstance(x, sparseconv.SparseTensor)), torch.no_grad():
            layer(x)

    return run


def _measured(
    name: str, tasks: dict[str, Task], bits: dict[str, Any], budget: Budget
) -> Iterable[dict[str, Any]]:
    timings = interleave(tasks, budget, warmup=2)
    for label in tasks:
        speed = ratios(timings, FLOAT, label)
        yield {
            "layer": name,
            "format": label,
            "threads": torch.get_num_threads(),
            "kB": int(bits[label]) / 8e3,
            "ms": sorted(timings.seconds[label])[len(timings.seconds[label]) // 2] * 1e3,
            "times_float32": speed.median,
            "quartiles": [speed.q1, speed.q3],
            "rounds": speed.n,
        }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| layer | threads | format | kB | ms | times as fast as float32 (quartiles) |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        low, high = r["quartiles"]
        speed = f"{r['times_float32']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(
            f"| {r['layer']} | {r['threads']} | {r['format']} | {r['kB']:.1f} | {r['ms']:.3f} | {speed} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scan", default="simulated@0.1", help="as for throughput.py")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--quick", action="store_true", help="small layers, few rounds")
    parser.add_argument("--output", type=Path, help="a folder for packed_weights.json and .md")
    arguments = parser.parse_args()
    budget = Budget(rounds=3, seconds=0.5) if arguments.quick else Budget(rounds=15, seconds=4.0, least=5)
    try:
        scans = list(open_scan(arguments.scan, 0.1))
        threads = [int(t) for t in arguments.threads.split(",")]
    except (OSError, ValueError) as error:
        raise SystemExit(f"packed_weights.py: {error}") from error
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for count in threads:
        torch.set_num_threads(count)
        rows += linear_rows(arguments.quick, budget)
        rows += conv_rows(scans, CHANNELS[:1] if arguments.quick else CHANNELS, budget)
    print(table(rows))
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        machine = describe(None, {"torch": torch.__version__, "sparseconv": sparseconv.__version__})
        data = {"machine": machine, "rows": rows}
        (arguments.output / "packed_weights.json").write_text(json.dumps(data, indent=1))
        text = f"# Packed weights\n\n{machine['name']}, {machine['date']}\n\n{table(rows)}\n"
        (arguments.output / "packed_weights.md").write_text(text)


if __name__ == "__main__":
    main()
