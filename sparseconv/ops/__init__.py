# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The operators as torch knows them, torch.ops.sparseconv.*; importing this registers them."""

from . import convolution, eie, maps, quantized, reduction, vectors

__all__ = ["convolution", "eie", "maps", "quantized", "reduction", "vectors"]
