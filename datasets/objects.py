# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What stands on a street, built of a few simple bodies each. Lengths are metres; x of an object points
ahead of it.
"""

from __future__ import annotations

import numpy as np

from .shapes import Material, MeshBuilder, Place

# Raw class ids of SemanticKITTI (semantic_kitti.py has the whole list).
CAR, BICYCLE, BUS, MOTORCYCLE, TRUCK, PERSON, BICYCLIST = 10, 11, 13, 15, 18, 30, 31
ROAD, PARKING, SIDEWALK, OTHER_GROUND, BUILDING, FENCE, LANE_MARKING = 40, 44, 48, 49, 50, 51, 60
VEGETATION, TRUNK, TERRAIN, POLE, TRAFFIC_SIGN = 70, 71, 72, 80, 81

_TYRE, _GLASS = 0.04, 0.6  # remission of tyres; share of a pulse that a pane lets through


def add_car(build: MeshBuilder, rng: np.random.Generator, place: Place) -> None:
    """A car: one of four outlines, 3.5 to 5.2 m long, with wheels and a paint of its own."""
    kind = str(rng.choice(["sedan", "hatch", "suv", "van"], p=[0.35, 0.35, 0.2, 0.1]))
    low, high = {"sedan": (4.3, 5.0), "hatch": (3.5, 4.4), "suv": (4.3, 4.9), "van": (4.5, 5.2)}[kind]
    length, width = rng.uniform(low, high), rng.uniform(1.65, 1.95)
    height = {"sedan": 1.25, "hatch": 1.3, "suv": 1.5, "van": 1.75}[kind] * rng.uniform(0.95, 1.05)
    paint = Material(CAR, float(rng.choice([0.08, 0.25, 0.45, 0.75]) * rng.uniform(0.7, 1.2)))
    build.add(kind, place, (0, 0, 0.2 + height / 2), (length, width, height), paint)
    for end in (-0.31, 0.31):
        for side in (-0.46, 0.46):
            center = (end * length, side * width, 0.31)
            build.add("wheel", place, center, (0.62, 0.2, 0.62), Material(CAR, _TYRE))
    plate = Material(CAR, 0.95)  # number plates are retro-reflectors
    for end in (-0.505, 0.505):
        build.add("box", place, (end * length, 0, 0.5), (0.03, 0.5, 0.12), plate)


def add_truck(build: MeshBuilder, rng: np.random.Generator, place: Place, *, bus: bool = False) -> None:
    """A truck with a cab and a cargo box, or a bus; 6 to 12 m long."""
    label = BUS if bus else TRUCK
    length, width, height = (
        rng.uniform(8, 12) if bus else rng.uniform(5.5, 9),
        rng.uniform(2.2, 2.55),
        rng.uniform(2.6, 3.6),
    )
    paint = Material(label, rng.uniform(0.15, 0.7))
    if bus:
        build.add("box", place, (0, 0, 0.35 + height / 2), (length, width, height), paint)
        for side in (-0.502, 0.502):
            build.add(
                "box",
                place,
                (0, side * width, 0.55 * height + 0.4),
                (length * 0.9, 0.02, 0.35 * height),
                Material(label, 0.1, 0, 0.2),
            )
    else:
        cab = rng.uniform(1.6, 2.2)
        build.add("box", place, (-cab / 2, 0, 0.9 + height / 2), (length - cab, width, height), paint)
        build.add(
            "van",
            place,
            (length / 2 - cab / 2, 0, 0.5 + 1.1),
            (cab, width * 0.95, 2.2),
            Material(label, rng.uniform(0.1, 0.7)),
        )
        build.add("box", place, (0, 0, 0.75), (length * 0.95, width * 0.5, 0.3), Material(label, 0.1))
    for end in (-0.36, -0.24, 0.36):
        for side in (-0.45, 0.45):
            build.add(
                "wheel", place, (end * length, side * width, 0.48), (0.96, 0.28, 0.96), Material(label, _TYRE)
            )


def add_person(
    build: MeshBuilder, rng: np.random.Generator, place: Place, *, label: int = PERSON, seat: float = 0.0
) -> None:
    """A person 1.5 to 1.95 m tall in mid-step, or (`seat` above 0, in metres) bent over handlebars."""
    tall = rng.uniform(1.1, 1.4) if rng.random() < 0.12 and not seat else rng.uniform(1.5, 1.95)
    cloth, skin = Material(label, rng.uniform(0.1, 0.7), 0.01), Material(label, rng.uniform(0.3, 0.6))
    trousers = Material(label, rng.uniform(0.05, 0.4), 0.01)
    hip = seat if seat else 0.48 * tall
    step, lean = rng.uniform(0.05, 0.45), 0.35 if seat else rng.uniform(-0.05, 0.12)
    for side in (-1, 1):
        swing = side * step
        build.add(
            "cone",
            place,
            (swing * 0.25 * tall if not seat else 0.15, side * 0.1, hip / 2 + 0.03),
            (0.17, 0.17, max(hip, 0.6)),
            trousers,
            tilt=-swing,
            roll=np.pi,
        )
        build.add(
            "cone",
            place,
            (-swing * 0.15 * tall + lean * 0.2, side * 0.25, hip + 0.2 * tall),
            (0.11, 0.11, 0.34 * tall),
            cloth,
            tilt=swing + lean,
        )
    build.add(
        "cylinder",
        place,
        (lean * 0.3, 0, hip + 0.17 * tall),
        (0.26, 0.42 * rng.uniform(0.9, 1.2), 0.36 * tall),
        cloth,
        tilt=lean,
    )
    build.add("ball", place, (lean * 0.5, 0, hip + 0.43 * tall), (0.22, 0.2, 0.27), skin)
    if not seat and rng.random() < 0.25:  # a bag or a rucksack
        build.add("box", place, (-0.22, rng.choice([0, 0.3]), hip + 0.12 * tall), (0.18, 0.3, 0.4), cloth)


def add_two_wheeler(
    build: MeshBuilder, rng: np.random.Generator, place: Place, *, motor: bool = False, rider: bool = False
) -> None:
    """A bicycle or a motorcycle; with `rider` a bicyclist, machine included, as SemanticKITTI labels it."""
    label = BICYCLIST if rider else MOTORCYCLE if motor else BICYCLE
    size, base = (0.62, 0.72) if motor else (0.68, rng.uniform(0.5, 0.56))
    frame = Material(label, rng.uniform(0.2, 0.7))
    lean = 0.0 if rider else rng.uniform(-0.2, 0.2)
    for end in (-base, base):
        build.add(
            "wheel",
            place,
            (end, 0, size / 2),
            (size, 0.14 if motor else 0.05, size),
            Material(label, 0.15, 0, 0.0 if motor else 0.55),
            roll=lean,
        )
    build.add(
        "box",
        place,
        (0, 0, size * 0.85),
        (base * 1.5, 0.3 if motor else 0.06, 0.4 if motor else 0.08),
        frame,
        roll=lean,
    )
    build.add(
        "box",
        place,
        (0.05, 0, size * 0.6),
        (base * 0.9, 0.3 if motor else 0.05, 0.35 if motor else 0.07),
        frame,
        tilt=0.5 * (not motor),
        roll=lean,
    )
    build.add("box", place, (base * 0.8, 0, size + 0.3), (0.05, 0.6, 0.05), frame, roll=lean)
    build.add(
        "box",
        place,
        (-base * 0.5, 0, size + 0.2),
        (0.5 if motor else 0.25, 0.2, 0.1),
        Material(label, 0.1),
        roll=lean,
    )
    build.add("cylinder", place, (base * 0.85, 0, size * 0.5 + 0.3), (0.05, 0.05, 0.75), frame, roll=lean)
    if rider:
        add_person(build, rng, place, label=label, seat=size + 0.25)


def add_tree(build: MeshBuilder, rng: np.random.Generator, place: Place, *, far: bool = False) -> None:
    """A tree: a trunk (class trunk) under a crown of a few ragged, half-transparent balls (class
    vegetation); a `far` one is taller and of fewer triangles.
    """
    tall = rng.uniform(6, 14) if far else rng.uniform(4, 11)
    bare = tall * rng.uniform(0.1, 0.4)
    thick = 0.06 + tall * rng.uniform(0.02, 0.035)
    build.add(
        "cone",
        place,
        (0, 0, bare * 0.65),
        (thick, thick, bare * 1.3),
        Material(TRUNK, rng.uniform(0.2, 0.4), 0.015),
        tilt=rng.normal(0, 0.04),
        roll=rng.normal(0, 0.04),
    )
    leaves = Material(VEGETATION, rng.uniform(0.25, 0.55), 0.12, rng.uniform(0.2, 0.5))
    spread = (tall - bare) * rng.uniform(0.5, 0.9)
    for _ in range(rng.integers(3, 6)):
        ball = spread * rng.uniform(0.45, 0.8)
        center = (*rng.normal(0, spread * 0.22, 2), bare + (tall - bare) * rng.uniform(0.3, 0.75))
        build.add(
            "clump" if far else "crown",
            place,
            center,
            (ball, ball, min(ball * rng.uniform(0.7, 1.3), tall - bare)),
            leaves,
            yaw=rng.uniform(0, 6.3),
        )


def add_bush(build: MeshBuilder, rng: np.random.Generator, place: Place, *, size: float) -> None:
    """A bush, some `size` metres across, of one to three ragged balls."""
    leaves = Material(VEGETATION, rng.uniform(0.25, 0.5), 0.07, rng.uniform(0.05, 0.3))
    for _ in range(rng.integers(1, 4)):
        center = (*rng.normal(0, size * 0.25, 2), size * 0.3)
        build.add(
            "crown",
            place,
            center,
            (size, size * rng.uniform(0.7, 1.2), size * rng.uniform(0.6, 1.1)),
            leaves,
            yaw=rng.uniform(0, 6.3),
        )


def add_hedge(build: MeshBuilder, rng: np.random.Generator, place: Place, *, length: float) -> None:
    """A clipped hedge along x."""
    build.add(
        "box",
        place,
        (0, 0, 0.6),
        (length, rng.uniform(0.5, 1.0), rng.uniform(0.9, 1.9)),
        Material(VEGETATION, 0.35, 0.06, 0.1),
    )


def add_lamp(build: MeshBuilder, rng: np.random.Generator, place: Place) -> None:
    """A street lamp, or a plain mast, 4 to 9 m; the arm reaches along x."""
    tall, metal = rng.uniform(4, 9), Material(POLE, rng.uniform(0.3, 0.6))
    thick = rng.uniform(0.1, 0.25)
    build.add("cone", place, (0, 0, tall / 2), (thick, thick, tall), metal)
    if rng.random() < 0.7:
        arm = rng.uniform(0.5, 1.8)
        build.add("box", place, (arm / 2, 0, tall), (arm, 0.08, 0.08), metal)
        build.add("box", place, (arm, 0, tall - 0.05), (0.6, 0.25, 0.12), metal)


def add_sign(build: MeshBuilder, rng: np.random.Generator, place: Place) -> None:
    """A traffic sign: a thin post (class pole) with one or two retro-reflecting plates that face along x."""
    tall, metal = rng.uniform(2.1, 3.0), Material(POLE, 0.5)
    plate = Material(TRAFFIC_SIGN, 0.98)
    build.add("cylinder", place, (0, 0, tall / 2), (0.07, 0.07, tall), metal)
    size = rng.uniform(0.5, 0.9)
    if rng.random() < 0.5:
        build.add("wheel", place, (0.06, 0, tall - size / 2), (size, 0.02, size), plate, yaw=np.pi / 2)
    else:
        build.add("box", place, (0.06, 0, tall - size / 2), (0.02, size * rng.uniform(0.7, 1.4), size), plate)
    if rng.random() < 0.35:
        build.add("box", place, (0.06, 0, tall - size - 0.25), (0.02, 0.6, 0.3), plate)


def add_traffic_light(build: MeshBuilder, rng: np.random.Generator, place: Place) -> None:
    """A traffic light: its mast and the boxes on it (SemanticKITTI counts both as pole and sign)."""
    tall = rng.uniform(3, 4)
    build.add("cylinder", place, (0, 0, tall / 2), (0.14, 0.14, tall), Material(POLE, 0.4))
    build.add("box", place, (0.15, 0, tall - 0.4), (0.25, 0.32, 0.95), Material(TRAFFIC_SIGN, 0.25))


def add_fence(build: MeshBuilder, rng: np.random.Generator, place: Place, *, length: float) -> None:
    """A fence along x: posts with slats or rails, sometimes a solid wall."""
    tall, wood = rng.uniform(0.9, 1.8), Material(FENCE, rng.uniform(0.2, 0.6), 0.01)
    style = rng.integers(3)
    if style == 0:
        build.add("box", place, (0, 0, tall / 2), (length, 0.12, tall), wood)
        return
    for x in np.arange(-length / 2, length / 2 + 0.1, 2.0):
        build.add("box", place, (x, 0, tall / 2), (0.1, 0.1, tall), wood)
    if style == 1:  # slats too thin to draw: a panel that lets a share of the pulses through
        see_through = Material(FENCE, wood.remission, 0.02, rng.uniform(0.25, 0.5))
        build.add("box", place, (0, 0, tall / 2 + 0.05), (length, 0.04, tall - 0.1), see_through)
        return
    for z in np.linspace(0.25, tall - 0.1, 4):
        build.add("box", place, (0, 0, z), (length, 0.05, 0.1), wood)


def add_house(
    build: MeshBuilder, rng: np.random.Generator, place: Place, *, length: float, depth: float, storeys: int
) -> None:
    """A house with its front along x at y = 0 and its depth towards positive y: walls, panes, a door,
    balconies, a roof.
    """
    tall = storeys * rng.uniform(2.7, 3.2)
    wall = Material(BUILDING, rng.uniform(0.15, 0.65), 0.01)
    pane = Material(BUILDING, 0.08, 0.0, _GLASS)
    build.add("box", place, (0, depth / 2, tall / 2), (length, depth, tall), wall)
    columns = max(1, int(length / rng.uniform(2.2, 3.5)))
    balconies = storeys > 2 and rng.random() < 0.5
    for i in range(columns):
        x = -length / 2 + (i + 0.5) * length / columns
        for j in range(min(storeys, 3)):  # the sensor hardly sees the fourth floor
            z = (j + 0.55) * tall / storeys
            build.add("box", place, (x, -0.02, z), (length / columns * 0.45, 0.05, 1.3), pane)
            if balconies and j and i % 2:
                build.add("box", place, (x, -0.6, z - 0.9), (length / columns * 0.7, 1.2, 0.2), wall)
                build.add("box", place, (x, -1.2, z - 0.4), (length / columns * 0.7, 0.05, 1.0), wall)
    if rng.random() < 0.7:
        build.add(
            "box",
            place,
            (rng.uniform(-0.3, 0.3) * length, -0.05, 1.05),
            (1.2, 0.14, 2.1),
            Material(BUILDING, 0.3),
        )
    if rng.random() < 0.3:
        build.add(
            "box", place, (rng.uniform(-0.2, 0.2) * length, -0.9, 1.3), (rng.uniform(2, 4), 1.8, 2.6), wall
        )
    if storeys <= 3 and rng.random() < 0.8:
        roof = tall * rng.uniform(0.25, 0.5)
        turned = rng.random() < 0.5
        size = (depth + 0.6, length + 0.6, roof) if turned else (length + 0.6, depth + 0.6, roof)
        build.add(
            "roof",
            place,
            (0, depth / 2, tall + roof / 2),
            size,
            Material(BUILDING, 0.2, 0.02),
            yaw=np.pi / 2 if turned else 0.0,
        )
