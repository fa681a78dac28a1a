# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel maps: which input row meets which output row through which tap, built once and shared by all layers of one geometry."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _native, map_builder, pairing
from .geometry import Geometry, Ints
from .sites import Sites

METHODS = ("auto", "hash", "sort")
TABLE_LIMIT = 1 << 30  # bytes of a neighbour table that is still built on request


class KernelMap:
    """The pairs of a layer; immutable.

    Attributes:
        pairs: int32 [P, 2], columns (input row, output row), sorted by (tap, output row).
        tap_offsets: int64 [K + 1]; the pairs of tap k are pairs[tap_offsets[k] : tap_offsets[k + 1]].
        in_coords, out_coords: int32 [n_in, 1 + D] and [n_out, 1 + D], the coordinates of the rows.
        mirrored: tap k and tap K - 1 - k are opposite, so that the reversed map is this one with its taps in reverse order.
    """

    # A map holds coordinates, not Sites, and a reversed map holds its origin weakly: maps hang in the caches of sites, and a
    # reference cycle would keep a scan's memory until the garbage collector comes.
    __slots__ = (
        "__weakref__",
        "_neighbors",
        "_origin",
        "_reverse",
        "in_coords",
        "mirrored",
        "out_coords",
        "pairs",
        "tap_offsets",
    )

    def __init__(
        self,
        pairs: Tensor,
        tap_offsets: Tensor,
        in_coords: Tensor,
        out_coords: Tensor,
        mirrored: bool = False,
    ) -> None:
        self.pairs = pairs
        self.tap_offsets = tap_offsets
        self.in_coords = in_coords
        self.out_coords = out_coords
        self.mirrored = mirrored
        self._neighbors: Tensor | None = None
        self._reverse: KernelMap | None = None
        self._origin: weakref.ref[KernelMap] | None = None

    @property
    def n_in(self) -> int:
        """Rows of the input."""
        return self.in_coords.shape[0]

    @property
    def n_out(self) -> int:
        """Rows of the output."""
        return self.out_coords.shape[0]

    @property
    def taps(self) -> int:
        """Number of taps K."""
        return self.tap_offsets.shape[0] - 1

    @property
    def neighbors(self) -> Tensor:
        """int32 [K, n_out]: the input row that each output row reads through each tap, -1 for none.

        Raises:
            ValueError: where the table would take more than 1 GiB; its pairs hold the same in less.
        """
        if self._neighbors is None:
            size = 4 * self.taps * self.n_out
            if size > TABLE_LIMIT:
                raise ValueError(
                    f"a neighbour table is at most {TABLE_LIMIT} bytes, got {self.taps} taps x {self.n_out} rows = {size} bytes; "
                    "use pairs and tap_offsets"
                )
            self._neighbors = pairing.neighbor_table(self.pairs, self.tap_offsets, self.n_out)
        return self._neighbors

    def reverse(self) -> KernelMap:
        """The map with input and output swapped, tap k staying tap k; built once."""
        origin = None if self._origin is None else self._origin()
        if origin is not None:
            return origin
        if self._reverse is None:
            if self.mirrored:
                # (i, o) meets through tap k exactly where (o, i) meets through tap K - 1 - k: the segments, last to first.
                counts = self.tap_offsets.diff().tolist()
                pairs = torch.cat(self.pairs.split(counts)[::-1]) if counts else self.pairs
                offsets = torch.zeros_like(self.tap_offsets)
                torch.cumsum(self.tap_offsets.diff().flip(0), 0, out=offsets[1:])
            else:
                pairs, offsets = torch.ops.sparseconv.reverse_pairs(self.pairs, self.tap_offsets, self.n_in)
            self._reverse = KernelMap(pairs, offsets, self.out_coords, self.in_coords, self.mirrored)
            self._reverse._origin = weakref.ref(self)
        return self._reverse

    def reverse_arrays(self) -> tuple[Tensor, Tensor, bool]:
        """What the gradient of the input runs over: pairs, tap offsets, and whether segment s belongs to tap K - 1 - s."""
        if self.mirrored:
            return self.pairs, self.tap_offsets, True
        reverse = self.reverse()
        return reverse.pairs, reverse.tap_offsets, False

    def __repr__(self) -> str:
        return f"KernelMap({self.taps} taps, {self.pairs.shape[0]} pairs, {self.n_in} -> {self.n_out} rows)"


def lookup(
    sites: Sites,
    geometry: Geometry,
    taps: Tensor | None = None,
    target: Sites | None = None,
    method: str = "auto",
    *,
    taps_key: bytes | None = None,
) -> tuple[KernelMap, Sites]:
    """The kernel map of a layer on `sites` and its output sites, from the cache of `sites` or built and kept there.

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
    if taps is not None and taps_key is None:
        taps_key = tap_key(taps)
    key: tuple[Any, ...] = (geometry, taps_key, None if target is None else id(target))
    hit = sites.maps.get(key)
    if hit is not None:
        cached, there = hit[0], hit[1]()
        if there is not None:  # else the target has gone, and another one has its id
            return cached, there
    partner = _partner(sites, geometry, taps_key, target)
    with torch.inference_mode(False):  # the map outlives the call: training may use it next
        if partner is not None and target is not None:
            kernel_map, out_sites = partner.reverse(), target
        else:
            kernel_map, out_sites = _build(sites, geometry, taps, target, method)
    for dead in [k for k, (_, reference) in sites.maps.items() if reference() is None]:
        del sites.maps[dead]
    sites.maps[key] = (kernel_map, _reference(out_sites, weak=out_sites is sites or target is not None))
    return kernel_map, out_sites


def tap_key(taps: Tensor) -> bytes:
    """What stands for a list of taps, int32 [K, D], in the cache of maps."""
    return taps.cpu().numpy().tobytes()


def _reference(sites: Sites, weak: bool) -> Callable[[], Sites | None]:
    """Sites as a cache entry holds them: sites made by the layer live with their input; the input itself and a target, whose
    own caches may lead back here, are the caller's to keep.
    """
    return weakref.ref(sites) if weak else lambda: sites


def _partner(
    sites: Sites, geometry: Geometry, tap_key: bytes | None, target: Sites | None
) -> KernelMap | None:
    """The cached map target -> sites of the same geometry the other way round, if there is one."""
    if target is None or geometry.submanifold:
        return None
    for (other, other_taps, _), (kernel_map, out_sites) in target.maps.items():
        if (
            out_sites() is sites
            and other_taps == tap_key
            and other.transposed != geometry.transposed
            and not other.submanifold
            and other.relations == geometry.relations
        ):
            found: KernelMap = kernel_map
            return found
    return None


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
    mirrored = taps is None and geometry.mirror_symmetric and out_sites is sites
    return KernelMap(pairs, tap_offsets, sites.coords, out_sites.coords, mirrored), out_sites


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
    sizes = torch.tensor(geometry.kernel_size, dtype=torch.int32)
    if bool(((taps < 0) | (taps >= sizes)).any()):
        raise ValueError(
            f"taps must lie in [0, kernel_size) = [0, {geometry.kernel_size}), got {taps.tolist()}"
        )
    if len(torch.unique(taps, dim=0)) != len(taps):
        raise ValueError(f"taps must be distinct, got {taps.tolist()}")
    return taps.contiguous()
