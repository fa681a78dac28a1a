# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Networks of other people's shapes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from zoo_base import C, Net, animal, block, bounded, cloud, conv, sites

import sparseconv
import sparseconv.nn as snn
from sparseconv import SparseTensor

# --- other people's shapes ------------------------------------------------------------------------------------------


@animal("stem.0", "a.0", "aux.0", stays={"aux.1": "output"})
class AuxiliaryHead(Net):
    """A second head that works in training alone."""

    def parts(self) -> None:
        self.a, self.aux = block(C, C), snn.Sequential(conv(C, C, bias=False), conv(C, 5, 1))

    def forward(self, x):
        x = self.a(self.stem(x))
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


@animal("local.0", "wide.0", "mlp.0", scan=lambda: torch.stack([cloud().t(), cloud().t() * 2]))
class PointNet(nn.Module):
    """Conv1d over [B, C, N], the maximum over points beside every point; its weights have three axes, as sparse ones."""

    def __init__(self) -> None:
        super().__init__()
        self.local = nn.Sequential(nn.Conv1d(3, C, 1), nn.BatchNorm1d(C), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv1d(C, 24, 1, bias=False), nn.BatchNorm1d(24), nn.ReLU())
        self.mlp, self.last = nn.Sequential(nn.Conv1d(C + 24, C, 1), nn.ReLU()), nn.Conv1d(C, 4, 1)

    def forward(self, points):
        near = self.local(points)
        far = torch.max(self.wide(near), 2, keepdim=True)[0].repeat(1, 1, points.shape[2])
        return self.last(self.mlp(torch.cat([near, far], 1)))


@animal("lift", "edge.0", scan=lambda: (cloud(),))
class EdgeConv(nn.Module):
    """Neighbours in space, their difference beside the centre, the maximum over neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.edge = nn.Linear(3, C), nn.Sequential(nn.Linear(2 * C, 24), nn.LeakyReLU(0.2))
        self.last = nn.Linear(24, 3)

    def forward(self, points):
        near = torch.cdist(points, points).topk(5, largest=False).indices
        h = self.lift(points)
        centre = h[:, None].expand(-1, 5, -1)
        edges = torch.cat([centre, h[near] - centre], -1)
        return self.last(self.edge(edges).amax(1))


@animal("stem.0", "down.0", "low", "high", "smooth.0", scan=bounded)
class FeaturePyramid(nn.Module):
    """Dense maps of two resolutions, one interpolated to the other; the result is read back at the voxels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(4, C)
        self.down = nn.Sequential(nn.Conv3d(C, 24, 3, stride=2, padding=1), nn.BatchNorm3d(24), nn.SiLU())
        self.low, self.high = nn.Conv3d(24, C, 1), nn.Conv3d(C, C, 1)
        self.smooth, self.last = (
            nn.Sequential(nn.Conv3d(C, 24, 3, padding=1), nn.ReLU()),
            nn.Linear(24 + C, 3),
        )

    def forward(self, x):
        x = self.stem(x)
        fine = x.dense()
        up = F.interpolate(
            self.low(self.down(fine)), size=fine.shape[2:], mode="trilinear", align_corners=False
        )
        y = self.smooth(up + self.high(fine))
        b, i, j, k = x.coords.long().unbind(1)
        return self.last(torch.cat([y[b, :, i, j, k], x.features], 1))


@animal("stem.0", "q", "k", "v")
class LinearAttention(Net):
    """Without softmax: keys meet values first, [C, C]."""

    def parts(self) -> None:
        self.q, self.k, self.v = nn.Linear(C, 24), nn.Linear(C, 24), nn.Linear(C, C)

    def middle(self, x):
        h = x.features
        context = F.relu(self.k(h)).transpose(0, 1) @ self.v(h)
        return x.replace(F.relu(self.q(h)) @ context / len(h) + h)


@animal("v", stays={"q": "changes the output", "k": "changes the output"})
class WidthInTheScale(Net):
    """Attention divides by the root of its width, which a zeroed channel does not change and a removed one does."""

    def parts(self) -> None:
        self.q, self.k, self.v, self.back = (
            nn.Linear(C, 24),
            nn.Linear(C, 24),
            nn.Linear(C, 24),
            nn.Linear(24, C),
        )

    def middle(self, x):
        h = x.features
        q, k = self.q(h), self.k(h)
        return x.replace(self.back(torch.softmax(q @ k.t() / q.shape[1] ** 0.5, 1) @ self.v(h)) + h)


@animal("b.0", stays={"stem.0": "chosen", "a.0": "not made by a layer"})
class PaddedShortcut(Net):
    """The shortcut is padded with channels of zeros."""

    wide = 24

    def parts(self) -> None:
        self.a, self.b = block(C, 24), block(24, 24)

    def middle(self, x):
        y = self.a(x)
        return self.b(y.replace(y.features + F.pad(x.features, (0, 8))))


@animal("a.0", stays={"stem.0": "written", "b": "written"})
class WrittenHalves(Net):
    """Two layers write the halves of one array."""

    wide = 2 * C

    def parts(self) -> None:
        self.a, self.b = block(C, C), conv(C, C)

    def middle(self, x):
        y = self.b(self.a(x))
        out = x.features.new_empty(len(x), 2 * x.features.shape[1])
        out[:, : x.features.shape[1]] = x.features
        out[:, x.features.shape[1] :] = y.features
        return x.replace(out)


@animal("stem.0", stays={"score": "output"})
class CosineHead(nn.Module):
    """Embeddings of length one against learned prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.embed = block(4, C), nn.Linear(C, 24)
        self.prototypes, self.score = nn.Parameter(torch.randn(5, 24)), nn.Linear(5, 3)

    def forward(self, x):
        h = F.normalize(self.embed(self.stem(x).features), dim=1)
        return self.score(h @ F.normalize(self.prototypes, dim=1).t())


@animal("weight", "after", "body.0", stays={"stem.0": "reduced"})
class StandardizedWeight(nn.Module):
    """A convolution whose weight is standardized in the network's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.after = block(4, C), block(C, C), conv(C, C)
        self.weight, self.head = nn.Parameter(torch.randn(27, C, C) / 20), conv(C, 3, 1)

    def forward(self, x):
        x = self.stem(x)
        w = self.weight - self.weight.mean((0, 1), keepdim=True)
        y = sparseconv.functional.conv(x.features, w, None, self.body[0].kernel_map(x))
        return self.head(x.replace(y + self.after(self.body(x)).features))


@animal("stem.0", stays={"a.0": ".", "b.0": "part"})
class GatherScatter(Net):
    """The other dataflow of our own convolution, through batched products."""

    def parts(self) -> None:
        self.a, self.b = block(C, C), block(C, C)

    def middle(self, x):
        x = self.a(x)
        layer = self.b[0]
        y = sparseconv.functional.conv(
            x.features, layer.weight, None, layer.kernel_map(x), dataflow="gather_scatter"
        )
        return self.b[1](x.replace(y))


@animal("stem.0", "inner", "act.0", stays={"head": "output"})
class ScriptedWeights(Net):
    def parts(self) -> None:
        self.inner, self.act = nn.Linear(C, C), torch.jit.script(nn.Sequential(nn.Linear(C, C), nn.ReLU()))

    def middle(self, x):
        return x.replace(self.act(self.inner(x.features)))


@animal(stays={"stem.0": "not made by a layer", "cell": "split"})
class Recurrent(Net):
    """A GRU cell over the voxels: its gates are chunks."""

    def parts(self) -> None:
        self.cell = nn.GRUCell(C, C)

    def middle(self, x):
        return x.replace(self.cell(x.features, torch.tanh(x.features)))


@animal("stem.0", "a.0", "late.0", scan=lambda: sites(n=200))
class RowSubsets(Net):
    """Rows are dropped, sorted and looped over, sample by sample, and collated again."""

    def parts(self) -> None:
        self.a, self.late = block(C, C), block(C, C)

    def middle(self, x):
        x = self.a(x)
        keep = x.coords[:, 1] > x.coords[:, 1].float().mean()
        parts = [self.late(s) for s in x[keep].samples()]
        y = sparseconv.collate(parts)
        order = torch.argsort(y.coords[:, 2], stable=True)
        return SparseTensor(
            y.features[order].flip(0), y.coords[order].flip(0).contiguous(), batch_size=y.batch_size
        )
