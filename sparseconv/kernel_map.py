# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel maps: looked up, derived from one with more taps, or built; once for all layers of one geometry."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from . import _native, map_builder
from .geometry import Geometry, Ints
from .pairs import KernelMap
from .sites import Sites

METHODS = ("auto", "hash", "sort")


def lookup(
    sites: Sites,
    geometry: Geometry,
    taps: Tensor | None = None,
    target: Sites | None = None,
    method: str = "auto",
    *,
    taps_key: bytes | None = None,
) -> tuple[KernelMap, Sites]:
    """The kernel map of a layer on `sites` and its output sites, from the cache of `sites` or made and kept there.

    Args:
        sites: the input's coordinate set.
        geometry: the layer's.
        taps: int32 [K, D], the taps the layer keeps; None = all. Output sites do not depend on it.
        target: compute on these sites instead of those the geometry reaches.
        method: "auto", "hash" or "sort".
        taps_key: `tap_key(taps)`, where the caller keeps it.

    Raises:
        ValueError: where dimensions, batch sizes or strides of sites, geometry and target do not match.
    """
    _check(sites, geometry, target)
    if torch.compiler.is_compiling():
        return _build(sites, geometry, taps, target, method)
    if taps is not None:
        taps_key = tap_key(taps) if taps_key is None else taps_key
        taps = taps.cpu()  # a short list, which the host looks into
    target_id = None if target is None else id(target)
    hit = sites.maps.get((geometry, taps_key, target_id))
    if hit is not None:
        cached, there = hit[0], hit[1]()
        if there is not None:  # else the target has gone, and another one has its id
            return cached, there
    for dead in [k for k, (_, reference) in sites.maps.items() if reference() is None]:
        del sites.maps[dead]
    with torch.inference_mode(False):  # the map outlives the call: training may use it next
        found = _derive(sites, geometry, taps, taps_key, target)
        if found is None and taps is not None and _all_taps_pay(sites, geometry, taps, target_id):
            _keep(sites, (geometry, None, target_id), _build(sites, geometry, None, target, method), target)
            found = _derive(sites, geometry, taps, taps_key, target)
        if found is None:
            found = _build(sites, geometry, taps, target, method)
    return _keep(sites, (geometry, taps_key, target_id), found, target)


def tap_key(taps: Tensor) -> bytes:
    """What stands for a list of taps, int32 [K, D], in the cache of maps."""
    return taps.cpu().numpy().tobytes()


def _keep(
    sites: Sites, key: tuple[Any, ...], found: tuple[KernelMap, Sites], target: Sites | None
) -> tuple[KernelMap, Sites]:
    kernel_map, out_sites = found
    sites.maps[key] = (kernel_map, _reference(out_sites, weak=out_sites is sites or target is not None))
    return found


def _reference(sites: Sites, weak: bool) -> Callable[[], Sites | None]:
    """Sites as a cache entry holds them: sites made by the layer live with their input; the input itself and a target, whose
    own caches may lead back here, are the caller's to keep.
    """
    return weakref.ref(sites) if weak else lambda: sites


def _siblings(
    sites: Sites, geometry: Geometry, target_id: int | None
) -> Iterator[tuple[bytes | None, KernelMap, Sites]]:
    """The cached maps of a geometry and a target, whatever their taps: key of the taps, map, output sites."""
    for (other, other_taps, other_id), (kernel_map, reference) in sites.maps.items():
        there = reference()
        if other == geometry and other_id == target_id and there is not None:
            yield other_taps, kernel_map, there


def _partners(
    sites: Sites, geometry: Geometry, target: Sites | None
) -> Iterator[tuple[bytes | None, KernelMap]]:
    """The cached maps target -> sites of the same geometry the other way round: key of the taps, map."""
    if target is None or geometry.submanifold:
        return
    for (other, other_taps, _), (kernel_map, out_sites) in target.maps.items():
        if (
            out_sites() is sites
            and other.transposed != geometry.transposed
            and not other.submanifold
            and other.relations == geometry.relations
        ):
            yield other_taps, kernel_map


def _derive(
    sites: Sites, geometry: Geometry, taps: Tensor | None, taps_key: bytes | None, target: Sites | None
) -> tuple[KernelMap, Sites] | None:
    """The map from a cached one that has its taps, without a search; None where there is none.

    Pairs are sorted by (tap, output row) and do not depend on other taps: a subset's are segments of the whole's.
    """
    partners = dict(_partners(sites, geometry, target))
    if target is not None and taps_key in partners:
        return partners[taps_key].reverse(), target
    target_id = None if target is None else id(target)
    mirrored = _mirrored(geometry, taps)
    for held_key, kernel_map, there in _siblings(sites, geometry, target_id):
        places = _places(geometry, taps_key, held_key)
        if places is not None:
            return kernel_map.select(places, mirrored), there
    if target is not None:
        for held_key, kernel_map in partners.items():
            places = _places(geometry, taps_key, held_key)
            if places is not None:
                return kernel_map.reverse().select(places), target
    return None


def _places(geometry: Geometry, wanted: bytes | None, held: bytes | None) -> list[int] | None:
    """Where each of the wanted taps stands in the list of held ones, None = all taps; None unless all of them do."""
    width = 4 * geometry.ndim  # bytes of a tap
    wanted, held = (_all_taps_key(geometry) if key is None else key for key in (wanted, held))
    if len(wanted) > len(held):
        return None
    place = {held[at : at + width]: at // width for at in range(0, len(held), width)}
    places = [place.get(wanted[at : at + width], -1) for at in range(0, len(wanted), width)]
    return None if -1 in places else places


@functools.lru_cache(maxsize=64)
def _all_taps_key(geometry: Geometry) -> bytes:
    return tap_key(geometry.all_taps())


def _all_taps_pay(sites: Sites, geometry: Geometry, taps: Tensor, target_id: int | None) -> bool:
    """Whether to build the map of all taps, to derive all further ones from it, instead of one of `taps`.

    Half the taps take about as long to search as all of them. A layer alone with its geometry is spared the memory of taps that
    it has not, except in a symmetric kernel, whose map is found by halves while an unsymmetric list's is not. Where others have
    been here, it is time once the taps built list by list make up half the kernel: work and memory stay within a small multiple
    of what was asked for, whatever comes next, also for a few taps of a large kernel.
    """
    built = sum(kernel_map.taps for _, kernel_map, _ in _siblings(sites, geometry, target_id))
    alone = built == 0 and not (geometry.mirror_symmetric and not _mirrored(geometry, taps))
    return not alone and built + len(taps) >= geometry.volume // 2


def _mirrored(geometry: Geometry, taps: Tensor | None) -> bool:
    """Whether tap t and tap K - 1 - t of the list are opposite, which makes the map its own reverse."""
    if taps is None or not geometry.submanifold:
        return geometry.mirror_symmetric
    if torch.compiler.is_compiling():
        return False  # a graph does not depend on the values of taps
    both = taps.long() + taps.flip(0)  # of two opposite taps, whose cells are tap * dilation - padding
    return bool((both * torch.tensor(geometry.dilation) == 2 * torch.tensor(geometry.padding)).all())


def _check(sites: Sites, geometry: Geometry, target: Sites | None) -> None:
    _native.require_device(sites.device)
    if sites.ndim != geometry.ndim:
        raise ValueError(f"the layer has {geometry.ndim} dimensions, the tensor {sites.ndim}")
    if target is None:
        return
    if geometry.submanifold:
        raise ValueError("a submanifold layer computes on its input's sites and takes no target")
    if target.ndim != sites.ndim:
        raise ValueError(f"target must have {sites.ndim} dimensions, got {target.ndim}")
    expected = geometry.output_stride(sites.stride)
    if target.stride != expected:
        raise ValueError(
            f"target must have stride {expected}, which this layer makes of {sites.stride}, got {target.stride}"
        )
    if target.batch_size != sites.batch_size:
        raise ValueError(f"target must have batch_size {sites.batch_size}, got {target.batch_size}")
    if target.device != sites.device:
        raise ValueError(f"target must be on {sites.device}, got {target.device}")


def _build(
    sites: Sites, geometry: Geometry, taps: Tensor | None, target: Sites | None, method: str
) -> tuple[KernelMap, Sites]:
    out_sites, pairs, tap_offsets = map_builder.build(sites, geometry, taps, target, method)
    if not torch.compiler.is_compiling():
        # Layers that differ in their taps share one object of output sites, whose cache then serves what follows any of them.
        target_id = None if target is None else id(target)
        out_sites = next((there for _, _, there in _siblings(sites, geometry, target_id)), out_sites)
    mirrored = _mirrored(geometry, taps)
    return KernelMap.trusted(pairs, tap_offsets, sites.coords, out_sites.coords, mirrored), out_sites


def build_kernel_map(
    coords: Tensor,
    out_coords: Tensor | None = None,
    *,
    kernel_size: Ints,
    stride: Ints = 1,
    padding: Ints = 0,
    dilation: Ints = 1,
    taps: Tensor | None = None,
    anchor: str = "torch",
    submanifold: bool = False,
    transposed: bool = False,
    spatial_shape: tuple[int, ...] | None = None,
    method: str = "auto",
) -> KernelMap:
    """Builds a kernel map from coordinates alone.

    Args:
        coords: int32 [N, 1 + D], the input's, column 0 the batch index.
        out_coords: int32 [M, 1 + D]; None = the sites that the geometry reaches.
        kernel_size, stride, padding, dilation: an int or one per axis.
        taps: int32 [K, D], a subset of the kernel's taps; None = all.
        anchor: "torch" or "minkowski".
        submanifold: output sites = input sites.
        transposed: `coords` is the coarse side.
        spatial_shape: all coords lie in [0, spatial_shape); None = unbounded.
        method: "hash" (open addressing), "sort" (PointAcc's merge of sorted lists; "auto" on the CPU). Equal maps, bit for bit.

    Raises:
        ValueError, TypeError: for coordinates, taps or a geometry that do not fit.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    sites = Sites.checked(coords, 1, spatial_shape)
    geometry = Geometry.make(
        sites.ndim,
        kernel_size,
        stride,
        padding,
        dilation,
        anchor=anchor,
        submanifold=submanifold,
        transposed=transposed,
    )
    target = None
    if out_coords is not None:
        checked = Sites.checked(out_coords)
        batch_size = max(sites.batch_size, checked.batch_size)
        sites.batch_size = batch_size
        target = Sites(checked.coords, geometry.output_stride(sites.stride), None, batch_size)
    kernel_map, _ = lookup(sites, geometry, check_taps(taps, geometry), target, method)
    return kernel_map


def check_taps(taps: Tensor | None, geometry: Geometry) -> Tensor | None:
    """`taps` as the core takes it; raises unless it is int32 [K, D], distinct and within the kernel."""
    if taps is None:
        return None
    if not isinstance(taps, Tensor) or taps.dtype != torch.int32:
        raise TypeError(
            f"taps must be an int32 tensor [K, {geometry.ndim}], got {getattr(taps, 'dtype', type(taps).__name__)}"
        )
    if taps.ndim != 2 or taps.shape[1] != geometry.ndim:
        raise ValueError(f"taps must be [K, {geometry.ndim}], got {list(taps.shape)}")
    _native.require_device(taps.device)
    taps = taps.cpu()  # the host reads them
    sizes = torch.tensor(geometry.kernel_size, dtype=torch.int32)
    if bool(((taps < 0) | (taps >= sizes)).any()):
        raise ValueError(
            f"taps must lie in [0, kernel_size) = [0, {geometry.kernel_size}), got {taps.tolist()}"
        )
    if len(torch.unique(taps, dim=0)) != len(taps):
        raise ValueError(f"taps must be distinct, got {taps.tolist()}")
    return taps.contiguous()
