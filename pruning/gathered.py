# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What weights are multiplied with: for an output row the inputs under all taps, side by side, and their second moments.

A convolution over gathered inputs is a linear layer: y = x W, with x [K * C_in / g] zero where a tap meets no voxel. So what is
known for linear layers (optimal brain surgeon, least squares) holds for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from .analysis import Layer, canonical, from_canonical
from .calls import CONV, DENSE, Call, observe
from .criteria import Context

_CHUNK = 2**26  # bytes of gathered inputs that are held at once


def columns(layer: Layer, weight: Tensor) -> Tensor:
    """A weight (or something of its shape) as [g, K * C_in / g, C_out / g]: what is multiplied with gathered inputs."""
    taps = canonical(layer, weight)  # [K, C_in / g, C_out]
    parts: Tensor = taps.unflatten(2, (layer.groups, -1))
    return parts.permute(2, 0, 1, 3).flatten(1, 2)


def from_columns(layer: Layer, x: Tensor, shape: torch.Size) -> Tensor:
    """Back to the weight's own shape."""
    reads = canonical(layer, torch.empty(shape, device="meta")).shape[1]
    taps = x.unflatten(1, (-1, reads)).permute(1, 2, 0, 3).flatten(2)
    return from_canonical(layer, taps, shape)


def squared_inputs(call: Call, layer: Layer, shape: torch.Size) -> Tensor:
    """For every element of a weight the sum of squares of the inputs it is multiplied with: float64 of its shape, on the CPU."""
    squares = call.features.detach().double().square()
    if call.window is not None:  # the gradient of the weight where that of every output is one
        stride, padding, dilation, transposed, output_padding = call.window
        ones = torch.ones_like(call.out, dtype=torch.float64)
        weight = squares.new_zeros(shape)
        sums: Tensor = torch.ops.aten.convolution_backward(
            ones,
            squares,
            weight,
            None,
            stride,
            padding,
            dilation,
            transposed,
            output_padding,
            call.groups,
            [False, True, False],
        )[1]
        return sums.cpu()
    if call.pairs is None or call.tap_offsets is None:
        taps = squares.sum(0)[None]
    else:
        offsets = call.tap_offsets.tolist()
        rows = call.pairs[:, 0].long()
        taps = torch.stack([squares[rows[a:b]].sum(0) for a, b in itertools.pairwise(offsets)])  # [K, C_in]
    made = columns(layer, torch.empty(shape, device="meta")).shape[2]
    inputs = taps.unflatten(1, (layer.groups, -1)).transpose(0, 1).flatten(1)  # [g, K * C_in / g]
    return from_columns(layer, inputs[..., None].expand(-1, -1, made), shape).cpu()


def gathered_rows(call: Call, layer: Layer, shape: torch.Size, rows: int) -> Iterator[Tensor]:
    """Gathered inputs of at most `rows` output rows, evenly spaced, in chunks: float64 [g, r, K * C_in / g].

    Raises:
        ValueError: for dense transposed convolutions.
    """
    if call.window is not None:
        yield from _dense_rows(call, layer, shape, rows)
        return
    x = call.features.detach()
    total = call.out.shape[0] if call.kind == CONV else x.shape[0]
    number = min(total, rows)
    chosen = torch.arange(number, device=x.device) * total // max(number, 1)
    taps = len(call.tap_offsets) - 1 if call.tap_offsets is not None else 1
    step = max(1, _CHUNK // max(8 * taps * x.shape[1], 1))
    for part in chosen.split(step) if number else ():
        if call.pairs is None or call.tap_offsets is None:
            gathered = x[part].double()[:, None]
        else:
            gathered = _gather(x, call.pairs, call.tap_offsets.tolist(), part)
        yield gathered.unflatten(2, (layer.groups, -1)).permute(2, 0, 1, 3).flatten(2)


def _gather(x: Tensor, pairs: Tensor, offsets: Sequence[int], rows: Tensor) -> Tensor:
    """The inputs of output rows (ascending) under every tap, zero where there is none: float64 [r, K, C_in]."""
    gathered = x.new_zeros((len(rows), len(offsets) - 1, x.shape[1]), dtype=torch.float64)
    for tap, (a, b) in enumerate(itertools.pairwise(offsets)):
        if a == b:
            continue
        outputs = pairs[a:b, 1].long().contiguous()  # ascending, each at most once
        place = torch.searchsorted(outputs, rows).clamp(max=b - a - 1)
        met = outputs[place] == rows
        gathered[met, tap] = x[pairs[a:b, 0].long()[place[met]]].double()
    return gathered


def _dense_rows(call: Call, layer: Layer, shape: torch.Size, rows: int) -> Iterator[Tensor]:
    stride, padding, dilation, transposed, _ = call.window or ()
    if transposed:
        raise ValueError(
            f"{layer.name}: inputs of a dense transposed convolution cannot be gathered; leave it out by ignore="
        )
    x = call.features.detach().double()
    x = functional.pad(x, [p for pad in reversed(padding) for p in (pad, pad)])
    for axis, (size, step, apart) in enumerate(zip(shape[2:], stride, dilation, strict=True), start=2):
        # A view: windows of the kernel's reach, of which every `apart`-th position is taken.
        x = x.unfold(axis, apart * (size - 1) + 1, step)[..., ::apart]
    batch, channels, *cells = x.shape[: 2 + len(shape[2:])]
    total = batch * math.prod(cells)
    number = min(total, rows)
    chosen = torch.arange(number, device=x.device) * total // max(number, 1)
    step = max(1, _CHUNK // max(8 * channels * math.prod(shape[2:]), 1))
    for part in chosen.split(step) if number else ():
        sample, *places = torch.unravel_index(part, (batch, *cells))
        gathered = x.movedim(1, -1)[(sample, *places)]  # [r, *k, C_in]
        gathered = gathered.flatten(1, -2)
        yield gathered.unflatten(2, (layer.groups, -1)).permute(2, 0, 1, 3).flatten(2)


@dataclass
class Moments:
    """The mean of x^T x over gathered rows x.

    Attributes:
        layer: that multiplies them.
        shape: of its weight.
        blocks: float64 [B, S, S] on the CPU: one block for each group of channels, S = K * C_in / g; or, for a large layer, one
            for each group and tap, S = C_in / g, which leaves out what taps have in common.
        rows: over which the mean is taken.
    """

    layer: Layer
    shape: torch.Size
    blocks: Tensor
    rows: int = 0
    _limit: int = field(default=2**62, repr=False)

    def add(self, call: Call) -> None:
        """Adds the rows of one product; `blocks` is a sum until `finish`."""
        for x in gathered_rows(call, self.layer, self.shape, self._limit):
            self.rows += x.shape[1]
            if x.shape[2] != self.blocks.shape[1]:
                x = x.unflatten(2, (-1, self.blocks.shape[1])).transpose(1, 2).flatten(0, 1)
            self.blocks += (x.transpose(1, 2) @ x).cpu()

    def finish(self) -> Moments:
        """The mean."""
        self.blocks /= max(self.rows, 1)
        return self

    def dead(self) -> Tensor:
        """Inputs that are zero in all rows: bool [B, S]."""
        return self.blocks.diagonal(dim1=1, dim2=2) == 0

    def weight(self, weight: Tensor) -> Tensor:
        """A weight in the form that the blocks multiply: float64 [B, S, P] on the CPU."""
        return columns(self.layer, weight.detach().cpu().double()).reshape(*self.blocks.shape[:2], -1)

    def back(self, x: Tensor) -> Tensor:
        """From that form to the weight's shape."""
        return from_columns(self.layer, x.reshape(self.layer.groups, -1, x.shape[2]), self.shape)


def moments(
    context: Context,
    names: Sequence[str],
    *,
    rows: int,
    largest: int,
    memory: int = 2**30,
    by_tap: bool = True,
) -> Iterator[Moments]:
    """Moments of the inputs of the weights called `names`, in the order of the analysis.

    Args:
        context: the model runs over its scans, once for every set of weights that `memory` has room for.
        names: of weights.
        rows: the highest number of output rows taken of each call, evenly spaced.
        largest: the highest S with moments over all taps.
        memory: bytes of moments held at once; one weight's are held even where they take more.
        by_tap: whether larger layers have moments of each tap for itself; otherwise they are a ValueError.
    """
    waiting = [
        _empty(context, name, rows, largest, by_tap) for name in context.analysis.layers if name in set(names)
    ]
    while waiting:
        held = [waiting.pop(0)]
        size = _bytes(held[0])
        while waiting and size + _bytes(waiting[0]) <= memory:
            held.append(waiting.pop(0))
            size += _bytes(held[-1])
        found = {m.layer.weight: m for m in held}
        for m in held:
            m.blocks = torch.zeros(m.blocks.shape, dtype=torch.float64)

        def add(call: Call, found: dict[str, Moments] = found) -> None:
            if call.name in found:
                found[call.name].add(call)

        observe(context.model, context.scans, add, context.forward)
        while held:
            yield held.pop(0).finish()
        found.clear()


def _bytes(m: Moments) -> int:
    return 8 * m.blocks.numel()


def _empty(context: Context, name: str, rows: int, largest: int, by_tap: bool) -> Moments:
    layer = context.analysis.layers[name]
    shape = context.model.get_parameter(name).shape
    if layer.transposed and layer.kind == DENSE:
        raise ValueError(
            f"{layer.name}: inputs of a dense transposed convolution cannot be gathered; leave it out by ignore="
        )
    groups, size, _ = columns(layer, torch.empty(shape, device="meta")).shape
    if size > largest:
        if not by_tap:
            raise ValueError(
                f"{layer.name}: taps times input channels are {size}, more than largest={largest}: raise it (the moments take "
                f"{8 * size**2 / 2**20:.0f} MiB), or leave the layer out by ignore="
            )
        taps = canonical(layer, torch.empty(shape, device="meta")).shape[0]
        groups, size = groups * taps, size // taps
    return Moments(
        layer, shape, torch.empty(groups, size, size, dtype=torch.float64, device="meta"), _limit=rows
    )
