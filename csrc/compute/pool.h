// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Maximum over the present sites, and its gradient.
#pragma once

#include "rows.h"

namespace sparseconv::SPARSECONV_ISA {

// Takes x[j] where it beats the best so far. `arg` < 0 means there is none yet.
template <class S, class I>
SPARSECONV_INLINE void take_larger(const S* __restrict x, I candidate, int64_t c, S* __restrict best, I* __restrict arg) {
    for (int64_t j = 0; j < c; ++j) {
        const Acc<S> value = widen(x[j]);
        const bool take = (arg[j] < 0) | (value > widen(best[j])) | (value != value);
        best[j] = take ? x[j] : best[j];
        arg[j] = take ? candidate : arg[j];
    }
}

SPARSECONV_INLINE int64_t pool_block_rows(int64_t c) { return max_of(32, min_of(1024, 16384 / max_of(c, 1))); }

template <class S>
void max_pool(const Cpu& cpu, const ConvShape& s, const Pairs& pairs, const S* features, S* out, int32_t* argmax) {
    const int64_t c = s.c_out;
    if (s.n_out == 0 || c == 0) return;
    const BlockPairs block_pairs(cpu, pairs, s.n_out, pool_block_rows(c));
    for_each_block(cpu, block_pairs.blocks, [&](int64_t b) {
        const int64_t begin = b * block_pairs.rows * c, end = min_of((b + 1) * block_pairs.rows, s.n_out) * c;
        for (int64_t i = begin; i < end; ++i) argmax[i] = -1;
        for (int64_t i = begin; i < end; ++i) out[i] = S{};
        for (int64_t t = 0; t < pairs.taps; ++t) {
            for (int64_t p = block_pairs.begin(b, t); p < block_pairs.end(b, t); ++p) {
                const int64_t at = out_row(pairs, p) * c;
                take_larger<S, int32_t>(features + in_row(pairs, p) * c, static_cast<int32_t>(t), c, out + at, argmax + at);
            }
        }
    });
}

template <class S>
void max_pool_grad(const Cpu& cpu, const ConvShape& s, const Pairs& reversed, const S* grad_out, const int32_t* argmax,
                   S* grad_in) {
    using A = Acc<S>;
    const int64_t c = s.c_out;
    if (s.n_out == 0 || c == 0) return;
    const BlockPairs block_pairs(cpu, reversed, s.n_out, pool_block_rows(c));
    for_each_block(cpu, block_pairs.blocks, [&](int64_t b) {
        const int64_t first_row = b * block_pairs.rows, rows = min_of(block_pairs.rows, s.n_out - first_row);
        const auto run = [&](A* sums) {
            for (int64_t i = 0; i < rows * c; ++i) sums[i] = 0;
            for (int64_t t = 0; t < reversed.taps; ++t) {
                for (int64_t p = block_pairs.begin(b, t); p < block_pairs.end(b, t); ++p) {
                    const S* __restrict from = grad_out + in_row(reversed, p) * c;
                    const int32_t* __restrict winner = argmax + in_row(reversed, p) * c;
                    A* __restrict to = sums + (out_row(reversed, p) - first_row) * c;
                    for (int64_t j = 0; j < c; ++j) to[j] += winner[j] == t ? widen(from[j]) : A(0);
                }
            }
        };
        if constexpr (sizeof(S) == sizeof(A)) {
            run(grad_in + first_row * c);
        } else {
            const Scratch<A> sums(rows * c);
            run(sums.data);
            narrow_row<S>(sums.data, rows * c, grad_in + first_row * c);
        }
    });
}

}  // namespace sparseconv::SPARSECONV_ISA
