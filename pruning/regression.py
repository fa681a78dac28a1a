# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Channels chosen by what the layers that read them make of them, and those layers fitted to the channels that stay.

The contribution of a channel to a reading layer's outputs is Z_c = X_c W_c; the outputs are the sum of all Z_c. All that is
needed follows from the second moments of the readers' gathered inputs (`gathered.py`), and so costs no memory for rows:
<Z_c, Z_d> = sum over pairs of taps of X_c^T X_d * W_c W_d^T.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .analysis import axes_of
from .criteria import Context, Criterion
from .gathered import Moments, moments
from .obs import damped, optimal
from .surgery import keep_of
from .units import Units, length


@dataclass(frozen=True)
class _Regression(Criterion):
    """Scores from the Gram matrix of the channels' contributions; least squares for the readers.

    The plan's new weights of the reading layers are the least-squares fit of their former outputs by the channels that stay, on
    the inputs of the unpruned network: never a larger error on the sampled rows than without the update.

    Args:
        rows: output rows taken of each reading layer and scan, evenly spaced.
        damping: of the least squares, as a share of the mean square of the inputs; it draws weights to their former values.
        largest: the highest K * C_in / g of a reading layer; its moments take 8 * (K * C_in / g)^2 bytes.
        memory: bytes of moments held at once; the network runs over the scans once for each.
    """

    rows: int = 8192
    damping: float = 1e-6
    largest: int = 8192
    memory: int = 2**30

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not self.damping >= 0:
            raise ValueError(f"{name}: damping must be at least 0, got {self.damping!r}")
        if min(self.rows, self.largest, self.memory) < 1:
            raise ValueError(f"{name}: rows, largest and memory must be at least 1")

    @abstractmethod
    def _score(self, gram: np.ndarray) -> np.ndarray:
        """The importance of each channel, from float64 [count, count]."""

    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:
        """See `Criterion.scores`; raises ValueError for other granularities than channels."""
        reads = [_readers(context, units, type(self).__name__) for units in groups]
        grams = [torch.zeros(u.count, u.count, dtype=torch.float64) for u in groups]
        names = [name for found in reads for name in found]
        for found in self._moments(context, names):
            weight = found.weight(context.model.get_parameter(found.layer.weight))
            products = _contributions(found, weight)
            for units, own, gram in zip(groups, reads, grams, strict=True):
                for unit in own.get(found.layer.weight, ()):
                    part = _by_unit(products, unit, units.count)
                    energy = float(part.sum())
                    if energy > 0:  # each reader counts alike, whatever the scale of its outputs
                        gram += part / energy / len(own)
        return [torch.from_numpy(self._score(gram.numpy())) for gram in grams]

    def update(
        self, context: Context, groups: Sequence[Units], removed: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """The weights of the layers that read the channels, fitted to those that stay, and zero for those that go."""
        cuts = keep_of(groups, removed)
        reads = {layer.weight: axes_of(layer)[0] for layer in context.analysis.layers.values()}
        stays = {
            name: cuts[name][axis]
            for name, axis in reads.items()
            if axis in cuts.get(name, {}) and not bool(cuts[name][axis].all())
        }
        result = {}
        for found in self._moments(context, list(stays)):
            old = context.model.get_parameter(found.layer.weight)
            gone = ~stays[found.layer.weight]
            weight = found.weight(old)
            goes = gone.repeat(weight.shape[1] // len(gone))[:, None].expand(weight.shape[1:])
            hessians = damped(found, self.damping)
            new = torch.stack([optimal(h, w, goes) for h, w in zip(hessians, weight, strict=True)])
            result[found.layer.weight] = found.back(new).to(old.dtype).to(old.device)
        return result

    def _moments(self, context: Context, names: Sequence[str]) -> Iterator[Moments]:
        return moments(context, names, rows=self.rows, largest=self.largest, memory=self.memory, by_tap=False)


@dataclass(frozen=True)
class Lasso(_Regression):
    """The penalty at which a channel enters the LASSO of the readers' outputs on the channels' contributions; never: 0.

    min over b of |Y - sum b_c Z_c|^2 / 2 + penalty * sum |b_c|, with |Y|^2 = 1 for every group; the whole path of penalties is
    computed, exactly, by least-angle regression. Needs scikit-learn. Channels of networks with several reading layers are judged
    by all of them. Source: He et al., "Channel pruning for accelerating very deep neural networks" (ICCV 2017).
    """

    def _score(self, gram: np.ndarray) -> np.ndarray:
        try:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.linear_model import lars_path
        except ImportError as error:
            raise ImportError(
                "Lasso needs scikit-learn: pip install scikit-learn, or sparseconv[train]"
            ) from error
        entered = np.zeros(len(gram))
        live = np.flatnonzero(gram.diagonal() > 1e-14 * max(gram.diagonal().max(initial=0), 1e-300))
        if not len(live):
            return entered
        # The same problem with as many rows as channels: Z^T Z = R^T R, and Z^T Y = R^T (R 1) since Y is the sum of all Z_c.
        values, vectors = np.linalg.eigh(gram[np.ix_(live, live)])
        root = np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # channels that others can replace are dropped: they get 0
            penalties, _, path = lars_path(root, root.sum(axis=1), method="lasso", copy_X=True)
        first = (path != 0).argmax(axis=1)  # the knot after the one where the channel enters; 0 = never
        entered[live] = np.where(first > 0, penalties[np.maximum(first - 1, 0)] * len(live), 0)
        return entered


@dataclass(frozen=True)
class ThiNet(_Regression):
    """The order in which channels are removed greedily, each time the one after which the readers' outputs miss least.

    min over c of |sum of Z_d over all d in T and c|^2, with T what was removed before. The score is the place in that order,
    divided by the number of channels. Source: Luo et al., "ThiNet" (ICCV 2017).
    """

    def _score(self, gram: np.ndarray) -> np.ndarray:
        place = np.zeros(len(gram))
        error, met = 0.0, np.zeros(len(gram))  # |sum over T|^2, <sum over T, Z_c>
        left = np.ones(len(gram), dtype=bool)
        for step in range(len(gram)):
            after = np.where(left, error + 2 * met + gram.diagonal(), np.inf)
            worst = int(after.argmin())
            error, left[worst], place[worst] = after[worst], False, (step + 1) / len(gram)
            met += gram[worst]
        return place


def _readers(context: Context, units: Units, name: str) -> dict[str, list[Tensor]]:
    """For each weight that reads the channels, the unit of each position of its reading axis (int64, -1 = none)."""
    found: dict[str, list[Tensor]] = {}
    for member in units.members:
        layer = context.analysis.layers.get(member.tensor)
        if layer is not None and member.axis is not None and member.axis == axes_of(layer)[0]:
            found.setdefault(member.tensor, []).append(member.unit)
    if not found:
        raise ValueError(
            f"{name} chooses channels by what other layers make of them: use granularity=Channels(); no layer reads units of "
            f"{units.name}"
        )
    return found


def _contributions(found: Moments, weight: Tensor) -> Tensor:
    """<Z_c, Z_d> of the positions of the reading axis: float64 [C, C], a mean over rows; `weight` is [g, K * C, P]."""
    groups, size, _ = weight.shape
    channels = length(found.shape, axes_of(found.layer)[0])
    taps = size // channels
    inputs = found.blocks.view(groups, taps, channels, taps, channels)
    parts = weight.view(groups, taps, channels, -1)
    total = torch.zeros(channels, channels, dtype=torch.float64)
    for a in range(taps):
        for b in range(taps):
            total += (inputs[:, a, :, b] * (parts[:, a] @ parts[:, b].transpose(1, 2))).sum(0)
    return (total + total.t()) / 2


def _by_unit(products: Tensor, unit: Tensor, count: int) -> Tensor:
    """The same of units: sums over the positions of each."""
    owned = torch.zeros(len(unit), count, dtype=torch.float64)
    known = (unit >= 0).nonzero()[:, 0]
    owned[known, unit[known]] = 1
    return owned.t() @ products @ owned
