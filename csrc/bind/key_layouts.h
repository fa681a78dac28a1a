// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// A key layout travels as a tuple of integers: low, shift and bits of each field.
#pragma once

#include <string>
#include <vector>

#include "bind/buffers.h"
#include "core/coord_key.h"

namespace sparseconv {

namespace py = pybind11;
using Integers = std::vector<int64_t>;

inline KeyLayout layout_of(const Integers& numbers) {
    KeyLayout layout;
    layout.fields = static_cast<int>(numbers.size() / 3);
    require(layout.fields >= 1 && layout.fields <= kMaxFields && numbers.size() % 3 == 0,
            "a key layout has 3 numbers for each of 1 to 5 fields, got " + std::to_string(numbers.size()));
    for (int f = 0; f < layout.fields; ++f) {
        layout.low[f] = numbers[f];
        layout.shift[f] = static_cast<int>(numbers[layout.fields + f]);
        layout.bits[f] = static_cast<int>(numbers[2 * layout.fields + f]);
        require(layout.shift[f] >= 0 && layout.bits[f] >= 0 && layout.shift[f] + layout.bits[f] <= kKeyBits,
                "a key layout's fields must lie within 63 bits");
    }
    return layout;
}

inline Integers key_layout(const Integers& low, const Integers& high) {
    require(low.size() == high.size() && !low.empty() && low.size() <= kMaxFields, "low and high must have 1 to 5 fields");
    const KeyLayout layout = make_layout(static_cast<int>(low.size()), low.data(), high.data());
    Integers numbers;
    for (int f = 0; f < layout.fields; ++f) numbers.push_back(layout.low[f]);
    for (int f = 0; f < layout.fields; ++f) numbers.push_back(layout.shift[f]);
    for (int f = 0; f < layout.fields; ++f) numbers.push_back(layout.bits[f]);
    return numbers;
}

inline void require_coords(const Buffer<int32_t>& coords, int fields) {
    require(coords.ndim == 2 && coords.shape[1] == fields,
            "coordinates must be [N, " + std::to_string(fields) + "] to match the key layout");
}

inline void require_table(const Buffer<int32_t>& table, int64_t taps, int64_t n) {
    require(table.ndim == 2 && table.shape[0] == taps && table.shape[1] == n,
            "the table must be [" + std::to_string(taps) + ", " + std::to_string(n) + "]");
}

}  // namespace sparseconv
