# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Convolution layers in one to four dimensions: submanifold, strided, transposed and inverse."""

import torch

from ..geometry import Ints
from .sparse_convolution import SparseConvolution


class _SubMConv(SparseConvolution):
    submanifold = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        *,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        anchor: str = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            dilation=dilation,
            groups=groups,
            bias=bias,
            anchor=anchor,
            device=device,
            dtype=dtype,
        )


class _Conv(SparseConvolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        *,
        stride: Ints = 1,
        padding: Ints = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        anchor: str = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            anchor=anchor,
            device=device,
            dtype=dtype,
        )


class _ConvTranspose(SparseConvolution):
    transposed = True


class _InverseConv(_Conv):
    transposed = True
    needs_target = True


class SubMConv1d(_SubMConv):
    """Submanifold convolution over one axis: the output has exactly the input's sites; see `SubMConv3d`."""

    ndim = 1


class SubMConv2d(_SubMConv):
    """Submanifold convolution over two axes: the output has exactly the input's sites; see `SubMConv3d`."""

    ndim = 2


class SubMConv3d(_SubMConv):
    """Submanifold convolution: output sites are the input's, a tap without a site adds nothing.

    Args: in_channels, out_channels; kernel_size and dilation, an int or one per axis (even sizes are legal; the padding
    is dilation * (k - 1) // 2); groups; bias; anchor, "torch" or "minkowski"; device and dtype of the parameters.
    Source: Graham and van der Maaten, "Submanifold sparse convolutional networks" (2017).
    """

    ndim = 3


class SubMConv4d(_SubMConv):
    """Submanifold convolution over four axes: the output has exactly the input's sites; see `SubMConv3d`."""

    ndim = 4


class Conv1d(_Conv):
    """Sparse convolution over one axis; see `Conv3d`."""

    ndim = 1


class Conv2d(_Conv):
    """Sparse convolution over two axes; see `Conv3d`."""

    ndim = 2


class Conv3d(_Conv):
    """Sparse convolution: an output site is every cell whose kernel touches an input site.

    Along each axis, in = out * stride - padding + tap * dilation. With `spatial_shape` on the input the result equals
    `torch.nn.Conv3d` on the dense grid. Args as `SubMConv3d`, with stride and padding (an int or one per axis).
    """

    ndim = 3


class Conv4d(_Conv):
    """Sparse convolution over four axes; see `Conv3d`."""

    ndim = 4


class ConvTranspose1d(_ConvTranspose):
    """Sparse transposed convolution over one axis; see `ConvTranspose3d`."""

    ndim = 1


class ConvTranspose2d(_ConvTranspose):
    """Sparse transposed convolution over two axes; see `ConvTranspose3d`."""

    ndim = 2


class ConvTranspose3d(_ConvTranspose):
    """Sparse transposed convolution; without a target it generates every cell that an input site's kernel reaches.

    Along each axis, out = in * stride - padding + tap * dilation; the tensor's stride is divided by `stride`. With
    `spatial_shape` on the input the result equals `torch.nn.ConvTranspose3d` on the dense grid. Args as `Conv3d`, with
    output_padding, which only enlarges the output's shape.
    """

    ndim = 3


class ConvTranspose4d(_ConvTranspose):
    """Sparse transposed convolution over four axes; see `ConvTranspose3d`."""

    ndim = 4


class InverseConv1d(_InverseConv):
    """Undo the site change of a `Conv1d` with the same geometry; see `InverseConv3d`."""

    ndim = 1


class InverseConv2d(_InverseConv):
    """Undo the site change of a `Conv2d` with the same geometry; see `InverseConv3d`."""

    ndim = 2


class InverseConv3d(_InverseConv):
    """Go back to the sites a `Conv3d` started from: `layer(x, target)` with that convolution's input as the target.

    kernel_size, stride, padding and dilation state the partner's geometry; tap t pairs with the partner's tap t. It
    equals `ConvTranspose3d(...)(x, target)`, and reuses the partner's kernel map where the target holds it.
    """

    ndim = 3


class InverseConv4d(_InverseConv):
    """Undo the site change of a `Conv4d` with the same geometry; see `InverseConv3d`."""

    ndim = 4
