# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The compiled core alone, with NumPy arrays and without torch; `make sanitize` runs this file under the sanitizers.

SPARSECONV_NATIVE names the module file to test; without it the one beside the package is taken. Loops also run in the
tests' scrambled order (a negative thread count), which shows a body that depends on the order of the indices.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

THREADS = [1, 2, 3, -2]
Array = np.ndarray[Any, Any]


def load() -> ModuleType:
    """The module from its file, so that the package (and torch) is not imported."""
    named = os.environ.get("SPARSECONV_NATIVE")
    if named:
        path = Path(named)
    else:
        package = importlib.util.find_spec("sparseconv")
        folders = [Path(p) for p in package.submodule_search_locations or []] if package else []
        found = [f for folder in folders for f in sorted(folder.glob("_cpu*.so"))]
        if not found:
            pytest.skip("the core is not built: no sparseconv/_cpu*.so", allow_module_level=True)
        path = found[0]
    spec = importlib.util.spec_from_file_location("_cpu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cpu = load()


def some_coords(n: int, ndim: int, seed: int = 0, low: int = -9, high: int = 10) -> Array:
    rng = np.random.default_rng(seed)
    cells = rng.integers(low, high, (n, ndim))
    coords = np.unique(np.concatenate([rng.integers(0, 3, (n, 1)), cells], 1), axis=0)
    return rng.permutation(coords).astype(np.int32)


def layout_of(*arrays: Array, reach: int = 0) -> list[int]:
    both = np.concatenate(arrays)
    low, high = both.min(0).astype(int), both.max(0).astype(int)
    low[1:] -= reach
    high[1:] += reach
    return cpu.key_layout(low.tolist(), high.tolist())


def keys_of(threads: int, coords: Array, layout: list[int], scale: list[int] | None = None) -> Array:
    keys = np.zeros(len(coords), np.int64)
    cpu.pack(threads, coords, layout, scale or [1] * coords.shape[1], keys)
    return keys


def sort(threads: int, keys: Array) -> Array:
    rows = np.zeros(len(keys), np.int32)
    scratch = np.zeros(cpu.sort_scratch_size(len(keys)), np.int64)
    cpu.sort_rows(threads, keys, rows, 63, scratch)
    return rows


# --- mapping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_keys_keep_order_and_come_back(ndim: int, threads: int) -> None:
    coords = some_coords(20000, ndim, low=-60, high=70)
    both = cpu.bounds(threads, coords)
    assert both == [*coords.min(0).tolist(), *coords.max(0).tolist()]
    layout = layout_of(coords)
    keys = keys_of(threads, coords, layout)
    order = np.lexsort(coords.T[::-1])
    assert (np.diff(keys[order]) > 0).all() and keys.min() >= 0
    back = np.zeros_like(coords)
    cpu.unpack(threads, keys, layout, back)
    np.testing.assert_array_equal(back, coords)
    assert not cpu.pack(threads, coords, layout, [1] * (ndim + 1), keys)
    assert cpu.pack(threads, np.ascontiguousarray(coords[order]), layout, [1] * (ndim + 1), keys)
    rows = sort(threads, keys := keys_of(threads, coords, layout))
    np.testing.assert_array_equal(rows, order)
    assert (np.diff(keys) > 0).all()


def test_a_key_that_is_too_wide_names_axis_range_and_bits() -> None:
    with pytest.raises(ValueError, match=r"axis 1.*-1000000000 \.\. 1000000000") as error:
        cpu.key_layout([0, 0, -(10**9), 0], [3, 2**20, 10**9, 2**20])
    assert "31" in str(error.value) and "63" in str(error.value)
    assert len(cpu.key_layout([0, -(2**30), -(2**29)], [1, 2**30 - 1, 2**29 - 1])) == 9


@pytest.mark.parametrize("threads", THREADS)
def test_the_sort_is_stable(threads: int) -> None:
    keys = np.random.default_rng(1).integers(0, 50, 70000)
    expected = np.argsort(keys, kind="stable")
    np.testing.assert_array_equal(sort(threads, keys.copy()), expected)
    wide = np.random.default_rng(2).integers(0, 2**62, 1000)
    np.testing.assert_array_equal(sort(threads, wide.copy()), np.argsort(wide, kind="stable"))
    assert len(sort(threads, np.zeros(0, np.int64))) == 0


def test_find_duplicate_names_the_first_two_rows() -> None:
    keys = np.array([5, 7, 5, 9, 7, 5], np.int64)
    rows = sort(1, keys)
    assert cpu.find_duplicate(keys, rows) == [0, 2]
    unique = np.arange(4, dtype=np.int64)
    assert cpu.find_duplicate(unique, sort(1, unique)) == []


def moved(
    threads: int, keys: Array, layout: list[int], field: int, relation: list[int], fine: bool, ends: Any
) -> Array:
    counts = np.zeros(-(-len(keys) // cpu.MERGE_CHUNK), np.int64)
    cpu.move_axis(threads, keys, layout, field, relation, fine, *ends, counts, None, None)
    out = np.zeros(int(counts.sum()), np.int64)
    cpu.move_axis(
        threads, keys, layout, field, relation, fine, *ends, counts, np.cumsum(counts) - counts, out
    )
    return out


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("relation", [[3, 2, 1, 1], [2, 3, 0, 2], [5, 1, 2, 3], [1, 2, 0, 1], [4, 3, 5, 1]])
@pytest.mark.parametrize("fine", [False, True])
def test_sites_along_one_axis(relation: list[int], fine: bool, threads: int) -> None:
    kernel, stride, padding, dilation = relation
    coords = some_coords(15000, 2, low=-100, high=100)
    for axis, ends in itertools.product((1, 2), ((-1000, 1000), (0, 20))):
        layout = cpu.key_layout([0, -1000, -1000], [2, 1000, 1000])
        keys = np.sort(keys_of(threads, coords, layout))
        pieces = []
        for tap in range(kernel):
            piece = coords.astype(np.int64)
            if fine:
                piece[:, axis] = piece[:, axis] * stride - padding + tap * dilation
            else:
                scaled = piece[:, axis] + padding - tap * dilation
                piece, scaled = piece[scaled % stride == 0], scaled[scaled % stride == 0]
                piece[:, axis] = scaled // stride
            pieces.append(piece)
        expected = np.unique(np.concatenate(pieces), axis=0)
        expected = expected[(expected[:, axis] >= ends[0]) & (expected[:, axis] <= ends[1])].astype(np.int32)
        result = moved(threads, keys, layout, axis, relation, fine, ends)
        np.testing.assert_array_equal(result, keys_of(1, np.ascontiguousarray(expected), layout))


def neighbors_by_hand(
    fine: Array, coarse: Array, taps: Array, stride: list[int], pad: list[int], dil: list[int]
) -> Array:
    row_of = {tuple(c): i for i, c in enumerate(fine.tolist())}
    table = np.full((len(taps), len(coarse)), -1, np.int32)
    for t, tap in enumerate(taps.tolist()):
        for o, (b, *cell) in enumerate(coarse.tolist()):
            there = (x * s - p + d * k for x, s, p, d, k in zip(cell, stride, pad, dil, tap, strict=True))
            table[t, o] = row_of.get((b, *there), -1)
    return table


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("stride", [1, 2])
def test_both_builders_fill_the_same_table(stride: int, threads: int) -> None:
    fine, coarse = some_coords(1500, 3), some_coords(1200, 3, seed=4, low=-5, high=6)
    taps = np.array(list(itertools.product(range(3), range(2), range(3))), np.int32)[::-1].copy()
    pad, dil, strides = [1, 0, 2], [1, 3, 2], [stride] * 3
    layout = layout_of(fine, coarse * np.array([1, *strides], np.int32), reach=12)
    expected = neighbors_by_hand(fine, coarse, taps, strides, pad, dil)
    assert (expected >= 0).sum() > 500

    fine_keys = keys_of(threads, fine, layout)
    queries = keys_of(threads, coarse, layout, [1, *strides])
    table = np.zeros_like(expected)
    capacity = cpu.hash_capacity(len(fine))
    scratch = np.zeros(capacity, np.int64), np.zeros(capacity, np.int32)
    cpu.find_neighbors_hash(threads, fine_keys, queries, layout, taps, pad, dil, *scratch, table)
    np.testing.assert_array_equal(table, expected)

    fine_rows, query_rows = sort(threads, fine_keys), sort(threads, queries)
    merged = np.zeros_like(expected)
    matched = match(threads, fine_keys, queries, layout, taps, pad, dil, mirrored=False)
    assert matched.offsets.tolist() == [0, *np.cumsum((expected >= 0).sum(1)).tolist()]
    cpu.tabulate_found(threads, matched.found, matched.counts, False, fine_rows, query_rows, merged)
    np.testing.assert_array_equal(merged, expected)


class Matched:
    """What match_sorted fills."""

    def __init__(self, k: int, slots: int, n: int) -> None:
        chunks = cpu.match_chunks(n)
        self.found = np.zeros(2 * slots * n, np.int32)
        self.counts = np.zeros(slots * chunks, np.int64)
        self.starts, self.offsets = np.zeros(k * chunks, np.int64), np.zeros(k + 1, np.int64)


def match(
    threads: int,
    fine_keys: Array,
    queries: Array,
    layout: list[int],
    taps: Array,
    pad: Any,
    dil: Any,
    mirrored: bool,
) -> Matched:
    n = len(queries)
    result = Matched(len(taps), len(taps) // 2 if mirrored else len(taps), n)
    cpu.match_sorted(
        threads, np.append(fine_keys, 0), queries, n, layout, taps, pad, dil, mirrored,
        result.found, result.counts, result.starts, result.offsets,
    )  # fmt: skip
    return result


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 5, 7), (3, 1, 1)])
def test_a_mirrored_map_is_found_by_halves(kernel: tuple[int, ...], dilation: int, threads: int) -> None:
    coords = some_coords(20000, 3, low=-12, high=12)
    coords = np.ascontiguousarray(coords[np.lexsort(coords.T[::-1])])  # rows in the order of their keys
    taps = np.array(list(itertools.product(*map(range, kernel))), np.int32)
    pad, dil = [dilation * (k // 2) for k in kernel], [dilation] * 3
    layout = layout_of(coords, reach=12)
    keys = keys_of(threads, coords, layout)
    assert cpu.mirrored_taps(taps, layout, pad, dil)
    assert not cpu.mirrored_taps(taps[1:], layout, pad, dil)
    expected = neighbors_by_hand(coords, coords, taps, [1] * 3, pad, dil)
    tap, place = np.nonzero(expected >= 0)
    for mirrored in (False, True):
        matched = match(threads, keys, keys, layout, taps, pad, dil, mirrored)
        pairs = np.zeros((int(matched.offsets[-1]), 2), np.int32)
        cpu.place_found(
            threads,
            matched.found,
            matched.counts,
            len(coords),
            mirrored,
            matched.starts,
            matched.offsets,
            pairs,
        )
        np.testing.assert_array_equal(pairs[:, 1], place)
        np.testing.assert_array_equal(pairs[:, 0], expected[tap, place])
        assert matched.offsets.tolist() == [0, *np.cumsum((expected >= 0).sum(1)).tolist()]
    with pytest.raises(ValueError, match="mirrored"):
        match(threads, keys, keys, layout, taps[:-1], pad, dil, True)


def strided(
    threads: int,
    coords: Array,
    relations: list[list[int]],
    ends: Any,
    clipped: bool,
    taps: Array,
    rows: Array | None,
) -> tuple[Array, Array, Array]:
    """Sites, pairs and offsets of a strided layer on sorted coords."""
    axes = coords.shape[1] - 1
    low = [int(coords[:, 0].min())] + [-200] * axes
    layout = cpu.key_layout(low, [int(coords[:, 0].max())] + [200] * axes)
    keys = keys_of(threads, coords, layout)
    flat = [number for relation in relations for number in relation]
    call = (keys, len(coords), layout, flat, [end for axis in ends for end in axis], clipped)
    first = np.zeros(cpu.strided_bytes(*call), np.uint8)
    second = np.zeros(cpu.strided_classify(threads, *call, taps, first), np.uint8)
    offsets = np.zeros(len(taps) + 1, np.int64)
    sites = cpu.strided_merge(threads, *call, taps, first, second, offsets)
    out = np.zeros((sites, axes + 1), np.int32)
    pairs = np.zeros((int(offsets[-1]), 2), np.int32)
    cpu.strided_write(threads, *call, taps, first, second, offsets, rows, out, pairs)
    return out, pairs, offsets


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    "relations",
    [
        [[2, 2, 0, 1]] * 3,
        [[3, 2, 1, 1]] * 3,
        [[1, 2, 0, 1], [3, 3, 1, 2], [5, 2, 2, 1]],
        [[3, 1, 0, 1], [2, 4, 1, 3], [2, 5, 0, 1]],
        [[5, 2, 1, 1]],
        [[3, 2, 1, 1], [4, 3, 2, 1]],
        [[2, 2, 0, 1], [1, 1, 0, 1], [3, 2, 1, 1], [2, 3, 0, 1]],
    ],
    ids=str,
)
def test_sites_and_pairs_of_a_strided_layer(relations: list[list[int]], clip: bool, threads: int) -> None:
    axes = len(relations)
    coords = some_coords(60000, axes, low=-30 if axes < 4 else -6, high=40 if axes < 4 else 7)
    coords = np.ascontiguousarray(coords[np.lexsort(coords.T[::-1])])
    rows = np.random.default_rng(3).permutation(len(coords)).astype(np.int32)
    kernel, stride, pad, dil = (np.array(numbers) for numbers in zip(*relations, strict=True))
    ends = [(0, 4)] * axes if clip else [(-200, 200)] * axes
    taps = np.array(list(itertools.product(*map(range, kernel))), np.int32)[::-1][:20].copy()
    every = np.array(list(itertools.product(*map(range, kernel))), np.int32)

    def reached(tap: Array) -> tuple[Array, Array]:
        """Rows that a tap reads, and the coarse cells it reads them for."""
        scaled = coords[:, 1:].astype(np.int64) + pad - tap * dil
        cells = np.concatenate([coords[:, :1], scaled // stride], 1)
        inside = ((cells[:, 1:] >= [e[0] for e in ends]) & (cells[:, 1:] <= [e[1] for e in ends])).all(1)
        keep = (scaled % stride == 0).all(1) & inside
        return np.nonzero(keep)[0], cells[keep]

    expected_sites = np.unique(np.concatenate([reached(tap)[1] for tap in every]), axis=0)
    site_of = {tuple(cell): i for i, cell in enumerate(expected_sites.tolist())}
    expected, counts = [], []
    for tap in taps:
        read, cells = reached(tap)
        expected += [(rows[i], site_of[tuple(cell)]) for i, cell in zip(read, cells.tolist(), strict=True)]
        counts.append(len(read))
    out, pairs, offsets = strided(threads, coords, relations, ends, clip, taps, rows)
    assert len(expected) > 10
    np.testing.assert_array_equal(out, expected_sites)
    np.testing.assert_array_equal(pairs, np.array(expected))
    assert offsets.tolist() == [0, *np.cumsum(counts).tolist()]


def test_strided_layers_that_the_loops_do_not_hold() -> None:
    layout = cpu.key_layout([0] * 4, [1] + [99] * 3)
    keys = np.zeros(4, np.int64)
    for relation in ([3, 2, 0, 2], [1, 65, 0, 1], [9, 1, 0, 1], [64, 64, 0, 1]):
        assert cpu.strided_bytes(keys, 4, layout, relation * 3, [0, 99] * 3, False) == -1
    wide = cpu.key_layout([0] * 4, [0] + [2**21 - 1] * 3)
    assert cpu.strided_bytes(keys, 4, wide, [2, 2, 0, 1] * 3, [0, 99] * 3, False) == -1


@pytest.mark.parametrize("threads", THREADS)
def test_tables_become_pairs_and_come_back(threads: int) -> None:
    rng = np.random.default_rng(5)
    n, taps = 9000, 4
    table = np.stack([np.where(rng.random(n) < 0.4, rng.permutation(n), -1) for _ in range(taps)]).astype(
        np.int32
    )
    table[2] = -1
    chunks = cpu.pair_chunks(n)
    counts = np.zeros(taps * chunks, np.int64)
    cpu.count_pairs(threads, table, counts)
    starts = np.cumsum(counts) - counts
    for column in (0, 1):
        pairs = np.zeros((int(counts.sum()), 2), np.int32)
        cpu.write_pairs(threads, table, starts, column, pairs)
        tap, place = np.nonzero(table >= 0)
        np.testing.assert_array_equal(pairs[:, column], place)
        np.testing.assert_array_equal(pairs[:, 1 - column], table[tap, place])
        offsets = np.append(starts[::chunks], len(pairs))
        again = np.zeros_like(table)
        cpu.scatter_pairs(threads, pairs, offsets, column, again)
        np.testing.assert_array_equal(again, table)
        assert cpu.pairs_sorted(pairs, offsets, column) and not cpu.pairs_sorted(pairs, offsets, 1 - column)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_fall_into_cells_by_double_division(dtype: type, threads: int) -> None:
    rng = np.random.default_rng(6)
    points = (rng.integers(-400, 400, (20000, 3)) * 0.05).astype(dtype)  # many lie on the border of a cell
    batch = rng.integers(0, 3, 20000).astype(np.int32)
    coords = np.zeros((20000, 4), np.int32)
    origin, size = [0.1, -0.2, 0.0], [0.05, 0.1, 0.2]
    assert cpu.cells_of_points(threads, points, batch, origin, size, coords) == -1
    expected = np.floor((points.astype(np.float64) - np.array(origin)) / np.array(size))
    np.testing.assert_array_equal(coords, np.concatenate([batch[:, None], expected], 1))
    for bad in (np.nan, np.inf, 1e30):
        broken = points.copy()
        broken[12345, 1] = broken[15000, 0] = bad
        assert cpu.cells_of_points(threads, broken, None, origin, size, coords) == 12345


@pytest.mark.parametrize("threads", THREADS)
def test_runs_of_equal_keys(threads: int) -> None:
    keys = np.random.default_rng(7).integers(0, 6000, 30000)
    rows = sort(threads, keys)
    counts = np.zeros(-(-len(keys) // cpu.ROWS_PER_TASK), np.int64)
    cpu.split_runs(threads, keys, rows, counts, None, None, None, None)
    runs = int(counts.sum())
    values, first, lengths = np.unique(keys, return_index=True, return_counts=True)
    assert runs == len(values)
    offsets, run_of_row, run_keys = (
        np.zeros(runs + 1, np.int64),
        np.zeros(30000, np.int64),
        np.zeros(runs, np.int64),
    )
    cpu.split_runs(threads, keys, rows, counts, np.cumsum(counts) - counts, offsets, run_of_row, run_keys)
    np.testing.assert_array_equal(run_keys, values)
    np.testing.assert_array_equal(offsets, np.append(first, 30000))
    np.testing.assert_array_equal(run_of_row[rows], np.repeat(np.arange(runs), lengths))


# --- compute ---------------------------------------------------------------------------------------------------------


def random_map(n_in: int, n_out: int, taps: int, fill: float = 0.4, seed: int = 8) -> tuple[Array, Array]:
    """Pairs sorted by (tap, out row), at most one per tap on either side; one tap stays empty."""
    rng = np.random.default_rng(seed)
    parts = []
    for t in range(taps):
        m = 0 if t == 1 else int(fill * min(n_in, n_out))
        parts.append(np.stack([rng.permutation(n_in)[:m], np.sort(rng.permutation(n_out)[:m])], 1))
    offsets = np.cumsum([0] + [len(p) for p in parts])
    return np.concatenate(parts).astype(np.int32).reshape(-1, 2), offsets.astype(np.int64)


def gemm_by_hand(
    x: Array, w: Array, bias: Array | None, pairs: Array, offsets: Array, n_out: int, groups: int
) -> Array:
    out = np.zeros((n_out, w.shape[2])) + (0 if bias is None else bias)
    cin, cout = x.shape[1] // groups, w.shape[2] // groups
    for t in range(len(offsets) - 1):
        i, o = pairs[offsets[t] : offsets[t + 1]].T
        for g in range(groups):
            out[o, g * cout : (g + 1) * cout] += (
                x[i, g * cin : (g + 1) * cin] @ w[t, :, g * cout : (g + 1) * cout]
            )
    return out


CHANNELS = [
    (1, 1, 1),
    (3, 16, 1),
    (16, 16, 1),
    (17, 33, 1),
    (64, 96, 1),
    (12, 18, 3),
    (24, 24, 24),
    (5, 40, 5),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("c_in", "c_out", "groups"), CHANNELS)
@pytest.mark.parametrize("rows", [(0, 0), (1, 1), (700, 900), (900, 5)])
def test_gather_gemm_and_gather_outer(
    dtype: type, c_in: int, c_out: int, groups: int, rows: tuple[int, int]
) -> None:
    n_in, n_out = rows
    taps = 5
    rng = np.random.default_rng(9)
    x = rng.standard_normal((n_in, c_in)).astype(dtype)
    w = rng.standard_normal((taps, c_in // groups, c_out)).astype(dtype)
    bias, grad = rng.standard_normal(c_out).astype(dtype), rng.standard_normal((n_out, c_out)).astype(dtype)
    pairs, offsets = random_map(n_in, n_out, taps)
    wide = [v.astype(np.float64) for v in (x, w, bias, grad)]
    tolerance = 1e-4 if dtype == np.float32 else 1e-11
    results = []
    for threads in THREADS:
        out = np.full((n_out, c_out), 7, dtype)
        scratch = np.zeros(cpu.gather_gemm_bytes(x, out, groups, taps), np.uint8)
        cpu.gather_gemm(threads, x, w, bias, pairs, offsets, groups, False, False, out, scratch)
        expected = gemm_by_hand(wide[0], wide[1], wide[2], pairs, offsets, n_out, groups)
        np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance * max(1, c_in))

        grad_x = np.full(
            (n_in, c_in), 7, dtype
        )  # the reversed roles: sorted by (tap, in row), weight transposed
        back = np.concatenate([p[np.argsort(p[:, 0])] for p in np.split(pairs, offsets[1:-1])])[
            :, ::-1
        ].copy()
        scratch = np.zeros(cpu.gather_gemm_bytes(grad, grad_x, groups, taps), np.uint8)
        cpu.gather_gemm(threads, grad, w, None, back, offsets, groups, True, False, grad_x, scratch)
        grad_w = np.full(w.shape, 7, dtype)
        scratch = np.zeros(cpu.gather_outer_bytes(x, grad, pairs, offsets, groups), np.uint8)
        cpu.gather_outer(threads, x, grad, pairs, offsets, groups, grad_w, scratch)
        expected_x, expected_w = np.zeros((n_in, c_in)), np.zeros(w.shape)
        cin, cout = c_in // groups, c_out // groups
        for t in range(taps):
            i, o = pairs[offsets[t] : offsets[t + 1]].T
            for g in range(groups):
                a, b = slice(g * cin, (g + 1) * cin), slice(g * cout, (g + 1) * cout)
                expected_x[i, a] += wide[3][o, b] @ wide[1][t, :, b].T
                expected_w[t, :, b] += wide[0][i, a].T @ wide[3][o, b]
        np.testing.assert_allclose(grad_x, expected_x, rtol=0, atol=tolerance * max(1, c_out))
        np.testing.assert_allclose(grad_w, expected_w, rtol=0, atol=tolerance * 100)
        results.append((out, grad_x, grad_w))
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            assert a.tobytes() == b.tobytes()


def test_weights_of_any_strides_and_flipped_taps() -> None:
    rng = np.random.default_rng(10)
    x, pairs_offsets = rng.standard_normal((300, 6)), random_map(300, 280, 5)
    w = rng.standard_normal((5, 6, 8))
    views = [
        w,
        np.ascontiguousarray(w.transpose(2, 1, 0)).transpose(2, 1, 0),
        np.repeat(w, 2, axis=1)[:, ::2],
    ]
    for view in views:
        for flip in (False, True):
            out = np.zeros((280, 8))
            scratch = np.zeros(cpu.gather_gemm_bytes(x, out, 1, 5), np.uint8)
            cpu.gather_gemm(1, x, view, None, *pairs_offsets, 1, False, flip, out, scratch)
            expected = gemm_by_hand(x, w[::-1] if flip else w, None, *pairs_offsets, 280, 1)
            np.testing.assert_allclose(out, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5000, 17), (40000, 4)])
def test_column_sum(shape: tuple[int, int], threads: int) -> None:
    x = np.random.default_rng(11).standard_normal(shape)
    out = np.full(shape[1], 7.0)
    cpu.column_sum(threads, x, out, np.zeros(cpu.column_sum_bytes(x), np.uint8))
    np.testing.assert_allclose(out, x.sum(0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("channels", [1, 7, 33])
def test_max_pool_and_its_gradient(channels: int, threads: int) -> None:
    rng = np.random.default_rng(12)
    n_in, n_out, taps = 600, 500, 6
    x = rng.integers(-3, 3, (n_in, channels)).astype(np.float64)  # many ties
    pairs, offsets = random_map(n_in, n_out, taps, 0.3)
    out, arg = np.zeros((n_out, channels)), np.zeros((n_out, channels), np.int32)
    cpu.max_pool(threads, x, pairs, offsets, out, arg)
    best, tap_of = np.zeros_like(out), np.full(out.shape, -1, np.int32)
    for t in range(taps):
        for i, o in pairs[offsets[t] : offsets[t + 1]]:
            better = (tap_of[o] < 0) | (x[i] > best[o])
            best[o], tap_of[o] = np.where(better, x[i], best[o]), np.where(better, t, tap_of[o])
    np.testing.assert_array_equal(out, best)
    np.testing.assert_array_equal(arg, tap_of)

    grad, grad_x, expected = rng.standard_normal(out.shape), np.full(x.shape, 7.0), np.zeros(x.shape)
    back = np.concatenate([p[np.argsort(p[:, 0])] for p in np.split(pairs, offsets[1:-1])])[:, ::-1].copy()
    cpu.max_pool_grad(threads, grad, arg, back, offsets, grad_x)
    for t in range(taps):
        for i, o in pairs[offsets[t] : offsets[t + 1]]:
            expected[i] += np.where(tap_of[o] == t, grad[o], 0)
    np.testing.assert_allclose(grad_x, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("with_cols", [False, True])
def test_gather_sum_and_gather_max(with_cols: bool, threads: int) -> None:
    rng = np.random.default_rng(13)
    x = rng.integers(-4, 4, (3000, 5)).astype(np.float64)
    lengths = rng.integers(0, 6, 1000)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(offsets[-1])
    cols = rng.integers(0, len(x), total) if with_cols else None
    weights = rng.standard_normal(total)
    source = cols if with_cols else np.arange(total)
    out, best, arg = np.full((1000, 5), 7.0), np.full((1000, 5), 7.0), np.zeros((1000, 5), np.int64)
    cpu.gather_sum(threads, x, offsets, cols, weights, out)
    cpu.gather_max(threads, x, offsets, cols, best, arg)
    for r in range(1000):
        members = source[offsets[r] : offsets[r + 1]]
        np.testing.assert_allclose(out[r], weights[offsets[r] : offsets[r + 1]] @ x[members], atol=1e-12)
        if len(members) == 0:
            assert not best[r].any() and (arg[r] == -1).all()
        else:
            np.testing.assert_array_equal(best[r], x[members].max(0))
            np.testing.assert_array_equal(arg[r], members[x[members].argmax(0)])


# --- bad arguments: exceptions, never a crash ------------------------------------------------------------------------


def test_wrong_types_shapes_and_sizes_raise() -> None:
    coords = some_coords(50, 3)
    layout = layout_of(coords)
    keys, x = np.zeros(50, np.int64), np.zeros((50, 4), np.float32)
    pairs, offsets = random_map(50, 50, 3)
    w, out = np.zeros((3, 4, 5), np.float32), np.zeros((50, 5), np.float32)
    scratch = np.zeros(cpu.gather_gemm_bytes(x, out, 1, 3), np.uint8)
    wrong_calls = [
        lambda: cpu.bounds(1, coords.astype(np.int64)),
        lambda: cpu.bounds(1, coords[:, ::-1]),
        lambda: cpu.bounds(1, coords[:0]),
        lambda: cpu.bounds(1, None),
        lambda: cpu.bounds(1, "coords"),
        lambda: cpu.bounds("1", coords),
        lambda: cpu.pack(1, coords, layout[:-1], [1] * 4, keys),
        lambda: cpu.pack(1, coords, layout, [1] * 4, keys[:10]),
        lambda: cpu.unpack(1, keys[:10], layout, coords),
        lambda: cpu.sort_rows(1, keys, np.zeros(51, np.int32), 63, np.zeros(10**5, np.int64)),
        lambda: cpu.sort_rows(1, keys, np.zeros(50, np.int32), 63, np.zeros(1, np.int64)),
        lambda: cpu.key_layout([0] * 6, [1] * 6),
        lambda: cpu.move_axis(
            1, keys, layout, 9, [3, 1, 1, 1], False, 0, 9, np.zeros(1, np.int64), None, None
        ),
        lambda: cpu.move_axis(
            1, keys, layout, 1, [999, 1, 1, 1], False, 0, 9, np.zeros(1, np.int64), None, None
        ),
        lambda: cpu.count_pairs(1, np.zeros(4, np.int32), np.zeros(1, np.int64)),
        lambda: cpu.gather_gemm(1, x, w[:, :3], None, pairs, offsets, 1, False, False, out, scratch),
        lambda: cpu.gather_gemm(1, x, w.astype(float), None, pairs, offsets, 1, False, False, out, scratch),
        lambda: cpu.gather_gemm(
            1, x, w, np.zeros(4, np.float32), pairs, offsets, 1, False, False, out, scratch
        ),
        lambda: cpu.gather_gemm(1, x, w, None, pairs, offsets, 3, False, False, out, scratch),
        lambda: cpu.gather_gemm(1, x, w, None, pairs, offsets[:-1], 1, False, False, out, scratch),
        lambda: cpu.gather_gemm(1, x, w, None, pairs, offsets, 1, False, False, out, scratch[:5]),
        lambda: cpu.gather_gemm(
            1, x.astype(np.int32), w, None, pairs, offsets, 1, False, False, out, scratch
        ),
        lambda: cpu.max_pool(1, x, pairs, offsets, out, np.zeros((50, 5), np.int32)),
        lambda: cpu.gather_sum(1, x, np.zeros((2, 2), np.int64), None, None, out),
        lambda: cpu.column_sum(1, x, np.zeros(3, np.float32), np.zeros(10**5, np.uint8)),
    ]
    accepted = []
    for number, call in enumerate(wrong_calls):
        try:
            call()
            accepted.append(number)
        except (ValueError, TypeError):
            pass
    assert accepted == []


def test_the_module_says_what_it_is() -> None:
    assert cpu.instruction_set() in {"generic", "avx2", "avx512", "avx512bf16", "amx"}
    assert cpu.fma_peak_gflops(1) > 0.1
    assert isinstance(cpu.openmp, bool) and cpu.compiler
