// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Gradient of the weight: per tap, the sum over pairs of an input row times an output row. blocking.h says how and why.
#pragma once

#include "depthwise.h"
#include "pack_weight.h"

namespace sparseconv::SPARSECONV_ISA {

// How the work is cut: out rows into blocks that fit the second-level cache, blocks into sections. A task is (section, tap group)
// and owns the sums of its section, which are then added in the order of the sections. Depends on shapes only.
template <class A>
struct OuterPlan {
    int64_t block_rows, blocks, sections, tap_groups, weight_size;

    OuterPlan(const ConvShape& s, int64_t taps) {
        const int64_t row_bytes = (s.c_in + s.c_out) * static_cast<int64_t>(sizeof(A));
        weight_size = s.c_in / s.groups * s.c_out;
        block_rows = max_of(256, min_of(8192, outer_block_bytes / max_of(row_bytes, 1)));
        block_rows = max_of(256, min_of(block_rows, ceil_div(s.n_out, 16)));
        blocks = ceil_div(s.n_out, block_rows);
        const int64_t bytes = max_of(1, taps * weight_size * static_cast<int64_t>(sizeof(A)));
        const int64_t affordable = max_of(1, outer_partial_bytes / bytes);
        sections = max_of(1, min_of(blocks, min_of(outer_tasks, affordable)));
        tap_groups = max_of(1, min_of(taps, ceil_div(outer_tasks, sections)));
    }
    int64_t section_begin(int64_t i) const { return blocks * i / sections; }
};

// acc[r, :] = sum over the pairs of a[pair, r] * b[pair, :]; then sums += acc. a and b are columns of copied rows (copy_rows).
template <class A, int R, int NV, int Rows>
void outer_tile(const A* a, const A* b, int64_t pairs, A* sums, int64_t stride, int64_t rows, int64_t columns) {
    using V = Simd<A>;
    constexpr int line = kLine<A>;
    typename V::Reg acc[R][NV];
    SPARSECONV_UNROLL
    for (int r = 0; r < R; ++r) {
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) acc[r][v] = V::zero();
    }
    for (int64_t p = 0; p < pairs; ++p, a += line, b += line) {
        typename V::Reg bs[NV];
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) bs[v] = V::load(b + v * V::width / line * Rows * line + v * V::width % line);
        SPARSECONV_UNROLL
        for (int r = 0; r < R; ++r) {
            const typename V::Reg x = V::broadcast(a + r);
            SPARSECONV_UNROLL
            for (int v = 0; v < NV; ++v) acc[r][v] = V::fma(x, bs[v], acc[r][v]);
        }
    }
    SPARSECONV_UNROLL
    for (int r = 0; r < R; ++r) {
        if (r >= rows) return;
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) {
            A* to = sums + r * stride + v * V::width;
            const int64_t n = columns - v * V::width;
            if (n >= V::width) {
                V::store(to, V::add(V::load(to), acc[r][v]));
            } else if (n > 0) {
                V::store_part(to, V::add(V::load_part(to, n), acc[r][v]), n);
            }
        }
    }
}

// All tiles of one group over `pairs` copied pairs.
template <class A, int R, int NV, int Rows>
void outer_tiles(const A* a_lines, const A* b_lines, int64_t pairs, int64_t k, int64_t columns, A* sums, int64_t stride) {
    constexpr int line = kLine<A>, panel = NV * Simd<A>::width;
    for (int64_t j = 0; j < columns; j += panel) {
        const A* b = b_lines + j / line * Rows * line + j % line;
        for (int64_t i = 0; i < k; i += R) {
            const A* a = a_lines + i / line * Rows * line + i % line;
            outer_tile<A, R, NV, Rows>(a, b, pairs, sums + i * stride + j, stride, k - i, columns - j);
        }
    }
}

// sums[ci, co] += over the pairs [first, last) of one tap.
template <class S>
void outer_tap(const ConvShape& s, const Pairs& pairs, int64_t first, int64_t last, const S* features, const S* grad_out,
               Acc<S>* lines, Acc<S>* sums) {
    using A = Acc<S>;
    using O = OuterTiling<A>;
    const int64_t k = s.c_in / s.groups, columns = s.c_out / s.groups;
    A* b_lines = lines + O::chunk * round_up(k, kLine<A>);
    int64_t chunks = ceil_div(last - first, O::chunk);
    for (int64_t p = first; p < last; --chunks) {
        const int64_t n = ceil_div(last - p, chunks);
        for (int64_t g = 0; g < s.groups; ++g) {
            copy_rows<O::chunk>(features, s.c_in, g * k, k, n, [&](int64_t r) { return in_row(pairs, p + r); }, lines);
            copy_rows<O::chunk>(
                grad_out, s.c_out, g * columns, columns, n, [&](int64_t r) { return out_row(pairs, p + r); }, b_lines);
            A* to = sums + g * columns;
            if (columns <= Simd<A>::width) {
                outer_tiles<A, O::rows1, 1, O::chunk>(lines, b_lines, n, k, columns, to, s.c_out);
            } else if (k <= 4) {
                outer_tiles<A, 4, 2, O::chunk>(lines, b_lines, n, k, columns, to, s.c_out);
            } else {
                outer_tiles<A, O::rows2, 2, O::chunk>(lines, b_lines, n, k, columns, to, s.c_out);
            }
        }
        p += n;
    }
}

template <class S>
int64_t outer_bytes(const ConvShape& s, const Pairs& pairs) {
    using A = Acc<S>;
    const OuterPlan<A> plan(s, pairs.taps);
    return plan.sections * pairs.taps * plan.weight_size * static_cast<int64_t>(sizeof(A));
}

template <class S>
void gather_outer(const Cpu& cpu, const ConvShape& s, const Pairs& pairs, const S* features, const S* grad_out, S* grad_weight,
                  void* scratch) {
    using A = Acc<S>;
    using O = OuterTiling<A>;
    const OuterPlan<A> plan(s, pairs.taps);
    const int64_t size = pairs.taps * plan.weight_size;
    if (size == 0) return;
    const BlockPairs block_pairs(cpu, pairs, s.n_out, plan.block_rows);
    A* partial = static_cast<A*>(scratch);  // [section][tap][c_in / groups][c_out]
    // Whole lines are copied, whole panels are read.
    const int64_t b_unit = max_of(kLine<A>, Tiling<A>::panel);
    const int64_t columns = round_up(s.c_in / s.groups, kLine<A>) + round_up(s.c_out / s.groups, b_unit);
    const int64_t lines_size = is_depthwise(s) ? 0 : O::chunk * columns;

    for_each_block(cpu, plan.sections * plan.tap_groups, [&](int64_t task) {
        const int64_t section = task / plan.tap_groups, group = task % plan.tap_groups;
        const int64_t first_tap = pairs.taps * group / plan.tap_groups, last_tap = pairs.taps * (group + 1) / plan.tap_groups;
        A* sums = partial + section * size;
        for (int64_t i = first_tap * plan.weight_size; i < last_tap * plan.weight_size; ++i) sums[i] = 0;
        const Scratch<A> lines(lines_size);
        for (int64_t b = plan.section_begin(section); b < plan.section_begin(section + 1); ++b) {
            for (int64_t t = first_tap; t < last_tap; ++t) {
                const int64_t first = block_pairs.begin(b, t), last = block_pairs.end(b, t);
                if (first == last) continue;
                if (is_depthwise(s)) {
                    depthwise_outer<S>(s.c_out, pairs, first, last, features, grad_out, sums + t * plan.weight_size);
                } else {
                    outer_tap<S>(s, pairs, first, last, features, grad_out, lines.data, sums + t * plan.weight_size);
                }
            }
        }
    });
    constexpr int64_t piece = 4096;
    for_each_block(cpu, ceil_div(size, piece), [&](int64_t task) {
        const int64_t begin = task * piece, end = min_of(size, begin + piece);
        for (int64_t section = 1; section < plan.sections; ++section) {
            for (int64_t i = begin; i < end; ++i) partial[i] += partial[section * size + i];
        }
        narrow_row<S>(partial + begin, end - begin, grad_weight + begin);
    });
}

}  // namespace sparseconv::SPARSECONV_ISA
