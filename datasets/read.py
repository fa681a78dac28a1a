# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Reading a scan from a file: `.bin`, `.npy`, `.npz` and `.xyz` with NumPy, `.pcd` and `.ply` with Open3D."""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ._headers import Header, read_pcd_header, read_ply_header, read_table
from ._open3d import import_open3d
from .scan import Array, Scan, make_scan, scan_from_columns

Columns = int | Sequence[str] | None

_BIN_COLUMNS = {4: ("x", "y", "z", "remission"), 5: ("x", "y", "z", "intensity", "ring")}
_NPZ_KEYS = ("points", "pc", "xyz", "arr_0")
_FARTHEST = 10_000.0  # metres from the sensor; LiDARs see a few hundred
_DEFLATE_RATIO = 1032  # the most that deflate can shrink anything


def read_scan(path: str | os.PathLike[str], *, columns: Columns = None, drop_invalid: bool = False) -> Scan:
    """Read one scan from a file, chosen by the end of its name.

    `.pcd` and `.ply` (Open3D, all attributes kept but PCD fields of several numbers, such as histograms),
    `.xyz` (text), `.bin` (float32 little-endian, KITTI's 4 columns x y z remission or nuScenes' 5, x y z
    intensity ring), `.npy` and `.npz` (an array `[N, >= 3]`; in an archive the key points, pc, xyz, arr_0 or
    the only one).

    columns: the number of columns of a `.bin`, or the names of the columns of a `.bin`, `.npy`, `.npz` or
        `.xyz` ("_" leaves one out; r, g, b become `rgb`, `label` the labels). Without it the columns after x
        y z of a `.npy`, `.npz` or `.xyz` are remission where there is one, else `extra`. A `.bin` of unknown
        width is read with 4 or 5 columns, whichever divides its size and gives values a LiDAR can have
        (finite, within 10 km, remission not negative, ring a whole number from 0 to 255). Where both do,
        `.pcd.bin` (nuScenes' ending) has 5 and any other 4.
    drop_invalid: leave out points with a coordinate that is not finite instead of raising. A `.pcd` leaves
        out points of NaN always: the format marks the pixels without a return so.

    Raises `FileNotFoundError` and other `OSError`s for what cannot be opened, `ImportError` where Open3D is
    needed and does not load, and `ValueError` with the file's name, what was expected and what came for
    everything else.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path, Columns, bool], Scan]] = {
        ".pcd": _read_pcd, ".ply": _read_ply, ".xyz": _read_xyz, ".bin": _read_bin, ".npy": _read_npy, ".npz": _read_npz,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{path}: expected a file that ends in {', '.join(readers)}, got {path.suffix or 'no ending'!r}"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file, got a folder")
    if path.stat().st_size == 0:  # stat raises FileNotFoundError with the name
        raise ValueError(f"{path}: expected a scan, got an empty file")
    return reader(path, columns, drop_invalid)


def _named(columns: Columns, width: int, path: Path) -> Sequence[str]:
    """The names of `width` columns: the caller's, else x y z and remission (one more column) or `extra`."""
    if columns is None or isinstance(columns, int):
        if columns is not None and columns != width:
            raise ValueError(f"{path}: expected {columns} columns, got {width}")
        return _BIN_COLUMNS[4] if width == 4 else ("x", "y", "z")
    return columns


def _from_table(table: Array, columns: Columns, path: Path, drop_invalid: bool) -> Scan:
    if table.ndim != 2 or table.shape[1] < 3:
        raise ValueError(f"{path}: expected an array [N, 3] or wider, got shape {list(table.shape)}")
    table = table.astype(table.dtype.newbyteorder("="), copy=False)  # which knows either byte order
    if table.dtype not in (np.float32, np.float64):
        raise ValueError(f"{path}: expected float32 or float64, got {table.dtype}")
    names = _named(columns, table.shape[1], path)
    if len(names) == 3 < table.shape[1] and columns is None:
        return make_scan(
            np.ascontiguousarray(table[:, :3]),
            {"extra": np.ascontiguousarray(table[:, 3:])},
            None,
            path,
            drop_invalid=drop_invalid,
        )
    return scan_from_columns(table, names, path, drop_invalid=drop_invalid)


# ---- .bin
# -----------------------------------------------------------------------------------------------------------


def _read_bin(path: Path, columns: Columns, drop_invalid: bool) -> Scan:
    size = path.stat().st_size
    names = (
        None if columns is None else _BIN_COLUMNS.get(columns) if isinstance(columns, int) else tuple(columns)
    )
    if columns is not None and not names:
        raise ValueError(
            f"{path}: a .bin has 4 or 5 columns, or as many as columns= names; got columns={columns}"
        )
    candidates = [names] if names is not None else list(_BIN_COLUMNS.values())
    if names is None and path.name.lower().endswith(".pcd.bin"):
        candidates.reverse()
    reasons = []
    for candidate in candidates:
        width = len(candidate)
        if size % (4 * width):
            reasons.append(f"{width} columns: {size} bytes is no multiple of {4 * width}")
            continue
        table = np.fromfile(path, dtype="<f4").reshape(-1, width).astype(np.float32, copy=False)
        reason = None if names is not None else _implausible(table, drop_invalid)
        if reason is None:
            return scan_from_columns(table, candidate, path, drop_invalid=drop_invalid)
        reasons.append(f"{width} columns: {reason}")
    raise ValueError(
        f"{path}: expected float32 points of 4 or 5 columns (or columns=), but as " + "; as ".join(reasons)
    )


def _implausible(table: Array, drop_invalid: bool) -> str | None:
    """Say why `table` (4 or 5 columns) cannot be a LiDAR scan, or None."""
    checks = [("a value that is not finite", ~np.isfinite(table).all(axis=1))]
    if drop_invalid:
        table = table[np.isfinite(table[:, :3]).all(axis=1)]
        checks = []
    checks.append((f"a coordinate beyond {_FARTHEST:.0f} m", (np.abs(table[:, :3]) > _FARTHEST).any(axis=1)))
    checks.append(("a remission below 0", table[:, 3] < 0))
    if table.shape[1] == 5:
        ring = table[:, 4]
        checks.append(
            (
                "a ring that is no whole number from 0 to 255",
                (ring != np.floor(ring)) | (ring < 0) | (ring > 255),
            )
        )
    for what, bad in checks:
        if bad.any():
            row = int(bad.argmax())
            return f"row {row} has {what}: {[round(float(v), 4) for v in table[row]]}"
    return None


# ---- .npy, .npz
# -----------------------------------------------------------------------------------------------------


# What NumPy and zipfile raise for bytes that are no array: the tokenizer is NumPy's, for the header. A NumPy
# that seeks beyond an end gets a nameless OSError.
_BROKEN = (
    ValueError, EOFError, OverflowError, NotImplementedError, RuntimeError, SyntaxError, TypeError, KeyError,
    OSError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextmanager
def _parsing(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever broken bytes raise inside into a `ValueError` with the file's name; real I/O errors pass."""
    try:
        yield
    except _BROKEN as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path}: expected {expected}: {error}") from None


def _read_npy(path: Path, columns: Columns, drop_invalid: bool) -> Scan:
    with _parsing(path, "a .npy file of float32 or float64 numbers"):
        # A map proves the header against the file's size before anything is allocated, and refuses pickles.
        table = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    return _from_table(table, columns, path, drop_invalid)


def _read_npz(path: Path, columns: Columns, drop_invalid: bool) -> Scan:
    with _parsing(path, "a .npz archive with an array of points"), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        key = next((k for k in _NPZ_KEYS if k in names), names[0] if len(names) == 1 else None)
        if key is None:
            keys = ", ".join(_NPZ_KEYS)
            raise ValueError(f"one array or a key out of {keys}, got {', '.join(names) or 'no arrays'}")
        table = _read_member(archive, archive.getinfo(key + ".npy"))
    return _from_table(table, columns, path, drop_invalid)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """Read one array of an archive once its header is proved against the bytes that can be there."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = header(file)
    promised = dtype.itemsize * int(np.prod(shape, dtype=object))
    held = min(info.file_size, _DEFLATE_RATIO * info.compress_size + 64)
    if dtype.hasobject or promised > held:
        raise ValueError(
            f"array {info.filename} says {dtype} {list(shape)} ({promised} bytes), the archive holds {held} bytes of it"
        )
    with archive.open(info) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array


# ---- text and Open3D
# ------------------------------------------------------------------------------------------------


def _read_xyz(path: Path, columns: Columns, drop_invalid: bool) -> Scan:
    """NumPy rather than Open3D, which keeps three columns, allows no comment and rounds to float32 (map
    coordinates are larger).
    """
    return _from_table(
        read_table(path, path.read_text("utf-8", errors="replace")), columns, path, drop_invalid
    )


def _read_pcd(path: Path, columns: Columns, drop_invalid: bool) -> Scan:
    return _read_open3d(path, read_pcd_header(path), columns, drop_invalid, pixels=True)


def _read_ply(path: Path, columns: Columns, drop_invalid: bool) -> Scan:
    return _read_open3d(path, read_ply_header(path), columns, drop_invalid, pixels=False)


def _read_open3d(path: Path, header: Header, columns: Columns, drop_invalid: bool, *, pixels: bool) -> Scan:
    if columns is not None:
        raise ValueError(
            f"{path}: columns= is for files that do not name their columns, this one has {', '.join(header.fields)}"
        )
    if header.points == 0:
        return Scan(np.empty((0, 3), np.float32), path=str(path))
    o3d = import_open3d()
    try:
        with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
            cloud = o3d.t.io.read_point_cloud(
                str(path), remove_nan_points=False, remove_infinite_points=False
            )
    except RuntimeError as error:
        raise ValueError(f"{path}: Open3D cannot read it: {error}") from None
    found: dict[str, Array] = {name: values.numpy() for name, values in cloud.point.items()}
    points = found.pop("positions", np.empty((0, 3)))
    if len(points) != header.points:
        raise ValueError(f"{path}: header promises {header.points} points, Open3D could read {len(points)}")
    attributes = {
        "rgb" if name == "colors" else name: _squeeze(values).copy() for name, values in found.items()
    }
    if pixels:
        attributes = {
            name: values for name, values in attributes.items() if name in ("rgb", "normals", *header.fields)
        }
    attributes.update(_missing(path, header, attributes))
    labels = attributes.pop("label", None)
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        attributes["label"], labels = labels, None
    if pixels:
        keep = ~np.isnan(points).any(axis=1)
        points, attributes = points[keep], {name: values[keep] for name, values in attributes.items()}
        labels = None if labels is None else labels[keep]
    return make_scan(_native(points), attributes, labels, path, drop_invalid=drop_invalid)


def _squeeze(values: Array) -> Array:
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _native(points: Array) -> Array:
    return np.array(points if points.dtype in (np.float32, np.float64) else points.astype(np.float64))


def _missing(path: Path, header: Header, have: dict[str, Array]) -> dict[str, Array]:
    """The PLY properties that Open3D leaves out (it knows no 16-bit integers, which rings are often
    stored in).
    """
    if path.suffix.lower() != ".ply":
        return {}
    known = {"x", "y", "z", *have}
    known |= {"nx", "ny", "nz"} if "normals" in have else set()
    if {"red", "green", "blue"} <= set(header.fields):
        known |= {"red", "green", "blue"}
    else:  # Open3D leaves the channels that are not there unset
        have.pop("rgb", None)
    names = [name for name in header.fields if name not in known]
    if not names:
        return {}
    if header.record is not None:
        table: Any = np.fromfile(path, dtype=header.record, count=header.points, offset=header.start)
        return {name: table[name].astype(header.record[name].newbyteorder("=")) for name in names}
    with path.open("rb") as file:
        file.seek(header.start)
        for _ in range(header.skip_lines):
            file.readline()
        rows = read_table(path, file.read().decode("ascii", errors="replace"), rows=header.points)
    return {name: rows[:, header.fields.index(name)] for name in names}
