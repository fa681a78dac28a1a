# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The geometry of a layer: kernel size, stride, padding, dilation, anchor; what its sites and its output shape are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

Ints = int | Sequence[int]
Rational = int | Fraction
ANCHORS = ("torch", "minkowski")


def per_axis(value: Ints, ndim: int, name: str, lowest: int) -> tuple[int, ...]:
    """`value` once per axis; ValueError / TypeError that names it otherwise."""
    values: tuple[Any, ...] = tuple(value) if isinstance(value, list | tuple) else (value,) * ndim
    if any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise TypeError(f"{name} must be an int or {ndim} ints, got {value!r}")
    if len(values) != ndim:
        raise ValueError(f"{name} must be an int or {ndim} ints, got {len(values)} values: {value!r}")
    if any(v < lowest for v in values):
        raise ValueError(f"{name} must be at least {lowest} on every axis, got {value!r}")
    if any(v >= 2**31 for v in values):  # coordinates are int32, and products of the two have to fit 64 bits
        raise ValueError(f"{name} must be below 2^31 on every axis, got {value!r}")
    return values


@dataclass(frozen=True)
class Geometry:
    """How the sites of a layer relate, each field one value per axis. Build it with `Geometry.make`, which checks."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    anchor: str = "torch"
    submanifold: bool = False
    transposed: bool = False

    @staticmethod
    def make(
        ndim: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        dilation: Ints = 1,
        output_padding: Ints = 0,
        *,
        anchor: str = "torch",
        submanifold: bool = False,
        transposed: bool = False,
    ) -> Geometry:
        """Checks the values and spreads single ints over the axes.

        The anchor "minkowski" sets the padding itself, (k - 1) // 2 * dilation for odd k and 0 for even k: leave it at 0 or pass
        just that. A submanifold layer sets it too, to dilation * (k - 1) // 2 with the anchor "torch".
        """
        if not 1 <= ndim <= 4:
            raise ValueError(f"layers have 1 to 4 dimensions, got {ndim}")
        if anchor not in ANCHORS:
            raise ValueError(f"anchor must be one of {ANCHORS}, got {anchor!r}")
        kernel = per_axis(kernel_size, ndim, "kernel_size", 1)
        if max(kernel) > 64:
            raise ValueError(f"kernel_size must be at most 64 on every axis, got {kernel_size!r}")
        steps = per_axis(stride, ndim, "stride", 1)
        pads = per_axis(padding, ndim, "padding", 0)
        gaps = per_axis(dilation, ndim, "dilation", 1)
        extra = per_axis(output_padding, ndim, "output_padding", 0)
        if submanifold and (any(s != 1 for s in steps) or transposed):
            raise ValueError(f"a submanifold layer has stride 1 and is not transposed, got stride {stride!r}")
        if any(extra) and not transposed:
            raise ValueError(f"output_padding belongs to transposed layers, got {output_padding!r}")
        if any(e >= max(s, d) for e, s, d in zip(extra, steps, gaps, strict=True)):
            raise ValueError(
                f"output_padding must be smaller than stride or dilation, got {output_padding!r}"
            )
        if anchor == "minkowski" or submanifold:
            centred = tuple(
                (0 if k % 2 == 0 else (k - 1) // 2 * d) if anchor == "minkowski" else d * (k - 1) // 2
                for k, d in zip(kernel, gaps, strict=True)
            )
            if any(pads) and pads != centred:
                raise ValueError(
                    f"padding of this layer with anchor {anchor!r} is {centred}, got {padding!r}"
                )
            pads = centred
        return Geometry(kernel, steps, pads, gaps, extra, anchor, submanifold, transposed)

    @property
    def ndim(self) -> int:
        """Number of axes D."""
        return len(self.kernel_size)

    @property
    def volume(self) -> int:
        """Number of taps of the full kernel."""
        volume = 1
        for size in self.kernel_size:
            volume *= size
        return volume

    @property
    def relations(self) -> list[list[int]]:
        """Per axis (kernel, stride, padding, dilation), the core's form."""
        return [
            list(axis)
            for axis in zip(self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        ]

    @property
    def site_relations(self) -> list[list[int]]:
        """The relation that finds the output sites: the layer's own, or floor(in / stride) for anchor "minkowski".

        floor(in / stride) = out means in = out * stride + i with i in 0 .. stride - 1: a kernel of size `stride`, no padding.
        """
        if self.anchor == "minkowski" and not self.transposed:
            return [[s, s, 0, 1] for s in self.stride]
        return self.relations

    @property
    def mirror_symmetric(self) -> bool:
        """Whether tap t and tap K - 1 - t of the full kernel are opposite, which makes the map its own reverse."""
        return self.submanifold and all(
            2 * p == d * (k - 1)
            for k, d, p in zip(self.kernel_size, self.dilation, self.padding, strict=True)
        )

    def all_taps(self) -> Tensor:
        """All taps, int32 [K, D], row-major with the last axis fastest."""
        return torch.tensor(
            list(itertools.product(*map(range, self.kernel_size))), dtype=torch.int32
        ).reshape(-1, self.ndim)

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The spatial shape after the layer, as torch's dense layers have it; ValueError where it is empty."""
        if self.submanifold:
            return tuple(shape)
        result = []
        for n, k, s, p, d, extra in zip(
            shape,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.output_padding,
            strict=True,
        ):
            if self.transposed:
                result.append((n - 1) * s - 2 * p + d * (k - 1) + extra + 1)
            elif self.anchor == "minkowski":
                result.append((n - 1) // s + 1)
            else:
                result.append((n + 2 * p - d * (k - 1) - 1) // s + 1)
        if any(size < 1 for size in result):
            raise ValueError(
                f"the layer {self} makes an empty shape {tuple(result)} from spatial_shape {tuple(shape)}"
            )
        return tuple(result)

    def output_stride(self, stride: Sequence[Rational]) -> tuple[Rational, ...]:
        """The tensor stride after the layer: multiplied by the layer's, divided by a transposed layer's."""
        if not self.transposed:
            return tuple(_multiply(have, step) for have, step in zip(stride, self.stride, strict=True))
        return tuple(_divide(have, step) for have, step in zip(stride, self.stride, strict=True))


def _multiply(have: Rational, step: int) -> Rational:
    product = have * step
    return product.numerator if isinstance(product, Fraction) and product.denominator == 1 else product


def _divide(have: Rational, step: int) -> Rational:
    if step == 1 or have % step == 0:
        return have if step == 1 else have // step
    # torch.compile may hold an int as a symbol, which Fraction cannot take; the length of a range is a plain number again.
    whole = len(range(have)) if isinstance(have, int) else have
    return Fraction(whole) / len(range(step))
