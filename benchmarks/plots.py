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
from settings import PEERS
from timing import Spread

WIDTH, DPI = 11.0, 90


def draw(report: Report, folder: Path, stem: str) -> list[Path]:
    """Draws what the report has rows for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for suite in ("maps", "conv", "network"):
        rows = [r for r in report.rows if r.suite == suite and _peers(r)]
        if rows:
            bars = sum(len(_peers(r)) for r in rows)
            drawn.append(_save(folder / f"{stem}-{suite}.png", partial(_bars, rows=rows), 0.14 * bars))
    square = [r for r in report.rows if r.part == "submanifold, equal channels, forward"]
    if square:
        drawn.append(_save(folder / f"{stem}-peak.png", partial(_peak, rows=square), 4))
    sizes = [r for r in report.rows if r.part.startswith("scale")]
    if sizes:
        drawn.append(_save(folder / f"{stem}-scale.png", partial(_sizes, rows=sizes), 4))
    return drawn


def _save(path: Path, body: Callable[[Axes], None], height: float) -> Path:
    figure, axes = plt.subplots(figsize=(WIDTH, 2 + height))
    body(axes)
    figure.savefig(path, dpi=DPI, bbox_inches="tight")
    plt.close(figure)
    return path


def _peers(row: Row) -> list[str]:
    """Other engines in a row; our own variants are none."""
    return [p for p in row.times_faster if p in PEERS]


def _case(row: Row) -> str:
    """The case with what was run on it, and the order of rows where it is not the usual one."""
    _, comma, kind = row.part.rpartition(", ")
    what = f", {kind}" if comma and kind not in ("gradients recorded",) else ""
    return f"{row.case}{what}{', scan order' if row.scan.endswith(', scan order') else ''}"


def _bars(axes: Axes, rows: list[Row]) -> None:
    """A group per case, in it a bar per scan and peer."""
    values: dict[str, dict[str, Spread]] = {}
    for row in rows:
        for peer in _peers(row):
            series = f"{peer}, {row.scan.removesuffix(', scan order')}"
            values.setdefault(series, {})[_case(row)] = row.times_faster[peer]
    cases = list(dict.fromkeys(_case(r) for r in rows))
    height = 0.85 / len(values)
    for i, (series, found) in enumerate(values.items()):
        have = [(y, found[case]) for y, case in enumerate(cases) if case in found]
        places = [y + (i - (len(values) - 1) / 2) * height for y, _ in have]
        error = [[s.median - s.q1 for _, s in have], [s.q3 - s.median for _, s in have]]
        middle = [s.median for _, s in have]
        axes.barh(places, middle, height, xerr=error, label=series, error_kw={"elinewidth": 0.8})
    axes.set_yticks(range(len(cases)), cases, fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("times longer than sparseconv (median of paired rounds, quartiles)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, frameon=False)


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
