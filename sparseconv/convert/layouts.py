# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Weight layouts of other engines, and the way from each to ours and back.

Ours is `[K, C_in / groups, C_out]` with taps in row-major order (the last axis fastest). The names below:

- "torch": dense layers, `[C_out, C_in / groups, *kernel]`, transposed ones `[C_in, C_out / groups, *kernel]`.
- "spconv": spconv 2.2 and later, `[C_out, *kernel, C_in]`.
- "spconv_rskc": spconv 2.0 and 2.1 with their native algorithm, `[*kernel, C_out, C_in]`.
- "spconv_rsck": spconv 1.x, `[*kernel, C_in, C_out]`.
- "torchsparse": TorchSparse 2.1, `[K, C_in, C_out]`; the first axis fastest for an odd kernel volume, the last one for an
  even volume. "torchsparse_1.4": the same, but for kernels of one cell with a stride.
- "minkowski": MinkowskiEngine, `[K, C_in, C_out]`, the first axis fastest; channelwise layers `[K, C]`.

A kernel of one cell has exceptions. spconv (all but 1.x) reads the flat buffer of a 1x1 layer with stride 1, and of
every submanifold 1x1 layer, as `[C_in, C_out]` whatever the shape says. TorchSparse and MinkowskiEngine drop the
tap axis, `[C_in, C_out]`, where the stride is 1; TorchSparse 1.4 always. Either shape is read.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LAYOUTS = ("torch", "spconv", "spconv_rskc", "spconv_rsck", "torchsparse", "torchsparse_1.4", "minkowski")


def weight_from(
    layout: str,
    weight: Tensor,
    kernel_size: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    submanifold: bool = False,
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    """Return a weight of another layout as ours, `[K, C_in / groups, C_out]`: a view of it wherever strides allow.

    Args: layout, one of LAYOUTS; weight; kernel_size, one int per axis; stride, submanifold, transposed and groups of
    the layer it belongs to. Raises ValueError for an unknown layout, a shape that does not fit, and for groups where
    the layout has none.
    """
    kernel, volume = _kernel(kernel_size)
    _check_layout(layout, groups, weight)
    ndim = len(kernel)
    axes = list(range(ndim))
    if layout == "torch":
        _check_shape(layout, weight, [None, None, *kernel])
        if not transposed:
            return weight.permute(*[a + 2 for a in axes], 1, 0).reshape(
                volume, weight.shape[1], weight.shape[0]
            )
        c_in, c_out = weight.shape[0], weight.shape[1] * groups
        split = weight.reshape(groups, c_in // groups, c_out // groups, volume)
        return split.permute(3, 1, 0, 2).reshape(volume, c_in // groups, c_out)
    if layout == "spconv":
        _check_shape(layout, weight, [None, *kernel, None])
        if _reads_flat(volume, stride, submanifold):
            return weight.reshape(1, weight.shape[-1], weight.shape[0])
        return weight.permute(*[a + 1 for a in axes], ndim + 1, 0).reshape(
            volume, weight.shape[-1], weight.shape[0]
        )
    if layout == "spconv_rskc":
        _check_shape(layout, weight, [*kernel, None, None])
        c_out, c_in = weight.shape[-2:]
        if _reads_flat(volume, stride, submanifold):
            return weight.reshape(1, c_in, c_out)
        return weight.permute(*axes, ndim + 1, ndim).reshape(volume, c_in, c_out)
    if layout == "spconv_rsck":
        _check_shape(layout, weight, [*kernel, None, None])
        return weight.reshape(volume, *weight.shape[-2:])
    if (
        groups > 1 and layout == "minkowski" and weight.ndim == 2
    ):  # channelwise: one number per tap and channel
        _check_shape(layout, weight, [volume, groups])
        weight = weight.unsqueeze(1)
    elif volume == 1 and weight.ndim == 2:
        weight = weight.unsqueeze(0)
    _check_shape(layout, weight, [volume, None, None])
    if not _first_axis_fastest(layout, volume):
        return weight
    grid = weight.reshape(*reversed(kernel), *weight.shape[1:])
    return grid.permute(*reversed(axes), ndim, ndim + 1).reshape(volume, *weight.shape[1:])


def weight_to(
    layout: str,
    weight: Tensor,
    kernel_size: Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    submanifold: bool = False,
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    """Return our weight `[K, C_in / groups, C_out]` in another layout, contiguous; the inverse of `weight_from`.

    Arguments and errors as `weight_from`.
    """
    kernel, volume = _kernel(kernel_size)
    _check_layout(layout, groups, weight)
    _check_shape("our", weight, [volume, None, None])
    ndim = len(kernel)
    axes = list(range(ndim))
    c_in, c_out = weight.shape[1] * groups, weight.shape[2]
    if layout == "torch":
        if not transposed:
            return weight.permute(2, 1, 0).reshape(c_out, c_in // groups, *kernel).contiguous()
        split = weight.reshape(volume, c_in // groups, groups, c_out // groups)
        return split.permute(2, 1, 3, 0).reshape(c_in, c_out // groups, *kernel).contiguous()
    if layout == "spconv":
        if _reads_flat(volume, stride, submanifold):
            return weight.reshape(c_out, *kernel, c_in).contiguous()
        return weight.permute(2, 0, 1).reshape(c_out, *kernel, c_in).contiguous()
    if layout == "spconv_rskc":
        if _reads_flat(volume, stride, submanifold):
            return weight.reshape(*kernel, c_out, c_in).contiguous()
        return weight.permute(0, 2, 1).reshape(*kernel, c_out, c_in).contiguous()
    if layout == "spconv_rsck":
        return weight.reshape(*kernel, c_in, c_out).contiguous()
    if _first_axis_fastest(layout, volume):
        grid = weight.reshape(*kernel, *weight.shape[1:])
        weight = grid.permute(*reversed(axes), ndim, ndim + 1).reshape(volume, *weight.shape[1:])
    if groups > 1:
        if not weight.shape[1] == 1 or c_out != groups:
            raise ValueError(
                f'layout "minkowski" has channelwise layers only (groups = C_in = C_out), '
                f"got groups={groups}, C_in={c_in}, C_out={c_out}"
            )
        return weight.squeeze(1).contiguous()
    if volume == 1 and (_steps(stride) == 1 or layout == "torchsparse_1.4"):
        return weight.squeeze(0).contiguous()
    return weight.contiguous()


def tap_index(taps: Tensor, kernel_size: Sequence[int]) -> Tensor:
    """Return the row-major index of each tap: int64 [K] for taps [K, D]."""
    index = torch.zeros(taps.shape[0], dtype=torch.int64, device=taps.device)
    for axis, size in enumerate(kernel_size):
        index = index * size + taps[:, axis]
    return index


def _kernel(kernel_size: Sequence[int]) -> tuple[tuple[int, ...], int]:
    kernel = tuple(int(k) for k in kernel_size)
    return kernel, math.prod(kernel)


def _steps(stride: int | Sequence[int]) -> int:
    return stride if isinstance(stride, int) else math.prod(stride)


def _reads_flat(volume: int, stride: int | Sequence[int], submanifold: bool) -> bool:
    return volume == 1 and (submanifold or _steps(stride) == 1)


def _first_axis_fastest(layout: str, volume: int) -> bool:
    return layout == "minkowski" or volume % 2 == 1


def _check_layout(layout: str, groups: int, weight: Tensor) -> None:
    if not isinstance(weight, Tensor):
        raise TypeError(f"a weight must be a torch.Tensor, got {type(weight).__name__}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if groups != 1 and layout not in ("torch", "minkowski"):
        raise ValueError(f'layout "{layout}" has no groups, got groups={groups}')


def _check_shape(layout: str, weight: Tensor, expected: Sequence[int | None]) -> None:
    fits = weight.ndim == len(expected) and all(
        e in (None, n) for e, n in zip(expected, weight.shape, strict=True)
    )
    if not fits:
        shape = ", ".join("C" if e is None else str(e) for e in expected)
        raise ValueError(f"a weight of {layout} layout must be [{shape}], got {list(weight.shape)}")
