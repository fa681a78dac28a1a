// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Forward convolution over a vector-sparse weight: blocks of out rows, taps, tiles of pairs as in gather_gemm; a tile's rows are copied
// once and pass over the lists of all blocks of output channels. Tiles are as high as registers allow and of nearly equal height, since
// every row of the weight that is loaded serves a whole tile.
//
// The multiply-adds run at the peak: from density 0.26 to 1 the time rises by 18.9 ms at C = 64, and 18.8 is what they take. What limits is
// the part that does not depend on the density. Times of the dense kernel over its own at densities 0.51 and 0.26, C = 64, float32, one
// thread, KITTI at 0.1 m, on a Zen 4 with 32 KB of first-level and 1 MB of second-level cache:
// - Rows copied at once before a tile, 512 rows a block: 1.45 and 2.14. Copied while the tile before is multiplied, a line for each
//   stored row: 1.56 and 2.49. Rows read in place, by 10 pointers in registers, without prefetching: 1.6 and 2.45; 12 pointers 1.47 and 2.3.
// - The rows of the next block come from memory. Without prefetching them 1.49 and 2.05, the input's alone left out 1.43 and 1.95.
// - 1024 rows a block, so that a tap's lists serve more tiles in turn: 1.61 and 2.47; 2048 and 4096 are no better.
// - On 500 rows in the second-level cache with every pair present, so that all tiles are full: 1.71 and 2.81.
#pragma once

#include "../compute/gather_gemm.h"
#include "vectors_tile.h"

namespace sparseconv::SPARSECONV_ISA {

// Blocks of output channels, of all groups.
struct VectorBlocks {
    int64_t of_group, all, k, m;
    explicit VectorBlocks(const ConvShape& s)
        : of_group(VectorWeight::blocks_of_group(s)), all(VectorWeight::blocks(s)), k(s.c_in / s.groups), m(s.c_out / s.groups) {}
    int64_t group(int64_t b) const { return b / of_group; }
    int64_t column(int64_t b) const { return group(b) * m + b % of_group * VectorWeight::block; }
    int64_t columns(int64_t b) const { return min_of(VectorWeight::block, m - b % of_group * VectorWeight::block); }
};

// The stored values in the accumulation type: themselves, or a copy.
template <class S>
struct WideValues {
    const Scratch<Acc<S>> copy;
    const Acc<S>* data;
    WideValues(const Cpu& cpu, const VectorWeight& weight)
        : copy(sizeof(S) == sizeof(Acc<S>) ? 0 : weight.stored * VectorWeight::block), data(copy.data) {
        const S* values = static_cast<const S*>(weight.values);
        if constexpr (sizeof(S) == sizeof(Acc<S>)) {
            data = values;
        } else {
            constexpr int64_t piece = 1 << 12;
            const int64_t size = weight.stored * VectorWeight::block;
            for_each_block(alone_below(cpu, size), ceil_div(size, piece), [&](int64_t i) {
                widen_row<S>(values + i * piece, min_of(piece, size - i * piece), copy.data + i * piece);
            });
        }
    }
};

// As ForwardPlan, but few rows are cut into parts of the output channels for the threads' sake. Depends on shapes only.
struct VectorPlan {
    int64_t parts, block_rows, section_rows;
    VectorPlan(const ConvShape& s, int64_t blocks, int64_t bytes) {
        constexpr int64_t part_bytes = 1 << 20, tasks = 32, few = 8;
        const int64_t sections = ceil_div(s.n_out, 64);
        parts = max_of(ceil_div(bytes, part_bytes), sections >= few || bytes < (1 << 16) ? 1 : few / sections);
        parts = max_of(1, min_of(blocks, parts));
        const int64_t cached = max_of(256, min_of(1024, 65536 / max_of(s.c_out, 1)));
        block_rows = max_of(64, min_of(cached, round_up(ceil_div(s.n_out * parts, tasks), 8)));
        section_rows = block_rows * max_of(1, min_of(4, ceil_div(s.n_out, block_rows) * parts / tasks));
    }
};

// Pairs of one tap that are multiplied together.
template <class S>
struct VectorTile {
    static constexpr int most = VectorTiling<Acc<S>>::rows;
    int64_t tap = -1;         // place in the order of the taps
    const Pair* list;         // its first pair
    int64_t rows = 0, after;  // pairs, and those of the tap in this block after them
    const S* in[most];
    Acc<S>* out[most];
};

template <class S>
struct VectorGemm {
    using A = Acc<S>;
    using T = TileRows<A>;
    const ConvShape& s;
    const Pairs& pairs;
    const S* features;
    const VectorWeight& weight;
    const A* values;
    const A* start;  // [c_out], the bias or zeros
    const TapOrder order;
    const VectorBlocks blocks;
    const int64_t tile_rows;  // at most

    bool started() const { return order.full >= 0; }  // the first tap meets every row: its sums begin with `start`

    // Sums rows [first_row, last_row) of blocks [first, last) into `out`, whose first row is first_row; cursor as in gather_gemm.
    // copied: room for two tiles.
    void block(int64_t first_row, int64_t last_row, int64_t first, int64_t last, int64_t* cursor, A* copied, A* out) const {
        const int64_t column = blocks.column(first), end = blocks.column(last - 1) + blocks.columns(last - 1);
        if (!started()) start_rows(start + column, end - column, last_row - first_row, out + column, s.c_out);
        const Scratch<int64_t> counts(pairs.taps);
        int64_t left = 0;
        for (int64_t t = 0; t < pairs.taps; ++t) {
            counts.data[t] = count_below(pairs.data + cursor[t], pairs.tap_offsets[t + 1] - cursor[t], last_row);
            if (weight.offsets[t * blocks.all + first] < weight.offsets[t * blocks.all + last]) left += counts.data[t];
        }
        const int64_t full = started() ? pairs.tap_offsets[order.full] : 0;
        NextRows later{full + last_row, started() ? full + min_of(2 * last_row - first_row, s.n_out) : 0, left, 0, 0};
        VectorTile<S> tiles[2];
        A* const row_zero = shifted(out, -first_row * s.c_out);
        advance(tiles[1], tiles[0], first, last, cursor, counts.data, row_zero);
        if (s.groups == 1) copy(tiles[0], 0, copied);
        for (int64_t i = 0; tiles[i].rows > 0; i = 1 - i) {
            advance(tiles[i], tiles[1 - i], first, last, cursor, counts.data, row_zero);
            later.begin = later.at;
            later.share = min_of(later.last - later.at, ceil_div((later.last - later.at) * tiles[i].rows, max_of(1, later.left)));
            later.left -= tiles[i].rows;
            multiply(tiles[i], tiles[1 - i], later, row_zero, first, last, copied + i * T::size(blocks.k),
                     copied + (1 - i) * T::size(blocks.k));
        }
        for (int64_t t = 0; t < pairs.taps; ++t) cursor[t] += counts.data[t];
    }

   private:
    // Pairs [at, last) of the tap that meets every row: those of the next block, whose rows come from memory. They are prefetched
    // a few at a time, for more lines than the processor keeps track of would hold up everything else.
    struct NextRows {
        int64_t at, last;
        int64_t left;  // pairs of this block that are not multiplied yet
        int64_t begin, share;
    };

    void fetch(NextRows& next, int64_t until, const A* out) const {
        for (; next.at < until; ++next.at) {
            const Pair pair = pairs.data[next.at];
            for (int64_t c = 0; c < s.c_in; c += kLine<S>) __builtin_prefetch(features + pair.in * s.c_in + c);
            for (int64_t c = 0; c < s.c_out; c += kLine<A>) __builtin_prefetch(out + pair.out * s.c_out + c, 1);
        }
    }

    // The tile after `before`; of no rows after the last one.
    void advance(const VectorTile<S>& before, VectorTile<S>& tile, int64_t first, int64_t last, const int64_t* cursor,
                 const int64_t* counts, A* out) const {
        tile.tap = before.tap;
        tile.list = before.rows > 0 ? before.list + before.rows : nullptr;
        int64_t n = before.rows > 0 ? before.after : 0;
        while (n == 0) {
            if (++tile.tap >= pairs.taps) {
                tile.rows = 0;
                return;
            }
            const int64_t t = order.taps.data[tile.tap];
            const int64_t* lists = weight.offsets + t * blocks.all;
            if (lists[first] == lists[last] && !(started() && tile.tap == 0)) continue;
            n = counts[t];
            tile.list = pairs.data + cursor[t];
        }
        tile.rows = ceil_div(n, ceil_div(n, tile_rows));  // of nearly equal height
        tile.after = n - tile.rows;
        for (int64_t r = 0; r < tile.rows; ++r) {
            tile.in[r] = features + tile.list[r].in * s.c_in;
            tile.out[r] = out + tile.list[r].out * s.c_out;
        }
        for (int64_t r = tile.rows; r < tile.most; ++r) tile.out[r] = tile.out[0];  // what is prefetched for a higher tile
    }

    void copy(const VectorTile<S>& tile, int64_t group, A* to) const {
        for (int64_t c = 0; c < blocks.k; c += T::line, to += T::line_step) {
            for (int64_t r = 0; r < tile.rows; ++r)
                copy_line<S>(tile.in[r] + group * blocks.k, c, blocks.k, to + r * T::row_step);
        }
    }

    void multiply(const VectorTile<S>& tile, const VectorTile<S>& next, NextRows& later, const A* out, int64_t first,
                  int64_t last, A* copied, A* to) const {
        const int64_t* lists = weight.offsets + order.taps.data[tile.tap] * blocks.all;
        const bool fresh = started() && tile.tap == 0;
        const int64_t lines = blocks.k / T::line;
        int64_t line = 0, b = first;
        for (int64_t g = blocks.group(first); b < last; ++g) {
            if (s.groups > 1) copy(tile, g, copied);
            const int64_t end = min_of(last, (g + 1) * blocks.of_group);
            for (int64_t column = blocks.column(b); b < end; ++b, column += VectorWeight::block) {
                const int64_t width = min_of(VectorWeight::block, (g + 1) * blocks.m - column);
                const int64_t count = lists[b + 1] - lists[b];
                const bool more = b + 1 < last;
                fetch(later, later.begin + later.share * (b + 1 - first) / (last - first), out);
                const bool copies = s.groups == 1 && line < lines * (b + 1 - first) / (last - first);
                const Ahead<S> ahead{copies ? next.rows : 0,
                                     next.in,
                                     line * T::line,
                                     to + line * T::line_step,
                                     more ? tile.out : next.out,
                                     more ? blocks.column(b + 1) : blocks.column(first)};
                line += copies;
                if (count > 0 || fresh) {
                    vector_tiles<S>.forward[tile.rows](
                        {weight.channels + lists[b], values + lists[b] * VectorWeight::block, count, width}, copied, tile.out,
                        column, fresh ? start + column : nullptr, ahead);
                } else {
                    for (int64_t r = 0; r < ahead.rows; ++r) ahead.item(r);
                }
            }
        }
        if (s.groups > 1) return;
        for (int64_t c = line * T::line; c < blocks.k; c += T::line) {  // what there were not blocks enough for
            for (int64_t r = 0; r < next.rows; ++r) {
                copy_line<S>(next.in[r], c, blocks.k, to + c / T::line * T::line_step + r * T::row_step);
            }
        }
    }
};

template <class S>
void vectors_gather_gemm(const Cpu& cpu, const ConvShape& s, const Pairs& pairs, const S* features, const VectorWeight& weight,
                         const S* bias, S* out) {
    using A = Acc<S>;
    if (s.n_out == 0 || s.c_out == 0) return;
    const Scratch<A> start(s.c_out);
    for (int64_t j = 0; j < s.c_out; ++j) start.data[j] = bias ? widen(bias[j]) : A(0);
    const WideValues<S> values(cpu, weight);
    const VectorBlocks blocks(s);
    const VectorGemm<S> gemm{
        s, pairs, features, weight, values.data, start.data, TapOrder(pairs, s.n_out), blocks, vector_tile_rows<A>(blocks.k)};
    const VectorPlan plan(s, blocks.all, weight.stored * VectorWeight::block * static_cast<int64_t>(sizeof(A)));
    const BlockPairs sections(cpu, pairs, s.n_out, plan.section_rows);
    for_each_block(cpu, plan.parts * sections.blocks, [&](int64_t task) {
        const int64_t section = task % sections.blocks, part = task / sections.blocks;
        const int64_t first = blocks.all * part / plan.parts, last = blocks.all * (part + 1) / plan.parts;
        const Scratch<int64_t> cursor(pairs.taps);
        const Scratch<A> copied(2 * TileRows<A>::size(blocks.k));
        for (int64_t t = 0; t < pairs.taps; ++t) cursor.data[t] = sections.begin(section, t);
        const int64_t end = min_of((section + 1) * plan.section_rows, s.n_out);
        for (int64_t row = section * plan.section_rows; row < end; row += plan.block_rows) {
            const int64_t last_row = min_of(row + plan.block_rows, end);
            if constexpr (sizeof(S) == sizeof(A)) {
                gemm.block(row, last_row, first, last, cursor.data, copied.data, out + row * s.c_out);
            } else {
                const Scratch<A> sums((last_row - row) * s.c_out);
                gemm.block(row, last_row, first, last, cursor.data, copied.data, sums.data);
                const int64_t column = blocks.column(first),
                              columns = blocks.column(last - 1) + blocks.columns(last - 1) - column;
                for (int64_t r = row; r < last_row; ++r) {
                    narrow_row<S>(sums.data + (r - row) * s.c_out + column, columns, out + r * s.c_out + column);
                }
            }
        }
    });
}

}  // namespace sparseconv::SPARSECONV_ISA
