# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of the pruning benchmark: networks described by data, made once, kept in a folder each."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pruning_score import ious, miou
from pruning_settings import Task, as_plain
from pruning_task import class_weights, rank_batches, test_batches, training_batches
from pruning_training import Course, Halved, Loss, confusions, forward, make_loss, make_network, train
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from sparseconv.pruning import Plan

RECORD, WEIGHTS, CONFUSION, PLAN = "row.json", "weights.safetensors", "confusion.safetensors", "plan.json"
HALF_CONFUSION = "confusion-bfloat16.safetensors"


# Of the width at which all layers alike would have that share of the work, the part that every group of channels keeps. Without a
# bound the ranking leaves blocks of 80 channels with 16 between their two convolutions, which mostly run slower.
BALANCE = 0.86


@dataclass(frozen=True)
class Stage:
    """One pruning, and the fine-tuning after it.

    `stays` is the share of the network's multiply-accumulates that stay, or of the weights where the granularity only zeroes
    them; `tuning` the share of the row's fine-tuning steps.
    """

    granularity: str  # of GRANULARITIES
    stays: float
    criterion: str = "taylor"
    tuning: float = 1.0


@dataclass(frozen=True)
class Row:
    """A line of the table. Without stages it is a dense network: the dense one, one that goes on from it, or a baseline."""

    name: str
    granularity: str  # what the table calls it; baselines are chosen among the best rows of each
    stages: tuple[Stage, ...] = ()
    width: float = 0.0  # of a baseline, relative to the published network
    beside: str = ""  # the row that a baseline is as fast as
    lr: float = 0.0  # of fine-tuning; 0 = the task's

    @property
    def slug(self) -> str:
        """Its folder's name."""
        return "-".join("".join(c if c.isalnum() or c == "." else " " for c in self.name).split())


def one(granularity: str, stays: float, criterion: str = "taylor") -> tuple[Stage, ...]:
    """Pruned in two goes, each half of the way in factors, fine-tuned a little after the first and long after the second."""
    return (
        Stage(granularity, stays**0.5, criterion, 0.2),
        Stage(granularity, stays**0.5, criterion, 0.8),
    )


def both(channels: float, offsets: float) -> tuple[Stage, ...]:
    """Channels, then offsets of what is left, and all fine-tuning after that."""
    return Stage("channels", channels, tuning=0.0), Stage("offsets shared", offsets)


DENSE = Row("dense", "dense")
TUNED = Row("dense, trained on", "dense")
PRUNED = (
    Row("channels 1/4", "channels", one("channels", 1 / 4)),
    Row("channels 1/5", "channels", one("channels", 1 / 5)),
    Row("channels 1/6", "channels", one("channels", 1 / 6)),
    Row("offsets shared 1/2", "offsets", one("offsets shared", 1 / 2)),
    Row("offsets per layer 1/2", "offsets per layer", one("offsets", 1 / 2)),
    Row("offsets per layer 2/5", "offsets per layer", one("offsets", 2 / 5)),
    Row("channels 1/4 + offsets 2/3", "channels + offsets", both(1 / 4, 2 / 3)),
    Row("vectors 1/2", "vectors", (Stage("vectors", 1 / 2, "magnitude"),)),
)


@dataclass(frozen=True)
class Workshop:
    """Where rows are made: the task, the sweeps' folder, the loss, and the folder that holds the rows."""

    task: Task
    sweeps: Path
    rows: Path
    weights: Tensor

    @staticmethod
    def open(task: Task, work: Path) -> Workshop:
        """Opens a work folder whose sweeps are there; raises ValueError where it holds rows of another task."""
        note = work / "task.json"
        if note.exists() and json.loads(note.read_text()) != as_plain(task):
            raise ValueError(f"{work} holds rows of another task ({note}); choose another --work")
        write_text(note, json.dumps(as_plain(task), indent=1) + "\n")
        sweeps = work / "sweeps"
        return Workshop(task, sweeps, work / "rows", class_weights(task, sweeps))

    @property
    def loss(self) -> Loss:
        """Cross entropy with this task's class weights."""
        return make_loss(self.weights)

    def folder(self, row: Row, seed: int) -> Path:
        """Where a row lies."""
        return self.rows / f"seed-{seed}" / row.slug

    def finished(self, row: Row, seed: int) -> bool:
        """Whether a row is made; raises ValueError where another row lies in its place."""
        path = self.folder(row, seed) / RECORD
        if not path.exists():
            return False
        # a record may be older than a field
        kept = {**asdict(Row("", "")), **json.loads(path.read_text())["row"]}
        if json.dumps(kept, sort_keys=True) != json.dumps(asdict(row), sort_keys=True):
            raise ValueError(
                f"{path}: another row of this name: {kept}; choose another --work, or remove its folder"
            )
        return True

    def record(self, row: Row, seed: int) -> dict[str, Any]:
        """What is known of a finished row."""
        found: dict[str, Any] = json.loads((self.folder(row, seed) / RECORD).read_text())
        return found

    def confusion(self, row: Row, seed: int) -> Tensor:
        """Confusion matrices of a finished row, int64 `[scans, truth, label]`."""
        return load_file(self.folder(row, seed) / CONFUSION)["confusion"].long()

    def half_confusion(self, row: Row, seed: int) -> Tensor:
        """The same of its network fused and in bfloat16; judged when first asked for, and kept."""
        path = self.folder(row, seed) / HALF_CONFUSION
        if not path.exists():
            found = confusions(
                Halved(self.network(row, seed)), test_batches(self.task, self.sweeps), self.task.test_sweeps
            )
            save_file({"confusion": found.int()}, part := path.with_suffix(".part"))
            os.replace(part, path)
        return load_file(path)["confusion"].long()

    def network(self, row: Row, seed: int) -> nn.Module:
        """A finished row's network: a new one, its plan, its weights."""
        folder = self.folder(row, seed)
        network: nn.Module = make_network(row.width or self.task.width, seed)
        if (folder / PLAN).exists():
            from sparseconv.pruning import Plan

            network = Plan.from_json((folder / PLAN).read_text()).apply(network, values=False)
        network.load_state_dict(load_file(folder / WEIGHTS))
        return network.eval()

    def make(self, row: Row, seed: int) -> None:
        """Makes a row, if it is not there: trains, prunes, judges, and writes its record last."""
        if self.finished(row, seed):
            return
        folder = self.folder(row, seed)
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        network, plan, losses = self._grow(row, seed)
        trained = time.perf_counter()
        found = confusions(network, test_batches(self.task, self.sweeps), self.task.test_sweeps)
        save_file({"confusion": found.int()}, folder / CONFUSION)
        save_file({n: v.contiguous() for n, v in network.state_dict().items()}, folder / WEIGHTS)
        if plan is not None:
            write_text(folder / PLAN, plan.to_json() + "\n")
        record = {
            "row": asdict(row),
            "seed": seed,
            "miou": float(miou(found.sum(0))),
            "ious": [None if value != value else value for value in ious(found.sum(0)).tolist()],
            "parameters": sum(p.numel() for p in network.parameters()),
            "nonzero": sum(int((p != 0).sum()) for p in network.parameters()),
            "loss": sum(losses[-50:]) / max(len(losses[-50:]), 1),
            "seconds": {"making": trained - start, "judging": time.perf_counter() - trained},
        }
        write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")

    def _grow(self, row: Row, seed: int) -> tuple[nn.Module, Plan | None, list[float]]:
        task = self.task
        if row == DENSE or row.beside:
            steps = task.all_steps if row.beside else task.dense_steps
            new = make_network(row.width or task.width, seed)
            return new, None, self._train(new, row.name, seed, 0, steps, task.lr, None)
        network = self.network(DENSE, seed)
        if not row.stages:
            return (
                network,
                None,
                self._train(network, row.name, seed, task.dense_steps, task.tune_steps, task.tune_lr, None),
            )
        return self._prune(network, row, seed)

    def _prune(self, network: nn.Module, row: Row, seed: int) -> tuple[nn.Module, Plan, list[float]]:
        from sparseconv.pruning import Plan, make_plan

        task, plan, losses, done = self.task, Plan(()), list[float](), 0
        scans = rank_batches(task, self.sweeps)
        for i, stage in enumerate(row.stages):
            granularity, criterion, ratio = choices(stage)
            step = make_plan(
                network,
                scans,
                granularity=granularity,
                criterion=criterion,
                ratio=ratio,
                loss=self.loss,
                forward=forward,
            )
            network, plan = step.apply(network), plan.then(step)
            last = i == len(row.stages) - 1
            steps = task.tune_steps - done if last else round(stage.tuning * task.tune_steps)
            first = task.dense_steps + done
            losses += self._train(
                network, row.name, seed, first, steps, row.lr or task.prune_lr, plan.masks()
            )
            done += steps
        return network, plan, losses

    def _train(
        self,
        network: nn.Module,
        name: str,
        seed: int,
        first: int,
        steps: int,
        lr: float,
        masks: Mapping[str, Tensor] | None,
    ) -> list[float]:
        torch.manual_seed(seed)
        course = Course(lr, self.task.decay, steps, f"{name}, seed {seed}")
        data = training_batches(self.task, self.sweeps, steps=steps, seed=seed, first=first)
        return train(network, data, self._loss_from(name, seed, first), course, masks)

    def _loss_from(self, name: str, seed: int, first: int) -> Loss:
        """The loss of training that begins at a step: from where the dense network ends, the one trained on teaches."""
        if not self.task.distil or name in (DENSE.name, TUNED.name):
            return self.loss
        from sparseconv.pruning import distilled

        plain, step = self.loss, itertools.count(first)
        taught = distilled(plain, self.network(TUNED, seed), weight=self.task.distil)

        def loss(network: nn.Module, batch: Any) -> Tensor:
            return (taught if next(step) >= self.task.dense_steps else plain)(network, batch)

        return loss


def choices(stage: Stage) -> tuple[Any, Any, Any]:
    """Granularity, criterion and ratio of a stage as the pruning package has them."""
    from sparseconv import pruning

    granularities = {
        "channels": pruning.Channels(round_to=16),
        "offsets shared": pruning.Offsets(shared=True),
        "offsets": pruning.Offsets(shared=False),
        "vectors": pruning.Vectors(16),
        "weights": pruning.FineGrained(),
    }
    criteria = {"taylor": pruning.Taylor(), "magnitude": pruning.Magnitude()}
    granularity = granularities[stage.granularity]
    if isinstance(
        granularity, pruning.Channels
    ):  # first-order changes of the loss compare across groups as they are
        most = 1 - BALANCE * stage.stays**0.5
        ratio: pruning.Ratio = pruning.Macs(stage.stays, most=most, normalize=False, by="macs")
    else:
        ratio = pruning.Macs(stage.stays) if granularity.removes else pruning.Global(1 - stage.stays)
    return granularity, criteria[stage.criterion], ratio


def named_rows(names: Sequence[str]) -> tuple[Row, ...]:
    """The pruned rows with these names, all for none; raises ValueError for a name that is no row's."""
    known = {row.name: row for row in PRUNED}
    for name in names:
        if name not in known:
            raise ValueError(f"rows are {', '.join(known)}; got {name!r}")
    return tuple(known[name] for name in names) or PRUNED


def write_text(path: Path, text: str) -> None:
    """Writes a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)
