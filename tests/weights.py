# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Random weights for the tests of formats."""

from __future__ import annotations

from typing import Any

import torch

OPTIONS: list[dict[str, Any]] = [  # of quantization
    {"bits": 8},
    {"bits": 8, "scale": "minmax"},
    {"bits": 4},
    {"bits": 4, "group_size": 5, "scale": "minmax"},
    {"bits": 4, "codebook": True},
]
OPTIONS_IDS = ["8", "8-minmax", "4", "4-minmax-5", "codebook"]


def random_weight(shape: tuple[int, ...], seed: int = 0, density: float = 1.0) -> torch.Tensor:
    """Normal random numbers, float32, of which about a share of `density` is not zero."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(*shape, generator=g)
    return torch.where(torch.rand(*shape, generator=g) < density, weight, 0)
