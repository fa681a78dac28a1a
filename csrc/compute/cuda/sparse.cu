// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Host side of gather_gemm with a 2:4 weight.
#include "gemm_choice.h"
#include "sparse_gemm.cuh"

namespace sparseconv::gpu {

void gather_gemm_2to4(cudaStream_t stream, Precision p, const ConvShape& s, const RowPlan& plan, const void* features,
                      const void* values, const uint32_t* metadata, const void* bias, void* out) {
    require(p == Precision::f16 || p == Precision::bf16, "2:4 weights are float16 or bfloat16");
    require(s.groups == 1 && s.c_in % 32 == 0 && s.c_out % 16 == 0,
            "a 2:4 weight has one group, 32 n input and 16 m output channels, got " + std::to_string(s.groups) + " groups, " +
                std::to_string(s.c_in) + " -> " + std::to_string(s.c_out) + " channels");
    if (s.n_out == 0 || s.c_out == 0) return;
    GemmArguments a{};
    a.features = static_cast<const char*>(features), a.in_row = s.c_in * 2;
    a.weight = static_cast<const char*>(values), a.weight_n = s.c_in, a.weight_tap = s.c_in * s.c_out;
    a.bias = bias, a.out = out;
    a.neighbors = plan.neighbors, a.order = plan.order, a.tile_masks = plan.tile_masks;
    a.n_out = s.n_out, a.c_out = s.c_out;
    a.taps = static_cast<int>(plan.taps), a.words = static_cast<int>(plan.words());
    a.k = static_cast<int>(s.c_in), a.k_bytes = a.k * 2, a.m = static_cast<int>(s.c_out), a.groups = 1, a.splits = 1;
    const int64_t blocks = ceil_div(s.n_out, SparseTile::kM) * ceil_div(s.c_out, SparseTile::kN);
    require(blocks < (int64_t{1} << 31), "a convolution of so many rows and channels has more blocks than a launch may have");
    const dim3 grid(static_cast<unsigned>(blocks));
    const auto* words = reinterpret_cast<const char*>(metadata);
    if (p == Precision::f16) {
        launch(sparse_gemm<Half>, grid, dim3(SparseTile::kThreads), SparseTile::kBytes, stream, a, words);
    } else {
        launch(sparse_gemm<Bfloat>, grid, dim3(SparseTile::kThreads), SparseTile::kBytes, stream, a, words);
    }
}

}  // namespace sparseconv::gpu
