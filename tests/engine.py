# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""From a random Case to the package's tensors and layers (``oracle.py`` and ``strategies.py`` import nothing of ours)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategies import Case, coords_of

import sparseconv
import sparseconv.nn


def tensor_of(case: Case, dtype: torch.dtype = torch.float64, grad: bool = False) -> sparseconv.SparseTensor:
    features = torch.tensor(case.numbers["features"], dtype=dtype, requires_grad=grad)
    coords = coords_of(case.sites, case.rel.ndim)
    return sparseconv.SparseTensor(features, coords, spatial_shape=case.shape, batch_size=case.batch_size)


def out_stride(case: Case) -> tuple[Any, ...]:
    return tuple(Fraction(1, s) if case.rel.transposed else Fraction(s) for s in case.rel.stride)


def target_of(case: Case, dtype: torch.dtype = torch.float64) -> sparseconv.SparseTensor | None:
    if case.target is None:
        return None
    import oracle

    return sparseconv.SparseTensor(
        torch.zeros(len(case.target), 1, dtype=dtype),
        coords_of(case.target, case.rel.ndim),
        stride=out_stride(case),
        spatial_shape=oracle.output_shape(case.rel, case.shape),
        batch_size=case.batch_size,
    )


def layer_of(case: Case, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    cls = getattr(sparseconv.nn, case.class_name)
    layer = cls(
        case.c_in, case.c_out, case.rel.kernel, groups=case.groups, bias=case.bias, **case.layer_options
    ).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(case.numbers["weight"]))
        if case.bias:
            layer.bias.copy_(torch.from_numpy(case.numbers["bias"]))
    return layer


def bias_of(case: Case) -> np.ndarray | None:
    return case.numbers["bias"] if case.bias else None


def map_options(case: Case) -> dict[str, Any]:
    """The keyword arguments of ``build_kernel_map`` for a Case."""
    options: dict[str, Any] = {
        "kernel_size": case.rel.kernel,
        "dilation": case.rel.dilation,
        "anchor": case.rel.anchor,
        "submanifold": case.rel.submanifold,
        "transposed": case.rel.transposed,
        "spatial_shape": case.shape,
    }
    if not case.rel.submanifold:
        options["stride"] = case.rel.stride
        if case.rel.anchor == "torch":
            options["padding"] = case.rel.padding
    return options


def random_tensor(
    ndim: int,
    n: int,
    channels: int,
    *,
    extent: int,
    batch_size: int = 1,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    spatial_shape: tuple[int, ...] | None = None,
    grad: bool = False,
) -> sparseconv.SparseTensor:
    """About ``n`` distinct random sites in a cube of ``extent`` cells (half of them negative when unbounded)."""
    rng = np.random.default_rng(seed)
    low = 0 if spatial_shape is not None else -extent // 2
    cells = rng.integers(low, low + extent, (n, ndim))
    coords = np.unique(np.concatenate([rng.integers(0, batch_size, (n, 1)), cells], 1), axis=0)
    coords = torch.from_numpy(coords[rng.permutation(len(coords))].astype(np.int32))
    features = torch.from_numpy(rng.standard_normal((len(coords), channels))).to(dtype).requires_grad_(grad)
    return sparseconv.SparseTensor(features, coords, batch_size=batch_size, spatial_shape=spatial_shape)


def refuses(
    call: Callable[[], Any], *words: str, kind: type[Exception] | tuple[type[Exception], ...] = ValueError
) -> None:
    """``call`` raises ``kind`` and its message holds all ``words`` (regular expressions)."""
    try:
        result = call()
    except kind as error:
        message = str(error)
        for word in words:
            if not re.search(word, message):
                raise AssertionError(f"{word!r} is not in: {message}") from error
        return
    raise AssertionError(f"accepted, result {result!r}")


# --- real scans ------------------------------------------------------------------------------------------------------

SCANS = (
    "kitti_odometry_00_000000.bin",
    "kitti_odometry_00_000001.bin",
    "nuscenes_lidar_top.pcd.bin",
    "ouster_os1_128.bin",
    "room_scan1.pcd",
    "scannet_scene0451_01.npy",
    "semantickitti_01_000000_points.npy",
    "semantickitti_xx_000700_points.npy",
    "tabletop_rgb_labels.pcd",
    "waymo_spconv_benchmark_pc.npz",
)


def data_folder() -> Path:
    """The folder of real scans; skips the test, saying so, where there is none."""
    here = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SPARSECONV_DATA", here))
    if not folder.is_dir():
        pytest.skip(f"no real scans: neither {here} nor the folder named by SPARSECONV_DATA exists")
    return folder


def real_points(name: str) -> np.ndarray:
    """xyz of a real scan, float32 [N, 3], read without the package's own readers."""
    path = data_folder() / name
    if not path.exists():
        pytest.skip(f"{path} is missing")
    if name.endswith(".npy"):
        points = np.load(path)
    elif name.endswith(".npz"):
        points = np.load(path)["pc"]
    elif name.endswith(".bin"):
        points = np.fromfile(path, "<f4").reshape(-1, 5 if "nuscenes" in name else 4)
    else:
        points = _read_pcd(path)
    points = np.ascontiguousarray(points[:, :3], np.float32)
    return points[np.isfinite(points).all(1)]


def _read_pcd(path: Path) -> np.ndarray:
    """x y z of a binary_compressed PCD file: a text header, then LZF, one field after the other."""
    raw = path.read_bytes()
    head, body = raw.split(b"DATA binary_compressed\n", 1)
    header = {
        line.split()[0]: line.split()[1:] for line in head.decode().splitlines() if line and line[0] != "#"
    }
    packed, size = np.frombuffer(body[:8], "<u4")
    data = _unpack_lzf(body[8 : 8 + int(packed)], int(size))
    n, start, columns = int(header["POINTS"][0]), 0, {}
    for name, width, count in zip(header["FIELDS"], header["SIZE"], header["COUNT"], strict=True):
        length = n * int(width) * int(count)
        columns[name] = data[start : start + length]
        start += length
    return np.stack([np.frombuffer(columns[a], "<f4") for a in "xyz"], 1)


def _unpack_lzf(data: bytes, size: int) -> bytes:
    out, i = bytearray(), 0
    while i < len(data):
        control = data[i]
        i += 1
        if control < 32:  # a run of control + 1 literal bytes
            out += data[i : i + control + 1]
            i += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[i]
            i += 1
        start = len(out) - ((control & 31) << 8 | data[i]) - 1
        i += 1
        for k in range(start, start + length + 2):  # may overlap what it writes
            out.append(out[k])
    if len(out) != size:
        raise ValueError(f"LZF gave {len(out)} bytes instead of {size}")
    return bytes(out)
