# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Random layers and random scans for hypothesis, and the few helpers that all suites share."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import torch
from hypothesis import assume
from hypothesis import strategies as st

ATOL = 1e-10  # float64 against the oracle


@dataclass(frozen=True)
class Case:
    """A layer, its input sites and its channels. ``target`` (sites given by another tensor) may be None."""

    rel: oracle.Relation
    sites: tuple[oracle.Site, ...]
    shape: tuple[int, ...] | None
    batch_size: int
    groups: int
    c_in: int
    c_out: int
    bias: bool
    seed: int
    target: tuple[oracle.Site, ...] | None = None

    # Cached, because hypothesis shows a Case when it fails and these lists are long.
    @functools.cached_property
    def out_sites(self) -> list[oracle.Site]:
        if self.target is not None:
            return list(self.target)
        return oracle.output_sites(self.rel, self.sites, self.shape)

    @functools.cached_property
    def pairs(self) -> list[oracle.Pair]:
        return oracle.pairs(self.rel, self.sites, self.out_sites)

    @functools.cached_property
    def numbers(self) -> dict[str, np.ndarray]:
        """Features, weight, bias and a cotangent for the output, float64 of order one."""
        rng = np.random.default_rng(self.seed)
        weight = rng.standard_normal((self.rel.volume, self.c_in // self.groups, self.c_out))
        return {
            "features": rng.standard_normal((len(self.sites), self.c_in)),
            "weight": weight / np.sqrt(self.c_in // self.groups),
            "bias": rng.standard_normal(self.c_out),
            "cotangent": rng.standard_normal((len(self.out_sites), self.c_out)),
        }

    @property
    def layer_options(self) -> dict[str, Any]:
        """Keyword arguments of the layer class (a padding that the anchor implies is not stated)."""
        options: dict[str, Any] = {"dilation": self.rel.dilation, "anchor": self.rel.anchor}
        if not self.rel.submanifold:
            options["stride"] = self.rel.stride
            if self.rel.anchor == "torch":
                options["padding"] = self.rel.padding
        if self.rel.transposed:
            options["output_padding"] = self.rel.output_padding
        return options

    @property
    def class_name(self) -> str:
        kind = "SubMConv" if self.rel.submanifold else "ConvTranspose" if self.rel.transposed else "Conv"
        return f"{kind}{self.rel.ndim}d"


def coords_of(sites: tuple[oracle.Site, ...] | list[oracle.Site], ndim: int) -> torch.Tensor:
    """int32 [N, 1 + D]"""
    return torch.tensor([list(s) for s in sites], dtype=torch.int32).reshape(len(sites), 1 + ndim)


def scans(
    ndim: int, shape: tuple[int, ...] | None, batch_size: int, max_rows: int = 14
) -> st.SearchStrategy[tuple[oracle.Site, ...]]:
    """Distinct sites in any order; without a shape also negative ones. Empty and one-voxel scans are likely."""
    if shape is None:
        axes = [st.integers(-6, 6)] * ndim
    else:
        axes = [st.integers(0, n - 1) for n in shape]
    site = st.tuples(st.integers(0, batch_size - 1), *axes)
    return st.lists(site, max_size=max_rows, unique=True).map(tuple)


@st.composite
def kernels(draw: st.DrawFn, ndim: int, max_volume: int = 60) -> tuple[int, ...]:
    """One size per axis in 1..7, the volume bounded; which axis gets the large size is random."""
    sizes, left = [], max_volume
    for _ in range(ndim):
        sizes.append(draw(st.integers(1, max(1, min(7, left)))))
        left //= sizes[-1]
    return tuple(draw(st.permutations(sizes)))


@st.composite
def relations(
    draw: st.DrawFn,
    ndim: int | None = None,
    kind: str | None = None,
    anchor: str | None = None,
    max_volume: int = 60,
    enlarge: bool = True,
) -> oracle.Relation:
    ndim = draw(st.integers(1, 4)) if ndim is None else ndim
    kind = draw(st.sampled_from(["conv", "submanifold", "transposed"])) if kind is None else kind
    anchor = draw(st.sampled_from(["torch", "torch", "minkowski"])) if anchor is None else anchor

    def per_axis(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(ndim))

    kernel = draw(kernels(ndim, max_volume))
    dilation = per_axis(1, 3)
    stride = (1,) * ndim if kind == "submanifold" else per_axis(1, 3)
    output_padding = (0,) * ndim
    if (
        kind == "transposed" and enlarge and draw(st.booleans())
    ):  # torch wants it below the stride or below the dilation
        output_padding = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
    return oracle.make(
        ndim,
        kernel,
        stride,
        per_axis(0, 3),
        dilation,
        output_padding,
        anchor,
        submanifold=kind == "submanifold",
        transposed=kind == "transposed",
    )


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    ndim: int | None = None,
    kind: str | None = None,
    anchor: str | None = None,
    bounded: bool | None = None,
    with_target: bool = False,
    for_map: bool = False,
    enlarge: bool = True,
    max_rows: int = 14,
    max_volume: int = 60,
) -> Case:
    """Random layers on random scans.

    ``bounded`` fixes whether a spatial shape is given (only with the torch anchor). ``enlarge=False`` leaves out output
    padding, which ``build_kernel_map`` does not take; ``for_map`` leaves out the channels too.
    """
    rel = draw(relations(ndim, kind, anchor, max_volume, enlarge=enlarge and not for_map))
    if bounded is None:
        bounded = rel.anchor == "torch" and draw(st.booleans())
    batch_size = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 7)) for _ in range(rel.ndim)) if bounded else None
    if shape is not None:
        assume(min(oracle.output_shape(rel, shape) or (1,)) >= 1)
    sites = draw(scans(rel.ndim, shape, batch_size, max_rows))
    target = None
    if with_target:
        target = draw(scans(rel.ndim, oracle.output_shape(rel, shape), batch_size, max_rows))
    if for_map:
        groups, wide_in, wide_out = 1, 1, 1
    elif draw(st.booleans()) and draw(st.booleans()):  # depthwise
        groups, wide_in, wide_out = draw(st.sampled_from([2, 3, 8, 17, 32])), 1, 1
    else:
        groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
        wide_in = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 16, 19]))
        wide_out = draw(st.sampled_from([1, 2, 3, 4, 7, 16, 17, 33]))
    return Case(
        rel,
        sites,
        shape,
        batch_size,
        groups,
        groups * wide_in,
        groups * wide_out,
        draw(st.booleans()),
        draw(st.integers(0, 2**32 - 1)),
        target,
    )


# --- helpers ---------------------------------------------------------------------------------------------------------


def close(
    got: torch.Tensor | np.ndarray | None, expected: torch.Tensor | np.ndarray, atol: float = ATOL
) -> None:
    """Equal shapes, and values within ``atol`` times max(1, the largest expected value); infinities must be equal."""
    if got is None:
        raise AssertionError("there is no tensor (no gradient arrived)")
    a, b = (np.asarray(torch.as_tensor(v).detach(), np.float64) for v in (got, expected))
    if a.shape != b.shape:
        raise AssertionError(f"shape {a.shape} instead of {b.shape}")
    if a.size == 0:
        return
    finite = np.isfinite(b)
    limit = atol * max(1.0, float(np.abs(b[finite]).max(initial=0.0)))
    wrong = np.where(
        finite, ~(np.abs(a - np.where(finite, b, 0)) <= limit), ~((a == b) | (np.isnan(a) & np.isnan(b)))
    )
    if wrong.any():
        at = tuple(int(v) for v in np.argwhere(wrong)[0])
        count = f"{int(wrong.sum())} of {wrong.size} values differ by more than {limit:.3g}"
        raise AssertionError(f"{count}, the first at {at}: {a[at]!r} instead of {b[at]!r}")


def same_bits(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal dtype, shape and bit patterns (so -0.0 is not 0.0 and a NaN equals itself)."""
    a, b = got.detach().contiguous(), expected.detach().contiguous()
    if a.dtype != b.dtype or a.shape != b.shape:
        raise AssertionError(f"{a.dtype} {tuple(a.shape)} instead of {b.dtype} {tuple(b.shape)}")
    left, right = a.flatten().view(torch.uint8), b.flatten().view(torch.uint8)
    if not torch.equal(left, right):
        rows = (left != right).nonzero()
        raise AssertionError(f"{len(rows)} of {left.numel()} bytes differ, the first at byte {int(rows[0])}")
