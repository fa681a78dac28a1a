# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""How long networks take on whole sweeps: end to end with their maps, and their convolutions alone; what they compute."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from pruning_training import make_network
from sparseconv.pruning import analyze
from timing import Budget, Spread, Task, Timings, interleave, ratios
from torch import nn

from sparseconv import SparseTensor

WIDE = 32  # kept channels from which a layer counts as wide
DENSE = "dense"


def conv_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The convolution layers by name."""
    return {name: module for name, module in network.named_modules() if hasattr(module, "kernel_size")}


def fresh(x: SparseTensor) -> SparseTensor:
    """The same voxels without their kernel maps."""
    return SparseTensor(x.features, x.coords, batch_size=1)


def end_to_end(networks: Mapping[str, nn.Module], x: SparseTensor, rounds: int) -> Timings:
    """Inference of each network on a tensor without maps, interleaved."""

    def task(network: nn.Module) -> Task:
        network.eval()
        return Task(torch.no_grad()(network), lambda: fresh(x))

    budget = Budget(rounds, seconds=float("inf"), least=rounds)
    return interleave({name: task(network) for name, network in networks.items()}, budget)


@dataclass(frozen=True)
class Work:
    """What one convolution layer does on a sweep."""

    macs: float  # of weights that are not zero
    channels: int  # the smaller of its channels in and out

    @property
    def wide(self) -> bool:
        """Whether it belongs to the wide layers."""
        return self.channels >= WIDE


def recorded_calls(network: nn.Module, x: SparseTensor) -> dict[str, tuple[Any, ...]]:
    """What every convolution layer is called with in one inference; the tensors keep their kernel maps."""
    calls: dict[str, tuple[Any, ...]] = {}
    handles = []
    for name, layer in conv_layers(network).items():

        def keep(_module: nn.Module, arguments: tuple[Any, ...], name: str = name) -> None:
            calls[name] = arguments

        handles.append(layer.register_forward_pre_hook(keep))
    try:
        with torch.no_grad():
            network.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def work_of(network: nn.Module, x: SparseTensor) -> dict[str, Work]:
    """The work of every convolution layer on a sweep: pairs times weights that are not zero, tap by tap."""
    convs, found = conv_layers(network), {}
    for layer in analyze(network, [fresh(x)], verify=False).layers.values():
        if layer.name in convs and layer.pairs is not None:
            weight: Any = convs[layer.name].weight
            used = (weight.detach() != 0).sum(dim=(1, 2)).double()
            macs = float((layer.pairs * used).sum())
            found[layer.name] = Work(macs, min(weight.shape[1], weight.shape[2]))
    return found


LayerSeconds = dict[str, dict[str, list[float]]]  # network -> layer -> seconds, an entry a round


def convolutions(networks: Mapping[str, nn.Module], x: SparseTensor, rounds: int) -> LayerSeconds:
    """Every convolution layer of each network on the inputs it has in the network, maps at hand; networks interleaved."""
    layers, calls = {}, {}
    for name, network in networks.items():
        layers[name], calls[name] = conv_layers(network), recorded_calls(network, fresh(x))
    seconds: LayerSeconds = {name: {layer: [] for layer in calls[name]} for name in networks}
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad():
            for done in range(rounds + 1):
                for name in networks:
                    for layer, arguments in calls[name].items():
                        start = time.perf_counter()
                        kept = layers[name][layer](*arguments)
                        spent = time.perf_counter() - start
                        del kept
                        if done:  # the first round warms up
                            seconds[name][layer].append(spent)
    finally:
        gc.enable()
    return seconds


@dataclass(frozen=True)
class Gain:
    """Times faster than the dense network, and how many times fewer multiply-accumulates."""

    faster: Spread
    fewer: float

    @property
    def efficiency(self) -> float:
        """The part of the saved work that was saved in time."""
        return self.faster.median / self.fewer


def layer_gain(
    seconds: LayerSeconds,
    work: Mapping[str, Mapping[str, Work]],
    name: str,
    chosen: Callable[[Work], bool],
) -> Gain | None:
    """The gain of a network in the layers that `chosen` picks by what is left of them; None where it picks none."""
    layers = [layer for layer, w in work[name].items() if layer in work[DENSE] and chosen(w)]
    if not layers:
        return None

    def rounds(network: str) -> list[float]:
        return [sum(parts) for parts in zip(*(seconds[network][layer] for layer in layers), strict=True)]

    pairs = zip(rounds(DENSE), rounds(name), strict=True)
    before, after = (sum(work[n][layer].macs for layer in layers) for n in (DENSE, name))
    return Gain(Spread.of([a / b for a, b in pairs]), before / max(after, 1.0))


def channels_of(width: float) -> tuple[int, ...]:
    """The channels of a MinkUNet18, layer by layer."""
    return tuple(int(layer.weight.shape[2]) for layer in _convs(width) if hasattr(layer, "weight"))


def _convs(width: float) -> list[Any]:
    with torch.device("meta"):
        return list(conv_layers(make_network(width, 0)).values())


def widths_below(width: float) -> list[float]:
    """Widths up to `width`, lowest first, one for each set of channels a MinkUNet18 can have."""
    found: dict[tuple[int, ...], float] = {}
    for step in range(4, round(width * 64) + 1):
        found.setdefault(channels_of(step / 64), step / 64)
    found.setdefault(channels_of(width), width)
    return sorted(found.values())


def width_as_fast_as(network: nn.Module, x: SparseTensor, widest: float, rounds: int) -> tuple[float, float]:
    """The width at which a dense MinkUNet18 takes as long as `network`, end to end, and its time over the network's.

    Halves the list of widths; every comparison is interleaved.
    """
    widths = widths_below(widest)
    low, high = 0, len(widths) - 1
    measured: dict[int, float] = {}

    def compare(place: int) -> float:
        if place not in measured:
            pair = {"row": network, "candidate": make_network(widths[place], 0).eval()}
            measured[place] = ratios(end_to_end(pair, x, rounds), "candidate", "row").median
        return measured[place]

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if compare(middle) < 1 else (low, middle)
    best = min((low, high), key=lambda place: abs(compare(place) - 1))
    return widths[best], measured[best]


def milliseconds(timings: Timings, name: str) -> float:
    """The median of a network's time."""
    return 1e3 * median(timings.seconds[name])
