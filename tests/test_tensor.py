# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""SparseTensor: rows, sums, concatenation, batches, dense grids, and how it travels (pickle, pytree, pinning, types)."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from fractions import Fraction

import oracle
import pytest
import torch
from engine import random_tensor
from hypothesis import given
from hypothesis import strategies as st
from strategies import close, coords_of, same_bits, scans
from torch.utils import _pytree

import sparseconv
import sparseconv.nn as spnn
from sparseconv import SparseTensor


def example(**options: object) -> SparseTensor:
    return random_tensor(3, 120, 4, extent=8, batch_size=3, dtype=torch.float64, **options)


def values_at(x: SparseTensor) -> dict[oracle.Site, torch.Tensor]:
    return dict(zip(oracle.rows_of(x.coords.numpy()), x.features, strict=True))


def pair_of_scans(draw: st.DrawFn, ndim: int) -> tuple[SparseTensor, SparseTensor]:
    shape = draw(st.sampled_from([None, (3,) * ndim]))
    tensors = []
    for _ in range(2):
        sites = draw(scans(ndim, shape, 3, 12))
        features = torch.randn(len(sites), 2, dtype=torch.float64, requires_grad=True)
        tensors.append(SparseTensor(features, coords_of(sites, ndim), batch_size=3, spatial_shape=shape))
    return tensors[0], tensors[1]


# --- what a user passes ----------------------------------------------------------------------------------------------


def test_attributes() -> None:
    coords = torch.tensor([[1, 2, 3], [0, 0, 1]], dtype=torch.int32)
    x = SparseTensor(torch.ones(2, 5), coords, stride=(2, Fraction(1, 2)), spatial_shape=[4, 5], batch_size=3)
    assert x.features.shape == (2, 5) and torch.equal(x.coords, coords)
    assert tuple(x.stride) == (2, Fraction(1, 2)) and tuple(x.spatial_shape) == (4, 5) and x.batch_size == 3
    y = SparseTensor(torch.ones(2, 5), coords)
    assert tuple(y.stride) == (1, 1) and y.spatial_shape is None and y.batch_size == 2
    empty = SparseTensor(torch.ones(0, 5), coords[:0])
    assert empty.batch_size in (0, 1) and len(empty.coords) == 0
    assert "2" in repr(x) and "5" in repr(x)


def test_coords_of_any_strides_become_contiguous() -> None:
    wide = torch.tensor([[0, 1, 9], [0, 2, 9]], dtype=torch.int32)[:, :2]
    x = SparseTensor(torch.ones(2, 1), wide)
    assert x.coords.is_contiguous() and x.coords.tolist() == [[0, 1], [0, 2]]


def test_replace_keeps_sites_and_maps() -> None:
    x = example()
    y = x.replace(torch.randn(len(x.coords), 7))
    assert y.coords is x.coords and y.features.shape[1] == 7 and x.features.shape[1] == 4
    assert y.sites is x.sites


# --- rows ------------------------------------------------------------------------------------------------------------


def test_row_masks_and_their_gradients() -> None:
    x = example(grad=True)
    mask = torch.rand(len(x.coords)) < 0.5
    y = x[mask]
    assert torch.equal(y.coords, x.coords[mask]) and torch.equal(y.features, x.features[mask])
    assert y.batch_size == x.batch_size and y.stride == x.stride
    weight = torch.randn(y.features.shape, dtype=torch.float64)
    (grad,) = torch.autograd.grad((y.features * weight).sum(), x.features)
    assert torch.equal(grad[mask], weight) and not grad[~mask].any()
    nothing = x[torch.zeros(len(x.coords), dtype=torch.bool)]
    assert nothing.features.shape == (0, 4)
    assert spnn.SubMConv3d(4, 2, 3).double()(nothing).features.shape == (0, 2)
    # the masked tensor's maps are its own
    layer = spnn.SubMConv3d(4, 4, 3).double()
    layer(x)
    fresh = SparseTensor(y.features, y.coords, batch_size=3)
    same_bits(layer(y).features, layer(fresh).features)


def test_samples_are_batches_of_one() -> None:
    x = example(grad=True)
    for index in range(3):
        mask = x.coords[:, 0] == index
        sample = x.sample(index)
        assert sample.batch_size == 1 and not sample.coords[:, 0].any()
        assert torch.equal(sample.coords[:, 1:], x.coords[mask, 1:]) and torch.equal(
            sample.features, x.features[mask]
        )
    (grad,) = torch.autograd.grad(x.sample(1).features.sum(), x.features)
    assert torch.equal(grad.any(1), x.coords[:, 0] == 1)
    back = sparseconv.collate([x.sample(i) for i in range(3)])
    ours, theirs = values_at(back), values_at(x)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[s], theirs[s]) for s in ours)


# --- +, cat, collate -------------------------------------------------------------------------------------------------


@given(data=st.data(), ndim=st.integers(1, 4))
def test_sum_on_any_sites(data: st.DataObject, ndim: int) -> None:
    a, b = pair_of_scans(data.draw, ndim)
    c = a + b
    left, right, both = values_at(a), values_at(b), values_at(c)
    assert both.keys() == left.keys() | right.keys()
    zero = torch.zeros(2, dtype=torch.float64)
    for site, value in both.items():
        assert torch.equal(value, left.get(site, zero) + right.get(site, zero))
    rows = oracle.rows_of(c.coords.numpy())
    if left.keys() == right.keys():
        assert rows == oracle.rows_of(a.coords.numpy())  # equal sites: the first operand's rows
    else:
        assert rows == sorted(rows)
    if len(rows):
        weight = torch.randn(len(rows), 2, dtype=torch.float64)
        (c.features * weight).sum().backward()
        at = dict(zip(rows, weight, strict=True))
        for operand in (a, b):
            if len(operand.coords):
                expected = torch.stack([at[s] for s in oracle.rows_of(operand.coords.numpy())])
                close(operand.features.grad, expected)


def test_sum_on_equal_sites_in_another_order() -> None:
    x = example()
    order = torch.randperm(len(x.coords))
    y = SparseTensor(x.features[order] * 2, x.coords[order], batch_size=3)
    z = x + y
    assert torch.equal(z.coords, x.coords)
    close(z.features, x.features * 3)


def test_sum_in_place_writes_where_the_sum_has_the_firsts_rows_and_type() -> None:
    x = example()
    order = torch.randperm(len(x.coords))
    y = SparseTensor(x.features[order] * 2, x.coords[order], batch_size=3)
    expected, shared = x.features * 3, x
    x += y
    assert x is shared
    close(shared.features, expected)
    few = x[torch.arange(len(x.coords)) > 0]
    before, kept = few.features.clone(), few
    few += x  # other sites: the union is a tensor of its own
    assert few is not kept and torch.equal(kept.features, before)
    assert values_at(few).keys() == values_at(x).keys()
    single = kept.replace(before.float())
    single += kept.replace(before)  # the sum is float64
    assert single.features.dtype == torch.float64
    with pytest.raises(TypeError):
        single += 1  # type: ignore[arg-type]


def test_sum_in_place_has_gradients() -> None:
    x = example(grad=True)
    y = x.replace(x.features * 2)
    y += x
    (grad,) = torch.autograd.grad(y.features.sum(), x.features)
    assert torch.equal(grad, torch.full_like(grad, 3))


def test_cat_joins_channels_row_by_row() -> None:
    x = example(grad=True)
    order = torch.randperm(len(x.coords))
    y = SparseTensor(torch.randn(len(order), 2, dtype=torch.float64), x.coords[order], batch_size=3)
    z = sparseconv.cat([x, y, x])
    assert torch.equal(z.coords, x.coords) and z.features.shape[1] == 10
    joined = torch.empty_like(y.features)
    joined[order] = y.features
    assert torch.equal(z.features, torch.cat([x.features, joined, x.features], 1))
    (grad,) = torch.autograd.grad(z.features.sum(), x.features)
    assert torch.equal(grad, torch.full_like(grad, 2))


def test_sum_and_cat_refuse_other_grids() -> None:
    x = example()
    down = spnn.MaxPool3d(2)(x)
    bounded = SparseTensor(x.features, x.coords - x.coords.min(0).values, spatial_shape=(20, 20, 20))
    narrow = SparseTensor(x.features[:, :2], x.coords, batch_size=3)
    fewer = x[torch.arange(len(x.coords)) > 0]
    for wrong in (down, bounded):
        with pytest.raises(ValueError, match=r"stride|spatial_shape|batch_size"):
            _ = x + wrong
        with pytest.raises(ValueError):
            sparseconv.cat([x, wrong])
    with pytest.raises(ValueError, match="channels"):
        _ = x + narrow
    with pytest.raises(ValueError, match=r"\d"):
        sparseconv.cat([x, fewer])


def test_collate_keeps_empty_samples_and_order() -> None:
    a, b = example(grad=True), example()
    empty = SparseTensor(
        torch.zeros(0, 4, dtype=torch.float64), torch.zeros(0, 4, dtype=torch.int32), batch_size=2
    )
    c = sparseconv.collate([a, empty, b])
    assert c.batch_size == 8 and torch.equal(c.features, torch.cat([a.features, b.features]))
    assert torch.equal(c.coords[: len(a.coords)], a.coords)
    assert torch.equal(c.coords[len(a.coords) :, 0], b.coords[:, 0] + 5)
    (grad,) = torch.autograd.grad(c.features.sum(), a.features)
    assert torch.equal(grad, torch.ones_like(grad))
    with pytest.raises(ValueError, match="stride"):
        sparseconv.collate([a, spnn.MaxPool3d(2)(b)])
    one = SparseTensor(empty.features, empty.coords)  # an empty scan is a sample too
    assert one.batch_size == 1 and sparseconv.collate([a, one, b]).batch_size == 7
    assert spnn.GlobalAvgPool()(one).shape == (1, 4)
    assert sparseconv.voxelize(torch.ones(0, 3), voxel_size=1, batch=torch.zeros(0).long())[0].batch_size == 1


def test_a_batch_equals_its_samples_alone() -> None:
    samples = [random_tensor(3, 90, 4, extent=7, dtype=torch.float64, seed=s) for s in range(3)]
    net = spnn.Sequential(
        spnn.SubMConv3d(4, 6, 3), spnn.Conv3d(6, 5, 3, stride=2, padding=1), spnn.MaxPool3d(2)
    ).double()
    batch = net(sparseconv.collate(samples))
    for index, sample in enumerate(samples):
        alone = net(sample)
        assert torch.equal(batch.sample(index).coords, alone.coords)
        same_bits(batch.sample(index).features, alone.features)


# --- dense -----------------------------------------------------------------------------------------------------------


@given(data=st.data(), ndim=st.integers(1, 4))
def test_dense_and_from_dense(data: st.DataObject, ndim: int) -> None:
    shape = tuple(data.draw(st.integers(1, 4)) for _ in range(ndim))
    sites = data.draw(scans(ndim, shape, 2, 10))
    features = torch.randn(len(sites), 3, dtype=torch.float64, requires_grad=True)
    x = SparseTensor(features, coords_of(sites, ndim), spatial_shape=shape, batch_size=2)
    grid = x.dense()
    assert torch.equal(grid, torch.from_numpy(oracle.scatter(sites, features.detach().numpy(), shape, 2)))
    back = sparseconv.from_dense(grid)
    assert oracle.rows_of(back.coords.numpy()) == sorted(sites) and tuple(back.spatial_shape) == shape
    assert back.batch_size == 2 and torch.equal(back.dense(), grid)
    again = getattr(spnn, f"SubMConv{ndim}d")(3, 2, 3).double()
    same_bits(again(back).dense(), again(x).dense())
    if sites:
        weight = torch.randn(grid.shape, dtype=torch.float64)
        (grad,) = torch.autograd.grad((grid * weight).sum(), features)
        assert torch.equal(grad, torch.from_numpy(oracle.gather(sites, weight.numpy())))
        dense = grid.detach().requires_grad_()
        (grad,) = torch.autograd.grad(sparseconv.from_dense(dense).features.sum(), dense)
        assert torch.equal(grad, (grid != 0).any(1, keepdim=True).expand_as(grid).double())


def test_dense_of_an_unbounded_tensor_wants_shape_and_origin() -> None:
    x = SparseTensor(torch.ones(2, 1), torch.tensor([[0, -3, 4], [1, -2, 5]], dtype=torch.int32))
    for options in ({}, {"shape": (4, 4)}, {"origin": (0, 0)}):
        with pytest.raises(ValueError, match=r"shape.*origin"):
            x.dense(**options)
    grid = x.dense(shape=(2, 3), origin=(-3, 4))
    assert grid.shape == (2, 1, 2, 3) and grid[0, 0, 0, 0] == 1 and grid[1, 0, 1, 1] == 1 and grid.sum() == 2
    with pytest.raises(ValueError, match=r"\[1, -2, 5\]"):
        x.dense(shape=(2, 1), origin=(-3, 4))


# --- caches ---------------------------------------------------------------------------------------------------------


def hourglass() -> torch.nn.ModuleList:
    down, up = spnn.Conv3d(4, 6, 3, stride=2, padding=1), spnn.InverseConv3d(6, 4, 3, stride=2, padding=1)
    return torch.nn.ModuleList([spnn.SubMConv3d(4, 4, 3), down, up, spnn.MaxPool3d(2)]).double()


def run_hourglass(net: torch.nn.ModuleList, x: SparseTensor) -> torch.Tensor:
    a = net[0](x)
    return net[2](net[1](a), a).features.sum() + net[3](a).features.sum()


def test_inference_mode_leaves_nothing_that_training_cannot_use() -> None:
    """Maps that an evaluation has left in the cache serve a training step on the same scan."""
    net, x, fresh = hourglass(), example(), example()
    with torch.inference_mode():
        run_hourglass(net, x)
    expected = torch.autograd.grad(run_hourglass(net, fresh), list(net.parameters()))
    grads = torch.autograd.grad(run_hourglass(net, x), list(net.parameters()))
    for got, reference in zip(grads, expected, strict=True):
        same_bits(got, reference)


def test_a_scan_is_freed_with_its_last_reference() -> None:
    """Caches must not make cycles: Python's collector does not see how large tensors are and comes too late."""
    net = hourglass()
    gc.collect()
    gc.disable()
    try:
        x = example(grad=True)
        run_hourglass(net, x).backward()
        coords = weakref.ref(x.coords)
        del x
        assert coords() is None, "a reference cycle keeps the scan and its maps alive"
    finally:
        gc.enable()


def test_maps_to_a_target_go_with_the_target() -> None:
    """A cache entry does not outlive its target, whose place in memory another one may take."""
    up = spnn.ConvTranspose3d(4, 4, 2, stride=2, bias=False).double()
    x = example()
    coarse = spnn.MaxPool3d(2)(x)
    expected = up(coarse, x).features
    for _ in range(20):
        target = SparseTensor(x.features.flip(0).contiguous(), x.coords.flip(0).contiguous())
        same_bits(up(coarse, target).features.flip(0), expected)
        del target
    assert len(coarse.sites.maps) <= 2


def test_a_reversed_map_survives_its_origin() -> None:
    kernel_map = sparseconv.build_kernel_map(example().coords, kernel_size=3, stride=2, padding=1)
    pairs = kernel_map.pairs
    reverse = kernel_map.reverse()
    assert reverse.reverse() is kernel_map
    del kernel_map
    gc.collect()
    same_bits(reverse.reverse().pairs, pairs)


def test_a_kernel_map_pickles_and_copies_without_what_can_be_built_again() -> None:
    kernel_map = sparseconv.build_kernel_map(example().coords, kernel_size=3, stride=2, padding=1)
    for original in (kernel_map, kernel_map.reverse()):
        for other in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original)):
            same_bits(other.pairs, original.pairs)
            same_bits(other.tap_offsets, original.tap_offsets)
            same_bits(other.reverse().pairs, original.reverse().pairs)
            assert torch.equal(other.out_coords, original.out_coords)


# --- how it travels --------------------------------------------------------------------------------------------------


def equal(a: SparseTensor, b: SparseTensor) -> bool:
    same = torch.equal(a.coords, b.coords) and torch.equal(a.features, b.features) and a.stride == b.stride
    return same and a.spatial_shape == b.spatial_shape and a.batch_size == b.batch_size


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "torch.save", "pytree"])
def test_round_trips_leave_the_caches_behind(way: str) -> None:
    x = spnn.ConvTranspose3d(4, 4, 2, stride=2).double()(example()).detach()
    small = len(pickle.dumps(x))
    spnn.SubMConv3d(4, 4, 5).double()(x)
    assert len(pickle.dumps(x)) <= small + 64  # the map is many times that
    if way == "pickle":
        y = pickle.loads(pickle.dumps(x))
    elif way == "deepcopy":
        y = copy.deepcopy(x)
        y.features[0, 0] += 1
        assert not torch.equal(y.features, x.features)
        y.features[0, 0] = x.features[0, 0]
    elif way == "torch.save":
        buffer = io.BytesIO()
        torch.save(x, buffer)
        buffer.seek(0)
        y = torch.load(buffer, weights_only=False)
    else:
        leaves, spec = _pytree.tree_flatten({"scan": x, "list": [x, 3]})
        assert all(isinstance(leaf, torch.Tensor | int) for leaf in leaves)
        y = _pytree.tree_unflatten(leaves, spec)["scan"]
        doubled = _pytree.tree_map_only(torch.Tensor, lambda t: t * 2 if t.is_floating_point() else t, x)
        assert isinstance(doubled, SparseTensor) and torch.equal(doubled.features, x.features * 2)
    assert equal(x, y) and y.stride == (Fraction(1, 2),) * 3
    layer = spnn.SubMConv3d(4, 3, 3).double()
    same_bits(layer(y).features, layer(x).features)


def test_deepcopy_of_a_network_that_has_run() -> None:
    net = spnn.Sequential(spnn.SubMConv3d(4, 6, 3), spnn.BatchNorm(6), spnn.ReLU()).double()
    x = example()
    out = net(x).features
    twin = copy.deepcopy(net)
    for _ in range(2):
        twin = pickle.loads(pickle.dumps(twin))
    net.eval(), twin.eval()
    same_bits(twin(x).features, net(x).features)
    assert out.requires_grad


def test_pin_memory_or_why_not() -> None:
    x = example()
    if torch.cuda.is_available():
        y = x.pin_memory()
        assert y.features.is_pinned() and y.coords.is_pinned() and equal(x, y)
    else:
        with pytest.raises(RuntimeError, match=r"(?i)pin|accelerator|cuda|driver"):  # torch's own words
            x.pin_memory()


def test_to_changes_types_and_keeps_sites() -> None:
    x = example(grad=True)
    y = x.to(torch.float32)
    assert (
        y.features.dtype == torch.float32
        and y.coords.dtype == torch.int32
        and torch.equal(y.coords, x.coords)
    )
    assert x.to("cpu").features.dtype == torch.float64
    (grad,) = torch.autograd.grad(y.features.sum(), x.features)
    assert grad.dtype == torch.float64
    meta = x.to("meta")
    assert meta.features.device.type == "meta" and meta.coords.device.type == "meta"


def test_clear_cache_frees_the_maps() -> None:
    x = example()
    spnn.SubMConv3d(4, 4, 3).double()(x)
    assert len(x.sites.maps) == 1
    sparseconv.clear_cache(x) if hasattr(sparseconv, "clear_cache") else x.clear_cache()
    assert len(x.sites.maps) == 0
    x.clear_cache()


def test_the_equality_used_here_can_fail() -> None:
    x = example()
    assert equal(x, x.replace(x.features.clone()))
    assert not equal(x, x.replace(x.features + 1)) and not equal(x, x.sample(0))
