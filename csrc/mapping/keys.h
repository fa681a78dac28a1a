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

// Calls `rows.template run<fields>(c)`: the loop over the fields of a row is unrolled, which is what these passes spend their time on.
template <class Rows>
SPARSECONV_HD void run_with_fields(const Rows& rows, int fields, int64_t c) {
    switch (fields) {
        case 1: return rows.template run<1>(c);
        case 2: return rows.template run<2>(c);
        case 3: return rows.template run<3>(c);
        case 4: return rows.template run<4>(c);
        case 5: return rows.template run<5>(c);
    }
}

struct BoundsOfRows {
    const int32_t* coords;  // [n, fields]
    int fields;
    Chunks chunks;
    int64_t* partial;  // [chunks, 2, fields]

    SPARSECONV_HD void operator()(int64_t c) const { run_with_fields(*this, fields, c); }

    template <int F>
    SPARSECONV_HD void run(int64_t c) const {
        int32_t low[F], high[F];
        for (int f = 0; f < F; ++f) low[f] = INT32_MAX, high[f] = INT32_MIN;
        const int32_t* const end = coords + chunks.end(c) * F;
        for (const int32_t* row = coords + chunks.begin(c) * F; row < end; row += F) {
            for (int f = 0; f < F; ++f) {
                low[f] = row[f] < low[f] ? row[f] : low[f];
                high[f] = row[f] > high[f] ? row[f] : high[f];
            }
        }
        for (int f = 0; f < F; ++f) partial[c * 2 * F + f] = low[f], partial[(c * 2 + 1) * F + f] = high[f];
    }
};

struct PackRows {
    const int32_t* coords;  // [n, fields]
    KeyLayout layout;
    int64_t scale[kMaxFields];  // field value = coordinate * scale
    Chunks chunks;
    int64_t* keys;      // [n]
    uint8_t* in_order;  // [chunks], whether the keys of the chunk strictly increase; null: nobody asks

    SPARSECONV_HD void operator()(int64_t c) const { run_with_fields(*this, layout.fields, c); }

    // sum of (coordinate * scale - low) << shift, as one product per field. Unsigned: a factor may wrap, the key does not.
    template <int F>
    SPARSECONV_HD void run(int64_t c) const {
        uint64_t factor[F], base = 0;
        for (int f = 0; f < F; ++f) {
            factor[f] = static_cast<uint64_t>(scale[f]) << layout.shift[f];
            base -= static_cast<uint64_t>(layout.low[f]) << layout.shift[f];
        }
        int64_t previous = -1;
        bool increasing = true;
        for (int64_t row = chunks.begin(c); row < chunks.end(c); ++row) {
            uint64_t sum = base;
            for (int f = 0; f < F; ++f) {
                sum += static_cast<uint64_t>(static_cast<int64_t>(coords[row * F + f])) * factor[f];
            }
            const int64_t key = static_cast<int64_t>(sum);
            keys[row] = key;
            increasing &= key > previous;
            previous = key;
        }
        if (in_order) in_order[c] = increasing;
    }
};

struct UnpackKeys {
    const int64_t* keys;
    KeyLayout layout;
    Chunks chunks;
    int32_t* coords;  // [n, fields]

    SPARSECONV_HD void operator()(int64_t c) const { run_with_fields(*this, layout.fields, c); }

    template <int F>
    SPARSECONV_HD void run(int64_t c) const {
        int shift[F];
        int64_t mask[F], low[F];  // held apart from the coordinates that are written
        for (int f = 0; f < F; ++f) {
            shift[f] = layout.shift[f];
            mask[f] = (int64_t{1} << layout.bits[f]) - 1;
            low[f] = layout.low[f];
        }
        const int64_t end = chunks.end(c);
        for (int64_t row = chunks.begin(c); row < end; ++row) {
            const int64_t key = keys[row];
            for (int f = 0; f < F; ++f) coords[row * F + f] = static_cast<int32_t>(((key >> shift[f]) & mask[f]) + low[f]);
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
