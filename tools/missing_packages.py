# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Name the Debian packages that this machine lacks, one `kind package` line each; no line means that all is there.

Kind `core`: without it nothing can be set up. Kind `open3d`: only reading .pcd and .ply files and simulating scans need it.
Run it with the Python that the virtual environment will be made of. It needs the standard library only.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import runpy
import shutil
import sys
import sysconfig
from pathlib import Path


def find_core() -> list[str]:
    """What it takes to make a virtual environment and to compile a Python module in it."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    missing = []
    # A compiler that the user named is the user's own: the build says so if it is not there.
    if "CXX" not in os.environ and not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        missing.append("g++")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append(f"{python}-dev")
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        missing.append(f"{python}-venv")
    return missing


def find_open3d() -> list[str]:
    """What Open3D's shared library links to, asked of the loader itself."""
    module = Path(__file__).resolve().parent.parent / "datasets" / "_open3d.py"
    libraries: dict[str, str] = runpy.run_path(str(module))["_PACKAGES"]
    return [package for library, package in libraries.items() if not _loads(library)]


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    lines = [f"core {name}" for name in find_core()]
    if sys.platform == "linux":
        lines += [f"open3d {name}" for name in find_open3d()]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
