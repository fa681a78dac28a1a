# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Prune a trained segmentation network in several ways, fine-tune each, and write one HTML report.

    python examples/prune_segmentation.py --checkpoint runs/segmentation
    python examples/prune_segmentation.py --checkpoint runs/demo --steps 300 --keep 0.5 0.25

The report has accuracy, size, multiply-accumulates and measured milliseconds of every network, the sensitivity of
its layers, and pictures. The best network is saved as `pruned.safetensors`; `load_pruned` reads it back.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from pictures import save_pictures
from rich.console import Console
from segment_scan import load_network, segment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from train_segmentation import (
    Settings,
    class_weights,
    default_device,
    evaluate,
    make_data,
    make_loader,
    make_model,
    make_samples,
)

from sparseconv import datasets as ds
from sparseconv import pruning

HOLDS = 0.99  # of the accuracy before


@dataclass
class Options:
    """How a network is pruned."""

    steps: int = 200  # of fine-tuning, for each network
    factor: float = 0.3  # of the learning rate the network was trained with
    keep: tuple[float, ...] = (0.5, 0.25)  # shares of the multiply-accumulates that stay
    calibration: int = 8  # training batches that importance is measured on
    sensitivity: tuple[float, ...] = (0.3, 0.6, 0.9)  # ratios of the sensitivity scan; none = no scan
    scans: int = 8  # held-out scans that the sensitivity scan evaluates on
    timed: int = 2  # held-out scans that are timed
    rounds: int = 7


def forward(model: nn.Module, batch: ds.Batch) -> Tensor:
    """Return class scores `[voxels, classes]` of a batch."""
    scores: Tensor = model(batch.tensor).features
    return scores


def batch_loss(weights: Tensor, device: torch.device, model: nn.Module, batch: ds.Batch) -> Tensor:
    """Return the cross entropy over the voxels of a batch."""
    batch = batch.to(device)
    truth = batch.voxel_labels(len(ds.CLASSES))
    return cross_entropy(forward(model, batch).float(), truth, weights, ignore_index=ds.IGNORE)


def ways(keep: tuple[float, ...]) -> dict[str, list[pruning.Granularity]]:
    """Return what is pruned, one granularity after the other, by name; each leaves its part of the work."""
    channels, taps = pruning.Channels(round_to=8), pruning.Offsets(shared=True)
    found: dict[str, list[pruning.Granularity]] = {}
    for share in keep:
        found[f"channels {share:g}"] = [channels]
        found[f"taps {share:g}"] = [taps]
        found[f"channels and taps {share:g}"] = [channels, taps]
    return found


def prune_network(
    model: nn.Module,
    settings: Settings,
    options: Options,
    data: tuple[ds.Scans, ds.Scans],
    out: Path,
    device: torch.device,
) -> dict[str, nn.Module]:
    """Prune, fine-tune, measure; write `out/report.html` and `out/pruned.safetensors`, and return the networks."""
    start = time.perf_counter()
    train_scans, valid_scans = data
    samples = make_samples(settings, train_scans, train=True)
    held_out = make_samples(settings, valid_scans, train=False)
    weights = class_weights(make_samples(settings, train_scans, train=False)).to(device)
    loss = partial(batch_loss, weights, device)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    batches = make_loader(settings, samples, order, 0)
    calibration = [batch.to(device) for batch in islice(batches, options.calibration)]
    valid = [batch.to(device) for batch in make_loader(settings, held_out, list(range(len(held_out))), 0)]
    few = valid[: max(1, math.ceil(options.scans / settings.batch))]

    def accuracy(network: nn.Module, on: list[ds.Batch] = valid) -> float:
        return float(evaluate(network, on, device).nanmean())

    scan = None
    if options.sensitivity:
        find = partial(
            pruning.sensitivity_scan,
            model,
            calibration[:1],
            lambda network: accuracy(network, few),
            ratios=options.sensitivity,
            path=out / "sensitivity.json",
            forward=forward,
        )
        try:
            scan = find()  # goes on where it was stopped
        except ValueError:  # what lies there belongs to a network trained before
            (out / "sensitivity.json").unlink(missing_ok=True)
            scan = find()
    networks: dict[str, nn.Module] = {"dense": model}
    plans: dict[str, pruning.Plan] = {}
    for share in options.keep:
        for name, granularities in ways((share,)).items():
            networks[name], plans[name] = prune_once(
                model, granularities, share, options, settings, calibration, batches, loss
            )
    scores = {name: accuracy(network) for name, network in networks.items()}
    timed = [
        batch.to(device) for batch in make_loader(one_by_one(settings), held_out, [0, 1][: options.timed], 0)
    ]
    profile = pruning.profile(networks, timed, forward=forward, rounds=options.rounds)
    best = choose(profile, scores)
    out.mkdir(parents=True, exist_ok=True)
    pruning.save(out / "pruned.safetensors", networks[best], plans[best])
    write_report(out, profile, scores, scan, best, plans[best], networks, settings, valid_scans, device)
    print_result(profile, scores, best, out, time.perf_counter() - start)
    return networks


def one_by_one(settings: Settings) -> Settings:
    """Return settings with one scan a batch, as a network in use gets them."""
    return dataclasses.replace(settings, batch=1)


def prune_once(
    model: nn.Module,
    granularities: list[pruning.Granularity],
    share: float,
    options: Options,
    settings: Settings,
    calibration: list[ds.Batch],
    batches: Iterable[ds.Batch],
    loss: pruning.Loss,
) -> tuple[nn.Module, pruning.Plan]:
    """Prune to a share of the multiply-accumulates, in equal factors, fine-tuning after each granularity."""
    current, plan = model, pruning.Plan(())
    for granularity in granularities:
        part = pruning.make_plan(
            current,
            calibration,
            granularity=granularity,
            criterion=pruning.Taylor(),
            ratio=pruning.Macs(share ** (1 / len(granularities))),
            loss=loss,
            forward=forward,
        )
        current, plan = part.apply(current), plan.then(part)
        pruning.fine_tune(
            current,
            batches,
            pruning.distilled(loss, model),  # the network before pruning teaches
            steps=options.steps // len(granularities),
            lr=settings.lr,
            factor=options.factor,
            plan=plan,
        )
    return current.eval(), plan


def choose(profile: pruning.Profile, scores: dict[str, float]) -> str:
    """Return the fastest pruned network that holds 99 % of the accuracy, else the most accurate one."""
    pruned = [n.name for n in profile.networks[1:]]
    holding = [name for name in pruned if scores[name] >= HOLDS * scores["dense"]]
    if holding:
        return max(holding, key=profile.speedup)
    return max(pruned, key=scores.__getitem__)


def write_report(
    out: Path,
    profile: pruning.Profile,
    scores: dict[str, float],
    scan: pruning.Sensitivity | None,
    best: str,
    plan: pruning.Plan,
    networks: dict[str, nn.Module],
    settings: Settings,
    valid_scans: ds.Scans,
    device: torch.device,
) -> None:
    """Write `out/report.html`."""
    report = pruning.Report("A pruned segmentation network")
    names = [n.name for n in profile.networks]
    report.text(
        f"MinkUNet{settings.depth}, width {settings.width:g}, voxels of {settings.voxel:g} m. Of the pruned networks, "
        f"'{best}' is the one to use: {profile.speedup(best):.2f} times as fast as the dense network, with "
        f"{scores[best] / scores['dense']:.1%} of its mIoU."
    )
    report.networks(profile, scores, label="mIoU", mark=names.index(best))
    milliseconds = {n.name: (n.milliseconds, scores[n.name]) for n in profile.networks}
    report.front(milliseconds, label="mIoU on held-out scans", first="dense")
    if scan is not None:
        report.heading("Sensitivity")
        scan.plot(out / "sensitivity.png", label="mIoU")
        report.figure(
            out / "sensitivity.png", "Each group of coupled channels pruned alone, without fine-tuning"
        )
    report.heading("Before and after")
    for number, name in enumerate(("dense", best)):
        picture = out / f"scan-{number}.png"
        view = ds.Crop(settings.radius)(valid_scans[0], np.random.default_rng(0))
        labels, _ = segment(networks[name].eval(), settings, view, device)
        panels = {"prediction": labels}
        if view.labels is not None:
            panels = {"truth": ds.to_training_ids(view.labels), **panels}
        save_pictures(picture, view, panels, title=name, radius=settings.radius)
        report.figure(picture, name)
    report.heading("Layer by layer")
    report.layers(profile, "dense", best)
    report.heading("The plan")
    report.plan(plan)
    report.write(out / "report.html")


def print_result(
    profile: pruning.Profile, scores: dict[str, float], best: str, out: Path, seconds: float
) -> None:
    """Print a line for each network and where the report is."""
    console = Console()
    for n in profile.networks:
        console.print(
            f"{n.name:24s} mIoU {scores[n.name]:.3f}  {n.milliseconds:7.1f} ms  {profile.speedup(n.name):.2f}x  "
            f"{n.macs / 1e9:.2f} GMACs  {n.size / 1e6:.2f} MB"
        )
    console.print(f"best: {best}; report: {out / 'report.html'}; pruning took {seconds:.0f} s")


def load_pruned(checkpoint: Path, file: Path) -> nn.Module:
    """Return the pruned network of a file, made from the settings of the checkpoint that it was pruned from."""
    _, settings = load_network(checkpoint, torch.device("cpu"))
    network, _ = pruning.load(file, make_model(settings))
    return network.eval()


def main() -> None:
    """Read the command line, prune the network of a checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/segmentation"))
    parser.add_argument("--out", type=Path, help="default: CHECKPOINT/pruned")
    parser.add_argument("--data", help="folder of SemanticKITTI; default: what the network was trained on")
    parser.add_argument("--steps", type=int, default=Options.steps)
    parser.add_argument("--keep", type=float, nargs="+", default=list(Options.keep))
    parser.add_argument("--device", default=default_device())
    args = parser.parse_args()
    device = torch.device(args.device)
    model, settings = load_network(args.checkpoint, device)
    if args.data is not None:
        settings = dataclasses.replace(settings, data=args.data)
    options = Options(steps=args.steps, keep=tuple(args.keep))
    out = args.out or args.checkpoint / "pruned"
    prune_network(model, settings, options, make_data(settings), out, device)


if __name__ == "__main__":
    main()
