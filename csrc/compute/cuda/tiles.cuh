// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The tiles of the tensor-core kernels, what a launch of them takes, and shared pieces: swizzled shared memory, a walk over taps.
#pragma once

#include "../kernels_cuda.h"
#include "instructions.cuh"

namespace sparseconv::gpu {

// A block computes kM x kN sums, each of its warps kWarpM x kWarpN.
template <int kM_, int kN_, int kWarpM_, int kWarpN_>
struct Tile {
    static constexpr int kM = kM_, kN = kN_, kWarpM = kWarpM_, kWarpN = kWarpN_;
    static constexpr int kWarpsM = kM / kWarpM, kWarpsN = kN / kWarpN;
    static constexpr int kThreads = kWarpsM * kWarpsN * 32;
};
using Tile128x128 = Tile<128, 128, 64, 32>;
using Tile128x64 = Tile<128, 64, 64, 32>;
using Tile128x32 = Tile<128, 32, 32, 32>;
using Tile64x64 = Tile<64, 64, 32, 32>;

// Stages of the cp.async pipeline over rows of so many bytes a stage.
constexpr int stages_of(int chunk_bytes) { return chunk_bytes == 128 ? 3 : 4; }

// Element types: how they lie in memory and how they multiply.
template <class E>
struct Stored {
    using type = E;
};
template <>
struct Stored<Tf32> {
    using type = float;
};

// out[order[p], g * m + j] = bias + sum over taps t and i < k of features[neighbors[t, p], g * k + i] * W[t, g, j, i].
struct GemmArguments {
    const char* features;  // rows of in_row bytes, a group's channels at in_group bytes
    int64_t in_row, in_group;
    const char* weight;  // strides in bytes; either k or n is contiguous
    int64_t weight_tap, weight_group, weight_n, weight_k;
    const void* bias;
    void* out;
    float* partial;  // [splits, n_out, c_out] in order of places, or null
    const int32_t* neighbors;
    const int32_t* order;
    const uint32_t* tile_masks;
    int64_t n_out, c_out;
    int taps, words;
    int k_bytes;  // of one group's row, a multiple of 16
    int k, m, groups, splits;
};

// Where chunk c (16 bytes) of row r lies in a tile whose rows have kRowBytes: eight rows at one chunk fall on all 32 banks.
template <int kRowBytes>
__device__ __forceinline__ int swizzled(int r, int c) {
    if constexpr (kRowBytes == 64) return r * 64 + ((c ^ (r >> 1 & 3)) << 4);
    return r * kRowBytes + ((c ^ (r & 7)) << 4);
}

// The taps that some row of a tile has, ascending.
class TapWalk {
   public:
    __device__ TapWalk(const GemmArguments& a, int64_t first_row, int rows)
        : masks_(a.tile_masks + first_row / kMaskRows * a.words), words_(a.words) {
        const int64_t groups = (a.n_out + kMaskRows - 1) / kMaskRows - first_row / kMaskRows;
        const int wanted = rows / static_cast<int>(kMaskRows);
        groups_ = groups < wanted ? static_cast<int>(groups) : wanted;
        bits_ = words_ ? word(0) : 0;
    }
    __device__ int count() const {
        int taps = 0;
        for (int w = 0; w < words_; ++w) taps += __popc(word(w));
        return taps;
    }
    // The next tap, or -1 after the last.
    __device__ int next() {
        while (!bits_) {
            if (++at_ >= words_) return -1;
            bits_ = word(at_);
        }
        const int bit = __ffs(static_cast<int>(bits_)) - 1;
        bits_ &= bits_ - 1;
        return at_ * 32 + bit;
    }

   private:
    __device__ uint32_t word(int w) const {
        uint32_t bits = 0;
        for (int g = 0; g < groups_; ++g) bits |= __ldg(masks_ + g * words_ + w);
        return bits;
    }
    const uint32_t* masks_;
    int words_, groups_, at_ = 0;
    uint32_t bits_ = 0;
};

}  // namespace sparseconv::gpu
