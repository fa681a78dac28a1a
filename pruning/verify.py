# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Channels that are taken out must equal channels at zero: tried on copies, before anything is promised."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .calls import Forward, call, evaluating
from .follow import tensors_in
from .surgery import cut, keep_of, masks_of, zero
from .units import Units


def verified(
    model: nn.Module, scan: Any, forward: Forward | None, groups: Sequence[Units]
) -> tuple[list[Units], dict[str, str]]:
    """The groups of which a third can be removed as if it were zero, and for the layers of the others the reason."""
    probe, scan = probe_of(model, scan, forward)
    if _differs(probe, scan, forward, groups) is None:
        return list(groups), {}
    good: list[Units] = []
    left: dict[str, str] = {}
    for units in groups:
        reason = _differs(probe, scan, forward, [*good, units])
        if reason is None:
            good.append(units)
        else:
            for layer in units.makers:
                left.setdefault(layer, reason)
    return good, left


def probe_of(model: nn.Module, scan: Any, forward: Forward | None) -> tuple[nn.Module, Any]:
    """A copy that shows differences, and its input.

    Parameters that are constant (a norm that was not trained, a last layer at zero) would hide what comes before them: they get
    random numbers. float64 tells a small difference from rounding; a network that insists on its own type is taken as it is.
    """
    probe = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in probe.parameters():
            if p.is_floating_point() and p.numel() > 1 and bool((p == p.reshape(-1)[0]).all()):
                p.add_(torch.rand(p.shape, generator=generator).to(p))
    try:
        wide = copy.deepcopy(probe).double()
        wide_scan = tree_map(_double, scan)
        with evaluating(wide):
            call(wide, wide_scan, forward)
    except Exception:  # noqa: BLE001  whatever the network's own code raises on another type
        return probe, scan
    return wide, wide_scan


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _differs(model: nn.Module, scan: Any, forward: Forward | None, groups: Sequence[Units]) -> str | None:
    """What is wrong when every third unit of every group is removed; None where it equals the units at zero."""
    gone = [torch.arange(u.count) % 3 == (0 if u.count > 1 else 1) for u in groups]
    masked, smaller = copy.deepcopy(model), copy.deepcopy(model)
    zero(masked, masks_of(model, groups, gone))
    cut(smaller, keep_of(groups, gone))
    expected = outputs_of(masked, scan, forward)
    try:
        got = outputs_of(smaller, scan, forward)
    except Exception as error:  # noqa: BLE001  whatever the network's own code raises on other sizes
        return f"does not run with fewer channels: {error}"
    return difference(expected, got)


def difference(expected: Sequence[Tensor], got: Sequence[Tensor]) -> str | None:
    """What a network's outputs differ in, beyond rounding; None where they are the same."""
    if len(expected) != len(got):
        return f"changes the number of outputs from {len(expected)} to {len(got)}"
    for a, b in zip(expected, got, strict=True):
        if a.shape != b.shape:
            return f"changes the shape of the output from {list(a.shape)} to {list(b.shape)}"
        scale = float(a.abs().max()) if a.numel() else 0.0
        tolerance = 1e-7 if a.dtype == torch.float64 else max(1e-4, 16 * torch.finfo(a.dtype).eps)
        if a.numel() and not float((a - b).abs().max()) <= tolerance * max(scale, 1e-6):
            return "changes the output"
    return None


def outputs_of(model: nn.Module, scan: Any, forward: Forward | None) -> list[Tensor]:
    """The floating-point tensors that a network returns, in evaluation mode."""
    with evaluating(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for networks that draw numbers
        value = call(model, scan, forward)
    found: Iterable[Tensor] = tensors_in(
        (value, scan)
    )  # forward may put results into the input's own dictionary
    return [x for x in found if x.is_floating_point()]
