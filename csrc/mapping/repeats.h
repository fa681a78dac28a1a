// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Whether rows repeat, in one pass through a hash table of rows: no keys, so the bounds of the rows need not be known before.
#pragma once

#include "core/atomics.h"

namespace sparseconv {

// *first = the lowest row that equals an earlier one, INT32_MAX where there is none. A slot holds the lowest row of its kind met so
// far. Of the two lowest rows of a kind, whichever comes later meets the other one: min over all meetings of the higher of
// the two rows is the same in every order. The table is at most half full, so that every search ends.
struct FindRepeat {
    const int32_t* coords;  // [n, fields]
    int fields;
    int32_t* slots;  // [mask + 1], -1 before
    int64_t mask;
    int32_t* first;  // INT32_MAX before

    SPARSECONV_HD void operator()(int64_t i) const {
        const int32_t mine = static_cast<int32_t>(i);
        for (int64_t s = slot(i);; s = (s + 1) & mask) {
            const int32_t there = compare_and_swap(slots + s, -1, mine);
            if (there < 0) return;
            if (!same(there, i)) continue;
            const int32_t before = fetch_min(slots + s, mine);
            fetch_min(first, before < mine ? mine : before);
            return;
        }
    }

   private:
    SPARSECONV_HD int64_t slot(int64_t row) const {
        uint64_t h = 0;
        for (int f = 0; f < fields; ++f) {
            h = (h ^ static_cast<uint32_t>(coords[row * fields + f])) * 0x9E3779B97F4A7C15ull;
            h ^= h >> 29;
        }
        return static_cast<int64_t>(h & static_cast<uint64_t>(mask));
    }

    SPARSECONV_HD bool same(int64_t a, int64_t b) const {
        for (int f = 0; f < fields; ++f) {
            if (coords[a * fields + f] != coords[b * fields + f]) return false;
        }
        return true;
    }
};

}  // namespace sparseconv
