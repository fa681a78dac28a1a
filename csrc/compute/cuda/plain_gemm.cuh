// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The same implicit GEMM on the plain units, for float and double: any channels, groups and strides of the weight, nothing packed.
// And the depthwise convolution, which has no product to speak of.
#pragma once

#include "pack.cuh"

namespace sparseconv::gpu {

constexpr int kPlainK = 16;  // input channels of one step
constexpr int kPlainN = 64;  // output channels of a block: 16 threads, 4 each
constexpr int kPlainThreads = 256;

// Output rows of a block: 16 threads, kPlainRows each.
template <class S>
constexpr int kPlainRows = sizeof(S) == 4 ? 8 : 4;

// a holds rows of features, b columns of the weight; each thread takes one step's values to registers while the block still
// multiplies the step before. Rows of 17 values keep the columns of b on different banks.
template <class S>
class PlainLoader {
    static constexpr int kM = 16 * kPlainRows<S>, kA = kM * kPlainK / kPlainThreads, kB = kPlainN * kPlainK / kPlainThreads;

   public:
    __device__ PlainLoader(const GemmArguments& a, const Weight& weight, TapWalk walk, int skip, int64_t place, int group,
                           int column)
        : a_(a), weight_(weight), walk_(walk), place_(place), k_(static_cast<int>(a.k_bytes / sizeof(S))), column_(column) {
        features_ = reinterpret_cast<const S*>(a.features) + group * static_cast<int64_t>(k_);
        weight_at_ = static_cast<const S*>(weight.data) + group * weight.group;
        for (; skip > 0; --skip) walk_.next();
    }

    __device__ void load() {
        if (chunk_ == 0) tap_ = walk_.next();
        const int32_t* table = a_.neighbors + tap_ * a_.n_out;
#pragma unroll
        for (int e = 0; e < kA; ++e) {
            const int at = e * kPlainThreads + static_cast<int>(threadIdx.x), i = chunk_ + at % kPlainK;
            const int64_t p = place_ + at / kPlainK;
            const int32_t row = p < a_.n_out && i < k_ ? __ldg(table + p) : -1;
            a_values_[e] = row < 0 ? S(0) : features_[row * a_.in_row / static_cast<int64_t>(sizeof(S)) + i];
        }
        // Neighbouring threads read along whichever axis of the weight is contiguous.
        const bool along_n = weight_.out == 1;
#pragma unroll
        for (int e = 0; e < kB; ++e) {
            const int at = e * kPlainThreads + static_cast<int>(threadIdx.x);
            const int i = chunk_ + (along_n ? at / kPlainN : at % kPlainK), j = column_ + (along_n ? at % kPlainN : at / kPlainK);
            b_values_[e] = i < k_ && j < a_.m ? weight_at_[tap_ * weight_.tap + i * weight_.in + j * weight_.out] : S(0);
        }
        chunk_ = chunk_ + kPlainK < k_ ? chunk_ + kPlainK : 0;
    }

    __device__ void store(S* a_tile, S* b_tile) const {
#pragma unroll
        for (int e = 0; e < kA; ++e) {
            const int at = e * kPlainThreads + static_cast<int>(threadIdx.x);
            a_tile[at / kPlainK * (kPlainK + 1) + at % kPlainK] = a_values_[e];
        }
        const bool along_n = weight_.out == 1;
#pragma unroll
        for (int e = 0; e < kB; ++e) {
            const int at = e * kPlainThreads + static_cast<int>(threadIdx.x);
            const int i = along_n ? at / kPlainN : at % kPlainK, j = along_n ? at % kPlainN : at / kPlainK;
            b_tile[j * (kPlainK + 1) + i] = b_values_[e];
        }
    }

   private:
    const GemmArguments& a_;
    const Weight& weight_;
    TapWalk walk_;
    const S *features_, *weight_at_;
    int64_t place_;
    int k_, column_, chunk_ = 0, tap_ = -1;
    S a_values_[kA], b_values_[kB];
};

// Blocks as implicit_gemm's.
template <class S>
__global__ void __launch_bounds__(kPlainThreads) plain_gemm(const GemmArguments a, const Weight weight) {
    constexpr int kRows = kPlainRows<S>, kM = 16 * kRows, kStep = kPlainK + 1;
    SPARSECONV_SHARED(S, a_tiles, 2 * kM * kStep);
    SPARSECONV_SHARED(S, b_tiles, 2 * kPlainN * kStep);
    const unsigned tiles_n = static_cast<unsigned>((a.m + kPlainN - 1) / kPlainN);
    const int column = static_cast<int>(blockIdx.x % tiles_n) * kPlainN;
    const int group = static_cast<int>(blockIdx.x / tiles_n % static_cast<unsigned>(a.groups));
    const int64_t place = static_cast<int64_t>(blockIdx.x / tiles_n / static_cast<unsigned>(a.groups)) * kM;

    const TapWalk walk(a, place, kM);
    const int taps = walk.count(), split = static_cast<int>(blockIdx.y);
    const int first = taps * split / a.splits, last = taps * (split + 1) / a.splits;
    const int k = static_cast<int>(a.k_bytes / sizeof(S));
    const int steps = (last - first) * ((k + kPlainK - 1) / kPlainK);
    PlainLoader<S> loader(a, weight, walk, first, place, group, column);

    const int ty = static_cast<int>(threadIdx.x) / 16, tx = static_cast<int>(threadIdx.x) % 16;
    Acc<S> sums[kRows][4] = {};
    if (steps > 0) {
        loader.load();
        loader.store(a_tiles, b_tiles);
    }
    for (int s = 0; s < steps; ++s) {
        __syncthreads();
        if (s + 1 < steps) loader.load();
        const S* a_tile = a_tiles + s % 2 * kM * kStep;
        const S* b_tile = b_tiles + s % 2 * kPlainN * kStep;
#pragma unroll
        for (int i = 0; i < kPlainK; ++i) {
            S av[kRows], bv[4];
#pragma unroll
            for (int r = 0; r < kRows; ++r) av[r] = a_tile[(ty + r * 16) * kStep + i];
#pragma unroll
            for (int c = 0; c < 4; ++c) bv[c] = b_tile[(tx + c * 16) * kStep + i];
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
#pragma unroll
                for (int c = 0; c < 4; ++c) sums[r][c] += av[r] * bv[c];
            }
        }
        // The other half of shared memory: all have left it, for they have passed the barrier above since.
        if (s + 1 < steps) loader.store(a_tiles + (s + 1) % 2 * kM * kStep, b_tiles + (s + 1) % 2 * kPlainN * kStep);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const int64_t p = place + ty + r * 16;
        if (p >= a.n_out) continue;
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            if (column + tx + c * 16 >= a.m) continue;
            const int64_t channel = static_cast<int64_t>(group) * a.m + column + tx + c * 16;
            if (a.partial) {
                reinterpret_cast<Acc<S>*>(a.partial)[(blockIdx.y * a.n_out + p) * a.c_out + channel] = sums[r][c];
            } else {
                const S* bias = static_cast<const S*>(a.bias);
                static_cast<S*>(a.out)[a.order[p] * a.c_out + channel] = sums[r][c] + (bias ? bias[channel] : S(0));
            }
        }
    }
}

// One thread sums one channel of one row over the taps.
template <class S>
__global__ void depthwise_gemm(const GemmArguments a, const Weight weight) {
    const int64_t at = thread_number();
    if (at >= a.n_out * a.c_out) return;
    const int64_t place = at / a.c_out, c = at % a.c_out;
    const S* features = reinterpret_cast<const S*>(a.features);
    const S* w = static_cast<const S*>(weight.data) + c * weight.group;
    const S* bias = static_cast<const S*>(a.bias);
    Acc<S> sum = bias ? widen(bias[c]) : Acc<S>(0);
    for (int t = 0; t < a.taps; ++t) {
        const int32_t row = a.neighbors[t * a.n_out + place];
        if (row >= 0) sum += widen(features[row * a.c_out + c]) * widen(w[t * weight.tap]);
    }
    narrow(sum, static_cast<S*>(a.out)[a.order[place] * a.c_out + c]);
}

}  // namespace sparseconv::gpu
