# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The examples: a run learns, resumes to the same bits, survives Ctrl-C and half-written files, and
labels a scan.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sparseconv import datasets as ds

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
for package in ("safetensors", "torchmetrics", "tensorboard", "tqdm", "rich", "matplotlib"):
    pytest.importorskip(package, reason=f"the examples need {package}")

import checkpoint  # noqa: E402
import demo  # noqa: E402
import interrupt  # noqa: E402
import pictures  # noqa: E402
import segment_scan  # noqa: E402
import train_segmentation as ts  # noqa: E402

CPU = torch.device("cpu")


def make_scan(seed: int, n: int = 1500) -> ds.Scan:
    """Ground (40) under boxes (50) whose class a network can tell from their height."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-8, 8, (n, 3))
    points[:, 2] = -1.7 + 0.02 * rng.standard_normal(n)
    wall = rng.random(n) < 0.4
    points[wall, 2] = rng.uniform(-1, 2, wall.sum())
    return ds.Scan(
        points.astype(np.float32), {"remission": rng.random(n, dtype=np.float32)}, np.where(wall, 50, 40)
    )


DATA = ([make_scan(i) for i in range(8)], [make_scan(i) for i in range(8, 10)])
SMALL = ts.Settings(depth="14", width=0.125, voxel=0.5, radius=8.0, epochs=8, batch=2, lr=1e-2)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Networks this small gain nothing from more, and lose much where other tests run beside them."""
    torch.set_num_threads(1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_checkpoint(folder)[1]


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_training_learns_and_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background
    _, ious = ts.train(SMALL, tmp_path / "whole", CPU, data=DATA)
    assert ious[ds.CLASSES.index("road")] > 0.7
    assert ious[ds.CLASSES.index("building")] > 0.7
    assert int(ious.isnan().sum()) == 17
    assert list((tmp_path / "whole").glob("events.out.tfevents.*"))

    steps = 0

    def stop_after_five(
        *args: object, **options: object
    ) -> torch.Tensor:  # in the middle of the second epoch
        nonlocal steps
        steps += 1
        if steps == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **options)

    real = ts.cross_entropy
    monkeypatch.setattr(ts, "cross_entropy", stop_after_five)
    ts.train(SMALL, tmp_path / "parts", CPU, data=DATA)
    record, _ = checkpoint.read_checkpoint(tmp_path / "parts")
    assert record["progress"]["step"] == 5
    assert not same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    _, resumed = ts.train(SMALL, tmp_path / "parts", CPU, data=DATA, resume=True)
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert torch.equal(resumed, ious) or torch.equal(resumed.nan_to_num(), ious.nan_to_num())
    assert signal.getsignal(signal.SIGINT) is before

    _, done = ts.train(SMALL, tmp_path / "whole", CPU, data=DATA, resume=True)  # nothing left to do
    assert torch.equal(done.nan_to_num(), ious.nan_to_num())


def test_checkpoint_is_exchanged_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ts.make_model(SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    progress = {"step": 1}
    checkpoint.save_checkpoint(tmp_path, model, settings={}, optimizer=optimizer, progress=progress)
    before = weights(tmp_path)

    def full_disk(*args: object, **options: object) -> None:
        raise OSError("no space left on device")

    with torch.no_grad():
        next(model.parameters()).add_(1)
    for broken in ("json.dumps", "os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, full_disk)
            with pytest.raises(OSError, match="no space"):
                checkpoint.save_checkpoint(
                    tmp_path, model, settings={}, optimizer=optimizer, progress={"step": 2}
                )
        assert same(weights(tmp_path), before)
    checkpoint.save_checkpoint(tmp_path, model, settings={}, optimizer=optimizer, progress={"step": 2})
    assert not same(weights(tmp_path), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.json", "step-0000002.safetensors"]
    assert json.loads((tmp_path / "checkpoint.json").read_text())["progress"] == {"step": 2}
    (tmp_path / "checkpoint.json").write_text('{"format": 9}')
    with pytest.raises(ValueError, match="format 1, got 9"):
        checkpoint.read_checkpoint(tmp_path)


def test_training_on_a_semantic_kitti_folder(tmp_path: Path) -> None:
    for sequence, scans in (("00", DATA[0][:2]), ("08", DATA[1])):
        for kind in ("velodyne", "labels"):
            (tmp_path / "sequences" / sequence / kind).mkdir(parents=True)
        for i, scan in enumerate(scans):
            folder = tmp_path / "sequences" / sequence
            np.column_stack([scan.points, scan.attributes["remission"]]).tofile(
                folder / "velodyne" / f"{i:06d}.bin"
            )
            scan.labels.astype("<u4").tofile(folder / "labels" / f"{i:06d}.label")
    settings = dataclasses.replace(SMALL, data=str(tmp_path), epochs=1, valid=1)
    train, valid = ts.make_data(settings)
    assert (len(train), len(valid)) == (2, 1)  # evenly spread over the sequence
    _, ious = ts.train(settings, tmp_path / "run", CPU)
    assert int(ious.isnan().sum()) == 17


def test_class_weights_follow_the_shares() -> None:
    weight = ts.class_weights(ts.make_samples(SMALL, DATA[0], train=False))
    road, building = weight[ds.CLASSES.index("road")], weight[ds.CLASSES.index("building")]
    assert 0 < road < building
    assert int((weight > 0).sum()) == 2
    assert torch.isclose(weight.sum() / 2, torch.tensor(1.0))


def test_evaluate_counts_points() -> None:
    """A network that always says road: its IoU is the share of the road among all points, building's is 0."""

    class Road(torch.nn.Module):
        def forward(self, x):
            scores = torch.zeros(len(x.coords), 19)
            scores[:, ds.CLASSES.index("road")] = 1
            return x.replace(scores)

    samples = ts.make_samples(SMALL, DATA[1], train=False)
    ious = ts.evaluate(Road(), ts.make_loader(SMALL, samples, [0, 1], 0), CPU)
    labels = torch.cat([samples[i]["labels"] for i in (0, 1)])
    assert torch.isclose(ious[8], (labels == 8).double().mean())
    assert ious[12] == 0
    assert ious[0].isnan()


def test_learning_rate() -> None:
    values = [ts.annealed(i / 100) for i in range(101)]
    assert values[0] < 0.1
    assert max(values) > 0.98
    assert values[100] < 1e-6
    assert all(a > b for a, b in itertools.pairwise(values[6:]))


def test_ctrl_c_twice() -> None:
    with interrupt.stop_on_ctrl_c() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_segment_a_file(tmp_path: Path) -> None:
    ts.train(SMALL, tmp_path / "run", CPU, data=DATA)
    scan = make_scan(9, 1100)
    np.save(
        tmp_path / "scan.npy",
        np.column_stack([scan.points + np.float32([0, 0, 3]), scan.attributes["remission"]]),
    )
    segment_scan.segment_file(tmp_path / "scan.npy", tmp_path / "run", tmp_path / "out", CPU)
    labels = np.load(tmp_path / "out" / "scan.npy.npy")
    assert labels.shape == (1100,)
    assert labels.dtype == np.int64
    assert (
        labels == ds.to_training_ids(scan.labels)
    ).mean() > 0.7  # its ground was found and moved to the sensor's
    assert (tmp_path / "out" / "scan.npy.png").read_bytes().startswith(b"\x89PNG")
    np.save(tmp_path / "none.npy", np.empty((0, 3), np.float32))
    with pytest.raises(ValueError, match="no points"):
        segment_scan.segment_file(tmp_path / "none.npy", tmp_path / "run", tmp_path / "out", CPU)


def test_ground_height() -> None:
    assert abs(segment_scan.ground_height(make_scan(0)) + 1.7) < 0.1
    far = ds.Scan(np.full((3, 3), 100, np.float32))
    assert segment_scan.ground_height(far) == 100


def test_pictures() -> None:
    points = np.array([[-1, 1, 0], [1, -1, 0], [1, -1, 2], [99, 0, 0]], np.float32)
    image = pictures.bird_eye(points, np.eye(4, 3, dtype=np.float32), radius=2.0, pixel=1.0)
    assert image.shape == (4, 4, 3)
    assert image[0, 1].tolist() == [1, 0, 0]  # x to the right, y up
    assert image[2, 3].tolist() == [0, 0, 1]  # the higher of two points
    assert np.count_nonzero(image) == 2
    assert np.allclose(pictures.label_colors(np.array([0]))[0] * 255, ds.COLORS[0])
    assert len({tuple(color) for color in pictures.label_colors(np.array([255, -1]))}) == 1


def test_command_line_stops_cleanly_and_goes_on(tmp_path: Path) -> None:
    try:
        ds.SimulatedDataset(1)[0]
    except ImportError as error:
        pytest.skip(str(error))
    command = [sys.executable, str(EXAMPLES / "train_segmentation.py"), "--out", str(tmp_path / "run")]
    small = "--depth 14 --width 0.125 --voxel 0.5 --radius 10 --scans 2 --valid 1 --epochs 500 --batch 1 --workers 1".split()
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *small], env=alone, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoint.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "--resume" in err + out
    record = checkpoint.read_checkpoint(tmp_path / "run")[0]
    assert 0 < record["progress"]["step"] < 1000
    again = subprocess.run(
        [*command, *small], env=alone, capture_output=True, text=True, timeout=60, check=False
    )
    assert again.returncode == 2
    assert "--resume" in again.stderr


def test_demo_trains_draws_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        ds.SimulatedDataset(1)[0]
    except ImportError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(demo, "SETTINGS", dataclasses.replace(SMALL, scans=2, valid=2, epochs=1, radius=12.0))
    np.save(tmp_path / "scan.npy", make_scan(9).points)
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path / "demo"), "--device", "cpu"])
    demo.main()
    assert len(list((tmp_path / "demo").glob("scan-*.png"))) == 2
    before = (tmp_path / "demo" / "checkpoint.json").stat().st_mtime_ns
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--scan", str(tmp_path / "scan.npy")])
    demo.main()
    assert (tmp_path / "demo" / "checkpoint.json").stat().st_mtime_ns == before  # the network is kept
    assert np.load(tmp_path / "demo" / "scans" / "scan.npy.npy").shape == (1500,)
