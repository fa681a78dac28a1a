// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// What the kernels need from the machine. Defined in dispatch.cpp, which is compiled for the baseline: inline functions of std::
// and device.h that are compiled under an instruction set's flags could be the copy that the linker keeps for everybody, so no
// file under those flags calls any.
#pragma once

#include <cstdint>

#include "../core/device.h"

namespace sparseconv {

// cpu.for_each with the body behind a pointer.
void run_blocks(const Cpu&, int64_t n, void (*body)(void*, int64_t), void* context);

void* allocate_aligned(int64_t bytes);  // 64-byte aligned, throws std::bad_alloc
void free_aligned(void*);

}  // namespace sparseconv
