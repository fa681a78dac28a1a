# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Weight formats with kernels: weights that take fewer bytes or fewer multiplications than their dense form."""

from .codebook import kmeans_1d, magnitude_mask, share_weights
from .eie import EIEMatrix, expected_filler_rate, pack_eie
from .eie_linear import EIELinear
from .layer import PackedLayer
from .nm import NMWeight, check_nm, nm_mask, pack_nm
from .nm_layers import NMConv, NMLinear
from .nm_mma import fits_mma_sp, mma_sp_operands
from .permutation import kept_magnitude, search_permutation
from .quantized import QuantizedWeight, quantize_weight
from .quantized_layers import QuantizedConv, QuantizedLinear, quantize
from .swapping import swap, to_dense
from .to_vectors import VectorLayer, VectorReport, to_vectors, vector_gain
from .vector_layers import VectorSparseConv, VectorSparseLinear
from .vectors import VectorWeight, pack_vectors, vector_mask

__all__ = [
    "EIELinear",
    "EIEMatrix",
    "NMConv",
    "NMLinear",
    "NMWeight",
    "PackedLayer",
    "QuantizedConv",
    "QuantizedLinear",
    "QuantizedWeight",
    "VectorLayer",
    "VectorReport",
    "VectorSparseConv",
    "VectorSparseLinear",
    "VectorWeight",
    "check_nm",
    "expected_filler_rate",
    "fits_mma_sp",
    "kept_magnitude",
    "kmeans_1d",
    "magnitude_mask",
    "mma_sp_operands",
    "nm_mask",
    "pack_eie",
    "pack_nm",
    "pack_vectors",
    "quantize",
    "quantize_weight",
    "search_permutation",
    "share_weights",
    "swap",
    "to_dense",
    "to_vectors",
    "vector_gain",
    "vector_mask",
]
