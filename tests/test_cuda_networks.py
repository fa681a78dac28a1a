# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Whole networks as they run on a GPU, without one, by emulated CUDA kernels; and what prepares a scan there. The CPU engine says
what must come out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import stand_in
import torch
from engine import random_tensor
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sparseconv
import sparseconv.nn as spnn
from sparseconv import SparseTensor, mapping
from sparseconv.models import MinkUNet14, VoxelBackbone8x


class Pools(nn.Module):
    """Pooling, groups, another tensor's sites, sums on different sites."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = spnn.Conv3d(4, 8, 3, stride=2, padding=1)
        self.deep = spnn.SubMConv3d(8, 8, 3, groups=8)
        self.pool, self.mean = spnn.MaxPool3d(2), spnn.AvgPool3d(3, stride=1, padding=1)
        self.up = spnn.ConvTranspose3d(8, 4, 3, stride=2, padding=1)
        self.norm = spnn.BatchNorm(4)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Back near the input's grid."""
        y = self.mean(self.pool(self.deep(self.conv(x))))
        del y  # made and let go: its maps are of sites that nothing else has
        return self.norm(self.up(self.deep(self.conv(x)))) + x


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MinkUNet14": lambda: MinkUNet14(4, 5, width=0.25),
    "VoxelBackbone8x": lambda: VoxelBackbone8x(4),
    "pools": Pools,
}


def scan(rows: int = 260) -> SparseTensor:
    coords = random_tensor(3, rows, 1, extent=22, batch_size=2, seed=3).coords
    coords = coords.clone()
    coords[:, 1:] -= coords[:, 1:].min(0).values
    return SparseTensor(torch.randn(len(coords), 4, dtype=torch.float64), coords, batch_size=2)


def step(network: nn.Module, x: SparseTensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Sites, features and gradients of a training step."""
    network.zero_grad()
    shape = (48, 48, 48) if isinstance(network, VoxelBackbone8x) else None
    out: Any = network(SparseTensor(x.features, x.coords, spatial_shape=shape, batch_size=2))
    out = out if isinstance(out, SparseTensor) else out[0]
    out.features.square().mean().backward()
    return (
        out.coords,
        out.features.detach(),
        [p.grad.clone() for p in network.parameters() if p.grad is not None],
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step(name: str, on_emulated_gpu: Callable[[int], None]) -> None:
    """In float64, where no value rounds to the other side of a ReLU."""
    network, x = NETWORKS[name]().double().train(), scan()
    expected = step(network, x)
    found = []
    for seed in (1, 2):
        on_emulated_gpu(seed)
        found.append(step(network, x))
    (coords, features, grads), (_, again, grads_again) = found
    assert torch.equal(coords, expected[0])
    assert torch.equal(features, again) and all(map(torch.equal, grads, grads_again))
    assert len(grads) == len(expected[2]) > 0
    for got, want in zip([features, *grads], [expected[1], *expected[2]], strict=True):
        assert float((got - want).norm()) <= 1e-9 * float(want.norm()) + 1e-12


# --- scans and rows ---------------------------------------------------------------------------------------------------------


def both(call: Callable[[], Any]) -> tuple[Any, Any]:
    """What a call gives here and on an emulated GPU."""
    here = call()
    with stand_in.gpu(seed=3):
        return here, call()


def equal(a: Any, b: Any) -> None:
    for x, y in zip(a, b, strict=True):
        if isinstance(x, Tensor):
            assert x.dtype == y.dtype and torch.equal(x, y)
        else:
            assert x == y


@given(st.data())
def test_rows_of_all_kinds(data: st.DataObject) -> None:
    ndim = data.draw(st.integers(1, 4))
    cell = st.lists(st.integers(-4, 4), min_size=ndim, max_size=ndim)
    row = st.tuples(st.integers(0, 2), cell).map(lambda r: [r[0], *r[1]])
    rows, queries = (
        torch.tensor(data.draw(st.lists(row, min_size=1, max_size=30)), dtype=torch.int32) for _ in "ab"
    )
    unique = mapping.unique_coords(rows)[0]
    index = data.draw(
        st.lists(st.integers(0, 5), max_size=20).map(lambda v: torch.tensor(v, dtype=torch.int64))
    )
    points = torch.tensor(
        data.draw(st.lists(st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3), max_size=20))
    )
    points = points.reshape(-1, 3)

    def found() -> list[Any]:
        bounds, repeat = mapping.bounds_and_repeat(rows)
        return [
            mapping.unique_coords(rows),
            (mapping.find_rows(unique, queries),),
            (mapping.find_duplicate(rows), mapping.find_duplicate(rows, bounds, repeat)),
            mapping.group_rows(index, 6),
            mapping.voxel_runs(points, None, [0.5, 0.0, -1.0], [0.3, 1.0, 0.7]),
            (bounds, mapping.bounds_of(rows)),
        ]

    for a, b in zip(*both(found), strict=True):
        equal(a, b)


@pytest.mark.parametrize("rows", [2, 3, 500, 20000])
def test_rows_that_repeat(rows: int) -> None:
    """The first row that equals an earlier one, wherever the threads begin; also where no key could hold the rows."""
    generator = torch.Generator().manual_seed(rows)
    for spread in (1, 7, 1 << 29):
        coords = torch.randint(-spread, spread, (rows, 5), generator=generator, dtype=torch.int32)
        seen: dict[tuple[int, ...], int] = {}
        repeat = next(
            (r for r, c in enumerate(map(tuple, coords.tolist())) if seen.setdefault(c, r) != r), -1
        )
        for seed in (1, 2):
            with stand_in.gpu(seed):
                assert mapping.bounds_and_repeat(coords) == (
                    (coords.amin(0).tolist(), coords.amax(0).tolist()),
                    repeat,
                )


def test_voxelize_devoxelize_and_bad_points() -> None:
    points = torch.randn(500, 3) * 3
    features = torch.randn(500, 2)

    def there_and_back() -> list[Any]:
        x, index = sparseconv.voxelize(points, features, voxel_size=0.5)
        return [x.coords, x.features, index, sparseconv.devoxelize(x, index)]

    equal(*both(there_and_back))
    points[7, 1] = float("nan")

    far = torch.tensor([[0, -(2**31), -(2**31), 0], [0, 2**31 - 1, 2**31 - 1, 0]]).int()

    def refused() -> None:
        with pytest.raises(ValueError, match=r"finite.*row 7"):
            sparseconv.voxelize(points, features, voxel_size=0.5)
        with pytest.raises(ValueError, match="rows 0 and 2"):
            SparseTensor(torch.ones(3, 1), torch.tensor([[0, 1, 1, 1], [0, 2, 2, 2], [0, 1, 1, 1]]).int())
        with pytest.raises(ValueError, match="63 bits"):
            SparseTensor(torch.ones(2, 1), far)

    both(refused)


def test_no_rows() -> None:
    empty = torch.zeros(0, 4, dtype=torch.int32)

    def maps() -> list[Any]:
        found = []
        for options in ({"submanifold": True}, {"stride": 2}, {"stride": 2, "transposed": True}):
            kmap = sparseconv.build_kernel_map(empty, kernel_size=3, **options)
            found += [kmap.pairs, kmap.tap_offsets, kmap.out_coords, kmap.reverse().pairs, kmap.neighbors]
        x, index = sparseconv.voxelize(torch.zeros(0, 3), voxel_size=1.0)
        return [*found, x.coords, index]

    equal(*both(maps))
