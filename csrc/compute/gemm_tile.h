// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The register tile of gather_gemm: R gathered rows times a panel of NV registers of output channels. Rows are read in place, by
// broadcast loads; rows of a narrow type are widened into the first-level cache, tile by tile, where the processor does not multiply
// pairs of them.
#pragma once

#include <type_traits>

#include "blocking.h"

namespace sparseconv::SPARSECONV_ISA {

// What the tiles of one panel of one tap share. Input channels, x_stride and k are counted in X, the type that rows are read in.
template <class X>
struct Panel {
    using A = Acc<X>;
    const X* x;  // input rows, at the first input channel of the panel
    int64_t x_stride;
    const A* weight;  // [k][NV registers]
    int64_t k;
    const A* start;  // what the sums begin with: the output rows, or one row for all with a stride of 0
    int64_t start_stride;
    A* out;  // output rows, at the first output channel of the panel
    int64_t out_stride;
    int64_t columns;  // output channels, at most NV registers
    typename Operand<X>::Storage*
        stored;  // where `out` goes in the end: the same, or of a narrow type the rows it is rounded into
};

// out[pair's out row] = start + x[pair's in row] * weight for `count` tiles of R pairs. Each sum is one chain of fused multiply-adds in
// the order of the input channels that begins with `start`, so a row's bits depend neither on the tile, nor on the
// register width, nor on the rows beside it, nor on where the input channels are cut. Of bfloat16 the channels of a pair are summed the
// odd one first, which is the order of the instruction that takes both.
//
// K > 0 fixes the number of input channels, which leaves no loop over them: it is the loop's overhead that limits few channels.
template <class X, int R, int NV, int K, bool Whole, bool Prefetch>
void run_tiles(const Panel<X>& panel, const Pair* pairs, int64_t count) {
    using A = Acc<X>;
    using V = Simd<A>;
    using Storage = typename Operand<X>::Storage;
    constexpr bool widened = Operand<X>::widened, rounded = sizeof(Storage) != sizeof(A);
    constexpr int line = kLine<A>;
    // A copy, which stores to `out` cannot change.
    const auto [x, x_stride, weight, k, start, start_stride, out, out_stride, columns, stored] = panel;
    constexpr int ahead = 3;  // tiles of few input channels, which are shorter than a row takes from memory
    constexpr int held = kWide && K * NV <= 16 ? K * NV : 0;  // weights that stay in registers
    typename V::Reg kept[held > 0 ? held : 1];
    SPARSECONV_UNROLL
    for (int i = 0; i < held; ++i) kept[i] = V::load(weight + i * V::width);
    constexpr int64_t wide_stride = widened ? round_up(K > 0 ? K : Tiling<A>::depth(NV), 2 * V::width) : 1;
    alignas(64) A wide[R * wide_stride];
    using Read = std::conditional_t<widened, A, X>;
    const auto nth = [](int64_t i) { return widened ? i ^ 1 : i; };  // the i-th channel in the order of the sum
    const auto place = [](int64_t channel) { return widened ? split_place<A>(channel) : channel; };
    for (; count > 0; --count, pairs += R) {
        typename V::Reg acc[R][NV];
        const Read* rows[R];
        SPARSECONV_UNROLL
        for (int r = 0; r < R; ++r) {
            const X* row = x + pairs[r].in * x_stride;
            if constexpr (widened) {
                split_row<X>(row, K > 0 ? K : k, wide + r * wide_stride);
                rows[r] = wide + r * wide_stride;
            } else {
                rows[r] = row;
            }
            asm("" : "+r"(rows[r]));  // a pointer, not base + index: an operand with an index costs one more micro-operation
            const A* from = start + pairs[r].out * start_stride;
            SPARSECONV_UNROLL
            for (int v = 0; v < NV; ++v) {
                acc[r][v] = Whole || v + 1 < NV ? V::load(from + v * V::width)
                                                : V::load_part(from + v * V::width, columns - v * V::width);
            }
        }
        const A* w = weight;
        // Channel `channel` from w, which lies at `at` of a row.
        const auto step = [&](int64_t channel, int64_t at) __attribute__((always_inline)) {
            typename V::Reg ws[NV];
            SPARSECONV_UNROLL
            for (int v = 0; v < NV; ++v) {
                ws[v] = held > 0 ? kept[channel * NV + v] : V::load(w + (channel * NV + v) * V::width);
            }
            SPARSECONV_UNROLL
            for (int r = 0; r < R; ++r) {
                const typename V::Reg value = broadcast(rows[r] + at);
                SPARSECONV_UNROLL
                for (int v = 0; v < NV; ++v) acc[r][v] = multiply_add<X>(value, ws[v], acc[r][v]);
            }
        };
        if constexpr (K > 0) {
            if (start_stride == 0 && count > ahead) {  // the first tap: later ones find its rows in a cache
                SPARSECONV_UNROLL
                for (int r = 0; r < R; ++r) {
                    const Pair pair = pairs[ahead * R + r];
                    SPARSECONV_UNROLL
                    for (int i = 0; i < K; i += kLine<X>) __builtin_prefetch(x + pair.in * x_stride + i);
                    SPARSECONV_UNROLL
                    for (int i = 0; i < NV * V::width; i += kLine<Storage>) {
                        __builtin_prefetch(stored + pair.out * out_stride + i, 1);
                    }
                }
            }
            SPARSECONV_UNROLL
            for (int i = 0; i < K; ++i) step(nth(i), place(nth(i)));
        } else {
            int64_t i = 0;
            for (; i + line <= k; i += line, w += line * NV * V::width) {
                if (Prefetch && count > 1) {  // a line of each of the next tile's rows, spread over this tile's work
                    if (i % kLine<X> == 0) {
                        SPARSECONV_UNROLL
                        for (int r = 0; r < R; ++r) __builtin_prefetch(x + pairs[R + r].in * x_stride + i);
                    }
                    if (i < NV * V::width) {
                        SPARSECONV_UNROLL
                        for (int r = 0; r < R; ++r) __builtin_prefetch(out + pairs[R + r].out * out_stride + i, 1);
                        // The first tap meets every row: what the block is rounded into in the end comes from memory meanwhile.
                        if (rounded && i % kLine<Storage> == 0 && start_stride == 0) {
                            SPARSECONV_UNROLL
                            for (int r = 0; r < R; ++r) __builtin_prefetch(stored + pairs[R + r].out * out_stride + i, 1, 2);
                        }
                    }
                }
                SPARSECONV_UNROLL
                for (int u = 0; u < line; ++u) step(nth(u), place(i) + place(nth(u)));
            }
            for (int64_t u = 0; i + u < k; ++u) {
                const int64_t channel = i + nth(u) < k ? nth(u) : u;  // the last of an odd number has no partner
                step(channel, place(i) + place(channel));
            }
        }
        SPARSECONV_UNROLL
        for (int r = 0; r < R; ++r) {
            A* to = out + pairs[r].out * out_stride;
            SPARSECONV_UNROLL
            for (int v = 0; v < NV; ++v) {
                if (Whole || v + 1 < NV) {
                    V::store(to + v * V::width, acc[r][v]);
                } else {
                    V::store_part(to + v * V::width, acc[r][v], columns - v * V::width);
                }
            }
        }
    }
}

template <class X>
using TileFunction = void (*)(const Panel<X>&, const Pair*, int64_t);

// Tiles of 1 .. Most rows without prefetching, for the end of a list of pairs and for panels that end within a register.
template <class X, int NV, bool Whole, int Most>
struct Tiles {
    TileFunction<X> of[Most + 1] = {};
    constexpr Tiles() { fill<1>(); }

   private:
    template <int R>
    constexpr void fill() {
        of[R] = &run_tiles<X, R, NV, 0, Whole, false>;
        if constexpr (R < Most) fill<R + 1>();
    }
};

template <class X, int NV>
void run_pairs(const Panel<X>& panel, const Pair* pairs, int64_t n) {
    using A = Acc<X>;
    constexpr int R = Tiling<A>::rows(NV);
    static constexpr Tiles<X, NV, true, R - 1> whole;
    static constexpr Tiles<X, NV, false, R> partial;
    const int64_t full = n / R, rest = n % R;
    if (panel.columns == NV * Simd<A>::width) {
        if (panel.k == 16) {
            run_tiles<X, R, NV, 16, true, false>(panel, pairs, full);
        } else if (panel.k == 32) {
            run_tiles<X, R, NV, 32, true, false>(panel, pairs, full);
        } else {
            run_tiles<X, R, NV, 0, true, true>(panel, pairs, full);
        }
        if (rest > 0) whole.of[rest](panel, pairs + full * R, 1);
    } else {
        partial.of[R](panel, pairs, full);
        if (rest > 0) partial.of[rest](panel, pairs + full * R, 1);
    }
}

// The same for a panel of `registers`.
template <class X>
SPARSECONV_INLINE void run_pairs(int64_t registers, const Panel<X>& panel, const Pair* pairs, int64_t n) {
    if (registers == 1) return run_pairs<X, 1>(panel, pairs, n);
    if constexpr (Tiling<Acc<X>>::most_registers > 2) {
        if (registers == 3) return run_pairs<X, 3>(panel, pairs, n);
        if (registers == 4) return run_pairs<X, 4>(panel, pairs, n);
    }
    run_pairs<X, 2>(panel, pairs, n);
}

}  // namespace sparseconv::SPARSECONV_ISA
