// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The table of neighbours, int32 [taps, n_coarse]: which fine row each coarse site reads through each tap, -1 for none; through a
// hash table, or by binary search in sorted keys.
#pragma once

#include "core/coord_key.h"
#include "core/device.h"
#include "mapping/hash_table.h"
#include "mapping/search.h"

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

// The same for one coarse site and one tap, where both sides are the same sites and taps t and taps - 1 - t are opposite: whoever
// finds a neighbour is the neighbour's through the opposite tap. Indices: (taps + 1) / 2 times n. The table must be -1 before.
struct LookUpOpposites {
    HashTable table;
    const int64_t* keys;    // [n], in row order
    const int64_t* deltas;  // [taps]
    int64_t taps, n;
    int32_t* neighbors;  // [taps, n]

    SPARSECONV_HD void operator()(int64_t at) const {
        const int64_t tap = at / n, i = at % n, opposite = taps - 1 - tap;
        const int32_t row = tap == opposite ? static_cast<int32_t>(i) : table.find(keys[i] + deltas[tap]);
        if (row < 0) return;
        neighbors[tap * n + i] = row;
        neighbors[opposite * n + row] = static_cast<int32_t>(i);
    }
};

// One coarse site and one tap, in sorted fine keys.
struct SearchNeighbors {
    const int64_t* fine_keys;  // [n_fine], increasing
    const int32_t* fine_rows;  // [n_fine]
    int64_t n_fine;
    const int64_t* queries;  // [n], in row order
    const int64_t* deltas;   // [taps]
    int64_t n;
    int32_t* neighbors;  // [taps, n]

    SPARSECONV_HD void operator()(int64_t at) const {
        const int64_t key = queries[at % n] + deltas[at / n], place = lower_bound(fine_keys, 0, n_fine, key);
        neighbors[at] = place < n_fine && fine_keys[place] == key ? fine_rows[place] : -1;
    }
};

}  // namespace sparseconv
