# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The CUDA module: one nvcc command, at the caller's wish."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from incremental import WARNINGS, BuildError, install, is_fresh, say, write_with

DEFAULT_CUDA_ARCHS = (
    "80;90"  # sm_80 code runs on 8.6 and 8.9 too; PTX of the last one covers what comes after
)


@dataclass(frozen=True)
class CudaCompiler:
    """nvcc and the architectures it is asked for."""

    nvcc: str
    archs: tuple[str, ...]

    @classmethod
    def from_environment(cls, source: Path) -> CudaCompiler | None:
        """What SPARSECONV_CUDA=auto|0|1 asks for: None leaves the CUDA module out, and says so where that is a choice."""
        wanted = os.environ.get("SPARSECONV_CUDA", "auto")
        if wanted not in ("auto", "0", "1"):
            raise BuildError(f"SPARSECONV_CUDA must be auto, 0 or 1, got {wanted!r}")
        if wanted == "0":
            return None
        nvcc = _find_nvcc()
        if nvcc is None or not source.exists():
            missing = (
                "nvcc (looked in CUDA_HOME, CUDA_PATH, PATH and /usr/local/cuda)"
                if nvcc is None
                else str(source)
            )
            if wanted == "1":
                raise BuildError(f"SPARSECONV_CUDA=1 needs {missing}, which was not found")
            say(f"built without CUDA: no {missing}")
            return None
        archs = tuple(
            a
            for a in os.environ.get("SPARSECONV_CUDA_ARCHS", DEFAULT_CUDA_ARCHS).replace(",", ";").split(";")
            if a
        )
        if not archs or not all(a.rstrip("af").isdigit() for a in archs):
            raise BuildError(
                f"SPARSECONV_CUDA_ARCHS must be like '80;90', got {os.environ['SPARSECONV_CUDA_ARCHS']!r}"
            )
        return cls(nvcc, archs)

    def build_shared(self, root: Path, build_dir: Path, flags: Sequence[str], target: Path) -> None:
        """Compile and link csrc/**/*.cu into the Python module `target` with one command."""
        csrc = root / "csrc"
        sources = sorted(f for f in csrc.rglob("*.cu") if "tools" not in f.relative_to(csrc).parts)
        headers = [f for pattern in ("*.h", "*.hpp", "*.cuh", "*.inl") for f in csrc.rglob(pattern)]
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in self.archs]
        codes.append(f"-gencode=arch=compute_{self.archs[-1]},code=compute_{self.archs[-1]}")
        host = f"-fPIC,-fvisibility=hidden,{','.join(WARNINGS)}"
        command = [
            self.nvcc,
            "-O3",
            "-std=c++17",
            "--expt-relaxed-constexpr",
            "-Werror=cross-execution-space-call",  # device code that calls a host function does anything
            "--threads=0",
            "-shared",
            *codes,
        ]
        command += [
            "-Xcompiler",
            host,
            f'-DSPARSECONV_CUDA_ARCHS="{";".join(self.archs)}"',
            f"-I{csrc}",
            *flags,
            *map(str, sources),
        ]
        built = build_dir / "linked" / target.name
        if not is_fresh(built, command, [*sources, *headers]):
            write_with(built, command, command)
        install(built, target)


def _find_nvcc() -> str | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    for home in filter(None, homes):
        if found := shutil.which("nvcc", path=str(Path(home) / "bin")):
            return found
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
