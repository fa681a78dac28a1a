# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Train a MinkUNet to label every point of a LiDAR scan.

    python examples/train_segmentation.py                      # simulated scans
    python examples/train_segmentation.py --data /data/semantic_kitti --width 1 --voxel 0.05
    python examples/train_segmentation.py --resume             # go on where the last run of --out stopped

Ctrl-C saves a checkpoint and ends. Curves: tensorboard --logdir runs
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from checkpoint import NAME, load_model, load_training, read_checkpoint, save_checkpoint
from interrupt import ignore_ctrl_c, stop_on_ctrl_c
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.classification import MulticlassConfusionMatrix
from tqdm import tqdm

import sparseconv
from sparseconv import datasets as ds
from sparseconv.models import MinkUNet14, MinkUNet18, MinkUNet34

MODELS = {"14": MinkUNet14, "18": MinkUNet18, "34": MinkUNet34}
NUM_CLASSES = len(ds.CLASSES)


@dataclass
class Settings:
    """What a run depends on; stored in its checkpoints."""

    data: str = "simulated"  # or the folder of SemanticKITTI
    depth: str = "18"  # MinkUNet14, 18 or 34
    width: float = 0.5  # channels, relative to the published network
    voxel: float = 0.1  # metres
    radius: float = 50.0  # metres around the sensor that are used
    features: tuple[str, ...] = ("one", "z", "remission")
    scans: int = 200  # simulated training scans
    valid: int = 20  # validation scans at most
    epochs: int = 20
    batch: int = 2
    lr: float = 3e-3
    decay: float = 0.01
    seed: int = 0
    minutes: float = 0.0  # above 0: stop after these, the learning rate annealed to zero by then


def default_device() -> str:
    """Return cuda where both the core and torch can use one, else cpu."""
    return "cuda" if sparseconv.show_config()["cuda"] and torch.cuda.is_available() else "cpu"


def make_data(settings: Settings) -> tuple[ds.Scans, ds.Scans]:
    """Return the scans to train with and those to validate on."""
    if settings.data == "simulated":
        seed = settings.seed
        return ds.SimulatedDataset(settings.scans, seed), ds.SimulatedDataset(settings.valid, seed + 1)
    train, valid = ds.SemanticKitti(settings.data, "train"), ds.SemanticKitti(settings.data, "valid")
    step = max(1, len(valid) // settings.valid)
    return train, Subset(valid, range(0, len(valid), step))


def make_samples(settings: Settings, scans: ds.Scans, *, train: bool) -> ds.Samples:
    """Turn scans into samples of training ids, cropped, and for training changed at random."""
    changes: list[ds.Transform] = [ds.Crop(settings.radius)]
    if train:
        changes += [
            ds.Rotate(),
            ds.Flip(),
            ds.Scale(),
            ds.Shift(),
            ds.Jitter(),
            ds.Drop(),
            ds.DropAttribute(),
        ]
    change, seed = ds.Compose(changes), settings.seed
    return ds.Samples(
        scans, features=settings.features, transform=change, label_map=ds.to_training_ids, seed=seed
    )


def make_model(settings: Settings) -> nn.Module:
    """Return the network: `len(features)` numbers a voxel in, a score per class out."""
    return MODELS[settings.depth](len(settings.features), NUM_CLASSES, width=settings.width)


def make_loader(
    settings: Settings, samples: ds.Samples, order: list[int], workers: int
) -> Iterable[ds.Batch]:
    """Load samples in a given order; the workers voxelize."""
    collate = partial(ds.collate_scans, voxel_size=settings.voxel)
    return DataLoader(
        samples,
        settings.batch,
        sampler=order,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=ignore_ctrl_c,
        generator=torch.Generator().manual_seed(settings.seed),  # leaves torch's own for the network alone
    )


def class_weights(samples: ds.Samples, scans: int = 30) -> Tensor:
    """Return a weight `[classes]` per class, one over the root of its share of the points, 1 on average;
    0 for absent classes.
    """
    counts = torch.zeros(NUM_CLASSES, dtype=torch.int64)
    for i in torch.linspace(0, len(samples) - 1, min(scans, len(samples))).long().tolist():
        labels = samples[i]["labels"]
        counts += torch.bincount(labels[labels < NUM_CLASSES], minlength=NUM_CLASSES)
    weights = torch.where(counts > 0, (counts / counts.sum()).clamp(min=1e-4).rsqrt(), 0.0)
    return weights / weights[counts > 0].mean()


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable[ds.Batch], device: torch.device) -> Tensor:
    """Return the IoU `[classes]` over all points of a loader, NaN for classes that no point has."""
    confusion = MulticlassConfusionMatrix(NUM_CLASSES, ignore_index=ds.IGNORE).to(device)
    model.eval()
    for batch in loader:
        batch = batch.to(device)
        if batch.labels is None:
            raise ValueError("evaluate: the scans to validate on must have labels")
        confusion.update(model(batch.tensor).features.argmax(dim=1)[batch.index], batch.labels)
    matrix = confusion.compute().double()
    hits, truth = matrix.diag(), matrix.sum(dim=1)
    return torch.where(truth > 0, hits / (truth + matrix.sum(dim=0) - hits), torch.nan)


def annealed(progress: float) -> float:
    """Return the learning rate's factor: up over the first 5 % of a run, then half a cosine down to 0."""
    return min(progress / 0.05 + 0.05, 0.5 + 0.5 * math.cos(math.pi * min(progress, 1.0)))


def train(
    settings: Settings,
    out: Path,
    device: torch.device,
    *,
    data: tuple[ds.Scans, ds.Scans] | None = None,
    workers: int = 0,
    resume: bool = False,
) -> tuple[nn.Module, Tensor]:
    """Train, validating after every epoch, and return the network and its IoU per class; checkpoints and
    curves go to `out`.
    """
    torch.manual_seed(settings.seed)
    train_scans, valid_scans = data or make_data(settings)
    samples, held_out = (
        make_samples(settings, train_scans, train=True),
        make_samples(settings, valid_scans, train=False),
    )
    valid_loader = make_loader(settings, held_out, list(range(len(held_out))), workers)
    model = make_model(settings).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.decay)
    half = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and half is torch.float16)
    step, seconds, weights, ious = 0, 0.0, None, torch.full((NUM_CLASSES,), torch.nan)
    if resume:
        record, tensors = read_checkpoint(out)
        load_model(model, tensors)
        load_training(optimizer, record, tensors)
        progress = record["progress"]
        step, seconds, weights = progress["step"], progress["seconds"], torch.tensor(progress["weights"])
        ious = torch.tensor([math.nan if iou is None else iou for iou in progress["ious"]])
        scaler.load_state_dict(progress["scaler"])
    weights = class_weights(make_samples(settings, train_scans, train=False)) if weights is None else weights
    weights_there = weights.to(device)
    epoch_steps = math.ceil(len(samples) / settings.batch)
    total = settings.epochs * epoch_steps
    started = time.monotonic() - seconds

    def save() -> None:
        progress = {"step": step, "seconds": time.monotonic() - started, "weights": weights.tolist()}
        progress |= {
            "scaler": scaler.state_dict(),
            "ious": [None if math.isnan(iou) else iou for iou in ious.tolist()],
        }
        save_checkpoint(
            out, model, settings=dataclasses.asdict(settings), optimizer=optimizer, progress=progress
        )

    def fraction() -> float:
        spent = (time.monotonic() - started) / (60 * settings.minutes) if settings.minutes else 0.0
        return max(step / total, spent)

    pause = 0.1 if sys.stderr.isatty() else 10.0  # seconds between two lines; a log file wants few
    bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, smoothing=0.1, mininterval=pause)
    with SummaryWriter(str(out)) as writer, bar, stop_on_ctrl_c() as stop:
        while fraction() < 1 and not stop:
            epoch, done = divmod(step, epoch_steps)
            samples.set_epoch(epoch)
            shuffle = torch.Generator().manual_seed(settings.seed + epoch)
            order = torch.randperm(len(samples), generator=shuffle).tolist()[done * settings.batch :]
            model.train()
            for batch in make_loader(settings, samples, order, workers):
                batch = batch.to(device)
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * annealed(fraction())
                with torch.autocast(device.type, dtype=half, enabled=device.type == "cuda"):
                    scores = model(batch.tensor).features
                truth = batch.voxel_labels(NUM_CLASSES)
                loss = cross_entropy(scores.float(), truth, weights_there, ignore_index=ds.IGNORE)
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                step += 1
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}", epoch=epoch + 1, refresh=False)
                writer.add_scalar("loss", loss.item(), step)
                writer.add_scalar("lr", optimizer.param_groups[0]["lr"], step)
                if stop or fraction() >= 1:
                    break
            if not stop:
                ious = evaluate(model, valid_loader, device)
                writer.add_scalar("mIoU", ious.nanmean().item(), step)
                bar.write(
                    f"epoch {epoch + 1}: loss {loss.item():.3f}, mIoU on held-out scans {ious.nanmean():.3f}"
                )
            save()
        if stop:
            bar.write(f"stopped at step {step} of {total}, saved in {out}; --resume goes on from there")
    return model, ious


def main() -> None:
    """Read the command line, train, print the IoU of each class."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for field in dataclasses.fields(Settings):
        if field.name == "features":
            parser.add_argument("--features", nargs="+", default=list(Settings.features))
        else:
            parser.add_argument("--" + field.name, type=type(field.default), default=field.default)
    parser.add_argument("--out", type=Path, default=Path("runs/segmentation"))
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --out, with its settings"
    )
    args = vars(parser.parse_args())
    out, device, workers, resume = (args.pop(name) for name in ("out", "device", "workers", "resume"))
    settings = Settings(**{**args, "features": tuple(args["features"])})
    if resume:
        record, _ = read_checkpoint(out)
        settings = Settings(**{**record["settings"], "features": tuple(record["settings"]["features"])})
    elif (out / NAME).exists():
        parser.error(f"{out} holds a run already: --resume goes on with it, another --out starts a new one")
    _, ious = train(settings, out, torch.device(device), workers=workers, resume=resume)
    for name, iou in zip(ds.CLASSES, ious.tolist(), strict=True):
        if not math.isnan(iou):
            print(f"{name:14s} {iou:.3f}")


if __name__ == "__main__":
    main()
