# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel maps against the oracle: sites, pairs, tables, subsets of taps, targets, reversal, both builders."""

from __future__ import annotations

import contextlib

import numpy as np
import oracle
import pytest
import stand_in
import torch
from engine import map_options, random_tensor, tensor_of
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, coords_of, same_bits

import sparseconv
import sparseconv.nn as spnn
from sparseconv import kernel_map, pairing, pairs

METHODS = ["hash", "sort", "gpu hash", "gpu sort"]


def build(method: str, *arrays: torch.Tensor, **options: object) -> sparseconv.KernelMap:
    """`build_kernel_map` by one of its methods, here or on an emulated GPU."""
    where, _, method = method.rpartition(" ")
    with stand_in.gpu(seed=len(arrays[0])) if where else contextlib.nullcontext():
        kmap = sparseconv.build_kernel_map(*arrays, method=method, **options)
        assert kmap.neighbors.shape[0] == kmap.reverse().taps  # both are kept for who asks later
        return kmap


def expected_arrays(pairs: list[oracle.Pair], taps: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.tensor([[i, o] for _, i, o in pairs], dtype=torch.int32).reshape(-1, 2)
    counts = np.bincount([t for t, _, _ in pairs], minlength=taps) if taps else np.zeros(0, int)
    return rows, torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def expected_table(pairs: list[oracle.Pair], taps: int, n_out: int) -> torch.Tensor:
    table = torch.full((taps, n_out), -1, dtype=torch.int32)
    for t, i, o in pairs:
        table[t, o] = i
    return table


def same_map(a: sparseconv.KernelMap, b: sparseconv.KernelMap) -> None:
    same_bits(a.pairs, b.pairs)
    same_bits(a.tap_offsets, b.tap_offsets)
    same_bits(a.out_coords, b.out_coords)


def check_map(kmap: sparseconv.KernelMap, case: Case, pairs: list[oracle.Pair], taps: int) -> None:
    rows, offsets = expected_arrays(pairs, taps)
    assert [tuple(r) for r in kmap.out_coords.tolist()] == case.out_sites
    assert kmap.out_coords.dtype == torch.int32 and kmap.out_coords.is_contiguous()
    same_bits(kmap.tap_offsets, offsets)
    same_bits(kmap.pairs, rows)
    same_bits(kmap.neighbors, expected_table(pairs, taps, len(case.out_sites)))


@pytest.mark.parametrize("method", [*METHODS, "auto"])
@given(case=cases(for_map=True, max_rows=25, max_volume=100))
def test_map_equals_the_oracle(method: str, case: Case) -> None:
    kmap = build(method, coords_of(case.sites, case.rel.ndim), **map_options(case))
    check_map(kmap, case, case.pairs, case.rel.volume)


@pytest.mark.parametrize("method", METHODS)
@given(case=cases(for_map=True, with_target=True, max_rows=20))
def test_map_onto_given_sites(method: str, case: Case) -> None:
    if case.rel.submanifold:
        return  # its output sites are the input's
    coords, target = coords_of(case.sites, case.rel.ndim), coords_of(case.target, case.rel.ndim)
    kmap = build(method, coords, target, **map_options(case))
    check_map(kmap, case, case.pairs, case.rel.volume)


@pytest.mark.parametrize("method", METHODS)
@given(case=cases(for_map=True), data=st.data())
def test_taps_select_pairs_and_never_sites(method: str, case: Case, data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.integers(0, case.rel.volume - 1), unique=True))
    all_taps = case.rel.taps()
    taps = torch.tensor([all_taps[t] for t in kept], dtype=torch.int32).reshape(-1, case.rel.ndim)
    coords = coords_of(case.sites, case.rel.ndim)
    kmap = build(method, coords, taps=taps, **map_options(case))
    pairs = oracle.pairs(case.rel, case.sites, case.out_sites, [all_taps[t] for t in kept])
    check_map(kmap, case, pairs, len(kept))


@given(case=cases(for_map=True))
def test_reverse_swaps_the_roles(case: Case) -> None:
    kmap = sparseconv.build_kernel_map(coords_of(case.sites, case.rel.ndim), **map_options(case))
    back = kmap.reverse()
    swapped = sorted((t, o, i) for t, i, o in case.pairs)  # rows of the old output are inputs now
    swapped.sort(key=lambda pair: (pair[0], pair[2]))
    rows, offsets = expected_arrays(swapped, case.rel.volume)
    same_bits(back.pairs, rows)
    same_bits(back.tap_offsets, offsets)
    assert (back.n_in, back.n_out) == (kmap.n_out, kmap.n_in)
    same_bits(back.out_coords, coords_of(case.sites, case.rel.ndim))
    same_map(back.reverse(), kmap)


def test_reverse_of_an_odd_submanifold_kernel_permutes_taps() -> None:
    x = random_tensor(3, 400, 1, extent=9)
    kmap = sparseconv.build_kernel_map(x.coords, kernel_size=3, submanifold=True)
    same_bits(kmap.reverse().neighbors, kmap.neighbors.flip(0))


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["submanifold", "conv", "transposed"])
def test_hash_and_sort_agree_for_every_thread_count(ndim: int, kind: str) -> None:
    """Thousands of rows, so that every thread gets blocks of its own; caller's order is random."""
    x = random_tensor(ndim, 6000, 1, extent={1: 9000, 2: 120, 3: 26, 4: 12}[ndim], batch_size=3)
    options = {"kernel_size": (3, 2, 3, 2)[:ndim], "submanifold": kind == "submanifold"}
    if kind != "submanifold":
        options |= {"stride": 2, "padding": 1, "transposed": kind == "transposed"}
    first = None
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for method in METHODS:
            kmap = build(method, x.coords, **options)
            first = first or kmap
            same_map(kmap, first)
    assert len(first.pairs) > 6000  # the comparison was not about nothing


@pytest.mark.parametrize(
    ("ndim", "geometry"),
    [
        (1, dict(kernel=5, stride=3, padding=2)),
        (2, dict(kernel=(2, 7), stride=(2, 1), padding=(0, 3), dilation=(3, 1))),
        (3, dict(kernel=3, stride=2, padding=1)),
        (3, dict(kernel=2, stride=3, dilation=2, transposed=True)),
        (4, dict(kernel=(1, 3, 2, 2), stride=2, padding=(0, 1, 0, 1))),
        (3, dict(kernel=3, stride=2, anchor="minkowski")),
        (3, dict(kernel=(3, 4, 2), submanifold=True)),
    ],
    ids=str,
)
def test_ten_thousand_rows(ndim: int, geometry: dict[str, object]) -> None:
    """Several of the core's chunks: borders between them lose nothing and count nothing twice."""
    x = random_tensor(ndim, 12000, 1, extent={1: 30000, 2: 170, 3: 32, 4: 14}[ndim], batch_size=2, seed=ndim)
    rel = oracle.make(ndim, **geometry)
    case = Case(rel, tuple(oracle.rows_of(x.coords.numpy())), None, 2, 1, 1, 1, False, 0)
    for method in METHODS:
        kmap = build(method, x.coords, **map_options(case))
        check_map(kmap, case, case.pairs, rel.volume)


@pytest.mark.parametrize("method", METHODS)
def test_maps_too_large_for_one_table_are_built_by_groups_of_taps(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = random_tensor(3, 300, 1, extent=8)
    settings = ({"submanifold": True}, {"stride": 2}, {"stride": 2, "transposed": True})
    for options in settings:
        whole = build(method, x.coords, kernel_size=3, **options)
        with monkeypatch.context() as patch:
            patch.setattr(pairing, "ADDRESS_SPACE", 0)
            patch.setattr(pairing, "TABLE_BYTES", 4 * 300 * 4)  # four taps at a time
            parts = build(method, x.coords, kernel_size=3, **options)
            same_map(parts, whole)
            same_map(parts.reverse(), whole.reverse())


def test_a_table_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_tensor(3, 300, 1, extent=8)
    kmap = sparseconv.build_kernel_map(x.coords, kernel_size=3, submanifold=True)
    size = 4 * 27 * len(x.coords)
    monkeypatch.setattr(pairs, "TABLE_LIMIT", size - 1)
    with pytest.raises(ValueError, match=rf"{size - 1}.*{size}"):
        _ = kmap.neighbors
    monkeypatch.setattr(pairs, "TABLE_LIMIT", size)
    assert kmap.neighbors.shape == (27, len(x.coords))


def test_layers_with_the_same_geometry_share_one_map() -> None:
    x = random_tensor(3, 200, 4, extent=8)
    geometry = kernel_map.Geometry.make(3, 3, submanifold=True)
    first, sites = kernel_map.lookup(x.sites, geometry)
    assert sites is x.sites
    y = spnn.SubMConv3d(4, 5, 3)(x)
    again, _ = kernel_map.lookup(y.sites, kernel_map.Geometry.make(3, (3, 3, 3), submanifold=True))
    assert again is first
    other, _ = kernel_map.lookup(x.sites, kernel_map.Geometry.make(3, 5, submanifold=True))
    assert other is not first
    x.clear_cache()
    rebuilt, _ = kernel_map.lookup(x.sites, geometry)
    assert rebuilt is not first
    same_map(rebuilt, first)


def test_large_extents_and_negative_coordinates() -> None:
    """Far-apart sites use wide bit fields; neighbours are found and none is invented across an axis."""
    far = 2**19
    sites = [(0, x, y, z) for x in (-far, far) for y in (-far, -far + 1, far) for z in (-7, far - 1, far)]
    rel = oracle.make(3, 3, submanifold=True)
    for method in METHODS:
        kmap = build(method, coords_of(sites, 3), kernel_size=3, submanifold=True)
        rows, offsets = expected_arrays(oracle.pairs(rel, sites, sites), 27)
        same_bits(kmap.pairs, rows)
        same_bits(kmap.tap_offsets, offsets)


@pytest.mark.parametrize("edge", [2**31 - 1, -(2**31)])
def test_the_ends_of_int32_work_or_say_why_not(edge: int) -> None:
    inward = -1 if edge > 0 else 1
    sites = [(0, edge), (0, edge + inward)]
    rel = oracle.make(1, 3, submanifold=True)
    for method in METHODS:
        kmap = build(method, coords_of(sites, 1), kernel_size=3, submanifold=True)
        same_bits(kmap.pairs, expected_arrays(oracle.pairs(rel, sites, sites), 3)[0])
        with pytest.raises(
            ValueError, match=r"(?i)int32|32.bit|axis"
        ):  # an output cell beyond int32 must not wrap
            build(method, coords_of(sites, 1), kernel_size=3, stride=2, transposed=True)


@given(case=cases(for_map=True))
def test_rows_come_out_in_lexicographic_order(case: Case) -> None:
    kmap = sparseconv.build_kernel_map(coords_of(case.sites, case.rel.ndim), **map_options(case))
    rows = [tuple(r) for r in kmap.out_coords.tolist()]
    assert rows == (list(case.sites) if case.rel.submanifold else sorted(set(rows)))


def test_a_map_does_not_change_with_the_coordinates_it_came_from() -> None:
    x = random_tensor(2, 50, 1, extent=9)
    coords = x.coords.clone()
    kmap = sparseconv.build_kernel_map(coords, kernel_size=3, stride=2)
    before = (kmap.pairs.clone(), kmap.out_coords.clone(), kmap.neighbors.clone())
    coords += 100
    for old, new in zip(before, (kmap.pairs, kmap.out_coords, kmap.neighbors), strict=True):
        same_bits(new, old)
    with pytest.raises((AttributeError, TypeError)):
        kmap.n_out = 3


@given(case=cases(for_map=True, kind="conv", anchor="torch", bounded=True))
def test_a_spatial_shape_only_clips(case: Case) -> None:
    """Outputs with a shape are the outputs without one that lie inside the computed shape."""
    options = map_options(case) | {"spatial_shape": None}
    unbounded = sparseconv.build_kernel_map(coords_of(case.sites, case.rel.ndim), **options)
    shape = oracle.output_shape(case.rel, case.shape)
    inside = [
        tuple(r)
        for r in unbounded.out_coords.tolist()
        if all(0 <= v < n for v, n in zip(r[1:], shape, strict=True))
    ]
    x = tensor_of(case)
    y = getattr(spnn, case.class_name)(case.c_in, 2, case.rel.kernel, **case.layer_options).double()(x)
    assert [tuple(r) for r in y.coords.tolist()] == inside
    assert tuple(y.spatial_shape) == shape


def test_the_comparison_of_maps_can_fail() -> None:
    x = random_tensor(2, 50, 1, extent=9)
    a = sparseconv.build_kernel_map(x.coords, kernel_size=3, submanifold=True)
    b = sparseconv.build_kernel_map(x.coords, kernel_size=(3, 2), submanifold=True)
    with pytest.raises(AssertionError):
        same_map(a, b)
