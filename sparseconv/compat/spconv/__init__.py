# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: F401, N811, A004
"""spconv 2.x on this engine: `import sparseconv.compat.spconv as spconv` in place of `import spconv.pytorch as spconv`."""

from . import constants, conv, core, functional, hash, modules, ops, pool, quantization, tables, utils
from .constants import VERSION as __version__
from .constants import Activation, AlgoHint, ConvAlgo, SpconvError
from .conv import (
    SparseConv1d,
    SparseConv2d,
    SparseConv3d,
    SparseConv4d,
    SparseConvTranspose1d,
    SparseConvTranspose2d,
    SparseConvTranspose3d,
    SparseConvTranspose4d,
    SparseInverseConv1d,
    SparseInverseConv2d,
    SparseInverseConv3d,
    SparseInverseConv4d,
    SubMConv1d,
    SubMConv2d,
    SubMConv3d,
    SubMConv4d,
)
from .convolution import SparseConvolution
from .core import IndiceData, SparseConvTensor
from .modules import (
    Identity,
    RemoveGrid,
    SparseBatchNorm,
    SparseIdentity,
    SparseModule,
    SparseReLU,
    SparseSequential,
    SparseSyncBatchNorm,
    ToDense,
    assign_name_for_sparse_modules,
    is_sparse_conv,
    is_spconv_module,
)
from .pool import (
    SparseAvgPool,
    SparseAvgPool1d,
    SparseAvgPool2d,
    SparseAvgPool3d,
    SparseGlobalAvgPool,
    SparseGlobalMaxPool,
    SparseMaxPool,
    SparseMaxPool1d,
    SparseMaxPool2d,
    SparseMaxPool3d,
    SparseMaxPool4d,
)
from .tables import AddTable, AddTableMisaligned, ConcatTable, JoinTable

__all__ = [name for name in dir() if not name.startswith("_")] + ["__version__"]
