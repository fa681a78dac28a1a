// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Output sites: every cell that a box kernel's footprint touches. A box is a product of axes, so the sites are found one axis
// after another. Along one axis each tap maps the sorted keys to another sorted list (the map is increasing), and the union of
// the lists is a merge: no sorting, no hashing, and never more than kernel * n candidates.
#pragma once

#include "core/coord_key.h"
#include "core/relation.h"
#include "mapping/search.h"

namespace sparseconv {

constexpr int64_t kMaxKernel = 64;  // taps along one axis that the merge holds pointers for
constexpr int64_t kMergeChunk = 4096;

// One axis of one layer: how a key moves through a tap.
struct AxisMove {
    KeyLayout layout;
    int field;
    AxisRelation relation;
    bool to_fine;       // a transposed layer: coarse -> fine
    int64_t low, high;  // outputs are kept in [low, high]

    // The value that `value` reaches through `tap`, if any.
    SPARSECONV_HD bool target(int64_t value, int64_t tap, int64_t* out) const {
        if (to_fine) {
            *out = relation.fine(value, tap);
        } else if (!relation.coarse(value, tap, out)) {
            return false;
        }
        return low <= *out && *out <= high;
    }

    // The smallest key that can reach `key` or more through `tap`.
    SPARSECONV_HD int64_t preimage(int64_t key, int64_t tap) const {
        const int shift = layout.shift[field], bits = layout.bits[field];
        const int64_t value = layout.unpack(field, key);
        int64_t source;
        bool exact = true;
        if (to_fine) {
            exact = relation.coarse(value, tap, &source);
            if (!exact) {  // round up: the next coarse cell reaches beyond `value`
                const int64_t scaled = value + relation.padding - tap * relation.dilation;
                source = scaled / relation.stride + (scaled > 0 ? 1 : 0);
            }
        } else {
            source = relation.fine(value, tap);
        }
        const int64_t prefix = (key >> (shift + bits)) << (shift + bits);
        const int64_t suffix = exact ? key & ((int64_t{1} << shift) - 1) : 0;
        const int64_t place = source - layout.low[field];
        if (place < 0) return prefix;
        if ((place >> bits) != 0) return prefix + (int64_t{1} << (shift + bits));
        return prefix + (place << shift) + suffix;
    }
};

// Merges the taps' lists over one range of output keys; counts them, or writes them too.
struct MergeAxis {
    AxisMove move;
    const int64_t* keys;  // [n], strictly increasing
    int64_t n;
    Chunks chunks;          // ranges of output keys begin at keys[chunk begin]
    int64_t* counts;        // [chunks]
    const int64_t* starts;  // [chunks], null while counting
    int64_t* out;

    SPARSECONV_HD int64_t image(int64_t key, int64_t tap) const {  // kNoKey where the tap leads nowhere
        const int64_t value = move.layout.unpack(move.field, key);
        int64_t target;
        if (!move.target(value, tap, &target)) return kNoKey;
        return key + ((target - value) * (int64_t{1} << move.layout.shift[move.field]));
    }

    SPARSECONV_HD void operator()(int64_t c) const {
        const bool first = c == 0, last = c == chunks.count() - 1;
        int64_t next[kMaxKernel], end[kMaxKernel], head[kMaxKernel];
        const int64_t taps = move.relation.kernel;
        for (int64_t t = 0; t < taps; ++t) {
            next[t] = first ? 0 : lower_bound(keys, 0, n, move.preimage(keys[chunks.begin(c)], t));
            end[t] = last ? n : lower_bound(keys, 0, n, move.preimage(keys[chunks.end(c)], t));
            head[t] = kNoKey;
        }
        for (int64_t t = 0; t < taps; ++t) advance(t, next, end, head);
        int64_t written = 0;
        int64_t* mine = starts ? out + starts[c] : nullptr;
        while (true) {
            int64_t smallest = kNoKey;
            for (int64_t t = 0; t < taps; ++t) smallest = head[t] < smallest ? head[t] : smallest;
            if (smallest == kNoKey) break;
            if (mine) mine[written] = smallest;
            ++written;
            for (int64_t t = 0; t < taps; ++t) {
                if (head[t] == smallest) advance(t, next, end, head);
            }
        }
        if (!mine) counts[c] = written;
    }

   private:
    SPARSECONV_HD void advance(int64_t t, int64_t* next, const int64_t* end, int64_t* head) const {
        head[t] = kNoKey;
        while (next[t] < end[t] && head[t] == kNoKey) head[t] = image(keys[next[t]++], t);
    }
};

}  // namespace sparseconv
