// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The device argument of the GPU module's functions.
#pragma once

#include <pybind11/pybind11.h>

#include "core/cuda.h"

namespace pybind11::detail {

// (device index, the caller's stream as an integer). The device is the current one while the call lasts.
template <>
struct type_caster<sparseconv::Cuda> {
    PYBIND11_TYPE_CASTER(sparseconv::Cuda, const_name("tuple[int, int]"));
    bool load(handle source, bool) {
        if (!PyTuple_Check(source.ptr()) || PyTuple_Size(source.ptr()) != 2) return false;
        value.index = reinterpret_borrow<tuple>(source)[0].cast<int>();
        value.stream = reinterpret_cast<cudaStream_t>(reinterpret_borrow<tuple>(source)[1].cast<uintptr_t>());
        sparseconv::check_cuda(cudaGetDevice(&previous_), "current device");
        if (previous_ != value.index) sparseconv::check_cuda(cudaSetDevice(value.index), "device of the arrays");
        loaded_ = true;
        return true;
    }
    type_caster() = default;
    type_caster(const type_caster&) = delete;
    type_caster(type_caster&& other) noexcept
        : value(other.value), previous_(other.previous_), loaded_(std::exchange(other.loaded_, false)) {}
    ~type_caster() {
        if (loaded_ && previous_ != value.index) cudaSetDevice(previous_);
    }

   private:
    int previous_ = 0;
    bool loaded_ = false;
};

}  // namespace pybind11::detail
