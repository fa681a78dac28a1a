// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Points to voxels in the order in which the points come, truncated: what detectors train on. The order is sequential by
// its definition (which voxels and points are kept depends on all earlier ones), so this is one loop.
#pragma once

#include <algorithm>
#include <cstdint>

#include "mapping/hash_table.h"

namespace sparseconv {

template <class T>
struct FirstComeVoxels {
    const T* points;  // [n, features]; coordinates in the first columns, in the opposite order of the cell's axes
    int64_t n;
    int features, axes;
    float low[4], size[4];  // of the cell's axes: the corner of cell 0 and the edge
    int64_t shape[4];
    int64_t max_voxels, max_points;
    bool clear;               // a voxel's places are zeroed when it is made
    HashTable table;          // cleared, room for twice min(n, max_voxels)
    float* voxels;            // [max_voxels, max_points, features]
    int32_t* cells;           // [max_voxels, axes]
    int32_t* counts;          // [max_voxels]
    int64_t* voxel_of_point;  // [n], -1 = none

    // The cell's linear index, -1 outside the grid and for a point that is not finite. Arithmetic in T, as the cells that
    // a network saw in training were computed.
    int64_t cell(const T* point, int32_t* out) const {
        int64_t linear = 0;
        for (int a = 0; a < axes; ++a) {
            const T place = (point[axes - 1 - a] - low[a]) / size[a];  // from 0 on, to cut is to floor
            if (!(place >= 0 && place < static_cast<T>(2147483648.0)) || static_cast<int32_t>(place) >= shape[a]) return -1;
            out[a] = static_cast<int32_t>(place);
            linear = linear * shape[a] + out[a];
        }
        return linear;
    }

    int64_t run() const {
        int64_t voxel_count = 0;
        const int64_t row_size = max_points * features;
        for (int64_t i = 0; i < n; ++i) {
            const T* point = points + i * features;
            int32_t found[4];
            const int64_t key = cell(point, found);
            voxel_of_point[i] = -1;
            if (key < 0) continue;
            int64_t slot = table.slot(key);
            while (table.keys[slot] != key && table.keys[slot] != kNoKey) slot = (slot + 1) & table.mask;
            if (table.keys[slot] == kNoKey) {
                if (voxel_count >= max_voxels) continue;
                table.keys[slot] = key;
                table.rows[slot] = static_cast<int32_t>(voxel_count);
                for (int a = 0; a < axes; ++a) cells[voxel_count * axes + a] = found[a];
                counts[voxel_count] = 0;
                if (clear) std::fill_n(voxels + voxel_count * row_size, row_size, 0.0f);
                ++voxel_count;
            }
            const int64_t voxel = table.rows[slot];
            voxel_of_point[i] = voxel;
            if (counts[voxel] == max_points) continue;
            float* place = voxels + voxel * row_size + static_cast<int64_t>(counts[voxel]++) * features;
            for (int f = 0; f < features; ++f) place[f] = static_cast<float>(point[f]);
        }
        return voxel_count;
    }
};

}  // namespace sparseconv
