// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The sorted builder (PointAcc, Lin et al., MICRO 2021): the fine keys are merged with the coarse keys shifted by a tap. One walk
// through the fine keys serves up to five neighbouring taps along the last axis, without a branch that depends on what is found.
//
// Where the pairs go is known only when all are counted, and a walk costs more than a copy: the walk leaves its pairs in `found`,
// which is address space for every site but touched only where there are pairs, and the pairs are copied to their places from there.
// A mirrored map (tap k and tap K - 1 - k are opposite) is searched for its first half alone: the other half is the same pairs
// with swapped columns, in the same order, since both columns of a tap's pairs increase.
#pragma once

#include <cstring>

#include "core/coord_key.h"
#include "core/device.h"
#include "mapping/search.h"

namespace sparseconv {

constexpr int64_t kMatchChunk = 8192;
constexpr int kRunWidth = 5;

// Taps first .. last - 1 differ along the last axis only and their deltas increase; `adjacent`: by one.
struct TapRun {
    int32_t first, last;
    bool adjacent;
};

struct MatchRuns {
    const int64_t* fine;  // [n_fine + 1], increasing, closed by kNoKey
    int64_t n_fine;
    const int64_t* queries;  // [n], increasing
    const int64_t* deltas;   // [slots]: what a tap adds to a query
    const TapRun* runs;      // [run_count]
    int64_t run_count;
    Chunks chunks;    // of the queries
    int32_t* found;   // [slots, n, 2]: (place of the fine key, place of the query); those of a chunk begin at its first query
    int64_t* counts;  // [slots, chunks]

    // The runs of one chunk follow each other: they read the same stretches of keys.
    SPARSECONV_HD void operator()(int64_t task) const {
        const int64_t c = task / run_count;
        const TapRun run = runs[task % run_count];
        switch (run.last - run.first) {
            case 1: return walk<1, true>(c, run.first);
            case 2: return run.adjacent ? walk<2, true>(c, run.first) : walk<2, false>(c, run.first);
            case 3: return run.adjacent ? walk<3, true>(c, run.first) : walk<3, false>(c, run.first);
            case 4: return run.adjacent ? walk<4, true>(c, run.first) : walk<4, false>(c, run.first);
            default: return run.adjacent ? walk<5, true>(c, run.first) : walk<5, false>(c, run.first);
        }
    }

    template <int W, bool Adjacent>
    SPARSECONV_HD void walk(int64_t c, int32_t slot) const {
        const int64_t begin = chunks.begin(c), end = chunks.end(c);
        int32_t* out[W];
        int64_t count[W], delta[W];
        for (int t = 0; t < W; ++t) {
            out[t] = found + 2 * ((slot + t) * chunks.n + begin);
            count[t] = 0;
            delta[t] = deltas[slot + t];
        }
        int64_t place = lower_bound(fine, 0, n_fine, queries[begin] + delta[0]);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t query = queries[i];
            place += fine[place] < query + delta[0];  // mostly one step, and then the loop below does not run
            while (fine[place] < query + delta[0]) ++place;
            int64_t at = place;
            for (int t = 0; t < W; ++t) {
                const int64_t key = query + delta[t];
                if (t > 0 && Adjacent) at += fine[at] < key;  // the keys are whole numbers: no second one lies between
                if (t > 0 && !Adjacent) {
                    while (fine[at] < key) ++at;
                }
                out[t][2 * count[t]] = static_cast<int32_t>(at);  // overwritten where there is none
                out[t][2 * count[t] + 1] = static_cast<int32_t>(i);
                count[t] += fine[at] == key;
            }
        }
        for (int t = 0; t < W; ++t) counts[(slot + t) * chunks.count() + c] = count[t];
    }
};

// Where a tap's pairs were found.
struct FoundPairs {
    const int32_t* found;   // [slots, n, 2]
    const int64_t* counts;  // [slots, chunks]
    Chunks chunks;
    int64_t taps;
    bool mirrored;  // slots = taps / 2, and the middle tap of an odd number is the identity

    SPARSECONV_HD bool identity(int64_t tap) const { return mirrored && 2 * tap + 1 == taps; }
    SPARSECONV_HD bool swapped(int64_t tap) const { return mirrored && 2 * tap + 1 > taps; }
    SPARSECONV_HD int64_t slot(int64_t tap) const { return swapped(tap) ? taps - 1 - tap : tap; }
    SPARSECONV_HD const int32_t* pairs(int64_t tap, int64_t c) const {
        return found + 2 * (slot(tap) * chunks.n + chunks.begin(c));
    }
    SPARSECONV_HD int64_t count(int64_t tap, int64_t c) const {
        return identity(tap) ? chunks.end(c) - chunks.begin(c) : counts[slot(tap) * chunks.count() + c];
    }
};

// Rows stand in the order of their keys, so places are rows: the pairs (fine row, coarse row) sorted by (tap, coarse row).
struct PlaceFound {
    FoundPairs from;
    const int64_t* starts;  // [taps, chunks]
    int32_t* pairs;         // [pairs, 2]

    SPARSECONV_HD void operator()(int64_t task) const {
        const int64_t tap = task / from.chunks.count(), c = task % from.chunks.count();
        const int64_t count = from.count(tap, c);
        int32_t* out = pairs + 2 * starts[task];
        if (from.identity(tap)) {
            const int32_t first = static_cast<int32_t>(from.chunks.begin(c));
            for (int64_t j = 0; j < count; ++j) out[2 * j] = out[2 * j + 1] = first + static_cast<int32_t>(j);
            return;
        }
        const int32_t* in = from.pairs(tap, c);
        if (!from.swapped(tap)) {
            memcpy(out, in, static_cast<size_t>(count) * 2 * sizeof(int32_t));
            return;
        }
        for (int64_t j = 0; j < count; ++j) {
            const int32_t fine = in[2 * j], query = in[2 * j + 1];
            out[2 * j] = query;
            out[2 * j + 1] = fine;
        }
    }
};

// Rows stand in another order: into the table of neighbours [taps, n_coarse], -1 for none. One task for each tap.
struct TabulateFound {
    FoundPairs from;
    const int32_t* fine_rows;   // [n_fine], the row each key stands for; null = identity
    const int32_t* query_rows;  // [n]; null = identity
    int32_t* table;             // [taps, n]

    SPARSECONV_HD void operator()(int64_t tap) const {
        int32_t* row = table + tap * from.chunks.n;
        if (from.identity(tap)) {
            for (int64_t i = 0; i < from.chunks.n; ++i) row[i] = static_cast<int32_t>(i);
            return;
        }
        for (int64_t i = 0; i < from.chunks.n; ++i) row[i] = -1;
        const int swap = from.swapped(tap);
        for (int64_t c = 0; c < from.chunks.count(); ++c) {
            const int32_t* in = from.pairs(tap, c);
            for (int64_t j = 0; j < from.count(tap, c); ++j) {
                const int32_t fine = in[2 * j + swap], query = in[2 * j + 1 - swap];
                row[query_rows ? query_rows[query] : query] = fine_rows ? fine_rows[fine] : fine;
            }
        }
    }
};

}  // namespace sparseconv
