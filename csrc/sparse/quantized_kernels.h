// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Convolution and linear layers over weights of 8- or 4-bit codes. Decoded weights are float32 whatever the features are, and the
// sums are those of gather_gemm on the decoded weight, bit for bit.
#pragma once

#include "../compute/kernels.h"

namespace sparseconv {

// A weight [taps, k, c_out], k = c_in / groups, of codes. Output channels lie in blocks of 64, the last one as wide as what is left:
// [tap][block][k][channels of the block], each row of a block in whole bytes.
//   8 bits: an int8 q, worth q * scale.
//   4 bits: of w channels of a block, byte j of a row has channel j in its low half and channel ceil(w / 2) + j in its high half; a
//           code c is worth table[c] * scale.
struct QuantizedWeight {
    static constexpr int64_t block = 64;
    int bits;
    const uint8_t* codes;
    const float* table;  // [16], for 4 bits
    const void* scales;  // [taps][runs][c_out] bfloat16 for 4 bits, or null = 1; [c_out] float32 for 8 bits
    int64_t run;         // input channels that share a scale, for 4 bits
};

// Bytes of the codes.
inline int64_t quantized_bytes(int bits, int64_t taps, int64_t k, int64_t c_out) {
    const int64_t rest = c_out % QuantizedWeight::block;
    const int64_t row = c_out / QuantizedWeight::block * (QuantizedWeight::block * bits / 8) + (rest * bits + 7) / 8;
    return taps * k * row;
}

// gather_gemm with the weight decoded while it is packed; scratch as for gather_gemm.
void quantized_gather_gemm(const Cpu&, Scalar, const ConvShape&, const Pairs&,
                           const void* features,  // [n_in, c_in]
                           const QuantizedWeight&,
                           const void* bias,  // [c_out] or null
                           void* out,         // [n_out, c_out]
                           void* scratch);    // packed_weight_bytes

// out[r, :] = bias + x[r, :] @ W, W of one tap [k, c_out]. A row's sums are one chain of multiply-adds over k, so its bits do not
// depend on how many rows there are.
void quantized_linear(const Cpu&, Scalar, int64_t rows, int64_t k, int64_t c_out,
                      const void* x,  // [rows, k]
                      const QuantizedWeight&,
                      const void* bias,  // [c_out] or null
                      void* out);        // [rows, c_out]

}  // namespace sparseconv
