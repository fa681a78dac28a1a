// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Register tiles over stored rows of a vector-sparse weight. A tile's rows of features are copied, line by line, into the first-level
// cache, where the lines of all rows at the same channels lie one after the other: one offset per stored row of the weight then
// addresses its channel in every row of the tile, by a constant distance, so that no pointer per row is needed and a tile may be as
// high as there are registers.
#pragma once

#include "../compute/blocking.h"
#include "vectors_kernels.h"

namespace sparseconv::SPARSECONV_ISA {

// NV registers hold a row of the weight.
template <class A>
struct VectorTiling {
    static constexpr int registers = VectorWeight::block / Simd<A>::width;
    static constexpr int all_registers = kWide ? 32 : 16;
    // Sums of a tile's rows, a row of the weight and a register for what is broadcast.
    static constexpr int free_rows = (all_registers - registers - 1) / registers;
    static constexpr int rows = free_rows > 28 ? 28 : free_rows < 1 ? 1 : free_rows;
};

// Rows of a tile where two tiles of k channels are copied into 24 KB of the first-level cache, at least 8.
template <class A>
constexpr int64_t vector_tile_rows(int64_t k) {
    constexpr int64_t most = VectorTiling<A>::rows, bytes = 24 << 10;
    return min_of(most, max_of(8, bytes / (2 * max_of(1, k) * static_cast<int64_t>(sizeof(A)))));
}

// The copied rows of a tile: channel c of row r of a group with k channels.
template <class A>
struct TileRows {
    static constexpr int line = kLine<A>;
    static constexpr int row_step = line;                               // from row to row
    static constexpr int64_t line_step = VectorTiling<A>::rows * line;  // from line to line of channels
    static int64_t size(int64_t k) { return ceil_div(k, line) * line_step; }
    static SPARSECONV_INLINE int64_t offset(int32_t channel) {
        const uint32_t c = static_cast<uint32_t>(channel);
        return static_cast<int64_t>(c / line * static_cast<uint32_t>(line_step) + c % line);
    }
};

// One line of a row of k channels, from channel c on; what lies beyond k is not read.
template <class S>
SPARSECONV_INLINE void copy_line(const S* row, int64_t c, int64_t k, Acc<S>* to) {
    using V = Simd<Acc<S>>;
    SPARSECONV_UNROLL
    for (int u = 0; u < kLine<Acc<S>>; u += V::width) {
        if (c + u + V::width <= k) {
            V::store(to + u, load_wide<S>(row + c + u));
        } else if (c + u < k) {
            V::store(to + u, load_wide_part<S>(row + c + u, k - c - u));
        }
    }
}

// What is done for the next tile while this one is multiplied, an item per stored row: a line of each row is copied, and the output
// that it will need is prefetched. Both come from the second-level cache, whose bandwidth limits sparse weights otherwise.
template <class S>
struct Ahead {
    int64_t rows;        // of the next tile
    const S* const* in;  // their input rows
    int64_t channel;     // from which on a line is copied
    Acc<S>* copied;
    Acc<S>* const* out;  // their output rows
    int64_t column;
    SPARSECONV_INLINE void item(int64_t r) const {
        using V = Simd<Acc<S>>;
        SPARSECONV_UNROLL
        for (int u = 0; u < kLine<Acc<S>>; u += V::width) {
            V::store(copied + r * TileRows<Acc<S>>::row_step + u, load_wide<S>(in[r] + channel + u));
        }
        __builtin_prefetch(out[r] + column, 1);
    }
};

// What the tiles of one list of stored rows share.
template <class A>
struct StoredRows {
    const int32_t* channels;
    const A* values;  // or the sums of their gradients
    int64_t count;
    int64_t columns;  // channels of the block, at most 16
};

template <class A, int NV>
SPARSECONV_INLINE void load_block(const A* from, int64_t columns, bool whole, typename Simd<A>::Reg* to) {
    using V = Simd<A>;
    SPARSECONV_UNROLL
    for (int v = 0; v < NV; ++v) {
        to[v] = whole ? V::load(from + v * V::width)
                      : V::load_part(from + v * V::width, max_of(0, min_of(V::width, columns - v * V::width)));
    }
}

template <class A, int NV>
SPARSECONV_INLINE void store_block(A* to, int64_t columns, bool whole, const typename Simd<A>::Reg* from) {
    using V = Simd<A>;
    SPARSECONV_UNROLL
    for (int v = 0; v < NV; ++v) {
        if (whole) {
            V::store(to + v * V::width, from[v]);
        } else {
            V::store_part(to + v * V::width, from[v], max_of(0, min_of(V::width, columns - v * V::width)));
        }
    }
}

// out[r] + column: the products of R copied rows and the stored rows are added to what is there, or to `start`, the same for all rows.
// Each sum is one chain of multiply-adds in the order of the channels.
template <class S, int R>
void vectors_tile(const StoredRows<Acc<S>>& stored, const Acc<S>* rows, Acc<S>* const* out, int64_t column, const Acc<S>* start,
                  const Ahead<S>& next) {
    using A = Acc<S>;
    using V = Simd<A>;
    constexpr int NV = VectorTiling<A>::registers;
    const auto [channels, values, count, columns] = stored;
    const bool whole = columns == VectorWeight::block;
    typename V::Reg acc[R][NV];
    if (start) {
        SPARSECONV_UNROLL
        for (int r = 0; r < R; ++r) load_block<A, NV>(start, columns, whole, acc[r]);
    } else {
        SPARSECONV_UNROLL
        for (int r = 0; r < R; ++r) load_block<A, NV>(out[r] + column, columns, whole, acc[r]);
    }
    const Ahead<S> ahead = next;
    const auto step = [&](int64_t j) __attribute__((always_inline)) {
        const A* at = rows + TileRows<A>::offset(channels[j]);
        typename V::Reg w[NV];
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) w[v] = V::load(values + j * VectorWeight::block + v * V::width);
        SPARSECONV_UNROLL
        for (int r = 0; r < R; ++r) {
            const typename V::Reg value = V::broadcast(at + r * TileRows<A>::row_step);
            SPARSECONV_UNROLL
            for (int v = 0; v < NV; ++v) acc[r][v] = V::fma(value, w[v], acc[r][v]);
        }
    };
    const int64_t both = min_of(count, ahead.rows);
    int64_t j = 0;
    for (; j < both; ++j) {
        step(j);
        ahead.item(j);
    }
    for (; j < count; ++j) step(j);
    for (; j < ahead.rows; ++j) ahead.item(j);
    SPARSECONV_UNROLL
    for (int r = 0; r < R; ++r) store_block<A, NV>(out[r] + column, columns, whole, acc[r]);
}

// sums[stored row] += over R pairs of the row's channel of the copied rows * the row of g: one chain in the order of the pairs.
template <class S, int R>
void vectors_outer_tile(const StoredRows<Acc<S>>& stored, const Acc<S>* rows, const Pair* pairs, const S* g, int64_t g_stride,
                        Acc<S>* sums) {
    using A = Acc<S>;
    using V = Simd<A>;
    constexpr int NV = VectorTiling<A>::registers;
    const int64_t columns = stored.columns;
    typename V::Reg row[R][NV];
    SPARSECONV_UNROLL
    for (int r = 0; r < R; ++r) {
        const S* from = g + pairs[r].out * g_stride;
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) {
            row[r][v] = columns == VectorWeight::block
                            ? load_wide<S>(from + v * V::width)
                            : load_wide_part<S>(from + v * V::width, max_of(0, min_of(V::width, columns - v * V::width)));
        }
    }
    for (int64_t j = 0; j < stored.count; ++j, sums += VectorWeight::block) {
        const A* at = rows + TileRows<A>::offset(stored.channels[j]);
        typename V::Reg acc[NV];
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) acc[v] = V::load(sums + v * V::width);
        SPARSECONV_UNROLL
        for (int r = 0; r < R; ++r) {
            const typename V::Reg value = V::broadcast(at + r * TileRows<A>::row_step);
            SPARSECONV_UNROLL
            for (int v = 0; v < NV; ++v) acc[v] = V::fma(value, row[r][v], acc[v]);
        }
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) V::store(sums + v * V::width, acc[v]);
    }
}

// Tiles of 1 .. rows.
template <class S>
struct VectorTiles {
    using A = Acc<S>;
    static constexpr int most = VectorTiling<A>::rows;
    void (*forward[most + 1])(const StoredRows<A>&, const A*, A* const*, int64_t, const A*, const Ahead<S>&) = {};
    void (*outer[most + 1])(const StoredRows<A>&, const A*, const Pair*, const S*, int64_t, A*) = {};
    constexpr VectorTiles() { fill<1>(); }

   private:
    template <int R>
    constexpr void fill() {
        forward[R] = &vectors_tile<S, R>;
        outer[R] = &vectors_outer_tile<S, R>;
        if constexpr (R < most) fill<R + 1>();
    }
};

template <class S>
constexpr VectorTiles<S> vector_tiles;

}  // namespace sparseconv::SPARSECONV_ISA
