# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Headers of PCD and PLY files, checked against the bytes that follow before a reader allocates by them.

Open3D 0.20 believes a header: it allocates what the count says, reads past the end of a compressed block and
returns whatever lay there, and turns text that is no number into zeros. So the counts are proved here first.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

_MAX_HEADER = 1 << 16  # bytes; the longest header seen in practice is below 2 KiB
_LZF_RATIO = 88  # LZF codes at most 264 bytes in 3
_PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a file's header promises: `points` records with the named `fields`, the first byte of them at
    `start`.
    """

    points: int
    fields: tuple[str, ...]
    encoding: str  # "ascii", "binary" or "binary_compressed"
    start: int  # byte offset of the point records
    record: np.dtype | None  # one record of a binary PLY, None elsewhere
    skip_lines: int = 0  # lines of other elements before the points of an ascii PLY


def read_pcd_header(path: Path) -> Header:
    """Read and prove a PCD header; raises `ValueError` where it is malformed or promises more than the
    file holds.
    """
    entries: dict[str, list[str]] = {}
    with path.open("rb") as file:
        while "DATA" not in entries:
            words = _header_line(path, file, "PCD", "a DATA line").split()
            if words and not words[0].startswith("#"):
                entries[words[0].upper()] = words[1:]
        start = file.tell()
        missing = [
            key for key in ("FIELDS", "SIZE", "TYPE", "WIDTH", "HEIGHT", "DATA") if not entries.get(key)
        ]
        if missing:
            raise ValueError(f"{path}: expected a PCD header, it has no {missing[0]} line")
        fields = tuple(entries["FIELDS"])
        sizes = _integers(path, entries, "SIZE", len(fields))
        counts = _integers(path, entries, "COUNT", len(fields)) if "COUNT" in entries else [1] * len(fields)
        width, height = _integers(path, entries, "WIDTH", 1)[0], _integers(path, entries, "HEIGHT", 1)[0]
        points = _integers(path, entries, "POINTS", 1)[0] if "POINTS" in entries else width * height
        if points != width * height:
            raise ValueError(
                f"{path}: PCD header says POINTS {points}, but WIDTH x HEIGHT is {width} x {height}"
            )
        if any(size not in (1, 2, 4, 8) for size in sizes):
            raise ValueError(f"{path}: PCD field sizes must be 1, 2, 4 or 8 bytes, got {sizes}")
        _require_xyz(path, "PCD", fields)
        encoding = entries["DATA"][0].lower()
        record = sum(size * count for size, count in zip(sizes, counts, strict=True))
        held = os.fstat(file.fileno()).st_size - start
        if encoding == "binary":
            _require_bytes(path, points, record, held)
        elif encoding == "binary_compressed":
            _check_compressed(path, file, points, record, held)
        elif encoding == "ascii":
            _check_text(path, file, points, sum(counts), held)
        else:
            raise ValueError(f"{path}: PCD data must be ascii, binary or binary_compressed, got {encoding!r}")
    scalars = tuple(name for name, count in zip(fields, counts, strict=True) if count == 1 and name != "_")
    return Header(points, scalars, encoding, start, None)


def read_ply_header(path: Path) -> Header:
    """Read and prove a PLY header; raises `ValueError` where it is malformed or promises more than the
    file holds.
    """
    with path.open("rb") as file:
        if file.read(3) != b"ply" or file.readline(8).strip():
            raise ValueError(f"{path}: expected a PLY file, whose first line is 'ply', got {_start_of(path)}")
        encoding = ""
        elements: list[
            tuple[str, int, list[tuple[str, str]], bool]
        ] = []  # name, count, (property, type), has lists
        while True:
            words = _header_line(path, file, "PLY", "an end_header line").split()
            match words:
                case ["end_header"]:
                    break
                case ["format", kind, *_]:
                    encoding = kind
                case ["element", name, count]:
                    elements.append((name, _integer(path, "element " + name, count), [], False))
                case ["property", "list", _, _, _] if elements:
                    name, number, properties, _ = elements[-1]
                    elements[-1] = (name, number, properties, True)
                case ["property", kind, name] if elements and kind in _PLY_TYPES:
                    elements[-1][2].append((name, _PLY_TYPES[kind]))
                case [] | ["comment", *_] | ["obj_info", *_]:
                    pass
                case _:
                    raise ValueError(
                        f"{path}: PLY header has a line that means nothing: {' '.join(words)[:80]!r}"
                    )
        start, held = file.tell(), os.fstat(file.fileno()).st_size - file.tell()
        orders = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
        if encoding not in orders:
            raise ValueError(f"{path}: PLY format must be one of {', '.join(orders)}, got {encoding!r}")
        before = 0
        lines = 0
        for name, number, properties, has_lists in elements:
            names = tuple(p for p, _ in properties)
            record = (
                np.dtype([(p, orders[encoding] + kind) for p, kind in properties])
                if len(set(names)) == len(names)
                else None
            )
            if record is None:
                raise ValueError(f"{path}: PLY element {name} names a property twice")
            if name == "vertex":
                _require_xyz(path, "PLY", names)
                if has_lists:
                    raise ValueError(f"{path}: PLY vertices must have scalar properties, got a list property")
                if encoding == "ascii":
                    for _ in range(min(lines, held)):
                        file.readline()
                    _check_text(path, file, number, len(names), held, exact=False)
                    return Header(number, names, "ascii", start, None, lines)
                _require_bytes(path, number, record.itemsize, held - before)
                return Header(number, names, "binary", start + before, record)
            if has_lists and encoding != "ascii":
                raise ValueError(f"{path}: PLY vertices must come before element {name}, which has lists")
            before += number * record.itemsize
            lines += number
    raise ValueError(f"{path}: PLY header has no element 'vertex'")


def _header_line(path: Path, file: BinaryIO, kind: str, wanted: str) -> str:
    line = file.readline(4096)
    if not line or file.tell() > _MAX_HEADER:
        raise ValueError(f"{path}: expected a {kind} header with {wanted}, got {_start_of(path)}")
    try:
        return line.decode("ascii").strip()
    except UnicodeDecodeError:
        raise ValueError(
            f"{path}: expected a {kind} header with {wanted}, got bytes that are no text"
        ) from None


def _start_of(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(24)
    return f"a file that starts with {start!r}" if start else "an empty file"


def _integer(path: Path, what: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{path}: header's {what} must be a non-negative whole number, got {text!r}")
    return int(text)


def _integers(path: Path, entries: dict[str, list[str]], key: str, count: int) -> list[int]:
    values = [_integer(path, key, text) for text in entries[key]]
    if len(values) != count:
        raise ValueError(f"{path}: header's {key} line must have {count} values, got {len(values)}")
    return values


def _require_xyz(path: Path, kind: str, fields: tuple[str, ...]) -> None:
    if not {"x", "y", "z"} <= set(fields):
        raise ValueError(f"{path}: {kind} points must have fields x, y and z, got {', '.join(fields)}")


def _require_bytes(path: Path, points: int, record: int, held: int) -> None:
    if points * record > held:
        raise ValueError(
            f"{path}: header promises {points} points of {record} bytes ({points * record} bytes), "
            f"the file holds {max(held, 0)} bytes of them"
        )


def _check_compressed(path: Path, file: BinaryIO, points: int, record: int, held: int) -> None:
    sizes = file.read(8)
    if len(sizes) < 8:
        raise ValueError(
            f"{path}: compressed PCD data must start with two sizes (8 bytes), got {len(sizes)} bytes"
        )
    packed, unpacked = (int(size) for size in np.frombuffer(sizes, "<u4"))
    if packed > held - 8:
        raise ValueError(
            f"{path}: header promises {packed} bytes of compressed data, the file holds {held - 8}"
        )
    if unpacked != points * record or unpacked > _LZF_RATIO * packed:
        raise ValueError(
            f"{path}: header promises {points} points of {record} bytes ({points * record} bytes), "
            f"the compressed data ({packed} bytes) says it holds {unpacked}"
        )


def _check_text(
    path: Path, file: BinaryIO, points: int, columns: int, held: int, *, exact: bool = True
) -> None:
    """Prove that `points` lines of `columns` numbers follow, and with `exact` that nothing else does."""
    if 2 * columns * points - 1 > held:  # a digit and a separator for each number
        raise ValueError(
            f"{path}: header promises {points} lines of {columns} numbers, the file holds {held} bytes of text"
        )
    text = file.read().decode("ascii", errors="replace")
    if not points:
        return
    table = read_table(
        path, text, rows=None if exact else points
    )  # after PLY vertices other elements may come
    if table.shape != (points, columns):
        raise ValueError(
            f"{path}: header promises {points} lines of {columns} numbers, got {table.shape[0]} of {table.shape[1]}"
        )


def read_table(path: Path, text: str, *, rows: int | None = None) -> np.ndarray:
    """Return the numbers of a text table as float64 `[rows, columns]`; raises `ValueError` that names
    file and row.
    """
    if not any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines()):
        raise ValueError(f"{path}: expected lines of numbers, got none")
    try:
        return np.loadtxt(io.StringIO(text), dtype=np.float64, ndmin=2, max_rows=rows, comments="#")
    except ValueError as error:
        raise ValueError(f"{path}: expected lines of numbers, all of one length: {error}") from None
