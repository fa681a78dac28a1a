// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Names of the layers over quantized weights: sizes are checked here.
#pragma once

#include "bind/bind_compute.h"
#include "sparse/quantized_kernels.h"

namespace sparseconv {

// The parts of a weight [taps, k, c_out]; every code has a value, so sizes are all there is to check.
inline QuantizedWeight quantized_weight_of(int64_t bits, const Buffer<uint8_t>& codes, const std::optional<Buffer<float>>& table,
                                           const std::optional<AnyBuffer>& scales, int64_t run, int64_t taps, int64_t k,
                                           int64_t c_out) {
    require(bits == 8 || bits == 4, "bits must be 8 or 4, got " + std::to_string(bits));
    const int64_t bytes = quantized_bytes(static_cast<int>(bits), taps, k, c_out);
    require(codes.size() == bytes, "codes must have " + std::to_string(bytes) + " bytes, got " + std::to_string(codes.size()));
    require(bits == 8 || (table && table->size() == 16), "4-bit codes need a table of 16 float32 values");
    require(bits == 8 || run >= 1, "the run of input channels that share a scale must be at least 1, got " + std::to_string(run));
    require(bits == 4 || scales.has_value(), "8-bit codes need a scale for each output channel");
    if (scales) {
        const ElementType type = bits == 8 ? ElementType::f32 : ElementType::bf16;
        const int64_t size = bits == 8 ? c_out : taps * ((k + run - 1) / run) * c_out;
        require(scales->type == type && scales->size() == size && scales->contiguous(),
                "scales must be " + std::to_string(size) + " values of " + name_of(type) + ", got " + scales->shape_text() +
                    " of " + name_of(scales->type));
    }
    return QuantizedWeight{static_cast<int>(bits), codes.data, table ? table->data : nullptr, scales ? scales->data : nullptr,
                           run};
}

inline void require_bias(const std::optional<AnyBuffer>& bias, ElementType type, int64_t c_out) {
    require(!bias || (bias->type == type && bias->ndim == 1 && bias->shape[0] == c_out && bias->contiguous()),
            "bias must be [" + std::to_string(c_out) + "] of the features' type");
}

inline void bound_quantized_gather_gemm(const Cpu& device, AnyBuffer features, int64_t bits, Buffer<uint8_t> codes,
                                        std::optional<Buffer<float>> table, std::optional<AnyBuffer> scales, int64_t run,
                                        std::optional<AnyBuffer> bias, Buffer<int32_t> pairs, Buffer<int64_t> tap_offsets,
                                        int64_t groups, AnyBuffer out, Buffer<uint8_t> scratch) {
    const Scalar scalar = scalar_of(features);
    const ConvShape shape = conv_shape(features, out, groups);
    const Pairs map = pairs_of(pairs, tap_offsets);
    require_matrix(features, shape.n_in, shape.c_in, features.type, "features");
    require_matrix(out, shape.n_out, shape.c_out, features.type, "output");
    require_bias(bias, features.type, shape.c_out);
    require_scratch(scratch, packed_weight_bytes(scalar, shape, map.taps));
    const QuantizedWeight weight =
        quantized_weight_of(bits, codes, table, scales, run, map.taps, shape.c_in / groups, shape.c_out);
    quantized_gather_gemm(device, scalar, shape, map, features.data, weight, bias ? bias->data : nullptr, out.data, scratch.data);
}

inline void bound_quantized_linear(const Cpu& device, AnyBuffer x, int64_t bits, Buffer<uint8_t> codes,
                                   std::optional<Buffer<float>> table, std::optional<AnyBuffer> scales, int64_t run,
                                   std::optional<AnyBuffer> bias, AnyBuffer out) {
    require(x.ndim == 2 && out.ndim == 2, "input and output must be [N, C]");
    const int64_t rows = x.shape[0], k = x.shape[1], c_out = out.shape[1];
    require_matrix(x, rows, k, x.type, "input");
    require_matrix(out, rows, c_out, x.type, "output");
    require_bias(bias, x.type, c_out);
    const QuantizedWeight weight = quantized_weight_of(bits, codes, table, scales, run, 1, k, c_out);
    quantized_linear(device, scalar_of(x), rows, k, c_out, x.data, weight, bias ? bias->data : nullptr, out.data);
}

inline void bind_quantized(py::module_& m) {
    const auto release = py::call_guard<py::gil_scoped_release>();
    m.def("quantized_gather_gemm", &bound_quantized_gather_gemm, release);
    m.def("quantized_linear", &bound_quantized_linear, release);
}

}  // namespace sparseconv
