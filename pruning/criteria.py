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
            for member in units.members:
                if member.scored and member.tensor not in powers:
                    weight = context.model.get_parameter(member.tensor).detach().cpu().double()
                    powers[member.tensor] = weight.abs().pow(self.p)
            result.append(
                units.sums({m.tensor: powers[m.tensor] for m in units.members if m.scored}).pow(1 / self.p)
            )
        return result


@dataclass(frozen=True)
class Random(Criterion):
    """Uniform random numbers: what any other criterion has to beat."""

    seed: int = 0

    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:  # noqa: ARG002
        """See `Criterion.scores`."""
        generator = torch.Generator().manual_seed(self.seed)
        return [torch.rand(u.count, generator=generator, dtype=torch.float64) for u in groups]
