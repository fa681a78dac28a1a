// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Names of the compute functions: shapes are checked here, loops are in compute/.
#pragma once

#include <optional>

#include "bind/buffers.h"
#include "compute/kernels.h"

namespace sparseconv {

namespace py = pybind11;

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

inline void require_matrix(const AnyBuffer& buffer, int64_t rows, int64_t columns, ElementType type, const char* name) {
    if (buffer.type != type) {
        throw py::type_error(std::string(name) + " must be " + name_of(type) + ", got " + name_of(buffer.type));
    }
    require(buffer.ndim == 2 && buffer.shape[0] == rows && buffer.shape[1] == columns && buffer.contiguous(),
            std::string(name) + " must be a contiguous [" + std::to_string(rows) + ", " + std::to_string(columns) +
                "] array, got " + buffer.shape_text());
}

inline void require_scratch(const Buffer<uint8_t>& scratch, int64_t bytes) {
    require(scratch.size() >= bytes,
            "scratch must have " + std::to_string(bytes) + " bytes, got " + std::to_string(scratch.size()));
}

inline Pairs pairs_of(const Buffer<int32_t>& pairs, const Buffer<int64_t>& tap_offsets) {
    require(pairs.ndim == 2 && pairs.shape[1] == 2 && tap_offsets.ndim == 1 && tap_offsets.size() >= 1,
            "a kernel map is pairs [P, 2] and tap offsets [K + 1]");
    return Pairs{reinterpret_cast<const Pair*>(pairs.data), tap_offsets.data, tap_offsets.size() - 1};
}

// weight [K, in / groups, out], any strides. transpose: features have the weight's output channels. flip: segment s of the map
// belongs to tap K - 1 - s.
inline Weight weight_of(const AnyBuffer& weight, const ConvShape& shape, int64_t taps, bool transpose, bool flip) {
    require(weight.ndim == 3 && weight.shape[0] == taps,
            "weight must be [" + std::to_string(taps) + ", C_in / groups, C_out], got " + weight.shape_text());
    const int64_t wide = transpose ? shape.c_in : shape.c_out, narrow = (transpose ? shape.c_out : shape.c_in) / shape.groups;
    require(weight.shape[1] == narrow && weight.shape[2] == wide, "weight must be [" + std::to_string(taps) + ", " +
                                                                      std::to_string(narrow) + ", " + std::to_string(wide) +
                                                                      "], got " + weight.shape_text());
    const int64_t along_narrow = weight.strides[1], along_wide = weight.strides[2];
    Weight view{weight.data, weight.strides[0], along_wide * (wide / shape.groups), transpose ? along_wide : along_narrow,
                transpose ? along_narrow : along_wide};
    if (flip && taps > 0) {
        const int64_t bytes = weight.type == ElementType::f64 ? 8 : weight.type == ElementType::f32 ? 4 : 2;
        view.data = static_cast<const char*>(weight.data) + (taps - 1) * weight.strides[0] * bytes;
        view.tap = -weight.strides[0];
    }
    return view;
}

inline ConvShape conv_shape(const AnyBuffer& features, const AnyBuffer& out, int64_t groups) {
    require(features.ndim == 2 && out.ndim == 2, "features and output must be [N, C]");
    const ConvShape shape{features.shape[0], out.shape[0], groups, features.shape[1], out.shape[1]};
    require(groups >= 1 && shape.c_in % groups == 0 && shape.c_out % groups == 0,
            "groups must divide the channels, got " + std::to_string(groups) + " groups for " + std::to_string(shape.c_in) +
                " -> " + std::to_string(shape.c_out));
    return shape;
}

inline void bound_gather_gemm(const Cpu& device, AnyBuffer features, AnyBuffer weight, std::optional<AnyBuffer> bias,
                              Buffer<int32_t> pairs, Buffer<int64_t> tap_offsets, int64_t groups, bool transpose, bool flip,
                              AnyBuffer out, Buffer<uint8_t> scratch) {
    const Scalar scalar = scalar_of(features);
    const ConvShape shape = conv_shape(features, out, groups);
    const Pairs map = pairs_of(pairs, tap_offsets);
    require_matrix(features, shape.n_in, shape.c_in, features.type, "features");
    require_matrix(out, shape.n_out, shape.c_out, features.type, "output");
    if (weight.type != features.type) {
        throw py::type_error(std::string("weight must be ") + name_of(features.type) + " like the features, got " +
                             name_of(weight.type));
    }
    if (bias) {
        require(bias->type == features.type && bias->ndim == 1 && bias->shape[0] == shape.c_out && bias->contiguous(),
                "bias must be [" + std::to_string(shape.c_out) + "] of the features' type, got " + bias->shape_text());
    }
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
    require_matrix(features, shape.n_in, shape.c_in, features.type, "features");
    require_matrix(grad_out, shape.n_out, shape.c_out, features.type, "grad_out");
    require(grad_weight.ndim == 3 && grad_weight.shape[0] == map.taps && grad_weight.shape[1] == shape.c_in / groups &&
                grad_weight.shape[2] == shape.c_out && grad_weight.type == features.type && grad_weight.contiguous(),
            "grad_weight must be a contiguous [K, C_in / groups, C_out] array of the features' type, got " +
                grad_weight.shape_text());
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
    require(argmax.ndim == 2 && argmax.shape[0] == shape.n_out && argmax.shape[1] == shape.c_out, "argmax must be [N_out, C]");
    max_pool(device, scalar_of(features), shape, pairs_of(pairs, tap_offsets), features.data, out.data, argmax.data);
}

// The pairs are the reversed map's, so grad_out plays the input: [n_in, C], like argmax, and grad_in is the output.
inline void bound_max_pool_grad(const Cpu& device, AnyBuffer grad_out, Buffer<int32_t> argmax, Buffer<int32_t> pairs,
                                Buffer<int64_t> tap_offsets, AnyBuffer grad_in) {
    const ConvShape shape = conv_shape(grad_out, grad_in, 1);
    require_matrix(grad_out, shape.n_in, shape.c_in, grad_in.type, "grad_out");
    require_matrix(grad_in, shape.n_out, shape.c_in, grad_in.type, "grad_in");
    require(argmax.ndim == 2 && argmax.shape[0] == shape.n_in && argmax.shape[1] == shape.c_out, "argmax must be [N_out, C]");
    max_pool_grad(device, scalar_of(grad_in), shape, pairs_of(pairs, tap_offsets), grad_out.data, argmax.data, grad_in.data);
}

// The lists of a gather: list r is cols[offsets[r]] .. cols[offsets[r + 1]].
inline void require_lists(const AnyBuffer& x, const Buffer<int64_t>& offsets, const AnyBuffer& out) {
    require(x.ndim == 2 && x.contiguous() && offsets.ndim == 1 && offsets.size() >= 1, "x must be [N, C] and offsets [rows + 1]");
    require_matrix(out, offsets.size() - 1, x.shape[1], x.type, "output");
}

inline void bound_gather_sum(const Cpu& device, AnyBuffer x, Buffer<int64_t> offsets, std::optional<Buffer<int64_t>> cols,
                             std::optional<AnyBuffer> weights, AnyBuffer out) {
    require_lists(x, offsets, out);
    if (weights) {
        const ElementType accumulator = x.type == ElementType::f64 ? ElementType::f64 : ElementType::f32;
        require(weights->type == accumulator && weights->contiguous(), "weights must be " + std::string(name_of(accumulator)));
    }
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
    m.def("instruction_set", &instruction_set);
    m.def("fma_peak_gflops", &fma_peak_gflops, release);
}

}  // namespace sparseconv
