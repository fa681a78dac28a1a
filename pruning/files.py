# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there: written beside their place, then moved onto it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """The path to write to instead of `path`, which gets what was written, its bytes on the disk first; folders are made."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    yield part
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
