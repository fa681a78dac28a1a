// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The compute kernels over a kernel map. Every function picks its instruction set at run time (instruction_set()) and gives the
// same bits for every thread count: each output row has one owner that sums in one fixed order.
#pragma once

#include <cstdint>

#include "../core/device.h"

namespace sparseconv {

// Storage type of features, weights, biases, gradients. f32 and bf16 accumulate in float, f64 in double.
enum class Scalar { f32, f64, bf16 };

// One pair of a kernel map.
struct Pair {
    int32_t in, out;
};

// The pairs of a kernel map. Pairs [tap_offsets[t], tap_offsets[t + 1]) belong to tap t and are sorted by the out row, at most
// one pair per out row and tap.
struct Pairs {
    const Pair* data;
    const int64_t* tap_offsets;  // [taps + 1]
    int64_t taps;
};

// A weight in any layout: element (tap, group, in, out) lies at data[tap*w.tap + group*w.group + in*w.in + out*w.out].
// Strides are in elements; the tap stride may be negative (data then points at tap 0's element).
struct Weight {
    const void* data;
    int64_t tap, group, in, out;
};

// c_in and c_out are totals over the groups; the weight of one group is [c_in / groups, c_out / groups].
struct ConvShape {
    int64_t n_in, n_out, groups, c_in, c_out;
};

// Bytes of the scratch of gather_gemm, which holds the packed weight. The scratch is 64-byte aligned; 0 taps give 0 bytes.
int64_t packed_weight_bytes(Scalar, const ConvShape&, int64_t taps);

// out[o, :] = bias + sum over taps t, over the pairs (i, o) of t, of features[i, :] @ W[t]. Taps ascend, but the first one that
// meets every out row, if there is one, comes before the others.
void gather_gemm(const Cpu&, Scalar, const ConvShape&, const Pairs&,
                 const void* features,  // [n_in, c_in] contiguous
                 const Weight&,
                 const void* bias,  // [c_out] or null
                 void* out,         // [n_out, c_out] contiguous
                 void* scratch);    // packed_weight_bytes

int64_t gather_outer_bytes(Scalar, const ConvShape&, const Pairs&);

// grad_weight[t, ci, g * c_out / groups + co] = sum over the pairs (i, o) of tap t of
// features[i, g * c_in / groups + ci] * grad_out[o, g * c_out / groups + co].
void gather_outer(const Cpu&, Scalar, const ConvShape&, const Pairs&,
                  const void* features,  // [n_in, c_in]
                  const void* grad_out,  // [n_out, c_out]
                  void* grad_weight,     // [taps, c_in / groups, c_out] contiguous
                  void* scratch);        // gather_outer_bytes, 64-byte aligned

int64_t column_sum_bytes(Scalar, int64_t n, int64_t c);

// out[c] = sum over the rows of x [n, c], in chunks of rows whose number depends on n alone, summed in chunk order.
void column_sum(const Cpu&, Scalar, const void* x, int64_t n, int64_t c, void* out, void* scratch);

// Maximum over the pairs of each out row, c_in == c_out. argmax is the winning TAP (ties: the lowest), or -1, with the value 0,
// where the row has no pair. A NaN wins over numbers, the last NaN over earlier ones, as in torch's max_pool.
void max_pool(const Cpu&, Scalar, const ConvShape&, const Pairs&,
              const void* features,  // [n_in, c]
              void* out,             // [n_out, c]
              int32_t* argmax);      // [n_out, c]

// The gradient of max_pool, over the REVERSED map: sorted by (tap, row of the pool's input). Shape and pairs are those of the
// reversed map, as for gather_gemm: `in` rows are the pool's output (grad_out and argmax are [shape.n_in, c]), `out` rows are
// the pool's input (grad_in is [shape.n_out, c]).
// grad_in[i, c] = sum over taps t ascending, over the pairs (o, i) of t where argmax[o, c] == t, of grad_out[o, c].
void max_pool_grad(const Cpu&, Scalar, const ConvShape&, const Pairs& reversed, const void* grad_out, const int32_t* argmax,
                   void* grad_in);

// out[r, :] = sum over j in [offsets[r], offsets[r + 1]) of weights[j] * x[cols[j], :], in order of j. A null `weights` means 1
// (else accumulation type: float for f32 and bf16, double for f64), a null `cols` means j itself.
void gather_sum(const Cpu&, Scalar, const void* x, int64_t c, const int64_t* offsets, const int64_t* cols, const void* weights,
                int64_t rows, void* out);

// out[r, :] = maximum over the same list; arg[r, c] = the winning cols[j] (the first of ties; NaN wins), or -1 with the value 0
// for an empty list.
void gather_max(const Cpu&, Scalar, const void* x, int64_t c, const int64_t* offsets, const int64_t* cols, int64_t rows,
                void* out, int64_t* arg);

// Of n elements of bfloat16 each, out = x + y and out = max(0, x); out may be x.
void add_bf16(const Cpu&, int64_t n, const void* x, const void* y, void* out);
void relu_bf16(const Cpu&, int64_t n, const void* x, void* out);

// What cpu.threads cores reach together in a loop of fused multiply-adds that touches registers only, float32.
double fma_peak_gflops(const Cpu&);

// "amx", "avx512bf16", "avx512", "avx2" or "generic": what is fastest on the processor, or what it has too and the environment
// variable SPARSECONV_ISA names. Throws std::invalid_argument for an unknown name and for one that this processor or this build does not have.
const char* instruction_set();

}  // namespace sparseconv
