# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Criteria that take gradients of a loss: Taylor expansions and optimal brain damage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .calls import in_evaluation
from .criteria import Context, Criterion
from .units import Units


@dataclass(frozen=True)
class Taylor(Criterion):
    """The change of the loss when a unit goes, expanded in the unit's weights, squared, as the mean over scans. Needs `loss`.

    First order: (sum over the unit of g * w)^2. Second order: (sum g * w - w^T H w / 2)^2, the true change where the loss is a
    quadratic function of the weights.

    Args:
        order: 1 or 2.
        curvature: of the second order. "hessian": w^T H w of every unit, exact, by a backward pass through the gradient for each
            unit and scan; the network's operators must have double backward. "fisher": H is replaced by the diagonal of the
            empirical Fisher information, the mean over scans of g^2, at the cost of the first order. (Its whole matrix would
            be as cheap, but has the rank of the number of scans: on a unit it is a function of the first order alone.)
        most: the highest number of units for which "hessian" is taken, which bounds the time.

    Source: Molchanov et al., "Importance estimation for neural network pruning" (CVPR 2019), equations 6 to 8.
    """

    order: int = 1
    curvature: str = "hessian"
    most: int = 4096

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"Taylor: order must be 1 or 2, got {self.order!r}")
        if self.curvature not in ("hessian", "fisher"):
            raise ValueError(f'Taylor: curvature must be "hessian" or "fisher", got {self.curvature!r}')

    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:
        """See `Criterion.scores`; raises ValueError for more than `most` units where each needs a product with the Hessian."""
        exact = self.order == 2 and self.curvature == "hessian"
        number = sum(u.count for u in groups)
        if exact and number > self.most:
            raise ValueError(
                f'Taylor: order=2 with curvature="hessian" takes one backward pass per unit and scan: at most {self.most} units, '
                f'got {number}; use curvature="fisher", or raise most='
            )
        changes: list[list[Tensor]] = [[] for _ in groups]  # by group, then scan
        squares = [torch.zeros(u.count, dtype=torch.float64) for u in groups]
        for weights, grads in gradients(context, groups, differentiable=exact):
            products = {name: (weights[name] * g).detach().cpu().double() for name, g in grads.items()}
            for i, units in enumerate(groups):
                change = units.sums(_of(units, products))
                if exact:
                    change -= _curvatures(units, weights, grads) / 2
                elif self.order == 2:
                    squares[i] += units.sums({k: v.square() for k, v in _of(units, products).items()})
                changes[i].append(change)
        scans = max(len(context.scans), 1)
        result = [torch.zeros(u.count, dtype=torch.float64) for u in groups]
        for i, square in enumerate(squares):
            for change in changes[i]:
                result[i] += (change - square / (2 * scans)).square() / scans
        return result


@dataclass(frozen=True)
class OBD(Criterion):
    """Optimal brain damage: sum over the unit of h * w^2 / 2, h the diagonal of the empirical Fisher information.

    Needs `loss`. h is the mean of g^2 over samples. A scan is one sample: the gradients of a batch are summed before the square.
    Source: LeCun et al., "Optimal brain damage" (NIPS 1989).
    """

    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:
        """See `Criterion.scores`."""
        result = [torch.zeros(u.count, dtype=torch.float64) for u in groups]
        for weights, grads in gradients(context, groups):
            saliency = {
                name: (weights[name].detach().double() * g.double()).square().cpu()
                for name, g in grads.items()
            }
            for score, units in zip(result, groups, strict=True):
                score += units.sums(_of(units, saliency)) / (2 * len(context.scans))
        return result


def _of(units: Units, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values of a group's scored tensors."""
    return {m.tensor: values[m.tensor] for m in units.members if m.scored and m.tensor in values}


def _curvatures(units: Units, weights: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> Tensor:
    """w^T H w for every unit, w being the network's weights with all but the unit's at zero: float64 [count]."""
    result = torch.zeros(units.count, dtype=torch.float64)
    names = [
        name for name in _of(units, grads) if grads[name].requires_grad
    ]  # others are constants: no curvature
    owners = {
        name: [o.to(weights[name].device) for o in units.owners(name, weights[name].shape)] for name in names
    }
    for number in range(units.count if names else 0):
        parts = []
        for name in names:
            mine = torch.stack([(o == number).expand(weights[name].shape) for o in owners[name]]).any(dim=0)
            parts.append(torch.where(mine, weights[name].detach(), 0))
        products = torch.autograd.grad(
            [grads[name] for name in names],
            [weights[name] for name in names],
            parts,
            retain_graph=True,
            allow_unused=True,
        )
        for part, product in zip(parts, products, strict=True):
            if product is not None:
                result[number] += (part.double() * product.double()).sum().cpu()
    return result


def gradients(
    context: Context, groups: Sequence[Units], *, differentiable: bool = False
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """For every scan the scored tensors of the groups and the gradients of the loss, by name; tensors it does not use have none.

    Gradients are taken in evaluation mode and leave nothing behind in the model. With `differentiable` they have a graph.

    Raises:
        ValueError: without a loss, or one that is not a finite scalar with a gradient.
    """
    if context.loss is None:
        raise ValueError(
            "this criterion takes gradients: pass loss=, a function (model, scan) -> scalar tensor"
        )
    names = list(dict.fromkeys(m.tensor for u in groups for m in u.members if m.scored))
    weights: dict[str, Tensor] = {name: context.model.get_parameter(name) for name in names}
    if not names:
        return
    with _learning(context.model, list(weights.values())):
        for scan in context.scans:
            with torch.enable_grad():
                loss = _checked(context.loss(context.model, scan))
                grads = torch.autograd.grad(
                    loss, list(weights.values()), create_graph=differentiable, allow_unused=True
                )
            yield weights, {name: g for name, g in zip(names, grads, strict=True) if g is not None}


@contextlib.contextmanager
def _learning(model: nn.Module, parameters: Sequence[Tensor]) -> Iterator[None]:
    """Evaluation mode in which these parameters have gradients; afterwards all is as before."""
    learns = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(True)
    try:
        with in_evaluation(model):
            yield
    finally:
        for p, learn in zip(parameters, learns, strict=True):
            p.requires_grad_(learn)


def _checked(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError(
            f"loss must return a scalar tensor, got {getattr(loss, 'shape', type(loss).__name__)}"
        )
    if not bool(torch.isfinite(loss.detach()).all()):
        raise ValueError(f"loss must be finite, got {loss.item()}")
    if not loss.requires_grad:
        raise ValueError(
            "loss must depend on the model's parameters, got a constant; does it run without gradients?"
        )
    return loss
