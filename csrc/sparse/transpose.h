// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// A square of registers transposed.
#pragma once

#include <utility>

#include "../compute/vector.h"

namespace sparseconv::SPARSECONV_ISA {

// Elements of a and b, which are rows i and i + Step of a square whose blocks of Step columns change places: the upper row keeps its
// even blocks and takes b's even ones in place of its odd ones, the lower row the other way round.
template <class Reg, int Step, bool Lower, std::size_t... E>
SPARSECONV_INLINE Reg exchange(Reg a, Reg b, std::index_sequence<E...>) {
    constexpr int width = static_cast<int>(sizeof...(E));
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(
        a, b,
        (static_cast<int>(E) & Step ? (Lower ? width + static_cast<int>(E) : width + static_cast<int>(E) - Step)
                                    : (Lower ? static_cast<int>(E) + Step : static_cast<int>(E)))...);
#else
    Reg to{};
    for (int e = 0; e < width; ++e) to[e] = e & Step ? (Lower ? b[e] : b[e - Step]) : (Lower ? a[e + Step] : a[e]);
    return to;
#endif
}

template <class A, int Step>
SPARSECONV_INLINE void transpose_steps(typename Simd<A>::Reg* rows) {
    constexpr int width = Simd<A>::width;
    using Each = std::make_index_sequence<width>;
    if constexpr (Step < width) {
        SPARSECONV_UNROLL
        for (int i = 0; i < width; ++i) {
            if ((i & Step) == 0) {
                const auto a = rows[i], b = rows[i + Step];
                rows[i] = exchange<typename Simd<A>::Reg, Step, false>(a, b, Each{});
                rows[i + Step] = exchange<typename Simd<A>::Reg, Step, true>(a, b, Each{});
            }
        }
        transpose_steps<A, 2 * Step>(rows);
    }
}

// rows[i][j] and rows[j][i] change places, i and j below the width of a register.
template <class A>
SPARSECONV_INLINE void transpose(typename Simd<A>::Reg* rows) {
    transpose_steps<A, 1>(rows);
}

}  // namespace sparseconv::SPARSECONV_ISA
