# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The compute functions of `_native` on a GPU (csrc/compute/kernels_cuda.h).

Every function takes the compiled module and the device in its own terms first, so that the emulated module runs the same lines.
The GPU's kernels read a kernel map as a plan of its rows, which is made of the pairs once and kept with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._buffer import buffer, optional


@dataclass(frozen=True)
class RowPlan:
    """Output rows sorted by which taps they have, and the table of their neighbours in that order.

    Attributes:
        neighbors: int32 [K, n_out], the input row that place p reads through each tap, -1 for none.
        order: int32 [n_out], the output row of each place.
        tile_masks: int32 [ceil(n_out / 64), words], bit t % 32 of word t // 32: one of the tile's rows has tap t.
        pairs: how many the map has.
        tap_offsets: those it was made with.
    """

    neighbors: Tensor
    order: Tensor
    tile_masks: Tensor
    pairs: int
    tap_offsets: Tensor

    def buffers(self) -> tuple[object, object, object]:
        """The arrays as the core takes them."""
        return buffer(self.neighbors), buffer(self.order), buffer(self.tile_masks)


def row_plan(core: Any, device: Any, pairs: Tensor, tap_offsets: Tensor, n_out: int) -> RowPlan:
    """The plan of a map with n_out output rows; made once for an array of pairs, which keeps it."""
    plan: RowPlan | None = getattr(pairs, "_sparseconv_plan", None)
    if plan is None or plan.tap_offsets is not tap_offsets or plan.order.shape[0] != n_out:
        plan = _make_plan(core, device, pairs, tap_offsets, n_out)
        pairs._sparseconv_plan = plan  # type: ignore[attr-defined]
    return plan


def _make_plan(core: Any, device: Any, pairs: Tensor, tap_offsets: Tensor, n_out: int) -> RowPlan:
    taps = tap_offsets.shape[0] - 1
    words = core.mask_words(taps)
    wide_masks = torch.empty(n_out, words // 2, dtype=torch.int64, device=pairs.device)
    masks = wide_masks.view(torch.int32) if words else pairs.new_empty(n_out, 0)
    arrays = (buffer(pairs), buffer(tap_offsets))
    core.tap_masks(device, *arrays, buffer(masks))
    # Stable sorts from the last 64 taps to the first. Rows of one mask stay in order, near each other in space; rows with the
    # last taps, which have most taps where sites come sorted, stand first, so that the longest blocks start first.
    order = torch.arange(n_out, device=pairs.device)
    for column in reversed(wide_masks.unbind(1)):
        order = order[torch.sort(column[order], stable=True, descending=True).indices]
    order = order.to(torch.int32)
    neighbors = pairs.new_empty(taps, n_out)
    tile_masks = pairs.new_empty(-(-n_out // core.MASK_ROWS), words)
    core.plan_rows(
        device,
        *arrays,
        buffer(masks),
        buffer(order),
        buffer(torch.empty_like(order)),
        buffer(neighbors),
        buffer(tile_masks),
    )
    return RowPlan(neighbors, order, tile_masks, pairs.shape[0], tap_offsets)


def tf32_allowed() -> bool:
    """Whether float32 is multiplied in TF32: as for torch's own products, torch.set_float32_matmul_precision decides."""
    return torch.get_float32_matmul_precision() != "highest"


def _aligned(x: Tensor) -> Tensor:
    """A view into the middle of a tensor may begin anywhere; the kernels read 16 bytes at a time."""
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _scratch(like: Tensor, size: int) -> object:
    return buffer(torch.empty(size, dtype=torch.uint8, device=like.device))


def gather_gemm(
    core: Any,
    device: Any,
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pairs: Tensor,
    tap_offsets: Tensor,
    groups: int,
    transpose: bool,
    flip: bool,
    out: Tensor,
) -> None:
    """`_native.gather_gemm` over the plan of these pairs."""
    plan = row_plan(core, device, pairs, tap_offsets, out.shape[0])
    tf32 = tf32_allowed()
    features = _aligned(features)
    size = core.gather_gemm_bytes(
        buffer(features), buffer(out), groups, plan.neighbors.shape[0], plan.pairs, tf32
    )
    core.gather_gemm(
        device,
        buffer(features),
        buffer(weight),
        optional(bias),
        *plan.buffers(),
        plan.pairs,
        groups,
        transpose,
        flip,
        tf32,
        buffer(out),
        _scratch(out, size),
    )


def gather_gemm_2to4(
    core: Any,
    device: Any,
    features: Tensor,
    values: Tensor,
    metadata: Tensor,
    bias: Tensor | None,
    pairs: Tensor,
    tap_offsets: Tensor,
    out: Tensor,
) -> None:
    """`_native.gather_gemm_2to4` over the plan of these pairs."""
    plan = row_plan(core, device, pairs, tap_offsets, out.shape[0])
    core.gather_gemm_2to4(
        device,
        buffer(_aligned(features)),
        buffer(values),
        buffer(metadata),
        optional(bias),
        *plan.buffers(),
        buffer(out),
    )


def gather_outer(
    core: Any,
    device: Any,
    features: Tensor,
    grad_out: Tensor,
    pairs: Tensor,
    tap_offsets: Tensor,
    groups: int,
    grad_weight: Tensor,
) -> None:
    """`_native.gather_outer`."""
    tf32 = tf32_allowed()
    features, grad_out = _aligned(features), _aligned(grad_out)
    taps = tap_offsets.shape[0] - 1
    size = core.gather_outer_bytes(buffer(features), buffer(grad_out), groups, taps, pairs.shape[0], tf32)
    core.gather_outer(
        device,
        buffer(features),
        buffer(grad_out),
        buffer(pairs),
        buffer(tap_offsets),
        groups,
        tf32,
        buffer(grad_weight),
        _scratch(grad_weight, size),
    )


def column_sum(core: Any, device: Any, x: Tensor, out: Tensor) -> None:
    """`_native.column_sum`."""
    core.column_sum(device, buffer(x), buffer(out), _scratch(x, core.column_sum_bytes(buffer(x))))


def max_pool(
    core: Any, device: Any, features: Tensor, pairs: Tensor, tap_offsets: Tensor, out: Tensor, argmax: Tensor
) -> None:
    """`_native.max_pool` over the plan of these pairs."""
    plan = row_plan(core, device, pairs, tap_offsets, out.shape[0])
    core.max_pool(device, buffer(features), *plan.buffers(), buffer(out), buffer(argmax))


def max_pool_grad(
    core: Any,
    device: Any,
    grad_out: Tensor,
    argmax: Tensor,
    pairs: Tensor,
    tap_offsets: Tensor,
    grad_in: Tensor,
) -> None:
    """`_native.max_pool_grad` over the plan of the reversed pairs."""
    plan = row_plan(core, device, pairs, tap_offsets, grad_in.shape[0])
    core.max_pool_grad(device, buffer(grad_out), buffer(argmax), *plan.buffers(), buffer(grad_in))


def gather_sum(
    core: Any,
    device: Any,
    x: Tensor,
    offsets: Tensor,
    cols: Tensor | None,
    weights: Tensor | None,
    out: Tensor,
) -> None:
    """`_native.gather_sum`."""
    core.gather_sum(device, buffer(x), buffer(offsets), optional(cols), optional(weights), buffer(out))


def gather_max(
    core: Any, device: Any, x: Tensor, offsets: Tensor, cols: Tensor | None, out: Tensor, arg: Tensor
) -> None:
    """`_native.gather_max`."""
    core.gather_max(device, buffer(x), buffer(offsets), optional(cols), buffer(out), buffer(arg))
