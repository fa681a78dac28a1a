// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The table of neighbours, int32 [taps, n_coarse]: which fine row each coarse site reads through each tap, -1 for none. Two
// builders fill it: one asks a hash table, the other merges sorted lists (PointAcc, Lin et al., MICRO 2021): the fine keys and
// the coarse keys shifted by the tap. Everything after the table is shared.
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

// Taps first .. last - 1 differ along the last axis only and their deltas increase: one walk through the fine keys serves all.
struct TapRun {
    int32_t first, last;
};

struct MergeNeighbors {
    const int64_t* fine;       // [n_fine + 1], increasing, closed by kNoKey
    const int32_t* fine_rows;  // [n_fine], the row each key stands for; null = identity
    int64_t n_fine;
    const int64_t* queries;     // [n], increasing
    const int32_t* query_rows;  // [n]; null = identity
    const int64_t* deltas;      // [taps], in tap order
    const TapRun* runs;
    Chunks chunks;
    int32_t* neighbors;  // [taps, n]

    SPARSECONV_HD void operator()(int64_t task) const {
        const int64_t c = task % chunks.count();
        const TapRun run = runs[task / chunks.count()];
        const int64_t begin = chunks.begin(c), end = chunks.end(c);
        int64_t place = lower_bound(fine, 0, n_fine, queries[begin] + deltas[run.first]);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t query = queries[i];
            const int64_t row = query_rows ? query_rows[i] : i;
            const int64_t first_key = query + deltas[run.first];
            while (fine[place] < first_key) ++place;
            int64_t ahead = place;
            for (int32_t t = run.first; t < run.last; ++t) {
                const int64_t key = query + deltas[t];
                while (fine[ahead] < key) ++ahead;
                const bool found = fine[ahead] == key;
                const int32_t fine_row = fine_rows ? (found ? fine_rows[ahead] : -1) : static_cast<int32_t>(ahead);
                neighbors[t * chunks.n + row] = found ? fine_row : -1;
            }
        }
    }
};

}  // namespace sparseconv
