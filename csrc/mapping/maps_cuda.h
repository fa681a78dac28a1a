// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// What the maps need on a GPU beyond loops over indices. Everything runs on the caller's stream; pointers are the device's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../core/cuda.h"

namespace sparseconv::gpu {

// Sorts keys [n], stably, by their low `bits` bits, and with them rows [n]: what stood at i comes with rows[i]. `rows` null: keys alone.
size_t sort_bytes(int64_t n, bool with_rows);
void sort_keys(cudaStream_t, const int64_t* keys, const int32_t* rows, int64_t n, int bits, int64_t* sorted_keys,
               int32_t* sorted_rows, void* scratch, size_t scratch_bytes);

constexpr int64_t kWarpColumns = 512;  // columns of a table of neighbours that one warp looks through

// pairs.h's CountPairs and WritePairs, with chunks of kWarpColumns. `ends`: counts summed up to and with each chunk.
void count_pairs(cudaStream_t, const int32_t* table, int64_t taps, int64_t n, int64_t* counts);
void write_pairs(cudaStream_t, const int32_t* table, int64_t taps, int64_t n, const int64_t* counts, const int64_t* ends,
                 int column, int32_t* pairs);

}  // namespace sparseconv::gpu
