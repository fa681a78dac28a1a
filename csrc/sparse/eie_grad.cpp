// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// The gradients of eie_linear. For one sample and one column both follow from 16 sums: those of grad_out over the rows of each code.
#include <vector>

#include "eie_kernels.h"

namespace sparseconv {

void eie_linear_grad(const Cpu& cpu, const EieMatrix& m, const float* codebook, const float* x, const float* grad_out,
                     int64_t batch, float* grad_x, float* grad_codebook) {
    const Chunks chunks{m.cols, 64};
    std::vector<double> parts(static_cast<size_t>(chunks.count()) * 16, 0.0);
    cpu.for_each(chunks.count(), [&](int64_t chunk) {
        double* const part = parts.data() + chunk * 16;
        for (int64_t c = chunks.begin(chunk); c < chunks.end(chunk); ++c) {
            for (int64_t b = 0; b < batch; ++b) {
                const float* const grad = grad_out + b * m.rows;
                double sums[16] = {};
                for (int64_t pe = 0; pe < m.pes; ++pe) {
                    const int32_t* const pointers = m.pointers + pe * (m.cols + 1);
                    const uint8_t* const own = m.entries + m.starts[pe];
                    int64_t row = pe;
                    for (int32_t e = pointers[c]; e < pointers[c + 1]; ++e, row += m.pes) {
                        row += (own[e] & 15) * m.pes;
                        sums[own[e] >> 4] += static_cast<double>(grad[row]);
                    }
                }
                double sum = 0.0;
                for (int code = 1; code < 16; ++code) {
                    sum += static_cast<double>(codebook[code]) * sums[code];
                    part[code] += static_cast<double>(x[b * m.cols + c]) * sums[code];
                }
                grad_x[b * m.cols + c] = static_cast<float>(sum);
            }
        }
    });
    for (int code = 0; code < 16; ++code) {
        double sum = 0.0;
        for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) sum += parts[static_cast<size_t>(chunk) * 16 + code];
        grad_codebook[code] = static_cast<float>(sum);
    }
}

}  // namespace sparseconv
