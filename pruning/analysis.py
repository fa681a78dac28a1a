# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What a network does on real scans: its layers' work, the maps they share, the channels that hang together."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .. import SparseTensor
from .. import nn as snn
from .calls import CONV, LINEAR, MATRIX, Call, Forward, call, evaluating, read_as_matrix
from .channel_ids import ChannelIds
from .coupling import channel_groups
from .follow import Axes, ChannelFollower, tensors_in
from .rules import RULES
from .surgery import tensor_of
from .units import Units, as_matrix, from_matrix, length
from .verify import verified


@dataclass
class Layer:
    """A weight that the network multiplies by, and the work it does on an average scan.

    Attributes:
        name: of the module.
        weight: of the parameter.
        kind: "conv", "linear" or "dense".
        macs: multiply-accumulates per scan.
        pairs: float64 [K], pairs of each tap per scan; None unless kind is "conv".
        rows: output rows per scan.
        groups: of the channels.
        transposed: the weight is [C_in, C_out] (linear, as in x @ W) or [C_in, C_out / g, *k] (a dense transposed convolution).
        axes: as in `Call`, for weights of spconv's layers.
    """

    name: str
    weight: str
    kind: str
    groups: int = 1
    macs: float = 0.0
    pairs: Tensor | None = None
    rows: float = 0.0
    transposed: bool = False
    axes: tuple[int, int] | None = None


@dataclass
class Analysis:
    """The result of `analyze`.

    Attributes:
        layers: by the name of their weight, in the order of their first call.
        channels: groups of channels that are removed together.
        left: layers whose output channels must stay, with the reason.
        maps: names of convolution layers that compute over one kernel map (a map and its reverse count as one).
    """

    layers: dict[str, Layer] = field(default_factory=dict)
    channels: list[Units] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    maps: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def macs(self) -> float:
        """Multiply-accumulates of the network per scan."""
        return sum(layer.macs for layer in self.layers.values())


def analyze(
    model: nn.Module, scans: Iterable[Any], *, forward: Forward | None = None, verify: bool = True
) -> Analysis:
    """Runs `model` over `scans` in evaluation mode and reads from its operators what pruning has to know.

    Args:
        model: any module that works on SparseTensors, plain tensors or both; it is not changed.
        scans: at least one input: a SparseTensor, a tuple of arguments, or anything that `forward` takes.
        forward: (model, scan) -> outputs, where a scan is no plain input.
        verify: remove a third of every group from a copy and compare with those channels at zero, on the first scan; groups for
            which this fails are left unpruned and named.

    Raises:
        ValueError: no scan, or a model without a weight that is multiplied by.
    """
    scans = list(scans)
    if not scans:
        raise ValueError("analyze takes at least one scan, got none")
    result = Analysis()
    ids, tensors, maps = ChannelIds(), dict[str, Axes](), _Maps(model)

    def count(seen: Call) -> None:
        layer = result.layers.get(seen.name)
        if layer is None:
            name = seen.name.rpartition(".")[0] or seen.name
            layer = Layer(name, seen.name, seen.kind, seen.groups, transposed=seen.transposed, axes=seen.axes)
            result.layers[seen.name] = layer
        layer.macs += seen.macs / len(scans)
        layer.rows += seen.out[:, 0].numel() / len(scans)
        if seen.tap_offsets is not None:
            pairs = seen.tap_offsets.diff().double().cpu() / len(scans)
            layer.pairs = pairs if layer.pairs is None else layer.pairs + pairs

    with evaluating(model):
        for scan in scans:
            if is_empty(scan) and not all(map(is_empty, scans)):
                continue  # without rows, torch's layers take other ways, and there is nothing to count
            follower = ChannelFollower(model, RULES, count, ids, tensors)
            _mark_inputs(follower, scan)
            given = list(tensors_in(scan))
            with follower.naming(model), maps.watching():
                with follower:
                    outputs = call(model, scan, forward)
                follower.finish(
                    (outputs, scan)
                )  # forward may put its results into the input's own dictionary
            if all(any(x is y for y in given) for x in tensors_in((outputs, scan))):
                raise ValueError(
                    "analyze: the model returns no tensor; pass forward=, a function (model, scan) -> outputs"
                )
    if not result.layers:
        raise ValueError(
            "analyze: the model multiplies by none of its parameters; is it a compiled or scripted one?"
        )
    if any(p.ndim > 1 and name not in tensors for name, p in model.named_parameters()):
        _follow_training(model, scans, forward, ids, tensors)
    result.maps = maps.shared()
    result.channels, result.left = channel_groups(
        model, ids, tensors, _costs(model, result.layers.values()), read_as_matrix(model)
    )
    if verify and result.channels:
        result.channels, wrong = verified(
            model, next((s for s in scans if not is_empty(s)), scans[0]), forward, result.channels
        )
        result.left.update({name: reason for name, reason in wrong.items() if name not in result.left})
    return result


def _follow_training(
    model: nn.Module, scans: list[Any], forward: Forward | None, ids: ChannelIds, tensors: dict[str, Axes]
) -> None:
    """Follows channels through a copy in training mode too, where layers that had no part in evaluation may: auxiliary heads."""
    probe = copy.deepcopy(model).train()
    for scan in scans:
        follower = ChannelFollower(probe, RULES, ids=ids, tensors=tensors)
        _mark_inputs(follower, scan)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), follower.naming(probe):
                with follower:
                    outputs = call(probe, scan, forward)
                follower.finish((outputs, scan))
        except Exception:  # noqa: BLE001  training may ask for labels or more samples: these layers stay unknown
            return


def is_empty(scan: Any) -> bool:
    """Whether a scan is a tensor without rows."""
    features = getattr(scan, "features", None)
    return isinstance(features, Tensor) and len(features) == 0


def _mark_inputs(follower: ChannelFollower, scan: Any) -> None:
    for x in scan if isinstance(scan, tuple) else (scan,):
        features = x if isinstance(x, Tensor) else getattr(x, "features", None)
        if isinstance(features, Tensor) and features.ndim > 1:
            follower.carry(
                features, [None, follower.foreign(features.shape[1]), *[None] * (features.ndim - 2)]
            )


def _costs(model: nn.Module, layers: Iterable[Layer]) -> dict[tuple[str, int], float]:
    """Multiply-accumulates that go with one position of an axis of a weight."""
    costs = {}
    for layer in layers:
        shape = tensor_of(model, layer.weight).shape
        for axis in axes_of(layer):
            costs[layer.weight, axis] = layer.macs / length(shape, axis)
    return costs


def axes_of(layer: Layer) -> tuple[int, int]:
    """The axes of a layer's weight that read and make channels."""
    if layer.axes is not None:
        return layer.axes
    if layer.kind == CONV:
        return 1, 2
    return (0, 1) if layer.transposed else (1, 0)


def canonical(layer: Layer, x: Tensor) -> Tensor:
    """A view of a weight (or of something of its shape) as [K, C_in / g, C_out]."""
    if layer.axes == MATRIX:
        return as_matrix(x)[None]
    if layer.kind == CONV and layer.axes is None:
        return x
    if layer.kind == LINEAR:
        return (x if layer.transposed else x.t())[None]
    reads, makes = axes_of(layer)
    return x.movedim((reads, makes), (-2, -1)).flatten(0, -3)


def from_canonical(layer: Layer, x: Tensor, shape: torch.Size) -> Tensor:
    """Back to the weight's own shape."""
    if layer.axes == MATRIX:
        return from_matrix(x[0], len(shape))
    if layer.kind == CONV and layer.axes is None:
        return x
    if layer.kind == LINEAR:
        return x[0] if layer.transposed else x[0].t()
    reads, makes = axes_of(layer)
    kernel = [size for axis, size in enumerate(shape) if axis not in (reads, makes)]
    unfolded: Tensor = x.unflatten(0, kernel)
    return unfolded.movedim((-2, -1), (reads, makes))


class _Maps:
    """Which convolution layers meet on one kernel map."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = {n: m for n, m in model.named_modules() if isinstance(m, snn.SparseConvolution)}
        first: dict[int, str] = {}  # modules that hold one weight are one layer, by the name of the first
        self._names = {n: first.setdefault(id(m.weight), n) for n, m in self._layers.items()}
        self._users: dict[Any, list[str]] = {}
        self._alive: list[Any] = []  # coordinates keep their ids while they live

    def watching(self) -> _Hooks:
        hook = self._hook
        return _Hooks(
            [m.register_forward_hook(hook(self._names[n]), with_kwargs=True) for n, m in self._layers.items()]
        )

    def _hook(self, name: str) -> Any:
        def note(layer: Any, args: Any, kwargs: Any, out: Any) -> None:
            x = args[0] if args else kwargs["x"]
            # A network written for spconv hands spconv's tensors to our layers: their coordinates are called indices.
            ends = tuple(t.coords if isinstance(t, SparseTensor) else t.indices for t in (x, out))
            self._alive += ends
            geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.submanifold)
            users = self._users.setdefault((frozenset(map(id, ends)), geometry), [])
            if name not in users:
                users.append(name)

        return note

    def shared(self) -> list[tuple[str, ...]]:
        """Layers that share a map with each other, directly or through a layer that is called in several places."""
        groups: list[list[str]] = []
        for users in self._users.values():
            meets = [g for g in groups if set(g) & set(users)]
            joined = [name for g in meets for name in g]
            groups = [g for g in groups if g not in meets] + [joined + [n for n in users if n not in joined]]
        order = {name: i for i, name in enumerate(self._layers)}
        return [tuple(sorted(g, key=order.__getitem__)) for g in groups]


class _Hooks:
    """Hooks for the length of a with-block."""

    def __init__(self, handles: list[Any]) -> None:
        self._handles = handles

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
