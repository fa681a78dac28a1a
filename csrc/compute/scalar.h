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

// n elements from accumulators to storage.
template <class S>
SPARSECONV_INLINE void narrow_row(const Acc<S>* x, int64_t n, S* y) {
    for (int64_t i = 0; i < n; ++i) narrow(x[i], y[i]);
}

// n elements from storage to accumulators.
template <class S>
SPARSECONV_INLINE void widen_row(const S* x, int64_t n, Acc<S>* y) {
    using V = Simd<Acc<S>>;
    for (; n >= V::width; n -= V::width, x += V::width, y += V::width) V::store(y, load_wide<S>(x));
    for (int64_t i = 0; i < n; ++i) y[i] = widen(x[i]);
}

}  // namespace sparseconv::SPARSECONV_ISA
