# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The vector-sparse format against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import same_bits
from vector_cases import (
    rows_of,
    weights,
)

from sparseconv import formats
from sparseconv.formats import pack_vectors


@given(drawn=weights())
def test_round_trip_order_and_size(drawn: tuple[torch.Tensor, int]) -> None:
    weight, groups = drawn
    packed = pack_vectors(weight, groups=groups)
    assert torch.equal(packed.unpack(), weight) and packed.unpack().dtype == weight.dtype
    numbers = weight.double().numpy()
    rows = rows_of(numbers, groups)
    kept = [row for row in rows if numbers[row[0], row[2], row[3]].any()]
    assert packed.rows == len(rows) and packed.stored == len(kept)
    for j, (t, _, c, columns) in enumerate(kept):
        want = np.zeros(16)
        want[: columns.stop - columns.start] = numbers[t, c, columns]
        assert packed.values[j].double().tolist() == want.tolist()
    offsets, channels = packed.lists()
    assert channels.tolist() == [c for _, _, c, _ in kept]
    blocks = packed.blocks
    of_list = [t * blocks + b for t, b, _, _ in kept]
    assert offsets.tolist() == [sum(i < n for i in of_list) for n in range(len(weight) * blocks + 1)]
    element = 8 * weight.element_size()
    assert packed.size_in_bits == -(-len(rows) // 8) * 8 + 16 * len(kept) * element


@given(drawn=weights(), seed=st.integers(0, 99))
def test_a_mask_says_what_is_stored(drawn: tuple[torch.Tensor, int], seed: int) -> None:
    weight, groups = drawn
    mask = torch.from_numpy(np.random.default_rng(seed).random(weight.shape) < 0.05)
    packed = pack_vectors(weight, mask, groups=groups)
    assert torch.equal(packed.unpack(), weight * mask)
    rows = rows_of(mask.numpy(), groups)
    assert packed.stored == sum(mask[t, c, columns].any().item() for t, _, c, columns in rows)


def test_numbers_that_are_not_finite_are_stored() -> None:
    weight = torch.zeros(1, 3, 20)
    weight[0, 0, 3], weight[0, 1, 19] = float("nan"), float("inf")
    packed = pack_vectors(weight)
    assert packed.stored == 2
    same_bits(packed.unpack(), weight)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_vector_wise_nm_mask_keeps_the_largest_rows_of_each_block(groups: int) -> None:
    weight = torch.randn(3, 8, 40 * groups, generator=torch.Generator().manual_seed(0))
    mask = formats.vector_mask(weight, 2, 4, groups=groups)
    numbers = weight.double().numpy()
    for t in range(3):
        for columns in {(r[3].start, r[3].stop) for r in rows_of(numbers, groups)}:
            block = slice(*columns)
            for c in (0, 4):
                norms = np.linalg.norm(numbers[t, c : c + 4, block], axis=1)
                want = np.argsort(-norms)[:2]
                got = mask[t, c : c + 4, block].numpy()
                assert set(np.nonzero(got.all(1))[0]) == set(want) and got.any(1).sum() == 2
    assert pack_vectors(weight, mask, groups=groups).density == 0.5
