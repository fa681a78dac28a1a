// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Barriers, warp collectives, atomics and bit intrinsics of CUDA C++ on fibers.
#pragma once

#include <algorithm>
#include <cmath>

#include "fibers.h"

namespace emulated {

template <class T>
struct Exchange {
    T value, result;
    int argument, width;
};

// `pick(lanes, lane)` gives the lane that `lane` reads from, or itself.
template <class T, class Pick>
T exchange(unsigned mask, T value, int argument, int width, Pick) {
    Exchange<T> mine{value, value, argument, width};
    block.warp_collective(
        mask,
        [](void** lanes, unsigned taking_part) {
            for (int l = 0; l < 32; ++l) {
                if (!(taking_part >> l & 1)) continue;
                auto* e = static_cast<Exchange<T>*>(lanes[l]);
                const int from = Pick::source(l, e->argument, e->width);
                if (!(taking_part >> from & 1)) fail("a shuffle reads a lane that takes no part");
                e->result = static_cast<Exchange<T>*>(lanes[from])->value;
            }
        },
        &mine);
    return mine.result;
}
struct FromLane {
    static int source(int l, int lane, int width) { return l / width * width + (lane & (width - 1)); }
};
struct FromAbove {
    static int source(int l, int delta, int width) { return l % width + delta < width ? l + delta : l; }
};
struct FromBelow {
    static int source(int l, int delta, int width) { return l % width >= delta ? l - delta : l; }
};
struct FromXor {
    static int source(int l, int bits, int width) { return (l ^ bits) / width <= l / width ? l ^ bits : l; }
};

// All lanes get fold(values in lane order).
template <class T, class Fold>
T reduce(unsigned mask, T value, Fold) {
    Exchange<T> mine{value, value, 0, 32};
    block.warp_collective(
        mask,
        [](void** lanes, unsigned taking_part) {
            bool first = true;
            T total{};
            for (int l = 0; l < 32; ++l) {
                if (!(taking_part >> l & 1)) continue;
                const T v = static_cast<Exchange<T>*>(lanes[l])->value;
                total = first ? v : Fold::fold(total, v);
                first = false;
            }
            for (int l = 0; l < 32; ++l) {
                if (taking_part >> l & 1) static_cast<Exchange<T>*>(lanes[l])->result = total;
            }
        },
        &mine);
    return mine.result;
}
struct Or {
    template <class T>
    static T fold(T a, T b) {
        return a | b;
    }
};
struct And {
    template <class T>
    static T fold(T a, T b) {
        return a & b;
    }
};
struct Add {
    template <class T>
    static T fold(T a, T b) {
        return a + b;
    }
};
struct Min {
    template <class T>
    static T fold(T a, T b) {
        return a < b ? a : b;
    }
};
struct Max {
    template <class T>
    static T fold(T a, T b) {
        return a < b ? b : a;
    }
};

}  // namespace emulated

inline void __syncthreads() { emulated::block.block_barrier(); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) {
    emulated::block.warp_collective(mask, [](void**, unsigned) {}, nullptr);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    return emulated::exchange(mask, value, lane, width, emulated::FromLane());
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return emulated::exchange(mask, value, static_cast<int>(delta), width, emulated::FromAbove());
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return emulated::exchange(mask, value, static_cast<int>(delta), width, emulated::FromBelow());
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    return emulated::exchange(mask, value, bits, width, emulated::FromXor());
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return emulated::reduce(mask, predicate ? 1u << emulated::block.lane() : 0u, emulated::Or());
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
inline unsigned __reduce_or_sync(unsigned mask, unsigned v) { return emulated::reduce(mask, v, emulated::Or()); }
inline unsigned __reduce_and_sync(unsigned mask, unsigned v) { return emulated::reduce(mask, v, emulated::And()); }
inline unsigned __reduce_add_sync(unsigned mask, unsigned v) { return emulated::reduce(mask, v, emulated::Add()); }
inline int __reduce_add_sync(unsigned mask, int v) { return emulated::reduce(mask, v, emulated::Add()); }
inline unsigned __reduce_min_sync(unsigned mask, unsigned v) { return emulated::reduce(mask, v, emulated::Min()); }
inline unsigned __reduce_max_sync(unsigned mask, unsigned v) { return emulated::reduce(mask, v, emulated::Max()); }
inline int __reduce_min_sync(unsigned mask, int v) { return emulated::reduce(mask, v, emulated::Min()); }
inline int __reduce_max_sync(unsigned mask, int v) { return emulated::reduce(mask, v, emulated::Max()); }
inline int __syncthreads_or(int predicate) {
    auto* any = static_cast<int*>(emulated::block.shared_array(&emulated::block, sizeof(int)));
    __syncthreads();
    *any = 0;
    __syncthreads();
    if (predicate) *any = 1;
    __syncthreads();
    return *any;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// One host thread runs all fibers, and none is interrupted between barriers: plain operations are atomic.
template <class T, class U>
T atomicAdd(T* at, U value) {
    const T old = *at;
    *at = static_cast<T>(old + static_cast<T>(value));
    return old;
}
template <class T, class U>
T atomicOr(T* at, U value) {
    const T old = *at;
    *at = old | static_cast<T>(value);
    return old;
}
template <class T, class U>
T atomicMin(T* at, U value) {
    const T old = *at;
    *at = std::min(old, static_cast<T>(value));
    return old;
}
template <class T, class U>
T atomicMax(T* at, U value) {
    const T old = *at;
    *at = std::max(old, static_cast<T>(value));
    return old;
}
template <class T, class U>
T atomicExch(T* at, U value) {
    const T old = *at;
    *at = static_cast<T>(value);
    return old;
}
template <class T, class U, class V>
T atomicCAS(T* at, U compare, V value) {
    const T old = *at;
    if (old == static_cast<T>(compare)) *at = static_cast<T>(value);
    return old;
}

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
inline int __clzll(long long v) { return v ? __builtin_clzll(static_cast<unsigned long long>(v)) : 64; }
template <class T>
T __ldg(const T* p) {
    return *p;
}
inline float __uint_as_float(unsigned v) {
    float f;
    std::memcpy(&f, &v, 4);
    return f;
}
inline unsigned __float_as_uint(float v) {
    unsigned u;
    std::memcpy(&u, &v, 4);
    return u;
}
using std::max;
using std::min;
