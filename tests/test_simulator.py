# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The scan simulator: dense, labelled, the same bits for a seed, in workers too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sparseconv.datasets import LEARNING_MAP, Scan, SimulatedDataset, SpinningSensor, simulate_scan
from sparseconv.datasets._open3d import import_open3d
from sparseconv.datasets.ground import Course
from sparseconv.datasets.sensor import Caster
from sparseconv.datasets.shapes import Material, MeshBuilder, Place, template
from sparseconv.datasets.street import make_street
from torch.utils.data import DataLoader

try:
    import_open3d()
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

SMALL = SpinningSensor(azimuths=200)


def bits(scan: Scan) -> tuple[bytes, ...]:
    labels = scan.labels if scan.labels is not None else np.empty(0)
    return (
        scan.points.tobytes(),
        scan.attributes["remission"].tobytes(),
        scan.attributes["ring"].tobytes(),
        labels.tobytes(),
    )


def test_elevations_are_those_of_the_hdl_64e() -> None:
    degrees = np.rad2deg(SpinningSensor().elevations)
    assert len(degrees) == 64
    assert np.allclose(degrees[[0, 31, 32, 63]], [2.0, -8.33, -8.83, -24.33], atol=0.01)
    assert (np.diff(degrees) < 0).all()
    directions = SpinningSensor().directions
    assert directions.shape == (64 * 2083, 3)
    assert np.allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_sweep_looks_like_one(seed: int) -> None:
    scan = simulate_scan(seed)
    assert 100_000 <= len(scan) <= 64 * 2083
    assert scan.points.dtype == np.float32
    assert scan.labels is not None
    assert scan.labels.dtype == np.uint32
    classes, counts = np.unique(scan.labels & 0xFFFF, return_counts=True)
    assert set(classes.tolist()) <= set(LEARNING_MAP)
    assert {10, 30, 40, 50, 70, 72, 80} <= set(classes.tolist())
    assert counts.max() < 0.75 * len(scan)
    distance = np.linalg.norm(scan.points, axis=1)
    assert distance.min() > 0.8
    assert 60 < distance.max() < 121
    remission, ring = scan.attributes["remission"], scan.attributes["ring"]
    assert remission.dtype == np.float32
    assert 0 <= remission.min() < 0.2 < 0.8 < remission.max() <= 1
    assert (ring.min(), ring.max()) == (0, 63)
    expected = SpinningSensor().elevations[ring]
    assert np.allclose(np.arcsin(scan.points[:, 2] / distance), expected, atol=1e-4)
    road = scan.points[(scan.labels & 0xFFFF) == 40]
    near = np.linalg.norm(road[:, :2], axis=1) < 10
    assert abs(np.median(road[near, 2]) + 1.73) < 0.1


def test_instances() -> None:
    labels = simulate_scan(3).labels
    assert labels is not None
    instance, kind = labels >> 16, labels & 0xFFFF
    things = np.isin(kind, [10, 11, 13, 15, 18, 30, 31])
    assert (instance[things] > 0).all()
    assert (instance[~things] == 0).all()
    for number in np.unique(instance[things]):
        assert len(np.unique(kind[instance == number])) == 1
    assert len(np.unique(instance)) > 10


def test_a_seed_gives_the_same_bits_in_any_order() -> None:
    data = SimulatedDataset(6, 5, sweeps_per_street=2, sensor=SMALL)
    forward = [bits(data[i]) for i in range(6)]
    again = SimulatedDataset(6, 5, sweeps_per_street=2, sensor=SMALL)
    assert [bits(again[i]) for i in reversed(range(6))][::-1] == forward
    assert len(set(forward)) == 6
    assert bits(simulate_scan(500_001, sensor=SMALL, sweep=1, sweeps=2)) == forward[3]
    assert bits(SimulatedDataset(1, 6, sweeps_per_street=2, sensor=SMALL)[0]) != forward[0]
    assert data[-1].path == "simulated/500002/1"


def first(batch: list[Scan]) -> Scan:
    return batch[0]


def test_workers_give_the_same_bits() -> None:
    data = SimulatedDataset(4, 7, sensor=SMALL)
    here = [bits(data[i]) for i in range(4)]  # Open3D has cast in this process before the workers are forked
    loader: Any = DataLoader(data, num_workers=2, collate_fn=first, timeout=120)
    assert [bits(scan) for scan in loader] == here


def test_far_and_dark_returns_are_lost() -> None:
    def shares(material: Material, distance: float) -> float:
        build = MeshBuilder()
        build.add("box", Place(distance + 0.5, 0), (0, 0, 0), (1, 500, 500), material)
        caster = Caster(build.build(np.random.default_rng(0)))
        scan = caster.sweep(SMALL, np.zeros(4), np.random.default_rng(1))
        ahead = np.abs(SMALL.directions[:, 1]) < 0.1 * SMALL.directions[:, 0]
        return len(scan) / ahead.sum()

    bright, dark = Material(50, 0.9), Material(50, 0.02)
    assert shares(bright, 20) > 2 * shares(dark, 100)
    near, far = shares(dark, 10), shares(dark, 110)
    assert near > 3 * far


def test_pulses_go_on_behind_foliage() -> None:
    build = MeshBuilder()
    build.add("box", Place(10, 0), (0, 0, 0), (0.2, 40, 40), Material(70, 0.5, 0.0, 0.5))
    build.add("box", Place(20, 0), (0, 0, 0), (0.2, 90, 90), Material(50, 0.5))
    scan = Caster(build.build(np.random.default_rng(0))).sweep(SMALL, np.zeros(4), np.random.default_rng(0))
    assert scan.labels is not None
    share = (scan.labels == 50).mean()
    assert 0.3 < share < 0.7


def test_streets_differ_and_stay_clear_of_the_sensor() -> None:
    roads = set()
    for seed in range(6):
        street = make_street(seed, sweeps=3, spacing=5)
        roads.add(len(street.mesh.triangles))
        assert street.poses.shape == (3, 4)
        assert np.allclose(np.linalg.norm(np.diff(street.poses[:, :2], axis=0), axis=1), 5, atol=1.2)
        assert street.mesh.triangles.max() < len(street.mesh.vertices)
        assert np.isfinite(street.mesh.vertices).all()
        centers = street.mesh.vertices[street.mesh.triangles].mean(axis=1)
        solid = ~np.isin(street.mesh.labels & 0xFFFF, [40, 44, 48, 60, 72])
        for pose in street.poses:
            assert np.linalg.norm(centers[solid, :2] - pose[:2], axis=1).min() > 0.9
    assert len(roads) == 6


def test_templates_are_closed_and_of_size_one() -> None:
    for name in (
        "box",
        "roof",
        "cylinder",
        "cone",
        "wheel",
        "ball",
        "crown",
        "clump",
        "sedan",
        "hatch",
        "suv",
        "van",
    ):
        vertices, triangles = template(name)
        assert np.allclose(np.ptp(vertices, axis=0), 1, atol=0.16), name
        edges = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        _, counts = np.unique(edges, axis=0, return_counts=True)
        assert (counts == 2).all(), name
    with pytest.raises(ValueError, match="'blob'"):
        template("blob")


def test_places_lie_on_the_street() -> None:
    course = Course(np.random.default_rng(0), 0.0)
    place = course.place(30.0, 4.0)
    near = course.points(np.array([30.0]), 4.0)[0]
    assert np.allclose([place.x, place.y], near)
    center = course.points(np.array([30.0]), 0.0)[0]
    assert np.isclose(np.hypot(*(near - center)), 4.0)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="-1"):
        simulate_scan(-1)
    with pytest.raises(ValueError, match="sweep must be"):
        simulate_scan(0, sweep=2, sweeps=2)
    with pytest.raises(ValueError, match="span"):
        simulate_scan(0, sweeps=100, spacing=10)
    with pytest.raises(ValueError, match="n must be"):
        SimulatedDataset(-1)
    with pytest.raises(IndexError, match="3 sweeps"):
        SimulatedDataset(3)[3]
