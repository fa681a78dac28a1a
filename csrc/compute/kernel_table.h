// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// What one instruction set offers: kernels.h as function pointers. Their tables are defined in kernels_isa.cpp.
#pragma once

#include "../sparse/eie_kernels.h"
#include "../sparse/quantized_kernels.h"
#include "../sparse/vectors_kernels.h"
#include "kernels.h"

namespace sparseconv {

struct KernelTable {
    decltype(&sparseconv::packed_weight_bytes) packed_weight_bytes;
    decltype(&sparseconv::gather_gemm) gather_gemm;
    decltype(&sparseconv::gather_outer_bytes) gather_outer_bytes;
    decltype(&sparseconv::gather_outer) gather_outer;
    decltype(&sparseconv::column_sum_bytes) column_sum_bytes;
    decltype(&sparseconv::column_sum) column_sum;
    decltype(&sparseconv::max_pool) max_pool;
    decltype(&sparseconv::max_pool_grad) max_pool_grad;
    decltype(&sparseconv::gather_sum) gather_sum;
    decltype(&sparseconv::gather_max) gather_max;
    decltype(&sparseconv::add_bf16) add_bf16;
    decltype(&sparseconv::relu_bf16) relu_bf16;
    decltype(&sparseconv::quantized_gather_gemm) quantized_gather_gemm;
    decltype(&sparseconv::quantized_linear) quantized_linear;
    decltype(&sparseconv::vectors_gather_gemm) vectors_gather_gemm;
    decltype(&sparseconv::vectors_gather_back) vectors_gather_back;
    decltype(&sparseconv::vectors_gather_outer_bytes) vectors_gather_outer_bytes;
    decltype(&sparseconv::vectors_gather_outer) vectors_gather_outer;
    decltype(&sparseconv::eie_linear) eie_linear;
    double (*fma_loop)(int64_t steps);  // runs `steps` steps of independent multiply-adds, returns the FLOPs done
};

namespace generic {
const KernelTable& kernel_table();
}
namespace avx2 {
const KernelTable& kernel_table();
}
namespace avx512 {
const KernelTable& kernel_table();
const KernelTable& kernel_table_bf16();  // for processors that multiply pairs of bfloat16 (AVX512_BF16)
const KernelTable& kernel_table_amx();   // and for those that have a matrix unit for it (AMX)
}  // namespace avx512

}  // namespace sparseconv
