// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Fully connected layers in the EIE format: a task is a PE, whose sums stay in a cache while it goes through the columns that have an
// activation.
#pragma once

#include "../compute/rows.h"
#include "eie_decode.h"
#include "eie_kernels.h"

namespace sparseconv::SPARSECONV_ISA {

// One PE's part of the matrix.
struct EiePart {
    const uint8_t* entries;
    const int32_t* pointers;
    int64_t rows;
};

// The columns whose activation is not zero in some sample.
struct EieColumns {
    int32_t* index;
    int64_t count = 0;
    bool finite = true;  // all activations
};

SPARSECONV_INLINE bool is_finite(float a) { return a - a == 0.0f; }

// Room for a column's rows and values.
struct EieRoom {
    explicit EieRoom(int64_t entries) : rows(entries + kEiePadding), values(entries + kEiePadding) {}
    Scratch<int32_t> rows;
    Scratch<float> values;
};

// Calls add(row, value) for the entries of a column, fillers included. Decoding runs two groups ahead of adding: what was just stored
// by the register cannot be loaded piecewise at once.
template <class Add>
SPARSECONV_INLINE void for_each_entry(const EiePart& part, int64_t column, const float* table, const EieRoom& room,
                                      const Add& add) {
    constexpr int64_t ahead = 2 * kEieGroup;
    static_assert(ahead + kEieGroup <= kEiePadding, "decoding reads past the end");
    const uint8_t* const entries = part.entries + part.pointers[column];
    const int64_t count = part.pointers[column + 1] - part.pointers[column], whole = count - count % kEieGroup;
    int32_t* const rows = room.rows.data;
    float* const values = room.values.data;
    EieDecoder decoder(table);
    for (int64_t e = 0; e < min_of(ahead, count); e += kEieGroup) decoder.next(entries + e, rows + e, values + e);
    for (int64_t e = 0; e < whole; e += kEieGroup) {
        decoder.next(entries + e + ahead, rows + e + ahead, values + e + ahead);
        SPARSECONV_UNROLL
        for (int i = 0; i < kEieGroup; ++i) add(rows[e + i], values[e + i]);
    }
    for (int64_t e = whole; e < count; ++e) add(rows[e], values[e]);
}

// Skipped columns break the stream that the processor would fetch by itself.
SPARSECONV_INLINE void fetch_column(const EiePart& part, const EieColumns& active, int64_t n) {
    if (n >= active.count) return;
    const int64_t c = active.index[n];
    for (int64_t e = part.pointers[c]; e < part.pointers[c + 1]; e += 64) __builtin_prefetch(part.entries + e);
}
constexpr int64_t kFetchAhead = 4;  // columns

// The column with its zeros, dense [rows].
inline void write_column(const EiePart& part, const float* codebook, int64_t column, const EieRoom& room, float* dense) {
    for (int64_t r = 0; r < part.rows; ++r) dense[r] = 0.0f;
    for_each_entry(part, column, codebook, room, [&](int32_t row, float value) { dense[row] = value; });
}

// One sample: the codebook is multiplied with the activation once for a column, so that an entry costs an addition.
inline void eie_part_one(const EiePart& part, const float* codebook, const float* x, const EieColumns& active, float* sums) {
    const EieRoom room(part.rows);
    const Scratch<float> dense(active.finite ? 0 : part.rows);
    for (int64_t n = 0; n < active.count; ++n) {
        const int64_t c = active.index[n];
        fetch_column(part, active, n + kFetchAhead);
        if (!is_finite(x[c])) {
            write_column(part, codebook, c, room, dense.data);
            for (int64_t r = 0; r < part.rows; ++r) sums[r] += dense.data[r] * x[c];
            continue;
        }
        alignas(64) float table[16];
        for (int i = 0; i < 16; ++i) table[i] = codebook[i] * x[c];
        for_each_entry(part, c, table, room, [&](int32_t row, float value) { sums[row] += value; });
    }
}

// A register of samples side by side: x has one for each column, sums one for each row.
inline void eie_part_many(const EiePart& part, const float* codebook, const float* x, const EieColumns& active, float* sums) {
    using V = Simd<float>;
    const EieRoom room(part.rows);
    const Scratch<float> dense(active.finite ? 0 : part.rows);
    const auto add = [sums](V::Reg activation, int64_t row, const float* weight) {
        float* const sum = sums + row * V::width;
        V::store(sum, V::add(V::load(sum), V::fma(activation, V::broadcast(weight), V::zero())));  // rounds as eie_part_one does
    };
    for (int64_t n = 0; n < active.count; ++n) {
        const int64_t c = active.index[n];
        const V::Reg activation = V::load(x + c * V::width);
        fetch_column(part, active, n + kFetchAhead);
        bool finite = true;
        for (int i = 0; i < V::width && !active.finite; ++i) finite = finite && is_finite(x[c * V::width + i]);
        if (finite) {
            for_each_entry(part, c, codebook, room, [&](int32_t row, const float& value) { add(activation, row, &value); });
        } else {
            write_column(part, codebook, c, room, dense.data);
            for (int64_t r = 0; r < part.rows; ++r) add(activation, r, dense.data + r);
        }
    }
}

// `samples` rows of x in `lanes` lanes: 1 in 1, or some in a register.
inline void eie_chunk(const Cpu& cpu, const EieMatrix& m, const float* codebook, const float* x, int64_t samples, int64_t lanes,
                      const float* bias, float* out) {
    const Scratch<int32_t> index(m.cols);
    const Scratch<float> in_lanes(lanes > 1 ? m.cols * lanes : 0);
    EieColumns active{index.data};
    for (int64_t c = 0; c < m.cols; ++c) {
        bool zero = true;
        for (int64_t s = 0; s < samples; ++s) {
            const float a = x[s * m.cols + c];
            zero = zero && a == 0.0f;
            active.finite = active.finite && is_finite(a);
            if (lanes > 1) in_lanes.data[c * lanes + s] = a;
        }
        for (int64_t s = samples; s < lanes; ++s) in_lanes.data[c * lanes + s] = 0.0f;
        active.index[active.count] = static_cast<int32_t>(c);
        active.count += zero ? 0 : 1;
    }
    const int64_t stride = round_up(ceil_div(m.rows, m.pes) * lanes, kLine<float>);  // no cache line belongs to two PEs
    const Scratch<float> sums(m.pes * stride);
    for_each_block(cpu, m.pes, [&](int64_t pe) {
        const EiePart part{m.entries + m.starts[pe], m.pointers + pe * (m.cols + 1), m.local_rows(pe)};
        float* const own = sums.data + pe * stride;
        for (int64_t r = 0; r < part.rows; ++r) {
            for (int64_t s = 0; s < lanes; ++s) own[r * lanes + s] = bias ? bias[r * m.pes + pe] : 0.0f;
        }
        if (lanes == 1) {
            eie_part_one(part, codebook, x, active, own);
        } else {
            eie_part_many(part, codebook, in_lanes.data, active, own);
        }
    });
    for (int64_t s = 0; s < samples; ++s) {
        for (int64_t pe = 0; pe < m.pes; ++pe) {
            const float* const own = sums.data + pe * stride;
            for (int64_t r = 0; r < m.local_rows(pe); ++r) out[s * m.rows + r * m.pes + pe] = own[r * lanes + s];
        }
    }
}

inline void eie_linear(const Cpu& cpu, const EieMatrix& m, const float* codebook, const float* x, int64_t batch,
                       const float* bias, float* out) {
    constexpr int64_t width = Simd<float>::width;
    constexpr int64_t worth = width / 4 + 1;  // fewer samples are faster one by one
    for (int64_t first = 0; first < batch && m.rows > 0;) {
        const int64_t samples = batch - first < worth ? 1 : min_of(batch - first, width);
        eie_chunk(cpu, m, codebook, x + first * m.cols, samples, samples > 1 ? width : 1, bias, out + first * m.rows);
        first += samples;
    }
}

}  // namespace sparseconv::SPARSECONV_ISA
