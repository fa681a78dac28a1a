# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Names of spconv that can be imported and say why they are left out when they are called."""

from __future__ import annotations

from typing import Any, NoReturn

KERNELS = (
    "takes the masks and buffers of its own GPU kernels, which this engine does not make: call the layers"
)
BOXES = "is a box operation, which is no part of sparseconv: torchvision.ops and the detection frameworks have them"
QUANTIZED = "is of its int8 layers for GPUs: sparseconv.formats.quantize has quantized weights for convert.from_spconv(model)"


def left_out(name: str, why: str) -> Any:
    """A function that raises NotImplementedError."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"spconv's {name} {why}")

    refuse.__name__ = refuse.__qualname__ = name
    return refuse
