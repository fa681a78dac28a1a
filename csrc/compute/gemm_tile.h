// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The register tile of gather_gemm: R gathered rows times a panel of NV registers of output channels.
#pragma once

#include "blocking.h"

namespace sparseconv::SPARSECONV_ISA {

// Where a tile's sums go: row r of the tile is added to out + row_index(r) * stride, `columns` elements of it.
template <class A>
struct TileOut {
    A* out;
    const int32_t* index;  // out rows of the tile's pairs, every second int
    int64_t first;         // out row that `out` points at
    int64_t stride;
    int64_t columns;
};

// acc[r, :] = sum over k ascending of lines[r, k] * weight[k, :], from zero; then out += acc. Each element is a single chain of
// fused multiply-adds, so a row's bits do not depend on the tile, the register width or the rows beside it.
template <class A, int R, int NV>
void tile(const A* lines, const A* weight, int64_t k, const TileOut<A>& to) {
    using V = Simd<A>;
    constexpr int line = kLine<A>;
    typename V::Reg acc[R][NV];
    SPARSECONV_UNROLL
    for (int r = 0; r < R; ++r) {
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) acc[r][v] = V::zero();
    }
    const auto step = [&](const A* a, const A* w) __attribute__((always_inline)) {
        typename V::Reg ws[NV];
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) ws[v] = V::load(w + v * V::width);
        SPARSECONV_UNROLL
        for (int r = 0; r < R; ++r) {
            const typename V::Reg x = V::broadcast(a + r * line);
            SPARSECONV_UNROLL
            for (int v = 0; v < NV; ++v) acc[r][v] = V::fma(x, ws[v], acc[r][v]);
        }
    };
    for (; k >= line; k -= line, lines += Tiling<A>::chunk * line) {
        for (int i = 0; i < line; i += 4, weight += 4 * NV * V::width) {
            step(lines + i, weight);
            step(lines + i + 1, weight + NV * V::width);
            step(lines + i + 2, weight + 2 * NV * V::width);
            step(lines + i + 3, weight + 3 * NV * V::width);
        }
    }
    for (int64_t i = 0; i < k; ++i, weight += NV * V::width) step(lines + i, weight);

    if (to.columns == NV * V::width) {
        SPARSECONV_UNROLL
        for (int r = 0; r < R; ++r) {
            A* out = to.out + (to.index[2 * r] - to.first) * to.stride;
            SPARSECONV_UNROLL
            for (int v = 0; v < NV; ++v) V::store(out + v * V::width, V::add(V::load(out + v * V::width), acc[r][v]));
        }
    } else {
        SPARSECONV_UNROLL
        for (int r = 0; r < R; ++r) {
            A* out = to.out + (to.index[2 * r] - to.first) * to.stride;
            SPARSECONV_UNROLL
            for (int v = 0; v < NV; ++v) {
                const int64_t n = max_of(0, min_of(to.columns - v * V::width, V::width));
                V::store_part(out + v * V::width, V::add(V::load_part(out + v * V::width, n), acc[r][v]), n);
            }
        }
    }
}

template <class A>
using TileFunction = void (*)(const A*, const A*, int64_t, const TileOut<A>&);

// Tiles of 1 .. Most rows.
template <class A, int NV, int Most>
struct Tiles {
    TileFunction<A> of[Most + 1] = {};
    constexpr Tiles() { fill<1>(); }

   private:
    template <int R>
    constexpr void fill() {
        of[R] = &tile<A, R, NV>;
        if constexpr (R < Most) fill<R + 1>();
    }
};

// Adds `pairs` gathered rows times one panel to out, in tiles of nearly equal height (so that no tile is one row high, which would
// wait on the latency of its additions).
template <class A, int NV, int Most>
SPARSECONV_INLINE void run_tiles(const A* lines, int64_t pairs, const A* weight, int64_t k, TileOut<A> to) {
    static constexpr Tiles<A, NV, Most> tiles;
    int64_t count = ceil_div(pairs, Most);
    for (int64_t done = 0; done < pairs; --count) {
        const int64_t rows = ceil_div(pairs - done, count);
        tiles.of[rows](lines + done * kLine<A>, weight, k, to);
        done += rows;
        to.index += 2 * rows;
    }
}

template <class A>
SPARSECONV_INLINE void run_panel(const A* lines, int64_t pairs, const A* weight, int64_t k, const TileOut<A>& to) {
    if (to.columns > Simd<A>::width) {
        run_tiles<A, 2, Tiling<A>::rows2>(lines, pairs, weight, k, to);
    } else {
        run_tiles<A, 1, Tiling<A>::rows1>(lines, pairs, weight, k, to);
    }
}

}  // namespace sparseconv::SPARSECONV_ISA
