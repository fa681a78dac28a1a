# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Triangle meshes of simple bodies, placed many at a time: a street has some thousand of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from .scan import Array

Template = tuple[Array, Array]  # vertices [V, 3] float64 about the origin, triangles [T, 3] int64
Triple = Sequence[float]


@dataclass(frozen=True)
class Material:
    """What a surface does to a laser pulse: share sent back (0 to 1), roughness along the ray in metres,
    share let through.
    """

    label: int
    remission: float
    rough: float = 0.0
    through: float = 0.0


@dataclass(frozen=True)
class Mesh:
    """One triangle mesh with, for every triangle, its label (instance in the high 16 bits) and its
    material.
    """

    vertices: Array  # [V, 3] float32
    triangles: Array  # [T, 3] uint32
    labels: Array  # [T] uint32
    surface: Array  # [T, 3] float32: remission, roughness in metres, share let through


@dataclass(frozen=True)
class Place:
    """Where an object stands: x, y, z of its foot in metres, its heading in radians, and its instance
    number (0 = none).
    """

    x: float
    y: float
    z: float = 0.0
    yaw: float = 0.0
    instance: int = 0


@dataclass
class MeshBuilder:
    """Collects placed templates and loose triangles, and turns all of them into one mesh at the end."""

    _placed: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    _loose: list[tuple[Array, Array, Array, Array]] = field(default_factory=list)

    def add(
        self,
        template: str,
        place: Place,
        center: Triple,
        size: Triple,
        material: Material,
        *,
        tilt: float = 0.0,
        roll: float = 0.0,
        yaw: float = 0.0,
    ) -> None:
        """Put a template of `size` (its extents along x y z) at `center` in the object's own frame,
        turned about y, x and z there.
        """
        self._placed.setdefault(template, []).append((
            *center, *size, tilt, roll, yaw, place.x, place.y, place.z, place.yaw,
            material.label + (place.instance << 16), material.remission, material.rough, material.through,
        ))  # fmt: skip

    def add_triangles(self, vertices: Array, triangles: Array, material: Material) -> None:
        """Add triangles `[T, 3]` over vertices `[V, 3]` in world coordinates, all of one material."""
        surface = np.array([material.remission, material.rough, material.through], np.float32)
        n = len(triangles)
        self._loose.append(
            (vertices, triangles, np.full(n, material.label, np.uint32), np.broadcast_to(surface, (n, 3)))
        )

    def build(self, rng: np.random.Generator) -> Mesh:
        """Return the mesh; `rng` shapes the crowns, each one of its own."""
        parts = list(self._loose)
        for name, rows in self._placed.items():
            parts.append(_instantiate(name, np.array(rows), rng))
        offsets = np.cumsum([0] + [len(part[0]) for part in parts])
        return Mesh(
            np.concatenate([part[0] for part in parts]).astype(np.float32),
            np.concatenate(
                [part[1] + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
            ).astype(np.uint32),
            np.concatenate([part[2] for part in parts]).astype(np.uint32),
            np.concatenate([part[3] for part in parts]).astype(np.float32),
        )


def _instantiate(name: str, rows: Array, rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """Copy one template to every row of `rows` (the tuple of `MeshBuilder.add`)."""
    vertices, triangles = template(name)
    copies = np.broadcast_to(vertices, (len(rows), *vertices.shape))
    if name in ("crown", "clump"):
        copies = copies * rng.uniform(0.75, 1.25, (len(rows), len(vertices), 1))
    copies = copies * rows[:, None, 3:6]
    inner = _rotation(rows[:, 6], rows[:, 7], rows[:, 8])
    outer = _rotation(np.zeros(len(rows)), np.zeros(len(rows)), rows[:, 12])
    copies = copies @ inner.transpose(0, 2, 1) + rows[:, None, 0:3]
    copies = copies @ outer.transpose(0, 2, 1) + rows[:, None, 9:12]
    index = triangles[None] + (np.arange(len(rows)) * len(vertices))[:, None, None]
    per_triangle = np.repeat(rows[:, 13:], len(triangles), axis=0)
    return (
        copies.reshape(-1, 3),
        index.reshape(-1, 3),
        per_triangle[:, 0].astype(np.uint32),
        per_triangle[:, 1:],
    )


def _rotation(tilt: Array, roll: Array, yaw: Array) -> Array:
    """Matrices `[n, 3, 3]` that roll about x, then tilt about y, then turn about z."""
    ct, st, cr, sr, cy, sy = np.cos(tilt), np.sin(tilt), np.cos(roll), np.sin(roll), np.cos(yaw), np.sin(yaw)
    rows = [
        [cy * ct, cy * st * sr - sy * cr, cy * st * cr + sy * sr],
        [sy * ct, sy * st * sr + cy * cr, sy * st * cr - cy * sr],
        [-st, ct * sr, ct * cr],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


@cache
def template(name: str) -> Template:
    """A body about the origin in a cube of side 1: box, roof, cylinder, cone, wheel, ball, crown and
    clump (ragged balls, fine and coarse), or a car's outline by its name.
    """
    if name == "box":
        return _extrude(np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]))
    if name == "roof":
        return _extrude(np.array([[-0.5, -0.5], [0.5, -0.5], [0.0, 0.5]]))
    if name == "cylinder":
        return _frustum(10, 1.0)
    if name == "cone":
        return _frustum(8, 0.55)
    if name == "wheel":
        vertices, triangles = _frustum(10, 1.0)
        return vertices[:, [0, 2, 1]], triangles
    if name == "crown":
        return _sphere(split=True)
    if name in ("ball", "clump"):
        return _sphere(split=False)
    if name in _OUTLINES:
        return _car_body(np.array(_OUTLINES[name]))
    raise ValueError(
        "template must be box, roof, cylinder, cone, wheel, ball, crown, clump or one of "
        f"{', '.join(_OUTLINES)}, got {name!r}"
    )


# Outlines of cars from the side, nose at +x, as (x, z) in a unit box, counterclockwise from the lower rear.
_OUTLINES = {
    "sedan": [
        (-0.5, 0.0),
        (0.5, 0.0),
        (0.5, 0.38),
        (0.23, 0.55),
        (0.08, 1.0),
        (-0.25, 1.0),
        (-0.38, 0.62),
        (-0.5, 0.58),
    ],
    "hatch": [
        (-0.5, 0.0),
        (0.5, 0.0),
        (0.5, 0.4),
        (0.25, 0.55),
        (0.1, 1.0),
        (-0.38, 1.0),
        (-0.48, 0.55),
        (-0.5, 0.5),
    ],
    "suv": [
        (-0.5, 0.0),
        (0.5, 0.0),
        (0.5, 0.5),
        (0.27, 0.6),
        (0.15, 1.0),
        (-0.44, 1.0),
        (-0.49, 0.6),
        (-0.5, 0.5),
    ],
    "van": [
        (-0.5, 0.0),
        (0.5, 0.0),
        (0.5, 0.42),
        (0.4, 0.55),
        (0.26, 1.0),
        (-0.48, 1.0),
        (-0.5, 0.6),
        (-0.5, 0.3),
    ],
}


def _extrude(outline: Array) -> Template:
    """A prism over an outline `[n, 2]` in the x-z plane (fan-triangulated from its first point), y from
    -0.5 to 0.5.
    """
    n = len(outline)
    sides = [np.stack([outline[:, 0], np.full(n, y), outline[:, 1]], axis=1) for y in (-0.5, 0.5)]
    fan = [(0, i, i + 1) for i in range(1, n - 1)]
    walls = [t for i in range(n) for t in ((i, (i + 1) % n, n + i), ((i + 1) % n, n + (i + 1) % n, n + i))]
    return np.concatenate(sides), np.array([*fan, *((a + n, c + n, b + n) for a, b, c in fan), *walls])


def _car_body(outline: Array) -> Template:
    """A car: its outline extruded, the cabin (all above 0.56 of the height) narrower than the body."""
    vertices, triangles = _extrude(outline - [0.0, 0.5])
    vertices[:, 1] *= np.where(vertices[:, 2] > 0.2, 0.78, 1.0)
    return vertices, triangles


def _frustum(sides: int, top: float) -> Template:
    """An upright cylinder with caps; the upper ring has `top` times the radius."""
    angle = np.arange(sides) * (2 * np.pi / sides)
    ring = np.stack([np.cos(angle) / 2, np.sin(angle) / 2], axis=1)
    low = np.column_stack([ring, np.full(sides, -0.5)])
    high = np.column_stack([ring * top, np.full(sides, 0.5)])
    vertices = np.concatenate([low, high, [[0, 0, -0.5], [0, 0, 0.5]]])
    triangles = []
    for i in range(sides):
        j = (i + 1) % sides
        triangles += [
            (i, j, sides + i),
            (j, sides + j, sides + i),
            (2 * sides, j, i),
            (2 * sides + 1, sides + i, sides + j),
        ]
    return vertices, np.array(triangles)


def _sphere(*, split: bool) -> Template:
    """A sphere of diameter 1: an icosahedron, or one with every face split in four (42 vertices, 80 triangles)."""
    g = (1 + 5**0.5) / 2
    corners = [np.array(v, float) for v in (
        (-1, g, 0), (1, g, 0), (-1, -g, 0), (1, -g, 0), (0, -1, g), (0, 1, g), (0, -1, -g),
        (0, 1, -g), (g, 0, -1), (g, 0, 1), (-g, 0, -1), (-g, 0, 1),
    )]  # fmt: skip
    faces = [
        (0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4), (11, 10, 2), (10, 7, 6), (7, 1, 8),
        (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9), (4, 9, 5), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1),
    ]  # fmt: skip
    middles: dict[tuple[int, int], int] = {}

    def middle(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in middles:
            middles[key] = len(corners)
            corners.append((corners[a] + corners[b]) / 2)
        return middles[key]

    triangles = [] if split else faces
    for a, b, c in faces if split else ():
        ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
        triangles += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    vertices = np.array(corners)
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True) / 2, np.array(triangles)
