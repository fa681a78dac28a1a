// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Coordinates to keys and back, their bounds, and the stable radix sort of keys.
#pragma once

#include <cstring>

#include "core/buffer.h"
#include "core/coord_key.h"
#include "core/device.h"

namespace sparseconv {

constexpr int64_t kRowsPerTask = 8192;  // rows one task of a row loop takes: long enough to hide the cost of a task

struct BoundsOfRows {
    const int32_t* coords;  // [n, fields]
    int fields;
    Chunks chunks;
    int64_t* partial;  // [chunks, 2, fields]

    SPARSECONV_HD void operator()(int64_t c) const {
        int64_t* low = partial + c * 2 * fields;
        int64_t* high = low + fields;
        for (int f = 0; f < fields; ++f) low[f] = INT32_MAX, high[f] = INT32_MIN;
        for (int64_t row = chunks.begin(c); row < chunks.end(c); ++row) {
            for (int f = 0; f < fields; ++f) {
                const int64_t value = coords[row * fields + f];
                low[f] = value < low[f] ? value : low[f];
                high[f] = value > high[f] ? value : high[f];
            }
        }
    }
};

struct PackRows {
    const int32_t* coords;  // [n, fields]
    KeyLayout layout;
    int64_t scale[kMaxFields];  // field value = coordinate * scale
    Chunks chunks;
    int64_t* keys;      // [n]
    uint8_t* in_order;  // [chunks], whether the keys of the chunk strictly increase

    SPARSECONV_HD void operator()(int64_t c) const {
        const int fields = layout.fields;
        int64_t previous = -1;
        bool increasing = true;
        for (int64_t row = chunks.begin(c); row < chunks.end(c); ++row) {
            int64_t key = 0;
            for (int f = 0; f < fields; ++f) key += layout.pack(f, coords[row * fields + f] * scale[f]);
            keys[row] = key;
            increasing &= key > previous;
            previous = key;
        }
        in_order[c] = increasing;
    }
};

struct UnpackKeys {
    const int64_t* keys;
    KeyLayout layout;
    int32_t* coords;  // [n, fields]

    SPARSECONV_HD void operator()(int64_t row) const {
        for (int f = 0; f < layout.fields; ++f) {
            coords[row * layout.fields + f] = static_cast<int32_t>(layout.unpack(f, keys[row]));
        }
    }
};

// One pass of the least-significant-digit radix sort: count the digits of each chunk, then place each chunk's rows in order.
constexpr int kDigitBits = 11;
constexpr int64_t kDigits = int64_t{1} << kDigitBits;
constexpr int64_t kSortChunk = 32768;

struct CountDigits {
    const int64_t* keys;
    int shift;
    Chunks chunks;
    int64_t* counts;  // [chunks, kDigits]

    SPARSECONV_HD void operator()(int64_t c) const {
        int64_t* mine = counts + c * kDigits;
        for (int64_t d = 0; d < kDigits; ++d) mine[d] = 0;
        for (int64_t i = chunks.begin(c); i < chunks.end(c); ++i) ++mine[(keys[i] >> shift) & (kDigits - 1)];
    }
};

struct PlaceByDigit {
    const int64_t* keys;
    const int32_t* rows;  // null: row i is i
    int shift;
    Chunks chunks;
    int64_t* starts;  // [chunks, kDigits], consumed
    int64_t* keys_out;
    int32_t* rows_out;

    SPARSECONV_HD void operator()(int64_t c) const {
        int64_t* mine = starts + c * kDigits;
        for (int64_t i = chunks.begin(c); i < chunks.end(c); ++i) {
            const int64_t place = mine[(keys[i] >> shift) & (kDigits - 1)]++;
            keys_out[place] = keys[i];
            rows_out[place] = rows ? rows[i] : static_cast<int32_t>(i);
        }
    }
};

// Elements of int64 scratch that sort_keys needs for n keys.
inline int64_t sort_scratch_size(int64_t n) { return n + (n + 1) / 2 + Chunks{n, kSortChunk}.count() * kDigits; }

// Sorts keys [n] in place, stably, and writes rows [n] = where each key stood. bits: how many low bits of the keys can differ.
inline void sort_keys(const Cpu& device, int64_t* keys, int32_t* rows, int64_t n, int bits, int64_t* scratch) {
    const Chunks chunks{n, kSortChunk};
    int64_t* other_keys = scratch;
    int32_t* other_rows = reinterpret_cast<int32_t*>(scratch + n);
    int64_t* counts = scratch + n + (n + 1) / 2;
    int64_t* from_keys = keys;
    int32_t* from_rows = rows;
    int64_t* to_keys = other_keys;
    int32_t* to_rows = other_rows;
    bool first = true;
    for (int shift = 0; shift < bits; shift += kDigitBits) {
        device.for_each(chunks.count(), CountDigits{from_keys, shift, chunks, counts});
        int64_t running = 0;
        bool one_digit = false;  // all keys share this digit: nothing moves
        for (int64_t d = 0; d < kDigits; ++d) {
            const int64_t before = running;
            for (int64_t c = 0; c < chunks.count(); ++c) {
                const int64_t count = counts[c * kDigits + d];
                counts[c * kDigits + d] = running;
                running += count;
            }
            one_digit |= running - before == n;
        }
        if (one_digit && !first) continue;
        device.for_each(chunks.count(),
                        PlaceByDigit{from_keys, first ? nullptr : from_rows, shift, chunks, counts, to_keys, to_rows});
        std::swap(from_keys, to_keys);
        std::swap(from_rows, to_rows);
        first = false;
    }
    if (first) {
        for (int64_t i = 0; i < n; ++i) rows[i] = static_cast<int32_t>(i);
    } else if (from_keys != keys) {
        std::memcpy(keys, from_keys, static_cast<size_t>(n) * sizeof(int64_t));
        std::memcpy(rows, from_rows, static_cast<size_t>(n) * sizeof(int32_t));
    }
}

}  // namespace sparseconv
