// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The test module _emulated: the GPU's functions on CPU tensors, run thread by thread. Its device argument is the seed of the order
// in which blocks and threads take turns. The kernels are in kernels_emulated.cpp.
#define SPARSECONV_EMULATED
#define SPARSECONV_DEVICE_TYPE 1  // DLPack's kDLCPU

#include "bind/bind_compute_cuda.h"
#include "bind/bind_mapping_cuda.h"

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
    sparseconv::gpu::bind_mapping(m);
    sparseconv::gpu::bind_compute(m);
}
