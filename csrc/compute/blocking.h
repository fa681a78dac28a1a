// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "rows.h"

namespace sparseconv::SPARSECONV_ISA {

constexpr bool kWide = kRegisterBytes == 64;

template <class A>
struct Tiling {
    static constexpr int width = Simd<A>::width;
    static constexpr int panel = 2 * width;  // output channels of a full panel: two registers
    static constexpr int rows1 = kWide ? 24 : 12;
    static constexpr int rows2 = kWide ? 14 : 6;
    static constexpr int chunk = kWide ? 56 : 48;   // pairs copied at a time
    static constexpr int depth = 1024 / sizeof(A);  // input channels copied at a time
};

template <class A>
struct OuterTiling {
    static constexpr int rows1 = kWide && sizeof(A) == 4 ? 16 : 8;
    static constexpr int rows2 = kWide ? 8 : 4;
    static constexpr int chunk = 128;  // pairs copied at a time
};

constexpr int64_t outer_block_bytes = 1 << 20;
constexpr int64_t outer_partial_bytes = 32 << 20;
constexpr int64_t outer_tasks = 16;

template <class A>
SPARSECONV_INLINE int64_t forward_block_rows(const ConvShape& s) {
    const int64_t bytes = s.c_out * static_cast<int64_t>(sizeof(A));
    const int64_t most = max_of(64, min_of(1024, 65536 / max_of(bytes, 1)));
    return max_of(64, min_of(most, round_up(ceil_div(s.n_out, 32), 8)));
}

}  // namespace sparseconv::SPARSECONV_ISA
