// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Names of the mapping functions. A size that depends on the data is a seam: one call counts, Python allocates, one call writes.
// A key layout travels as a tuple of integers: low, shift and bits of each field.
#pragma once

#include <vector>

#include "bind/buffers.h"
#include "mapping/keys.h"
#include "mapping/neighbors.h"
#include "mapping/pairs.h"
#include "mapping/sites.h"
#include "mapping/voxelize.h"

namespace sparseconv {

namespace py = pybind11;
using Integers = std::vector<int64_t>;

inline KeyLayout layout_of(const Integers& numbers) {
    KeyLayout layout;
    layout.fields = static_cast<int>(numbers.size() / 3);
    require(layout.fields >= 1 && layout.fields <= kMaxFields && numbers.size() % 3 == 0,
            "a key layout has 3 numbers for each of 1 to 5 fields, got " + std::to_string(numbers.size()));
    for (int f = 0; f < layout.fields; ++f) {
        layout.low[f] = numbers[f];
        layout.shift[f] = static_cast<int>(numbers[layout.fields + f]);
        layout.bits[f] = static_cast<int>(numbers[2 * layout.fields + f]);
        require(layout.shift[f] >= 0 && layout.bits[f] >= 0 && layout.shift[f] + layout.bits[f] <= kKeyBits,
                "a key layout's fields must lie within 63 bits");
    }
    return layout;
}

inline Integers key_layout(const Integers& low, const Integers& high) {
    require(low.size() == high.size() && !low.empty() && low.size() <= kMaxFields, "low and high must have 1 to 5 fields");
    const KeyLayout layout = make_layout(static_cast<int>(low.size()), low.data(), high.data());
    Integers numbers;
    for (int f = 0; f < layout.fields; ++f) numbers.push_back(layout.low[f]);
    for (int f = 0; f < layout.fields; ++f) numbers.push_back(layout.shift[f]);
    for (int f = 0; f < layout.fields; ++f) numbers.push_back(layout.bits[f]);
    return numbers;
}

inline void require_coords(const Buffer<int32_t>& coords, int fields) {
    require(coords.ndim == 2 && coords.shape[1] == fields,
            "coordinates must be [N, " + std::to_string(fields) + "] to match the key layout");
}

inline Integers bounds(const Cpu& device, Buffer<int32_t> coords) {
    require(coords.ndim == 2 && coords.rows() > 0 && coords.shape[1] >= 1 && coords.shape[1] <= kMaxFields,
            "coordinates must be [N, 1 + D] with at least one row");
    const int fields = static_cast<int>(coords.shape[1]);
    const Chunks chunks{coords.rows(), kRowsPerTask};
    Integers partial(chunks.count() * 2 * fields);
    device.for_each(chunks.count(), BoundsOfRows{coords.data, fields, chunks, partial.data()});
    Integers result(partial.begin(), partial.begin() + 2 * fields);
    for (int64_t c = 1; c < chunks.count(); ++c) {
        const int64_t* low = partial.data() + c * 2 * fields;
        for (int f = 0; f < fields; ++f) {
            result[f] = std::min(result[f], low[f]);
            result[fields + f] = std::max(result[fields + f], low[fields + f]);
        }
    }
    return result;  // lows, then highs
}

// keys[i] = the key of coords[i] * scale; true if the keys strictly increase.
inline bool pack(const Cpu& device, Buffer<int32_t> coords, const Integers& layout_numbers, const Integers& scale,
                 Buffer<int64_t> keys) {
    PackRows body{coords.data, layout_of(layout_numbers), {}, Chunks{coords.rows(), kRowsPerTask}, keys.data, nullptr};
    require_coords(coords, body.layout.fields);
    require(keys.size() >= coords.rows() && static_cast<int>(scale.size()) == body.layout.fields, "pack: sizes differ");
    for (int f = 0; f < body.layout.fields; ++f) body.scale[f] = scale[f];
    std::vector<uint8_t> in_order(body.chunks.count());
    body.in_order = in_order.data();
    device.for_each(body.chunks.count(), body);
    for (int64_t c = 0; c < body.chunks.count(); ++c) {
        if (!in_order[c]) return false;
        if (c > 0 && keys.data[body.chunks.begin(c)] <= keys.data[body.chunks.begin(c) - 1]) return false;
    }
    return true;
}

struct UnpackChunk {
    UnpackKeys body;
    Chunks chunks;
    void operator()(int64_t c) const {
        for (int64_t row = chunks.begin(c); row < chunks.end(c); ++row) body(row);
    }
};

inline void unpack(const Cpu& device, Buffer<int64_t> keys, const Integers& layout_numbers, Buffer<int32_t> coords) {
    const KeyLayout layout = layout_of(layout_numbers);
    require_coords(coords, layout.fields);
    require(keys.size() >= coords.rows(), "unpack: fewer keys than rows");
    const Chunks chunks{coords.rows(), kRowsPerTask};
    device.for_each(chunks.count(), UnpackChunk{UnpackKeys{keys.data, layout, coords.data}, chunks});
}

inline void sort_rows(const Cpu& device, Buffer<int64_t> keys, Buffer<int32_t> rows, int bits, Buffer<int64_t> scratch) {
    require(keys.size() >= rows.size() && scratch.size() >= sort_scratch_size(rows.size()), "sort_rows: sizes differ");
    sort_keys(device, keys.data, rows.data, rows.size(), bits, scratch.data);
}

// Of sorted keys: the pair of rows (earlier, later) that are equal, with the lowest later row; empty if there is none.
inline Integers find_duplicate(Buffer<int64_t> keys, Buffer<int32_t> rows) {
    Integers best;
    for (int64_t i = 1; i < rows.size(); ++i) {
        if (keys.data[i] == keys.data[i - 1] && (best.empty() || rows.data[i] < best[1])) {
            best = {rows.data[i - 1], rows.data[i]};
        }
    }
    return best;
}

// Moves sorted, unique keys through one axis of a layer. Without `starts` fills counts [chunks]; with it writes the new keys.
inline void move_axis(const Cpu& device, Buffer<int64_t> keys, const Integers& layout_numbers, int field,
                      const Integers& relation, bool to_fine, int64_t low, int64_t high, Buffer<int64_t> counts,
                      std::optional<Buffer<int64_t>> starts, std::optional<Buffer<int64_t>> out) {
    const KeyLayout layout = layout_of(layout_numbers);
    require(field >= 1 && field < layout.fields && relation.size() == 4, "move_axis: field or relation out of range");
    const AxisRelation axis{relation[0], relation[1], relation[2], relation[3]};
    require(axis.kernel >= 1 && axis.kernel <= kMaxKernel,
            "kernel sizes are 1 to " + std::to_string(kMaxKernel) + " per axis, got " + std::to_string(axis.kernel));
    const Chunks chunks{keys.size(), kMergeChunk};
    require(counts.size() >= chunks.count() && (!starts || (out && starts->size() >= chunks.count())), "move_axis: sizes differ");
    device.for_each(chunks.count(), MergeAxis{AxisMove{layout, field, axis, to_fine, low, high}, keys.data, keys.size(), chunks,
                                              counts.data, starts ? starts->data : nullptr, out ? out->data : nullptr});
}

// deltas [taps]: what a tap adds to a coarse key that was scaled to the fine grid; runs: see TapRun.
inline void tap_deltas(const Buffer<int32_t>& taps, const KeyLayout& layout, const Integers& padding, const Integers& dilation,
                       Integers& deltas, std::vector<TapRun>& runs) {
    const int axes = layout.fields - 1;
    require(taps.ndim == 2 && taps.shape[1] == axes, "taps must be [K, " + std::to_string(axes) + "]");
    require(static_cast<int>(padding.size()) == axes && static_cast<int>(dilation.size()) == axes,
            "padding and dilation: one per axis");
    for (int64_t t = 0; t < taps.rows(); ++t) {
        int64_t delta = 0;
        bool same_line = t > 0;
        for (int a = 0; a < axes; ++a) {
            const int64_t step = taps.data[t * axes + a] * dilation[a] - padding[a];
            delta += step * (int64_t{1} << layout.shift[a + 1]);
            if (t > 0 && a + 1 < axes) same_line &= taps.data[t * axes + a] == taps.data[(t - 1) * axes + a];
        }
        same_line = same_line && delta > deltas[t - 1];
        if (same_line) {
            runs.back().last = static_cast<int32_t>(t + 1);
        } else {
            runs.push_back(TapRun{static_cast<int32_t>(t), static_cast<int32_t>(t + 1)});
        }
        deltas.push_back(delta);
    }
}

inline void require_table(const Buffer<int32_t>& table, int64_t taps, int64_t n) {
    require(table.ndim == 2 && table.shape[0] == taps && table.shape[1] == n,
            "the table must be [" + std::to_string(taps) + ", " + std::to_string(n) + "]");
}

inline void find_neighbors_hash(const Cpu& device, Buffer<int64_t> fine_keys, Buffer<int64_t> queries,
                                const Integers& layout_numbers, Buffer<int32_t> taps, const Integers& padding,
                                const Integers& dilation, Buffer<int64_t> table_keys, Buffer<int32_t> table_rows,
                                Buffer<int32_t> neighbors) {
    Integers deltas;
    std::vector<TapRun> runs;
    tap_deltas(taps, layout_of(layout_numbers), padding, dilation, deltas, runs);
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

// fine_keys [n + 1] are sorted and closed by kNoKey, which this function writes; rows None = keys stand in row order.
inline void find_neighbors_sorted(const Cpu& device, Buffer<int64_t> fine_keys, std::optional<Buffer<int32_t>> fine_rows,
                                  Buffer<int64_t> queries, std::optional<Buffer<int32_t>> query_rows,
                                  const Integers& layout_numbers, Buffer<int32_t> taps, const Integers& padding,
                                  const Integers& dilation, Buffer<int32_t> neighbors) {
    Integers deltas;
    std::vector<TapRun> runs;
    tap_deltas(taps, layout_of(layout_numbers), padding, dilation, deltas, runs);
    const int64_t n_fine = fine_keys.size() - 1;
    require(n_fine >= 0 && (!fine_rows || fine_rows->size() == n_fine), "fine rows and keys differ");
    const int64_t n = neighbors.ndim == 2 ? neighbors.shape[1] : -1;
    require(queries.size() >= n && (!query_rows || query_rows->size() == n), "query rows and keys differ");
    require_table(neighbors, taps.rows(), n);
    fine_keys.data[n_fine] = kNoKey;
    const Chunks chunks{n, kQueryChunk};
    device.for_each(static_cast<int64_t>(runs.size()) * chunks.count(),
                    MergeNeighbors{fine_keys.data, fine_rows ? fine_rows->data : nullptr, n_fine, queries.data,
                                   query_rows ? query_rows->data : nullptr, deltas.data(), runs.data(), chunks, neighbors.data});
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

// Returns the first point that has no cell, or -1.
inline int64_t cells_of_points(const Cpu& device, AnyBuffer points, std::optional<Buffer<int32_t>> batch,
                               const std::vector<double>& origin, const std::vector<double>& size, Buffer<int32_t> coords) {
    const int axes = static_cast<int>(size.size());
    require(points.ndim == 2 && points.contiguous() && points.shape[1] == axes && axes >= 1 && axes <= 4 &&
                static_cast<int>(origin.size()) == axes && (!batch || batch->size() == points.shape[0]),
            "points must be a contiguous [N, D] array with one voxel size and origin per axis");
    require(coords.ndim == 2 && coords.shape[0] == points.shape[0] && coords.shape[1] == axes + 1, "coords must be [N, 1 + D]");
    const Chunks chunks{points.shape[0], kRowsPerTask};
    Integers first_bad(chunks.count());
    auto run = [&](auto* typed) {
        CellsOfPoints<std::remove_pointer_t<decltype(typed)>> body{
            typed, batch ? batch->data : nullptr, axes, {}, {}, chunks, coords.data, first_bad.data()};
        for (int a = 0; a < axes; ++a) body.origin[a] = origin[a], body.size[a] = size[a];
        device.for_each(chunks.count(), body);
    };
    if (points.type == ElementType::f32) {
        run(static_cast<float*>(points.data));
    } else if (points.type == ElementType::f64) {
        run(static_cast<double*>(points.data));
    } else {
        throw py::type_error(std::string("points must be float32 or float64, got ") + name_of(points.type));
    }
    for (const int64_t row : first_bad) {
        if (row >= 0) return row;
    }
    return -1;
}

// Runs of equal sorted keys. Without `starts` fills counts [chunks]; with it writes offsets, run_of_row and run_keys.
inline void split_runs(const Cpu& device, Buffer<int64_t> keys, Buffer<int32_t> rows, Buffer<int64_t> counts,
                       std::optional<Buffer<int64_t>> starts, std::optional<Buffer<int64_t>> offsets,
                       std::optional<Buffer<int64_t>> run_of_row, std::optional<Buffer<int64_t>> run_keys) {
    const Chunks chunks{rows.size(), kRowsPerTask};
    require(keys.size() >= rows.size() && counts.size() >= chunks.count(), "split_runs: sizes differ");
    require(!starts || (offsets && run_of_row && run_keys && run_of_row->size() == rows.size()), "split_runs: outputs missing");
    device.for_each(chunks.count(), SplitRuns{keys.data, rows.data, chunks, counts.data, starts ? starts->data : nullptr,
                                              offsets ? offsets->data : nullptr, run_of_row ? run_of_row->data : nullptr,
                                              run_keys ? run_keys->data : nullptr});
    if (offsets && offsets->size() > 0) offsets->data[offsets->size() - 1] = rows.size();
}

inline void bind_mapping(py::module_& m) {
    const auto release = py::call_guard<py::gil_scoped_release>();
    m.def("key_layout", &key_layout);
    m.def("bounds", &bounds, release);
    m.def("pack", &pack, release);
    m.def("unpack", &unpack, release);
    m.def("sort_scratch_size", &sort_scratch_size);
    m.def("sort_rows", &sort_rows, release);
    m.def("find_duplicate", &find_duplicate, release);
    m.def("move_axis", &move_axis, release);
    m.def("hash_capacity", &hash_capacity);
    m.def("find_neighbors_hash", &find_neighbors_hash, release);
    m.def("find_neighbors_sorted", &find_neighbors_sorted, release);
    m.def("pair_chunks", &pair_chunks);
    m.def("count_pairs", &count_pairs, release);
    m.def("write_pairs", &write_pairs, release);
    m.def("scatter_pairs", &scatter_pairs, release);
    m.def("pairs_sorted", &pairs_sorted, release);
    m.def("cells_of_points", &cells_of_points, release);
    m.def("split_runs", &split_runs, release);
    m.attr("ROWS_PER_TASK") = kRowsPerTask;
    m.attr("MERGE_CHUNK") = kMergeChunk;
}

}  // namespace sparseconv
