# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Networks of the shapes that the issue names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from zoo_base import C, Net, animal, block, bounded, cloud, conv, down

import sparseconv
import sparseconv.nn as snn

# --- what the issue names -------------------------------------------------------------------------------------------


@animal("stem.0", "body.0", stays={"head": "output"})
class Plain(Net):
    def parts(self) -> None:
        self.body = block(C, C)

    def middle(self, x):
        return self.body(x)


@animal("stem.0", "a.0", "b")
class Residual(Net):
    def parts(self) -> None:
        self.a, self.b, self.norm = block(C, 24), conv(24, C, bias=False), snn.BatchNorm(C)

    def middle(self, x):
        return self.norm(self.b(self.a(x))) + x


@animal("stem.0", "a.0", "b", "short.0")
class Shortcut(Net):
    """A 1x1 shortcut: `b` and `short.0` make one sum."""

    wide = 24

    def parts(self) -> None:
        self.a, self.b = block(C, C), conv(C, 24)
        self.short = snn.Sequential(conv(C, 24, 1, bias=False), snn.BatchNorm(24))

    def middle(self, x):
        return self.b(self.a(x)) + self.short(x)


@animal("stem.0", "down.0", "deep.0", "up", "join.0")
class UNet(Net):
    def parts(self) -> None:
        self.down, self.deep = down(C, 24), block(24, 24)
        self.up, self.norm = snn.InverseConv3d(24, C, 2, stride=2, bias=False), snn.BatchNorm(C)
        self.join = block(2 * C, C)

    def middle(self, x):
        return self.join(sparseconv.cat([self.norm(self.up(self.deep(self.down(x)), x)), x]))


@animal("stem.0", "d1.0", "d2.0", "u2", "u1", "j2.0", "j1.0")
class DeepUNet(Net):
    """Two levels, sums and skips mixed."""

    def parts(self) -> None:
        self.d1, self.d2 = down(C, 24), down(24, 32)
        self.u2, self.u1 = snn.InverseConv3d(32, 24, 2, stride=2), snn.InverseConv3d(24, C, 2, stride=2)
        self.j2, self.j1 = block(24, 24), block(2 * C, C)

    def middle(self, x):
        a = self.d1(x)
        b = self.j2(self.u2(self.d2(a), a) + a)
        return self.j1(sparseconv.cat([x, self.u1(b, x)]))


@animal("stem.0")
class Twice(Net):
    """cat([x, x])"""

    wide = 2 * C

    def middle(self, x):
        return sparseconv.cat([x, x])


@animal("stem.0", "a.0")
class TwiceAndSum(Net):
    """A concatenation of a tensor with itself that meets another layer in a sum: one channel of x is two of `a`."""

    wide = 2 * C

    def parts(self) -> None:
        self.a = block(C, 2 * C)

    def middle(self, x):
        return sparseconv.cat([x, x]) + self.a(x)


@animal("stem.0", "shared.0")
class Shared(Net):
    """One module called twice on the same sites."""

    def parts(self) -> None:
        self.shared = block(C, C)

    def middle(self, x):
        return self.shared(self.shared(x))


@animal("stem.0", "shared.0", "down.0", "up")
class SharedLevels(Net):
    """One module called at two resolutions."""

    def parts(self) -> None:
        self.shared, self.down, self.up = block(C, C), down(C, C), snn.InverseConv3d(C, C, 2, stride=2)

    def middle(self, x):
        x = self.shared(x)
        return self.up(self.shared(self.down(x)), x)


@animal("stem.0", "b", "c.0")
class TiedWeights(Net):
    """Two modules that hold the same parameter."""

    def parts(self) -> None:
        self.a, self.b, self.c = conv(C, C), conv(C, C), block(C, C)
        self.b.weight = self.a.weight

    def middle(self, x):
        return self.c(self.b(self.a(x)))


@animal("stem.0", "body.0", stays={"head": "output", "other": "output"})
class TwoOutputs(Net):
    def parts(self) -> None:
        self.body, self.other = block(C, C), conv(C, 3, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x), {"other": self.other(self.body(x))}


@animal("body.0", stays={"stem.0": "output", "head": "output"})
class EarlyOutput(Net):
    """An intermediate tensor is an output too."""

    def parts(self) -> None:
        self.body = block(C, C)

    def forward(self, x):
        x = self.stem(x)
        return {"early": x, "late": self.head(self.body(x))}


@animal("stem.0", "point.0")
class Depthwise(Net):
    wide = 24

    def parts(self) -> None:
        self.depth, self.point = conv(C, C, groups=C), block(C, 24, 1)

    def middle(self, x):
        return self.point(self.depth(x))


@animal("stem.0")
class DepthwiseTimesTwo(Net):
    """Every channel makes two."""

    wide = 2 * C

    def parts(self) -> None:
        self.depth = conv(C, 2 * C, groups=C)

    def middle(self, x):
        return self.depth(x)


@animal("stem.0", "grouped.0", "after.0")
class Grouped(Net):
    def parts(self) -> None:
        self.grouped, self.after = block(C, 24, layer=conv(C, 24, groups=4)), block(24, C)

    def middle(self, x):
        return self.after(self.grouped(x))


@animal("stem.0", "down", "inner.0", "up")
class InversePair(Net):
    def parts(self) -> None:
        self.down, self.inner = snn.Conv3d(C, 24, 3, stride=2, padding=1), block(24, 24)
        self.up = snn.InverseConv3d(24, C, 3, stride=2, padding=1)

    def middle(self, x):
        return self.up(self.inner(self.down(x)), x)


@animal("stem.0", "up")
class Transposed(Net):
    """Transposed without a target; the head is on new sites."""

    wide = 24

    def parts(self) -> None:
        self.up = snn.ConvTranspose3d(C, 24, 2, stride=2)

    def middle(self, x):
        return self.up(x)


@animal("stem.0", "a", "b")
class UnionSum(Net):
    """A sum of tensors on different sites."""

    def parts(self) -> None:
        self.a, self.b = snn.Conv3d(C, C, 3, padding=1), conv(C, C)

    def middle(self, x):
        return self.a(x) + self.b(x)


@animal("mlp.0", "mlp.2", "stem.0", "body.0", "mix.0", stays={"last": "output"}, scan=lambda: (cloud(),))
class PointBranch(nn.Module):
    """Points through an MLP, into voxels, through convolutions, back to points, joined with the points' own branch."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3, C), nn.ReLU(), nn.Linear(C, C), nn.BatchNorm1d(C))
        self.stem, self.body = block(C, C), block(C, 24)
        self.mix = nn.Sequential(nn.Linear(C + 24, C), nn.ReLU())
        self.last = nn.Linear(C, 5)

    def forward(self, points):
        rows = self.mlp(points)
        x, index = sparseconv.voxelize(points, rows, voxel_size=0.5)
        y = self.body(self.stem(x))
        near = sparseconv.devoxelize(y, index)
        smooth = sparseconv.devoxelize(y, points, voxel_size=0.5, mode="trilinear")
        return self.last(self.mix(torch.cat([rows, near + smooth], 1)))


@animal("stem.0", "squeeze.0")
class SqueezeExcite(Net):
    def parts(self) -> None:
        self.pool = snn.GlobalAvgPool()
        self.squeeze = nn.Sequential(nn.Linear(C, 8), nn.ReLU(), nn.Linear(8, C), nn.Sigmoid())

    def middle(self, x):
        gate = self.squeeze(self.pool(x))
        return x.replace(x.features * gate[x.coords[:, 0].long()])


@animal("stem.0", "query", "gate.0", "skip.0")
class AttentionGate(Net):
    """Attention U-Net's gate: a score per voxel weighs a skip connection."""

    def parts(self) -> None:
        self.skip, self.query = block(C, C), snn.Linear(C, 24)
        self.gate = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())

    def middle(self, x):
        return x.replace(self.gate(self.query(x).features) * self.skip(x).features)


@animal("stem.0", "bev.0", "bev.3", "deconv.0", scan=bounded)
class DenseHead(nn.Module):
    """x.dense(), the height into the channels, dense convolutions, norms, transposed convolution, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(4, 8)
        self.bev = nn.Sequential(
            nn.Conv2d(64, C, 3, padding=1, bias=False),
            nn.BatchNorm2d(C),
            nn.ReLU(),
            nn.Conv2d(C, C, 3, stride=2, padding=1),
        )
        self.deconv = nn.Sequential(
            nn.ConvTranspose2d(C, C, 2, stride=2), nn.BatchNorm2d(C), nn.LeakyReLU(0.1)
        )
        self.boxes, self.scores = nn.Conv2d(2 * C, 7, 1), nn.Conv2d(2 * C, 3, 1)

    def forward(self, x):
        x = self.stem(x).dense().flatten(1, 2)
        y = self.bev[2](self.bev[1](self.bev[0](x)))
        z = torch.cat([y, self.deconv(self.bev[3](y))], 1)
        return self.boxes(z), self.scores(z).permute(0, 2, 3, 1)


@animal("stem.0", "depth.0", "bev", scan=bounded)
class DenseDepthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = block(4, C), nn.Sequential(nn.Conv3d(C, C, 1), nn.ReLU())
        self.wise, self.bev, self.head = (
            nn.Conv3d(C, C, 3, groups=C),
            nn.Conv3d(C, 24, 1, groups=2),
            nn.Conv3d(24, 2, 1),
        )

    def forward(self, x):
        return self.head(F.relu(self.bev(self.wise(self.depth(self.stem(x).dense())))))


@animal("stem.0", "body.0", "mlp.0", stays={"mlp.3": "output"})
class Classifier(nn.Module):
    """Both global poolings side by side, and a head of torch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = block(4, C), block(C, C)
        self.mean, self.peak = snn.GlobalAvgPool(), snn.GlobalMaxPool()
        self.mlp = nn.Sequential(nn.Linear(2 * C, C), nn.BatchNorm1d(C), nn.ReLU(), nn.Linear(C, 3))

    def forward(self, x):
        x = self.body(self.stem(x))
        return self.mlp(torch.cat([self.mean(x), self.peak(x)], 1))


@animal("stem.0", "a.0")
class Pools(Net):
    def parts(self) -> None:
        self.peak, self.mean, self.back = snn.MaxPool3d(2), snn.AvgPool3d(3, 2, 1), snn.Unpool3d(2)
        self.a = block(C, C)

    def middle(self, x):
        return self.back(self.peak(self.a(x)), x) + x.replace(x.features - self.mean(x).features.mean(0))


@animal("stem.0", "a.0")
class Coordinates(Net):
    """Channels beside coordinates: those of the stem shrink, the input's stay."""

    def parts(self) -> None:
        self.a = block(C + 3, C)

    def middle(self, x):
        where = x.coords[:, 1:].to(x.dtype)
        return self.a(x.replace(torch.cat([x.features, where], 1)))
