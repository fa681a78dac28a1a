# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""How important a unit is. This file has the interface and the criteria that look at the weights alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .analysis import Analysis
from .calls import Forward
from .units import Units

Loss = Callable[[nn.Module, Any], Tensor]  # (model, scan) -> a scalar


@dataclass(frozen=True)
class Context:
    """What a criterion may look at.

    Attributes:
        model: the network; a criterion leaves it as it finds it.
        scans: inputs, or whatever `forward` and `loss` take.
        analysis: of the model on these scans.
        loss: needed by criteria that take gradients.
        forward: (model, scan) -> outputs, where a scan is no plain input.
    """

    model: nn.Module
    scans: Sequence[Any]
    analysis: Analysis
    loss: Loss | None = None
    forward: Forward | None = None


class Criterion(ABC):
    """Base of all criteria."""

    @abstractmethod
    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:
        """The importance of every unit, float64 [count] for each group; the lowest go first."""

    def update(
        self,
        context: Context,  # noqa: ARG002
        groups: Sequence[Units],  # noqa: ARG002
        removed: Sequence[Tensor],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """New values for parameters that make up for what goes: by name, in the shape before anything is taken out."""
        return {}


@dataclass(frozen=True)
class Magnitude(Criterion):
    """The Lp norm of a unit's weights, (sum |w|^p)^(1/p) (Han et al., 2015; Li et al., "Pruning filters", 2017)."""

    p: float = 2.0

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise ValueError(f"Magnitude: p must be positive, got {self.p!r}")

    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:
        """See `Criterion.scores`."""
        powers: dict[str, Tensor] = {}
        result = []
        for units in groups:
            total = torch.zeros(units.count, dtype=torch.float64)
            for member in units.members:
                if member.scored:
                    if member.tensor not in powers:
                        weight = context.model.get_parameter(member.tensor).detach().cpu().double()
                        powers[member.tensor] = weight.abs().pow(self.p)
                    total += units.total(powers[member.tensor], member)
            result.append(total.pow(1 / self.p))
        return result


@dataclass(frozen=True)
class Random(Criterion):
    """Uniform random numbers: what any other criterion has to beat."""

    seed: int = 0

    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:  # noqa: ARG002
        """See `Criterion.scores`."""
        generator = torch.Generator().manual_seed(self.seed)
        return [torch.rand(u.count, generator=generator, dtype=torch.float64) for u in groups]


@dataclass(frozen=True)
class Taylor(Criterion):
    """The change of the loss when a unit goes, to first order: the mean over scans of (sum over the unit of g * w)^2.

    Needs `loss`. Source: Molchanov et al., "Importance estimation for neural network pruning" (CVPR 2019), equation 8.
    """

    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:
        """See `Criterion.scores`."""
        result = [torch.zeros(u.count, dtype=torch.float64) for u in groups]
        for products in gradients(context, groups, lambda w, g: w * g):
            for score, units in zip(result, groups, strict=True):
                change = torch.zeros(units.count, dtype=torch.float64)
                for member in units.members:
                    if member.tensor in products:
                        change += units.total(products[member.tensor], member)
                score += change.square() / len(context.scans)
        return result


def gradients(context: Context, groups: Sequence[Units], combine: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """For every scan, `combine(weight, gradient of the loss)` of every scored tensor of the groups, float64, by name.

    Gradients are taken in evaluation mode and leave nothing behind in the model.

    Raises:
        ValueError: without a loss, or one that is not a finite scalar.
    """
    if context.loss is None:
        raise ValueError(
            "this criterion takes gradients: pass loss=, a function (model, scan) -> scalar tensor"
        )
    names = list(dict.fromkeys(m.tensor for u in groups for m in u.members if m.scored))
    parameters = [context.model.get_parameter(name) for name in names]
    learns = [p.requires_grad for p in parameters]
    modes = [(module, module.training) for module in context.model.modules()]
    context.model.eval()
    for p in parameters:
        p.requires_grad_(True)
    try:
        for scan in context.scans:
            with torch.enable_grad():
                loss = context.loss(context.model, scan)
                if not isinstance(loss, Tensor) or loss.numel() != 1:
                    raise ValueError(
                        f"loss must return a scalar tensor, got {getattr(loss, 'shape', type(loss).__name__)}"
                    )
                if not bool(torch.isfinite(loss.detach()).all()):
                    raise ValueError(f"loss must be finite, got {loss.item()}")
                grads = torch.autograd.grad(loss, parameters, allow_unused=True)
            yield {
                name: combine(p.detach().cpu().double(), g.cpu().double())
                for name, p, g in zip(names, parameters, grads, strict=True)
                if g is not None
            }
    finally:
        for p, learn in zip(parameters, learns, strict=True):
            p.requires_grad_(learn)
        for module, mode in modes:
            module.training = mode
