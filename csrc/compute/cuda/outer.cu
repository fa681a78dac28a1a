// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Host side of gather_outer: the length of a chunk, padding, launches.
#include "gemm_choice.h"
#include "outer.cuh"
#include "plain_outer.cuh"

namespace sparseconv::gpu {
namespace {

int64_t acc_bytes(Precision p) { return p == Precision::f64 ? 8 : 4; }

// From shapes alone: the length of a chunk, and where things lie in the scratch.
struct OuterLayout {
    int tile;  // 64 or 128 weights along either side of a block's
    int64_t length, slots;
    int64_t in_row, out_row;                   // bytes of one group's row, padded where need be
    int64_t features = 0, grads = 0, partial;  // bytes

    OuterLayout(Precision p, const ConvShape& s, int64_t taps, int64_t pairs) {
        const int64_t k = s.c_in / s.groups, m = s.c_out / s.groups, element = element_bytes(p);
        // 128 x 128 gathers half as much for a product; it needs both sides full and enough pairs for its fewer blocks.
        tile = on_tensor_cores(p) && std::min(k, m) >= 128 && std::max(k % 128, m % 128) == 0 ? 128 : 64;
        const int64_t tiles = is_depthwise(s) ? ceil_div(s.groups, 128) : ceil_div(k, tile) * ceil_div(m, tile) * s.groups;
        // About four blocks for each multiprocessor, and no more partial sums than products, nearly.
        const int64_t wanted = std::max<int64_t>(1, 4 * static_cast<int64_t>(kMultiprocessors) / std::max<int64_t>(1, tiles));
        length = std::max<int64_t>(is_depthwise(s) ? 64 : 256, ceil_div(ceil_div(pairs, wanted), 32) * 32);
        slots = pairs / length + std::min(taps, pairs);
        in_row = k * element, out_row = m * element;
        if (on_tensor_cores(p) && !is_depthwise(s)) {
            in_row = padded_bytes(k, element), out_row = padded_bytes(m, element);
            if (in_row != k * element) features = aligned(s.n_in * s.groups * in_row);
            if (out_row != m * element) grads = aligned(s.n_out * s.groups * out_row);
        }
        partial = aligned(slots * k * s.c_out * acc_bytes(p));
    }
    int64_t bytes() const { return features + grads + partial; }
};

template <class S>
const char* padded(cudaStream_t stream, const void* rows, int64_t n, int64_t groups, int64_t channels, int64_t row_bytes,
                   char* to) {
    if (channels * static_cast<int64_t>(sizeof(S)) == row_bytes) return static_cast<const char*>(rows);
    const int64_t wide = row_bytes / static_cast<int64_t>(sizeof(S));
    launch(pad_rows<S>, blocks_for(n * groups * wide), dim3(kThreads), 0, stream, static_cast<const S*>(rows),
           reinterpret_cast<S*>(to), n, groups, channels, wide);
    return to;
}

template <class E, class T>
void launch_outer(cudaStream_t stream, const OuterArguments& a, int64_t slots) {
    constexpr int shared = OuterShared<T, sizeof(typename Stored<E>::type)>::kBytes;
    const int64_t tiles = ceil_div(a.k, T::kM) * ceil_div(a.m, T::kN) * a.groups;
    require(tiles <= 65535, "the gradient of a weight of so many channels and groups has more blocks than a launch may have");
    launch(outer_gemm<E, T>, dim3(static_cast<unsigned>(slots), static_cast<unsigned>(tiles)), dim3(T::kThreads), shared, stream,
           a);
}

template <class S>
void launch_plain_outer(cudaStream_t stream, const OuterArguments& a, int64_t slots) {
    const int64_t tiles = ceil_div(a.k, kPlainOuterTile) * ceil_div(a.m, kPlainOuterTile) * a.groups;
    require(tiles <= 65535, "the gradient of a weight of so many channels and groups has more blocks than a launch may have");
    launch(plain_outer<S>, dim3(static_cast<unsigned>(slots), static_cast<unsigned>(tiles)), dim3(kPlainOuterThreads), 0, stream,
           a);
}

template <class E>
void launch_tensor_core(cudaStream_t stream, const OuterArguments& a, const OuterLayout& layout) {
    if (layout.tile == 128) {
        launch_outer<E, Tile128x128>(stream, a, layout.slots);
    } else {
        launch_outer<E, Tile64x64>(stream, a, layout.slots);
    }
}

template <class S>
void outer(cudaStream_t stream, Precision p, const ConvShape& s, const Pairs& pairs, const OuterLayout& layout,
           const void* features, const void* grad_out, void* grad_weight, char* scratch) {
    OuterArguments a{};
    const int64_t k = s.c_in / s.groups, m = s.c_out / s.groups;
    a.k = static_cast<int>(k), a.m = static_cast<int>(m), a.groups = static_cast<int>(s.groups);
    a.in_group = layout.in_row, a.in_row = layout.in_row * s.groups;
    a.out_group = layout.out_row, a.out_row = layout.out_row * s.groups;
    a.features = padded<S>(stream, features, s.n_in, s.groups, k, layout.in_row, scratch);
    a.grads = padded<S>(stream, grad_out, s.n_out, s.groups, m, layout.out_row, scratch + layout.features);
    a.partial = scratch + layout.features + layout.grads;
    a.pairs = pairs, a.length = layout.length;
    if (is_depthwise(s)) {
        launch(depthwise_outer<S>, dim3(static_cast<unsigned>(layout.slots), static_cast<unsigned>(ceil_div(s.groups, 128))),
               dim3(128), 0, stream, a);
    } else if constexpr (sizeof(S) == 8) {
        launch_plain_outer<S>(stream, a, layout.slots);
    } else if constexpr (sizeof(S) == 4) {
        if (p == Precision::tf32) {
            launch_tensor_core<Tf32>(stream, a, layout);
        } else {
            launch_plain_outer<S>(stream, a, layout.slots);
        }
    } else {
        launch_tensor_core<S>(stream, a, layout);
    }
    const int64_t elements = k * s.c_out;
    launch(add_slots<S>, dim3(blocks_for(elements).x, static_cast<unsigned>(pairs.taps)), dim3(kThreads), 0, stream, pairs,
           layout.length, static_cast<const Acc<S>*>(a.partial), elements, static_cast<S*>(grad_weight));
}

}  // namespace

int64_t gather_outer_bytes(Precision p, const ConvShape& s, int64_t taps, int64_t pairs) {
    return OuterLayout(p, s, taps, pairs).bytes();
}

void gather_outer(cudaStream_t stream, Precision p, const ConvShape& s, const Pairs& pairs, int64_t n_pairs, const void* features,
                  const void* grad_out, void* grad_weight, void* scratch) {
    if (pairs.taps == 0 || s.c_in == 0 || s.c_out == 0) return;
    const OuterLayout layout(p, s, pairs.taps, n_pairs);
    const auto run = [&](auto element) {
        outer<decltype(element)>(stream, p, s, pairs, layout, features, grad_out, grad_weight, static_cast<char*>(scratch));
    };
    switch (p) {
        case Precision::f16: return run(Half());
        case Precision::bf16: return run(Bfloat());
        case Precision::f32:
        case Precision::tf32: return run(float());
        case Precision::f64: return run(double());
    }
}

}  // namespace sparseconv::gpu
