# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""MinkowskiEngine 0.5's CPU build. Importing this module needs MinkowskiEngine, which pip does not offer as a wheel.

Where it is installed, its results are compared before they are timed as everyone's are.
"""

from __future__ import annotations

from importlib.metadata import version

import MinkowskiEngine as Minkowski
import torch
from engines import Engine, Options, Runner, UnsupportedError, lexicographic
from layers import Layer
from scans import Scan
from torch import Tensor

import sparseconv


class MinkowskiRunner(Runner):
    """A MinkowskiConvolution on a coordinate manager that has its map."""

    def __init__(self, layer: Layer, scan: Scan, weight: Tensor) -> None:
        self.layer, kernel = layer, (layer.kernel,) * 3
        own = sparseconv.convert.weight_to("minkowski", weight, kernel, stride=layer.stride)
        cls = (
            Minkowski.MinkowskiConvolutionTranspose
            if layer.kind == "inverse"
            else Minkowski.MinkowskiConvolution
        )
        self.module = cls(
            layer.c_in, layer.c_out, kernel_size=layer.kernel, stride=layer.stride, bias=False, dimension=3
        )
        with torch.no_grad():
            self.module.kernel.copy_(own)
        self.weight = self.module.kernel
        x = Minkowski.SparseTensor(torch.zeros(len(scan), 1), coordinates=scan.coords)
        if layer.kind == "inverse":
            down = Minkowski.MinkowskiConvolution(
                1, 1, kernel_size=layer.kernel, stride=layer.stride, dimension=3
            )
            x = down(x)
        self.key, self.manager = x.coordinate_map_key, x.coordinate_manager
        with torch.no_grad():
            out = self.module(self._tensor(torch.zeros(len(x.C), layer.c_in)))
        order = lexicographic(x.C)  # our inverse layers read lexicographic rows, the others the scan's
        shared = torch.arange(len(order)) if layer.kind == "inverse" else lexicographic(scan.coords)
        self.in_rows = torch.empty_like(order)
        self.in_rows[order] = shared
        self.out_rows = lexicographic(out.C)
        if layer.kind != "conv":  # the scan's own rows
            rank = torch.empty_like(self.out_rows)
            rank[lexicographic(scan.coords)] = self.out_rows
            self.out_rows = rank

    def _tensor(self, features: Tensor) -> Minkowski.SparseTensor:
        return Minkowski.SparseTensor(features, coordinate_map_key=self.key, coordinate_manager=self.manager)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.module(self._tensor(features)).F
        return out

    def grad_weight(self) -> Tensor:
        kernel = (self.layer.kernel,) * 3
        return sparseconv.convert.weight_from(
            "minkowski", super().grad_weight(), kernel, stride=self.layer.stride
        )


class MinkowskiEngine(Engine):
    """The CPU build of MinkowskiEngine."""

    name = "minkowski"

    def version(self) -> str:
        return version("MinkowskiEngine")

    def runner(self, layer: Layer, scan: Scan, weight: Tensor, options: Options) -> Runner:
        if options.dtype != torch.float32 or options.device != "cpu":
            raise UnsupportedError("minkowski: compared in float32 on the CPU")
        if layer.groups > 1:
            raise UnsupportedError("minkowski: its channelwise layers are not measured")
        if layer.kind != "subm" and layer.kernel != layer.stride:
            raise UnsupportedError(
                "minkowski: strided layers whose kernel is not the stride have other sites there"
            )
        return MinkowskiRunner(layer, scan, weight)
