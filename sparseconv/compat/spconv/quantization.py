# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""spconv.pytorch.quantization, which is left out: asking for a name of it says so."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise NotImplementedError(
        f"spconv.pytorch.quantization.{name}: spconv's quantised layers are left out; sparseconv.formats.quantize makes layers "
        "with 8-bit and 4-bit weights of a network that convert.from_spconv has converted"
    )
