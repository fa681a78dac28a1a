# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Weight formats with kernels."""

from .codebook import kmeans_1d, magnitude_mask, share_weights
from .eie import EIEMatrix, expected_filler_rate, pack_eie
from .eie_linear import EIELinear

__all__ = [
    "EIELinear",
    "EIEMatrix",
    "expected_filler_rate",
    "kmeans_1d",
    "magnitude_mask",
    "pack_eie",
    "share_weights",
]
