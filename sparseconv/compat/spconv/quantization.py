# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""spconv.pytorch.quantization: every name can be imported and says when called that it is left out."""

from __future__ import annotations

from typing import Any

from .left_out import QUANTIZED, left_out


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return left_out(f"quantization.{name}", QUANTIZED)
