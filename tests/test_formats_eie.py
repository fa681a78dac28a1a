# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The EIE format against a packer of dictionaries and loops, and its size and filler rate against formulas."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseconv.formats import (
    EIEMatrix,
    expected_filler_rate,
    kmeans_1d,
    magnitude_mask,
    pack_eie,
    share_weights,
)

CODEBOOK = torch.cat([torch.zeros(1), torch.linspace(-2, 1.75, 15)])


def slow_pack(codes: np.ndarray, pes: int) -> list[list[list[tuple[int, int]]]]:
    """[pe][column] -> its (code, zeros) entries, written down from the description of the format."""
    packed = []
    for pe in range(pes):
        own = codes[pe::pes]
        columns = []
        for column in own.T:
            entries, zeros = [], 0
            for code in column:
                if code == 0:
                    zeros += 1
                    continue
                while zeros > 15:
                    entries.append((0, 15))
                    zeros -= 16
                entries.append((int(code), zeros))
                zeros = 0
            columns.append(entries)
        packed.append(columns)
    return packed


def entries_of(matrix: EIEMatrix) -> list[list[list[tuple[int, int]]]]:
    pointers = matrix.pointers.numpy().astype(np.int64)
    if matrix.pointer_bits == 16:
        pointers &= 0xFFFF
    result, start = [], 0
    for own in pointers:
        columns = [
            [(int(e) >> 4, int(e) & 15) for e in matrix.entries[start + a : start + b]]
            for a, b in itertools.pairwise(own)
        ]
        result.append(columns)
        start += own[-1]
    assert start == len(matrix.entries)
    return result


@st.composite
def code_matrices(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Codes, many of them with the gaps at which fillers begin, and a number of PEs."""
    pes = draw(st.integers(1, 7))
    columns = []
    for _ in range(draw(st.integers(1, 4))):
        gaps = draw(st.lists(st.sampled_from([0, 0, 1, 14, 15, 16, 17, 31, 32, 33, 48]), max_size=4))
        column: list[int] = []
        for gap in gaps:
            column += [0] * gap + [draw(st.integers(1, 15))]
        columns.append(column)
    height = max(len(c) for c in columns) + draw(st.integers(0, 20))
    local = np.array([c + [0] * (height - len(c)) for c in columns], dtype=np.uint8).T.reshape(
        height, len(columns)
    )
    which = draw(st.integers(0, pes - 1))  # the PE whose rows have these gaps; the others' are dense or empty
    codes = np.full((height * pes, len(columns)), draw(st.sampled_from([0, 3])), dtype=np.uint8)
    codes[which::pes] = local
    return codes[: max(len(codes) - draw(st.integers(0, pes - 1)), 0)], pes


@given(code_matrices())
def test_packing_is_the_description_and_comes_back(example: tuple[np.ndarray, int]) -> None:
    codes, pes = example
    matrix = pack_eie(torch.from_numpy(codes.copy()), CODEBOOK, pes=pes)
    assert entries_of(matrix.check()) == slow_pack(codes, pes)
    assert torch.equal(matrix.codes(), torch.from_numpy(codes))
    assert torch.equal(matrix.decode(), CODEBOOK[torch.from_numpy(codes).long()])
    other = matrix.repack(3, pointer_bits=32).check()
    assert (other.pes, other.pointer_bits) == (3, 32) and torch.equal(other.codes(), matrix.codes())


@given(code_matrices())
def test_size_is_the_formula_to_the_bit(example: tuple[np.ndarray, int]) -> None:
    codes, pes = example
    for bits in (16, 32):
        matrix = pack_eie(torch.from_numpy(codes.copy()), CODEBOOK, pes=pes, pointer_bits=bits)
        packed = [entry for pe in slow_pack(codes, pes) for column in pe for entry in column]
        fillers = sum(code == 0 for code, _ in packed)
        size = matrix.size_bits()
        assert size["total"] == 8 * len(packed) + bits * pes * (codes.shape[1] + 1) + 32 * 16
        assert (size["fillers"], size["entries"]) == (8 * fillers, 8 * (len(packed) - fillers))
        arrays = (matrix.entries, matrix.pointers, matrix.codebook)
        assert size["total"] == 8 * sum(a.numel() * a.element_size() for a in arrays)
        assert (matrix.fillers, matrix.nonzeros) == (fillers, int((codes > 0).sum()))


@pytest.mark.parametrize(
    ("gap", "fillers"), [(0, 0), (14, 0), (15, 0), (16, 1), (17, 1), (31, 1), (32, 2), (47, 2), (48, 3)]
)
def test_gaps(gap: int, fillers: int) -> None:
    codes = torch.zeros(gap + 1, 1, dtype=torch.uint8)
    codes[-1] = 9
    matrix = pack_eie(codes, CODEBOOK, pes=1)
    assert (matrix.fillers, int(matrix.entries[-1])) == (fillers, 9 << 4 | gap % 16)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1), (5, 3), (0, 4), (4, 0), (130, 7)])
@pytest.mark.parametrize("fill", ["zero", "dense", "last"])
@pytest.mark.parametrize("pes", [1, 4, 64])
def test_shapes(shape: tuple[int, int], fill: str, pes: int) -> None:
    codes = torch.full(shape, 7 if fill == "dense" else 0, dtype=torch.uint8)
    if fill == "last" and codes.numel():
        codes[-1, -1] = 15
    matrix = pack_eie(codes, CODEBOOK, pes=pes).check()
    assert torch.equal(matrix.codes(), codes) and matrix.pointers.shape == (pes, shape[1] + 1)
    assert matrix.nonzeros == int((codes > 0).sum())


def test_pointers_widen_where_16_bits_overflow() -> None:
    codes = torch.ones(256, 257, dtype=torch.uint8)
    assert pack_eie(codes[:, :255], CODEBOOK, pes=1).pointer_bits == 16  # 65,280 entries
    fits = pack_eie(codes[:255], CODEBOOK, pes=1)  # 65,535
    assert fits.pointer_bits == 16 and torch.equal(fits.check().codes(), codes[:255])
    wide = pack_eie(codes, CODEBOOK, pes=1)  # 65,792
    assert wide.pointer_bits == 32 and torch.equal(wide.check().codes(), codes)
    assert pack_eie(codes, CODEBOOK, pes=2).pointer_bits == 16


@pytest.mark.parametrize(
    ("density", "rows", "pes"), [(0.04, 4096, 1), (0.09, 4096, 1), (0.2, 2048, 1), (0.09, 4096, 64)]
)
def test_filler_rate_is_the_theory(density: float, rows: int, pes: int) -> None:
    torch.manual_seed(1)
    cols = 200
    matrix = pack_eie((torch.rand(rows, cols) < density).to(torch.uint8), CODEBOOK, pes=pes)
    expected = expected_filler_rate(density, rows // pes)
    # Columns are independent: their spread gives the sampling error of the mean.
    per_column = matrix.entries_per_column().sum(0).double()
    nonzeros = (matrix.codes() > 0).sum(0).double()
    difference = (per_column - nonzeros) - expected * rows * density
    error = float(difference.std()) / math.sqrt(cols)
    assert abs(float(difference.mean())) < 4 * error
    if pes == 1:  # long columns
        q = (1 - density) ** 16
        assert expected == pytest.approx(q / (1 - q), rel=0.02)


def bad_matrices() -> dict[str, tuple[EIEMatrix, type[Exception]]]:
    codes = (torch.arange(60).reshape(20, 3) % 5 == 0).to(torch.uint8)
    good = pack_eie(codes, CODEBOOK, pes=2, pointer_bits=32)
    good.check()

    def pointers(row: int, column: int, value: int) -> EIEMatrix:
        changed = good.pointers.clone()
        changed[row, column] = value
        return replace(good, pointers=changed)

    def entry(value: int, at: int) -> EIEMatrix:
        changed = good.entries.clone()
        changed[at] = value
        return replace(good, entries=changed)

    nan = CODEBOOK.clone()
    nan[3] = float("nan")
    return {
        "truncated entries": (replace(good, entries=good.entries[:-1]), ValueError),
        "entries left over": (replace(good, entries=torch.cat([good.entries, good.entries])), ValueError),
        "pointer past the end": (pointers(0, 1, 2**30), ValueError),
        "negative pointer": (pointers(1, 1, -5), ValueError),
        "negative count": (pointers(1, 3, -5), ValueError),
        "huge count": (pointers(1, 3, 2**31 - 1), ValueError),
        "first pointer": (pointers(0, 0, 1), ValueError),
        "decreasing": (pointers(0, 2, 0), ValueError),
        "row past the last": (entry(0x1F, int(good.pointers[0, 1]) - 1), ValueError),
        "filler that is none": (entry(0x03, 0), ValueError),
        "filler at the end": (replace(good, rows=200, entries=entry(0x0F, -1).entries), ValueError),
        "fewer rows": (replace(good, rows=10), ValueError),
        "no rows": (replace(good, rows=0), ValueError),
        "no PEs": (replace(good, pointers=good.pointers[:0]), ValueError),
        "flat pointers": (replace(good, pointers=good.pointers.flatten()), ValueError),
        "codebook size": (replace(good, codebook=CODEBOOK[:15]), ValueError),
        "codebook zero": (replace(good, codebook=CODEBOOK + 1), ValueError),
        "codebook nan": (replace(good, codebook=nan), ValueError),
        "entry type": (replace(good, entries=good.entries.int()), TypeError),
        "pointer type": (replace(good, pointers=good.pointers.long()), TypeError),
        "codebook type": (replace(good, codebook=CODEBOOK.double()), TypeError),
    }


@pytest.mark.parametrize("name", list(bad_matrices()))
def test_hostile_matrices_are_refused(name: str) -> None:
    matrix, error = bad_matrices()[name]
    with pytest.raises(error):
        matrix.check()


@given(st.binary(max_size=60), st.lists(st.integers(-3, 40), min_size=8, max_size=8), st.integers(0, 40))
def test_random_bytes_are_refused_or_decode_to_themselves(
    entries: bytes, pointers: list[int], rows: int
) -> None:
    matrix = EIEMatrix(
        torch.tensor(list(entries), dtype=torch.uint8),
        torch.tensor(pointers, dtype=torch.int32).reshape(2, 4),
        CODEBOOK,
        rows,
    )
    try:
        matrix.check()
    except ValueError:
        return
    again = pack_eie(matrix.codes(), CODEBOOK, pes=2, pointer_bits=32)
    assert torch.equal(again.entries, matrix.entries) and torch.equal(again.pointers, matrix.pointers)


@pytest.mark.parametrize("pes", [0, -1, 2.0])
def test_bad_arguments(pes: int) -> None:
    codes = torch.zeros(4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="pes"):
        pack_eie(codes, CODEBOOK, pes=pes)
    with pytest.raises(ValueError, match="0 to 15"):
        pack_eie(codes + 16, CODEBOOK)
    with pytest.raises(TypeError, match="uint8"):
        pack_eie(codes.int(), CODEBOOK)
    with pytest.raises(ValueError, match="16 or 32"):
        pack_eie(codes, CODEBOOK, pointer_bits=8)


# --- weight sharing ---------------------------------------------------------------------------------------------------


def slow_lloyd(values: np.ndarray, k: int, iterations: int) -> tuple[np.ndarray, list[float]]:
    """Every distance, every step."""
    centroids = np.linspace(values.min(), values.max(), k)
    objective: list[float] = []
    last = None
    while True:
        distance = np.abs(values[:, None] - centroids)
        labels = distance.argmin(1)
        objective.append(float((distance.min(1) ** 2).sum()))
        if len(objective) > iterations or (last is not None and (last == labels).all()):
            return centroids, objective
        last = labels
        centroids = np.array(
            [values[labels == c].mean() if (labels == c).any() else centroids[c] for c in range(k)]
        )


@pytest.mark.parametrize("seed", range(4))
def test_kmeans_is_lloyds(seed: int) -> None:
    values = np.random.default_rng(seed).standard_t(3, 500)
    centroids, objective = slow_lloyd(values, 15, 100)
    found = kmeans_1d(torch.from_numpy(values))
    np.testing.assert_allclose(found.centroids.numpy(), centroids, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.objective, objective, rtol=1e-9)
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(found.objective))


def test_few_values_are_exact() -> None:
    values = torch.tensor([-3.0, -1.0, 0.0, 0.5, 7.0, 1e-6])
    weight = values[torch.randint(0, 6, (40, 30))]
    codes, codebook = share_weights(weight)
    assert torch.equal(codebook[codes.long()], weight) and codebook[0] == 0
    assert torch.equal(codes == 0, weight == 0)


def test_every_weight_has_its_nearest_value() -> None:
    weight = torch.randn(50, 60) * magnitude_mask(torch.randn(50, 60), 0.3)
    codes, codebook = share_weights(weight)
    kept = weight[weight != 0]
    distance = (kept[:, None] - codebook[1:]).abs()
    torch.testing.assert_close(
        (kept - codebook[codes.long()][weight != 0]).abs(), distance.min(1).values, rtol=0, atol=1e-6
    )
    assert len(codebook) == 16 and not bool((codes[weight != 0] == 0).any())
    with pytest.raises(ValueError, match="finite"):
        share_weights(torch.tensor([1.0, float("inf")]))
    assert not bool(share_weights(torch.zeros(3, 3))[1].any())


@given(st.integers(0, 60), st.floats(0, 1))
def test_magnitude_mask_is_exact_with_ties(n: int, density: float) -> None:
    weight = torch.tensor([(-1.0) ** i * (i * 7 % 5) for i in range(n)]).reshape(1, n)
    mask = magnitude_mask(weight, density)
    order = sorted(range(n), key=lambda i: (-abs(float(weight[0, i])), i))
    assert mask[0].nonzero().flatten().tolist() == sorted(order[: round(density * n)])
