# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""SemanticKITTI's layout and learning map, folders of scans, samples, batches, workers."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sparseconv.datasets import (
    CLASSES,
    COLORS,
    IGNORE,
    LEARNING_MAP,
    Batch,
    Jitter,
    Samples,
    Scan,
    ScanFolder,
    SemanticKitti,
    collate_scans,
    make_sample,
    point_features,
    read_labels,
    to_training_ids,
)
from torch.utils.data import DataLoader, Dataset


def random_scan(seed: int, n: int = 300, labelled: bool = True) -> Scan:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-5, 5, (n, 3)).astype(np.float32)
    labels = rng.choice(list(LEARNING_MAP), n).astype(np.uint32) + (
        rng.integers(0, 9, n, dtype=np.uint32) << 16
    )
    return Scan(points, {"remission": rng.random(n, dtype=np.float32)}, labels if labelled else None)


class Scans(Dataset[Scan]):
    def __init__(self, n: int, labelled: bool = True) -> None:
        self.n, self.labelled = n, labelled

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Scan:
        return random_scan(index, 200 + 50 * index, self.labelled)


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    """A SemanticKITTI folder with two training scans, one to validate on and one without labels."""
    for sequence, names, labelled in (
        ("00", ("000000", "000001"), True),
        ("08", ("000000",), True),
        ("11", ("000000",), False),
    ):
        folder = tmp_path / "sequences" / sequence
        (folder / "velodyne").mkdir(parents=True)
        for i, name in enumerate(names):
            scan = random_scan(int(sequence) + i, 100 + i)
            np.column_stack([scan.points, scan.attributes["remission"]]).astype("<f4").tofile(
                folder / "velodyne" / f"{name}.bin"
            )
            if labelled:
                (folder / "labels").mkdir(exist_ok=True)
                scan.labels.astype("<u4").tofile(folder / "labels" / f"{name}.label")
    return tmp_path


def test_learning_map() -> None:
    assert len(CLASSES) == len(COLORS) == 19
    assert set(LEARNING_MAP.values()) == {*range(19), IGNORE}
    raw = {
        "car": 10,
        "bicycle": 11,
        "motorcycle": 15,
        "truck": 18,
        "person": 30,
        "bicyclist": 31,
        "motorcyclist": 32,
        "road": 40,
    }
    raw |= {
        "parking": 44,
        "sidewalk": 48,
        "other-ground": 49,
        "building": 50,
        "fence": 51,
        "vegetation": 70,
        "trunk": 71,
    }
    raw |= {"terrain": 72, "pole": 80, "traffic-sign": 81, "other-vehicle": 20}
    assert {name: CLASSES[LEARNING_MAP[number]] for name, number in raw.items()} == {
        name: name for name in raw
    }
    moving = {
        252: "car",
        253: "bicyclist",
        254: "person",
        255: "motorcyclist",
        256: "other-vehicle",
        258: "truck",
    }
    assert {number: CLASSES[LEARNING_MAP[number]] for number in moving} == moving
    assert CLASSES[LEARNING_MAP[60]] == "road"
    assert [LEARNING_MAP[number] for number in (0, 1, 52, 99)] == [IGNORE] * 4
    labels = np.array([10, 10 + (7 << 16), 81 + (0xFFFF << 16), 0], np.uint32)
    assert to_training_ids(labels).tolist() == [0, 0, 18, IGNORE]
    with pytest.raises(ValueError, match="got 12"):
        to_training_ids(np.array([10, 12 + (3 << 16)], np.uint32))


def test_semantic_kitti(kitti: Path) -> None:
    train, valid, test = (SemanticKitti(kitti, split) for split in ("train", "valid", "test"))
    assert (len(train), len(valid), len(test), len(SemanticKitti(kitti, ["00", "08"]))) == (2, 1, 1, 3)
    scan, expected = train[1], random_scan(1, 101)
    assert np.array_equal(scan.points, expected.points)
    assert np.array_equal(scan.attributes["remission"], expected.attributes["remission"])
    assert np.array_equal(scan.labels, expected.labels)
    assert scan.labels.dtype == np.uint32
    assert (scan.labels >> 16).max() > 0
    assert test[0].labels is None


def test_semantic_kitti_refuses(kitti: Path, tmp_path: Path) -> None:
    path = kitti / "sequences" / "08" / "labels" / "000000.label"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(
        ValueError, match=r"000000\.label: expected labels of 100 points \(400 bytes\), got 396"
    ):
        SemanticKitti(kitti, "valid")[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"000000\.label"):
        SemanticKitti(kitti, "valid")[0]
    with pytest.raises(ValueError, match="'dev'"):
        SemanticKitti(kitti, "dev")
    with pytest.raises(ValueError, match="found none"):
        SemanticKitti(kitti, ["21"])
    with pytest.raises(FileNotFoundError, match="SemanticKITTI folder"):
        SemanticKitti(tmp_path / "nowhere")


def test_scan_folder(kitti: Path, tmp_path: Path) -> None:
    folder = ScanFolder(kitti / "sequences" / "00")
    assert [path.name for path in folder.scans] == ["000000.bin", "000001.bin"]
    assert np.array_equal(folder[0].points, random_scan(0, 100).points)
    assert folder[0].labels is None
    labelled = ScanFolder(
        kitti / "sequences" / "00",
        columns=4,
        labels=lambda path: path.parents[1] / "labels" / f"{path.stem}.label",
    )
    assert np.array_equal(labelled[1].labels, random_scan(1, 101).labels)
    assert len(ScanFolder(kitti, pattern="000001*")) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="found none"):
        ScanFolder(tmp_path / "empty")
    with pytest.raises(NotADirectoryError, match="nowhere"):
        ScanFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected labels of 7 points"):
        read_labels(kitti / "sequences" / "00" / "labels" / "000000.label", 7)


def test_point_features() -> None:
    points = np.array([[30.0, 40.0, -2.0], [1.0, 2.0, 3.0]], np.float64)
    scan = Scan(
        points, {"intensity": np.array([0.0, 255.0]), "rgb": np.array([[1, 2, 3], [4, 5, 6]], np.uint8)}
    )
    features = point_features(scan, ("one", "x", "y", "z", "range", "remission", "rgb"))
    assert features.dtype == torch.float32
    assert torch.allclose(features[0], torch.tensor([1, 3, 4, -0.2, 5, 0, 1, 2, 3.0]))
    assert features[1, 5] == 1.0
    assert point_features(Scan(points), ("remission",)).tolist() == [[0.0], [0.0]]
    quiet = Scan(points, {"remission": np.array([0.25, 0.5], np.float32)})
    assert point_features(quiet, ("remission",)).tolist() == [[0.25], [0.5]]
    assert point_features(scan, ()).shape == (2, 0)
    assert point_features(scan.select(np.zeros(2, bool))).shape == (0, 4)
    with pytest.raises(ValueError, match=r"'ring' must be.*intensity, rgb"):
        point_features(scan, ("ring",))


def test_batch_points_find_their_voxels() -> None:
    samples = [make_sample(random_scan(i, 100 + i), label_map=to_training_ids) for i in range(3)]
    batch = collate_scans(samples, voxel_size=0.5)
    assert batch.counts == (100, 101, 102)
    assert batch.tensor.batch_size == 3
    start = 0
    for b, sample in enumerate(samples):
        rows = batch.index[start : start + batch.counts[b]]
        cells = torch.floor(sample["points"].double() / 0.5).int()
        assert torch.equal(
            batch.tensor.coords[rows],
            torch.cat([torch.full((len(cells), 1), b, dtype=torch.int32), cells], dim=1),
        )
        assert torch.equal(batch.labels[start : start + batch.counts[b]], sample["labels"])
        start += batch.counts[b]
    features = torch.cat([sample["features"] for sample in samples])
    row = int(batch.index[0])
    assert torch.allclose(batch.tensor.features[row], features[batch.index == row].mean(dim=0), atol=1e-6)
    moved = batch.to("cpu")
    assert torch.equal(moved.index, batch.index)


def test_batch_of_scans_without_labels_and_empty_ones() -> None:
    empty = random_scan(0).select(np.zeros(300, bool)).replace(labels=None)
    batch = collate_scans(
        [random_scan(1, 50, False), empty, random_scan(2, 60, False), empty], voxel_size=(0.5, 0.5, 1.0)
    )
    assert (batch.labels, batch.counts, batch.tensor.batch_size) == (None, (50, 0, 60, 0), 4)
    with pytest.raises(ValueError, match="no labels"):
        batch.voxel_labels(19)
    with pytest.raises(ValueError, match="some with and some without"):
        collate_scans([random_scan(1), random_scan(1, labelled=False)], voxel_size=1.0)
    with pytest.raises(ValueError, match="at least one"):
        collate_scans([], voxel_size=1.0)


def test_voxel_labels_are_the_majority() -> None:
    points = np.array([[0.1] * 3] * 5 + [[1.1] * 3] * 2 + [[2.1] * 3] * 2, np.float32)
    scan = Scan(points, labels=np.array([3, 3, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE, 7, 2]))
    batch = collate_scans([scan], voxel_size=1.0)
    assert batch.voxel_labels(19).tolist() == [3, IGNORE, 2]


def test_an_epoch_does_not_depend_on_workers() -> None:
    def points(workers: int, epoch: int) -> list[torch.Tensor]:
        samples = Samples(Scans(5), transform=Jitter(), label_map=to_training_ids, seed=3)
        samples.set_epoch(epoch)
        loader = DataLoader(
            samples, batch_size=2, num_workers=workers, collate_fn=list, timeout=60 * (workers > 0)
        )
        return [sample["points"] for batch in loader for sample in batch]

    here = points(0, 0)
    assert all(map(torch.equal, here, points(2, 0)))
    assert not any(map(torch.equal, here, points(0, 1)))


def test_forked_workers_voxelize() -> None:
    """In a process of its own with a limit, after the parent has voxelized with all threads: a hang must
    end as a failure.
    """
    code = (
        "import functools, torch, numpy as np\n"
        "from torch.utils.data import DataLoader\n"
        "from sparseconv.datasets import Scan, Samples, collate_scans\n"
        "scans = [Scan(np.random.default_rng(i).uniform(-9, 9, (20000, 3)).astype('f4')) for i in range(6)]\n"
        "collate = functools.partial(collate_scans, voxel_size=0.2)\n"
        "here = [collate([s]) for s in scans]\n"
        "loader = DataLoader(Samples(scans), num_workers=2, collate_fn=collate, multiprocessing_context='fork')\n"
        "for one, two in zip(here, loader, strict=True):\n"
        "    assert torch.equal(one.tensor.coords, two.tensor.coords) and torch.equal(one.index, two.index)\n"
        "    assert torch.equal(one.tensor.features, two.tensor.features)\n"
        "print('done')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.strip() == "done", result.stderr


def test_loader_makes_batches() -> None:
    samples = Samples(Scans(4), label_map=to_training_ids)
    batches = list(DataLoader(samples, batch_size=2, collate_fn=partial(collate_scans, voxel_size=0.5)))
    assert [type(batch) for batch in batches] == [Batch, Batch]
    assert batches[1].counts == (300, 350)


def test_import_takes_no_open3d() -> None:
    code = "import sys, sparseconv, sparseconv.datasets; assert 'open3d' not in sys.modules; print('done')"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.strip() == "done", result.stderr
