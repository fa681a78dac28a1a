// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The CPU module, sparseconv._cpu.
#define SPARSECONV_DEVICE_TYPE 1  // DLPack's kDLCPU

#include <algorithm>
#include <optional>

#include "bind/bind_compute.h"
#include "bind/bind_eie.h"
#include "bind/bind_mapping.h"
#include "bind/bind_points.h"
#include "bind/bind_quantized.h"
#include "bind/bind_vectors.h"

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "sparseconv's CPU core. Private: use the Python package.";
    sparseconv::bind_mapping(m);
    sparseconv::bind_points(m);
    sparseconv::bind_compute(m);
    sparseconv::bind_quantized(m);
    sparseconv::bind_vectors(m);
    sparseconv::bind_eie(m);
#if defined(_OPENMP)
    m.attr("openmp") = true;
#else
    m.attr("openmp") = false;
#endif
    m.attr("compiler") = __VERSION__;
}
