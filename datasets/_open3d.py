# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Open3D, imported on first use only: it loads OpenGL, X11 and USB libraries that a plain install does
not need.
"""

# What Open3D 0.20's libOpen3D.so names in its ELF header, and the Debian / Ubuntu package that ships each
# library.
# All are needed at import, also without a display; ray casting (Embree and TBB are in the wheel) needs
# nothing more.
#
#   apt-get install -y libegl1 libgl1 libx11-6 libudev1 libusb-1.0-0 libidn2-0 libstdc++6 libgcc-s1 libgomp1

from __future__ import annotations

import importlib
import re
from types import ModuleType

_PACKAGES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libX11.so.6": "libx11-6",
    "libudev.so.1": "libudev1",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libidn2.so.0": "libidn2-0",
    "libstdc++.so.6": "libstdc++6",
    "libgcc_s.so.1": "libgcc-s1",
    "libgomp.so.1": "libgomp1",
}


def import_open3d() -> ModuleType:
    """Return the `open3d` module; raises `ImportError` that names what is missing and the command that
    installs it.
    """
    try:
        return importlib.import_module("open3d")
    except ModuleNotFoundError as error:
        if error.name != "open3d":
            raise
        raise ImportError(
            "Open3D is needed to read .pcd and .ply files and to simulate scans, and is not installed: "
            "pip install open3d"
        ) from error
    except (ImportError, OSError) as error:
        raise ImportError(_explain(str(error))) from error


def _explain(message: str) -> str:
    """Turn the loader's message (`libusb-1.0.so.0: cannot open shared object file`) into one with the
    command to run.
    """
    found = re.search(r"(lib[\w+.-]+\.so[\w.]*): cannot open shared object file", message)
    if found is None:
        return f"Open3D is installed but does not load: {message}"
    library = found.group(1)
    everything = " ".join(dict.fromkeys(_PACKAGES.values()))
    package = _PACKAGES.get(library, f"the package that ships {library}")
    return (
        f"Open3D needs the system library {library}, which is missing (Debian and Ubuntu: {package}). "
        f"Install everything it needs with: sudo apt-get install -y {everything}"
    )
