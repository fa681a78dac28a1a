// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Depthwise convolution: one input channel per output channel, so a pair is a row times a row and bytes are the limit.
#pragma once

#include "blocking.h"

namespace sparseconv::SPARSECONV_ISA {

// out[o, j] += features[i, j] * weight[j] over n pairs of one tap, for NV registers of channels, the last of which may
// be short.
template <class S, int NV, bool Short>
void depthwise_columns(int64_t c, int64_t j, int64_t lanes, const Pair* list, int64_t n, const S* features, const Acc<S>* weight,
                       Acc<S>* out) {
    using A = Acc<S>;
    using V = Simd<A>;
    typename V::Reg w[NV];
    SPARSECONV_UNROLL
    for (int v = 0; v < NV; ++v) w[v] = Short ? V::load_part(weight + j, lanes) : V::load(weight + j + v * V::width);
    for (int64_t p = 0; p < n; ++p) {
        const S* x = features + list[p].in * c + j;
        A* y = out + list[p].out * c + j;
        SPARSECONV_UNROLL
        for (int v = 0; v < NV; ++v) {
            if constexpr (Short) {
                V::store_part(y, V::fma(load_wide_part<S>(x, lanes), w[v], V::load_part(y, lanes)), lanes);
            } else {
                V::store(y + v * V::width, V::fma(load_wide<S>(x + v * V::width), w[v], V::load(y + v * V::width)));
            }
        }
    }
}

template <class S>
void depthwise_tap(int64_t c, const Pair* list, int64_t n, const S* features, const Acc<S>* weight, Acc<S>* out) {
    constexpr int width = Simd<Acc<S>>::width;
    int64_t j = 0;
    const auto columns = [&](auto function, int64_t lanes) {
        function(c, j, lanes, list, n, features, weight, out);
        j += lanes;
    };
    while (c - j >= 4 * width) columns(depthwise_columns<S, 4, false>, 4 * width);
    while (c - j >= 2 * width) columns(depthwise_columns<S, 2, false>, 2 * width);
    while (c - j >= width) columns(depthwise_columns<S, 1, false>, width);
    if (c > j) columns(depthwise_columns<S, 1, true>, c - j);
}

// sums[j] += sum over n pairs of features[i, j] * grad_out[o, j].
template <class S>
void depthwise_outer(int64_t c, const Pair* list, int64_t n, const S* features, const S* grad_out, Acc<S>* sums) {
    using V = Simd<Acc<S>>;
    const auto load = [](const S* p, int64_t lanes) { return lanes == V::width ? load_wide<S>(p) : load_wide_part<S>(p, lanes); };
    for (int64_t j = 0; j < c; j += V::width) {
        const int64_t lanes = min_of(V::width, c - j);
        typename V::Reg acc = V::zero();
        for (int64_t p = 0; p < n; ++p) {
            acc = V::fma(load(features + list[p].in * c + j, lanes), load(grad_out + list[p].out * c + j, lanes), acc);
        }
        V::store_part(sums + j, V::add(V::load_part(sums + j, lanes), acc), lanes);
    }
}

}  // namespace sparseconv::SPARSECONV_ISA
