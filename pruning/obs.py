# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Optimal brain surgeon, layer by layer: which weights a layer's outputs miss least, and new values for those that stay.

With gathered inputs X of a layer (`gathered.py`), changing its weights by d changes its outputs by X d. The mean over rows of the
square of that is d^T H d / 2 for every output channel, with one H = 2 / n X^T X for all output channels of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .criteria import Context, Criterion
from .gathered import Moments, columns, moments
from .units import Units


@dataclass(frozen=True)
class OBS(Criterion):
    """w^2 / (2 [H^-1]_qq): the least rise of a layer's squared output error without one weight; the others make up for it.

    For single weights (`FineGrained`, `NM`) of linear layers and of convolutions. For N:M the score of a weight is taken, as in
    SparseGPT, when the weights of the runs before it have gone and been made up for.

    The plan's new weights are optimal for the set M that goes, dw = -H^-1[:, M] ([H^-1]_MM)^-1 w_M, where H is small; where it is
    large they are those of SparseGPT's sweep, which makes up for a weight with later ones only. Every layer is treated on the
    inputs that it has in the unpruned network.

    Args:
        damping: what is added to the diagonal of H, as a share of its mean; 0 needs at least as many rows as inputs.
        rows: output rows taken of each layer and scan, evenly spaced.
        largest: the highest K * C_in / g for an H over all taps; above it each tap has its own, as if taps had nothing in common.
        exact: the highest size of H for the optimal update, which solves a system for every output channel; above it the sweep.
        memory: bytes of H held at once, which also are those of one layer where it takes more: 8 * largest^2 at most. About four
            times one layer's are in use while it is worked on. The network runs over the scans once for every `memory` bytes.

    Sources: Hassibi and Stork, "Optimal brain surgeon" (NIPS 1992); Frantar and Alistarh, "SparseGPT" (ICML 2023).
    """

    damping: float = 0.01
    rows: int = 8192
    largest: int = 4096
    exact: int = 1024
    memory: int = 2**30

    def __post_init__(self) -> None:
        if not self.damping >= 0:
            raise ValueError(f"OBS: damping must be at least 0, got {self.damping!r}")
        if min(self.rows, self.largest, self.memory) < 1 or self.exact < 0:
            raise ValueError("OBS: rows, largest and memory must be at least 1, exact at least 0")

    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:
        """See `Criterion.scores`; raises ValueError for units of more than one weight."""
        result = [torch.zeros(u.count, dtype=torch.float64) for u in groups]
        for number, found, hessians in self._hessians(context, groups):
            units = groups[number]
            weight = found.weight(context.model.get_parameter(found.layer.weight))
            weight = weight.masked_fill(found.dead()[..., None], 0)  # worth nothing
            values = torch.stack(
                [_saliency(h, w, units.blocks) for h, w in zip(hessians, weight, strict=True)]
            )
            result[number] = units.sums({found.layer.weight: found.back(values)})
        return result

    def update(
        self, context: Context, groups: Sequence[Units], removed: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """The new weights, zero where they go, in the type of the old ones."""
        chosen = [i for i, gone in enumerate(removed) if bool(gone.any())]
        result = {}
        for number, found, hessians in self._hessians(context, [groups[i] for i in chosen]):
            units, gone = groups[chosen[number]], removed[chosen[number]]
            old = context.model.get_parameter(found.layer.weight)
            mask = units.mask(gone, units.members[0], old.shape)
            goes = columns(found.layer, ~mask).reshape(*found.blocks.shape[:2], -1)
            weight = found.weight(old)
            parts = [self._made_up(h, w, g) for h, w, g in zip(hessians, weight, goes, strict=True)]
            new = found.back(torch.stack(parts)).to(old.dtype)
            result[found.layer.weight] = new.masked_fill(~mask, 0).to(old.device)
        return result

    def _made_up(self, hessian: Tensor, weight: Tensor, goes: Tensor) -> Tensor:
        if len(hessian) <= self.exact:
            return optimal(hessian, weight, goes)
        return sweep(inverse_root(hessian), weight, goes)[0]

    def _hessians(self, context: Context, groups: Sequence[Units]) -> Iterator[tuple[int, Moments, Tensor]]:
        """For every group its number, the moments of its layer's inputs, and damped H [B, S, S]."""
        numbers: dict[str, int] = {}
        for i, units in enumerate(groups):
            numbers[_single_weights(context, units)] = i
        for found in moments(
            context, list(numbers), rows=self.rows, largest=self.largest, memory=self.memory, by_tap=True
        ):
            yield numbers[found.layer.weight], found, damped(found, self.damping, scale=2)


def _single_weights(context: Context, units: Units) -> str:
    """The weight whose elements are the units."""
    scored = [m for m in units.members if m.scored]
    if len(scored) == 1 and scored[0].axis is None and scored[0].tensor in context.analysis.layers:
        size = context.model.get_parameter(scored[0].tensor).numel()
        if units.count == size == scored[0].unit.numel():
            return scored[0].tensor
    raise ValueError(
        f"OBS removes single weights: use granularity=FineGrained() or NM(), got the units of {units.name}"
    )


def damped(found: Moments, damping: float, scale: float = 1.0) -> Tensor:
    """`scale` times the moments [B, S, S] plus `damping` times the mean of their diagonal; 1 for inputs that are always zero.

    Raises:
        ValueError: if they then are not positive definite.
    """
    result = found.blocks * scale
    diagonal, dead = result.diagonal(dim1=1, dim2=2), found.dead()
    mean = diagonal.sum(1) / (~dead).sum(1).clamp(min=1)
    diagonal += torch.where(dead, 1.0, damping * mean[:, None])
    if bool(torch.linalg.cholesky_ex(result)[1].any()):
        raise ValueError(
            f"{found.layer.name}: the inputs do not determine all of its weights: raise damping={damping!r} or give more scans"
        )
    return result


def inverse_root(hessian: Tensor) -> Tensor:
    """U, upper triangular, with U^T U = H^-1; U_jj^2 is [H^-1]_jj of what is left when the inputs before j are gone."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    root: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return root


def _saliency(hessian: Tensor, weight: Tensor, blocks: tuple[int, int] | None) -> Tensor:
    """Scores of the weights [S, P] of one block."""
    if blocks is not None:
        return sweep(inverse_root(hessian), weight, blocks)[1]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return weight.square() / (2 * inverse.diagonal()[:, None])


def optimal(hessian: Tensor, weight: Tensor, goes: Tensor) -> Tensor:
    """The best weights [S, P] that are zero where `goes`: those that stay solve H_KK d_K = H_KM w_M in each column.

    The same as dw = -H^-1[:, M] ([H^-1]_MM)^-1 w_M, without an inverse. Columns with the same pattern are solved together.
    """
    new = weight.masked_fill(goes, 0)
    patterns, members = torch.unique(goes, dim=1, return_inverse=True)
    for number, pattern in enumerate(patterns.unbind(1)):
        kept, gone = (~pattern).nonzero()[:, 0], pattern.nonzero()[:, 0]
        if len(kept) == 0 or len(gone) == 0:
            continue
        which = (members == number).nonzero()[:, 0]
        root = torch.linalg.cholesky(hessian[kept][:, kept])
        missing = hessian[kept][:, gone] @ weight[gone][:, which]
        new[kept[:, None], which] += torch.cholesky_solve(missing, root)
    return new


def sweep(root: Tensor, weight: Tensor, goes: Tensor | tuple[int, int]) -> tuple[Tensor, Tensor, float]:
    """SparseGPT: inputs in turn, each weight that goes made up for by those after it.

    Args:
        root: [S, S], of `inverse_root`.
        weight: [S, P].
        goes: bool [S, P]; or (n, m), which keeps the n weights of each run of m inputs that are worth most when it is their turn.

    Returns:
        The new weights; the saliency of each weight when its turn came (for (n, m): that of its run); the rise of the error,
        sum of d^T H d / 2 over columns.
    """
    new = weight.clone()
    saliency = torch.zeros_like(weight)
    removed = goes if isinstance(goes, Tensor) else torch.zeros_like(weight, dtype=torch.bool)
    n, m = (1, 1) if isinstance(goes, Tensor) else goes
    diagonal = root.diagonal()
    error = 0.0
    for j in range(len(weight)):
        if j % m == 0:
            saliency[j : j + m] = (new[j : j + m] / diagonal[j : j + m, None]).square() / 2
            if not isinstance(goes, Tensor):
                order = torch.argsort(saliency[j : j + m], dim=0, descending=True, stable=True)
                removed[j : j + m].scatter_(0, order[n:], True)
        step = torch.where(removed[j], new[j], 0) / diagonal[j]
        error += float(step.square().sum()) / 2
        new[j:] -= root[j, j:, None] * step
        new[j].masked_fill_(removed[j], 0)
    return new, saliency, error
