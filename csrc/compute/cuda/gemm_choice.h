// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Which tile, chunk and split a convolution takes: a model of time from shapes alone. Its constants are an H100's, also on other
// devices, so that the bits of a result do not depend on the device either.
#pragma once

#include <algorithm>

#include "../kernels_cuda.h"

namespace sparseconv::gpu {

struct TileFigures {
    int m, n, threads;
    double blocks_per_sm;  // by registers and shared memory
    double efficiency;     // share of the tensor cores' rate that its warps can ask of shared memory and issue
};
// In order of the index in GemmChoice: 128x128, 128x64, 128x32, 64x64.
constexpr TileFigures kTiles[] = {{128, 128, 256, 2, 1.0}, {128, 64, 128, 3, 0.9}, {128, 32, 128, 3, 0.6}, {64, 64, 128, 4, 0.7}};
constexpr int kTileCount = 4;
constexpr double kMultiprocessors = 132;
constexpr double kMacsPerMicrosecond = 1.7e6;   // of one multiprocessor, 16-bit mma.sync at 1.75 GHz
constexpr double kBytesPerMicrosecond = 2.5e6;  // of all memory
constexpr double kMicrosecondsPerChunk = 0.12;  // barrier, addresses and latency that one step of the pipeline cannot hide
constexpr double kMicrosecondsPerLaunch = 2.5;
constexpr int kMostSplits = 8;

inline int64_t element_bytes(Precision p) {
    return p == Precision::f64 ? 8 : p == Precision::f32 || p == Precision::tf32 ? 4 : 2;
}
inline bool on_tensor_cores(Precision p) { return p == Precision::f16 || p == Precision::bf16 || p == Precision::tf32; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline bool is_depthwise(const ConvShape& s) { return s.groups == s.c_in && s.groups == s.c_out; }
inline int64_t aligned(int64_t bytes) { return ceil_div(bytes, 256) * 256; }  // parts of a scratch

// Taps that a tile of so many rows works on, when a row has pairs / n_out of them: sorting makes the rows of a tile alike, not equal.
inline double taps_of_tile(const ConvShape& s, int64_t taps, int64_t pairs, int rows) {
    const double mean = static_cast<double>(pairs) / static_cast<double>(std::max<int64_t>(1, s.n_out));
    return std::min(static_cast<double>(taps), mean * (rows == 128 ? 1.35 : 1.25) + 1);
}

inline double estimate(const TileFigures& tile, int chunk_bytes, int splits, Precision p, const ConvShape& s, int64_t taps,
                       int64_t pairs) {
    const int64_t bytes = element_bytes(p), k = s.c_in / s.groups, m = s.c_out / s.groups;
    const double rate = kMacsPerMicrosecond * tile.efficiency / (bytes == 4 ? 2 : 1);
    const double chunks = static_cast<double>(ceil_div(k * bytes, chunk_bytes)) * taps_of_tile(s, taps, pairs, tile.m) / splits;
    const double macs = chunks * chunk_bytes / static_cast<double>(bytes) * tile.m * tile.n;
    const double blocks = static_cast<double>(ceil_div(s.n_out, tile.m) * ceil_div(m, tile.n) * s.groups * splits);
    const double at_once = kMultiprocessors * tile.blocks_per_sm, waves = std::max(1.0, blocks / at_once);
    const double sharing = std::min(tile.blocks_per_sm, std::max(1.0, blocks / kMultiprocessors));
    double time = waves * std::max(macs / rate * sharing, chunks * kMicrosecondsPerChunk * 2) + chunks * kMicrosecondsPerChunk;
    if (splits > 1) {
        time += kMicrosecondsPerLaunch + 2.0 * 4 * splits * static_cast<double>(s.n_out * s.c_out) / kBytesPerMicrosecond;
    }
    return time;
}

inline GemmChoice choose_gemm(Precision p, const ConvShape& s, int64_t taps, int64_t pairs) {
    const int64_t row_bytes = s.c_in / s.groups * element_bytes(p);
    GemmChoice best{-1, 0, 1};
    if (!on_tensor_cores(p)) {
        const int64_t blocks = ceil_div(s.n_out, 128) * ceil_div(s.c_out / s.groups, 64) * s.groups;
        while (p == Precision::f32 && best.splits < kMostSplits && blocks * best.splits < 2 * kMultiprocessors &&
               taps >= 4 * best.splits) {
            best.splits *= 2;
        }
        return best;
    }
    // 128 bytes halve the barriers; 64 waste less of a last, partly filled chunk.
    const int chunk = ceil_div(row_bytes, 128) * 128 - row_bytes >= 64 ? 64 : 128;
    double least = 0;
    for (int tile = 0; tile < kTileCount; ++tile) {
        for (int splits = 1; splits <= kMostSplits && (splits == 1 || splits * 2 <= taps); splits *= 2) {
            const double time = estimate(kTiles[tile], chunk, splits, p, s, taps, pairs);
            if (best.tile < 0 || time < least) best = {tile, chunk, splits}, least = time;
        }
    }
    return best;
}

}  // namespace sparseconv::gpu
