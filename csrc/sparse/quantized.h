// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// quantized_kernels.h on one instruction set.
#pragma once

#include "../compute/gather_gemm.h"
#include "quantized_decode.h"

namespace sparseconv::SPARSECONV_ISA {

template <class S>
void pack_quantized(const Cpu& cpu, const ConvShape& s, int64_t taps, const QuantizedWeight& weight, Acc<S>* packed) {
    if (is_depthwise(s)) {
        for_each_block(alone_below(cpu, taps * s.groups), taps, [&](int64_t t) {
            decode(QuantizedTap(weight, t, 1, s.c_out), 0, 1, 0, s.c_out, packed + t * s.c_out, 0);
        });
        return;
    }
    const PackedWeight<Acc<S>> layout(s);
    for_each_block(alone_below(cpu, taps * s.groups * layout.group_size()), taps * s.groups, [&](int64_t tg) {
        const QuantizedTap tap(weight, tg / s.groups, layout.k, s.c_out);
        for (int64_t p = 0; p < layout.panels; ++p) {
            const int64_t columns = layout.panel_columns(p), stride = layout.registers(p) * layout.width;
            const int64_t first = tg % s.groups * layout.columns + layout.first_column(p);
            Acc<S>* to = packed + tg * layout.group_size() + layout.panel_offset(p);
            decode(tap, 0, layout.k, first, columns, to, stride);
            for (int64_t i = 0; columns < stride && i < layout.k; ++i) {
                for (int64_t j = columns; j < stride; ++j) to[i * stride + j] = 0;
            }
        }
    });
}

template <class S>
void quantized_gather_gemm(const Cpu& cpu, const ConvShape& s, const Pairs& pairs, const S* features,
                           const QuantizedWeight& weight, const S* bias, S* out, void* scratch) {
    if (s.n_out == 0 || s.c_out == 0) return;
    Acc<S>* packed = static_cast<Acc<S>*>(scratch);
    if (s.c_in > 0) pack_quantized<S>(cpu, s, pairs.taps, weight, packed);
    gather_gemm_packed<S>(cpu, s, pairs, features, packed, bias, out);
}

// One row times a whole block of output channels: codes are decoded into registers and used once.
template <int Bits>
void row_times_block(const QuantizedTap& t, int64_t b, const float* x, const float* start, float* out) {
    using V = Simd<float>;
    constexpr int64_t block = QuantizedWeight::block;
    constexpr int registers = block / V::width, low = registers * Bits / 8;  // those of the bytes' low halves
    const Codes<Bits> codes(t.w.table);
    const uint8_t* p = t.block(b);
    float scale[block];
    typename V::Reg acc[registers], scales[registers];
    SPARSECONV_UNROLL
    for (int v = 0; v < registers; ++v) acc[v] = V::load(start + v * V::width);
    for (int64_t i = 0, run = 0; i < t.k; ++run) {
        t.scales(run, b * block, block, scale);
        SPARSECONV_UNROLL
        for (int v = 0; v < registers; ++v) scales[v] = V::load(scale + v * V::width);
        for (const int64_t end = min_of(i + t.run_rows(), t.k); i < end; ++i) {
            const typename V::Reg value = V::broadcast(x + i);
            SPARSECONV_UNROLL
            for (int v = 0; v < low; ++v) {
                acc[v] = V::fma(value, codes.template load<false>(p + v * V::width) * scales[v], acc[v]);
                if constexpr (Bits == 4) {
                    acc[low + v] = V::fma(value, codes.template load<true>(p + v * V::width) * scales[low + v], acc[low + v]);
                }
            }
            p += low * V::width;
        }
    }
    SPARSECONV_UNROLL
    for (int v = 0; v < registers; ++v) V::store(out + v * V::width, acc[v]);
}

// Output channels [first, first + columns) of a block for n rows: input channels in pieces whose decoded weights stay in the
// first-level cache while all rows pass over them.
template <class A>
void rows_times_block(const QuantizedTap& t, int64_t first, int64_t columns, const A* x, const Pair* rows, int64_t n,
                      const A* start, A* out, int64_t out_stride, A* panel) {
    constexpr int64_t width = Simd<A>::width, most = Tiling<A>::most_registers;
    const int64_t registers = ceil_div(columns, width), depth = Tiling<A>::depth(min_of(registers, most));
    for (int64_t i0 = 0; i0 < t.k || i0 == 0; i0 += depth) {
        const int64_t k = min_of(depth, t.k - i0);
        for (int64_t r = 0; r < registers; r += most) {
            const int64_t wide = min_of(most, registers - r), part = min_of(wide * width, columns - r * width);
            if (part < wide * width) {
                for (int64_t j = 0; j < k * wide * width; ++j) panel[j] = 0;
            }
            decode(t, i0, i0 + k, first + r * width, part, panel, wide * width);
            const int64_t at = r * width;
            run_pairs<A>(wide,
                         {x + i0, t.k, panel, k, (i0 == 0 ? start : out) + at, i0 == 0 ? 0 : out_stride, out + at, out_stride,
                          part, out + at},
                         rows, n);
        }
    }
}

template <class S>
void quantized_linear(const Cpu& cpu, int64_t rows, int64_t k, int64_t c_out, const S* x, const QuantizedWeight& weight,
                      const S* bias, S* out) {
    using A = Acc<S>;
    constexpr int64_t block = QuantizedWeight::block;
    if (rows == 0 || c_out == 0) return;
    const Scratch<A> start(round_up(c_out, block));
    for (int64_t j = 0; j < c_out; ++j) start.data[j] = bias ? widen(bias[j]) : A(0);
    const QuantizedTap tap(weight, 0, k, c_out);
    // Rows of a section stay in the second-level cache while the pieces of the weight pass over them.
    const int64_t section = max_of(8, min_of(512, (1 << 18) / max_of(k, 1))), blocks = ceil_div(c_out, block);
    for_each_block(alone_below(cpu, rows * k * c_out / 8), blocks * ceil_div(rows, section), [&](int64_t task) {
        const int64_t b = task % blocks, first = b * block, columns = min_of(block, c_out - first);
        const int64_t row = task / blocks * section, n = min_of(section, rows - row);
        const A* from = start.data;
        const Scratch<A> wide(sizeof(S) != sizeof(A) ? n * k : 0), sums(n * block), panel(Tiling<A>::depth(1) * Simd<A>::width);
        if constexpr (sizeof(S) == sizeof(A)) {
            from = x + row * k;
        } else {
            widen_row<S>(x + row * k, n * k, wide.data);
            from = wide.data;
        }
        bool done = false;
        if constexpr (sizeof(A) == sizeof(float)) {
            done = n == 1 && columns == block;
            if (done && weight.bits == 8) row_times_block<8>(tap, b, from, start.data + first, sums.data);
            if (done && weight.bits == 4) row_times_block<4>(tap, b, from, start.data + first, sums.data);
        }
        if (!done) {
            const Scratch<Pair> list(n);
            for (int64_t r = 0; r < n; ++r) list.data[r] = {static_cast<int32_t>(r), static_cast<int32_t>(r)};
            rows_times_block<A>(tap, first, columns, from, list.data, n, start.data + first, sums.data, block, panel.data);
        }
        for (int64_t r = 0; r < n; ++r) narrow_row<S>(sums.data + r * block, columns, out + (row + r) * c_out + first);
    });
}

}  // namespace sparseconv::SPARSECONV_ISA
