# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Instruction sets that the kernels are built for."""

from __future__ import annotations

import sparseconv

ORDER = ["generic", "avx2", "avx512", "avx512bf16", "amx"]  # SPARSECONV_ISA lowers, from the best
BEST = str(sparseconv.show_config()["instruction_set"])
HERE = ORDER[: ORDER.index(BEST) + 1]  # what this machine can run
