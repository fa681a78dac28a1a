# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Training after pruning, with what was pruned held at zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax
from tqdm import tqdm

from .calls import evaluating
from .criteria import Loss
from .plan import Plan
from .surgery import tensor_of


class HeldMasks:
    """Keeps masked weights at zero during training, whatever the optimizer does.

    Gradients are masked, so that no momentum builds up, and the weights after every step, since weight decay, momentum from
    before the masks and adaptive rates move weights whose gradient is zero. Use as a context manager, or call `release()`.

    Args:
        model: the network after `plan.apply`.
        masks: parameter name -> bool of its shape, True = stays; `plan.masks()`.
        optimizer: any torch optimizer over the model's parameters.
    """

    def __init__(
        self, model: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        self._held: list[tuple[nn.Parameter, Tensor]] = []
        for name, mask in masks.items():
            parameter = tensor_of(model, name)
            if not isinstance(parameter, nn.Parameter) or parameter.shape != mask.shape:
                raise ValueError(
                    f"{name}: the mask is {list(mask.shape)}, the parameter {list(parameter.shape)}"
                )
            self._held.append((parameter, mask.to(parameter.device)))
        self._handles: list[Any] = []
        for parameter, mask in self._held:
            if parameter.requires_grad:
                self._handles.append(parameter.register_hook(_masked(mask)))
        if optimizer is not None:
            self._handles.append(optimizer.register_step_post_hook(lambda *_: self.apply()))
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Sets what was pruned to zero."""
        for parameter, mask in self._held:
            parameter.masked_fill_(~mask, 0)

    def release(self) -> None:
        """Stops holding."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> HeldMasks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.apply()
        self.release()


def _masked(mask: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda grad: grad * mask


def fine_tune(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    *,
    steps: int,
    lr: float,
    factor: float = 0.1,
    plan: Plan | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    on_step: Callable[[int, float], None] | None = None,
    progress: bool = True,
) -> list[float]:
    """Trains a pruned network for some steps, in place; what `plan` masked stays zero.

    Args:
        model: the network after `plan.apply`.
        batches: an iterable of batches, run through again when it ends (a list, a DataLoader).
        loss: (model, batch) -> scalar.
        steps: optimizer steps.
        lr: the learning rate that the network was trained with.
        factor: the share of it that is used, usually 1/10 to 1/100; it falls to zero along half a cosine.
        plan: whose masks are held.
        optimizer: called with the parameters that learn and `lr=`.
        penalty: added to the loss, such as a group regularizer.
        on_step: called with the number of the step and its loss.
        progress: show a bar.

    Returns:
        The loss of every step. An interrupt (Ctrl-C) leaves a valid network behind.

    Raises:
        ValueError: without a batch, or where the loss is not finite.
    """
    if steps < 0 or not lr * factor > 0:
        raise ValueError(
            f"fine_tune: steps must be at least 0 and lr * factor positive, got {steps} and {lr * factor}"
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    running = optimizer(parameters, lr=lr * factor)
    losses: list[float] = []
    model.train()
    with HeldMasks(model, plan.masks() if plan is not None else {}, running):
        source = _endless(batches)
        for step in tqdm(
            range(steps), desc="fine-tuning", disable=not progress, dynamic_ncols=True, mininterval=1.0
        ):
            for group in running.param_groups:
                group["lr"] = lr * factor * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            value = loss(model, next(source))
            if not bool(torch.isfinite(value.detach()).all()):
                raise ValueError(f"fine_tune: the loss of step {step} must be finite, got {value.item()}")
            total = value if penalty is None else value + penalty(model)
            running.zero_grad()
            total.backward()
            running.step()
            losses.append(float(value.detach()))
            if on_step is not None:
                on_step(step, losses[-1])
    return losses


def distilled(loss: Loss, teacher: nn.Module, *, weight: float = 1.0, temperature: float = 1.0) -> Loss:
    """`loss` plus the divergence of a network's class scores from those of a teacher, usually the network before pruning.

    Adds weight * T^2 * KL(softmax(teacher / T) || softmax(network / T)), the mean over rows. The network runs once for both.

    Args:
        loss: (model, batch) -> scalar; it calls the model once, which returns [N, classes] or a SparseTensor with such features.
        teacher: is run in evaluation mode and left as it is.
        weight, temperature: of the second part.

    Source: Hinton et al., "Distilling the knowledge in a neural network" (2015).
    """
    if not weight >= 0 or not temperature > 0:
        raise ValueError(
            f"distilled: weight must be at least 0 and temperature positive, got {weight} and {temperature}"
        )

    def total(model: nn.Module, batch: Any) -> Tensor:
        student, reference = _Remembers(model), _Remembers(teacher)
        value = loss(student, batch)
        with evaluating(teacher):
            loss(reference, batch)
        scores, wanted = (x.scores() / temperature for x in (student, reference))
        if scores.shape != wanted.shape:
            raise ValueError(
                f"distilled: the network's scores are {list(scores.shape)}, the teacher's {list(wanted.shape)}"
            )
        gap = kl_div(log_softmax(scores, 1), log_softmax(wanted, 1), reduction="batchmean", log_target=True)
        return value + weight * temperature**2 * gap

    return total


class _Remembers(nn.Module):
    """A network that keeps what it last returned."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self._last = model, None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._last = self.model(*args, **kwargs)
        return self._last

    def scores(self) -> Tensor:
        value = getattr(self._last, "features", self._last)
        if not isinstance(value, Tensor) or value.ndim != 2:
            raise TypeError(
                f"distilled: the network must return [N, classes] or a SparseTensor, got {type(self._last).__name__}"
            )
        return value.float()


def _endless(batches: Iterable[Any]) -> Any:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError(
                "fine_tune: no batch (an iterator that has ended cannot be run through again: pass a list)"
            )
