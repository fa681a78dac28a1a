# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""How an operator is registered: schema, CPU kernel, fake kernel and derivative.

`Library.define` with an own Autograd-key kernel is the registration with the least host time per call. Derivatives call the
operators again, so they can be differentiated too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

library = torch.library.Library("sparseconv", "DEF")
below_autograd = torch._C._AutoDispatchBelowAutograd


def define(schema: str, kernel: Any, fake: Any, autograd: Any = None) -> None:
    """Registers sparseconv::<schema>; `autograd` is the kernel that records, None for operators without a derivative."""
    name = schema.split("(")[0]
    library.define(schema)
    for key in ("CPU", "CUDA"):
        library.impl(name, kernel, key)
    torch.library.register_fake(f"sparseconv::{name}", fake, lib=library)
    if autograd is not None:
        library.impl(name, autograd, "Autograd")


def records(*tensors: Tensor | None) -> bool:
    """Whether a call with these tensors has to be recorded for a backward pass."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def recording(name: str, function: type[torch.autograd.Function], inputs: int) -> Any:
    """The Autograd kernel of sparseconv::name: `function` where one of the first `inputs` arguments asks for a gradient."""

    def autograd(*args: Any) -> Any:
        if records(*args[:inputs]):
            return function.apply(*args)
        with below_autograd():
            return getattr(torch.ops.sparseconv, name).default(*args)

    return autograd


def unwatched(*tensors: Tensor | None) -> bool:
    """Whether a call with these tensors may go straight to the kernel that the dispatcher would find.

    A call through the dispatcher costs 4 to 7 microseconds, twice for a recorded one, a third of a small layer's time. It is
    needed where somebody looks on or tensors are more than plain ones: torch.compile, modes, functorch, the profiler, subclasses.
    """
    return (
        not torch.compiler.is_compiling()
        and all(x is None or type(x) is Tensor or type(x) is Parameter for x in tensors)
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._autograd._profiler_enabled()
    )
