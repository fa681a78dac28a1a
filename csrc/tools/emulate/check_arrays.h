// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Arrays, random maps and their plans for check_cuda.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "../../compute/cuda/gemm.cu"
#include "../../compute/cuda/outer.cu"
#include "../../compute/cuda/reduce.cu"
#include "../../compute/cuda/row_plan.cu"
#include "../../compute/cuda/sparse.cu"

namespace sparseconv {

using gpu::Precision;

inline std::mt19937_64 rng;
inline int64_t uniform(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }

[[noreturn]] inline void fail(const std::string& what) {
    std::fprintf(stderr, "check_cuda: %s\n", what.c_str());
    std::exit(1);
}

// Exactly as long as it says, so that the address sanitizer sees one element too far; filled with NaN.
struct Memory {
    unsigned char* data = nullptr;
    size_t size;
    explicit Memory(int64_t bytes) : size(static_cast<size_t>(bytes)) {
        void* p = nullptr;
        if (posix_memalign(&p, 256, size ? size : 1)) fail("no memory");
        data = static_cast<unsigned char*>(p);
        std::fill_n(data, size, static_cast<unsigned char>(0xFF));
    }
    Memory(Memory&& other) noexcept : data(std::exchange(other.data, nullptr)), size(other.size) {}
    Memory(const Memory&) = delete;
    ~Memory() { std::free(data); }
    bool operator==(const Memory& other) const { return size == other.size && std::equal(data, data + size, other.data); }
};

inline double rounded(Precision p, double v) {
    switch (p) {
        case Precision::f16: return emulated::half_to_float(emulated::float_to_half(static_cast<float>(v)));
        case Precision::bf16: return emulated::bfloat_to_float(emulated::float_to_bfloat(static_cast<float>(v)));
        case Precision::f64: return v;
        default: return static_cast<float>(v);
    }
}

struct Array {
    Precision type;
    int64_t n;
    Memory memory;
    Array(Precision p, int64_t count) : type(p), n(count), memory(count * gpu::element_bytes(p)) {}
    void* data() const { return memory.data; }
    double get(int64_t i) const {
        const unsigned char* at = memory.data + i * gpu::element_bytes(type);
        uint16_t half;
        float single;
        double wide;
        switch (type) {
            case Precision::f16: return std::memcpy(&half, at, 2), emulated::half_to_float(half);
            case Precision::bf16: return std::memcpy(&half, at, 2), emulated::bfloat_to_float(half);
            case Precision::f64: return std::memcpy(&wide, at, 8), wide;
            default: return std::memcpy(&single, at, 4), single;
        }
    }
    void set(int64_t i, double v) {
        unsigned char* at = memory.data + i * gpu::element_bytes(type);
        const auto single = static_cast<float>(v);
        if (type == Precision::f64) {
            std::memcpy(at, &v, 8);
        } else if (gpu::element_bytes(type) == 4) {
            std::memcpy(at, &single, 4);
        } else {
            const uint16_t half = type == Precision::f16 ? emulated::float_to_half(single) : emulated::float_to_bfloat(single);
            std::memcpy(at, &half, 2);
        }
    }
    void small_integers() {
        for (int64_t i = 0; i < n; ++i) set(i, static_cast<double>(uniform(-3, 3)));
    }
};

inline void compare(const std::string& what, const Array& got, const std::vector<double>& want) {
    for (int64_t i = 0; i < got.n; ++i) {
        const double w = rounded(got.type, want[static_cast<size_t>(i)]), g = got.get(i);
        if (!(std::isnan(w) ? std::isnan(g) : w == g)) {
            fail(what + ": element " + std::to_string(i) + " is " + std::to_string(g) + ", want " + std::to_string(w));
        }
    }
}

template <class Body>
Array same_bits(const std::string& what, Precision type, int64_t n, const Body& body) {
    Array first(type, n), again(type, n);
    emulated::shuffle.seed(rng());
    body(first.data());
    emulated::shuffle.seed(rng());
    body(again.data());
    if (!(first.memory == again.memory)) fail(what + ": other bits in another order of threads");
    return first;
}

// A random map, both ways round, and its plans.
struct Map {
    std::vector<Pair> data;
    std::vector<int64_t> offsets{0};
    int64_t n_out;
    Pairs pairs() const { return {data.data(), offsets.data(), static_cast<int64_t>(offsets.size()) - 1}; }
    int64_t size() const { return static_cast<int64_t>(data.size()); }
};

inline Map random_map(int64_t n_in, int64_t n_out, int64_t taps, int64_t alike) {
    Map map;
    map.n_out = n_out;
    std::vector<int32_t> ins(static_cast<size_t>(n_in));
    std::iota(ins.begin(), ins.end(), 0);
    for (int64_t t = 0; t < taps; ++t) {
        std::shuffle(ins.begin(), ins.end(), rng);
        const double keep = alike > 2 ? std::uniform_real_distribution<double>(-0.3, 1.1)(rng) : static_cast<double>(alike) * 0.5;
        size_t used = 0;
        for (int64_t o = 0; o < n_out && used < ins.size(); ++o) {
            if (std::uniform_real_distribution<double>(0, 1)(rng) < keep) {
                map.data.push_back({ins[used++], static_cast<int32_t>(o)});
            }
        }
        map.offsets.push_back(map.size());
    }
    return map;
}

inline Map reversed(const Map& map, int64_t n_in) {
    Map back = map;
    back.n_out = n_in;
    for (Pair& p : back.data) std::swap(p.in, p.out);
    for (size_t t = 0; t + 1 < back.offsets.size(); ++t) {
        std::sort(back.data.begin() + back.offsets[t], back.data.begin() + back.offsets[t + 1],
                  [](const Pair& a, const Pair& b) { return a.out < b.out; });
    }
    return back;
}

struct Plan {
    std::vector<int32_t> order;
    Memory neighbors, tiles;
    gpu::RowPlan plan;
    explicit Plan(const Map& map)
        : neighbors(map.pairs().taps * map.n_out * 4),
          tiles(gpu::ceil_div(map.n_out, 64) * gpu::mask_words(map.pairs().taps) * 4) {
        const int64_t words = gpu::mask_words(map.pairs().taps);
        Memory masks(map.n_out * words * 4), places(map.n_out * 4);
        const auto* bits = reinterpret_cast<const uint32_t*>(masks.data);
        gpu::tap_masks(nullptr, map.pairs(), map.size(), map.n_out, reinterpret_cast<uint32_t*>(masks.data));
        order.resize(static_cast<size_t>(map.n_out));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
            return std::lexicographical_compare(bits + b * words, bits + (b + 1) * words, bits + a * words,
                                                bits + (a + 1) * words);
        });
        gpu::plan_rows(nullptr, map.pairs(), map.size(), map.n_out, bits, order.data(), reinterpret_cast<int32_t*>(places.data),
                       reinterpret_cast<int32_t*>(neighbors.data), reinterpret_cast<uint32_t*>(tiles.data));
        plan = {reinterpret_cast<const int32_t*>(neighbors.data), order.data(), reinterpret_cast<const uint32_t*>(tiles.data),
                map.pairs().taps, map.size()};
    }
};

}  // namespace sparseconv
