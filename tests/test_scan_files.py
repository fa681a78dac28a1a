# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Reading scans: real files, every format written here byte by byte, and files that lie."""

from __future__ import annotations

import builtins
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparseconv.datasets import Scan, read_scan
from sparseconv.datasets._open3d import _explain, import_open3d

DATA = Path(os.environ.get("SPARSECONV_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
REAL = {
    "kitti_odometry_00_000000.bin": (124668, (91888, 60215, 31890), {"remission"}),
    "kitti_odometry_00_000001.bin": (124605, None, {"remission"}),
    "semantickitti_01_000000_points.npy": (90404, (86581, 70056, 46795), set()),
    "semantickitti_xx_000700_points.npy": (85962, (81268, 59935, 32506), set()),
    "nuscenes_lidar_top.pcd.bin": (34688, (23091, 17856, 12606), {"intensity", "ring"}),
    "waymo_spconv_benchmark_pc.npz": (198130, (173011, 125655, 66449), set()),
    "ouster_os1_128.bin": (107647, (103120, 77590, 44578), {"remission"}),
    "scannet_scene0451_01.npy": (107046, (38496, 10149, 2550), {"extra"}),
    "room_scan1.pcd": (112586, (27930, 13490, 5342), set()),
    "tabletop_rgb_labels.pcd": (175178, (575, 165, 42), {"rgb"}),
}
PCD = (
    "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
    "WIDTH {n}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA {data}\n"
)
PLY = (
    "ply\nformat {kind} 1.0\ncomment written by hand\nelement vertex {n}\nproperty float x\nproperty float y\n"
    "property float z\nproperty float intensity\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n"
    "property ushort ring\nend_header\n"
)
PLY_RECORD = np.dtype(
    [*((c, "<f4") for c in ("x", "y", "z", "i")), *((c, "u1") for c in "rgb"), ("ring", "<u2")]
)


@pytest.fixture
def open3d() -> Any:
    try:
        return import_open3d()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture
def table() -> np.ndarray:
    """20 plausible LiDAR points: x y z remission."""
    rng = np.random.default_rng(0)
    return np.column_stack([rng.uniform(-50, 50, (20, 3)), rng.random(20)]).astype(np.float32)


def write(path: Path, *parts: str | bytes) -> Path:
    path.write_bytes(b"".join(part.encode() if isinstance(part, str) else part for part in parts))
    return path


def refused(path: Path, *words: str, error: type[Exception] = ValueError, **options: Any) -> None:
    with pytest.raises(error) as caught:
        read_scan(path, **options)
    for word in (path.name, *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("name", REAL)
def test_real_file(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not there; SPARSECONV_DATA names the folder of real scans")
    if name.endswith(".pcd"):
        try:
            import_open3d()
        except ImportError as error:
            pytest.skip(str(error))
    points, voxels, attributes = REAL[name]
    scan = read_scan(DATA / name)
    assert len(scan) == points
    assert set(scan.attributes) == attributes
    assert scan.points.flags.c_contiguous
    assert (scan.labels is not None) == ("labels" in name)
    if voxels:
        low = scan.points.min(axis=0)
        cells = [np.floor((scan.points - low) / np.float32(size)).astype(int) for size in (0.05, 0.1, 0.2)]
        counts = [len(np.unique(cell, axis=0)) for cell in cells]
        assert np.allclose(counts, voxels, atol=2)  # float32 division moves a point or two


def test_bin_of_four_and_five_columns(tmp_path: Path, table: np.ndarray) -> None:
    scan = read_scan(write(tmp_path / "a.bin", table[:19].tobytes()))  # 19 * 16 bytes is no multiple of 20
    assert np.array_equal(scan.points, table[:19, :3])
    assert np.array_equal(scan.attributes["remission"], table[:19, 3])
    five = np.column_stack([table[:19], np.arange(19) % 32]).astype("<f4")
    scan = read_scan(write(tmp_path / "a.pcd.bin", five.tobytes()))
    assert np.array_equal(scan.attributes["ring"], five[:, 4])
    assert set(scan.attributes) == {"intensity", "ring"}


def test_bin_whose_size_fits_both(tmp_path: Path, table: np.ndarray) -> None:
    assert table.nbytes % 80 == 0
    assert len(read_scan(write(tmp_path / "four.bin", table.tobytes()))) == 20
    five = np.column_stack([table, np.arange(20)]).astype("<f4")
    assert len(read_scan(write(tmp_path / "five.bin", five.tobytes()))) == 20
    zeros = np.zeros(20, "<f4").tobytes()  # plausible either way: the name decides
    assert len(read_scan(write(tmp_path / "zeros.bin", zeros))) == 5
    assert len(read_scan(write(tmp_path / "zeros.pcd.bin", zeros))) == 4
    assert len(read_scan(write(tmp_path / "zeros.bin", zeros), columns=5)) == 4


def test_named_columns(tmp_path: Path) -> None:
    rows = np.arange(40, dtype=np.float32).reshape(5, 8)
    names = ("x", "y", "z", "r", "g", "b", "label", "_")
    for path in (tmp_path / "a.npy", tmp_path / "a.bin"):
        np.save(path, rows) if path.suffix == ".npy" else write(path, rows.tobytes())
        scan = read_scan(path, columns=names)
        assert np.array_equal(scan.attributes["rgb"], rows[:, 3:6])
        assert scan.labels is not None
        assert scan.labels.tolist() == rows[:, 6].tolist()
        assert set(scan.attributes) == {"rgb"}
    refused(tmp_path / "a.npy", "7 columns", columns=names[:-1])
    refused(tmp_path / "a.npy", "x, y and z", columns=("a", "b", "c", "d", "e", "f", "g", "h"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_npy_and_npz(tmp_path: Path, table: np.ndarray, dtype: type) -> None:
    table = table.astype(dtype)
    np.save(tmp_path / "a.npy", np.asfortranarray(table[:, :3]))
    np.savez(tmp_path / "a.npz", anything=table)
    np.savez_compressed(tmp_path / "b.npz", pc=table[:, :3], other=np.zeros(3))
    for name in ("a.npy", "a.npz", "b.npz"):
        scan = read_scan(tmp_path / name)
        assert scan.points.dtype == dtype
        assert scan.points.flags.c_contiguous
        assert np.array_equal(scan.points, table[:, :3])
    assert np.array_equal(read_scan(tmp_path / "a.npz").attributes["remission"], table[:, 3])
    np.save(tmp_path / "big-endian.npy", table.astype(table.dtype.newbyteorder(">")))
    scan = read_scan(tmp_path / "big-endian.npy")
    assert scan.points.dtype == dtype and np.array_equal(scan.points, table[:, :3])
    np.save(tmp_path / "none.npy", np.empty((0, 3), dtype))
    assert len(read_scan(tmp_path / "none.npy")) == 0


def test_xyz(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xyz", "# x y z remission\n500000.125 1 2 0.5\n\n3 4 5 0.25\n")
    scan = read_scan(path)
    assert scan.points.tolist() == [[500000.125, 1, 2], [3, 4, 5]]
    assert scan.attributes["remission"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize("kind", ["ascii", "binary"])
def test_pcd(tmp_path: Path, table: np.ndarray, kind: str, open3d: Any) -> None:
    del open3d
    table[3, :3] = np.nan  # a pixel without a return
    text = "\n".join(" ".join(str(value) for value in row) for row in table) + "\n"
    path = write(
        tmp_path / "a.pcd", PCD.format(n=20, data=kind), text if kind == "ascii" else table.tobytes()
    )
    scan = read_scan(path)
    keep = np.arange(20) != 3
    assert np.allclose(scan.points, table[keep, :3], atol=1e-5)
    assert np.allclose(scan.attributes["intensity"], table[keep, 3], atol=1e-6)
    none = write(tmp_path / "none.pcd", PCD.format(n=0, data=kind))
    assert len(read_scan(none)) == 0


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply(
    tmp_path: Path, table: np.ndarray, kind: str, open3d: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    del open3d
    record = np.zeros(20, PLY_RECORD.newbyteorder(">") if "big" in kind else PLY_RECORD)
    for i, name in enumerate(("x", "y", "z", "i")):
        record[name] = table[:, i]
    record["r"], record["g"], record["b"], record["ring"] = 1, 2, 3, np.arange(20) + 300
    text = "\n".join(" ".join(str(value) for value in row) for row in record.tolist()) + "\n"
    scan = read_scan(
        write(tmp_path / "a.ply", PLY.format(n=20, kind=kind), text if kind == "ascii" else record.tobytes())
    )
    assert np.allclose(scan.points, table[:, :3], atol=1e-5)
    assert np.allclose(scan.attributes["intensity"], table[:, 3], atol=1e-6)
    assert scan.attributes["rgb"].tolist() == [[1, 2, 3]] * 20
    assert scan.attributes["ring"].tolist() == list(
        range(300, 320)
    )  # Open3D alone leaves 16-bit properties out
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    for ending in (".bin", ".pcd", ".ply", ".xyz", ".npy", ".npz"):
        refused(tmp_path / f"missing{ending}", error=FileNotFoundError)
        refused(write(tmp_path / f"empty{ending}"), "empty file")
        folder = tmp_path / f"folder{ending}"
        folder.mkdir()
        refused(folder, "folder", error=IsADirectoryError)
    refused(write(tmp_path / "a.las", "LASF"), ".las", ".bin")
    refused(write(tmp_path / "noending", "x"), "no ending")


def test_bad_bin(tmp_path: Path, table: np.ndarray) -> None:
    refused(
        write(tmp_path / "short.bin", table.tobytes()[:-3]), "317 bytes", "multiple of 16", "multiple of 20"
    )
    refused(
        write(tmp_path / "cut.bin", table.tobytes()[:300]), "multiple of 16", "5 columns"
    )  # 300 = 15 * 20
    noise = np.random.default_rng(0).bytes(1600)
    refused(write(tmp_path / "noise.bin", noise), "4 columns", "5 columns")
    bad = table.copy()
    bad[7, 1] = np.inf
    refused(write(tmp_path / "inf.bin", bad.tobytes()), "row 7", "not finite")
    assert len(read_scan(tmp_path / "inf.bin", drop_invalid=True)) == 19
    refused(write(tmp_path / "a.bin", table.tobytes()), "columns=7", columns=7)
    refused(tmp_path / "a.bin", r"columns=()", columns=())


def test_points_that_are_not_finite(tmp_path: Path, table: np.ndarray, open3d: Any) -> None:
    del open3d
    table[4, 2] = np.inf
    np.save(tmp_path / "a.npy", table)
    write(tmp_path / "a.xyz", "1 2 3\n1 nan 3\n")
    write(tmp_path / "a.pcd", PCD.format(n=20, data="binary"), table.tobytes())
    for name, row in (("a.npy", 4), ("a.xyz", 1), ("a.pcd", 4)):
        refused(tmp_path / name, "finite", f"row {row}", "1 such rows")
        assert len(read_scan(tmp_path / name, drop_invalid=True)) == (1 if name == "a.xyz" else 19)


def test_lying_pcd(tmp_path: Path, table: np.ndarray) -> None:
    data = table.tobytes()
    refused(
        write(tmp_path / "more.pcd", PCD.format(n=21, data="binary"), data),
        "21 points of 16 bytes",
        "320 bytes",
    )
    refused(
        write(tmp_path / "absurd.pcd", PCD.format(n=10**14, data="binary"), data), "promises 100000000000000"
    )
    refused(write(tmp_path / "negative.pcd", PCD.format(n=-5, data="binary"), data), "'-5'")
    refused(
        write(
            tmp_path / "packed.pcd", PCD.format(n=10, data="binary_compressed"), b"\xff\xff\xff\x7f\xa0\0\0\0"
        ),
        "2147483647",
    )
    packed = np.array([8, 160], "<u4").tobytes() + bytes(8)
    refused(
        write(tmp_path / "bomb.pcd", PCD.format(n=10**8, data="binary_compressed"), packed),
        "100000000 points",
        "160",
    )
    refused(
        write(tmp_path / "ascii.pcd", PCD.format(n=30, data="ascii"), "1.5 2.5 3 4\n" * 29),
        "30 lines of 4",
        "29 of 4",
    )
    refused(
        write(tmp_path / "far.pcd", PCD.format(n=10**12, data="ascii"), "1 2 3 4\n"), "1000000000000 lines"
    )
    refused(write(tmp_path / "words.pcd", PCD.format(n=2, data="ascii"), "a b c d\n" * 2), "'a'")
    refused(write(tmp_path / "zip.pcd", PCD.format(n=2, data="zipped"), data), "'zipped'")
    refused(
        write(tmp_path / "size.pcd", PCD.format(n=2, data="binary").replace("WIDTH 2", "WIDTH 3"), data),
        "3 x 1",
    )
    refused(
        write(tmp_path / "field.pcd", PCD.format(n=2, data="binary").replace("FIELDS x", "FIELDS u"), data),
        "x, y and z",
    )
    refused(write(tmp_path / "text.pcd", "hello\nworld\n"), "DATA line", "hello")
    refused(write(tmp_path / "noise.pcd", bytes(range(256)) * 40), "PCD header")


def test_garbage_in_a_compressed_pcd(tmp_path: Path, open3d: Any) -> None:
    del open3d
    body = np.array([100, 320], "<u4").tobytes() + np.random.default_rng(0).bytes(100)
    refused(write(tmp_path / "a.pcd", PCD.format(n=20, data="binary_compressed"), body), "20 points", "0")


def test_lying_ply(tmp_path: Path) -> None:
    kind, data = "binary_little_endian", np.zeros(20, PLY_RECORD).tobytes()
    refused(write(tmp_path / "text.ply", "hello world\n1 2 3\n"), "'ply'", "hello world")
    refused(
        write(tmp_path / "more.ply", PLY.format(n=21, kind=kind), data), "21 points of 21 bytes", "420 bytes"
    )
    refused(
        write(tmp_path / "absurd.ply", PLY.format(n=10**15, kind=kind), data), "promises 1000000000000000"
    )
    refused(
        write(tmp_path / "ascii.ply", PLY.format(n=3, kind="ascii"), "1.5 2.5 3 4.25 5 6 7 8.125\n" * 2),
        "3 lines of 8",
        "2 of 8",
    )
    refused(write(tmp_path / "words.ply", PLY.format(n=1, kind="ascii"), "a b c d e f g h i j\n"), "'a'")
    refused(write(tmp_path / "kind.ply", PLY.format(n=1, kind="zipped"), data), "'zipped'")
    refused(
        write(tmp_path / "mesh.ply", "ply\nformat ascii 1.0\nelement face 0\nend_header\n"),
        "no element 'vertex'",
    )
    refused(write(tmp_path / "end.ply", "ply\nformat ascii 1.0\n"), "end_header")
    refused(write(tmp_path / "odd.ply", "ply\nformat ascii 1.0\nwhat is this\nend_header\n"), "what is this")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (builtins.print, ("unpickled",))


def test_bad_npy_and_npz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "pickle.npy", np.array([[Bomb()] * 3], object), allow_pickle=True)
    refused(tmp_path / "pickle.npy", "float32 or float64")
    np.savez(tmp_path / "pickle.npz", pc=np.array([[Bomb()] * 3], object), allow_pickle=True)
    refused(tmp_path / "pickle.npz", "pc")
    assert "unpickled" not in capsys.readouterr().out
    np.save(tmp_path / "whole.npy", np.zeros((4, 3), np.int32))
    refused(tmp_path / "whole.npy", "int32")
    np.save(tmp_path / "flat.npy", np.zeros(12, np.float32))
    refused(tmp_path / "flat.npy", "[12]")
    np.save(tmp_path / "two.npy", np.zeros((4, 2), np.float32))
    refused(tmp_path / "two.npy", "[4, 2]")
    np.savez(tmp_path / "two.npz", a=np.zeros((4, 3), np.float32), b=np.zeros((4, 3), np.float32))
    refused(tmp_path / "two.npz", "a, b")
    refused(write(tmp_path / "text.npy", "hello world"), "float32")
    refused(write(tmp_path / "text.npz", "hello world"), "archive")


def test_lying_npy_and_npz(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((100, 3), np.float32))
    honest = stream.getvalue()
    lie = honest.replace(b"'shape': (100, 3), }     ", b"'shape': (9999999999, 3),}")[: len(honest)]
    assert lie != honest
    refused(write(tmp_path / "lie.npy", lie))
    refused(write(tmp_path / "cut.npy", honest[:-7]))
    with zipfile.ZipFile(tmp_path / "lie.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pc.npy", lie)
    refused(tmp_path / "lie.npz", "9999999999")
    np.savez(tmp_path / "good.npz", pc=np.zeros((100, 3), np.float32))
    refused(write(tmp_path / "cut.npz", (tmp_path / "good.npz").read_bytes()[:-30]))


def test_scan_checks_itself() -> None:
    points = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match="int64"):
        Scan(np.zeros((4, 3), np.int64))
    with pytest.raises(ValueError, match=r"\[4, 2\]"):
        Scan(points[:, :2])
    with pytest.raises(ValueError, match=r"'ring'.*4 points.*\[3\]"):
        Scan(points, {"ring": np.zeros(3)})
    with pytest.raises(ValueError, match=r"integers \[4\].*float64"):
        Scan(points, labels=np.zeros(4))
    some = Scan(points, {"ring": np.arange(4)}, np.arange(4)).select(np.array([True, False, True, False]))
    assert (len(some), some.attributes["ring"].tolist(), some.labels.tolist()) == (2, [0, 2], [0, 2])


def test_open3d_that_does_not_load() -> None:
    message = _explain("libusb-1.0.so.0: cannot open shared object file: No such file or directory")
    assert "libusb-1.0.so.0" in message
    assert "libusb-1.0-0" in message
    assert "apt-get install -y libegl1" in message
    assert "libodd.so.3" in _explain("libodd.so.3: cannot open shared object file")
    assert "undefined symbol" in _explain("undefined symbol: x")
