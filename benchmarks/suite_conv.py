# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Single convolutions with their map at hand: forward, and forward with both gradients, against peers and ceilings."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from checks import agree
from engines import Engine, Runner, TorchEngine, UnsupportedError, map_of
from layers import Layer, other_layers, square_layers
from machine import COPY_BYTES, QUICK_COPY_BYTES, Rulers
from report import OURS, Report, Row, row_of
from scans import Scan
from settings import Settings
from timing import Task, Timings, interleave
from torch import Tensor


def run(scans: list[Scan], engines: list[Engine], settings: Settings, report: Report) -> None:
    """Every layer on every scan."""
    for scan in scans:
        for layer in square_layers(settings.channels):
            measure(layer, scan, engines, settings, report, "submanifold, equal channels")
        for layer in other_layers(settings.other_channels):
            measure(
                layer, scan, engines, settings, report, "strided, inverse, 1x1, depthwise, unequal channels"
            )


def measure(
    layer: Layer, scan: Scan, engines: list[Engine], settings: Settings, report: Report, part: str
) -> None:
    """One layer on one scan: compare, then time forward, then forward with both gradients."""
    kernel_map = map_of(layer, scan)
    pairs, n_in, n_out = len(kernel_map.pairs), kernel_map.n_in, kernel_map.n_out
    weight = layer.make_weight()
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(n_in, layer.c_in, generator=generator)
    grad = torch.randn(n_out, layer.c_out, generator=generator)
    runners = build(layer, scan, weight, engines, settings, report)
    checked = dict(runners)
    if len(checked) == 1 and settings.options.dtype != torch.bfloat16:  # no peer can: compare all the same
        checked["torch"] = TorchEngine().runner(layer, scan, weight, settings.options)
    good = agree(report, f"{scan.label}, {layer.label}", checked, features, grad)
    runners = {name: r for name, r in runners.items() if name in good}

    for name, factor, tasks in (
        ("forward", 1, {n: Task(forward_task(r, features)) for n, r in runners.items()}),
        ("forward + gradients", 3, {n: Task(backward_task(r, features, grad)) for n, r in runners.items()}),
    ):
        rulers = Rulers()
        if layer.groups == 1:
            rulers.add_gemm(layer.c_in, layer.c_out)
        bytes_bound = factor == 1 and (layer.groups > 1 or layer.c_in < 16)
        if bytes_bound:
            rulers.add_copy(QUICK_COPY_BYTES if settings.quick else COPY_BYTES)
        timings = interleave({**tasks, **rulers.tasks}, settings.budget)
        row = row_of(("conv", f"{part}, {name}", scan.label), layer.label, settings.threads, timings, tasks)
        add_ceilings(row, timings, rulers, factor * layer.flops(pairs))
        if bytes_bound:
            item = torch.finfo(settings.options.dtype).bits // 8
            floor = layer.least_bytes(pairs, n_out, item)
            rates = rulers.copy_rates(timings.seconds[Rulers.COPY])
            own = timings.seconds[OURS]
            row.numbers["copy GB/s"] = median(rates)
            row.numbers["% of byte floor"] = 100 * median(
                floor / 1e9 / rate / s for rate, s in zip(rates, own, strict=True)
            )
        row.numbers |= {"pairs": pairs, "rows": n_out}
        report.add(row)


def build(
    layer: Layer, scan: Scan, weight: Tensor, engines: list[Engine], settings: Settings, report: Report
) -> dict[str, Runner]:
    """A runner per engine that can run the layer."""
    runners = {}
    for engine in engines:
        try:
            runners[engine.name] = engine.runner(layer, scan, weight, settings.options)
        except UnsupportedError as reason:
            if (
                engine.name != "dense" or "dense" in scan.label
            ):  # what dense is for is said once, by the options
                report.note(str(reason))
    return runners


def add_ceilings(row: Row, timings: Timings, rulers: Rulers, flops: float) -> None:
    """GFLOP/s of ours, and its share of the FMA peak and of sgemm in the same rounds."""
    own = [flops / s / 1e9 for s in timings.seconds[OURS]]
    row.numbers["GFLOP/s"] = median(own)
    # Round against round: the processor's clock moves by 15 % within a run, and the loop runs beside the kernel.
    peaks = timings.figures[Rulers.FMA]
    row.numbers["FMA peak GFLOP/s"] = median(peaks)
    row.numbers["% of FMA peak"] = 100 * median(a / b for a, b in zip(own, peaks, strict=True))
    row.numbers["cold ms"] = 1e3 * median(timings.cold[OURS])
    if Rulers.GEMM in timings.seconds:
        rates = rulers.gemm_rates(timings.seconds[Rulers.GEMM])
        row.numbers["of sgemm"] = median(a / b for a, b in zip(own, rates, strict=True))


def forward_task(runner: Runner, features: Tensor) -> Callable[[], Tensor]:
    """A forward pass that records nothing."""
    x = runner.load(features.to(runner.weight.dtype)).detach()

    def run_forward() -> Tensor:
        with torch.no_grad():
            return runner.forward(x)

    return run_forward


def backward_task(runner: Runner, features: Tensor, grad: Tensor) -> Callable[[], None]:
    """A forward pass and the gradients of input and weight."""
    x = runner.load(features.to(runner.weight.dtype))
    own_grad = runner.grad_outputs(grad.to(runner.weight.dtype))

    def run_backward() -> None:
        x.grad = runner.weight.grad = None
        runner.forward(x).backward(own_grad)

    return run_backward
