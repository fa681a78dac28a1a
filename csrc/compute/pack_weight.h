// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The packed weight: [tap][group][panel][c_in / groups][columns of the panel], in the accumulation type, or pairs of input channels in
// words of its size, for the matrix unit filled up to a multiple of 16 words. The registers of columns are spread evenly over as few
// panels as hold them; columns beyond c_out are zero.
#pragma once

#include "blocking.h"

namespace sparseconv::SPARSECONV_ISA {

template <class A>
struct PackedWeight {
    static constexpr int width = Simd<A>::width;
    // Of one group; k in operands of `elements` input channels, rows in steps of them.
    int64_t k, rows, columns, all_registers, panels;

    explicit PackedWeight(const ConvShape& s, int elements = 1, int step = 1)
        : k(s.c_in / s.groups / elements),
          rows(round_up(k, step)),
          columns(s.c_out / s.groups),
          all_registers(ceil_div(columns, width)),
          panels(ceil_div(all_registers, Tiling<A>::most_registers)) {}
    int64_t first_register(int64_t p) const { return all_registers * p / panels; }
    int64_t registers(int64_t p) const { return first_register(p + 1) - first_register(p); }
    int64_t first_column(int64_t p) const { return first_register(p) * width; }
    int64_t panel_columns(int64_t p) const { return min_of(registers(p) * width, columns - first_column(p)); }
    int64_t panel_offset(int64_t p) const { return first_column(p) * rows; }
    int64_t group_size() const { return rows * all_registers * width; }
};

SPARSECONV_INLINE bool is_depthwise(const ConvShape& s) { return s.groups > 1 && s.groups == s.c_in && s.groups == s.c_out; }

// Whether rows can be read in pairs of input channels.
SPARSECONV_INLINE bool pairs_up(const ConvShape& s) { return s.c_in / s.groups % 2 == 0 && !is_depthwise(s); }

template <class X>
PackedWeight<Acc<X>> packed_layout(const ConvShape& s) {
    return PackedWeight<Acc<X>>(s, Operand<X>::elements, Operand<X>::step);
}

template <class X>
int64_t packed_bytes(const ConvShape& s, int64_t taps) {
    const PackedWeight<Acc<X>> layout = packed_layout<X>(s);
    return taps * (is_depthwise(s) ? s.c_out : s.groups * layout.group_size()) * static_cast<int64_t>(sizeof(Acc<X>));
}

// to[i, j] = from[i * in + j * out] for k rows of `columns` elements, zeros up to `stride`. The inner loop follows the stride of 1, if
// there is one: the output channels' for a layer's own layout, the input channels' for the gradient of the input.
template <class S>
void pack_panel(const S* from, int64_t in, int64_t out, int64_t k, int64_t columns, int64_t stride, Acc<S>* to) {
    if (out != 1 && in == 1) {
        for (int64_t j = 0; j < columns; ++j) {
            for (int64_t i = 0; i < k; ++i) to[i * stride + j] = widen(from[i + j * out]);
        }
    } else {
        for (int64_t i = 0; i < k; ++i) {
            if (out == 1) {
                widen_row<S>(from + i * in, columns, to + i * stride);
            } else {
                for (int64_t j = 0; j < columns; ++j) to[i * stride + j] = widen(from[i * in + j * out]);
            }
        }
    }
    for (int64_t i = 0; columns < stride && i < k; ++i) {
        for (int64_t j = columns; j < stride; ++j) to[i * stride + j] = 0;
    }
}

// The same in pairs: k counts pairs of rows, and a word has the even row's element below the odd row's.
inline void pack_pairs(const Bf16* from, int64_t in, int64_t out, int64_t k, int64_t columns, int64_t stride, float* to) {
    for (int64_t i = 0; i < k; ++i, from += 2 * in, to += stride) {
        for (int64_t j = 0; j < columns; ++j) {
            const uint32_t word = uint32_t{from[j * out].bits} | uint32_t{from[j * out + in].bits} << 16;
            __builtin_memcpy(to + j, &word, sizeof word);
        }
        for (int64_t j = columns; j < stride; ++j) to[j] = 0;
    }
}

template <class X>
void pack_weight(const Cpu& cpu, const ConvShape& s, int64_t taps, const Weight& weight, Acc<X>* packed) {
    using S = typename Operand<X>::Storage;
    const S* data = static_cast<const S*>(weight.data);
    if (is_depthwise(s)) {
        for_each_block(alone_below(cpu, taps * s.groups), taps, [&](int64_t t) {
            for (int64_t g = 0; g < s.groups; ++g) packed[t * s.groups + g] = widen(data[t * weight.tap + g * weight.group]);
        });
        return;
    }
    const PackedWeight<Acc<X>> layout = packed_layout<X>(s);
    for_each_block(alone_below(cpu, taps * s.groups * layout.group_size()), taps * s.groups, [&](int64_t tg) {
        const S* from = data + tg / s.groups * weight.tap + tg % s.groups * weight.group;
        for (int64_t p = 0; p < layout.panels; ++p) {
            const int64_t columns = layout.panel_columns(p), stride = layout.registers(p) * layout.width;
            Acc<X>* to = packed + tg * layout.group_size() + layout.panel_offset(p);
            const S* panel = from + layout.first_column(p) * weight.out;
            if constexpr (Operand<X>::elements == 2) {
                pack_pairs(panel, weight.in, weight.out, layout.k, columns, stride, to);
                for (int64_t i = layout.k * stride; i < layout.rows * stride; ++i) to[i] = 0;
            } else {
                pack_panel<S>(panel, weight.in, weight.out, layout.k, columns, stride, to);
            }
        }
    });
}

}  // namespace sparseconv::SPARSECONV_ISA
