# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""A fully connected layer in the EIE format."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import eie as ops
from ..tensor import SparseTensor
from .codebook import CODEBOOK_SIZE, magnitude_mask, share_weights
from .eie import EIEMatrix, pack_eie


class EIELinear(nn.Module):
    """`torch.nn.Linear` with pruned weights that share 15 values, 4 bits each, beside 4-bit distances between them.

    The kernel skips columns whose activation is zero and decodes on the fly; it is made for one sample or a few, for many
    `to_linear()` is faster. The state dict holds the packed weight (`entries`, `pointers`), `shape`, `codebook` and `bias`. The
    number of PEs is one of storage: for running, the matrix is dealt out anew to the threads. All float32, on the CPU.

    Outputs equal the decoded layer's: a NaN or infinite activation meets the zero weights too and makes NaN of most outputs.
    A sample's bits depend neither on the threads nor on the PEs nor on the rest of its batch.

    `codebook` is a parameter: training moves the shared values (Deep Compression, section 3.3), the positions stay; entry 0
    has gradient 0.

    Args:
        in_features, out_features: as in `torch.nn.Linear`.
        bias: whether there is one.
        pes: processing elements of the stored form; taken from a state dict that is loaded.

    A new layer is all zeros; `from_linear` makes one from a dense layer.
    """

    entries: Tensor
    pointers: Tensor
    shape: Tensor  # [2]: out_features, in_features
    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, pes: int = 64) -> None:
        super().__init__()
        if in_features < 0 or out_features < 0:
            raise ValueError(
                f"EIELinear: features must not be negative, got {in_features} and {out_features}"
            )
        self.in_features, self.out_features = in_features, out_features
        self.codebook = nn.Parameter(torch.zeros(CODEBOOK_SIZE))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.register_buffer("shape", None)
        for name in ("entries", "pointers"):
            self.register_buffer(name, None)
        none = torch.zeros(out_features, in_features, dtype=torch.uint8)
        self._set(pack_eie(none, self.codebook.detach(), pes=pes))

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, *, density: float | None = None, pes: int = 64, pointer_bits: int = 16
    ) -> EIELinear:
        """Prunes a layer by magnitude, shares its weights and packs it.

        Args:
            linear: weights are converted to float32.
            density: the share of weights that stay, round(density * numel) of them but for those that are zero already; None
                keeps all that are not zero, as of a layer that was pruned before.
            pes, pointer_bits: as in `pack_eie`.

        Raises:
            ValueError: for a density outside 0 to 1 and for weights that are not finite.
            TypeError: for something that is no Linear.
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"from_linear takes a torch.nn.Linear, got {type(linear).__name__}")
        weight = linear.weight.detach().float().cpu()
        if density is not None:
            weight = weight * magnitude_mask(weight, density)
        codes, codebook = share_weights(weight)
        matrix = pack_eie(codes, codebook, pes=pes, pointer_bits=pointer_bits)
        return cls.from_matrix(matrix, linear.bias)

    @classmethod
    def from_matrix(cls, matrix: EIEMatrix, bias: Tensor | None = None) -> EIELinear:
        """A layer of a packed matrix, which is checked, and a bias [rows]."""
        matrix.check()
        if bias is not None and bias.shape != (matrix.rows,):
            raise ValueError(f"bias must be [{matrix.rows}], got {list(bias.shape)}")
        layer = cls(0, 0, bias is not None)
        layer.in_features, layer.out_features = matrix.cols, matrix.rows
        layer.codebook = nn.Parameter(matrix.codebook.detach().clone())
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().float().cpu().clone())
        layer._set(matrix)
        return layer

    @property
    def matrix(self) -> EIEMatrix:
        """The packed weight as it is stored."""
        return EIEMatrix(self.entries, self.pointers, self.codebook.detach(), self.out_features)

    def to_linear(self) -> nn.Linear:
        """The decoded dense layer; its weight is exactly codebook[codes]."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        linear.weight = nn.Parameter(self.matrix.decode())
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().clone())
        return linear

    def train_codebook(self, mode: bool = True) -> EIELinear:
        """Lets the codebook and the bias take gradients, or not; returns itself."""
        for parameter in self.parameters():
            parameter.requires_grad_(mode)
        return self

    def forward(self, x: Any) -> Any:
        """[..., in_features] to [..., out_features], or the features of a `SparseTensor`.

        Raises:
            ValueError: where the last axis is not in_features.
            TypeError: where x is not float32.
        """
        if isinstance(x, SparseTensor):
            return x.replace(self.forward(x.features))
        if x.dtype != torch.float32:
            raise TypeError(f"EIELinear: x must be float32, got {x.dtype}")
        if x.dim() < 1 or x.shape[-1] != self.in_features:
            raise ValueError(f"EIELinear: x must be [..., {self.in_features}], got {list(x.shape)}")
        if not torch.compiler.is_compiling() and torch.get_num_threads() != self._run[0]:
            self._deal()
        _, *run = self._run  # read once: another Python thread may deal anew
        out = ops.linear(
            x.reshape(math.prod(x.shape[:-1]), self.in_features),
            self.codebook,
            self.bias,
            self.out_features,
            (run[0], run[1]),
            (self.entries, self.pointers),
        )
        return out.reshape(*x.shape[:-1], self.out_features)

    @property
    def run_arrays(self) -> tuple[Tensor, Tensor]:
        """Entries, padded, and int32 pointers that the kernel runs from, on the threads of the last call."""
        return self._run[1], self._run[2]

    def run_bytes(self) -> int:
        """Bytes of `run_arrays` and the codebook."""
        arrays = (*self.run_arrays, self.codebook)
        return sum(array.numel() * array.element_size() for array in arrays)

    def extra_repr(self) -> str:
        """Sizes for repr()."""
        matrix = self.matrix
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"nonzeros={matrix.nonzeros}, pes={matrix.pes}, bytes={matrix.size_bits()['total'] // 8}"
        )

    def _set(self, matrix: EIEMatrix) -> None:
        self.entries, self.pointers = matrix.entries, matrix.pointers
        self.shape = torch.tensor([self.out_features, self.in_features])
        self._deal()

    def _deal(self) -> None:
        threads = torch.get_num_threads()
        self._run = (threads, *ops.repack(self.entries, self.pointers, self.out_features, threads))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, *args: Any
    ) -> None:
        parts = [state_dict.get(prefix + name) for name in ("entries", "pointers", "codebook")]
        tensors = [part.detach().cpu() for part in parts if isinstance(part, Tensor)]
        if len(tensors) == len(parts):
            entries, pointers, codebook = tensors
            size, own = state_dict.get(prefix + "shape"), self.shape.tolist()
            if isinstance(size, Tensor) and size.tolist() != own:
                raise ValueError(
                    f"{prefix}shape: the layer is [out, in] = {own}, the state dict's is {size.tolist()}"
                )
            if pointers.dim() == 2 and pointers.shape[1] != self.in_features + 1:
                raise ValueError(
                    f"{prefix}pointers must be [pes, {self.in_features + 1}], got {list(pointers.shape)}"
                )
            EIEMatrix(entries, pointers, codebook, self.out_features).check()
            self._set(EIEMatrix(entries.clone(), pointers.clone(), codebook, self.out_features))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
