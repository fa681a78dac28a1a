// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// gather_outer on processors with a matrix unit (AMX): 16 input channels times 16 output channels, 32 pairs of rows a step. The unit
// multiplies along words of two neighbours in the sum, here the rows of pairs 2 k and 2 k + 1: rows are woven two by two, and those
// of the input transposed too.
#pragma once

#include "matrix_unit.h"
#include "outer_tile.h"

namespace sparseconv::SPARSECONV_ISA {

// Whether a layer's sums are whole tiles.
SPARSECONV_INLINE bool fills_tiles(const ConvShape& s) { return s.groups == 1 && s.c_in % 16 == 0 && s.c_out % 16 == 0; }

#if defined(SPARSECONV_HAVE_AMX)

namespace matrix {

constexpr int64_t kStepPairs = 32, kTileWords = 256;

// 16 channels of two rows, word by word.
SPARSECONV_INLINE __m512i weave(const Bf16* even, const Bf16* odd) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd)));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// 16 x 16 words, in place.
SPARSECONV_INLINE void transpose(__m512i (&r)[16]) {
    __m512i t[16];
    SPARSECONV_UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    SPARSECONV_UNROLL
    for (int i = 0; i < 16; i += 4) {  // now r[i + j] has columns 4 l + j of rows i .. i + 3, in lane l
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    SPARSECONV_UNROLL
    for (int j = 0; j < 4; ++j) {
        const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        const __m512i c = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88), d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        r[j] = _mm512_shuffle_i32x4(a, c, 0x88);
        r[4 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
        r[8 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
        r[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

// Tiles [c / 16][steps] of rows woven: word [k][j] of a tile has channel j of rows 2 k and 2 k + 1, or word [j][k].
template <bool Transposed>
void weave_tiles(const Bf16* const* rows, int64_t steps, int64_t c, uint32_t* tiles) {
    for (int64_t step = 0; step < steps; ++step, rows += kStepPairs) {
        for (int64_t i = 0; i < c / 16; ++i) {
            uint32_t* const tile = tiles + (i * steps + step) * kTileWords;
            if constexpr (Transposed) {
                __m512i words[16];
                SPARSECONV_UNROLL
                for (int k = 0; k < 16; ++k) words[k] = weave(rows[2 * k] + 16 * i, rows[2 * k + 1] + 16 * i);
                transpose(words);
                SPARSECONV_UNROLL
                for (int k = 0; k < 16; ++k) _mm512_storeu_si512(tile + 16 * k, words[k]);
            } else {
                for (int k = 0; k < 16; ++k) {
                    _mm512_storeu_si512(tile + 16 * k, weave(rows[2 * k] + 16 * i, rows[2 * k + 1] + 16 * i));
                }
            }
        }
    }
}

// sums [M * 16][N * 16], of rows of `stride`, += M rows of tiles times N.
template <int M, int N>
SPARSECONV_INLINE void add_products(const uint32_t* left, const uint32_t* right, int64_t steps, float* sums, int64_t stride) {
    each<M * N>([&](auto t) __attribute__((always_inline)) { load<t>(sums + t / N * kRows * stride + t % N * 16, stride * 4); });
    for (int64_t k = 0; k < steps; ++k, left += kTileWords, right += kTileWords) {
        each<M>([&](auto m) __attribute__((always_inline)) { load<4 + m>(left + m * steps * kTileWords, kRowBytes); });
        each<N>([&](auto n) __attribute__((always_inline)) {
            load<6 + n>(right + n * steps * kTileWords, kRowBytes);
            each<M>([&](auto m) __attribute__((always_inline)) { multiply_add<m * N + n, 4 + m, 6 + n>(); });
        });
    }
    each<M * N>([&](auto t) __attribute__((always_inline)) { store<t>(sums + t / N * kRows * stride + t % N * 16, stride * 4); });
}

// sums[ci, co] += over n <= outer_chunk pairs. scratch: 64 (c_in + c_out) words, and as many zeros as the longer row has.
inline void outer_chunk_of_pairs(const ConvShape& s, const Pair* pairs, int64_t n, const Bf16* features, const Bf16* grad_out,
                                 uint32_t* scratch, float* sums) {
    const int64_t steps = ceil_div(n, kStepPairs);
    uint32_t* const left = scratch;
    uint32_t* const right = left + outer_chunk / 2 * s.c_in;
    const Bf16* const zeros = reinterpret_cast<const Bf16*>(right + outer_chunk / 2 * s.c_out);
    const Bf16 *x[outer_chunk], *g[outer_chunk];
    for (int64_t r = 0; r < steps * kStepPairs; ++r) {
        x[r] = r < n ? features + pairs[r].in * s.c_in : zeros;
        g[r] = r < n ? grad_out + pairs[r].out * s.c_out : zeros;
    }
    weave_tiles<true>(x, steps, s.c_in, left);
    weave_tiles<false>(g, steps, s.c_out, right);
    memory_barrier();
    for (int64_t i = 0; i < s.c_in / 16; i += 2) {
        const bool two = i + 1 < s.c_in / 16;
        for (int64_t j = 0; j < s.c_out / 16; j += 2) {
            const uint32_t *a = left + i * steps * kTileWords, *b = right + j * steps * kTileWords;
            float* const to = sums + 16 * i * s.c_out + 16 * j;
            if (j + 1 < s.c_out / 16) {
                two ? add_products<2, 2>(a, b, steps, to, s.c_out) : add_products<1, 2>(a, b, steps, to, s.c_out);
            } else {
                two ? add_products<2, 1>(a, b, steps, to, s.c_out) : add_products<1, 1>(a, b, steps, to, s.c_out);
            }
        }
    }
    memory_barrier();
}

}  // namespace matrix

#endif

}  // namespace sparseconv::SPARSECONV_ISA
