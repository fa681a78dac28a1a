# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Bird's-eye pictures of scans and their labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch
from sparseconv.datasets import CLASSES, COLORS, Scan

Image = np.ndarray[Any, np.dtype[np.float32]]
_PALETTE = np.array([*COLORS, (90, 90, 90)], np.float32) / 255  # the last one: no class


def bird_eye(points: np.ndarray[Any, Any], colors: Image, *, radius: float, pixel: float) -> Image:
    """Draw points `[N, 3]` in colors `[N, 3]` from above, higher ones over lower ones; x to the right, y
    up.
    """
    size = int(2 * radius / pixel)
    cell = np.floor((points[:, :2] + radius) / pixel).astype(np.int64)
    inside = ((cell >= 0) & (cell < size)).all(axis=1)
    order = np.flatnonzero(inside)[np.argsort(points[inside, 2], kind="stable")]
    image = np.zeros((size, size, 3), np.float32)
    image[size - 1 - cell[order, 1], cell[order, 0]] = colors[order]
    return image


def label_colors(labels: np.ndarray[Any, Any]) -> Image:
    """Return the class colors `[N, 3]` of training ids, gray where there is none."""
    return _PALETTE[np.where((labels >= 0) & (labels < len(COLORS)), labels, len(COLORS))].astype(np.float32)


def height_colors(scan: Scan) -> Image:
    """Return colors `[N, 3]` by height, darker where little light came back (where the scan has a
    remission).
    """
    z = scan.points[:, 2]
    low, high = np.percentile(z, [2, 98]) if len(z) else (0, 1)
    share = np.clip((z - low) / max(high - low, 1e-6), 0, 1)
    colors: Image = plt.get_cmap("viridis")(share)[:, :3].astype(np.float32)
    remission = scan.attributes.get("remission")
    if remission is None or not len(remission) or remission.max() <= 0:
        return colors
    light = np.clip(remission / np.percentile(remission, 95).clip(1e-6), 0, 1).astype(np.float32)
    dimmed: Image = colors * (np.float32(0.5) + np.float32(0.5) * light)[:, None]
    return dimmed


def save_pictures(
    path: Path, scan: Scan, labelings: Mapping[str, np.ndarray[Any, Any]], *, title: str, radius: float = 40.0
) -> None:
    """Save one PNG with the scan beside each of its labelings (training ids), and the colors of the
    classes in them.
    """
    points = scan.points
    if (
        len(points) and (np.abs(points[:, :2]).max(axis=1) < radius).mean() < 0.5
    ):  # the sensor is not at the origin
        points = points - np.median(points, axis=0)
    radius = min(radius, max(float(np.abs(points[:, :2]).max()) if len(points) else 1.0, 1.0))
    pixel = radius / 320
    panels = {"input": height_colors(scan)} | {
        name: label_colors(labels) for name, labels in labelings.items()
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 6.9), squeeze=False)
    for axis, (name, colors) in zip(axes[0], panels.items(), strict=True):
        axis.imshow(
            bird_eye(points, colors, radius=radius, pixel=pixel),
            extent=(-radius, radius, -radius, radius),
            interpolation="nearest",
        )
        axis.set_title(name)
        axis.set_xlabel("x in m")
    axes[0][0].set_ylabel("y in m")
    seen = sorted(
        {int(i) for labels in labelings.values() for i in np.unique(labels) if 0 <= i < len(CLASSES)}
    )
    handles = [Patch(color=_PALETTE[i], label=CLASSES[i]) for i in seen]
    figure.legend(handles=handles, loc="lower center", ncol=3 + 2 * len(panels), frameon=False)
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
