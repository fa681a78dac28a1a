// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "rows.h"

namespace sparseconv::SPARSECONV_ISA {

constexpr bool kWide = kRegisterBytes == 64;

template <class A>
struct Tiling {
    static constexpr int width = Simd<A>::width;
    static constexpr int most_registers = kWide ? 4 : 2;  // of a panel: its output channels in registers
    static constexpr int rows(int registers) { return registers == 4 || (!kWide && registers == 2) ? 6 : 8; }
    // Input channels of a panel that are multiplied before the next panel's turn, so that they stay in the first-level cache.
    static constexpr int64_t depth(int64_t registers) { return (kWide ? 32768 : 16384) / (registers * kRegisterBytes); }
    static constexpr int64_t widened_rows_bytes = 65536;  // rows of a narrow type are widened so many bytes at a time
};

// Input channels of a tile of the weight's gradient, by the registers of output channels.
template <class A>
constexpr int outer_tile_rows(int registers) {
    return kWide ? (registers == 4 ? 6 : registers == 3 ? 8 : registers == 2 ? 12 : 16) : (registers == 2 ? 6 : 12);
}

constexpr int64_t section_blocks = 4;  // blocks of out rows that one task takes

constexpr int64_t outer_partial_bytes = 32 << 20;
constexpr int64_t outer_tasks = 16;
constexpr int64_t outer_chunk =
    128;  // pairs that all tiles take before the next ones' turn, so that their rows stay in the cache

SPARSECONV_INLINE int64_t outer_block_rows(const ConvShape& s) { return max_of(256, min_of(512, 12 * (s.c_in + s.c_out))); }

template <class A>
SPARSECONV_INLINE int64_t forward_block_rows(const ConvShape& s) {
    const int64_t bytes = s.c_out * static_cast<int64_t>(sizeof(A));
    const int64_t most = max_of(256, min_of(512, 131072 / max_of(bytes, 1)));
    return max_of(64, min_of(most, round_up(ceil_div(s.n_out, 32), 8)));
}

}  // namespace sparseconv::SPARSECONV_ISA
