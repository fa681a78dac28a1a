// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/device.h"

namespace sparseconv {

// The first index in [begin, end) whose key is not below `key`; `end` if there is none.
SPARSECONV_HD inline int64_t lower_bound(const int64_t* keys, int64_t begin, int64_t end, int64_t key) {
    while (begin < end) {
        const int64_t middle = begin + (end - begin) / 2;
        if (keys[middle] < key) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}

}  // namespace sparseconv
