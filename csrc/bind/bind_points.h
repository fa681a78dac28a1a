// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Names of the functions that put points into voxels in the order in which they come.
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "bind/buffers.h"
#include "mapping/first_come.h"

namespace sparseconv {

// Returns the number of voxels; their rows of voxels, cells and counts are written, and voxel_of_point.
inline int64_t first_come_voxels(AnyBuffer points, const std::vector<float>& low, const std::vector<float>& size,
                                 const std::vector<int64_t>& shape, bool clear, Buffer<int64_t> keys, Buffer<int32_t> rows,
                                 Buffer<float> voxels, Buffer<int32_t> cells, Buffer<int32_t> counts,
                                 Buffer<int64_t> voxel_of_point) {
    const size_t axes = shape.size();
    require(axes >= 1 && axes <= 4 && low.size() == axes && size.size() == axes, "first_come_voxels: one to four axes");
    require(voxels.ndim == 3 && points.ndim == 2 && points.contiguous() && points.shape[1] == voxels.shape[2] &&
                points.shape[1] >= static_cast<int64_t>(axes),
            "points must be a contiguous [N, F] array with F features as the voxels have");
    const int64_t max_voxels = voxels.shape[0], n = points.shape[0];
    require(cells.ndim == 2 && cells.shape[0] == max_voxels && cells.shape[1] == static_cast<int64_t>(axes) &&
                counts.size() == max_voxels && voxel_of_point.size() == n && rows.size() == keys.size() &&
                keys.size() == HashTable::capacity_for(std::min(n, max_voxels)),
            "first_come_voxels: sizes differ");
    auto run = [&](auto* typed) {
        FirstComeVoxels<std::remove_pointer_t<decltype(typed)>> body{typed,
                                                                     n,
                                                                     static_cast<int>(points.shape[1]),
                                                                     static_cast<int>(axes),
                                                                     {},
                                                                     {},
                                                                     {},
                                                                     max_voxels,
                                                                     voxels.shape[1],
                                                                     clear,
                                                                     HashTable{keys.data, rows.data, keys.size() - 1},
                                                                     voxels.data,
                                                                     cells.data,
                                                                     counts.data,
                                                                     voxel_of_point.data};
        for (size_t a = 0; a < axes; ++a) body.low[a] = low[a], body.size[a] = size[a], body.shape[a] = shape[a];
        std::fill_n(keys.data, keys.size(), kNoKey);
        return body.run();
    };
    if (points.type == ElementType::f32) return run(static_cast<float*>(points.data));
    if (points.type == ElementType::f64) return run(static_cast<double*>(points.data));
    throw pybind11::type_error(std::string("points must be float32 or float64, got ") + name_of(points.type));
}

inline void bind_points(pybind11::module_& m) {
    const auto release = pybind11::call_guard<pybind11::gil_scoped_release>();
    m.def("first_come_voxels", &first_come_voxels, release);
}

}  // namespace sparseconv
