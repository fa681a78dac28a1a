// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Pooling, sums and maxima over lists, sums of columns. Neighbouring threads own neighbouring channels of one row, and a row's sum
// is one chain in the order of the CPU's, so that float and double results are the CPU's bit for bit; lists of kLongList entries
// and more, on average, are shared out among the threads of a block.
#include "gemm_choice.h"
#include "pack.cuh"

namespace sparseconv::gpu {
namespace {

constexpr int64_t kLongList = 256;
constexpr int kListParts = 16, kListChannels = 32;  // threads of a block that owns 32 channels of a long list

// The CPU multiplies and adds in one rounding; so does this, also where the compiler is told not to contract.
__device__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ double multiply_add(double a, double b, double c) { return fma(a, b, c); }

template <class S, class I>
__device__ void take_larger(S value, I candidate, S& best, I& arg) {
    const Acc<S> v = widen(value);
    if (arg < 0 || v > widen(best) || v != v) best = value, arg = candidate;
}

template <class S>
__global__ void pool_rows(const RowPlan plan, int64_t n_out, int64_t c, const S* features, S* out, int32_t* argmax) {
    const int64_t at = thread_number();
    if (at >= n_out * c) return;
    const int64_t place = at / c, channel = at % c;
    S best{};
    int32_t arg = -1;
    for (int t = 0; t < plan.taps; ++t) {
        const int32_t row = plan.neighbors[t * n_out + place];
        if (row >= 0) take_larger<S, int32_t>(features[row * c + channel], t, best, arg);
    }
    const int64_t to = plan.order[place] * c + channel;
    out[to] = best;
    argmax[to] = arg;
}

template <class S>
__global__ void pool_rows_grad(const RowPlan reversed, int64_t n_out, int64_t c, const S* grad_out, const int32_t* argmax,
                               S* grad_in) {
    const int64_t at = thread_number();
    if (at >= n_out * c) return;
    const int64_t place = at / c, channel = at % c;
    Acc<S> sum = 0;
    for (int t = 0; t < reversed.taps; ++t) {
        const int32_t row = reversed.neighbors[t * n_out + place];
        if (row < 0) continue;
        const int64_t from = row * c + channel;
        sum += argmax[from] == t ? widen(grad_out[from]) : Acc<S>(0);
    }
    narrow(sum, grad_in[reversed.order[place] * c + channel]);
}

template <class S>
__device__ Acc<S> sum_entries(const S* x, int64_t c, const int64_t* cols, const Acc<S>* weights, int64_t begin, int64_t end) {
    Acc<S> sum = 0;
#pragma unroll 4
    for (int64_t j = begin; j < end; ++j) {
        const Acc<S> v = widen(x[(cols ? cols[j] : j) * c]);
        sum = weights ? multiply_add(weights[j], v, sum) : v + sum;
    }
    return sum;
}

template <class S>
__global__ void sum_lists(const S* x, int64_t c, const int64_t* offsets, const int64_t* cols, const Acc<S>* weights, int64_t rows,
                          S* out) {
    const int64_t at = thread_number();
    if (at >= rows * c) return;
    const int64_t r = at / c;
    narrow(sum_entries(x + at % c, c, cols, weights, offsets[r], offsets[r + 1]), out[at]);
}

// The part of a long list that a thread of kListParts takes.
__device__ void part_of_list(const int64_t* offsets, int64_t r, int part, int64_t& begin, int64_t& end) {
    const int64_t first = offsets[r], length = offsets[r + 1] - first;
    begin = first + length * part / kListParts, end = first + length * (part + 1) / kListParts;
}

// Blocks: x = (row, 32 channels); threads: (channel, part).
template <class S>
__global__ void sum_long_lists(const S* x, int64_t c, const int64_t* offsets, const int64_t* cols, const Acc<S>* weights,
                               S* out) {
    SPARSECONV_SHARED(Acc<S>, sums, kListParts * kListChannels);
    const int64_t tiles = (c + kListChannels - 1) / kListChannels, r = blockIdx.x / tiles;
    const int lane = threadIdx.x % kListChannels, part = threadIdx.x / kListChannels;
    const int64_t channel = blockIdx.x % tiles * kListChannels + lane;
    int64_t begin, end;
    part_of_list(offsets, r, part, begin, end);
    sums[threadIdx.x] = channel < c ? sum_entries(x + channel, c, cols, weights, begin, end) : Acc<S>(0);
    __syncthreads();
    if (part > 0 || channel >= c) return;
    Acc<S> sum = sums[lane];
    for (int i = 1; i < kListParts; ++i) sum += sums[i * kListChannels + lane];
    narrow(sum, out[r * c + channel]);
}

template <class S>
__device__ void max_entries(const S* x, int64_t c, const int64_t* cols, int64_t begin, int64_t end, S& best, int64_t& arg) {
    for (int64_t j = begin; j < end; ++j) {
        const int64_t row = cols ? cols[j] : j;
        take_larger<S, int64_t>(x[row * c], row, best, arg);
    }
}

template <class S>
__global__ void max_lists(const S* x, int64_t c, const int64_t* offsets, const int64_t* cols, int64_t rows, S* out,
                          int64_t* args) {
    const int64_t at = thread_number();
    if (at >= rows * c) return;
    const int64_t r = at / c;
    S best{};
    int64_t arg = -1;
    max_entries(x + at % c, c, cols, offsets[r], offsets[r + 1], best, arg);
    out[at] = best;
    args[at] = arg;
}

template <class S>
__global__ void max_long_lists(const S* x, int64_t c, const int64_t* offsets, const int64_t* cols, S* out, int64_t* args) {
    SPARSECONV_SHARED(S, bests, kListParts * kListChannels);
    SPARSECONV_SHARED(int64_t, part_args, kListParts* kListChannels);
    const int64_t tiles = (c + kListChannels - 1) / kListChannels, r = blockIdx.x / tiles;
    const int lane = threadIdx.x % kListChannels, part = threadIdx.x / kListChannels;
    const int64_t channel = blockIdx.x % tiles * kListChannels + lane;
    int64_t begin, end, arg = -1;
    part_of_list(offsets, r, part, begin, end);
    S best{};
    if (channel < c) max_entries(x + channel, c, cols, begin, end, best, arg);
    bests[threadIdx.x] = best;
    part_args[threadIdx.x] = arg;
    __syncthreads();
    if (part > 0 || channel >= c) return;
    for (int i = 1; i < kListParts; ++i) {
        const int64_t there = part_args[i * kListChannels + lane];
        if (there >= 0) take_larger<S, int64_t>(bests[i * kListChannels + lane], there, best, arg);
    }
    out[r * c + channel] = best;
    args[r * c + channel] = arg;
}

// As on the CPU: at most 256 chunks of at least 1024 rows. A chunk is shared out among the parts of a block here.
int64_t column_chunk(int64_t n) { return std::max<int64_t>(1024, ceil_div(n, 256)); }

// The rows of x as one list for each chunk: chunk i is [i * rows, (i + 1) * rows). Blocks: x = (chunk, 32 channels).
template <class S>
__global__ void sum_chunks(const S* x, int64_t n, int64_t c, int64_t rows, Acc<S>* partial) {
    SPARSECONV_SHARED(Acc<S>, sums, kListParts * kListChannels);
    const int64_t tiles = (c + kListChannels - 1) / kListChannels, chunk = blockIdx.x / tiles;
    const int lane = threadIdx.x % kListChannels, part = threadIdx.x / kListChannels;
    const int64_t channel = blockIdx.x % tiles * kListChannels + lane;
    const int64_t first = chunk * rows, length = first + rows < n ? rows : n - first;
    const int64_t begin = first + length * part / kListParts, end = first + length * (part + 1) / kListParts;
    sums[threadIdx.x] = channel < c ? sum_entries<S>(x + channel, c, nullptr, nullptr, begin, end) : Acc<S>(0);
    __syncthreads();
    if (part > 0 || channel >= c) return;
    Acc<S> sum = sums[lane];
    for (int i = 1; i < kListParts; ++i) sum += sums[i * kListChannels + lane];
    partial[chunk * c + channel] = sum;
}

template <class S>
__global__ void add_chunks(const Acc<S>* partial, int64_t chunks, int64_t c, S* out) {
    const int64_t at = thread_number();
    if (at >= c) return;
    Acc<S> sum = 0;
    for (int64_t i = 0; i < chunks; ++i) sum += partial[i * c + at];
    narrow(sum, out[at]);
}

dim3 list_blocks(int64_t rows, int64_t c) { return dim3(static_cast<unsigned>(rows * ceil_div(c, kListChannels))); }

template <class Run>
void with_element(Precision p, const Run& run) {
    switch (p) {
        case Precision::f16: return run(Half());
        case Precision::bf16: return run(Bfloat());
        case Precision::f32:
        case Precision::tf32: return run(float());
        case Precision::f64: return run(double());
    }
}

bool long_lists(int64_t rows, int64_t entries) { return rows > 0 && entries / rows >= kLongList; }

}  // namespace

int64_t column_sum_bytes(Precision p, int64_t n, int64_t c) {
    return ceil_div(n, column_chunk(n)) * c * (p == Precision::f64 ? 8 : 4);
}

void column_sum(cudaStream_t stream, Precision p, const void* x, int64_t n, int64_t c, void* out, void* scratch) {
    with_element(p, [&](auto element) {
        using S = decltype(element);
        auto* partial = static_cast<Acc<S>*>(scratch);
        const int64_t rows = column_chunk(n), chunks = ceil_div(n, rows);
        launch(sum_chunks<S>, list_blocks(chunks, c), dim3(kListParts * kListChannels), 0, stream, static_cast<const S*>(x), n, c,
               rows, partial);
        launch(add_chunks<S>, blocks_for(c), dim3(kThreads), 0, stream, partial, chunks, c, static_cast<S*>(out));
    });
}

void max_pool(cudaStream_t stream, Precision p, const ConvShape& s, const RowPlan& plan, const void* features, void* out,
              int32_t* argmax) {
    with_element(p, [&](auto element) {
        using S = decltype(element);
        launch(pool_rows<S>, blocks_for(s.n_out * s.c_out), dim3(kThreads), 0, stream, plan, s.n_out, s.c_out,
               static_cast<const S*>(features), static_cast<S*>(out), argmax);
    });
}

void max_pool_grad(cudaStream_t stream, Precision p, const ConvShape& s, const RowPlan& reversed, const void* grad_out,
                   const int32_t* argmax, void* grad_in) {
    with_element(p, [&](auto element) {
        using S = decltype(element);
        launch(pool_rows_grad<S>, blocks_for(s.n_out * s.c_out), dim3(kThreads), 0, stream, reversed, s.n_out, s.c_out,
               static_cast<const S*>(grad_out), argmax, static_cast<S*>(grad_in));
    });
}

void gather_sum(cudaStream_t stream, Precision p, const void* x, int64_t c, const int64_t* offsets, const int64_t* cols,
                const void* weights, int64_t rows, int64_t entries, void* out) {
    with_element(p, [&](auto element) {
        using S = decltype(element);
        const auto* from = static_cast<const S*>(x);
        const auto* w = static_cast<const Acc<S>*>(weights);
        if (long_lists(rows, entries)) {
            launch(sum_long_lists<S>, list_blocks(rows, c), dim3(kListParts * kListChannels), 0, stream, from, c, offsets, cols,
                   w, static_cast<S*>(out));
        } else {
            launch(sum_lists<S>, blocks_for(rows * c), dim3(kThreads), 0, stream, from, c, offsets, cols, w, rows,
                   static_cast<S*>(out));
        }
    });
}

void gather_max(cudaStream_t stream, Precision p, const void* x, int64_t c, const int64_t* offsets, const int64_t* cols,
                int64_t rows, int64_t entries, void* out, int64_t* arg) {
    with_element(p, [&](auto element) {
        using S = decltype(element);
        const auto* from = static_cast<const S*>(x);
        if (long_lists(rows, entries)) {
            launch(max_long_lists<S>, list_blocks(rows, c), dim3(kListParts * kListChannels), 0, stream, from, c, offsets, cols,
                   static_cast<S*>(out), arg);
        } else {
            launch(max_lists<S>, blocks_for(rows * c), dim3(kThreads), 0, stream, from, c, offsets, cols, rows,
                   static_cast<S*>(out), arg);
        }
    });
}

}  // namespace sparseconv::gpu
