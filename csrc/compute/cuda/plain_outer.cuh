// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The gradient of the weight on the plain units, for float and double; and that of a depthwise convolution, for all types.
#pragma once

#include "outer_slots.cuh"

namespace sparseconv::gpu {

constexpr int kPlainOuterTile = 64, kPlainOuterPairs = 16, kPlainOuterThreads = 256;

// A block sums 64 x 64 weights of one slot, a thread 4 x 4. Blocks as outer_gemm's.
template <class S>
__global__ void __launch_bounds__(kPlainOuterThreads) plain_outer(const OuterArguments a) {
    constexpr int kTile = kPlainOuterTile, kPairs = kPlainOuterPairs;
    SPARSECONV_SHARED(S, x, kPairs * kTile);
    SPARSECONV_SHARED(S, g, kPairs * kTile);
    const Slot slot = find_slot(a.pairs, a.length, blockIdx.x);
    if (slot.tap < 0) return;
    const int tiles_m = (a.k + kTile - 1) / kTile, tiles_n = (a.m + kTile - 1) / kTile;
    const int column = static_cast<int>(blockIdx.y) % tiles_n * kTile;
    const int row = static_cast<int>(blockIdx.y) / tiles_n % tiles_m * kTile;
    const int group = static_cast<int>(blockIdx.y) / tiles_n / tiles_m;
    const int thread = static_cast<int>(threadIdx.x), ty = thread / 16, tx = thread % 16;
    Acc<S> sums[4][4] = {};
    for (int64_t first = slot.begin; first < slot.end; first += kPairs) {
        __syncthreads();
#pragma unroll
        for (int e = 0; e < kPairs * kTile / kPlainOuterThreads; ++e) {
            const int at = e * kPlainOuterThreads + thread, p = at / kTile, c = at % kTile;
            const bool there = first + p < slot.end;
            const Pair pair = there ? a.pairs.data[first + p] : Pair{0, 0};
            const S* from = reinterpret_cast<const S*>(a.features + pair.in * a.in_row + group * a.in_group);
            const S* grad = reinterpret_cast<const S*>(a.grads + pair.out * a.out_row + group * a.out_group);
            x[at] = there && row + c < a.k ? from[row + c] : S(0);
            g[at] = there && column + c < a.m ? grad[column + c] : S(0);
        }
        __syncthreads();
#pragma unroll
        for (int p = 0; p < kPairs; ++p) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] += x[p * kTile + ty + i * 16] * g[p * kTile + tx + j * 16];
            }
        }
    }
    const int64_t c_out = static_cast<int64_t>(a.groups) * a.m;
    auto* partial = static_cast<Acc<S>*>(a.partial) + static_cast<int64_t>(blockIdx.x) * a.k * c_out + group * a.m;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int r = row + ty + i * 16, c = column + tx + j * 16;
            if (r < a.k && c < a.m) partial[r * c_out + c] = sums[i][j];
        }
    }
}

// A thread sums one channel over one slot. Blocks: x = slot, y = channels.
template <class S>
__global__ void depthwise_outer(const OuterArguments a) {
    const Slot slot = find_slot(a.pairs, a.length, blockIdx.x);
    const int c = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
    if (slot.tap < 0 || c >= a.groups) return;
    Acc<S> sum = 0;
#pragma unroll 4
    for (int64_t p = slot.begin; p < slot.end; ++p) {
        const Pair pair = a.pairs.data[p];
        sum += widen(reinterpret_cast<const S*>(a.features + pair.in * a.in_row)[c]) *
               widen(reinterpret_cast<const S*>(a.grads + pair.out * a.out_row)[c]);
    }
    static_cast<Acc<S>*>(a.partial)[static_cast<int64_t>(blockIdx.x) * a.groups + c] = sum;
}

}  // namespace sparseconv::gpu
