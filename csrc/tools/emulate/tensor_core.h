// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// ldmatrix, mma.sync, mma.sp and cp.async on fibers, from the fragment layouts and the rules of the PTX ISA (sections "Matrix
// multiply-accumulate operation" and "Data movement: cp.async").
#pragma once

#include <cmath>

#include "fibers.h"

namespace emulated {

inline float decode_half(uint16_t h) {
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const float sign = h >> 15 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? std::ldexp(1024.0f + static_cast<float>(fraction), exponent - 25)
                            : std::ldexp(static_cast<float>(fraction), -24));
}

inline float half_to_float(uint16_t h) {
    static const std::vector<float> table = [] {
        std::vector<float> values(65536);
        for (unsigned i = 0; i < 65536; ++i) values[i] = decode_half(static_cast<uint16_t>(i));
        return values;
    }();
    return table[h];
}

// Round to nearest, ties to even.
inline uint16_t float_to_half(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
    const float size = std::fabs(v);
    if (std::isnan(v)) return 0x7FFF;
    if (size == 0) return sign;
    if (size >= 65520.0f) return sign | 0x7C00;
    int exponent;
    std::frexp(size, &exponent);
    const int ulp = std::max(exponent - 11, -24);
    const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, -ulp)));  // 0 .. 2048
    if (ulp == -24) return sign | static_cast<uint16_t>(units);
    return sign | static_cast<uint16_t>((static_cast<uint32_t>(ulp + 25) << 10) + units - 1024);
}

inline float bfloat_to_float(uint16_t b) {
    const uint32_t bits = static_cast<uint32_t>(b) << 16;
    float v;
    std::memcpy(&v, &bits, 4);
    return v;
}

inline uint16_t float_to_bfloat(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    if (std::isnan(v)) return 0x7FFF;
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// cvt.rna.tf32.f32: to 10 bits of fraction, ties away from zero.
inline uint32_t to_tf32(uint32_t bits) {
    if ((bits & 0x7F800000u) == 0x7F800000u) return bits;
    return (bits + 0x1000u) & ~0x1FFFu;
}

struct Half16 {
    static constexpr int kBytes = 2;
    static float value(uint16_t v) { return half_to_float(v); }
};
struct Bfloat16 {
    static constexpr int kBytes = 2;
    static float value(uint16_t v) { return bfloat_to_float(v); }
};
struct Tf32 {  // the hardware does not read the low 13 bits
    static constexpr int kBytes = 4;
    static float value(uint32_t v) {
        v &= ~0x1FFFu;
        float f;
        std::memcpy(&f, &v, 4);
        return f;
    }
};

// Register `r` of a lane as elements: two of 16 bits or one of 32.
template <class E>
float element(const uint32_t* registers, int r, int e) {
    if constexpr (E::kBytes == 4) return E::value(registers[r]);
    return E::value(static_cast<uint16_t>(registers[r] >> 16 * e));
}

struct MmaLane {
    float* d;
    const uint32_t *a, *b;
    uint32_t metadata;
};

inline int64_t ldmatrix_conflicts = 0;  // bank conflicts of ldmatrix: extra passes over shared memory
inline int64_t ldmatrix_passes = 0;

// D += A B, A [16, 32 bytes] rows, B [32 bytes, 8] columns: m16n8k16 of 16-bit elements, m16n8k8 of tf32.
template <class E>
void mma_operation(void** lanes, unsigned mask) {
    constexpr int kPer = 4 / E::kBytes, kDepth = 8 * kPer;
    if (mask != 0xFFFFFFFFu) fail("mma.sync needs all lanes");
    float a[16][kDepth], b[kDepth][8];
    for (int l = 0; l < 32; ++l) {
        const auto* lane = static_cast<MmaLane*>(lanes[l]);
        const int g = l / 4, t = l % 4;
        for (int r = 0; r < 4; ++r) {
            for (int e = 0; e < kPer; ++e) a[g + r % 2 * 8][(t + r / 2 * 4) * kPer + e] = element<E>(lane->a, r, e);
        }
        for (int r = 0; r < 2; ++r) {
            for (int e = 0; e < kPer; ++e) b[(t + r * 4) * kPer + e][g] = element<E>(lane->b, r, e);
        }
    }
    for (int l = 0; l < 32; ++l) {
        float* d = static_cast<MmaLane*>(lanes[l])->d;
        for (int r = 0; r < 4; ++r) {
            const int row = l / 4 + r / 2 * 8, column = l % 4 * 2 + r % 2;
            float sum = 0;
            for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[k][column];
            d[r] += sum;
        }
    }
}

template <class E>
void mma(float* d, const uint32_t* a, const uint32_t* b) {
    MmaLane mine{d, a, b, 0};
    block.warp_collective(0xFFFFFFFFu, mma_operation<E>, &mine);
}

// mma.sp m16n8k32, 16-bit elements, sparsity selector 0: of each 4 elements along k, A holds 2, and the metadata their places.
// Lane l with l % 4 in {0, 1} holds the metadata of rows l / 4 (its low 16 bits) and l / 4 + 8 (its high 16 bits): lane 0 of the
// four that of k 0..15, lane 1 that of k 16..31, 2 bits a stored element, ascending.
template <class E>
void sparse_mma_operation(void** lanes, unsigned mask) {
    if (mask != 0xFFFFFFFFu) fail("mma.sp needs all lanes");
    float a[16][32] = {}, b[32][8];
    for (int l = 0; l < 32; ++l) {
        const auto* lane = static_cast<MmaLane*>(lanes[l]);
        const int g = l / 4, t = l % 4;
        for (int r = 0; r < 4; ++r) {
            const int row = g + r % 2 * 8;
            for (int e = 0; e < 2; ++e) {
                const int stored = (t + r / 2 * 4) * 2 + e;  // column of the compressed [16, 16]
                const uint32_t meta = static_cast<MmaLane*>(lanes[g * 4 + stored / 8])->metadata >> (row / 8 * 16);
                const int place = static_cast<int>(meta >> stored % 8 * 2 & 3);
                a[row][stored / 2 * 4 + place] += element<E>(lane->a, r, e);
            }
        }
        for (int r = 0; r < 4; ++r) {
            for (int e = 0; e < 2; ++e) b[(t + r * 4) * 2 + e][g] = element<E>(lane->b, r, e);
        }
    }
    for (int l = 0; l < 32; ++l) {
        float* d = static_cast<MmaLane*>(lanes[l])->d;
        for (int r = 0; r < 4; ++r) {
            float sum = 0;
            for (int k = 0; k < 32; ++k) sum += a[l / 4 + r / 2 * 8][k] * b[k][l % 4 * 2 + r % 2];
            d[r] += sum;
        }
    }
}

template <class E>
void sparse_mma(float* d, const uint32_t* a, const uint32_t* b, uint32_t metadata) {
    MmaLane mine{d, a, b, metadata};
    block.warp_collective(0xFFFFFFFFu, sparse_mma_operation<E>, &mine);
}

struct MatrixLane {
    const unsigned char* row;
    uint32_t* registers;
};

// Lane 8 m + r names row r (16 bytes) of matrix m; lane l gets elements 2 (l % 4), + 1 of row l / 4 of each matrix, or, transposed,
// of column l / 4.
template <bool kTransposed>
void ldmatrix_operation(void** lanes, unsigned mask) {
    if (mask != 0xFFFFFFFFu) fail("ldmatrix needs all lanes");
    for (int m = 0; m < 4; ++m) {
        uint16_t matrix[8][8];
        int uses[8] = {}, most = 0;
        for (int r = 0; r < 8; ++r) {
            const unsigned char* row = static_cast<MatrixLane*>(lanes[m * 8 + r])->row;
            const auto address = reinterpret_cast<uintptr_t>(row);
            if (address % 16) fail("ldmatrix reads a row that is not aligned to 16 bytes");
            most = std::max(most, ++uses[address / 16 % 8]);
            std::memcpy(matrix[r], row, 16);
        }
        ldmatrix_conflicts += most - 1, ++ldmatrix_passes;
        for (int l = 0; l < 32; ++l) {
            const int i = l / 4, j = l % 4 * 2;
            const uint16_t low = kTransposed ? matrix[j][i] : matrix[i][j],
                           high = kTransposed ? matrix[j + 1][i] : matrix[i][j + 1];
            static_cast<MatrixLane*>(lanes[l])->registers[m] = low | static_cast<uint32_t>(high) << 16;
        }
    }
}

template <bool kTransposed>
void ldmatrix(uint32_t* registers, const unsigned char* row) {
    MatrixLane mine{row, registers};
    block.warp_collective(0xFFFFFFFFu, ldmatrix_operation<kTransposed>, &mine);
}

// The data lands as late as the rules allow, at the wait; until then the target is poisoned, so that a reader that comes too early
// and a writer that overwrites what others still read both show.
inline void copy_async(unsigned char* to, const void* from, int bytes, int valid) {
    if (reinterpret_cast<uintptr_t>(to) % static_cast<size_t>(bytes) ||
        (valid && reinterpret_cast<uintptr_t>(from) % static_cast<size_t>(bytes))) {
        fail("cp.async needs addresses aligned to its size");
    }
    std::memset(to, 0xFF, static_cast<size_t>(bytes));
    block.current().open.push_back({to, from, bytes, valid});
}

inline void commit_copies() {
    Fiber& f = block.current();
    f.copies.push_back(std::move(f.open));
    f.open.clear();
}

inline void wait_copies(size_t groups_left) {
    Fiber& f = block.current();
    while (f.copies.size() > groups_left) {
        for (const PendingCopy& c : f.copies.front()) {
            if (c.valid) std::memcpy(c.to, c.from, static_cast<size_t>(c.valid));
            std::memset(static_cast<unsigned char*>(c.to) + c.valid, 0, static_cast<size_t>(c.bytes - c.valid));
        }
        f.copies.erase(f.copies.begin());
    }
}

}  // namespace emulated
