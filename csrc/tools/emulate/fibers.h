// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The threads of one CUDA block as fibers on one host thread. A fiber runs until it meets a barrier; who goes on next is drawn
// from a seeded shuffle, so that a kernel that relies on an order shows it. Blocks run one after another, shuffled too.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulated {

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "emulated kernel, block (%u, %u, %u), thread (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
                 threadIdx.x, threadIdx.y, threadIdx.z, what);
    std::abort();
}

// xorshift64*: the same order for the same seed on every machine.
struct Shuffle {
    uint64_t state = 0x9E3779B97F4A7C15u;
    void seed(uint64_t s) { state = s * 0x9E3779B97F4A7C15u + 0x2545F4914F6CDD1Du; }
    uint64_t below(uint64_t n) {
        state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
        return (state * 0x2545F4914F6CDD1Du >> 32) % n;
    }
    std::vector<unsigned> permutation(unsigned n) {
        std::vector<unsigned> order(n);
        for (unsigned i = 0; i < n; ++i) order[i] = i;
        for (unsigned i = n; i > 1; --i) std::swap(order[i - 1], order[below(i)]);
        return order;
    }
};
inline Shuffle shuffle;

#if defined(__x86_64__)
// Saves the callee-saved registers on the running stack, its address in *save, and goes on from `load`.
__attribute__((naked, noinline)) inline void switch_stack(void** /*save*/, void* /*load*/) {
    asm volatile(
        "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
        "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}
#endif

constexpr size_t kStackBytes = 256 * 1024;  // address space: only what a kernel touches becomes memory

enum class Wait { none, block, warp, done };

struct PendingCopy {
    void* to;
    const void* from;
    int bytes, valid;
};

struct Fiber {
    uint3 index{};
    Wait wait = Wait::none;
    // A warp collective: its operation, this lane's argument, the lanes that take part.
    void (*operation)(void** lanes, unsigned mask) = nullptr;
    void* argument = nullptr;
    unsigned mask = 0;
    std::vector<std::vector<PendingCopy>> copies;  // cp.async: committed groups, oldest first
    std::vector<PendingCopy> open;                 // and the one not committed yet
    char* stack = nullptr;
#if defined(__x86_64__)
    void* at = nullptr;
#else
    ucontext_t at;
#endif
};

class Block {
   public:
    ~Block() {
        for (Fiber& f : fibers_) munmap(f.stack, kStackBytes);
    }

    void run(const dim3& block, size_t shared_bytes, const std::function<void()>& kernel) {
        count_ = block.x * block.y * block.z;
        kernel_ = &kernel;
        arrays_.clear();
        dynamic_ = new_shared(shared_bytes);
        shared_bytes_ = shared_bytes;
        while (fibers_.size() < count_) {
            fibers_.emplace_back();
            void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED) fail("no memory for a fiber's stack");
            fibers_.back().stack = static_cast<char*>(memory);
        }
        for (unsigned i = 0; i < count_; ++i) {
            Fiber& f = fibers_[i];
            f.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
            f.wait = Wait::none;
            f.copies.clear(), f.open.clear();
            prepare(f);
        }
        const std::vector<unsigned> order = shuffle.permutation(count_), warps = shuffle.permutation((count_ + 31) / 32);
        for (unsigned done = 0; done < count_;) {
            unsigned moved = 0;
            if (shuffle.below(2)) {  // all threads advance together, to the next barrier of any kind
                const auto start = static_cast<unsigned>(shuffle.below(count_));
                for (unsigned i = 0; i < count_; ++i) moved += advance(order[(start + i) % count_], done);
            } else {  // one warp after another, each as far as it gets without the others
                for (const unsigned warp : warps) {
                    for (unsigned before = ~0u; before != moved;) {
                        before = moved;
                        for (unsigned i = 0; i < 32; ++i) moved += advance(warp * 32 + (i * 7 + warp) % 32, done);
                    }
                }
            }
            if (done < count_ && !release_block_barrier() && !moved) {
                fail("deadlock: some threads wait at a barrier that others never reach");
            }
        }
    }

    Fiber& current() { return *current_; }
    unsigned linear() const { return static_cast<unsigned>(current_ - fibers_.data()); }
    unsigned lane() const { return linear() % 32; }

    void block_barrier() {
        current_->wait = Wait::block;
        yield();
    }

    // Waits for the lanes of `mask`; the last to arrive carries the operation out for all of them.
    void warp_collective(unsigned mask, void (*operation)(void**, unsigned), void* argument) {
        Fiber& me = *current_;
        const unsigned first = linear() / 32 * 32;
        if (!(mask >> lane() & 1)) fail("a warp collective's mask lacks the calling lane");
        me.operation = operation, me.argument = argument, me.mask = mask, me.wait = Wait::warp;
        void* arguments[32] = {};
        for (unsigned l = 0; l < 32; ++l) {
            if (!(mask >> l & 1)) continue;
            if (first + l >= count_) fail("a warp collective's mask names lanes beyond the block");
            const Fiber& f = fibers_[first + l];
            if (f.wait == Wait::done) fail("a warp collective waits for a lane that has returned");
            if (f.wait == Wait::block) fail("a warp collective waits for a lane that stands at __syncthreads");
            if (f.wait != Wait::warp) return yield();
            if (f.mask != mask || f.operation != operation) fail("lanes of one warp meet in different collectives");
            arguments[l] = f.argument;
        }
        operation(arguments, mask);
        for (unsigned l = 0; l < 32; ++l) {
            if (mask >> l & 1) fibers_[first + l].wait = Wait::none;
        }
    }

    // A __shared__ array, one allocation each so that the address sanitizer sees its ends; `key` tells arrays apart.
    void* shared_array(const void* key, size_t bytes) {
        auto& array = arrays_[key];
        if (!array) array = new_shared(bytes);
        return array.get();
    }
    void* dynamic_shared() { return dynamic_.get(); }
    size_t dynamic_bytes() const { return shared_bytes_; }

   private:
    struct Free {
        void operator()(unsigned char* p) const { std::free(p); }
    };
    using Memory = std::unique_ptr<unsigned char, Free>;

    // Filled with bytes that are NaN as float, half and bfloat16 and a wild index as an integer.
    static Memory new_shared(size_t bytes) {
        void* p = nullptr;
        if (posix_memalign(&p, 1024, bytes ? bytes : 1)) fail("no memory for shared memory");
        std::memset(p, 0xFF, bytes);
        return Memory(static_cast<unsigned char*>(p));
    }

    // Runs a fiber that waits for nothing to its next barrier.
    unsigned advance(unsigned number, unsigned& done) {
        if (number >= count_ || fibers_[number].wait != Wait::none) return 0;
        resume(fibers_[number]);
        done += fibers_[number].wait == Wait::done;
        return 1;
    }

    bool release_block_barrier() {
        bool any = false;
        for (unsigned i = 0; i < count_; ++i) {
            if (fibers_[i].wait == Wait::none || fibers_[i].wait == Wait::warp) return false;
            any |= fibers_[i].wait == Wait::block;
        }
        for (unsigned i = 0; i < count_; ++i) {
            if (fibers_[i].wait == Wait::block) fibers_[i].wait = Wait::none;
        }
        return any;
    }

    static void enter();

#if defined(__x86_64__)
    void prepare(Fiber& f) {
        auto* top = reinterpret_cast<void**>(f.stack + kStackBytes);
        *--top = nullptr;  // keeps the stack aligned as after a call
        *--top = reinterpret_cast<void*>(&Block::enter);
        for (int i = 0; i < 6; ++i) *--top = nullptr;
        f.at = top;
    }
    void resume(Fiber& f) {
        current_ = &f;
        threadIdx = f.index;
        switch_stack(&scheduler_, f.at);
    }
    void yield() { switch_stack(&current_->at, scheduler_); }
    void* scheduler_ = nullptr;
#else
    void prepare(Fiber& f) {
        getcontext(&f.at);
        f.at.uc_stack.ss_sp = f.stack;
        f.at.uc_stack.ss_size = kStackBytes;
        f.at.uc_link = nullptr;
        makecontext(&f.at, &Block::enter, 0);
    }
    void resume(Fiber& f) {
        current_ = &f;
        threadIdx = f.index;
        swapcontext(&scheduler_, &f.at);
    }
    void yield() { swapcontext(&current_->at, &scheduler_); }
    ucontext_t scheduler_;
#endif

    std::vector<Fiber> fibers_;
    unsigned count_ = 0;
    Fiber* current_ = nullptr;
    const std::function<void()>* kernel_ = nullptr;
    std::map<const void*, Memory> arrays_;
    Memory dynamic_;
    size_t shared_bytes_ = 0;
};

inline Block block;

inline void Block::enter() {
    (*block.kernel_)();
    block.current_->wait = Wait::done;
    block.yield();
    fail("a finished fiber was resumed");
}

// Runs a kernel over a grid, at once: streams are in order, and nothing overlaps.
inline void run(dim3 grid, dim3 threads, size_t shared_bytes, const std::function<void()>& kernel) {
    const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
    if (!blocks || threads.x * threads.y * threads.z == 0) fail("a launch without blocks or threads");
    if (threads.x * threads.y * threads.z > 1024) fail("a block has at most 1024 threads");
    if (grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535) fail("a grid has at most 2^31 - 1 x 65535 x 65535 blocks");
    if (shared_bytes > 227 * 1024) fail("a block has at most 227 KiB of shared memory");
    gridDim = grid, blockDim = threads;
    for (const unsigned b : shuffle.permutation(static_cast<unsigned>(blocks))) {
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
        block.run(threads, shared_bytes, kernel);
    }
}

}  // namespace emulated
