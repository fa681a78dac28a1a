// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The output-stationary implicit GEMM on tensor cores. A block owns kM places (output rows sorted by their taps) and kN output
// channels; for every tap that one of its rows has, and every chunk of input channels, it gathers rows of features and a tile of
// the weight into shared memory by cp.async, several chunks ahead, and multiplies. Everything is in bytes: 32 bytes of k are one
// step of mma.sync, 16 values of 16 bits or 8 of tf32, with the same ldmatrix. kAlongN: the weight's tile lies as [k][n] in memory,
// as a layer keeps it, and ldmatrix turns it around (16-bit types alone); else as [n][k], as its gradient's transpose does.
#pragma once

#include "tiles.cuh"

namespace sparseconv::gpu {

template <class T, int kChunk>
struct GemmShared {
    static constexpr int kStages = stages_of(kChunk);
    static constexpr int kA = T::kM * kChunk, kB = T::kN * kChunk, kStage = kA + kB;
    static constexpr int kOutRow(int element) { return T::kN * element + 16; }  // 16 more: rows start on different banks
    static constexpr int bytes(int element) {
        return kStages * kStage > T::kM * kOutRow(element) ? kStages * kStage : T::kM * kOutRow(element);
    }
};

// Gathers the rows of one chunk after another; knows the rows of a tap one tap ahead, so that no copy waits for its index.
template <class T, int kChunk>
class RowLoader {
   protected:
    static constexpr int kPerRow = kChunk / 16, kRowsApart = T::kThreads / kPerRow, kCopies = T::kM / kRowsApart;

    __device__ RowLoader(const GemmArguments& a, TapWalk walk, int skip, int64_t place, int group)
        : a_(a), walk_(walk), row_(threadIdx.x / kPerRow), byte_(threadIdx.x % kPerRow * 16), place_(place + row_) {
        features_ = a.features + group * a.in_group;
        for (; skip > 0; --skip) walk_.next();
        fetch();
    }

    // Chunk chunk_ of the rows of tap tap_; those of a new tap first.
    __device__ void load_rows(SharedAddress stage) {
        if (chunk_ == 0) {
            tap_ = next_tap_;
#pragma unroll
            for (int i = 0; i < kCopies; ++i) rows_[i] = next_rows_[i];
            fetch();
        }
        const int at = chunk_ + byte_;
        const bool within = at < a_.k_bytes;
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
            const bool valid = within && rows_[i] >= 0;
            const char* from = features_ + (valid ? rows_[i] * a_.in_row + at : 0);
            copy_async(stage + swizzled<kChunk>(row_ + i * kRowsApart, byte_ / 16), from, valid);
        }
    }
    __device__ void next_chunk() { chunk_ = chunk_ + kChunk < a_.k_bytes ? chunk_ + kChunk : 0; }

    const GemmArguments& a_;
    int chunk_ = 0, tap_ = -1;

   private:
    __device__ void fetch() {
        next_tap_ = walk_.next();
        const int32_t* table = a_.neighbors + (next_tap_ < 0 ? 0 : next_tap_) * a_.n_out + place_;
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
            const bool valid = next_tap_ >= 0 && place_ + i * kRowsApart < a_.n_out;
            next_rows_[i] = valid ? __ldg(table + i * kRowsApart) : -1;
        }
    }

    TapWalk walk_;
    const char* features_;
    int row_, byte_;
    int64_t place_;
    int next_tap_ = -1;
    int32_t rows_[kCopies], next_rows_[kCopies];
};

template <class T, int kChunk, bool kAlongN>
class GemmLoader : RowLoader<T, kChunk> {
    using Rows = RowLoader<T, kChunk>;
    using Rows::a_, Rows::chunk_, Rows::tap_;
    static constexpr int kPerRow = kAlongN ? T::kN / 8 : kChunk / 16, kRows = kAlongN ? kChunk / 2 : T::kN;
    static constexpr int kApart = T::kThreads / kPerRow, kCopies = (kRows + kApart - 1) / kApart;

   public:
    __device__ GemmLoader(const GemmArguments& a, TapWalk walk, int skip, int64_t place, int group, int column)
        : Rows(a, walk, skip, place, group), weight_(a.weight + group * a.weight_group), column_(column) {}

    __device__ void load(SharedAddress stage) {
        this->load_rows(stage);
        const SharedAddress b = stage + GemmShared<T, kChunk>::kA;
        const char* tap_weight = weight_ + tap_ * a_.weight_tap;
        const int piece = static_cast<int>(threadIdx.x) % kPerRow;
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
            const int row = static_cast<int>(threadIdx.x) / kPerRow + i * kApart;
            if (kRows % kApart && row >= kRows) break;
            if constexpr (kAlongN) {
                const int k = chunk_ / 2 + row, n = column_ + piece * 8;
                const bool valid = k < a_.k && n < a_.m;
                copy_async(b + swizzled<T::kN * 2>(row, piece), valid ? tap_weight + k * a_.weight_k + n * 2 : weight_, valid);
            } else {
                const int at = chunk_ + piece * 16, n = column_ + row;
                const bool valid = at < a_.k_bytes && n < a_.m;
                copy_async(b + swizzled<kChunk>(row, piece), valid ? tap_weight + n * a_.weight_n + at : weight_, valid);
            }
        }
        this->next_chunk();
    }

   private:
    const char* weight_;
    int column_;
};

// One chunk's products, from a stage of shared memory.
template <class E, class T, int kChunk, bool kAlongN>
__device__ __forceinline__ void multiply_chunk(SharedAddress stage, float (&sums)[T::kWarpM / 16][T::kWarpN / 8][4]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = warp / T::kWarpsN * T::kWarpM + lane % 16;
    const int column = warp % T::kWarpsN * T::kWarpN;
    const SharedAddress b_tile = stage + GemmShared<T, kChunk>::kA;
#pragma unroll
    for (int step = 0; step < kChunk / 32; ++step) {
        uint32_t a[T::kWarpM / 16][4], b[T::kWarpN / 16][4];
#pragma unroll
        for (int i = 0; i < T::kWarpM / 16; ++i) {
            load_matrices(a[i], stage + swizzled<kChunk>(row + i * 16, step * 2 + lane / 16));
        }
#pragma unroll
        for (int j = 0; j < T::kWarpN / 16; ++j) {
            if constexpr (kAlongN) {
                load_matrices_transposed(b[j],
                                         b_tile + swizzled<T::kN * 2>(step * 16 + lane % 16, (column + j * 16) / 8 + lane / 16));
            } else {
                load_matrices(b[j],
                              b_tile + swizzled<kChunk>(column + j * 16 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
            }
        }
        if constexpr (sizeof(typename Stored<E>::type) == 4) {
#pragma unroll
            for (int r = 0; r < 4; ++r) {
#pragma unroll
                for (int i = 0; i < T::kWarpM / 16; ++i) a[i][r] = round_to_tf32(a[i][r]);
#pragma unroll
                for (int j = 0; j < T::kWarpN / 16; ++j) b[j][r] = round_to_tf32(b[j][r]);
            }
        }
#pragma unroll
        for (int i = 0; i < T::kWarpM / 16; ++i) {
#pragma unroll
            for (int j = 0; j < T::kWarpN / 8; ++j) multiply_add(E(), sums[i][j], a[i], b[j / 2] + j % 2 * 2);
        }
    }
}

// Sums of a split, as they are: [place, channel] of its part of the workspace.
template <class T>
__device__ void store_partial(const GemmArguments& a, const float (&sums)[T::kWarpM / 16][T::kWarpN / 8][4], int64_t place,
                              int group, int column) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    place += warp / T::kWarpsN * T::kWarpM + lane / 4;
    column += warp % T::kWarpsN * T::kWarpN + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < T::kWarpM / 16; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int64_t p = place + i * 16 + half * 8;
            if (p >= a.n_out) continue;
            float* to = a.partial + (blockIdx.y * a.n_out + p) * a.c_out + group * a.m;
#pragma unroll
            for (int j = 0; j < T::kWarpN / 8; ++j) {
                const int c = column + j * 8;
                if (c < a.m) to[c] = sums[i][j][half * 2];
                if (c + 1 < a.m) to[c + 1] = sums[i][j][half * 2 + 1];
            }
        }
    }
}

// Rows of kRow bytes in shared memory to the output, in whole 16 bytes where every row of it begins at such an address.
template <class S, class T, int kRow>
__device__ void write_rows(const GemmArguments& a, const unsigned char* shared, int64_t place, int group, int column) {
    const int columns = a.m - column < T::kN ? a.m - column : T::kN;
    S* out = static_cast<S*>(a.out) + static_cast<int64_t>(group) * a.m + column;
    constexpr int kWide = 16 / sizeof(S);
    const bool wide = a.m % kWide == 0 && a.c_out % kWide == 0;
    const int pieces = wide ? columns / kWide : columns;
    for (int at = threadIdx.x; at < T::kM * pieces; at += T::kThreads) {
        const int r = at / pieces, c = at % pieces;
        if (place + r >= a.n_out) break;
        S* to = out + a.order[place + r] * a.c_out;
        const unsigned char* from = shared + r * kRow;
        if (wide) {
            reinterpret_cast<uint4*>(to)[c] = reinterpret_cast<const uint4*>(from)[c];
        } else {
            to[c] = reinterpret_cast<const S*>(from)[c];
        }
    }
}

// Bias, narrowing, and whole rows to the output by way of shared memory.
template <class S, class T, int kChunk>
__device__ void store_rows(const GemmArguments& a, const float (&sums)[T::kWarpM / 16][T::kWarpN / 8][4], unsigned char* shared,
                           int64_t place, int group, int column) {
    constexpr int kRow = GemmShared<T, kChunk>::kOutRow(sizeof(S));
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = warp / T::kWarpsN * T::kWarpM + lane / 4, first = warp % T::kWarpsN * T::kWarpN + lane % 4 * 2;
    const S* bias = static_cast<const S*>(a.bias);
#pragma unroll
    for (int j = 0; j < T::kWarpN / 8; ++j) {
        const int c = first + j * 8;
        const int64_t channel = static_cast<int64_t>(group) * a.m + column + c;
        const float b0 = bias && column + c < a.m ? widen(bias[channel]) : 0.0f;
        const float b1 = bias && column + c + 1 < a.m ? widen(bias[channel + 1]) : 0.0f;
#pragma unroll
        for (int i = 0; i < T::kWarpM / 16; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                S pair[2];
                narrow(sums[i][j][half * 2] + b0, pair[0]);
                narrow(sums[i][j][half * 2 + 1] + b1, pair[1]);
                S* to = reinterpret_cast<S*>(shared + (row + i * 16 + half * 8) * kRow) + c;
                if constexpr (sizeof(S) == 2) {
                    *reinterpret_cast<uint32_t*>(to) = pair[0].bits | static_cast<uint32_t>(pair[1].bits) << 16;
                } else {
                    *reinterpret_cast<float2*>(to) = make_float2(pair[0], pair[1]);
                }
            }
        }
    }
    __syncthreads();
    write_rows<S, T, kRow>(a, shared, place, group, column);
}

// Blocks: x = (tile of rows, group, tile of channels), the channels first so that blocks that gather the same rows run together;
// y = split.
template <class E, class T, int kChunk, bool kAlongN>
__global__ void __launch_bounds__(T::kThreads, T::kThreads == 256 ? 2 : 3) implicit_gemm(const GemmArguments a) {
    using S = typename Stored<E>::type;
    using Shared = GemmShared<T, kChunk>;
    SPARSECONV_DYNAMIC_SHARED(shared);
    const unsigned tiles_n = static_cast<unsigned>((a.m + T::kN - 1) / T::kN);
    const int column = static_cast<int>(blockIdx.x % tiles_n) * T::kN;
    const int group = static_cast<int>(blockIdx.x / tiles_n % static_cast<unsigned>(a.groups));
    const int64_t place = static_cast<int64_t>(blockIdx.x / tiles_n / static_cast<unsigned>(a.groups)) * T::kM;

    const TapWalk walk(a, place, T::kM);
    const int taps = walk.count(), split = static_cast<int>(blockIdx.y);
    const int first = taps * split / a.splits, last = taps * (split + 1) / a.splits;
    const int chunks = (last - first) * ((a.k_bytes + kChunk - 1) / kChunk);
    GemmLoader<T, kChunk, kAlongN> loader(a, walk, first, place, group, column);

    const SharedAddress base = shared_address(shared);
    float sums[T::kWarpM / 16][T::kWarpN / 8][4] = {};
#pragma unroll
    for (int s = 0; s < Shared::kStages - 1; ++s) {
        if (s < chunks) loader.load(base + s * Shared::kStage);
        commit_copies();
    }
    int reading = 0, writing = Shared::kStages - 1;
    for (int i = 0; i < chunks; ++i) {
        wait_copies<Shared::kStages - 2>();
        __syncthreads();  // chunk i is there for all, and all have left the stage that is filled next
        if (i + Shared::kStages - 1 < chunks) loader.load(base + writing * Shared::kStage);
        commit_copies();
        multiply_chunk<E, T, kChunk, kAlongN>(base + reading * Shared::kStage, sums);
        reading = reading + 1 == Shared::kStages ? 0 : reading + 1;
        writing = writing + 1 == Shared::kStages ? 0 : writing + 1;
    }
    if (a.partial) return store_partial<T>(a, sums, place, group, column);
    wait_copies<0>();
    __syncthreads();
    store_rows<S, T, kChunk>(a, sums, shared, place, group, column);
}

}  // namespace sparseconv::gpu
