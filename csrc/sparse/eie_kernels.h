// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The format of EIE (Han et al., "EIE: Efficient Inference Engine on Compressed Deep Neural Network", ISCA 2016): row r of a matrix
// belongs to processing element (PE) r % pes as its local row r / pes; every PE stores its rows column by column. An entry is a byte,
// code << 4 | zeros: a code of the 16-entry codebook and the zeros between it and the entry before it in the PE's column. Of more
// than 15 zeros every 16 become one entry of code 0 whose zeros are 15, a filler. Zeros at the end of a column are not stored.
#pragma once

#include <cstdint>

#include "../core/device.h"

namespace sparseconv {

constexpr int64_t kEiePadding = 64;  // bytes after the last entry that a kernel may read and ignores

struct EieMatrix {
    const uint8_t* entries;   // [starts[pes]], and kEiePadding more for eie_linear
    const int64_t* starts;    // [pes + 1]: the first entry of each PE
    const int32_t* pointers;  // [pes, cols + 1]: the first entry of each column, counted from the PE's first
    int64_t rows, cols, pes;

    int64_t local_rows(int64_t pe) const { return (rows - pe + pes - 1) / pes; }
};

// Writes pointers [pes, cols + 1] of the matrix with the given codes [rows, cols], 0 where a weight is zero. Returns the first PE
// that has more entries than 31 bits can count, or -1.
int64_t eie_count(const Cpu&, const uint8_t* codes, int64_t rows, int64_t cols, int64_t pes, int32_t* pointers);

// Writes the entries that eie_count counted; matrix.entries is not looked at.
void eie_pack(const Cpu&, const uint8_t* codes, const EieMatrix& matrix, uint8_t* entries);

// Writes codes [rows, cols] of a matrix in which eie_find_error finds none.
void eie_unpack(const Cpu&, const EieMatrix& matrix, uint8_t* codes);

// What is wrong with a matrix from outside, and where. Nothing outside its arrays is read.
enum class EieError { none, pointers, row, filler };
struct EieFinding {
    EieError error = EieError::none;
    int64_t pe = 0, column = 0;
};
EieFinding eie_find_error(const Cpu&, const EieMatrix& matrix);

// out[b, :] = bias + W x[b, :] with W[r, c] = codebook[code], codebook[0] = 0. Columns whose activation is zero are skipped. Every row
// sums its columns in ascending order and a product is rounded before it is added, so that the bits depend neither on the PEs nor on
// the threads nor on the batch. A NaN or infinite activation meets the zeros of its column too, as in the dense matrix.
void eie_linear(const Cpu&, const EieMatrix& matrix,
                const float* codebook,  // [16]
                const float* x,         // [batch, cols]
                int64_t batch,
                const float* bias,  // [rows] or null
                float* out);        // [batch, rows]

// Its gradients: grad_x[b, c] = sum of W[r, c] grad_out[b, r], and grad_codebook[k], the sum of x[b, c] grad_out[b, r] over the samples
// and the weights of code k; 0 for code 0. Columns are summed in chunks that depend on their number only, in double; the order of a
// column's rows is that of the PEs.
void eie_linear_grad(const Cpu&, const EieMatrix& matrix, const float* codebook, const float* x, const float* grad_out,
                     int64_t batch,
                     float* grad_x,          // [batch, cols]
                     float* grad_codebook);  // [16]

}  // namespace sparseconv
