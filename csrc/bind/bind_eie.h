// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Names of the functions of the EIE format: shapes are checked here, loops are in sparse/eie*.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bind/buffers.h"
#include "sparse/eie_kernels.h"

namespace sparseconv {

namespace py = pybind11;

// A matrix over the caller's arrays, with the starts that follow from its pointers.
struct BoundEie {
    std::vector<int64_t> starts;
    EieMatrix matrix;
};

// entries [E], pointers [pes, cols + 1]. `padding`: bytes that entries must have beyond those the pointers count.
inline BoundEie eie_matrix(const Buffer<uint8_t>& entries, const Buffer<int32_t>& pointers, int64_t rows, int64_t padding) {
    require(pointers.ndim == 2 && pointers.shape[0] >= 1 && pointers.shape[1] >= 1 && rows >= 0,
            "pointers must be [pes, cols + 1] with pes >= 1");
    const int64_t pes = pointers.shape[0], cols = pointers.shape[1] - 1;
    BoundEie bound{std::vector<int64_t>(static_cast<size_t>(pes) + 1, 0), {}};
    for (int64_t pe = 0; pe < pes; ++pe) {
        const int32_t own = pointers.data[pe * (cols + 1) + cols];
        require(own >= 0, "PE " + std::to_string(pe) + " has " + std::to_string(own) + " entries");
        bound.starts[static_cast<size_t>(pe) + 1] = bound.starts[static_cast<size_t>(pe)] + own;
    }
    require(bound.starts.back() + padding <= entries.size(), "the pointers count " + std::to_string(bound.starts.back()) +
                                                                 " entries and " + std::to_string(padding) +
                                                                 " bytes of padding, got " + std::to_string(entries.size()));
    bound.matrix = EieMatrix{entries.data, bound.starts.data(), pointers.data, rows, cols, pes};
    return bound;
}

inline void require_codes(const Buffer<uint8_t>& codes, const Buffer<int32_t>& pointers) {
    require(codes.ndim == 2 && pointers.ndim == 2 && pointers.shape[0] >= 1 && pointers.shape[1] == codes.shape[1] + 1,
            "codes must be [rows, cols] and pointers [pes, cols + 1]");
}

inline int64_t bound_eie_count(const Cpu& device, Buffer<uint8_t> codes, Buffer<int32_t> pointers) {
    require_codes(codes, pointers);
    return eie_count(device, codes.data, codes.shape[0], codes.shape[1], pointers.shape[0], pointers.data);
}

inline void bound_eie_pack(const Cpu& device, Buffer<uint8_t> codes, Buffer<int32_t> pointers, Buffer<uint8_t> entries) {
    require_codes(codes, pointers);
    eie_pack(device, codes.data, eie_matrix(entries, pointers, codes.shape[0], 0).matrix, entries.data);
}

inline void bound_eie_unpack(const Cpu& device, Buffer<uint8_t> entries, Buffer<int32_t> pointers, Buffer<uint8_t> codes) {
    require_codes(codes, pointers);
    eie_unpack(device, eie_matrix(entries, pointers, codes.shape[0], 0).matrix, codes.data);
}

// "" for a valid matrix, else what is wrong with it.
inline std::string bound_eie_find_error(const Cpu& device, Buffer<uint8_t> entries, Buffer<int32_t> pointers, int64_t rows) {
    const EieFinding found = eie_find_error(device, eie_matrix(entries, pointers, rows, 0).matrix);
    const std::string place = " in column " + std::to_string(found.column) + " of PE " + std::to_string(found.pe);
    switch (found.error) {
        case EieError::none: return "";
        case EieError::pointers: return "pointers must start at 0 and never decrease, which they do not" + place;
        case EieError::row: return "an entry lies below the last row" + place;
        case EieError::filler: return "an entry of code 0 is not a filler of 16 zeros before another entry" + place;
    }
    return "unknown";
}

inline void bound_eie_linear(const Cpu& device, Buffer<float> x, Buffer<uint8_t> entries, Buffer<int32_t> pointers,
                             Buffer<float> codebook, std::optional<Buffer<float>> bias, Buffer<float> out) {
    require(out.ndim == 2 && codebook.ndim == 1 && codebook.size() == 16, "codebook must be [16] and the output [batch, rows]");
    const BoundEie bound = eie_matrix(entries, pointers, out.shape[1], kEiePadding);
    const EieMatrix& m = bound.matrix;
    require(x.ndim == 2 && x.shape[1] == m.cols && x.shape[0] == out.shape[0],
            "x must be [batch, " + std::to_string(m.cols) + "] with the output's batch");
    require(!bias || (bias->ndim == 1 && bias->size() == m.rows), "bias must be [" + std::to_string(m.rows) + "]");
    eie_linear(device, m, codebook.data, x.data, x.shape[0], bias ? bias->data : nullptr, out.data);
}

inline void bound_eie_linear_grad(const Cpu& device, Buffer<float> grad_out, Buffer<float> x, Buffer<uint8_t> entries,
                                  Buffer<int32_t> pointers, Buffer<float> codebook, Buffer<float> grad_x,
                                  Buffer<float> grad_codebook) {
    require(grad_out.ndim == 2 && codebook.size() == 16 && grad_codebook.size() == 16,
            "codebook and its gradient must be [16], grad_out [batch, rows]");
    const BoundEie bound = eie_matrix(entries, pointers, grad_out.shape[1], 0);
    const int64_t batch = grad_out.shape[0], cols = bound.matrix.cols;
    require(x.ndim == 2 && grad_x.ndim == 2 && x.shape[0] == batch && grad_x.shape[0] == batch && x.shape[1] == cols &&
                grad_x.shape[1] == cols,
            "x and its gradient must be [batch, " + std::to_string(cols) + "]");
    eie_linear_grad(device, bound.matrix, codebook.data, x.data, grad_out.data, batch, grad_x.data, grad_codebook.data);
}

inline void bind_eie(py::module_& m) {
    const auto release = py::call_guard<py::gil_scoped_release>();
    m.attr("EIE_PADDING") = kEiePadding;
    m.def("eie_count", &bound_eie_count, release);
    m.def("eie_pack", &bound_eie_pack, release);
    m.def("eie_unpack", &bound_eie_unpack, release);
    m.def("eie_find_error", &bound_eie_find_error, release);
    m.def("eie_linear", &bound_eie_linear, release);
    m.def("eie_linear_grad", &bound_eie_linear_grad, release);
}

}  // namespace sparseconv
