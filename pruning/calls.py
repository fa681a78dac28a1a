# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The calls in which a network multiplies by its weights, seen while it runs.

Everything that depends on data is read from these calls: pairs of each tap, multiply-accumulates, the inputs that a
criterion looks at. They are seen below autograd, operator by operator, so it does not matter how the network's code is
written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Forward = Callable[[nn.Module, Any], Any]  # (model, scan) -> outputs

# Operators that hand on a weight in another view or type.
_VIEWS = frozenset(
    "aten::t aten::transpose aten::permute aten::detach aten::alias aten::view aten::_to_copy aten::contiguous "
    "aten::clone aten::unsqueeze aten::squeeze aten::_unsafe_view aten::select".split()
)
CONV, LINEAR, DENSE = "conv", "linear", "dense"
MATRIX = (-2, -1)  # axes of `units.as_matrix`, which kernels of one cell are read as


@dataclass(frozen=True)
class Call:
    """One product with a weight.

    Attributes:
        name: the weight's name in the model, such as "stem.0.weight".
        kind: "conv" (weight [K, C_in / g, C_out]), "linear" ([C_out, C_in], or its transpose) or "dense" (torch's convolutions).
        features: what is multiplied, [n_in, C_in] (dense: [B, C_in, *shape]).
        out: the result, [n_out, C_out] (dense: [B, C_out, *shape]).
        pairs, tap_offsets: of the kernel map, int32 [P, 2] and int64 [K + 1]; None unless kind is "conv".
        groups: of the channels.
        macs: multiply-accumulates, exact: the sum over taps of pairs * C_in * C_out / groups.
        window: of a dense convolution: (stride, padding, dilation, transposed, output_padding); None for other kinds.
        transposed: the weight of a product is [C_in, C_out], as in x @ W; of a dense convolution [C_in, C_out / g, *k].
        axes: that read and make channels, where the weight is [C_out, *k, C_in], as in spconv's layers: (last, 0), or `MATRIX`.
    """

    name: str
    kind: str
    features: Tensor
    out: Tensor
    pairs: Tensor | None
    tap_offsets: Tensor | None
    groups: int
    macs: int
    window: tuple[Any, ...] | None = None
    transposed: bool = False
    axes: tuple[int, int] | None = None


class CallObserver(TorchDispatchMode):
    """While active, calls `on_call` for every product with a parameter of `model`."""

    def __init__(self, model: nn.Module, on_call: Callable[[Call], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        parameters = dict(model.named_parameters())
        self.names = {id(p): name for name, p in parameters.items()}
        self._layouts = {name: (p.shape, p.stride()) for name, p in parameters.items()}
        self.flat = read_as_matrix(model)
        self._views: dict[
            int, tuple[Tensor, str]
        ] = {}  # views of weights; kept, so that their ids stay theirs
        self._on_call = on_call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.observe(func._schema.name, args, out)
        return out

    def weight_name(self, x: Any) -> str | None:
        """The parameter that `x` is, or is a view of."""
        return self.names.get(id(x)) or self._views.get(id(x), (None, None))[1]

    def observe(self, op: str, args: Any, out: Any) -> None:
        """Looks at one operator that has run."""
        if op in _VIEWS and isinstance(out, Tensor):
            name = self.weight_name(args[0])
            if name is not None and id(out) not in self.names:
                self._views[id(out)] = (out, name)
            return
        call = self._read(op, args, out)
        if call is not None:
            self._on_call(call)

    def _spconv_axes(self, name: str, weight: Tensor) -> tuple[int, int] | None:
        """The axes of a weight [C_out, *k, C_in] that a convolution got as a view [K, C_in, C_out]; None for other weights."""
        shape, stride = self._layouts[name]
        taps, c_in, c_out = weight.shape
        as_stored = (shape, stride) == (weight.shape, weight.stride())
        if as_stored or len(shape) < 3 or (shape[0], shape[-1]) != (c_out, c_in):
            return None
        return (len(shape) - 1, 0) if weight.stride() == (c_in, 1, taps * c_in) else None

    def _read(self, op: str, args: Any, out: Any) -> Call | None:
        if op == "sparseconv::gather_gemm":
            features, weight, _, pairs, offsets, *_ = args
            name, groups = self.weight_name(weight), args[8]
            if name is None:
                return None
            macs = len(pairs) * weight.shape[1] * weight.shape[2]
            axes = self._spconv_axes(name, weight)
            return Call(name, CONV, features, out, pairs, offsets, groups, macs, axes=axes)
        if op in ("aten::addmm", "aten::mm"):
            features, weight = args[-2:]
            name = self.weight_name(weight)
            if name is None:
                return None
            macs = features.shape[0] * weight.numel()
            if name in self.flat and weight.ndim == 2:
                return Call(name, LINEAR, features, out, None, None, 1, macs, transposed=True, axes=MATRIX)
            if len(self._layouts[name][0]) != 2:
                return None
            as_stored = self._layouts[name] == (weight.shape, weight.stride())
            return Call(name, LINEAR, features, out, None, None, 1, macs, transposed=as_stored)
        if op == "aten::convolution":
            features, weight = args[:2]
            name, transposed, groups = self.weight_name(weight), args[6], args[8]
            if name is None:
                return None
            cells = (features if transposed else out)[:, 0].numel()
            macs, window = cells * weight.numel(), tuple(args[3:8])
            return Call(name, DENSE, features, out, None, None, groups, macs, window, transposed)
        return None


def read_as_matrix(model: nn.Module) -> set[str]:
    """Names of the weights of spconv's layers that are products with the rows: spconv calls these layers conv1x1."""
    layers = {name: m for name, m in model.named_modules() if getattr(m, "conv1x1", False) is True}
    weights = {id(m._parameters.get("weight")) for m in layers.values()}
    return {name for name, p in model.named_parameters() if id(p) in weights and p.ndim > 2}


def call(model: nn.Module, scan: Any, forward: Forward | None = None) -> Any:
    """Runs `model` on one scan: `forward(model, scan)`, or `model(*scan)` for a tuple and `model(scan)` otherwise."""
    if forward is not None:
        return forward(model, scan)
    return model(*scan) if isinstance(scan, tuple) else model(scan)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`in_evaluation`, without gradients."""
    with in_evaluation(model), torch.no_grad():
        yield


@contextlib.contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; every module gets its own mode back, and its buffers where its forward changes them."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, key, value, value._version, value.clone())
        for module in model.modules()
        for key, value in module._buffers.items()
        if value is not None
    ]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, key, value, version, copy in buffers:
            if module._buffers.get(key) is not value:
                module._buffers[key] = value
            if value._version != version:
                value.detach().copy_(copy)


def observe(
    model: nn.Module, scans: Iterable[Any], on_call: Callable[[Call], None], forward: Forward | None = None
) -> None:
    """Runs `model` in evaluation mode over `scans` and calls `on_call` for every product with one of its weights."""
    with evaluating(model):
        for scan in scans:
            with CallObserver(model, on_call):
                call(model, scan, forward)
