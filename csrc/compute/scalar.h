// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Storage types: what an element is in memory and the type it is summed in.
#pragma once

#include "vector.h"

namespace sparseconv::SPARSECONV_ISA {

// bfloat16 as stored: the upper half of a float.
struct Bf16 {
    uint16_t bits;
};

template <class S>
struct Accumulator {
    using Type = S;
};
template <>
struct Accumulator<Bf16> {
    using Type = float;
};
template <class S>
using Acc = typename Accumulator<S>::Type;

// What a tile reads its rows in: the storage type, or two bfloat16 input channels at a time, that an instruction multiplies and adds
// both: Bf16Pair vector registers, Bf16Tile the matrix unit.
struct Bf16Pair {
    uint32_t bits;
};
struct Bf16Tile {
    uint32_t bits;
};
template <>
struct Accumulator<Bf16Pair> {
    using Type = float;
};
template <>
struct Accumulator<Bf16Tile> {
    using Type = float;
};

template <class X>
struct Operand {
    using Storage = X;
    static constexpr int elements = 1;
    static constexpr int step = 1;                                // operands of input channels that are multiplied at a time
    static constexpr bool widened = sizeof(X) != sizeof(Acc<X>);  // into accumulators, before they are multiplied
};
template <>
struct Operand<Bf16Pair> {
    using Storage = Bf16;
    static constexpr int elements = 2;
    static constexpr int step = 1;
    static constexpr bool widened = false;
};
template <>
struct Operand<Bf16Tile> : Operand<Bf16Pair> {
    static constexpr int step = 16;
};

SPARSECONV_INLINE float widen(float x) { return x; }
SPARSECONV_INLINE double widen(double x) { return x; }
SPARSECONV_INLINE float widen(Bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float y;
    __builtin_memcpy(&y, &bits, sizeof y);
    return y;
}

SPARSECONV_INLINE void narrow(float x, float& y) { y = x; }
SPARSECONV_INLINE void narrow(double x, double& y) { y = x; }
// Round to nearest, ties to even, any NaN to 0x7fc0: what torch does.
SPARSECONV_INLINE void narrow(float x, Bf16& y) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    y.bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

// One register of accumulators from n <= width stored elements.
template <class S>
SPARSECONV_INLINE typename Simd<Acc<S>>::Reg load_wide(const S* p) {
    return Simd<S>::load(p);
}
template <>
SPARSECONV_INLINE typename Simd<float>::Reg load_wide<Bf16>(const Bf16* p) {
#if defined(__AVX512F__)
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#elif defined(__AVX2__)
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
#else
    float wide[Simd<float>::width];
    for (int i = 0; i < Simd<float>::width; ++i) wide[i] = widen(p[i]);
    return Simd<float>::load(wide);
#endif
}

template <class S>
SPARSECONV_INLINE typename Simd<Acc<S>>::Reg load_wide_part(const S* p, int64_t n) {
    return Simd<S>::load_part(p, n);
}
template <>
SPARSECONV_INLINE typename Simd<float>::Reg load_wide_part<Bf16>(const Bf16* p, int64_t n) {
    float wide[Simd<float>::width] = {};
    for (int64_t i = 0; i < n; ++i) wide[i] = widen(p[i]);
    return Simd<float>::load(wide);
}

// One operand in every lane.
template <class A>
SPARSECONV_INLINE typename Simd<A>::Reg broadcast(const A* p) {
    return Simd<A>::broadcast(p);
}
SPARSECONV_INLINE typename Simd<float>::Reg broadcast(const Bf16Pair* p) {
    typedef float Word __attribute__((may_alias));
    return Simd<float>::broadcast(reinterpret_cast<const Word*>(p));
}

// a * b + c in each lane; of a pair first the odd channel's product is added, then the even one's, each sum rounded.
template <class X>
SPARSECONV_INLINE typename Simd<Acc<X>>::Reg multiply_add(typename Simd<Acc<X>>::Reg a, typename Simd<Acc<X>>::Reg b,
                                                          typename Simd<Acc<X>>::Reg c) {
    return Simd<Acc<X>>::fma(a, b, c);
}
#if defined(__AVX512F__)
template <>
SPARSECONV_INLINE __m512 multiply_add<Bf16Pair>(__m512 a, __m512 b, __m512 c) {
    // Written out, so that no other code of this file is compiled for processors that have the instruction.
    asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(b), "v"(a));
    return c;
}
#endif

// n elements from accumulators to storage.
template <class S>
SPARSECONV_INLINE void narrow_row(const Acc<S>* x, int64_t n, S* y) {
#if defined(__AVX512F__)
    if constexpr (sizeof(S) == 2) {
        for (; n >= 16; n -= 16, x += 16, y += 16) {
            const __m512i bits = _mm512_loadu_si512(x);
            const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
            const __m512i rounded =
                _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
            const __m512 value = _mm512_castsi512_ps(bits);
            const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
            const __m512i kept = _mm512_mask_blend_epi32(nan, rounded, _mm512_set1_epi32(0x7fc0));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm512_cvtepi32_epi16(kept));
        }
    }
#endif
    for (int64_t i = 0; i < n; ++i) narrow(x[i], y[i]);
}

// n elements from storage to accumulators.
template <class S>
SPARSECONV_INLINE void widen_row(const S* x, int64_t n, Acc<S>* y) {
    using V = Simd<Acc<S>>;
    for (; n >= V::width; n -= V::width, x += V::width, y += V::width) V::store(y, load_wide<S>(x));
    for (int64_t i = 0; i < n; ++i) y[i] = widen(x[i]);
}

// n elements from storage of 2 bytes to accumulators of 4, of each 2 * width elements first those of even number, then those of odd
// number: that is two operations a register on the little-endian words in memory, where the elements' own order takes four. Writes
// whole registers. split_place says where element i goes; places of i and u add up where 16 divides i and u < 16.
template <class S>
SPARSECONV_INLINE void split_row(const S* x, int64_t n, Acc<S>* y) {
    typedef uint32_t Words __attribute__((vector_size(kRegisterBytes)));
    constexpr int64_t pairs = kRegisterBytes / 4;
    for (; n > 0; n -= 2 * pairs, x += 2 * pairs, y += 2 * pairs) {
        Words both{};
        if (n >= 2 * pairs) {
            __builtin_memcpy(&both, x, sizeof both);
        } else {
            // A copy of fewer bytes would be read before it is written: 20 cycles a row, and of 16 channels every row.
#if defined(__AVX512BW__)
            both = reinterpret_cast<Words>(_mm512_maskz_loadu_epi16((__mmask32{1} << n) - 1u, x));
#else
            __builtin_memcpy(&both, x, static_cast<size_t>(n) * sizeof(S));
#endif
        }
        const Words even = both << 16, odd = both & 0xffff0000u;
        __builtin_memcpy(y, &even, sizeof even);
        __builtin_memcpy(y + pairs, &odd, sizeof odd);
    }
}
template <class A>
SPARSECONV_INLINE constexpr int64_t split_place(int64_t i) {
    constexpr int64_t w = Simd<A>::width;
    return i / (2 * w) * (2 * w) + i % 2 * w + i % (2 * w) / 2;
}

}  // namespace sparseconv::SPARSECONV_ISA
