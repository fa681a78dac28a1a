// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Codes of 8 and 4 bits to float.
#pragma once

#include "../compute/rows.h"
#include "quantized_kernels.h"

namespace sparseconv::SPARSECONV_ISA {

// Values of codes, before the scale. High: of 4 bits, those in the high halves of the bytes.
template <int Bits>
struct Codes {
    using V = Simd<float>;

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

    // A register, from as many bytes.
    template <bool High>
    SPARSECONV_INLINE V::Reg load(const uint8_t* p) const {
#if defined(__AVX512F__)
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        if constexpr (Bits == 8) return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
        const __m512i code = _mm512_cvtepu8_epi32(bytes);  // a permutation looks at the low 4 bits
        return _mm512_permutexvar_ps(High ? _mm512_srli_epi32(code, 4) : code, low);
#elif defined(__AVX2__)
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
        if constexpr (Bits == 8) return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
        __m256i code = _mm256_cvtepu8_epi32(bytes);  // a permutation looks at the low 3 bits
        if constexpr (High) code = _mm256_srli_epi32(code, 4);
        const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));  // bit 3 as the sign: codes 8 to 15
        return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code), _mm256_permutevar8x32_ps(high, code), upper);
#else
        float values[V::width];
        for (int i = 0; i < V::width; ++i) values[i] = one<High>(p[i]);
        return V::load(values);
#endif
    }

    template <bool High>
    SPARSECONV_INLINE float one(uint8_t byte) const {
        if constexpr (Bits == 8) return static_cast<float>(static_cast<int8_t>(byte));
        return table[High ? byte >> 4 : byte & 15];
    }

   private:
    const float* table;
#if defined(__AVX512F__)
    __m512 low{};
#elif defined(__AVX2__)
    __m256 low{}, high{};
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

// Rows [i0, i1) of input channels of the n output channels from `first` on, whose codes lie in bytes [byte, byte + n) of the rows of
// block b, to rows of `to` that lie `stride` apart.
template <int Bits, bool High, class A>
void decode_bytes(const QuantizedTap& t, int64_t i0, int64_t i1, int64_t b, int64_t byte, int64_t first, int64_t n, A* to,
                  int64_t stride) {
    using V = Simd<float>;
    const Codes<Bits> codes(t.w.table);
    const int64_t row_bytes = t.row_bytes(b), run_rows = t.run_rows();
    const uint8_t* p = t.block(b) + i0 * row_bytes + byte;
    float scale[QuantizedWeight::block], values[QuantizedWeight::block];
    int64_t run = -1;
    for (int64_t i = i0; i < i1; ++i, to += stride, p += row_bytes) {
        if (i / run_rows != run) {
            run = i / run_rows;
            t.scales(run, first, n, scale);
        }
        float* row = values;
        if constexpr (sizeof(A) == sizeof(float)) row = to;
        int64_t j = 0;
        for (; j + V::width <= n; j += V::width) V::store(row + j, codes.template load<High>(p + j) * V::load(scale + j));
        for (; j < n; ++j) row[j] = codes.template one<High>(p[j]) * scale[j];
        if constexpr (sizeof(A) != sizeof(float)) {
            for (j = 0; j < n; ++j) to[j] = row[j];
        }
    }
}

// The same for any output channels [first, first + n).
template <class A>
void decode(const QuantizedTap& t, int64_t i0, int64_t i1, int64_t first, int64_t n, A* to, int64_t stride) {
    while (n > 0) {
        const int64_t b = first / t.w.block, at = first % t.w.block, bytes = t.row_bytes(b);
        const int64_t end = min_of(t.w.block, t.c_out - b * t.w.block);
        int64_t part = min_of(n, end - at);
        if (t.w.bits == 8) {
            decode_bytes<8, false>(t, i0, i1, b, at, first, part, to, stride);
        } else if (at < bytes) {
            part = min_of(part, bytes - at);
            decode_bytes<4, false>(t, i0, i1, b, at, first, part, to, stride);
        } else {
            decode_bytes<4, true>(t, i0, i1, b, at - bytes, first, part, to, stride);
        }
        first += part, n -= part, to += part;
    }
}

}  // namespace sparseconv::SPARSECONV_ISA
