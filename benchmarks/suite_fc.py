# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Fully connected layers in the EIE format beside torch's dense product and torch's CSR (int32) on the same weights.

All three multiply the same weights, which are random: a share of them is not zero and has one of 15 values. Some activations are
zero; the format skips them, the others cannot. Between two of our calls the others' weights go through the caches.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass, replace

import torch
from checks import difference
from machine import COPY_BYTES, QUICK_COPY_BYTES, Rulers
from report import OURS, Check, Report, Row, row_of
from settings import Settings
from timing import Spread, Task, interleave
from torch import Tensor, nn

from sparseconv.formats import EIELinear, pack_eie

DENSE, CSR = "torch dense", "torch CSR"
TOLERANCE = 1e-5  # of the largest output
BREAK_EVEN_DENSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)


@dataclass(frozen=True)
class Layer:
    """A layer, the shares of its weights and activations that are not zero, and how many samples it takes at once."""

    name: str
    inputs: int
    outputs: int
    weights: float
    activations: float
    batch: int = 1

    @property
    def case(self) -> str:
        """What the row is called."""
        return f"{self.name}, {self.weights:.0%} of weights, batch {self.batch}"


ALEX_6 = Layer("Alex-6 9216 x 4096", 9216, 4096, 0.09, 0.35)
VGG_6 = Layer("VGG-6 25088 x 4096", 25088, 4096, 0.04, 0.183)
HEAD = Layer("point head 1024 x 1024", 1024, 1024, 0.10, 0.5)
LAYERS = (ALEX_6, VGG_6, HEAD, replace(ALEX_6, batch=4), replace(ALEX_6, batch=16), replace(HEAD, batch=16))
QUICK_LAYERS = (
    Layer("quick 512 x 256", 512, 256, 0.1, 0.35),
    Layer("quick 512 x 256", 512, 256, 0.1, 0.35, 5),
)


@dataclass
class Case:
    """A layer with its weights in three forms."""

    packed: EIELinear
    dense: nn.Linear
    csr: Tensor
    x: Tensor  # [batch, inputs]

    @staticmethod
    def of(layer: Layer) -> Case:
        """Random weights and activations, always the same."""
        torch.manual_seed(0)
        codes = torch.randint(1, 16, (layer.outputs, layer.inputs), dtype=torch.uint8)
        codes *= torch.rand(codes.shape) < layer.weights
        codebook = torch.cat([torch.zeros(1), torch.randn(15)]) / math.sqrt(layer.inputs * layer.weights)
        packed = EIELinear.from_matrix(pack_eie(codes, codebook), torch.randn(layer.outputs))
        packed.train_codebook(False)
        dense = packed.to_linear().requires_grad_(False)
        x = torch.randn(layer.batch, layer.inputs)
        x *= torch.rand(x.shape).argsort(1) < round(layer.activations * layer.inputs)
        return Case(packed, dense, csr_of(dense.weight), x)

    def tasks(self) -> dict[str, Task]:
        """A forward pass of each; the dense product of one sample is the matrix-vector product."""
        bias, one = self.dense.bias, self.x[0]
        if len(self.x) == 1:
            return {
                OURS: Task(lambda: self.packed(self.x)),
                DENSE: Task(lambda: torch.addmv(bias, self.dense.weight, one)),
                CSR: Task(lambda: (self.csr @ one).add_(bias)),
            }
        columns = self.x.T.contiguous()
        return {
            OURS: Task(lambda: self.packed(self.x)),
            DENSE: Task(lambda: self.dense(self.x)),
            CSR: Task(lambda: (self.csr @ columns).add_(bias[:, None])),
        }


def csr_of(weight: Tensor) -> Tensor:
    """The weight as CSR with int32 indices."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CSR is "in beta state"
        csr = weight.to_sparse_csr()
        return torch.sparse_csr_tensor(
            csr.crow_indices().int(), csr.col_indices().int(), csr.values(), csr.shape, check_invariants=False
        )


def run(settings: Settings, report: Report) -> None:
    """Every layer on one thread and, unless the command asks for a number, on two; then where dense weights are faster."""
    threads = (
        {settings.threads, 2} if settings.threads == 1 and (os.cpu_count() or 1) > 1 else {settings.threads}
    )
    layers = QUICK_LAYERS if settings.quick else LAYERS
    for count in sorted(threads):
        torch.set_num_threads(count)
        for layer in layers:
            measure(layer, count, settings, report)
        for layer in QUICK_LAYERS[:1] if settings.quick else (HEAD, ALEX_6):
            break_even(layer, count, settings, report)
    torch.set_num_threads(settings.threads)


def measure(layer: Layer, threads: int, settings: Settings, report: Report) -> None:
    """One layer: compared, then timed; the ceilings just before, since a copy each round would empty the caches."""
    case = Case.of(layer)
    tasks = agreeing(case, layer, report)
    rulers = Rulers()
    rulers.add_copy(QUICK_COPY_BYTES if settings.quick else COPY_BYTES)
    ceilings = interleave(rulers.tasks, replace(settings.budget, rounds=3))
    timings = interleave(tasks, replace(settings.budget, rounds=5 * settings.budget.rounds), again=False)
    row = row_of(("fc", "layer at hand", f"{threads} threads"), layer.case, threads, timings, tasks)
    matrix = case.packed.matrix
    rate = Spread.of(rulers.copy_rates(ceilings.seconds[Rulers.COPY])).median
    floor = bytes_touched(case) / (rate * 1e9)
    row.numbers = {
        "ns per entry": Spread.of(timings.seconds[OURS]).median * 1e9 / entries_read(case),
        "% of byte floor": 100 * floor / Spread.of(timings.seconds[OURS]).median,
        "MB to run from": case.packed.run_bytes() / 1e6,
        "MB at 64 PEs": matrix.size_bits()["total"] / 8e6,
        "MB dense": case.dense.weight.numel() * 4 / 1e6,
        "MB CSR": sum(t.numel() for t in (case.csr.values(), case.csr.col_indices(), case.csr.crow_indices()))
        * 4e-6,
        "FMA peak GFLOP/s": Spread.of(ceilings.figures[Rulers.FMA]).median,
    }
    report.add(row)


def agreeing(case: Case, layer: Layer, report: Report) -> dict[str, Task]:
    """The tasks of those that compute what float64 does."""
    expected = torch.nn.functional.linear(
        case.x.double(), case.dense.weight.double(), case.dense.bias.double()
    )
    with torch.no_grad():
        outputs = {
            name: (task.run() if len(case.x) == 1 or name != CSR else task.run().T)
            for name, task in case.tasks().items()
        }
    good = [
        name
        for name, out in outputs.items()
        if report.check(
            Check(
                layer.case,
                name,
                "output, of the largest value",
                difference(out.reshape(expected.shape).double(), expected),
                TOLERANCE,
            )
        )
    ]
    return {name: task for name, task in case.tasks().items() if name in good}


def entries_read(case: Case) -> int:
    """Entries, fillers included, of the columns that have an activation in some sample."""
    active = (case.x != 0).any(0)
    return int(case.packed.run_arrays[1].diff(dim=1)[:, active].sum())


def bytes_touched(case: Case) -> int:
    """What has to be read of the arrays that the kernel runs from, once: entries of columns with an activation, and pointers."""
    return entries_read(case) + case.packed.run_arrays[1].numel() * 4 + case.x.numel() * 4


def break_even(layer: Layer, threads: int, settings: Settings, report: Report) -> None:
    """The density at which the format takes as long as the dense product, between measured densities on a logarithmic scale."""
    points = []
    for density in BREAK_EVEN_DENSITIES:
        case = Case.of(replace(layer, weights=density))
        timings = interleave(
            {n: t for n, t in case.tasks().items() if n != CSR}, settings.budget, again=False
        )
        pairs = zip(timings.seconds[OURS], timings.seconds[DENSE], strict=True)
        points.append((density, Spread.of([a / b for a, b in pairs]).median))
        if points[-1][1] > 1:
            break
    row = Row("fc", "break-even with dense", f"{threads} threads", layer.name, threads, {})
    row.numbers = {f"time over dense at {d:.0%}": ratio for d, ratio in points}
    crossing = crossing_of(points)
    if crossing is not None:
        row.numbers["break-even density, %"] = 100 * crossing
    report.add(row)


def crossing_of(points: list[tuple[float, float]]) -> float | None:
    """Where the ratio passes 1 between the last two points; None if it never does or does from the start."""
    if len(points) < 2 or not points[-2][1] <= 1 < points[-1][1]:
        return None
    (low, below), (high, above) = ((math.log(d), math.log(r)) for d, r in points[-2:])
    return math.exp(low - below * (high - low) / (above - below))
