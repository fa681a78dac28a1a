# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Real scans: voxels against NumPy, hash and sort maps equal bit for bit, layers the same for every thread count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine import SCANS, real_points
from strategies import close, same_bits

import sparseconv
import sparseconv.nn as spnn
from sparseconv import functional

GEOMETRIES = {
    "SubM k3": {"kernel_size": 3, "submanifold": True},
    "SubM k5": {"kernel_size": 5, "submanifold": True},
    "k3 s2 p1": {"kernel_size": 3, "stride": 2, "padding": 1},
    "k2 s2": {"kernel_size": 2, "stride": 2},
    "transposed k2 s2": {"kernel_size": 2, "stride": 2, "transposed": True},
    "minkowski k3 s2": {"kernel_size": 3, "stride": 2, "anchor": "minkowski"},
}


@pytest.mark.parametrize("size", [0.05, 0.1])
@pytest.mark.parametrize("name", SCANS)
def test_voxels_equal_numpy(name: str, size: float) -> None:
    points = real_points(name)
    x, index = sparseconv.voxelize(torch.from_numpy(points), voxel_size=size)
    cells = np.floor(points.astype(np.float64) / size).astype(np.int32)
    expected, inverse = np.unique(cells, axis=0, return_inverse=True)
    np.testing.assert_array_equal(x.coords[:, 1:].numpy(), expected)
    np.testing.assert_array_equal(index.numpy(), inverse.reshape(-1))
    counts = np.bincount(inverse.reshape(-1))
    for axis in range(3):
        mean = np.bincount(inverse.reshape(-1), weights=points[:, axis].astype(np.float64)) / counts
        close(x.features[:, axis], mean, 1e-5)


@pytest.mark.parametrize("size", [0.05, 0.1])
@pytest.mark.parametrize("name", SCANS)
def test_hash_and_sort_maps_are_equal_for_one_and_two_threads(name: str, size: float) -> None:
    """In the order of voxelize, and for k3 in a shuffled order, which the sort has to undo."""
    x, _ = sparseconv.voxelize(torch.from_numpy(real_points(name)), voxel_size=size)
    shuffled = x.coords[torch.randperm(len(x.coords))].contiguous()
    for label, geometry in GEOMETRIES.items():
        if size == 0.05 and label in ("SubM k5", "transposed k2 s2", "minkowski k3 s2"):
            continue  # shown at 0.1 m
        for coords in (x.coords, shuffled) if label in ("SubM k3", "k3 s2 p1") else (x.coords,):
            reference = None
            for threads in (1, 2):
                torch.set_num_threads(threads)
                for method in ("hash", "sort"):
                    kmap = sparseconv.build_kernel_map(coords, method=method, **geometry)
                    reference = reference or kmap
                    same_bits(kmap.pairs, reference.pairs)
                    same_bits(kmap.tap_offsets, reference.tap_offsets)
                    same_bits(kmap.out_coords, reference.out_coords)
            assert len(reference.pairs) >= len(coords) // 30, label


def test_submanifold_pairs_of_kitti_are_those_that_were_counted() -> None:
    """60,215 voxels with 6.05 pairs each at 0.1 m, 91,888 with 3.78 at 0.05 m (counted with another program)."""
    points = torch.from_numpy(real_points("kitti_odometry_00_000000.bin"))
    points = points - points.min(0).values
    for size, voxels, per_voxel in ((0.1, 60215, 6.05), (0.05, 91888, 3.78)):
        x, _ = sparseconv.voxelize(points, voxel_size=size)
        kmap = sparseconv.build_kernel_map(x.coords, kernel_size=3, submanifold=True)
        assert abs(len(x.coords) - voxels) <= 2
        assert abs(len(kmap.pairs) / len(x.coords) - per_voxel) < 0.01


@pytest.mark.parametrize("name", ["kitti_odometry_00_000000.bin", "room_scan1.pcd"])
def test_a_small_network_has_the_same_bits_for_every_thread_count(name: str) -> None:
    points = torch.from_numpy(real_points(name))
    down, up = spnn.Conv3d(16, 24, 3, stride=2, padding=1), spnn.InverseConv3d(24, 8, 3, stride=2, padding=1)
    stem, pool = spnn.SubMConv3d(3, 16, 5), spnn.MaxPool3d(2)
    parameters = [p for layer in (stem, down, up) for p in layer.parameters()]
    reference = None
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        x, index = sparseconv.voxelize(points, voxel_size=0.1)
        a = stem(x)
        out = sparseconv.devoxelize(up(down(a), a), index)
        loss = out.sum() + pool(a).features.sum()
        results = [out.detach(), *torch.autograd.grad(loss, parameters)]
        reference = reference or results
        for got, expected in zip(results, reference, strict=True):
            same_bits(got, expected)


def test_both_dataflows_agree_on_a_real_scan() -> None:
    channels = (16, 32)
    x, _ = sparseconv.voxelize(torch.from_numpy(real_points("kitti_odometry_00_000000.bin")), voxel_size=0.1)
    kmap = sparseconv.build_kernel_map(x.coords, kernel_size=3, submanifold=True)
    results = []
    for dataflow in ("fused", "gather_scatter"):
        features = torch.randn(
            len(x.coords), channels[0], generator=torch.Generator().manual_seed(1)
        ).requires_grad_()
        weight = (
            torch.randn(27, *channels, generator=torch.Generator().manual_seed(2)).div_(10).requires_grad_()
        )
        bias = torch.zeros(channels[1], requires_grad=True)
        out = functional.conv(features, weight, bias, kmap, dataflow=dataflow)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(3)))
        results.append((out, features.grad, bias.grad, weight.grad))
    for got, expected in zip(results[0][:2], results[1][:2], strict=True):
        close(got, expected, 1e-5)
