# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Weight sharing: weights that are not zero take one of a few values, the centroids of a k-means over them.

Source: Han, Mao and Dally, "Deep Compression" (ICLR 2016), section 3: centroids start evenly between the lowest and the highest
weight ("linear initialization"), which keeps the few large weights that matter most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CODEBOOK_SIZE = 16  # 4-bit codes; code 0 is the value 0


@dataclass(frozen=True)
class Clusters:
    """What `kmeans_1d` found.

    Attributes:
        centroids: [k] float64, ascending.
        objective: the sum of squared distances before each move of the centroids and at the end; it never increases.
    """

    centroids: Tensor
    objective: list[float]


def kmeans_1d(values: Tensor, k: int = CODEBOOK_SIZE - 1, *, iterations: int = 100) -> Clusters:
    """Lloyd's k-means of numbers, linear initialisation, until nothing changes or for so many iterations.

    The values are sorted once; a step then needs only the borders between clusters and prefix sums, in float64. A cluster that
    nobody belongs to stays where it is. With at most k different values the centroids are those values, and fewer than k.

    Args:
        values: any shape, finite, at least one.
        k: clusters, at least 1.
        iterations: moves of the centroids at most.

    Raises:
        ValueError: for no values, values that are not finite, or k < 1.
    """
    if values.numel() == 0 or k < 1:
        raise ValueError(f"k-means needs at least one value and one cluster, got {values.numel()} and {k}")
    ordered = values.detach().flatten().double().sort().values
    if not bool(ordered.isfinite().all()):
        raise ValueError("k-means needs finite values")
    different = torch.unique_consecutive(ordered)
    if len(different) <= k:
        return Clusters(different, [0.0])
    zero = ordered.new_zeros(1)
    # Around the mean, so that squares of nearly equal values do not cancel.
    centre = ordered.mean()
    shifted = ordered - centre
    sums, squares = torch.cat([zero, shifted.cumsum(0)]), torch.cat([zero, shifted.square().cumsum(0)])
    centroids = torch.linspace(float(shifted[0]), float(shifted[-1]), k, dtype=torch.float64)
    objective: list[float] = []
    borders: Tensor | None = None
    while True:
        middle = (centroids[1:] + centroids[:-1]) / 2
        cuts = torch.searchsorted(shifted, middle, right=True)
        previous: Tensor | None = borders
        borders = torch.cat([cuts.new_zeros(1), cuts, cuts.new_full((1,), len(shifted))])
        count, total = borders.diff(), sums[borders].diff()
        objective.append(
            float(
                (squares[borders].diff() - 2 * centroids * total + count * centroids.square())
                .sum()
                .clamp(min=0)
            )
        )
        if len(objective) > iterations or (previous is not None and torch.equal(previous, borders)):
            return Clusters(centroids + centre, objective)
        centroids = torch.where(count > 0, total / count.clamp(min=1), centroids)


def share_weights(weight: Tensor, *, iterations: int = 100) -> tuple[Tensor, Tensor]:
    """Codes and codebook of a matrix: zeros get code 0, other weights the code of the nearest of up to 15 centroids.

    Args:
        weight: any shape, finite.
        iterations: of `kmeans_1d`.

    Returns:
        codes uint8 of the weight's shape, and the codebook [16] float32: entry 0 is 0, unused entries at the end are 0 too.

    Raises:
        ValueError: for a weight that is not finite.
    """
    weight = weight.detach()
    if not bool(weight.isfinite().all()):
        raise ValueError("weights to share must be finite")
    codebook = torch.zeros(CODEBOOK_SIZE)
    codes = torch.zeros(weight.shape, dtype=torch.uint8)
    kept = weight != 0
    if bool(kept.any()):
        values = weight[kept].double()
        centroids = kmeans_1d(values, iterations=iterations).centroids
        codebook[1 : 1 + len(centroids)] = centroids.float()
        codes[kept] = (torch.bucketize(values, (centroids[1:] + centroids[:-1]) / 2) + 1).to(torch.uint8)
    return codes, codebook


def magnitude_mask(weight: Tensor, density: float) -> Tensor:
    """True at the round(density * numel) largest magnitudes; of equal ones the first in memory.

    Raises:
        ValueError: unless 0 <= density <= 1.
    """
    if not 0 <= density <= 1:
        raise ValueError(f"density must lie between 0 and 1, got {density}")
    magnitude = weight.detach().abs().flatten()
    kept = round(density * magnitude.numel())
    if kept == 0:
        return torch.zeros(weight.shape, dtype=torch.bool)
    threshold = magnitude.kthvalue(magnitude.numel() - kept + 1).values
    mask = magnitude > threshold
    ties = (magnitude == threshold).nonzero().flatten()
    mask[ties[: kept - int(mask.sum())]] = True
    return mask.reshape(weight.shape)
