# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Bad input to layers, kernel maps and operators: an error that says what was expected and what came, never a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import random_tensor, refuses

import sparseconv
import sparseconv.nn as spnn
from sparseconv import SparseTensor, functional

COORDS = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0]], dtype=torch.int32)


def test_the_message_of_the_contract() -> None:
    x = random_tensor(3, 1000, 32, extent=12)
    n = len(x.coords)
    message = rf"SubMConv3d: features must be \[N, 16\] to match weight \[27, 16, 32\], got \[{n}, 32\]"
    refuses(lambda: spnn.SubMConv3d(16, 32, 3)(x), message)


@pytest.mark.parametrize("name", ["SubMConv3d", "Conv3d", "ConvTranspose3d", "InverseConv3d"])
def test_inputs_of_layers(name: str) -> None:
    x = random_tensor(3, 50, 4, extent=6)
    layer = getattr(spnn, name)(4, 4, 3)
    target = (x,) if name == "InverseConv3d" else ()
    refuses(lambda: layer(x.features, *target), "SparseTensor", "Tensor", kind=TypeError)
    refuses(
        lambda: layer(x.replace(x.features[:, :3]), *target), name, r"\[N, 4\]", rf"\[{len(x.coords)}, 3\]"
    )
    refuses(lambda: layer(x.to(torch.float64), *target), name, "float64", "float32", kind=TypeError)
    flat = random_tensor(2, 50, 4, extent=6)
    refuses(lambda: layer(flat, *(flat for _ in target)), name, r"\b3\b", r"\b2\b")
    refuses(lambda: layer(x, "target"), "SparseTensor", "str", kind=TypeError)
    refuses(
        lambda: layer(x.to("meta"), *target),
        "(?i)meta|device",
        kind=(ValueError, TypeError, NotImplementedError),
    )


def test_inputs_of_torchs_own_layers() -> None:
    """Their own complaints are RuntimeErrors that do not say which layer."""
    x = random_tensor(3, 50, 4, extent=6)
    for layer in (spnn.Linear(4, 3), spnn.BatchNorm(4), spnn.BatchNorm(4, affine=False), spnn.LayerNorm(4)):
        name = type(layer).__name__
        refuses(lambda layer=layer: layer(x.to(torch.float64)), name, "float64", "float32", kind=TypeError)
        refuses(lambda layer=layer: layer.double()(x), name, "float64", "float32", kind=TypeError)
    refuses(lambda: spnn.Linear(4, 3)(x.to(torch.bfloat16)), "Linear", "bfloat16", kind=TypeError)
    refuses(lambda: spnn.PReLU(3)(x), "PReLU", r"\[N, 3\]", r"\[\d+, 4\]")
    refuses(lambda: spnn.LayerNorm((50, 4))(x), "LayerNorm", r"\(50, 4\)")
    refuses(lambda: sparseconv.models.MinkUNet14(4, 5, width=float("inf")), "width", "inf")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = spnn.BatchNorm(4)(x.to(torch.bfloat16))
        assert spnn.Linear(4, 3)(half).features.dtype == torch.bfloat16
    assert spnn.LayerNorm(4)(spnn.BatchNorm(4)(x.to(torch.bfloat16))).features.dtype == torch.bfloat16


def test_targets_that_do_not_fit() -> None:
    x = random_tensor(3, 50, 4, extent=6, batch_size=2)
    down = spnn.Conv3d(4, 4, 2, stride=2)(x)
    refuses(
        lambda: spnn.InverseConv3d(4, 4, 2, stride=2)(down),
        "InverseConv3d",
        "target",
        kind=(ValueError, TypeError),
    )
    refuses(lambda: spnn.InverseConv3d(4, 4, 2, stride=4)(down, x), "stride")
    refuses(lambda: spnn.Conv3d(4, 4, 2, stride=2)(x, x), "stride")
    one = random_tensor(3, 50, 4, extent=6)
    refuses(lambda: spnn.Conv3d(4, 4, 3)(x, one), "batch")
    refuses(
        lambda: spnn.SubMConv3d(4, 4, 3)(x, SparseTensor(x.features, x.coords, stride=2, batch_size=2)),
        "(?i)submanifold|stride",
    )


def test_geometries_that_do_not_exist() -> None:
    for options in (
        {"kernel_size": 0},
        {"kernel_size": -1},
        {"kernel_size": (3, 3)},
        {"kernel_size": (3, 3, 3, 3)},
        {"kernel_size": 3, "stride": 0},
        {"kernel_size": 3, "stride": (1, 2)},
        {"kernel_size": 3, "padding": -1},
        {"kernel_size": 3, "dilation": 0},
        {"kernel_size": 3, "groups": 3},
        {"kernel_size": 3, "groups": 0},
        {"kernel_size": 3, "anchor": "center"},
        {"kernel_size": 3, "anchor": "minkowski", "padding": 2},
        {"kernel_size": 2, "anchor": "minkowski", "padding": 1},
    ):
        name = next(k for k in reversed(options) if k != "kernel_size" or len(options) == 1)
        refuses(lambda options=options: spnn.Conv3d(4, 4, **options), name if name != "groups" else "groups")
    for value in (2.0, "3", None, True):
        refuses(lambda value=value: spnn.Conv3d(4, 4, value), "kernel_size|int", kind=(TypeError, ValueError))
    for name in ("stride", "padding", "dilation"):
        for cls in (spnn.Conv3d, spnn.ConvTranspose3d):
            refuses(lambda cls=cls, name=name: cls(4, 4, 3, **{name: 2**31}), name, "2147483648")
    for channels in (0, -4, 2.5, True):
        refuses(
            lambda channels=channels: spnn.Conv3d(channels, 4, 3), "in_channels", kind=(ValueError, TypeError)
        )
    refuses(lambda: spnn.SubMConv3d(4, 4, 3, stride=2), "stride", kind=TypeError)
    refuses(lambda: spnn.SubMConv3d(4, 4, 3, padding=1), "padding", kind=TypeError)
    refuses(lambda: spnn.ConvTranspose3d(4, 4, 3, stride=2, output_padding=2), "output_padding")
    refuses(lambda: spnn.MaxPool3d(0), "kernel_size")
    refuses(lambda: spnn.AvgPool3d(2, count="some"), "count", "some")
    x = SparseTensor(torch.ones(1, 1), torch.zeros(1, 2, dtype=torch.int32), spatial_shape=(2,))
    refuses(lambda: spnn.Conv1d(1, 1, 5)(x), r"spatial_shape|shape")  # torch refuses it too


def test_taps_that_do_not_fit() -> None:
    layer = spnn.SubMConv3d(4, 4, 3)

    def give(taps: Any) -> Any:
        layer.taps = taps
        return layer(random_tensor(3, 20, 4, extent=4))

    good = spnn.SubMConv3d(4, 4, 3).taps
    refuses(lambda: give(good.long()), "int32", kind=(TypeError, ValueError))
    refuses(lambda: give(good[:, :2]), r"\b3\b")
    refuses(lambda: give(good + 1), r"kernel|\b3\b")
    refuses(lambda: give(torch.cat([good, good[:1]])), "distinct|unique|duplicate")
    refuses(lambda: give(good[:5]), r"27", r"\b5\b")  # the weight still has 27 taps
    refuses(
        lambda: sparseconv.build_kernel_map(COORDS, kernel_size=3, submanifold=True, taps=good + 1),
        r"kernel|\b3\b",
    )


def test_arguments_of_build_kernel_map() -> None:
    build = sparseconv.build_kernel_map
    refuses(lambda: build(COORDS.long(), kernel_size=3), "int32", kind=TypeError)
    refuses(lambda: build(COORDS, kernel_size=3, method="fast"), "fast", "hash")
    refuses(lambda: build(COORDS, COORDS.long(), kernel_size=3), "int32", kind=TypeError)
    refuses(lambda: build(COORDS, COORDS[:, :3].contiguous(), kernel_size=3), r"\b3\b|\b2\b")
    refuses(lambda: build(COORDS, kernel_size=3, stride=2, submanifold=True), "submanifold")
    refuses(lambda: build(COORDS, kernel_size=3, spatial_shape=(1, 1, 1)), "axis")
    tap = torch.zeros(1, 3, dtype=torch.int32, device="meta")
    refuses(lambda: build(COORDS, kernel_size=3, taps=tap), "meta")


def test_a_kernel_map_from_another_tensor() -> None:
    x, y = random_tensor(3, 60, 4, extent=6, seed=1), random_tensor(3, 90, 4, extent=6, seed=2)
    kmap = sparseconv.build_kernel_map(x.coords, kernel_size=3, submanifold=True)
    numbers = (str(len(x.coords)), str(len(y.coords)))
    refuses(lambda: functional.conv(y.features, torch.ones(27, 4, 2), None, kmap), *numbers)
    refuses(lambda: functional.max_pool(y.features, kmap), *numbers)
    refuses(lambda: functional.avg_pool(y.features, kmap, volume=27), *numbers)
    refuses(lambda: functional.conv(x.features, torch.ones(8, 4, 2), None, kmap), "27", "8")
    refuses(lambda: functional.conv(x.features, torch.ones(27, 3, 2), None, kmap), r"\b3\b")
    refuses(lambda: functional.conv(x.features, torch.ones(27, 4), None, kmap), r"\[27, 4\]")
    refuses(
        lambda: functional.conv(x.features, torch.ones(27, 4, 2), torch.ones(3), kmap), r"\b2\b", r"\b3\b"
    )
    refuses(lambda: functional.conv(x.features, torch.ones(27, 2, 3), None, kmap, groups=2), "groups")
    refuses(
        lambda: functional.conv(x.features, torch.ones(27, 4, 2).double(), None, kmap),
        "float64",
        kind=TypeError,
    )
    refuses(lambda: functional.conv(x.features, torch.ones(27, 4, 2), None, kmap, dataflow="x"), "fused")
    weight = torch.ones(27, 4, 2)
    refuses(lambda: functional.conv([1.0], weight, None, kmap), "features", "list", kind=TypeError)
    refuses(lambda: functional.conv(x.features, [1.0], None, kmap), "weight", "list", kind=TypeError)
    refuses(lambda: functional.conv(x.features, weight.to_sparse(), None, kmap), "weight", kind=TypeError)
    refuses(lambda: functional.conv(x.features, weight, None, None), "KernelMap", "NoneType", kind=TypeError)
    refuses(lambda: functional.conv(x.features, weight[:, :2], None, kmap, groups=2.0), "groups", "2.0")
    refuses(lambda: functional.sum_pool(x.features[:, 0], kmap), r"\[N, C\]")
    refuses(lambda: functional.avg_pool(x.features, kmap, count="kernel", volume=0), "volume", "0")
    refuses(lambda: functional.conv(x.features.to("meta"), torch.ones(27, 4, 2), None, kmap), "meta", "cpu")


def test_kernel_maps_made_by_hand() -> None:
    """What the kernels would read and write out of bounds is refused before they see it."""
    arrays = {
        "pairs": torch.tensor([[0, 0], [1, 2], [2, 1]], dtype=torch.int32),
        "tap_offsets": torch.tensor([0, 2, 3]),
        "in_coords": COORDS,
        "out_coords": COORDS,
    }

    def make(**changes: Any) -> sparseconv.KernelMap:
        return sparseconv.KernelMap(**{**arrays, **changes})

    assert functional.conv(torch.ones(3, 1), torch.ones(2, 1, 1), None, make()).tolist() == [[1], [1], [1]]
    for pair in ([10**9, 0], [0, 10**9], [-1, 0], [0, -1], [3, 0], [0, 3]):
        wrong = torch.tensor([pair, [1, 2], [2, 1]], dtype=torch.int32)
        refuses(lambda wrong=wrong: make(pairs=wrong), "column", r"\[0, 3\)")
    for offsets in ([0, 2], [0, 4, 3], [1, 2, 3], [-1, 2, 3], []):
        refuses(lambda offsets=offsets: make(tap_offsets=torch.tensor(offsets).long()), "from 0 to 3")
    refuses(lambda: make(pairs=arrays["pairs"][[1, 0, 2]]), "increase")
    refuses(lambda: make(pairs=arrays["pairs"].long()), "pairs", "int32", "int64", kind=TypeError)
    refuses(lambda: make(pairs=arrays["pairs"].tolist()), "pairs", "list", kind=TypeError)
    refuses(lambda: make(pairs=arrays["pairs"].t().contiguous().t()), "contiguous")
    refuses(lambda: make(tap_offsets=arrays["tap_offsets"].int()), "tap_offsets", "int32", kind=TypeError)
    refuses(lambda: make(out_coords=COORDS[:, :3].contiguous()), r"\[3, 4\]", r"\[3, 3\]")


def test_indices_of_segments() -> None:
    x = torch.ones(5, 2)
    for name in ("segment_sum", "segment_mean", "segment_max"):
        call = getattr(functional, name)
        refuses(lambda call=call: call(x, [0] * 5, 3), "list", kind=TypeError)
        refuses(lambda call=call: call(x, torch.tensor([0, 1, 2, 3, 4]), 3), r"\b3\b")
        refuses(lambda call=call: call(x, torch.tensor([0, -1, 0, 0, 0]), 3), "-1")
        refuses(lambda call=call: call(x, torch.tensor([0, 1]), 3), r"\[2\]|\b5\b")
        refuses(lambda call=call: call(x, torch.zeros(5), 3), "float32|int", kind=(TypeError, ValueError))


def test_types_the_core_does_not_have() -> None:
    x = random_tensor(3, 30, 4, extent=5)
    half = spnn.SubMConv3d(4, 4, 3).half()
    refuses(lambda: half(x.to(torch.float16)), "float16", "float32", kind=TypeError)


def test_operators_called_directly_with_wrong_shapes_and_types() -> None:
    """Below the checks of the package the core checks once more; in a process of its own, to see a crash as one."""
    code = """
import torch, sparseconv
ops = torch.ops.sparseconv
x, g = torch.randn(5, 4), torch.randn(5, 3)
pairs, offsets = torch.tensor([[0, 0], [4, 1], [2, 4], [3, 0]], dtype=torch.int32), torch.tensor([0, 2, 4])
weight, index = torch.randn(2, 4, 3), torch.tensor([0, 1, 1, 2, 0])
flags = (False, False, False)
gemm = lambda x, w, b, p, o, n=5, groups=1: ops.gather_gemm(x, w, b, p, o, None, None, n, groups, *flags)
calls = [
    lambda: gemm(x, weight, None, pairs.long(), offsets),
    lambda: gemm(x, weight, None, pairs, offsets.int()),
    lambda: gemm(x, weight, None, pairs[:, :1], offsets),
    lambda: gemm(x, weight, None, pairs.flatten(), offsets),
    lambda: gemm(x, weight, None, pairs, offsets[:-1]),
    lambda: gemm(x, weight, None, pairs, offsets[:0]),
    lambda: gemm(x[0], weight, None, pairs, offsets),
    lambda: gemm(x.double(), weight, None, pairs, offsets),
    lambda: gemm(x, weight[0], None, pairs, offsets),
    lambda: gemm(x, weight[:, :3], None, pairs, offsets),
    lambda: gemm(x, weight, torch.ones(2), pairs, offsets),
    lambda: gemm(x, weight, None, pairs, offsets, -1),
    lambda: gemm(x, weight, None, pairs, offsets, 5, 0),
    lambda: gemm(x, weight, None, pairs, offsets, 5, -2),
    lambda: gemm(x, weight, None, pairs, offsets, 5, 3),
    lambda: gemm(x.int(), weight.int(), None, pairs, offsets),
    lambda: ops.gather_outer(x, g[0], pairs, offsets, None, None, 1),
    lambda: ops.gather_outer(x, g.double(), pairs, offsets, None, None, 1),
    lambda: ops.gather_outer(x, g, pairs, offsets, None, None, 3),
    lambda: ops.max_pool(x[0], pairs, offsets, 5),
    lambda: ops.max_pool(x, pairs.long(), offsets, 5),
    lambda: ops.max_pool_grad(x, index.int(), pairs, offsets, 5),
    lambda: ops.column_sum(x[0]),
    lambda: ops.gather_sum(x, offsets.int(), index, None),
    lambda: ops.gather_sum(x, offsets, index.int(), None),
    lambda: ops.gather_sum(x, offsets, index, torch.ones(5).double()),
    lambda: ops.gather_sum(x[0], offsets, index, None),
    lambda: ops.gather_max(x, offsets.int(), index),
    lambda: ops.output_coords(pairs.long(), [3, 1, 1, 1], False, None),
    lambda: ops.find_pairs(pairs, pairs, pairs[:, :1].long(), [3, 1, 1, 1], "hash"),
    lambda: ops.find_rows(pairs, pairs.long()),
    lambda: ops.voxel_runs(x.int(), None, [0.0] * 4, [1.0] * 4),
    lambda: ops.voxel_runs(x, None, [0.0] * 3, [1.0] * 4),
    lambda: ops.voxel_runs(x, torch.zeros(2, dtype=torch.int32), [0.0] * 4, [1.0] * 4),
]
accepted = []
for number, call in enumerate(calls):
    try:
        call()
        accepted.append(number)
    except (ValueError, TypeError, RuntimeError, IndexError, ZeroDivisionError):
        pass
print("accepted", accepted)
"""
    root = Path(sparseconv.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, f"crashed with {done.returncode}: {done.stderr[-500:]}"
    assert done.stdout.strip() == "accepted []"
