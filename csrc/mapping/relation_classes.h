// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The classes and streams of a layer's relation, as mapping/strided.h uses them.
#pragma once

#include "core/relation.h"
#include "mapping/strided.h"

namespace sparseconv {

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
