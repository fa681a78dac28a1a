# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""voxelize and devoxelize against the oracle, gradients included."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from engine import random_tensor
from hypothesis import given
from hypothesis import strategies as st
from strategies import close, coords_of

import sparseconv
import sparseconv.nn as spnn

REDUCTIONS = ["mean", "max", "first", "sum"]


@st.composite
def clouds(draw: st.DrawFn) -> dict[str, object]:
    """A few points, many of them on the borders of cells, of one to three samples."""
    ndim, n = draw(st.integers(1, 4)), draw(st.sampled_from([0, 1, 2, 7, 30, 90]))
    size = draw(st.sampled_from([0.05, 0.1, 0.3, 1.0, 2.5]))
    sizes = size if draw(st.booleans()) else [size * (a + 1) for a in range(ndim)]
    origin = draw(st.sampled_from([0.0, 0.1, -3.7]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grid = rng.integers(-6, 7, (n, ndim)) * size * 0.5
    points = np.where(rng.random((n, ndim)) < 0.5, grid, rng.uniform(-3 * size, 3 * size, (n, ndim)))
    batch = rng.integers(0, 3, n) if draw(st.booleans()) else None
    return {
        "points": points.astype(draw(st.sampled_from([np.float32, np.float64]))),
        "features": rng.standard_normal((n, draw(st.integers(1, 5)))),
        "batch": batch,
        "size": sizes,
        "origin": origin if draw(st.booleans()) else [origin + a for a in range(ndim)],
    }


@pytest.mark.parametrize("reduce", REDUCTIONS)
@given(cloud=clouds())
def test_voxelize_equals_the_oracle(reduce: str, cloud: dict) -> None:
    points, batch = cloud["points"], cloud["batch"]
    features = torch.tensor(cloud["features"], requires_grad=True)
    x, index = sparseconv.voxelize(
        torch.from_numpy(points),
        features,
        voxel_size=cloud["size"],
        batch=None if batch is None else torch.from_numpy(batch),
        batch_size=4,
        origin=cloud["origin"],
        reduce=reduce,
    )
    sites, values, rows = oracle.voxelize(
        points, cloud["features"], cloud["size"], batch, cloud["origin"], reduce
    )
    assert oracle.rows_of(x.coords.numpy()) == sites and x.coords.dtype == torch.int32
    assert index.dtype == torch.int64 and index.tolist() == rows.tolist()
    assert x.batch_size == 4 and x.spatial_shape is None and set(x.stride) <= {1}
    close(x.features, values)

    cotangent = torch.sin(torch.arange(values.size, dtype=torch.float64)).reshape(values.shape)
    x.features.backward(cotangent)
    reference = torch.tensor(cloud["features"], requires_grad=True)
    for row in range(len(sites)):
        members = reference[torch.from_numpy(rows) == row]
        reduced = {
            "mean": members.mean(0),
            "max": members.amax(0),
            "first": members[0],
            "sum": members.sum(0),
        }[reduce]
        reduced.backward(cotangent[row])
    if len(sites):
        close(features.grad, reference.grad)


@given(cloud=clouds())
def test_without_features_the_points_are_averaged(cloud: dict) -> None:
    points = torch.from_numpy(cloud["points"])
    x, _ = sparseconv.voxelize(points, voxel_size=cloud["size"], origin=cloud["origin"])
    _, mean, _ = oracle.voxelize(cloud["points"], None, cloud["size"], None, cloud["origin"])
    assert x.features.dtype == points.dtype
    close(x.features, mean, 1e-5 if points.dtype == torch.float32 else 1e-10)


def test_gradients_flow_to_points_that_are_their_own_features() -> None:
    points = torch.rand(50, 3, dtype=torch.float64, requires_grad=True)
    x, index = sparseconv.voxelize(points, voxel_size=0.4)
    (grad,) = torch.autograd.grad(x.features.sum(), points)
    counts = torch.bincount(index).double()
    close(grad, (1 / counts)[index][:, None].expand(-1, 3))


def test_float32_points_are_divided_in_double() -> None:
    """Points one float32 step from a border, where single precision would choose another cell."""
    borders = np.arange(1, 4000).astype(np.float64) * 0.1
    points = np.concatenate(
        [np.nextafter(np.float32(b), np.float32(s)) for b in borders for s in (0, 1e9)], axis=None
    )
    points = np.concatenate([points, borders.astype(np.float32)])[:, None].astype(np.float32)
    expected = [c for (c,) in oracle.cells(points, 0.1)]
    single = np.floor(points[:, 0] / np.float32(0.1)).astype(int)
    assert (single != expected).any()  # the case is a real one
    x, index = sparseconv.voxelize(torch.from_numpy(points), voxel_size=0.1)
    assert x.coords[index, 1].tolist() == expected


def test_batch_size_and_spatial_shape() -> None:
    points = torch.tensor([[0.5, 0.5], [1.5, 0.2], [0.6, 0.7]])
    x, _ = sparseconv.voxelize(
        points, voxel_size=1.0, batch=torch.tensor([0, 2, 0]), batch_size=5, spatial_shape=(2, 1)
    )
    assert (
        x.batch_size == 5 and tuple(x.spatial_shape) == (2, 1) and x.coords.tolist() == [[0, 0, 0], [2, 1, 0]]
    )
    y, _ = sparseconv.voxelize(points, voxel_size=1.0, batch=torch.tensor([0, 2, 0]))
    assert y.batch_size == 3
    with pytest.raises(ValueError, match=r"axis 0.*\b1\b"):
        sparseconv.voxelize(points, voxel_size=1.0, spatial_shape=(1, 1))
    with pytest.raises(ValueError, match="axis 1"):
        sparseconv.voxelize(points, voxel_size=1.0, origin=(0, 0.3), spatial_shape=(3, 3))


@pytest.mark.parametrize("n", [0, 1])
def test_empty_and_one_point(n: int) -> None:
    points = torch.zeros(n, 3)
    x, index = sparseconv.voxelize(points, torch.ones(n, 2), voxel_size=0.1, batch_size=2)
    assert (
        x.coords.shape == (n, 4) and x.features.shape == (n, 2) and index.shape == (n,) and x.batch_size == 2
    )
    assert sparseconv.devoxelize(x, index).shape == (n, 2)
    y = spnn.Conv3d(2, 3, 3, stride=2, padding=1)(x)
    assert sparseconv.devoxelize(y, points, voxel_size=0.1).shape == (n, 3)


# --- back to points --------------------------------------------------------------------------------------------------


@given(cloud=clouds())
def test_devoxelize_by_index_is_a_gather(cloud: dict) -> None:
    x, index = sparseconv.voxelize(torch.from_numpy(cloud["points"]), voxel_size=cloud["size"])
    features = torch.randn(len(x.coords), 3, dtype=torch.float64, requires_grad=True)
    out = sparseconv.devoxelize(x.replace(features), index)
    assert torch.equal(out, features[index])
    weight = torch.randn(out.shape, dtype=torch.float64)
    (grad,) = torch.autograd.grad((out * weight).sum(), features)
    close(grad, torch.zeros_like(features).index_add(0, index, weight))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("mode", ["nearest", "trilinear"])
@given(cloud=clouds())
def test_devoxelize_at_positions(mode: str, stride: int, cloud: dict) -> None:
    """Positions of the cloud moved by up to a cell; absent corners drop out, the weights of the rest sum to one."""
    points, batch = cloud["points"].astype(np.float64), cloud["batch"]
    n, ndim = points.shape
    batch_tensor = None if batch is None else torch.from_numpy(batch)
    places = {"voxel_size": cloud["size"], "batch": batch_tensor, "origin": cloud["origin"]}
    x, _ = sparseconv.voxelize(torch.from_numpy(points), batch_size=3, **places)
    if stride != 1:
        x = getattr(spnn, f"MaxPool{ndim}d")(2)(x)
    features = torch.randn(len(x.coords), 2, dtype=torch.float64, requires_grad=True)
    rng = np.random.default_rng(n)
    edges = np.broadcast_to(np.asarray(cloud["size"], np.float64), (ndim,)) * stride
    moved = points + rng.uniform(-1, 1, points.shape) * edges
    out = sparseconv.devoxelize(x.replace(features), torch.from_numpy(moved), mode=mode, **places)
    sites = oracle.rows_of(x.coords.numpy())
    row_of = {s: r for r, s in enumerate(sites)}
    expected, weight_matrix = np.zeros((n, 2)), np.zeros((n, len(sites)))
    start = np.broadcast_to(np.asarray(cloud["origin"], np.float64), (ndim,))
    for p in range(n):
        sample = 0 if batch is None else int(batch[p])
        position = (moved[p] - start) / edges
        if mode == "trilinear":
            weights = oracle.trilinear_weights(sites, position, sample)
        else:
            row = row_of.get((sample, *(int(v) for v in np.floor(position))))
            weights = {} if row is None else {row: 1.0}
        for row, weight in weights.items():
            weight_matrix[p, row] = weight
    expected = weight_matrix @ features.detach().numpy()
    close(out, expected, 1e-9)  # the weights of a lone far corner are a ratio of small numbers
    if n and len(sites):
        cotangent = np.cos(np.arange(out.numel())).reshape(out.shape)
        out.backward(torch.from_numpy(cotangent))
        close(features.grad, weight_matrix.T @ cotangent, 1e-9)


@pytest.mark.parametrize("stride", [2, 3, 5, 6, 7])
@pytest.mark.parametrize("size", [0.1, 0.05, 0.2, 0.3])
def test_points_on_the_edges_of_cells_come_back_from_their_own_voxel(size: float, stride: int) -> None:
    """A coarse voxel is made of voxelize's cells, which one division by size * stride would round differently."""
    points = (torch.arange(300, dtype=torch.float64) * size)[:, None]
    fine, index = sparseconv.voxelize(points, voxel_size=size)
    coarse = spnn.MaxPool1d(stride)(fine)
    numbers = coarse.replace(coarse.coords[:, 1:].double())
    expected = fine.coords[index, 1:].div(stride, rounding_mode="floor").double()
    assert torch.equal(sparseconv.devoxelize(numbers, points, voxel_size=size), expected)


@pytest.mark.parametrize("mode", ["nearest", "trilinear"])
def test_points_far_from_every_voxel_get_zero(mode: str) -> None:
    """However far: they must not widen the key that the voxels fit."""
    x, _ = sparseconv.voxelize(torch.rand(50, 3), torch.ones(50, 2), voxel_size=0.5)
    far = torch.tensor([[1e9, 1e9, 1e9], [0.3, 0.3, 0.3], [1e300, -1e300, 0.3]], dtype=torch.float64)
    out = sparseconv.devoxelize(x, far, voxel_size=0.5, mode=mode)
    close(out[1], torch.ones(2), 1e-6)
    assert not out[[0, 2]].any()
    empty = sparseconv.SparseTensor(torch.ones(0, 2), torch.zeros(0, 4, dtype=torch.int32))
    assert not sparseconv.devoxelize(empty, far, voxel_size=0.5, mode=mode).any()


def test_devoxelize_gradcheck() -> None:
    x = random_tensor(3, 20, 2, extent=4, dtype=torch.float64, grad=True)
    points = torch.rand(15, 3, dtype=torch.float64) * 4 - 2
    for mode in ("nearest", "trilinear"):
        assert torch.autograd.gradcheck(
            lambda f, mode=mode: sparseconv.devoxelize(x.replace(f), points, voxel_size=1.0, mode=mode),
            (x.features,),
        )


def test_the_way_there_and_back_of_constants() -> None:
    """A constant stays the constant at every point, whatever corners are missing."""
    points = torch.rand(500, 3, dtype=torch.float64) * 3
    x, index = sparseconv.voxelize(points, torch.full((500, 1), 2.5, dtype=torch.float64), voxel_size=0.4)
    for out in (
        sparseconv.devoxelize(x, index),
        sparseconv.devoxelize(x, points, voxel_size=0.4, mode="trilinear"),
    ):
        close(out, torch.full((500, 1), 2.5, dtype=torch.float64), 1e-12)
    nowhere = sparseconv.devoxelize(x, points + 100, voxel_size=0.4, mode="trilinear")
    assert not nowhere.any()


# --- worker processes ------------------------------------------------------------------------------------------------

LOADER = """
import torch, sparseconv, sparseconv.nn as nn
from torch.utils.data import DataLoader, Dataset

class Scans(Dataset):
    def __len__(self): return 6
    def __getitem__(self, i):
        points = torch.rand(30000, 3, generator=torch.Generator().manual_seed(i)) * 20
        return sparseconv.voxelize(points, voxel_size=0.2)[0]

if __name__ == "__main__":
    torch.set_num_threads(2)
    net = nn.Sequential(nn.SubMConv3d(3, 8, 3), nn.Conv3d(8, 8, 2, stride=2))
    direct = sparseconv.collate([Scans()[0], Scans()[1]])  # the parent uses its threads before the workers start
    net(direct).features.sum().backward()
    loader = DataLoader(Scans(), batch_size=2, num_workers=2, collate_fn=sparseconv.collate,
                        multiprocessing_context="METHOD")
    batches = list(loader)
    assert len(batches) == 3 and torch.equal(batches[0].coords, direct.coords)
    assert torch.equal(batches[0].features, direct.features)
    net(batches[0]).features.sum().backward()
    print("done", sum(len(b.coords) for b in batches))
"""


@pytest.mark.parametrize(
    "method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()]
)
def test_a_data_loader_with_two_workers_that_voxelize(method: str, tmp_path: Path) -> None:
    script = tmp_path / "loader.py"
    script.write_text(LOADER.replace("METHOD", method))
    environment = {**os.environ, "PYTHONPATH": str(Path(sparseconv.__file__).parents[1])}
    try:
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, timeout=120, env=environment
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"the loader hangs with workers started by {method}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done")


def test_the_oracle_comparison_can_fail() -> None:
    points = torch.tensor([[0.05], [0.15]])
    x, _ = sparseconv.voxelize(points, voxel_size=0.2)
    assert oracle.rows_of(x.coords.numpy()) != oracle.voxelize(points.numpy(), None, 0.1)[0]
    assert coords_of([(0, 0)], 1).tolist() == x.coords.tolist()
