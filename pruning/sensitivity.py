# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""How much each layer or group bears: every one pruned alone, at every ratio, and the accuracy that is left.

A row of the scan is a real prune of the whole coupled group: the network that is evaluated is the one that `make_plan` with
`PerLayer({group: ratio})` and `apply` would give. Source: Li et al., "Pruning filters for efficient ConvNets" (ICLR 2017), 3.2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from .analysis import analyze
from .calls import Forward
from .criteria import Context, Criterion, Loss, Magnitude
from .files import replacing
from .granularity import Channels, Granularity, describe
from .make_plan import drop_ignored, step_of
from .plan import Plan
from .ratios import PerLayer, check_ratio, lowest
from .surgery import masks_of
from .units import Units

RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass
class Sensitivity:
    """Accuracy of every group at every ratio.

    Attributes:
        settings: granularity, criterion and ratios that it was made with.
        accuracy: group -> ratio -> what `evaluate` returned.
        parameters, macs: group -> its share of the network's parameters and multiply-accumulates.
    """

    settings: dict[str, Any]
    accuracy: dict[str, dict[float, float]] = field(default_factory=dict)
    parameters: dict[str, float] = field(default_factory=dict)
    macs: dict[str, float] = field(default_factory=dict)

    @property
    def baseline(self) -> float:
        """The accuracy of the network as it is."""
        for row in self.accuracy.values():
            if 0.0 in row:
                return row[0.0]
        raise ValueError("the scan has no row with the ratio 0")

    def ratios(self, threshold: float) -> PerLayer:
        """For every group the largest ratio up to which the accuracy is at least `threshold` throughout.

        The threshold is on the scale of `evaluate`, for instance `0.99 * scan.baseline`.
        """
        chosen = {}
        for name, row in self.accuracy.items():
            best = 0.0
            for ratio in sorted(row):
                if row[ratio] < threshold:
                    break
                best = ratio
            chosen[name] = best
        return PerLayer(chosen)

    def to_json(self) -> str:
        """As JSON; `from_json` reads it."""
        rows = {name: {str(r): a for r, a in row.items()} for name, row in self.accuracy.items()}
        data = {"settings": self.settings, "accuracy": rows, "parameters": self.parameters, "macs": self.macs}
        return json.dumps(data, indent=1)

    @staticmethod
    def from_json(text: str) -> Sensitivity:
        """Reads what `to_json` wrote; raises ValueError for anything else."""
        try:
            data = json.loads(text)
            rows = {n: {float(r): float(a) for r, a in row.items()} for n, row in data["accuracy"].items()}
            return Sensitivity(dict(data["settings"]), rows, dict(data["parameters"]), dict(data["macs"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a sensitivity scan: {error}") from error

    def plot(self, path: Path | str, *, label: str = "accuracy") -> None:
        """One curve for each group, and bars with each group's share of parameters and multiply-accumulates."""
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt

        names = list(self.accuracy)
        figure, (curves, bars) = plt.subplots(
            1, 2, figsize=(15, max(5.0, 0.24 * len(names) + 1.5)), gridspec_kw={"width_ratios": [3, 2]}
        )
        colors = plt.get_cmap("turbo")
        for i, name in enumerate(names):
            row = self.accuracy[name]
            xs = sorted(row)
            curves.plot(
                xs,
                [row[x] for x in xs],
                marker="o",
                ms=3,
                lw=1.2,
                color=colors(i / max(1, len(names) - 1)),
                label=name,
            )
        curves.set_xlabel("share of the group's units that are removed")
        curves.set_ylabel(label)
        curves.grid(alpha=0.3)
        curves.legend(fontsize=6, ncol=2, frameon=False)
        places = range(len(names))
        bars.barh(
            [p - 0.2 for p in places], [100 * self.parameters[n] for n in names], 0.4, label="parameters"
        )
        bars.barh(
            [p + 0.2 for p in places], [100 * self.macs[n] for n in names], 0.4, label="multiply-accumulates"
        )
        bars.set_yticks(list(places), names, fontsize=7)
        bars.invert_yaxis()
        bars.set_xlabel("share of the network, % (coupled groups overlap)")
        bars.legend(frameon=False)
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        plt.close(figure)


def sensitivity_scan(
    model: nn.Module,
    scans: Iterable[Any],
    evaluate: Callable[[nn.Module], float],
    *,
    granularity: Granularity | None = None,
    criterion: Criterion | None = None,
    ratios: Sequence[float] = RATIOS,
    path: Path | str | None = None,
    loss: Loss | None = None,
    forward: Forward | None = None,
    ignore: Sequence[str] = (),
    progress: bool = True,
) -> Sensitivity:
    """Prunes every group alone at every ratio and evaluates; the model is not changed.

    Args:
        model, scans, granularity, criterion, loss, forward, ignore: as for `make_plan`.
        evaluate: (model) -> accuracy, called once for the network and once for every group and ratio above 0.
        ratios: in [0, 1].
        path: a JSON file that is written after every evaluation; where it exists, the scan goes on from it.
        progress: show a bar.

    Raises:
        ValueError: where the file at `path` belongs to another network or other settings.
    """
    scans = list(scans)
    granularity, criterion = granularity or Channels(), criterion or Magnitude()
    steps = sorted({0.0, *(check_ratio(float(r)) for r in ratios)})
    analysis = analyze(model, scans, forward=forward)
    groups, _ = granularity.units(model, analysis)
    groups, _ = drop_ignored(groups, {}, ignore)
    settings = {
        "granularity": describe(granularity),
        "criterion": describe(criterion),
        "groups": {u.name: u.count for u in groups},
        "weights": _digest(model),
    }
    result = _resume(path, settings) if path is not None and Path(path).exists() else Sensitivity(settings)
    result.parameters, result.macs = _shares(model, groups, analysis.macs)
    scores = criterion.scores(Context(model, scans, analysis, loss, forward), groups)
    words = (describe(granularity), describe(criterion), "sensitivity scan")
    bar = tqdm(
        total=len(groups) * len(steps),
        desc="sensitivity",
        disable=not progress,
        dynamic_ncols=True,
        mininterval=1.0,
    )
    with bar:
        for units, score in zip(groups, scores, strict=True):
            row = result.accuracy.setdefault(units.name, {})
            for ratio in steps:
                if ratio not in row:
                    known = next((r[0.0] for r in result.accuracy.values() if 0.0 in r), None)
                    if ratio == 0.0:
                        row[ratio] = known if known is not None else float(evaluate(model))
                    else:
                        gone = lowest(units, score, ratio)
                        step = step_of(model, granularity, words, [units], [gone])
                        row[ratio] = float(evaluate(Plan((step,)).apply(model)))
                    if path is not None:
                        with replacing(path) as part:
                            part.write_text(result.to_json())
                bar.update()
    return result


def _resume(path: Path | str, settings: Mapping[str, Any]) -> Sensitivity:
    found = Sensitivity.from_json(Path(path).read_text())
    if found.settings != settings:
        raise ValueError(f"{path}: the scan was made with {found.settings}, expected {dict(settings)}")
    return found


def _digest(model: nn.Module) -> str:
    """What tells a network's weights from others: a scan is not gone on with after more training."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _shares(
    model: nn.Module, groups: Sequence[Units], macs: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Each group's share of the network's parameters and multiply-accumulates."""
    total = sum(p.numel() for p in model.parameters())
    parameters = {}
    for units in groups:
        everything = torch.ones(units.count, dtype=torch.bool)
        owned = sum(int((~mask).sum()) for mask in masks_of(model, [units], [everything]).values())
        parameters[units.name] = owned / max(total, 1)
    return parameters, {u.name: float(u.cost.sum()) / max(macs, 1.0) for u in groups}
