// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// From a table of neighbours to pairs. A warp looks through its columns 32 at a time and writes behind what the chunks before it
// have counted: places follow from the table alone.
#include "../maps_cuda.h"

namespace sparseconv::gpu {
namespace {

constexpr int kCompactThreads = 256;

int64_t chunks_of(int64_t n) { return (n + kWarpColumns - 1) / kWarpColumns; }

dim3 blocks_of(int64_t taps, int64_t n) {
    return dim3(static_cast<unsigned>((taps * chunks_of(n) * 32 + kCompactThreads - 1) / kCompactThreads));
}

// `pairs` null: counts only.
__global__ void compact_table(const int32_t* table, int64_t taps, int64_t n, int64_t chunks, int64_t* counts, const int64_t* ends,
                              int column, int32_t* pairs) {
    const int64_t task = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
    if (task >= taps * chunks) return;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int32_t* const row = table + task / chunks * n;
    const int64_t first = task % chunks * kWarpColumns, last = first + kWarpColumns < n ? first + kWarpColumns : n;
    int64_t written = pairs ? ends[task] - counts[task] : 0;
    for (int64_t base = first; base < last; base += 32) {
        const int64_t i = base + lane;
        const int32_t entry = i < last ? row[i] : -1;
        const unsigned present = __ballot_sync(0xFFFFFFFFu, entry >= 0);
        if (pairs && entry >= 0) {
            int32_t* const pair = pairs + 2 * (written + __popc(present & ((1u << lane) - 1)));
            pair[column] = static_cast<int32_t>(i);
            pair[1 - column] = entry;
        }
        written += __popc(present);
    }
    if (!pairs && lane == 0) counts[task] = written;
}

}  // namespace

void count_pairs(cudaStream_t stream, const int32_t* table, int64_t taps, int64_t n, int64_t* counts) {
    launch(compact_table, blocks_of(taps, n), dim3(kCompactThreads), 0, stream, table, taps, n, chunks_of(n), counts, nullptr, 0,
           nullptr);
}

void write_pairs(cudaStream_t stream, const int32_t* table, int64_t taps, int64_t n, const int64_t* counts, const int64_t* ends,
                 int column, int32_t* pairs) {
    launch(compact_table, blocks_of(taps, n), dim3(kCompactThreads), 0, stream, table, taps, n, chunks_of(n),
           const_cast<int64_t*>(counts), ends, column, pairs);
}

}  // namespace sparseconv::gpu
