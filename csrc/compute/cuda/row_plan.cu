// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// A kernel map turned into what output-stationary kernels read. Which thread comes first does not matter: masks are or-ed, and
// every entry of the table has one pair at most.
#include "pack.cuh"

namespace sparseconv::gpu {
namespace {

// The tap of pair p: the last one that begins at or before it (taps without pairs begin where the next one does).
__device__ int tap_of_pair(const Pairs& pairs, int64_t p) {
    int64_t low = 0, high = pairs.taps;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (__ldg(pairs.tap_offsets + middle) <= p) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return static_cast<int>(low);
}

__global__ void mark_taps(const Pairs pairs, int64_t n_pairs, int words, uint32_t* masks) {
    const int64_t p = thread_number();
    if (p >= n_pairs) return;
    const int tap = tap_of_pair(pairs, p);
    atomicOr(masks + pairs.data[p].out * static_cast<int64_t>(words) + tap / 32, 1u << tap % 32);
}

__global__ void number_places(const int32_t* order, int64_t n_out, int32_t* place_of_row) {
    const int64_t place = thread_number();
    if (place < n_out) place_of_row[order[place]] = static_cast<int32_t>(place);
}

__global__ void fill_neighbors(const Pairs pairs, int64_t n_pairs, int64_t n_out, const int32_t* place_of_row,
                               int32_t* neighbors) {
    const int64_t p = thread_number();
    if (p >= n_pairs) return;
    const Pair pair = pairs.data[p];
    neighbors[tap_of_pair(pairs, p) * n_out + place_of_row[pair.out]] = pair.in;
}

// One thread for one word of one tile.
__global__ void join_masks(const uint32_t* masks, const int32_t* order, int64_t n_out, int words, uint32_t* tile_masks) {
    const int64_t at = thread_number();
    if (at >= (n_out + kMaskRows - 1) / kMaskRows * words) return;
    const int64_t first = at / words * kMaskRows, last = first + kMaskRows < n_out ? first + kMaskRows : n_out;
    uint32_t bits = 0;
    for (int64_t p = first; p < last; ++p) bits |= masks[order[p] * static_cast<int64_t>(words) + at % words];
    tile_masks[at] = bits;
}

}  // namespace

void tap_masks(cudaStream_t stream, const Pairs& pairs, int64_t n_pairs, int64_t n_out, uint32_t* masks) {
    const int64_t words = mask_words(pairs.taps);
    check_cuda(cudaMemsetAsync(masks, 0, static_cast<size_t>(n_out * words) * sizeof(uint32_t), stream), "masks of taps");
    launch(mark_taps, blocks_for(n_pairs), dim3(kThreads), 0, stream, pairs, n_pairs, static_cast<int>(words), masks);
}

void plan_rows(cudaStream_t stream, const Pairs& pairs, int64_t n_pairs, int64_t n_out, const uint32_t* masks,
               const int32_t* order, int32_t* place_of_row, int32_t* neighbors, uint32_t* tile_masks) {
    const int64_t words = mask_words(pairs.taps), tiles = (n_out + kMaskRows - 1) / kMaskRows;
    check_cuda(cudaMemsetAsync(neighbors, 0xFF, static_cast<size_t>(pairs.taps * n_out) * sizeof(int32_t), stream), "neighbours");
    launch(number_places, blocks_for(n_out), dim3(kThreads), 0, stream, order, n_out, place_of_row);
    launch(fill_neighbors, blocks_for(n_pairs), dim3(kThreads), 0, stream, pairs, n_pairs, n_out, place_of_row, neighbors);
    launch(join_masks, blocks_for(tiles * words), dim3(kThreads), 0, stream, masks, order, n_out, static_cast<int>(words),
           tile_masks);
}

}  // namespace sparseconv::gpu
