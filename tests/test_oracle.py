# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The oracle against dense torch, so that a wrong oracle cannot excuse a wrong engine."""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
SHAPES = {1: (11,), 2: (6, 7), 3: (5, 5, 6)}
GEOMETRIES = [
    dict(kernel=3, stride=1, padding=1, dilation=1),
    dict(kernel=3, stride=2, padding=1, dilation=1),
    dict(kernel=2, stride=2, padding=0, dilation=1),
    dict(kernel=2, stride=3, padding=1, dilation=2),
    dict(kernel=3, stride=1, padding=0, dilation=2),
    dict(kernel=4, stride=3, padding=2, dilation=1),
    dict(kernel=1, stride=2, padding=0, dilation=1),
]


def some_sites(rng: np.random.Generator, shape: tuple[int, ...], fill: float = 0.4) -> list[oracle.Site]:
    cells = [(b, *c) for b in range(2) for c in itertools.product(*(range(n) for n in shape))]
    keep = [c for c in cells if rng.random() < fill]
    rng.shuffle(keep)
    return [tuple(int(v) for v in c) for c in keep]


def torch_weight(weight: np.ndarray, kernel: tuple[int, ...], groups: int, transposed: bool) -> torch.Tensor:
    """Ours [K, C_in/g, C_out] as torch's [C_out, C_in/g, *k], or [C_in, C_out/g, *k] for a transposed layer."""
    k, c_in, c_out = weight.shape
    if not transposed:
        return torch.from_numpy(weight).permute(2, 1, 0).reshape(c_out, c_in, *kernel)
    per_group = torch.from_numpy(weight).reshape(k, c_in, groups, c_out // groups)
    return per_group.permute(2, 1, 3, 0).reshape(groups * c_in, c_out // groups, *kernel)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(
    "geometry", GEOMETRIES, ids=lambda g: "k{kernel}s{stride}p{padding}d{dilation}".format(**g)
)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_conv_equals_dense_torch(ndim: int, geometry: dict[str, int], groups: int, transposed: bool) -> None:
    rng = np.random.default_rng(ndim)
    shape = SHAPES[ndim]
    output_padding = geometry["stride"] - 1 if transposed else 0
    rel = oracle.make(ndim, **geometry, output_padding=output_padding, transposed=transposed)
    bound = oracle.output_shape(rel, shape)
    sites = some_sites(rng, shape)
    x = rng.standard_normal((len(sites), 4))
    weight, bias = rng.standard_normal((rel.volume, 4 // groups, 6)), rng.standard_normal(6)
    out_sites = oracle.output_sites(rel, sites, shape)
    pairs = oracle.pairs(rel, sites, out_sites)
    out = oracle.conv(x, weight, bias, pairs, len(out_sites), groups)

    grid = torch.from_numpy(oracle.scatter(sites, x, shape, 2)).requires_grad_()
    dense_weight = torch_weight(weight, rel.kernel, groups, transposed).clone().requires_grad_()
    dense_bias = torch.from_numpy(bias).requires_grad_()
    settings = dict(stride=rel.stride, padding=rel.padding, dilation=rel.dilation, groups=groups)
    if transposed:
        settings["output_padding"] = rel.output_padding
        try:
            dense = CONV_TRANSPOSE[ndim](grid, dense_weight, dense_bias, **settings)
        except RuntimeError as error:  # torch wants output_padding below max(stride, dilation)
            pytest.fail(f"torch refuses {settings}: {error}")
    else:
        dense = CONV[ndim](grid, dense_weight, dense_bias, **settings)
    assert tuple(dense.shape[2:]) == bound
    np.testing.assert_allclose(out, oracle.gather(out_sites, dense.detach().numpy()), rtol=0, atol=1e-12)
    elsewhere = dense.detach().clone()
    for site in out_sites:
        elsewhere[(site[0], slice(None), *site[1:])] = torch.from_numpy(bias)
    expected = torch.from_numpy(bias).reshape(1, -1, *[1] * ndim).expand_as(elsewhere)
    torch.testing.assert_close(elsewhere, expected, rtol=0, atol=0)  # the footprint missed no cell

    cotangent = rng.standard_normal(out.shape)
    dense.backward(torch.from_numpy(oracle.scatter(out_sites, cotangent, bound, 2)))
    grad_x, grad_w, grad_b = oracle.conv_gradients(x, weight, cotangent, pairs, groups)
    np.testing.assert_allclose(grad_x, oracle.gather(sites, grid.grad.numpy()), rtol=0, atol=1e-12)
    ours = torch_weight(grad_w, rel.kernel, groups, transposed)
    torch.testing.assert_close(ours, dense_weight.grad, rtol=0, atol=1e-11)
    np.testing.assert_allclose(grad_b, dense_bias.grad.numpy(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_submanifold_is_torch_same_at_the_input_sites(kernel: int, dilation: int) -> None:
    rng = np.random.default_rng(kernel)
    shape = (7, 6)
    sites = some_sites(rng, shape)
    rel = oracle.make(2, kernel, dilation=dilation, submanifold=True)
    x, weight = rng.standard_normal((len(sites), 3)), rng.standard_normal((rel.volume, 3, 2))
    out_sites = oracle.output_sites(rel, sites, shape)
    assert out_sites == sites
    out = oracle.conv(x, weight, None, oracle.pairs(rel, sites, out_sites), len(sites))
    grid = torch.from_numpy(oracle.scatter(sites, x, shape, 2))
    dense = F.conv2d(grid, torch_weight(weight, rel.kernel, 1, False), padding="same", dilation=dilation)
    np.testing.assert_allclose(out, oracle.gather(sites, dense.numpy()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(
    "geometry", GEOMETRIES[:5], ids=lambda g: "k{kernel}s{stride}p{padding}d{dilation}".format(**g)
)
def test_max_pool_equals_dense_over_minus_infinity(ndim: int, geometry: dict[str, int]) -> None:
    rng = np.random.default_rng(7)
    shape = SHAPES[ndim]
    rel = oracle.make(ndim, **geometry)
    sites = some_sites(rng, shape)
    x = rng.standard_normal((len(sites), 3))
    out_sites = oracle.output_sites(rel, sites, shape)
    out, winner = oracle.max_pool(x, oracle.pairs(rel, sites, out_sites), len(out_sites))
    grid = torch.from_numpy(oracle.scatter(sites, x, shape, 2, fill=-np.inf)).requires_grad_()
    dense = MAX_POOL[ndim](grid, rel.kernel, rel.stride, rel.padding, rel.dilation)
    np.testing.assert_array_equal(out, oracle.gather(out_sites, dense.detach().numpy()))
    assert torch.isinf(dense).sum().item() == dense.numel() - out.size
    cotangent = rng.standard_normal(out.shape)
    dense.backward(torch.from_numpy(oracle.scatter(out_sites, cotangent, dense.shape[2:], 2)))
    grad = oracle.max_pool_gradient(winner, cotangent, len(sites))
    np.testing.assert_allclose(grad, oracle.gather(sites, grid.grad.numpy()), rtol=0, atol=1e-14)


@pytest.mark.parametrize("geometry", GEOMETRIES[:3], ids=["k3s1", "k3s2", "k2s2"])
def test_avg_pool_over_the_kernel_equals_dense_on_zeros(geometry: dict[str, int]) -> None:
    rng = np.random.default_rng(8)
    shape = SHAPES[3]
    rel = oracle.make(3, **geometry)
    sites = some_sites(rng, shape)
    x = rng.standard_normal((len(sites), 3))
    out_sites = oracle.output_sites(rel, sites, shape)
    pairs = oracle.pairs(rel, sites, out_sites)
    out = oracle.avg_pool(x, pairs, len(out_sites), "kernel", rel.volume)
    grid = torch.from_numpy(oracle.scatter(sites, x, shape, 2)).requires_grad_()
    dense = F.avg_pool3d(grid, rel.kernel, rel.stride, rel.padding, count_include_pad=True)
    np.testing.assert_allclose(out, oracle.gather(out_sites, dense.detach().numpy()), rtol=0, atol=1e-13)
    cotangent = rng.standard_normal(out.shape)
    dense.backward(torch.from_numpy(oracle.scatter(out_sites, cotangent, dense.shape[2:], 2)))
    grad = oracle.avg_pool_gradient(cotangent, pairs, len(sites), "kernel", rel.volume)
    np.testing.assert_allclose(grad, oracle.gather(sites, grid.grad.numpy()), rtol=0, atol=1e-13)


def test_avg_pool_over_present_sites_is_a_ratio_of_dense_pools() -> None:
    rng = np.random.default_rng(9)
    shape = SHAPES[3]
    rel = oracle.make(3, 3, 2, 1)
    sites = some_sites(rng, shape)
    x = rng.standard_normal((len(sites), 2))
    out_sites = oracle.output_sites(rel, sites, shape)
    out = oracle.avg_pool(x, oracle.pairs(rel, sites, out_sites), len(out_sites), "present", rel.volume)
    total = F.avg_pool3d(torch.from_numpy(oracle.scatter(sites, x, shape, 2)), 3, 2, 1)
    present = F.avg_pool3d(torch.from_numpy(oracle.scatter(sites, np.ones_like(x), shape, 2)), 3, 2, 1)
    np.testing.assert_allclose(out, oracle.gather(out_sites, (total / present).numpy()), rtol=0, atol=1e-13)


def test_unbounded_sites_are_the_bounded_ones_of_a_large_enough_grid() -> None:
    """Without a shape nothing is clipped: shift the sites deep into a large grid and the same cells come out."""
    rng = np.random.default_rng(10)
    sites = some_sites(rng, (4, 5))
    for geometry in GEOMETRIES:
        if geometry["padding"]:
            continue
        for transposed in (False, True):
            rel = oracle.make(2, **geometry, transposed=transposed)
            s = rel.stride[0]
            shift = (
                12 * s
            )  # a multiple of the stride moves ordinary outputs by 12 cells and transposed ones by 12 s s
            moved = [(b, x + shift, y + shift) for b, x, y in sites]
            back = shift * s if transposed else shift // s
            inside = oracle.output_sites(rel, moved, (200, 200))
            assert [(b, x - back, y - back) for b, x, y in inside] == oracle.output_sites(rel, sites)


def test_minkowski_sites_are_the_floors_and_pairs_obey_the_relation() -> None:
    sites = [(0, -3, 0), (0, -1, 2), (0, 0, 0), (0, 5, -4)]
    rel = oracle.make(2, 3, 2, anchor="minkowski")
    out = oracle.output_sites(rel, sites)
    assert out == [(0, -2, 0), (0, -1, 1), (0, 0, 0), (0, 2, -2)]
    for t, i, o in oracle.pairs(rel, sites, out):
        tap = rel.taps()[t]
        assert all(sites[i][a + 1] == out[o][a + 1] * 2 - 1 + tap[a] for a in range(2))
    assert oracle.make(2, 2, 2, anchor="minkowski").padding == (0, 0)
    assert oracle.make(1, 5, dilation=3, anchor="minkowski").padding == (6,)


def test_taps_select_pairs_and_never_sites() -> None:
    rng = np.random.default_rng(3)
    sites = some_sites(rng, (4, 4))
    rel = oracle.make(2, 3, 2, 1)
    out_sites = oracle.output_sites(rel, sites)
    everything = oracle.pairs(rel, sites, out_sites)
    kept = [1, 4, 6]
    some = oracle.pairs(rel, sites, out_sites, [rel.taps()[t] for t in kept])
    assert some == [(kept.index(t), i, o) for t, i, o in everything if t in kept]


def test_voxelize_by_hand() -> None:
    points = np.array([[0.05, 0.0], [-0.01, 0.0], [0.06, 0.01], [0.31, -0.2]])
    sites, mean, index = oracle.voxelize(points, None, 0.1)
    assert sites == [(0, -1, 0), (0, 0, 0), (0, 3, -2)]
    assert index.tolist() == [1, 0, 1, 2]
    np.testing.assert_allclose(mean[1], [0.055, 0.005])
    _, first, _ = oracle.voxelize(points, None, 0.1, reduce="first")
    np.testing.assert_array_equal(first[1], points[0])
    _, most, _ = oracle.voxelize(points, None, 0.1, reduce="max")
    np.testing.assert_array_equal(most[1], [0.06, 0.01])


def test_trilinear_weights_equal_grid_sample_on_a_full_grid() -> None:
    rng = np.random.default_rng(4)
    shape = (4, 5, 6)
    sites = [(0, *c) for c in itertools.product(*(range(n) for n in shape))]
    values = rng.standard_normal((len(sites), 1))
    grid = torch.from_numpy(oracle.scatter(sites, values, shape, 1))
    points = rng.uniform(0.5, 3.5, (20, 3))
    scaled = torch.from_numpy(points / np.array(shape) * 2 - 1).flip(-1).reshape(1, 20, 1, 1, 3)
    expected = F.grid_sample(grid, scaled, align_corners=False).reshape(-1).numpy()
    for point, value in zip(points, expected, strict=True):
        weights = oracle.trilinear_weights(sites, point, 0)
        assert abs(sum(w * values[r, 0] for r, w in weights.items()) - value) < 1e-12
    assert oracle.trilinear_weights(sites[:1], (1.0, 1.0, 1.0), 0) == {0: 1.0}
    assert oracle.trilinear_weights(sites[:1], (9.0, 9.0, 9.0), 0) == {}


@pytest.mark.parametrize("wrong", ["stride", "padding", "tap order"])
def test_this_comparison_can_fail(wrong: str) -> None:
    """A wrong relation must be seen by the comparison with torch."""
    rng = np.random.default_rng(5)
    sites = some_sites(rng, (6, 6))
    x, weight = rng.standard_normal((len(sites), 2)), rng.standard_normal((9, 2, 2))
    right = oracle.make(2, 3, 2, 1)
    rel = {"stride": oracle.make(2, 3, 1, 1), "padding": oracle.make(2, 3, 2, 0)}.get(wrong, right)
    out_sites = oracle.output_sites(right, sites, (6, 6))
    out = oracle.conv(x, weight, None, oracle.pairs(rel, sites, out_sites), len(out_sites))
    if wrong == "tap order":
        weight = weight.reshape(3, 3, 2, 2).transpose(1, 0, 2, 3).reshape(9, 2, 2)
    grid = torch.from_numpy(oracle.scatter(sites, x, (6, 6), 2))
    dense = F.conv2d(grid, torch_weight(np.ascontiguousarray(weight), (3, 3), 1, False), stride=2, padding=1)
    assert not np.allclose(out, oracle.gather(out_sites, dense.numpy()))
