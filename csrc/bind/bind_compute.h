// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Names of the compute functions: shapes are checked here, loops are in compute/.
#pragma once

#include "bind/compute_checks.h"

namespace sparseconv {

inline Scalar scalar_of(const AnyBuffer& buffer) {
    switch (buffer.type) {
        case ElementType::f32: return Scalar::f32;
        case ElementType::f64: return Scalar::f64;
        case ElementType::bf16: return Scalar::bf16;
        default:
            throw py::type_error(std::string("features must be float32, float64 or bfloat16 on the CPU, got ") +
                                 name_of(buffer.type));
    }
}

inline void bound_gather_gemm(const Cpu& device, AnyBuffer features, AnyBuffer weight, std::optional<AnyBuffer> bias,
                              Buffer<int32_t> pairs, Buffer<int64_t> tap_offsets, int64_t groups, bool transpose, bool flip,
                              AnyBuffer out, Buffer<uint8_t> scratch) {
    const Scalar scalar = scalar_of(features);
    const ConvShape shape = conv_shape(features, out, groups);
    const Pairs map = pairs_of(pairs, tap_offsets);
    require_gemm(features, weight, bias, out, shape);
    require_scratch(scratch, packed_weight_bytes(scalar, shape, map.taps));
    gather_gemm(device, scalar, shape, map, features.data, weight_of(weight, shape, map.taps, transpose, flip),
                bias ? bias->data : nullptr, out.data, scratch.data);
}

inline int64_t bound_gather_gemm_bytes(AnyBuffer features, AnyBuffer out, int64_t groups, int64_t taps) {
    return packed_weight_bytes(scalar_of(features), conv_shape(features, out, groups), taps);
}

inline int64_t bound_gather_outer_bytes(AnyBuffer features, AnyBuffer grad_out, Buffer<int32_t> pairs,
                                        Buffer<int64_t> tap_offsets, int64_t groups) {
    return gather_outer_bytes(scalar_of(features), conv_shape(features, grad_out, groups), pairs_of(pairs, tap_offsets));
}

inline void bound_gather_outer(const Cpu& device, AnyBuffer features, AnyBuffer grad_out, Buffer<int32_t> pairs,
                               Buffer<int64_t> tap_offsets, int64_t groups, AnyBuffer grad_weight, Buffer<uint8_t> scratch) {
    const Scalar scalar = scalar_of(features);
    const ConvShape shape = conv_shape(features, grad_out, groups);
    const Pairs map = pairs_of(pairs, tap_offsets);
    require_outer(features, grad_out, grad_weight, shape, map.taps);
    require_scratch(scratch, gather_outer_bytes(scalar, shape, map));
    gather_outer(device, scalar, shape, map, features.data, grad_out.data, grad_weight.data, scratch.data);
}

inline void bound_column_sum(const Cpu& device, AnyBuffer x, AnyBuffer out, Buffer<uint8_t> scratch) {
    require(x.ndim == 2 && x.contiguous() && out.ndim == 1 && out.shape[0] == x.shape[1] && out.type == x.type,
            "column_sum: [N, C] -> [C]");
    require_scratch(scratch, column_sum_bytes(scalar_of(x), x.shape[0], x.shape[1]));
    column_sum(device, scalar_of(x), x.data, x.shape[0], x.shape[1], out.data, scratch.data);
}

inline int64_t bound_column_sum_bytes(AnyBuffer x) {
    require(x.ndim == 2, "column_sum takes [N, C]");
    return column_sum_bytes(scalar_of(x), x.shape[0], x.shape[1]);
}

inline void bound_max_pool(const Cpu& device, AnyBuffer features, Buffer<int32_t> pairs, Buffer<int64_t> tap_offsets,
                           AnyBuffer out, Buffer<int32_t> argmax) {
    const ConvShape shape = conv_shape(features, out, 1);
    require_matrix(features, shape.n_in, shape.c_in, features.type, "features");
    require_matrix(out, shape.n_out, shape.c_in, features.type, "output");
    require_argmax(argmax, shape.n_out, shape.c_out);
    max_pool(device, scalar_of(features), shape, pairs_of(pairs, tap_offsets), features.data, out.data, argmax.data);
}

// The pairs are the reversed map's, so grad_out plays the input: [n_in, C], like argmax, and grad_in is the output.
inline void bound_max_pool_grad(const Cpu& device, AnyBuffer grad_out, Buffer<int32_t> argmax, Buffer<int32_t> pairs,
                                Buffer<int64_t> tap_offsets, AnyBuffer grad_in) {
    const ConvShape shape = conv_shape(grad_out, grad_in, 1);
    require_matrix(grad_out, shape.n_in, shape.c_in, grad_in.type, "grad_out");
    require_matrix(grad_in, shape.n_out, shape.c_in, grad_in.type, "grad_in");
    require_argmax(argmax, shape.n_in, shape.c_out);
    max_pool_grad(device, scalar_of(grad_in), shape, pairs_of(pairs, tap_offsets), grad_out.data, argmax.data, grad_in.data);
}

inline void bound_gather_sum(const Cpu& device, AnyBuffer x, Buffer<int64_t> offsets, std::optional<Buffer<int64_t>> cols,
                             std::optional<AnyBuffer> weights, AnyBuffer out) {
    require_lists(x, offsets, out);
    require_list_weights(x, weights);
    gather_sum(device, scalar_of(x), x.data, x.shape[1], offsets.data, cols ? cols->data : nullptr,
               weights ? weights->data : nullptr, offsets.size() - 1, out.data);
}

inline void bound_gather_max(const Cpu& device, AnyBuffer x, Buffer<int64_t> offsets, std::optional<Buffer<int64_t>> cols,
                             AnyBuffer out, Buffer<int64_t> arg) {
    require_lists(x, offsets, out);
    require(arg.size() == out.size(), "arg must have the output's shape");
    gather_max(device, scalar_of(x), x.data, x.shape[1], offsets.data, cols ? cols->data : nullptr, offsets.size() - 1, out.data,
               arg.data);
}

inline int64_t elements_of_bf16(const AnyBuffer& x, const AnyBuffer& out) {
    require(x.type == ElementType::bf16 && out.type == ElementType::bf16, "expected bfloat16");
    require(x.size() == out.size(), "expected as many elements as the output has");
    return out.size();
}

inline void bound_add_bf16(const Cpu& device, AnyBuffer x, AnyBuffer y, AnyBuffer out) {
    elements_of_bf16(y, out);
    add_bf16(device, elements_of_bf16(x, out), x.data, y.data, out.data);
}

inline void bound_relu_bf16(const Cpu& device, AnyBuffer x, AnyBuffer out) {
    relu_bf16(device, elements_of_bf16(x, out), x.data, out.data);
}

inline void bind_compute(py::module_& m) {
    const auto release = py::call_guard<py::gil_scoped_release>();
    m.def("gather_gemm", &bound_gather_gemm, release);
    m.def("gather_gemm_bytes", &bound_gather_gemm_bytes);
    m.def("gather_outer", &bound_gather_outer, release);
    m.def("gather_outer_bytes", &bound_gather_outer_bytes);
    m.def("column_sum", &bound_column_sum, release);
    m.def("column_sum_bytes", &bound_column_sum_bytes);
    m.def("max_pool", &bound_max_pool, release);
    m.def("max_pool_grad", &bound_max_pool_grad, release);
    m.def("gather_sum", &bound_gather_sum, release);
    m.def("gather_max", &bound_gather_max, release);
    m.def("add_bf16", &bound_add_bf16, release);
    m.def("relu_bf16", &bound_relu_bf16, release);
    m.def("instruction_set", &instruction_set);
    m.def("fma_peak_gflops", &fma_peak_gflops, release);
}

}  // namespace sparseconv
