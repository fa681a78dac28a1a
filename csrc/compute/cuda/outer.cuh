// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The gradient of the weight on tensor cores: a block sums the outer products of one slot's pairs for kM x kN weights of a group.
// Shared memory holds kPairs gathered rows of features and of the output's gradient; the product runs along the pairs, so both
// operands are read transposed: by ldmatrix.trans for 16-bit types, value by value for tf32.
#pragma once

#include "outer_slots.cuh"

namespace sparseconv::gpu {

constexpr int kOuterPairs = 32, kOuterStages = 4;

// Chunk c of pair p of a tile whose rows have kRow bytes. ldmatrix reads one chunk of eight pairs; tf32 two chunks of four pairs.
template <int kRow, int kElement>
__device__ __forceinline__ int outer_place(int p, int c) {
    return p * kRow + ((kElement == 2 ? c ^ (p & 7) : c ^ ((p & 3) << 1)) << 4);
}

template <class T, int kElement>
struct OuterShared {
    static constexpr int kRowA = T::kM * kElement, kRowB = T::kN * kElement;
    static constexpr int kA = kOuterPairs * kRowA, kStage = kA + kOuterPairs * kRowB;
    static constexpr int kBytes = kOuterStages * kStage;
};

template <class T, int kElement>
class OuterLoader {
    using Shared = OuterShared<T, kElement>;
    static constexpr int kPerRowA = Shared::kRowA / 16, kPerRowB = Shared::kRowB / 16;
    static constexpr int kApartA = T::kThreads / kPerRowA, kApartB = T::kThreads / kPerRowB;
    static constexpr int kCopiesA = kOuterPairs / kApartA, kCopiesB = kOuterPairs / kApartB;

   public:
    __device__ OuterLoader(const OuterArguments& a, const Slot& slot, int group, int row, int column) : a_(a), end_(slot.end) {
        const int t = static_cast<int>(threadIdx.x);
        row_a_ = t / kPerRowA, chunk_a_ = t % kPerRowA, row_b_ = t / kPerRowB, chunk_b_ = t % kPerRowB;
        within_a_ = (row * kElement + chunk_a_ * 16) < a.in_group;
        within_b_ = (column * kElement + chunk_b_ * 16) < a.out_group;
        features_ = a.features + group * a.in_group + row * kElement + chunk_a_ * 16;
        grads_ = a.grads + group * a.out_group + column * kElement + chunk_b_ * 16;
        at_ = slot.begin;
        fetch();
    }

    __device__ void load(SharedAddress stage) {
        int32_t in[kCopiesA], out[kCopiesB];
#pragma unroll
        for (int i = 0; i < kCopiesA; ++i) in[i] = next_in_[i];
#pragma unroll
        for (int i = 0; i < kCopiesB; ++i) out[i] = next_out_[i];
        fetch();
#pragma unroll
        for (int i = 0; i < kCopiesA; ++i) {
            const bool valid = within_a_ && in[i] >= 0;
            copy_async(stage + outer_place<Shared::kRowA, kElement>(row_a_ + i * kApartA, chunk_a_),
                       valid ? features_ + in[i] * a_.in_row : a_.features, valid);
        }
#pragma unroll
        for (int i = 0; i < kCopiesB; ++i) {
            const bool valid = within_b_ && out[i] >= 0;
            copy_async(stage + Shared::kA + outer_place<Shared::kRowB, kElement>(row_b_ + i * kApartB, chunk_b_),
                       valid ? grads_ + out[i] * a_.out_row : a_.grads, valid);
        }
    }

   private:
    __device__ void fetch() {
#pragma unroll
        for (int i = 0; i < kCopiesA; ++i) {
            const int64_t p = at_ + row_a_ + i * kApartA;
            next_in_[i] = p < end_ ? __ldg(&a_.pairs.data[p].in) : -1;
        }
#pragma unroll
        for (int i = 0; i < kCopiesB; ++i) {
            const int64_t p = at_ + row_b_ + i * kApartB;
            next_out_[i] = p < end_ ? __ldg(&a_.pairs.data[p].out) : -1;
        }
        at_ += kOuterPairs;
    }

    const OuterArguments& a_;
    const char *features_, *grads_;
    int64_t at_, end_;
    int row_a_, chunk_a_, row_b_, chunk_b_;
    bool within_a_, within_b_;
    int32_t next_in_[kCopiesA], next_out_[kCopiesB];
};

// The fragments of one step of mma.sync along the pairs.
template <class T>
__device__ __forceinline__ void load_outer16(SharedAddress stage, int pair, int m, int n, uint32_t (&a)[T::kWarpM / 16][4],
                                             uint32_t (&b)[T::kWarpN / 16][4]) {
    using Shared = OuterShared<T, 2>;
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < T::kWarpM / 16; ++i) {
        load_matrices_transposed(
            a[i], stage + outer_place<Shared::kRowA, 2>(pair + lane % 8 + lane / 16 * 8, (m + i * 16) / 8 + lane / 8 % 2));
    }
#pragma unroll
    for (int j = 0; j < T::kWarpN / 16; ++j) {
        load_matrices_transposed(
            b[j], stage + Shared::kA + outer_place<Shared::kRowB, 2>(pair + lane % 16, (n + j * 16) / 8 + lane / 16));
    }
}

template <class T>
__device__ __forceinline__ void load_outer32(const unsigned char* stage, int pair, int m, int n, uint32_t (&a)[T::kWarpM / 16][4],
                                             uint32_t (&b)[T::kWarpN / 16][4]) {
    using Shared = OuterShared<T, 4>;
    const int g = static_cast<int>(threadIdx.x) % 32 / 4, t = static_cast<int>(threadIdx.x) % 4;
    const auto value = [](const unsigned char* tile, int place, int column) {
        return round_to_tf32(*reinterpret_cast<const uint32_t*>(tile + place + column % 4 * 4));
    };
#pragma unroll
    for (int i = 0; i < T::kWarpM / 16; ++i) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const int column = m + i * 16 + g + r % 2 * 8;
            a[i][r] = value(stage, outer_place<Shared::kRowA, 4>(pair + t + r / 2 * 4, column / 4), column);
        }
    }
#pragma unroll
    for (int j = 0; j < T::kWarpN / 16; ++j) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const int column = n + j * 16 + g + r / 2 * 8;
            b[j][r] = value(stage + Shared::kA, outer_place<Shared::kRowB, 4>(pair + t + r % 2 * 4, column / 4), column);
        }
    }
}

// Blocks: x = slot, y = (group, tile of k, tile of m).
template <class E, class T>
__global__ void __launch_bounds__(T::kThreads) outer_gemm(const OuterArguments a) {
    constexpr int kElement = sizeof(typename Stored<E>::type), kStep = 32 / kElement;
    using Shared = OuterShared<T, kElement>;
    SPARSECONV_DYNAMIC_SHARED(shared);
    const Slot slot = find_slot(a.pairs, a.length, blockIdx.x);
    if (slot.tap < 0) return;
    const int tiles_m = (a.k + T::kM - 1) / T::kM, tiles_n = (a.m + T::kN - 1) / T::kN;
    const int column = static_cast<int>(blockIdx.y) % tiles_n * T::kN;
    const int row = static_cast<int>(blockIdx.y) / tiles_n % tiles_m * T::kM;
    const int group = static_cast<int>(blockIdx.y) / tiles_n / tiles_m;

    OuterLoader<T, kElement> loader(a, slot, group, row, column);
    const SharedAddress base = shared_address(shared);
    const int steps = static_cast<int>((slot.end - slot.begin + kOuterPairs - 1) / kOuterPairs);
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int warp_m = warp / T::kWarpsN * T::kWarpM, warp_n = warp % T::kWarpsN * T::kWarpN;
    float sums[T::kWarpM / 16][T::kWarpN / 8][4] = {};
#pragma unroll
    for (int s = 0; s < kOuterStages - 1; ++s) {
        if (s < steps) loader.load(base + s * Shared::kStage);
        commit_copies();
    }
    for (int s = 0; s < steps; ++s) {
        wait_copies<kOuterStages - 2>();
        __syncthreads();
        if (s + kOuterStages - 1 < steps) loader.load(base + (s + kOuterStages - 1) % kOuterStages * Shared::kStage);
        commit_copies();
#pragma unroll
        for (int pair = 0; pair < kOuterPairs; pair += kStep) {
            uint32_t af[T::kWarpM / 16][4], bf[T::kWarpN / 16][4];
            if constexpr (kElement == 2) {
                load_outer16<T>(base + s % kOuterStages * Shared::kStage, pair, warp_m, warp_n, af, bf);
            } else {
                load_outer32<T>(shared + s % kOuterStages * Shared::kStage, pair, warp_m, warp_n, af, bf);
            }
#pragma unroll
            for (int i = 0; i < T::kWarpM / 16; ++i) {
#pragma unroll
                for (int j = 0; j < T::kWarpN / 8; ++j) multiply_add(E(), sums[i][j], af[i], bf[j / 2] + j % 2 * 2);
            }
        }
    }
    const int64_t c_out = static_cast<int64_t>(a.groups) * a.m;
    float* partial = static_cast<float*>(a.partial) + static_cast<int64_t>(blockIdx.x) * a.k * c_out + group * a.m;
#pragma unroll
    for (int i = 0; i < T::kWarpM / 16; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int r = row + warp_m + i * 16 + half * 8 + lane / 4;
            if (r >= a.k) continue;
#pragma unroll
            for (int j = 0; j < T::kWarpN / 8; ++j) {
                const int c = column + warp_n + j * 8 + lane % 4 * 2;
                if (c < a.m) partial[r * c_out + c] = sums[i][j][half * 2];
                if (c + 1 < a.m) partial[r * c_out + c + 1] = sums[i][j][half * 2 + 1];
            }
        }
    }
}

}  // namespace sparseconv::gpu
