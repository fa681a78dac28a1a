// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The tile of gather_gemm on processors with a matrix unit (AMX): 16 gathered rows times 16 output channels, 32 input channels of
// bfloat16 a step. The unit loads and stores rows that lie at one distance from each other, so rows are copied first, and a tap's
// products are added to the sums in memory afterwards, by vector instructions that run beside the unit.
//
// Every product of a tap (of 256 input channels at a time) is summed from zero and then added to the row's sum; the tap that comes
// first is summed from the start instead. So a row's bits depend on no choice made here, and differ from those of other
// instruction sets, whose sums are one chain.
#pragma once

#include "gemm_tile.h"
#include "matrix_unit.h"

namespace sparseconv::SPARSECONV_ISA {

// Operands of a panel's input channels that are summed before the sums go to memory.
template <class X>
int64_t panel_depth(int64_t registers) {
    return Tiling<Acc<X>>::depth(registers);
}

#if defined(SPARSECONV_HAVE_AMX)

namespace matrix {

// Pairs of input channels that are summed before the sums go to memory: rows and weights of a panel then fit the first-level cache.
constexpr int64_t kDepth = 128;

// sums[M * 16][H * 16] = (start or 0) + rows * weight over k steps of 32 input channels. Sums lie sums_bytes from row to row, as do
// rows row_bytes and weights weight_bytes. M * H is 3 or 4 where it can be: fewer leave the unit waiting for its own results.
template <int M, int H>
SPARSECONV_INLINE void multiply(const float* start, const uint8_t* rows, int64_t row_bytes, const float* weight,
                                int64_t weight_bytes, int64_t k, float* sums, int64_t sums_bytes) {
    each<M * H>([&](auto t) __attribute__((always_inline)) {
        if (start != nullptr) {
            load<t>(start + t % H * 16, 0);
        } else {
            zero<t>();
        }
    });
    for (; k > 0; --k, rows += kRowBytes, weight = shifted(weight, kRows * weight_bytes / 4)) {
        const auto load_rows = [&](auto m)
                                   __attribute__((always_inline)) { load<4 + m % 2>(rows + m * kRows * row_bytes, row_bytes); };
        if constexpr (M <= 2) each<M>(load_rows);
        each<H>([&](auto h) __attribute__((always_inline)) {
            load<6 + h % 2>(weight + h * 16, weight_bytes);
            each<M>([&](auto m) __attribute__((always_inline)) {
                if constexpr (M > 2) load_rows(m);
                multiply_add<m * H + h, 4 + m % 2, 6 + h % 2>();
            });
        });
    }
    each<M * H>([&](auto t) __attribute__((always_inline)) {
        store<t>(shifted(sums, t / H * kRows * sums_bytes / 4) + t % H * 16, sums_bytes);
    });
}

// n pairs times a panel of NV registers of output channels, M * 16 pairs at a time, H registers at a time.
template <int M, int NV, int H>
class Tiles {
   public:
    static constexpr int rows = M * kRows;

    explicit Tiles(const Panel<Bf16Tile>& panel)
        : panel_(panel), steps_(ceil_div(panel.k, kRowPairs)), line_bytes_(steps_ * kRowBytes) {
        if (panel.start_stride == 0) __builtin_memcpy(start_, panel.start, static_cast<size_t>(panel.columns) * sizeof(float));
    }

    // What was just written is read a tile later, since the unit's loads and stores wait for it to reach the cache.
    void run(const Pair* pairs, int64_t n) {
        const int64_t tiles = ceil_div(n, rows);
        const auto count = [&](int64_t i) { return min_of(n - i * rows, rows); };
        copy_rows(pairs, count(0), x_[0]);
        for (int64_t i = 0; i < tiles; ++i) {
            if (i + 1 < tiles) copy_rows(pairs + (i + 1) * rows, count(i + 1), x_[(i + 1) % 2]);
            if (i + 2 < tiles) prefetch_rows(pairs + (i + 2) * rows, count(i + 2));
            multiply_rows(count(i), x_[i % 2], products_[i % 2]);
            if (i > 0) add_rows(pairs + (i - 1) * rows, rows, products_[(i - 1) % 2]);
        }
        add_rows(pairs + (tiles - 1) * rows, count(tiles - 1), products_[(tiles - 1) % 2]);
    }

   private:
    void copy_rows(const Pair* pairs, int64_t n, uint8_t* to) const {
        const int64_t whole = panel_.k / kRowPairs, line_bytes = line_bytes_, stride = panel_.x_stride;
        const Bf16Tile* const x = panel_.x;
        const auto rest = static_cast<__mmask16>((1u << panel_.k % kRowPairs) - 1u);
        for (int64_t r = 0; r < n; ++r, to += line_bytes) {
            const Bf16Tile* from = x + pairs[r].in * stride;
            for (int64_t i = 0; i < whole; ++i) _mm512_store_si512(to + i * 64, _mm512_loadu_si512(from + i * 16));
            if (rest != 0) _mm512_store_si512(to + whole * 64, _mm512_maskz_loadu_epi32(rest, from + whole * 16));
        }
    }

    // For what is copied, and added to, one tile later.
    void prefetch_rows(const Pair* pairs, int64_t n) const {
        const auto [x, x_stride, weight, k, start, start_stride, out, out_stride, columns, stored] = panel_;
        for (int64_t r = 0; r < n; ++r) {
            const Bf16Tile* from = x + pairs[r].in * x_stride;
            for (int64_t i = 0; i < k; i += kRowPairs) __builtin_prefetch(from + i);
            const float* to = out + pairs[r].out * out_stride;
            SPARSECONV_UNROLL
            for (int v = 0; v < NV; ++v) __builtin_prefetch(to + v * 16, 1);
        }
    }

    void multiply_rows(int64_t n, const uint8_t* x, float (*products)[NV * 16]) const {
        const float* start = panel_.start_stride == 0 ? start_ : nullptr;
        const float* weight = panel_.weight;
        const int64_t line_bytes = line_bytes_, steps = steps_;
        memory_barrier();
        each<NV / H>([&](auto h) __attribute__((always_inline)) {
            const auto some = [&](auto m) __attribute__((always_inline)) {
                multiply<m, H>(start != nullptr ? start + h * H * 16 : nullptr, x, line_bytes, weight + h * H * 16, NV * 64,
                               steps, products[0] + h * H * 16, NV * 64);
            };
            if (M > 1 && n <= kRows) {
                some(std::integral_constant<int, 1>{});
            } else {
                some(std::integral_constant<int, M>{});
            }
        });
        memory_barrier();
    }

    void add_rows(const Pair* pairs, int64_t n, const float (*products)[NV * 16]) const {
        using V = Simd<float>;
        const bool fresh = panel_.start_stride == 0;
        const int64_t last = panel_.columns - (NV - 1) * V::width, stride = panel_.out_stride;
        float* const out = panel_.out;
        for (int64_t r = 0; r < n; ++r) {
            float* to = out + pairs[r].out * stride;
            SPARSECONV_UNROLL
            for (int v = 0; v < NV; ++v, to += V::width) {
                const bool whole = v + 1 < NV || last == V::width;
                V::Reg sum = V::load(products[r] + v * V::width);
                if (!fresh) sum = V::add(whole ? V::load(to) : V::load_part(to, last), sum);
                if (whole) {
                    V::store(to, sum);
                } else {
                    V::store_part(to, sum, last);
                }
            }
        }
    }

    const Panel<Bf16Tile>& panel_;
    const int64_t steps_, line_bytes_;              // of the unit for a row; of a row's copy
    alignas(64) float start_[NV * 16] = {};         // where all rows have one
    alignas(64) float products_[2][rows][NV * 16];  // of a tap, on their way to the sums
    alignas(64) uint8_t x_[2][rows * kDepth * 4];   // rows, copied; what a last tile lacks is multiplied too, and left
};

}  // namespace matrix

template <>
inline int64_t panel_depth<Bf16Tile>(int64_t) {
    return matrix::kDepth;
}

template <>
SPARSECONV_INLINE void run_pairs<Bf16Tile>(int64_t registers, const Panel<Bf16Tile>& panel, const Pair* pairs, int64_t n) {
    if (registers == 1) return matrix::Tiles<4, 1, 1>(panel).run(pairs, n);
    if (registers == 2) return matrix::Tiles<2, 2, 2>(panel).run(pairs, n);
    if (registers == 3) return matrix::Tiles<1, 3, 3>(panel).run(pairs, n);
    matrix::Tiles<1, 4, 4>(panel).run(pairs, n);
}

#endif

}  // namespace sparseconv::SPARSECONV_ISA
