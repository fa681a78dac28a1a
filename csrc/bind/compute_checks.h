// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Checks of the compute functions' arguments that the CPU's and the GPU's bindings share.
#pragma once

#include <optional>

#include "bind/buffers.h"
#include "compute/kernels.h"

namespace sparseconv {

namespace py = pybind11;

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

// What gather_gemm takes beside the map.
inline void require_gemm(const AnyBuffer& features, const AnyBuffer& weight, const std::optional<AnyBuffer>& bias,
                         const AnyBuffer& out, const ConvShape& shape) {
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
}

inline void require_outer(const AnyBuffer& features, const AnyBuffer& grad_out, const AnyBuffer& grad_weight,
                          const ConvShape& shape, int64_t taps) {
    require_matrix(features, shape.n_in, shape.c_in, features.type, "features");
    require_matrix(grad_out, shape.n_out, shape.c_out, features.type, "grad_out");
    require(grad_weight.ndim == 3 && grad_weight.shape[0] == taps && grad_weight.shape[1] == shape.c_in / shape.groups &&
                grad_weight.shape[2] == shape.c_out && grad_weight.type == features.type && grad_weight.contiguous(),
            "grad_weight must be a contiguous [K, C_in / groups, C_out] array of the features' type, got " +
                grad_weight.shape_text());
}

inline void require_argmax(const Buffer<int32_t>& argmax, int64_t rows, int64_t channels) {
    require(argmax.ndim == 2 && argmax.shape[0] == rows && argmax.shape[1] == channels, "argmax must be [N_out, C]");
}

// The lists of a gather: list r is cols[offsets[r]] .. cols[offsets[r + 1]].
inline void require_lists(const AnyBuffer& x, const Buffer<int64_t>& offsets, const AnyBuffer& out) {
    require(x.ndim == 2 && x.contiguous() && offsets.ndim == 1 && offsets.size() >= 1, "x must be [N, C] and offsets [rows + 1]");
    require_matrix(out, offsets.size() - 1, x.shape[1], x.type, "output");
}

// Weights of the entries of lists, in the type that sums are kept in.
inline void require_list_weights(const AnyBuffer& x, const std::optional<AnyBuffer>& weights) {
    if (!weights) return;
    const ElementType accumulator = x.type == ElementType::f64 ? ElementType::f64 : ElementType::f32;
    require(weights->type == accumulator && weights->contiguous(), "weights must be " + std::string(name_of(accumulator)));
}

}  // namespace sparseconv
