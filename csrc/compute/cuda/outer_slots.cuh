// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// How the pairs of a map are cut for the gradient of the weight: each tap's into chunks of one length, chunk after chunk, tap after
// tap. A slot is one chunk; how many there are at most follows from shapes, so no launch waits for the counts on the device.
#pragma once

#include "pack.cuh"

namespace sparseconv::gpu {

struct OuterArguments {
    const char *features, *grads;  // rows of in_row and out_row bytes, a group's channels at in_group and out_group bytes
    int64_t in_row, in_group, out_row, out_group;
    Pairs pairs;
    void* partial;   // [slots, k, c_out]
    int64_t length;  // pairs of a chunk
    int k, m, groups;
};

// Chunk of a tap: pairs [begin, end). tap < 0: no such slot.
struct Slot {
    int tap;
    int64_t begin, end;
};

__device__ inline Slot find_slot(const Pairs& pairs, int64_t length, int64_t slot) {
    int64_t begin = pairs.tap_offsets[0];
    for (int t = 0; t < pairs.taps; ++t) {
        const int64_t end = __ldg(pairs.tap_offsets + t + 1), chunks = (end - begin + length - 1) / length;
        if (slot < chunks) {
            const int64_t from = begin + slot * length;
            return {t, from, from + length < end ? from + length : end};
        }
        slot -= chunks;
        begin = end;
    }
    return {-1, 0, 0};
}

// grad_weight[t] = the sums of the slots of tap t, in order. Blocks: x = elements of one tap, y = taps.
template <class S>
__global__ void add_slots(const Pairs pairs, int64_t length, const Acc<S>* partial, int64_t elements, S* grad_weight) {
    const int64_t at = thread_number(), tap = blockIdx.y;
    if (at >= elements) return;
    int64_t slot = 0;
    for (int64_t t = 0; t < tap; ++t) slot += (pairs.tap_offsets[t + 1] - pairs.tap_offsets[t] + length - 1) / length;
    const int64_t chunks = (pairs.tap_offsets[tap + 1] - pairs.tap_offsets[tap] + length - 1) / length;
    Acc<S> sum = 0;
    for (int64_t c = 0; c < chunks; ++c) sum += partial[(slot + c) * elements + at];
    narrow(sum, grad_weight[tap * elements + at]);
}

}  // namespace sparseconv::gpu
