# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Build the compiled core. Everything that needs no code stands in pyproject.toml."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))  # an isolated build does not put the source tree on the path

from cuda_compiler import CudaCompiler  # noqa: E402
from incremental import BuildError, install, say  # noqa: E402
from toolchain import Toolchain, Unit, python_flags  # noqa: E402

KERNEL_FLAGS = ("-Wno-unknown-pragmas",)  # CUDA's `#pragma unroll` where the kernels are compiled for the CPU
CUDA_SOURCE = ROOT / "csrc" / "bind" / "bind_cuda.cu"
# Folders at the top of the tree that are installed inside the package: their own names would collide with other projects'.
MAPPED = {"sparseconv.datasets": "datasets", "sparseconv.pruning": "pruning"}


def find_everything() -> tuple[list[str], dict[str, str]]:
    """The packages to install and where the mapped ones live."""
    packages = find_packages(include=["sparseconv", "sparseconv.*"])
    package_dir = {
        name: folder for name, folder in MAPPED.items() if (ROOT / folder / "__init__.py").exists()
    }
    for name, folder in package_dir.items():
        packages += [name, *(f"{name}.{inner}" for inner in find_packages(folder))]
    return packages, package_dir


class BuildCore(build_ext):
    """`build_ext` that hands both modules to our own toolchain."""

    def build_extensions(self) -> None:
        """Build what is asked for: the CPU module always, the CUDA module where setup() listed it."""
        version = f'-DSPARSECONV_VERSION="{self.distribution.get_version()}"'
        flags = [*python_flags(), version]
        toolchain = Toolchain.from_environment(ROOT)
        for ext in self.extensions:
            target = Path(self.get_ext_fullpath(ext.name)).absolute()
            if ext.name == "sparseconv._cuda":
                cuda = CudaCompiler.from_environment(CUDA_SOURCE)
                if cuda is None:
                    raise BuildError(
                        "sparseconv._cuda was asked for, but nvcc has gone since setup.py started"
                    )
                cuda.build_shared(ROOT, toolchain.build_dir, flags, target)
            else:
                bindings = [
                    Unit(source, tuple(flags)) for source in sorted((ROOT / "csrc" / "bind").glob("*.cpp"))
                ]
                toolchain.build_shared([*bindings, *toolchain.core_units()], target)

    def copy_extensions_to_source(self) -> None:
        """Put the modules into the source tree for an editable install, and take away one that was not asked for."""
        for ext in self.extensions:
            name = Path(self.get_ext_filename(ext.name))
            install(Path(self.build_lib) / name, ROOT / name)
        if "sparseconv._cuda" not in self.ext_map:
            (ROOT / self.get_ext_filename("sparseconv._cuda")).unlink(missing_ok=True)


class BuildPython(build_py):
    """`build_py` into an empty folder: a module deleted from the sources must not live on in a wheel."""

    def run(self) -> None:
        """Empty the folder, then copy the packages."""
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "sparseconv", ignore_errors=True)
        super().run()


class BuildTools(Command):
    """Build the native checks and benchmarks of csrc/tools, which need no Python, into build/tools."""

    description = "build the native check and benchmark programs"
    user_options: ClassVar[list[tuple[str, str, str]]] = [("output=", "o", "folder of the programs")]
    output: str | None

    def initialize_options(self) -> None:
        """Set the defaults."""
        self.output = None

    def finalize_options(self) -> None:
        """Complete the options."""
        self.output = self.output or str(ROOT / "build" / "tools")

    def run(self) -> None:
        """Build one program for each source."""
        toolchain = Toolchain.from_environment(ROOT)
        core = toolchain.core_units()
        for source in sorted((ROOT / "csrc" / "tools").glob("*.cpp")):
            toolchain.build_program(
                [Unit(source, KERNEL_FLAGS), *core], Path(str(self.output)).absolute() / source.stem
            )


class BuildEmulated(Command):
    """Build the GPU's functions for the CPU (csrc/tools/emulate), for tests, into build/emulated."""

    description = "build the test module of emulated CUDA kernels"
    user_options: ClassVar[list[tuple[str, str, str]]] = [("output=", "o", "folder of the module")]
    output: str | None

    def initialize_options(self) -> None:
        """Set the defaults."""
        self.output = None

    def finalize_options(self) -> None:
        """Complete the options."""
        self.output = self.output or str(ROOT / "build" / "emulated")

    def run(self) -> None:
        """Build the module; nothing is done where it is fresh."""
        flags = (*KERNEL_FLAGS, *python_flags())
        units = [Unit(source, flags) for source in sorted((ROOT / "csrc/tools/emulate").glob("*.cpp"))]
        Toolchain.from_environment(ROOT).build_shared(
            units, Path(str(self.output)).absolute() / "_emulated.so"
        )


def main() -> None:
    """Call setup()."""
    packages, package_dir = find_everything()
    depends = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc").rglob("*")) if path.is_file()]
    extensions = [Extension("sparseconv._cpu", sources=[], depends=depends)]
    if CudaCompiler.from_environment(CUDA_SOURCE) is not None:
        extensions.append(Extension("sparseconv._cuda", sources=[], depends=depends))
    setup(
        packages=packages,
        package_dir=package_dir,
        package_data={"sparseconv": ["py.typed"]},
        ext_modules=extensions,
        cmdclass={
            "build_ext": BuildCore,
            "build_py": BuildPython,
            "build_tools": BuildTools,
            "build_emulated": BuildEmulated,
        },
    )


try:
    main()
except BuildError as error:
    say(str(error))
    raise SystemExit(1) from error
