# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""N:M sparsity: of each run of m consecutive input channels of a tap and output channel, at most n weights are not zero.

Source: Mishra et al., "Accelerating sparse deep neural networks" (2021), which has 2:4 along the input of matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


def check_pattern(n: int, m: int) -> None:
    """Raise ValueError unless 0 < n <= m."""
    for name, value in (("n", n), ("m", m)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"N:M: {name} must be an int, got {value!r}")
    if not 0 < n <= m:
        raise ValueError(f"N:M: 0 < n <= m must hold, got n={n}, m={m}")


def _runs(weight: Tensor, m: int, fill: float = 0.0) -> Tensor:
    """[K, C_in, C_out] as [K, C_out, ceil(C_in / m), m], the last run filled up."""
    if not isinstance(weight, Tensor) or weight.ndim != 3:
        raise ValueError(
            f"N:M takes a weight [K, C_in, C_out], got {list(getattr(weight, 'shape', ())) or type(weight)}"
        )
    taps, channels_in, channels_out = weight.shape
    runs = -(-channels_in // m)
    rows = pad(weight.transpose(1, 2), (0, runs * m - channels_in), value=fill)
    return rows.reshape(taps, channels_out, runs, m)


def check_nm(weight: Tensor, n: int = 2, m: int = 4, name: str = "weight") -> None:
    """Raise ValueError, naming the first place, unless a weight [K, C_in, C_out] is N:M along C_in (a NaN is not zero)."""
    check_pattern(n, m)
    counts = (_runs(weight, m) != 0).sum(3)
    wrong = (counts > n).nonzero()
    if len(wrong):
        tap, out, run = wrong[0].tolist()
        last = min((run + 1) * m, weight.shape[1]) - 1
        raise ValueError(
            f"{name} is not {n}:{m}: input channels {run * m} to {last} of tap {tap} and output channel {out} hold "
            f"{int(counts[tap, out, run])} non-zeros ({len(wrong)} such places)"
        )


def nm_mask(weight: Tensor, n: int = 2, m: int = 4) -> Tensor:
    """bool [K, C_in, C_out]: True for the n largest |w| of each run of m input channels; ties go to the lower channel.

    That keeps the most of sum |w| and of sum w^2 that an N:M mask can. A last run shorter than m keeps n too, or all.
    """
    check_pattern(n, m)
    runs = _runs(weight.detach().abs(), m, fill=-1.0)
    order = torch.argsort(runs, dim=3, descending=True, stable=True)
    mask = torch.zeros_like(runs, dtype=torch.bool).scatter_(3, order[..., :n], True)
    return _joined(mask, weight.shape[1])


def _joined(runs: Tensor, channels_in: int) -> Tensor:
    """[K, C_out, G, m] back to [K, C_in, C_out]."""
    return runs.flatten(2)[:, :, :channels_in].transpose(1, 2).contiguous()


@dataclass(frozen=True, eq=False)
class NMWeight:
    """A weight [K, C_in, C_out] as its n kept values of each run of m input channels and their places.

    Attributes:
        shape: [K, C_in, C_out]; C_in is that of one group of channels.
        n, m: the pattern.
        values: [K, C_out, ceil(C_in / m), n], floating point.
        metadata: uint8 [K, C_out, bytes]: places in their runs, ascending, ceil(log2 m) bits each, from the lowest bit up, each
            row in whole bytes. For 2:4 four bits a run, the lower place first: what sparse tensor cores call metadata, in 8-, 16-
            or 32-bit words of either of which the lowest nibble belongs to the first run.

    Raises:
        ValueError: parts that do not fit each other, places that do not ascend or lie outside, values behind the last channel.
    """

    shape: tuple[int, int, int]
    n: int
    m: int
    values: Tensor
    metadata: Tensor

    def __post_init__(self) -> None:
        check_pattern(self.n, self.m)
        taps, channels_in, channels_out = self.shape
        runs = -(-channels_in // self.m)
        expected = (taps, channels_out, runs, self.n)
        if tuple(self.values.shape) != expected or not self.values.is_floating_point():
            raise ValueError(
                f"N:M weight: values must be floating point {list(expected)}, got {self.values.dtype} {list(self.values.shape)}"
            )
        size = (taps, channels_out, metadata_bytes(channels_in, self.n, self.m))
        if tuple(self.metadata.shape) != size or self.metadata.dtype != torch.uint8:
            raise ValueError(
                f"N:M weight: metadata must be uint8 {list(size)}, got {self.metadata.dtype} {list(self.metadata.shape)}"
            )
        if self.metadata.is_meta or not self.values.numel():
            return
        places = self.places()
        if bool((places >= self.m).any()) or bool((places.diff(dim=3) <= 0).any()):
            raise ValueError(f"N:M weight: the places of a run must ascend below {self.m}")
        beyond = places[:, :, -1] + (runs - 1) * self.m >= channels_in
        if bool((beyond & (self.values[:, :, -1] != 0)).any()):
            raise ValueError(f"N:M weight: there are values behind the last of {channels_in} input channels")

    def places(self) -> Tensor:
        """int64 [K, C_out, runs, n]: the place of each value in its run."""
        return _places(self.values, self.metadata, self.m)

    def decode(self) -> Tensor:
        """The weight [K, C_in, C_out] in the type of the values, zeros where nothing was kept."""
        return decode_nm(self.values, self.metadata, self.shape[1], self.m)

    @property
    def size_in_bits(self) -> int:
        """K * C_out * (runs * n * bits of a value + 8 * ceil(runs * n * ceil(log2 m) / 8)): 9/16 of dense for 2:4 of 16 bits."""
        return self.values.numel() * self.values.element_size() * 8 + self.metadata.numel() * 8


def decode_nm(values: Tensor, metadata: Tensor, channels_in: int, m: int) -> Tensor:
    """What `NMWeight.decode` returns, from its parts, which are trusted."""
    dense = values.new_zeros(*values.shape[:3], m)
    return _joined(dense.scatter(3, _places(values, metadata, m), values), channels_in)


def _places(values: Tensor, metadata: Tensor, m: int) -> Tensor:
    runs, n = values.shape[2:]
    return _from_bits(metadata, runs * n, place_bits(m)).view(values.shape)


def place_bits(m: int) -> int:
    """Bits of a place in a run of m: ceil(log2 m)."""
    return (m - 1).bit_length()


def metadata_bytes(channels_in: int, n: int, m: int) -> int:
    """Bytes of the metadata of one tap and output channel."""
    return -(-(-(-channels_in // m) * n * place_bits(m)) // 8)


def pack_nm(weight: Tensor, n: int = 2, m: int = 4, name: str = "weight") -> NMWeight:
    """Packs a weight [K, C_in, C_out] that is N:M along C_in; `decode()` gives it back, bit for bit.

    Where a run has fewer than n non-zeros, the first free places from n on fill up, then those from 0: for 2:4 the nibbles are
    those of `torch.sparse.to_sparse_semi_structured` (1110 for an empty run, 1000 for one weight in place 0, 1001 in place 1).
    Zeros of negative sign are kept where there is room for them, and become +0 where not.

    Raises:
        ValueError: a weight that is not N:M; the message says where.
    """
    check_nm(weight, n, m, name)
    if not weight.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {weight.dtype}")
    runs = _runs(weight.detach(), m)
    free = m - (torch.arange(m, device=runs.device) - n) % m  # how soon a free place is taken
    rank = (2 * (runs != 0) + torch.signbit(runs)).clamp(max=2) * (m + 1) + free
    places = rank.topk(n, 3).indices.sort(3).values
    taps, channels_in, channels_out = weight.shape
    return NMWeight(
        (taps, channels_in, channels_out),
        n,
        m,
        runs.gather(3, places).contiguous(),
        _to_bits(places.flatten(2), place_bits(m)),
    )


def _to_bits(numbers: Tensor, bits: int) -> Tensor:
    """Numbers int64 [..., L] of `bits` bits each as bytes uint8 [..., ceil(L * bits / 8)], lowest bits first."""
    stream = (numbers[..., None] >> torch.arange(bits, device=numbers.device) & 1).flatten(-2)
    stream = pad(stream, (0, -stream.shape[-1] % 8)).unflatten(-1, (-1, 8))
    packed: Tensor = (stream << torch.arange(8, device=numbers.device)).sum(-1).to(torch.uint8)
    return packed


def _from_bits(packed: Tensor, count: int, bits: int) -> Tensor:
    stream = (packed[..., None].long() >> torch.arange(8, device=packed.device) & 1).flatten(-2)
    stream = stream[..., : count * bits].unflatten(-1, (count, bits))
    numbers: Tensor = (stream << torch.arange(bits, device=packed.device)).sum(-1)
    return numbers
