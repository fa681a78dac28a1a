# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""A sequence of modules that may mix layers of SparseTensors with torch's own layers."""

from typing import Any

from torch import nn

from ..tensor import SparseTensor


class Sequential(nn.Sequential):
    """`torch.nn.Sequential` that applies torch's plain layers (`torch.nn.ReLU`, ...) to the features.

    Our layers, other containers and modules of your own get the SparseTensor; wrap a module of your own that works on
    [N, C] features in `Rowwise`. Once a layer returns a plain tensor (global pooling), the rest get that tensor.
    """

    def forward(self, input: Any) -> Any:  # noqa: A002  torch's name for it
        """Pass a SparseTensor through the modules in order."""
        x = input
        for module in self:
            if isinstance(x, SparseTensor) and _is_plain(module):
                x = x.replace(module(x.features))
            else:
                x = module(x)
        return x


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is one of torch's layers (or a sequence of them), which know nothing of SparseTensors."""
    # torch.nn.utils derives a class per module (parametrizations, spectral norm): look at the class it came from.
    origin = next(c for c in type(module).__mro__ if not c.__module__.startswith("torch.nn.utils"))
    if getattr(origin, "acts_on_rows", False):
        return True
    if origin is nn.Sequential:
        return all(_is_plain(child) for child in module.children())
    return origin.__module__.startswith("torch.nn.modules.") and not origin.__module__.endswith(".container")
