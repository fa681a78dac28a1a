# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Networks for inference: batch norms folded into the convolutions before them, ReLUs in place.

Which norm follows which convolution is read from the network's own code: the forward of every container is traced symbolically
(torch.fx), its children being opaque. That gives every call of every module; a pair is folded only where these calls leave no
doubt, and what cannot be traced is left as it is.
"""

from __future__ import annotations

import copy
import inspect
import operator
import sys
from collections import Counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from .compat.spconv.convolution import SparseConvolution as SpconvConvolution
from .compat.spconv.functional import kernel_weight
from .convert.spconv_layers import SpeaksSpconv
from .nn import BatchNorm, Identity, ReLU
from .nn.sparse_convolution import SparseConvolution
from .tensor import SparseTensor

Model = TypeVar("Model", bound=nn.Module)
Convolution = SparseConvolution | SpconvConvolution
Norm = BatchNorm | nn.BatchNorm1d  # networks written for spconv apply torch's norm to the features
# What a network's own code raises when it meets a proxy: len() and int() of one, a branch on one, a comparison of shapes.
NOT_UNDERSTOOD = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def fuse(model: Model) -> Model:
    """A copy of `model` for inference whose batch norms in evaluation mode are folded into the convolutions before them.

    A norm is folded where the code of the modules around it shows that it is called once and that its input is the output of
    a convolution that is called once and whose output goes nowhere else. Not folded: norms in training mode or without running
    statistics, modules with hooks or parametrizations, and all below a module whose `forward` torch.fx cannot trace, for
    instance because it branches on values. The folded norm becomes an `Identity`, so modules keep their names; the
    convolution gets a bias. A ReLU that alone reads a folded norm or a sum overwrites it. Call `model.eval()` first; gradients
    still flow.

    Args:
        model: any module; it is not changed.

    Returns:
        The copy, equal to `model` up to rounding.

    Source: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference"
    (CVPR 2018), section 3.2.
    """
    model = copy.deepcopy(model)
    calls = _Calls(model)
    pairs = calls.pairs()
    for relu in calls.relus_of_own_values({norm for _, norm in pairs}):
        relu.inplace = True
    for conv, norm in pairs:
        _fold(conv, norm)
        _replace(model, norm, Identity() if isinstance(norm, BatchNorm) else nn.Identity())
    return model


class _SparseProxy(fx.Proxy):
    """Stands for a tensor while a forward is traced; `isinstance` sees what a network's input is."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return SparseTensor

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), "replace_feature"]  # some networks for spconv ask before they call it

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "features":  # written in place: what the tensor holds would depend on when it is read
            raise AttributeError("features of a traced tensor are set")
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return _Attribute(self, name)

    def __setitem__(self, index: Any, value: Any) -> None:
        _record_setitem(self, index, value)


class _Attribute(fx.proxy.Attribute):
    """What is read of a traced tensor: `x.indices[:, 1:] *= 2` writes into it."""

    def __setitem__(self, index: Any, value: Any) -> None:
        _record_setitem(self, index, value)


def _record_setitem(proxy: fx.Proxy, index: Any, value: Any) -> None:
    proxy.tracer.create_proxy("call_function", operator.setitem, (proxy, index, value), {})


class _Tracer(fx.Tracer):
    """Records the calls of one module's children, which are not entered."""

    def __init__(self) -> None:
        # The package's functions (not its classes) are recorded too: `cat` compares sites, which a trace cannot.
        package = sys.modules[__package__ or "sparseconv"]
        super().__init__(autowrap_functions=tuple(filter(inspect.isfunction, vars(package).values())))
        self._autowrap_search.append(package)  # also where they are called as sparseconv.cat

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _SparseProxy(node, self)

    def create_arg(self, a: Any) -> Any:
        # Arrays of NumPy (a spatial shape) are constants that no graph holds; only the calls matter here.
        return str(a) if isinstance(a, np.ndarray | np.generic) else super().create_arg(a)


def _opaque(module: nn.Module) -> bool:
    """Whether a module calls no other one: a layer, or a list that is never called itself."""
    return not any(True for _ in module.children()) or isinstance(module, nn.ModuleList | nn.ModuleDict)


class _Calls:
    """All calls that the containers of a model make, as far as they can be traced."""

    def __init__(self, model: nn.Module) -> None:
        self.graphs: dict[nn.Module, fx.Graph] = {}
        self.doubtful: set[nn.Module] = set()  # below a module that could not be traced
        for module in model.modules():
            if _opaque(module):
                continue
            try:
                self.graphs[module] = _Tracer().trace(module)
            except NOT_UNDERSTOOD:
                self.doubtful.update(module.modules())
        self.sites: dict[
            nn.Module, tuple[nn.Module, fx.Node]
        ] = {}  # of a called module: a caller and the call
        self.count: Counter[nn.Module] = Counter()
        for caller, graph in self.graphs.items():
            for node in graph.nodes:
                if node.op == "call_module":
                    called = self._called(caller, node)
                    self.sites[called] = (caller, node)
                    self.count[called] += 1
                elif node.op == "get_attr":  # a weight or a module that is used by hand
                    owner = caller.get_submodule(str(node.target).rpartition(".")[0])
                    self.doubtful.add(owner)

    @staticmethod
    def _called(caller: nn.Module, node: fx.Node) -> nn.Module:
        return caller.get_submodule(str(node.target))

    def pairs(self) -> list[tuple[Convolution, Norm]]:
        """The convolutions whose output goes to one norm and nowhere else, with that norm."""
        found = []
        for module in self.sites:
            if isinstance(module, Convolution) and self._foldable_conv(module):
                norm = self._reader(*self.sites[module]) or self._norm_of_features(*self.sites[module])
                if isinstance(norm, Norm) and self._foldable_norm(norm):
                    found.append((module, norm))
        return found

    def relus_of_own_values(self, folded: set[Norm]) -> list[ReLU]:
        """The ReLUs that alone read the output of a folded norm or a sum: a fresh array, which they may overwrite."""
        readers = [self._reader(*self.sites[norm]) for norm in folded]
        for caller, graph in self.graphs.items():
            for node in graph.nodes:
                if node.op == "call_function" and node.target is operator.add:
                    readers.append(self._reader(caller, node))
        return [m for m in readers if type(m) is ReLU and self._clear(m)]

    def _clear(self, module: nn.Module) -> bool:
        """Whether a module is called once, in a known place, and nobody listens to it."""
        hooks: tuple[Any, ...] = (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
        return self.count[module] == 1 and module not in self.doubtful and not any(hooks)

    def _foldable_conv(self, conv: Convolution) -> bool:
        known = (SparseConvolution.forward, SpeaksSpconv.forward, SpconvConvolution.forward)
        if not self._clear(conv) or type(conv).forward not in known or parametrize.is_parametrized(conv):
            return False
        return not isinstance(conv, SpconvConvolution) or conv.act_type.name == "None_"

    def _foldable_norm(self, norm: Norm) -> bool:
        return (
            self._clear(norm)
            and type(norm).forward in (BatchNorm.forward, nn.BatchNorm1d.forward)
            and not norm.training
            and norm.running_mean is not None
            and norm.running_var is not None
            and not parametrize.is_parametrized(norm)
        )

    def _norm_of_features(self, caller: nn.Module, node: fx.Node) -> nn.Module | None:
        """The norm in `x.replace_feature(norm(x.features))`, where nothing else reads x, the value of `node`."""
        users = sorted(node.users, key=lambda user: user.op)
        if [user.target for user in users] != [getattr, "replace_feature"] or users[0].args != (
            node,
            "features",
        ):
            return None
        read, put = users
        norm = next(iter(read.users), None)
        if (
            norm is None
            or norm.op != "call_module"
            or norm.args != (read,)
            or norm.kwargs
            or len(read.users) != 1
        ):
            return None
        return self._called(caller, norm) if put.args == (node, norm) and list(norm.users) == [put] else None

    def _reader(self, caller: nn.Module, node: fx.Node) -> nn.Module | None:
        """The one module that gets the value of `node` as its only input, through containers too; None if there is none."""
        if len(node.users) != 1:
            return None
        user = next(iter(node.users))
        if user.op == "output":  # the caller's own result: look at who called it
            if user.args != (node,) or caller not in self.sites or not self._clear(caller):
                return None
            return self._reader(*self.sites[caller])
        if user.op != "call_module" or user.args != (node,) or user.kwargs:
            return None
        called = self._called(caller, user)
        graph = self.graphs.get(called)
        if graph is None:
            return called
        inputs = [inner for inner in graph.nodes if inner.op == "placeholder"]
        return self._reader(called, inputs[0]) if len(inputs) == 1 and self._clear(called) else None


def _fold(conv: Convolution, norm: Norm) -> None:
    """Gives `conv` the weight and bias that make it conv followed by norm; computed in float64."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a norm without running statistics cannot be folded")

    def wide(x: Tensor | None, default: float) -> Tensor:
        return norm.running_mean.new_full((), default).double() if x is None else x.detach().double()  # type: ignore[union-attr]

    scale = wide(norm.weight, 1.0) * torch.rsqrt(wide(norm.running_var, 1.0) + norm.eps)  # [C_out]
    bias = (wide(conv.bias, 0.0) - wide(norm.running_mean, 0.0)) * scale + wide(norm.bias, 0.0)
    weight, learns = conv.weight, conv.weight.requires_grad
    # New parameters, not new values: another module may share the old ones.
    wide_weight = weight.detach().double()
    if isinstance(conv, SpconvConvolution):
        scaled = wide_weight.clone(memory_format=torch.contiguous_format)
        matrix = scaled.view(conv.in_channels, conv.out_channels) if conv.conv1x1 else kernel_weight(scaled)
        matrix.mul_(scale)  # a view of `scaled`
    else:
        scaled = wide_weight * scale
    conv.weight = nn.Parameter(scaled.to(weight.dtype), learns)
    conv.bias = nn.Parameter(bias.to(weight.dtype), learns)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts `new` wherever `old` stands in `model`, in its mode."""
    new.train(old.training)
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
