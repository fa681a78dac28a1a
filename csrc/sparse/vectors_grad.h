// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Gradients of a convolution over a vector-sparse weight.
//
// Of the weight: for the stored rows only. A tile holds the rows of grad_out of some pairs in registers and passes over the list.
//
// Of the input: what is stored are rows along the output channels, over which this gradient sums, so a register holds one channel of
// as many pairs as it has lanes. A tile transposes the 16 channels of a block of those pairs' rows of grad_out, multiplies them by the
// numbers of each stored row into the sums of that row's input channel, and in the end transposes these sums and adds them to the rows.
// The transpositions cost as much as some 8 of 64 dense input channels, less where there are more.
#pragma once

#include "../compute/gather_outer.h"
#include "transpose.h"
#include "vectors.h"

namespace sparseconv::SPARSECONV_ISA {

// --- the weight ---------------------------------------------------------------------------------------------------------------

// The sections of gather_outer, whose sums are those of the stored rows.
template <class S>
int64_t vectors_outer_bytes(const ConvShape& s, const Pairs& pairs, int64_t stored) {
    using A = Acc<S>;
    return OuterPlan<A>(s, pairs.taps).sections * stored * VectorWeight::block * static_cast<int64_t>(sizeof(A));
}

// sums += over n pairs of one tap.
template <class S>
void vectors_outer_tap(const ConvShape& s, const VectorBlocks& blocks, const VectorWeight& weight, int64_t tap, const Pair* pairs,
                       int64_t n, const S* features, const S* grad_out, Acc<S>* copied, Acc<S>* sums) {
    using A = Acc<S>;
    using T = TileRows<A>;
    const int64_t* lists = weight.offsets + tap * blocks.all;
    const int64_t tiles = ceil_div(n, vector_tile_rows<A>(blocks.k));
    for (int64_t left = tiles; left > 0 && lists[0] < lists[blocks.all]; --left) {
        const int64_t rows = ceil_div(n, left);
        for (int64_t b = 0; b < blocks.all; ++b) {
            const int64_t group = blocks.group(b);
            if (b % blocks.of_group == 0) {
                for (int64_t r = 0; r < rows; ++r) {
                    const S* row = features + pairs[r].in * s.c_in + group * blocks.k;
                    for (int64_t c = 0; c < blocks.k; c += T::line) {
                        copy_line<S>(row, c, blocks.k, copied + c / T::line * T::line_step + r * T::row_step);
                    }
                }
            }
            if (lists[b] == lists[b + 1]) continue;
            vector_tiles<S>.outer[rows]({weight.channels + lists[b], nullptr, lists[b + 1] - lists[b], blocks.columns(b)}, copied,
                                        pairs, grad_out + blocks.column(b), s.c_out, sums + lists[b] * VectorWeight::block);
        }
        pairs += rows;
        n -= rows;
    }
}

template <class S>
void vectors_gather_outer(const Cpu& cpu, const ConvShape& s, const Pairs& pairs, const S* features, const S* grad_out,
                          const VectorWeight& weight, S* grad_values, void* scratch) {
    using A = Acc<S>;
    const OuterPlan<A> plan(s, pairs.taps);
    const int64_t size = weight.stored * VectorWeight::block;
    if (size == 0) return;
    const BlockPairs sections(cpu, pairs, s.n_out, plan.section_rows);
    const VectorBlocks blocks(s);
    A* partial = static_cast<A*>(scratch);  // [section][stored][16]
    for_each_block(cpu, plan.sections * plan.tap_groups, [&](int64_t task) {
        const int64_t section = task / plan.tap_groups, group = task % plan.tap_groups;
        const int64_t first_tap = pairs.taps * group / plan.tap_groups, last_tap = pairs.taps * (group + 1) / plan.tap_groups;
        A* sums = partial + section * size;
        const int64_t begin = weight.offsets[first_tap * blocks.all], end = weight.offsets[last_tap * blocks.all];
        for (int64_t i = begin * VectorWeight::block; i < end * VectorWeight::block; ++i) sums[i] = 0;
        const Scratch<A> copied(TileRows<A>::size(blocks.k));
        const Scratch<int64_t> cursor(pairs.taps);
        for (int64_t t = first_tap; t < last_tap; ++t) cursor.data[t] = sections.begin(section, t);
        const int64_t last = min_of((section + 1) * plan.section_rows, s.n_out);
        for (int64_t row = section * plan.section_rows; row < last; row += plan.block_rows) {
            for (int64_t t = first_tap; t < last_tap; ++t) {
                const Pair* list = pairs.data + cursor.data[t];
                const int64_t n =
                    count_below(list, pairs.tap_offsets[t + 1] - cursor.data[t], min_of(row + plan.block_rows, last));
                cursor.data[t] += n;
                vectors_outer_tap<S>(s, blocks, weight, t, list, n, features, grad_out, copied.data, sums);
            }
        }
    });
    constexpr int64_t piece = 4096;
    for_each_block(alone_below(cpu, plan.sections * size), ceil_div(size, piece), [&](int64_t task) {
        const int64_t begin = task * piece, end = min_of(size, begin + piece);
        for (int64_t section = 1; section < plan.sections; ++section) {
            for (int64_t i = begin; i < end; ++i) partial[i] += partial[section * size + i];
        }
        narrow_row<S>(partial + begin, end - begin, grad_values + begin);
    });
}

// --- the input ----------------------------------------------------------------------------------------------------------------

// sums[channel][lane] += over the stored rows of one block: the numbers of the row * those of each pair's row of grad_out.
template <class S>
void vectors_back_block(const StoredRows<Acc<S>>& stored, const Pair* pairs, int64_t n, const S* grad, int64_t stride,
                        Acc<S>* sums) {
    using A = Acc<S>;
    using V = Simd<A>;
    constexpr int W = V::width, held = kWide ? 16 : 8;  // channels of the block whose registers are held
    const auto [channels, values, count, columns] = stored;
    for (int first = 0; first < columns; first += held) {
        typename V::Reg g[held];
        SPARSECONV_UNROLL
        for (int q = 0; q < held; q += W) {
            const int64_t lanes = max_of(0, min_of(W, columns - first - q));
            SPARSECONV_UNROLL
            for (int r = 0; r < W; ++r) {
                const S* from = grad + (r < n ? pairs[r].in : 0) * stride + first + q;
                g[q + r] = r >= n || lanes == 0 ? V::zero() : lanes == W ? load_wide<S>(from) : load_wide_part<S>(from, lanes);
            }
            transpose<A>(g + q);
        }
        for (int64_t j = 0; j < count; ++j) {
            A* to = sums + static_cast<int64_t>(channels[j]) * W;
            const A* value = values + j * VectorWeight::block + first;
            typename V::Reg sum = V::load(to);
            SPARSECONV_UNROLL
            for (int u = 0; u < held; ++u) sum = V::fma(V::broadcast(value + u), g[u], sum);
            V::store(to, sum);
        }
    }
}

// out[pair's out row] += the transposed sums of k channels.
template <class A>
void add_transposed(const A* sums, int64_t k, const Pair* pairs, int64_t n, A* out, int64_t stride) {
    using V = Simd<A>;
    constexpr int W = V::width;
    for (int64_t c = 0; c < k; c += W) {
        typename V::Reg rows[W];
        SPARSECONV_UNROLL
        for (int u = 0; u < W; ++u) rows[u] = V::load(sums + (c + u) * W);
        transpose<A>(rows);
        SPARSECONV_UNROLL
        for (int r = 0; r < W; ++r) {
            if (r >= n) break;
            A* to = out + pairs[r].out * stride + c;
            if (c + W <= k) {
                V::store(to, V::add(V::load(to), rows[r]));
            } else {
                V::store_part(to, V::add(V::load_part(to, k - c), rows[r]), k - c);
            }
        }
    }
}

template <class S>
void vectors_gather_back(const Cpu& cpu, const ConvShape& s, const Pairs& pairs, const S* grad_out, const VectorWeight& weight,
                         bool flip, S* grad_in) {
    using A = Acc<S>;
    constexpr int W = Simd<A>::width;
    if (s.n_out == 0 || s.c_out == 0) return;
    const ConvShape layer{s.n_out, s.n_in, s.groups, s.c_out, s.c_in};
    const VectorBlocks blocks(layer);
    const WideValues<S> values(cpu, weight);
    const VectorPlan plan(s, 1, 0);
    const BlockPairs sections(cpu, pairs, s.n_out, plan.block_rows);
    for_each_block(cpu, sections.blocks, [&](int64_t block) {
        const int64_t first_row = block * plan.block_rows, rows = min_of(plan.block_rows, s.n_out - first_row);
        const Scratch<A> wide(sizeof(S) == sizeof(A) ? 0 : rows * s.c_out);
        A* out = wide.data;
        if constexpr (sizeof(S) == sizeof(A)) out = grad_in + first_row * s.c_out;
        for (int64_t i = 0; i < rows * s.c_out; ++i) out[i] = 0;
        A* const row_zero = shifted(out, -first_row * s.c_out);
        const int64_t sums_size = round_up(blocks.k, W) * W;
        const Scratch<A> sums(sums_size);
        for (int64_t t = 0; t < pairs.taps; ++t) {
            const int64_t* lists = weight.offsets + (flip ? pairs.taps - 1 - t : t) * blocks.all;
            const int64_t begin = sections.begin(block, t), end = sections.end(block, t);
            if (lists[0] == lists[blocks.all]) continue;
            for (int64_t p = begin; p < end; p += W) {
                const int64_t n = min_of(W, end - p);
                for (int64_t g = 0; g < s.groups; ++g) {
                    for (int64_t i = 0; i < sums_size; ++i) sums.data[i] = 0;
                    for (int64_t b = g * blocks.of_group; b < (g + 1) * blocks.of_group; ++b) {
                        if (lists[b] == lists[b + 1]) continue;
                        vectors_back_block<S>({weight.channels + lists[b], values.data + lists[b] * VectorWeight::block,
                                               lists[b + 1] - lists[b], blocks.columns(b)},
                                              pairs.data + p, n, grad_out + blocks.column(b), s.c_in, sums.data);
                    }
                    add_transposed<A>(sums.data, blocks.k, pairs.data + p, n, row_zero + g * blocks.k, s.c_out);
                }
            }
        }
        if constexpr (sizeof(S) != sizeof(A)) narrow_row<S>(wide.data, rows * s.c_out, grad_in + first_row * s.c_out);
    });
}

}  // namespace sparseconv::SPARSECONV_ISA
