// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Where loops run. A loop is a named struct: its fields are the arguments, operator()(i) is the body of index i.
// device.for_each(n, body) runs it for i in [0, n). Bodies write disjoint places, so the order does not matter; the shuffled
// order exists to prove that in tests.
#pragma once

#include <cstdint>
#include <exception>
#include <mutex>

#if defined(_OPENMP)
#include <omp.h>
#endif

#if defined(__CUDACC__)
#define SPARSECONV_HD __host__ __device__
#else
#define SPARSECONV_HD
#endif

namespace sparseconv {

// The caller's threads. One thread is a plain loop: a forked DataLoader worker, which runs with one thread, must not touch OpenMP.
struct Cpu {
    int threads = 1;
    bool shuffle = false;  // tests only: visit the indices in a scrambled order

    template <class Body>
    void for_each(int64_t n, Body body) const {
        if (n <= 0) return;
#if defined(_OPENMP)
        if (threads > 1 && n > 1) {
            const int team = n < threads ? static_cast<int>(n) : threads;
            std::exception_ptr failure;
            std::mutex failure_mutex;
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
            for (int64_t i = 0; i < n; ++i) {
                try {
                    body(at(i, n));
                } catch (...) {  // an exception may not leave a parallel region: keep the first, throw it outside
                    std::lock_guard<std::mutex> lock(failure_mutex);
                    if (!failure) failure = std::current_exception();
                }
            }
            if (failure) std::rethrow_exception(failure);
            return;
        }
#endif
        for (int64_t i = 0; i < n; ++i) body(at(i, n));
    }

   private:
    // A fixed scramble of [0, n): reversed, evens before odds.
    int64_t at(int64_t i, int64_t n) const {
        if (!shuffle) return i;
        const int64_t evens = (n + 1) / 2;
        const int64_t j = i < evens ? 2 * i : 2 * (i - evens) + 1;
        return n - 1 - j;
    }
};

// Splits n elements into equal pieces whose number depends on n only, never on the threads.
struct Chunks {
    int64_t n;
    int64_t size;
    SPARSECONV_HD int64_t count() const { return size > 0 ? (n + size - 1) / size : 0; }
    SPARSECONV_HD int64_t begin(int64_t c) const { return c * size; }
    SPARSECONV_HD int64_t end(int64_t c) const { return (c + 1) * size < n ? (c + 1) * size : n; }
};

}  // namespace sparseconv
