// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Codes of 8 and 4 bits to float.
#pragma once

#include "../compute/rows.h"
#include "quantized_kernels.h"

namespace sparseconv::SPARSECONV_ISA {

// The values of one register of codes, before the scale. p: the first code's byte; 4 bits: it is the low half of it.
template <int Bits>
struct Codes {
    using V = Simd<float>;
    static constexpr int64_t bytes = V::width * Bits / 8;

    explicit Codes(const float* values) : table(values) {
#if defined(__AVX512F__)
        if (Bits == 4) low = _mm512_loadu_ps(values);
#elif defined(__AVX2__)
        if (Bits == 4) {
            low = _mm256_loadu_ps(values);
            high = _mm256_loadu_ps(values + 8);
        }
#endif
    }

    SPARSECONV_INLINE V::Reg load(const uint8_t* p) const {
#if defined(__AVX512F__)
        if constexpr (Bits == 8) {
            return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
        } else {
            return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(halves(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))), low);
        }
#elif defined(__AVX2__)
        if constexpr (Bits == 8) {
            return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
        } else {
            int32_t four;
            __builtin_memcpy(&four, p, sizeof four);
            const __m256i code = _mm256_cvtepu8_epi32(halves(_mm_cvtsi32_si128(four)));
            const __m256 from_high = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));  // the sign bit: codes 8 to 15
            return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code), _mm256_permutevar8x32_ps(high, code), from_high);
        }
#else
        float values[V::width];
        for (int i = 0; i < V::width; ++i) values[i] = one(p, i);
        return V::load(values);
#endif
    }

    // Code number i behind p.
    SPARSECONV_INLINE float one(const uint8_t* p, int64_t i) const {
        if constexpr (Bits == 8) return static_cast<float>(static_cast<int8_t>(p[i]));
        return table[p[i / 2] >> (i % 2 * 4) & 15];
    }

   private:
    const float* table;
#if defined(__AVX512F__)
    __m512 low{};
#elif defined(__AVX2__)
    __m256 low{}, high{};
#endif
#if defined(__AVX2__)
    // Each of the first 8 bytes as two: its low and its high half.
    static SPARSECONV_INLINE __m128i halves(__m128i bytes) {
        const __m128i mask = _mm_set1_epi8(15);
        return _mm_unpacklo_epi8(_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16(bytes, 4), mask));
    }
#endif
};

// Where the codes of one tap lie.
struct QuantizedTap {
    const QuantizedWeight& w;
    const uint8_t* codes;
    int64_t tap, k, c_out, runs;

    QuantizedTap(const QuantizedWeight& weight, int64_t t, int64_t rows, int64_t columns)
        : w(weight),
          codes(weight.codes + quantized_bytes(weight.bits, t, rows, columns)),
          tap(t),
          k(rows),
          c_out(columns),
          runs(weight.bits == 8 ? 1 : ceil_div(rows, weight.run)) {}

    int64_t run_rows() const { return w.bits == 8 ? max_of(k, 1) : w.run; }
    int64_t row_bytes(int64_t b) const { return (min_of(w.block, c_out - b * w.block) * w.bits + 7) / 8; }
    const uint8_t* block(int64_t b) const { return codes + b * (w.block * w.bits / 8) * k; }

    // The scales of n output channels from `first` on, of one run of input channels.
    void scales(int64_t run, int64_t first, int64_t n, float* to) const {
        if (w.scales == nullptr) {
            for (int64_t j = 0; j < n; ++j) to[j] = 1.0f;
        } else if (w.bits == 8) {
            __builtin_memcpy(to, static_cast<const float*>(w.scales) + first, static_cast<size_t>(n) * sizeof(float));
        } else {
            widen_row<Bf16>(static_cast<const Bf16*>(w.scales) + (tap * runs + run) * c_out + first, n, to);
        }
    }
};

// Rows [i0, i1) of input channels of `n` output channels from `first` on, all in one block, to rows of `to` that lie `stride` apart.
template <int Bits, class A>
void decode_in_block(const QuantizedTap& t, int64_t i0, int64_t i1, int64_t first, int64_t n, A* to, int64_t stride) {
    using V = Simd<float>;
    constexpr int64_t block = QuantizedWeight::block;
    const Codes<Bits> codes(t.w.table);
    const int64_t b = first / block, skipped = first % block, row_bytes = t.row_bytes(b), run_rows = t.run_rows();
    const uint8_t* const base = t.block(b);
    float scale[block], values[block];
    int64_t run = -1;
    for (int64_t i = i0; i < i1; ++i, to += stride) {
        if (i / run_rows != run) {
            run = i / run_rows;
            t.scales(run, first, n, scale);
        }
        float* row = values;
        if constexpr (sizeof(A) == sizeof(float)) row = to;
        const uint8_t* p = base + i * row_bytes;
        int64_t j = 0;
        if (Bits == 8 || skipped % 2 == 0) {
            for (; j + V::width <= n; j += V::width) {
                const V::Reg value = codes.load(p + (skipped + j) * Bits / 8);
                V::store(row + j, value * V::load(scale + j));
            }
        }
        for (; j < n; ++j) row[j] = codes.one(p, skipped + j) * scale[j];
        if constexpr (sizeof(A) != sizeof(float)) {
            for (j = 0; j < n; ++j) to[j] = row[j];
        }
    }
}

template <class A>
void decode(const QuantizedTap& t, int64_t i0, int64_t i1, int64_t first, int64_t n, A* to, int64_t stride) {
    constexpr int64_t block = QuantizedWeight::block;
    while (n > 0) {
        const int64_t part = min_of(n, block - first % block);
        if (t.w.bits == 8) {
            decode_in_block<8>(t, i0, i1, first, part, to, stride);
        } else {
            decode_in_block<4>(t, i0, i1, first, part, to, stride);
        }
        first += part, n -= part, to += part;
    }
}

}  // namespace sparseconv::SPARSECONV_ISA
