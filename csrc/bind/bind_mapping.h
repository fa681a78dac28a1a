// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Names of the functions on keys, sites and points; bind_pairs.h and bind_strided.h have the kernel maps.
#pragma once

#include <vector>

#include "bind/bind_pairs.h"
#include "bind/bind_strided.h"
#include "mapping/keys.h"
#include "mapping/sites.h"
#include "mapping/voxelize.h"

namespace sparseconv {

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

inline void unpack(const Cpu& device, Buffer<int64_t> keys, const Integers& layout_numbers, Buffer<int32_t> coords) {
    const KeyLayout layout = layout_of(layout_numbers);
    require_coords(coords, layout.fields);
    require(keys.size() >= coords.rows(), "unpack: fewer keys than rows");
    const Chunks chunks{coords.rows(), kRowsPerTask};
    device.for_each(chunks.count(), UnpackKeys{keys.data, layout, chunks, coords.data});
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
    bind_pairs(m);
    bind_strided(m);
    m.def("key_layout", &key_layout);
    m.def("bounds", &bounds, release);
    m.def("pack", &pack, release);
    m.def("unpack", &unpack, release);
    m.def("sort_scratch_size", &sort_scratch_size);
    m.def("sort_rows", &sort_rows, release);
    m.def("find_duplicate", &find_duplicate, release);
    m.def("move_axis", &move_axis, release);
    m.def("cells_of_points", &cells_of_points, release);
    m.def("split_runs", &split_runs, release);
    m.attr("ROWS_PER_TASK") = kRowsPerTask;
    m.attr("MERGE_CHUNK") = kMergeChunk;
}

}  // namespace sparseconv
