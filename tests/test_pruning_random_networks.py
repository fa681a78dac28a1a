# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Random networks: whatever is pruned equals zeros, by the rules alone, without the trial that the analysis ends with."""

from __future__ import annotations

import random
from typing import Any

import pytest
import test_pruning_zoo as checks
import torch
import torch.nn.functional as F
import zoo
from hypothesis import given
from hypothesis import strategies as st
from sparseconv.pruning import Channels, Random, analyze, make_plan
from torch import nn

import sparseconv
import sparseconv.nn as snn


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Operations:
    """Each makes its layers when the network is built and returns what forward does: (network, features, x) -> features.

    A layer is found by its number in the network that runs, since a copy has layers of its own.
    """

    def __init__(self, rng: random.Random, layers: nn.ModuleList, weights: nn.ParameterList) -> None:
        self.rng, self.layers, self.weights = rng, layers, weights

    def add(self, layer: nn.Module) -> int:
        self.layers.append(layer)
        return len(self.layers) - 1

    def parameter(self, value: torch.Tensor) -> int:
        self.weights.append(nn.Parameter(value))
        return len(self.weights) - 1

    def width(self) -> int:
        return self.rng.choice([4, 6, 8, 12])

    def sparse(self, layer: nn.Module) -> Any:
        i = self.add(layer)
        return lambda m, h, x: m.layers[i](x.replace(h)).features

    def conv(self, c: int) -> Any:
        return self.sparse(
            snn.SubMConv3d(c, self.width(), self.rng.choice([1, 3]), bias=self.rng.random() < 0.5)
        )

    def linear(self, c: int) -> Any:
        i = self.add(nn.Linear(c, self.width()))
        return lambda m, h, x: m.layers[i](h)

    def matrix(self, c: int) -> Any:
        i = self.parameter(torch.randn(c, self.width()) / c**0.5)
        return lambda m, h, x: h @ m.weights[i]

    def depthwise(self, c: int) -> Any:
        return self.sparse(snn.SubMConv3d(c, c * self.rng.choice([1, 2]), 3, groups=c))

    def grouped(self, c: int) -> Any:
        return self.sparse(snn.SubMConv3d(c, 2 * self.width(), 3, groups=2)) if c % 2 == 0 else self.act(c)

    def round_trip(self, c: int) -> Any:
        wide = self.width()
        down, up = (
            self.add(snn.Conv3d(c, wide, 2, stride=2)),
            self.add(snn.InverseConv3d(wide, c, 2, stride=2)),
        )
        return lambda m, h, x: m.layers[up](m.layers[down](x.replace(h)), x).features + h

    def pooled(self, c: int) -> Any:
        pool = self.rng.choice([snn.MaxPool3d, snn.AvgPool3d])(2)
        back = snn.Unpool3d(2)
        return lambda m, h, x: back(pool(x.replace(h)), x).features

    def norm(self, c: int) -> Any:
        return self.sparse(
            self.rng.choice([snn.BatchNorm, snn.BatchNorm, snn.InstanceNorm, snn.LayerNorm])(c)
        )

    def act(self, c: int) -> Any:
        kind = self.rng.choice(
            [torch.relu, torch.sigmoid, F.softplus, F.gelu, lambda h: h.abs().clamp(max=2)]
        )
        return lambda m, h, x: kind(h)

    def gate(self, c: int) -> Any:
        small = self.add(nn.Sequential(nn.Linear(c, 4), nn.ReLU(), nn.Linear(4, c), nn.Sigmoid()))
        pool = snn.GlobalAvgPool()
        return lambda m, h, x: h * m.layers[small](pool(x.replace(h)))[x.coords[:, 0].long()]

    def scale(self, c: int) -> Any:
        i = self.parameter(torch.rand(self.rng.choice([(c,), (1, c), (1, 1)])) + 0.5)
        return lambda m, h, x: h * m.weights[i]

    def pieces(self, c: int) -> Any:
        half = c // 2
        return self.rng.choice(
            [
                lambda m, h, x: torch.cat([h[:, half:], h[:, :half]], 1),
                lambda m, h, x: h.flip(1),
                lambda m, h, x: h.roll(1, 1),
                lambda m, h, x: h.view(len(h), -1, 2).transpose(1, 2).reshape(len(h), -1),
                lambda m, h, x: h - h.mean(1, keepdim=True),
                lambda m, h, x: torch.softmax(h, 1),
                lambda m, h, x: h.cumsum(1),
                lambda m, h, x: h[:, torch.arange(h.shape[1] - 1, -1, -1)],
            ]
        )

    def rows(self, c: int) -> Any:
        return self.rng.choice(
            [
                lambda m, h, x: h - h.mean(0),
                lambda m, h, x: torch.softmax(h, 0) * 5,
                lambda m, h, x: h.flip(0),
                lambda m, h, x: h.t().contiguous().t(),
                lambda m, h, x: torch.cat([h[:5], h[5:]]),
                lambda m, h, x: torch.stack([h, h.sin()]).amax(0),
                lambda m, h, x: torch.zeros_like(h).index_add(0, torch.arange(len(h)), h),
                lambda m, h, x: h.clone().index_put((x.coords[:, 1] > 0,), h.new_tensor(0.3)),
                lambda m, h, x: torch.where((x.coords[:, 2] > 0)[:, None], h, h * 0.5),
            ]
        )


UNARY = ("conv", "conv", "linear", "matrix", "depthwise", "grouped", "round_trip", "pooled", "norm", "act", "gate", "scale",
         "pieces", "rows")  # fmt: skip
BINARY = {
    "sum": lambda a, b: a + b,
    "product": lambda a, b: a * torch.sigmoid(b),
    "maximum": torch.maximum,
    "cat": lambda a, b: torch.cat([a, b], 1),
    "sparse cat": None,
}


class RandomNetwork(nn.Module):
    """A pool of tensors on the same sites, to which random operations add; a linear layer reads the last."""

    def __init__(self, seed: int, size: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.layers, self.weights = nn.ModuleList(), nn.ParameterList()
        operations = Operations(rng, self.layers, self.weights)
        widths, self.steps, self.said = [4], [], []
        x = zoo.sites(n=20)
        for _ in range(size):
            pick = len(widths) - 1 if rng.random() < 0.75 else rng.randrange(len(widths))  # mostly a chain
            same = [i for i, w in enumerate(widths) if w == widths[pick]]
            if rng.random() < 0.35:
                kind = rng.choice(list(BINARY))
                other = rng.randrange(len(widths)) if "cat" in kind else rng.choice(same)
                if kind == "sparse cat":
                    self.steps.append(
                        (
                            pick,
                            other,
                            lambda m, a, b, x: sparseconv.cat([x.replace(a), x.replace(b)]).features,
                        )
                    )
                else:
                    self.steps.append((pick, other, lambda m, a, b, x, f=BINARY[kind]: f(a, b)))
                widths.append(widths[pick] + widths[other] if "cat" in kind else widths[pick])
                self.said.append(f"{kind} {pick} {other}")
            else:
                kind = rng.choice(UNARY)
                step = getattr(operations, kind)(widths[pick])
                self.steps.append((pick, None, lambda m, a, b, x, f=step: f(m, a, x)))
                with torch.no_grad():
                    widths.append(
                        step(
                            self, torch.zeros(len(x), widths[pick]), x.replace(torch.zeros(len(x), 1))
                        ).shape[1]
                    )
                self.said.append(f"{kind} {pick} -> {widths[-1]}")
        last = operations.linear(widths[-1])  # reads the last one, whose channels are free to go
        self.steps.append((len(widths) - 1, None, lambda m, a, b, x: last(m, a, x)))

    def forward(self, x):
        pool = [x.features]
        for first, other, step in self.steps:
            pool.append(step(self, pool[first], None if other is None else pool[other], x))
        return pool[-1:]

    def extra_repr(self) -> str:
        return "; ".join(self.said)


@given(st.integers(0, 10**6), st.integers(3, 14))
def test_random_networks(seed: int, size: int) -> None:
    torch.manual_seed(seed)
    model = RandomNetwork(seed, size).double().eval()
    zoo.randomize(model)
    x = zoo.sites(n=60)
    analysis = analyze(model, [x], verify=False)
    for choice in range(2):
        plan = make_plan(
            model,
            [x],
            granularity=Channels(round_to=1),
            criterion=Random(choice),
            ratio=0.4,
            analysis=analysis,
        )
        smaller, zeroed = plan.apply(model), plan.apply(model, remove=False)
        checks.check_sizes(smaller)
        with torch.no_grad():
            for a, b in zip(smaller(x), zeroed(x), strict=True):
                scale = float(b.abs().max())
                assert a.shape == b.shape and float((a - b).abs().max()) <= 1e-6 * max(scale, 1e-9), str(plan)
