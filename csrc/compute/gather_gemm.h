// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Forward convolution and gradient of the input: blocking.h says how and why.
#pragma once

#include "depthwise.h"
#include "gemm_tile.h"
#include "matrix_tile.h"
#include "pack_weight.h"

namespace sparseconv::SPARSECONV_ISA {

// Fills n rows of out, that lie `stride` apart, with `start`.
template <class A>
void start_rows(const A* start, int64_t c, int64_t n, A* out, int64_t stride) {
    for (int64_t r = 0; r < n; ++r, out += stride) __builtin_memcpy(out, start, static_cast<size_t>(c) * sizeof(A));
}

// The order in which a row's taps are summed: ascending, but the first tap that meets every out row goes first, since its sums can
// start from the bias without a row of zeros being written and read.
struct TapOrder {
    int64_t full = -1;  // that tap
    const Scratch<int64_t> taps;

    TapOrder(const Pairs& pairs, int64_t n_out) : taps(pairs.taps) {
        for (int64_t t = 0; t < pairs.taps && full < 0; ++t) {
            if (pairs.tap_offsets[t + 1] - pairs.tap_offsets[t] == n_out) full = t;
        }
        int64_t n = 0;
        if (full >= 0) taps.data[n++] = full;
        for (int64_t t = 0; t < pairs.taps; ++t) {
            if (t != full) taps.data[n++] = t;
        }
    }
};

// Panels of output channels that a task takes, of every group, and their columns.
struct ColumnPart {
    int64_t first_panel, last_panel, first_column, columns;
};

// X: what rows are read in.
template <class X>
struct GatherGemm {
    using A = Acc<X>;
    using S = typename Operand<X>::Storage;
    const ConvShape& s;
    const Pairs& pairs;
    const S* features;
    const PackedWeight<A> layout;
    const int64_t tap_size;  // of the packed weight
    const A* packed;
    const A* start;  // [c_out], the bias or zeros
    const TapOrder order;

    // Sums rows [first_row, last_row) of the output, the columns of `part`, into `out`, whose first row is first_row. cursor[t] is the
    // first pair of tap t whose out row is not below first_row; it is moved on to last_row. stored: the whole output, into which the
    // caller puts `out`, unless that is a part of it.
    void block(int64_t first_row, int64_t last_row, const ColumnPart& part, int64_t* cursor, A* out, S* stored) const {
        const bool started = order.full >= 0 && s.c_in > 0 && !is_depthwise(s);
        if (!started) {
            start_rows(start + part.first_column, part.columns, last_row - first_row, out + part.first_column, s.c_out);
        }
        if (s.c_in == 0) return;
        A* const row_zero = shifted(out, -first_row * s.c_out);
        for (int64_t i = 0; i < pairs.taps; ++i) {
            const int64_t t = order.taps.data[i],
                          n = count_below(pairs.data + cursor[t], pairs.tap_offsets[t + 1] - cursor[t], last_row);
            const Pair* list = pairs.data + cursor[t];
            cursor[t] += n;
            if (n == 0) continue;
            const A* weight = packed + t * tap_size;
            if (is_depthwise(s)) {
                depthwise_tap<S>(s.c_out, list, n, features, weight, row_zero);
            } else {
                rows(part, list, n, weight, row_zero, stored, started && i == 0);
            }
        }
    }

    // Part i of `parts`; there are several only where there is one group.
    ColumnPart column_part(int64_t i, int64_t parts) const {
        if (parts == 1) return {0, layout.panels, 0, s.c_out};
        const int64_t first = layout.panels * i / parts, last = layout.panels * (i + 1) / parts;
        const int64_t column = layout.first_column(first);
        return {first, last, column, min_of(layout.first_column(last), s.c_out) - column};
    }

   private:
    // Adds to the out rows the products of n pairs of one tap; `first` puts the start in place of what is there.
    void rows(const ColumnPart& part, const Pair* list, int64_t n, const A* weight, A* out, S* stored, bool first) const {
        for (int64_t g = 0; g < s.groups; ++g) {
            for (int64_t p = part.first_panel; p < part.last_panel; ++p) {
                const int64_t registers = layout.registers(p), depth = panel_depth<X>(registers);
                const int64_t column = g * layout.columns + layout.first_column(p);
                const A* panel = weight + g * layout.group_size() + layout.panel_offset(p);
                const X* x = reinterpret_cast<const X*>(features) + g * layout.k;
                for (int64_t k0 = 0; k0 < layout.k; k0 += depth) {
                    const bool fresh = first && k0 == 0;
                    const Panel<X> tiles{x + k0,
                                         s.c_in / Operand<X>::elements,
                                         panel + k0 * registers * layout.width,
                                         min_of(depth, layout.k - k0),
                                         (fresh ? start : out) + column,
                                         fresh ? 0 : s.c_out,
                                         out + column,
                                         s.c_out,
                                         layout.panel_columns(p),
                                         stored + column};
                    run_pairs(registers, tiles, list, n);
                }
            }
        }
    }
};

// With a packed weight of any origin.
template <class X, class S>
void gather_gemm_packed(const Cpu& cpu, const ConvShape& s, const Pairs& pairs, const S* features, const Acc<X>* packed,
                        const S* bias, S* out) {
    using A = Acc<X>;
    const Scratch<A> start(s.c_out);
    for (int64_t j = 0; j < s.c_out; ++j) start.data[j] = bias ? widen(bias[j]) : A(0);
    const int64_t tap_size = s.c_in == 0 ? 0 : packed_bytes<X>(s, 1) / static_cast<int64_t>(sizeof(A));
    const PackedWeight<A> layout = packed_layout<X>(s);
    const GatherGemm<X> gemm{s, pairs, features, layout, tap_size, packed, start.data, TapOrder(pairs, s.n_out)};
    const ForwardPlan plan(s, gemm.layout.panels, pairs.taps * tap_size * static_cast<int64_t>(sizeof(A)));
    const BlockPairs sections(cpu, pairs, s.n_out, plan.section_rows);
    for_each_block(cpu, plan.parts * sections.blocks, [&](int64_t task) {
        const int64_t section = task % sections.blocks;
        const ColumnPart part = gemm.column_part(task / sections.blocks, plan.parts);
        const MatrixUnit<X> unit;
        const Scratch<int64_t> cursor(pairs.taps);
        for (int64_t t = 0; t < pairs.taps; ++t) cursor.data[t] = sections.begin(section, t);
        const int64_t end = min_of((section + 1) * plan.section_rows, s.n_out);
        for (int64_t row = section * plan.section_rows; row < end; row += plan.block_rows) {
            const int64_t last_row = min_of(row + plan.block_rows, end);
            if constexpr (sizeof(S) == sizeof(A)) {
                gemm.block(row, last_row, part, cursor.data, out + row * s.c_out, out);
            } else {
                const Scratch<A> sums((last_row - row) * s.c_out);
                gemm.block(row, last_row, part, cursor.data, sums.data, out);
                for (int64_t r = row; r < last_row; ++r) {
                    narrow_row<S>(sums.data + (r - row) * s.c_out + part.first_column, part.columns,
                                  out + r * s.c_out + part.first_column);
                }
            }
        }
    });
}

// X: what rows are read in, S their storage.
template <class X, class S>
void gather_gemm(const Cpu& cpu, const ConvShape& s, const Pairs& pairs, const S* features, const Weight& weight, const S* bias,
                 S* out, void* scratch) {
    if (s.n_out == 0 || s.c_out == 0) return;
    Acc<X>* packed = static_cast<Acc<X>*>(scratch);
    if (s.c_in > 0) pack_weight<X>(cpu, s, pairs.taps, weight, packed);
    gather_gemm_packed<X>(cpu, s, pairs, features, packed, bias, out);
}

}  // namespace sparseconv::SPARSECONV_ISA
