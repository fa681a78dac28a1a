# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Augmentations: what each may change, what it must keep, and that a generator decides alone."""

from __future__ import annotations

import numpy as np
import pytest
from sparseconv.datasets import (
    Compose,
    Crop,
    Drop,
    DropAttribute,
    Flip,
    Jitter,
    Rotate,
    Scale,
    ScaleAttribute,
    Scan,
    Shift,
)

ALL = [Rotate(), Flip(), Scale(), Shift(), Jitter(), Drop(), DropAttribute(), ScaleAttribute(), Crop(30.0)]


@pytest.fixture(params=[np.float32, np.float64])
def scan(request: pytest.FixtureRequest) -> Scan:
    rng = np.random.default_rng(0)
    points = rng.uniform(-40, 40, (500, 3)).astype(request.param)
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    attributes = {"remission": rng.random(500, dtype=np.float32) + 0.1, "normals": normals.astype(np.float32)}
    return Scan(points, attributes, np.arange(500))


def generator(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("change", ALL, ids=lambda change: type(change).__name__)
def test_the_generator_decides_and_the_input_stays(scan: Scan, change) -> None:
    before = scan.points.copy(), scan.attributes["remission"].copy()
    one, two, other = change(scan, generator()), change(scan, generator()), change(scan, generator(2))
    assert np.array_equal(one.points, two.points)
    assert one.points.dtype == scan.points.dtype
    assert len(one.attributes["remission"]) == len(one.labels) == len(one)
    assert np.array_equal(before[0], scan.points)
    assert np.array_equal(before[1], scan.attributes["remission"])
    if isinstance(change, (Rotate, Scale, Shift, Jitter, Drop)):
        assert not np.array_equal(one.points, other.points)


def test_rotate_keeps_heights_distances_and_turns_normals(scan: Scan) -> None:
    turned = Rotate()(scan, generator())
    assert np.array_equal(turned.points[:, 2], scan.points[:, 2])
    assert np.allclose(np.linalg.norm(turned.points, axis=1), np.linalg.norm(scan.points, axis=1), rtol=1e-5)
    assert not np.allclose(turned.points, scan.points)
    unit = turned.points / np.linalg.norm(turned.points, axis=1, keepdims=True)
    assert np.allclose(turned.attributes["normals"], unit, atol=1e-5)  # they pointed outwards, and still do
    angles = [
        np.arctan2(*Rotate(0.2)(scan, generator(i)).points[0, 1::-1]) - np.arctan2(*scan.points[0, 1::-1])
        for i in range(50)
    ]
    assert 0.1 < np.abs(angles).max() < 0.2001


def test_flip_mirrors_each_axis_half_the_time(scan: Scan) -> None:
    signs = [tuple(np.sign(Flip()(scan, generator(i)).points[0, :2] * scan.points[0, :2])) for i in range(40)]
    assert {(1, 1), (1, -1), (-1, 1), (-1, -1)} == set(signs)
    assert np.array_equal(Flip(0.0)(scan, generator()).points, scan.points)
    both = Flip(1.0)(scan, generator())
    assert np.array_equal(both.points, scan.points * [-1, -1, 1])
    assert np.allclose(both.attributes["normals"], scan.attributes["normals"] * [-1, -1, 1])


def test_scale_shift_and_jitter_stay_in_bounds(scan: Scan) -> None:
    factors = [(Scale(0.9, 1.1)(scan, generator(i)).points / scan.points) for i in range(20)]
    assert all(np.allclose(factor, factor[0, 0], rtol=1e-5) for factor in factors)
    assert 0.9 <= min(f[0, 0] for f in factors) < 0.95
    assert 1.05 < max(f[0, 0] for f in factors) <= 1.1
    moved = Shift((0.0, 0.0, 0.5))(scan, generator()).points - scan.points
    assert np.allclose(moved[:, :2], 0)
    assert np.allclose(moved[:, 2], moved[0, 2], atol=1e-4)
    assert abs(moved[0, 2]) > 0.01
    noise = Jitter(0.02, 0.03)(scan, generator()).points - scan.points
    assert np.abs(noise).max() <= 0.0301
    assert 0.01 < noise.std() < 0.02


def test_drop_keeps_the_rows_together(scan: Scan) -> None:
    kept = [Drop(0.5)(scan, generator(i)) for i in range(20)]
    assert 0.5 * 500 * 0.9 < min(map(len, kept)) < max(map(len, kept)) <= 500
    some = min(kept, key=len)
    assert np.array_equal(some.points, scan.points[some.labels])
    assert np.array_equal(some.attributes["remission"], scan.attributes["remission"][some.labels])
    assert len(Drop(0.0)(scan, generator())) == 500


def test_drop_attribute(scan: Scan) -> None:
    assert not DropAttribute(probability=1.0)(scan, generator()).attributes["remission"].any()
    assert DropAttribute(probability=0.0)(scan, generator()).attributes["remission"].all()
    assert DropAttribute("ring", 1.0)(scan, generator()) is scan


def test_scale_attribute(scan: Scan) -> None:
    changed = [ScaleAttribute("remission", 0.5, 2.0)(scan, generator(i)) for i in range(20)]
    ratios = [each.attributes["remission"] / scan.attributes["remission"] for each in changed]
    assert all(np.allclose(ratio, ratio[0], rtol=1e-5) for ratio in ratios)
    assert 0.5 <= min(ratio[0] for ratio in ratios) < 0.8 < 1.5 < max(ratio[0] for ratio in ratios) <= 2
    assert changed[0].attributes["remission"].dtype == np.float32
    assert ScaleAttribute("ring")(scan, generator()) is scan


def test_crop(scan: Scan) -> None:
    near = Crop(20.0)(scan, generator())
    assert 0 < len(near) < 500
    assert (np.hypot(near.points[:, 0], near.points[:, 1]) <= 20).all()
    assert len(near) == (np.hypot(scan.points[:, 0], scan.points[:, 1]) <= 20).sum()


def test_compose_runs_all_in_order(scan: Scan) -> None:
    rng = generator()
    by_hand = Scale()(Rotate()(scan, rng), rng)
    assert np.array_equal(Compose([Rotate(), Scale()])(scan, generator()).points, by_hand.points)
    empty = scan.select(np.zeros(500, bool))
    assert len(Compose(ALL)(empty, generator())) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Drop(1.5),
        lambda: Flip(-0.1),
        lambda: DropAttribute("a", 2),
        lambda: Scale(0, 1),
        lambda: Scale(2, 1),
        lambda: ScaleAttribute("a", 0, 1),
        lambda: Crop(0),
    ],
)
def test_bad_arguments(make) -> None:
    with pytest.raises(ValueError, match=r"expected|above 0"):
        make()
