// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Packing, unpacking and checking of the EIE format.
#include <algorithm>
#include <vector>

#include "eie_kernels.h"

namespace sparseconv {
namespace {

constexpr int64_t kSpan = 16;  // zeros that one filler stands for

// Calls visit(column, zeros, code) for the codes of one PE that are not 0, row by row: memory is read in its order, and each column
// remembers where it is.
template <class Visit>
void visit_rows(const uint8_t* codes, int64_t rows, int64_t cols, int64_t pes, int64_t pe, const Visit& visit) {
    std::vector<int64_t> next(static_cast<size_t>(cols), 0);  // local row after the column's last entry
    int64_t local = 0;
    for (int64_t row = pe; row < rows; row += pes, ++local) {
        const uint8_t* const line = codes + row * cols;
        for (int64_t c = 0; c < cols; ++c) {
            if (line[c] == 0) continue;
            visit(c, local - next[static_cast<size_t>(c)], line[c]);
            next[static_cast<size_t>(c)] = local + 1;
        }
    }
}

EieFinding find_error_of(const EieMatrix& m, int64_t pe) {
    const int32_t* const pointers = m.pointers + pe * (m.cols + 1);
    const int64_t entries = m.starts[pe + 1] - m.starts[pe], rows = m.local_rows(pe);
    if (pointers[0] != 0) return {EieError::pointers, pe, 0};
    for (int64_t c = 0; c < m.cols; ++c) {
        if (pointers[c + 1] < pointers[c] || pointers[c + 1] > entries) return {EieError::pointers, pe, c};
        int64_t row = 0;
        int code = 1;
        for (int64_t e = pointers[c]; e < pointers[c + 1]; ++e) {
            const int entry = m.entries[m.starts[pe] + e], zeros = entry & 15;
            code = entry >> 4;
            row += zeros + 1;
            if (row > rows) return {EieError::row, pe, c};
            if (code == 0 && zeros != kSpan - 1) return {EieError::filler, pe, c};
        }
        if (code == 0) return {EieError::filler, pe, c};
    }
    return pointers[m.cols] == entries ? EieFinding{} : EieFinding{EieError::pointers, pe, m.cols};
}

}  // namespace

int64_t eie_count(const Cpu& cpu, const uint8_t* codes, int64_t rows, int64_t cols, int64_t pes, int32_t* pointers) {
    std::vector<uint8_t> too_many(static_cast<size_t>(pes), 0);
    cpu.for_each(pes, [&](int64_t pe) {
        std::vector<int64_t> count(static_cast<size_t>(cols), 0);
        visit_rows(codes, rows, cols, pes, pe,
                   [&](int64_t c, int64_t zeros, uint8_t) { count[static_cast<size_t>(c)] += zeros / kSpan + 1; });
        int32_t* const own = pointers + pe * (cols + 1);
        int64_t total = 0;
        own[0] = 0;
        for (int64_t c = 0; c < cols; ++c) {
            total += count[static_cast<size_t>(c)];
            if (total > INT32_MAX) too_many[static_cast<size_t>(pe)] = 1;
            own[c + 1] = static_cast<int32_t>(std::min<int64_t>(total, INT32_MAX));
        }
    });
    const auto first = std::find(too_many.begin(), too_many.end(), 1);
    return first == too_many.end() ? -1 : first - too_many.begin();
}

void eie_pack(const Cpu& cpu, const uint8_t* codes, const EieMatrix& m, uint8_t* entries) {
    cpu.for_each(m.pes, [&](int64_t pe) {
        const int32_t* const pointers = m.pointers + pe * (m.cols + 1);
        std::vector<int32_t> cursor(pointers, pointers + m.cols);
        uint8_t* const own = entries + m.starts[pe];
        visit_rows(codes, m.rows, m.cols, m.pes, pe, [&](int64_t c, int64_t zeros, uint8_t code) {
            int32_t& at = cursor[static_cast<size_t>(c)];
            for (; zeros >= kSpan; zeros -= kSpan) own[at++] = kSpan - 1;
            own[at++] = static_cast<uint8_t>(code << 4 | zeros);
        });
    });
}

void eie_unpack(const Cpu& cpu, const EieMatrix& m, uint8_t* codes) {
    std::fill_n(codes, m.rows * m.cols, uint8_t{0});
    cpu.for_each(m.pes, [&](int64_t pe) {
        const int32_t* const pointers = m.pointers + pe * (m.cols + 1);
        const uint8_t* const own = m.entries + m.starts[pe];
        for (int64_t c = 0; c < m.cols; ++c) {
            int64_t row = pe;
            for (int32_t e = pointers[c]; e < pointers[c + 1]; ++e) {
                row += (own[e] & 15) * m.pes;
                codes[row * m.cols + c] = static_cast<uint8_t>(own[e] >> 4);
                row += m.pes;
            }
        }
    });
}

EieFinding eie_find_error(const Cpu& cpu, const EieMatrix& m) {
    std::vector<EieFinding> findings(static_cast<size_t>(m.pes));
    cpu.for_each(m.pes, [&](int64_t pe) { findings[static_cast<size_t>(pe)] = find_error_of(m, pe); });
    for (const EieFinding& finding : findings) {
        if (finding.error != EieError::none) return finding;
    }
    return {};
}

}  // namespace sparseconv
