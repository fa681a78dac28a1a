// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// What all kernels over a map share: the loop over blocks, and where a block's pairs lie.
#pragma once

#include "kernels.h"
#include "runtime.h"
#include "scalar.h"

namespace sparseconv::SPARSECONV_ISA {

// A region of threads costs microseconds, and milliseconds where another process holds a core: work below this many elements is done
// by the calling thread.
constexpr int64_t kAlone = 1 << 15;
SPARSECONV_INLINE Cpu alone_below(const Cpu& cpu, int64_t elements) { return elements < kAlone ? Cpu{1, cpu.shuffle} : cpu; }

template <class Body>
void for_each_block(const Cpu& cpu, int64_t n, const Body& body) {
    run_blocks(
        cpu, n, [](void* context, int64_t i) { (*static_cast<const Body*>(context))(i); },
        const_cast<void*>(static_cast<const void*>(&body)));
}

// Memory of one call or one block.
template <class T>
struct Scratch {
    explicit Scratch(int64_t n) : data(static_cast<T*>(allocate_aligned(n * static_cast<int64_t>(sizeof(T))))) {}
    ~Scratch() { free_aligned(data); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    T* const data;
};

SPARSECONV_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
SPARSECONV_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
SPARSECONV_INLINE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
SPARSECONV_INLINE constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// p + elements where the result alone need not lie in an array: the address that row 0 would have.
template <class T>
SPARSECONV_INLINE T* shifted(T* p, int64_t elements) {
    return reinterpret_cast<T*>(reinterpret_cast<intptr_t>(p) + elements * static_cast<int64_t>(sizeof(T)));
}

SPARSECONV_INLINE int64_t in_row(const Pairs& pairs, int64_t p) { return pairs.data[p].in; }
SPARSECONV_INLINE int64_t out_row(const Pairs& pairs, int64_t p) { return pairs.data[p].out; }

// Where the pairs of each (block of out rows, tap) begin: [block][tap], with one more row for the end. Found by galloping from
// block to block, since a binary search over all pairs of a tap costs 100 ns in cache misses (15 % of a forward at C = 16).
struct BlockPairs {
    BlockPairs(const Cpu& cpu, const Pairs& pairs, int64_t n_out, int64_t block_rows)
        : taps(pairs.taps), rows(block_rows), blocks(ceil_div(n_out, block_rows)), begins((blocks + 1) * pairs.taps) {
        for_each_block(alone_below(cpu, 16 * blocks * taps), taps, [&](int64_t t) {  // a search reads some 16 pairs
            const int64_t last = pairs.tap_offsets[t + 1];
            int64_t at = pairs.tap_offsets[t];
            for (int64_t b = 0; b < blocks; ++b) {
                at = first_not_below(pairs, at, last, b * rows);
                begins.data[b * taps + t] = at;
            }
            begins.data[blocks * taps + t] = last;
        });
    }
    int64_t begin(int64_t block, int64_t tap) const { return begins.data[block * taps + tap]; }
    int64_t end(int64_t block, int64_t tap) const { return begins.data[(block + 1) * taps + tap]; }

    const int64_t taps, rows, blocks;

   private:
    static int64_t first_not_below(const Pairs& pairs, int64_t at, int64_t last, int64_t row) {
        if (at >= last || out_row(pairs, at) >= row) return at;
        int64_t step = 1;  // out_row(at) < row holds throughout
        while (at + step < last && out_row(pairs, at + step) < row) {
            at += step;
            step *= 2;
        }
        int64_t high = min_of(at + step, last);
        while (high - at > 1) {
            const int64_t middle = at + (high - at) / 2;
            if (out_row(pairs, middle) < row) {
                at = middle;
            } else {
                high = middle;
            }
        }
        return high;
    }

    Scratch<int64_t> begins;
};

// The pairs of a list of n, sorted by the out row, whose out row lies below `row`.
SPARSECONV_INLINE int64_t count_below(const Pair* list, int64_t n, int64_t row) {
    int64_t at = 0;
    while (at + 8 <= n && list[at + 7].out < row) at += 8;  // a line at a time: the lines are needed next anyway
    while (at < n && list[at].out < row) ++at;
    return at;
}

}  // namespace sparseconv::SPARSECONV_ISA
