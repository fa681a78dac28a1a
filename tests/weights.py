# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Random weights for the tests of formats."""

from __future__ import annotations

import torch


def random_weight(shape: tuple[int, ...], seed: int = 0, density: float = 1.0) -> torch.Tensor:
    """Normal random numbers, float32, of which about a share of `density` is not zero."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(*shape, generator=g)
    return torch.where(torch.rand(*shape, generator=g) < density, weight, 0)
