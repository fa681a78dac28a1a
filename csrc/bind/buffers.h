// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Reads DLPack capsules (torch.utils.dlpack.to_dlpack) and whatever offers __dlpack__ (NumPy arrays) into Buffers. The structs
// below are DLPack's stable ABI (dmlc/dlpack, version 0.x), restated.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/buffer.h"
#include "core/device.h"

namespace sparseconv {

struct DLTensor {
    void* data;
    struct {
        int32_t device_type, device_id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t* shape;
    int64_t* strides;  // null = contiguous
    uint64_t byte_offset;
};

inline ElementType element_type(const DLTensor& tensor) {
    enum : int { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };
    const int code = tensor.dtype.code, bits = tensor.dtype.bits;
    if (tensor.dtype.lanes == 1) {
        if (code == kFloat && bits == 16) return ElementType::f16;
        if (code == kBfloat && bits == 16) return ElementType::bf16;
        if (code == kFloat && bits == 32) return ElementType::f32;
        if (code == kFloat && bits == 64) return ElementType::f64;
        if (code == kInt && bits == 32) return ElementType::i32;
        if (code == kInt && bits == 64) return ElementType::i64;
        if ((code == kUInt || code == kBool) && bits == 8) return ElementType::u8;
    }
    throw pybind11::type_error("element type with DLPack code " + std::to_string(code) + " and " + std::to_string(bits) +
                               " bits is not supported: expected float16, bfloat16, float32, float64, int32, int64 or uint8");
}

// `device_type`: 1 = CPU, 2 = CUDA.
inline AnyBuffer read_dlpack(pybind11::handle source, int device_type) {
    pybind11::object capsule;
    if (PyCapsule_CheckExact(source.ptr())) {
        capsule = pybind11::reinterpret_borrow<pybind11::object>(source);
    } else if (pybind11::hasattr(source, "__dlpack__")) {
        capsule = source.attr("__dlpack__")();
    } else {
        throw pybind11::type_error("expected a DLPack capsule or an array, got " +
                                   std::string(pybind11::str(pybind11::type::handle_of(source).attr("__name__"))));
    }
    // The managed tensor begins with the tensor itself; the capsule keeps its ownership and frees it.
    auto* tensor = static_cast<DLTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    if (!tensor) throw pybind11::error_already_set();
    if (tensor->device.device_type != device_type) {
        throw pybind11::type_error("array lies on DLPack device type " + std::to_string(tensor->device.device_type) +
                                   ", this module works on " + std::to_string(device_type));
    }
    if (tensor->ndim > 4) throw pybind11::value_error("arrays have at most 4 axes, got " + std::to_string(tensor->ndim));
    AnyBuffer buffer;
    buffer.type = element_type(*tensor);
    buffer.ndim = tensor->ndim;
    int64_t dense = 1;
    for (int a = tensor->ndim - 1; a >= 0; --a) {
        buffer.shape[a] = tensor->shape[a];
        buffer.strides[a] = tensor->strides ? tensor->strides[a] : dense;
        dense *= tensor->shape[a];
    }
    if (tensor->data) buffer.data = static_cast<char*>(tensor->data) + tensor->byte_offset;
    return buffer;
}

}  // namespace sparseconv

namespace pybind11::detail {

template <>
struct type_caster<sparseconv::AnyBuffer> {
    PYBIND11_TYPE_CASTER(sparseconv::AnyBuffer, const_name("array"));
    bool load(handle source, bool) {
        if (source.is_none()) return false;
        value = sparseconv::read_dlpack(source, SPARSECONV_DEVICE_TYPE);
        return true;
    }
};

template <class T>
struct type_caster<sparseconv::Buffer<T>> {
    PYBIND11_TYPE_CASTER(sparseconv::Buffer<T>, const_name("array"));
    bool load(handle source, bool) {
        if (source.is_none()) return false;
        const sparseconv::AnyBuffer any = sparseconv::read_dlpack(source, SPARSECONV_DEVICE_TYPE);
        if (any.type != sparseconv::element_type_of<T>::value) {
            throw type_error(std::string("expected an array of ") + sparseconv::name_of(sparseconv::element_type_of<T>::value) +
                             ", got " + sparseconv::name_of(any.type));
        }
        if (!any.contiguous()) throw value_error("expected a contiguous array, got strides for shape " + any.shape_text());
        value.data = static_cast<T*>(any.data);
        value.ndim = any.ndim;
        for (int a = 0; a < any.ndim; ++a) value.shape[a] = any.shape[a];
        return true;
    }
};

// The device argument of every function. CPU: the number of threads, negative = that many in the tests' shuffled order.
template <>
struct type_caster<sparseconv::Cpu> {
    PYBIND11_TYPE_CASTER(sparseconv::Cpu, const_name("threads: int"));
    bool load(handle source, bool) {
        if (!PyLong_Check(source.ptr())) return false;
        const long threads = PyLong_AsLong(source.ptr());
        value.shuffle = threads < 0;
        value.threads = static_cast<int>(threads < 0 ? -threads : threads);
        if (value.threads < 1) value.threads = 1;
        return true;
    }
};

}  // namespace pybind11::detail
