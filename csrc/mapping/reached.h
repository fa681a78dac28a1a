// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Output sites and pairs of a layer from its input's side, one index for each (input, output) that may meet: what a device with many
// threads takes in place of the merge of sites.h. Every index writes places of its own.
#pragma once

#include "core/coord_key.h"
#include "mapping/search.h"
#include "mapping/sites.h"

namespace sparseconv {

// Where the keys of a layer's inputs lead, axis by axis.
struct Reach {
    KeyLayout layout;
    AxisMove moves[kMaxFields - 1];

    int axes() const { return layout.fields - 1; }

    // Moves *key, whose value on that axis is still the input's, through a tap; false where it leads nowhere.
    SPARSECONV_HD bool through(int axis, int64_t tap, int64_t* key) const {
        const int64_t value = layout.unpack(axis + 1, *key);
        int64_t target;
        if (!moves[axis].target(value, tap, &target)) return false;
        *key += (target - value) * (int64_t{1} << layout.shift[axis + 1]);
        return true;
    }
};

// Outputs that one input reaches along an axis, at most: to the fine side one for each tap, to the coarse one for each tap of the
// commonest residue.
inline int64_t most_reached(const AxisRelation& axis, bool to_fine) {
    if (to_fine) return axis.kernel;
    int64_t most = 0;
    for (int64_t t = 0; t < axis.kernel; ++t) {
        int64_t alike = 0;
        for (int64_t u = 0; u < axis.kernel; ++u) alike += (u - t) * axis.dilation % axis.stride == 0;
        most = alike > most ? alike : most;
    }
    return most;
}

// candidates[row, j] = the key of the j-th output that the row reaches, kNoKey where it reaches fewer.
struct ReachKeys {
    Reach reach;
    int64_t most[kMaxFields - 1];  // candidates of a row along each axis
    int64_t width;                 // their product
    const int64_t* keys;           // [n]
    int64_t* candidates;           // [n, width]

    SPARSECONV_HD void operator()(int64_t at) const {
        int64_t key = keys[at / width], rest = at % width;
        bool reached = true;
        for (int a = 0; a + 1 < reach.layout.fields && reached; ++a) {
            int64_t left = rest % most[a];
            rest /= most[a];
            const int64_t from = key;
            reached = false;
            for (int64_t tap = 0; tap < reach.moves[a].relation.kernel && !reached; ++tap) {
                key = from;
                reached = reach.through(a, tap, &key) && left-- == 0;
            }
        }
        candidates[at] = reached ? key : kNoKey;
    }
};

// Of sorted keys, kNoKey last: which is the first of its kind.
struct MarkDistinct {
    const int64_t* keys;
    uint8_t* first;

    SPARSECONV_HD void operator()(int64_t i) const { first[i] = keys[i] != kNoKey && (i == 0 || keys[i] != keys[i - 1]); }
};

struct PlaceDistinct {
    const int64_t* keys;
    const uint8_t* first;
    const int64_t* ends;  // how many are marked up to and with i
    int64_t* distinct;

    SPARSECONV_HD void operator()(int64_t i) const {
        if (first[i]) distinct[ends[i] - 1] = keys[i];
    }
};

// The output that a row reaches through a tap of several axes. Indices: taps times n.
struct ReachTaps {
    Reach reach;
    const int64_t* keys;  // [n]
    const int32_t* taps;  // [taps, axes]
    int64_t n;

    SPARSECONV_HD int64_t output(int64_t at) const {  // kNoKey for none
        int64_t key = keys[at % n];
        const int axes = reach.layout.fields - 1;
        for (int a = 0; a < axes; ++a) {
            if (!reach.through(a, taps[at / n * axes + a], &key)) return kNoKey;
        }
        return key;
    }
};

struct MarkReached {
    ReachTaps through;
    uint8_t* met;  // [taps, n]

    SPARSECONV_HD void operator()(int64_t at) const { met[at] = through.output(at) != kNoKey; }
};

// table[tap, output] = the row that reaches it; -1 before.
struct TabulateReached {
    ReachTaps through;
    const int64_t* out_keys;  // [n_out], increasing, all that are reached
    int64_t n_out;
    int32_t* table;  // [taps, n_out]

    SPARSECONV_HD void operator()(int64_t at) const {
        const int64_t key = through.output(at);
        if (key == kNoKey) return;
        table[at / through.n * n_out + lower_bound(out_keys, 0, n_out, key)] = static_cast<int32_t>(at % through.n);
    }
};

}  // namespace sparseconv
