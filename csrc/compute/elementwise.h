// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Sums and ReLUs of bfloat16, between the convolutions of a network: a quarter of its time with torch's loops where a matrix unit
// convolves.
#pragma once

#include "rows.h"

namespace sparseconv::SPARSECONV_ISA {

constexpr int64_t kElements = 1 << 14;  // of one block

// out = x + y, summed in float32 and rounded; out may be x.
inline void add_bf16(const Cpu& cpu, int64_t n, const Bf16* x, const Bf16* y, Bf16* out) {
    using V = Simd<float>;
    constexpr int64_t some = 16 * V::width;
    for_each_block(alone_below(cpu, n), ceil_div(n, kElements), [&](int64_t b) {
        alignas(64) float sums[some];
        for (int64_t i = b * kElements, end = min_of(n, i + kElements); i < end; i += some) {
            const int64_t m = min_of(some, end - i);
            int64_t j = 0;
            for (; j + V::width <= m; j += V::width) {
                V::store(sums + j, V::add(load_wide<Bf16>(x + i + j), load_wide<Bf16>(y + i + j)));
            }
            for (; j < m; ++j) sums[j] = widen(x[i + j]) + widen(y[i + j]);
            narrow_row<Bf16>(sums, m, out + i);
        }
    });
}

// out = max(0, x), NaN where x is one; out may be x.
inline void relu_bf16(const Cpu& cpu, int64_t n, const Bf16* x, Bf16* out) {
    for_each_block(alone_below(cpu, n), ceil_div(n, kElements), [&](int64_t b) {
        for (int64_t i = b * kElements, end = min_of(n, i + kElements); i < end; ++i) {
            const unsigned bits = x[i].bits;  // negative numbers lie from -0, 0x8000, to -infinity, 0xff80
            out[i].bits = static_cast<uint16_t>(bits >= 0x8000u && bits <= 0xff80u ? 0u : bits);
        }
    });
}

}  // namespace sparseconv::SPARSECONV_ISA
