// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Element types and the PTX instructions of the tensor-core kernels (sm_80), each with its emulated twin.
#pragma once

#include <cstdint>

#include "../../core/cuda_platform.h"

#if !defined(SPARSECONV_EMULATED)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace sparseconv::gpu {

struct Half {
    uint16_t bits;
};
struct Bfloat {
    uint16_t bits;
};
struct Tf32 {};  // float in memory, tf32 in the product

// The type that sums are kept in.
template <class S>
struct Accumulator {
    using type = float;
};
template <>
struct Accumulator<double> {
    using type = double;
};
template <class S>
using Acc = typename Accumulator<S>::type;

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(Bfloat v) { return __uint_as_float(static_cast<uint32_t>(v.bits) << 16); }
__device__ __forceinline__ void narrow(float v, float& to) { to = v; }
__device__ __forceinline__ void narrow(double v, double& to) { to = v; }

#if defined(SPARSECONV_EMULATED)

inline float widen(Half v) { return emulated::half_to_float(v.bits); }
inline void narrow(float v, Half& to) { to.bits = emulated::float_to_half(v); }
inline void narrow(float v, Bfloat& to) { to.bits = emulated::float_to_bfloat(v); }

using SharedAddress = unsigned char*;
inline SharedAddress shared_address(void* p) { return static_cast<unsigned char*>(p); }
inline void load_matrices(uint32_t (&r)[4], SharedAddress row) { emulated::ldmatrix<false>(r, row); }
inline void load_matrices_transposed(uint32_t (&r)[4], SharedAddress row) { emulated::ldmatrix<true>(r, row); }
inline void copy_async(SharedAddress to, const void* from, bool valid) { emulated::copy_async(to, from, 16, valid ? 16 : 0); }
inline void commit_copies() { emulated::commit_copies(); }
template <int kLeft>
void wait_copies() {
    emulated::wait_copies(kLeft);
}
inline uint32_t round_to_tf32(uint32_t v) { return emulated::to_tf32(v); }
inline void multiply_add(Half, float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
    emulated::mma<emulated::Half16>(d, a, b);
}
inline void multiply_add(Bfloat, float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
    emulated::mma<emulated::Bfloat16>(d, a, b);
}
inline void multiply_add(Tf32, float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
    emulated::mma<emulated::Tf32>(d, a, b);
}
inline void sparse_multiply_add(Half, float (&d)[4], const uint32_t (&a)[4], const uint32_t* b, uint32_t metadata) {
    emulated::sparse_mma<emulated::Half16>(d, a, b, metadata);
}
inline void sparse_multiply_add(Bfloat, float (&d)[4], const uint32_t (&a)[4], const uint32_t* b, uint32_t metadata) {
    emulated::sparse_mma<emulated::Bfloat16>(d, a, b, metadata);
}

#else

__device__ __forceinline__ float widen(Half v) { return __half2float(__ushort_as_half(v.bits)); }
__device__ __forceinline__ void narrow(float v, Half& to) { to.bits = __half_as_ushort(__float2half_rn(v)); }
__device__ __forceinline__ void narrow(float v, Bfloat& to) { to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v)); }

using SharedAddress = uint32_t;
__device__ __forceinline__ SharedAddress shared_address(void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Lane 8 m + r names row r of matrix m, 16 bytes; every lane gets one register of each of the four matrices.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

// 16 bytes from global to shared memory, past L1; zeros where not valid, and `from` is not read then.
__device__ __forceinline__ void copy_async(SharedAddress to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kLeft of this thread's newest groups are under way.
template <int kLeft>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

__device__ __forceinline__ uint32_t round_to_tf32(uint32_t v) {
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(v)));
    return r;
}

// d += a b; a is [16, 32 bytes], b is [32 bytes, 8].
#define SPARSECONV_MMA(shape_and_types)                                                                                 \
    asm volatile("mma.sync.aligned." shape_and_types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
__device__ __forceinline__ void multiply_add(Half, float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
    SPARSECONV_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
__device__ __forceinline__ void multiply_add(Bfloat, float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
    SPARSECONV_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
__device__ __forceinline__ void multiply_add(Tf32, float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
    SPARSECONV_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}
#undef SPARSECONV_MMA

// d += a b; a is [16, 32] with 2 of each 4 along k, b is [32, 8]. CUDA 12.5 has a faster form for places that ascend, as ours do.
#if __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1205
#define SPARSECONV_MMA_SP "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col"
#else
#define SPARSECONV_MMA_SP "mma.sp.sync.aligned.m16n8k32.row.col"
#endif
#define SPARSECONV_SPARSE_MMA(types)                                                                                            \
    asm volatile(SPARSECONV_MMA_SP types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, 0x0;" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata))
__device__ __forceinline__ void sparse_multiply_add(Half, float (&d)[4], const uint32_t (&a)[4], const uint32_t* b,
                                                    uint32_t metadata) {
    SPARSECONV_SPARSE_MMA(".f32.f16.f16.f32");
}
__device__ __forceinline__ void sparse_multiply_add(Bfloat, float (&d)[4], const uint32_t (&a)[4], const uint32_t* b,
                                                    uint32_t metadata) {
    SPARSECONV_SPARSE_MMA(".f32.bf16.bf16.f32");
}
#undef SPARSECONV_SPARSE_MMA
#undef SPARSECONV_MMA_SP

#endif

}  // namespace sparseconv::gpu
