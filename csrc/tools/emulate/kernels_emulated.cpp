// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The kernels of the test module _emulated.
#define SPARSECONV_EMULATED

#include "compute/cuda/gemm.cu"
#include "compute/cuda/outer.cu"
#include "compute/cuda/reduce.cu"
#include "compute/cuda/row_plan.cu"
#include "compute/cuda/sparse.cu"
#include "mapping/cuda/pairs.cu"
#include "mapping/cuda/sort.cu"
