# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Networks by how their code is written: objects, keywords, scripts, lists."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from zoo_base import C, Net, animal, block, conv, down, sites

import sparseconv.nn as snn
from sparseconv import SparseTensor

# --- how modules are written ----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Result:
    scores: SparseTensor
    next: Any = None


@animal("stem.0", "body.0", stays={"head": "output", "more": "output"})
class Dataclasses(Net):
    """Results inside objects of the same class, as a chain."""

    def parts(self) -> None:
        self.body, self.more = block(C, C), conv(C, 2)

    def forward(self, x):
        x = self.stem(x)
        return Result(self.head(x), Result(self.more(self.body(x))))


class Box(dict):
    """A dictionary of one's own, which torch's trees do not look into."""


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner):
        self.inner = inner


@animal("stem.0", "body.0", stays={"head": "output", "more": "output"})
class OwnDict(Net):
    def parts(self) -> None:
        self.body, self.more = block(C, C), conv(C, 2)

    def forward(self, x):
        x = self.stem(x)
        return Box(scores=self.head(x), more=Slotted([self.more(self.body(x))]))


@animal("stem.0", "body.0", stays={"head": "output"}, scan=lambda: ({"voxels": sites()},))
class BatchDict(Net):
    """Everything is handed on in one dictionary, which forward changes and does not return."""

    def parts(self) -> None:
        self.body = block(C, C)

    def forward(self, batch):
        batch["scores"] = self.head(self.body(self.stem(batch["voxels"])))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(C, C), snn.InverseConv3d(24, C, 2, stride=2)

    def forward(self, *, fine, coarse):
        return {"sum": self.a(input=fine) + self.b(x=coarse, target=fine)}


@animal("stem.0", "down.0", "pair.a.0", "pair.b")
class Keywords(Net):
    """Everything is called with keyword arguments."""

    def parts(self) -> None:
        self.down, self.pair = down(C, 24), Pair()

    def middle(self, x):
        return self.pair(fine=x, coarse=self.down(input=x))["sum"]


class Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, limit):
        ctx.save_for_backward(x)
        return x.clamp(-limit, limit)

    @staticmethod
    def backward(ctx, grad):
        return grad * (ctx.saved_tensors[0].abs() < 2), None


@animal("stem.0", "a.0")
class OwnGradient(Net):
    def parts(self) -> None:
        self.a = block(C, C)

    def middle(self, x):
        return self.a(x.replace(Clip.apply(x.features, 2.0)))


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x) + 0.1 * x


@animal("stem.0", "a.0")
class Scripted(Net):
    """A scripted submodule without weights, and one with."""

    def parts(self) -> None:
        self.a, self.act = block(C, C), torch.jit.script(Swish())

    def middle(self, x):
        return self.a(x.replace(self.act(x.features)))


@animal("stem.0", "rows.0", "heads.a.0", stays={"heads.b.0": "output", "spare": "not (used|called)|no call"})
class Containers(nn.Module):
    """Lists and dictionaries of modules, one of which is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.spare = block(4, C), conv(C, C)
        self.rows = nn.ModuleList([nn.Linear(C, 24), nn.Linear(24, C)])
        self.heads = nn.ModuleDict({"a": nn.Sequential(nn.Linear(C, C)), "b": nn.Sequential(nn.Linear(C, 2))})

    def forward(self, x):
        h = self.stem(x).features
        for layer in self.rows:
            h = torch.relu_(layer(h))
        return [self.heads["b"](self.heads["a"](h)), len(x)]


@animal("stem.0", "a", "b", "c")
class SeparateOperators(Net):
    """Operators that one meets in other people's code: einsum, stack, where, max of two, unbind, norms of rows."""

    def parts(self) -> None:
        self.a, self.b, self.c = nn.Linear(C, C), nn.Linear(C, C), nn.Parameter(torch.randn(24, C) / 4)
        self.d = nn.Linear(24, C)

    def middle(self, x):
        h = x.features
        a, b = torch.stack([self.a(h), self.b(h)]).unbind(0)
        y = torch.maximum(a, torch.where(b > 0, b, b * 0.3))
        y = (y - y.mean(0, keepdim=True)) / (y.var(0) + 1e-3).sqrt()
        z = torch.einsum("nc,kc->nk", y + h, self.c)
        return x.replace(self.d(z.clamp(min=0)) + h)
