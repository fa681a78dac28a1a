# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""From sites and a layer's geometry to output sites and pairs: which operators are called, and in which order."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from . import mapping
from .geometry import Geometry
from .ops.maps import strided_map
from .sites import Sites


def build(
    sites: Sites, geometry: Geometry, taps: Tensor | None, target: Sites | None, method: str
) -> tuple[Sites, Tensor, Tensor]:
    """Output sites, pairs int32 [P, 2] and tap offsets int64 [K + 1]; arguments as for `kernel_map.lookup`."""
    if taps is None:
        taps = geometry.all_taps() if torch.compiler.is_compiling() else _all_taps(geometry)
    relations = geometry.relations
    one_way = not (geometry.submanifold or geometry.transposed)
    if target is None and method != "hash" and one_way and geometry.site_relations == relations:
        shape = _output_shape(sites, geometry)
        coords, pairs, tap_offsets = strided_map(sites.coords, taps, relations, shape, sites.bounds)
        return _made_sites(sites, geometry, coords), pairs, tap_offsets
    out_sites = target if target is not None else _output_sites(sites, geometry)
    fine, coarse = (out_sites, sites) if geometry.transposed else (sites, out_sites)
    flat = [number for axis in relations for number in axis]
    pairs, tap_offsets = torch.ops.sparseconv.find_pairs(
        fine.coords, coarse.coords, taps, flat, method, fine.bounds, coarse.bounds
    )
    if geometry.transposed:  # the builder's output is the coarse side
        pairs, tap_offsets = torch.ops.sparseconv.reverse_pairs(pairs, tap_offsets, len(fine))
    return out_sites, pairs, tap_offsets


@functools.lru_cache(maxsize=64)
def _all_taps(geometry: Geometry) -> Tensor:
    """`geometry.all_taps()`, made once: the builders only read it."""
    return geometry.all_taps()


def _output_shape(sites: Sites, geometry: Geometry) -> list[int] | None:
    return None if sites.spatial_shape is None else list(geometry.output_shape(sites.spatial_shape))


def _output_sites(sites: Sites, geometry: Geometry) -> Sites:
    if geometry.submanifold:
        return sites
    flat = [number for axis in geometry.site_relations for number in axis]
    coords = torch.ops.sparseconv.output_coords(
        sites.coords, flat, geometry.transposed, _output_shape(sites, geometry), sites.bounds
    )
    return _made_sites(sites, geometry, coords)


def _made_sites(sites: Sites, geometry: Geometry, coords: Tensor) -> Sites:
    shape = _output_shape(sites, geometry)
    bounds = mapping.moved_bounds(sites.bounds, geometry.site_relations, geometry.transposed, shape)
    return Sites(
        coords,
        geometry.output_stride(sites.stride),
        None if shape is None else tuple(shape),
        sites.batch_size,
        bounds,
    )
