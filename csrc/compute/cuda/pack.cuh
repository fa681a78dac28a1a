// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// What goes before and after the tensor-core kernels: rows and weights laid out for copies of 16 bytes, and the sum over splits.
#pragma once

#include "tiles.cuh"

namespace sparseconv::gpu {

constexpr int kThreads = 256;

inline dim3 blocks_for(int64_t elements) { return dim3(static_cast<unsigned>((elements + kThreads - 1) / kThreads)); }

__device__ __forceinline__ int64_t thread_number() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

inline int64_t padded_bytes(int64_t channels, int64_t element) { return (channels * element + 15) / 16 * 16; }

// to[row, group, 0 .. wide) = from[row, group, 0 .. k), then zeros.
template <class S>
__global__ void pad_rows(const S* from, S* to, int64_t rows, int64_t groups, int64_t k, int64_t wide) {
    const int64_t at = thread_number();
    if (at >= rows * groups * wide) return;
    const int64_t i = at % wide;
    to[at] = i < k ? from[at / wide * k + i] : S{};
}

// to[tap, group, out, 0 .. wide) = W[tap, group, 0 .. k, out], then zeros. A block turns 32 x 32 values around through shared memory:
// reads run along `out`, writes along k. Blocks: x = tiles of (out, k), y = groups, z = taps.
template <class S>
__global__ void pack_weight(Weight weight, S* to, int k, int m, int wide) {
    SPARSECONV_SHARED(S, tile, 32 * 33);
    const int tiles_k = (wide + 31) / 32;
    const int k0 = static_cast<int>(blockIdx.x) % tiles_k * 32, m0 = static_cast<int>(blockIdx.x) / tiles_k * 32;
    const int64_t tap = blockIdx.z, group = blockIdx.y;
    const S* from = static_cast<const S*>(weight.data) + tap * weight.tap + group * weight.group;
    const int lane = threadIdx.x % 32;
    for (int r = threadIdx.x / 32; r < 32; r += kThreads / 32) {
        const int i = k0 + r, j = m0 + lane;
        tile[r * 33 + lane] = i < k && j < m ? from[i * weight.in + j * weight.out] : S{};
    }
    __syncthreads();
    for (int r = threadIdx.x / 32; r < 32; r += kThreads / 32) {
        const int j = m0 + r, i = k0 + lane;
        if (j < m && i < wide) to[((tap * gridDim.y + group) * m + j) * wide + i] = tile[lane * 33 + r];
    }
}

// out[order[p]] = bias + the splits' sums of place p, in order of the splits.
template <class S>
__global__ void add_splits(const Acc<S>* partial, int splits, const int32_t* order, int64_t n_out, int64_t c_out, const S* bias,
                           S* out) {
    const int64_t at = thread_number();
    if (at >= n_out * c_out) return;
    const int64_t c = at % c_out;
    Acc<S> sum = partial[at];
    for (int s = 1; s < splits; ++s) sum += partial[s * n_out * c_out + at];
    if (bias) sum += widen(bias[c]);
    narrow(sum, out[order[at / c_out] * c_out + c]);
}

}  // namespace sparseconv::gpu
