// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// How the kernels cut their work, and why. Figures are percent of the FMA peak (the register loop fma_peak_gflops, run in turn with
// the kernel), one thread, float32, submanifold 3x3x3 over a KITTI sweep at 0.1 m (60,152 rows, 6.05 pairs a row), on a Xeon with
// AVX-512, 48 KB of first-level and 2 MB of second-level cache; medians of 7 to 15 runs.
//
// gather_gemm. A task owns a section of out rows and goes through it in blocks; a block's rows and the input rows around them stay
// in the second-level cache while the taps pass over them. Inside a tap: panels of output channels, then tiles of pairs.
// - Rows are read where they lie, by broadcast loads. Copying them first into dense lines gave 30, 55, 65, 74, 72 at
//   C = 16, 32, 64, 96, 128; in place 47, 74, 87, 88, 87.
// - Tiles of R pairs by NV registers of channels: 6 x 4, 8 x 3, 8 x 2, 8 x 1 with AVX-512, 6 x 2 and 8 x 1 with AVX2. R * NV sums,
//   NV weights and one value fit the registers, R row pointers fit the integer registers, and 24 multiply-adds need only R + NV
//   loads. 12 x 2 and 14 x 2 lose 5 to 10 at C = 64, since their pointers do not fit.
// - The sums begin with what is in the output, so that no addition follows, and a row's bits depend on no choice made here. The tap
//   that meets every out row (the centre of an odd submanifold kernel) goes first and starts from the bias: no row of zeros is
//   written and read again, worth 3 to 7.
// - The rows of the next tile are prefetched, a line of each per 16 input channels: worth 3 to 6 from C = 64 on. With 16 and 32
//   input channels the loop over them is unrolled whole instead, worth about 5, and the first tap alone prefetches, three tiles
//   ahead: its rows come from memory. With cold caches that takes 15 and 3 % off the time of a 1x1x1 layer with 16 and 32 channels,
//   7 and 1 % off 3x3x3 (15 % at 1x1x1, 32 channels, where other processes use the memory too); with warm caches nothing.
// - Rows of bfloat16 are read in pairs of input channels where the processor multiplies pairs (AVX512_BF16), in place like float32 and at
//   half the multiply-adds: 0.82, 0.59, 0.58, 0.55, 0.52 of float32's time at C = 16, 32, 64, 96, 128 (EPYC, Zen 4). Elsewhere, and with
//   an odd number of channels, each tile widens them, into 3 KB that it keeps in the first-level cache: 1.04, 1.04, 1.02 of the time at
//   C = 64, 96, 128; with a block's rows widened together, once for all taps, 1.07, 1.05, 1.08, since those rows crowd the
//   second-level cache. Both sum a pair's odd channel first, so the bits are the same. A block's sums are float32 and rounded when it is
//   complete, into rows that the first tap has prefetched.
// - With a matrix unit (AMX) bfloat16 goes through matrix_tile.h: 0.80, 0.46, 0.32, 0.26, 0.25, 0.27 of float32's time at C = 16, 32, 64,
//   96, 128, 256 (a Xeon of 2024), where pairs take 1.4, 1.4, 1.6, 1.6, 1.5, 1.3 and widened rows
//   1.1, 1.05, 1.1, 1.07, 1.02, 0.96: pairs are not used on such processors. 16 x 64 sums a tile beat 32 x 32 (1.3 times the
//   time at C = 128): a block has some 100 pairs a tap, and a tile of 32 rows wastes more of its last. Blocks of 1024 to 4096 rows
//   change little: 2048 take 5 % off up to 64 channels, nothing beyond.
// - Panels go outside tiles, and the input channels of a panel are cut so that it stays in the first-level cache: else
//   each tile of 6 rows would read all weights of the tap from the second level.
// - Where the weights outgrow the second-level cache, tasks take a part of the output channels each, all sections of rows before the
//   next part: the part's weights stay, at the price of reading the input rows once a part.
// - 256 to 512 rows a block: fewer make the weights travel more often, more push the block's rows out of the cache (1024 rows lose 2
//   to 4 at C <= 32).
//
// gather_outer. A task owns the sums of a section and goes through it in blocks, tap by tap; a tile of R input channels by NV
// registers of output channels stays in registers over all pairs of the block and the tap, again reading rows in place: 50, 69, 71,
// 74, 68 (copied rows 34, 49, 61, 66, 67).
// - With a matrix unit bfloat16 goes through matrix_outer.h: 0.69, 0.59, 0.42, 0.34, 0.31, 0.22 of float32's time at C = 16, 32, 64, 96, 128,
//   256 (the Xeon above).
// - 16 sections, each with sums of its own, are enough for 16 threads; the sums are at most 16 MB. Cutting taps into groups as well
//   reads every row once per group (4 groups: 62 instead of 70 at C = 96), so it is done only where fewer than 9 sections would
//   leave threads idle.
#pragma once

#include "rows.h"

namespace sparseconv::SPARSECONV_ISA {

constexpr bool kWide = kRegisterBytes == 64;

template <class A>
struct Tiling {
    static constexpr int width = Simd<A>::width;
    static constexpr int most_registers = kWide ? 4 : 2;  // of output channels in a panel
    static constexpr int rows(int registers) { return registers == 4 || (!kWide && registers == 2) ? 6 : 8; }
    // Input channels of a panel that go before the next panel's turn: two thirds of the first-level cache, half of an older 32 KB.
    static constexpr int64_t depth(int64_t registers) { return (kWide ? 32768 : 16384) / (registers * kRegisterBytes); }
};

// A task of gather_gemm owns a section of out rows, in blocks, and a part of the output channels. Depends on shapes only.
struct ForwardPlan {
    int64_t parts, block_rows, section_rows;

    // panels: of output channels, of one group; weight_bytes: of all taps, packed.
    ForwardPlan(const ConvShape& s, int64_t panels, int64_t weight_bytes) {
        constexpr int64_t part_bytes = 1 << 20, tasks = 32;
        parts = s.groups > 1 ? 1 : max_of(1, min_of(panels, ceil_div(weight_bytes, part_bytes)));
        const int64_t cached = max_of(256, min_of(512, 32768 / max_of(s.c_out, 1)));
        block_rows = max_of(64, min_of(cached, round_up(ceil_div(s.n_out * parts, tasks), 8)));
        const int64_t blocks = ceil_div(s.n_out, block_rows);
        section_rows = block_rows * max_of(1, min_of(4, blocks * parts / tasks));
    }
};

// Input channels of a tile of gather_outer, by the registers of output channels.
template <class A>
constexpr int outer_tile_rows(int registers) {
    return kWide ? (registers == 4 ? 6 : registers == 3 ? 8 : registers == 2 ? 12 : 16) : (registers == 2 ? 6 : 12);
}

SPARSECONV_INLINE int64_t outer_block_rows(const ConvShape& s) { return max_of(256, min_of(512, 12 * (s.c_in + s.c_out))); }

constexpr int64_t outer_tasks = 16;
constexpr int64_t outer_partial_bytes = 16 << 20;
// Pairs that all tiles take before the next pairs' turn, so that their rows stay in the first-level cache.
constexpr int64_t outer_chunk = 128;

}  // namespace sparseconv::SPARSECONV_ISA
