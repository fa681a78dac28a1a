# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What torch expects of registered operators: opcheck, and torch.compile without graph breaks or recompilations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from engine import random_tensor
from strategies import close

import sparseconv
import sparseconv.nn as spnn
from sparseconv import SparseTensor
from sparseconv.formats import (
    NMLinear,
    QuantizedConv,
    QuantizedLinear,
    VectorSparseConv,
    VectorSparseLinear,
    nm_mask,
    pack_vectors,
    quantize_weight,
)


def our_ops() -> list[str]:
    names = (n.split("::")[1] for n in torch._C._dispatch_get_all_op_names() if n.startswith("sparseconv::"))
    return sorted({n.split(".")[0] for n in names})


# --- opcheck ---------------------------------------------------------------------------------------------------------


def samples() -> dict[str, list[tuple[Any, ...]]]:
    """Arguments of every operator, floats that require gradients where the operator has them; also empty inputs."""
    x = random_tensor(3, 60, 4, extent=6, dtype=torch.float64, grad=True, batch_size=2)
    same = sparseconv.build_kernel_map(x.coords, kernel_size=3, submanifold=True)
    down = sparseconv.build_kernel_map(x.coords, kernel_size=3, stride=2, padding=1)
    back = down.reverse()
    weight = torch.randn(27, 4, 5, dtype=torch.float64, requires_grad=True)
    grouped = torch.randn(27, 2, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    out = torch.randn(down.n_out, 5, dtype=torch.float64, requires_grad=True)
    none = torch.zeros(0, 4, dtype=torch.int32)
    nothing = sparseconv.build_kernel_map(none, kernel_size=3, submanifold=True)
    relations = [3, 2, 1, 1] * 3
    taps = spnn.SubMConv3d(1, 1, 3).taps
    index = x.coords[:, 0].long()
    order = torch.argsort(index, stable=True)
    offsets = torch.tensor([0, int((index == 0).sum()), len(index), len(index)])
    pool = torch.ops.sparseconv.max_pool(x.features.detach(), down.pairs, down.tap_offsets, down.n_out)
    points = torch.rand(40, 3, dtype=torch.float64)
    arrays = (down.pairs, down.tap_offsets, back.pairs, back.tap_offsets)
    coded = [quantize_weight(w, bits, group_size=3) for w, bits in ((weight, 4), (grouped, 8))]
    four, eight = ((q.codes, q.table, q.scales) for q in coded)
    line = quantize_weight(weight[:1], 8)
    packed = [pack_vectors(w.detach(), groups=g) for w, g in ((weight, 1), (grouped, 2))]
    rows, group_rows = packed[0].values.clone().requires_grad_(), packed[1].values
    lists, group_lists = (p.lists() for p in packed)
    mirrored = (same.pairs, same.tap_offsets, same.pairs, same.tap_offsets)
    codes = (torch.arange(60).reshape(20, 3) % 4 == 0).to(torch.uint8)
    packed = sparseconv.formats.EIELinear.from_matrix(
        sparseconv.formats.pack_eie(codes, torch.arange(16.0), pes=4), torch.ones(20)
    )
    stored = (packed.entries, packed.pointers)
    eie_input = torch.randn(2, 3, requires_grad=True)
    return {
        "eie_linear": [
            (x, packed.codebook, bias, 20, *packed.run_arrays, *stored)
            for x in (eie_input, eie_input.detach()[:0])
            for bias in (packed.bias, None)
        ],
        "eie_linear_grad": [(torch.randn(2, 20), eie_input.detach(), packed.codebook.detach(), *stored)],
        "output_coords": [
            (x.coords, relations, False, None),
            (x.coords, relations, True, None),
            (x.coords.abs(), relations, False, [5, 5, 5]),
            (none, relations, False, None),
        ],
        "quantized_conv": [
            (x.features, *four, bias, *arrays, down.n_out, 5, 1, 4, 3, False),
            (x.features, *four, None, *arrays[:2], None, None, down.n_out, 5, 1, 4, 3, False),
            (x.features, *eight, None, *mirrored, same.n_out, 6, 2, 8, 32, True),
        ],
        "quantized_linear": [
            (x.features, line.codes, line.table, line.scales, bias, 5, 8, 32),
            (x.features[:0], line.codes, line.table, line.scales, None, 5, 8, 32),
        ],
        "two_of_four_conv": [  # on a CPU: by the dense weight, which stands in for its other form too
            (x.features, bias, weight.detach(), offsets, weight.detach(), *arrays, down.n_out, False),
            (
                x.features,
                None,
                weight.detach(),
                offsets,
                weight.detach(),
                *arrays[:2],
                None,
                None,
                down.n_out,
                False,
            ),
            (x.features, bias, weight.detach(), offsets, weight.detach(), *mirrored, same.n_out, True),
        ],
        "vector_conv": [
            (x.features, rows, bias, *lists, *arrays, down.n_out, 5, 1, False),
            (x.features, rows, None, *lists, *arrays[:2], None, None, down.n_out, 5, 1, False),
            (x.features, group_rows, None, *group_lists, *mirrored, same.n_out, 6, 2, True),
        ],
        "vector_back": [
            (out, rows, *lists, *arrays[2:], *arrays[:2], down.n_in, 4, 1, False),
        ],
        "vector_outer": [
            (x.features, out, *lists, *arrays, 1, False),
            (x.features, out, *lists, *arrays[:2], None, None, 1, False),
        ],
        "find_pairs": [
            (x.coords, down.out_coords, taps, relations, "auto"),
            (x.coords, down.out_coords, taps[3:9], relations, "hash"),
            (none, down.out_coords, taps, relations, "sort"),
        ],
        "strided_map": [
            (x.coords, taps, relations, None),
            (x.coords.abs(), taps[3:9], relations, [2, 2, 2]),
            (x.coords, taps, relations, None, [0, -9, -9, -9, 2, 9, 9, 9]),
            (none, taps, relations, None),
        ],
        "find_rows": [(x.coords, x.coords[5:20].clone()), (x.coords, none)],
        "unique_coords": [(torch.cat([x.coords, x.coords[:9]]),), (none,)],
        "reverse_pairs": [(down.pairs, down.tap_offsets, down.n_in), (nothing.pairs, nothing.tap_offsets, 0)],
        "gather_gemm": [
            (x.features, weight, bias, *arrays, down.n_out, 1, False, False, False),
            (x.features, weight, None, *arrays[:2], None, None, down.n_out, 1, False, False, False),
            (x.features, grouped, None, *arrays, down.n_out, 2, False, False, False),
            (x.features, weight, bias, *mirrored, same.n_out, 1, False, False, True),
            (out, weight, None, *arrays[2:], *arrays[:2], down.n_in, 1, True, False, False),
            (
                x.features[:0],
                weight,
                bias,
                nothing.pairs,
                nothing.tap_offsets,
                None,
                None,
                0,
                1,
                False,
                False,
                False,
            ),
        ],
        "gather_outer": [(x.features, out, *arrays, 1), (x.features, out, *arrays[:2], None, None, 1)],
        "column_sum": [(x.features,), (x.features[:0],)],
        "max_pool": [(x.features, down.pairs, down.tap_offsets, down.n_out)],
        "max_pool_grad": [
            (out[:, :4].detach().contiguous(), pool[1], back.pairs, back.tap_offsets, down.n_in)
        ],
        "group_rows": [(index, 3), (index[:0], 2)],
        "gather_sum": [
            (x.features, offsets, order, None),
            (x.features, offsets, order, torch.rand(len(order), dtype=torch.float64)),
        ],
        "gather_max": [(x.features, offsets, order)],
        "voxel_runs": [
            (points, None, [0.0] * 3, [0.2] * 3),
            (points, torch.arange(40, dtype=torch.int32) % 3, [0.1] * 3, [0.2] * 3),
            (points[:0], None, [0.0] * 3, [0.2] * 3),
        ],
    }


def test_there_are_samples_for_every_operator() -> None:
    assert our_ops() and set(our_ops()) == set(samples())


@pytest.mark.parametrize("name", our_ops())
def test_opcheck(name: str) -> None:
    for number, arguments in enumerate(samples()[name]):
        operator = getattr(torch.ops.sparseconv, name).default
        try:
            torch.library.opcheck(operator, arguments)
        except Exception as error:
            raise AssertionError(f"{name}, sample {number}: {error}") from error


# --- torch.compile ---------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def block(kind: str = "SubMConv3d", **options: Any) -> spnn.Sequential:
    """No bias: before a BatchNorm its gradient is zero but for rounding, which nothing can be compared with."""
    return spnn.Sequential(
        getattr(spnn, kind)(4, 8, 3, bias=False, **options), spnn.BatchNorm(8), spnn.ReLU()
    )


def another_scan(seed: int) -> SparseTensor:
    return random_tensor(3, 150 + 40 * seed, 4, extent=8 + seed, batch_size=2, seed=seed, grad=True)


def compare(
    eager: torch.nn.Module, compiled: Callable[[SparseTensor], SparseTensor], net: torch.nn.Module, seed: int
) -> None:
    """Output, input gradient and parameter gradients of the compiled network equal those of its eager copy."""
    x, y = another_scan(seed), another_scan(seed)
    a, b = eager(x), compiled(y)
    assert torch.equal(a.coords, b.coords) and a.stride == b.stride and a.batch_size == b.batch_size
    close(b.features, a.features, 1e-5)
    cotangent = torch.sin(torch.arange(a.features.numel(), dtype=torch.float32)).reshape(a.features.shape)
    a.features.backward(cotangent)
    b.features.backward(cotangent)
    close(y.features.grad, x.features.grad, 1e-5)
    for left, right in zip(net.parameters(), eager.parameters(), strict=True):
        close(left.grad, right.grad, 1e-5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_conv_norm_relu_block_compiles_whole_and_once(backend: str) -> None:
    net = block()
    eager = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    compare(eager, compiled, net, 1)
    compare(eager, compiled, net, 2)  # here dynamo may learn that the number of rows varies
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in (3, 4, 5):
            compare(eager, compiled, net, seed)
    net.eval(), eager.eval()
    close(compiled(another_scan(6)).features, eager(another_scan(6)).features, 1e-5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_layers_with_packed_weights_compile_whole(backend: str) -> None:
    sparse = spnn.Linear(9, 5)
    sparse.weight.data *= nm_mask(sparse.weight.t()[None])[0].t()
    net = spnn.Sequential(
        QuantizedConv(spnn.SubMConv3d(4, 9, 3), bits=4),
        QuantizedLinear(spnn.Linear(9, 9)),
        NMLinear(sparse),
        VectorSparseConv(spnn.SubMConv3d(5, 20, 3)),
        VectorSparseLinear(spnn.Linear(20, 5)),
    )
    eager = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    for seed in (1, 2):
        compare(eager, compiled, net, seed)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_the_second_scan_already_compiles_nothing(backend: str) -> None:
    """The contract says "does not recompile for another scan": not even for the second."""
    net = block()
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    compiled(another_scan(1))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in (2, 3):
            compiled(another_scan(seed))


@pytest.mark.parametrize("kind", ["Conv3d", "ConvTranspose3d"])
def test_layers_that_make_sites_compile(kind: str) -> None:
    net = block(kind, stride=2, padding=1)
    eager = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    for seed in (1, 2):
        compare(eager, compiled, net, seed)


class Hourglass(torch.nn.Module):
    """Down and up again, onto the sites that were there before."""

    def __init__(self) -> None:
        super().__init__()
        self.down = spnn.Conv3d(4, 6, 3, stride=2, padding=1)
        self.up = spnn.InverseConv3d(6, 5, 3, stride=2, padding=1)
        self.pool = spnn.MaxPool3d(2)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.pool(sparseconv.cat([x, self.up(self.down(x), x)]))


def test_an_hourglass_compiles() -> None:
    net = Hourglass()
    eager = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    for seed in (1, 2):
        compare(eager, compiled, net, seed)


def test_a_map_that_is_cached_before_is_used_or_rebuilt_the_same() -> None:
    net = block()
    eager = copy.deepcopy(net)
    x = another_scan(1)
    expected = eager(x).features
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    close(compiled(x).features, expected, 1e-5)
    close(compiled(x).features, eager(x).features, 1e-5)


def test_recompilation_would_be_noticed() -> None:
    """The configuration used above really raises when a new graph is needed."""
    compiled = torch.compile(lambda x, scale: x * scale, fullgraph=True, backend="eager", dynamic=False)
    compiled(torch.ones(3), 2)
    with torch._dynamo.config.patch(error_on_recompile=True), pytest.raises(Exception, match=r"(?i)recompil"):
        compiled(torch.ones(5, 2), 3)
