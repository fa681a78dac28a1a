// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// One register of T on the instruction set this file is compiled for. Everything here lives in the namespace SPARSECONV_ISA, which
// differs per instruction set: a template that two sets shared by name would be merged by the linker into one of the two.
// The generic set is plain vector extensions of 16 bytes (SSE2, NEON).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define SPARSECONV_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define SPARSECONV_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SPARSECONV_UNROLL _Pragma("GCC unroll 64")
#endif

namespace sparseconv::SPARSECONV_ISA {

template <class T>
struct Simd;

#if defined(__AVX512F__)

constexpr int kRegisterBytes = 64;

template <>
struct Simd<float> {
    using Reg = __m512;
    static constexpr int width = 16;
    static SPARSECONV_INLINE Reg zero() { return _mm512_setzero_ps(); }
    static SPARSECONV_INLINE Reg load(const float* p) { return _mm512_loadu_ps(p); }
    static SPARSECONV_INLINE void store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
    static SPARSECONV_INLINE Reg broadcast(const float* p) { return _mm512_set1_ps(*p); }
    static SPARSECONV_INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
    static SPARSECONV_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
    // The first n of the lanes, 0 <= n <= width; the others read as zero and are not written.
    static SPARSECONV_INLINE Reg load_part(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(lanes(n), p); }
    static SPARSECONV_INLINE void store_part(float* p, Reg v, int64_t n) { _mm512_mask_storeu_ps(p, lanes(n), v); }

   private:
    static SPARSECONV_INLINE __mmask16 lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
};

template <>
struct Simd<double> {
    using Reg = __m512d;
    static constexpr int width = 8;
    static SPARSECONV_INLINE Reg zero() { return _mm512_setzero_pd(); }
    static SPARSECONV_INLINE Reg load(const double* p) { return _mm512_loadu_pd(p); }
    static SPARSECONV_INLINE void store(double* p, Reg v) { _mm512_storeu_pd(p, v); }
    static SPARSECONV_INLINE Reg broadcast(const double* p) { return _mm512_set1_pd(*p); }
    static SPARSECONV_INLINE Reg add(Reg a, Reg b) { return _mm512_add_pd(a, b); }
    static SPARSECONV_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_pd(a, b, c); }
    static SPARSECONV_INLINE Reg load_part(const double* p, int64_t n) { return _mm512_maskz_loadu_pd(lanes(n), p); }
    static SPARSECONV_INLINE void store_part(double* p, Reg v, int64_t n) { _mm512_mask_storeu_pd(p, lanes(n), v); }

   private:
    static SPARSECONV_INLINE __mmask8 lanes(int64_t n) { return static_cast<__mmask8>((1u << n) - 1u); }
};

#elif defined(__AVX2__)

constexpr int kRegisterBytes = 32;

template <>
struct Simd<float> {
    using Reg = __m256;
    static constexpr int width = 8;
    static SPARSECONV_INLINE Reg zero() { return _mm256_setzero_ps(); }
    static SPARSECONV_INLINE Reg load(const float* p) { return _mm256_loadu_ps(p); }
    static SPARSECONV_INLINE void store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
    static SPARSECONV_INLINE Reg broadcast(const float* p) { return _mm256_broadcast_ss(p); }
    static SPARSECONV_INLINE Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
    static SPARSECONV_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
    static SPARSECONV_INLINE Reg load_part(const float* p, int64_t n) { return _mm256_maskload_ps(p, lanes(n)); }
    static SPARSECONV_INLINE void store_part(float* p, Reg v, int64_t n) { _mm256_maskstore_ps(p, lanes(n), v); }

   private:
    static SPARSECONV_INLINE __m256i lanes(int64_t n) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
};

template <>
struct Simd<double> {
    using Reg = __m256d;
    static constexpr int width = 4;
    static SPARSECONV_INLINE Reg zero() { return _mm256_setzero_pd(); }
    static SPARSECONV_INLINE Reg load(const double* p) { return _mm256_loadu_pd(p); }
    static SPARSECONV_INLINE void store(double* p, Reg v) { _mm256_storeu_pd(p, v); }
    static SPARSECONV_INLINE Reg broadcast(const double* p) { return _mm256_broadcast_sd(p); }
    static SPARSECONV_INLINE Reg add(Reg a, Reg b) { return _mm256_add_pd(a, b); }
    static SPARSECONV_INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_pd(a, b, c); }
    static SPARSECONV_INLINE Reg load_part(const double* p, int64_t n) { return _mm256_maskload_pd(p, lanes(n)); }
    static SPARSECONV_INLINE void store_part(double* p, Reg v, int64_t n) { _mm256_maskstore_pd(p, lanes(n), v); }

   private:
    static SPARSECONV_INLINE __m256i lanes(int64_t n) {
        return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
    }
};

#else

constexpr int kRegisterBytes = 16;

template <class T>
struct Simd {
    typedef T Reg __attribute__((vector_size(16)));
    static constexpr int width = 16 / static_cast<int>(sizeof(T));
    static SPARSECONV_INLINE Reg zero() { return Reg{}; }
    static SPARSECONV_INLINE Reg load(const T* p) {
        Reg v;
        __builtin_memcpy(&v, p, sizeof v);
        return v;
    }
    static SPARSECONV_INLINE void store(T* p, Reg v) { __builtin_memcpy(p, &v, sizeof v); }
    static SPARSECONV_INLINE Reg broadcast(const T* p) { return *p - Reg{}; }
    static SPARSECONV_INLINE Reg add(Reg a, Reg b) { return a + b; }
    static SPARSECONV_INLINE Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }
    static SPARSECONV_INLINE Reg load_part(const T* p, int64_t n) {
        Reg v{};
        for (int64_t i = 0; i < n; ++i) v[i] = p[i];
        return v;
    }
    static SPARSECONV_INLINE void store_part(T* p, Reg v, int64_t n) {
        for (int64_t i = 0; i < n; ++i) p[i] = v[i];
    }
};

#endif

// Floats per cache line: the unit in which rows are copied, packed and prefetched.
template <class T>
constexpr int kLine = 64 / static_cast<int>(sizeof(T));

}  // namespace sparseconv::SPARSECONV_ISA
