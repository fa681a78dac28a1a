// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Runs the CUDA compute kernels on the CPU, thread by thread (emulate/cuda_emulated.h), against plain loops over double. Values are
// small integers, whose sums are exact in every type, so results are compared exactly. Every result is computed again with blocks
// and threads in another order and must have the same bits. Usage: check_cuda [cases] [seed].
#define SPARSECONV_EMULATED

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "emulate/check_arrays.h"

using namespace sparseconv;

namespace {

struct Case {
    Precision type;
    ConvShape s;
    int64_t taps, alike;
    std::string name;
};

const char* const kNames[] = {"f16", "bf16", "f32", "tf32", "f64"};

Case random_case() {
    static const int64_t channels[] = {1, 3, 4, 8, 16, 17, 32, 33, 64, 96, 128, 136};
    static const int64_t taps[] = {0, 1, 2, 5, 8, 27, 27, 33, 64, 65, 125};
    Case c;
    const auto pick = [] { return channels[uniform(0, 11)]; };
    c.type = static_cast<Precision>(uniform(0, 4));
    const auto rows = [] { return uniform(0, 5) ? uniform(2, 300) : uniform(0, 1); };
    c.s = {rows(), rows(), 1, pick(), pick()};
    c.taps = taps[uniform(0, 10)];
    c.alike = uniform(0, 9);  // 0: no pairs, 2: all pairs
    const int64_t kind = uniform(0, 5);
    if (kind == 0) c.s.groups = c.s.c_in = c.s.c_out = pick();
    if (kind == 1) {
        c.s.groups = uniform(2, 4);
        c.s.c_in = c.s.groups * uniform(1, 40);
        c.s.c_out = c.s.groups * uniform(1, 80);
    }
    // Emulation makes some millions of products a second.
    while (c.taps * c.s.n_out * c.s.c_in * c.s.c_out > 20'000'000) {
        (c.taps > 8 && uniform(0, 1) ? c.taps : c.s.n_out) /= 2;
    }
    char text[200];
    std::snprintf(text, sizeof text, "%s, rows %lld -> %lld, groups %lld, channels %lld -> %lld, taps %lld",
                  kNames[static_cast<int>(c.type)], static_cast<long long>(c.s.n_in), static_cast<long long>(c.s.n_out),
                  static_cast<long long>(c.s.groups), static_cast<long long>(c.s.c_in), static_cast<long long>(c.s.c_out),
                  static_cast<long long>(c.taps));
    c.name = text;
    return c;
}

// The weight as [tap][k][c_out], as its transpose, or with the taps backwards.
Weight some_layout(const Array& w, const ConvShape& s, int64_t taps, int64_t& origin) {
    const int64_t k = s.c_in / s.groups, m = s.c_out / s.groups;
    Weight weight{w.data(), k * s.c_out, m, s.c_out, 1};
    const int64_t layout = uniform(0, 2);
    origin = 0;
    if (layout >= 1) weight = {w.data(), k * s.c_out, m * k, 1, k};
    if (layout == 2 && taps > 0) {
        origin = (taps - 1) * k * s.c_out;
        weight.data = static_cast<unsigned char*>(w.data()) + origin * gpu::element_bytes(w.type);
        weight.tap = -weight.tap;
    }
    return weight;
}

void check_conv(const Case& c, const Map& map, const Plan& plan) {
    const ConvShape& s = c.s;
    const int64_t k = s.c_in / s.groups, m = s.c_out / s.groups;
    Array x(c.type, s.n_in * s.c_in), w(c.type, c.taps * k * s.c_out), bias(c.type, s.c_out), grad(c.type, s.n_out * s.c_out);
    x.small_integers(), w.small_integers(), bias.small_integers(), grad.small_integers();
    int64_t origin;
    const Weight weight = some_layout(w, s, c.taps, origin);
    const bool with_bias = uniform(0, 1);

    std::vector<double> want(static_cast<size_t>(s.n_out * s.c_out)), want_weight(static_cast<size_t>(c.taps * k * s.c_out));
    for (int64_t i = 0; i < s.n_out * s.c_out; ++i) want[static_cast<size_t>(i)] = with_bias ? bias.get(i % s.c_out) : 0;
    std::vector<double> xs, ws, gs;
    for (int64_t i = 0; i < x.n; ++i) xs.push_back(x.get(i));
    for (int64_t i = 0; i < w.n; ++i) ws.push_back(w.get(i));
    for (int64_t i = 0; i < grad.n; ++i) gs.push_back(grad.get(i));
    for (int64_t t = 0; t < c.taps; ++t) {
        for (int64_t p = map.offsets[static_cast<size_t>(t)]; p < map.offsets[static_cast<size_t>(t) + 1]; ++p) {
            const auto [in, out] = map.data[static_cast<size_t>(p)];
            for (int64_t ci = 0; ci < s.c_in; ++ci) {
                const double xv = xs[static_cast<size_t>(in * s.c_in + ci)];
                const int64_t g = ci / k;
                for (int64_t co = 0; co < m; ++co) {
                    const int64_t at = origin + t * weight.tap + g * weight.group + ci % k * weight.in + co * weight.out;
                    const auto to = static_cast<size_t>(out * s.c_out + g * m + co);
                    want[to] += xv * ws[static_cast<size_t>(at)];
                    want_weight[static_cast<size_t>((t * k + ci % k) * s.c_out + g * m + co)] += xv * gs[to];
                }
            }
        }
    }
    // What the cost model takes, and any other choice: they sum in other orders, which integers do not mind.
    gpu::GemmChoice choice = gpu::choose_gemm(c.type, s, c.taps, map.size());
    if (uniform(0, 3)) {
        if (choice.tile >= 0) choice = {static_cast<int>(uniform(0, gpu::kTileCount - 1)), uniform(0, 1) ? 64 : 128, 1};
        choice.splits = c.type == Precision::f64 ? 1 : static_cast<int>(uniform(1, 3));
    }
    const std::string name = c.name + ", tile " + std::to_string(choice.tile) + ", chunk " + std::to_string(choice.chunk_bytes) +
                             ", splits " + std::to_string(choice.splits);
    compare("gather_gemm, " + name,
            same_bits("gather_gemm, " + name, c.type, s.n_out * s.c_out,
                      [&](void* y) {
                          const Memory scratch(gpu::gather_gemm_bytes(c.type, s, c.taps, choice));
                          gpu::gather_gemm(nullptr, c.type, s, plan.plan, x.data(), weight, with_bias ? bias.data() : nullptr, y,
                                           scratch.data, &choice);
                      }),
            want);
    compare("gather_outer, " + c.name,
            same_bits("gather_outer, " + c.name, c.type, c.taps * k * s.c_out,
                      [&](void* y) {
                          const Memory scratch(gpu::gather_outer_bytes(c.type, s, c.taps, map.size()));
                          gpu::gather_outer(nullptr, c.type, s, map.pairs(), map.size(), x.data(), grad.data(), y, scratch.data);
                      }),
            want_weight);
}

void check_sparse(const Case& like, const Map& map, const Plan& plan) {
    const ConvShape s{like.s.n_in, like.s.n_out, 1, 32 * uniform(1, 5), 16 * uniform(1, 6)};
    const Precision type = uniform(0, 1) ? Precision::f16 : Precision::bf16;
    Array x(type, s.n_in * s.c_in), values(type, like.taps * s.c_out * s.c_in / 2), bias(type, s.c_out);
    x.small_integers(), values.small_integers(), bias.small_integers();
    std::vector<uint32_t> metadata(static_cast<size_t>(like.taps * s.c_out * s.c_in / 32));
    std::vector<double> dense(static_cast<size_t>(like.taps * s.c_out * s.c_in)), want(static_cast<size_t>(s.n_out * s.c_out));
    for (int64_t row = 0; row < like.taps * s.c_out; ++row) {
        for (int64_t four = 0; four < s.c_in / 4; ++four) {
            const int64_t first = uniform(0, 2), second = uniform(first + 1, 3);
            const int64_t block = row / 16, channel = row % 16, step = four / 8, half = four % 8 / 4;
            const int64_t word = (block * (s.c_in / 32) + step) * 16 + channel % 8 * 2 + half;
            metadata[static_cast<size_t>(word)] |= static_cast<uint32_t>(first | second << 2)
                                                   << (four % 4 * 4 + channel / 8 * 16);
            for (const int64_t i : {int64_t{0}, int64_t{1}}) {
                dense[static_cast<size_t>(row * s.c_in + four * 4 + (i ? second : first))] =
                    values.get((row * (s.c_in / 4) + four) * 2 + i);
            }
        }
    }
    for (int64_t i = 0; i < s.n_out * s.c_out; ++i) want[static_cast<size_t>(i)] = bias.get(i % s.c_out);
    for (int64_t t = 0; t < like.taps; ++t) {
        for (int64_t p = map.offsets[static_cast<size_t>(t)]; p < map.offsets[static_cast<size_t>(t) + 1]; ++p) {
            const auto [in, out] = map.data[static_cast<size_t>(p)];
            for (int64_t co = 0; co < s.c_out; ++co) {
                for (int64_t ci = 0; ci < s.c_in; ++ci) {
                    want[static_cast<size_t>(out * s.c_out + co)] +=
                        x.get(in * s.c_in + ci) * dense[static_cast<size_t>((t * s.c_out + co) * s.c_in + ci)];
                }
            }
        }
    }
    const std::string name =
        "gather_gemm_2to4, " + std::to_string(s.c_in) + " -> " + std::to_string(s.c_out) + ", like " + like.name;
    compare(name,
            same_bits(name, type, s.n_out * s.c_out,
                      [&](void* y) {
                          gpu::gather_gemm_2to4(nullptr, type, s, plan.plan, x.data(), values.data(), metadata.data(),
                                                bias.data(), y);
                      }),
            want);
}

// Few distinct values, so that ties happen; now and then NaN and infinities.
void fill_for_maxima(Array& x) {
    for (int64_t i = 0; i < x.n; ++i) {
        const int64_t kind = uniform(0, 40);
        x.set(i, kind == 0 ? std::nan("") : kind == 1 ? -HUGE_VAL : static_cast<double>(uniform(-3, 3)));
    }
}

template <class I>
void expect(const std::string& what, const std::vector<I>& got, const std::vector<I>& want) {
    if (got != want) fail(what + ": wrong argmax");
}

void check_pool(const Case& c, const Map& map, const Plan& plan, const Plan& back_plan) {
    const int64_t channels = c.s.c_out;
    const ConvShape s{c.s.n_in, c.s.n_out, 1, channels, channels}, back{s.n_out, s.n_in, 1, channels, channels};
    Array x(c.type, s.n_in * channels), grad(c.type, s.n_out * channels);
    fill_for_maxima(x);
    grad.small_integers();
    std::vector<double> want(static_cast<size_t>(s.n_out * channels)), want_grad(static_cast<size_t>(s.n_in * channels));
    std::vector<int32_t> want_arg(want.size(), -1), arg(want.size());
    const auto each_pair = [&](const auto& body) {
        for (int64_t t = 0; t < c.taps; ++t) {
            for (int64_t p = map.offsets[static_cast<size_t>(t)]; p < map.offsets[static_cast<size_t>(t) + 1]; ++p) {
                const auto [in, out] = map.data[static_cast<size_t>(p)];
                for (int64_t j = 0; j < channels; ++j) body(t, in * channels + j, static_cast<size_t>(out * channels + j));
            }
        }
    };
    each_pair([&](int64_t t, int64_t from, size_t to) {
        const double v = x.get(from);
        if (want_arg[to] < 0 || v > want[to] || std::isnan(v)) want[to] = v, want_arg[to] = static_cast<int32_t>(t);
    });
    each_pair([&](int64_t t, int64_t from, size_t to) {
        if (want_arg[to] == t) want_grad[static_cast<size_t>(from)] += grad.get(static_cast<int64_t>(to));
    });
    compare("max_pool, " + c.name,
            same_bits("max_pool, " + c.name, c.type, s.n_out * channels,
                      [&](void* y) { gpu::max_pool(nullptr, c.type, s, plan.plan, x.data(), y, arg.data()); }),
            want);
    expect("max_pool, " + c.name, arg, want_arg);
    compare("max_pool_grad, " + c.name,
            same_bits("max_pool_grad, " + c.name, c.type, s.n_in * channels,
                      [&](void* y) { gpu::max_pool_grad(nullptr, c.type, back, back_plan.plan, grad.data(), arg.data(), y); }),
            want_grad);
}

void check_lists(const Case& c) {
    const int64_t channels = c.s.c_in, n = uniform(0, 2000);
    Array x(c.type, n * channels), maxima(c.type, n * channels);
    x.small_integers();
    fill_for_maxima(maxima);
    const bool own_rows = n == 0 || uniform(0, 1), weighted = uniform(0, 1), long_ones = uniform(0, 2) == 0;
    const int64_t rows = uniform(0, long_ones ? 3 : 400);
    std::vector<int64_t> offsets{0}, cols;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t room = own_rows ? n - offsets.back() : long_ones ? 900 : 9;
        offsets.push_back(offsets.back() + std::min(room, uniform(0, long_ones ? 900 : 4)));
    }
    for (int64_t j = 0; j < offsets.back(); ++j) cols.push_back(own_rows ? j : uniform(0, n - 1));
    Array weights(c.type == Precision::f64 ? Precision::f64 : Precision::f32, offsets.back());
    weights.small_integers();
    std::vector<double> sum(static_cast<size_t>(rows * channels)), best(sum.size());
    std::vector<int64_t> want_arg(sum.size(), -1), arg(sum.size());
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = offsets[static_cast<size_t>(r)]; j < offsets[static_cast<size_t>(r) + 1]; ++j) {
            const int64_t row = cols[static_cast<size_t>(j)];
            for (int64_t i = 0; i < channels; ++i) {
                const auto at = static_cast<size_t>(r * channels + i);
                sum[at] += (weighted ? weights.get(j) : 1.0) * x.get(row * channels + i);
                const double v = maxima.get(row * channels + i);
                if (want_arg[at] < 0 || v > best[at] || std::isnan(v)) best[at] = v, want_arg[at] = row;
            }
        }
    }
    const int64_t* columns = own_rows ? nullptr : cols.data();
    compare("gather_sum, " + c.name,
            same_bits("gather_sum, " + c.name, c.type, rows * channels,
                      [&](void* y) {
                          gpu::gather_sum(nullptr, c.type, x.data(), channels, offsets.data(), columns,
                                          weighted ? weights.data() : nullptr, rows, offsets.back(), y);
                      }),
            sum);
    compare("gather_max, " + c.name,
            same_bits("gather_max, " + c.name, c.type, rows * channels,
                      [&](void* y) {
                          gpu::gather_max(nullptr, c.type, maxima.data(), channels, offsets.data(), columns, rows, offsets.back(),
                                          y, arg.data());
                      }),
            best);
    expect("gather_max, " + c.name, arg, want_arg);
    std::vector<double> total(static_cast<size_t>(channels));
    for (int64_t i = 0; i < x.n; ++i) total[static_cast<size_t>(i % channels)] += x.get(i);
    compare("column_sum, " + c.name,
            same_bits("column_sum, " + c.name, c.type, channels,
                      [&](void* y) {
                          const Memory scratch(gpu::column_sum_bytes(c.type, n, channels));
                          gpu::column_sum(nullptr, c.type, x.data(), n, channels, y, scratch.data);
                      }),
            total);
}

}  // namespace

int main(int argc, char** argv) {
    const int cases = argc > 1 ? std::atoi(argv[1]) : 100;
    rng.seed(argc > 2 ? static_cast<uint64_t>(std::atoll(argv[2])) : 1);
    for (int i = 0; i < cases; ++i) {
        const Case c = random_case();
        const Map map = random_map(c.s.n_in, c.s.n_out, c.taps, c.alike);
        emulated::shuffle.seed(rng());
        const Plan plan(map), back_plan(reversed(map, c.s.n_in));
        check_conv(c, map, plan);
        if (c.taps * c.s.n_out < 2000) check_sparse(c, map, plan);
        check_pool(c, map, plan, back_plan);
        check_lists(c);
    }
    if (emulated::ldmatrix_conflicts) {
        fail(std::to_string(emulated::ldmatrix_conflicts) + " bank conflicts in " + std::to_string(emulated::ldmatrix_passes) +
             " passes of ldmatrix over shared memory");
    }
    std::printf("check_cuda: %d cases right, without a GPU; %lld passes of ldmatrix without a bank conflict\n", cases,
                static_cast<long long>(emulated::ldmatrix_passes));
    return 0;
}
