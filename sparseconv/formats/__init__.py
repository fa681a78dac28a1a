# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Weight formats with kernels: weights that take fewer bytes or fewer multiplications than their dense form."""

from .quantized import QuantizedWeight, quantize_weight
from .quantized_layers import QuantizedConv, QuantizedLinear, quantize

__all__ = [
    "QuantizedConv",
    "QuantizedLinear",
    "QuantizedWeight",
    "quantize",
    "quantize_weight",
]
