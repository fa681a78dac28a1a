# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Penalties that make a network ready to be pruned, added to its training loss, and the criterion that follows one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .criteria import Context, Criterion
from .units import Units

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def norm_scales(model: nn.Module) -> dict[str, nn.Parameter]:
    """The scales (gamma, [C]) of all norms that have one, by name; a shared one once."""
    found: dict[str, nn.Parameter] = {}
    for path, module in model.named_modules():
        gamma = module.weight if isinstance(module, _NORMS) else None
        if isinstance(gamma, nn.Parameter) and all(gamma is not other for other in found.values()):
            found[f"{path}.weight" if path else "weight"] = gamma
    return found


def slimming_penalty(model: nn.Module, strength: float = 1e-4) -> Tensor:
    """strength * sum of |gamma| over all norms, whose gradient is strength * sign(gamma), 0 at 0.

    Raises ValueError for a model without a norm that has a scale. Source: Liu et al., "Learning efficient convolutional networks
    through network slimming" (ICCV 2017).
    """
    scales = list(norm_scales(model).values())
    if not scales:
        raise ValueError("slimming_penalty: the model has no norm with a scale")
    return strength * torch.stack([gamma.abs().sum() for gamma in scales]).sum()


def l1_penalty(model: nn.Module, strength: float = 1e-5) -> Tensor:
    """strength * sum of |w| over all weights: parameters with more than one axis, so neither biases nor norms."""
    return strength * torch.stack([w.abs().sum() for w in _weights(model, "l1_penalty")]).sum()


def l2_penalty(model: nn.Module, strength: float = 1e-4) -> Tensor:
    """strength * sum of w^2 / 2 over all weights, so that its gradient is strength * w; weights as for `l1_penalty`."""
    return strength * torch.stack([w.square().sum() for w in _weights(model, "l2_penalty")]).sum() / 2


def group_penalty(model: nn.Module, groups: Sequence[Units], strength: float = 1e-4) -> Tensor:
    """strength * sum over units of the L2 norm of the unit's weights (group lasso), which makes whole units zero.

    Args:
        model: in training.
        groups: such as `analysis.channels`, or the first result of a granularity's `units(model, analysis)`.
        strength: of the penalty.

    The gradient of a unit at zero is 0. Sources: Yuan and Lin (2006); Wen et al., "Learning structured sparsity" (2016).
    """
    if not groups:
        raise ValueError("group_penalty takes at least one group of units, got none")
    norms = []
    for units in groups:
        names = dict.fromkeys(m.tensor for m in units.members if m.scored)
        squares = units.sums({name: model.get_parameter(name).double().square() for name in names})
        alive = squares > 0  # the root has no gradient at zero
        norms.append(torch.where(alive, squares, 1).sqrt().mul(alive).sum())
    return (strength * torch.stack(norms).sum()).to(model.get_parameter(next(iter(names))).dtype)


def _weights(model: nn.Module, name: str) -> list[Tensor]:
    weights: list[Tensor] = [p for p in model.parameters() if p.ndim > 1]
    if not weights:
        raise ValueError(f"{name}: the model has no weight with more than one axis")
    return weights


@dataclass(frozen=True)
class NormScale(Criterion):
    """|gamma| of the norms that a channel goes through, their mean where there are several; trained with `slimming_penalty`.

    For channels only. A removed channel takes the norm's beta with it, so outputs stay exactly only where beta is zero too, or
    what follows makes it zero. Source: Liu et al., "Network slimming" (ICCV 2017).
    """

    def scores(self, context: Context, groups: Sequence[Units]) -> list[Tensor]:
        """See `Criterion.scores`; raises ValueError for other granularities and for groups without a norm."""
        known = {id(gamma) for gamma in norm_scales(context.model).values()}
        result = []
        for units in groups:
            own = [
                m for m in units.members if m.scored and id(context.model.get_parameter(m.tensor)) in known
            ]
            if not own:
                channels = any(m.scored and m.axis is not None and m.axis != 0 for m in units.members)
                layers = ", ".join(units.layers)
                hint = (
                    f"leave it out by ignore=, naming one of {layers}"
                    if channels
                    else "use granularity=Channels()"
                )
                raise ValueError(
                    f"NormScale scores channels by the scale of their norms; {units.name} has no norm: {hint}"
                )
            scales = {m.tensor: context.model.get_parameter(m.tensor).detach().cpu().abs() for m in own}
            score, parts = units.sums(scales), units.sums({k: torch.ones_like(v) for k, v in scales.items()})
            result.append(score / parts.clamp(min=1))
        return result
