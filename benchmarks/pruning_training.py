# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Training, fine-tuning and judging the networks of the pruning benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from pruning_task import CLASSES, FEATURES
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from sparseconv import SparseTensor, fuse
from sparseconv import datasets as ds
from sparseconv.models import MinkUNet18

Loss = Callable[[nn.Module, ds.Batch], Tensor]


def make_network(width: float, seed: int) -> MinkUNet18:
    """A MinkUNet18 whose first weights depend on `seed`."""
    torch.manual_seed(seed)
    return MinkUNet18(len(FEATURES), CLASSES, width=width)


def forward(network: nn.Module, batch: ds.Batch) -> Tensor:
    """Class scores `[voxels, classes]`."""
    scores: Tensor = network(batch.tensor).features
    return scores


class Halved(nn.Module):
    """A fused copy of a network in bfloat16, on float32 features and with float32 scores."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = fuse(network.eval()).bfloat16()

    def forward(self, x: SparseTensor) -> SparseTensor:
        """The network's scores."""
        y: SparseTensor = self.network(x.to(torch.bfloat16))
        return y.to(torch.float32)


def make_loss(weights: Tensor) -> Loss:
    """Cross entropy over voxels, classes weighted."""

    def loss(network: nn.Module, batch: ds.Batch) -> Tensor:
        truth = batch.voxel_labels(CLASSES)
        return cross_entropy(forward(network, batch), truth, weights, ignore_index=ds.IGNORE)

    return loss


def annealed(progress: float) -> float:
    """The learning rate's factor: up over the first 5 % of a run, then half a cosine down to 0."""
    return min(progress / 0.05 + 0.05, 0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0)))


@dataclass(frozen=True)
class Course:
    """One run of training."""

    lr: float
    decay: float
    steps: int
    name: str  # for the progress bar


def hold(
    network: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> AbstractContextManager[object]:
    """What keeps masked weights at zero while it is open."""
    from sparseconv.pruning import HeldMasks

    return HeldMasks(network, masks, optimizer)


def train(
    network: nn.Module,
    data: Iterable[ds.Batch],
    loss: Loss,
    course: Course,
    masks: Mapping[str, Tensor] | None = None,
) -> list[float]:
    """Trains in place with AdamW and returns the loss of every step; weights that `masks` has as False stay zero."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=course.lr, weight_decay=course.decay)
    held = hold(network, masks, optimizer) if masks else nullcontext()
    network.train()
    losses = []
    with tqdm(total=course.steps, desc=course.name, unit="step", mininterval=2, leave=False) as bar, held:
        for step, batch in enumerate(data):
            for group in optimizer.param_groups:
                group["lr"] = course.lr * annealed(step / course.steps)
            value = loss(network, batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    network.eval()
    return losses


@torch.no_grad()
def confusions(network: nn.Module, data: Iterable[ds.Batch], total: int) -> Tensor:
    """Confusion matrices of held-out scans over their points, int64 `[scans, truth, label]`."""
    network.eval()
    found = []
    for batch in tqdm(data, total=total, desc="held-out scans", unit="scan", mininterval=2, leave=False):
        if batch.labels is None:
            raise ValueError("confusions: the held-out scans must have labels")
        label = forward(network, batch).argmax(dim=1)[batch.index]
        known = batch.labels < CLASSES
        cell = batch.labels[known] * CLASSES + label[known]
        found.append(torch.bincount(cell, minlength=CLASSES * CLASSES).view(CLASSES, CLASSES))
    return torch.stack(found)
