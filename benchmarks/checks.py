# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Do the engines compute the same? Looked at before anything is timed."""

from __future__ import annotations

import torch
from engines import Runner
from report import Check, Report
from torch import Tensor

# Of the largest value, at least of 1: float32, another order of summation, up to 10^5 terms in a weight gradient.
TOLERANCE = 1e-4
TOLERANCE_BFLOAT16 = 2e-2  # storage keeps 8 bits; sums are float32


def difference(got: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value (at least 1); infinite where shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    got, expected = got.double(), expected.double()
    return float((got - expected).abs().max() / max(1.0, float(expected.abs().max())))


def results(runner: Runner, features: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """Output and both gradients, rows in the shared order."""
    x = runner.load(features.to(runner.weight.dtype))
    out = runner.forward(x)
    out.backward(runner.grad_outputs(grad.to(out.dtype)))
    if x.grad is None:
        raise RuntimeError("the engine gave no gradient of its input")
    found = {
        "output": runner.outputs(out.detach()),
        "gradient of the input": runner.grad_inputs(x.grad),
        "gradient of the weight": runner.grad_weight(),
    }
    runner.weight.grad = None
    return found


def agree(report: Report, case: str, runners: dict[str, Runner], features: Tensor, grad: Tensor) -> list[str]:
    """The engines whose results equal those of the first one, which is among them; checks go to the report."""
    first, *others = runners
    tolerance = TOLERANCE_BFLOAT16 if runners[first].weight.dtype == torch.bfloat16 else TOLERANCE
    expected = results(runners[first], features, grad)
    good = [first]
    for name in others:
        got = results(runners[name], features, grad)
        right = True
        for what, value in expected.items():
            right &= report.check(Check(case, name, what, difference(got[what], value), tolerance))
        if right:
            good.append(name)
    return good


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit."""
    return a.shape == b.shape and torch.equal(a, b)
