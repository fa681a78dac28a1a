// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The compute kernels on a GPU: the functions of kernels.h, with the same meaning, on the caller's stream. All pointers are the
// device's. Sums run in an order that depends on shapes and the map alone, without float atomics: the same bits on every run.
#pragma once

#include <cstdint>

#include "../core/buffer.h"
#include "../core/cuda_platform.h"
#include "kernels.h"

namespace sparseconv::gpu {

// Storage and arithmetic. tf32: float in memory, products of operands rounded to 10 bits of fraction. All but f64 sum in float.
enum class Precision { f16, bf16, f32, tf32, f64 };

// Words of a row's mask of taps; two at a time, so that a mask is so many int64 to a sort.
constexpr int64_t mask_words(int64_t taps) { return (taps + 63) / 64 * 2; }
constexpr int64_t kMaskRows = 64;  // rows of one word group in RowPlan::tile_masks

// A kernel map as output-stationary kernels read it. Rows stand sorted by which taps they have, so that the rows of one tile
// mostly share their taps; place p stands for out row order[p].
struct RowPlan {
    const int32_t* neighbors;    // [taps, n_out]: the in row that place p reads through tap t, or -1
    const int32_t* order;        // [n_out]
    const uint32_t* tile_masks;  // [ceil(n_out / kMaskRows), words]: bit t % 32 of word t / 32: some row of the 64 has tap t
    int64_t taps;
    int64_t pairs;  // of the whole map; the cost model reads it
    int64_t words() const { return mask_words(taps); }
};

// The steps of a plan: masks, then (elsewhere) a stable sort of the rows by them, then the table and the masks of tiles.
void tap_masks(cudaStream_t, const Pairs&, int64_t n_pairs, int64_t n_out, uint32_t* masks /* [n_out, words] */);
void plan_rows(cudaStream_t, const Pairs&, int64_t n_pairs, int64_t n_out, const uint32_t* masks, const int32_t* order,
               int32_t* place_of_row,  // [n_out], scratch
               int32_t* neighbors, uint32_t* tile_masks);

// What runs for a shape: chosen by a cost model of shape, pairs and type, the same on every device.
struct GemmChoice {
    int tile;         // index into the table of tiles (tiles.h); -1: no tensor cores
    int chunk_bytes;  // of a row that one stage of the pipeline holds
    int splits;       // the taps are shared out among so many blocks, whose sums are added in order
};
// choose_gemm is in cuda/gemm_choice.h.

int64_t gather_gemm_bytes(Precision, const ConvShape&, int64_t taps, int64_t pairs);
int64_t gather_gemm_bytes(Precision, const ConvShape&, int64_t taps, const GemmChoice&);

// kernels.h's gather_gemm. Scratch: gather_gemm_bytes, 256-byte aligned. `choice`: null = choose_gemm's.
void gather_gemm(cudaStream_t, Precision, const ConvShape&, const RowPlan&, const void* features, const Weight&, const void* bias,
                 void* out, void* scratch, const GemmChoice* choice = nullptr);

// The same with a weight of which each 4 input channels keep 2 (f16 and bf16, one group, c_in a multiple of 32, c_out of 16):
// values [taps, c_out, c_in / 2], and their places, [taps, c_out / 16, c_in / 32, 16] words (cuda/sparse_gemm.cuh).
void gather_gemm_2to4(cudaStream_t, Precision, const ConvShape&, const RowPlan&, const void* features, const void* values,
                      const uint32_t* metadata, const void* bias, void* out);

int64_t gather_outer_bytes(Precision, const ConvShape&, int64_t taps, int64_t pairs);

// kernels.h's gather_outer: pairs are cut into chunks, each summed by one block, then the chunks of a tap are added in order.
void gather_outer(cudaStream_t, Precision, const ConvShape&, const Pairs&, int64_t n_pairs, const void* features,
                  const void* grad_out, void* grad_weight, void* scratch);

int64_t column_sum_bytes(Precision, int64_t n, int64_t c);
void column_sum(cudaStream_t, Precision, const void* x, int64_t n, int64_t c, void* out, void* scratch);

void max_pool(cudaStream_t, Precision, const ConvShape&, const RowPlan&, const void* features, void* out, int32_t* argmax);
void max_pool_grad(cudaStream_t, Precision, const ConvShape&, const RowPlan& reversed, const void* grad_out,
                   const int32_t* argmax, void* grad_in);

// `entries`: offsets[rows], the length of all lists. Lists that are long on average are summed by a whole block each, in another
// order than the CPU's; short ones in the CPU's.
void gather_sum(cudaStream_t, Precision, const void* x, int64_t c, const int64_t* offsets, const int64_t* cols,
                const void* weights, int64_t rows, int64_t entries, void* out);
void gather_max(cudaStream_t, Precision, const void* x, int64_t c, const int64_t* offsets, const int64_t* cols, int64_t rows,
                int64_t entries, void* out, int64_t* arg);

}  // namespace sparseconv::gpu
