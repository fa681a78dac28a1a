// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The implicit GEMM with a 2:4 weight: of each 4 input channels of an output channel and tap, 2 are kept. mma.sp takes the sparse
// operand first, so the product is turned around: the weight is A (16 output channels, 32 input channels, 16 of them stored) and
// the gathered rows are B. One k step does the work of two dense ones; features are read as before.
#pragma once

#include "implicit_gemm.cuh"

namespace sparseconv::gpu {

struct SparseTile {
    static constexpr int kM = 128, kN = 64, kThreads = 128, kWarpRows = 32;
    static constexpr int kChunk = 128, kStages = 3;  // 64 input channels a stage
    static constexpr int kRows = kM * kChunk, kWeight = kN * kChunk / 2, kMeta = kN * 8;
    static constexpr int kStage = kRows + kWeight + kMeta, kOutRow = kN * 2 + 16;
    static constexpr int kBytes = kStages * kStage > kM* kOutRow ? kStages * kStage : kM * kOutRow;
};

// a.weight: kept values [taps, m, k / 2]; metadata: words [taps, m / 16, k / 32, 16], word 2 r + h of a block of 16 channels holds,
// 2 bits a kept value, ascending, the places of channels r (low half) and r + 8 (high half) in input channels 16 h .. 16 h + 15.
class SparseLoader : RowLoader<SparseTile, SparseTile::kChunk> {
    using T = SparseTile;
    using Rows = RowLoader<T, T::kChunk>;

   public:
    __device__ SparseLoader(const GemmArguments& a, const char* metadata, TapWalk walk, int64_t place, int column)
        : Rows(a, walk, 0, place, 0), metadata_(metadata), column_(column) {}

    __device__ void load(SharedAddress stage) {
        load_rows(stage);
        const int thread = static_cast<int>(threadIdx.x);
        const char* tap_weight = a_.weight + tap_ * a_.weight_tap + chunk_ / 2;
        const SharedAddress weight = stage + T::kRows, meta = weight + T::kWeight;
#pragma unroll
        for (int i = 0; i < T::kN * 4 / T::kThreads; ++i) {
            const int row = thread / 4 + i * (T::kThreads / 4), piece = thread % 4, n = column_ + row;
            const bool valid = n < a_.m && chunk_ + piece * 32 < a_.k_bytes;
            copy_async(weight + swizzled<64>(row, piece), valid ? tap_weight + n * a_.weight_n + piece * 16 : a_.weight, valid);
        }
        if (thread < T::kMeta / 16) {  // 64 bytes for each 16 channels and k step, two steps a chunk
            const int block = thread / 8, step = thread / 4 % 2, channel = column_ + block * 16, at = chunk_ / 64 + step;
            const bool valid = channel < a_.m && at * 64 < a_.k_bytes;
            const int64_t from = ((tap_ * int64_t{a_.m / 16} + channel / 16) * (a_.k / 32) + at) * 64 + thread % 4 * 16;
            copy_async(meta + thread * 16, valid ? metadata_ + from : metadata_, valid);
        }
        next_chunk();
    }

   private:
    const char* metadata_;
    int column_;
};

// Blocks: x = (tile of rows, tile of channels). Each warp owns 32 rows and all channels of the tile.
template <class S>
__global__ void __launch_bounds__(SparseTile::kThreads) sparse_gemm(const GemmArguments a, const char* metadata) {
    using T = SparseTile;
    constexpr int kBlocks = T::kN / 16, kColumns = T::kWarpRows / 8;
    SPARSECONV_DYNAMIC_SHARED(shared);
    const unsigned tiles_n = static_cast<unsigned>((a.m + T::kN - 1) / T::kN);
    const int column = static_cast<int>(blockIdx.x % tiles_n) * T::kN;
    const int64_t place = static_cast<int64_t>(blockIdx.x / tiles_n) * T::kM;
    const TapWalk walk(a, place, T::kM);
    const int chunks = walk.count() * ((a.k_bytes + T::kChunk - 1) / T::kChunk);
    SparseLoader loader(a, metadata, walk, place, column);

    const SharedAddress base = shared_address(shared);
    const int lane = static_cast<int>(threadIdx.x) % 32, warp_row = static_cast<int>(threadIdx.x) / 32 * T::kWarpRows;
    float sums[kBlocks][kColumns][4] = {};
#pragma unroll
    for (int s = 0; s < T::kStages - 1; ++s) {
        if (s < chunks) loader.load(base + s * T::kStage);
        commit_copies();
    }
    for (int i = 0; i < chunks; ++i) {
        wait_copies<T::kStages - 2>();
        __syncthreads();
        if (i + T::kStages - 1 < chunks) loader.load(base + (i + T::kStages - 1) % T::kStages * T::kStage);
        commit_copies();
        const int stage = i % T::kStages * T::kStage;
        const auto* meta = reinterpret_cast<const uint32_t*>(shared + stage + T::kRows + T::kWeight);
#pragma unroll
        for (int step = 0; step < 2; ++step) {
            uint32_t w[kBlocks][4], rows[kColumns][4], places[kBlocks];
#pragma unroll
            for (int b = 0; b < kBlocks; ++b) {
                load_matrices(w[b], base + stage + T::kRows + swizzled<64>(b * 16 + lane % 16, step * 2 + lane / 16));
                places[b] = meta[(b * 2 + step) * 16 + lane / 4 * 2 + lane % 2];
            }
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
                load_matrices(rows[c], base + stage + swizzled<T::kChunk>(warp_row + c * 8 + lane % 8, step * 4 + lane / 8));
            }
#pragma unroll
            for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
                for (int c = 0; c < kColumns; ++c) sparse_multiply_add(S(), sums[b][c], w[b], rows[c], places[b]);
            }
        }
    }
    wait_copies<0>();
    __syncthreads();
    // sums[b][c]: channels b * 16 + lane / 4 (+ 8) of rows c * 8 + lane % 4 * 2 (+ 1).
    const S* bias = static_cast<const S*>(a.bias);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const int channel = b * 16 + lane / 4 + r / 2 * 8;
            const float add = bias && column + channel < a.m ? widen(bias[column + channel]) : 0.0f;
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
                const int row = warp_row + c * 8 + lane % 4 * 2 + r % 2;
                narrow(sums[b][c][r] + add, reinterpret_cast<S*>(shared + row * T::kOutRow)[channel]);
            }
        }
    }
    __syncthreads();
    write_rows<S, T, T::kOutRow>(a, shared, place, 0, column);
}

}  // namespace sparseconv::gpu
