// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Names of the compute functions on a GPU. They take a kernel map as its plan of rows where the CPU's take its pairs.
#pragma once

#include "bind/compute_checks.h"
#include "compute/kernels_cuda.h"
#include "core/cuda.h"

namespace sparseconv::gpu {

// tf32: whether float32 may be multiplied in TF32.
inline Precision precision_of(const AnyBuffer& buffer, bool tf32 = false) {
    switch (buffer.type) {
        case ElementType::f16: return Precision::f16;
        case ElementType::bf16: return Precision::bf16;
        case ElementType::f32: return tf32 ? Precision::tf32 : Precision::f32;
        case ElementType::f64: return Precision::f64;
        default:
            throw py::type_error(std::string("features must be float16, bfloat16, float32 or float64 on the GPU, got ") +
                                 name_of(buffer.type));
    }
}

// The tensor-core kernels read rows in pieces of 16 bytes.
inline void require_aligned(const AnyBuffer& rows, const char* name) {
    require(reinterpret_cast<uintptr_t>(rows.data) % 16 == 0, std::string(name) + " must begin at an address that 16 divides");
}

// The plan of a map with n_out out rows; neighbors [K, n_out], order [n_out], tile masks [ceil(n_out / 64), words], all int32.
inline RowPlan plan_of(const Buffer<int32_t>& neighbors, const Buffer<int32_t>& order, const Buffer<int32_t>& tile_masks,
                       int64_t n_out, int64_t n_pairs) {
    require(neighbors.ndim == 2 && neighbors.shape[1] == n_out, "neighbors must be [K, " + std::to_string(n_out) + "]");
    require(order.size() == n_out, "order must be [" + std::to_string(n_out) + "]");
    const RowPlan plan{neighbors.data, order.data, reinterpret_cast<const uint32_t*>(tile_masks.data), neighbors.shape[0],
                       n_pairs};
    require(tile_masks.size() == (n_out + kMaskRows - 1) / kMaskRows * plan.words(),
            "tile_masks must be [ceil(n_out / " + std::to_string(kMaskRows) + "), " + std::to_string(plan.words()) + "]");
    return plan;
}

inline void bound_tap_masks(const Cuda& device, Buffer<int32_t> pairs, Buffer<int64_t> tap_offsets, Buffer<int32_t> masks) {
    const Pairs map = pairs_of(pairs, tap_offsets);
    require(masks.ndim == 2 && masks.shape[1] == mask_words(map.taps),
            "masks must be [n_out, " + std::to_string(mask_words(map.taps)) + "]");
    tap_masks(device.stream, map, pairs.shape[0], masks.shape[0], reinterpret_cast<uint32_t*>(masks.data));
}

inline void bound_plan_rows(const Cuda& device, Buffer<int32_t> pairs, Buffer<int64_t> tap_offsets, Buffer<int32_t> masks,
                            Buffer<int32_t> order, Buffer<int32_t> place_of_row, Buffer<int32_t> neighbors,
                            Buffer<int32_t> tile_masks) {
    const Pairs map = pairs_of(pairs, tap_offsets);
    const int64_t n_out = order.size();
    require(neighbors.ndim == 2 && neighbors.shape[0] == map.taps && place_of_row.size() == n_out &&
                masks.size() == n_out * mask_words(map.taps),
            "plan_rows: neighbors [K, n_out], place_of_row [n_out], masks [n_out, words]");
    plan_of(neighbors, order, tile_masks, n_out, 0);
    plan_rows(device.stream, map, pairs.shape[0], n_out, reinterpret_cast<const uint32_t*>(masks.data), order.data,
              place_of_row.data, neighbors.data, reinterpret_cast<uint32_t*>(tile_masks.data));
}

inline int64_t bound_gather_gemm_bytes(AnyBuffer features, AnyBuffer out, int64_t groups, int64_t taps, int64_t n_pairs,
                                       bool tf32) {
    return gather_gemm_bytes(precision_of(features, tf32), conv_shape(features, out, groups), taps, n_pairs);
}

inline void bound_gather_gemm(const Cuda& device, AnyBuffer features, AnyBuffer weight, std::optional<AnyBuffer> bias,
                              Buffer<int32_t> neighbors, Buffer<int32_t> order, Buffer<int32_t> tile_masks, int64_t n_pairs,
                              int64_t groups, bool transpose, bool flip, bool tf32, AnyBuffer out, Buffer<uint8_t> scratch) {
    const Precision precision = precision_of(features, tf32);
    const ConvShape shape = conv_shape(features, out, groups);
    const RowPlan plan = plan_of(neighbors, order, tile_masks, shape.n_out, n_pairs);
    require_gemm(features, weight, bias, out, shape);
    require_aligned(features, "features");
    require_aligned(out, "output");
    require_scratch(scratch, gather_gemm_bytes(precision, shape, plan.taps, n_pairs));
    gather_gemm(device.stream, precision, shape, plan, features.data, weight_of(weight, shape, plan.taps, transpose, flip),
                bias ? bias->data : nullptr, out.data, scratch.data);
}

inline void bound_gather_gemm_2to4(const Cuda& device, AnyBuffer features, AnyBuffer values, Buffer<int32_t> metadata,
                                   std::optional<AnyBuffer> bias, Buffer<int32_t> neighbors, Buffer<int32_t> order,
                                   Buffer<int32_t> tile_masks, AnyBuffer out) {
    const ConvShape shape = conv_shape(features, out, 1);
    const RowPlan plan = plan_of(neighbors, order, tile_masks, shape.n_out, 0);
    require_gemm(features, values, bias, out, shape);
    require_aligned(features, "features");
    require_aligned(values, "values");
    require_aligned(out, "output");
    require(
        values.ndim == 3 && values.shape[0] == plan.taps && values.shape[1] == shape.c_out && 2 * values.shape[2] == shape.c_in &&
            values.contiguous() && 16 * metadata.size() == values.size(),
        "a 2:4 weight is values [K, C_out, C_in / 2] and metadata [K, C_out / 16, C_in / 32, 16], got " + values.shape_text());
    gather_gemm_2to4(device.stream, precision_of(features), shape, plan, features.data, values.data,
                     reinterpret_cast<const uint32_t*>(metadata.data), bias ? bias->data : nullptr, out.data);
}

inline int64_t bound_gather_outer_bytes(AnyBuffer features, AnyBuffer grad_out, int64_t groups, int64_t taps, int64_t n_pairs,
                                        bool tf32) {
    return gather_outer_bytes(precision_of(features, tf32), conv_shape(features, grad_out, groups), taps, n_pairs);
}

inline void bound_gather_outer(const Cuda& device, AnyBuffer features, AnyBuffer grad_out, Buffer<int32_t> pairs,
                               Buffer<int64_t> tap_offsets, int64_t groups, bool tf32, AnyBuffer grad_weight,
                               Buffer<uint8_t> scratch) {
    const Precision precision = precision_of(features, tf32);
    const ConvShape shape = conv_shape(features, grad_out, groups);
    const Pairs map = pairs_of(pairs, tap_offsets);
    require_outer(features, grad_out, grad_weight, shape, map.taps);
    require_aligned(features, "features");
    require_aligned(grad_out, "grad_out");
    require_scratch(scratch, gather_outer_bytes(precision, shape, map.taps, pairs.shape[0]));
    gather_outer(device.stream, precision, shape, map, pairs.shape[0], features.data, grad_out.data, grad_weight.data,
                 scratch.data);
}

inline int64_t bound_column_sum_bytes(AnyBuffer x) {
    require(x.ndim == 2, "column_sum takes [N, C]");
    return column_sum_bytes(precision_of(x), x.shape[0], x.shape[1]);
}

inline void bound_column_sum(const Cuda& device, AnyBuffer x, AnyBuffer out, Buffer<uint8_t> scratch) {
    require(x.ndim == 2 && x.contiguous() && out.ndim == 1 && out.shape[0] == x.shape[1] && out.type == x.type,
            "column_sum: [N, C] -> [C]");
    require_scratch(scratch, bound_column_sum_bytes(x));
    column_sum(device.stream, precision_of(x), x.data, x.shape[0], x.shape[1], out.data, scratch.data);
}

inline void bound_max_pool(const Cuda& device, AnyBuffer features, Buffer<int32_t> neighbors, Buffer<int32_t> order,
                           Buffer<int32_t> tile_masks, AnyBuffer out, Buffer<int32_t> argmax) {
    const ConvShape shape = conv_shape(features, out, 1);
    require_matrix(features, shape.n_in, shape.c_in, features.type, "features");
    require_matrix(out, shape.n_out, shape.c_in, features.type, "output");
    require_argmax(argmax, shape.n_out, shape.c_out);
    max_pool(device.stream, precision_of(features), shape, plan_of(neighbors, order, tile_masks, shape.n_out, 0), features.data,
             out.data, argmax.data);
}

// The plan is the reversed map's, as the pairs are on the CPU.
inline void bound_max_pool_grad(const Cuda& device, AnyBuffer grad_out, Buffer<int32_t> argmax, Buffer<int32_t> neighbors,
                                Buffer<int32_t> order, Buffer<int32_t> tile_masks, AnyBuffer grad_in) {
    const ConvShape shape = conv_shape(grad_out, grad_in, 1);
    require_matrix(grad_out, shape.n_in, shape.c_in, grad_in.type, "grad_out");
    require_matrix(grad_in, shape.n_out, shape.c_in, grad_in.type, "grad_in");
    require_argmax(argmax, shape.n_in, shape.c_out);
    max_pool_grad(device.stream, precision_of(grad_in), shape, plan_of(neighbors, order, tile_masks, shape.n_out, 0),
                  grad_out.data, argmax.data, grad_in.data);
}

// How many entries the lists have: of `cols`, or, without it, the rows of x.
inline int64_t entries_of(const AnyBuffer& x, const std::optional<Buffer<int64_t>>& cols) {
    return cols ? cols->size() : x.shape[0];
}

inline void bound_gather_sum(const Cuda& device, AnyBuffer x, Buffer<int64_t> offsets, std::optional<Buffer<int64_t>> cols,
                             std::optional<AnyBuffer> weights, AnyBuffer out) {
    require_lists(x, offsets, out);
    require_list_weights(x, weights);
    gather_sum(device.stream, precision_of(x), x.data, x.shape[1], offsets.data, cols ? cols->data : nullptr,
               weights ? weights->data : nullptr, offsets.size() - 1, entries_of(x, cols), out.data);
}

inline void bound_gather_max(const Cuda& device, AnyBuffer x, Buffer<int64_t> offsets, std::optional<Buffer<int64_t>> cols,
                             AnyBuffer out, Buffer<int64_t> arg) {
    require_lists(x, offsets, out);
    require(arg.size() == out.size(), "arg must have the output's shape");
    gather_max(device.stream, precision_of(x), x.data, x.shape[1], offsets.data, cols ? cols->data : nullptr, offsets.size() - 1,
               entries_of(x, cols), out.data, arg.data);
}

inline void bind_compute(py::module_& m) {
    const auto release = py::call_guard<py::gil_scoped_release>();
    m.def("mask_words", &mask_words);
    m.attr("MASK_ROWS") = kMaskRows;
    m.def("tap_masks", &bound_tap_masks, release);
    m.def("plan_rows", &bound_plan_rows, release);
    m.def("gather_gemm", &bound_gather_gemm, release);
    m.def("gather_gemm_bytes", &bound_gather_gemm_bytes);
    m.def("gather_gemm_2to4", &bound_gather_gemm_2to4, release);
    m.def("gather_outer", &bound_gather_outer, release);
    m.def("gather_outer_bytes", &bound_gather_outer_bytes);
    m.def("column_sum", &bound_column_sum, release);
    m.def("column_sum_bytes", &bound_column_sum_bytes);
    m.def("max_pool", &bound_max_pool, release);
    m.def("max_pool_grad", &bound_max_pool_grad, release);
    m.def("gather_sum", &bound_gather_sum, release);
    m.def("gather_max", &bound_gather_max, release);
}

}  // namespace sparseconv::gpu
