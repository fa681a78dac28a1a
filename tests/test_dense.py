# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""With a spatial shape and the torch anchor, a layer equals torch's dense layer on the dense grid, gradients included."""

from __future__ import annotations

import math

import oracle
import pytest
import torch
import torch.nn as nn
from engine import layer_of, tensor_of
from hypothesis import assume, given
from strategies import Case, cases, close

import sparseconv
import sparseconv.nn as spnn


def dense_weight(weight: torch.Tensor, case: Case) -> torch.Tensor:
    """[K, C_in/g, C_out] as torch's [C_out, C_in/g, *k], or [C_in, C_out/g, *k] for a transposed layer."""
    k, wide_in, c_out = weight.shape
    if not case.rel.transposed:
        return weight.permute(2, 1, 0).reshape(c_out, wide_in, *case.rel.kernel)
    wide_out = c_out // case.groups
    grouped = weight.reshape(k, wide_in, case.groups, wide_out).permute(2, 1, 3, 0)
    return grouped.reshape(case.c_in, wide_out, *case.rel.kernel)


def dense_layer(case: Case) -> nn.Module:
    name = f"Conv{'Transpose' if case.rel.transposed else ''}{case.rel.ndim}d"
    options = {"stride": case.rel.stride, "padding": case.rel.padding, "dilation": case.rel.dilation}
    if case.rel.transposed:
        options["output_padding"] = case.rel.output_padding
    layer = getattr(nn, name)(
        case.c_in, case.c_out, case.rel.kernel, groups=case.groups, bias=case.bias, **options
    )
    layer = layer.double()
    with torch.no_grad():
        layer.weight.copy_(dense_weight(torch.from_numpy(case.numbers["weight"]), case))
        if case.bias:
            layer.bias.copy_(torch.from_numpy(case.numbers["bias"]))
    return layer


def dense_input(case: Case) -> torch.Tensor:
    grid = oracle.scatter(case.sites, case.numbers["features"], case.shape, case.batch_size)
    return torch.from_numpy(grid).requires_grad_()


def compare_with_dense(case: Case) -> None:
    x, layer = tensor_of(case, grad=True), layer_of(case)
    y = layer(x)
    grid, reference = dense_input(case), dense_layer(case)
    dense = reference(grid)
    assert tuple(y.spatial_shape) == tuple(dense.shape[2:])
    close(y.dense(), _without_bias_elsewhere(dense.detach(), y, case))

    sites = oracle.rows_of(y.coords.numpy())
    cotangent = case.numbers["cotangent"]
    dense.backward(torch.from_numpy(oracle.scatter(sites, cotangent, dense.shape[2:], case.batch_size)))
    y.features.backward(torch.from_numpy(cotangent))
    close(x.features.grad, oracle.gather(case.sites, grid.grad.numpy()))
    close(dense_weight(layer.weight.grad, case), reference.weight.grad)
    if case.bias:
        close(layer.bias.grad, reference.bias.grad)


def _without_bias_elsewhere(dense: torch.Tensor, y: sparseconv.SparseTensor, case: Case) -> torch.Tensor:
    """Zero the dense output where we have no site, after checking that it holds nothing but the bias there."""
    bias = (
        torch.from_numpy(case.numbers["bias"]) if case.bias else torch.zeros(case.c_out, dtype=torch.float64)
    )
    ours = torch.zeros(dense.shape[0], *dense.shape[2:], dtype=torch.bool)
    if len(y.coords):
        ours[tuple(y.coords.long().t())] = True
    values = dense.movedim(1, -1)
    close(values[~ours], bias.expand(int((~ours).sum()), -1), 1e-14)
    return torch.where(ours.unsqueeze(1), dense, torch.zeros((), dtype=dense.dtype))


@pytest.mark.parametrize("kind", ["conv", "transposed"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_conv(kind: str, ndim: int) -> None:
    @given(case=cases(ndim=ndim, kind=kind, anchor="torch", bounded=True))
    def run(case: Case) -> None:
        compare_with_dense(case)

    run()


@pytest.mark.parametrize("output_padding", [0, 1])
def test_output_padding_only_enlarges_the_shape(output_padding: int) -> None:
    case = Case(
        oracle.make(3, 3, 2, 1, output_padding=output_padding, transposed=True),
        ((0, 0, 0, 0), (0, 3, 2, 4), (1, 3, 3, 3)), (4, 4, 5), 2, 1, 3, 4, True, 9,
    )  # fmt: skip
    compare_with_dense(case)
    y = layer_of(case)(tensor_of(case))
    assert tuple(y.spatial_shape) == tuple(2 * n - 1 + output_padding for n in case.shape)


@given(case=cases(ndim=3, kind="submanifold", anchor="torch", bounded=True))
def test_submanifold_equals_torch_same_at_its_sites(case: Case) -> None:
    assume(all(d * (k - 1) % 2 == 0 for d, k in zip(case.rel.dilation, case.rel.kernel, strict=True)))
    y = layer_of(case)(tensor_of(case))
    reference = nn.Conv3d(
        case.c_in, case.c_out, case.rel.kernel, padding="same", dilation=case.rel.dilation, groups=case.groups
    ).double()
    with torch.no_grad():
        reference.weight.copy_(dense_weight(torch.from_numpy(case.numbers["weight"]), case))
        reference.bias.copy_(torch.from_numpy(case.numbers["bias"] * case.bias))
        close(y.features, oracle.gather(case.sites, reference(dense_input(case)).numpy()))


POOLS = {1: (nn.MaxPool1d, nn.AvgPool1d), 2: (nn.MaxPool2d, nn.AvgPool2d), 3: (nn.MaxPool3d, nn.AvgPool3d)}


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pools(ndim: int, kind: str) -> None:
    """Max pooling over minus infinity and ``count="kernel"`` over zeros."""

    @given(case=cases(ndim=ndim, kind="conv", anchor="torch", bounded=True))
    def run(case: Case) -> None:
        rel = case.rel
        assume(all(p <= k // 2 for p, k in zip(rel.padding, rel.kernel, strict=True)))  # torch's own limit
        if kind == "avg":
            assume(
                set(rel.dilation) == {1}
            )  # torch's average pooling knows no dilation and no kernel beyond the grid
            assume(all(k <= n for k, n in zip(rel.kernel, case.shape, strict=True)))
        x = tensor_of(case, grad=True)
        fill = -math.inf if kind == "max" else 0.0
        grid = oracle.scatter(case.sites, case.numbers["features"], case.shape, case.batch_size, fill)
        dense_x = torch.from_numpy(grid).requires_grad_()
        if kind == "max":
            y = getattr(spnn, f"MaxPool{ndim}d")(
                rel.kernel, stride=rel.stride, padding=rel.padding, dilation=rel.dilation
            )(x)
            dense = POOLS[ndim][0](rel.kernel, rel.stride, rel.padding, rel.dilation)(dense_x)
        else:
            y = getattr(spnn, f"AvgPool{ndim}d")(
                rel.kernel, stride=rel.stride, padding=rel.padding, count="kernel"
            )(x)
            dense = POOLS[ndim][1](rel.kernel, rel.stride, rel.padding)(dense_x)
        sites = oracle.rows_of(y.coords.numpy())
        assert sites == case.out_sites and tuple(y.spatial_shape) == tuple(dense.shape[2:])
        close(y.features, oracle.gather(sites, dense.detach().numpy()))
        rest = dense.detach().numel() - y.features.numel()
        assert int((dense == fill).sum()) >= rest
        cotangent = torch.sin(torch.arange(y.features.numel(), dtype=torch.float64)).reshape(y.features.shape)
        dense.backward(
            torch.from_numpy(oracle.scatter(sites, cotangent.numpy(), dense.shape[2:], case.batch_size))
        )
        y.features.backward(cotangent)
        close(x.features.grad, oracle.gather(case.sites, dense_x.grad.numpy()))

    run()


def test_a_whole_network_equals_its_dense_twin() -> None:
    """conv s2 - ReLU - conv - max pool - transposed conv: sites, clipping and shapes compose."""
    torch.manual_seed(3)
    case = Case(
        oracle.make(3, 3, 2, 1),
        ((0, 0, 1, 2), (0, 5, 5, 5), (0, 4, 1, 3), (1, 2, 2, 2)),
        (6, 6, 7),
        2,
        1,
        2,
        4,
        False,
        1,
    )
    x = tensor_of(case)
    a, b = (
        spnn.Conv3d(2, 4, 3, stride=2, padding=1, bias=False).double(),
        spnn.Conv3d(4, 4, 2, bias=False).double(),
    )
    c = spnn.ConvTranspose3d(4, 3, 3, stride=2, padding=1, output_padding=1, bias=False).double()
    y = c(b(a(x)))
    grid = dense_input(case).detach()
    shape = (3, 3, 3)
    grid = nn.functional.conv3d(grid, a.weight.permute(2, 1, 0).reshape(4, 2, *shape), stride=2, padding=1)
    grid = nn.functional.conv3d(grid, b.weight.permute(2, 1, 0).reshape(4, 4, 2, 2, 2))
    grid = nn.functional.conv_transpose3d(
        grid, c.weight.permute(1, 2, 0).reshape(4, 3, *shape), stride=2, padding=1, output_padding=1
    )
    close(y.dense(), grid)


def test_the_comparison_with_dense_can_fail() -> None:
    right = Case(oracle.make(2, 3, 2, 1), ((0, 1, 1), (0, 2, 4)), (5, 5), 1, 1, 2, 2, True, 3)
    x, layer = tensor_of(right), layer_of(right)
    wrong = layer.weight.detach().flip(0)
    reference = dense_layer(right)
    with torch.no_grad():
        reference.weight.copy_(dense_weight(wrong, right))
    with pytest.raises(AssertionError):
        close(
            layer(x).dense(), _without_bias_elsewhere(reference(dense_input(right)).detach(), layer(x), right)
        )
