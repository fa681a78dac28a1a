# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Where channels go when an operator only moves data: views, copies, concatenation, indexing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .follow import Axes, ChannelFollower, Rule

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule under names of torch's operators."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[f"aten::{name}"] = function
        return function

    return register


def _is_full(axes: Axes) -> bool:
    return any(a is not None for a in axes)


# --- the same array ---------------------------------------------------------------------------------------------------------


@rule("detach", "alias", "clone", "_to_copy", "contiguous", "lift_fresh", "zeros_like", "ones_like", "empty_like", "full_like",
      "rand_like", "randn_like", "_fused_dropout", "bernoulli", "fill", "zero")  # fmt: skip
def _same(f: ChannelFollower, args: Any, _: Any, out: Any) -> None:
    first = out[0] if isinstance(out, tuple) else out
    f.carry(first, f.axes(args[0]))
    if f.op.endswith("_like") or f.is_made(args[0]):
        f.mark_made(first)
    if f.is_part(args[0]):
        f.mark_part(first)


@rule("new_zeros", "new_ones", "new_empty", "new_full", "zeros", "ones", "empty", "full", "scalar_tensor",
      "new_empty_strided", "empty_strided", "rand", "randn", "randint")  # fmt: skip
def _made(f: ChannelFollower, _args: Any, _: Any, out: Tensor) -> None:
    f.mark_made(out)


@rule("copy")
def _copy(f: ChannelFollower, args: Any, _: Any, out: Tensor) -> None:
    """out[...] = source, in place."""
    target, source = args[:2]
    axes, incoming = list(f.axes(target)), f.axes(source)
    hidden = f.is_part(target) and not _is_full(axes)
    for back in range(1, source.ndim + 1):
        ids = incoming[-back]
        if hidden or source.shape[-back] != target.shape[-back]:
            f.freeze(ids, "is written into a part of another array")
        elif axes[-back] is None and f.is_made(target):
            axes[-back] = ids
        elif ids is not None or axes[-back] is not None:
            axes[-back] = f.tie(axes[-back], ids)
    f.carry(out, axes)


# --- other shapes -----------------------------------------------------------------------------------------------------------


@rule("t")
def _t(f: ChannelFollower, args: Any, _: Any, out: Tensor) -> None:
    f.carry(out, f.axes(args[0])[::-1])


@rule("transpose", "swapaxes")
def _transpose(f: ChannelFollower, args: Any, _: Any, out: Tensor) -> None:
    axes = list(f.axes(args[0]))
    a, b = args[1:3]
    axes[a], axes[b] = axes[b], axes[a]
    f.carry(out, axes)


@rule("permute")
def _permute(f: ChannelFollower, args: Any, _: Any, out: Tensor) -> None:
    axes = f.axes(args[0])
    f.carry(out, [axes[d] for d in args[1]])


@rule("unsqueeze", "squeeze", "view", "_unsafe_view", "reshape", "_reshape_alias", "expand")
def _reshape(f: ChannelFollower, args: Any, _: Any, out: Tensor) -> None:
    x = args[0]
    matrix = f.matrix(x)
    if matrix is not None and out.ndim == 2:
        f.carry(out, matrix)
        return
    if f.is_made(x):
        f.mark_made(out)
    if f.op == "expand":
        axes: Axes = [None] * out.ndim
        for back, ids in enumerate(reversed(f.axes(x)), start=1):
            if ids is not None and x.shape[-back] == out.shape[-back]:
                axes[-back] = ids
            else:
                f.freeze(ids, "one channel is spread over several")
        f.carry(out, axes)
        return
    f.carry(out, _reshaped(f, x, out))


def _reshaped(f: ChannelFollower, x: Tensor, out: Tensor) -> Axes:
    """The ids after a view: axes that are merged repeat the ids of each; one that is split is not understood."""
    axes, result = f.axes(x), [None] * out.ndim
    if not _is_full(axes):
        return list(result)
    done: Axes = list(result)
    for inner, outer in _blocks(tuple(x.shape), tuple(out.shape)):
        full = [d for d in inner if axes[d] is not None and (x.shape[d] != 1 or len(inner) == 1)]
        long = [d for d in outer if out.shape[d] != 1]
        if not full:
            continue
        if len(long) > 1 or not outer:
            for d in full:
                f.freeze(axes[d], "an axis of channels is split")
            continue
        place = long[0] if long else outer[0]
        if len(full) > 1:
            for d in full:
                f.freeze(axes[d], "two axes of channels are merged")
            continue
        d = full[0]
        before = math.prod(x.shape[i] for i in inner if i < d)
        after = math.prod(x.shape[i] for i in inner if i > d)
        done[place] = np.tile(np.repeat(axes[d], after), before)  # type: ignore[arg-type]
    return done


def _blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest groups of axes of two shapes of equal size that hold the same elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        inner, outer, a, b = [], [], 1, 1
        if i < len(old):
            inner.append(i)
            a *= old[i]
            i += 1
        if j < len(new):
            outer.append(j)
            b *= new[j]
            j += 1
        while a != b:
            if a < b and i < len(old):
                inner.append(i)
                a *= old[i]
                i += 1
            elif b < a and j < len(new):
                outer.append(j)
                b *= new[j]
                j += 1
            else:  # an array without elements: no telling
                inner += range(i, len(old))
                outer += range(j, len(new))
                i, j = len(old), len(new)
                break
        groups.append((inner, outer))
    return groups


@rule("repeat")
def _repeat(f: ChannelFollower, args: Any, _: Any, out: Tensor) -> None:
    x, times = args
    axes: Axes = [None] * out.ndim
    for back, ids in enumerate(reversed(f.axes(x)), start=1):
        axes[-back] = None if ids is None else np.tile(ids, times[-back])
    f.carry(out, axes)


# --- several arrays ---------------------------------------------------------------------------------------------------------


@rule("cat", "concat")
def _cat(f: ChannelFollower, args: Any, kwargs: Any, out: Tensor) -> None:
    parts = [x for x in args[0] if x.shape != (0,)]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % out.ndim
    axes: Axes = [None] * out.ndim
    for d in range(out.ndim):
        columns = [f.axes(x)[d] for x in parts]
        if all(c is None for c in columns):
            continue
        if d == dim:
            axes[d] = np.concatenate(
                [f.foreign(x.shape[d]) if c is None else c for x, c in zip(parts, columns, strict=True)]
            )
            continue
        axes[d] = next(c for c in columns if c is not None)
        for x, c in zip(parts, columns, strict=True):
            if c is not None or not f.is_made(x):
                f.tie(axes[d], c)
    f.carry(out, axes)


@rule("stack")
def _stack(f: ChannelFollower, args: Any, kwargs: Any, out: Tensor) -> None:
    parts = args[0]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % out.ndim
    axes: Axes = []
    for d in range(out.ndim - 1):
        columns = [f.axes(x)[d] for x in parts]
        ids = next((c for c in columns if c is not None), None)
        for c in columns if ids is not None else ():
            f.tie(ids, c)
        axes.append(ids)
    axes.insert(dim, None)
    f.carry(out, axes)


# --- parts ------------------------------------------------------------------------------------------------------------------


@rule("slice", "narrow", "split", "split_with_sizes", "unbind", "select", "chunk")
def _part(f: ChannelFollower, args: Any, kwargs: Any, out: Any) -> None:
    x = args[0]
    position = 2 if f.op in ("split", "split_with_sizes", "chunk") else 1
    dim = kwargs.get("dim", args[position] if len(args) > position else 0) % x.ndim
    axes = f.axes(x)
    for result in out if isinstance(out, list | tuple) else (out,):
        whole = result.shape == x.shape
        if not whole:
            f.freeze(axes[dim], "a fixed part of the channels is taken")
            if not _is_full(axes):
                f.mark_part(result)
        if f.is_made(x):
            f.mark_made(result)
        dropped = f.op in ("unbind", "select")
        f.carry(
            result,
            [a if whole or d != dim else None for d, a in enumerate(axes) if not (dropped and d == dim)],
        )


@rule("index_select", "gather", "take_along_dim", "index_copy", "index_add", "scatter", "scatter_add", "scatter_reduce",
      "index_reduce", "index_fill", "repeat_interleave", "constant_pad_nd", "embedding")  # fmt: skip
def _rows(f: ChannelFollower, args: Any, kwargs: Any, out: Tensor) -> None:
    """Operators that choose, or write to, positions of one axis; the other axes stay."""
    x = args[0]
    axes = list(f.axes(x))
    if f.op == "embedding":
        f.carry(out, [*[None] * (out.ndim - 1), axes[1]])
        return
    if f.op == "constant_pad_nd":
        dims = {x.ndim - 1 - i // 2 for i, n in enumerate(args[1]) if n}
    elif f.op == "repeat_interleave":
        dims = (
            set()
            if x.ndim == 1 and not _is_full(axes)
            else {kwargs.get("dim", args[2] if len(args) > 2 else 0) or 0}
        )
    else:
        dims = {kwargs.get("dim", args[1]) % x.ndim}
    for d in dims:
        f.freeze(axes[d], "channels are chosen by an index")
        axes[d] = None
    index = next((v for v in args[2:] if isinstance(v, Tensor)), None)
    source = next((v for v in args[3:] if isinstance(v, Tensor)), None)
    if f.op == "gather" and index is not None:
        for d in range(x.ndim):
            if axes[d] is not None and index.shape[d] != x.shape[d]:
                f.freeze(axes[d], "a fixed part of the channels is taken")
                axes[d] = None
    if source is not None and source.ndim == x.ndim:
        for d, ids in enumerate(f.axes(source)):
            if d in dims:
                f.freeze(ids, "channels are chosen by an index")
            elif axes[d] is None and f.is_made(x) and not f.is_part(x):
                axes[d] = ids
            elif axes[d] is not None or ids is not None:
                axes[d] = f.tie(axes[d], ids)
    if out.ndim == x.ndim:
        f.carry(out, axes)


def _indexed(indices: Any, ndim: int) -> tuple[list[int], list[int | None]]:
    """For x[indices] with x of `ndim` axes: the axes of x that are indexed, and of each axis of the result the axis of x it is.

    As in NumPy: the axes that the indices make (None in the result) stand where the first index does, or first of all where a
    slice separates the indices.
    """
    chosen: list[int] = []
    layout: list[int | None] = []
    extra, positions, d = 0, [], 0
    for index in indices:
        if index is None:
            d += 1
            continue
        is_mask = index.dtype in (torch.bool, torch.uint8)
        extra = max(extra, 1 if is_mask else index.ndim)
        for _ in range(index.ndim if is_mask else 1):
            positions.append(d)
            chosen.append(d)
            d += 1
    layout = [axis for axis in range(ndim) if axis not in chosen]
    together = not positions or positions == list(range(positions[0], positions[-1] + 1))
    place = sum(axis is not None and axis < positions[0] for axis in layout) if positions and together else 0
    layout[place:place] = [None] * extra
    return chosen, layout


@rule("index", "_unsafe_index")
def _index(f: ChannelFollower, args: Any, _: Any, out: Tensor) -> None:
    axes = f.axes(args[0])
    chosen, layout = _indexed(args[1], len(axes))
    for d in chosen:
        f.freeze(axes[d], "channels are chosen by an index")
    f.carry(out, [None if d is None else axes[d] for d in layout])


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def _index_put(f: ChannelFollower, args: Any, _: Any, out: Tensor) -> None:
    """x[indices] = values, where values are broadcast to x[indices]."""
    x, indices, values = args[:3]
    axes, incoming = list(f.axes(x)), f.axes(values)
    chosen, layout = _indexed(indices, x.ndim)
    for at in chosen:
        f.freeze(axes[at], "channels are chosen by an index")
    for back, d in enumerate(reversed(layout), start=1):
        ids = incoming[-back] if back <= values.ndim else None
        if d is None:
            f.freeze(ids, "channels are chosen by an index")
            continue
        if f.is_part(x) or (ids is not None and values.shape[-back] != x.shape[d]):
            f.freeze(ids, "is written into a part of another array")
        elif ids is not None and axes[d] is None and f.is_made(x):
            axes[d] = ids
        elif ids is not None or (axes[d] is not None and back <= values.ndim and values.shape[-back] > 1):
            axes[d] = f.tie(axes[d], ids)
    f.carry(out, axes)
