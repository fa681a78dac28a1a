# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: A002

"""What all of spconv's convolutions are: its weights and arguments, our engine.

The weight is [C_out, *kernel_size, C_in] and goes to the kernels as a view. Kernels of one cell with stride 1 (submanifold
ones always) are a product with the flat buffer read as [C_in, C_out], as spconv 2.3.8 reads it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ... import functional
from .constants import Activation, SpconvError
from .core import SparseConvTensor
from .functional import kernel_weight
from .layer import MappedModule
from .layouts import other_layouts


class SparseConvolution(MappedModule):
    """Base of all convolutions; the classes of `conv` fix the number of axes and the kind.

    Args:
        ndim: axes.
        in_channels, out_channels: C_in and C_out.
        kernel_size, stride, padding, dilation, output_padding: a number or one per axis. Submanifold layers ignore stride and
            padding.
        groups: 1.
        indice_key: the name under which the map is left for other layers. Submanifold layers with one key share a map; an inverse
            layer takes that of the layer with its key the other way round.
        algo, fp32_accum, large_kernel_fast_algo: accepted, without effect: sums are float32 or better.
        record_voxel_count: keep the largest number of output rows in a buffer.
        act_type, act_alpha, act_beta: an activation after the layer, in inference.

    Raises:
        SpconvError (a ValueError and an AssertionError): for arguments that do not fit.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Any = 3,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        subm: bool = False,
        output_padding: Any = 0,
        transposed: bool = False,
        inverse: bool = False,
        indice_key: str | None = None,
        algo: Any = None,
        fp32_accum: bool | None = None,
        record_voxel_count: bool = False,
        act_type: Any = Activation.None_,
        act_alpha: float = 0,
        act_beta: float = 0,
        large_kernel_fast_algo: bool = False,  # noqa: ARG002
        name: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if groups != 1:
            raise SpconvError(
                f"{type(self).__name__}: spconv's layers have no groups, got groups={groups}; sparseconv.nn's do"
            )
        super().__init__(
            ndim,
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            subm=subm,
            transposed=transposed,
            inverse=inverse,
            indice_key=indice_key,
            algo=algo,
            record_voxel_count=record_voxel_count,
            name=name,
        )
        self.groups = groups
        self.fp32_accum = fp32_accum
        self.act_type, self.act_alpha, self.act_beta = act_type, act_alpha, act_beta
        self.conv1x1 = math.prod(self.kernel_size) == 1 and (subm or math.prod(self.stride) == 1)
        self.has_map = not self.conv1x1
        if self.conv1x1 and not subm and any(self.padding):
            raise SpconvError(
                f"{type(self).__name__}: a kernel of one cell with stride 1 takes no padding, got {self.padding}"
            )
        if self.conv1x1 and act_type.name != "None_":
            raise SpconvError(f"{type(self).__name__}: a kernel of one cell with stride 1 takes no act_type")
        shape = (out_channels, *self.kernel_size, in_channels)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()
        self.register_load_state_dict_pre_hook(other_layouts)  # type: ignore[no-untyped-call]

    @property
    def in_channels(self) -> int:
        """C_in."""
        return self.weight.shape[-1]

    @property
    def out_channels(self) -> int:
        """C_out."""
        return self.weight.shape[0]

    @property
    def weight_shape(self) -> list[int]:
        """[C_out, *kernel_size, C_in]."""
        return list(self.weight.shape)

    def is_inverseable(self) -> bool:
        """Whether an inverse layer can take this one's map."""
        return self.indice_key is not None and not self.subm

    def reset_parameters(self) -> None:
        """Weight and bias from U(-b, b) with b = 1 / sqrt(K * C_in), as torch's layers and spconv's."""
        fan_in = self.in_channels * math.prod(self.kernel_size)
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: SparseConvTensor, add_input: SparseConvTensor | None = None) -> SparseConvTensor:
        """Convolves; in inference `add_input`, a tensor on the output's rows, is added before the activation.

        Raises:
            SpconvError: for a tensor of other axes or channels, and where the layer with this indice_key does not fit.
        """
        self._check(input)
        if input.features.shape[1] != self.in_channels:
            raise SpconvError(
                f"{type(self).__name__}: expected features [N, {self.in_channels}], got {list(input.features.shape)}"
            )
        if self.training and self.act_type.name != "None_":
            raise SpconvError(f"{type(self).__name__}: act_type is for inference; use a module in training")
        params = (
            {
                "kernel_size": self.kernel_size,
                "stride": self.stride,
                "padding": self.padding,
                "dilation": self.dilation,
                "output_padding": self.output_padding,
                "subm": self.subm,
                "transposed": self.transposed,
                "input_channels": self.in_channels,
                "out_channels": self.out_channels,
            }
            if input.benchmark
            else {}
        )
        out = self._recorded(input, "SparseConvolution", params, lambda: self._convolve(input))
        if add_input is not None:
            out = out.replace_feature(out.features + add_input.features)
        if self.act_type.name != "None_":
            out = out.replace_feature(_activated(out.features, self.act_type.name, self.act_alpha))
        return out

    def _convolve(self, x: SparseConvTensor) -> SparseConvTensor:
        name = type(self).__name__
        if self.conv1x1:
            weight = self.weight.view(self.in_channels, self.out_channels)
            return x.replace_feature(nn.functional.linear(x.features, weight.t(), self.bias))
        data = self._find(x)
        cells, weight = data.cells, kernel_weight(self.weight)
        if cells.first is None:
            rows = x.features
        else:
            rows = cells.lowest(x.features) if self.subm else cells.sums(x.features)
        features = functional.conv(rows, weight, self.bias, data.kernel_map, name=name)
        if self.inverse:
            features = data.out_cells.spread(features)
        elif self.subm and cells.cell_of_row is not None:
            # A repeated row sees itself in the centre and the lowest rows around it.
            own = x.features - cells.spread(rows)
            features = cells.spread(features) + own @ weight[len(weight) // 2]
        return self._finish(x, data, features)

    def extra_repr(self) -> str:
        """Channels and geometry."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        text += f", padding={self.padding}, dilation={self.dilation}, output_padding={self.output_padding}"
        if self.bias is None:
            text += ", bias=False"
        return f"{text}, algo={self.algo}"


def _activated(x: Tensor, name: str, alpha: float) -> Tensor:
    if name == "ReLU":
        return x.relu()
    if name == "Sigmoid":
        return x.sigmoid()
    if name == "LeakyReLU":
        return nn.functional.leaky_relu(x, alpha)
    raise NotImplementedError(f"act_type must be None_, ReLU, Sigmoid or LeakyReLU, got {name}")
