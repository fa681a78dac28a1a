# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""An independent statement of what the engine must compute: dictionaries, loops and float64.

It imports nothing of the package under test and is slow on purpose. Coordinates are tuples ``(batch, x_1 .. x_D)``,
rows are positions in a list, a tap is a tuple of D integers. ``test_oracle.py`` checks this file against dense torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Site = tuple[int, ...]
Pair = tuple[int, int, int]  # tap index, input row, output row


@dataclass(frozen=True)
class Relation:
    """A layer's geometry; every tuple has one integer per axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    anchor: str = "torch"
    submanifold: bool = False
    transposed: bool = False

    @property
    def ndim(self) -> int:
        return len(self.kernel)

    @property
    def volume(self) -> int:
        return math.prod(self.kernel)

    def taps(self) -> list[tuple[int, ...]]:
        """All taps, row-major with the last axis fastest."""
        return list(itertools.product(*(range(k) for k in self.kernel)))


def same_padding(kernel: int, dilation: int) -> int:
    """The padding of a submanifold layer under the torch anchor: torch's "same" (the smaller half goes first)."""
    return (dilation * (kernel - 1)) // 2


def minkowski_padding(kernel: int, dilation: int) -> int:
    return (kernel - 1) // 2 * dilation if kernel % 2 == 1 else 0


def make(
    ndim: int,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    output_padding: int | Sequence[int] = 0,
    anchor: str = "torch",
    submanifold: bool = False,
    transposed: bool = False,
) -> Relation:
    """A Relation with integers broadcast to all axes and the padding that the anchor and submanifold layers imply."""

    def spread(value: int | Sequence[int]) -> tuple[int, ...]:
        return (value,) * ndim if isinstance(value, int) else tuple(int(v) for v in value)

    k, d = spread(kernel), spread(dilation)
    p = spread(padding)
    if anchor == "minkowski":
        p = tuple(minkowski_padding(a, b) for a, b in zip(k, d, strict=True))
    elif submanifold:
        p = tuple(same_padding(a, b) for a, b in zip(k, d, strict=True))
    return Relation(k, spread(stride), p, d, spread(output_padding), anchor, submanifold, transposed)


# --- sites -----------------------------------------------------------------------------------------------------------


def rows_of(coords: np.ndarray | Iterable[Sequence[int]]) -> list[Site]:
    return [tuple(int(v) for v in row) for row in np.asarray(coords)]


def lexicographic(sites: Iterable[Site]) -> list[Site]:
    """Batch first, then the axes in order: plain tuple order."""
    return sorted(set(sites))


def output_shape(rel: Relation, shape: Sequence[int] | None) -> tuple[int, ...] | None:
    if shape is None:
        return None
    if rel.submanifold:
        return tuple(shape)
    result = []
    for a, n in enumerate(shape):
        k, s, p, d = rel.kernel[a], rel.stride[a], rel.padding[a], rel.dilation[a]
        if rel.transposed:
            result.append((n - 1) * s - 2 * p + d * (k - 1) + rel.output_padding[a] + 1)
        else:
            result.append((n + 2 * p - d * (k - 1) - 1) // s + 1)
    return tuple(result)


def touched(rel: Relation, site: Site) -> list[Site]:
    """Every output cell that some tap of the kernel connects with the input cell ``site``."""
    per_axis = []
    for a, x in enumerate(site[1:]):
        k, s, p, d = rel.kernel[a], rel.stride[a], rel.padding[a], rel.dilation[a]
        cells = set()
        for t in range(k):
            if rel.transposed:
                cells.add(x * s - p + t * d)
            elif (x + p - t * d) % s == 0:
                cells.add((x + p - t * d) // s)
        per_axis.append(sorted(cells))
    return [(site[0], *cell) for cell in itertools.product(*per_axis)]


def output_sites(rel: Relation, sites: Sequence[Site], shape: Sequence[int] | None = None) -> list[Site]:
    """Output sites of a layer without a target, in the row order that the layer must use."""
    if rel.submanifold:
        return list(sites)
    if rel.anchor == "minkowski" and not rel.transposed:
        found = {(s[0], *(x // rel.stride[a] for a, x in enumerate(s[1:]))) for s in sites}
    else:
        found = {o for s in sites for o in touched(rel, s)}
    bound = output_shape(rel, shape)
    if bound is not None:
        found = {o for o in found if all(0 <= x < n for x, n in zip(o[1:], bound, strict=True))}
    return lexicographic(found)


def pairs(
    rel: Relation,
    sites: Sequence[Site],
    out_sites: Sequence[Site],
    taps: Sequence[Sequence[int]] | None = None,
) -> list[Pair]:
    """All (tap index, input row, output row), sorted by (tap, output row). ``taps`` selects a subset, in its order."""
    found: list[Pair] = []
    if rel.transposed:
        row_of = {s: i for i, s in enumerate(out_sites)}
    else:
        row_of = {s: i for i, s in enumerate(sites)}
    for t, tap in enumerate(rel.taps() if taps is None else [tuple(int(v) for v in tap) for tap in taps]):
        here: list[Pair] = []
        for r, site in enumerate(sites if rel.transposed else out_sites):
            there = tuple(
                x * rel.stride[a] - rel.padding[a] + tap[a] * rel.dilation[a] for a, x in enumerate(site[1:])
            )
            other = row_of.get((site[0], *there))
            if other is not None:
                here.append((t, r, other) if rel.transposed else (t, other, r))
        found += sorted(here, key=lambda pair: pair[2])
    return found


# --- convolution -----------------------------------------------------------------------------------------------------


def conv(
    x: np.ndarray,  # [n_in, C_in]
    weight: np.ndarray,  # [K, C_in / groups, C_out]
    bias: np.ndarray | None,  # [C_out]
    pair_list: Sequence[Pair],
    n_out: int,
    groups: int = 1,
) -> np.ndarray:
    """[n_out, C_out] float64."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    c_in, c_out = x.shape[1] // groups, weight.shape[2] // groups
    out = np.zeros((n_out, weight.shape[2]))
    if bias is not None:
        out += np.asarray(bias, np.float64)
    for t, i, o in pair_list:
        for g in range(groups):
            a, b = slice(g * c_in, (g + 1) * c_in), slice(g * c_out, (g + 1) * c_out)
            out[o, b] += x[i, a] @ weight[t, :, b]
    return out


def conv_gradients(
    x: np.ndarray,
    weight: np.ndarray,
    grad_out: np.ndarray,  # [n_out, C_out]
    pair_list: Sequence[Pair],
    groups: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of the input, the weight and the bias for the cotangent ``grad_out``."""
    x, weight, grad_out = (np.asarray(v, np.float64) for v in (x, weight, grad_out))
    c_in, c_out = x.shape[1] // groups, weight.shape[2] // groups
    grad_x, grad_w = np.zeros_like(x), np.zeros_like(weight)
    for t, i, o in pair_list:
        for g in range(groups):
            a, b = slice(g * c_in, (g + 1) * c_in), slice(g * c_out, (g + 1) * c_out)
            grad_x[i, a] += weight[t, :, b] @ grad_out[o, b]
            grad_w[t, :, b] += np.outer(x[i, a], grad_out[o, b])
    grad_bias = np.zeros(weight.shape[2])
    for row in grad_out:
        grad_bias += row
    return grad_x, grad_w, grad_bias


# --- pooling ---------------------------------------------------------------------------------------------------------


def max_pool(x: np.ndarray, pair_list: Sequence[Pair], n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Maximum over the present sites, [n_out, C], and the winning input row (ties: lowest tap; -1 = no pair)."""
    x = np.asarray(x, np.float64)
    out = np.zeros((n_out, x.shape[1]))
    winner = np.full((n_out, x.shape[1]), -1, np.int64)
    for _, i, o in sorted(pair_list):
        for c in range(x.shape[1]):
            if winner[o, c] < 0 or x[i, c] > out[o, c]:
                out[o, c], winner[o, c] = x[i, c], i
    return out, winner


def max_pool_gradient(winner: np.ndarray, grad_out: np.ndarray, n_in: int) -> np.ndarray:
    grad = np.zeros((n_in, grad_out.shape[1]))
    for o in range(winner.shape[0]):
        for c in range(winner.shape[1]):
            if winner[o, c] >= 0:
                grad[winner[o, c], c] += grad_out[o, c]
    return grad


def avg_weights(pair_list: Sequence[Pair], n_out: int, count: str, volume: int) -> np.ndarray:
    """The factor of every output row: one over the number of present sites, or over the kernel's volume."""
    if count == "kernel":
        return np.full(n_out, 1.0 / volume)
    present = np.zeros(n_out)
    for _, _, o in pair_list:
        present[o] += 1
    return np.divide(1.0, present, out=np.zeros(n_out), where=present > 0)


def avg_pool(x: np.ndarray, pair_list: Sequence[Pair], n_out: int, count: str, volume: int) -> np.ndarray:
    out = np.zeros((n_out, x.shape[1]))
    for _, i, o in pair_list:
        out[o] += np.asarray(x[i], np.float64)
    return out * avg_weights(pair_list, n_out, count, volume)[:, None]


def avg_pool_gradient(
    grad_out: np.ndarray, pair_list: Sequence[Pair], n_in: int, count: str, volume: int
) -> np.ndarray:
    grad = np.zeros((n_in, grad_out.shape[1]))
    factor = avg_weights(pair_list, len(grad_out), count, volume)
    for _, i, o in pair_list:
        grad[i] += grad_out[o] * factor[o]
    return grad


# --- voxels ----------------------------------------------------------------------------------------------------------


def cells(
    points: np.ndarray, voxel_size: float | Sequence[float], origin: float | Sequence[float] = 0.0
) -> list[Site]:
    """floor((double(p) - origin) / double(voxel_size)), one operation after the other in Python floats."""
    ndim = points.shape[1]
    size = [float(voxel_size)] * ndim if np.isscalar(voxel_size) else [float(v) for v in voxel_size]
    start = [float(origin)] * ndim if np.isscalar(origin) else [float(v) for v in origin]
    return [tuple(math.floor((float(p[a]) - start[a]) / size[a]) for a in range(ndim)) for p in points]


def voxelize(
    points: np.ndarray,  # [N, D]
    features: np.ndarray | None,  # [N, C]; None: the points
    voxel_size: float | Sequence[float],
    batch: np.ndarray | None = None,
    origin: float | Sequence[float] = 0.0,
    reduce: str = "mean",
) -> tuple[list[Site], np.ndarray, np.ndarray]:
    """Sites in lexicographic order, their features (float64) and the row of every point."""
    where = cells(points, voxel_size, origin)
    samples = [0] * len(points) if batch is None else [int(b) for b in batch]
    keys = [(b, *cell) for b, cell in zip(samples, where, strict=True)]
    sites = lexicographic(keys)
    row_of = {s: r for r, s in enumerate(sites)}
    index = np.array([row_of[k] for k in keys], np.int64)
    values = np.asarray(points if features is None else features, np.float64)
    return sites, reduce_rows(values, index, len(sites), reduce), index


def reduce_rows(values: np.ndarray, index: np.ndarray, n: int, how: str) -> np.ndarray:
    members: list[list[int]] = [[] for _ in range(n)]
    for point, row in enumerate(index):
        members[row].append(point)
    out = np.zeros((n, values.shape[1]))
    for row, points in enumerate(members):
        if not points:
            continue
        if how == "first":
            out[row] = values[points[0]]
        elif how == "max":
            out[row] = values[points].max(axis=0)
        else:
            for p in points:
                out[row] += values[p]
            if how == "mean":
                out[row] /= len(points)
    return out


def trilinear_weights(sites: Sequence[Site], position: Sequence[float], sample: int) -> dict[int, float]:
    """Row -> weight for a point at ``position`` in cells (a voxel's centre lies at cell + 0.5).

    The 2^D nearest centres with the usual multilinear weights; absent corners drop out and the rest sums to one.
    """
    row_of = {s: r for r, s in enumerate(sites)}
    low = [math.floor(p - 0.5) for p in position]
    found: dict[int, float] = {}
    for corner in itertools.product((0, 1), repeat=len(low)):
        weight = 1.0
        for a, c in enumerate(corner):
            fraction = position[a] - 0.5 - low[a]
            weight *= fraction if c else 1.0 - fraction
        row = row_of.get((sample, *(x + c for x, c in zip(low, corner, strict=True))))
        if row is not None and weight > 0:
            found[row] = weight
    total = sum(found.values())
    return {row: weight / total for row, weight in found.items()} if total > 0 else {}


# --- dense grids -----------------------------------------------------------------------------------------------------


def scatter(
    sites: Sequence[Site], values: np.ndarray, shape: Sequence[int], batch_size: int, fill: float = 0.0
) -> np.ndarray:
    """A dense [batch, C, *shape] float64 grid holding ``values`` at ``sites``."""
    grid = np.full((batch_size, values.shape[1], *shape), fill)
    for row, site in enumerate(sites):
        grid[(site[0], slice(None), *site[1:])] = values[row]
    return grid


def gather(sites: Sequence[Site], grid: np.ndarray) -> np.ndarray:
    """[N, C]: the columns of a dense [batch, C, *shape] grid at ``sites``."""
    out = np.zeros((len(sites), grid.shape[1]), grid.dtype)
    for row, site in enumerate(sites):
        out[row] = grid[(site[0], slice(None), *site[1:])]
    return out
