# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The networks: sizes, sites, gradients, and scans with nothing or one voxel in them."""

from __future__ import annotations

import copy

import pytest
import torch
from engine import random_tensor

import sparseconv
import sparseconv.nn as spnn
from sparseconv import models


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def tiny(
    n: int, channels: int = 4, batch_size: int = 1, shape: tuple[int, ...] | None = None
) -> sparseconv.SparseTensor:
    coords = torch.tensor([[0, 9, 8, 7]], dtype=torch.int32)[:n]
    return sparseconv.SparseTensor(
        torch.ones(n, channels), coords, batch_size=batch_size, spatial_shape=shape
    )


def check_gradients(net: torch.nn.Module, features: torch.Tensor) -> None:
    assert features.grad is not None and features.grad.isfinite().all()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name


def test_minkunet18_has_the_benchmarks_size() -> None:
    """Planes 32 64 128 256 128 128 96 96 with a 5^3 stem and 4 input features: 15.5 million parameters.

    Counted from the definition of the network, layer by layer, without our modules.
    """
    planes, n_classes = (32, 64, 128, 256, 128, 128, 96, 96), 20
    conv = lambda k, a, b: k**3 * a * b + 2 * b  # noqa: E731  convolution without bias, and its norm
    block = lambda a, b: conv(3, a, b) + conv(3, b, b) + (conv(1, a, b) if a != b else 0)  # noqa: E731
    stage = lambda a, b: block(a, b) + block(b, b)  # noqa: E731
    total, current, skips = conv(5, 4, 32), 32, [32]
    for p in planes[:4]:
        total += conv(2, current, current) + stage(current, p)
        current = p
        skips.append(p)
    skips.pop()
    for p in planes[4:]:
        total += conv(2, current, p) + stage(p + skips.pop(), p)
        current = p
    total += current * n_classes + n_classes
    assert count(models.MinkUNet18(4, n_classes)) == total
    assert 15.4e6 < total < 15.6e6


def test_sizes_grow_with_depth_and_width() -> None:
    sizes = [count(net(4, 20)) for net in (models.MinkUNet14, models.MinkUNet18, models.MinkUNet34)]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3
    half = count(models.MinkUNet18(4, 20, width=0.5))
    assert 0.2 * sizes[1] < half < 0.3 * sizes[1]
    for p in models.MinkUNet14(4, 20, width=0.3).parameters():
        assert p.shape[-1] % 4 == 0  # channels stay multiples of 8 (the classifier has 20)
    with pytest.raises(ValueError, match="width must be positive"):
        models.MinkUNet18(4, 20, width=0)
    with pytest.raises(ValueError, match="depths and planes must have 8 entries, got 3 and 8"):
        models.MinkUNet(4, 20, (1, 1, 1), (8,) * 8)


@pytest.mark.parametrize("net", [models.MinkUNet14, models.MinkUNet18, models.MinkUNet34])
def test_minkunet_scores_every_voxel(net: type[models.MinkUNet]) -> None:
    model = net(4, 7, width=0.25)
    x = random_tensor(3, 400, 4, extent=40, batch_size=2, grad=True)
    y = model(x)
    assert y.sites is x.sites and y.features.shape == (len(x.coords), 7)
    y.features.square().mean().backward()
    check_gradients(model, x.features)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("n", [0, 1])
def test_minkunet_takes_nothing_and_one_voxel(n: int, training: bool) -> None:
    model = models.MinkUNet14(4, 7, width=0.25).train(training)
    before = copy.deepcopy(model.state_dict())
    x = tiny(n, batch_size=3)
    x.features.requires_grad_()
    y = model(x)
    assert y.features.shape == (n, 7) and y.features.isfinite().all()
    y.features.sum().backward()
    check_gradients(model, x.features)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} must not learn from fewer than two rows"


def test_minkunet_does_not_see_the_other_samples_of_a_batch() -> None:
    model = models.MinkUNet14(4, 7, width=0.25).double().eval()
    x = random_tensor(3, 300, 4, extent=24, batch_size=2, dtype=torch.float64)
    both = model(x).features
    for b in range(2):
        rows = x.coords[:, 0] == b
        coords = x.coords[rows].clone()
        coords[:, 0] = 0
        alone = model(sparseconv.SparseTensor(x.features[rows], coords)).features
        torch.testing.assert_close(both[rows], alone, rtol=0, atol=1e-10)


def test_minkunet_loads_its_own_state_and_learns() -> None:
    model, x = models.MinkUNet14(4, 3, width=0.25), random_tensor(3, 300, 4, extent=20)
    labels = (x.coords[:, 1] > 0).long() + (x.coords[:, 2] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(model(x).features, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    other = models.MinkUNet14(4, 3, width=0.25)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x).features, model.eval()(x).features)


# --- VoxelBackbone8x -------------------------------------------------------------------------------------------------


def test_voxel_backbone_has_the_shapes_of_its_reference() -> None:
    model = models.VoxelBackbone8x(4)
    shape = (41, 1600, 1408)
    coords = torch.cat([torch.zeros(500, 1), torch.rand(500, 3) * torch.tensor(shape)], 1).int().unique(dim=0)
    x = sparseconv.SparseTensor(torch.randn(len(coords), 4, requires_grad=True), coords, spatial_shape=shape)
    y, scales = model(x)
    assert y.spatial_shape == (2, 200, 176) and y.stride == (16, 8, 8) and y.features.shape[1] == 128
    assert [(s.spatial_shape, s.features.shape[1]) for s in scales.values()] == [
        ((41, 1600, 1408), 16),
        ((21, 800, 704), 32),
        ((11, 400, 352), 64),
        ((5, 200, 176), 64),
    ]
    assert list(scales) == ["x_conv1", "x_conv2", "x_conv3", "x_conv4"]
    y.features.square().mean().backward()
    check_gradients(model, x.features)
    convs = [m for m in model.modules() if isinstance(m, spnn.SparseConvolution)]
    assert sum(m.weight.numel() for m in convs) == (
        27 * (4 * 16 + 16 * 16 + 16 * 32 + 2 * 32 * 32 + 32 * 64 + 2 * 64 * 64 + 3 * 64 * 64) + 3 * 64 * 128
    )
    assert models.birds_eye_view(y).shape == (1, 256, 200, 176)
    norms = [m for m in model.modules() if isinstance(m, spnn.BatchNorm)]
    assert all(m.eps == 1e-3 and m.momentum == 0.01 for m in norms)
    assert "conv_input.0.weight" in model.state_dict() and "conv2.1.0.weight" in model.state_dict()


@pytest.mark.parametrize("n", [0, 1])
def test_voxel_backbone_takes_nothing_and_one_voxel(n: int) -> None:
    model = models.VoxelBackbone8x(4)
    y, _ = model(tiny(n, batch_size=2, shape=(41, 80, 80)))
    assert y.batch_size == 2 and y.features.isfinite().all()
    y.features.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_voxel_backbone_wants_a_spatial_shape() -> None:
    with pytest.raises(ValueError, match="must have a spatial_shape"):
        models.VoxelBackbone8x(4)(tiny(1))
