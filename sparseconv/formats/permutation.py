# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""An order of channels in which N:M sparsity keeps more: small weights meet small ones no longer, where large ones stand alone.

Source: Pool and Yu, "Channel permutations for N:M sparsity" (NeurIPS 2021), from which the search over pairs of runs is taken.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from .nm import check_pattern

MOST_KICKED = 8  # runs: with more, kicks gain 1e-4 of what is kept and take several times as long
MOST_SPLITS = 1000  # subsets that are tried for a pair of runs; where there are more, single exchanges


def kept_magnitude(magnitude: Tensor, n: int = 2, m: int = 4) -> float:
    """The sum of the n largest entries of each run of m columns: what the best N:M mask keeps of magnitudes [R, C], C = G m."""
    check_pattern(n, m)
    _check(magnitude, m)
    runs = magnitude.double().unflatten(1, (-1, m))
    return float(runs.topk(n, 2).values.sum())


def _check(magnitude: Tensor, m: int) -> None:
    if not isinstance(magnitude, Tensor) or magnitude.ndim != 2 or magnitude.shape[1] % m:
        got = list(magnitude.shape) if isinstance(magnitude, Tensor) else type(magnitude).__name__
        raise ValueError(f"magnitudes must be [R, C] with C a multiple of {m}, got {got}")
    if not bool((magnitude >= 0).all()) or not bool(torch.isfinite(magnitude).all()):
        raise ValueError("magnitudes must be finite and not negative")


def search_permutation(
    magnitude: Tensor, n: int = 2, m: int = 4, *, rows: int = 2048, kicks: int = 4
) -> Tensor:
    """An order of the columns that keeps at least as much as the given one.

    Two runs at a time are split anew in the best of all ways, pair after pair, until no pair gains. With two runs that is the
    optimum; with more a local one, which no other split of two runs betters. From there the channels of three runs are shuffled
    and the search goes on, `kicks` times, and what is worse is taken back. For m above 6, where a pair has too many splits,
    single exchanges are tried in their place. Deterministic.

    Args:
        magnitude: [R, C] of numbers >= 0, such as |w|; C is a multiple of m. Every row counts the same.
        n, m: the pattern.
        rows: the search looks at this many of the rows, evenly spaced; the result is compared with the given order on all.
        kicks: out of local optima, of up to 8 runs.

    Returns:
        int64 [C]: the column that goes to each place; `magnitude[:, result]` keeps more.
    """
    check_pattern(n, m)
    _check(magnitude, m)
    if rows < 1 or kicks < 0:
        raise ValueError(
            f"search_permutation: rows must be at least 1 and kicks at least 0, got {rows} and {kicks}"
        )
    channels = magnitude.shape[1]
    identity = torch.arange(channels)
    if n == m or channels <= m or not magnitude.shape[0]:
        return identity
    few = magnitude.cpu()
    if len(few) > rows:
        few = few[torch.linspace(0, len(few) - 1, rows, dtype=torch.float64).round().long()]
    columns = few.float().t().contiguous()
    order = _search(columns, n, m, kicks)
    better = kept_magnitude(magnitude.cpu()[:, order], n, m) > kept_magnitude(magnitude, n, m)
    return order if better else identity


def _search(columns: Tensor, n: int, m: int, kicks: int) -> Tensor:
    """The order that the search over columns [C, R] ends with."""
    splits = _splits(m)
    best = torch.arange(len(columns)).view(-1, m)
    most = _improve(columns, splits, n, best, torch.ones(len(best), dtype=torch.bool))
    generator = torch.Generator().manual_seed(0)
    for _ in range(kicks if 2 < len(best) <= MOST_KICKED else 0):
        runs = best.clone()
        some = torch.randperm(len(runs), generator=generator)[:3]
        mixed = runs[some].reshape(-1)
        runs[some] = mixed[torch.randperm(len(mixed), generator=generator)].view(-1, m)
        touched = torch.zeros(len(runs), dtype=torch.bool)
        touched[some] = True
        kept = _improve(columns, splits, n, runs, touched)
        if kept > most:
            best, most = runs, kept
    return best.reshape(-1)


def _improve(columns: Tensor, splits: Tensor, n: int, runs: Tensor, changed: Tensor) -> float:
    """Splits pairs of runs [G, m] anew, in place, until none gains; `changed`: where to begin. Returns what is kept."""
    while bool(changed.any()):
        before, changed = changed, torch.zeros_like(changed)
        for a, b in itertools.combinations(range(len(runs)), 2):
            if not (before[a] or before[b] or changed[a] or changed[b]):
                continue  # neither has moved since the pair was tried
            both = torch.cat([runs[a], runs[b]])
            scores = _scores(columns[both], splits, n)
            totals = scores[: len(scores) // 2] + scores[len(scores) // 2 :]
            best = int(totals.argmax())
            if float(totals[best]) > float(totals[0]) * (1 + 1e-6):  # the first split is the present one
                runs[a], runs[b] = both[splits[best]], both[splits[len(totals) + best]]
                changed[a] = changed[b] = True
    return float(columns[runs].topk(n, 1).values.sum(dtype=torch.float64))


def _splits(m: int) -> Tensor:
    """Ways to split 2 m columns into two runs: int64 [2 S, m], all first runs, then all second; the first way is 0 .. m-1."""
    if math.comb(2 * m, m) <= MOST_SPLITS:
        first = [(0, *rest) for rest in itertools.combinations(range(1, 2 * m), m - 1)]
    else:
        whole = tuple(range(m))
        first = [whole]
        first += [(*(c for c in whole if c != i), m + j) for i in range(m) for j in range(m)]
    second = [tuple(c for c in range(2 * m) if c not in chosen) for chosen in map(set, first)]
    return torch.tensor([*first, *second])


def _scores(columns: Tensor, splits: Tensor, n: int) -> Tensor:
    """The sum over rows of the n largest of each choice of columns [2 m, R]: float64 [2 S]."""
    m = splits.shape[1]
    if (n, m) == (2, 4):  # the two largest of four: of each pair the larger, or both of one pair
        a, b, c, d = (columns[splits[:, i]] for i in range(4))
        high, low = torch.maximum(a, b) + torch.maximum(c, d), torch.maximum(a + b, c + d)
        return torch.maximum(high, low).sum(1, dtype=torch.float64)
    chosen = columns[splits]  # [2 S, m, R]
    return chosen.sort(1, descending=True).values[:, :n].sum((1, 2), dtype=torch.float64)
