# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Channels followed through one run of a network, from the weights that make them to the weights that read them.

Every axis of a tensor may carry the channel id of each of its positions. An operator's rule (`rules.py`) says which ids it
ties and what its result carries. An operator without a rule freezes the channels that go into it: they are left unpruned,
and the reason names the operator and the module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from .calls import Call, CallObserver
from .channel_ids import ChannelIds, Ids

Axes = list[Ids | None]  # one entry per axis of a tensor
Rule = Callable[["ChannelFollower", Any, Any, Any], None]  # (follower, args, kwargs, out)


class ChannelFollower(CallObserver):
    """While active, follows channels through `model`; the ids of its weights' axes are in `tensors`."""

    def __init__(
        self,
        model: nn.Module,
        rules: dict[str, Rule],
        on_call: Callable[[Call], None] = lambda _: None,
        ids: ChannelIds | None = None,
        tensors: dict[str, Axes] | None = None,
    ) -> None:
        super().__init__(model, on_call)
        self.ids = ChannelIds() if ids is None else ids
        self.tensors: dict[str, Axes] = {} if tensors is None else tensors
        self._rules = rules
        self._owned = {**self.names, **{id(b): name for name, b in model.named_buffers()}}
        self._axes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._made: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # by factories: no data in them yet
        self._parts: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # views of a part of such a tensor
        self._stack: list[str] = []
        self.op = ""

    # --- what rules use -------------------------------------------------------------------------------------------------

    def axes(self, x: Any) -> Axes:
        """The ids on each axis of `x`; a weight or buffer gets its own when it is first met."""
        name = self._owned.get(id(x))
        if name is None or name in self.flat:
            found = self._axes.get(x)
            return [None] * x.ndim if found is None else found
        if name not in self.tensors:
            self.tensors[name] = [self.ids.new(n) for n in x.shape]
        return self.tensors[name]

    def matrix(self, x: Tensor) -> Axes | None:
        """The ids on the axes of a weight that is read as a matrix (`units.as_matrix`); None for other tensors."""
        name = self._owned.get(id(x))
        if name not in self.flat:
            return None
        if name not in self.tensors:
            self.tensors[name] = [self.ids.new(x.shape[-1]), self.ids.new(x.shape[0])]
        return self.tensors[name]

    def carry(self, x: Tensor, axes: Axes) -> None:
        """Says what `x`, an operator's result, carries."""
        if id(x) not in self._owned and any(a is not None for a in axes):
            self._axes[x] = axes

    def tie(self, first: Ids | None, other: Ids | None) -> Ids | None:
        """Ties two axes that are one; what meets data that nobody follows is frozen."""
        if first is None or other is None or len(first) != len(other):
            for ids in (first, other):
                if ids is not None:
                    self.freeze(ids, "meets data that is not made by a layer")
            return first if other is None else other
        self.ids.tie(first, other)
        return first

    def freeze(self, ids: Ids | None, what: str) -> None:
        """Leaves channels unpruned; the reason names the operator and the module that runs it."""
        if ids is not None:
            self.ids.freeze(ids, f"{self.place()}: {what}")

    def place(self) -> str:
        """Operator and module, for reasons."""
        return f"{self.op or 'the network'} in {self._stack[-1] if self._stack else 'the network'}"

    def foreign(self, count: int) -> Ids:
        """Ids of channels that no layer makes: network inputs, constants."""
        ids = self.ids.new(count)
        self.freeze(ids, "meets data that is not made by a layer")
        return ids

    def is_made(self, x: Tensor) -> bool:
        """Whether `x` came from a factory (new_zeros, ones_like ...), whose size follows the other operand's."""
        return x in self._made

    def mark_made(self, x: Tensor) -> None:
        """Says that `x` came from a factory."""
        self._made[x] = True

    def is_part(self, x: Tensor) -> bool:
        """Whether `x` views a part of a tensor that nobody follows: what is written to it gets out of sight."""
        return x in self._parts

    def mark_part(self, x: Tensor) -> None:
        """Says that `x` is such a view."""
        self._parts[x] = True

    # --- running --------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name
        self.observe(name, args, out)
        self.op = name.split("::")[-1]
        rule = self._rules.get(name) or self._rules.get(name.rstrip("_"))
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = self._rules["pointwise"]
        if rule is not None:
            rule(self, args, kwargs, out)
        else:
            self._unknown(args, kwargs)
        self.op = ""
        return out

    def _unknown(self, args: Any, kwargs: Any) -> None:
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor):
                for ids in self.axes(x) if x.is_floating_point() or x in self._axes else ():
                    self.freeze(ids, "no rule for this operator")

    @contextlib.contextmanager
    def naming(self, model: nn.Module) -> Iterator[None]:
        """Keeps the name of the module that runs, for reasons."""
        hooks = []
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks; the module around it is named
                continue
            hooks.append(module.register_forward_pre_hook(self._enter(name), with_kwargs=True))
            hooks.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._stack.append(name or "the network")
            if isinstance(module, nn.modules.batchnorm._NormBase):
                self._width(name, module, (args, kwargs))

        return enter

    def _width(self, name: str, module: nn.Module, x: Any) -> None:
        """A norm without tensors still knows the number of channels: that number follows them, as if it were a tensor."""
        if any(t is not None and t.ndim for t in (*module._parameters.values(), *module._buffers.values())):
            return
        features = next(tensors_in(x), None)
        ids = self.axes(features)[1] if features is not None and features.ndim > 1 else None
        if ids is not None:
            known = self.tensors.setdefault(f"{name}.num_features", [ids])[0]
            self.tie(known, ids)

    def _leave(self, _module: nn.Module, _args: Any, _out: Any) -> None:
        self._stack.pop()

    def finish(self, outputs: Any) -> None:
        """Freezes the channels that leave the network."""
        for x in tensors_in(outputs):
            for ids in self.axes(x):
                if ids is not None:
                    self.ids.freeze(ids, "output of the network")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in a value, through containers of any class, sparse tensors and plain objects; not through modules."""
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        leaf = waiting.pop()
        if isinstance(leaf, Tensor):
            yield leaf
            continue
        if leaf is None or id(leaf) in seen or isinstance(leaf, str | bytes | int | float | type | nn.Module):
            continue
        seen[id(leaf)] = leaf
        inner = tree_leaves(leaf)
        if not (len(inner) == 1 and inner[0] is leaf):
            waiting += reversed(inner)
            continue
        inner = list(leaf.values()) if isinstance(leaf, Mapping) else []
        inner += list(leaf) if isinstance(leaf, list | tuple | set | frozenset) else []
        inner += vars(leaf).values() if hasattr(leaf, "__dict__") else []
        for kind in type(leaf).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            inner += [getattr(leaf, slot, None) for slot in ([slots] if isinstance(slots, str) else slots)]
        waiting += reversed(inner)
