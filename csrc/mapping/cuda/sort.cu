// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The sort of keys: CUB's radix sort, or the standard library's in the emulation. Both are stable, so that the result is the only
// one there is.
#include "../maps_cuda.h"

#if defined(SPARSECONV_EMULATED)
#include <algorithm>
#include <numeric>
#include <vector>
#else
#include <cub/device/device_radix_sort.cuh>
#endif

namespace sparseconv::gpu {

#if defined(SPARSECONV_EMULATED)

size_t sort_bytes(int64_t, bool) { return 1; }

void sort_keys(cudaStream_t, const int64_t* keys, const int32_t* rows, int64_t n, int bits, int64_t* sorted_keys,
               int32_t* sorted_rows, void*, size_t) {
    const uint64_t mask = bits < 64 ? (uint64_t{1} << bits) - 1 : ~uint64_t{0};
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return (static_cast<uint64_t>(keys[a]) & mask) < (static_cast<uint64_t>(keys[b]) & mask);
    });
    for (int64_t i = 0; i < n; ++i) {
        sorted_keys[i] = keys[order[static_cast<size_t>(i)]];
        if (rows) sorted_rows[i] = rows[order[static_cast<size_t>(i)]];
    }
}

#else

namespace {

// Unsigned: CUB then compares the bits as they are.
void sort_with(cudaStream_t stream, const int64_t* keys, const int32_t* rows, int64_t n, int bits, int64_t* sorted_keys,
               int32_t* sorted_rows, void* scratch, size_t& bytes) {
    const auto* from = reinterpret_cast<const uint64_t*>(keys);
    auto* to = reinterpret_cast<uint64_t*>(sorted_keys);
    check_cuda(rows ? cub::DeviceRadixSort::SortPairs(scratch, bytes, from, to, rows, sorted_rows, n, 0, bits, stream)
                    : cub::DeviceRadixSort::SortKeys(scratch, bytes, from, to, n, 0, bits, stream),
               "sort of keys");
}

}  // namespace

size_t sort_bytes(int64_t n, bool with_rows) {
    size_t bytes = 0;
    const int32_t none = 0;  // only whether there are rows matters to the question
    sort_with(nullptr, nullptr, with_rows ? &none : nullptr, n, 64, nullptr, nullptr, nullptr, bytes);
    return bytes;
}

void sort_keys(cudaStream_t stream, const int64_t* keys, const int32_t* rows, int64_t n, int bits, int64_t* sorted_keys,
               int32_t* sorted_rows, void* scratch, size_t scratch_bytes) {
    sort_with(stream, keys, rows, n, bits, sorted_keys, sorted_rows, scratch, scratch_bytes);
}

#endif

}  // namespace sparseconv::gpu
