# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""sparseconv.fuse: the fused network equals the unfused one, and nothing is folded where that is not certain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from engine import random_tensor
from strategies import close
from torch import nn

import sparseconv
import sparseconv.nn as spnn
from sparseconv import SparseTensor
from sparseconv.models import MinkUNet14, VoxelBackbone8x


def with_statistics(model: nn.Module, seed: int = 3) -> nn.Module:
    """Norms that do something: random statistics, scales and shifts; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                if tensor is not None:
                    with torch.no_grad():
                        tensor.uniform_(low, high, generator=generator)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, spnn.BatchNorm) for module in model.modules())


def unchanged(model: nn.Module) -> None:
    """Fusing leaves every norm of `model` in place."""
    assert norms(model) and norms(sparseconv.fuse(model)) == norms(model)


def scan(channels: int = 4, dtype: torch.dtype = torch.float32) -> SparseTensor:
    return random_tensor(3, 400, channels, extent=12, batch_size=2, dtype=dtype)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "SubMConv3d": lambda: spnn.SubMConv3d(4, 6, 3),
    "no bias": lambda: spnn.SubMConv3d(4, 6, 3, bias=False),
    "groups": lambda: spnn.SubMConv3d(4, 6, 3, groups=2),
    "Conv3d": lambda: spnn.Conv3d(4, 6, 3, stride=2, padding=1, bias=False),
    "ConvTranspose3d": lambda: spnn.ConvTranspose3d(4, 6, 2, stride=2),
    "1x1x1": lambda: spnn.SubMConv3d(4, 6, 1),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}], ids=str)
def test_a_block_equals_its_fusion(name: str, options: dict[str, object]) -> None:
    net = with_statistics(spnn.Sequential(LAYERS[name](), spnn.BatchNorm(6, **options), spnn.ReLU()))
    fused = sparseconv.fuse(net)
    assert norms(net) == 1 and norms(fused) == 0
    a, b = net(scan()), fused(scan())
    assert torch.equal(a.coords, b.coords)
    close(b.features, a.features, 1e-5)
    assert not torch.allclose(net[0](scan()).features, a.features, atol=1e-2)  # the norm does something


def test_sites_without_a_pair_get_the_normed_bias() -> None:
    class OntoTarget(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = spnn.Conv3d(4, 6, 3), spnn.BatchNorm(6)

        def forward(self, x: SparseTensor, target: SparseTensor) -> SparseTensor:
            return self.norm(self.conv(x, target))

    net = with_statistics(OntoTarget())
    fused = sparseconv.fuse(net)
    target = SparseTensor(torch.zeros(1, 1), torch.tensor([[0, 900, 0, 0]], dtype=torch.int32), batch_size=2)
    assert norms(fused) == 0
    close(fused(scan(), target).features, net(scan(), target).features, 1e-5)


def test_minkunet() -> None:
    net = with_statistics(MinkUNet14(4, 5, width=0.25))
    fused = sparseconv.fuse(net)
    assert norms(net) > 30 and norms(fused) == 0
    close(fused(scan()).features, net(scan()).features, 1e-5)


def test_voxel_backbone() -> None:
    net = with_statistics(VoxelBackbone8x(4))
    x = random_tensor(3, 600, 4, extent=41, spatial_shape=(41, 48, 48), batch_size=2)
    fused = sparseconv.fuse(net)
    assert norms(net) == 12 and norms(fused) == 0
    (a, levels), (b, fused_levels) = net(x), fused(x)
    close(b.features, a.features, 1e-5)
    for name, level in levels.items():
        close(fused_levels[name].features, level.features, 1e-5)


def test_the_model_itself_stays_as_it_was() -> None:
    net = with_statistics(spnn.Sequential(spnn.SubMConv3d(4, 6, 3, bias=False), spnn.BatchNorm(6)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    sparseconv.fuse(net)
    assert net[0].bias is None and isinstance(net[1], spnn.BatchNorm)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_containers_inside_containers() -> None:
    """The convolution ends one container, the norm begins the next."""
    net = spnn.Sequential(
        spnn.Sequential(spnn.ReLU(), spnn.Sequential(spnn.SubMConv3d(4, 6, 3))),
        spnn.Sequential(spnn.Sequential(spnn.BatchNorm(6)), nn.ReLU()),
    )
    fused = sparseconv.fuse(with_statistics(net))
    assert norms(fused) == 0
    close(fused(scan()).features, net(scan()).features, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype: torch.dtype) -> None:
    net = with_statistics(spnn.Sequential(spnn.SubMConv3d(4, 6, 3), spnn.BatchNorm(6))).to(dtype)
    fused = sparseconv.fuse(net)
    assert fused[0].weight.dtype == fused[0].bias.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 0.1
    a, b = net(scan(dtype=dtype)).features, fused(scan(dtype=dtype)).features
    close(b.double(), a.double(), tolerance)


def test_state_dicts_and_gradients() -> None:
    def build() -> nn.Module:
        return sparseconv.fuse(
            with_statistics(spnn.Sequential(spnn.SubMConv3d(4, 6, 3, bias=False), spnn.BatchNorm(6)))
        )

    first, second = build(), build()
    second.load_state_dict(first.state_dict())
    assert set(first.state_dict()) == {"0.weight", "0.bias"}
    close(second(scan()).features, first(scan()).features, 0)
    first(scan()).features.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in first.parameters())


def test_pruned_taps_stay() -> None:
    net = with_statistics(spnn.Sequential(spnn.SubMConv3d(4, 6, 3), spnn.BatchNorm(6)))
    conv = net[0]
    conv.taps, conv.weight = conv.taps[::2], nn.Parameter(conv.weight.detach()[::2])
    fused = sparseconv.fuse(net)
    assert norms(fused) == 0 and torch.equal(fused[0].taps, conv.taps)
    close(fused(scan()).features, net(scan()).features, 1e-5)


# --- left alone ------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """conv and norm, put together by a function."""

    def __init__(self, run: Callable[[Net, SparseTensor], SparseTensor]) -> None:
        super().__init__()
        self.conv, self.norm = spnn.SubMConv3d(4, 4, 3), spnn.BatchNorm(4)
        self.other = spnn.BatchNorm(4)
        self.body = spnn.Sequential(spnn.SubMConv3d(4, 4, 3), spnn.BatchNorm(4))
        self.run = run

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.run(self, x)


USES: dict[str, tuple[bool, Callable[[Net, SparseTensor], SparseTensor]]] = {
    # name: (whether `norm` is folded into `conv`, forward)
    "plain": (True, lambda net, x: net.norm(net.conv(x))),
    "conv used twice": (False, lambda net, x: net.norm(net.conv(net.conv(x)))),
    "norm used twice": (False, lambda net, x: net.norm(net.conv(net.norm(x)))),
    "output used twice": (False, lambda net, x: net.norm(y := net.conv(x)) + y),
    "two norms": (False, lambda net, x: net.norm(y := net.conv(x)) + net.other(y)),
    "norm first": (False, lambda net, x: net.conv(net.norm(x))),
    "between": (False, lambda net, x: net.norm(net.conv(x) + x)),
    "a branch on values": (False, lambda net, x: net.norm(net.conv(x)) if len(x) > 3 else x),
    "weights by hand": (
        False,
        lambda net, x: net.norm(net.conv(x.replace(x.features * net.conv.weight.sum()))),
    ),
    "features by hand": (False, lambda net, x: net.norm(x.replace(net.conv(x).features * 2))),
    "joined": (True, lambda net, x: sparseconv.cat([net.norm(net.conv(x)), x])),
    "a type check": (
        False,
        lambda net, x: (
            net.norm(y := net.conv(x)) + y if isinstance(x, SparseTensor) else net.norm(net.conv(x))
        ),
    ),
}


@pytest.mark.parametrize("name", USES)
def test_only_certain_pairs_are_folded(name: str) -> None:
    folded, run = USES[name]
    net = with_statistics(Net(run))
    fused = sparseconv.fuse(net)
    assert isinstance(fused.norm, spnn.Identity) == folded
    close(fused(scan()).features, net(scan()).features, 1e-5)


def test_a_convolution_that_is_also_called_from_outside_its_container() -> None:
    net = with_statistics(Net(lambda net, x: net.body[0](net.body(x))))
    unchanged(net)
    assert norms(sparseconv.fuse(with_statistics(Net(lambda net, x: net.body(x))))) == norms(net) - 1


def block() -> spnn.Sequential:
    return with_statistics(spnn.Sequential(spnn.SubMConv3d(4, 4, 3), spnn.BatchNorm(4)))


def test_norms_in_training_mode_or_without_statistics() -> None:
    net = block()
    net[1].train()
    unchanged(net)
    unchanged(spnn.Sequential(spnn.SubMConv3d(4, 4, 3), spnn.BatchNorm(4, track_running_stats=False)).eval())
    assert norms(sparseconv.fuse(block())) == 0  # the same without these is folded


def test_shared_modules() -> None:
    conv, first, second = spnn.SubMConv3d(4, 4, 3), spnn.BatchNorm(4), spnn.BatchNorm(4)
    net = with_statistics(spnn.Sequential(conv, first, conv, second))
    unchanged(net)
    inner = block()  # called twice as a whole: each time the same norm follows
    twice = spnn.Sequential(inner, inner)
    assert norms(sparseconv.fuse(twice)) == 0
    close(sparseconv.fuse(twice)(scan()).features, twice(scan()).features, 1e-5)
    shared = with_statistics(
        spnn.Sequential(spnn.SubMConv3d(4, 4, 3), first, spnn.SubMConv3d(4, 4, 3), first)
    )
    assert norms(sparseconv.fuse(shared)) == 1


def test_a_shared_weight_keeps_its_value_elsewhere() -> None:
    net = with_statistics(
        spnn.Sequential(spnn.SubMConv3d(4, 4, 3), spnn.BatchNorm(4), spnn.SubMConv3d(4, 4, 3))
    )
    net[2].weight = net[0].weight
    fused = sparseconv.fuse(net)
    assert norms(fused) == 0
    close(fused(scan()).features, net(scan()).features, 1e-5)


def test_hooks_and_parametrizations() -> None:
    for place in (0, 1):
        net = block()
        net[place].register_forward_hook(lambda module, inputs, output: None)
        unchanged(net)
    net = block()
    nn.utils.parametrizations.weight_norm(net[0])
    unchanged(net)


def test_subclasses_that_do_more() -> None:
    class Doubled(spnn.SubMConv3d):
        def forward(self, x: SparseTensor, target: SparseTensor | None = None) -> SparseTensor:
            y = super().forward(x, target)
            return y.replace(y.features * 2)

    unchanged(with_statistics(spnn.Sequential(Doubled(4, 4, 3), spnn.BatchNorm(4))))


def test_a_module_without_norms() -> None:
    layer = spnn.SubMConv3d(4, 4, 3)
    fused = sparseconv.fuse(layer)
    assert fused is not layer
    close(fused(scan()).features, layer(scan()).features, 0)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = spnn.Sequential(spnn.SubMConv3d(4, 4, 3, bias=False), spnn.BatchNorm(4))
        self.inner, self.last = spnn.ReLU(), spnn.ReLU()

    def forward(self, x: SparseTensor) -> SparseTensor:
        y = self.body(x)
        return self.last(self.inner(y) + y)  # y is read twice: the inner ReLU may not overwrite it


def test_relus_overwrite_only_what_nobody_else_reads() -> None:
    net = with_statistics(Residual())
    fused = sparseconv.fuse(net)
    assert not net.last.inplace and fused.last.inplace and not fused.inner.inplace
    x = scan()
    before = x.features.clone()
    close(fused(x).features, net(x).features, 1e-5)
    assert torch.equal(x.features, before)
    block = with_statistics(spnn.Sequential(spnn.SubMConv3d(4, 4, 3), spnn.BatchNorm(4), spnn.ReLU()))
    assert sparseconv.fuse(block)[2].inplace
    first = with_statistics(spnn.Sequential(spnn.ReLU(), spnn.SubMConv3d(4, 4, 3), spnn.BatchNorm(4)))
    assert not sparseconv.fuse(first)[0].inplace  # its input is the caller's


def test_gradients_flow_through_relus_in_place() -> None:
    net = with_statistics(MinkUNet14(4, 3, width=0.25))
    x = scan()
    expected = torch.autograd.grad(net(x).features.square().sum(), net.classifier.weight)[0]
    fused = sparseconv.fuse(net)
    assert any(isinstance(m, spnn.ReLU) and m.inplace for m in fused.modules())
    close(torch.autograd.grad(fused(x).features.square().sum(), fused.classifier.weight)[0], expected, 1e-4)
