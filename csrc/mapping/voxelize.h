// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Points to cells, and runs of equal sorted keys to voxels.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/coord_key.h"
#include "core/device.h"

namespace sparseconv {

// cell = floor((double(p) - origin) / double(size)); a point that is not finite or whose cell does not fit int32 is reported.
template <class T>
struct CellsOfPoints {
    const T* points;       // [n, axes]
    const int32_t* batch;  // [n] or null = 0
    int axes;
    double origin[4];
    double size[4];
    Chunks chunks;
    int32_t* coords;     // [n, 1 + axes]
    int64_t* first_bad;  // [chunks], -1 = none

    SPARSECONV_HD void operator()(int64_t c) const {
        first_bad[c] = -1;
        for (int64_t i = chunks.begin(c); i < chunks.end(c); ++i) {
            int32_t* row = coords + i * (axes + 1);
            row[0] = batch ? batch[i] : 0;
            for (int a = 0; a < axes; ++a) {
                const double cell = floor((static_cast<double>(points[i * axes + a]) - origin[a]) / size[a]);
                const bool fits = cell >= -2147483648.0 && cell <= 2147483647.0;  // false for NaN too
                if (!fits && first_bad[c] < 0) first_bad[c] = i;
                row[a + 1] = fits ? static_cast<int32_t>(cell) : 0;
            }
        }
    }
};

// Counts the runs of equal keys that begin in each chunk, or numbers them.
struct SplitRuns {
    const int64_t* keys;  // [n], sorted
    const int32_t* rows;  // [n], the point each key belongs to
    Chunks chunks;
    int64_t* counts;        // [chunks], while counting
    const int64_t* starts;  // [chunks], null while counting
    int64_t* offsets;       // [runs + 1]; the caller writes the last
    int64_t* run_of_row;    // [n]
    int64_t* run_keys;      // [runs]

    SPARSECONV_HD void operator()(int64_t c) const {
        int64_t run = starts ? starts[c] - 1 : -1;
        const int64_t before = run;
        for (int64_t i = chunks.begin(c); i < chunks.end(c); ++i) {
            const bool begins = i == 0 || keys[i] != keys[i - 1];
            run += begins;
            if (!starts) continue;
            if (begins) offsets[run] = i, run_keys[run] = keys[i];
            run_of_row[rows[i]] = run;
        }
        if (!starts) counts[c] = run - before;
    }
};

}  // namespace sparseconv
