# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Every bad input: a ValueError or TypeError that says what was expected and what came, never a crash or a silent result.

Files are the matter of ``test_scan_files.py``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from engine import refuses

import sparseconv
import sparseconv.nn as spnn
from sparseconv import SparseTensor

COORDS = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0]], dtype=torch.int32)
POINTS = torch.rand(10, 3)


def tensor(features: Any = None, coords: Any = COORDS, **options: Any) -> SparseTensor:
    return SparseTensor(torch.ones(3, 4) if features is None else features, coords, **options)


# --- SparseTensor ----------------------------------------------------------------------------------------------------


def test_coordinates_of_a_wrong_type_or_shape() -> None:
    refuses(lambda: tensor(coords=COORDS.long()), "int32", "int64", kind=TypeError)
    refuses(lambda: tensor(coords=COORDS.float()), "int32", "float32", kind=TypeError)
    refuses(lambda: tensor(coords=COORDS.tolist()), "list", kind=TypeError)
    refuses(lambda: tensor(coords=COORDS.numpy()), "ndarray", kind=TypeError)
    refuses(lambda: tensor(coords=COORDS[0]), r"\[4\]")
    refuses(lambda: tensor(coords=COORDS[:, :1]), r"\[3, 1\]")
    refuses(lambda: tensor(coords=torch.zeros(3, 6, dtype=torch.int32)), r"\[3, 6\]")
    refuses(lambda: tensor(coords=COORDS[:2]), r"\[3, 4\]", r"\[2, 4\]")


def test_features_of_a_wrong_type_or_shape() -> None:
    refuses(lambda: tensor(torch.ones(3, 4, dtype=torch.int64)), "float", "int64", kind=TypeError)
    refuses(lambda: tensor(torch.ones(3)), r"\[N, C\]", r"\[3\]")
    refuses(lambda: tensor(torch.ones(3, 4, 1)), r"\[3, 4, 1\]")
    refuses(lambda: tensor([[1.0]] * 3), "list", kind=TypeError)
    refuses(
        lambda: tensor(torch.ones(3, 4, dtype=torch.complex64)), "complex64", kind=(TypeError, ValueError)
    )
    refuses(lambda: tensor(torch.ones(3, 4).to_sparse()), "sparse_coo", kind=TypeError)


def test_other_features_of_a_wrong_type_or_shape() -> None:
    x = tensor()
    refuses(lambda: x.replace(torch.ones(4, 4)), "3", r"\[4, 4\]")
    refuses(lambda: x.replace(torch.ones(3)), r"\[N, C\]", r"\[3\]")
    refuses(lambda: x.replace([[1.0]] * 3), "list", kind=TypeError)
    refuses(lambda: x.replace(torch.ones(3, 4, dtype=torch.int64)), "int64", kind=TypeError)
    refuses(lambda: x.replace(torch.ones(3, 4, device="meta")), "meta", "cpu")
    refuses(lambda: x.to(torch.int32), "int32", kind=TypeError)
    for wrong in (0.5, "0", None):
        refuses(lambda wrong=wrong: x.sample(wrong), "integer", kind=TypeError)


def test_operands_that_do_not_fit() -> None:
    """Also on the very same sites, where adding would broadcast one channel over all."""
    x = tensor()
    for channels in (1, 5):
        refuses(lambda c=channels: x + x.replace(torch.ones(3, c)), "channels", "4", str(channels))
    for join in (sparseconv.cat, sparseconv.collate):
        refuses(lambda join=join: join([x.features, x.features]), "SparseTensor", "Tensor", kind=TypeError)
        refuses(lambda join=join: join([x, None]), "NoneType", kind=TypeError)
        refuses(lambda join=join: join(x), "list", "SparseTensor", kind=TypeError)
        refuses(lambda join=join: join([]), "none")
    refuses(lambda: sparseconv.clear_cache(x.features), "SparseTensor", kind=TypeError)
    last = tensor(torch.ones(1, 1), torch.tensor([[2**31 - 2, 0]], dtype=torch.int32))
    refuses(lambda: sparseconv.collate([last, last]), "batch_size", str(2**32 - 2))
    refuses(lambda: tensor(torch.ones(1, 1), torch.tensor([[2**31 - 1, 0]], dtype=torch.int32)), "batch_size")


def test_grids_that_do_not_fit() -> None:
    x = tensor()
    here = (0, 0, 0)
    refuses(lambda: x.dense(shape=(9.0, 9, 9), origin=here), "shape", "9.0", kind=TypeError)
    refuses(lambda: x.dense(shape=9, origin=here), "shape", kind=TypeError)
    refuses(lambda: x.dense(shape=(9, 9), origin=here), "shape", r"\(9, 9\)")
    refuses(lambda: x.dense(shape=(9, 9, 9), origin=(0.5, 0, 0)), "origin", "0.5", kind=TypeError)
    empty = tensor(torch.ones(0, 4), COORDS[:0], batch_size=1)
    refuses(lambda: empty.dense(shape=(-1, 9, 9), origin=here), "shape", "-1")
    grid = torch.ones(1, 2, 3)
    refuses(lambda: sparseconv.from_dense(grid.numpy()), "ndarray", kind=TypeError)
    refuses(lambda: sparseconv.from_dense(grid, [[True] * 3]), "list", kind=TypeError)
    refuses(lambda: sparseconv.from_dense(grid.to("meta")), "meta")


def test_features_and_coordinates_on_two_devices() -> None:
    refuses(lambda: tensor(torch.ones(3, 4, device="meta")), "meta", "cpu")
    refuses(lambda: tensor(coords=COORDS.to("meta")), "meta", kind=(ValueError, TypeError))


@pytest.mark.parametrize("n", [3, 50, 20000])
def test_duplicates_name_the_first_two_rows(n: int) -> None:
    """The lowest row that repeats an earlier one, and that earlier one."""
    coords = torch.stack([torch.zeros(n), torch.arange(n).flip(0)], 1).int()
    earlier, later = n // 3, n - 2
    coords[n - 1] = coords[0]
    coords[later] = coords[earlier]
    expected = (earlier, later) if n > 3 else (0, n - 1)
    if n == 3:
        coords = torch.tensor([[0, 5], [0, 4], [0, 5]], dtype=torch.int32)
    numbers = r"\b{}\b.*\b{}\b".format(*expected)
    for make in (
        lambda: SparseTensor(torch.ones(n, 1), coords),
        lambda: sparseconv.build_kernel_map(coords, kernel_size=3, submanifold=True),
    ):
        refuses(make, numbers, "(?i)uniq|duplicate")
    refuses(
        lambda: sparseconv.build_kernel_map(coords[:2], coords, kernel_size=3, stride=1),
        numbers,
        "(?i)uniq|duplicate",
    )


def test_coordinates_out_of_range() -> None:
    refuses(lambda: tensor(spatial_shape=(2, 2, 1)), "axis 1", "2")
    refuses(
        lambda: tensor(coords=COORDS - torch.tensor([0, 1, 0, 0]).int(), spatial_shape=(9, 9, 9)),
        "axis 0",
        "-1",
    )
    refuses(lambda: tensor(batch_size=1), "batch", r"\b1\b")
    refuses(lambda: tensor(coords=COORDS - torch.tensor([1, 0, 0, 0]).int()), "batch", "-1")
    for shape in ((4, 4), (4, 4, 0), (4, 4, -1), (4, 4, 4, 4)):
        refuses(
            lambda shape=shape: tensor(spatial_shape=shape), "spatial_shape", kind=(ValueError, TypeError)
        )
    for shape in ((4.5, 4, 4), (4.0, 4, 4), "444", 4):
        refuses(lambda shape=shape: tensor(spatial_shape=shape), "spatial_shape", kind=TypeError)
    refuses(lambda: tensor(spatial_shape=(2**31 + 1, 4, 4)), "spatial_shape", "2147483649")
    assert tensor(spatial_shape=np.array([4, 5, 6])).spatial_shape == (4, 5, 6)
    refuses(lambda: tensor(batch_size=-1), "batch_size")
    refuses(lambda: tensor(batch_size=2.5), "batch_size", kind=TypeError)


def test_strides_that_are_no_positive_rationals() -> None:
    for stride, kind in (
        (0, ValueError),
        (-1, ValueError),
        ((1, 2), ValueError),
        (0.5, TypeError),
        ("2", (TypeError, ValueError)),
    ):
        refuses(lambda stride=stride: tensor(stride=stride), "stride", kind=kind)


def test_coordinates_too_wide_for_the_key() -> None:
    """The message names the axis, its range and the bits."""
    far = 2**30
    wide = torch.tensor([[0, 0, -far, -far], [0, 5, far, far], [1, 2, 3, 4]], dtype=torch.int32)
    words = (r"axis [12]\b", rf"-{far}|-{far + 1}", rf"{far}|{far + 1}", r"\b\d+ bits")
    refuses(lambda: tensor(coords=wide), *words)
    refuses(lambda: sparseconv.build_kernel_map(wide, kernel_size=3, submanifold=True), *words)
    points = torch.tensor([[0.0, -1.0, -1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    refuses(lambda: sparseconv.voxelize(points, voxel_size=1e-9), r"axis \d", "bits")
    # what fits still works: 2 x 30 bits and the batch
    fits = torch.tensor([[0, -(2**29), -(2**29)], [1, 2**29 - 9, 2**29 - 9]], dtype=torch.int32)
    assert len(sparseconv.build_kernel_map(fits, kernel_size=3, submanifold=True).pairs) == 2


def test_output_coordinates_beyond_int32() -> None:
    x = SparseTensor(torch.ones(1, 1), torch.tensor([[0, 2**30 + 1]], dtype=torch.int32))
    refuses(lambda: spnn.ConvTranspose1d(1, 1, 2, stride=2)(x), "axis 0", "int32|bits")


# --- voxelize --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_that_have_no_cell(bad: float, dtype: torch.dtype) -> None:
    points = torch.rand(20000, 3).to(dtype)
    points[12345, 1] = points[15000, 0] = bad
    refuses(lambda: sparseconv.voxelize(points, voxel_size=0.1), "12345", "finite")
    if not math.isfinite(bad):
        x, _ = sparseconv.voxelize(points[:100], voxel_size=0.1)
        refuses(lambda: sparseconv.devoxelize(x, points, voxel_size=0.1), "12345", "finite")


def test_arguments_of_voxelize() -> None:
    voxelize = sparseconv.voxelize
    refuses(lambda: voxelize(POINTS.int(), voxel_size=1), "float", "int32", kind=TypeError)
    refuses(lambda: voxelize(POINTS.half(), voxel_size=1), "float", "float16", kind=TypeError)
    refuses(lambda: voxelize(POINTS.numpy(), voxel_size=1), "ndarray", kind=TypeError)
    refuses(lambda: voxelize(POINTS[0], voxel_size=1), r"\[3\]")
    refuses(lambda: voxelize(torch.rand(4, 5), voxel_size=1), r"\[4, 5\]")
    refuses(lambda: voxelize(POINTS, torch.ones(9, 2), voxel_size=1), "10", r"\[9, 2\]")
    refuses(lambda: voxelize(POINTS, torch.ones(10), voxel_size=1), r"\[10\]")
    refuses(lambda: voxelize(POINTS, torch.ones(10, 2).int(), voxel_size=1), "int32", kind=TypeError)
    for size in (0, -1.0, math.nan, math.inf, (1, 1), (1, 1, 0)):
        refuses(lambda size=size: voxelize(POINTS, voxel_size=size), "voxel_size")
    for origin in (math.nan, (0, 0)):
        refuses(lambda origin=origin: voxelize(POINTS, voxel_size=1, origin=origin), "origin")
    refuses(lambda: voxelize(POINTS, voxel_size=1, reduce="median"), "median", "mean")
    batch = torch.zeros(10, dtype=torch.int64)
    refuses(lambda: voxelize(POINTS, voxel_size=1, batch=batch[:9]), "10", "9")
    refuses(lambda: voxelize(POINTS, voxel_size=1, batch=batch.float()), "float32", kind=TypeError)
    refuses(lambda: voxelize(POINTS, voxel_size=1, batch=[0] * 10), "list", kind=TypeError)
    refuses(lambda: voxelize(POINTS, voxel_size=1, batch=batch.to("meta")), "meta", "cpu")
    refuses(lambda: voxelize(POINTS, voxel_size=1, batch=batch - 1), "-1")
    refuses(lambda: voxelize(POINTS, voxel_size=1, batch=batch + 2, batch_size=2), r"\b2\b")
    refuses(lambda: voxelize(POINTS, voxel_size=1, batch=batch + 2**40), "batch")
    refuses(lambda: voxelize(POINTS, voxel_size=1, spatial_shape=(1, 1)), "spatial_shape")
    refuses(lambda: voxelize(POINTS, voxel_size=1, spatial_shape=(9.5, 9, 9)), "9.5", kind=TypeError)
    refuses(lambda: voxelize(POINTS[:0], voxel_size=1, spatial_shape=(0, 9, 9)), "spatial_shape", "0")
    refuses(lambda: voxelize(POINTS - 3, voxel_size=1, spatial_shape=(1, 1, 1)), r"axis 0", "-3")
    refuses(
        lambda: voxelize(POINTS.to("meta"), voxel_size=1),
        "meta",
        kind=(ValueError, TypeError, NotImplementedError),
    )
    refuses(lambda: voxelize(POINTS, torch.ones(10, 2, device="meta"), voxel_size=1), "meta", "cpu")
    for size in (0, -2, 1.5):
        refuses(
            lambda size=size: voxelize(POINTS, voxel_size=1, batch_size=size),
            "batch_size",
            kind=(ValueError, TypeError),
        )


def test_arguments_of_devoxelize() -> None:
    x, index = sparseconv.voxelize(POINTS, voxel_size=0.5)
    n = len(x.coords)
    refuses(lambda: sparseconv.devoxelize(x, index + n), str(n))
    refuses(lambda: sparseconv.devoxelize(x, index - n - 5), "-")
    refuses(lambda: sparseconv.devoxelize(x, index[:, None]), r"\[N\]|\[10, 1\]")
    refuses(lambda: sparseconv.devoxelize(x, POINTS), "voxel_size")
    refuses(lambda: sparseconv.devoxelize(x, POINTS[:, :2], voxel_size=0.5), "3", r"\[10, 2\]")
    refuses(lambda: sparseconv.devoxelize(x, POINTS, voxel_size=0.5, mode="cubic"), "cubic", "trilinear")
    for size in (0, -0.5, math.nan):
        refuses(lambda size=size: sparseconv.devoxelize(x, POINTS, voxel_size=size), "voxel_size")
    refuses(lambda: sparseconv.devoxelize(x.features, POINTS, voxel_size=1), "SparseTensor", kind=TypeError)
    refuses(lambda: sparseconv.devoxelize(x, POINTS, voxel_size=1, batch=[0] * 10), "list", kind=TypeError)
    refuses(lambda: sparseconv.devoxelize(x, index.to("meta")), "meta", "cpu")


def test_refuses_can_fail() -> None:
    with pytest.raises(AssertionError, match="accepted"):
        refuses(lambda: 1)
    with pytest.raises(AssertionError, match="not in"):
        refuses(lambda: int("x"), "axis 7")
    with pytest.raises(TypeError):
        refuses(lambda: len(3))
