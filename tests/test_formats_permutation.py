# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""An order of channels of which N:M keeps more: the search against brute force, and networks that compute the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparseconv.pruning.verify import outputs_of
from strategies import close
from torch import nn
from weights import random_weight
from zoo import ZOO, create

from sparseconv import pruning
from sparseconv.formats import (
    kept_magnitude,
    search_permutation,
)

# --- the order of channels -------------------------------------------------------------------------------------------


def partitions(items: tuple[int, ...], m: int) -> Iterator[list[int]]:
    if not items:
        yield []
    for rest in itertools.combinations(items[1:], m - 1) if items else ():
        first = (items[0], *rest)
        for others in partitions(tuple(i for i in items if i not in first), m):
            yield [*first, *others]


@given(
    pattern=st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (2, 3), (1, 1), (2, 2), (4, 8), (2, 5)]),
    runs=st.integers(0, 4),
    rows=st.integers(0, 9),
    seed=st.integers(0, 9999),
)
@settings(max_examples=60)
def test_an_order_is_a_permutation_and_never_worse(
    pattern: tuple[int, int], runs: int, rows: int, seed: int
) -> None:
    n, m = pattern
    x = random_weight((rows, runs * m), seed).abs()
    order = search_permutation(x, n, m)
    assert order.sort().values.tolist() == list(range(runs * m))
    assert kept_magnitude(x[:, order], n, m) >= kept_magnitude(x, n, m)
    few = search_permutation(x, n, m, rows=2)
    assert kept_magnitude(x[:, few], n, m) >= kept_magnitude(x, n, m)
    assert torch.equal(order, search_permutation(x, n, m))
    if runs == 2 and m <= 5 and rows:  # two runs: the best of all
        best = max(kept_magnitude(x[:, p], n, m) for p in partitions(tuple(range(2 * m)), m))
        assert kept_magnitude(x[:, order], n, m) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_an_order_of_three_runs_is_near_the_best_of_all(seed: int) -> None:
    """5775 orders of 12 channels in runs of four: the search finds at least 99 % of what can be gained."""
    x = random_weight((7, 12), seed).abs() ** 3
    best = max(kept_magnitude(x[:, p]) for p in partitions(tuple(range(12)), 4))
    start, got = kept_magnitude(x), kept_magnitude(x[:, search_permutation(x)])
    assert best > start and got - start >= 0.99 * (best - start)


def test_large_channels_spread_over_runs() -> None:
    x = torch.full((5, 16), 0.1)
    x[:, :8] = 1.0  # two runs of large ones, two of small ones: half of the large ones would go
    order = search_permutation(x)
    assert kept_magnitude(x) == pytest.approx(5 * (4 + 0.4))
    assert kept_magnitude(x[:, order]) == pytest.approx(5 * 8)
    with pytest.raises(ValueError, match="multiple of 4"):
        search_permutation(x[:, :6])
    with pytest.raises(ValueError, match="not negative"):
        search_permutation(-x)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_permuted_networks_compute_the_same(name: str) -> None:
    model, x = create(name), ZOO[name].scan()
    analysis = pruning.analyze(model, [x])
    expected = outputs(model, name)
    new, lines = pruning.permute_channels(model, [x], analysis=analysis)
    for a, b in zip(outputs(new, name), expected, strict=True):
        close(a, b, 1e-6)
    assert len(lines) == len(analysis.channels)
    for line in lines:
        assert line.after >= line.before or line.left
    same = [torch.equal(a, b) for a, b in zip(new.parameters(), model.parameters(), strict=True)]
    assert any(line.after > line.before for line in lines) == (not all(same))
    if name in ("UNet", "Residual", "DeepUNet", "Twice"):
        assert all(line.after > line.before for line in lines), lines


def outputs(model: nn.Module, name: str) -> list[torch.Tensor]:
    return [y.detach() for y in outputs_of(model, ZOO[name].scan(), None)]
