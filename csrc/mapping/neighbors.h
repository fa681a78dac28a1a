// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The hash builder of the table of neighbours, int32 [taps, n_coarse]: which fine row each coarse site reads through each tap, -1
// for none.
#pragma once

#include "core/coord_key.h"
#include "core/device.h"
#include "mapping/hash_table.h"

namespace sparseconv {

constexpr int64_t kQueryChunk = 8192;

struct LookUpNeighbors {
    HashTable table;
    const int64_t* queries;  // [n], coarse keys scaled to the fine grid, in row order
    const int64_t* deltas;   // [taps]
    Chunks chunks;
    int32_t* neighbors;  // [taps, n]

    SPARSECONV_HD void operator()(int64_t task) const {
        const int64_t tap = task / chunks.count(), c = task % chunks.count();
        for (int64_t i = chunks.begin(c); i < chunks.end(c); ++i) {
            neighbors[tap * chunks.n + i] = table.find(queries[i] + deltas[tap]);
        }
    }
};

}  // namespace sparseconv
