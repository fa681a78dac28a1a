# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Other engines' names on this engine: `compat.spconv`, and `install`, which lets `import spconv.pytorch` find it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

# Where spconv's modules are looked for, and ours that stand in for them.
_SPCONV = {
    "pytorch": "",
    "pytorch.core": "core",
    "pytorch.conv": "conv",
    "pytorch.modules": "modules",
    "pytorch.pool": "pool",
    "pytorch.tables": "tables",
    "pytorch.functional": "functional",
    "pytorch.ops": "ops",
    "pytorch.identity": "modules",
    "pytorch.hash": "hash",
    "pytorch.utils": "utils",
    "pytorch.constants": "constants",
    "pytorch.quantization": "quantization",
    "utils": "utils",
    "constants": "constants",
    "core": "constants",
}


def install(name: str) -> None:
    """Lets code that imports another engine find ours: `install("spconv")`, before that code is imported.

    `cumm.tensorview`, which spconv brings along and voxel generators are fed with, is ours too where cumm is not installed.

    Raises:
        ValueError: for another name.
        RuntimeError: where the engine itself has been imported already: its classes would be mixed with ours.
    """
    if name != "spconv":
        raise ValueError(f'install: expected "spconv", got {name!r}')
    there = sys.modules.get("spconv")
    if there is not None:
        if getattr(there, "__sparseconv__", False):
            return
        raise RuntimeError(
            f"install: spconv itself was imported before ({getattr(there, '__file__', None)}); install first, then import"
        )
    ours = importlib.import_module(f"{__name__}.spconv")
    root = ModuleType("spconv", "sparseconv in spconv's place")
    root.__dict__.update(
        __sparseconv__=True,
        __version__=ours.__version__,
        __path__=[],
        ConvAlgo=ours.ConvAlgo,
        AlgoHint=ours.AlgoHint,
        SPCONV_VERSION_NUMBERS=[int(part) for part in ours.__version__.split(".")],
    )
    sys.modules["spconv"] = root
    for path, own in _SPCONV.items():
        module = importlib.import_module(f"{ours.__name__}.{own}" if own else ours.__name__)
        sys.modules[f"spconv.{path}"] = module
        if "." not in path:
            setattr(root, path, module)
    if not _installed("cumm"):
        cumm = ModuleType("cumm", "what spconv's users need of cumm")
        tensorview = importlib.import_module(f"{ours.__name__}.tensorview")
        cumm.__dict__.update(__sparseconv__=True, __path__=[], tensorview=tensorview)
        sys.modules.update({"cumm": cumm, "cumm.tensorview": tensorview})


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
