// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Where GPU loops run: a device and the caller's stream on it.
#pragma once

#include "cuda_platform.h"

namespace sparseconv {

struct Cuda {
    int index = 0;
    cudaStream_t stream = nullptr;
};

}  // namespace sparseconv
