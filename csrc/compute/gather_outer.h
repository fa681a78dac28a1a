// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Gradient of the weight: per tap, the sum over pairs of an input row times an output row. blocking.h says how and why.
#pragma once

#include "depthwise.h"
#include "matrix_outer.h"
#include "outer_tile.h"
#include "pack_weight.h"

namespace sparseconv::SPARSECONV_ISA {

// How the work is cut: out rows into blocks, blocks into sections, taps into groups. A task is (section, tap group) and owns the
// sums of its section, which are then added in the order of the sections. Depends on shapes only.
template <class A>
struct OuterPlan {
    int64_t block_rows, section_rows, sections, tap_groups, weight_size;

    OuterPlan(const ConvShape& s, int64_t taps) {
        weight_size = s.c_in / s.groups * s.c_out;
        block_rows = outer_block_rows(s);
        const int64_t blocks = ceil_div(s.n_out, block_rows);
        const int64_t bytes = max_of(1, taps * weight_size * static_cast<int64_t>(sizeof(A)));
        const int64_t most = max_of(1, min_of(outer_tasks, outer_partial_bytes / bytes));
        section_rows = max_of(1, ceil_div(blocks, most)) * block_rows;
        sections = max_of(1, ceil_div(s.n_out, section_rows));
        tap_groups = max_of(1, min_of(taps, outer_tasks / sections));
    }
};

// sums[ci, co] += over n pairs of x and g rows, all groups.
template <class A>
void outer_rows(const PackedWeight<A>& layout, const ConvShape& s, const A* x, const A* g, const Pair* pairs, int64_t n,
                A* sums) {
    for (int64_t group = 0; group < s.groups; ++group) {
        for (int64_t p = 0; p < layout.panels; ++p) {
            const int64_t column = group * layout.columns + layout.first_column(p);
            outer_panel<A>(layout.registers(p),
                           {x + group * layout.k, s.c_in, g + column, s.c_out, sums + column, s.c_out, layout.panel_columns(p)},
                           layout.k, pairs, n);
        }
    }
}

// sums[ci, co] += over n pairs of one tap; rows of a narrow type are widened first, or woven into tiles. X: what rows are read in.
template <class X, class S>
void outer_tap(const PackedWeight<Acc<S>>& layout, const ConvShape& s, const Pair* pairs, int64_t n, const S* features,
               const S* grad_out, Acc<S>* wide, Acc<S>* sums) {
    for (int64_t p = 0; p < n; p += outer_chunk) {
        const int64_t some = min_of(outer_chunk, n - p);
#if defined(SPARSECONV_HAVE_AMX)
        if constexpr (std::is_same_v<X, Bf16Tile>) {
            matrix::outer_chunk_of_pairs(s, pairs + p, some, features, grad_out, reinterpret_cast<uint32_t*>(wide), sums);
            continue;
        }
#endif
        if constexpr (sizeof(S) == sizeof(Acc<S>)) {
            outer_rows<S>(layout, s, features, grad_out, pairs + p, some, sums);
        } else {
            Acc<S>* wide_g = wide + outer_chunk * s.c_in;
            Pair numbered[outer_chunk];
            for (int64_t r = 0; r < some; ++r) {
                widen_row<S>(features + pairs[p + r].in * s.c_in, s.c_in, wide + r * s.c_in);
                widen_row<S>(grad_out + pairs[p + r].out * s.c_out, s.c_out, wide_g + r * s.c_out);
                numbered[r] = {static_cast<int32_t>(r), static_cast<int32_t>(r)};
            }
            outer_rows<Acc<S>>(layout, s, wide, wide_g, numbered, some, sums);
        }
    }
}

template <class S>
int64_t outer_bytes(const ConvShape& s, const Pairs& pairs) {
    using A = Acc<S>;
    const OuterPlan<A> plan(s, pairs.taps);
    return plan.sections * pairs.taps * plan.weight_size * static_cast<int64_t>(sizeof(A));
}

template <class X, class S>
void gather_outer(const Cpu& cpu, const ConvShape& s, const Pairs& pairs, const S* features, const S* grad_out, S* grad_weight,
                  void* scratch) {
    using A = Acc<S>;
    const OuterPlan<A> plan(s, pairs.taps);
    const int64_t size = pairs.taps * plan.weight_size;
    if (size == 0) return;
    const BlockPairs sections(cpu, pairs, s.n_out, plan.section_rows);
    A* partial = static_cast<A*>(scratch);  // [section][tap][c_in / groups][c_out]
    const PackedWeight<A> layout(s);
    const int64_t wide_size = sizeof(S) == sizeof(A) || is_depthwise(s) ? 0 : outer_chunk * (s.c_in + s.c_out);

    for_each_block(cpu, plan.sections * plan.tap_groups, [&](int64_t task) {
        const int64_t section = task / plan.tap_groups, group = task % plan.tap_groups;
        const int64_t first_tap = pairs.taps * group / plan.tap_groups, last_tap = pairs.taps * (group + 1) / plan.tap_groups;
        A* sums = partial + section * size;
        for (int64_t i = first_tap * plan.weight_size; i < last_tap * plan.weight_size; ++i) sums[i] = 0;
        const MatrixUnit<X> unit;
        const Scratch<A> wide(wide_size);
        if constexpr (std::is_same_v<X, Bf16Tile>) __builtin_memset(wide.data, 0, static_cast<size_t>(wide_size) * sizeof(A));
        const Scratch<int64_t> cursor(pairs.taps);  // the first pair of each tap that is not summed yet
        for (int64_t t = first_tap; t < last_tap; ++t) cursor.data[t] = sections.begin(section, t);
        const int64_t end = min_of((section + 1) * plan.section_rows, s.n_out);
        for (int64_t row = section * plan.section_rows; row < end; row += plan.block_rows) {
            const int64_t last_row = min_of(row + plan.block_rows, end);
            for (int64_t t = first_tap; t < last_tap; ++t) {
                const Pair* list = pairs.data + cursor.data[t];
                const int64_t n = count_below(list, pairs.tap_offsets[t + 1] - cursor.data[t], last_row);
                cursor.data[t] += n;
                if (is_depthwise(s)) {
                    depthwise_outer<S>(s.c_out, list, n, features, grad_out, sums + t * plan.weight_size);
                } else {
                    outer_tap<X>(layout, s, list, n, features, grad_out, wide.data, sums + t * plan.weight_size);
                }
            }
        }
    });
    constexpr int64_t piece = 4096;
    for_each_block(alone_below(cpu, plan.sections * size), ceil_div(size, piece), [&](int64_t task) {
        const int64_t begin = task * piece, end = min_of(size, begin + piece);
        for (int64_t section = 1; section < plan.sections; ++section) {
            for (int64_t i = begin; i < end; ++i) partial[i] += partial[section * size + i];
        }
        narrow_row<S>(partial + begin, end - begin, grad_weight + begin);
    });
}

}  // namespace sparseconv::SPARSECONV_ISA
