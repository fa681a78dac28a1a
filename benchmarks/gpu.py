# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Usage: python benchmarks/gpu.py [--scan PATH@0.1] [--channels 32,64,128,256] [--device cuda] [--json FILE]

Maps, single layers, 2:4 weights and whole networks on a GPU. Layers stand beside the gather-bmm-scatter dataflow in torch's own
operators, compared first, and beside their floor: products over the rate of a large torch.mm of the type, bytes over a copy's
bandwidth.
With --device cpu the same lines run on the CPU engine, which is how they are tested.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from gpu_cases import Clock, measure_layer, measure_maps, measure_network, measure_rates, measure_two_of_four
from scans import Scan, open_scan

import sparseconv

TYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "tf32": torch.float32,
    "float32": torch.float32,
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="gpu.py", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--scan", action="append", help="as for throughput.py; default simulated@0.1")
    parser.add_argument("--channels", default="32,64,128,256")
    parser.add_argument("--types", default="float16,tf32", help=f"of {','.join(TYPES)}")
    parser.add_argument("--networks", default="MinkUNet18,MinkUNet34,VoxelBackbone8x")
    parser.add_argument("--batches", default="1,2,4", help="scans in a batch of the networks")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not (torch.cuda.is_available() and sparseconv.show_config()["cuda"]):
        raise SystemExit("gpu.py: no GPU here, or sparseconv was built without CUDA")
    scans = [scan for name in given.scan or ["simulated@0.1"] for scan in open_scan(name, 0.1)]
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "rates": {},
        "rows": [],
    }
    for row in measure(given, scans, Clock(device, given.rounds), report["rates"]):
        report["rows"].append(row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        if given.json:  # after each row: the machine may go away
            given.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


def measure(
    given: argparse.Namespace, scans: Sequence[Scan], clock: Clock, rates: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """All rows, one after the other; puts the rates of each type into `rates`. Whole networks come last: they take longest."""
    labels = given.types.split(",")
    for scan in scans:
        yield from measure_maps(scan, clock)
    for label, dtype in of_types(labels):
        rates[label] = measure_rates(clock, dtype)
        for scan, channels in product(scans, map(int, given.channels.split(","))):
            yield {"type": label, **measure_layer(scan, channels, dtype, clock, rates[label])}
            sparse = measure_two_of_four(scan, channels, dtype, clock)
            if sparse is not None:
                yield {"type": label, **sparse}
    batches = [int(batch) for batch in given.batches.split(",")]
    for label, dtype in of_types(labels):
        for scan, name, batch in product(scans, given.networks.split(","), batches):
            yield {"type": label, **measure_network(name, scan, dtype, clock, batch)}


def of_types(labels: Sequence[str]) -> Iterator[tuple[str, torch.dtype]]:
    """Each label with its type, float32 products in TF32 or not meanwhile."""
    before = torch.get_float32_matmul_precision()
    try:
        for label in labels:
            torch.set_float32_matmul_precision("high" if label == "tf32" else "highest")
            yield label, TYPES[label]
    finally:
        torch.set_float32_matmul_precision(before)


if __name__ == "__main__":
    sys.exit(0 if all(row.get("agrees", True) for row in main()["rows"]) else 1)
