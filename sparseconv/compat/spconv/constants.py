# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What spconv's layers are told and keep: algorithms, activations, and the layout of stored weights."""

from __future__ import annotations

import enum
import os

VERSION = "2.3.8"  # the spconv whose behaviour this is

# "RSCK" (spconv 1.x) or "RSKC" (spconv 2.0 and 2.1): how weights lie in state dicts that are loaded; None = as the layers
# keep them, [C_out, *kernel_size, C_in], or told by their shapes.
SAVED_WEIGHT_LAYOUT: str | None = os.environ.get("SPCONV_SAVED_WEIGHT_LAYOUT") or None
ALL_WEIGHT_IS_KRSC = True
FILTER_HWIO = False
SPCONV_FX_TRACE_MODE = False
SPCONV_ALLOW_TF32 = False


class SpconvError(ValueError, AssertionError):
    """A wrong argument. spconv raises AssertionError for most and ValueError for some: code that catches either works on."""


class ConvAlgo(enum.Enum):
    """spconv's choices of an algorithm. They are accepted and change nothing: the engine chooses."""

    Native = 0
    MaskImplicitGemm = 1
    MaskSplitImplicitGemm = 2


class AlgoHint(enum.Enum):
    """spconv's hints for the choice of an algorithm; accepted, without effect."""

    NoHint = 0
    Fowrard = 1  # spconv's spelling
    BackwardInput = 2
    BackwardWeight = 4


class Activation(enum.Enum):
    """Activations that spconv fuses into convolutions (cumm's tv.gemm.Activation, which is accepted too)."""

    None_ = 0
    ReLU = 1
    Sigmoid = 2
    LeakyReLU = 3
