# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Small networks in the manner of those that use spconv, each built on whatever module is handed in as `sp`.

They have the idioms of OpenPCDet's backbones (post-activation blocks, residual blocks with bias, a U-Net that folds channels,
VoxelNeXt's sum over height) and of Pointcept's (SpUNet, the stem of PTv3), in code of our own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from spconv_engines import CHANNELS, SHAPE
from torch import Tensor, nn


def norm(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01)


def post_activation(sp: ModuleType, conv: nn.Module, channels: int) -> nn.Module:
    return sp.SparseSequential(conv, norm(channels), nn.ReLU())


def residual_block(sp: ModuleType, c: int, key: str, bias: bool) -> nn.Module:
    class Residual(sp.SparseModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = sp.SubMConv3d(c, c, kernel_size=3, stride=1, padding=1, bias=bias, indice_key=key)
            self.bn1, self.relu = norm(c), nn.ReLU()
            self.conv2 = sp.SubMConv3d(c, c, kernel_size=3, stride=1, padding=1, bias=bias, indice_key=key)
            self.bn2 = norm(c)

        def forward(self, x: Any) -> Any:
            out = self.conv1(x)
            out = out.replace_feature(self.bn1(out.features))
            out = out.replace_feature(self.relu(out.features))
            out = self.conv2(out)
            out = out.replace_feature(self.bn2(out.features))
            out = out.replace_feature(out.features + x.features)
            return out.replace_feature(self.relu(out.features))

    return Residual()


class _Engine:
    """Holds a Python module, which copy and pickle refuse."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> _Engine:
        return self


class Network(nn.Module):
    """Called with the three parts of a scan; `self.sp` makes the tensor."""

    def __init__(self, sp: ModuleType) -> None:
        super().__init__()
        self.sp, self.shape = _Engine(sp), list(SHAPE)

    def tensor(self, features: Tensor, indices: Tensor, batch_size: int) -> Any:
        return self.sp.module.SparseConvTensor(
            features=features, indices=indices.int(), spatial_shape=self.shape, batch_size=batch_size
        )


class Detector(Network):
    """Strided stages, a last layer along the height only, a dense bird's-eye view."""

    def __init__(self, sp: ModuleType, residual: bool = False) -> None:
        super().__init__(sp)

        def stage(c_in: int, c: int, padding: Any, number: int) -> nn.Module:
            down = sp.SparseConv3d(
                c_in, c, 3, stride=2, padding=padding, bias=False, indice_key=f"spconv{number}"
            )
            key = f"subm{number}"
            if residual:
                return sp.SparseSequential(post_activation(sp, down, c), residual_block(sp, c, key, True))
            inner = sp.SubMConv3d(c, c, 3, bias=False, indice_key=key)
            return sp.SparseSequential(post_activation(sp, down, c), post_activation(sp, inner, c))

        stem = sp.SubMConv3d(CHANNELS, 8, 3, padding=1, bias=False, indice_key="subm1")
        self.conv_input = post_activation(sp, stem, 8)
        self.conv2, self.conv3 = stage(8, 12, 1, 2), stage(12, 16, (0, 1, 1), 3)
        out = sp.SparseConv3d(
            16, 16, (3, 1, 1), stride=(2, 1, 1), padding=0, bias=False, indice_key="spconv_down2"
        )
        self.conv_out = post_activation(sp, out, 16)

    def forward(self, features: Tensor, indices: Tensor, batch_size: int) -> dict[str, Any]:
        x = self.conv_input(self.tensor(features, indices, batch_size))
        x2 = self.conv2(x)
        x3 = self.conv3(x2)
        out = self.conv_out(x3)
        dense = out.dense()
        return {"x2": x2, "x3": x3, "out": out, "bev": dense.flatten(1, 2)}


class UNet(Network):
    """Inverse convolutions by key, channels joined through replace_feature and folded by a view."""

    def __init__(self, sp: ModuleType) -> None:
        super().__init__(sp)
        self.stem = post_activation(sp, sp.SubMConv3d(CHANNELS, 8, 3, bias=False, indice_key="subm1"), 8)
        self.down = post_activation(
            sp, sp.SparseConv3d(8, 16, 3, stride=2, padding=1, bias=False, indice_key="spconv2"), 16
        )
        self.mid = residual_block(sp, 16, "subm2", False)
        self.lateral = residual_block(sp, 16, "subm2", False)
        self.merge = post_activation(sp, sp.SubMConv3d(32, 16, 3, bias=False, indice_key="subm2"), 16)
        self.up = post_activation(sp, sp.SparseInverseConv3d(16, 8, 3, indice_key="spconv2", bias=False), 8)

    def forward(self, features: Tensor, indices: Tensor, batch_size: int) -> dict[str, Any]:
        x1 = self.stem(self.tensor(features, indices, batch_size))
        x2 = self.mid(self.down(x1))
        side = self.lateral(x2)
        both = side.replace_feature(torch.cat((x2.features, side.features), dim=1))
        merged = self.merge(both)
        folded = both.features.view(-1, merged.features.shape[1], 2).sum(dim=2)
        out = self.up(both.replace_feature(merged.features + folded))
        return {"points": out.features, "indices": out.indices, "out": out}


class SumOverHeight(Network):
    """Coordinates of coarse stages scaled in place and joined, then layers in two dimensions."""

    def __init__(self, sp: ModuleType) -> None:
        super().__init__(sp)
        self.stem = post_activation(sp, sp.SubMConv3d(CHANNELS, 8, 3, bias=False, indice_key="subm1"), 8)
        self.conv2 = post_activation(
            sp, sp.SparseConv3d(8, 8, 3, stride=2, padding=1, bias=False, indice_key="spconv2"), 8
        )
        self.conv3 = post_activation(
            sp, sp.SparseConv3d(8, 8, 3, stride=2, padding=1, bias=False, indice_key="spconv3"), 8
        )
        self.flat = post_activation(
            sp, sp.SparseConv2d(8, 12, 3, stride=1, padding=1, bias=False, indice_key="flat"), 12
        )
        self.shared = sp.SparseSequential(
            sp.SubMConv2d(12, 12, 3, stride=1, padding=1, bias=True), nn.BatchNorm1d(12), nn.ReLU(True)
        )

    def forward(self, features: Tensor, indices: Tensor, batch_size: int) -> dict[str, Any]:
        x = self.stem(self.tensor(features, indices, batch_size))
        x2 = self.conv2(x)
        x3 = self.conv3(x2)
        x3.indices[:, 1:] *= 2
        x2 = x2.replace_feature(torch.cat([x2.features, x3.features]))
        x2.indices = torch.cat([x2.indices, x3.indices])
        cells, inverse = torch.unique(x2.indices[:, [0, 2, 3]], dim=0, return_inverse=True)
        sums = x2.features.new_zeros((cells.shape[0], x2.features.shape[1]))
        sums.index_add_(0, inverse, x2.features)
        flat = self.sp.module.SparseConvTensor(
            features=sums, indices=cells, spatial_shape=x2.spatial_shape[1:], batch_size=x2.batch_size
        )
        return {"out": self.shared(self.flat(flat))}


class Segmenter(Network):
    """A 5x5x5 stem with padding 1, named blocks with a projection, 2x2x2 down and up, a 1x1x1 head with padding 1."""

    def __init__(self, sp: ModuleType) -> None:
        super().__init__(sp)

        class Block(sp.SparseModule):  # type: ignore[misc, name-defined]
            def __init__(self, c_in: int, c: int, key: str) -> None:
                super().__init__()
                if c_in == c:
                    self.proj = sp.SparseSequential(nn.Identity())
                else:
                    self.proj = sp.SparseSequential(
                        sp.SubMConv3d(c_in, c, kernel_size=1, bias=False), norm(c)
                    )
                self.conv1 = sp.SubMConv3d(c_in, c, kernel_size=3, padding=1, bias=False, indice_key=key)
                self.bn1, self.relu = norm(c), nn.ReLU()
                self.conv2 = sp.SubMConv3d(c, c, kernel_size=3, padding=1, bias=False, indice_key=key)
                self.bn2 = norm(c)

            def forward(self, x: Any) -> Any:
                out = self.conv1(x)
                out = out.replace_feature(self.bn1(out.features))
                out = out.replace_feature(self.relu(out.features))
                out = self.conv2(out)
                out = out.replace_feature(self.bn2(out.features))
                out = out.replace_feature(out.features + self.proj(x).features)
                return out.replace_feature(self.relu(out.features))

        stem = sp.SubMConv3d(CHANNELS, 8, kernel_size=5, padding=1, bias=False, indice_key="stem")
        self.conv_input = post_activation(sp, stem, 8)
        self.down, self.enc, self.up, self.dec = (nn.ModuleList() for _ in range(4))
        for stage, (c_in, c) in enumerate(((8, 12), (12, 16))):
            key = f"spconv{stage + 1}"
            down = sp.SparseConv3d(c_in, c, kernel_size=2, stride=2, bias=False, indice_key=key)
            self.down.append(post_activation(sp, down, c))
            blocks = [(f"block{i}", Block(c, c, f"subm{stage + 1}")) for i in range(2 - stage)]
            self.enc.append(sp.SparseSequential(OrderedDict(blocks)))
            up = sp.SparseInverseConv3d(c, c_in, kernel_size=2, bias=False, indice_key=key)
            self.up.append(post_activation(sp, up, c_in))
            self.dec.append(
                sp.SparseSequential(OrderedDict([("block0", Block(2 * c_in, c_in, f"subm{stage}"))]))
            )
        self.final = sp.SubMConv3d(8, 5, kernel_size=1, padding=1, bias=True)

    def forward(self, features: Tensor, indices: Tensor, batch_size: int) -> dict[str, Any]:
        x = self.conv_input(self.tensor(features, indices, batch_size))
        skips = [x]
        for down, enc in zip(self.down, self.enc, strict=True):
            x = enc(down(x))
            skips.append(x)
        x = skips.pop()
        for stage in (1, 0):
            x = self.up[stage](x)
            x = x.replace_feature(torch.cat((x.features, skips.pop().features), dim=1))
            x = self.dec[stage](x)
        x = self.final(x)
        return {"points": x.features}


class Stem(Network):
    """A container of its own that asks which modules are spconv's, a positional encoding with Linear and LayerNorm."""

    def __init__(self, sp: ModuleType) -> None:
        super().__init__(sp)
        conv = sp.SubMConv3d(CHANNELS, 8, kernel_size=5, padding=1, bias=False, indice_key="stem")
        self.stem = nn.ModuleList([conv, norm(8), nn.GELU()])
        cpe = sp.SubMConv3d(8, 8, kernel_size=3, bias=True, indice_key="stage0")
        self.cpe = nn.ModuleList([cpe, nn.Linear(8, 8), nn.LayerNorm(8)])

    def run(self, modules: nn.ModuleList, point: dict[str, Any]) -> None:
        for module in modules:
            if self.sp.module.modules.is_spconv_module(module):
                point["sparse"] = module(point["sparse"])
                point["feat"] = point["sparse"].features
            else:
                point["feat"] = module(point["feat"])
                point["sparse"] = point["sparse"].replace_feature(point["feat"])

    def forward(self, features: Tensor, indices: Tensor, batch_size: int) -> dict[str, Any]:
        point = {"sparse": self.tensor(features, indices, batch_size), "feat": features}
        self.run(self.stem, point)
        shortcut = point["feat"]
        self.run(self.cpe, point)
        return {"points": shortcut + point["feat"]}


class Pooled(Network):
    """Pooling, a transposed layer and a strided 1x1x1 one, which reads its weight another way than those of stride 1."""

    def __init__(self, sp: ModuleType) -> None:
        super().__init__(sp)
        self.conv = sp.SubMConv3d(CHANNELS, 8, 3, indice_key="subm1")
        self.pool = sp.SparseMaxPool3d(3, stride=2, padding=1, indice_key="pool")
        self.point = sp.SparseConv3d(8, 8, 1)
        self.thin = sp.SparseConv3d(8, 8, 1, stride=2, bias=False)
        self.grow = sp.SparseConvTranspose3d(8, 8, 3, stride=2, padding=1, bias=False)
        self.back = sp.SparseInverseConv3d(8, 6, 3, indice_key="pool", bias=False)

    def forward(self, features: Tensor, indices: Tensor, batch_size: int) -> dict[str, Any]:
        x = self.pool(self.conv(self.tensor(features, indices, batch_size)))
        x = self.point(x)
        return {"pool": x, "thin": self.thin(x), "grow": self.grow(self.thin(x)), "back": self.back(x)}


TWINS: dict[str, Callable[[ModuleType], Network]] = {
    "detector": Detector,
    "residual detector": lambda sp: Detector(sp, residual=True),
    "unet": UNet,
    "sum over height": SumOverHeight,
    "segmenter": Segmenter,
    "stem": Stem,
    "pooled": Pooled,
}


def build(name: str, sp: ModuleType, seed: int = 0) -> Network:
    """A twin in evaluation mode with random values everywhere, running statistics included."""
    torch.manual_seed(seed)
    network = TWINS[name](sp)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    network.eval()
    for module in network.modules():
        if hasattr(module, "indice_key") and hasattr(module, "subm"):
            module.training = (
                True  # the wheel refuses a bias in evaluation on the CPU; its layers have no other mode
            )
    return network
