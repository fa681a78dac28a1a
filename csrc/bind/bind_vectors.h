// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Names of the convolution over vector-sparse weights. The lists are checked at every call, a pass over some thousand numbers, so that
// no weight, wherever it comes from, makes the kernels read elsewhere.
#pragma once

#include "bind/bind_quantized.h"
#include "sparse/vectors_kernels.h"

namespace sparseconv {

// The layer's weight, for a convolution of `layer`'s channels; values may be null.
inline VectorWeight vector_weight_of(const ConvShape& layer, int64_t taps, const Buffer<int64_t>& offsets,
                                     const Buffer<int32_t>& channels, const AnyBuffer* values, ElementType type) {
    const int64_t lists = taps * VectorWeight::blocks(layer), stored = channels.size();
    require(offsets.ndim == 1 && offsets.size() == lists + 1 && channels.ndim == 1,
            "offsets must be [" + std::to_string(lists + 1) + "] and channels [V], got " + std::to_string(offsets.size()) +
                " offsets in " + std::to_string(offsets.ndim) + " axes");
    require(offsets.data[0] == 0 && offsets.data[lists] == stored,
            "offsets must go from 0 to the " + std::to_string(stored) + " stored rows");
    bool rises = true, ascend = true;  // a message is made once, not for every number
    for (int64_t i = 0; i < lists; ++i) rises &= offsets.data[i] <= offsets.data[i + 1];
    require(rises, "offsets must not decrease");
    const int64_t k = layer.c_in / layer.groups;
    for (int64_t i = 0; i < lists; ++i) {
        int64_t before = -1;
        for (int64_t j = offsets.data[i]; j < offsets.data[i + 1]; ++j) {
            ascend &= channels.data[j] > before && channels.data[j] < k;
            before = channels.data[j];
        }
    }
    require(ascend, "channels must ascend within a list and lie in [0, " + std::to_string(k) + ")");
    if (values) require_matrix(*values, stored, VectorWeight::block, type, "values");
    return VectorWeight{offsets.data, channels.data, values ? values->data : nullptr, stored};
}

inline void bound_vectors_gather_gemm(const Cpu& device, AnyBuffer features, Buffer<int64_t> offsets, Buffer<int32_t> channels,
                                      AnyBuffer values, std::optional<AnyBuffer> bias, Buffer<int32_t> pairs,
                                      Buffer<int64_t> tap_offsets, int64_t groups, AnyBuffer out) {
    const Scalar scalar = scalar_of(features);
    const ConvShape shape = conv_shape(features, out, groups);
    const Pairs map = pairs_of(pairs, tap_offsets);
    require_matrix(features, shape.n_in, shape.c_in, features.type, "features");
    require_matrix(out, shape.n_out, shape.c_out, features.type, "output");
    require_bias(bias, features.type, shape.c_out);
    vectors_gather_gemm(device, scalar, shape, map, features.data,
                        vector_weight_of(shape, map.taps, offsets, channels, &values, features.type), bias ? bias->data : nullptr,
                        out.data);
}

// The pairs are the reversed map's.
inline void bound_vectors_gather_back(const Cpu& device, AnyBuffer grad_out, Buffer<int64_t> offsets, Buffer<int32_t> channels,
                                      AnyBuffer values, Buffer<int32_t> pairs, Buffer<int64_t> tap_offsets, int64_t groups,
                                      bool flip, AnyBuffer grad_in) {
    const Scalar scalar = scalar_of(grad_out);
    const ConvShape shape = conv_shape(grad_out, grad_in, groups);
    const ConvShape layer{shape.n_out, shape.n_in, groups, shape.c_out, shape.c_in};
    const Pairs map = pairs_of(pairs, tap_offsets);
    require_matrix(grad_out, shape.n_in, shape.c_in, grad_out.type, "grad_out");
    require_matrix(grad_in, shape.n_out, shape.c_out, grad_out.type, "grad_in");
    vectors_gather_back(device, scalar, shape, map, grad_out.data,
                        vector_weight_of(layer, map.taps, offsets, channels, &values, grad_out.type), flip, grad_in.data);
}

inline int64_t bound_vectors_gather_outer_bytes(AnyBuffer features, AnyBuffer grad_out, Buffer<int32_t> pairs,
                                                Buffer<int64_t> tap_offsets, int64_t groups, int64_t stored) {
    return vectors_gather_outer_bytes(scalar_of(features), conv_shape(features, grad_out, groups), pairs_of(pairs, tap_offsets),
                                      stored);
}

inline void bound_vectors_gather_outer(const Cpu& device, AnyBuffer features, AnyBuffer grad_out, Buffer<int64_t> offsets,
                                       Buffer<int32_t> channels, Buffer<int32_t> pairs, Buffer<int64_t> tap_offsets,
                                       int64_t groups, AnyBuffer grad_values, Buffer<uint8_t> scratch) {
    const Scalar scalar = scalar_of(features);
    const ConvShape shape = conv_shape(features, grad_out, groups);
    const Pairs map = pairs_of(pairs, tap_offsets);
    require_matrix(features, shape.n_in, shape.c_in, features.type, "features");
    require_matrix(grad_out, shape.n_out, shape.c_out, features.type, "grad_out");
    const VectorWeight weight = vector_weight_of(shape, map.taps, offsets, channels, nullptr, features.type);
    require_matrix(grad_values, weight.stored, VectorWeight::block, features.type, "grad_values");
    require_scratch(scratch, vectors_gather_outer_bytes(scalar, shape, map, weight.stored));
    vectors_gather_outer(device, scalar, shape, map, features.data, grad_out.data, weight, grad_values.data, scratch.data);
}

inline void bind_vectors(py::module_& m) {
    const auto release = py::call_guard<py::gil_scoped_release>();
    m.def("vectors_gather_gemm", &bound_vectors_gather_gemm, release);
    m.def("vectors_gather_back", &bound_vectors_gather_back, release);
    m.def("vectors_gather_outer", &bound_vectors_gather_outer, release);
    m.def("vectors_gather_outer_bytes", &bound_vectors_gather_outer_bytes);
    m.attr("VECTOR_BLOCK") = static_cast<int64_t>(VectorWeight::block);
}

}  // namespace sparseconv
