# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Incremental steps of a build: run a command only when its inputs or its own words have changed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

WARNINGS = ("-Wall", "-Wextra")


class BuildError(RuntimeError):
    """The core cannot be built here; the message says what is missing and what to do."""


def say(message: str) -> None:
    """Tell the person who builds; setuptools' own log is silent at its default level."""
    sys.stderr.write(f"sparseconv: {message}\n")


def read_depends(path: Path) -> list[Path] | None:
    """The files of a make rule written by the compiler; None where there is no rule."""
    if not path.exists():
        return None
    _, _, files = path.read_text().partition(":")
    return [Path(name) for name in shlex.split(files.replace("\\\n", " "))]


def record_of(target: Path) -> Path:
    """The file beside `target` that keeps the words of the command that made it."""
    return target.with_name(f"{target.name}.cmd")


def is_fresh(target: Path, command: Sequence[str], depends: Sequence[Path] | None) -> bool:
    """Whether `target` came from this very command and is no older than what it depends on."""
    record = record_of(target)
    if depends is None or not target.exists() or not record.exists():
        return False
    if record.read_text() != shlex.join(command):
        return False
    made = target.stat().st_mtime_ns
    return all(file.exists() and file.stat().st_mtime_ns <= made for file in depends)


def write_with(target: Path, command: Sequence[str], described: Sequence[str]) -> None:
    """Run a command that writes `target`, and record `described`, the words that `is_fresh` will compare.

    The file is written aside and then renamed: neither an interrupted build nor a process that has the old module
    open ever meets half a file.
    """
    record = record_of(target)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    started = time.time_ns()
    result = subprocess.run([*command, "-o", str(aside)], check=False)
    if result.returncode != 0:
        aside.unlink(missing_ok=True)
        raise BuildError(f"the compiler failed (exit {result.returncode}) on: {shlex.join(command)}")
    os.utime(aside, ns=(started, started))  # an edit made while the compiler ran must count as newer
    aside.replace(target)
    record.write_text(shlex.join(described))


def install(built: Path, target: Path) -> None:
    """Copy a built file to where it is wanted, as a new file: a process that has the old one open keeps it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copy2(built, target)
