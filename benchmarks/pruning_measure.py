# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""All networks of the pruning benchmark on all whole sweeps, in one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import geometric_mean

import torch
from pruning_timing import DENSE, Gain, Work, convolutions, end_to_end, layer_gain, work_of
from pruning_training import Halved
from timing import Spread, ratios
from torch import nn
from tqdm import tqdm

import sparseconv
from sparseconv import SparseTensor

THREADS = (1, 2)
WHOLE, FUSED, HALF = "as trained", "fused", "fused in bfloat16"


@dataclass(frozen=True)
class Measured:
    """One network on one sweep with one number of threads; the gains are over the dense network.

    Attributes:
        milliseconds: end to end, maps included; of the fused network in `fused_milliseconds`, fused and in bfloat16 in
            `half_milliseconds`.
        whole: end to end; `fused` where both networks are fused, `half` where both are fused and in bfloat16.
        deployed: this network fused and in bfloat16 over the dense one as it was trained, in float32.
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
    half_milliseconds: Spread
    whole: Gain
    fused: Gain
    half: Gain
    deployed: Gain
    convolutions: Gain | None
    wide: Gain | None
    narrow: Gain | None
    macs: float


def measure(
    networks: Mapping[str, nn.Module], sweeps: Mapping[str, SparseTensor], rounds: int
) -> list[Measured]:
    """Times the networks, `DENSE` among them, interleaved; one thread and two."""
    found = []
    forms: dict[tuple[str, str], nn.Module] = {}
    for name, network in networks.items():
        forms[WHOLE, name] = network.eval()
        forms[FUSED, name] = sparseconv.fuse(network)
        forms[HALF, name] = Halved(network)
    before = torch.get_num_threads()
    with tqdm(total=len(THREADS) * len(sweeps), desc="timing", unit="sweep") as bar:
        try:
            for scan, x in sweeps.items():
                work = {name: work_of(network, x) for name, network in networks.items()}
                for threads in THREADS:
                    torch.set_num_threads(threads)
                    found += _measure(networks, forms, work, scan, x, rounds)
                    bar.update()
        finally:
            torch.set_num_threads(before)
    return found


def _measure(
    networks: Mapping[str, nn.Module],
    forms: Mapping[tuple[str, str], nn.Module],
    work: Mapping[str, Mapping[str, Work]],
    scan: str,
    x: SparseTensor,
    rounds: int,
) -> list[Measured]:
    macs = {name: sum(w.macs for w in layers.values()) for name, layers in work.items()}
    timings = end_to_end({" ".join(form): network for form, network in forms.items()}, x, rounds)
    seconds = convolutions(networks, x, rounds)
    found = []
    for name in networks:
        fewer = macs[DENSE] / max(macs[name], 1.0)

        def gain(form: str, of_dense: str, name: str = name, fewer: float = fewer) -> Gain:
            return Gain(ratios(timings, f"{of_dense} {DENSE}", f"{form} {name}"), fewer)

        def milliseconds(form: str, name: str = name) -> Spread:
            return Spread.of(timings.seconds[f"{form} {name}"]).scaled(1e3)

        found.append(
            Measured(
                name,
                scan,
                len(x.coords),
                torch.get_num_threads(),
                milliseconds(WHOLE),
                milliseconds(FUSED),
                milliseconds(HALF),
                gain(WHOLE, WHOLE),
                gain(FUSED, FUSED),
                gain(HALF, HALF),
                gain(HALF, WHOLE),
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


def mean_milliseconds(measured: list[Measured], network: str, what: str = "milliseconds") -> float:
    """The mean over sweeps of a network's median time end to end, one thread; `what`: named as in `Measured`."""
    times: list[float] = [
        getattr(m, what).median for m in measured if m.network == network and m.threads == 1
    ]
    return sum(times) / len(times)
