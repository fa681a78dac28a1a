# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Weights as other versions of spconv stored them."""

from __future__ import annotations

from typing import Any

import torch

from ...convert.layouts import weight_from, weight_to
from . import constants
from .constants import SpconvError
from .layer import RECORD

NAMES = {"RSCK": "spconv_rsck", "RSKC": "spconv_rskc"}  # as `convert.layouts` has them


def other_layouts(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a state dict is loaded: weights in the layouts of spconv 1.x (RSCK) and 2.0 to 2.1 (RSKC) into ours.

    By `constants.SAVED_WEIGHT_LAYOUT` where it is set, else by the shape where only one layout has it.
    """
    if module.get_max_num_voxels() is not None:
        state.setdefault(prefix + RECORD, torch.zeros(1, dtype=torch.int32))
    stored = state.get(prefix + "weight")
    if stored is None:
        return
    wanted = tuple(module.weight.shape)
    layout = constants.SAVED_WEIGHT_LAYOUT
    if layout is None:
        if tuple(stored.shape) == wanted or stored.ndim != len(wanted):
            return
        c_out, *kernel, c_in = wanted
        shapes = {"RSCK": (*kernel, c_in, c_out), "RSKC": (*kernel, c_out, c_in)}
        fitting = [name for name, shape in shapes.items() if tuple(stored.shape) == shape]
        if not fitting:
            return  # load_state_dict says which shapes differ
        if len(fitting) > 1 and not module.conv1x1:
            raise SpconvError(
                f"{prefix}weight {list(stored.shape)} may be of spconv 1.x (RSCK) or of 2.0 and 2.1 (RSKC): set "
                "SPCONV_SAVED_WEIGHT_LAYOUT, or sparseconv.compat.spconv.constants.SAVED_WEIGHT_LAYOUT, to the right one"
            )
        layout = fitting[0]
    if layout not in NAMES:
        if layout == "KRSC":
            return
        raise SpconvError(f"SAVED_WEIGHT_LAYOUT must be KRSC, RSCK or RSKC, got {layout!r}")
    options = {"stride": module.stride, "submanifold": module.subm}
    ours = weight_from(NAMES[layout], stored, module.kernel_size, **options)
    state[prefix + "weight"] = weight_to("spconv", ours, module.kernel_size, **options)
