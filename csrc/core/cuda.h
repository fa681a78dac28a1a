// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Where GPU loops run: a device and the caller's stream on it.
#pragma once

#include <cstdint>

#include "cuda_platform.h"

namespace sparseconv {

template <class Body>
__global__ void run_body(int64_t n, Body body) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) body(i);
}

struct Cuda {
    int index = 0;
    cudaStream_t stream = nullptr;

    // device.h's loop with a thread for each index. Bodies write disjoint places, or by atomics whose order does not matter.
    template <class Body>
    void for_each(int64_t n, Body body) const {
        constexpr int threads = 256;
        launch(run_body<Body>, dim3(static_cast<unsigned>((n + threads - 1) / threads)), dim3(threads), 0, stream, n, body);
    }
};

}  // namespace sparseconv
