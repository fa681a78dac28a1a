# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Small networks of many shapes, for tests of pruning: each with what must shrink in it and what must stay.

Weights and norm statistics are random and float64, so that a channel too many or too few changes the output.
"""

import zoo_named  # noqa: F401  fills ZOO
import zoo_parts  # noqa: F401
from zoo_base import ZOO, Net, block, cloud, conv, create, randomize, sites
from zoo_others import AuxiliaryHead, WidthInTheScale
from zoo_styles import Result, Slotted

__all__ = [
    "ZOO",
    "AuxiliaryHead",
    "Net",
    "Result",
    "Slotted",
    "WidthInTheScale",
    "block",
    "cloud",
    "conv",
    "create",
    "randomize",
    "sites",
]
