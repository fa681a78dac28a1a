// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Times the kernels of csrc/compute on the submanifold 3x3x3 map of a real scan, as GFLOP/s and percent of the FMA peak.
//   bench_kernels scan.bin [voxel, default 0.1] [threads, default 2] [repeats, default 7]
// The scan is float32 x y z remission. Voxels are numbered in lexicographic order, as sparseconv.voxelize does.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <new>
#include <random>
#include <set>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "../compute/kernels.h"

using namespace sparseconv;

namespace {

struct Map {
    int64_t n = 0;
    std::vector<Pair> data;
    std::vector<int64_t> offsets{0};
    Pairs pairs() const { return {data.data(), offsets.data(), static_cast<int64_t>(offsets.size()) - 1}; }
};

Map submanifold_map(const char* path, double voxel) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        std::fprintf(stderr, "bench_kernels: cannot read %s\n", path);
        std::exit(2);
    }
    std::set<std::tuple<int64_t, int64_t, int64_t>> cells;
    float point[4];
    while (file.read(reinterpret_cast<char*>(point), sizeof point)) {
        cells.emplace(static_cast<int64_t>(std::floor(point[0] / voxel)), static_cast<int64_t>(std::floor(point[1] / voxel)),
                      static_cast<int64_t>(std::floor(point[2] / voxel)));
    }
    const auto key = [](int64_t x, int64_t y, int64_t z) {
        return ((x + (1 << 19)) << 40) + ((y + (1 << 19)) << 20) + z + (1 << 19);
    };
    std::unordered_map<int64_t, int32_t> rows;
    for (const auto& [x, y, z] : cells) rows.emplace(key(x, y, z), static_cast<int32_t>(rows.size()));
    Map map;
    map.n = static_cast<int64_t>(cells.size());
    for (int tap = 0; tap < 27; ++tap) {
        int32_t out = 0;
        for (const auto& [x, y, z] : cells) {
            const auto found = rows.find(key(x + tap / 9 - 1, y + tap / 3 % 3 - 1, z + tap % 3 - 1));
            if (found != rows.end()) map.data.push_back({found->second, out});
            ++out;
        }
        map.offsets.push_back(static_cast<int64_t>(map.data.size()));
    }
    return map;
}

// As torch allocates: rows that straddle cache lines would cost a tenth.
template <class T>
struct LineAligned {
    using value_type = T;
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64))); }
    void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t(64)); }
    bool operator==(const LineAligned&) const { return true; }
    bool operator!=(const LineAligned&) const { return false; }
};
using Floats = std::vector<float, LineAligned<float>>;

Floats random_floats(int64_t n) {
    Floats values(static_cast<size_t>(n));
    std::mt19937 rng(1);
    for (float& v : values) v = static_cast<float>(rng()) * 0x1p-32f - 0.5f;
    return values;
}

double median_seconds(int repeats, const std::function<void()>& body) {
    body();
    std::vector<double> seconds;
    for (int i = 0; i < repeats; ++i) {
        const auto start = std::chrono::steady_clock::now();
        body();
        seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: bench_kernels scan.bin [voxel] [threads] [repeats]\n");
        return 2;
    }
    const double voxel = argc > 2 ? std::atof(argv[2]) : 0.1;
    const int threads = argc > 3 ? std::atoi(argv[3]) : 2, repeats = argc > 4 ? std::atoi(argv[4]) : 7;
    const Map map = submanifold_map(argv[1], voxel);
    const Pairs pairs = map.pairs();
    const double count = static_cast<double>(map.offsets.back());
    std::printf("%s, %lld voxels, %.2f pairs per voxel\n", instruction_set(), static_cast<long long>(map.n),
                count / static_cast<double>(map.n));
    const std::pair<int64_t, int64_t> channels[] = {{16, 16}, {32, 32}, {64, 64}, {96, 96},  {128, 128},
                                                    {4, 32},  {32, 64}, {96, 32}, {256, 256}};
    for (int t = 1; t <= threads; ++t) {
        const Cpu cpu{t, false};
        double peak = fma_peak_gflops(cpu);
        std::printf("%d thread%s: FMA peak %.0f GFLOP/s\n%12s%20s%20s%20s\n", t, t > 1 ? "s" : "", peak, "channels",
                    "forward ms  %peak", "grad x ms  %peak", "grad w ms  %peak");
        for (const auto& [c_in, c_out] : channels) {
            const ConvShape s{map.n, map.n, 1, c_in, c_out}, back{map.n, map.n, 1, c_out, c_in};
            const Floats x = random_floats(map.n * c_in), g = random_floats(map.n * c_out), w = random_floats(27 * c_in * c_out);
            Floats y(g.size()), gx(x.size()), gw(w.size());
            const int64_t bytes = std::max({packed_weight_bytes(Scalar::f32, s, 27), packed_weight_bytes(Scalar::f32, back, 27),
                                            gather_outer_bytes(Scalar::f32, s, pairs)});
            std::vector<char> scratch(static_cast<size_t>(bytes + 64));
            void* aligned = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) % 64;
            const Weight forward{w.data(), c_in * c_out, 0, c_out, 1};
            // The map of a submanifold layer is its own reverse with the taps backwards.
            const Weight backward{w.data() + 26 * c_in * c_out, -c_in * c_out, 0, 1, c_out};
            const double times[] = {
                median_seconds(repeats,
                               [&] { gather_gemm(cpu, Scalar::f32, s, pairs, x.data(), forward, nullptr, y.data(), aligned); }),
                median_seconds(
                    repeats,
                    [&] { gather_gemm(cpu, Scalar::f32, back, pairs, g.data(), backward, nullptr, gx.data(), aligned); }),
                median_seconds(repeats,
                               [&] { gather_outer(cpu, Scalar::f32, s, pairs, x.data(), g.data(), gw.data(), aligned); })};
            std::printf("%5lld ->%4lld", static_cast<long long>(c_in), static_cast<long long>(c_out));
            for (double seconds : times) {
                const double gflops = 2 * count * static_cast<double>(c_in * c_out) / seconds / 1e9;
                std::printf("%13.2f %5.1f%%", seconds * 1e3, 100 * gflops / peak);
            }
            std::printf("\n");
            std::fflush(stdout);
        }
        // Depthwise against its bytes: every pair's row read, every output row written.
        for (int64_t c : {32, 96}) {
            const ConvShape s{map.n, map.n, c, c, c};
            const Floats x = random_floats(map.n * c), w = random_floats(27 * c);
            Floats y(x.size()), packed(static_cast<size_t>(27 * c + 16));
            const double seconds = median_seconds(repeats, [&] {
                gather_gemm(cpu, Scalar::f32, s, pairs, x.data(), {w.data(), c, 1, 0, 0}, nullptr, y.data(), packed.data());
            });
            const double bytes = (count + static_cast<double>(map.n)) * static_cast<double>(c) * 4;
            std::printf("depthwise %lld: %.2f ms, %.1f GB/s\n", static_cast<long long>(c), seconds * 1e3, bytes / seconds / 1e9);
        }
    }
    return 0;
}
