# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The C++ toolchain: probe the compiler, compile in parallel what changed, link.

setup.py is the only user. `Toolchain.from_environment` reads the environment; CONTRIBUTING.md lists the variables.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from incremental import WARNINGS, BuildError, install, is_fresh, read_depends, say, write_with

SANITIZE_FLAGS = (
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=undefined,float-cast-overflow",
    "-fno-omit-frame-pointer",
)
# One translation unit (csrc/compute/kernels_isa.cpp) is compiled once for each of these; `generic` needs no flags.
X86_INSTRUCTION_SETS = {
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mavx2", "-mfma"),
}
X86_PROBES = {
    "avx2": "#include <immintrin.h>\n__m256 f(__m256 a) { return _mm256_fmadd_ps(a, a, a); }\n",
    "avx512": "#include <immintrin.h>\n"
    '__m512 f(__m512 a) { asm("vdpbf16ps %0, %0, %0" : "+v"(a)); return _mm512_fmadd_ps(a, a, a); }\n',
}
# The matrix unit needs no flags of its own, only an assembler that knows it, and Linux, which lends its registers to a process.
AMX_PROBE = (
    "#include <sys/syscall.h>\nlong f() { return SYS_arch_prctl; }\n"
    'void g() { asm volatile("tdpbf16ps %tmm2, %tmm1, %tmm0"); }\n'
)
OPENMP_PROBE = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"


@dataclass(frozen=True)
class Unit:
    """One compiler call: a source file, its extra flags, and a tag that tells its object from the same file's others."""

    source: Path
    flags: tuple[str, ...] = ()
    tag: str = ""


@dataclass(frozen=True)
class Toolchain:
    """A C++ compiler with the flags that every unit gets."""

    root: Path
    build_dir: Path
    cxx: tuple[str, ...]
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    jobs: int
    openmp: bool

    @classmethod
    def from_environment(cls, root: Path) -> Toolchain:
        """Choose compiler and flags from CXX, CXXFLAGS, LDFLAGS, MAX_JOBS and SPARSECONV_SANITIZE."""
        cxx = _find_cxx()
        sanitize = read_switch("SPARSECONV_SANITIZE")
        flags = ["-std=c++17", "-fPIC", "-fvisibility=hidden", *WARNINGS]
        link: list[str] = []
        if sanitize:
            flags += ["-O1", "-g", *SANITIZE_FLAGS]
            link += SANITIZE_FLAGS
        else:
            flags += ["-O3", "-DNDEBUG"]
        openmp = _accepts(cxx, ("-fopenmp",), OPENMP_PROBE, link=True)
        if openmp:
            flags.append("-fopenmp")
            link.append("-fopenmp")
        else:
            say(f"{cxx[0]} has no OpenMP: the core is built single-threaded")
        flags += shlex.split(os.environ.get("CXXFLAGS", ""))
        link += shlex.split(os.environ.get("LDFLAGS", ""))
        build_dir = root / "build" / ("native-sanitize" if sanitize else "native")
        return cls(root, build_dir, cxx, tuple(flags), tuple(link), _jobs(), openmp)

    def instruction_sets(self) -> dict[str, tuple[str, ...]]:
        """The instruction sets this compiler can emit for this machine's architecture, the baseline first."""
        sets: dict[str, tuple[str, ...]] = {"generic": ()}
        if platform.machine().lower() in ("x86_64", "amd64"):
            for name, flags in X86_INSTRUCTION_SETS.items():
                if _accepts(self.cxx, flags, X86_PROBES[name]):
                    sets[name] = flags
                else:
                    say(f"{self.cxx[0]} cannot emit {name}: built without it")
        return sets

    def core_units(self) -> list[Unit]:
        """Every source of the core but the bindings: kernels_isa.cpp once per instruction set, the rest once.

        The order is the link order, and the baseline comes first on purpose: where the same inline function of the
        standard library is compiled for several instruction sets, the linker keeps the first copy, which must run on every CPU.
        """
        sets = self.instruction_sets()
        have = tuple(f"-DSPARSECONV_HAVE_{name.upper()}" for name in sets if name != "generic")
        if "avx512" in sets and sys.platform == "linux" and _accepts(self.cxx, (), AMX_PROBE):
            amx = "-DSPARSECONV_HAVE_AMX"
            have, sets["avx512"] = (*have, amx), (*sets["avx512"], amx)
        csrc = self.root / "csrc"
        kernels = csrc / "compute" / "kernels_isa.cpp"
        plain = [
            f
            for part in ("core", "mapping", "compute", "sparse")
            for f in sorted((csrc / part).glob("*.cpp"))
            if f != kernels
        ]
        # GCC 12 sees uninitialized values inside its own AVX-512 intrinsics (its bug 105593) and warns at every use.
        quiet: tuple[str, ...] = ("-Wno-maybe-uninitialized",)
        quiet = quiet if _accepts(self.cxx, (*quiet, "-Werror"), "int f();\n") else ()
        units = [Unit(source, have) for source in plain]
        units += [
            Unit(kernels, (*flags, *quiet, f"-DSPARSECONV_ISA={name}"), name) for name, flags in sets.items()
        ]
        return units

    def build_shared(self, units: Sequence[Unit], target: Path) -> None:
        """Compile the units and link them into the Python module `target`."""
        darwin = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()
        self._link(self._compile(units), target, ("-shared", *darwin))

    def build_program(self, units: Sequence[Unit], target: Path) -> None:
        """Compile the units and link them into the executable `target`."""
        self._link(self._compile(units), target, ())

    def _compile(self, units: Sequence[Unit]) -> list[Path]:
        with ThreadPoolExecutor(self.jobs) as pool:
            return list(pool.map(self._compile_one, units))

    def _compile_one(self, unit: Unit) -> Path:
        name = unit.source.relative_to(self.root).with_suffix(f".{unit.tag}.o" if unit.tag else ".o")
        target = self.build_dir / name
        depends = target.with_suffix(".d")
        command = [
            *self.cxx,
            *self.compile_flags,
            *unit.flags,
            f"-I{self.root / 'csrc'}",
            "-c",
            str(unit.source),
        ]
        if not is_fresh(target, command, read_depends(depends)):
            write_with(target, [*command, "-MMD", "-MF", str(depends), "-MT", "object"], command)
        return target

    def _link(self, objects: Sequence[Path], target: Path, mode: tuple[str, ...]) -> None:
        command = [*self.cxx, *mode, *map(str, objects), *self.link_flags]
        built = self.build_dir / "linked" / target.name
        if not is_fresh(built, command, objects):
            write_with(built, command, command)
        install(built, target)


def read_switch(name: str) -> bool:
    """Read an environment variable that is 0 (the default) or 1."""
    value = os.environ.get(name, "0")
    if value not in ("0", "1"):
        raise BuildError(f"{name} must be 0 or 1, got {value!r}")
    return value == "1"


def python_flags() -> list[str]:
    """Include paths of Python and pybind11."""
    import pybind11

    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        raise BuildError(
            f"Python's headers are missing ({include / 'Python.h'}); on Debian and Ubuntu: apt-get install python3-dev"
        )
    # -isystem: warnings are for our own code.
    return ["-isystem", str(include), "-isystem", pybind11.get_include()]


def _find_cxx() -> tuple[str, ...]:
    asked = os.environ.get("CXX")
    for candidate in [asked] if asked else [sysconfig.get_config_var("CXX"), "c++", "g++", "clang++"]:
        words = tuple(shlex.split(candidate or ""))
        if words and shutil.which(words[0]):
            return words
    raise BuildError(
        f"no C++17 compiler found{f' (CXX={asked})' if asked else ''}; on Debian and Ubuntu: apt-get install g++"
    )


def _accepts(cxx: Sequence[str], flags: Iterable[str], code: str, *, link: bool = False) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(code)
        command = [
            *cxx,
            "-std=c++17",
            *flags,
            str(source),
            "-o",
            str(Path(folder) / "probe"),
            *([] if link else ["-c"]),
        ]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _jobs() -> int:
    asked = os.environ.get("MAX_JOBS", "")
    return max(1, int(asked)) if asked.isdigit() else os.cpu_count() or 1
