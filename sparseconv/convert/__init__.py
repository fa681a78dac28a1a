# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Layers and weights to and from torch's dense layers, spconv, TorchSparse and MinkowskiEngine."""

from .layouts import LAYOUTS, weight_from, weight_to
from .modules import from_torch, to_torch
from .spconv import from_spconv, to_spconv
from .state_dict import state_dict_from, state_dict_to

__all__ = [
    "LAYOUTS",
    "from_spconv",
    "from_torch",
    "state_dict_from",
    "state_dict_to",
    "to_spconv",
    "to_torch",
    "weight_from",
    "weight_to",
]
