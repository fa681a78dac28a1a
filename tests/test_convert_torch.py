# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""torch's layers as ours and back: equal by value on dense grids, and a clear error where there is no counterpart."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

import sparseconv
import sparseconv.nn as spnn
from sparseconv import convert


def full_grid(grid: torch.Tensor) -> sparseconv.SparseTensor:
    """A dense [B, C, *shape] as a tensor on which every cell is a site."""
    shape = grid.shape[2:]
    coords = torch.cartesian_prod(torch.arange(grid.shape[0]), *map(torch.arange, shape)).int()
    features = grid.movedim(1, -1).reshape(-1, grid.shape[1])
    return sparseconv.SparseTensor(features, coords, spatial_shape=tuple(shape), batch_size=grid.shape[0])


SHAPE = (6, 7, 5)
DENSE_LAYERS = [
    lambda d: (f"Conv{d}d", (4, 6, 3), {}),
    lambda d: (f"Conv{d}d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}),
    lambda d: (f"Conv{d}d", (4, 6, 2), {"dilation": 2, "padding": 2, "bias": False}),
    lambda d: (f"Conv{d}d", (4, 6, 3), {"padding": "same", "dilation": 2}),
    lambda d: (f"Conv{d}d", (4, 6, 3), {"padding": "valid"}),
    lambda d: (f"Conv{d}d", (4, 4, 1), {"groups": 4}),
    lambda d: (f"ConvTranspose{d}d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    lambda d: (
        f"ConvTranspose{d}d",
        (4, 6, 2),
        {"stride": 3, "dilation": 2, "groups": 2, "output_padding": 2},
    ),
    lambda d: (f"MaxPool{d}d", (3,), {"stride": 2, "padding": 1}),
    lambda d: (f"MaxPool{d}d", (2,), {"dilation": 2, "stride": 1}),
    lambda d: (f"AvgPool{d}d", (3,), {"stride": 2, "padding": 1}),
    lambda d: (f"AvgPool{d}d", (2,), {}),
]


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("number", range(len(DENSE_LAYERS)))
def test_layers_from_torch_compute_what_torch_computes(ndim: int, number: int) -> None:
    name, args, options = DENSE_LAYERS[number](ndim)
    dense = getattr(nn, name)(*args, **options).double().eval()
    layer = convert.from_torch(dense)
    assert type(layer) is getattr(spnn, name) and not layer.training
    grid = torch.randn(2, 4, *SHAPE[:ndim], dtype=torch.float64)
    want = dense(grid)
    y = layer(full_grid(grid))
    assert tuple(y.spatial_shape) == tuple(want.shape[2:])
    at = (y.coords[:, 0].long(), slice(None), *y.coords[:, 1:].long().T)
    torch.testing.assert_close(y.features, want[at], rtol=0, atol=1e-10)
    if "ConvTranspose" not in name or not options.get("output_padding"):  # an enlarged border has no site
        assert len(y.coords) == want[:, 0].numel()
    back = convert.to_torch(layer)
    assert type(back) is type(dense) and torch.equal(back(grid), want)


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding"), [(3, 1, 1), (3, 2, "same"), (2, 1, "same"), (4, 1, "same")]
)
def test_submanifold_layers_from_torch(kernel: int, dilation: int, padding: object) -> None:
    dense = nn.Conv3d(4, 6, kernel, dilation=dilation, padding=padding, groups=2).double()
    layer = convert.from_torch(dense, submanifold=True)
    assert type(layer) is spnn.SubMConv3d
    grid = torch.randn(2, 4, *SHAPE, dtype=torch.float64)
    x = full_grid(grid)
    want = full_grid(dense(grid)).features
    torch.testing.assert_close(layer(x).features, want, rtol=0, atol=1e-10)
    torch.testing.assert_close(convert.to_torch(layer)(grid), dense(grid), rtol=0, atol=1e-12)


def test_converted_layers_are_copies_with_the_same_settings() -> None:
    dense = nn.Conv2d(4, 6, 3).bfloat16().eval()
    dense.weight.requires_grad_(False)
    layer = convert.from_torch(dense)
    assert layer.weight.dtype == torch.bfloat16 and not layer.training
    assert not layer.weight.requires_grad and layer.bias.requires_grad
    with torch.no_grad():
        layer.bias.zero_()
    assert dense.bias.abs().sum() > 0
    norm = nn.BatchNorm3d(4, momentum=0.2, eps=1e-3)
    ours = convert.from_torch(norm)
    ours.weight.data.fill_(3)
    assert type(ours) is spnn.BatchNorm and ours.momentum == 0.2 and norm.weight.max() == 1
    assert type(convert.to_torch(ours)) is nn.BatchNorm1d


def test_whole_sequences_from_torch() -> None:
    dense = nn.Sequential(
        nn.Conv3d(4, 6, 3, padding=1, bias=False),
        nn.BatchNorm3d(6),
        nn.LeakyReLU(0.2),
        nn.Sequential(nn.Conv3d(6, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8), nn.GELU()),
        nn.MaxPool3d(2),
        nn.ConvTranspose3d(8, 4, 2, stride=2),
        nn.InstanceNorm3d(4, affine=True),
    ).double()
    for p in dense.parameters():
        nn.init.normal_(p, std=0.5)
    grid = torch.randn(2, 4, *SHAPE, dtype=torch.float64)
    layer = convert.from_torch(dense)
    want = dense(grid)  # training mode: on a full grid our norms see every cell, as torch's do
    y = layer(full_grid(grid))
    torch.testing.assert_close(y.dense(), want, rtol=0, atol=1e-10)
    torch.testing.assert_close(layer[1].running_mean, dense[1].running_mean)
    assert layer.state_dict().keys() == dense.state_dict().keys()
    back = convert.to_torch(layer)
    assert [type(m) for m in back.modules()] == [type(m) for m in dense.modules()]
    torch.testing.assert_close(back.eval()(grid), dense.eval()(grid), rtol=0, atol=1e-10)
    head = spnn.Sequential(spnn.SubMConv3d(4, 6, 3), spnn.Linear(6, 2), spnn.SiLU()).double()
    torch.testing.assert_close(
        convert.to_torch(head)(grid), head(full_grid(grid)).dense(), rtol=0, atol=1e-10
    )
    assert type(convert.to_torch(head[1])) is nn.Linear
    kinds = [type(m).__name__ for m in convert.from_torch(dense, submanifold=True).modules()]
    assert "SubMConv3d" in kinds and "Conv3d" in kinds, "a strided convolution stays one"


NO_COUNTERPART = [
    (nn.Conv3d(1, 1, 3, padding=1, padding_mode="circular"), 'padding_mode="circular"'),
    (nn.Conv3d(1, 1, 2, padding="same"), "pads the two ends differently"),
    (nn.MaxPool3d(2, ceil_mode=True), "ceil_mode=True"),
    (nn.MaxPool3d(2, return_indices=True), "return_indices=True"),
    (nn.AvgPool3d(2, divisor_override=3), "divisor_override"),
    (nn.AvgPool3d(3, padding=1, count_include_pad=False), "count_include_pad=False"),
    (nn.Sequential(nn.Conv3d(1, 1, 3), nn.Linear(4, 4)), "Linear among convolutions works on the last axis"),
    (nn.LayerNorm((4, 4)), "LayerNorm must normalise the channels alone"),
    (nn.InstanceNorm3d(4, track_running_stats=True), "track_running_stats=True"),
]


@pytest.mark.parametrize(("module", "message"), NO_COUNTERPART)
def test_settings_without_counterpart_raise(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert.from_torch(module)


def test_layers_without_counterpart_raise() -> None:
    with pytest.raises(TypeError, match="LSTM has no sparse counterpart"):
        convert.from_torch(nn.Sequential(nn.ReLU(), nn.LSTM(2, 2)))
    with pytest.raises(ValueError, match=r"needs padding \(1, 1, 1\), got \(0, 0, 0\)"):
        convert.from_torch(nn.Conv3d(1, 1, 3), submanifold=True)
    with pytest.raises(TypeError, match="GlobalMaxPool has no dense counterpart"):
        convert.to_torch(spnn.GlobalMaxPool())
    with pytest.raises(ValueError, match="at most 3 axes"):
        convert.to_torch(spnn.Conv4d(1, 1, 3))
    for layer in (spnn.Conv3d(1, 1, 2, anchor="minkowski"), spnn.MaxPool3d(2, anchor="minkowski")):
        with pytest.raises(ValueError, match='anchor="minkowski" has no dense counterpart'):
            convert.to_torch(layer)
    with pytest.raises(ValueError, match="LayerNorm has no dense counterpart on a grid"):
        convert.to_torch(spnn.Sequential(spnn.Conv3d(1, 4, 3), spnn.LayerNorm(4)))
    with pytest.raises(ValueError, match='count="kernel"'):
        convert.to_torch(spnn.AvgPool3d(2))


def test_pruned_taps_come_out_as_zeros() -> None:
    layer = spnn.SubMConv2d(3, 4, 3)
    keep = torch.tensor([0, 4, 7])
    full = layer.weight.detach().clone()
    layer.taps, layer.weight = layer.taps[keep], nn.Parameter(full[keep])
    dense = convert.to_torch(layer)
    want = torch.zeros_like(full)
    want[keep] = full[keep]
    assert torch.equal(dense.weight, want.permute(2, 1, 0).reshape(4, 3, 3, 3))
