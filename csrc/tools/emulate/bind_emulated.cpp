// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The test module _emulated: the GPU's functions on CPU tensors, run thread by thread. Its device argument is the seed of the order
// in which blocks and threads take turns.
#define SPARSECONV_EMULATED
#define SPARSECONV_DEVICE_TYPE 1  // DLPack's kDLCPU

#include "bind/bind_compute_cuda.h"
#include "compute/cuda/gemm.cu"
#include "compute/cuda/outer.cu"
#include "compute/cuda/reduce.cu"
#include "compute/cuda/row_plan.cu"
#include "compute/cuda/sparse.cu"

namespace pybind11::detail {

template <>
struct type_caster<sparseconv::Cuda> {
    PYBIND11_TYPE_CASTER(sparseconv::Cuda, const_name("seed: int"));
    bool load(handle source, bool) {
        if (!PyLong_Check(source.ptr())) return false;
        emulated::shuffle.seed(PyLong_AsUnsignedLong(source.ptr()));
        return true;
    }
};

}  // namespace pybind11::detail

PYBIND11_MODULE(_emulated, m) {
    m.doc() = "CUDA kernels of sparseconv on the CPU, for tests.";
    sparseconv::gpu::bind_compute(m);
}
