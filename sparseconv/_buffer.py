# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors as the compiled core takes them: typed buffers (DLPack)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.dlpack import to_dlpack  # type: ignore[attr-defined]

buffer: Any = to_dlpack


def optional(array: Tensor | None) -> object:
    """The buffer of an array that may be absent."""
    return None if array is None else buffer(array)
