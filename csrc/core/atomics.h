// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Atomic operations on integers for loops that run on the host and on a GPU. All are relaxed; the results of the loops that use
// them do not depend on which index comes first.
#pragma once

#include <cstdint>

#include "core/device.h"

namespace sparseconv {

// Writes `desired` where *at == expected; what stood there before.
SPARSECONV_HD inline int32_t compare_and_swap(int32_t* at, int32_t expected, int32_t desired) {
#if defined(__CUDA_ARCH__)
    return atomicCAS(at, expected, desired);
#else
    __atomic_compare_exchange_n(at, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
#endif
}

// *at = min(*at, value); what stood there before.
SPARSECONV_HD inline int32_t fetch_min(int32_t* at, int32_t value) {
#if defined(__CUDA_ARCH__)
    return atomicMin(at, value);
#else
    int32_t old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (value < old && !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
#endif
}

}  // namespace sparseconv
