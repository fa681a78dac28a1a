# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Weights and state dicts of other engines: each tap order by enumeration, spconv's also by value."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn as nn

import sparseconv
import sparseconv.nn as spnn
from sparseconv import convert

KERNELS = [
    (3,),
    (2,),
    (3, 3),
    (3, 3, 3),
    (2, 2, 2),
    (4, 4, 4),
    (3, 1, 3),
    (3, 3, 2),
    (1, 1, 3),
    (5, 3, 1),
    (1, 1, 1),
    (5, 5, 5),
    (2, 3, 3),
    (4, 3, 2),
]
KERNELS += [(2, 3, 1, 3), (3, 1, 2, 1)]


# --- the other engines' orders, written out as loops -----------------------------------------------------------------


def dense_order(kernel):
    """torch and spconv: nested loops over the axes, the last one inside."""
    return list(itertools.product(*map(range, kernel)))


def minkowski_order(kernel):
    """Digits of the tap index from the first axis on; odd sizes are centred, even ones start at 0."""
    order = []
    for index in range(math.prod(kernel)):
        offset = []
        for k in kernel:
            digit, index = index % k, index // k
            offset.append(digit - k // 2 if k % 2 else digit)
        order.append(tuple(offset))
    return order


def torchsparse_order(kernel):
    """Offsets -k // 2 + 1 .. k // 2 per axis; the first axis is the inner loop for an odd volume, else the last one."""
    ranges = [range(-k // 2 + 1, k // 2 + 1) for k in kernel]
    if math.prod(kernel) % 2:
        return [tuple(reversed(offset)) for offset in itertools.product(*reversed(ranges))]
    return list(itertools.product(*ranges))


def cells(order, kernel):
    """Offsets as cells 0 .. k-1 of the kernel: along each axis, in increasing order."""
    per_axis = [sorted({offset[a] for offset in order}) for a in range(len(kernel))]
    return [tuple(per_axis[a].index(offset[a]) for a in range(len(kernel))) for offset in order]


ORDERS = {
    "minkowski": minkowski_order,
    "torchsparse": torchsparse_order,
    "torchsparse_1.4": torchsparse_order,
}


def matrices(kernel, c_in=3, c_out=5):
    """A random matrix for each cell of the kernel."""
    return {cell: torch.randn(c_in, c_out, dtype=torch.float64) for cell in dense_order(kernel)}


def stacked(parts, layer_taps):
    return torch.stack([parts[tuple(cell)] for cell in layer_taps])


def taps_of(kernel):
    return getattr(spnn, f"Conv{len(kernel)}d")(1, 1, kernel).taps.tolist()


@pytest.mark.parametrize("layout", ORDERS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_tap_orders_by_enumeration(layout: str, kernel: tuple[int, ...]) -> None:
    parts, order = matrices(kernel), cells(ORDERS[layout](kernel), kernel)
    assert sorted(order) == dense_order(kernel)
    theirs = torch.stack([parts[cell] for cell in order])
    ours = stacked(parts, taps_of(kernel))
    assert torch.equal(convert.weight_from(layout, theirs, kernel), ours)
    back = convert.weight_to(layout, ours, kernel)
    assert torch.equal(back, theirs if math.prod(kernel) > 1 else theirs[0]) and back.is_contiguous()
    if math.prod(kernel) == 1:
        assert torch.equal(convert.weight_from(layout, theirs[0], kernel), ours)
        strided = convert.weight_to(layout, ours, kernel, stride=2)
        assert strided.shape == ((3, 5) if layout == "torchsparse_1.4" else (1, 3, 5))
        assert torch.equal(convert.weight_from(layout, strided, kernel, stride=2), ours)


def test_the_two_orders_differ_where_they_should() -> None:
    """The same offsets in another order for k = 2, other offsets for k = 4, and mixed sizes follow the volume."""
    assert cells(minkowski_order((3, 3, 3)), (3, 3, 3)) == cells(torchsparse_order((3, 3, 3)), (3, 3, 3))
    assert set(minkowski_order((2, 2, 2))) == set(torchsparse_order((2, 2, 2)))
    assert minkowski_order((2, 2, 2)) != torchsparse_order((2, 2, 2))
    assert set(minkowski_order((4, 4, 4))) != set(torchsparse_order((4, 4, 4)))
    assert cells(torchsparse_order((3, 3, 2)), (3, 3, 2)) == dense_order((3, 3, 2))
    assert cells(minkowski_order((3, 3, 2)), (3, 3, 2)) != dense_order((3, 3, 2))


PLACES = {  # where each layout keeps the matrix of a cell: a function of (weight, cell)
    "torch": lambda w, cell: w[(slice(None), slice(None), *cell)].T,
    "spconv": lambda w, cell: w[(slice(None), *cell)].T,
    "spconv_rskc": lambda w, cell: w[cell].T,
    "spconv_rsck": lambda w, cell: w[cell],
}


@pytest.mark.parametrize("layout", PLACES)
@pytest.mark.parametrize("kernel", [k for k in KERNELS if math.prod(k) > 1])
def test_box_layouts_by_enumeration(layout: str, kernel: tuple[int, ...]) -> None:
    parts = matrices(kernel)
    ours = stacked(parts, taps_of(kernel))
    theirs = convert.weight_to(layout, ours, kernel, stride=2)
    assert theirs.is_contiguous()
    for cell, part in parts.items():
        assert torch.equal(PLACES[layout](theirs, cell), part)
    again = convert.weight_from(layout, theirs, kernel, stride=2)
    assert torch.equal(again, ours)
    assert again.data_ptr() == theirs.data_ptr(), "reading a box layout must cost no copy"


@pytest.mark.parametrize("layout", ["spconv", "spconv_rskc"])
def test_spconv_reads_a_1x1_weight_as_a_flat_buffer(layout: str) -> None:
    kernel, ours = (1, 1, 1), torch.randn(1, 4, 4)
    for flat in ({"submanifold": True, "stride": 1}, {"stride": 1}, {"stride": (1, 1, 1)}):
        theirs = convert.weight_to(layout, ours, kernel, **flat)
        assert torch.equal(theirs.view(4, 4), ours[0])
        assert torch.equal(convert.weight_from(layout, theirs, kernel, **flat), ours)
    strided = convert.weight_to(layout, ours, kernel, stride=2)
    assert torch.equal(strided.view(4, 4), ours[0].T)
    assert torch.equal(convert.weight_from(layout, strided, kernel, stride=2), ours)
    first = convert.weight_to("spconv_rsck", ours, kernel)  # spconv 1.x says what it means
    assert torch.equal(first.view(4, 4), ours[0])
    wide = torch.randn(1, 2, 5)
    theirs = convert.weight_to(layout, wide, kernel)
    assert theirs.shape == ((5, 1, 1, 1, 2) if layout == "spconv" else (1, 1, 1, 5, 2))
    assert torch.equal(convert.weight_from(layout, theirs, kernel), wide)


def test_groups() -> None:
    for transposed in (False, True):
        ours = torch.randn(9, 2, 12)
        theirs = convert.weight_to("torch", ours, (3, 3), groups=4, transposed=transposed)
        assert theirs.shape == ((8, 3, 3, 3) if transposed else (12, 2, 3, 3))
        assert torch.equal(
            convert.weight_from("torch", theirs, (3, 3), groups=4, transposed=transposed), ours
        )
    channelwise = torch.randn(9, 1, 6)
    theirs = convert.weight_to("minkowski", channelwise, (3, 3), groups=6)
    order = cells(minkowski_order((3, 3)), (3, 3))
    assert torch.equal(theirs, stacked(dict(zip(dense_order((3, 3)), channelwise[:, 0], strict=True)), order))
    assert torch.equal(convert.weight_from("minkowski", theirs, (3, 3), groups=6), channelwise)


def test_wrong_weights_raise() -> None:
    with pytest.raises(ValueError, match="layout must be one of torch, spconv"):
        convert.weight_from("caffe", torch.zeros(27, 1, 1), (3, 3, 3))
    with pytest.raises(
        ValueError, match=r"a weight of spconv layout must be \[C, 3, 3, 3, C\], got \[27, 4, 8\]"
    ):
        convert.weight_from("spconv", torch.zeros(27, 4, 8), (3, 3, 3))
    for call in (convert.weight_from, convert.weight_to):
        with pytest.raises(TypeError, match=r"torch.Tensor, got list"):
            call("minkowski", [1.0], (3, 3, 3))
    with pytest.raises(ValueError, match=r"minkowski layout must be \[27, C, C\]"):
        convert.weight_from("minkowski", torch.zeros(8, 4, 8), (3, 3, 3))
    with pytest.raises(ValueError, match='"spconv" has no groups'):
        convert.weight_to("spconv", torch.zeros(27, 4, 8), (3, 3, 3), groups=2)
    with pytest.raises(ValueError, match="channelwise layers only"):
        convert.weight_to("minkowski", torch.zeros(27, 4, 8), (3, 3, 3), groups=2)


# --- state dicts -----------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    return nn.ModuleDict(
        {
            "stem": spnn.Sequential(spnn.SubMConv3d(4, 8, 3), spnn.BatchNorm(8), spnn.ReLU()),
            "down": spnn.Conv3d(8, 8, 2, stride=2, bias=False),
            "mid": spnn.SubMConv3d(8, 8, 1),
            "skip": spnn.Conv3d(8, 8, 1, stride=2),
            "up": spnn.InverseConv3d(8, 8, 2, stride=2),
            "style": spnn.Sequential(spnn.InstanceNorm(8, affine=True), spnn.PReLU(8)),
            "head": spnn.Linear(8, 2),
        }
    )


@pytest.mark.parametrize("layout", convert.LAYOUTS)
def test_state_dicts_make_the_round_trip(layout: str) -> None:
    a, b = network(), network()
    with torch.no_grad():
        for tensor in (*a.parameters(), a["stem"][1].running_mean):
            tensor.normal_()
    theirs = convert.state_dict_to(layout, a)
    b.load_state_dict(convert.state_dict_from(layout, theirs, b))
    for key, value in a.state_dict().items():
        assert torch.equal(b.state_dict()[key], value), key
    engine = layout.partition("_")[0]
    name = "kernel" if engine in ("torchsparse", "minkowski") else "weight"
    assert {f"down.{name}", "down.bias"} & set(theirs) == {f"down.{name}"}
    wrapped = {"stem.1.bn.running_mean", "head.linear.weight", "style.1.module.weight"}
    assert set(theirs) & wrapped == (wrapped if engine == "minkowski" else set())
    row = (1, 8) if engine == "minkowski" else (8,)
    assert theirs["mid.bias"].shape == theirs["style.0.weight"].shape == theirs["style.0.bias"].shape == row
    one_cell = {"torchsparse": (1, 8, 8), "torchsparse_1.4": (8, 8), "minkowski": (1, 8, 8)}
    if layout in one_cell:
        assert theirs["skip.kernel"].shape == one_cell[layout] and theirs["mid.kernel"].shape == (8, 8)
    extra = convert.state_dict_from(layout, {**theirs, "other.weight": torch.zeros(1)}, b)
    with pytest.raises(RuntimeError, match=r"other\.weight"):
        b.load_state_dict(extra)


def test_state_dicts_name_the_key_that_does_not_fit() -> None:
    state = convert.state_dict_to("spconv", network())
    state["down.weight"] = torch.zeros(8, 3, 3, 3, 8)
    with pytest.raises(
        ValueError, match=r"state_dict_from: down.weight: .*\[C, 2, 2, 2, C\], got \[8, 3, 3, 3, 8\]"
    ):
        convert.state_dict_from("spconv", state, network())
    grouped = nn.Sequential(spnn.SubMConv3d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match=r"state_dict_to: 0.weight: layout \"spconv\" has no groups"):
        convert.state_dict_to("spconv", grouped)


def test_a_pruned_network_takes_its_rows_from_a_full_state_dict() -> None:
    full, pruned = network(), network()
    keep = torch.tensor([0, 3, 13, 20])
    conv = pruned["stem"][0]
    conv.taps, conv.weight = conv.taps[keep], nn.Parameter(conv.weight.detach()[keep])
    pruned.load_state_dict(
        convert.state_dict_from("minkowski", convert.state_dict_to("minkowski", full), pruned)
    )
    assert torch.equal(conv.weight, full["stem"][0].weight[keep])
    zeroed = convert.state_dict_to("torch", pruned)["stem.0.weight"].flatten(2)
    assert torch.equal(zeroed[..., keep], full["stem"][0].weight[keep].permute(2, 1, 0))
    assert zeroed.count_nonzero() == 4 * 4 * 8


# --- spconv itself ---------------------------------------------------------------------------------------------------


def spconv_cases():
    return {
        "SubM k3": (lambda sp: sp.SubMConv3d(4, 5, 3), spnn.SubMConv3d(4, 5, 3)),
        "SubM k1, square": (lambda sp: sp.SubMConv3d(4, 4, 1), spnn.SubMConv3d(4, 4, 1)),
        "SubM k1": (lambda sp: sp.SubMConv3d(4, 5, 1), spnn.SubMConv3d(4, 5, 1)),
        "k1, square": (lambda sp: sp.SparseConv3d(4, 4, 1), spnn.Conv3d(4, 4, 1)),
        "k1 s2, square": (lambda sp: sp.SparseConv3d(4, 4, 1, 2), spnn.Conv3d(4, 4, 1, stride=2)),
        "mixed s2": (
            lambda sp: sp.SparseConv3d(4, 5, (3, 3, 2), 2, 1),
            spnn.Conv3d(4, 5, (3, 3, 2), stride=2, padding=1),
        ),
        "k4 s3": (lambda sp: sp.SparseConv3d(4, 5, 4, 3), spnn.Conv3d(4, 5, 4, stride=3)),
        "transposed": (
            lambda sp: sp.SparseConvTranspose3d(4, 5, 3, 2, 1),
            spnn.ConvTranspose3d(4, 5, 3, stride=2, padding=1),
        ),
    }


@pytest.mark.parametrize("name", spconv_cases())
def test_spconv_weights_compute_what_spconv_computes(name: str) -> None:
    spconv = pytest.importorskip(
        "spconv.pytorch", reason="spconv is not installed: its layouts stay unchecked by value"
    )
    torch.set_num_threads(1)
    build, ours = spconv_cases()[name]
    theirs = build(spconv)
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_()
    ours.load_state_dict(convert.state_dict_from("spconv", theirs.state_dict(), ours))
    assert all(
        torch.equal(v, theirs.state_dict()[k]) for k, v in convert.state_dict_to("spconv", ours).items()
    )
    shape = (9, 8, 7)
    coords = torch.unique(
        torch.cat([torch.zeros(90, 1), torch.rand(90, 3) * torch.tensor(shape)], 1).int(), dim=0
    )
    features = torch.randn(len(coords), 4)
    got = ours(sparseconv.SparseTensor(features, coords, spatial_shape=shape)).dense()
    with torch.no_grad():
        want = theirs(spconv.SparseConvTensor(features, coords, list(shape), 1)).dense()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
