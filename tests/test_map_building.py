# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""How maps are built and looked up: bounds that travel with sites, kept working memory, calls past the dispatcher."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from engine import random_tensor
from strategies import same_bits
from torch.utils._python_dispatch import TorchDispatchMode

import sparseconv
import sparseconv.nn as spnn
from sparseconv import SparseTensor, _scratch, kernel_map, pairing
from sparseconv.geometry import Geometry
from sparseconv.sites import Sites


def exact(coords: torch.Tensor) -> list[int]:
    low, high = torch.aminmax(coords, dim=0)
    return low.tolist() + high.tolist()


def test_bounds_are_those_of_the_rows() -> None:
    x = random_tensor(3, 300, 2, extent=14, batch_size=3)
    assert x.sites.bounds == exact(x.coords)
    points = torch.rand(500, 3) * 9 - 4
    y, _ = sparseconv.voxelize(points, voxel_size=0.5)
    assert y.sites.bounds == exact(y.coords)
    assert pickle.loads(pickle.dumps(x.sites)).bounds == x.sites.bounds
    assert x[x.coords[:, 1] > 2].sites.bounds[1] > 2
    nothing = SparseTensor(torch.zeros(0, 2), torch.zeros(0, 4, dtype=torch.int32))
    assert nothing.sites.bounds is None


@pytest.mark.parametrize("shape", [None, (9, 11, 13)])
@pytest.mark.parametrize(
    "layer",
    [
        spnn.Conv3d(2, 2, 3, stride=2, padding=1),
        spnn.Conv3d(2, 2, 2, stride=3, dilation=2),
        spnn.Conv3d(2, 2, 3, stride=2, anchor="minkowski"),
        spnn.ConvTranspose3d(2, 2, 3, stride=2, padding=1),
    ],
    ids=lambda layer: type(layer).__name__ + str(layer.kernel_size),
)
def test_layers_carry_bounds_that_hold_their_sites(
    layer: torch.nn.Module, shape: tuple[int, ...] | None
) -> None:
    x = random_tensor(3, 200, 2, extent=9, spatial_shape=shape, batch_size=2)
    y = layer(x)
    carried, rows = y.sites._bounds, exact(y.coords)
    assert all(a <= b for a, b in zip(carried[:4], rows[:4], strict=True))
    assert all(a >= b for a, b in zip(carried[4:], rows[4:], strict=True))
    # The next layer's map with them is the one without.
    geometry = Geometry.make(3, 3, 2)
    fresh = Sites(y.coords, y.stride, y.spatial_shape, y.batch_size)
    same, _ = kernel_map.lookup(y.sites, geometry)
    expected, _ = kernel_map.lookup(fresh, geometry)
    same_bits(same.pairs, expected.pairs)
    same_bits(same.out_coords, expected.out_coords)


def test_strided_maps_without_address_space_take_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_tensor(3, 900, 1, extent=12, batch_size=2)
    for options in ({"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 2, "stride": 2}):
        together = sparseconv.build_kernel_map(x.coords, **options)
        with monkeypatch.context() as patch:
            patch.setattr(pairing, "ADDRESS_SPACE", 0)
            apart = sparseconv.build_kernel_map(x.coords, **options)
        for name in ("pairs", "tap_offsets", "out_coords"):
            same_bits(getattr(together, name), getattr(apart, name))


def test_kept_memory_belongs_to_one_thread() -> None:
    """Maps built at the same time in several threads equal those built alone."""
    inputs = [random_tensor(3, 4000 + 500 * i, 1, extent=24, seed=i).coords for i in range(4)]
    options = [{"submanifold": True}, {"stride": 2}, {"stride": 2, "padding": 1}, {"submanifold": True}]
    torch.set_num_threads(1)
    alone = [sparseconv.build_kernel_map(c, kernel_size=3, **o) for c, o in zip(inputs, options, strict=True)]
    wrong: list[int] = []

    def work(i: int) -> None:
        torch.set_num_threads(1)
        for _ in range(20):
            kmap = sparseconv.build_kernel_map(inputs[i], kernel_size=3, **options[i])
            if not (
                torch.equal(kmap.pairs, alone[i].pairs) and torch.equal(kmap.out_coords, alone[i].out_coords)
            ):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_only_small_blocks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_scratch, "SCRATCH_KEPT", 1000)
    small = _scratch.scratch(900, 7)
    assert _scratch.scratch(500, 7) is small
    large = _scratch.scratch(5000, 7)
    assert len(large) == 5000 and _scratch.scratch(900, 7) is small


# --- a layer's call --------------------------------------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bias", [True, False])
def test_a_watched_call_equals_an_unwatched_one(bias: bool) -> None:
    layer = spnn.SubMConv3d(3, 5, 3, bias=bias)
    results = []
    for watched in (False, True):
        x = random_tensor(3, 300, 3, extent=9, grad=True)
        layer.zero_grad()
        watch = Watch()
        if watched:
            with watch:
                y = layer(x).features
            assert any("sparseconv.gather_gemm" in name for name in watch.seen)
        else:
            y = layer(x).features
        y.square().sum().backward()
        results.append([y.detach(), x.features.grad, *(p.grad.clone() for p in layer.parameters())])
    for a, b in zip(*results, strict=True):
        same_bits(a, b)


def test_the_profiler_sees_the_operator() -> None:
    layer, x = spnn.SubMConv3d(3, 5, 3), random_tensor(3, 50, 3, extent=6)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layer(x)
    assert any("sparseconv::gather_gemm" in event.key for event in profile.key_averages())


def test_pruned_layers_keep_the_key_of_their_taps() -> None:
    layer = spnn.SubMConv3d(3, 5, 3)
    x = random_tensor(3, 300, 3, extent=9)

    def prune(keep: list[int]) -> None:
        full = spnn.SubMConv3d(3, 5, 3)
        layer.taps = full.taps[keep]
        layer.weight = torch.nn.Parameter(full.weight.detach()[keep])

    for keep in ([0, 13, 20], [5, 13, 26]):
        prune(keep)
        layer(x)
        first = layer(x).features
        x.clear_cache()
        same_bits(layer(x).features.detach(), first.detach())
        same_bits(copy.deepcopy(layer)(x).features.detach(), first.detach())
    layer.taps.copy_(spnn.SubMConv3d(3, 5, 3).taps[:3])  # in place: other taps, another map
    changed = layer(x).features.detach()
    x.clear_cache()
    same_bits(layer(x).features.detach(), changed)
    assert not torch.equal(changed, first.detach())
