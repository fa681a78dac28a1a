// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Convolution over vector-sparse weights: the row of one input channel over a block of 16 output channels of one tap is stored or
// absent. What is absent is not multiplied: 0 * infinity is not formed. The same bits for every thread count; forward and the gradient
// of the weight equal gather_gemm and gather_outer with the dense weight bit for bit, but for the sign of zeros, on finite values (bfloat16: to rounding).
#pragma once

#include "../compute/kernels.h"

namespace sparseconv {

// Blocks of 16 output channels do not cross groups: block b belongs to group b / blocks_of_group. Its stored rows in tap t are
// offsets[t * blocks + b] .. offsets[t * blocks + b + 1]; row j is that of input channel channels[j] of the group, ascending in a list.
struct VectorWeight {
    static constexpr int64_t block = 16;
    const int64_t* offsets;   // [taps * blocks + 1], from 0 to `stored`
    const int32_t* channels;  // [stored], below c_in / groups
    const void* values;       // [stored, 16] of the features' type; zero beyond the last channel of a group
    int64_t stored;

    static int64_t blocks_of_group(const ConvShape& s) { return (s.c_out / s.groups + block - 1) / block; }
    static int64_t blocks(const ConvShape& s) { return s.groups * blocks_of_group(s); }
};

// gather_gemm over the stored rows.
void vectors_gather_gemm(const Cpu&, Scalar, const ConvShape&, const Pairs&,
                         const void* features,  // [n_in, c_in]
                         const VectorWeight&,
                         const void* bias,  // [c_out] or null
                         void* out);        // [n_out, c_out]

// Gradient of the input. Shape and pairs are those of the REVERSED map: n_in rows of grad_out [n_in, s.c_in], n_out rows of grad_in
// [n_out, s.c_out]; flip: segment t of the map belongs to tap taps - 1 - t. `weight` is the layer's, from s.c_out to s.c_in channels.
void vectors_gather_back(const Cpu&, Scalar, const ConvShape&, const Pairs&, const void* grad_out, const VectorWeight& weight,
                         bool flip, void* grad_in);

int64_t vectors_gather_outer_bytes(Scalar, const ConvShape&, const Pairs&, int64_t stored);

// grad_values[j, :] = the sum over the pairs (i, o) of row j's tap of features[i, its channel] * grad_out[o, its block].
void vectors_gather_outer(const Cpu&, Scalar, const ConvShape&, const Pairs&,
                          const void* features,  // [n_in, c_in]
                          const void* grad_out,  // [n_out, c_out]
                          const VectorWeight&,   // whose values are not read
                          void* grad_values,     // [stored, 16]
                          void* scratch);        // vectors_gather_outer_bytes, 64-byte aligned

}  // namespace sparseconv
