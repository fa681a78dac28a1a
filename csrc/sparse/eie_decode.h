// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Sixteen entries of an EIE column at once: their rows are prefix sums of their zeros, taken in a register of bytes, and their values
// come out of a register that holds the whole codebook.
#pragma once

#include "../compute/vector.h"

namespace sparseconv::SPARSECONV_ISA {

constexpr int kEieGroup = 16;

#if defined(__AVX2__)

// Byte i: the zeros of entries 0 .. i together, at most 16 * 15.
SPARSECONV_INLINE __m128i eie_zeros(__m128i entries) {
    __m128i sum = _mm_and_si128(entries, _mm_set1_epi8(15));
    sum = _mm_add_epi8(sum, _mm_slli_si128(sum, 1));
    sum = _mm_add_epi8(sum, _mm_slli_si128(sum, 2));
    sum = _mm_add_epi8(sum, _mm_slli_si128(sum, 4));
    return _mm_add_epi8(sum, _mm_slli_si128(sum, 8));
}

#endif

// Reads the entries of a column in groups of kEieGroup; `table` [16] are the values of the codes.
#if defined(__AVX512F__)

class EieDecoder {
   public:
    explicit EieDecoder(const float* table)
        : table_(_mm512_loadu_ps(table)), base_(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)) {}

    // Rows and values [kEieGroup] of the next entries.
    void next(const uint8_t* entries, int32_t* rows, float* values) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(entries));
        const __m512i zeros = _mm512_cvtepu8_epi32(eie_zeros(bytes));
        const __m512i codes = _mm512_srli_epi32(_mm512_cvtepu8_epi32(bytes), 4);
        _mm512_storeu_si512(rows, _mm512_add_epi32(base_, zeros));
        _mm512_storeu_ps(values, _mm512_permutexvar_ps(codes, table_));
        const __m512i last = _mm512_permutexvar_epi32(_mm512_set1_epi32(kEieGroup - 1), zeros);
        base_ = _mm512_add_epi32(base_, _mm512_add_epi32(last, _mm512_set1_epi32(kEieGroup)));
    }

   private:
    __m512 table_;
    __m512i base_;  // the rows of the next entries if no zeros were between them
};

#elif defined(__AVX2__)

class EieDecoder {
   public:
    explicit EieDecoder(const float* table) : low_(_mm256_loadu_ps(table)), high_(_mm256_loadu_ps(table + 8)) {}

    void next(const uint8_t* entries, int32_t* rows, float* values) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(entries));
        const __m128i zeros = eie_zeros(bytes);
        const __m256i base = _mm256_set1_epi32(base_);
        half(bytes, zeros, _mm256_add_epi32(base, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)), rows, values);
        half(_mm_srli_si128(bytes, 8), _mm_srli_si128(zeros, 8),
             _mm256_add_epi32(base, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)), rows + 8, values + 8);
        base_ += _mm_extract_epi8(zeros, kEieGroup - 1) + kEieGroup;
    }

   private:
    void half(__m128i bytes, __m128i zeros, __m256i base, int32_t* rows, float* values) const {
        const __m256i wide = _mm256_cvtepu8_epi32(bytes), codes = _mm256_srli_epi32(wide, 4);
        // A permutation looks at the low three bits of a code; the fourth, moved to the sign, chooses between its two results.
        const __m256 value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low_, codes), _mm256_permutevar8x32_ps(high_, codes),
                                              _mm256_castsi256_ps(_mm256_slli_epi32(wide, 24)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows), _mm256_add_epi32(base, _mm256_cvtepu8_epi32(zeros)));
        _mm256_storeu_ps(values, value);
    }

    __m256 low_, high_;
    int32_t base_ = 0;
};

#else

class EieDecoder {
   public:
    explicit EieDecoder(const float* table) : table_(table) {}

    void next(const uint8_t* entries, int32_t* rows, float* values) {
        for (int i = 0; i < kEieGroup; ++i) {
            row_ += entries[i] & 15;
            rows[i] = row_++;
            values[i] = table_[entries[i] >> 4];
        }
    }

   private:
    const float* table_;
    int32_t row_ = 0;
};

#endif

}  // namespace sparseconv::SPARSECONV_ISA
