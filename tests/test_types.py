# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Element types: bfloat16 storage, autocast as for torch's layers, second derivatives."""

from __future__ import annotations

import copy

import pytest
import torch
from engine import random_tensor
from instruction_sets import BEST
from strategies import same_bits

import sparseconv
import sparseconv.nn as spnn


@pytest.mark.parametrize(
    "channels", [1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 64, 96, 100, 128, 130, 300], ids=str
)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SubMConv3d", {"kernel_size": 3}),
        ("SubMConv3d", {"kernel_size": 1}),
        ("Conv3d", {"kernel_size": 2, "stride": 2}),
        ("SubMConv3d", {"kernel_size": 3, "groups": 2}),
    ],
    ids=["submanifold", "1x1", "strided", "groups"],
)
def test_a_bfloat16_layer_is_the_float32_layer_rounded(
    kind: str, options: dict[str, int], channels: int
) -> None:
    """Products of bfloat16 are exact and the sums are the same, so not one bit differs from float32 sums rounded once.

    Of a pair of input channels the odd one is summed first, on every instruction set. A matrix unit's sums differ in their last
    bits, so that a rounded one may lie one further.
    """
    groups = options.get("groups", 1)
    x = random_tensor(3, 700, channels * groups, extent=10)
    narrow = getattr(spnn, kind)(channels * groups, 24 * groups, **options).bfloat16()
    wide = copy.deepcopy(narrow).float()
    rounded = x.features.bfloat16()
    got = narrow(x.replace(rounded)).features
    order = torch.tensor([i ^ 1 if i ^ 1 < channels else i for i in range(channels)])
    wide.weight.data = wide.weight.data[:, order].contiguous()
    swapped = rounded.float().reshape(-1, groups, channels)[:, :, order].reshape(len(rounded), -1)
    want = wide(x.replace(swapped)).features.detach()
    if BEST == "amx" and channels >= 16 and channels % 2 == 0:
        assert ((got - want).abs() <= 2**-8 * want.abs() + 1e-5).all()
    else:
        same_bits(got.detach(), want.bfloat16())
    if narrow.weight.shape[0] == 1:  # one tap is a plain product
        exact = rounded.double() @ narrow.weight[0].detach().double() + narrow.bias.detach().double()
        assert ((got - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()


@pytest.mark.parametrize("kind", ["SubMConv3d", "Conv3d", "ConvTranspose3d"])
def test_bfloat16_is_stored_and_accumulated_in_float32(kind: str) -> None:
    x = random_tensor(3, 400, 64, extent=8)
    layer = getattr(spnn, kind)(64, 32, 3).bfloat16()
    rounded = x.features.bfloat16()
    y = layer(x.replace(rounded))
    assert y.features.dtype == torch.bfloat16
    wide = copy.deepcopy(layer).float()
    expected = wide(x.replace(rounded.float())).features.detach()
    worst = (y.features.float() - expected).abs().max() / expected.abs().max()
    assert worst < 2**-8  # one rounding to 8 bits at the end; bfloat16 sums would lose many
    features = rounded.clone().requires_grad_()
    layer(x.replace(features)).features.float().square().mean().backward()
    assert features.grad.dtype == torch.bfloat16 and layer.weight.grad.dtype == torch.bfloat16
    assert torch.isfinite(layer.weight.grad).all()


def test_autocast_behaves_as_for_torch_layers() -> None:
    """bfloat16 out, float32 parameters and gradients, float64 untouched, off inside a disabled region."""
    dense, ours = torch.nn.Conv3d(8, 8, 3, padding=1), spnn.SubMConv3d(8, 8, 3)
    x = random_tensor(3, 200, 8, extent=7, spatial_shape=(7, 7, 7), grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = dense(x.dense())
        y = ours(x)
        assert y.features.dtype == theirs.dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert ours(x).features.dtype == torch.float32
        wide = copy.deepcopy(ours).double()(x.to(torch.float64)).features.dtype
        assert wide == copy.deepcopy(dense).double()(x.dense().double()).dtype == torch.float64
    y.features.float().sum().backward()
    assert ours.weight.grad.dtype == torch.float32 and ours.bias.grad.dtype == torch.float32
    assert x.features.grad.dtype == torch.float32
    exact = ours(x).features
    worst = (y.features.float() - exact).abs().max() / exact.abs().max()
    assert 0 < worst < 0.02


def test_second_derivatives() -> None:
    """Gradient penalties need them; dense torch layers have them."""
    x = random_tensor(2, 12, 2, extent=5, dtype=torch.float64, grad=True)
    for layer in (
        spnn.SubMConv2d(2, 2, 3).double(),
        spnn.Conv2d(2, 2, 2, stride=2).double(),
        spnn.AvgPool2d(2),
    ):
        inputs = (x.features, *layer.parameters())
        assert torch.autograd.gradgradcheck(
            lambda f, *_, layer=layer: layer(x.replace(f)).features, inputs, raise_exception=True
        )


@pytest.mark.parametrize("name", ["MaxPool3d", "AvgPool3d", "Unpool3d"])
def test_bfloat16_pools(name: str) -> None:
    x = random_tensor(3, 400, 9, extent=8)
    rounded = x.features.bfloat16().requires_grad_()
    layer = getattr(spnn, name)(3, stride=2)
    out = layer(x.replace(rounded)).features
    expected = layer(x.replace(rounded.detach().float())).features
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected.bfloat16()), "a mean is rounded once, after its division"
    out.float().sum().backward()
    assert rounded.grad.dtype == torch.bfloat16 and torch.isfinite(rounded.grad).all()


def test_voxelize_in_bfloat16_and_back() -> None:
    points = torch.rand(3000, 3)
    x, index = sparseconv.voxelize(points, torch.ones(3000, 2).bfloat16(), voxel_size=0.2)
    assert x.features.dtype == torch.bfloat16
    assert (x.features.float() - 1).abs().max() < 2**-7  # hundreds of ones: a bfloat16 sum would stop at 256
    assert torch.equal(sparseconv.devoxelize(x, index), x.features[index])
    features = torch.rand(3000, 2).bfloat16()
    x, _ = sparseconv.voxelize(points, features, voxel_size=0.5)
    wide, _ = sparseconv.voxelize(points, features.float(), voxel_size=0.5)
    assert torch.equal(x.features, wide.features.bfloat16())
    pool = spnn.GlobalAvgPool()
    assert torch.equal(pool(wide.replace(x.features)), pool(wide.replace(x.features.float())).bfloat16())


def test_sums_and_cat_promote_types() -> None:
    """As torch's own: a residual block under autocast adds bfloat16 to float32, on one set of sites or two."""
    x = random_tensor(3, 60, 4, extent=6)
    again = sparseconv.SparseTensor(x.features, x.coords, batch_size=x.batch_size)
    shifted = sparseconv.SparseTensor(
        x.features, x.coords + torch.tensor([0, 1, 0, 0]).int(), batch_size=x.batch_size
    )
    for other in (x, again, shifted):
        assert (x.to(torch.bfloat16) + other).features.dtype == torch.float32
        assert (x + other.to(torch.float64)).features.dtype == torch.float64
    assert sparseconv.cat([x.to(torch.bfloat16), again]).features.dtype == torch.float32


def test_a_bfloat16_sum_would_be_seen() -> None:
    """The bound above fails for products that are summed in bfloat16."""
    x, w = torch.randn(200, 1728).bfloat16(), torch.randn(1728).bfloat16()
    exact, total = (x.float() @ w.float()), torch.zeros(200, dtype=torch.bfloat16)
    for column in range(x.shape[1]):
        total = total + x[:, column] * w[column]
    assert (total.float() - exact).abs().max() / exact.abs().max() > 2**-8
