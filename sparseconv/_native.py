# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The door to the compiled core, and its only importer; `_native_maps` has the part of it that finds sites and pairs.

Every function takes torch tensors, passes them on as typed buffers (DLPack) together with the device, and returns numbers; arrays
are allocated by the callers. The core checks shapes and types again, so a slip here is an exception and never a crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch  # before the core, so that both share one OpenMP runtime
from torch import Tensor

from . import _native_cuda
from ._buffer import buffer as buffer  # for this module's parts, as is the next
from ._buffer import optional as optional
from ._scratch import KERNEL_SLOT, scratch

try:
    import sparseconv._cpu as _cpu
except ImportError as error:
    raise ImportError(
        f"sparseconv's compiled core, sparseconv._cpu, cannot be imported ({error}); "
        "build it with `pip install .` or, in a source tree, `pip install -e .`"
    ) from error

try:  # built where nvcc was found; imports without a driver too
    import sparseconv._cuda as _cuda
except ImportError:
    _cuda = None

# A key layout: low, shift and bits of each bit field, batch first (csrc/core/coord_key.h).
KeyLayout = Sequence[int]

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

ROWS_PER_TASK: int = _cpu.ROWS_PER_TASK
MERGE_CHUNK: int = _cpu.MERGE_CHUNK
core: Any = _cpu  # for sparseconv._native_maps


def require_device(device: torch.device) -> None:
    """Raises ValueError unless the core was built for `device`."""
    if device.type == "cpu" or (device.type == "cuda" and _cuda is not None):
        return
    built = (
        "the CPU only: expected tensors on cpu" if _cuda is None else "CPU and CUDA: expected tensors there"
    )
    raise ValueError(f"sparseconv was built for {built}, got {device}")


def device_of(array: Tensor) -> int:
    """What the core's CPU loops run on: the number of threads. One thread is a plain loop, which is what forked workers need."""
    if array.device.type != "cpu":
        raise ValueError(
            f"this function of sparseconv runs on the CPU only: expected tensors on cpu, got {array.device}"
        )
    return torch.get_num_threads()


def on_gpu(array: Tensor) -> bool:
    """Whether the GPU module takes an array. Tests put this function and the next one in the place of an emulated module."""
    return array.device.type != "cpu"


def gpu(array: Tensor) -> tuple[Any, Any]:
    """The GPU module and what it runs on: the tensor's device and the caller's stream there."""
    require_device(array.device)
    return _cuda, (array.device.index, torch.cuda.current_stream(array.device).cuda_stream)


# --- keys -----------------------------------------------------------------------------------------------------------------


def key_layout(low: Sequence[int], high: Sequence[int]) -> KeyLayout:
    """The bit fields that hold low .. high of each field; ValueError where 63 bits do not suffice."""
    layout: list[int] = _cpu.key_layout(list(low), list(high))
    return layout


def key_bits(layout: KeyLayout) -> int:
    """Bits of a key: where the batch field, the topmost, ends."""
    fields = len(layout) // 3
    return layout[fields] + layout[2 * fields]


def bounds(coords: Tensor) -> tuple[list[int], list[int]]:
    """Lowest and highest value of each column of coords [N, 1 + D] int32, N > 0."""
    both: list[int] = _cpu.bounds(device_of(coords), buffer(coords))
    return both[: len(both) // 2], both[len(both) // 2 :]


def pack(coords: Tensor, layout: KeyLayout, scale: Sequence[int], keys: Tensor) -> bool:
    """Writes the keys of coords * scale to keys[:N]; True if they strictly increase."""
    increasing: bool = _cpu.pack(device_of(coords), buffer(coords), layout, list(scale), buffer(keys))
    return increasing


def unpack(keys: Tensor, layout: KeyLayout, coords: Tensor) -> None:
    _cpu.unpack(device_of(keys), buffer(keys), layout, buffer(coords))


def sort_rows(keys: Tensor, rows: Tensor, bits: int) -> None:
    """Sorts keys[:N] in place, stably; rows [N] int32 = where each stood. Only the low `bits` bits may differ."""
    work = torch.empty(_cpu.sort_scratch_size(len(rows)), dtype=torch.int64)
    _cpu.sort_rows(device_of(keys), buffer(keys), buffer(rows), bits, buffer(work))


def find_duplicate(keys: Tensor, rows: Tensor) -> tuple[int, int] | None:
    """Of sorted keys, the equal pair of rows whose later row is the lowest."""
    pair: list[int] = _cpu.find_duplicate(buffer(keys), buffer(rows))
    return (pair[0], pair[1]) if pair else None


# --- points -----------------------------------------------------------------------------------------------------------------


def cells_of_points(
    points: Tensor, batch: Tensor | None, origin: Sequence[float], size: Sequence[float], coords: Tensor
) -> int:
    """Writes the cells of points [N, D] to coords [N, 1 + D]; returns the first point that has none, or -1."""
    bad: int = _cpu.cells_of_points(
        device_of(points), buffer(points), optional(batch), list(origin), list(size), buffer(coords)
    )
    return bad


def first_come_voxels(
    points: Tensor,
    low: Sequence[float],
    size: Sequence[float],
    shape: Sequence[int],
    clear: bool,
    voxels: Tensor,
    cells: Tensor,
    counts: Tensor,
    voxel_of_point: Tensor,
) -> int:
    """Fills the rows of voxels that points [N, F] make, in their order; returns how many (csrc/mapping/first_come.h)."""
    require_device(points.device)
    capacity = _cpu.hash_capacity(min(len(points), len(voxels)))
    table = scratch(12 * capacity, KERNEL_SLOT)
    keys, rows = (
        table[: 8 * capacity].view(torch.int64),
        table[8 * capacity : 12 * capacity].view(torch.int32),
    )
    count: int = _cpu.first_come_voxels(
        buffer(points),
        list(low),
        list(size),
        list(shape),
        clear,
        buffer(keys),
        buffer(rows),
        buffer(voxels),
        buffer(cells),
        buffer(counts),
        buffer(voxel_of_point),
    )
    return count


def split_runs(keys: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Runs of equal sorted keys: offsets int64 [R + 1] into rows, run_of_row int64 [N], run_keys int64 [R]."""
    n = len(rows)
    device = device_of(keys)
    counts = torch.zeros(-(-n // ROWS_PER_TASK), dtype=torch.int64)
    _cpu.split_runs(device, buffer(keys), buffer(rows), buffer(counts), None, None, None, None)
    starts = counts.cumsum(0) - counts
    runs = int(counts.sum())
    offsets = torch.zeros(runs + 1, dtype=torch.int64)
    run_of_row = torch.empty(n, dtype=torch.int64)
    run_keys = torch.empty(runs, dtype=torch.int64)
    _cpu.split_runs(
        device,
        buffer(keys),
        buffer(rows),
        buffer(counts),
        buffer(starts),
        buffer(offsets),
        buffer(run_of_row),
        buffer(run_keys),
    )
    return offsets, run_of_row, run_keys


# --- compute ----------------------------------------------------------------------------------------------------------------


def gather_gemm(
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
    """out[o] = bias + sum over taps and pairs (i, o) of features[i] @ weight[tap] (csrc/compute/kernels.h)."""
    if on_gpu(features):
        _native_cuda.gather_gemm(
            *gpu(features), features, weight, bias, pairs, tap_offsets, groups, transpose, flip, out
        )
        return
    bytes_needed = _cpu.gather_gemm_bytes(buffer(features), buffer(out), groups, len(tap_offsets) - 1)
    _cpu.gather_gemm(
        device_of(features),
        buffer(features),
        buffer(weight),
        optional(bias),
        buffer(pairs),
        buffer(tap_offsets),
        groups,
        transpose,
        flip,
        buffer(out),
        buffer(scratch(bytes_needed, KERNEL_SLOT)),
    )


def gather_gemm_2to4(
    features: Tensor,
    values: Tensor,
    metadata: Tensor,
    bias: Tensor | None,
    pairs: Tensor,
    tap_offsets: Tensor,
    out: Tensor,
) -> None:
    """`gather_gemm` on a GPU with a weight as `formats.mma_sp_operands` gives it."""
    _native_cuda.gather_gemm_2to4(*gpu(features), features, values, metadata, bias, pairs, tap_offsets, out)


def gather_outer(
    features: Tensor, grad_out: Tensor, pairs: Tensor, tap_offsets: Tensor, groups: int, grad_weight: Tensor
) -> None:
    """grad_weight[tap] = sum over its pairs (i, o) of the outer product of features[i] and grad_out[o]."""
    if on_gpu(features):
        _native_cuda.gather_outer(*gpu(features), features, grad_out, pairs, tap_offsets, groups, grad_weight)
        return
    arrays = (buffer(pairs), buffer(tap_offsets))
    bytes_needed = _cpu.gather_outer_bytes(buffer(features), buffer(grad_out), *arrays, groups)
    _cpu.gather_outer(
        device_of(features),
        buffer(features),
        buffer(grad_out),
        *arrays,
        groups,
        buffer(grad_weight),
        buffer(scratch(bytes_needed, KERNEL_SLOT)),
    )


def column_sum(x: Tensor, out: Tensor) -> None:
    """out [C] = the sum of the rows of x [N, C], in chunks that depend on N only."""
    if on_gpu(x):
        _native_cuda.column_sum(*gpu(x), x, out)
        return
    work = scratch(_cpu.column_sum_bytes(buffer(x)), KERNEL_SLOT)
    _cpu.column_sum(device_of(x), buffer(x), buffer(out), buffer(work))


def max_pool(features: Tensor, pairs: Tensor, tap_offsets: Tensor, out: Tensor, argmax: Tensor) -> None:
    """out[o] = max over the pairs (i, o) of features[i]; argmax int32 = the tap that won, -1 where there is no pair."""
    if on_gpu(features):
        _native_cuda.max_pool(*gpu(features), features, pairs, tap_offsets, out, argmax)
        return
    _cpu.max_pool(
        device_of(features),
        buffer(features),
        buffer(pairs),
        buffer(tap_offsets),
        buffer(out),
        buffer(argmax),
    )


def max_pool_grad(
    grad_out: Tensor, argmax: Tensor, pairs: Tensor, tap_offsets: Tensor, grad_in: Tensor
) -> None:
    """grad_in[i] = sum of grad_out[o] over the reversed pairs (o, i) whose tap won."""
    if on_gpu(grad_out):
        _native_cuda.max_pool_grad(*gpu(grad_out), grad_out, argmax, pairs, tap_offsets, grad_in)
        return
    _cpu.max_pool_grad(
        device_of(grad_out),
        buffer(grad_out),
        buffer(argmax),
        buffer(pairs),
        buffer(tap_offsets),
        buffer(grad_in),
    )


def gather_sum(x: Tensor, offsets: Tensor, cols: Tensor | None, weights: Tensor | None, out: Tensor) -> None:
    """out[r] = sum over j in [offsets[r], offsets[r + 1]) of weights[j] * x[cols[j]], in order of j."""
    if on_gpu(x):
        _native_cuda.gather_sum(*gpu(x), x, offsets, cols, weights, out)
        return
    _cpu.gather_sum(device_of(x), buffer(x), buffer(offsets), optional(cols), optional(weights), buffer(out))


def gather_max(x: Tensor, offsets: Tensor, cols: Tensor | None, out: Tensor, arg: Tensor) -> None:
    """out[r] = max over the same lists; arg int64 = the first row of x that has it, -1 for an empty list."""
    if on_gpu(x):
        _native_cuda.gather_max(*gpu(x), x, offsets, cols, out, arg)
        return
    _cpu.gather_max(device_of(x), buffer(x), buffer(offsets), optional(cols), buffer(out), buffer(arg))


def add_bf16(x: Tensor, y: Tensor, out: Tensor) -> None:
    """out = x + y, contiguous and of one shape in bfloat16; out may be x."""
    _cpu.add_bf16(device_of(x), buffer(x), buffer(y), buffer(out))


def relu_bf16(x: Tensor, out: Tensor) -> None:
    """out = max(0, x), as above."""
    _cpu.relu_bf16(device_of(x), buffer(x), buffer(out))


# --- what was built -----------------------------------------------------------------------------------------------------------


def build_config() -> dict[str, object]:
    """What the core was built with and what it runs on now."""
    return {
        "instruction_set": _cpu.instruction_set(),
        "openmp": _cpu.openmp,
        "compiler": _cpu.compiler,
        "threads": torch.get_num_threads(),
        "cuda": _cuda is not None,
        "cuda_architectures": tuple(_cuda.architectures.split(";")) if _cuda is not None else (),
        "gpus": torch.cuda.device_count(),
    }


def fma_peak_gflops() -> float:
    """GFLOP/s of the core's register loop on the current threads."""
    peak: float = _cpu.fma_peak_gflops(torch.get_num_threads())
    return peak
