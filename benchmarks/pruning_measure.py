# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""All networks of the pruning benchmark on all whole sweeps, in one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import geometric_mean

import torch
from pruning_timing import DENSE, Gain, convolutions, end_to_end, layer_gain, work_of
from timing import Spread, ratios
from torch import nn
from tqdm import tqdm

import sparseconv
from sparseconv import SparseTensor

THREADS = (1, 2)


@dataclass(frozen=True)
class Measured:
    """One network on one sweep with one number of threads; the gains are over the dense network.

    Attributes:
        milliseconds: end to end, maps included; of the fused network in `fused_milliseconds`.
        whole: end to end; `fused` where both networks are fused.
        convolutions: all convolution layers alone, maps at hand; wide, those that keep 32 channels or more on both sides; narrow,
            the others.
        macs: of the convolution layers.
    """

    network: str
    scan: str
    voxels: int
    threads: int
    milliseconds: Spread
    fused_milliseconds: Spread
    whole: Gain
    fused: Gain
    convolutions: Gain | None
    wide: Gain | None
    narrow: Gain | None
    macs: float


def measure(
    networks: Mapping[str, nn.Module], sweeps: Mapping[str, SparseTensor], rounds: int
) -> list[Measured]:
    """Times the networks, `DENSE` among them, interleaved; one thread and two."""
    found = []
    fused = {name: sparseconv.fuse(network.eval()) for name, network in networks.items()}
    before = torch.get_num_threads()
    with tqdm(total=len(THREADS) * len(sweeps), desc="timing", unit="sweep") as bar:
        try:
            for scan, x in sweeps.items():
                for threads in THREADS:
                    torch.set_num_threads(threads)
                    found += _measure(networks, fused, scan, x, rounds)
                    bar.update()
        finally:
            torch.set_num_threads(before)
    return found


def _measure(
    networks: Mapping[str, nn.Module],
    fused: Mapping[str, nn.Module],
    scan: str,
    x: SparseTensor,
    rounds: int,
) -> list[Measured]:
    work = {name: work_of(network, x) for name, network in networks.items()}
    macs = {name: sum(w.macs for w in layers.values()) for name, layers in work.items()}
    whole, whole_fused = end_to_end(networks, x, rounds), end_to_end(fused, x, rounds)
    seconds = convolutions(networks, x, rounds)
    found = []
    for name in networks:
        fewer = macs[DENSE] / max(macs[name], 1.0)
        found.append(
            Measured(
                name,
                scan,
                len(x.coords),
                torch.get_num_threads(),
                Spread.of(whole.seconds[name]).scaled(1e3),
                Spread.of(whole_fused.seconds[name]).scaled(1e3),
                Gain(ratios(whole, DENSE, name), fewer),
                Gain(ratios(whole_fused, DENSE, name), fewer),
                layer_gain(seconds, work, name, lambda _: True),
                layer_gain(seconds, work, name, lambda w: w.wide),
                layer_gain(seconds, work, name, lambda w: not w.wide),
                macs[name],
            )
        )
    return found


def mean_gain(measured: list[Measured], network: str, what: str, threads: int = 1) -> Gain | None:
    """The geometric means over sweeps of a gain, named as in `Measured`; quartiles are means of quartiles."""
    gains = [getattr(m, what) for m in measured if m.network == network and m.threads == threads]
    gains = [gain for gain in gains if gain is not None]
    if not gains:
        return None
    median, q1, q3, lowest = (
        geometric_mean(getattr(g.faster, key) for g in gains) for key in ("median", "q1", "q3", "lowest")
    )
    faster = Spread(median, q1, q3, lowest, min(g.faster.n for g in gains))
    return Gain(faster, geometric_mean(g.fewer for g in gains))


def mean_milliseconds(measured: list[Measured], network: str, threads: int = 1) -> float:
    """The mean over sweeps of a network's median time end to end."""
    times = [m.milliseconds.median for m in measured if m.network == network and m.threads == threads]
    return sum(times) / len(times)
