# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a report: how many times longer each peer takes, the share of the FMA peak, time against size."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from report import Report, Row

WIDTH, DPI = 11.0, 90


def draw(report: Report, folder: Path, stem: str) -> list[Path]:
    """Draws what the report has rows for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for suite in ("maps", "conv", "network"):
        rows = [r for r in report.rows if r.suite == suite and _peers(r)]
        if rows:
            drawn.append(
                _save(folder / f"{stem}-{suite}.png", lambda axes, r=rows: _bars(axes, r), len(rows))
            )
    square = [r for r in report.rows if r.part == "submanifold, equal channels, forward"]
    if square:
        drawn.append(_save(folder / f"{stem}-peak.png", partial(_peak, rows=square), 14))
    sizes = [r for r in report.rows if r.part.startswith("scale")]
    if sizes:
        drawn.append(_save(folder / f"{stem}-scale.png", partial(_sizes, rows=sizes), 14))
    return drawn


def _save(path: Path, body: Callable[[Axes], None], rows: int) -> Path:
    figure, axes = plt.subplots(figsize=(WIDTH, 1.2 + 0.24 * rows))
    body(axes)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path


def _peers(row: Row) -> list[str]:
    """Other engines in a row; our own variants are none."""
    return [p for p in row.times_faster if p in ("spconv", "torch", "dense", "minkowski")]


def _bars(axes: Axes, rows: list[Row]) -> None:
    names = list(dict.fromkeys(p for r in rows for p in _peers(r)))
    height = 0.8 / len(names)
    for i, name in enumerate(names):
        have = [(y, r.times_faster[name]) for y, r in enumerate(rows) if name in r.times_faster]
        places = [y + (i - (len(names) - 1) / 2) * height for y, _ in have]
        middle = [s.median for _, s in have]
        error = [[s.median - s.q1 for _, s in have], [s.q3 - s.median for _, s in have]]
        axes.barh(places, middle, height, xerr=error, label=name, error_kw={"elinewidth": 0.8})
    short = (f"{r.scan} | {r.case}{', + gradients' if 'gradients' in r.part else ''}" for r in rows)
    training = (", training" if "training" in r.part else "" for r in rows)
    axes.set_yticks(range(len(rows)), [a + b for a, b in zip(short, training, strict=True)], fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("times longer than sparseconv (median of paired rounds, quartiles)")
    axes.legend(loc="lower right")


def _peak(axes: Axes, rows: list[Row]) -> None:
    for scan in dict.fromkeys(r.scan for r in rows):
        mine = [r for r in rows if r.scan == scan]
        channels = [int(r.case.rsplit(">", 1)[1]) for r in mine]
        axes.plot(channels, [r.numbers["% of FMA peak"] for r in mine], "o-", label=scan)
    axes.set_xlabel("channels in and out, SubM k3 forward")
    axes.set_ylabel("% of the FMA peak")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend()


def _sizes(axes: Axes, rows: list[Row]) -> None:
    for row in rows:
        values = {k: v for k, v in row.numbers.items() if k.startswith("ns, ")}
        counts = [int(re.sub(r"\D", "", name)) for name in values]
        axes.loglog(counts, list(values.values()), "o-", label=row.case)
    axes.set_xlabel("voxels, merged sweeps")
    axes.set_ylabel("ns")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
