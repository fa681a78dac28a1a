// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Names of the functions on keys, sites, points and pairs on a GPU. Nothing here waits for the device: where a size depends on the
// data, one call counts, Python reads the number and allocates, another call writes.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "bind/key_layouts.h"
#include "core/cuda.h"
#include "mapping/keys.h"
#include "mapping/maps_cuda.h"
#include "mapping/neighbors.h"
#include "mapping/pairs.h"
#include "mapping/reached.h"
#include "mapping/repeats.h"
#include "mapping/voxelize.h"

namespace sparseconv::gpu {

// Loops of the CPU that take chunks of rows take one row for a chunk here.
inline Chunks single(int64_t n) { return Chunks{n, 1}; }

// first[0] = the lowest row that equals an earlier one; slots -1 and first INT32_MAX before.
inline void find_repeat(const Cuda& device, Buffer<int32_t> coords, Buffer<int32_t> slots, Buffer<int32_t> first) {
    require(coords.ndim == 2 && first.size() == 1 && slots.size() == HashTable::capacity_for(coords.rows()),
            "find_repeat: coords [N, W], slots [hash_capacity(N)], first [1]");
    device.for_each(coords.rows(),
                    FindRepeat{coords.data, static_cast<int>(coords.shape[1]), slots.data, slots.size() - 1, first.data});
}

inline void pack(const Cuda& device, Buffer<int32_t> coords, const Integers& layout_numbers, const Integers& scale,
                 Buffer<int64_t> keys) {
    PackRows body{coords.data, layout_of(layout_numbers), {}, single(coords.rows()), keys.data, nullptr};
    require_coords(coords, body.layout.fields);
    require(keys.size() == coords.rows() && static_cast<int>(scale.size()) == body.layout.fields, "pack: sizes differ");
    for (int f = 0; f < body.layout.fields; ++f) body.scale[f] = scale[f];
    device.for_each(coords.rows(), body);
}

inline void unpack(const Cuda& device, Buffer<int64_t> keys, const Integers& layout_numbers, Buffer<int32_t> coords) {
    const KeyLayout layout = layout_of(layout_numbers);
    require_coords(coords, layout.fields);
    require(keys.size() == coords.rows(), "unpack: sizes differ");
    device.for_each(coords.rows(), UnpackKeys{keys.data, layout, single(coords.rows()), coords.data});
}

inline void bound_sort_keys(const Cuda& device, Buffer<int64_t> keys, std::optional<Buffer<int32_t>> rows, int bits,
                            Buffer<int64_t> sorted_keys, std::optional<Buffer<int32_t>> sorted_rows, Buffer<uint8_t> scratch) {
    const int64_t n = keys.size();
    require(sorted_keys.size() == n && rows.has_value() == sorted_rows.has_value() &&
                (!rows || (rows->size() == n && sorted_rows->size() == n)) && bits >= 0 && bits <= 64 &&
                static_cast<size_t>(scratch.size()) >= sort_bytes(n, rows.has_value()),
            "sort_keys: sizes differ");
    sort_keys(device.stream, keys.data, rows ? rows->data : nullptr, n, bits, sorted_keys.data,
              sorted_rows ? sorted_rows->data : nullptr, scratch.data, static_cast<size_t>(scratch.size()));
}

// As on the CPU, for one point a chunk: first_bad [n] = the point itself or -1.
inline void cells_of_points(const Cuda& device, AnyBuffer points, std::optional<Buffer<int32_t>> batch,
                            const std::vector<double>& origin, const std::vector<double>& size, Buffer<int32_t> coords,
                            Buffer<int64_t> first_bad) {
    const int axes = static_cast<int>(size.size());
    const int64_t n = points.shape[0];
    require(points.ndim == 2 && points.contiguous() && points.shape[1] == axes && axes >= 1 && axes <= 4 &&
                static_cast<int>(origin.size()) == axes && (!batch || batch->size() == n),
            "points must be a contiguous [N, D] array with one voxel size and origin per axis");
    require(coords.ndim == 2 && coords.shape[0] == n && coords.shape[1] == axes + 1 && first_bad.size() == n,
            "coords must be [N, 1 + D], first_bad [N]");
    auto run = [&](auto* typed) {
        CellsOfPoints<std::remove_pointer_t<decltype(typed)>> body{
            typed, batch ? batch->data : nullptr, axes, {}, {}, single(n), coords.data, first_bad.data};
        for (int a = 0; a < axes; ++a) body.origin[a] = origin[a], body.size[a] = size[a];
        device.for_each(n, body);
    };
    if (points.type == ElementType::f32) {
        run(static_cast<float*>(points.data));
    } else if (points.type == ElementType::f64) {
        run(static_cast<double*>(points.data));
    } else {
        throw py::type_error(std::string("points must be float32 or float64, got ") + name_of(points.type));
    }
}

// As on the CPU, for one key a chunk; `starts` are the runs before each key, and the caller writes the last offset.
inline void split_runs(const Cuda& device, Buffer<int64_t> keys, Buffer<int32_t> rows, Buffer<int64_t> counts,
                       std::optional<Buffer<int64_t>> starts, std::optional<Buffer<int64_t>> offsets,
                       std::optional<Buffer<int64_t>> run_of_row, std::optional<Buffer<int64_t>> run_keys) {
    const int64_t n = keys.size();
    require(rows.size() == n && counts.size() == n, "split_runs: sizes differ");
    require(!starts || (offsets && run_of_row && run_keys && starts->size() == n && run_of_row->size() == n &&
                        offsets->size() == run_keys->size() + 1),
            "split_runs: outputs missing");
    device.for_each(n, SplitRuns{keys.data, rows.data, single(n), counts.data, starts ? starts->data : nullptr,
                                 offsets ? offsets->data : nullptr, run_of_row ? run_of_row->data : nullptr,
                                 run_keys ? run_keys->data : nullptr});
}

// ranges [axes, 2]: lowest and highest output kept.
inline Reach reach_of(const Integers& layout_numbers, const Integers& relations, bool to_fine, const Integers& ranges) {
    Reach reach{layout_of(layout_numbers), {}};
    const size_t axes = static_cast<size_t>(reach.axes());
    require(relations.size() == 4 * axes && ranges.size() == 2 * axes, "four numbers of a relation and two of a range per axis");
    for (size_t a = 0; a < axes; ++a) {
        const AxisRelation axis{relations[4 * a], relations[4 * a + 1], relations[4 * a + 2], relations[4 * a + 3]};
        require(axis.kernel >= 1 && axis.stride >= 1, "kernel sizes and strides are at least 1");
        reach.moves[a] = AxisMove{reach.layout, static_cast<int>(a) + 1, axis, to_fine, ranges[2 * a], ranges[2 * a + 1]};
    }
    return reach;
}

// How many candidates an input has.
inline int64_t reach_width(const Integers& relations, bool to_fine) {
    require(relations.size() % 4 == 0, "four numbers of a relation per axis");
    int64_t width = 1;
    for (size_t a = 0; a < relations.size(); a += 4) {
        require(relations[a] >= 1 && relations[a + 1] >= 1, "kernel sizes and strides are at least 1");
        width *= most_reached(AxisRelation{relations[a], relations[a + 1], relations[a + 2], relations[a + 3]}, to_fine);
    }
    return width;
}

inline void reach_keys(const Cuda& device, Buffer<int64_t> keys, const Integers& layout, const Integers& relations, bool to_fine,
                       const Integers& ranges, Buffer<int64_t> candidates) {
    ReachKeys body{reach_of(layout, relations, to_fine, ranges), {}, reach_width(relations, to_fine), keys.data, candidates.data};
    for (int a = 0; a < body.reach.axes(); ++a) body.most[a] = most_reached(body.reach.moves[a].relation, to_fine);
    require(candidates.size() == keys.size() * body.width, "reach_keys: candidates must be [N, reach_width]");
    device.for_each(candidates.size(), body);
}

inline void mark_distinct(const Cuda& device, Buffer<int64_t> keys, Buffer<uint8_t> first) {
    require(first.size() == keys.size(), "mark_distinct: sizes differ");
    device.for_each(keys.size(), MarkDistinct{keys.data, first.data});
}

inline void place_distinct(const Cuda& device, Buffer<int64_t> keys, Buffer<uint8_t> first, Buffer<int64_t> ends,
                           Buffer<int64_t> distinct) {
    require(first.size() == keys.size() && ends.size() == keys.size(), "place_distinct: sizes differ");
    device.for_each(keys.size(), PlaceDistinct{keys.data, first.data, ends.data, distinct.data});
}

inline ReachTaps reach_taps(const Buffer<int64_t>& keys, const Buffer<int32_t>& taps, const Integers& layout,
                            const Integers& relations, const Integers& ranges) {
    const ReachTaps through{reach_of(layout, relations, false, ranges), keys.data, taps.data, keys.size()};
    require(taps.ndim == 2 && taps.shape[1] == through.reach.axes(), "taps must be [K, axes]");
    return through;
}

inline void mark_reached(const Cuda& device, Buffer<int64_t> keys, Buffer<int32_t> taps, const Integers& layout,
                         const Integers& relations, const Integers& ranges, Buffer<uint8_t> met) {
    require(met.size() == taps.rows() * keys.size(), "mark_reached: met must be [K, N]");
    device.for_each(met.size(), MarkReached{reach_taps(keys, taps, layout, relations, ranges), met.data});
}

inline void tabulate_reached(const Cuda& device, Buffer<int64_t> keys, Buffer<int32_t> taps, const Integers& layout,
                             const Integers& relations, const Integers& ranges, Buffer<int64_t> out_keys, Buffer<int32_t> table) {
    require_table(table, taps.rows(), out_keys.size());
    device.for_each(taps.rows() * keys.size(), TabulateReached{reach_taps(keys, taps, layout, relations, ranges), out_keys.data,
                                                               out_keys.size(), table.data});
}

// mirrored: taps t and K - 1 - t are opposite and queries are the fine keys; the table is then -1 before.
inline void find_neighbors_hash(const Cuda& device, Buffer<int64_t> fine_keys, Buffer<int64_t> queries, Buffer<int64_t> deltas,
                                bool mirrored, Buffer<int64_t> table_keys, Buffer<int32_t> table_rows,
                                Buffer<int32_t> neighbors) {
    const int64_t n = queries.size(), taps = deltas.size(), capacity = HashTable::capacity_for(fine_keys.size());
    require_table(neighbors, taps, n);
    require(table_keys.size() == capacity && table_rows.size() == capacity, "the hash table must have hash_capacity slots");
    require(!mirrored || fine_keys.size() == n, "a mirrored map is one of a set of sites to itself");
    const HashTable table{table_keys.data, table_rows.data, capacity - 1};
    device.for_each(capacity, ClearSlots{table, single(capacity)});
    device.for_each(fine_keys.size(), InsertKeys{table, fine_keys.data, single(fine_keys.size())});
    if (mirrored) {
        device.for_each((taps + 1) / 2 * n, LookUpOpposites{table, queries.data, deltas.data, taps, n, neighbors.data});
    } else {
        device.for_each(taps * n, LookUpNeighbors{table, queries.data, deltas.data, single(n), neighbors.data});
    }
}

inline void find_neighbors_sorted(const Cuda& device, Buffer<int64_t> fine_keys, Buffer<int32_t> fine_rows,
                                  Buffer<int64_t> queries, Buffer<int64_t> deltas, Buffer<int32_t> neighbors) {
    require_table(neighbors, deltas.size(), queries.size());
    require(fine_rows.size() == fine_keys.size(), "find_neighbors_sorted: sizes differ");
    device.for_each(neighbors.size(), SearchNeighbors{fine_keys.data, fine_rows.data, fine_keys.size(), queries.data, deltas.data,
                                                      queries.size(), neighbors.data});
}

inline int64_t pair_chunks(int64_t n) { return (n + kWarpColumns - 1) / kWarpColumns; }

inline void bound_count_pairs(const Cuda& device, Buffer<int32_t> table, Buffer<int64_t> counts) {
    require(table.ndim == 2 && counts.size() == table.shape[0] * pair_chunks(table.shape[1]),
            "count_pairs: table [K, N], counts [K, pair_chunks(N)]");
    count_pairs(device.stream, table.data, table.shape[0], table.shape[1], counts.data);
}

inline void bound_write_pairs(const Cuda& device, Buffer<int32_t> table, Buffer<int64_t> counts, Buffer<int64_t> ends, int column,
                              Buffer<int32_t> pairs) {
    require(table.ndim == 2 && counts.size() == table.shape[0] * pair_chunks(table.shape[1]) && ends.size() == counts.size() &&
                (column == 0 || column == 1) && pairs.ndim == 2 && pairs.shape[1] == 2,
            "write_pairs: table [K, N], counts and ends [K, pair_chunks(N)], column 0 or 1, pairs [P, 2]");
    write_pairs(device.stream, table.data, table.shape[0], table.shape[1], counts.data, ends.data, column, pairs.data);
}

inline void scatter_pairs(const Cuda& device, Buffer<int32_t> pairs, Buffer<int64_t> tap_offsets, int column,
                          Buffer<int32_t> table) {
    require(pairs.ndim == 2 && pairs.shape[1] == 2 && table.ndim == 2 && tap_offsets.size() == table.shape[0] + 1 &&
                (column == 0 || column == 1),
            "scatter_pairs: pairs [P, 2], tap offsets [K + 1], table [K, N], column 0 or 1");
    device.for_each(pairs.rows(), ScatterPair{pairs.data, tap_offsets.data, table.shape[0], table.shape[1], column, table.data});
}

inline void bind_mapping(py::module_& m) {
    const auto release = py::call_guard<py::gil_scoped_release>();
    m.def("hash_capacity", &HashTable::capacity_for);
    m.def("find_repeat", &find_repeat, release);
    m.def("pack", &pack, release);
    m.def("unpack", &unpack, release);
    m.def("sort_bytes", &sort_bytes);
    m.def("sort_keys", &bound_sort_keys, release);
    m.def("cells_of_points", &cells_of_points, release);
    m.def("split_runs", &split_runs, release);
    m.def("reach_width", &reach_width);
    m.def("reach_keys", &reach_keys, release);
    m.def("mark_distinct", &mark_distinct, release);
    m.def("place_distinct", &place_distinct, release);
    m.def("mark_reached", &mark_reached, release);
    m.def("tabulate_reached", &tabulate_reached, release);
    m.def("find_neighbors_hash", &find_neighbors_hash, release);
    m.def("find_neighbors_sorted", &find_neighbors_sorted, release);
    m.def("pair_chunks", &pair_chunks);
    m.def("count_pairs", &bound_count_pairs, release);
    m.def("write_pairs", &bound_write_pairs, release);
    m.def("scatter_pairs", &scatter_pairs, release);
}

}  // namespace sparseconv::gpu
