# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Whole networks on one scan, maps included: forward and a training step, the same weights on both engines, compared first."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from checks import TOLERANCE_BFLOAT16
from engines import lexicographic
from report import OURS, Check, Report, row_of
from scaling import extremes, one_against_two
from scans import Scan
from settings import Settings
from timing import Task, interleave, ratios
from torch import Tensor, nn

import sparseconv

CHANNELS = 4  # of a voxel: x, y, z, remission
CLASSES = 20
# Frobenius norm of the difference over that of the expected value. Tens of layers in float32; in training, values that round to
# the other side of a ReLU change single entries of the gradients by their whole size.
TOLERANCE_OUTPUT = 1e-4
TOLERANCE_GRADIENT = 2e-2
FUSED, NARROW = f"{OURS} fused", f"{OURS} fused, bfloat16"
DROP_IN = f"{OURS}.compat.spconv"


@dataclass
class Network:
    """One network on one engine."""

    module: nn.Module
    call: Callable[
        [nn.Module], tuple[Tensor, Tensor]
    ]  # features and coordinates of a forward pass on a new tensor

    def forward(self) -> Tensor:
        """Inference: nothing is recorded."""
        self.module.eval()
        with torch.no_grad():
            return self.call(self.module)[0]

    def step(self) -> None:
        """Forward, loss, backward and an update so small that the network stays the same."""
        self.module.train()
        loss_of(self.call(self.module)[0]).backward()
        with torch.no_grad():
            for parameter in self.module.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=1e-9)
                    parameter.grad = None


def loss_of(out: Tensor) -> Tensor:
    """Cross entropy with labels that depend on the row, or the mean square where the channels are no classes."""
    if out.shape[1] == CLASSES:
        return nn.functional.cross_entropy(out, torch.arange(len(out)) % CLASSES)
    return out.square().mean()


def run(scans: list[Scan], engines: list[str], settings: Settings, report: Report) -> None:
    """Both networks on every scan; two threads on the smallest and the largest."""
    for scan in scans:
        for name in ("MinkUNet18", "VoxelBackbone8x"):
            networks = measure(name, scan, engines, settings, report)
            if settings.threads == 1 and any(scan is e for e in extremes(scans)):
                measure_threads(networks[OURS], name, scan, settings, report)


def networks_of(
    name: str, scan: Scan, engines: list[str], via_spconv_api: bool = False
) -> dict[str, Network]:
    """The network on our engine and, where they are measured, on spconv and on our drop-in for it with the same weights."""
    torch.manual_seed(0)
    coords, shape = cells_for(name, scan)
    features = torch.randn(len(coords), CHANNELS)
    ours: nn.Module
    if name == "MinkUNet18":
        ours = sparseconv.models.MinkUNet18(CHANNELS, CLASSES)
    else:
        ours = sparseconv.models.VoxelBackbone8x(CHANNELS)

    def call_ours(module: nn.Module) -> tuple[Tensor, Tensor]:
        dtype = next(module.parameters()).dtype
        out = module(sparseconv.SparseTensor(features.to(dtype), coords, spatial_shape=shape, batch_size=1))
        out = out if isinstance(out, sparseconv.SparseTensor) else out[0]
        return out.features, out.coords

    networks = {OURS: Network(ours, call_ours)}
    fused = sparseconv.fuse(copy.deepcopy(ours).eval())
    networks[FUSED] = Network(fused, call_ours)
    networks[NARROW] = Network(copy.deepcopy(fused).bfloat16(), call_ours)
    if "spconv" in engines:
        import spconv.pytorch

        networks["spconv"] = on_spconv_api(name, spconv.pytorch, ours, features, coords, shape)
    if via_spconv_api:
        from sparseconv.compat import spconv as drop_in

        networks[DROP_IN] = on_spconv_api(name, drop_in, ours, features, coords, shape)
    return networks


def on_spconv_api(
    name: str, sp: ModuleType, ours: nn.Module, features: Tensor, coords: Tensor, shape: Sequence[int]
) -> Network:
    """The network with the weights of `ours` on spconv's API, as `sp` implements it."""
    import spconv_networks

    theirs: nn.Module
    if name == "MinkUNet18":
        theirs = spconv_networks.MinkUNet18(sp, CHANNELS, CLASSES)
    else:
        theirs = spconv_networks.VoxelBackbone8x(sp, CHANNELS)
    theirs.load_state_dict(sparseconv.convert.state_dict_to("spconv", ours))

    def call(module: nn.Module) -> tuple[Tensor, Tensor]:
        out: Any = module(sp.SparseConvTensor(features, coords, list(shape), 1))
        return out.features, out.indices

    return Network(theirs, call)


def cells_for(name: str, scan: Scan) -> tuple[Tensor, tuple[int, ...]]:
    """Coordinates and shape as the network wants them: halved four times without a rest, or with the height first."""
    if name == "MinkUNet18":
        return scan.coords, tuple(-(-n // 16) * 16 for n in scan.shape)
    coords = scan.coords[:, [0, 3, 2, 1]]
    coords = coords[lexicographic(coords)].contiguous()
    return coords, (max(scan.shape[2], 41), scan.shape[1], scan.shape[0])


def distance(got: Tensor, expected: Tensor) -> float:
    """The Frobenius norm of the difference over that of `expected`; infinite where shapes differ."""
    if got.shape != expected.shape:
        return float("inf")
    return float((got - expected).norm() / expected.norm().clamp(min=1e-30))


def gradients(network: Network) -> dict[str, Tensor]:
    """Gradients of one training pass by our parameter names, in our layout; nothing is updated."""
    state = copy.deepcopy(network.module.state_dict())
    network.module.train()
    features, coords = network.call(network.module)
    rank = lexicographic(coords)
    loss_of(features[rank]).backward()
    found = {n: p.grad for n, p in network.module.named_parameters() if p.grad is not None}
    network.module.zero_grad()
    network.module.load_state_dict(state)
    return found


def compare(name: str, scan: Scan, networks: dict[str, Network], report: Report) -> list[str]:
    """The names of the networks that compute what ours does."""
    case = f"{scan.label}, {name}"
    ours = networks[OURS]
    expected_out = _sorted_output(ours)
    expected = gradients(ours) if {"spconv", DROP_IN} & networks.keys() else {}
    good = [OURS]
    for engine, network in networks.items():
        if engine == OURS:
            continue
        error = distance(_sorted_output(network).to(expected_out.dtype), expected_out)
        allowed = TOLERANCE_BFLOAT16 if engine == NARROW else TOLERANCE_OUTPUT
        right = report.check(Check(case, engine, "output, relative norm", error, allowed))
        if engine in ("spconv", DROP_IN):
            found = sparseconv.convert.state_dict_from("spconv", gradients(network), ours.module)
            flat = [torch.cat([g[n].flatten() for n in expected]) for g in (found, expected)]
            error = distance(flat[0], flat[1])
            right &= report.check(Check(case, engine, "gradients, relative norm", error, TOLERANCE_GRADIENT))
        if right:
            good.append(engine)
    return good


def _sorted_output(network: Network) -> Tensor:
    network.module.eval()
    with torch.no_grad():
        features, coords = network.call(network.module)
    return features[lexicographic(coords)]


def measure(
    name: str, scan: Scan, engines: list[str], settings: Settings, report: Report
) -> dict[str, Network]:
    """One network on one scan; returns what was measured."""
    networks = networks_of(name, scan, engines, settings.via == "spconv-api")
    good = compare(name, scan, networks, report)
    budget = replace(settings.budget, seconds=2 * settings.budget.seconds)
    forward = {n: Task(networks[n].forward) for n in good}
    training = {n: Task(networks[n].step) for n in good if n not in (FUSED, NARROW)}
    for part, tasks in (("forward", forward), ("training step", training)):
        timings = interleave(tasks, budget)
        row = row_of(
            ("network", f"whole network, maps included, {part}", scan.label),
            name,
            settings.threads,
            timings,
            tasks,
        )
        row.numbers["voxels"] = len(scan)
        if DROP_IN in good:
            # In turns by themselves: in the rounds of all, each has the caches and freed memory of another engine's run.
            pair = interleave({n: tasks[n] for n in (OURS, DROP_IN)}, budget)
            row.numbers["drop-in, times the native layers' time"] = ratios(pair, DROP_IN, OURS).median
        report.add(row)
    return networks


def measure_threads(network: Network, name: str, scan: Scan, settings: Settings, report: Report) -> None:
    """Our network on two threads against one."""
    one_against_two("network", f"{name}, forward", scan, network.forward, settings, report)
    one_against_two("network", f"{name}, training step", scan, network.step, settings, report)
    torch.set_num_threads(settings.threads)
