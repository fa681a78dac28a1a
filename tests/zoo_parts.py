# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Networks by their parts: norms, bare parameters, slices of channels, attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from zoo_base import C, Net, animal, block, bounded, conv

import sparseconv.nn as snn

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
