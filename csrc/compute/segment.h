// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Sums and maxima of rows over lists: segments, interpolation weights, columns.
#pragma once

#include "pool.h"

namespace sparseconv::SPARSECONV_ISA {

constexpr int64_t kSegmentRows = 256;  // rows of one block

template <class S>
void gather_sum(const Cpu& cpu, const S* x, int64_t c, const int64_t* offsets, const int64_t* cols, const Acc<S>* weights,
                int64_t rows, S* out) {
    using A = Acc<S>;
    using V = Simd<A>;
    for_each_block(cpu, ceil_div(rows, kSegmentRows), [&](int64_t b) {
        alignas(64) A result[V::width];
        for (int64_t r = b * kSegmentRows; r < min_of(rows, (b + 1) * kSegmentRows); ++r) {
            for (int64_t j = 0; j < c; j += V::width) {
                const int64_t lanes = min_of(V::width, c - j);
                typename V::Reg sum = V::zero();
                for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
                    const S* from = x + (cols ? cols[i] : i) * c + j;
                    const auto value = lanes == V::width ? load_wide<S>(from) : load_wide_part<S>(from, lanes);
                    sum = weights ? V::fma(V::broadcast(weights + i), value, sum) : V::add(value, sum);
                }
                V::store(result, sum);
                narrow_row<S>(result, lanes, out + r * c + j);
            }
        }
    });
}

template <class S>
void gather_max(const Cpu& cpu, const S* x, int64_t c, const int64_t* offsets, const int64_t* cols, int64_t rows, S* out,
                int64_t* arg) {
    for_each_block(cpu, ceil_div(rows, kSegmentRows), [&](int64_t b) {
        for (int64_t r = b * kSegmentRows; r < min_of(rows, (b + 1) * kSegmentRows); ++r) {
            for (int64_t j = r * c; j < (r + 1) * c; ++j) {
                out[j] = S{};
                arg[j] = -1;
            }
            for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
                const int64_t row = cols ? cols[i] : i;
                take_larger<S, int64_t>(x + row * c, row, c, out + r * c, arg + r * c);
            }
        }
    });
}

// Rows of one chunk: at most 256 chunks, so that the scratch stays small, and at least 1024 rows.
SPARSECONV_INLINE int64_t column_chunk(int64_t n) { return max_of(1024, ceil_div(n, 256)); }

template <class S>
int64_t column_bytes(int64_t n, int64_t c) {
    return ceil_div(n, column_chunk(n)) * c * static_cast<int64_t>(sizeof(Acc<S>));
}

template <class S>
void column_sum(const Cpu& cpu, const S* x, int64_t n, int64_t c, S* out, void* scratch) {
    using A = Acc<S>;
    const int64_t rows = column_chunk(n), count = ceil_div(n, rows);
    A* partial = static_cast<A*>(scratch);  // [chunk][c]
    for_each_block(cpu, count, [&](int64_t i) {
        A* __restrict sums = partial + i * c;
        for (int64_t j = 0; j < c; ++j) sums[j] = 0;
        for (int64_t r = i * rows; r < min_of(n, (i + 1) * rows); ++r) {
            const S* __restrict row = x + r * c;
            for (int64_t j = 0; j < c; ++j) sums[j] += widen(row[j]);
        }
    });
    for (int64_t j = 0; j < c; ++j) {
        A sum = 0;
        for (int64_t i = 0; i < count; ++i) sum += partial[i * c + j];
        narrow(sum, out[j]);
    }
}

}  // namespace sparseconv::SPARSECONV_ISA
