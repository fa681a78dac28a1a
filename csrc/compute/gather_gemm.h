// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Forward convolution and gradient of the input: blocking.h says how and why.
#pragma once

#include "depthwise.h"
#include "gemm_tile.h"
#include "pack_weight.h"

namespace sparseconv::SPARSECONV_ISA {

// Fills rows [0, n) of out with the bias, or with zeros.
template <class S>
void start_rows(const S* bias, int64_t c, int64_t n, Acc<S>* out) {
    for (int64_t r = 0; r < n; ++r, out += c) {
        for (int64_t j = 0; j < c; ++j) out[j] = bias ? widen(bias[j]) : Acc<S>(0);
    }
}

// Adds to the block's out rows the products of one tap's pairs [first, last).
template <class S>
void gemm_tap(const ConvShape& s, const Pairs& pairs, int64_t first, int64_t last, int64_t next, const S* features,
              const Acc<S>* weight, Acc<S>* out, int64_t first_row) {
    using A = Acc<S>;
    using T = Tiling<A>;
    const PackedWeight<A> layout(s);
    const int64_t panels = layout.panels();
    alignas(64) A lines[T::chunk * T::depth];
    int64_t chunks = ceil_div(last - first, T::chunk);
    for (int64_t p = first; p < last; --chunks) {
        const int64_t n = ceil_div(last - p, chunks);
        const int64_t ahead = p + n < last ? p + n : next;
        for (int64_t g = 0; g < s.groups; ++g) {
            for (int64_t k0 = 0; k0 < layout.k; k0 += T::depth) {
                const int64_t k = min_of(T::depth, layout.k - k0);
                copy_rows<T::chunk>(
                    features, s.c_in, g * layout.k + k0, k, n, [&](int64_t r) { return in_row(pairs, p + r); }, lines);
                (void)ahead;
                for (int64_t q = 0; q < panels; ++q) {
                    const int64_t columns = layout.panel_columns(q);
                    const A* panel = weight + g * layout.group_size() + layout.panel_offset(q) + k0 * layout.panel_stride(q);
                    const int64_t at = g * layout.columns + q * T::panel;
                    run_panel<A>(lines, n, panel, k,
                                 {out + at, pairs.data + 2 * p + 1 - pairs.in_column, first_row, s.c_out, columns});
                }
            }
        }
        p += n;
    }
}

template <class S>
void gather_gemm(const Cpu& cpu, const ConvShape& s, const Pairs& pairs, const S* features, const Weight& weight, const S* bias,
                 S* out, void* scratch) {
    using A = Acc<S>;
    if (s.n_out == 0 || s.c_out == 0) return;
    A* packed = static_cast<A*>(scratch);
    if (s.c_in > 0) pack_weight<S>(cpu, s, pairs.taps, weight, packed);
    const int64_t tap_size = s.c_in == 0 ? 0 : packed_bytes<S>(s, 1) / static_cast<int64_t>(sizeof(A));
    const BlockPairs block_pairs(cpu, pairs, s.n_out, forward_block_rows<A>(s));
    for_each_block(cpu, block_pairs.blocks, [&](int64_t b) {
        const int64_t first_row = b * block_pairs.rows;
        const int64_t rows = min_of(block_pairs.rows, s.n_out - first_row);
        const auto run = [&](A* sums) {
            start_rows<S>(bias, s.c_out, rows, sums);
            if (s.c_in == 0) return;
            for (int64_t t = 0; t < pairs.taps; ++t) {
                const int64_t first = block_pairs.begin(b, t), last = block_pairs.end(b, t);
                if (first == last) continue;
                const int64_t next = t + 1 < pairs.taps ? block_pairs.begin(b, t + 1) : first;
                if (is_depthwise(s)) {
                    depthwise_tap<S>(s.c_out, pairs, first, last, features, packed + t * tap_size, sums, first_row);
                } else {
                    gemm_tap<S>(s, pairs, first, last, next, features, packed + t * tap_size, sums, first_row);
                }
            }
        };
        if constexpr (sizeof(S) == sizeof(A)) {
            run(out + first_row * s.c_out);
        } else {
            const Scratch<A> sums(rows * s.c_out);
            run(sums.data);
            narrow_row<S>(sums.data, rows * s.c_out, out + first_row * s.c_out);
        }
    });
}

}  // namespace sparseconv::SPARSECONV_ISA
