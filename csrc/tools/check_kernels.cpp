// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Checks csrc/compute against loops in double over random pair lists. Exits with 1 at the first difference.
//   check_kernels [cases] [seed]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../compute/kernels.h"

using namespace sparseconv;

namespace {

std::mt19937_64 rng(1);
int64_t uniform(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "check_kernels: %s\n", what.c_str());
    std::exit(1);
}

int64_t element_bytes(Scalar s) { return s == Scalar::f64 ? 8 : s == Scalar::f32 ? 4 : 2; }
double tolerance(Scalar s) { return s == Scalar::f64 ? 1e-12 : s == Scalar::f32 ? 2e-5 : 1e-2; }

// An array of any storage type that is read and written in double, with guard bytes behind it.
struct Array {
    Scalar type;
    int64_t n;
    std::vector<unsigned char> bytes;

    Array(Scalar t, int64_t size) : type(t), n(size), bytes(static_cast<size_t>(size * element_bytes(t) + 64), 0xA5) {}
    void* data() { return bytes.data(); }
    double get(int64_t i) const {
        const unsigned char* p = bytes.data() + i * element_bytes(type);
        if (type == Scalar::f64) {
            double v;
            std::memcpy(&v, p, 8);
            return v;
        }
        uint32_t bits = 0;
        if (type == Scalar::f32) {
            std::memcpy(&bits, p, 4);
        } else {
            uint16_t half;
            std::memcpy(&half, p, 2);
            bits = static_cast<uint32_t>(half) << 16;
        }
        float v;
        std::memcpy(&v, &bits, 4);
        return v;
    }
    void set(int64_t i, double value) {
        unsigned char* p = bytes.data() + i * element_bytes(type);
        if (type == Scalar::f64) {
            std::memcpy(p, &value, 8);
            return;
        }
        const float v = static_cast<float>(value);
        uint32_t bits;
        std::memcpy(&bits, &v, 4);
        if (type == Scalar::f32) {
            std::memcpy(p, &bits, 4);
        } else {
            const uint16_t half = static_cast<uint16_t>(bits >> 16);
            std::memcpy(p, &half, 2);
        }
    }
    void random() {
        std::normal_distribution<double> normal;
        for (int64_t i = 0; i < n; ++i) set(i, normal(rng));
    }
    void check_guard(const std::string& what) const {
        for (size_t i = bytes.size() - 64; i < bytes.size(); ++i) {
            if (bytes[i] != 0xA5) fail(what + " was written beyond its end");
        }
    }
};

// `scale` is the least that an error is measured against: terms may cancel.
void compare(const std::string& what, const Array& got, const std::vector<double>& want, double scale = 1e-30) {
    got.check_guard(what);
    for (double w : want) {
        if (std::isfinite(w)) scale = std::max(scale, std::fabs(w));
    }
    for (int64_t i = 0; i < got.n; ++i) {
        const double w = want[static_cast<size_t>(i)], g = got.get(i);
        const bool equal = std::isnan(w) ? std::isnan(g) : w == g || std::fabs(g - w) <= tolerance(got.type) * scale;
        if (!equal) fail(what + ": element " + std::to_string(i) + " is " + std::to_string(g) + ", want " + std::to_string(w));
    }
}

// A random map: per tap a random subset of the out rows, each with a random in row, distinct within the tap.
struct Map {
    std::vector<Pair> data;
    std::vector<int64_t> offsets{0};
    std::vector<Pair> reversed;
    Pairs pairs() const { return {data.data(), offsets.data(), static_cast<int64_t>(offsets.size()) - 1}; }

    Map(int64_t n_in, int64_t n_out, int64_t taps) {
        for (int64_t t = 0; t < taps; ++t) {
            std::vector<std::pair<int32_t, int32_t>> tap;  // out, in
            std::vector<int32_t> ins(static_cast<size_t>(n_in));
            for (int64_t i = 0; i < n_in; ++i) ins[static_cast<size_t>(i)] = static_cast<int32_t>(i);
            std::shuffle(ins.begin(), ins.end(), rng);
            const double keep = std::uniform_real_distribution<double>(-0.1, 1.1)(rng);
            size_t used = 0;
            for (int64_t o = 0; o < n_out && used < ins.size(); ++o) {
                if (std::uniform_real_distribution<double>(0, 1)(rng) < keep) {
                    tap.emplace_back(static_cast<int32_t>(o), ins[used++]);
                }
            }
            append(data, tap);
            for (auto& p : tap) std::swap(p.first, p.second);
            std::sort(tap.begin(), tap.end());
            append(reversed, tap);
            offsets.push_back(static_cast<int64_t>(data.size()));
        }
    }

   private:
    static void append(std::vector<Pair>& to, const std::vector<std::pair<int32_t, int32_t>>& tap) {
        for (const auto& [out, in] : tap) to.push_back({in, out});
    }
};

struct Aligned {
    std::vector<unsigned char> bytes;
    explicit Aligned(int64_t n) : bytes(static_cast<size_t>(n + 64)) {}
    void* data() { return bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64; }
};

using Row = std::vector<double>;
const Cpu one{1, false};

// Runs `body(cpu, out)` with 1, 2 and 3 threads and in scrambled order and wants the same bytes.
template <class Body>
Array same_bits(const std::string& what, Scalar type, int64_t n, const Body& body) {
    Array first(type, n);
    body(one, first.data());
    for (const Cpu& cpu : {Cpu{2, false}, Cpu{3, false}, Cpu{1, true}, Cpu{3, true}}) {
        Array again(type, n);
        body(cpu, again.data());
        if (again.bytes != first.bytes) fail(what + ": other bits with " + std::to_string(cpu.threads) + " threads");
    }
    return first;
}

struct Case {
    Scalar type;
    ConvShape s;
    int64_t taps;
    std::string name;
};

Case random_case() {
    static const int64_t channels[] = {1, 2, 3, 4, 7, 8, 13, 16, 17, 31, 32, 33, 48, 64, 96, 100};
    Case c;
    c.type = static_cast<Scalar>(uniform(0, 2));
    const auto pick = [] { return channels[uniform(0, 15)]; };
    const int64_t kind = uniform(0, 4);
    c.s = {uniform(0, 3) ? uniform(0, 900) : uniform(0, 3), uniform(0, 3) ? uniform(0, 900) : uniform(0, 3), 1, pick(), pick()};
    if (kind == 0) c.s.groups = c.s.c_in = c.s.c_out = pick();  // depthwise
    if (kind == 1) {
        c.s.groups = uniform(2, 4);
        c.s.c_in = c.s.groups * uniform(1, 20);
        c.s.c_out = c.s.groups * uniform(1, 40);
    }
    if (kind == 2 && uniform(0, 3) == 0) {
        c.s.c_in = uniform(0, 1) ? 512 : 300;
        c.s.n_in = std::min<int64_t>(c.s.n_in, 80);
        c.s.n_out = std::min<int64_t>(c.s.n_out, 80);
    }
    if (kind == 3 && uniform(0, 3) == 0) {
        c.s.c_out = 512;
        c.s.n_out = std::min<int64_t>(c.s.n_out, 80);
    }
    c.taps = uniform(0, 9) ? uniform(1, 9) : 0;
    char text[200];
    std::snprintf(text, sizeof text, "type %d, rows %lld -> %lld, groups %lld, channels %lld -> %lld, taps %lld",
                  static_cast<int>(c.type), static_cast<long long>(c.s.n_in), static_cast<long long>(c.s.n_out),
                  static_cast<long long>(c.s.groups), static_cast<long long>(c.s.c_in), static_cast<long long>(c.s.c_out),
                  static_cast<long long>(c.taps));
    c.name = text;
    return c;
}

void check_conv(const Case& c) {
    const ConvShape& s = c.s;
    const int64_t k = s.c_in / s.groups, m = s.c_out / s.groups;
    const Map map(s.n_in, s.n_out, c.taps);
    const Pairs pairs = map.pairs();
    Array x(c.type, s.n_in * s.c_in), w(c.type, std::max<int64_t>(1, c.taps * k * s.c_out)), bias(c.type, s.c_out);
    x.random(), w.random(), bias.random();

    // The weight lies as [tap][k][groups*m], as its transpose, or with the taps backwards.
    Weight weight{w.data(), k * s.c_out, m, s.c_out, 1};
    const int64_t layout = uniform(0, 2);
    if (layout == 1) weight = {w.data(), k * s.c_out, m * k, 1, k};
    if (layout == 2 && c.taps > 0) {
        weight.data = static_cast<unsigned char*>(w.data()) + (c.taps - 1) * weight.tap * element_bytes(c.type);
        weight.tap = -weight.tap;
    }
    const int64_t origin = layout == 2 && c.taps > 0 ? (c.taps - 1) * k * s.c_out : 0;
    const bool with_bias = uniform(0, 1);

    Row want(static_cast<size_t>(s.n_out * s.c_out));
    for (int64_t i = 0; i < s.n_out * s.c_out; ++i) want[static_cast<size_t>(i)] = with_bias ? bias.get(i % s.c_out) : 0;
    Row want_weight(static_cast<size_t>(c.taps * k * s.c_out));
    Array grad(c.type, s.n_out * s.c_out);
    grad.random();
    for (int64_t t = 0; t < c.taps; ++t) {
        for (int64_t p = map.offsets[static_cast<size_t>(t)]; p < map.offsets[static_cast<size_t>(t) + 1]; ++p) {
            const int64_t i = pairs.data[p].in, o = pairs.data[p].out;
            for (int64_t ci = 0; ci < s.c_in; ++ci) {
                const int64_t g = ci / k;
                const double xv = x.get(i * s.c_in + ci);
                for (int64_t co = 0; co < m; ++co) {
                    const int64_t at = origin + t * weight.tap + g * weight.group + ci % k * weight.in + co * weight.out;
                    want[static_cast<size_t>(o * s.c_out + g * m + co)] += xv * w.get(at);
                    want_weight[static_cast<size_t>((t * k + ci % k) * s.c_out + g * m + co)] +=
                        xv * grad.get(o * s.c_out + g * m + co);
                }
            }
        }
    }
    Aligned packed(packed_weight_bytes(c.type, s, c.taps)), partial(gather_outer_bytes(c.type, s, pairs));
    const Array out = same_bits("gather_gemm, " + c.name, c.type, s.n_out * s.c_out, [&](const Cpu& cpu, void* y) {
        gather_gemm(cpu, c.type, s, pairs, x.data(), weight, with_bias ? bias.data() : nullptr, y, packed.data());
    });
    compare("gather_gemm, " + c.name, out, want);
    const Array outer = same_bits("gather_outer, " + c.name, c.type, c.taps * k * s.c_out, [&](const Cpu& cpu, void* y) {
        gather_outer(cpu, c.type, s, pairs, x.data(), grad.data(), y, partial.data());
    });
    compare("gather_outer, " + c.name, outer, want_weight);
}

void check_pool(const Case& c) {
    const int64_t channels = c.s.c_out;
    const ConvShape s{c.s.n_in, c.s.n_out, 1, channels, channels}, back{s.n_out, s.n_in, 1, channels, channels};
    const Map map(s.n_in, s.n_out, c.taps);
    const Pairs pairs = map.pairs();
    Array x(c.type, s.n_in * channels);
    for (int64_t i = 0; i < x.n; ++i) {  // few distinct values, so that ties happen; now and then NaN and infinities
        const int64_t kind = uniform(0, 40);
        x.set(i, kind == 0   ? std::nan("")
                 : kind == 1 ? -std::numeric_limits<double>::infinity()
                             : static_cast<double>(uniform(-3, 3)));
    }
    Row want(static_cast<size_t>(s.n_out * channels), 0.0);
    std::vector<int32_t> want_arg(want.size(), -1);
    for (int64_t t = 0; t < c.taps; ++t) {
        for (int64_t p = map.offsets[static_cast<size_t>(t)]; p < map.offsets[static_cast<size_t>(t) + 1]; ++p) {
            for (int64_t j = 0; j < channels; ++j) {
                const size_t at = static_cast<size_t>(pairs.data[p].out * channels + j);
                const double v = x.get(pairs.data[p].in * channels + j);
                if (want_arg[at] < 0 || v > want[at] || std::isnan(v)) want[at] = v, want_arg[at] = static_cast<int32_t>(t);
            }
        }
    }
    std::vector<int32_t> arg(want.size());
    const Array out = same_bits("max_pool, " + c.name, c.type, s.n_out * channels,
                                [&](const Cpu& cpu, void* y) { max_pool(cpu, c.type, s, pairs, x.data(), y, arg.data()); });
    compare("max_pool, " + c.name, out, want);
    if (arg != want_arg) fail("max_pool, " + c.name + ": wrong argmax");

    Array grad(c.type, s.n_out * channels);
    grad.random();
    Row want_grad(static_cast<size_t>(s.n_in * channels), 0.0);
    for (int64_t t = 0; t < c.taps; ++t) {
        for (int64_t p = map.offsets[static_cast<size_t>(t)]; p < map.offsets[static_cast<size_t>(t) + 1]; ++p) {
            for (int64_t j = 0; j < channels; ++j) {
                const int64_t at = pairs.data[p].out * channels + j;
                if (arg[static_cast<size_t>(at)] == t) {
                    want_grad[static_cast<size_t>(pairs.data[p].in * channels + j)] += grad.get(at);
                }
            }
        }
    }
    // `reversed` puts (summed row, owner) in the columns of (in, out), so in_column stays.
    const Pairs reversed{map.reversed.data(), map.offsets.data(), c.taps};
    const Array grad_in = same_bits("max_pool_grad, " + c.name, c.type, s.n_in * channels, [&](const Cpu& cpu, void* y) {
        max_pool_grad(cpu, c.type, back, reversed, grad.data(), arg.data(), y);
    });
    compare("max_pool_grad, " + c.name, grad_in, want_grad);
}

void check_segments(const Case& c) {
    const int64_t channels = c.s.c_in, n = c.s.n_in;
    Array x(c.type, n * channels);
    x.random();
    const bool own_rows = n == 0 || uniform(0, 1);  // cols null: row j itself
    const bool weighted = uniform(0, 1);
    std::vector<int64_t> offsets{0}, cols;
    const int64_t rows = uniform(0, 600);
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t room = own_rows ? n - offsets.back() : 9;
        offsets.push_back(offsets.back() + std::min<int64_t>(room, uniform(0, 4)));
    }
    for (int64_t j = 0; j < offsets.back(); ++j) cols.push_back(own_rows ? j : uniform(0, n - 1));
    Array weights(c.type == Scalar::f64 ? Scalar::f64 : Scalar::f32, offsets.back());
    weights.random();
    Row sum(static_cast<size_t>(rows * channels), 0.0), best(sum.size(), 0.0);
    std::vector<int64_t> want_arg(sum.size(), -1), arg(sum.size());
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = offsets[static_cast<size_t>(r)]; j < offsets[static_cast<size_t>(r) + 1]; ++j) {
            for (int64_t i = 0; i < channels; ++i) {
                const size_t at = static_cast<size_t>(r * channels + i);
                const double v = x.get(cols[static_cast<size_t>(j)] * channels + i);
                sum[at] += (weighted ? weights.get(j) : 1.0) * v;
                if (want_arg[at] < 0 || v > best[at]) best[at] = v, want_arg[at] = cols[static_cast<size_t>(j)];
            }
        }
    }
    const int64_t* columns = own_rows ? nullptr : cols.data();
    compare("gather_sum, " + c.name,
            same_bits("gather_sum, " + c.name, c.type, rows * channels,
                      [&](const Cpu& cpu, void* y) {
                          gather_sum(cpu, c.type, x.data(), channels, offsets.data(), columns,
                                     weighted ? weights.data() : nullptr, rows, y);
                      }),
            sum);
    compare("gather_max, " + c.name,
            same_bits("gather_max, " + c.name, c.type, rows * channels,
                      [&](const Cpu& cpu, void* y) {
                          gather_max(cpu, c.type, x.data(), channels, offsets.data(), columns, rows, y, arg.data());
                      }),
            best);
    if (arg != want_arg) fail("gather_max, " + c.name + ": wrong arg");

    const int64_t tall = uniform(0, 3000);
    Array y(c.type, tall * channels);
    y.random();
    Row total(static_cast<size_t>(channels), 0.0);
    for (int64_t i = 0; i < y.n; ++i) total[static_cast<size_t>(i % channels)] += y.get(i);
    Aligned scratch(column_sum_bytes(c.type, tall, channels));
    compare("column_sum, " + c.name,
            same_bits("column_sum, " + c.name, c.type, channels,
                      [&](const Cpu& cpu, void* to) { column_sum(cpu, c.type, y.data(), tall, channels, to, scratch.data()); }),
            total, std::sqrt(static_cast<double>(tall)));
}

}  // namespace

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 300;
    rng.seed(argc > 2 ? static_cast<uint64_t>(std::atoll(argv[2])) : 1);
    for (int i = 0; i < cases; ++i) {
        const Case c = random_case();
        check_conv(c);
        check_pool(c);
        check_segments(c);
    }
    std::printf("check_kernels: %d cases right on %s\n", cases, instruction_set());
    return 0;
}
