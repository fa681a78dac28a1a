# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""spconv 2.x on the CPU (its native algorithm).

Its CPU results are right with one thread only: its parallel scatter-add shares pointers between threads. Its backward pass
asks for a CUDA stream, so where there is no driver that one function is replaced. Importing this module needs spconv.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import spconv.pytorch as spconv
import spconv.pytorch.functional as spconv_functional
import spconv.pytorch.ops as spconv_ops
import torch
from engines import Engine, Options, Runner, UnsupportedError, lexicographic
from layers import Layer
from scans import Scan
from timing import Task
from torch import Tensor

import sparseconv

NATIVE = spconv.ConvAlgo.Native

if not torch.cuda.is_available():
    spconv_ops.get_current_stream = lambda: 0


def find_pairs(layer: Layer, scan: Scan) -> tuple[Tensor, Tensor, Tensor]:
    """spconv's map of a layer: output coordinates, pairs [2, K, N] and pairs per tap."""
    found: tuple[Tensor, Tensor, Tensor] = spconv_ops.get_indice_pairs(
        scan.coords,
        1,
        list(scan.shape),
        NATIVE,
        [layer.kernel] * 3,
        [layer.stride] * 3,
        [layer.padding] * 3,
        [1] * 3,
        [0] * 3,
        layer.kind == "subm",
    )
    return found


class SpconvRunner(Runner):
    """spconv's autograd functions over its own pairs: what its layers call once the map is cached."""

    def __init__(self, layer: Layer, scan: Scan, weight: Tensor) -> None:
        self.layer = layer
        kernel = (layer.kernel,) * 3
        self.settings: dict[str, Any] = {"stride": layer.stride, "submanifold": layer.kind == "subm"}
        own = sparseconv.convert.weight_to("spconv", weight, kernel, **self.settings)
        self.weight = own.detach().requires_grad_()
        coords, self.pairs, self.counts = find_pairs(layer, scan)
        if layer.kind == "subm":
            self.n_out, self.call = len(scan), spconv_functional.indice_subm_conv
        elif layer.kind == "conv":
            self.n_out, self.call = len(coords), spconv_functional.indice_conv
            self.out_rows = lexicographic(coords)
        else:
            self.n_out, self.call = len(scan), spconv_functional.indice_inverse_conv
            self.in_rows = lexicographic(coords).argsort()

    def forward(self, features: Tensor) -> Tensor:
        if self.layer.taps == 1:  # as its layers do
            return features @ self.weight.view(self.layer.c_in, self.layer.c_out)
        out: Tensor = self.call(features, self.weight, self.pairs, self.counts, self.n_out, NATIVE)
        return out

    def grad_weight(self) -> Tensor:
        kernel = (self.layer.kernel,) * 3
        return sparseconv.convert.weight_from("spconv", super().grad_weight(), kernel, **self.settings)


class SpconvEngine(Engine):
    """The CPU build of spconv."""

    name = "spconv"

    def version(self) -> str:
        return version("spconv")

    def runner(self, layer: Layer, scan: Scan, weight: Tensor, options: Options) -> Runner:
        if options.dtype != torch.float32 or options.device != "cpu":
            raise UnsupportedError("spconv: compared in float32 on the CPU")
        if layer.groups > 1:
            raise UnsupportedError("spconv: its native algorithm has no groups")
        return SpconvRunner(layer, scan, weight)

    def map_task(self, layer: Layer, scan: Scan, ours: sparseconv.KernelMap) -> tuple[Task, int]:
        return Task(lambda: find_pairs(layer, scan)), differing_pairs(layer, scan, ours)


def differing_pairs(layer: Layer, scan: Scan, ours: sparseconv.KernelMap) -> int:
    """How many pairs (tap, output row, input row) are in one map only; of a SubM map spconv keeps the first half of the taps."""
    coords, pairs, counts = find_pairs(layer, scan)
    if len(coords) != ours.n_out:
        return max(len(ours.pairs), 1)
    place = lexicographic(coords).argsort() if layer.kind == "conv" else torch.arange(ours.n_out)
    taps = (layer.taps - 1) // 2 if layer.kind == "subm" else layer.taps
    keys = []
    for tap, count in enumerate(counts.tolist()[:taps]):
        rows = pairs[:, tap, :count].to(torch.int64)
        keys.append((tap * ours.n_out + place[rows[1]]) * ours.n_in + rows[0])
    theirs = torch.cat(keys).sort().values
    own = ours.pairs[: int(ours.tap_offsets[taps])].to(torch.int64)
    tap_of_pair = torch.arange(taps).repeat_interleave(ours.tap_offsets.diff()[:taps])
    mine = ((tap_of_pair * ours.n_out + own[:, 1]) * ours.n_in + own[:, 0]).sort().values
    return int((~torch.isin(theirs, mine)).sum() + (~torch.isin(mine, theirs)).sum())


def rows_wrong_with_two_threads(scan: Scan, channels: int = 32, runs: int = 10) -> tuple[list[int], float]:
    """How many rows of a SubM k3 differ from spconv's own one-thread result, per run, and by how much at most."""
    layer = Layer("subm", channels, channels)
    runner = SpconvRunner(layer, scan, layer.make_weight())
    features = scan.features(channels)
    threads = torch.get_num_threads()
    rows, worst = [], 0.0
    try:
        torch.set_num_threads(1)
        with torch.no_grad():
            right = runner.forward(features)
            torch.set_num_threads(2)
            for _ in range(runs):
                difference = (runner.forward(features) - right).abs()
                # A sum of 27 x C products in another order stays far below this.
                rows.append(int((difference.amax(1) > 1e-3).sum()))
                worst = max(worst, float(difference.max()))
    finally:
        torch.set_num_threads(threads)
    return rows, worst
