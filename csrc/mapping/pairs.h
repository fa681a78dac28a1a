// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// From a table [taps, n] of row numbers (-1 = none) to the pairs (table entry, column) sorted by (tap, column), and back.
#pragma once

#include <cstring>

#include "core/device.h"
#include "mapping/search.h"

namespace sparseconv {

constexpr int64_t kPairChunk = 4096;  // columns one task compacts; its pairs fit a buffer on the stack

struct CountPairs {
    const int32_t* table;  // [taps, n]
    Chunks chunks;
    int64_t* counts;  // [taps, chunks]

    SPARSECONV_HD void operator()(int64_t task) const {
        const int64_t tap = task / chunks.count(), c = task % chunks.count();
        const int32_t* row = table + tap * chunks.n;
        int32_t count = 0;
        for (int64_t i = chunks.begin(c); i < chunks.end(c); ++i) count += row[i] >= 0;
        counts[task] = count;
    }
};

struct WritePairs {
    const int32_t* table;  // [taps, n]
    Chunks chunks;
    const int64_t* starts;  // [taps, chunks]
    int column;             // where the table's column goes: 1 = (entry, column), 0 = (column, entry)
    int32_t* pairs;         // [pairs, 2]

    SPARSECONV_HD void operator()(int64_t task) const {
        const int64_t tap = task / chunks.count(), c = task % chunks.count();
        const int32_t* row = table + tap * chunks.n;
        int32_t buffer[2 * (kPairChunk + 1)];
        int64_t written = 0;
        for (int64_t i = chunks.begin(c); i < chunks.end(c); ++i) {  // no branch: an absent neighbour is overwritten
            buffer[2 * written + column] = static_cast<int32_t>(i);
            buffer[2 * written + 1 - column] = row[i];
            written += row[i] >= 0;
        }
        memcpy(pairs + 2 * starts[task], buffer, static_cast<size_t>(written) * 2 * sizeof(int32_t));
    }
};

// table[tap, pair's `key_column` entry] = the other entry. Each cell is written at most once; the rest must be -1 before.
struct ScatterPairs {
    const int32_t* pairs;
    const int64_t* tap_offsets;  // [taps + 1]
    int64_t n;                   // columns of the table
    int key_column;
    int32_t* table;  // [taps, n]

    SPARSECONV_HD void operator()(int64_t tap) const {
        int32_t* row = table + tap * n;
        for (int64_t i = 0; i < n; ++i) row[i] = -1;
        for (int64_t p = tap_offsets[tap]; p < tap_offsets[tap + 1]; ++p) {
            row[pairs[2 * p + key_column]] = pairs[2 * p + 1 - key_column];
        }
    }
};

// The same for one pair, whose tap is searched for. The table must be -1 before.
struct ScatterPair {
    const int32_t* pairs;
    const int64_t* tap_offsets;  // [taps + 1]
    int64_t taps, n;             // n: columns of the table
    int key_column;
    int32_t* table;  // [taps, n]

    SPARSECONV_HD void operator()(int64_t p) const {
        const int64_t tap = lower_bound(tap_offsets, 0, taps + 1, p + 1) - 1;  // the last one that begins at or before p
        table[tap * n + pairs[2 * p + key_column]] = pairs[2 * p + 1 - key_column];
    }
};

}  // namespace sparseconv
