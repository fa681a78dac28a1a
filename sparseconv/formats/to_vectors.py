# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Which layers of a pruned network pay as vector-sparse ones, and the network with these swapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..ops.vectors import BLOCK
from .layer import Dense, canonical_weight
from .swapping import Model, swap
from .vector_layers import VectorSparseConv, VectorSparseLinear
from .vectors import VectorWeight, pack_vectors


@dataclass(frozen=True)
class VectorLayer:
    """What `to_vectors` did with one layer.

    Attributes:
        name, shape: of the layer, and of its weight [K, C_in / groups, C_out].
        density: the share of rows of 16 output channels that are not zero.
        gain: the cost model's: how many times faster the kernel over stored rows is in inference.
        chosen: whether the layer was swapped.
        dense_bits, bits: of the weight before and now.
        reason: why it was not swapped.
    """

    name: str
    shape: tuple[int, ...]
    density: float
    gain: float
    chosen: bool
    dense_bits: int
    bits: int
    reason: str = ""


@dataclass(frozen=True)
class VectorReport:
    """What `to_vectors` did with every convolution and linear layer, in the network's order."""

    layers: tuple[VectorLayer, ...]

    def __str__(self) -> str:
        rows = [("layer", "weight", "density", "gain", "form", "bytes")]
        for x in self.layers:
            form = "vectors" if x.chosen else f"dense: {x.reason}"
            shape = " x ".join(str(n) for n in x.shape)
            rows.append((x.name, shape, f"{x.density:.3f}", f"{x.gain:.2f}", form, str(x.bits // 8)))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


def vector_gain(weight: VectorWeight) -> float:
    """How many times faster than the dense kernel the stored rows should be, from shape and density alone.

    Both kernels cost so many multiply-adds a pair of rows as they multiply, and a fixed part for the rows that they read and
    write. The constants are fitted to SubM 3x3x3 at 64 and 128 channels (docs/vectors.md) and say nothing of few rows or of other
    processors.
    """
    taps, channels, c_out = weight.shape
    groups = weight.groups
    if not taps * channels * c_out:
        return 1.0
    rows = channels * groups + c_out
    dense = 1.05 * channels * c_out + 1.5 * rows
    if groups > 1 and channels == 1 and groups == c_out:  # depthwise
        dense = float(rows)
    stored = 1.03 * weight.stored * BLOCK / taps + 6.5 * rows
    return dense / stored


def to_vectors(
    model: Model, min_gain: float = 1.1, *, ignore: Sequence[str] = ()
) -> tuple[Model, VectorReport]:
    """A copy of `model` whose pruned layers hold vector-sparse weights where that should pay.

    The rows of 16 output channels that are zero become absent, for good: training moves the stored ones only. Layers with hooks,
    parametrizations or a forward of their own are left as they are.

    Args:
        model: a network after `Plan.apply` with `pruning.Vectors(16)`, or any with rows of zeros; it is not changed.
        min_gain: a layer is swapped where `vector_gain` says at least this; 0 swaps all.
        ignore: names or patterns ("head", "up.*") of layers to leave.

    Returns:
        The copy, and what was done with each layer and why.
    """
    if not min_gain >= 0:
        raise ValueError(f"to_vectors: min_gain must be at least 0, got {min_gain}")
    found: dict[str, VectorLayer] = {}

    def describe(name: str, layer: Dense, reason: str) -> tuple[VectorWeight, bool]:
        groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        packed = pack_vectors(canonical_weight(layer), groups=groups, name=name or "weight")
        gain = vector_gain(packed)
        dense_bits = layer.weight.numel() * layer.weight.element_size() * 8
        if not reason and gain < min_gain:
            reason = f"gain below {min_gain:g}"
        bits = dense_bits if reason else packed.size_in_bits
        found[name] = VectorLayer(
            name, packed.shape, packed.density, gain, not reason, dense_bits, bits, reason
        )
        return packed, not reason

    def make(name: str, layer: Dense) -> nn.Module | None:
        packed, chosen = describe(name, layer, "")
        if not chosen:
            return None
        return (
            VectorSparseLinear(layer, packed)
            if isinstance(layer, nn.Linear)
            else VectorSparseConv(layer, packed)
        )

    result, left = swap(model, make, ignore)
    for name, reason in left.items():
        layer = model.get_submodule(name)
        if isinstance(layer, Dense):
            describe(name, layer, reason)
    order = [name for name, _ in model.named_modules() if name in found]
    return result, VectorReport(tuple(found[name] for name in order))
