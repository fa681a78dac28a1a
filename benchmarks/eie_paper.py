# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What the EIE paper says of its nine layers, and where each figure was read.

Sizes, densities and times are Tables III and IV of Han et al., "EIE: Efficient Inference Engine on Compressed Deep Neural
Network" (ISCA 2016, arXiv 1602.01528). The tables themselves could not be opened when this was written: the figures are the
project's notes, which recorded them from memory. What was read in public text is in READ.
"""

from __future__ import annotations

from dataclasses import dataclass

TABLES = "Tables III and IV of the paper as the project's notes have them, from memory; the tables could not be opened to compare"
READ = {
    "queues": (
        "At a queue depth of 1 about half of the cycles are idle, beyond 8 returns diminish, so 8 was chosen (the text on "
        "figure 8, read at zhcnt4.ilovetranslation.com/PT_BOf6t84X=d); the figure's values were not found."
    ),
    "definition": (
        "Load-balance efficiency is 1 - bubble cycles due to starvation over all computation cycles (same text)."
    ),
    "abstract": (
        "Sparsity saves 10x, weight sharing 8x, skipped zero activations 3x (abstract, read at deepai.org/publication/"
        "eie-efficient-inference-engine-on-compressed-deep-neural-network)."
    ),
    "scaling": "No value of the figure on the number of PEs was found.",
}


@dataclass(frozen=True)
class PaperLayer:
    """A layer of Table III with its times of Table IV, 64 PEs at 800 MHz, batch 1."""

    name: str
    inputs: int
    outputs: int
    weights: float  # share that is not zero, published as a whole percentage
    activations: float  # published with a tenth of a percent
    theoretical_us: float
    actual_us: float


LAYERS = (
    PaperLayer("Alex-6", 9216, 4096, 0.09, 0.351, 28.1, 30.3),
    PaperLayer("Alex-7", 4096, 4096, 0.09, 0.353, 11.7, 12.2),
    PaperLayer("Alex-8", 4096, 1000, 0.25, 0.375, 8.9, 9.9),
    PaperLayer("VGG-6", 25088, 4096, 0.04, 0.183, 28.1, 34.4),
    PaperLayer("VGG-7", 4096, 4096, 0.04, 0.375, 7.9, 8.7),
    PaperLayer("VGG-8", 4096, 1000, 0.23, 0.411, 7.3, 8.4),
    PaperLayer("NT-We", 4096, 600, 0.10, 1.0, 5.2, 8.0),
    PaperLayer("NT-Wd", 600, 8791, 0.11, 1.0, 13.0, 13.9),
    PaperLayer("NT-LSTM", 1201, 2400, 0.10, 1.0, 6.5, 7.5),
)
