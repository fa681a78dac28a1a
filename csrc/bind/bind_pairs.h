// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Names of the functions that find pairs. A size that depends on the data is a seam: one call counts, Python allocates, one call
// writes.
#pragma once

#include <optional>
#include <vector>

#include "bind/key_layouts.h"
#include "mapping/keys.h"
#include "mapping/match.h"
#include "mapping/neighbors.h"
#include "mapping/pairs.h"

namespace sparseconv {

// steps [taps, axes]: where a tap reads, in fine cells from coarse * stride.
inline Integers tap_steps(const Buffer<int32_t>& taps, const KeyLayout& layout, const Integers& padding,
                          const Integers& dilation) {
    const int axes = layout.fields - 1;
    require(taps.ndim == 2 && taps.shape[1] == axes, "taps must be [K, " + std::to_string(axes) + "]");
    require(static_cast<int>(padding.size()) == axes && static_cast<int>(dilation.size()) == axes,
            "padding and dilation: one per axis");
    Integers steps;
    for (int64_t t = 0; t < taps.rows(); ++t) {
        for (int a = 0; a < axes; ++a) steps.push_back(taps.data[t * axes + a] * dilation[a] - padding[a]);
    }
    return steps;
}

// deltas [taps]: what a step adds to a key.
inline Integers tap_deltas(const Integers& steps, const KeyLayout& layout) {
    const size_t axes = static_cast<size_t>(layout.fields - 1);
    Integers deltas(steps.size() / axes);
    for (size_t i = 0; i < steps.size(); ++i) deltas[i / axes] += steps[i] * (int64_t{1} << layout.shift[i % axes + 1]);
    return deltas;
}

// The first `slots` taps in runs, see TapRun.
inline std::vector<TapRun> tap_runs(const Integers& steps, const Integers& deltas, int axes, int64_t slots) {
    std::vector<TapRun> runs;
    for (int32_t t = 0; t < slots; ++t) {
        bool same_line = t > 0 && deltas[t] > deltas[t - 1] && t - runs.back().first < kRunWidth;
        for (int a = 0; a + 1 < axes && same_line; ++a) same_line = steps[t * axes + a] == steps[(t - 1) * axes + a];
        if (same_line) {
            runs.back().last = t + 1;
            runs.back().adjacent &= deltas[t] == deltas[t - 1] + 1;
        } else {
            runs.push_back(TapRun{t, t + 1, true});
        }
    }
    return runs;
}

inline void find_neighbors_hash(const Cpu& device, Buffer<int64_t> fine_keys, Buffer<int64_t> queries,
                                const Integers& layout_numbers, Buffer<int32_t> taps, const Integers& padding,
                                const Integers& dilation, Buffer<int64_t> table_keys, Buffer<int32_t> table_rows,
                                Buffer<int32_t> neighbors) {
    const KeyLayout layout = layout_of(layout_numbers);
    const Integers deltas = tap_deltas(tap_steps(taps, layout, padding, dilation), layout);
    require_table(neighbors, taps.rows(), queries.size());
    const int64_t capacity = HashTable::capacity_for(fine_keys.size());
    require(table_keys.size() >= capacity && table_rows.size() >= capacity, "the hash table is too small");
    const HashTable table{table_keys.data, table_rows.data, capacity - 1};
    const Chunks slots{capacity, 1 << 16}, inserts{fine_keys.size(), kRowsPerTask}, queried{queries.size(), kQueryChunk};
    device.for_each(slots.count(), ClearSlots{table, slots});
    device.for_each(inserts.count(), InsertKeys{table, fine_keys.data, inserts});
    device.for_each(taps.rows() * queried.count(), LookUpNeighbors{table, queries.data, deltas.data(), queried, neighbors.data});
}

inline int64_t hash_capacity(int64_t n) { return HashTable::capacity_for(n); }

// Whether tap k and tap K - 1 - k are opposite for all k, so that a map of a set of sites onto itself is found by halves.
inline bool opposite_taps(const Integers& steps, int axes) {
    const int64_t taps = static_cast<int64_t>(steps.size()) / axes;
    for (int64_t t = 0; t < taps; ++t) {
        for (int a = 0; a < axes; ++a) {
            if (steps[t * axes + a] + steps[(taps - 1 - t) * axes + a] != 0) return false;
        }
    }
    return taps > 0;
}

inline bool mirrored_taps(Buffer<int32_t> taps, const Integers& layout_numbers, const Integers& padding,
                          const Integers& dilation) {
    const KeyLayout layout = layout_of(layout_numbers);
    return opposite_taps(tap_steps(taps, layout, padding, dilation), layout.fields - 1);
}

inline int64_t match_chunks(int64_t n) { return Chunks{n, kMatchChunk}.count(); }

// fine_keys [n_fine + 1] and queries [>= n] increase; the last fine key is this function's. Fills found [slots, n, 2] and counts
// [slots, chunks], slots = taps, or taps / 2 where they are mirrored, and starts [taps, chunks] and offsets [taps + 1] of the pairs.
inline void match_sorted(const Cpu& device, Buffer<int64_t> fine_keys, Buffer<int64_t> queries, int64_t n,
                         const Integers& layout_numbers, Buffer<int32_t> taps, const Integers& padding, const Integers& dilation,
                         bool mirrored, Buffer<int32_t> found, Buffer<int64_t> counts, Buffer<int64_t> starts,
                         Buffer<int64_t> offsets) {
    const KeyLayout layout = layout_of(layout_numbers);
    const Integers steps = tap_steps(taps, layout, padding, dilation), deltas = tap_deltas(steps, layout);
    const int64_t n_taps = taps.rows(), slots = mirrored ? n_taps / 2 : n_taps, n_fine = fine_keys.size() - 1;
    const Chunks chunks{n, kMatchChunk};
    require(n_fine >= 0 && n >= 0 && queries.size() >= n, "match_sorted: fewer keys than rows");
    require(!mirrored || (opposite_taps(steps, layout.fields - 1) && n_fine == n), "match_sorted: these taps are not mirrored");
    require(found.size() >= 2 * slots * n && counts.size() >= slots * chunks.count() &&
                starts.size() == n_taps * chunks.count() && offsets.size() == n_taps + 1,
            "match_sorted: sizes differ");
    fine_keys.data[n_fine] = kNoKey;
    const std::vector<TapRun> runs = tap_runs(steps, deltas, layout.fields - 1, slots);
    const int64_t run_count = static_cast<int64_t>(runs.size());
    device.for_each(run_count * chunks.count(), MatchRuns{fine_keys.data, n_fine, queries.data, deltas.data(), runs.data(),
                                                          run_count, chunks, found.data, counts.data});
    const FoundPairs from{found.data, counts.data, chunks, n_taps, mirrored};
    int64_t total = 0;
    for (int64_t t = 0; t < n_taps; ++t) {
        offsets.data[t] = total;
        for (int64_t c = 0; c < chunks.count(); ++c) {
            starts.data[t * chunks.count() + c] = total;
            total += from.count(t, c);
        }
    }
    offsets.data[n_taps] = total;
}

inline FoundPairs found_pairs(const Buffer<int32_t>& found, const Buffer<int64_t>& counts, int64_t n, int64_t taps,
                              bool mirrored) {
    const int64_t slots = mirrored ? taps / 2 : taps;
    const Chunks chunks{n, kMatchChunk};
    require(found.size() >= 2 * slots * n && counts.size() >= slots * chunks.count(), "found pairs: sizes differ");
    return FoundPairs{found.data, counts.data, chunks, taps, mirrored};
}

inline void place_found(const Cpu& device, Buffer<int32_t> found, Buffer<int64_t> counts, int64_t n, bool mirrored,
                        Buffer<int64_t> starts, Buffer<int64_t> offsets, Buffer<int32_t> pairs) {
    const FoundPairs from = found_pairs(found, counts, n, offsets.size() - 1, mirrored);
    require(starts.size() == from.taps * from.chunks.count() && pairs.size() == 2 * offsets.data[from.taps],
            "place_found: sizes differ");
    device.for_each(starts.size(), PlaceFound{from, starts.data, pairs.data});
}

inline void tabulate_found(const Cpu& device, Buffer<int32_t> found, Buffer<int64_t> counts, bool mirrored,
                           std::optional<Buffer<int32_t>> fine_rows, std::optional<Buffer<int32_t>> query_rows,
                           Buffer<int32_t> table) {
    require(table.ndim == 2, "the table must be [K, N]");
    const FoundPairs from = found_pairs(found, counts, table.shape[1], table.shape[0], mirrored);
    require(!query_rows || query_rows->size() == table.shape[1], "tabulate_found: rows and keys differ");
    device.for_each(from.taps, TabulateFound{from, fine_rows ? fine_rows->data : nullptr, query_rows ? query_rows->data : nullptr,
                                             table.data});
}

inline int64_t pair_chunks(int64_t n) { return Chunks{n, kPairChunk}.count(); }

inline void count_pairs(const Cpu& device, Buffer<int32_t> table, Buffer<int64_t> counts) {
    require(table.ndim == 2, "the table must be [K, N]");
    const Chunks chunks{table.shape[1], kPairChunk};
    require(counts.size() == table.shape[0] * chunks.count(), "count_pairs: sizes differ");
    device.for_each(counts.size(), CountPairs{table.data, chunks, counts.data});
}

inline void write_pairs(const Cpu& device, Buffer<int32_t> table, Buffer<int64_t> starts, int column, Buffer<int32_t> pairs) {
    require(table.ndim == 2 && (column == 0 || column == 1), "the table must be [K, N] and the column 0 or 1");
    require(pairs.ndim == 2 && pairs.shape[1] == 2, "pairs must be [P, 2]");
    const Chunks chunks{table.shape[1], kPairChunk};
    require(starts.size() == table.shape[0] * chunks.count(), "write_pairs: sizes differ");
    device.for_each(starts.size(), WritePairs{table.data, chunks, starts.data, column, pairs.data});
}

inline void scatter_pairs(const Cpu& device, Buffer<int32_t> pairs, Buffer<int64_t> tap_offsets, int key_column,
                          Buffer<int32_t> table) {
    require_table(table, tap_offsets.size() - 1, table.ndim == 2 ? table.shape[1] : 0);
    device.for_each(tap_offsets.size() - 1, ScatterPairs{pairs.data, tap_offsets.data, table.shape[1], key_column, table.data});
}

// Whether the pairs of every tap increase in `column` too, which makes a reversal a mere swap of the columns.
inline bool pairs_sorted(Buffer<int32_t> pairs, Buffer<int64_t> tap_offsets, int column) {
    for (int64_t t = 0; t + 1 < tap_offsets.size(); ++t) {
        for (int64_t p = tap_offsets.data[t] + 1; p < tap_offsets.data[t + 1]; ++p) {
            if (pairs.data[2 * p + column] <= pairs.data[2 * (p - 1) + column]) return false;
        }
    }
    return true;
}

inline void bind_pairs(py::module_& m) {
    const auto release = py::call_guard<py::gil_scoped_release>();
    m.def("hash_capacity", &hash_capacity);
    m.def("find_neighbors_hash", &find_neighbors_hash, release);
    m.def("mirrored_taps", &mirrored_taps);
    m.def("match_chunks", &match_chunks);
    m.def("match_sorted", &match_sorted, release);
    m.def("place_found", &place_found, release);
    m.def("tabulate_found", &tabulate_found, release);
    m.def("pair_chunks", &pair_chunks);
    m.def("count_pairs", &count_pairs, release);
    m.def("write_pairs", &write_pairs, release);
    m.def("scatter_pairs", &scatter_pairs, release);
    m.def("pairs_sorted", &pairs_sorted, release);
}

}  // namespace sparseconv
