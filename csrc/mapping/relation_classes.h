// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The classes and streams of a layer's relation, as mapping/strided.h uses them.
#pragma once

#include "core/coord_key.h"
#include "core/device.h"
#include "core/relation.h"

namespace sparseconv {

constexpr int kMaxAxes = kMaxFields - 1;
constexpr int kMaxStride = 64;     // residues along an axis that a table holds
constexpr int kMaxTogether = 512;  // combinations of residues that a table holds
constexpr int kMaxStreams = 64;    // heads that a merge holds
constexpr int kMaxClasses = 128;   // counters that a task holds
constexpr int kStridedBits = 62;   // of a key: kNoKey moved by a step then still lies above all keys

struct StridedLayout {
    KeyLayout keys;
    int axes;
    int64_t stride[kMaxAxes], padding[kMaxAxes];
    int log_stride[kMaxAxes];               // -1: not a power of two
    int8_t residue[kMaxAxes][kMaxStride];   // number of a residue that a tap reads, -1 for the others
    int residues[kMaxAxes];                 // how many there are
    int reach[kMaxStride];                  // of a residue of the last axis: taps that read it
    int uppers, most_reach;                 // classes of all axes but the last; the largest reach
    int streams;                            // taps of all axes but the last
    int stream_class[kMaxStreams];          // which class they read
    int64_t stream_step[kMaxStreams];       // what they add to its cells
    int64_t low[kMaxAxes], high[kMaxAxes];  // outputs are kept in [low, high]
    bool clipped;                           // whether that drops any

    SPARSECONV_HD int classes() const { return uppers * residues[axes - 1]; }
};

// Fine keys into coarse keys and classes: the numbers a loop needs, held apart from what it writes. Fields are counted from a
// multiple of the stride (`aligned` lifts them there, for which the layout needs room), so that with strides that are powers of two
// all axes are shifted at once.
template <int Axes>
struct KeySplit {
    static constexpr int32_t kUnread = -(1 << 24);
    int64_t aligned = 0, base = 0;  // added before and after
    int64_t batch;                  // mask of the batch field
    int groups = 0;                 // axes of one power of two
    int64_t group[Axes];            // masks
    int group_shift[Axes], shift[Axes];
    int64_t mask[Axes], stride[Axes];
    // What a residue adds to (class of the upper axes << 8 | class); kUnread where no tap reads it.
    int32_t share[Axes][kMaxStride];
    // The residues of all axes with one multiplication: their bits, moved next to each other at the top, index the sum of shares.
    bool gathered = false;
    uint64_t residue_bits = 0, magic = 0;
    int gather_shift = 63;
    int32_t together[kMaxTogether];

    SPARSECONV_HD explicit KeySplit(const StridedLayout& layout) : batch(~((int64_t{1} << layout.keys.shift[0]) - 1)) {
        int32_t upper = 0, klass = 1;
        for (int a = Axes - 1; a >= 0; --a) {
            const int64_t s = layout.stride[a], low = layout.keys.low[a + 1], u = low + layout.padding[a];
            const int64_t quotient = u / s - (u % s < 0), unit = int64_t{1} << layout.keys.shift[a + 1];
            aligned += (u - quotient * s) * unit;
            base += (quotient - low) * unit;
            shift[a] = layout.keys.shift[a + 1];
            mask[a] = (int64_t{1} << layout.keys.bits[a + 1]) - 1;
            stride[a] = s;
            for (int64_t r = 0; r < s; ++r) {
                const int32_t number = layout.residue[a][r];
                share[a][r] = number < 0 ? kUnread : number * (upper * 256 + klass);
            }
            klass *= layout.residues[a];
            upper = a + 1 == Axes ? 1 : upper * layout.residues[a];
            if (layout.log_stride[a] < 0) continue;
            int g = 0;
            while (g < groups && group_shift[g] != layout.log_stride[a]) ++g;
            if (g == groups) group[groups] = 0, group_shift[groups++] = layout.log_stride[a];
            group[g] |= (mask[a] & ~(s - 1)) * unit;
        }
        gather_residues(layout);
    }

    // Tries every combination: a table is used only where no two of them meet.
    SPARSECONV_HD void gather_residues(const StridedLayout& layout) {
        int bits = 0;
        for (int a = 0; a < Axes; ++a) {
            if (layout.log_stride[a] < 0) return;
            bits += layout.log_stride[a];
        }
        const int64_t combinations = int64_t{1} << bits;
        if (bits == 0 || combinations > kMaxTogether) return;
        gather_shift = 64 - bits;
        for (int a = Axes - 1, at = 0; a >= 0; at += layout.log_stride[a--]) {
            const int move = gather_shift + at - shift[a];
            if (move < 0) return;
            if (stride[a] > 1) magic += uint64_t{1} << move;
            residue_bits |= static_cast<uint64_t>(stride[a] - 1) << shift[a];
        }
        bool taken[kMaxTogether] = {};
        for (int64_t c = 0; c < combinations; ++c) {
            uint64_t key = 0;
            int32_t sum = 0;
            int64_t rest = c;
            for (int a = 0; a < Axes; ++a) {
                const int64_t r = rest & (stride[a] - 1);
                rest >>= layout.log_stride[a];
                key |= static_cast<uint64_t>(r) << shift[a];
                sum += share[a][r];
            }
            const uint64_t place = key * magic >> gather_shift;
            if (taken[place]) return;
            taken[place] = true;
            together[place] = sum;
        }
        gathered = true;
    }

    // The coarse key; *sum < 0 where no tap reads the site, else the classes as in `share`.
    template <bool Binary>
    SPARSECONV_HD int64_t split(int64_t fine, int32_t* sum) const {
        const int64_t u = fine + aligned;
        int64_t coarse = (u & batch) + base;
        *sum = 0;
        if (Binary) {
            for (int g = 0; g < groups; ++g) coarse += (u & group[g]) >> group_shift[g];
            if (gathered) {
                *sum = together[(static_cast<uint64_t>(u) & residue_bits) * magic >> gather_shift];
            } else {
                for (int a = 0; a < Axes; ++a) *sum += share[a][(u >> shift[a]) & (stride[a] - 1)];
            }
        } else {
            for (int a = 0; a < Axes; ++a) {
                const int64_t value = (u >> shift[a]) & mask[a], quotient = value / stride[a];
                coarse += quotient << shift[a];
                *sum += share[a][value - quotient * stride[a]];
            }
        }
        return coarse;
    }
};

// A tap as the pairs need it: its class, its stream, and how far below the quotient its cell lies on the last axis.
struct StridedTap {
    int klass, stream, below;
};

// relations [axes]; ranges [axes, 2]. False where the tables of StridedLayout do not hold this relation, or where the taps along
// the last axis do not lie side by side, so that their cells would not be one list.
inline bool make_strided_layout(const KeyLayout& keys, const AxisRelation* relations, const int64_t* ranges, bool clipped,
                                StridedLayout* out) {
    StridedLayout& s = *out;
    s = StridedLayout{};
    s.keys = keys;
    s.axes = keys.fields - 1;
    s.clipped = clipped;
    s.uppers = s.streams = 1;
    if (keys.total_bits() > kStridedBits) return false;
    for (int a = 0; a < s.axes; ++a) {
        const AxisRelation& axis = relations[a];
        if (axis.kernel < 1 || axis.stride < 1 || axis.stride > kMaxStride) return false;
        s.stride[a] = axis.stride;
        s.padding[a] = axis.padding;
        s.low[a] = ranges[2 * a];
        s.high[a] = ranges[2 * a + 1];
        s.log_stride[a] = -1;
        for (int bit = 0; bit < 7; ++bit) {
            if (axis.stride == int64_t{1} << bit) s.log_stride[a] = bit;
        }
        for (int r = 0; r < kMaxStride; ++r) s.residue[a][r] = -1;
        for (int64_t t = 0; t < axis.kernel; ++t) {
            int8_t& number = s.residue[a][t * axis.dilation % axis.stride];
            if (number < 0) number = static_cast<int8_t>(s.residues[a]++);
            if (a == s.axes - 1) s.most_reach = ++s.reach[number] > s.most_reach ? s.reach[number] : s.most_reach;
        }
        if (a == s.axes - 1) {
            if (axis.kernel > 1 && axis.dilation != 1) return false;
            break;
        }
        if (s.streams * axis.kernel > kMaxStreams) return false;
        s.uppers *= s.residues[a];
        s.streams *= static_cast<int>(axis.kernel);
    }
    if (s.classes() > kMaxClasses) return false;
    for (int stream = 0; stream < s.streams; ++stream) {
        int rest = stream, scale = 1, upper = 0;
        int64_t step = 0;
        for (int a = s.axes - 2; a >= 0; --a) {  // row-major: the last of these axes is the fastest
            const AxisRelation& axis = relations[a];
            const int64_t reach = rest % axis.kernel * axis.dilation;
            rest /= static_cast<int>(axis.kernel);
            upper += s.residue[a][reach % axis.stride] * scale;
            scale *= s.residues[a];
            step -= reach / axis.stride * (int64_t{1} << keys.shift[a + 1]);
        }
        s.stream_class[stream] = upper;
        s.stream_step[stream] = step;
    }
    return true;
}

// relations: the same numbers, (kernel, stride, padding, dilation) per axis.
inline StridedTap strided_tap(const StridedLayout& s, const int32_t* tap, const int64_t* relations) {
    StridedTap result{0, 0, 0};
    for (int a = 0; a < s.axes; ++a) {
        const int64_t kernel = relations[4 * a], reach = tap[a] * relations[4 * a + 3];
        result.klass = result.klass * s.residues[a] + s.residue[a][reach % s.stride[a]];
        if (a < s.axes - 1) result.stream = result.stream * static_cast<int>(kernel) + tap[a];
        if (a == s.axes - 1) result.below = static_cast<int>(reach / s.stride[a]);
    }
    return result;
}

}  // namespace sparseconv
