# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Sums and ReLUs of bfloat16 beside torch's own, over all of its numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import sparseconv
from sparseconv import SparseTensor, _native, elementwise
from sparseconv import nn as snn


def every_number() -> Tensor:
    """All 65,536 values of bfloat16, infinities and NaN among them; some more, so that blocks and registers end within."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    return torch.cat([bits, bits[:77]]).view(torch.bfloat16)


def same(got: Tensor, want: Tensor) -> None:
    assert got.dtype == want.dtype
    assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 300, 2**16 + 77])
def test_as_torch_does(n: int) -> None:
    x = every_number()[:n]
    y = every_number()[torch.randperm(2**16 + 77, generator=torch.Generator().manual_seed(n))][:n]
    same(elementwise.relu(x), torch.relu(x))
    same(elementwise.add_(x.clone(), y), x + y)
    into = x.clone()
    assert elementwise.relu(into, inplace=True) is into
    same(into, torch.relu(x))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_core_is_asked_and_threads_change_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(f: Callable[..., None]) -> Callable[..., None]:
        return lambda *arrays: (calls.append(f.__name__), f(*arrays))[1]

    for name in ("add_bf16", "relu_bf16"):
        monkeypatch.setattr(_native, name, counted(getattr(_native, name)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = SparseTensor(torch.randn(4000, 33).bfloat16(), rows(4000))
        want = torch.relu(x.features + x.features)
        x += x
        same(snn.ReLU()(x).features, want)
    finally:
        torch.set_num_threads(before)
    assert calls == ["add_bf16", "relu_bf16"]


def rows(n: int) -> Tensor:
    return torch.stack([torch.zeros(n), torch.arange(n), torch.zeros(n), torch.zeros(n)], 1).int()


def test_views_other_types_and_other_shapes_go_to_torch() -> None:
    x = torch.randn(6, 8).bfloat16()
    same(elementwise.relu(x.t()), torch.relu(x.t()))
    same(elementwise.add_(x.t().clone().t(), x), x + x)
    same(elementwise.add_(x.clone(), x[0]), x + x[0])  # broadcast
    same(elementwise.add_(x.float(), x), x.float() + x)
    same(elementwise.relu(x.half()), torch.relu(x.half()))


def test_gradients_and_who_is_overwritten() -> None:
    x = torch.randn(5, 4).bfloat16().requires_grad_()
    elementwise.relu(x).sum().backward()
    assert x.grad is not None
    same(x.grad, (x > 0).bfloat16())
    weight = torch.ones(4, requires_grad=True, dtype=torch.bfloat16)
    kept = torch.randn(5, 4).bfloat16()
    product = kept * weight
    elementwise.relu(kept, inplace=True)  # nothing records it, but the product's gradient needs what it was
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_inference_mode_and_compile() -> None:
    with torch.inference_mode():
        x = torch.randn(5, 4).bfloat16()
        want = torch.relu(x + x)
        same(elementwise.relu(elementwise.add_(x, x), inplace=True), want)
    x = torch.randn(5, 4).bfloat16()
    same(torch.compile(elementwise.relu, backend="eager", fullgraph=True)(x), torch.relu(x))


def test_a_network_in_bfloat16_is_the_one_that_torch_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = sparseconv.models.MinkUNet14(4, 5, width=0.25).eval().bfloat16()
    x = SparseTensor(torch.randn(500, 4).bfloat16(), rows(500))
    with torch.no_grad():
        got = network(x).features
        monkeypatch.setattr(elementwise, "_ours", lambda *tensors: False)
        same(got, network(x).features)


def test_the_core_refuses_other_types_and_sizes() -> None:
    x = torch.ones(4).bfloat16()
    with pytest.raises(ValueError, match="bfloat16"):
        _native.relu_bf16(x, torch.ones(4))
    with pytest.raises(ValueError, match="as many elements"):
        _native.add_bf16(x, torch.ones(3).bfloat16(), x)
