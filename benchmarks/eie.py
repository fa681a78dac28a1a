# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Usage: python benchmarks/eie.py [--output benchmarks/results] [--layers Alex-6,NT-We]

The cycle model of the EIE accelerator on the paper's nine layers, and where the format's bits go. Nothing is timed: the results
are the same on every machine. docs/eie.md says what the model leaves out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from eie_paper import LAYERS, READ, TABLES, PaperLayer
from eie_report import draw, tables
from torch import Tensor

from sparseconv.formats import expected_filler_rate, pack_eie
from sparseconv.formats.eie_cycles import broadcast_gaps, random_layer, simulate, work_of

PES = 64
SWEEP = tuple(2**i for i in range(9))  # queue depths, and numbers of PEs
ROUNDING = 0.005  # of the published weight densities


def times(layer: PaperLayer, mask: Tensor, active: Tensor) -> dict[str, float]:
    """Microseconds of the model, and how far from the published ones they are."""
    cycles = simulate(work_of(mask, PES), broadcast_gaps(active, PES))
    theoretical, actual = cycles.microseconds()
    return {
        "theoretical_us": theoretical,
        "actual_us": actual,
        "theoretical_off": theoretical / layer.theoretical_us - 1,
        "actual_off": actual / layer.actual_us - 1,
        "load_balance": cycles.load_balance,
    }


def sizes(layer: PaperLayer) -> dict[str, Any]:
    """Where the bits of a random layer go at 64 PEs, with the paper's 16-bit codebook entries and pointers."""
    torch.manual_seed(0)
    codes = torch.empty(layer.outputs, layer.inputs, dtype=torch.uint8)
    for rows in codes.split(256):  # the random numbers of all would take gigabytes
        rows.copy_(torch.rand(rows.shape) < layer.weights)
    matrix = pack_eie(codes, torch.zeros(16), pes=PES)
    bits = matrix.size_bits()
    dense = layer.inputs * layer.outputs
    return {
        "bits": bits,
        "pointer_bits": matrix.pointer_bits,
        "filler_rate": matrix.fillers / matrix.nonzeros,
        "filler_rate_theory": expected_filler_rate(layer.weights, round(layer.outputs / PES)),
        "weights_fewer": dense / matrix.nonzeros,
        "multiplications_fewer": dense / (matrix.nonzeros * layer.activations),
        "smaller_than_dense_32": 32 * dense / bits["total"],
        "smaller_than_dense_4": 4 * dense / bits["total"],
        "smaller_without_fillers_and_pointers": 4 * dense / bits["entries"],
    }


def measure(layer: PaperLayer) -> dict[str, Any]:
    """Everything about one layer."""
    mask, active = random_layer(layer.inputs, layer.outputs, layer.weights, layer.activations)
    found: dict[str, Any] = {"published": vars(layer), "model": times(layer, mask, active)}
    for end, shift in (("low", -ROUNDING), ("high", ROUNDING)):
        other, _ = random_layer(layer.inputs, layer.outputs, layer.weights + shift, layer.activations)
        found[f"model_{end}"] = times(layer, other, active)
    work, gaps = work_of(mask, PES), broadcast_gaps(active, PES)
    found["queues"] = {d: simulate(work, gaps, fifo_depth=d).load_balance for d in SWEEP}
    by_pes = {p: (work_of(mask, p), broadcast_gaps(active, p)) for p in SWEEP}
    cycles = {p: simulate(w, g) for p, (w, g) in by_pes.items()}
    found["speedup"] = {p: cycles[1].actual / c.actual for p, c in cycles.items()}
    found["load_balance_of_pes"] = {p: c.load_balance for p, c in cycles.items()}
    found["filler_share_of_pes"] = {p: 1 - int(mask.sum()) / c.entries for p, c in cycles.items()}
    found["sizes"] = sizes(layer)
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs, writes and returns the results."""
    parser = argparse.ArgumentParser(
        prog="eie.py", description="The EIE accelerator's cycles on the paper's layers."
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    parser.add_argument("--layers", help=f"of {','.join(layer.name for layer in LAYERS)}; default: all")
    given = parser.parse_args(arguments)
    names = given.layers.split(",") if given.layers else [layer.name for layer in LAYERS]
    unknown = set(names) - {layer.name for layer in LAYERS}
    if unknown:
        parser.error(f"no layer is called {', '.join(sorted(unknown))}")
    results = {
        "schema": 1,
        "published": {"tables": TABLES, **READ},
        "layers": {layer.name: measure(layer) for layer in LAYERS if layer.name in names},
    }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "eie-cycles.json").write_text(json.dumps(results, indent=1) + "\n")
    (given.output / "eie-cycles.md").write_text(tables(results))
    draw(results, given.output / "eie-cycles.png")
    return results


if __name__ == "__main__":
    main()
    sys.exit(0)
