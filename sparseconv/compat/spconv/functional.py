# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""spconv's functions over pairs, and sums of tensors on different rows.

Pairs are int32 [2, K, n], as `IndiceData.indice_pairs` gives them: input and output rows of each tap, filled up with -1.
Weights are [C_out, *kernel_size, C_in].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ... import functional
from ...pairs import KernelMap
from ...tensor import SparseTensor
from .constants import SpconvError
from .core import SparseConvTensor
from .left_out import KERNELS, left_out


def kernel_weight(weight: Tensor) -> Tensor:
    """[C_out, *kernel_size, C_in] as the engine's [K, C_in, C_out], a view."""
    return weight.reshape(weight.shape[0], -1, weight.shape[-1]).permute(1, 2, 0)


def _map_of(pairs: Tensor, counts: Tensor, n_in: int, n_out: int) -> KernelMap:
    """A kernel map of pairs from outside; ValueError where they name rows that there are not."""
    if pairs.ndim != 3 or pairs.shape[0] != 2 or counts.ndim != 1 or counts.shape[0] != pairs.shape[1]:
        raise SpconvError(
            f"indice_pairs must be [2, K, n] and indice_pair_num [K], got {list(pairs.shape)} and {list(counts.shape)}"
        )
    kept = []
    for tap, count in enumerate(counts.tolist()):
        own = pairs[:, tap, :count]
        kept.append(own[:, torch.argsort(own[1], stable=True)])
    flat = torch.cat([pairs[:, :0, 0], *kept], 1).t().to(torch.int32).contiguous()
    offsets = counts.new_zeros(len(counts) + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=offsets[1:])
    rows_in, rows_out = (torch.zeros(n, 2, dtype=torch.int32) for n in (n_in, n_out))
    return KernelMap(flat, offsets, rows_in, rows_out)


def indice_conv(
    features: Tensor,
    filters: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    num_activate_out: int,
    algo: Any = None,  # noqa: ARG001
    timer: Any = None,  # noqa: ARG001
    bias: Tensor | None = None,
    *_: Any,
) -> Tensor:
    """The convolution over pairs: features [n_in, C_in], filters [C_out, *kernel_size, C_in] -> [num_activate_out, C_out]."""
    kernel_map = _map_of(indice_pairs, indice_pair_num, features.shape[0], num_activate_out)
    return functional.conv(features, kernel_weight(filters), bias, kernel_map, name="indice_conv")


indice_subm_conv = indice_conv


def indice_inverse_conv(
    features: Tensor,
    filters: Tensor,
    indice_pairs: Tensor,
    indice_pair_num: Tensor,
    num_activate_out: int,
    *rest: Any,
) -> Tensor:
    """`indice_conv` over the pairs the other way round."""
    return indice_conv(features, filters, indice_pairs.flip(0), indice_pair_num, num_activate_out, *rest)


def indice_maxpool(
    features: Tensor, indice_pairs: Tensor, indice_pair_num: Tensor, num_activate_out: int
) -> Tensor:
    """max(0, the maximum over a row's pairs): [n_in, C] -> [num_activate_out, C]."""
    kernel_map = _map_of(indice_pairs, indice_pair_num, features.shape[0], num_activate_out)
    return functional.max_pool(features, kernel_map, name="indice_maxpool").relu()


implicit_gemm = left_out("implicit_gemm", KERNELS)
indice_maxpool_implicit_gemm = left_out("indice_maxpool_implicit_gemm", KERNELS)
indice_avgpool_implicit_gemm = left_out("indice_avgpool_implicit_gemm", KERNELS)


# --- tensors on different rows ------------------------------------------------------------------------------------------------


def same_grid(name: str, tensors: Sequence[SparseConvTensor]) -> None:
    """Raises SpconvError unless there are tensors, all of one shape and batch size."""
    if not tensors or not all(isinstance(x, SparseConvTensor) for x in tensors):
        raise SpconvError(f"{name}: expected SparseConvTensors, got {[type(x).__name__ for x in tensors]}")
    first = tensors[0]
    for x in tensors[1:]:
        if x.spatial_shape != first.spatial_shape or x.batch_size != first.batch_size:
            raise SpconvError(
                f"{name}: expected spatial_shape {first.spatial_shape} and batch_size {first.batch_size}, "
                f"got {x.spatial_shape} and {x.batch_size}"
            )


def same_rows(a: SparseConvTensor, b: SparseConvTensor) -> bool:
    """Whether two tensors have the same index rows in the same order."""
    return a.indices is b.indices or (
        a.indices.shape == b.indices.shape and torch.equal(a.indices, b.indices)
    )


def sparse_add(*tens: SparseConvTensor) -> SparseConvTensor:
    """The sum of tensors of one shape on different rows: a row for each cell that any of them has.

    Where one of them has all these cells its rows are kept, and with them the maps that later inverse layers need.
    """
    same_grid("sparse_add", tens)
    channels = {x.features.shape[1] for x in tens}
    if len(channels) != 1:
        raise SpconvError(f"sparse_add: expected tensors with as many channels, got {sorted(channels)}")
    whole = max(tens, key=lambda x: len(x.cells().sites))
    # The widest first: a sum keeps its first operand's rows where they are all there are.
    ordered = [whole, *(x for x in tens if x is not whole)]
    parts = [SparseTensor.on(x.cells().sites, x.cells().sums(x.features)) for x in ordered]
    total = reduce(lambda a, b: a + b, parts)
    own = whole.cells().sites
    if len(total) == len(own) and whole.cells().first is None:
        if total.coords is own.coords or torch.equal(total.coords, own.coords):
            return whole.replace_feature(total.features)
        rows = torch.ops.sparseconv.find_rows(total.coords, own.coords)
        return whole.replace_feature(total.features[rows])
    return SparseConvTensor(total.features, total.coords, whole.spatial_shape, whole.batch_size)


sparse_add_hash_based = sparse_add
