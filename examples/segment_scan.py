# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Label every point of a scan with a trained network: a picture, a `.npy` of labels, and what each stage
took.

    python examples/segment_scan.py scan.bin --checkpoint runs/demo

Labels are training ids (0 car ... 18 traffic-sign, the order of `sparseconv.datasets.CLASSES`), int64, one
per point of the file as read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from checkpoint import load_model, read_checkpoint
from pictures import save_pictures
from rich.console import Console
from rich.table import Table
from torch import nn
from train_segmentation import Settings, default_device, make_model

from sparseconv import datasets as ds

SENSOR_HEIGHT = 1.73  # metres, of the scans that the network was trained on


def load_network(folder: Path, device: torch.device) -> tuple[nn.Module, Settings]:
    """Return the network of a checkpoint, ready to label, and the settings it was trained with."""
    record, tensors = read_checkpoint(folder)
    settings = Settings(**{**record["settings"], "features": tuple(record["settings"]["features"])})
    model = make_model(settings)
    load_model(model, tensors)
    return model.to(device).eval(), settings


def ground_height(scan: ds.Scan) -> float:
    """Return the height of the ground: in the lower half of the points within 12 m of the sensor (of all points
    where few are that near), the 10 cm that hold the most.
    """
    near = np.square(scan.points[:, :2]).sum(axis=1) < 144
    z = scan.points[near, 2] if near.sum() >= 100 else scan.points[:, 2]
    low = z[z <= np.median(z)]
    counts, edges = np.histogram(low, bins=max(1, int(np.ptp(low) / 0.1)))
    most = int(counts.argmax())
    return float(np.median(low[(low >= edges[most]) & (low <= edges[most + 1])]))


@torch.no_grad()
def segment(
    model: nn.Module, settings: Settings, scan: ds.Scan, device: torch.device
) -> tuple[np.ndarray, dict[str, float]]:
    """Return a training id per point, int64 `[N]`, and the seconds that voxelize, map and network took.

    `map` is what the first pass takes longer than a second one, which finds all kernel maps in the tensor's
    cache.
    """
    times = {}
    start = time.perf_counter()
    batch = ds.collate_scans(
        [ds.make_sample(scan.replace(labels=None), features=settings.features)], voxel_size=settings.voxel
    )
    batch = batch.to(device)
    times["voxelize"] = time.perf_counter() - start
    passes = []
    for _ in range(2):
        start = time.perf_counter()
        scores = model(batch.tensor).features
        if device.type == "cuda":
            torch.cuda.synchronize()
        passes.append(time.perf_counter() - start)
    times["map"], times["network"] = max(passes[0] - passes[1], 0.0), passes[1]
    return scores.argmax(dim=1)[batch.index].cpu().numpy(), times


def segment_file(
    path: Path,
    checkpoint: Path,
    out: Path,
    device: torch.device,
    *,
    columns: int | Sequence[str] | None = None,
) -> None:
    """Label a file and write `out/NAME.png` and `out/NAME.npy`; print the times and the classes found."""
    console = Console()
    model, settings = load_network(checkpoint, device)
    start = time.perf_counter()
    scan = ds.read_scan(path, columns=columns)
    read = time.perf_counter() - start
    if len(scan) == 0:
        raise ValueError(f"{path}: the scan has no points to label")
    ground = ground_height(scan)
    lifted = scan.replace(points=scan.points - np.array([0, 0, ground + SENSOR_HEIGHT], scan.points.dtype))
    console.print(
        f"{path}: {len(scan)} points; the ground lies at {ground:.2f} m, moved to {-SENSOR_HEIGHT} m"
    )
    labels, times = segment(model, settings, lifted, device)
    times = {"read": read, **times}
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / f"{path.name}.npy", labels)
    save_pictures(out / f"{path.name}.png", scan, {"labels": labels}, title=path.name)

    stages = Table("stage", "ms")
    stages.columns[1].justify = "right"
    for stage, seconds in times.items():
        stages.add_row(stage, f"{1000 * seconds:.1f}")
    classes = Table("class", "points", "share")
    for i, count in enumerate(np.bincount(labels, minlength=len(ds.CLASSES))):
        if count:
            classes.add_row(ds.CLASSES[i], str(count), f"{count / len(labels):.1%}")
    console.print(stages, classes)
    console.print(f"labels: {out / path.name}.npy\npicture: {out / path.name}.png")


def main() -> None:
    """Read the command line and label one file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scan", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/segmentation"))
    parser.add_argument("--out", type=Path, default=Path("runs/scans"))
    parser.add_argument("--columns", type=int, help="columns of a .bin, where its size leaves a doubt")
    parser.add_argument("--device", default=default_device())
    args = parser.parse_args()
    segment_file(args.scan, args.checkpoint, args.out, torch.device(args.device), columns=args.columns)


if __name__ == "__main__":
    main()
