# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What the networks of the pruning benchmark learn: labels of half sweeps of simulated streets, which are hard on purpose.

Each sweep loses up to 40 % of its returns, every return is off by some 4 cm, remission is scaled at random, and far and
sparse returns stay in. Sweeps are simulated once, with all cores, and kept as .npz files.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pruning_settings import Task
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sparseconv import SparseTensor
from sparseconv import datasets as ds

CLASSES = len(ds.CLASSES)
FEATURES = ("one", "z", "remission")
TRAIN, TEST, TIMING = 71, 74, 73  # seeds of the streets: no street is in two of them
TRAIN_SWEEPS_PER_STREET, TRAIN_SPACING = 4, 25.0  # metres
NOISE = ds.Compose([ds.Drop(0.4), ds.Jitter(0.04, 0.15), ds.ScaleAttribute(low=0.5, high=1.8)])
CHANGES = ds.Compose(
    [ds.Rotate(), ds.Flip(), ds.Scale(), ds.Shift(), ds.Jitter(), ds.Drop(), ds.DropAttribute()]
)


@dataclass(frozen=True)
class Sweep:
    """One sweep to be simulated: its street, the seed of its noise, and which halves are kept in which files."""

    index: int
    halves: tuple[tuple[str, bool], ...]  # file name, whether the half ahead

    def missing(self, folder: Path) -> bool:
        """Whether a file of it is still to be made."""
        return any(not (folder / name).exists() for name, _ in self.halves)


@dataclass(frozen=True)
class Split:
    """The sweeps of training or of testing."""

    seed: int
    sweeps: tuple[Sweep, ...]
    per_street: int

    @property
    def files(self) -> list[str]:
        """Names of all half sweeps."""
        return [name for sweep in self.sweeps for name, _ in sweep.halves]


def train_split(task: Task) -> Split:
    """Both halves of every sweep, several sweeps in a street."""
    sweeps = tuple(
        Sweep(i, ((f"train-{i:04d}-front.npz", True), (f"train-{i:04d}-back.npz", False)))
        for i in range(task.train_sweeps)
    )
    return Split(TRAIN, sweeps, TRAIN_SWEEPS_PER_STREET)


def test_split(task: Task) -> Split:
    """One half of every sweep, and every sweep in a street of its own, so that scans are independent."""
    sweeps = tuple(Sweep(i, ((f"test-{i:04d}.npz", i % 2 == 0),)) for i in range(task.test_sweeps))
    return Split(TEST, sweeps, 1)


class _Simulation(Dataset[int]):
    """Item i simulates what is missing of street i and returns how many sweeps that were."""

    def __init__(self, task: Task, split: Split, folder: Path) -> None:
        sensor = ds.SpinningSensor(azimuths=task.azimuths)
        count = len(split.sweeps)
        self.scans = ds.SimulatedDataset(
            count, split.seed, sweeps_per_street=split.per_street, spacing=TRAIN_SPACING, sensor=sensor
        )
        self.split, self.folder = split, folder
        streets = [split.sweeps[i : i + split.per_street] for i in range(0, count, split.per_street)]
        self.streets = [s for s in streets if any(sweep.missing(folder) for sweep in s)]

    def __len__(self) -> int:
        return len(self.streets)

    def __getitem__(self, street: int) -> int:
        todo = [sweep for sweep in self.streets[street] if sweep.missing(self.folder)]
        for sweep in todo:
            rng = np.random.default_rng([self.split.seed, sweep.index])
            scan = NOISE(self.scans[sweep.index], rng)
            for name, ahead in sweep.halves:
                _write(self.folder / name, scan.select((scan.points[:, 0] >= 0) == ahead))
        return len(todo)


def _write(path: Path, scan: ds.Scan) -> None:
    """Writes a half sweep in one step: a file that exists is complete."""
    if scan.labels is None:
        raise ValueError("simulated scans have labels")
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(
            file,
            points=scan.points.astype(np.float32),
            remission=scan.attributes["remission"].astype(np.float32),
            labels=ds.to_training_ids(scan.labels).astype(np.uint8),
        )
    os.replace(part, path)


def _ignore_ctrl_c(worker: int) -> None:
    """Leaves Ctrl-C to the main process, which ends the workers."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def prepare(task: Task, folder: Path) -> None:
    """Simulates what is missing; Ctrl-C loses a street at most."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in (("training", train_split(task)), ("held-out", test_split(task))):
        simulation = _Simulation(task, split, folder)
        total = sum(sweep.missing(folder) for street in simulation.streets for sweep in street)
        workers = min(len(simulation), os.cpu_count() or 1)
        loader = DataLoader(simulation, None, num_workers=workers, worker_init_fn=_ignore_ctrl_c)
        if total:
            with tqdm(total=total, unit="sweep", desc=f"simulating, {name}", mininterval=1) as bar:
                for done in loader:
                    bar.update(done)


class HalfSweeps(Dataset[ds.Scan]):
    """The half sweeps of a split, read from their files; labels are training ids."""

    def __init__(self, split: Split, folder: Path) -> None:
        self.files = [folder / name for name in split.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> ds.Scan:
        with np.load(self.files[index]) as arrays:
            return ds.Scan(arrays["points"], {"remission": arrays["remission"]}, arrays["labels"])


def batches(task: Task, samples: ds.Samples, groups: list[list[int]]) -> Iterator[ds.Batch]:
    """Voxelizes groups of samples one after the other."""
    for group in groups:
        yield ds.collate_scans([samples[i] for i in group], voxel_size=task.voxel)


def training_batches(
    task: Task, folder: Path, *, steps: int, seed: int, first: int = 0
) -> Iterator[ds.Batch]:
    """`steps` batches in an order, and with changes, that depend on `seed` and on the step alone, counted from `first`."""
    samples = ds.Samples(
        HalfSweeps(train_split(task), folder), features=FEATURES, transform=CHANGES, seed=seed
    )
    order: list[int] = []
    for step in range(first, first + steps):
        chosen = []
        for position in range(task.seen(step), task.seen(step + 1)):
            epoch, place = divmod(position, len(samples))
            if place == 0 or not order:
                samples.set_epoch(epoch)
                shuffle = torch.Generator().manual_seed(1000 * seed + epoch)
                order = torch.randperm(len(samples), generator=shuffle).tolist()
            chosen.append(samples[order[place]])
        yield ds.collate_scans(chosen, voxel_size=task.voxel)


def test_batches(task: Task, folder: Path) -> Iterator[ds.Batch]:
    """The held-out half sweeps, one a batch, as they are."""
    samples = ds.Samples(HalfSweeps(test_split(task), folder), features=FEATURES)
    return batches(task, samples, [[i] for i in range(len(samples))])


def rank_batches(task: Task, folder: Path) -> list[ds.Batch]:
    """Half sweeps of training, unchanged, that criteria are computed on; their kernel maps stay with them."""
    samples = ds.Samples(HalfSweeps(train_split(task), folder), features=FEATURES)
    chosen = torch.linspace(0, len(samples) - 1, min(task.rank_scans, len(samples))).long().tolist()
    return list(batches(task, samples, [[i] for i in chosen]))


def class_weights(task: Task, folder: Path) -> Tensor:
    """A weight `[classes]` per class, one over the root of its share of the points, 1 on average; 0 for absent classes."""
    scans = HalfSweeps(train_split(task), folder)
    counts = torch.zeros(256, dtype=torch.int64)
    for i in range(len(scans)):
        labels = scans[i].labels
        if labels is not None:
            counts += torch.bincount(torch.from_numpy(labels.astype(np.int64)), minlength=256)
    counts = counts[:CLASSES]
    weights = torch.where(counts > 0, (counts / counts.sum()).clamp(min=1e-4).rsqrt(), 0.0)
    return weights / weights[counts > 0].mean()


def full_sweeps(
    task: Task, data: Path | None, names: tuple[str, ...]
) -> tuple[dict[str, SparseTensor], list[str]]:
    """Whole sweeps for timing, voxelized: a simulated one and real ones in `data`, and a sentence for each absent one."""
    sensor = ds.SpinningSensor(azimuths=task.azimuths)
    found, missing = {"simulated": ds.simulate_scan(TIMING * 100_000, sensor=sensor)}, []
    for name in names:
        path = None if data is None else data / name
        if path is not None and path.exists():
            found[path.stem] = ds.read_scan(path)
        else:
            missing.append(f"{name} is not there: nothing is timed on it.")
    tensors = {}
    for name, scan in found.items():
        sample = ds.make_sample(scan.replace(labels=None), features=FEATURES)
        tensors[f"{name}, {task.voxel:g} m"] = ds.collate_scans([sample], voxel_size=task.voxel).tensor
    return tensors, missing
