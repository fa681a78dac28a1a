// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Host side of gather_gemm: scratch, packing, the choice of a kernel, launches.
#include "gemm_choice.h"
#include "implicit_gemm.cuh"
#include "plain_gemm.cuh"

namespace sparseconv::gpu {
namespace {

// What lies in the scratch: padded features, packed weight, sums of the splits.
struct Layout {
    int64_t row, weight_rows;                       // bytes of one group's row, and rows of the packed weight
    int64_t features = 0, weight = 0, partial = 0;  // bytes

    Layout(Precision p, const ConvShape& s, int64_t taps, int splits) {
        const int64_t element = element_bytes(p);
        row = padded_bytes(s.c_in / s.groups, element);
        weight_rows = taps * s.c_out;
        if (is_depthwise(s)) return;
        if (on_tensor_cores(p)) {
            if (needs_padding(p, s)) features = aligned(s.n_in * s.groups * row);
            weight = aligned(weight_rows * row);
        }
        if (splits > 1) partial = aligned(splits * s.n_out * s.c_out * 4);
    }
    static bool needs_padding(Precision p, const ConvShape& s) { return s.c_in / s.groups * element_bytes(p) % 16 != 0; }
    int64_t bytes() const { return features + weight + partial; }
};

template <class E, class T, int kChunk>
void launch_tile(cudaStream_t stream, const GemmArguments& a) {
    constexpr int shared = GemmShared<T, kChunk>::bytes(sizeof(typename Stored<E>::type));
    const int64_t blocks = ceil_div(a.n_out, T::kM) * a.groups * ceil_div(a.m, T::kN);
    require(blocks < (int64_t{1} << 31), "a convolution of so many rows and channels has more blocks than a launch may have");
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(a.splits));
    if constexpr (sizeof(typename Stored<E>::type) == 2) {
        if (a.weight_n == 2) return launch(implicit_gemm<E, T, kChunk, true>, grid, dim3(T::kThreads), shared, stream, a);
    }
    launch(implicit_gemm<E, T, kChunk, false>, grid, dim3(T::kThreads), shared, stream, a);
}

template <class E, int kChunk>
void launch_chunk(cudaStream_t stream, int tile, const GemmArguments& a) {
    switch (tile) {
        case 0: return launch_tile<E, Tile128x128, kChunk>(stream, a);
        case 1: return launch_tile<E, Tile128x64, kChunk>(stream, a);
        case 2: return launch_tile<E, Tile128x32, kChunk>(stream, a);
        default: return launch_tile<E, Tile64x64, kChunk>(stream, a);
    }
}

template <class S>
void launch_plain(cudaStream_t stream, const GemmArguments& a, const Weight& weight) {
    const int64_t blocks = ceil_div(a.n_out, 16 * kPlainRows<S>) * a.groups * ceil_div(a.m, kPlainN);
    launch(plain_gemm<S>, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(a.splits)), dim3(kPlainThreads), 0, stream, a,
           weight);
}

// The weight as the tensor-core kernel reads it: in place where its rows, along k or (16 bits) along n, are whole pieces of 16 bytes
// that begin at such addresses, else packed.
template <class S>
void place_weight(cudaStream_t stream, const ConvShape& s, int64_t taps, const Weight& weight, const Layout& layout,
                  char* scratch, GemmArguments& a) {
    constexpr int64_t element = sizeof(S);
    const auto fits = [](int64_t elements) { return elements * element % 16 == 0; };
    const int64_t k = s.c_in / s.groups;
    const bool along_k = weight.in == 1 && fits(k) && fits(weight.out);
    const bool along_n = element == 2 && weight.out == 1 && fits(a.m) && fits(weight.in) && weight.in > 1;
    if ((along_k || along_n) && fits(weight.tap) && fits(weight.group) && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0) {
        a.weight = static_cast<const char*>(weight.data);
        a.weight_tap = weight.tap * element, a.weight_group = weight.group * element;
        a.weight_n = weight.out * element, a.weight_k = weight.in * element;
        return;
    }
    const int64_t wide = layout.row / element;
    a.weight = scratch;
    a.weight_n = layout.row, a.weight_k = element, a.weight_group = a.m * layout.row, a.weight_tap = s.groups * a.weight_group;
    launch(pack_weight<S>,
           dim3(static_cast<unsigned>(ceil_div(wide, 32) * ceil_div(a.m, 32)), static_cast<unsigned>(s.groups),
                static_cast<unsigned>(taps)),
           dim3(kThreads), 0, stream, weight, reinterpret_cast<S*>(scratch), static_cast<int>(k), a.m, static_cast<int>(wide));
}

template <class E>
void tensor_core_gemm(cudaStream_t stream, const ConvShape& s, int64_t taps, const Weight& weight, const GemmChoice& choice,
                      const Layout& layout, char* scratch, GemmArguments& a) {
    using S = typename Stored<E>::type;
    if (layout.features > 0 || reinterpret_cast<uintptr_t>(a.features) % 16) {
        require(layout.features > 0, "features must begin at an address that 16 divides");
        const int64_t wide = layout.row / static_cast<int64_t>(sizeof(S));
        launch(pad_rows<S>, blocks_for(s.n_in * s.groups * wide), dim3(kThreads), 0, stream,
               reinterpret_cast<const S*>(a.features), reinterpret_cast<S*>(scratch), s.n_in, s.groups, s.c_in / s.groups, wide);
        a.features = scratch;
        a.in_group = layout.row, a.in_row = s.groups * layout.row;
    }
    a.k_bytes = static_cast<int>(layout.row);
    place_weight<S>(stream, s, taps, weight, layout, scratch + layout.features, a);
    if (choice.chunk_bytes == 128) {
        launch_chunk<E, 128>(stream, choice.tile, a);
    } else {
        launch_chunk<E, 64>(stream, choice.tile, a);
    }
}

template <class S>
void gemm(cudaStream_t stream, Precision p, const ConvShape& s, const RowPlan& plan, const void* features, const Weight& weight,
          const void* bias, void* out, char* scratch, const GemmChoice& choice) {
    const int64_t k = s.c_in / s.groups;
    const Layout layout(p, s, plan.taps, choice.splits);
    GemmArguments a{};
    a.features = static_cast<const char*>(features);
    a.in_row = s.c_in * static_cast<int64_t>(sizeof(S)), a.in_group = k * static_cast<int64_t>(sizeof(S));
    a.bias = bias, a.out = out;
    a.neighbors = plan.neighbors, a.order = plan.order, a.tile_masks = plan.tile_masks;
    a.n_out = s.n_out, a.c_out = s.c_out;
    a.taps = static_cast<int>(plan.taps), a.words = static_cast<int>(plan.words());
    a.k_bytes = static_cast<int>(k * static_cast<int64_t>(sizeof(S)));
    a.k = static_cast<int>(k), a.m = static_cast<int>(s.c_out / s.groups), a.groups = static_cast<int>(s.groups),
    a.splits = choice.splits;
    if (is_depthwise(s)) {
        launch(depthwise_gemm<S>, blocks_for(s.n_out * s.c_out), dim3(kThreads), 0, stream, a, weight);
        return;
    }
    if (choice.splits > 1) a.partial = reinterpret_cast<float*>(scratch + layout.features + layout.weight);
    if constexpr (sizeof(S) == 8) {
        launch_plain<S>(stream, a, weight);
    } else if constexpr (sizeof(S) == 4) {
        if (p == Precision::tf32) {
            tensor_core_gemm<Tf32>(stream, s, plan.taps, weight, choice, layout, scratch, a);
        } else {
            launch_plain<S>(stream, a, weight);
        }
    } else {
        tensor_core_gemm<S>(stream, s, plan.taps, weight, choice, layout, scratch, a);
    }
    if constexpr (sizeof(S) < 8) {
        if (choice.splits > 1) {
            launch(add_splits<S>, blocks_for(s.n_out * s.c_out), dim3(kThreads), 0, stream, a.partial, choice.splits, plan.order,
                   s.n_out, s.c_out, static_cast<const S*>(bias), static_cast<S*>(out));
        }
    }
}

}  // namespace

int64_t gather_gemm_bytes(Precision p, const ConvShape& s, int64_t taps, int64_t pairs) {
    return Layout(p, s, taps, choose_gemm(p, s, taps, pairs).splits).bytes();
}

int64_t gather_gemm_bytes(Precision p, const ConvShape& s, int64_t taps, const GemmChoice& choice) {
    return Layout(p, s, taps, choice.splits).bytes();
}

void gather_gemm(cudaStream_t stream, Precision p, const ConvShape& s, const RowPlan& plan, const void* features,
                 const Weight& weight, const void* bias, void* out, void* scratch, const GemmChoice* choice) {
    if (s.n_out == 0 || s.c_out == 0) return;
    const GemmChoice chosen = choice ? *choice : choose_gemm(p, s, plan.taps, plan.pairs);
    const auto run = [&](auto element) {
        gemm<decltype(element)>(stream, p, s, plan, features, weight, bias, out, static_cast<char*>(scratch), chosen);
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
