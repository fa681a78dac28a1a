// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The register tile of gather_outer: R input channels times a panel of NV registers of output channels, summed over pairs of rows.
#pragma once

#include "blocking.h"

namespace sparseconv::SPARSECONV_ISA {

// Two matrices whose rows are met by pairs, and the block of sums that a tile adds to.
template <class A>
struct OuterPanel {
    const A* x;  // at the first input channel of the tile
    int64_t x_stride;
    const A* g;  // at the first output channel of the tile
    int64_t g_stride;
    A* sums;
    int64_t sums_stride;
    int64_t columns;  // output channels, at most NV registers
};

// sums[r, :] += x[pair's in row, r] * g[pair's out row, :] for n pairs and R input channels, each sum one chain in the order of the
// pairs. Rows are read in place.
template <class A, int R, int NV, bool Whole>
void outer_tile(const OuterPanel<A>& panel, const Pair* pairs, int64_t n) {
    using V = Simd<A>;
    const auto [x, x_stride, g, g_stride, sums, sums_stride, columns] = panel;
    const int64_t lanes = columns - (NV - 1) * V::width;  // of the last register
    typename V::Reg acc[R][NV];
    SPARSECONV_UNROLL
    for (int r = 0; r < R; ++r) {
        const A* from = sums + r * sums_stride;
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) {
            acc[r][v] = Whole || v + 1 < NV ? V::load(from + v * V::width) : V::load_part(from + v * V::width, lanes);
        }
    }
    for (const Pair* end = pairs + n; pairs != end; ++pairs) {
        const A* a = x + pairs->in * x_stride;
        const A* b = g + pairs->out * g_stride;
        asm("" : "+r"(a), "+r"(b));        // pointers, see run_tiles
        __builtin_prefetch(a + kLine<A>);  // what the next tiles read; rows of large strides collide in the first-level cache
        typename V::Reg row[NV];
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) {
            row[v] = Whole || v + 1 < NV ? V::load(b + v * V::width) : V::load_part(b + v * V::width, lanes);
        }
        SPARSECONV_UNROLL
        for (int r = 0; r < R; ++r) {
            const typename V::Reg value = V::broadcast(a + r);
            SPARSECONV_UNROLL
            for (int v = 0; v < NV; ++v) acc[r][v] = V::fma(value, row[v], acc[r][v]);
        }
    }
    SPARSECONV_UNROLL
    for (int r = 0; r < R; ++r) {
        A* to = sums + r * sums_stride;
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) {
            if (Whole || v + 1 < NV) {
                V::store(to + v * V::width, acc[r][v]);
            } else {
                V::store_part(to + v * V::width, acc[r][v], lanes);
            }
        }
    }
}

template <class A, int NV, bool Whole>
struct OuterTiles {
    static constexpr int most = outer_tile_rows<A>(NV);
    void (*of[most + 1])(const OuterPanel<A>&, const Pair*, int64_t) = {};
    constexpr OuterTiles() { fill<1>(); }

   private:
    template <int R>
    constexpr void fill() {
        of[R] = &outer_tile<A, R, NV, Whole>;
        if constexpr (R < most) fill<R + 1>();
    }
};

// All k input channels of one panel of output channels, in tiles of nearly equal height.
template <class A, int NV, bool Whole>
void outer_column(OuterPanel<A> panel, int64_t k, const Pair* pairs, int64_t n) {
    static constexpr OuterTiles<A, NV, Whole> tiles;
    for (int64_t left = ceil_div(k, tiles.most); left > 0; --left) {
        const int64_t rows = ceil_div(k, left);
        tiles.of[rows](panel, pairs, n);
        k -= rows;
        panel.x += rows;
        panel.sums += rows * panel.sums_stride;
    }
}

template <class A, int NV>
void outer_panel(const OuterPanel<A>& panel, int64_t k, const Pair* pairs, int64_t n) {
    if (panel.columns == NV * Simd<A>::width) {
        outer_column<A, NV, true>(panel, k, pairs, n);
    } else {
        outer_column<A, NV, false>(panel, k, pairs, n);
    }
}

// The same for a panel of `registers`.
template <class A>
SPARSECONV_INLINE void outer_panel(int64_t registers, const OuterPanel<A>& panel, int64_t k, const Pair* pairs, int64_t n) {
    if (registers == 1) return outer_panel<A, 1>(panel, k, pairs, n);
    if constexpr (Tiling<A>::most_registers > 2) {
        if (registers == 3) return outer_panel<A, 3>(panel, k, pairs, n);
        if (registers == 4) return outer_panel<A, 4>(panel, k, pairs, n);
    }
    outer_panel<A, 2>(panel, k, pairs, n);
}

}  // namespace sparseconv::SPARSECONV_ISA
