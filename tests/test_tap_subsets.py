# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Maps of subsets of a kernel's taps: derived from cached maps with more taps, bit for bit what a search would find."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import oracle
import pytest
import torch
from engine import out_stride, random_tensor
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, close, coords_of, same_bits

import sparseconv
import sparseconv.nn as spnn
from sparseconv import kernel_map, map_builder
from sparseconv.geometry import Geometry
from sparseconv.sites import Sites


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Grows by one for each map that is searched: the number of its taps, None = all."""
    made: list[int | None] = []
    build = map_builder.build

    def counted(sites: Sites, geometry: Geometry, taps: torch.Tensor | None, *rest: Any) -> Any:
        made.append(None if taps is None else len(taps))
        return build(sites, geometry, taps, *rest)

    monkeypatch.setattr(map_builder, "build", counted)
    return made


def subset(geometry: Geometry, numbers: list[int]) -> torch.Tensor:
    return geometry.all_taps()[numbers]


def same_map(got: sparseconv.KernelMap, expected: sparseconv.KernelMap) -> None:
    for name in ("pairs", "tap_offsets", "in_coords", "out_coords"):
        same_bits(getattr(got, name), getattr(expected, name))
        assert getattr(got, name).is_contiguous()
    assert got.mirrored == expected.mirrored


def geometry_of(case: Case) -> Geometry:
    rel = case.rel
    padding = 0 if rel.anchor == "minkowski" or rel.submanifold else rel.padding
    return Geometry.make(
        rel.ndim,
        rel.kernel,
        rel.stride,
        padding,
        rel.dilation,
        anchor=rel.anchor,
        submanifold=rel.submanifold,
        transposed=rel.transposed,
    )


def check_lookups(case: Case, draw: Callable[[st.SearchStrategy[Any]], Any], target: bool) -> None:
    """Several lists of taps, one after the other on the same sites: each equals the oracle and a fresh tensor's map."""
    geometry, all_taps = geometry_of(case), case.rel.taps()
    lists = draw(
        st.lists(
            st.none() | st.lists(st.integers(0, case.rel.volume - 1), unique=True), min_size=2, max_size=5
        )
    )

    def fresh() -> tuple[Sites, Sites | None]:
        sites = Sites.checked(coords_of(case.sites, case.rel.ndim), 1, case.shape, case.batch_size)
        if not target:
            return sites, None
        there = coords_of(case.out_sites, case.rel.ndim)
        return sites, Sites.checked(there, out_stride(case), None, case.batch_size)

    shared = fresh()
    if target:  # the layer that came from the target: its map may serve the way back
        other = geometry_of_opposite(geometry)
        for numbers in draw(st.lists(st.sampled_from(lists), max_size=2)):
            kernel_map.lookup(
                shared[1], other, None if numbers is None else subset(geometry, numbers), shared[0]
            )
    made = set()
    for numbers in lists:
        method = draw(st.sampled_from(kernel_map.METHODS))
        taps = None if numbers is None else subset(geometry, numbers)
        got, out_sites = kernel_map.lookup(shared[0], geometry, taps, shared[1], method)
        expected, _ = kernel_map.lookup(*(lambda s: (s[0], geometry, taps, s[1]))(fresh()), method)
        same_map(got, expected)
        assert out_sites.coords.data_ptr() == got.out_coords.data_ptr()
        made.add(id(out_sites))
        kept = range(case.rel.volume) if numbers is None else numbers
        pairs = oracle.pairs(case.rel, case.sites, case.out_sites, [all_taps[t] for t in kept])
        assert got.pairs.tolist() == [[i, o] for _, i, o in pairs]
        again, _ = kernel_map.lookup(shared[0], geometry, taps, shared[1], method)
        assert again is got
    assert len(made) == 1  # output sites do not depend on taps: what follows the layers shares its maps too


def geometry_of_opposite(geometry: Geometry) -> Geometry:
    options = {name: getattr(geometry, name) for name in ("kernel_size", "stride", "dilation", "anchor")}
    padding = 0 if geometry.anchor == "minkowski" else geometry.padding
    return Geometry.make(geometry.ndim, **options, padding=padding, transposed=not geometry.transposed)


@given(case=cases(for_map=True, max_rows=20, max_volume=40), data=st.data())
def test_maps_do_not_depend_on_what_was_looked_up_before(case: Case, data: st.DataObject) -> None:
    check_lookups(case, data.draw, target=False)


@given(case=cases(for_map=True, with_target=True, max_rows=16, max_volume=40), data=st.data())
def test_maps_onto_given_sites_do_not_either(case: Case, data: st.DataObject) -> None:
    if not case.rel.submanifold:  # its output sites are the input's
        check_lookups(case, data.draw, target=True)


@given(case=cases(for_map=True, kind="submanifold", max_rows=16, max_volume=40), data=st.data())
def test_a_map_is_mirrored_just_where_its_taps_are(case: Case, data: st.DataObject) -> None:
    """A flag that is wrong would give wrong gradients; one that is missing costs the search of a reversed map."""
    geometry = geometry_of(case)
    half = data.draw(st.lists(st.integers(0, case.rel.volume - 1), unique=True, max_size=8))
    numbers = list(half)
    if data.draw(st.booleans()):
        numbers = list(dict.fromkeys(half + [case.rel.volume - 1 - t for t in reversed(half)]))
    taps = subset(geometry, numbers)
    sites = Sites.checked(coords_of(case.sites, case.rel.ndim), 1, case.shape, case.batch_size)
    if data.draw(st.booleans()):
        kernel_map.lookup(sites, geometry)
    kmap, _ = kernel_map.lookup(sites, geometry, taps)
    offsets = [
        [d * t - p for d, t, p in zip(geometry.dilation, tap, geometry.padding, strict=True)]
        for tap in taps.tolist()
    ]
    opposite = all(a == [-v for v in b] for a, b in zip(offsets, reversed(offsets), strict=True))
    assert kmap.mirrored == opposite
    plain = sparseconv.KernelMap(kmap.pairs, kmap.tap_offsets, kmap.in_coords, kmap.out_coords)
    for name in ("pairs", "tap_offsets"):
        same_bits(getattr(kmap.reverse(), name), getattr(plain.reverse(), name))


# --- how many searches -------------------------------------------------------------------------------------------------


def test_subsets_of_a_cached_map_are_never_searched(searches: list[int | None]) -> None:
    x = random_tensor(3, 300, 1, extent=9)
    settings = (
        Geometry.make(3, 3, submanifold=True),
        Geometry.make(3, 3, 2, 1),
        Geometry.make(3, 2, 2, transposed=True),
    )
    for count, geometry in enumerate(settings, start=1):
        _, there = kernel_map.lookup(x.sites, geometry)
        for numbers in ([1, 4], [7, 0, 3], [], list(range(geometry.volume))[::-1]):
            _, out_sites = kernel_map.lookup(x.sites, geometry, subset(geometry, numbers))
            assert out_sites is there
        assert searches == [None] * count


def test_a_subset_of_a_subset_is_derived(searches: list[int | None]) -> None:
    x, geometry = random_tensor(3, 300, 1, extent=9), Geometry.make(3, 3, submanifold=True)
    for numbers in ([0, 5, 13, 26], [26, 0], [5]):
        kernel_map.lookup(x.sites, geometry, subset(geometry, numbers))
    assert searches == [4]
    kernel_map.lookup(x.sites, geometry, subset(geometry, [5, 6]))
    assert searches == [4, 2]


def test_layers_with_subsets_of_their_own_are_searched_once_or_twice(searches: list[int | None]) -> None:
    x, geometry = random_tensor(3, 300, 1, extent=9), Geometry.make(3, 3, 2, 1)
    for seed in range(6):
        numbers = torch.randperm(27, generator=torch.Generator().manual_seed(seed))[:13].tolist()
        kernel_map.lookup(x.sites, geometry, subset(geometry, numbers))
    assert searches == [13, None]
    kernel_map.lookup(x.sites, geometry)
    assert searches == [13, None]


def test_a_few_taps_of_a_large_kernel_never_cost_all_of_them(searches: list[int | None]) -> None:
    x, geometry = random_tensor(3, 50, 1, extent=9), Geometry.make(3, 41, submanifold=True)
    for first in range(10):
        kernel_map.lookup(x.sites, geometry, subset(geometry, [first, 40000 + first]))
    assert searches == [2] * 10


def test_a_layer_alone_is_searched_for_its_taps_only(searches: list[int | None]) -> None:
    x = random_tensor(3, 300, 1, extent=9)
    strided, symmetric = Geometry.make(3, 3, 2, 1), Geometry.make(3, 3, submanifold=True)
    kernel_map.lookup(x.sites, strided, subset(strided, list(range(26))))
    kernel_map.lookup(x.sites, symmetric, subset(symmetric, list(range(1, 26))))
    kernel_map.lookup(x.sites, Geometry.make(3, 5, submanifold=True))  # another geometry lends nothing
    assert searches == [26, 25, None]


def test_half_a_symmetric_kernel_costs_as_much_as_all_of_it(searches: list[int | None]) -> None:
    """The map of all taps is found by halves, that of a list which is not symmetric is not."""
    for count, wanted in ((12, 12), (13, None)):
        x, geometry = random_tensor(3, 300, 1, extent=9), Geometry.make(3, 3, submanifold=True)
        kernel_map.lookup(x.sites, geometry, subset(geometry, list(range(count))))
        assert searches.pop() == wanted and not searches


def test_the_way_back_is_derived_from_the_way_there(searches: list[int | None]) -> None:
    x = random_tensor(3, 300, 4, extent=9)
    down, up = spnn.Conv3d(4, 4, 2, stride=2), spnn.InverseConv3d(4, 4, 2, stride=2)
    up.taps, up.weight = up.taps[[6, 1]], torch.nn.Parameter(up.weight.detach()[[6, 1]])
    y = down(x)
    derived = up(y, x)
    assert searches == [None]
    # The same rows on sites of their own, which know no maps.
    lone = sparseconv.SparseTensor(y.features, y.coords, stride=y.stride, batch_size=y.batch_size)
    same_bits(up(lone, x).features.detach(), derived.features.detach())
    assert searches == [None, 2]


# --- gradients and lifetimes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [[4, 10, 13, 16, 22], [13], [0, 26], [3, 13, 25]], ids=str)
def test_gradients_are_those_of_the_whole_kernel_with_zeros(numbers: list[int]) -> None:
    """Symmetric lists run the gradient of the input over the map itself, taps reversed; the last one is not symmetric."""
    x = random_tensor(3, 400, 5, extent=9, dtype=torch.float64, grad=True)
    whole = spnn.SubMConv3d(5, 7, 3, bias=False).double()
    with torch.no_grad():
        rest = [t for t in range(27) if t not in numbers]
        whole.weight[rest] = 0
    part = spnn.SubMConv3d(5, 7, 3, bias=False).double()
    part.taps, part.weight = part.taps[numbers], torch.nn.Parameter(whole.weight.detach()[numbers])
    cotangent = torch.randn(len(x.coords), 7, dtype=torch.float64)
    for first, second in itertools.permutations((whole, part)):  # derived, and built first
        x.clear_cache()
        grads = {}
        for layer in (first, second):
            grads[layer] = torch.autograd.grad(layer(x).features, [x.features, layer.weight], cotangent)
        close(grads[part][0], grads[whole][0])
        close(grads[part][1], grads[whole][1][numbers])


@pytest.mark.parametrize("options", [{"submanifold": True}, {"stride": 2}], ids=str)
def test_derived_maps_leave_no_cycles(options: dict[str, Any]) -> None:
    """A scan's memory goes with its last tensor, not with the garbage collector."""
    geometry = Geometry.make(3, 2 if "stride" in options else 3, **options)
    x = random_tensor(3, 200, 1, extent=9)
    sites = x.sites
    kept, there = kernel_map.lookup(sites, geometry)
    derived = kernel_map.lookup(sites, geometry, subset(geometry, [0, 3]))[0]
    watched = [weakref.ref(thing) for thing in (sites, there, kept, derived, derived.reverse())]
    if "stride" in options:
        # From `derived` or `kept`, the other way round.
        back = kernel_map.lookup(there, geometry_of_opposite(geometry), subset(geometry, [3]), sites)[0]
        watched.append(weakref.ref(back))
        del back
    gc.disable()
    try:
        del x, sites, there, kept, derived
        assert all(reference() is None for reference in watched)
    finally:
        gc.enable()


def test_a_target_that_has_gone_lends_nothing() -> None:
    """Python gives the id of a dead object to the next: a map onto the old target must not be taken for the new one's."""
    x, geometry = random_tensor(2, 60, 1, extent=9), Geometry.make(2, 3)
    taps = subset(geometry, [0, 4])
    for seed in range(20):
        cells = random_tensor(2, 30, 1, extent=9, seed=seed).coords
        target = Sites.checked(cells)
        kernel_map.lookup(x.sites, geometry, None, target)
        got, there = kernel_map.lookup(x.sites, geometry, taps, target)
        assert there is target
        alone = sparseconv.build_kernel_map(x.coords, cells, kernel_size=3, taps=taps)
        same_bits(got.pairs, alone.pairs)
        same_bits(got.out_coords, cells)
        assert len(x.sites.maps) == 2
        del target, there, got


def test_the_comparison_of_maps_can_fail() -> None:
    x, geometry = random_tensor(2, 50, 1, extent=9), Geometry.make(2, 3, submanifold=True)
    a, b = (
        kernel_map.lookup(x.sites, geometry, subset(geometry, numbers))[0] for numbers in ([3, 5], [5, 3])
    )
    with pytest.raises(AssertionError):
        same_map(a, b)
