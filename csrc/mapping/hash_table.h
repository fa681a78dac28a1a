// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Open addressing with linear probing over arrays that the caller owns. Keys are unique, so where a key lands may depend on the
// order of the insertions, but what a look-up finds does not.
#pragma once

#include <cstdint>

#include "core/coord_key.h"
#include "core/device.h"

namespace sparseconv {

struct HashTable {
    int64_t* keys;  // [capacity], kNoKey = free
    int32_t* rows;  // [capacity]
    int64_t mask;   // capacity - 1, capacity a power of two of at least twice the keys

    SPARSECONV_HD static int64_t capacity_for(int64_t n) {
        int64_t capacity = 16;
        while (capacity < 2 * n) capacity *= 2;
        return capacity;
    }

    // Fibonacci hashing over the mixed key; neighbouring cells land far apart.
    SPARSECONV_HD int64_t slot(int64_t key) const {
        uint64_t h = static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15ull;
        h ^= h >> 29;
        return static_cast<int64_t>(h & static_cast<uint64_t>(mask));
    }

    SPARSECONV_HD int32_t find(int64_t key) const {
        for (int64_t s = slot(key);; s = (s + 1) & mask) {
            if (keys[s] == key) return rows[s];
            if (keys[s] == kNoKey) return -1;
        }
    }

    SPARSECONV_HD void insert(int64_t key, int32_t row) const {
        for (int64_t s = slot(key);; s = (s + 1) & mask) {
            if (claim(s, key)) {
                rows[s] = row;
                return;
            }
        }
    }

   private:
    SPARSECONV_HD bool claim(int64_t s, int64_t key) const {
#if defined(__CUDA_ARCH__)
        return atomicCAS(reinterpret_cast<unsigned long long*>(keys + s), static_cast<unsigned long long>(kNoKey),
                         static_cast<unsigned long long>(key)) == static_cast<unsigned long long>(kNoKey);
#else
        int64_t free_slot = kNoKey;
        return __atomic_compare_exchange_n(keys + s, &free_slot, key, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
#endif
    }
};

struct ClearSlots {
    HashTable table;
    Chunks chunks;
    SPARSECONV_HD void operator()(int64_t c) const {
        for (int64_t s = chunks.begin(c); s < chunks.end(c); ++s) table.keys[s] = kNoKey;
    }
};

struct InsertKeys {
    HashTable table;
    const int64_t* keys;
    Chunks chunks;
    SPARSECONV_HD void operator()(int64_t c) const {
        for (int64_t i = chunks.begin(c); i < chunks.end(c); ++i) table.insert(keys[i], static_cast<int32_t>(i));
    }
};

}  // namespace sparseconv
