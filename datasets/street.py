# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""A street made up from a seed: a bending road with side roads, what lines it, and who is on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from . import objects as o
from .ground import Course, lay_ground
from .scan import Array
from .shapes import Mesh, MeshBuilder


@dataclass(frozen=True)
class Street:
    """The mesh of a street and the poses along it: x, y, z (the road's height) and heading, metres and
    radians.
    """

    mesh: Mesh
    poses: Array  # [sweeps, 4] float64


def make_street(seed: int | list[int], *, sweeps: int = 1, spacing: float = 6.0) -> Street:
    """Make the street of a seed with `sweeps` poses, about `spacing` metres apart, on its right lane."""
    rng = np.random.default_rng(seed)
    drive = (sweeps - 1) * spacing
    course, build = Course(rng, drive), MeshBuilder()
    lay_ground(build, course, rng)
    for side in (0, 1):
        _add_houses(build, course, rng, side)
        _add_yards(build, course, rng, side)
        _add_sidewalk(build, course, rng, side)
        _add_parked(build, course, rng, side)
    _add_traffic(build, course, rng, drive)
    _add_background(build, course, rng)
    s = np.arange(sweeps) * spacing + rng.uniform(-0.5, 0.5, sweeps)
    poses = np.zeros((sweeps, 4))
    for row, (a, offset, turn) in enumerate(
        zip(s, rng.normal(0, 0.15, sweeps), rng.normal(0, 0.02, sweeps), strict=True)
    ):
        place = course.place(float(a), -course.lane / 2 + float(offset))
        poses[row] = place.x, place.y, 0.0, place.yaw + turn
    return Street(build.build(rng), poses)


def _along(course: Course, rng: np.random.Generator, low: float, high: float) -> Iterator[float]:
    """Places along the whole street, `low` to `high` metres apart."""
    s = course.low + rng.uniform(0, high)
    while s < course.high:
        yield s
        s += rng.uniform(low, high)


def _add_houses(build: MeshBuilder, course: Course, rng: np.random.Generator, side: int) -> None:
    """A row of houses; closed and high in a town, single and low in a village."""
    sign = (1, -1)[side]
    back = rng.uniform(0.3, 4) if course.urban > 0.6 else rng.uniform(3, 9)
    s = course.low - 20.0
    while s < course.high + 20:
        length = rng.uniform(8, 16) + 8 * course.urban * rng.random()
        middle = s + length / 2
        if course.free(middle, length / 2 + 2.0) and rng.random() < 0.6 + 0.38 * course.urban:
            storeys = int(rng.integers(1, 4) + 3 * course.urban * rng.random())
            place = course.place(
                middle,
                sign * (course.yard(side) + back + rng.uniform(0, 1.5)),
                -0.1,
                0.0 if side == 0 else np.pi,
            )
            o.add_house(build, rng, place, length=length, depth=rng.uniform(7, 12), storeys=storeys)
        elif course.free(middle, length / 2 + 2.0):  # a garden or a little wood instead
            for _ in range(int(rng.integers(3, 9))):
                place = course.place(
                    s + rng.uniform(0, length), sign * (course.yard(side) + rng.uniform(1, 12))
                )
                if rng.random() < 0.4:
                    o.add_bush(build, rng, place, size=rng.uniform(0.8, 3.0))
                else:
                    o.add_tree(build, rng, place)
        s += length + (
            rng.uniform(0, 0.5) if course.urban > 0.6 and rng.random() < 0.7 else rng.uniform(2, 9)
        )


def _add_yards(build: MeshBuilder, course: Course, rng: np.random.Generator, side: int) -> None:
    """Between sidewalk and houses: fences, hedges, bushes, trees."""
    sign, yard = (1, -1)[side], course.yard(side)
    if course.urban < 0.75:
        for s in _along(course, rng, 8, 12):
            if not course.free(s, 6.5) or rng.random() < 0.25:
                continue
            length = rng.uniform(4, 8)
            if rng.random() < 0.4:
                o.add_fence(build, rng, course.place(s, sign * (yard + 0.2)), length=length)
            else:
                o.add_hedge(build, rng, course.place(s, sign * (yard + 0.6)), length=length)
    green = 1.2 - course.urban
    for s in _along(course, rng, 1.5 / green, 6.0 / green):
        if course.free(s, 3):
            place = course.place(s, sign * (yard + rng.uniform(0.9, 3.5)))
            if rng.random() < 0.5:
                o.add_bush(build, rng, place, size=rng.uniform(0.4, 2.2))
            else:
                o.add_tree(build, rng, place)


def _add_sidewalk(build: MeshBuilder, course: Course, rng: np.random.Generator, side: int) -> None:
    """On the sidewalk: street trees, lamps, signs, bicycles, pedestrians; traffic lights at the side
    roads.
    """
    sign, edge, walk = (1, -1)[side], course.edge(side), course.walk[side]
    away = -sign * np.pi / 2  # along the arm of a lamp: towards the road
    avenue = rng.random() < 0.5
    for s in _along(course, rng, 7, 16) if avenue else ():
        if course.free(s, 4):
            o.add_tree(build, rng, course.place(s, sign * (edge + 0.5), 0.1))
    for s in _along(course, rng, 14, 32):
        if course.free(s, 1):
            o.add_lamp(build, rng, course.place(s, sign * (edge + 0.35), 0.1, away))
    for s in _along(course, rng, 12, 45):
        if course.free(s, 0.5):
            faces = np.pi if side else 0.0
            o.add_sign(build, rng, course.place(s, sign * (edge + 0.4), 0.1, faces + rng.normal(0, 0.2)))
    for s in _along(course, rng, 12, 50):
        if course.free(s, 1):
            row = int(rng.integers(1, 5))
            for i in range(row):  # a rack
                place = course.place(
                    s + 0.6 * i, sign * (edge + walk - 0.7), 0.13, np.pi / 2 + rng.normal(0, 0.15), thing=True
                )
                o.add_two_wheeler(build, rng, place, motor=rng.random() < 0.25)
    for s in _along(course, rng, 3, 30 - 18 * course.urban):
        for _ in range(int(rng.integers(1, 3))):
            d = sign * (edge + rng.uniform(0.5, walk - 0.3))
            yaw = rng.choice([0.0, np.pi]) + rng.normal(0, 0.4)
            height = 0.13 if course.free(s, 0) else 0.0
            o.add_person(build, rng, course.place(s + rng.uniform(-1, 1), d, height, yaw, thing=True))
    for s, half in course.crossings:
        if rng.random() < 0.5:
            o.add_traffic_light(
                build,
                rng,
                course.place(s - sign * (half + 0.6), sign * (edge + 0.4), 0.13, np.pi if side else 0.0),
            )


def _add_parked(build: MeshBuilder, course: Course, rng: np.random.Generator, side: int) -> None:
    """Parked cars, now and then a truck, in the parking lane and up the side roads."""
    sign = (1, -1)[side]
    if course.parking[side]:
        s, full = course.low, rng.uniform(0.1, 0.75)
        while s < course.high:
            big = rng.random() < 0.05
            room = 10.5 if big else rng.uniform(5.6, 7.5)
            if course.free(s, room / 2 + 1) and rng.random() < full:
                yaw = (np.pi if (side == 0) != (rng.random() < 0.1) else 0.0) + rng.normal(0, 0.03)
                place = course.place(
                    s, sign * (course.edge(side) - 1.05 + rng.normal(0, 0.08)), 0.0, yaw, thing=True
                )
                if big:
                    o.add_truck(build, rng, place)
                else:
                    o.add_car(build, rng, place)
            s += room
    for crossing, half in course.crossings:
        for d in np.arange(course.yard(side) + 6, 60, 6.5):
            if rng.random() < 0.45:
                place = course.place(
                    crossing + rng.choice([-1, 1]) * (half - 1.0),
                    sign * d,
                    0.0,
                    np.pi / 2 * rng.choice([-1, 1]),
                    thing=True,
                )
                o.add_car(build, rng, place)


def _add_traffic(build: MeshBuilder, course: Course, rng: np.random.Generator, drive: float) -> None:
    """Who moves on the road: cars, trucks, buses, riders; the sensor's own lane stays clear around its
    poses.
    """
    lanes = round(course.road / course.lane)
    for lane in range(lanes):
        for sign in (1, -1):
            own = sign < 0 and lane == 0
            s = course.low + rng.uniform(0, 15)
            while s < course.high:
                room = rng.uniform(11, 55)
                if not own or s < -11 or s > drive + 11:
                    place = course.place(
                        s,
                        sign * (lane + 0.5) * course.lane + rng.normal(0, 0.15),
                        0.0,
                        (np.pi if sign > 0 else 0.0) + rng.normal(0, 0.02),
                        thing=True,
                    )
                    kind = rng.random()
                    if kind < 0.7:
                        o.add_car(build, rng, place)
                    elif kind < 0.8:
                        o.add_truck(build, rng, place, bus=rng.random() < 0.35)
                        s += 6
                    else:
                        o.add_two_wheeler(build, rng, place, rider=True)
                s += room
    for s in _along(course, rng, 25, 90):  # people who cross the road, off the sensor's own lane
        place = course.place(
            s, rng.uniform(0.7, course.road), 0.0, rng.choice([-1, 1]) * np.pi / 2, thing=True
        )
        o.add_person(build, rng, place)


def _add_background(build: MeshBuilder, course: Course, rng: np.random.Generator) -> None:
    """What closes the view behind the first row: more houses, woods, and blocks at both ends of the
    street.
    """
    for sign in (1, -1):
        for s in _along(course, rng, 14, 30):
            d = rng.uniform(30, 75)
            if course.free(s, 14) and rng.random() < 0.6:
                place = course.place(s, sign * d, -0.3, 0.0 if sign > 0 else np.pi)
                o.add_house(
                    build, rng, place, length=rng.uniform(10, 20), depth=10, storeys=int(rng.integers(2, 6))
                )
        for s in _along(course, rng, 4, 14):
            if course.free(s, 6):
                o.add_tree(build, rng, course.place(s, sign * rng.uniform(24, 70), -0.2), far=True)
    for end in (course.low - 25, course.high + 25):  # the street bends away behind them
        for d in np.arange(-75, 76, 25.0):
            if abs(d) > 14 or rng.random() < 0.5:
                o.add_house(
                    build,
                    rng,
                    course.place(end, d, -0.3, np.pi / 2),
                    length=24,
                    depth=12,
                    storeys=int(rng.integers(2, 6)),
                )
