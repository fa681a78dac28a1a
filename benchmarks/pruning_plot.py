# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The pruning benchmark's picture: mIoU kept against times faster."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from pruning_lines import Line
from pruning_report import grouped
from pruning_rows import TUNED
from pruning_score import HOLDS


def draw(lines: list[Line], path: Path) -> None:
    """Every network by its speed and its share of the dense network's mIoU, with intervals; dense ones joined by a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(9, 6))
    for kind, group in grouped(lines).items():
        places = [line.speedup() for line in group]
        values = [100 * line.of_dense.value for line in group]
        error = [
            [100 * (line.of_dense.value - line.of_dense.low) for line in group],
            [100 * (line.of_dense.high - line.of_dense.value) for line in group],
        ]
        dense = kind.startswith("dense")
        axes.errorbar(
            places,
            values,
            yerr=error,
            fmt="s" if dense else "o",
            color="black" if dense else None,
            label=kind,
            capsize=2,
            elinewidth=0.8,
        )
        for line, x, y in zip(group, places, values, strict=True):
            name = line.row.name.removeprefix("dense ")
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(6, 4), fontsize=7)
    joined = sorted(
        (line.speedup(), 100 * line.of_dense.value) for line in lines if line.row == TUNED or line.row.beside
    )
    axes.plot([x for x, _ in joined], [y for _, y in joined], color="black", linewidth=0.8, linestyle=":")
    axes.axhline(100 * HOLDS, color="grey", linewidth=0.8)
    axes.set_xlabel("times faster than the dense network, end to end, one thread")
    axes.set_ylabel("mIoU, % of the dense network's (95 % bootstrap interval)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=90, bbox_inches="tight")
    plt.close(figure)
