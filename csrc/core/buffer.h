// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Memory that Python owns, seen by the core. The binding reads it from DLPack, so torch tensors and NumPy arrays both work.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace sparseconv {

enum class ElementType { f16, bf16, f32, f64, i32, i64, u8 };

inline const char* name_of(ElementType type) {
    switch (type) {
        case ElementType::f16: return "float16";
        case ElementType::bf16: return "bfloat16";
        case ElementType::f32: return "float32";
        case ElementType::f64: return "float64";
        case ElementType::i32: return "int32";
        case ElementType::i64: return "int64";
        case ElementType::u8: return "uint8";
    }
    return "unknown";
}

template <class T>
struct element_type_of;
template <>
struct element_type_of<float> {
    static constexpr ElementType value = ElementType::f32;
};
template <>
struct element_type_of<double> {
    static constexpr ElementType value = ElementType::f64;
};
template <>
struct element_type_of<int32_t> {
    static constexpr ElementType value = ElementType::i32;
};
template <>
struct element_type_of<int64_t> {
    static constexpr ElementType value = ElementType::i64;
};
template <>
struct element_type_of<uint8_t> {
    static constexpr ElementType value = ElementType::u8;
};

// An array of any element type, up to 4 axes, any strides (in elements).
struct AnyBuffer {
    void* data = nullptr;
    ElementType type = ElementType::f32;
    int ndim = 0;
    int64_t shape[4] = {0, 0, 0, 0};
    int64_t strides[4] = {0, 0, 0, 0};

    int64_t size() const {
        int64_t n = 1;
        for (int a = 0; a < ndim; ++a) n *= shape[a];
        return n;
    }
    bool contiguous() const {
        int64_t expected = 1;
        for (int a = ndim - 1; a >= 0; --a) {
            if (shape[a] != 1 && strides[a] != expected) return size() == 0;
            expected *= shape[a];
        }
        return true;
    }
    std::string shape_text() const {
        std::string text = "[";
        for (int a = 0; a < ndim; ++a) text += (a ? ", " : "") + std::to_string(shape[a]);
        return text + "]";
    }
};

// A contiguous array of T.
template <class T>
struct Buffer {
    T* data = nullptr;
    int ndim = 0;
    int64_t shape[4] = {0, 0, 0, 0};

    int64_t size() const {
        int64_t n = 1;
        for (int a = 0; a < ndim; ++a) n *= shape[a];
        return n;
    }
    int64_t rows() const { return ndim > 0 ? shape[0] : 1; }
};

inline void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

}  // namespace sparseconv
