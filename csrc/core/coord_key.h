// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// A row of coordinates (batch, x0, .., xD-1) as one 64-bit key: bit fields in that order, batch on top, so that the order of keys
// is the lexicographic order of rows and a neighbour is key + delta. The widths come from the ranges the fields must hold.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/device.h"

namespace sparseconv {

constexpr int kMaxFields = 5;  // the batch index and up to four axes
constexpr int kKeyBits = 63;   // the sign bit stays free: keys are compared as int64, and kNoKey lies above all of them
constexpr int64_t kNoKey = INT64_MAX;

struct KeyLayout {
    int fields = 0;
    int64_t low[kMaxFields] = {0, 0, 0, 0, 0};  // smallest value of each field
    int shift[kMaxFields] = {0, 0, 0, 0, 0};
    int bits[kMaxFields] = {0, 0, 0, 0, 0};

    SPARSECONV_HD int64_t pack(int field, int64_t value) const { return (value - low[field]) << shift[field]; }
    SPARSECONV_HD int64_t unpack(int field, int64_t key) const {
        return ((key >> shift[field]) & ((int64_t{1} << bits[field]) - 1)) + low[field];
    }
    int total_bits() const { return shift[0] + bits[0]; }
};

// Field `f` holds low[f] .. high[f], both included. Throws std::invalid_argument that names the widest axis.
inline KeyLayout make_layout(int fields, const int64_t* low, const int64_t* high) {
    KeyLayout layout;
    layout.fields = fields;
    int used = 0, widest = 0;
    for (int f = fields - 1; f >= 0; --f) {
        const uint64_t span = static_cast<uint64_t>(high[f]) - static_cast<uint64_t>(low[f]);
        int bits = 0;
        while (bits < 64 && (span >> bits) != 0) ++bits;
        layout.low[f] = low[f];
        layout.bits[f] = bits;
        layout.shift[f] = used;
        used += bits;
        if (bits > layout.bits[widest] || f == fields - 1) widest = f;
    }
    if (used > kKeyBits) {
        std::string widths;
        for (int f = 0; f < fields; ++f) {
            widths += (f ? ", axis " + std::to_string(f - 1) : std::string("batch")) + " " + std::to_string(layout.bits[f]);
        }
        const std::string name = widest == 0 ? "the batch index" : "axis " + std::to_string(widest - 1);
        throw std::invalid_argument("coordinates need a key of at most " + std::to_string(kKeyBits) + " bits, got " +
                                    std::to_string(used) + " bits (" + widths + "): " + name + " spans " +
                                    std::to_string(low[widest]) + " .. " + std::to_string(high[widest]) +
                                    " with the kernel's reach");
    }
    return layout;
}

}  // namespace sparseconv
