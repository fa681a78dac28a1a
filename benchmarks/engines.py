# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What every engine has to offer to be measured, and the engines that need no other package: ours, torch and dense.

A runner is one layer of one engine on one scan, its kernel map built. Rows come and go in one order that all engines share:
the scan's for layers that keep or restore its sites, the lexicographic one for sites that a layer makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from layers import Layer
from scans import Scan
from timing import Task
from torch import Tensor

import sparseconv
import sparseconv.nn as snn


class UnsupportedError(Exception):
    """The engine cannot run this layer, scan, type or device; the message says why."""


@dataclass(frozen=True)
class Options:
    """What holds for a whole run."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32


class Runner:
    """One layer of one engine on one scan; `weight` is a leaf in the engine's own layout."""

    weight: Tensor
    in_rows: Tensor | None = (
        None  # int64: the shared row that stands in each of the engine's input rows, None = the same
    )
    out_rows: Tensor | None = (
        None  # int64: the engine's output row that stands in each shared row, None = the same
    )

    def load(self, features: Tensor) -> Tensor:
        """Features in the shared row order, as `forward` takes them; a leaf that records gradients."""
        own = features if self.in_rows is None else features[self.in_rows]
        return own.detach().clone().requires_grad_()

    def forward(self, features: Tensor) -> Tensor:
        """The layer itself: what is timed."""
        raise NotImplementedError

    def outputs(self, out: Tensor) -> Tensor:
        """The engine's output in the shared row order."""
        return out if self.out_rows is None else out[self.out_rows]

    def grad_outputs(self, grad: Tensor) -> Tensor:
        """The inverse of `outputs`."""
        if self.out_rows is None:
            return grad
        own = torch.empty_like(grad)
        own[self.out_rows] = grad
        return own

    def grad_inputs(self, grad: Tensor) -> Tensor:
        """The gradient of what `load` gave, in the shared row order."""
        if self.in_rows is None:
            return grad
        shared = torch.empty_like(grad)
        shared[self.in_rows] = grad
        return shared

    def grad_weight(self) -> Tensor:
        """The weight's gradient as [K, C_in / groups, C_out]."""
        grad = self.weight.grad
        if grad is None:
            raise RuntimeError("no backward pass has run")
        return grad


class Engine:
    """One engine: layers with cached maps, and maps alone."""

    name: str

    def version(self) -> str:
        """For the report."""
        raise NotImplementedError

    def runner(self, layer: Layer, scan: Scan, weight: Tensor, options: Options) -> Runner:
        """A layer with this weight, [K, C_in / groups, C_out]; raises UnsupportedError."""
        raise NotImplementedError

    def map_task(self, layer: Layer, scan: Scan, ours: sparseconv.KernelMap) -> tuple[Task, int]:  # noqa: ARG002
        """Building the map of a layer from nothing, and how many of its pairs differ from ours; raises UnsupportedError."""
        raise UnsupportedError(f"{self.name} has no maps")


def lexicographic(coords: Tensor) -> Tensor:
    """int64 [N]: the row that stands at each place when rows of int32 [N, 4] are sorted."""
    size = (coords.amax(0) + 1).tolist()
    key = torch.zeros(len(coords), dtype=torch.int64)
    for axis in range(coords.shape[1]):
        key = key * size[axis] + coords[:, axis]
    return key.argsort()


def down_layer(layer: Layer) -> Layer:
    """The convolution whose sites an inverse layer starts from."""
    return Layer("conv", 1, 1, layer.kernel, layer.stride, layer.padding)


# --- ours -------------------------------------------------------------------------------------------------------------


def make_layer(layer: Layer, weight: Tensor) -> torch.nn.Module:
    """Our layer for this description."""
    geometry: dict[str, Any] = {"groups": layer.groups, "bias": False, "dtype": weight.dtype}
    module: torch.nn.Module
    if layer.kind == "subm":
        module = snn.SubMConv3d(layer.c_in, layer.c_out, layer.kernel, **geometry)
    else:
        cls = snn.Conv3d if layer.kind == "conv" else snn.InverseConv3d
        module = cls(
            layer.c_in, layer.c_out, layer.kernel, stride=layer.stride, padding=layer.padding, **geometry
        )
    with torch.no_grad():
        module.weight.copy_(weight)
    return module


def our_tensor(scan: Scan, features: Tensor) -> sparseconv.SparseTensor:
    """Features on the cells of a scan, without any map."""
    return sparseconv.SparseTensor(features, scan.coords, spatial_shape=scan.shape, batch_size=1)


class OurRunner(Runner):
    """A layer of sparseconv.nn."""

    def __init__(self, layer: Layer, scan: Scan, weight: Tensor, options: Options) -> None:
        self.module = make_layer(layer, weight.to(options.dtype)).to(options.device)
        self.weight = self.module.weight  # type: ignore[assignment]
        base = our_tensor(scan, torch.zeros(len(scan), 1, dtype=options.dtype)).to(options.device)
        self.target: sparseconv.SparseTensor | None = None
        self.x = base
        if layer.kind == "inverse":
            self.target = base
            down = make_layer(down_layer(layer), torch.zeros(layer.taps, 1, 1, dtype=options.dtype))
            self.x = down.to(options.device)(base)
        with torch.no_grad():
            rows = torch.zeros(len(self.x), layer.c_in, dtype=options.dtype, device=options.device)
            out = self._call(self.x.replace(rows))  # builds the map
        if layer.kind == "conv":
            self.out_rows = lexicographic(out.coords)

    def _call(self, x: sparseconv.SparseTensor) -> sparseconv.SparseTensor:
        out: sparseconv.SparseTensor = self.module(x) if self.target is None else self.module(x, self.target)
        return out

    def forward(self, features: Tensor) -> Tensor:
        return self._call(self.x.replace(features)).features


class Ours(Engine):
    """This package."""

    name = "sparseconv"

    def version(self) -> str:
        config = sparseconv.show_config()
        return f"{config['version']} ({config['instruction_set']})"

    def runner(self, layer: Layer, scan: Scan, weight: Tensor, options: Options) -> Runner:
        return OurRunner(layer, scan, weight, options)


def geometry_of(layer: Layer, scan: Scan) -> dict[str, Any]:
    """A layer's geometry in the words of `build_kernel_map`."""
    geometry: dict[str, Any] = {"kernel_size": layer.kernel, "spatial_shape": scan.shape}
    if layer.kind == "subm":
        return {**geometry, "submanifold": True}
    return {**geometry, "stride": layer.stride, "padding": layer.padding}


def map_of(layer: Layer, scan: Scan) -> sparseconv.KernelMap:
    """The kernel map of a layer on a scan, for its numbers of rows and pairs."""
    kernel_map = sparseconv.build_kernel_map(scan.coords, **geometry_of(layer, scan))
    return kernel_map.reverse() if layer.kind == "inverse" else kernel_map


# --- torch: gather, batched matrix products, scatter ------------------------------------------------------------------


class TorchRunner(Runner):
    """The gather-matmul-scatter dataflow through BLAS."""

    def __init__(self, layer: Layer, scan: Scan, weight: Tensor, options: Options) -> None:
        self.map = map_of(layer, scan)
        self.weight = weight.to(options.dtype).clone().requires_grad_()
        self.groups = layer.groups
        self.depthwise = layer.groups > 1
        self.segments = self.map.tap_offsets.diff().tolist()
        self.pairs = self.map.pairs.to(torch.int64)

    def forward(self, features: Tensor) -> Tensor:
        if self.depthwise:
            return self._depthwise(features)
        return sparseconv.functional.conv(
            features, self.weight, None, self.map, groups=self.groups, dataflow="gather_scatter"
        )

    def _depthwise(self, features: Tensor) -> Tensor:
        out = features.new_zeros(self.map.n_out, features.shape[1])
        for pairs, row in zip(self.pairs.split(self.segments), self.weight, strict=True):
            out = out.index_add(0, pairs[:, 1], features[pairs[:, 0]] * row)
        return out


class TorchEngine(Engine):
    """The reference dataflow over our maps."""

    name = "torch"

    def version(self) -> str:
        return f"{torch.__version__}, gather + bmm + index_add over our maps"

    def runner(self, layer: Layer, scan: Scan, weight: Tensor, options: Options) -> Runner:
        if options.dtype == torch.bfloat16:
            raise UnsupportedError("torch: sums of bfloat16 in bfloat16 are another computation")
        return TorchRunner(layer, scan, weight, options)


# --- dense ------------------------------------------------------------------------------------------------------------


class DenseRunner(Runner):
    """torch's dense convolution on a full grid; the grid and back again is not timed."""

    def __init__(self, layer: Layer, scan: Scan, weight: Tensor, options: Options) -> None:
        self.layer, self.shape = layer, scan.shape
        kernel = (layer.kernel,) * 3
        own = sparseconv.convert.weight_to("torch", weight.to(options.dtype), kernel, groups=layer.groups)
        self.weight = own.detach().requires_grad_()

    def load(self, features: Tensor) -> Tensor:
        return features.T.reshape(1, -1, *self.shape).contiguous().requires_grad_()

    def forward(self, features: Tensor) -> Tensor:
        layer = self.layer
        padding = (layer.kernel - 1) // 2 if layer.kind == "subm" else layer.padding
        return torch.nn.functional.conv3d(
            features, self.weight, None, layer.stride, padding, groups=layer.groups
        )

    def outputs(self, out: Tensor) -> Tensor:
        return out.flatten(2)[0].T

    def grad_outputs(self, grad: Tensor) -> Tensor:
        shape = self.shape
        if self.layer.kind == "conv":
            k, s, p = self.layer.kernel, self.layer.stride, self.layer.padding
            shape = tuple((n + 2 * p - k) // s + 1 for n in shape)  # type: ignore[assignment]
        return grad.T.reshape(1, -1, *shape).contiguous()

    def grad_inputs(self, grad: Tensor) -> Tensor:
        return grad.flatten(2)[0].T

    def grad_weight(self) -> Tensor:
        kernel = (self.layer.kernel,) * 3
        return sparseconv.convert.weight_from(
            "torch", super().grad_weight(), kernel, groups=self.layer.groups
        )


class DenseEngine(Engine):
    """torch.nn.functional.conv3d where all cells are occupied."""

    name = "dense"

    def version(self) -> str:
        return f"{torch.__version__}, conv3d"

    def runner(self, layer: Layer, scan: Scan, weight: Tensor, options: Options) -> Runner:
        if len(scan) != scan.shape[0] * scan.shape[1] * scan.shape[2]:
            raise UnsupportedError("dense: only where all cells are occupied (--scan dense-grid)")
        if layer.kind == "inverse":
            raise UnsupportedError("dense: a dense layer has no target sites")
        return DenseRunner(layer, scan, weight, options)
