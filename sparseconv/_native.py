# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The door to the compiled core, and its only importer.

Every function takes torch tensors, passes them on as typed buffers (DLPack) together with the device, and returns numbers; arrays
are allocated by the callers. The core checks shapes and types again, so a slip here is an exception and never a crash.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch  # before the core, so that both share one OpenMP runtime
from torch import Tensor
from torch.utils.dlpack import to_dlpack as _buffer  # type: ignore[attr-defined]

try:
    import sparseconv._cpu as _cpu
except ImportError as error:
    raise ImportError(
        f"sparseconv's compiled core, sparseconv._cpu, cannot be imported ({error}); "
        "build it with `pip install .` or, in a source tree, `pip install -e .`"
    ) from error

# A key layout: low, shift and bits of each bit field, batch first (csrc/core/coord_key.h).
KeyLayout = Sequence[int]

ROWS_PER_TASK: int = _cpu.ROWS_PER_TASK
MERGE_CHUNK: int = _cpu.MERGE_CHUNK
SCRATCH_KEPT = 32 << 20


def require_device(device: torch.device) -> None:
    """Raises ValueError unless the core was built for `device`."""
    if device.type != "cpu":
        raise ValueError(f"sparseconv was built for the CPU only: expected tensors on cpu, got {device}")


def _device(array: Tensor) -> int:
    """What the core runs on: the number of threads. One thread is a plain loop, which is what forked workers need."""
    require_device(array.device)
    return torch.get_num_threads()


def _optional(array: Tensor | None) -> object:
    return None if array is None else _buffer(array)


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.blocks: dict[int, Tensor] = {}


_scratch = _Scratch()


def scratch(size: int, slot: int) -> Tensor:
    """At least `size` bytes of working memory, uint8, free until the thread's next call with the same slot.

    A block of fresh memory costs a page fault for each page that is touched, which takes longer than the loops that use it: blocks
    up to SCRATCH_KEPT bytes are kept for the thread's next map.
    """
    block = _scratch.blocks.get(slot)
    if block is None or len(block) < size:
        block = torch.empty(size, dtype=torch.uint8)
        if size <= SCRATCH_KEPT:
            _scratch.blocks[slot] = block
    return block


# --- keys -----------------------------------------------------------------------------------------------------------------


def key_layout(low: Sequence[int], high: Sequence[int]) -> KeyLayout:
    """The bit fields that hold low .. high of each field; ValueError where 63 bits do not suffice."""
    layout: list[int] = _cpu.key_layout(list(low), list(high))
    return layout


def bounds(coords: Tensor) -> tuple[list[int], list[int]]:
    """Lowest and highest value of each column of coords [N, 1 + D] int32, N > 0."""
    both: list[int] = _cpu.bounds(_device(coords), _buffer(coords))
    return both[: len(both) // 2], both[len(both) // 2 :]


def pack(coords: Tensor, layout: KeyLayout, scale: Sequence[int], keys: Tensor) -> bool:
    """Writes the keys of coords * scale to keys[:N]; True if they strictly increase."""
    increasing: bool = _cpu.pack(_device(coords), _buffer(coords), layout, list(scale), _buffer(keys))
    return increasing


def unpack(keys: Tensor, layout: KeyLayout, coords: Tensor) -> None:
    _cpu.unpack(_device(keys), _buffer(keys), layout, _buffer(coords))


def sort_rows(keys: Tensor, rows: Tensor, bits: int) -> None:
    """Sorts keys[:N] in place, stably; rows [N] int32 = where each stood. Only the low `bits` bits may differ."""
    scratch = torch.empty(_cpu.sort_scratch_size(len(rows)), dtype=torch.int64)
    _cpu.sort_rows(_device(keys), _buffer(keys), _buffer(rows), bits, _buffer(scratch))


def find_duplicate(keys: Tensor, rows: Tensor) -> tuple[int, int] | None:
    """Of sorted keys, the equal pair of rows whose later row is the lowest."""
    pair: list[int] = _cpu.find_duplicate(_buffer(keys), _buffer(rows))
    return (pair[0], pair[1]) if pair else None


# --- sites and neighbours ---------------------------------------------------------------------------------------------------


def move_axis(
    keys: Tensor,
    layout: KeyLayout,
    field: int,
    relation: Sequence[int],
    to_fine: bool,
    low: int,
    high: int,
    counts: Tensor,
    starts: Tensor | None = None,
    out: Tensor | None = None,
) -> None:
    """Sorted keys through one axis of a layer (csrc/mapping/sites.h): counts per chunk, or with `starts` the keys."""
    device = _device(keys)
    _cpu.move_axis(
        device,
        _buffer(keys),
        layout,
        field,
        relation,
        to_fine,
        low,
        high,
        _buffer(counts),
        _optional(starts),
        _optional(out),
    )


def find_neighbors_hash(
    fine_keys: Tensor,
    queries: Tensor,
    layout: KeyLayout,
    taps: Tensor,
    padding: Sequence[int],
    dilation: Sequence[int],
    neighbors: Tensor,
) -> None:
    """Fills neighbors [K, N] int32: the row of fine_keys that each query reads through each tap, -1 for none."""
    capacity = _cpu.hash_capacity(len(fine_keys))
    table_keys = torch.empty(capacity, dtype=torch.int64)
    table_rows = torch.empty(capacity, dtype=torch.int32)
    _cpu.find_neighbors_hash(
        _device(fine_keys),
        _buffer(fine_keys),
        _buffer(queries),
        layout,
        _buffer(taps),
        padding,
        dilation,
        _buffer(table_keys),
        _buffer(table_rows),
        _buffer(neighbors),
    )


class MatchedPairs:
    """Pairs of sorted lists, found and counted but not yet in their place (csrc/mapping/match.h)."""

    def __init__(
        self,
        fine_keys: Tensor,
        queries: Tensor,
        n: int,
        layout: KeyLayout,
        taps: Tensor,
        padding: Sequence[int],
        dilation: Sequence[int],
        mirrored: bool,
    ) -> None:
        """fine_keys [N_fine + 1], whose last place is the core's, and queries [>= n] increase.

        mirrored: tap k and tap K - 1 - k are opposite and both sides are the same sites.
        """
        chunks, k = _cpu.match_chunks(n), len(taps)
        slots = k // 2 if mirrored else k
        self.n, self.mirrored = n, mirrored
        self.found = scratch(8 * slots * n, 0)[: 8 * slots * n].view(torch.int32)
        self.counts = torch.empty(slots * chunks, dtype=torch.int64)
        self.starts = torch.empty(k * chunks, dtype=torch.int64)
        self.offsets = torch.empty(k + 1, dtype=torch.int64)
        _cpu.match_sorted(
            _device(fine_keys),
            _buffer(fine_keys),
            _buffer(queries),
            n,
            layout,
            _buffer(taps),
            padding,
            dilation,
            mirrored,
            _buffer(self.found),
            _buffer(self.counts),
            _buffer(self.starts),
            _buffer(self.offsets),
        )

    def place(self) -> tuple[Tensor, Tensor]:
        """Where rows stand in the order of their keys: pairs int32 [P, 2] and offsets int64 [K + 1]."""
        pairs = torch.empty(int(self.offsets[-1]), 2, dtype=torch.int32)
        _cpu.place_found(
            _device(pairs),
            _buffer(self.found),
            _buffer(self.counts),
            self.n,
            self.mirrored,
            _buffer(self.starts),
            _buffer(self.offsets),
            _buffer(pairs),
        )
        return pairs, self.offsets

    def tabulate(self, fine_rows: Tensor | None, query_rows: Tensor | None) -> Tensor:
        """The table of neighbours int32 [K, n]; rows int32: which row each key stands for, None = its place."""
        table = torch.empty(len(self.offsets) - 1, self.n, dtype=torch.int32)
        _cpu.tabulate_found(
            _device(table),
            _buffer(self.found),
            _buffer(self.counts),
            self.mirrored,
            _optional(fine_rows),
            _optional(query_rows),
            _buffer(table),
        )
        return table


def mirrored_taps(taps: Tensor, layout: KeyLayout, padding: Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether tap k and tap K - 1 - k of a layer with stride 1 are opposite, for all k."""
    both: bool = _cpu.mirrored_taps(_buffer(taps), layout, padding, dilation)
    return both


def strided_bytes(
    keys: Tensor, n: int, layout: KeyLayout, relations: Sequence[int], ranges: Sequence[int], clipped: bool
) -> int:
    """Address space that `strided_map` needs, -1 where its loops do not support the relation."""
    size: int = _cpu.strided_bytes(_buffer(keys), n, layout, relations, ranges, clipped)
    return size


def strided_map(
    keys: Tensor,
    rows: Tensor | None,
    n: int,
    layout: KeyLayout,
    relations: Sequence[int],
    ranges: Sequence[int],
    clipped: bool,
    taps: Tensor,
    size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output sites and pairs of a convolution from its sorted fine keys (csrc/mapping/strided.h).

    Args:
        keys: int64 [>= n], increasing; rows int32 [n], the row each stands for, None = its place.
        layout: holds the coarse cells too.
        relations: flat, (kernel, stride, padding, dilation) per axis.
        ranges: flat, (lowest, highest) output per axis; clipped: whether that drops any.
        taps: int32 [K, D].
        size: what `strided_bytes` says.

    Returns:
        coords int32 [M, 1 + D] in lexicographic order, pairs int32 [P, 2] and tap offsets int64 [K + 1].
    """
    shared = (_device(keys), _buffer(keys), n, layout, relations, ranges, clipped, _buffer(taps))
    first = _buffer(scratch(size, 0))
    second = _buffer(scratch(_cpu.strided_classify(*shared, first), 1))
    offsets = torch.empty(taps.shape[0] + 1, dtype=torch.int64)
    blocks = (first, second, _buffer(offsets))
    sites = _cpu.strided_merge(*shared, *blocks)
    coords = torch.empty(sites, taps.shape[1] + 1, dtype=torch.int32)
    pairs = torch.empty(int(offsets[-1]), 2, dtype=torch.int32)
    _cpu.strided_write(*shared, *blocks, _optional(rows), _buffer(coords), _buffer(pairs))
    return coords, pairs, offsets


def pairs_of_table(table: Tensor, column: int) -> tuple[Tensor, Tensor]:
    """pairs int32 [P, 2] in the table's order and offsets int64 [K + 1]; `column`: where the column's number goes."""
    taps, n = table.shape
    chunks = _cpu.pair_chunks(n)
    counts = torch.empty(taps * chunks, dtype=torch.int64)
    _cpu.count_pairs(_device(table), _buffer(table), _buffer(counts))
    starts = torch.zeros(taps * chunks + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=starts[1:])
    pairs = torch.empty(int(starts[-1]), 2, dtype=torch.int32)
    _cpu.write_pairs(_device(table), _buffer(table), _buffer(starts[:-1]), column, _buffer(pairs))
    offsets = starts[::chunks].clone() if chunks else torch.zeros(taps + 1, dtype=torch.int64)
    return pairs, offsets


def scatter_pairs(pairs: Tensor, tap_offsets: Tensor, key_column: int, table: Tensor) -> None:
    """The table [K, n] of pairs: table[k, pair[key_column]] = the pair's other entry, -1 elsewhere."""
    _cpu.scatter_pairs(_device(pairs), _buffer(pairs), _buffer(tap_offsets), key_column, _buffer(table))


def pairs_sorted(pairs: Tensor, tap_offsets: Tensor, column: int) -> bool:
    """Whether the pairs of every tap strictly increase in `column`."""
    in_order: bool = _cpu.pairs_sorted(_buffer(pairs), _buffer(tap_offsets), column)
    return in_order


# --- points -----------------------------------------------------------------------------------------------------------------


def cells_of_points(
    points: Tensor, batch: Tensor | None, origin: Sequence[float], size: Sequence[float], coords: Tensor
) -> int:
    """Writes the cells of points [N, D] to coords [N, 1 + D]; returns the first point that has none, or -1."""
    bad: int = _cpu.cells_of_points(
        _device(points), _buffer(points), _optional(batch), list(origin), list(size), _buffer(coords)
    )
    return bad


def split_runs(keys: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Runs of equal sorted keys: offsets int64 [R + 1] into rows, run_of_row int64 [N], run_keys int64 [R]."""
    n = len(rows)
    device = _device(keys)
    counts = torch.zeros(-(-n // ROWS_PER_TASK), dtype=torch.int64)
    _cpu.split_runs(device, _buffer(keys), _buffer(rows), _buffer(counts), None, None, None, None)
    starts = counts.cumsum(0) - counts
    runs = int(counts.sum())
    offsets = torch.zeros(runs + 1, dtype=torch.int64)
    run_of_row = torch.empty(n, dtype=torch.int64)
    run_keys = torch.empty(runs, dtype=torch.int64)
    _cpu.split_runs(
        device,
        _buffer(keys),
        _buffer(rows),
        _buffer(counts),
        _buffer(starts),
        _buffer(offsets),
        _buffer(run_of_row),
        _buffer(run_keys),
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
    bytes_needed = _cpu.gather_gemm_bytes(_buffer(features), _buffer(out), groups, len(tap_offsets) - 1)
    scratch = torch.empty(bytes_needed, dtype=torch.uint8)
    _cpu.gather_gemm(
        _device(features),
        _buffer(features),
        _buffer(weight),
        _optional(bias),
        _buffer(pairs),
        _buffer(tap_offsets),
        0,
        groups,
        transpose,
        flip,
        _buffer(out),
        _buffer(scratch),
    )


def gather_outer(
    features: Tensor, grad_out: Tensor, pairs: Tensor, tap_offsets: Tensor, groups: int, grad_weight: Tensor
) -> None:
    """grad_weight[tap] = sum over its pairs (i, o) of the outer product of features[i] and grad_out[o]."""
    arrays = (_buffer(pairs), _buffer(tap_offsets))
    bytes_needed = _cpu.gather_outer_bytes(_buffer(features), _buffer(grad_out), *arrays, 0, groups)
    scratch = torch.empty(bytes_needed, dtype=torch.uint8)
    _cpu.gather_outer(
        _device(features),
        _buffer(features),
        _buffer(grad_out),
        *arrays,
        0,
        groups,
        _buffer(grad_weight),
        _buffer(scratch),
    )


def column_sum(x: Tensor, out: Tensor) -> None:
    """out [C] = the sum of the rows of x [N, C], in chunks that depend on N only."""
    scratch = torch.empty(_cpu.column_sum_bytes(_buffer(x)), dtype=torch.uint8)
    _cpu.column_sum(_device(x), _buffer(x), _buffer(out), _buffer(scratch))


def max_pool(features: Tensor, pairs: Tensor, tap_offsets: Tensor, out: Tensor, argmax: Tensor) -> None:
    """out[o] = max over the pairs (i, o) of features[i]; argmax int32 = the tap that won, -1 where there is no pair."""
    _cpu.max_pool(
        _device(features),
        _buffer(features),
        _buffer(pairs),
        _buffer(tap_offsets),
        0,
        _buffer(out),
        _buffer(argmax),
    )


def max_pool_grad(
    grad_out: Tensor, argmax: Tensor, pairs: Tensor, tap_offsets: Tensor, grad_in: Tensor
) -> None:
    """grad_in[i] = sum of grad_out[o] over the reversed pairs (o, i) whose tap won."""
    _cpu.max_pool_grad(
        _device(grad_out),
        _buffer(grad_out),
        _buffer(argmax),
        _buffer(pairs),
        _buffer(tap_offsets),
        0,
        _buffer(grad_in),
    )


def gather_sum(x: Tensor, offsets: Tensor, cols: Tensor | None, weights: Tensor | None, out: Tensor) -> None:
    """out[r] = sum over j in [offsets[r], offsets[r + 1]) of weights[j] * x[cols[j]], in order of j."""
    _cpu.gather_sum(
        _device(x), _buffer(x), _buffer(offsets), _optional(cols), _optional(weights), _buffer(out)
    )


def gather_max(x: Tensor, offsets: Tensor, cols: Tensor | None, out: Tensor, arg: Tensor) -> None:
    """out[r] = max over the same lists; arg int64 = the first row of x that has it, -1 for an empty list."""
    _cpu.gather_max(_device(x), _buffer(x), _buffer(offsets), _optional(cols), _buffer(out), _buffer(arg))


# --- what was built -----------------------------------------------------------------------------------------------------------


def build_config() -> dict[str, object]:
    """What the core was built with and what it runs on now."""
    return {
        "instruction_set": _cpu.instruction_set(),
        "openmp": _cpu.openmp,
        "compiler": _cpu.compiler,
        "threads": torch.get_num_threads(),
        "cuda": False,
        "cuda_architectures": (),
    }


def fma_peak_gflops() -> float:
    """GFLOP/s of the core's register loop on the current threads."""
    peak: float = _cpu.fma_peak_gflops(torch.get_num_threads())
    return peak
