// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Checks the kernels over vector-sparse weights against loops in double, and against gather_gemm and gather_outer with the same
// weight in its dense form, to the bit. Exits with 1 at the first difference.
//   check_vectors [cases] [seed]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "../sparse/vectors_kernels.h"

using namespace sparseconv;

namespace {

std::mt19937_64 rng(1);
int64_t uniform(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "check_vectors: %s\n", what.c_str());
    std::exit(1);
}

template <class T>
std::vector<T> numbers(int64_t n) {
    std::normal_distribution<double> normal;
    std::vector<T> values(static_cast<size_t>(n));
    for (T& v : values) v = static_cast<T>(normal(rng));
    return values;
}

struct Aligned {
    std::vector<unsigned char> bytes;
    explicit Aligned(int64_t n) : bytes(static_cast<size_t>(n + 64)) {}
    void* data() { return bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64; }
};

// Of each tap a random subset of out rows with distinct in rows, and the same reversed.
struct Map {
    std::vector<Pair> data, reversed;
    std::vector<int64_t> offsets{0};
    Map(int64_t n_in, int64_t n_out, int64_t taps) {
        for (int64_t t = 0; t < taps; ++t) {
            std::vector<int32_t> ins(static_cast<size_t>(n_in));
            for (size_t i = 0; i < ins.size(); ++i) ins[i] = static_cast<int32_t>(i);
            if (uniform(0, 3)) std::shuffle(ins.begin(), ins.end(), rng);
            const int64_t keep = uniform(-10, 110);
            size_t used = 0;
            std::vector<Pair> back;
            for (int64_t o = 0; o < n_out && used < ins.size(); ++o) {
                if (uniform(0, 99) >= keep) continue;
                data.push_back({ins[used], static_cast<int32_t>(o)});
                back.push_back({static_cast<int32_t>(o), ins[used++]});
            }
            std::sort(back.begin(), back.end(), [](Pair a, Pair b) { return a.out < b.out; });
            reversed.insert(reversed.end(), back.begin(), back.end());
            offsets.push_back(static_cast<int64_t>(data.size()));
        }
    }
};

// Equal but for the sign of zeros.
template <class T>
void same(const std::string& what, const std::vector<T>& got, const std::vector<T>& want) {
    for (size_t i = 0; i < got.size(); ++i) {
        if (!(got[i] == want[i])) fail(what + ": element " + std::to_string(i) + " differs from the dense kernel's");
    }
}

template <class T>
void close(const std::string& what, const std::vector<T>& got, const std::vector<double>& want) {
    double scale = 1e-30;
    for (double w : want) scale = std::max(scale, std::fabs(w));
    for (size_t i = 0; i < got.size(); ++i) {
        if (!(std::fabs(static_cast<double>(got[i]) - want[i]) <= (sizeof(T) == 8 ? 1e-12 : 2e-5) * scale)) {
            fail(what + ": element " + std::to_string(i) + " is wrong");
        }
    }
}

// Runs `body(cpu, out)` with several threads and in scrambled order and wants the same bytes.
template <class T, class Body>
std::vector<T> same_bits(const std::string& what, int64_t n, const Body& body) {
    std::vector<T> first(static_cast<size_t>(n));
    body(Cpu{1, false}, first.data());
    for (const Cpu& cpu : {Cpu{2, false}, Cpu{3, true}}) {
        std::vector<T> again(first.size());
        body(cpu, again.data());
        if (!first.empty() && std::memcmp(first.data(), again.data(), first.size() * sizeof(T)) != 0) {
            fail(what + ": other bits with " + std::to_string(cpu.threads) + " threads");
        }
    }
    return first;
}

template <class T>
void check(const ConvShape& s, int64_t taps, const std::string& name) {
    constexpr Scalar type = std::is_same<T, double>::value ? Scalar::f64 : Scalar::f32;
    const int64_t k = s.c_in / s.groups, m = s.c_out / s.groups, per_group = VectorWeight::blocks_of_group(s);
    const Map map(s.n_in, s.n_out, taps);
    const Pairs pairs{map.data.data(), map.offsets.data(), taps}, reversed{map.reversed.data(), map.offsets.data(), taps};
    std::vector<T> dense = numbers<T>(std::max<int64_t>(1, taps * k * s.c_out)), values;
    std::vector<int64_t> offsets{0};
    std::vector<int32_t> channels;
    std::vector<int64_t> places;  // of each stored row's first element in the dense weight
    const int64_t density = uniform(-10, 110);
    for (int64_t t = 0; t < taps; ++t) {
        for (int64_t b = 0; b < s.groups * per_group; ++b) {
            const int64_t column = b / per_group * m + b % per_group * 16,
                          columns = std::min<int64_t>(16, m - b % per_group * 16);
            for (int64_t c = 0; c < k; ++c) {
                T* row = dense.data() + (t * k + c) * s.c_out + column;
                if (uniform(0, 99) < density) {
                    places.push_back(row - dense.data());
                    channels.push_back(static_cast<int32_t>(c));
                    values.insert(values.end(), row, row + columns);
                    values.resize(channels.size() * 16);
                } else {
                    std::fill(row, row + columns, T(0));
                }
            }
            offsets.push_back(static_cast<int64_t>(channels.size()));
        }
    }
    const int64_t stored = static_cast<int64_t>(channels.size());
    const VectorWeight weight{offsets.data(), channels.data(), values.data(), stored};
    const std::vector<T> x = numbers<T>(s.n_in * s.c_in), g = numbers<T>(s.n_out * s.c_out), bias = numbers<T>(s.c_out);
    const T* start = uniform(0, 1) ? bias.data() : nullptr;

    Aligned packed(packed_weight_bytes(type, s, taps)), partial(gather_outer_bytes(type, s, pairs));
    std::vector<T> want(g.size()), want_weight(static_cast<size_t>(taps * k * s.c_out));
    const Cpu one{1, false};
    gather_gemm(one, type, s, pairs, x.data(), {dense.data(), k * s.c_out, m, s.c_out, 1}, start, want.data(), packed.data());
    same("forward, " + name,
         same_bits<T>("forward, " + name, s.n_out * s.c_out,
                      [&](const Cpu& cpu, T* y) { vectors_gather_gemm(cpu, type, s, pairs, x.data(), weight, start, y); }),
         want);

    gather_outer(one, type, s, pairs, x.data(), g.data(), want_weight.data(), partial.data());
    Aligned sums(vectors_gather_outer_bytes(type, s, pairs, stored));
    const std::vector<T> outer = same_bits<T>("gradient of the weight, " + name, stored * 16, [&](const Cpu& cpu, T* y) {
        vectors_gather_outer(cpu, type, s, pairs, x.data(), g.data(), weight, y, sums.data());
    });
    for (int64_t j = 0; j < stored; ++j) {
        const int64_t in_group = places[static_cast<size_t>(j)] % s.c_out % m;
        for (int64_t u = 0; u < 16; ++u) {
            const bool inside = u < m - in_group;
            const T expected = inside ? want_weight[static_cast<size_t>(places[static_cast<size_t>(j)] + u)] : T(0);
            if (!(outer[static_cast<size_t>(j * 16 + u)] == expected)) fail("gradient of the weight, " + name);
        }
    }

    std::vector<double> want_back(x.size());
    for (int64_t t = 0; t < taps; ++t) {
        for (int64_t p = map.offsets[static_cast<size_t>(t)]; p < map.offsets[static_cast<size_t>(t) + 1]; ++p) {
            const Pair pair = map.data[static_cast<size_t>(p)];
            for (int64_t c = 0; c < s.c_in; ++c) {
                for (int64_t j = 0; j < m; ++j) {
                    const int64_t column = c / k * m + j;
                    want_back[static_cast<size_t>(pair.in * s.c_in + c)] +=
                        static_cast<double>(g[static_cast<size_t>(pair.out * s.c_out + column)]) *
                        static_cast<double>(dense[static_cast<size_t>((t * k + c % k) * s.c_out + column)]);
                }
            }
        }
    }
    const ConvShape back{s.n_out, s.n_in, s.groups, s.c_out, s.c_in};
    close("gradient of the input, " + name,
          same_bits<T>("gradient of the input, " + name, s.n_in * s.c_in,
                       [&](const Cpu& cpu, T* y) { vectors_gather_back(cpu, type, back, reversed, g.data(), weight, false, y); }),
          want_back);
}

}  // namespace

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 200;
    rng.seed(argc > 2 ? static_cast<uint64_t>(std::atoll(argv[2])) : 1);
    for (int i = 0; i < cases; ++i) {
        const int64_t groups = uniform(0, 2) ? 1 : uniform(2, 4), taps = uniform(0, 9) ? uniform(1, 9) : 0;
        const bool few = uniform(0, 3) == 0, deep = uniform(0, 9) == 0;
        ConvShape s{uniform(0, few ? 3 : 900), uniform(0, few ? 3 : 900), groups, groups * uniform(1, 70),
                    groups * uniform(1, 70)};
        if (deep) s = {uniform(0, 80), uniform(0, 80), 1, uniform(250, 600), uniform(1, 40)};
        if (uniform(0, 3) == 0) s.n_in = s.n_out;
        const std::string name = "case " + std::to_string(i) + ", rows " + std::to_string(s.n_in) + " -> " +
                                 std::to_string(s.n_out) + ", groups " + std::to_string(s.groups) + ", channels " +
                                 std::to_string(s.c_in) + " -> " + std::to_string(s.c_out) + ", taps " + std::to_string(taps);
        check<float>(s, taps, name);
        check<double>(s, taps, name);
    }
    std::printf("check_vectors: %d cases right on %s\n", cases, instruction_set());
    return 0;
}
