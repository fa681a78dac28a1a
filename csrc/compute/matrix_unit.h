// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The matrix unit (AMX): eight registers of 16 rows of 64 bytes, and the products of bfloat16 in them.
#pragma once

#include <type_traits>

#include "scalar.h"

namespace sparseconv::SPARSECONV_ISA {

// What a thread must have while it runs tiles.
template <class X>
struct MatrixUnit {
    MatrixUnit() {}
};

#if defined(SPARSECONV_HAVE_AMX)

// Registers 0 .. 3 hold sums, 4 and 5 left operands, 6 and 7 right ones. The instructions are written out, so that no other
// code of the file is compiled for processors that have the unit; compilers keep nothing in its registers. No instruction here
// says what memory it touches: `memory_barrier` does, once for a tile.
namespace matrix {

constexpr int kRows = 16, kRowBytes = 64;
constexpr int64_t kRowPairs = kRowBytes / 4;

SPARSECONV_INLINE void memory_barrier() { asm volatile("" : : : "memory"); }

// The registers' shapes, set for a thread as long as it lives.
class Unit {
   public:
    Unit() {
        Shapes shapes{};
        for (int i = 0; i < 8; ++i) {
            shapes.row_bytes[i] = kRowBytes;
            shapes.rows[i] = kRows;
        }
        asm volatile("ldtilecfg %0" : : "m"(shapes));
    }
    ~Unit() { asm volatile("tilerelease"); }
    Unit(const Unit&) = delete;
    Unit& operator=(const Unit&) = delete;

   private:
    struct alignas(64) Shapes {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    };
    static_assert(sizeof(Shapes) == 64);
};

template <int T>
SPARSECONV_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
}
template <int T>
SPARSECONV_INLINE void load(const void* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(T));
}
template <int T>
SPARSECONV_INLINE void store(void* p, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(T));
}
// sums[m, n] += left[m, k] * right[k, n] over pairs of bfloat16: row m of the left operand is 16 pairs, row k of the right one too.
template <int Sums, int Left, int Right>
SPARSECONV_INLINE void multiply_add() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(Left), "i"(Right));
}

// f with each number below N as a type.
template <int N, class F>
SPARSECONV_INLINE void each(const F& f) {
    if constexpr (N > 0) {
        each<N - 1>(f);
        f(std::integral_constant<int, N - 1>{});
    }
}

}  // namespace matrix

template <>
struct MatrixUnit<Bf16Tile> {
    const matrix::Unit unit;
};

#endif

}  // namespace sparseconv::SPARSECONV_ISA
