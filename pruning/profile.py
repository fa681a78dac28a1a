# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Counting and measuring: exact multiply-accumulates, parameters, bytes, and milliseconds of networks side by side."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ..formats import PackedLayer, to_dense
from .analysis import analyze
from .calls import Forward, call, evaluating
from .columns import aligned
from .storage import size_in_bytes


@dataclass(frozen=True)
class LayerProfile:
    """One layer of one network, per scan: multiply-accumulates, parameters and the milliseconds of its calls (maps cached)."""

    name: str
    macs: float
    parameters: int
    milliseconds: float


@dataclass(frozen=True)
class NetworkProfile:
    """One network, per scan.

    Attributes:
        macs: multiply-accumulates, exact: the sum over taps of pairs * C_in * C_out / groups, plus linear and dense layers.
        parameters, nonzero, size: number of parameters, of those that are not zero, bytes of the state dict.
        milliseconds: median of the whole network, kernel maps built anew.
        cached: median of the whole network, kernel maps at hand.
        layers: those with weights, in the order of their calls.
        convolutions: sum of the layers' milliseconds.
    """

    name: str
    macs: float
    parameters: int
    nonzero: int
    size: int
    milliseconds: float
    cached: float
    layers: tuple[LayerProfile, ...]

    @property
    def convolutions(self) -> float:
        """Milliseconds spent in layers with weights."""
        return sum(layer.milliseconds for layer in self.layers)


@dataclass(frozen=True)
class Profile:
    """Networks measured in one run, in turns; the first is what the others are compared with."""

    networks: tuple[NetworkProfile, ...]
    threads: int

    def speedup(self, name: str) -> float:
        """How many times faster than the first, maps included."""
        return self.networks[0].milliseconds / self[name].milliseconds

    def efficiency(self, name: str) -> float:
        """Time ratio over ratio of multiply-accumulates, end to end: 1 where all that was saved became time."""
        return self.speedup(name) / (self.networks[0].macs / self[name].macs)

    def convolution_efficiency(self, name: str) -> float:
        """The same for the layers with weights alone."""
        saved = self.networks[0].macs / self[name].macs
        return self.networks[0].convolutions / self[name].convolutions / saved

    def __getitem__(self, name: str) -> NetworkProfile:
        for network in self.networks:
            if network.name == name:
                return network
        raise KeyError(f"no network {name!r}; there are {[n.name for n in self.networks]}")

    def to_data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        head = (
            "network",
            "GMACs",
            "M params",
            "non-zero",
            "MB",
            "ms",
            "ms, maps kept",
            "ms in layers",
            "faster",
            "efficiency",
        )
        rows = [head]
        for n in self.networks:
            rows.append(
                (n.name, f"{n.macs / 1e9:.2f}", f"{n.parameters / 1e6:.2f}", f"{n.nonzero / max(n.parameters, 1):.0%}",
                 f"{n.size / 1e6:.1f}", f"{n.milliseconds:.1f}", f"{n.cached:.1f}", f"{n.convolutions:.1f}",
                 f"{self.speedup(n.name):.2f}", f"{self.efficiency(n.name):.2f}")
            )  # fmt: skip
        return "\n".join([f"{self.threads} threads", *aligned(rows), "", self.layer_table()])

    def layer_table(self) -> str:
        """Multiply-accumulates and milliseconds of every layer of every network."""
        names = list(dict.fromkeys(layer.name for n in self.networks for layer in n.layers))
        rows = [["layer", *(f"{n.name} {what}" for n in self.networks for what in ("MMACs", "ms"))]]
        for name in names:
            row = [name]
            for n in self.networks:
                layer = next((x for x in n.layers if x.name == name), None)
                row += (
                    ["-", "-"] if layer is None else [f"{layer.macs / 1e6:.1f}", f"{layer.milliseconds:.2f}"]
                )
            rows.append(row)
        return "\n".join(aligned(rows))


def profile(
    models: nn.Module | Mapping[str, nn.Module],
    scans: Iterable[Any],
    *,
    forward: Forward | None = None,
    rounds: int = 7,
    warmup: int = 1,
) -> Profile:
    """Counts and measures networks on scans, in evaluation mode, with torch's present number of threads.

    Every round runs every network once on every scan, in turns, so that a slow spell of the machine hits all of them.

    Args:
        models: a network, or networks by name; the first is what the others are compared with.
        scans: inputs as for `analyze`; kernel maps kept with their tensors are forgotten.
        forward: (model, scan) -> outputs, where a scan is no plain input.
        rounds, warmup: rounds that count, and rounds before them that do not.

    Raises:
        ValueError: without a network, a scan or a round.
    """
    named = {"network": models} if isinstance(models, nn.Module) else dict(models)
    scans = list(scans)
    if not named or not scans or rounds < 1:
        raise ValueError(
            f"profile takes networks, scans and rounds, got {len(named)}, {len(scans)} and {rounds}"
        )
    # Packed weights are counted as what they stand for.
    dense = {
        name: to_dense(m) if any(isinstance(x, PackedLayer) for x in m.modules()) else m
        for name, m in named.items()
    }
    counted = {name: analyze(m, scans, forward=forward, verify=False) for name, m in dense.items()}
    clocks = {
        name: _Clock(m, [layer.name for layer in counted[name].layers.values()]) for name, m in named.items()
    }
    fresh: dict[str, list[float]] = {name: [] for name in named}
    cached: dict[str, list[float]] = {name: [] for name in named}
    inner: dict[str, list[dict[str, float]]] = {name: [] for name in named}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(warmup + rounds):
            gc.collect(0)
            for name, model in named.items():
                times = _round(model, scans, forward, clocks[name])
                if number >= warmup:
                    fresh[name].append(times[0])
                    cached[name].append(times[1])
                    inner[name].append(times[2])
    finally:
        if collecting:
            gc.enable()
    networks = []
    for name, model in named.items():
        layers = []
        for layer in counted[name].layers.values():
            module = dense[name].get_submodule(layer.name) if layer.name != layer.weight else model
            ms = median(times.get(layer.name, 0.0) for times in inner[name])
            layers.append(
                LayerProfile(layer.name, layer.macs, sum(p.numel() for p in module.parameters(False)), ms)
            )
        networks.append(
            NetworkProfile(
                name,
                counted[name].macs,
                sum(p.numel() for p in dense[name].parameters()),
                sum(int(p.count_nonzero()) for p in dense[name].parameters()),
                size_in_bytes(model),
                median(fresh[name]),
                median(cached[name]),
                tuple(layers),
            )
        )
    return Profile(tuple(networks), torch.get_num_threads())


def _round(
    model: nn.Module, scans: Sequence[Any], forward: Forward | None, clock: _Clock
) -> tuple[float, float, dict[str, float]]:
    """Milliseconds per scan: maps built anew, maps kept, and of every layer."""
    fresh = cached = 0.0
    clock.seconds.clear()
    with evaluating(model):
        for scan in scans:
            forget_maps(scan)
            fresh += _seconds(model, scan, forward)
            cached += _seconds(model, scan, forward)
            with clock:
                call(model, scan, forward)
            forget_maps(scan)
    share = 1000 / len(scans)
    return fresh * share, cached * share, {name: s * share for name, s in clock.seconds.items()}


def _seconds(model: nn.Module, scan: Any, forward: Forward | None) -> float:
    start = time.perf_counter()
    kept = call(model, scan, forward)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    del kept
    return seconds


def forget_maps(scan: Any) -> None:
    """Forgets the kernel maps kept with the tensors of a scan, in whatever it holds them."""
    for leaf in tree_leaves(scan, is_leaf=_keeps_maps):
        if _keeps_maps(leaf):
            leaf.clear_cache()
        else:
            for inner in getattr(leaf, "__dict__", {}).values():
                if _keeps_maps(inner):
                    inner.clear_cache()


def _keeps_maps(value: Any) -> bool:
    """Whether a value is a SparseTensor, or the drop-in's SparseConvTensor."""
    return hasattr(value, "features") and hasattr(value, "clear_cache")


class _Clock:
    """While active, adds up the seconds that some modules take."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._modules = {name: m for name, m in model.named_modules() if name in names and name}
        self.seconds: dict[str, float] = {}
        self._handles: list[Any] = []
        self._started: list[float] = []

    def __enter__(self) -> None:
        for name, module in self._modules.items():
            self._handles.append(
                module.register_forward_pre_hook(lambda *_: self._started.append(time.perf_counter()))
            )
            self._handles.append(module.register_forward_hook(self._stop(name)))

    def _stop(self, name: str) -> Any:
        def note(*_: Any) -> None:
            took = time.perf_counter() - self._started.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + took

        return note

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._started.clear()
