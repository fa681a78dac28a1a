# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The whole path in a few minutes: simulate LiDAR scans, train a small MinkUNet on them, label scans it has
never seen, prune it.

    make demo                   # simulate, train, per-class IoU, pictures, prune, report
    make demo SCAN=scan.bin     # label a file of yours with that network (trained first where it is not there yet)
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from checkpoint import NAME
from pictures import save_pictures
from prune_segmentation import Options, prune_network
from rich.console import Console
from rich.progress import track
from rich.table import Table
from segment_scan import load_network, segment, segment_file
from torch import Tensor
from train_segmentation import Settings, default_device, train

from sparseconv import datasets as ds

# Small enough for two cores and a few minutes: a quarter of the channels, 20 cm voxels, the nearest 25 m.
SETTINGS = Settings(
    width=0.25, voxel=0.2, radius=25.0, scans=96, valid=8, epochs=8, batch=2, lr=1e-2, minutes=2.8
)

# Minutes, not hours: few steps of fine-tuning, a coarse sensitivity scan.
PRUNING = Options(steps=100, keep=(0.5,), calibration=4, sensitivity=(0.5,), scans=4, timed=1, rounds=5)


def simulate(count: int, seed: int, what: str) -> list[ds.Scan]:
    """Return `count` simulated scans, all in memory: making one takes about as long as training with it."""
    scans = ds.SimulatedDataset(count, seed, sweeps_per_street=2)
    return [scans[i] for i in track(range(count), description=f"simulating {count} {what}")]


def train_demo(out: Path, device: torch.device, console: Console) -> Tensor:
    """Simulate and train; return the IoU per class on held-out scans."""
    start = time.perf_counter()
    data = (
        simulate(SETTINGS.scans, 0, "scans to train with"),
        simulate(SETTINGS.valid, 1, "scans to hold out"),
    )
    points = sum(len(scan) for part in data for scan in part)
    spent = time.perf_counter() - start
    console.print(f"{len(data[0]) + len(data[1])} scans, {points / 1e6:.1f} M points in {spent:.1f} s")
    model, ious = train(SETTINGS, out, device, data=data)
    for number, scan in enumerate(data[1][:: max(1, SETTINGS.valid // 3)]):
        draw(out, scan, number, device)
    prune_network(model.eval(), SETTINGS, PRUNING, data, out / "pruned", device)
    return ious


def draw(out: Path, scan: ds.Scan, number: int, device: torch.device) -> None:
    """Save one picture: the scan, its labels, and the network's."""
    model, settings = load_network(out, device)
    scan = ds.Crop(settings.radius)(scan, np.random.default_rng())
    labels, _ = segment(model, settings, scan, device)
    panels = {"prediction": labels}
    if scan.labels is not None:
        panels = {"truth": ds.to_training_ids(scan.labels), **panels}
    name = f"held-out simulated scan {number}"
    save_pictures(out / f"scan-{number}.png", scan, panels, title=name, radius=settings.radius)


def main() -> None:
    """Read the command line; train unless there is a network already and a scan to label."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scan", type=Path, help="a file to label: .bin .pcd .ply .xyz .npy .npz")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--device", default=default_device())
    args = parser.parse_args()
    console, device, start = Console(), torch.device(args.device), time.perf_counter()
    if args.scan is not None and not args.scan.exists():
        parser.error(f"{args.scan}: no such file")
    if args.scan is None or not (args.out / NAME).exists():
        console.print(f"training on {device}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")
        ious = train_demo(args.out, device, console)
        table = Table("class", "IoU", title="held-out simulated scans")
        for name, iou in zip(ds.CLASSES, ious.tolist(), strict=True):
            if not math.isnan(iou):
                table.add_row(name, f"{iou:.3f}")
        table.add_section()
        table.add_row("mean", f"{ious.nanmean():.3f}")
        console.print(table)
        console.print(f"pictures: {args.out}/scan-*.png; all of it took {time.perf_counter() - start:.0f} s")
    if args.scan is not None:
        segment_file(args.scan, args.out, args.out / "scans", device)


if __name__ == "__main__":
    main()
