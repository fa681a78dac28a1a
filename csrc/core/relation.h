// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The one relation between the sites of a layer. Every layer has a fine and a coarse side, and per axis
//
//     fine = coarse * stride - padding + tap * dilation,      tap = 0 .. kernel - 1.
//
// A convolution or a pooling reads the fine side and writes the coarse one; a transposed convolution does the reverse.
// Nothing else in the project re-derives this.
#pragma once

#include <cstdint>

#include "core/device.h"

namespace sparseconv {

struct AxisRelation {
    int64_t kernel = 1, stride = 1, padding = 0, dilation = 1;

    SPARSECONV_HD int64_t fine(int64_t coarse, int64_t tap) const { return coarse * stride - padding + tap * dilation; }

    // The coarse cell that reads `fine` through `tap`, if there is one.
    SPARSECONV_HD bool coarse(int64_t fine, int64_t tap, int64_t* out) const {
        const int64_t scaled = fine + padding - tap * dilation;
        int64_t quotient = scaled / stride;
        if (scaled % stride != 0) return false;
        *out = quotient;
        return true;
    }
};

}  // namespace sparseconv
