# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The drop-in's layers beside spconv's wheel on one thread, with more it returns wrong rows: sites, features, gradients."""

from __future__ import annotations

import contextlib
import copy
import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from spconv_engines import engine, sorted_rows

import sparseconv.compat.spconv as ours

theirs = pytest.importorskip("spconv.pytorch", reason="spconv's wheel is not installed")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The wheel is right with one thread."""
    before = torch.get_num_threads()
    engine("wheel", monkeypatch)
    yield
    torch.set_num_threads(before)


def scan(seed: int, ndim: int, channels: int, shape: list[int], rows: int = 60, batch: int = 2) -> Any:
    generator = torch.Generator().manual_seed(seed)
    cells = torch.cat([torch.randint(0, n, (rows, 1), generator=generator) for n in (batch, *shape)], 1)
    indices = torch.unique(cells, dim=0).to(torch.int32)
    indices = indices[torch.randperm(len(indices), generator=generator)].contiguous()
    return torch.randn(len(indices), channels, generator=generator), indices, shape, batch


def compare(make: Any, data: Any, run: Any = lambda layers, x: layers[0](x)) -> None:
    """Same weights and input: equal sites, features by site, gradients of input and weights."""
    results = []
    features, indices, shape, batch = data
    torch.manual_seed(0)
    left, right = make(ours), make(theirs)
    for a, b in zip(left, right, strict=True):
        b.load_state_dict(a.state_dict())
    for module, layers in ((ours, left), (theirs, right)):
        rows = features.clone().requires_grad_()
        out = run(layers, module.SparseConvTensor(rows, indices.clone(), shape, batch))
        sites, values, _ = sorted_rows(out)
        weight = torch.linspace(0.5, 1.5, values.numel()).view_as(values)
        (values * weight).sum().backward()
        grads = [p.grad for layer in layers for p in layer.parameters()]
        results.append((sites, out.spatial_shape, values.detach(), rows.grad, grads))
    (sites, grid, values, grad, grads), (sites2, grid2, values2, grad2, grads2) = results
    assert torch.equal(sites, sites2)
    assert list(grid) == list(grid2)
    for a, b in zip([values, grad, *grads], [values2, grad2, *grads2], strict=True):
        assert (a - b).abs().max() <= 1e-4 * max(1.0, float(b.abs().max()))


def arguments(seed: int, ndim: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    pick = lambda low, high: [int(v) for v in rng.integers(low, high + 1, ndim)]  # noqa: E731
    kernel = pick(1, 3)
    if all(k == 1 for k in kernel):
        kernel[0] = 2
    return {
        "kernel_size": kernel,
        "stride": pick(1, 3),
        "padding": [int(rng.integers(0, k)) for k in kernel],
        "dilation": pick(1, 2),
        "bias": bool(rng.integers(2)),
    }


SHAPES = {1: [40], 2: [11, 13], 3: [7, 9, 8], 4: [6, 7, 5, 6]}


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_convolution(ndim: int, seed: int) -> None:
    given = arguments(seed, ndim)
    compare(lambda e: [getattr(e, f"SparseConv{ndim}d")(3, 5, **given)], scan(seed, ndim, 3, SHAPES[ndim]))


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_submanifold_convolution_ignores_stride_and_padding(ndim: int, seed: int) -> None:
    given = arguments(seed, ndim)
    given["kernel_size"] = [3 if k == 2 else k for k in given["kernel_size"]]
    compare(lambda e: [getattr(e, f"SubMConv{ndim}d")(3, 5, **given)], scan(seed, ndim, 3, SHAPES[ndim]))


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_transposed_convolution(ndim: int, seed: int) -> None:
    given = arguments(seed, ndim)
    compare(
        lambda e: [getattr(e, f"SparseConvTranspose{ndim}d")(3, 4, **given)],
        scan(seed, ndim, 3, [max(2, n // 2) for n in SHAPES[ndim]]),
    )


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_inverse_convolution(ndim: int, seed: int) -> None:
    given = arguments(seed, ndim)

    def make(engine: Any) -> list[Any]:
        down = getattr(engine, f"SparseConv{ndim}d")(3, 4, indice_key="k", **given)
        up = getattr(engine, f"SparseInverseConv{ndim}d")(4, 2, given["kernel_size"], indice_key="k")
        return [down, up]

    compare(make, scan(seed, ndim, 3, SHAPES[ndim]), lambda layers, x: layers[1](layers[0](x)))


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_max_pooling_is_of_zero_and_the_maximum(ndim: int, seed: int) -> None:
    given = arguments(seed, ndim)
    del given["bias"]
    compare(lambda e: [getattr(e, f"SparseMaxPool{ndim}d")(**given)], scan(seed, ndim, 3, SHAPES[ndim]))


@pytest.mark.parametrize("channels", [(4, 4), (3, 5)])
@pytest.mark.parametrize("kind", ["SparseConv3d", "SubMConv3d"])
def test_kernels_of_one_cell_read_the_flat_buffer(kind: str, channels: tuple[int, int]) -> None:
    given = {"padding": 1} if kind == "SubMConv3d" else {}
    compare(lambda e: [getattr(e, kind)(*channels, 1, **given)], scan(1, 3, channels[0], SHAPES[3]))


@pytest.mark.parametrize("side", ["above", "below"])
@pytest.mark.parametrize("kind", ["subm", "dilated", "strided", "pool"])
def test_rows_outside_the_shape(kind: str, side: str) -> None:
    """Submanifold layers compute them, with the neighbours that spconv finds; others drop what lies outside.

    Above in the last sample or below in the first one: elsewhere the wheel takes such rows for those of other samples.
    """
    features, indices, shape, batch = scan(3, 3, 4, [4, 5, 6], rows=150)
    indices = indices.clone()
    if side == "above":
        indices[:, 1] += 2 * (indices[:, 0] == 1)
    else:
        indices[:, 1] -= 2 * (indices[:, 0] == 0)
    outside = (indices[:, 1] < 0) | (indices[:, 1] >= 4)
    assert 5 < int(outside.sum()) < len(indices) - 5
    make = {
        "subm": lambda e: [e.SubMConv3d(4, 5, 3)],
        "dilated": lambda e: [e.SubMConv3d(4, 5, (3, 1, 5), dilation=(2, 1, 1))],
        "strided": lambda e: [e.SparseConv3d(4, 5, 3, 2, 1)],
        "pool": lambda e: [e.SparseMaxPool3d(3, 2, 1)],
    }
    compare(make[kind], (features, indices, shape, batch))


def test_signatures_are_the_wheels() -> None:
    for name in ours.__all__:
        own, other = getattr(ours, name), getattr(theirs, name, None)
        if inspect.isclass(own) and name.startswith(
            ("SubM", "SparseConv", "SparseInv", "SparseMax", "SparseAvg")
        ):
            if other is None or name == "SparseConvTensor":
                continue
            assert list(inspect.signature(own).parameters) == list(inspect.signature(other).parameters), name


def test_names_are_there() -> None:
    wanted = [n for n in dir(theirs) if n[:1].isupper() and n not in ("Path", "Union")]
    assert not [n for n in wanted if not hasattr(ours, n)]
    assert ours.__version__ == "2.3.8"


# --- keys, bad input, odd rows ----------------------------------------------------------------------------------------


def tensor(seed: int = 0, channels: int = 3) -> ours.SparseConvTensor:
    features, indices, shape, batch = scan(seed, 3, channels, SHAPES[3])
    return ours.SparseConvTensor(features, indices, shape, batch)


def test_equal_keys_mean_equal_maps() -> None:
    x = ours.SubMConv3d(3, 3, 3, indice_key="a")(tensor())
    for layer in (
        ours.SubMConv3d(3, 3, 5, indice_key="a"),
        ours.SubMConv3d(3, 3, 3, dilation=2, indice_key="a"),
    ):
        with pytest.raises(ValueError, match="indice_key 'a'"):
            layer(x)
    with pytest.raises(AssertionError, match="indice_key 'a'"):
        ours.SparseConv3d(3, 3, 3, indice_key="a")(x)
    other = ours.SparseConvTensor(
        x.features,
        x.indices.roll(1, 0).contiguous(),
        x.spatial_shape,
        x.batch_size,
        indice_dict=x.indice_dict,
    )
    with pytest.raises(ValueError, match="equal rows"):
        ours.SubMConv3d(3, 3, 3, indice_key="a")(other)
    with pytest.raises(ValueError, match="no layer"):
        ours.SparseInverseConv3d(3, 3, 3, indice_key="b")(x)


def test_repeated_rows_see_themselves_and_the_lowest_rows() -> None:
    indices = torch.tensor([[0, 2], [0, 3], [0, 2], [0, 3]], dtype=torch.int32)
    features = torch.tensor([[1.0], [10.0], [100.0], [1000.0]])
    layer = ours.SubMConv1d(1, 1, 3, bias=False)
    torch.nn.init.ones_(layer.weight)
    x = ours.SparseConvTensor(features, indices, [8], 1)
    with pytest.warns(UserWarning, match="same cell"):
        out = layer(x)
    assert out.features.flatten().tolist() == [11.0, 11.0, 110.0, 1001.0]
    strided = ours.SparseConv1d(1, 1, 2, stride=2, bias=False)
    torch.nn.init.ones_(strided.weight)
    assert strided(x).features.flatten().tolist() == [1111.0]


def test_empty_tensors_and_copies() -> None:
    x = tensor()
    empty = x.select_by_index(torch.zeros(len(x.indices), dtype=torch.bool))
    net = ours.SparseSequential(
        ours.SubMConv3d(3, 4, 3, indice_key="s"),
        torch.nn.BatchNorm1d(4),
        ours.SparseConv3d(4, 4, 2, 2, indice_key="d"),
        ours.SparseInverseConv3d(4, 2, 2, indice_key="d"),
        ours.ToDense(),
    ).eval()
    assert net(empty).shape == (2, 2, *SHAPES[3]) and not net(empty).any()
    again = copy.deepcopy(net)
    assert torch.equal(again(copy.deepcopy(x)), net(x))


@pytest.mark.parametrize("layout", ["RSCK", "RSKC"])
def test_older_layouts_load(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, other = ours.SubMConv3d(3, 5, 3), ours.SubMConv3d(3, 5, 3)
    order = (1, 2, 3, 4, 0) if layout == "RSCK" else (1, 2, 3, 0, 4)
    state = {"weight": layer.weight.detach().permute(order).contiguous(), "bias": layer.bias.detach()}
    other.load_state_dict(dict(state))  # told by the shape
    assert torch.equal(other.weight, layer.weight)
    square = ours.SubMConv3d(5, 5, 3)
    with pytest.raises(ValueError, match="SAVED_WEIGHT_LAYOUT"):
        square.load_state_dict({"weight": torch.zeros(3, 3, 3, 5, 5), "bias": torch.zeros(5)})
    monkeypatch.setattr(ours.constants, "SAVED_WEIGHT_LAYOUT", layout)
    other.load_state_dict(dict(state))
    assert torch.equal(other.weight, layer.weight)


def test_global_pooling_and_sums_of_different_rows() -> None:
    x, y = tensor(0), tensor(1)
    for sample in range(2):
        rows = x.features[x.indices[:, 0] == sample]
        assert torch.allclose(ours.SparseGlobalAvgPool()(x)[sample], rows.mean(0), atol=1e-6)
        assert torch.equal(ours.SparseGlobalMaxPool()(x)[sample], rows.amax(0))
    total = ours.AddTableMisaligned()([x, y])
    assert torch.allclose(total.dense(), x.dense() + y.dense(), atol=1e-6)
    assert ours.JoinTable()([x, x]).features.shape[1] == 6
    assert torch.equal(ours.SparseConvTensor.from_dense(x.dense(channels_first=False)).dense(), x.dense())


# --- functions, records and the rest ----------------------------------------------------------------------------------


def test_pairs_and_the_functions_over_them_equal_the_layers() -> None:
    x = tensor()
    layers = {
        "conv": ours.SparseConv3d(3, 4, 3, stride=2, padding=1, indice_key="k"),
        "subm": ours.SubMConv3d(3, 4, 3, indice_key="k"),
    }
    for name, layer in layers.items():
        y = layer(x)
        data = y.find_indice_pair("k")
        pairs, counts = data.indice_pairs, data.indice_pair_num
        assert pairs.dtype == counts.dtype == torch.int32 and pairs.shape[:2] == (2, 27)
        assert ((pairs >= 0).sum(2) == counts).all()
        subm = name == "subm"
        function = ours.functional.indice_subm_conv if subm else ours.functional.indice_conv
        got = function(
            x.features, layer.weight, pairs, counts, len(y.indices), ours.ConvAlgo.Native, None, layer.bias
        )
        assert torch.allclose(got, y.features, atol=1e-6)
        geometry = ([3] * 3, [1] * 3, [1] * 3) if subm else ([3] * 3, [2] * 3, [1] * 3)
        out, found, numbers = ours.ops.get_indice_pairs(
            x.indices, x.batch_size, x.spatial_shape, ours.ConvAlgo.Native, *geometry, [1] * 3, [0] * 3, subm
        )
        assert torch.equal(out, y.indices) and torch.equal(found, pairs) and torch.equal(numbers, counts)
        if subm:
            continue
        up = ours.SparseInverseConv3d(4, 2, 3, indice_key="k")
        back = ours.functional.indice_inverse_conv(
            y.features, up.weight, pairs, counts, len(x.indices), ours.ConvAlgo.Native, None, up.bias
        )
        assert torch.allclose(back, up(y).features, atol=1e-6)
        pooled = ours.functional.indice_maxpool(x.features, pairs, counts, len(y.indices))
        assert torch.equal(pooled, ours.SparseMaxPool3d(3, 2, 1)(x).features)
    with pytest.raises(ValueError, match="column 0 of pairs"):
        ours.functional.indice_conv(x.features[:5], layers["conv"].weight, pairs, counts, 3)
    with pytest.raises(NotImplementedError, match="implicit_gemm"):
        ours.functional.implicit_gemm()


@pytest.mark.parametrize("repeated", [False, True])
def test_average_pooling_is_the_mean_of_the_present_rows(repeated: bool) -> None:
    x = tensor()
    if repeated:
        rows = torch.arange(len(x.indices)).repeat(2)
        indices, features = x.indices[rows].contiguous(), torch.randn(len(rows), 3)
        x = ours.SparseConvTensor(features, indices, x.spatial_shape, x.batch_size)
    found: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for row, feature in zip(x.indices.tolist(), x.features, strict=True):
        found.setdefault((row[0], *(c // 2 for c in row[1:])), []).append(feature)
    with pytest.warns(UserWarning, match="same cell") if repeated else contextlib.nullcontext():
        y = ours.SparseAvgPool3d(2)(x)
    kept = {
        site: torch.stack(rows).mean(0)
        for site, rows in found.items()
        if all(c < n for c, n in zip(site[1:], y.spatial_shape, strict=True))
    }
    assert {tuple(site) for site in y.indices.tolist()} == set(kept)
    for site, feature in zip(y.indices.tolist(), y.features, strict=True):
        assert torch.allclose(feature, kept[tuple(site)], atol=1e-6)


def test_activations_sums_and_records() -> None:
    x = tensor()
    layer = ours.conv.SparseConvolution(
        3, 3, 4, 3, subm=True, act_type=ours.Activation.ReLU, name="first"
    ).eval()
    plain = ours.SubMConv3d(3, 4, 3)
    plain.load_state_dict(layer.state_dict())
    added = x.replace_feature(torch.randn(len(x.indices), 4))
    assert torch.equal(layer(x, added).features, (plain(x).features + added.features).relu())
    with pytest.raises(AssertionError, match="inference"):
        layer.train()(x)
    x.benchmark = True
    for module, rows in (
        (ours.SparseConv3d(3, 4, 2, 2, name="down", record_voxel_count=True), None),
        (ours.SubMConv3d(3, 4, 1, name="point", indice_key="p"), len(x.indices)),
        (ours.SparseMaxPool3d(2, name="pool"), None),
    ):
        out = module(x)
        record = x.benchmark_record[module.name]
        assert record["num_points"] == [len(x.indices)]
        assert record["num_out_points"] == [len(out.indices) if rows is None else rows]
        assert module.get_max_num_voxels() is None or module.get_max_num_voxels().tolist() == [
            len(out.indices)
        ]
    with pytest.raises(ValueError, match="names"):
        plain(x)


def test_autocast_and_bfloat16() -> None:
    x = tensor()
    layer = ours.SubMConv3d(3, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).features.dtype == torch.bfloat16
        kinds = []
        for module in (ours, theirs):
            own = module.SparseConvTensor(x.features, x.indices, x.spatial_shape, x.batch_size)
            kinds.append(module.SubMConv3d(3, 4, 1)(own).features.dtype)
    assert kinds == [torch.bfloat16] * 2


INSTALLED = """
from sparseconv.compat import install
install("spconv")
install("spconv")
import importlib, spconv, spconv.pytorch as sp
from spconv.pytorch import SparseConvTensor, functional as Fsp
from spconv.pytorch.utils import PointToVoxel
from spconv.utils import Point2VoxelCPU3d
from spconv.pytorch.modules import SparseModule
assert sp.__name__ == "sparseconv.compat.spconv" and spconv.__version__ == "2.3.8"
for name in "conv core pool tables functional hash modules ops identity constants utils".split():
    importlib.import_module(f"spconv.pytorch.{name}")
for name in "utils constants core".split():
    importlib.import_module(f"spconv.{name}")
print(issubclass(sp.SubMConv3d, SparseModule))
"""


WITHOUT_CUMM = """
import sys
class Absent:  # cumm, which spconv's wheel needs, and the wheel itself
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("cumm", "spconv"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from sparseconv.compat import install
install("spconv")
import cumm.tensorview as tv, numpy as np
from spconv.utils import Point2VoxelCPU3d
generator = Point2VoxelCPU3d(
    vsize_xyz=[0.5] * 3, coors_range_xyz=[0, 0, 0, 4, 4, 4], num_point_features=3, max_num_voxels=8, max_num_points_per_voxel=4
)
points = np.array([[0.1, 0.2, 0.3], [0.2, 0.2, 0.2], [3.9, 0.1, 0.1]], np.float32)
print([a.numpy().tolist() for a in generator.point_to_voxel(tv.from_numpy(points))][1:])
"""


def test_install_brings_the_arrays_of_voxel_generators() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_CUMM], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[[[0, 0, 0], [0, 0, 7]], [2, 1]]", done.stderr[-2000:]


def test_install_stands_in_for_the_engine() -> None:
    done = subprocess.run([sys.executable, "-c", INSTALLED], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True", done.stderr[-2000:]
    from sparseconv.compat import install

    with pytest.raises(RuntimeError, match="imported before"):
        install("spconv")  # the wheel is, here
    with pytest.raises(ValueError, match="spconv"):
        install("torchsparse")
