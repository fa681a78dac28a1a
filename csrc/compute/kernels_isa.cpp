// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The kernels for one instruction set. Compiled once per set, with -DSPARSECONV_ISA=generic, avx2 (-mavx2 -mfma) or avx512
// (-mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma); the macro is the namespace that keeps the copies apart.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 on its own _mm512_undefined_ps
#endif

#include "../sparse/eie.h"
#include "../sparse/quantized.h"
#include "../sparse/vectors.h"
#include "../sparse/vectors_grad.h"
#include "elementwise.h"
#include "gather_gemm.h"
#include "gather_outer.h"
#include "kernel_table.h"
#include "segment.h"

namespace sparseconv::SPARSECONV_ISA {
namespace {

// Calls f with a value of the storage type.
template <class F>
auto with_scalar(Scalar scalar, const F& f) {
    switch (scalar) {
        case Scalar::f64: return f(double{});
        case Scalar::bf16: return f(Bf16{});
        case Scalar::f32: break;
    }
    return f(float{});
}

// What of the processor multiplies pairs of bfloat16.
enum class Pairing { none, vectors, matrices };

// Calls f with a value of the type that gather_gemm reads rows in.
template <Pairing P, class F>
auto with_operand(Scalar scalar, const ConvShape& s, const F& f) {
#if defined(SPARSECONV_HAVE_AMX)
    if constexpr (P == Pairing::matrices) {
        if (scalar == Scalar::bf16 && pairs_up(s) && s.c_in / s.groups >= 16) return f(Bf16Tile{});
    }
#endif
    if constexpr (P == Pairing::vectors) {
        if (scalar == Scalar::bf16 && pairs_up(s)) return f(Bf16Pair{});
    }
    return with_scalar(scalar, f);
}

// The same for gather_outer, which multiplies pairs in matrices only.
template <Pairing P, class F>
auto with_outer_operand(Scalar scalar, [[maybe_unused]] const ConvShape& s, const F& f) {
#if defined(SPARSECONV_HAVE_AMX)
    if constexpr (P == Pairing::matrices) {
        if (scalar == Scalar::bf16 && fills_tiles(s)) return f(Bf16Tile{});
    }
#endif
    return with_scalar(scalar, f);
}

template <class X>
const typename Operand<X>::Storage* as(const void* p, X) {
    return static_cast<const typename Operand<X>::Storage*>(p);
}
template <class X>
typename Operand<X>::Storage* as(void* p, X) {
    return static_cast<typename Operand<X>::Storage*>(p);
}

double fma_loop(int64_t steps) {
    using V = Simd<float>;
    constexpr int chains = 12;  // more than the 8 to 10 that latency times ports asks for, fewer than the registers of any set
    float start[chains + 2];
    for (int i = 0; i < chains + 2; ++i) start[i] = 1.0f / static_cast<float>(i + 2);
    asm volatile("" : : "r"(start) : "memory");  // unknown and different values: equal chains would be merged into one
    const V::Reg factor = V::broadcast(start + chains), term = V::broadcast(start + chains + 1);
    V::Reg acc[chains];
    SPARSECONV_UNROLL
    for (int i = 0; i < chains; ++i) acc[i] = V::broadcast(start + i);
    for (int64_t step = 0; step < steps; ++step) {
        SPARSECONV_UNROLL
        for (int i = 0; i < chains; ++i) acc[i] = V::fma(acc[i], factor, term);
    }
    V::Reg sum = V::zero();
    SPARSECONV_UNROLL
    for (int i = 0; i < chains; ++i) sum = V::add(sum, acc[i]);
    float kept[V::width];
    V::store(kept, sum);
    asm volatile("" : : "r"(kept) : "memory");  // the sum counts as used
    return 2.0 * chains * V::width * static_cast<double>(steps);
}

template <Pairing P>
const KernelTable table = {
    [](Scalar scalar, const ConvShape& s, int64_t taps) {
        // Decoded weights of codes are never in pairs (csrc/sparse/quantized.h), and pairs take half the room.
        return with_scalar(scalar, [&](auto type) { return packed_bytes<decltype(type)>(s, taps); });
    },
    [](const Cpu& cpu, Scalar scalar, const ConvShape& s, const Pairs& pairs, const void* features, const Weight& weight,
       const void* bias, void* out, void* scratch) {
        with_operand<P>(scalar, s, [&](auto type) {
            gather_gemm<decltype(type)>(cpu, s, pairs, as(features, type), weight, as(bias, type), as(out, type), scratch);
        });
    },
    [](Scalar scalar, const ConvShape& s, const Pairs& pairs) {
        return with_scalar(scalar, [&](auto type) { return outer_bytes<decltype(type)>(s, pairs); });
    },
    [](const Cpu& cpu, Scalar scalar, const ConvShape& s, const Pairs& pairs, const void* features, const void* grad_out,
       void* grad_weight, void* scratch) {
        with_outer_operand<P>(scalar, s, [&](auto type) {
            gather_outer<decltype(type)>(cpu, s, pairs, as(features, type), as(grad_out, type), as(grad_weight, type), scratch);
        });
    },
    [](Scalar scalar, int64_t n, int64_t c) {
        return with_scalar(scalar, [&](auto type) { return column_bytes<decltype(type)>(n, c); });
    },
    [](const Cpu& cpu, Scalar scalar, const void* x, int64_t n, int64_t c, void* out, void* scratch) {
        with_scalar(scalar, [&](auto type) { column_sum(cpu, as(x, type), n, c, as(out, type), scratch); });
    },
    [](const Cpu& cpu, Scalar scalar, const ConvShape& s, const Pairs& pairs, const void* features, void* out, int32_t* argmax) {
        with_scalar(scalar, [&](auto type) { max_pool(cpu, s, pairs, as(features, type), as(out, type), argmax); });
    },
    [](const Cpu& cpu, Scalar scalar, const ConvShape& s, const Pairs& reversed, const void* grad_out, const int32_t* argmax,
       void* grad_in) {
        with_scalar(scalar, [&](auto type) { max_pool_grad(cpu, s, reversed, as(grad_out, type), argmax, as(grad_in, type)); });
    },
    [](const Cpu& cpu, Scalar scalar, const void* x, int64_t c, const int64_t* offsets, const int64_t* cols, const void* weights,
       int64_t rows, void* out) {
        with_scalar(scalar, [&](auto type) {
            using A = Acc<decltype(type)>;
            gather_sum(cpu, as(x, type), c, offsets, cols, static_cast<const A*>(weights), rows, as(out, type));
        });
    },
    [](const Cpu& cpu, Scalar scalar, const void* x, int64_t c, const int64_t* offsets, const int64_t* cols, int64_t rows,
       void* out, int64_t* arg) {
        with_scalar(scalar, [&](auto type) { gather_max(cpu, as(x, type), c, offsets, cols, rows, as(out, type), arg); });
    },
    [](const Cpu& cpu, int64_t n, const void* x, const void* y, void* out) {
        add_bf16(cpu, n, as(x, Bf16{}), as(y, Bf16{}), as(out, Bf16{}));
    },
    [](const Cpu& cpu, int64_t n, const void* x, void* out) { relu_bf16(cpu, n, as(x, Bf16{}), as(out, Bf16{})); },
    [](const Cpu& cpu, Scalar scalar, const ConvShape& s, const Pairs& pairs, const void* features, const QuantizedWeight& weight,
       const void* bias, void* out, void* scratch) {
        with_scalar(scalar, [&](auto type) {
            quantized_gather_gemm(cpu, s, pairs, as(features, type), weight, as(bias, type), as(out, type), scratch);
        });
    },
    [](const Cpu& cpu, Scalar scalar, int64_t rows, int64_t k, int64_t c_out, const void* x, const QuantizedWeight& weight,
       const void* bias, void* out) {
        with_scalar(scalar, [&](auto type) {
            quantized_linear(cpu, rows, k, c_out, as(x, type), weight, as(bias, type), as(out, type));
        });
    },
    [](const Cpu& cpu, Scalar scalar, const ConvShape& s, const Pairs& pairs, const void* features, const VectorWeight& weight,
       const void* bias, void* out) {
        with_scalar(scalar, [&](auto type) {
            vectors_gather_gemm(cpu, s, pairs, as(features, type), weight, as(bias, type), as(out, type));
        });
    },
    [](const Cpu& cpu, Scalar scalar, const ConvShape& s, const Pairs& pairs, const void* grad_out, const VectorWeight& weight,
       bool flip, void* grad_in) {
        with_scalar(scalar,
                    [&](auto type) { vectors_gather_back(cpu, s, pairs, as(grad_out, type), weight, flip, as(grad_in, type)); });
    },
    [](Scalar scalar, const ConvShape& s, const Pairs& pairs, int64_t stored) {
        return with_scalar(scalar, [&](auto type) { return vectors_outer_bytes<decltype(type)>(s, pairs, stored); });
    },
    [](const Cpu& cpu, Scalar scalar, const ConvShape& s, const Pairs& pairs, const void* features, const void* grad_out,
       const VectorWeight& weight, void* grad_values, void* scratch) {
        with_scalar(scalar, [&](auto type) {
            vectors_gather_outer(cpu, s, pairs, as(features, type), as(grad_out, type), weight, as(grad_values, type), scratch);
        });
    },
    SPARSECONV_ISA::eie_linear,
    fma_loop,
};

}  // namespace

const KernelTable& kernel_table() { return table<Pairing::none>; }
#if defined(__AVX512F__)
const KernelTable& kernel_table_bf16() { return table<Pairing::vectors>; }
#if defined(SPARSECONV_HAVE_AMX)
const KernelTable& kernel_table_amx() { return table<Pairing::matrices>; }
#endif
#endif

}  // namespace sparseconv::SPARSECONV_ISA
