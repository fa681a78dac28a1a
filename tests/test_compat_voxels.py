# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The drop-in's voxel generators and hash table beside spconv's wheel, bit by bit, and beside loops and dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from engine import real_points
from hypothesis import given

from sparseconv import first_come
from sparseconv.compat.spconv import tensorview
from sparseconv.compat.spconv import utils as ours
from sparseconv.compat.spconv.hash import HashTable

KITTI = ([0.05, 0.05, 0.1], [0, -40, -3, 70.4, 40, 1], 4)


@pytest.fixture(scope="module")
def wheel() -> Iterator[Any]:
    """spconv's voxel generators on one thread."""
    pytest.importorskip("spconv.pytorch")
    import cumm.tensorview
    import spconv.pytorch.utils
    import spconv.utils

    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    class Wheel:
        tv = cumm.tensorview
        array = spconv.utils
        torch = spconv.pytorch.utils

    yield Wheel
    torch.set_num_threads(threads)


def points_of(seed: int, n: int, features: int, low: float = -1.2, high: float = 5.2) -> np.ndarray:
    """Points in and around a box, many on borders of cells, some not finite."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(low, high, (n, features)).astype(np.float32)
    on_border = rng.random((n, features)) < 0.3
    points[on_border] = np.round(points[on_border] * 2) / 2
    strange = rng.random(n) < 0.05
    points[strange, 0] = rng.choice([np.nan, np.inf, -np.inf, 1e20, -1e20, 3e9], strange.sum())
    return points


def equal(ours: Any, theirs: Any) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        mine, other = np.asarray(mine.numpy()), np.asarray(other.numpy())
        assert mine.dtype == other.dtype and mine.shape == other.shape
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_as_in_spconv(wheel: Any, ndim: int, dtype: Any) -> None:
    """Several clouds through one generator: what a call leaves behind shows in the next one."""
    size, bounds = [0.5, 0.3, 0.25, 1.0][:ndim], [-0.5] * ndim + [4.0] * ndim
    arguments = (size, bounds, ndim + 1, 60, 3)
    mine = getattr(ours, f"Point2VoxelCPU{ndim}d")(*arguments)
    theirs = getattr(wheel.array, f"Point2VoxelCPU{ndim}d")(*arguments)
    assert mine.grid_size == theirs.grid_size
    assert mine.calc_meta_data(size, bounds) == tuple(theirs.calc_meta_data(size, bounds))
    for seed, n in enumerate([500, 3, 0, 200]):
        points = points_of(seed, n, ndim + 1).astype(dtype)
        for clear in (True, False):
            equal(
                mine.point_to_voxel(points, clear), theirs.point_to_voxel(wheel.tv.from_numpy(points), clear)
            )
        equal((mine.voxels, mine.num_per_voxel), (theirs.voxels, theirs.num_per_voxel))


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_torch_as_in_spconv(wheel: Any, ndim: int) -> None:
    size, bounds = [0.5, 0.3, 0.25, 1.0][:ndim], [-0.5] * ndim + [4.0] * ndim
    for max_voxels, max_points in ((7, 1), (60, 3), (10000, 40)):
        arguments = (size, bounds, ndim + 2, max_voxels, max_points)
        mine = ours.PointToVoxel(*arguments)
        theirs = wheel.torch.PointToVoxel(*arguments, device=torch.device("cpu"))
        for name in ("ndim", "vsize", "grid_size", "coors_range", "max_num_voxels"):
            assert getattr(mine, name) == getattr(theirs, name), name
        for seed in range(3):
            points = torch.from_numpy(points_of(seed, 400, ndim + 2))
            found = mine.generate_voxel_with_id(points)
            equal(found, theirs.generate_voxel_with_id(points))
            equal(mine(points), theirs(points))
            labels = torch.randn(len(found[0]), 5)
            for invalid in (0, -3.5):
                mine_back = ours.gather_features_by_pc_voxel_id(labels, found[3], invalid)
                theirs_back = wheel.torch.gather_features_by_pc_voxel_id(labels, found[3], invalid)
                assert torch.equal(mine_back, theirs_back)


def test_real_scan_as_in_spconv(wheel: Any) -> None:
    xyz = torch.from_numpy(real_points("kitti_odometry_00_000000.bin")).float()
    points = torch.cat([xyz, torch.arange(len(xyz))[:, None] % 255 / 255], 1)
    for max_voxels, max_points in ((16000, 5), (150000, 10)):
        mine = ours.PointToVoxel(*KITTI, max_voxels, max_points)
        theirs = wheel.torch.PointToVoxel(*KITTI, max_voxels, max_points, device=torch.device("cpu"))
        found = mine.generate_voxel_with_id(points)
        equal(found, theirs.generate_voxel_with_id(points))
        assert len(found[0]) == max_voxels if max_voxels == 16000 else len(found[0]) > 40000


def test_mean_in_free_places(wheel: Any) -> None:
    """The mean is numpy's; spconv's CPU code agrees for the first voxel, whose sum begins with zero."""
    points = points_of(1, 400, 4)
    arguments = ([0.8] * 3, [-0.5] * 3 + [4.0] * 3, 4, 50, 6)
    mine = ours.Point2VoxelCPU3d(*arguments)
    voxels, _, counts = (a.numpy() for a in mine.point_to_voxel_empty_mean(points))
    plain = mine.point_to_voxel(points)[0].numpy()
    assert len(voxels) == 50 and 1 <= counts.min() < 6
    for voxel, raw, count in zip(voxels, plain, counts, strict=True):
        np.testing.assert_array_equal(voxel[:count], raw[:count])
        expected = raw[:count].astype(np.float64).mean(0)
        np.testing.assert_allclose(
            voxel[count:], np.broadcast_to(expected, voxel[count:].shape), rtol=1e-6, atol=1e-6
        )
    theirs = wheel.array.Point2VoxelCPU3d(*arguments).point_to_voxel_empty_mean(wheel.tv.from_numpy(points))
    np.testing.assert_array_equal(voxels[0], theirs[0].numpy()[0])
    torch_found = ours.PointToVoxel(*arguments)(torch.from_numpy(points), empty_mean=True)
    np.testing.assert_array_equal(torch_found[0].numpy(), voxels)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 80),
    max_voxels=st.integers(1, 40),
    max_points=st.integers(1, 4),
    double=st.booleans(),
    ndim=st.integers(1, 4),
)
def test_both_ways_to_fill_as_a_dictionary_would(
    seed: int, n: int, max_voxels: int, max_points: int, double: bool, ndim: int
) -> None:
    """The loop and the sorting way that other devices take, beside a dictionary of cells."""
    points = torch.from_numpy(points_of(seed, n, ndim + 1))
    points = points.double() if double else points
    grid = first_come.Grid([0.7] * ndim, [-0.5] * ndim + [4.0] * ndim)
    box: dict[tuple[int, ...], list[int]] = {}
    expected_ids = []
    kind = np.float64 if double else np.float32
    for row, point in enumerate(points.numpy()):
        place = [(point[a] - kind(grid.low[-1 - a])) / kind(grid.size[-1 - a]) for a in range(ndim)]
        inside = all(0 <= np.floor(p) < grid.shape[-1 - a] for a, p in enumerate(place))
        cell = tuple(int(np.floor(p)) for p in reversed(place)) if inside else ()
        if not inside or (cell not in box and len(box) == max_voxels):
            expected_ids.append(-1)
            continue
        rows = box.setdefault(cell, [])
        expected_ids.append(list(box).index(cell))
        if len(rows) < max_points:
            rows.append(row)
    for fill in (first_come.fill_voxels, first_come._fill_by_sorting):
        voxels = torch.full((max_voxels, max_points, ndim + 1), 9.0)
        cells = torch.zeros(max_voxels, ndim, dtype=torch.int32)
        counts = torch.zeros(max_voxels, dtype=torch.int32)
        ids = torch.empty(n, dtype=torch.int64)
        found = fill(points, grid, voxels, cells, counts, ids, clear=True)
        assert found == len(box) and ids.tolist() == expected_ids
        assert [tuple(c) for c in cells[:found].tolist()] == list(box)
        assert counts[:found].tolist() == [len(rows) for rows in box.values()]
        for voxel, rows in zip(voxels[:found], box.values(), strict=True):
            assert torch.equal(voxel[: len(rows)], points[rows].float()) and not voxel[len(rows) :].any()


def test_results_as_detection_code_takes_them() -> None:
    """numpy() is the caller's own; any of the four kinds of array goes in; a strided view too."""
    points = points_of(0, 300, 4)
    generator = ours.Point2VoxelCPU3d([0.5] * 3, [-0.5] * 3 + [4.0] * 3, 4, 50, 3)
    first = [a.numpy() for a in generator.point_to_voxel(tensorview.from_numpy(points))]
    kept = [a.copy() for a in first]
    views = generator.point_to_voxel(torch.from_numpy(points[::-1].copy()))
    assert not np.array_equal(views[0].numpy(), kept[0])
    for array, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, before)
    again = generator.point_to_voxel(np.asfortranarray(points))
    assert views[0].shape == list(np.asarray(again[0]).shape) and len(again[0]) == 50
    for array, before in zip(again, kept, strict=True):
        np.testing.assert_array_equal(array.numpy_view(), before)
    assert np.array_equal(generator.point_to_voxel(points[::-1])[0].numpy(), views[0].numpy())


def test_bad_input_is_named() -> None:
    good = ([0.5] * 3, [-0.5] * 3 + [4.0] * 3)
    with pytest.raises(ValueError, match="3 voxel edges"):
        ours.Point2VoxelCPU3d([0.5] * 2, [0] * 4, 4, 10, 3)
    with pytest.raises(ValueError, match="twice as many bounds"):
        ours.PointToVoxel([0.5] * 3, [0] * 5, 4, 10, 3)
    with pytest.raises(ValueError, match="positive"):
        ours.PointToVoxel([0.5, 0.5, 0.0], good[1], 4, 10, 3)
    with pytest.raises(ValueError, match="finite"):
        ours.PointToVoxel([0.5] * 3, [float("nan")] * 6, 4, 10, 3)
    with pytest.raises(ValueError, match="grid"):
        ours.PointToVoxel([0.5] * 3, [4.0] * 3 + [0.0] * 3, 4, 10, 3)
    with pytest.raises(ValueError, match="num_point_features=2"):
        ours.PointToVoxel(*good, 2, 10, 3)
    with pytest.raises(ValueError, match="max_num_voxels=0"):
        ours.PointToVoxel(*good, 4, 0, 3)
    generator = ours.PointToVoxel(*good, 4, 10, 3)
    with pytest.raises(ValueError, match=r"\[N, 4\], got \[5, 3\]"):
        generator(torch.zeros(5, 3))
    with pytest.raises(TypeError, match=r"torch\.int32"):
        generator(torch.zeros(5, 4, dtype=torch.int32))
    with pytest.raises(TypeError, match="ndarray"):
        generator(np.zeros((5, 4), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be on cpu"):
        generator(torch.zeros(5, 4, device="meta"))
    with pytest.raises(TypeError, match="list"):
        ours.Point2VoxelCPU3d(*good, 4, 10, 3).point_to_voxel([[0.0] * 4])
    with pytest.raises(NotImplementedError, match="rbbox_iou"):
        ours.rbbox_iou()


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["insert", "insert_keys", "query", "insert_exist_keys", "assign_arange_"]),
            st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(0, 6), max_size=8),
        ),
        max_size=8,
    ),
    wide=st.booleans(),
)
def test_hash_table_as_a_dictionary(steps: list[tuple[str, list[int]]], wide: bool) -> None:
    kind = torch.int64 if wide else torch.int32
    table, known = HashTable(torch.device("cpu"), kind, torch.int64), dict[int, int]()
    for number, (step, numbers) in enumerate(steps):
        keys = torch.tensor(numbers, dtype=kind)
        values = torch.arange(len(keys)) + 100 * number
        if step == "insert":
            table.insert(keys, values)
            for key, value in zip(numbers, values.tolist(), strict=True):
                known.setdefault(key, value)
        elif step == "insert_keys":
            table.insert(keys)
            for key in numbers:
                known.setdefault(key, 0)
        elif step == "insert_exist_keys":
            failed = table.insert_exist_keys(keys, values)
            assert failed.dtype == torch.uint8 and failed.tolist() == [int(k not in known) for k in numbers]
            known.update((k, v) for k, v in zip(numbers, values.tolist(), strict=True) if k in known)
        elif step == "query":
            found, missing = table.query(keys, torch.full((len(keys),), -7))
            assert missing.dtype == torch.bool and missing.tolist() == [k not in known for k in numbers]
            assert found.tolist() == [known.get(k, -7) for k in numbers]
            assert table.query(keys)[0].tolist() == [known.get(k, 0) for k in numbers]
        else:
            assert table.assign_arange_().tolist() == [len(known)]
            known = {key: i for i, key in enumerate(known)}
        listed, stored, count = table.items()
        assert count.tolist() == [len(known)] and listed.dtype == kind
        assert dict(zip(listed.tolist(), stored.tolist(), strict=True)) == known
        assert listed.tolist() == list(known)


def test_hash_table_refuses_other_types() -> None:
    with pytest.raises(TypeError, match="int16"):
        HashTable(torch.device("cpu"), torch.int16, torch.int64)
    table = HashTable(torch.device("cpu"), torch.int32, torch.float32)
    with pytest.raises(TypeError, match=r"keys must be torch\.int32"):
        table.insert(torch.tensor([1]))
    with pytest.raises(ValueError, match=r"values must be \[2\]"):
        table.insert(torch.tensor([1, 2], dtype=torch.int32), torch.tensor([1.0]))
    with pytest.raises(TypeError, match="assign_arange_"):
        table.assign_arange_()
