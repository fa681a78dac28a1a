# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Networks built on spconv, the wheel or the drop-in, with our layers in the place of its own, and back."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .. import nn as snn
from ..nn.pool import Pool
from ..nn.sparse_convolution import SparseConvolution
from .layouts import weight_from, weight_to
from .modules import full_weight
from .spconv_layers import SpeaksSpconv, adapted

DROP_IN = "sparseconv.compat.spconv"
_CONVOLUTION = ("subm", "inverse", "transposed", "indice_key", "kernel_size")
_POOL = ("subm", "indice_key", "kernel_size", "dilation")


def from_spconv(model: nn.Module) -> nn.Module:
    """Return a copy of a network built on spconv in which its convolutions and pooling layers are ours.

    Everything else stays, the network's own forward included: it gets and makes spconv's tensors as before (see
    `spconv_layers`), module and parameter names are the same, weights are permuted to our layout. `sparseconv.fuse` and
    `sparseconv.pruning` then see our layers. Rows come in another order after a strided layer, as everywhere with us.

    Args: model, built on the spconv wheel or on `sparseconv.compat.spconv`, or one of their layers.

    Raises ValueError, naming the module: an inverse layer without a strided layer of its indice_key or with several that
    differ, a dilated transposed layer (spconv's output shape ignores dilation there), a fused activation. At run
    time, unlike spconv, our layers refuse duplicate rows and rows outside spatial_shape.
    """
    model = copy.deepcopy(model)
    partners = list(_strided(model))

    def convert(name: str, module: Any) -> nn.Module | None:
        if _is_convolution(module):
            return _convolution(name, module, partners)
        return _pool(name, module) if _is_pool(module) else None

    return _swap(model, convert)


def to_spconv(model: nn.Module, spconv: ModuleType | None = None) -> nn.Module:
    """Return a copy of a network in which our convolutions and pooling layers are spconv's: the way back.

    Layers that `from_spconv` made become what they were, with today's channels and values; taps that were pruned come out as
    zero weights. Other convolutions of ours become the spconv layer that computes the same, without an indice_key.

    Args: model; spconv, where the classes come from, such as `spconv.pytorch`; None = where a layer came from, else
    `sparseconv.compat.spconv`.

    Raises ValueError, naming the module, where spconv has no such layer (groups, the "minkowski" anchor, even submanifold
    kernels, dilated transposed layers, an inverse layer or pooling that came from elsewhere).
    """
    return _swap(copy.deepcopy(model), lambda name, module: _to_spconv(name, module, spconv))


def _swap(model: nn.Module, convert: Callable[[str, nn.Module], nn.Module | None]) -> nn.Module:
    """Put what `convert` makes of a module in its place, everywhere where it stands."""
    made: dict[nn.Module, nn.Module] = {}
    for name, module in model.named_modules():
        new = convert(name, module)
        if new is not None:
            made[module] = new
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child in made:
                parent._modules[key] = made[child]
    return made.get(model, model)


# --- from spconv ----------------------------------------------------------------------------------------------------------


def _marker(module: nn.Module) -> type | None:
    """spconv's SparseModule, the wheel's or the drop-in's, of which a module is one."""
    return next((c for c in type(module).__mro__ if c.__name__ == "SparseModule"), None)


def _is_convolution(module: nn.Module) -> bool:
    return (
        _marker(module) is not None
        and not isinstance(module, SpeaksSpconv)
        and all(hasattr(module, name) for name in (*_CONVOLUTION, "weight"))
    )


def _is_pool(module: nn.Module) -> bool:
    return (
        _marker(module) is not None
        and not isinstance(module, SpeaksSpconv)
        and "Pool" in type(module).__name__
        and all(hasattr(module, name) for name in _POOL)
    )


def _strided(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """(indice_key, geometry) of the layers that an inverse one may undo."""
    for module in model.modules():
        if not (_is_convolution(module) or _is_pool(module)):
            continue
        layer: Any = module
        if layer.indice_key is not None and not layer.subm and not getattr(layer, "inverse", False):
            yield layer.indice_key, {**_geometry(layer), "transposed": getattr(layer, "transposed", False)}


def _geometry(module: Any) -> dict[str, tuple[int, ...]]:
    names = ("kernel_size", "stride", "padding", "dilation")
    return {name: _ints(getattr(module, name), module.ndim) for name in names}


def _ints(values: Any, ndim: int) -> tuple[int, ...]:
    return (int(values),) * ndim if isinstance(values, int) else tuple(int(v) for v in values)


def _convolution(name: str, module: Any, partners: list[tuple[str, dict[str, Any]]]) -> nn.Module:
    ndim, kernel = module.ndim, _ints(module.kernel_size, module.ndim)
    own = _geometry(module)
    if not str(getattr(module, "act_type", "None_")).endswith("None_"):
        raise ValueError(f"from_spconv: {name}: a fused activation ({module.act_type}) has no counterpart")
    flat = math.prod(kernel) == 1 and (module.subm or math.prod(own["stride"]) == 1)
    settings: dict[str, Any] = {}
    if module.subm or flat:  # spconv multiplies the rows of a 1x1 layer with stride 1, whatever its kind
        kind, settings["dilation"] = "SubMConv", own["dilation"]
    elif module.inverse:
        kind, settings = "InverseConv", _partner(name, module, partners)
    else:
        kind = "ConvTranspose" if module.transposed else "Conv"
        settings = {key: own[key] for key in ("stride", "padding", "dilation")}
        if module.transposed:
            settings["output_padding"] = _ints(module.output_padding, ndim)
            if any(d != 1 for d in own["dilation"]):
                raise ValueError(
                    f"from_spconv: {name}: a transposed layer with dilation {own['dilation']} has no counterpart"
                )
    bias = module.bias is not None
    layer = adapted(getattr(snn, f"{kind}{ndim}d"), _marker(module))(
        module.in_channels,
        module.out_channels,
        kernel,
        bias=bias,
        device=module.weight.device,
        dtype=module.weight.dtype,
        **settings,
    )
    try:
        weight = weight_from("spconv", module.weight.detach(), kernel, stride=own["stride"], submanifold=flat)
    except ValueError as error:
        raise ValueError(f"from_spconv: {name}: {error}") from None
    _take(layer, module, weight)
    layer.indice_key = module.indice_key
    arguments: dict[str, Any] = {"kernel_size": kernel, "bias": bias, "indice_key": module.indice_key}
    if not module.inverse:
        arguments |= {key: own[key] for key in ("stride", "padding", "dilation")}
        if any(settings.get("output_padding", ())):  # an argument that not every class has
            arguments["output_padding"] = settings["output_padding"]
    layer.origin = (_class_name(module), arguments)
    return layer.train(module.training)  # type: ignore[no-any-return]


def _class_name(module: Any) -> str:
    """The public class that a layer is of, also where it is of a class derived from it."""
    public = (
        c.__name__ for c in type(module).__mro__ if c.__name__.endswith("d") and c.__name__[-2].isdigit()
    )
    return next(public, type(module).__name__)


def _partner(name: str, module: Any, partners: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Stride, padding and dilation of the layer that an inverse layer undoes."""
    found = [geometry for key, geometry in partners if key == module.indice_key]
    kernel = _ints(module.kernel_size, module.ndim)
    if not found or any(geometry != found[0] for geometry in found):
        raise ValueError(
            f"from_spconv: {name}: expected one strided layer with indice_key={module.indice_key!r} that it undoes, "
            f"got {found or 'none'}"
        )
    if found[0]["transposed"] or found[0]["kernel_size"] != kernel:
        raise ValueError(
            f"from_spconv: {name}: cannot undo {found[0]} with kernel_size={kernel}: expected the same kernel and a "
            "layer that is not transposed"
        )
    return {key: found[0][key] for key in ("stride", "padding", "dilation")}


def _take(layer: Any, module: Any, weight: Tensor) -> None:
    """Values, and whether they learn."""
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.weight.requires_grad_(module.weight.requires_grad)
        if module.bias is not None:
            layer.bias.copy_(module.bias)
            layer.bias.requires_grad_(module.bias.requires_grad)


def _pool(name: str, module: Any) -> nn.Module:
    own = _geometry(module)
    if module.subm:
        raise ValueError(f"from_spconv: {name}: submanifold pooling has no counterpart")
    kind = "MaxPool" if "Max" in type(module).__name__ else "AvgPool"
    layer = adapted(getattr(snn, f"{kind}{module.ndim}d"), _marker(module))(
        own["kernel_size"], own["stride"], own["padding"], dilation=own["dilation"]
    )
    layer.indice_key = module.indice_key
    layer.origin = (_class_name(module), {**own, "indice_key": module.indice_key})
    return layer.train(module.training)  # type: ignore[no-any-return]


# --- to spconv ------------------------------------------------------------------------------------------------------------


def _to_spconv(name: str, layer: Any, spconv: ModuleType | None) -> nn.Module | None:
    if isinstance(layer, SpeaksSpconv):
        class_name, arguments = layer.origin
        marker: Any = type(layer)._marker  # type: ignore[attr-defined]
        engine = spconv or importlib.import_module(
            marker.__module__.removesuffix(".modules") if marker else DROP_IN
        )
    elif isinstance(layer, SparseConvolution):
        class_name, arguments = _plain(name, layer)
        engine = spconv or importlib.import_module(DROP_IN)
    elif isinstance(layer, Pool):
        raise ValueError(f"to_spconv: {name}: spconv's pooling differs (its maximum begins at zero)")
    else:
        return None
    make = getattr(engine, class_name)
    if not isinstance(layer, SparseConvolution):
        return make(**arguments).train(layer.training)  # type: ignore[no-any-return]
    kernel, c_in, c_out = layer.kernel_size, layer.weight.shape[1] * layer.groups, layer.weight.shape[2]
    new = make(c_in, c_out, **{**arguments, "bias": layer.bias is not None})
    new = new.to(layer.weight.device, layer.weight.dtype)
    try:
        weight = weight_to(
            "spconv",
            full_weight(layer),
            kernel,
            stride=layer.stride,
            submanifold=layer.submanifold,
            groups=layer.groups,
        )
    except ValueError as error:
        raise ValueError(f"to_spconv: {name}: {error}") from None
    _take(new, layer, weight)
    return new.train(layer.training)  # type: ignore[no-any-return]


def _plain(name: str, layer: SparseConvolution) -> tuple[str, dict[str, Any]]:
    """The spconv class and arguments for a layer that did not come from spconv."""
    g = layer.geometry
    if layer.needs_target:
        raise ValueError(
            f"to_spconv: {name}: an inverse layer of spconv needs an indice_key, this one has none"
        )
    if g.anchor != "torch" or layer.groups != 1:
        raise ValueError(f"to_spconv: {name}: spconv has no groups and no anchor but its own, got {layer}")
    settings: dict[str, Any] = {"kernel_size": g.kernel_size, "dilation": g.dilation}
    if layer.submanifold:
        if any(k % 2 == 0 for k in g.kernel_size):
            raise ValueError(f"to_spconv: {name}: spconv's submanifold kernels are odd, got {g.kernel_size}")
        return f"SubMConv{layer.ndim}d", settings
    settings |= {"stride": g.stride, "padding": g.padding}
    if layer.transposed:
        if any(d != 1 for d in g.dilation):
            raise ValueError(
                f"to_spconv: {name}: spconv's transposed layers ignore dilation, got {g.dilation}"
            )
        if any(g.output_padding):
            raise ValueError(f"to_spconv: {name}: spconv's transposed layers take no output_padding, got {g}")
        return f"SparseConvTranspose{layer.ndim}d", settings
    return f"SparseConv{layer.ndim}d", settings
