# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The weight format of EIE: pack, unpack, and its size to the bit.

Source: Han et al., "EIE: Efficient Inference Engine on Compressed Deep Neural Network" (ISCA 2016), section III, and its author's
packer (RalphMao/EIE-simulator, script/layer_dump.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ops import eie as ops
from .codebook import CODEBOOK_SIZE

POINTER_TYPES = {16: torch.int16, 32: torch.int32}


@dataclass(frozen=True)
class EIEMatrix:
    """A matrix [rows, cols] whose rows are dealt out to processing elements (PEs): PE k has rows k, k + pes, k + 2 pes ...

    Attributes:
        entries: uint8 [E], PE after PE, in each column after column: code << 4 | zeros. `zeros` of the PE's own rows lie between
            an entry and the one before it in its column; more than 15 are taken 16 at a time by fillers (code 0, zeros 15).
        pointers: [pes, cols + 1], where each column's entries begin and end, counted from the PE's first: int32, or int16
            that holds the bits of a uint16.
        codebook: [16] float32; entry 0 is 0.
        rows: of the matrix.
    """

    entries: Tensor
    pointers: Tensor
    codebook: Tensor
    rows: int

    @property
    def cols(self) -> int:
        """Columns, the inputs of a layer."""
        return self.pointers.shape[1] - 1

    @property
    def pes(self) -> int:
        """Processing elements."""
        return self.pointers.shape[0]

    @property
    def pointer_bits(self) -> int:
        """16 or 32."""
        return self.pointers.element_size() * 8

    @property
    def fillers(self) -> int:
        """Entries that only say that zeros follow."""
        return int((self.entries < 16).sum())

    @property
    def nonzeros(self) -> int:
        """Entries that are weights."""
        return len(self.entries) - self.fillers

    def size_bits(self) -> dict[str, int]:
        """Bits by part: entries, fillers, pointers, codebook, and their total; what the arrays hold, without rounding."""
        fillers = 8 * self.fillers
        parts = {
            "entries": 8 * len(self.entries) - fillers,
            "fillers": fillers,
            "pointers": self.pointer_bits * self.pes * (self.cols + 1),
            "codebook": 32 * CODEBOOK_SIZE,
        }
        return {**parts, "total": sum(parts.values())}

    def entries_per_column(self) -> Tensor:
        """[pes, cols] int32: how many entries, fillers included, a PE goes through for a column."""
        return ops.wide(self.pointers).diff(dim=1)

    def codes(self) -> Tensor:
        """[rows, cols] uint8, 0 where the weight is zero."""
        return ops.unpack(self.entries, self.pointers, self.rows)

    def decode(self) -> Tensor:
        """The dense matrix [rows, cols], float32: exactly codebook[codes]."""
        return self.codebook.detach()[self.codes().int()]

    def repack(self, pes: int, *, pointer_bits: int = 16) -> EIEMatrix:
        """The same matrix dealt out to another number of PEs; arguments as of `pack_eie`."""
        return pack_eie(self.codes(), self.codebook, pes=pes, pointer_bits=pointer_bits)

    def check(self) -> EIEMatrix:
        """Itself.

        Raises:
            ValueError: where the arrays are not a matrix in this format: shapes, pointers that run backwards or past the entries,
                rows past the last, fillers that are none, a codebook that is not finite or does not begin with 0.
            TypeError: where an array has another type.
        """
        _check_arrays(self)
        error = ops.find_error(self.entries, self.pointers, self.rows)
        if not error and int(ops.wide(self.pointers)[:, -1].sum(dtype=torch.int64)) != len(self.entries):
            error = f"the pointers count other than {len(self.entries)} entries"
        if error:
            raise ValueError(f"not an EIE matrix: {error}")
        return self

    def with_codebook(self, codebook: Tensor) -> EIEMatrix:
        """The same codes with other values."""
        return replace(self, codebook=codebook)


def _check_arrays(matrix: EIEMatrix) -> None:
    arrays = {
        "entries": (matrix.entries, (torch.uint8,), 1),
        "pointers": (matrix.pointers, tuple(POINTER_TYPES.values()), 2),
        "codebook": (matrix.codebook, (torch.float32,), 1),
    }
    for name, (array, types, axes) in arrays.items():
        if array.dtype not in types:
            raise TypeError(
                f"EIE {name} must be {' or '.join(str(t) for t in types)}, got {array.dtype}".replace(
                    "torch.", ""
                )
            )
        if array.dim() != axes:
            raise ValueError(f"EIE {name} must have {axes} axes, got shape {list(array.shape)}")
    if min(matrix.pointers.shape) < 1 or matrix.rows < 0:
        raise ValueError(
            f"EIE pointers must be [pes, cols + 1] with pes >= 1, got {list(matrix.pointers.shape)}"
        )
    codebook = matrix.codebook.detach()
    if len(codebook) != CODEBOOK_SIZE or float(codebook[0]) != 0 or not bool(codebook.isfinite().all()):
        raise ValueError(
            f"an EIE codebook must be [{CODEBOOK_SIZE}], finite, and begin with 0, got {codebook.tolist()[:17]}"
        )


def pack_eie(codes: Tensor, codebook: Tensor, *, pes: int = 64, pointer_bits: int = 16) -> EIEMatrix:
    """Packs a matrix of codes.

    Args:
        codes: [rows, cols] uint8, 0 to 15; 0 is a zero weight.
        codebook: [16] float32, entry 0 is 0, finite.
        pes: processing elements, at least 1; more than there are rows leave some without any.
        pointer_bits: 16 or 32, the least width of a pointer. Where a PE has more than 65,535 entries it is 32.

    Raises:
        ValueError, TypeError: for other shapes, values or types; for more than 2**31 - 1 entries in a PE.
    """
    if codes.dtype != torch.uint8:
        raise TypeError(f"codes must be uint8, got {codes.dtype}")
    if codes.dim() != 2 or (codes.numel() > 0 and int(codes.max()) >= CODEBOOK_SIZE):
        raise ValueError(f"codes must be [rows, cols] of values 0 to 15, got shape {list(codes.shape)}")
    if not isinstance(pes, int) or pes < 1 or pointer_bits not in POINTER_TYPES:
        raise ValueError(
            f"pes must be a positive int and pointer_bits 16 or 32, got {pes} and {pointer_bits}"
        )
    entries, pointers = ops.pack(codes.contiguous(), pes)
    if pointer_bits == 16 and int(pointers[:, -1].max()) <= 0xFFFF:
        pointers = pointers.to(torch.int16)  # keeps the low 16 bits
    matrix = EIEMatrix(entries, pointers, codebook, codes.shape[0])
    _check_arrays(matrix)
    return matrix


def expected_filler_rate(density: float, local_rows: int) -> float:
    """Fillers for each weight that is not zero, of independent weights in columns of so many rows of a PE.

    A weight at local row i needs a k-th filler if the 16 k rows before it are zero: the mean over i of the sum over
    k = 1 .. floor(i / 16) of (1 - density)^(16 k). For long columns that is q / (1 - q) with q = (1 - density)^16.
    """
    q = (1 - density) ** 16
    return sum(q**k * (local_rows - 16 * k) for k in range(1, (local_rows - 1) // 16 + 1)) / max(
        local_rows, 1
    )
