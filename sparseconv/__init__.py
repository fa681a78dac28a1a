# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""sparseconv: sparse convolution for point clouds."""

from importlib.metadata import PackageNotFoundError, version

from . import convert, formats, functional, models, nn
from ._config import fma_peak, show_config
from .fusion import fuse
from .joining import cat, collate
from .kernel_map import build_kernel_map
from .pairs import KernelMap
from .tensor import SparseTensor, from_dense
from .voxelize import devoxelize, voxelize

try:
    __version__ = version("sparseconv")
except PackageNotFoundError:  # imported from a source tree that was built in place and never installed
    __version__ = "0+source"


def clear_cache(x: SparseTensor) -> None:
    """Forgets the kernel maps kept with a tensor's sites."""
    if not isinstance(x, SparseTensor):
        raise TypeError(f"clear_cache takes a SparseTensor, got {type(x).__name__}")
    x.clear_cache()


__all__ = [
    "KernelMap",
    "SparseTensor",
    "__version__",
    "build_kernel_map",
    "cat",
    "clear_cache",
    "collate",
    "convert",
    "devoxelize",
    "fma_peak",
    "formats",
    "from_dense",
    "functional",
    "fuse",
    "models",
    "nn",
    "show_config",
    "voxelize",
]
