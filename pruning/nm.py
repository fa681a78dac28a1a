# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""From a network with N:M weights to one that stores them packed, with a report of what was chosen and measured."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, TypeVar

import torch
from torch import nn

from .. import nn as snn
from ..formats import NMConv, NMLinear, fits_mma_sp, pack_vectors, swap
from .calls import Forward, call, evaluating
from .columns import aligned
from .criteria import Criterion
from .granularity import NM
from .make_plan import make_plan
from .permute import Permuted, permute_channels

Model = TypeVar("Model", bound=nn.Module)
Dense = snn.SparseConvolution | nn.Linear
FULL = 0.75  # share of rows above which the vector-sparse kernel is not tried
SPARSE_KERNELS = ("vectors", "mma_sp")  # of `NMConv`; on one device there is one of them
GAIN = 0.95  # share of the dense kernels' time below which it is chosen


@dataclass(frozen=True)
class NMLayer:
    """One layer of a report.

    Attributes:
        name: of the module.
        shape: of its weight, [K, C_in / groups, C_out] or [C_out, C_in].
        choice: "dense" where the layer was left; "packed": stored N:M, computed by the dense kernels; "vectors": stored N:M,
            computed by the kernel that leaves out rows of 16 output channels without a weight; "mma_sp": stored 2:4, computed by
            a GPU's sparse tensor cores.
        dense_bits, bits: of the weight before and after.
        ms: milliseconds by choice, medians on the inputs that this layer has in the network, measured in turns; empty without
            scans.
        reason: why a layer was left.
    """

    name: str
    shape: tuple[int, ...]
    choice: str
    dense_bits: int
    bits: int
    ms: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class NMReport:
    """What `to_nm` did: a line for each layer, and for each group of channels where they were reordered."""

    n: int
    m: int
    layers: tuple[NMLayer, ...]
    permuted: tuple[Permuted, ...] = ()
    threads: int = 1

    @property
    def bits(self) -> int:
        """Of all weights, packed or not."""
        return sum(layer.bits for layer in self.layers)

    @property
    def dense_bits(self) -> int:
        """Of all weights before."""
        return sum(layer.dense_bits for layer in self.layers)

    def __getitem__(self, name: str) -> NMLayer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {name!r}; there are {[layer.name for layer in self.layers]}")

    def __str__(self) -> str:
        names = list(dict.fromkeys(name for x in self.layers for name in x.ms))
        rows = [("layer", "weight", "choice", "kB", "of", *(f"{name}, ms" for name in names))]
        for x in self.layers:
            times = (f"{x.ms[name]:.3f}" if name in x.ms else "-" for name in names)
            shape = "x".join(map(str, x.shape))
            rows.append((x.name, shape, x.choice, f"{x.bits / 8e3:.1f}", f"{x.dense_bits / 8e3:.1f}", *times))
        saved = f"{self.bits / 8e3:.1f} of {self.dense_bits / 8e3:.1f} kB"
        lines = [f"{self.n}:{self.m}, {saved}, {self.threads} threads", *aligned(rows)]
        lines += [f"left: {x.name}: {x.reason}" for x in self.layers if x.reason]
        for p in self.permuted:
            words = p.left or f"|w| kept {p.before:.4f} -> {p.after:.4f}"
            lines.append(f"order of {p.channels} channels of {p.group}: {words}")
        return "\n".join(lines)


def to_nm(
    model: Model,
    scans: Iterable[Any] = (),
    *,
    n: int = 2,
    m: int = 4,
    criterion: Criterion | None = None,
    outputs: int = 1,
    permute: bool = False,
    ignore: Sequence[str] = (),
    forward: Forward | None = None,
    rounds: int = 5,
) -> tuple[Model, NMReport]:
    """A copy of `model` whose N:M convolutions and linear layers store their weights packed, and the report.

    Layers that are not N:M are left dense, and the report says where they are not. With a criterion they are pruned before:
    `Magnitude()`, or `OBS()` for SparseGPT's masks and new weights.

    On a CPU a packed layer computes with the dense kernels on the weight that it decodes once, so it has their speed and their
    bits; what it saves is the file. With scans both are measured, and where masks are shared by 16 output channels (`outputs=16`)
    so that a quarter of the rows or more is gone, the vector-sparse kernel too: it is chosen where it took less than 0.95 of the
    time. On a GPU the same holds of its sparse tensor cores, for 2:4 in 16 bits with 32 n input and 16 m output channels.

    A state dict of the result loads into `to_nm(fresh_model, scans, criterion=Magnitude(), rounds=0)` with the same pattern and
    layers to ignore: what is loaded replaces whatever was packed.

    Args:
        model: any module; it is not changed.
        scans: inputs as for `analyze`, for the criterion, the order of channels and the times.
        n, m: the pattern.
        criterion: prunes the layers that can be before they are packed.
        outputs: output channels that share a mask when pruning, as in `NM`.
        permute: first put channels into an order of which N:M keeps more (`permute_channels`).
        ignore: names or patterns of layers to leave.
        forward: (model, scan) -> outputs, where a scan is no plain input.
        rounds: of the measurement; 0 measures nothing.

    Raises:
        ValueError, TypeError: no scan where one is needed, patterns that name nothing, ...
    """
    scans = list(scans)
    NM(n, m, outputs)  # checks the pattern
    if (permute or criterion is not None) and not scans:
        raise ValueError("to_nm: a criterion and permute=True need at least one scan, got none")
    permuted: list[Permuted] = []
    if permute:
        model, permuted = permute_channels(model, scans, n=n, m=m, forward=forward)
    if criterion is not None:
        plan = make_plan(
            model, scans, granularity=NM(n, m, outputs), criterion=criterion, ignore=ignore, forward=forward
        )
        model = plan.apply(model)
    found: dict[str, NMLayer] = {}

    def make(name: str, layer: Dense) -> nn.Module | None:
        dense_bits = layer.weight.numel() * layer.weight.element_size() * 8
        shape = tuple(layer.weight.shape)
        try:
            packed = NMLinear(layer, n, m) if isinstance(layer, nn.Linear) else NMConv(layer, n, m)
        except ValueError as error:
            found[name] = NMLayer(name, shape, "dense", dense_bits, dense_bits, reason=str(error))
            return None
        found[name] = NMLayer(name, shape, "packed", dense_bits, packed.size_in_bits)
        return packed

    result, left = swap(model, make, ignore)
    for name, reason in left.items():
        weight = model.get_submodule(name).weight
        bits = weight.numel() * weight.element_size() * 8  # type: ignore[operator]
        found[name] = NMLayer(name, tuple(weight.shape), "dense", bits, bits, reason=reason)  # type: ignore[arg-type]
    if scans and rounds > 0:
        packed = {name: result.get_submodule(name) for name, x in found.items() if x.choice == "packed"}
        for name, ms in _measure(model, packed, scans[0], forward, rounds).items():
            found[name] = replace(found[name], ms=ms)
            layer = packed[name]
            for kernel in SPARSE_KERNELS:
                if isinstance(layer, NMConv) and ms.get(kernel, math.inf) < GAIN * ms["packed"]:
                    layer.kernel = kernel
                    found[name] = replace(found[name], choice=kernel)
    order = [name for name, module in model.named_modules() if name in found and isinstance(module, Dense)]
    report = NMReport(n, m, tuple(found[name] for name in order), tuple(permuted), torch.get_num_threads())
    return result, report


def _measure(
    dense: nn.Module, packed: Mapping[str, nn.Module], scan: Any, forward: Forward | None, rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of each form of each layer, at the first call that it gets in the dense network; maps are at hand."""
    times: dict[str, dict[str, float]] = {}

    def watch(name: str, other: nn.Module) -> Any:
        def measure(module: Any, args: Any, kwargs: Any, out: Any) -> None:  # noqa: ARG001  a hook
            if name in times:
                return
            times[name] = {}  # the calls below come here again
            clocks: dict[str, list[float]] = {form: [] for form in _forms(other)}
            for number in range(rounds + 1):
                for form, clock in clocks.items():
                    layer = module if form == "dense" else other
                    if isinstance(layer, NMConv):
                        layer.kernel = form if form in SPARSE_KERNELS else "dense"
                    took = _milliseconds(lambda layer=layer: layer(*args, **kwargs))  # type: ignore[misc]
                    if number:  # the first round decodes
                        clock.append(took)
            if isinstance(other, NMConv):
                other.kernel = "dense"
            times[name] = {form: median(clock) for form, clock in clocks.items()}

        return measure

    watched = copy.deepcopy(dense)
    handles = [
        watched.get_submodule(name).register_forward_hook(watch(name, other), with_kwargs=True)
        for name, other in packed.items()
    ]
    with evaluating(watched):
        call(watched, scan, forward)
    for handle in handles:
        handle.remove()
    return times


def _milliseconds(call: Callable[[], Any]) -> float:
    """Of one call, with the work that it leaves to a GPU."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def _forms(layer: nn.Module) -> tuple[str, ...]:
    """The forms to measure a packed layer in."""
    if not isinstance(layer, NMConv):
        return "dense", "packed"
    if layer.values.device.type != "cpu":
        shape, dtype = layer.packed.shape, layer.values.dtype
        fits = layer.groups == 1 and fits_mma_sp(layer.n, layer.m, shape, dtype)
        return ("dense", "packed", "mma_sp") if fits else ("dense", "packed")
    rows = pack_vectors(layer.decoded(), groups=layer.groups)
    return ("dense", "packed", "vectors") if rows.density <= FULL else ("dense", "packed")
