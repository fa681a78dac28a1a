// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Picks the instruction set once and forwards kernels.h to its table. Compiled for the baseline. The build says with
// SPARSECONV_HAVE_AVX2 and SPARSECONV_HAVE_AVX512 which copies of kernels_isa.cpp it has, and with SPARSECONV_HAVE_AMX whether the
// last of them has the matrix unit's kernels too.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "kernel_table.h"
#include "runtime.h"

#if defined(SPARSECONV_HAVE_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sparseconv {
namespace {

#if defined(SPARSECONV_HAVE_AMX)
// Whether the processor multiplies matrices of bfloat16, and the kernel gives this process room for their registers.
bool has_amx() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & amx_bf16) == 0 || (edx & amx_tile) == 0) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA: Linux 5.16
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

struct InstructionSet {
    const char* name;
    bool available;
    const KernelTable& (*table)();
    bool by_name_only = false;
};

InstructionSet choose() {
#if defined(SPARSECONV_HAVE_AVX2) || defined(SPARSECONV_HAVE_AVX512)
    __builtin_cpu_init();
#endif
#if defined(SPARSECONV_HAVE_AVX512)
    const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("fma");
    const bool is_intel = __builtin_cpu_is("intel") != 0;
#endif
    const InstructionSet sets[] = {
#if defined(SPARSECONV_HAVE_AMX)
        {"amx", has_avx512 && __builtin_cpu_supports("avx512bf16") && has_amx(), &avx512::kernel_table_amx},
#else
        {"amx", false, nullptr},
#endif
#if defined(SPARSECONV_HAVE_AVX512)
        // Pairs run at a third of the rate of floats on Intel's: widening them takes two thirds of the time.
        {"avx512bf16", has_avx512 && __builtin_cpu_supports("avx512bf16"), &avx512::kernel_table_bf16, is_intel},
        {"avx512", has_avx512, &avx512::kernel_table},
#else
        {"avx512bf16", false, nullptr},
        {"avx512", false, nullptr},
#endif
#if defined(SPARSECONV_HAVE_AVX2)
        {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), &avx2::kernel_table},
#else
        {"avx2", false, nullptr},
#endif
        {"generic", true, &generic::kernel_table},
    };
    const char* wanted = std::getenv("SPARSECONV_ISA");
    for (const InstructionSet& set : sets) {
        if (wanted == nullptr || *wanted == '\0') {
            if (set.available && !set.by_name_only) return set;
        } else if (std::strcmp(wanted, set.name) == 0) {
            if (set.available) return set;
            throw std::invalid_argument("SPARSECONV_ISA=" + std::string(wanted) +
                                        ": this processor or this build does not have that instruction set");
        }
    }
    throw std::invalid_argument("SPARSECONV_ISA must be generic, avx2, avx512, avx512bf16 or amx, got '" + std::string(wanted) +
                                "'");
}

const InstructionSet& chosen() {
    static const InstructionSet set = choose();
    return set;
}

const KernelTable& kernels() { return chosen().table(); }

}  // namespace

void run_blocks(const Cpu& cpu, int64_t n, void (*body)(void*, int64_t), void* context) {
    cpu.for_each(n, [body, context](int64_t i) { body(context, i); });
}

void* allocate_aligned(int64_t bytes) {
    return ::operator new(static_cast<std::size_t>(std::max<int64_t>(bytes, 1)), std::align_val_t(64));
}

void free_aligned(void* p) { ::operator delete(p, std::align_val_t(64)); }

const char* instruction_set() { return chosen().name; }

int64_t packed_weight_bytes(Scalar scalar, const ConvShape& shape, int64_t taps) {
    return kernels().packed_weight_bytes(scalar, shape, taps);
}

void gather_gemm(const Cpu& cpu, Scalar scalar, const ConvShape& shape, const Pairs& pairs, const void* features,
                 const Weight& weight, const void* bias, void* out, void* scratch) {
    kernels().gather_gemm(cpu, scalar, shape, pairs, features, weight, bias, out, scratch);
}

int64_t gather_outer_bytes(Scalar scalar, const ConvShape& shape, const Pairs& pairs) {
    return kernels().gather_outer_bytes(scalar, shape, pairs);
}

void gather_outer(const Cpu& cpu, Scalar scalar, const ConvShape& shape, const Pairs& pairs, const void* features,
                  const void* grad_out, void* grad_weight, void* scratch) {
    kernels().gather_outer(cpu, scalar, shape, pairs, features, grad_out, grad_weight, scratch);
}

int64_t column_sum_bytes(Scalar scalar, int64_t n, int64_t c) { return kernels().column_sum_bytes(scalar, n, c); }

void column_sum(const Cpu& cpu, Scalar scalar, const void* x, int64_t n, int64_t c, void* out, void* scratch) {
    kernels().column_sum(cpu, scalar, x, n, c, out, scratch);
}

void max_pool(const Cpu& cpu, Scalar scalar, const ConvShape& shape, const Pairs& pairs, const void* features, void* out,
              int32_t* argmax) {
    kernels().max_pool(cpu, scalar, shape, pairs, features, out, argmax);
}

void max_pool_grad(const Cpu& cpu, Scalar scalar, const ConvShape& shape, const Pairs& reversed, const void* grad_out,
                   const int32_t* argmax, void* grad_in) {
    kernels().max_pool_grad(cpu, scalar, shape, reversed, grad_out, argmax, grad_in);
}

void gather_sum(const Cpu& cpu, Scalar scalar, const void* x, int64_t c, const int64_t* offsets, const int64_t* cols,
                const void* weights, int64_t rows, void* out) {
    kernels().gather_sum(cpu, scalar, x, c, offsets, cols, weights, rows, out);
}

void gather_max(const Cpu& cpu, Scalar scalar, const void* x, int64_t c, const int64_t* offsets, const int64_t* cols,
                int64_t rows, void* out, int64_t* arg) {
    kernels().gather_max(cpu, scalar, x, c, offsets, cols, rows, out, arg);
}

void add_bf16(const Cpu& cpu, int64_t n, const void* x, const void* y, void* out) { kernels().add_bf16(cpu, n, x, y, out); }

void relu_bf16(const Cpu& cpu, int64_t n, const void* x, void* out) { kernels().relu_bf16(cpu, n, x, out); }

void quantized_gather_gemm(const Cpu& cpu, Scalar scalar, const ConvShape& shape, const Pairs& pairs, const void* features,
                           const QuantizedWeight& weight, const void* bias, void* out, void* scratch) {
    kernels().quantized_gather_gemm(cpu, scalar, shape, pairs, features, weight, bias, out, scratch);
}

void quantized_linear(const Cpu& cpu, Scalar scalar, int64_t rows, int64_t k, int64_t c_out, const void* x,
                      const QuantizedWeight& weight, const void* bias, void* out) {
    kernels().quantized_linear(cpu, scalar, rows, k, c_out, x, weight, bias, out);
}

void vectors_gather_gemm(const Cpu& cpu, Scalar scalar, const ConvShape& shape, const Pairs& pairs, const void* features,
                         const VectorWeight& weight, const void* bias, void* out) {
    kernels().vectors_gather_gemm(cpu, scalar, shape, pairs, features, weight, bias, out);
}

void vectors_gather_back(const Cpu& cpu, Scalar scalar, const ConvShape& shape, const Pairs& pairs, const void* grad_out,
                         const VectorWeight& weight, bool flip, void* grad_in) {
    kernels().vectors_gather_back(cpu, scalar, shape, pairs, grad_out, weight, flip, grad_in);
}

int64_t vectors_gather_outer_bytes(Scalar scalar, const ConvShape& shape, const Pairs& pairs, int64_t stored) {
    return kernels().vectors_gather_outer_bytes(scalar, shape, pairs, stored);
}

void vectors_gather_outer(const Cpu& cpu, Scalar scalar, const ConvShape& shape, const Pairs& pairs, const void* features,
                          const void* grad_out, const VectorWeight& weight, void* grad_values, void* scratch) {
    kernels().vectors_gather_outer(cpu, scalar, shape, pairs, features, grad_out, weight, grad_values, scratch);
}

void eie_linear(const Cpu& cpu, const EieMatrix& matrix, const float* codebook, const float* x, int64_t batch, const float* bias,
                float* out) {
    kernels().eie_linear(cpu, matrix, codebook, x, batch, bias, out);
}

double fma_peak_gflops(const Cpu& cpu) {
    constexpr int64_t steps = 4'000'000;  // about 10 ms
    double best = 0;
    for (int trial = 0; trial < 4; ++trial) {
        const auto start = std::chrono::steady_clock::now();
        cpu.for_each(cpu.threads, [](int64_t) { kernels().fma_loop(steps); });
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        best = std::max(best, cpu.threads * kernels().fma_loop(1) * steps / seconds.count());
    }
    return best / 1e9;
}

}  // namespace sparseconv
