# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Small networks of many shapes, for tests of pruning: each with what must shrink in it and what must stay.

Weights and norm statistics are random and float64, so that a channel too many or too few changes the output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from engine import random_tensor
from torch import Tensor, nn

import sparseconv
import sparseconv.nn as snn
from sparseconv import SparseTensor

C = 16


@dataclasses.dataclass(frozen=True)
class Animal:
    """A network, its input, the layers whose output channels must shrink, and those that must stay (name -> reason)."""

    build: Callable[[], nn.Module]
    scan: Callable[[], Any]
    shrinks: tuple[str, ...]
    stays: dict[str, str]


ZOO: dict[str, Animal] = {}


def sites(
    seed: int = 0, channels: int = 4, n: int = 150, batch_size: int = 2, **options: Any
) -> SparseTensor:
    options = {"extent": 7, "dtype": torch.float64, **options}
    return random_tensor(3, n, channels, batch_size=batch_size, seed=seed, **options)


def bounded() -> SparseTensor:
    return sites(spatial_shape=(8, 8, 8))


def cloud() -> Tensor:
    return torch.rand(200, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 4


def animal(
    *shrinks: str, stays: dict[str, str] | None = None, scan: Callable[[], Any] = sites
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    def register(build: type[nn.Module]) -> type[nn.Module]:
        ZOO[build.__name__] = Animal(build, scan, shrinks, stays or {})
        return build

    return register


def create(name: str, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, with random weights of order one everywhere."""
    torch.manual_seed(seed)
    model = ZOO[name].build().double().eval()
    randomize(model)
    return model


def randomize(model: nn.Module) -> None:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                if module.running_mean is not None:
                    module.running_mean.normal_(0, 0.5)
                    module.running_var.uniform_(0.5, 2)
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.5)


def conv(i: int, o: int, k: int = 3, **options: Any) -> snn.SubMConv3d:
    return snn.SubMConv3d(i, o, k, **options)


def block(i: int, o: int, k: int = 3, layer: Any = None) -> snn.Sequential:
    return snn.Sequential(conv(i, o, k, bias=False) if layer is None else layer, snn.BatchNorm(o), snn.ReLU())


def down(i: int, o: int) -> snn.Sequential:
    return block(i, o, layer=snn.Conv3d(i, o, 2, stride=2, bias=False))


class Net(nn.Module):
    """Stem and head around what a subclass's `middle` does."""

    wide = C

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(4, C)
        self.parts()
        self.head = conv(self.wide, 5, 1)

    def parts(self) -> None: ...

    def middle(self, x: Any) -> Any:
        return x

    def forward(self, x: Any) -> Any:
        return self.head(self.middle(self.stem(x)))


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


# --- norms and activations ------------------------------------------------------------------------------------------


@animal("last.0", stays={"stem.0": "norm", "body": "norm|split"})
class MixingNorms(Net):
    """LayerNorm and GroupNorm look at all channels of a row: what they norm stays."""

    def parts(self) -> None:
        self.layer, self.body, self.group = snn.LayerNorm(C), conv(C, C), snn.GroupNorm(4, C)
        self.last = block(C, C)

    def middle(self, x):
        return self.last(self.group(self.body(self.layer(x))))


@animal("stem.0", "a", "b")
class InstanceNorms(Net):
    """With and without parameters of their own."""

    def parts(self) -> None:
        self.a, self.na = conv(C, 24), snn.InstanceNorm(24, affine=True)
        self.b, self.nb = conv(24, C), snn.InstanceNorm(C)

    def middle(self, x):
        return self.nb(self.b(self.na(self.a(x))))


@animal("stem.0", "a", "b")
class BareNorms(Net):
    """Batch norms without parameters, without statistics."""

    def parts(self) -> None:
        self.a, self.na = conv(C, 24), snn.BatchNorm(24, affine=False)
        self.b, self.nb = conv(24, C), snn.BatchNorm(C, affine=False, track_running_stats=False)

    def middle(self, x):
        return self.nb(self.b(self.na(self.a(x))))


@animal("stem.0", "a.1", scan=bounded)
class PreActivation(Net):
    """Norms before convolutions, on the network's input too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = snn.BatchNorm(4)

    def parts(self) -> None:
        self.a = snn.Sequential(
            snn.BatchNorm(C), conv(C, 24, bias=False), snn.BatchNorm(24), snn.ReLU(), conv(24, C)
        )

    def forward(self, x):
        x = self.stem(self.first(x))
        return self.head(self.a(x) + x)


@animal("stem.0", "a.0", "b.0")
class Activations(Net):
    """One slope per channel, one slope for all, and activations that do not send zero to zero."""

    def parts(self) -> None:
        self.a = snn.Sequential(conv(C, C), snn.PReLU(C), nn.Sigmoid(), snn.PReLU())
        self.b = snn.Sequential(conv(C, C), nn.Softplus(), snn.GELU(), nn.Dropout(0.5))

    def middle(self, x):
        return self.b(self.a(x))


@animal("stem.0", "mlp.0", "mlp.3")
class TorchLayers(Net):
    """torch's own layers inside our Sequential."""

    def parts(self) -> None:
        self.mlp = snn.Sequential(
            nn.Linear(C, 24), nn.BatchNorm1d(24), nn.PReLU(24), nn.Linear(24, C), nn.ELU(inplace=True)
        )

    def middle(self, x):
        return self.mlp(x)


@animal("stem.0", stays={"last": "weight|norm|computed"})
class WeightNorm(Net):
    """A weight that is computed from two parameters."""

    def parts(self) -> None:
        self.a, self.last = block(C, C), nn.utils.parametrizations.weight_norm(nn.Linear(C, C))

    def middle(self, x):
        x = self.a(x)
        return x.replace(self.last(x.features))


# --- parameters by hand ---------------------------------------------------------------------------------------------


@animal("stem.0", "a.0")
class LearnedScale(Net):
    """A scale for each channel, an offset [1, C], a temperature."""

    def parts(self) -> None:
        self.a = block(C, C)
        self.scale, self.offset = nn.Parameter(torch.rand(C) + 0.5), nn.Parameter(torch.randn(1, C))
        self.temperature = nn.Parameter(torch.tensor(0.7))

    def middle(self, x):
        y = self.a(x)
        return y.replace(y.features * self.scale + self.offset.squeeze(0) * self.temperature + x.features)


@animal("stem.0", "lift", "deep.0", scan=bounded)
class Positions(nn.Module):
    """A learned embedding of cells [1, C, 8, 8] is added to a dense map; an nn.Embedding of the height to the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.height = block(4, C), nn.Embedding(8, C)
        self.lift, self.deep = nn.Conv2d(8 * C, 24, 1), nn.Sequential(nn.Conv2d(24, C, 3), nn.ReLU())
        self.place, self.head = nn.Parameter(torch.randn(1, 24, 8, 8)), nn.Conv2d(C, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        x = x.replace(x.features + self.height(x.coords[:, 1].long()))
        return self.head(self.deep(self.lift(x.dense().flatten(1, 2)) + self.place))


@animal("stem.0", "project", "back")
class RawMatrix(Net):
    """Products with bare parameters: x @ W, and W as a convolution's weight."""

    def parts(self) -> None:
        self.project, self.back = (
            nn.Parameter(torch.randn(C, 24) / 4),
            nn.Parameter(torch.randn(1, 24, C) / 5),
        )

    def middle(self, x):
        return x.replace(x.features @ self.project @ self.back[0])


@animal("stem.0", "a.0", stays={})
class Buffers(Net):
    """A fixed mask over channels, kept as a buffer, is pruned with them."""

    def parts(self) -> None:
        self.a = block(C, C)
        self.register_buffer("mask", (torch.arange(C) % 3).double())
        self.register_buffer("calls", torch.zeros(()))

    def middle(self, x):
        self.calls += 1
        y = self.a(x)
        return y.replace(y.features * self.mask)


# --- parts of channels ----------------------------------------------------------------------------------------------


@animal("stem.0", stays={"gate": "part"})
class GatedUnits(Net):
    """GLU by chunk: which channel meets which depends on how many there are."""

    def parts(self) -> None:
        self.gate = snn.Linear(C, 2 * C)

    def middle(self, x):
        a, b = self.gate(x).features.chunk(2, 1)
        return x.replace(a * b.sigmoid())


@animal("stem.0", stays={"gate": "part|mixes"})
class TorchGlu(Net):
    def parts(self) -> None:
        self.gate = snn.Linear(C, 2 * C)

    def middle(self, x):
        return x.replace(F.glu(self.gate(x).features, 1))


@animal("last.0", stays={"stem.0": "split"})
class ChannelShuffle(Net):
    def parts(self) -> None:
        self.last = block(C, C)

    def middle(self, x):
        n = len(x)
        return self.last(x.replace(x.features.view(n, 4, C // 4).transpose(1, 2).reshape(n, -1)))


@animal("rest.0", stays={"stem.0": "part"})
class Slices(Net):
    """Half of the channels go through, the others go round."""

    def parts(self) -> None:
        self.rest = block(8, 8)

    def middle(self, x):
        return x.replace(torch.cat([x.features[:, :8], self.rest(x.replace(x.features[:, 8:])).features], 1))


@animal("stem.0", "a.0", "b.0")
class FilledByHand(Net):
    """Rows of a fresh array are written one mask after the other."""

    def parts(self) -> None:
        self.a, self.b = block(C, C), block(C, C)

    def middle(self, x):
        out = torch.zeros_like(x.features)
        upper = x.coords[:, 1] > 0
        out[upper] = self.a(x).features[upper]
        out[~upper] = self.b(x).features[~upper]
        return x.replace(out)


@animal("stem.0", "bev.0", scan=bounded)
class PillarScatter(nn.Module):
    """A dense canvas is written by hand, as PointPillars does: canvas[:, cells] = features.t()."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(4, C)
        self.bev, self.head = nn.Sequential(nn.Conv2d(C, 24, 3), nn.ReLU()), nn.Conv2d(24, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        maps = []
        for b in range(x.batch_size):
            here = x.coords[:, 0] == b
            cells = x.coords[here, 2].long() * 8 + x.coords[here, 3].long()
            canvas = torch.zeros(x.features.shape[1], 64, dtype=x.dtype)
            canvas[:, cells] = x.features[here].t()
            maps.append(canvas)
        return self.head(self.bev(torch.stack(maps, 0).view(x.batch_size, -1, 8, 8)))


@animal("last.0", stays={"stem.0": "."})
class HardWired(Net):
    """The network's own code knows the number of channels."""

    def parts(self) -> None:
        self.channels, self.last = C, block(C, C)

    def middle(self, x):
        out = torch.zeros(len(x), self.channels, dtype=x.dtype)
        out += x.features
        return self.last(x.replace(out))


@animal("last.0", stays={"stem.0": "."})
class ChannelNumbers(Net):
    """Every channel is weighed by its number: removing one renumbers the others."""

    def parts(self) -> None:
        self.last = block(C, C)

    def middle(self, x):
        return self.last(x.replace(x.features * torch.arange(x.features.shape[1])))


# --- attention ------------------------------------------------------------------------------------------------------


@animal("stem.0", "q", "k", "v", "out")
class RowAttention(Net):
    """One head over the rows, written by hand."""

    def parts(self) -> None:
        self.q, self.k, self.v, self.out = (
            nn.Linear(C, 24),
            nn.Linear(C, 24),
            nn.Linear(C, 24),
            nn.Linear(24, C),
        )

    def middle(self, x):
        h = x.features
        share = torch.softmax(self.q(h) @ self.k(h).t() / 5, -1)
        return x.replace(h + self.out(share @ self.v(h)))


@animal("mlp.0", stays={"attention.out_proj": "."})
class MultiHead(Net):
    def parts(self) -> None:
        self.attention = nn.MultiheadAttention(C, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(C, 24), nn.ReLU(), nn.Linear(24, C))

    def middle(self, x):
        h = x.features[None]
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return x.replace((h + self.mlp(h))[0])


@animal("body.linear1", stays={"stem.0": "no rule", "body.linear2": "."})
class Transformer(Net):
    """torch's encoder layer: one fused operator in evaluation."""

    def parts(self) -> None:
        self.body = nn.TransformerEncoderLayer(C, 2, 24, batch_first=True)

    def middle(self, x):
        return x.replace(self.body(x.features[None])[0])


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
