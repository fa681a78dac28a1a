// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The GPU module, sparseconv._cuda.
#define SPARSECONV_DEVICE_TYPE 2  // DLPack's kDLCUDA

#include "bind/bind_compute_cuda.h"
#include "bind/bind_mapping_cuda.h"
#include "bind/cuda_device.h"

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "sparseconv's GPU core. Private: use the Python package.";
    sparseconv::gpu::bind_mapping(m);
    sparseconv::gpu::bind_compute(m);
    m.attr("architectures") = SPARSECONV_CUDA_ARCHS;
}
