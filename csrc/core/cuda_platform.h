// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// CUDA as the sources of this project see it: nvcc's, or, with SPARSECONV_EMULATED, the emulation on the CPU by which kernels are
// tested without a GPU. Kernels are launched by launch() and take their shared memory by the two macros; inline PTX stands in
// compute/cuda/instructions.cuh with its emulated twin.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#if defined(SPARSECONV_EMULATED)
#include "../tools/emulate/cuda_emulated.h"
// T name[count] in shared memory.
#define SPARSECONV_SHARED(T, name, count) \
    static const char name##_key = 0;     \
    T* const name = static_cast<T*>(emulated::block.shared_array(&name##_key, sizeof(T) * (count)))
// unsigned char* name: the shared memory whose size the launch gave, aligned to 128 bytes.
#define SPARSECONV_DYNAMIC_SHARED(name) auto* const name = static_cast<unsigned char*>(emulated::block.dynamic_shared())
#else
#include <cuda_runtime.h>
#define SPARSECONV_SHARED(T, name, count) __shared__ T name[count]
#define SPARSECONV_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

namespace sparseconv {

inline void check_cuda(cudaError_t error, const char* what) {
    if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

// kernel<<<grid, threads, shared_bytes, stream>>>(arguments...). A grid without blocks is no launch.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 threads, size_t shared_bytes, cudaStream_t stream,
            Arguments&&... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#if defined(SPARSECONV_EMULATED)
    (void)stream;
    emulated::run(grid, threads, shared_bytes, [&] { kernel(static_cast<Parameters>(arguments)...); });
#else
    if (shared_bytes > 48 * 1024) {  // more than every kernel may have unasked
        check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(shared_bytes)),
                   "shared memory of a kernel");
    }
    kernel<<<grid, threads, shared_bytes, stream>>>(std::forward<Arguments>(arguments)...);
    check_cuda(cudaGetLastError(), "kernel launch");
#endif
}

}  // namespace sparseconv
