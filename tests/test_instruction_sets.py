# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The native tests on every instruction set that this machine can run, chosen by SPARSECONV_ISA."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from instruction_sets import HERE, ORDER

import sparseconv
from sparseconv import nn

NATIVE = Path(__file__).with_name("test_native.py")
PRINT = "import sparseconv; print(sparseconv.show_config()['instruction_set'])"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SPARSECONV_ISA": name}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, env=environment
    )


@pytest.mark.parametrize("name", HERE)
def test_native_tests_on(name: str) -> None:
    assert run(name, "-c", PRINT).stdout.strip() == name
    options = ("-q", "--noconftest", "-p", "no:cacheprovider", "-k", "gather or pool or column or strides")
    done = run(name, "-m", "pytest", str(NATIVE), *options)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.skipif(HERE[-1] != "amx", reason="the tests of types have run in pairs of bfloat16, or without")
def test_sums_of_pairs_where_matrices_are_the_default() -> None:
    types = str(Path(__file__).with_name("test_types.py"))
    done = run("avx512bf16", "-m", "pytest", types, "-q", "-p", "no:cacheprovider", "-k", "bfloat16")
    assert done.returncode == 0, done.stdout[-3000:]


def test_an_unknown_instruction_set_is_an_error() -> None:
    done = run("sse9", "-c", PRINT)
    assert done.returncode != 0 and "sse9" in done.stderr and "avx2" in done.stderr


def test_the_variable_chooses_among_what_the_processor_has() -> None:
    assert run("generic", "-c", PRINT).stdout.strip() == "generic"
    for name in ORDER[len(HERE) :]:  # what this machine cannot run, or would not choose
        done = run(name, "-c", PRINT)
        assert done.returncode != 0 or done.stdout.strip() == name


DIGEST = """
import hashlib, torch, sparseconv
torch.manual_seed(0)
coords = torch.cat([torch.zeros(4000, 1, dtype=torch.int32), torch.randint(0, 20, (4000, 3), dtype=torch.int32)], 1).unique(dim=0)
found = hashlib.sha256()
for dtype in {dtypes}:
    for c_in, c_out in ((1, 16), (16, 16), (33, 48), (64, 100), (130, 24)):
        layer = sparseconv.nn.SubMConv3d(c_in, c_out, 3).to(dtype)
        x = sparseconv.SparseTensor(torch.randn(len(coords), c_in).to(dtype).requires_grad_(), coords)
        y = layer(x).features
        y.backward(torch.randn(y.shape).to(dtype))
        found.update(y.detach().float().numpy().tobytes() + x.features.grad.float().numpy().tobytes())
print(found.hexdigest())
"""


def test_sets_with_fused_multiply_add_give_the_same_bits() -> None:
    """Forward and gradient of the input; bfloat16 is widened, or multiplied in pairs where the processor can.

    A matrix unit's sums of bfloat16 are others.
    """
    for dtypes, names in (("(torch.float32, torch.float64)", HERE[1:]), ("(torch.bfloat16,)", HERE[1:4])):
        code = DIGEST.format(dtypes=dtypes)
        digests = {name: run(name, "-c", code).stdout.strip() for name in names}
        assert all(len(digest) == 64 for digest in digests.values()), digests
        assert len(set(digests.values())) <= 1, digests


SHAPES = [  # input channels, output channels, groups
    (16, 16, 1),
    (18, 20, 1),
    (32, 33, 1),
    (48, 48, 1),
    (64, 64, 1),
    (100, 70, 1),
    (128, 96, 1),
    (272, 40, 1),
    (600, 16, 1),
    (64, 48, 2),
]


@pytest.mark.skipif("amx" not in HERE, reason="needs a processor with a matrix unit (AMX)")
@pytest.mark.parametrize(("c_in", "c_out", "groups"), SHAPES)
def test_matrix_unit(c_in: int, c_out: int, groups: int) -> None:
    """Against float64 on the same bfloat16 numbers; a row sees neither the rows beside it nor the number of threads."""
    torch.manual_seed(c_in)
    layer = nn.SubMConv3d(c_in, c_out, 3, groups=groups).bfloat16()
    exact = copy.deepcopy(layer).double()
    near = torch.randint(0, 12, (900, 4)).int().unique(dim=0) * torch.tensor([0, 1, 1, 1]).int()
    near = near.unique(dim=0)
    before = (
        near[:37] - torch.tensor([0, 50, 0, 0]).int()
    )  # other rows, and all rows elsewhere in their tiles
    rows = torch.randn(len(near), c_in).bfloat16()
    x = sparseconv.SparseTensor(rows, near)
    more = sparseconv.SparseTensor(
        torch.cat([torch.full((37, c_in), torch.nan).bfloat16(), rows]), torch.cat([before, near])
    )
    grad = torch.randn(len(near), c_out).bfloat16()

    def gradients(own: nn.SubMConv3d, dtype: torch.dtype) -> list[torch.Tensor]:
        features = rows.to(dtype).requires_grad_()
        out = own(sparseconv.SparseTensor(features, near)).features
        return list(torch.autograd.grad(out, (features, own.weight), grad.to(dtype)))

    found, exact_ones = gradients(layer, torch.bfloat16), gradients(exact, torch.float64)
    for got, true in zip(found, exact_ones, strict=True):
        assert (got.double() - true).abs().max() <= true.abs().max() * 2**-8
    with torch.no_grad():
        y, want = layer(x).features, exact(x.to(torch.float64)).features
        assert (y.double() - want).abs().max() <= want.abs().max() * 2**-8
        assert torch.equal(layer(more).features[37:], y)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1 if threads > 1 else 2)
            assert torch.equal(layer(sparseconv.SparseTensor(rows, near)).features, y)
            with torch.enable_grad():
                assert all(map(torch.equal, gradients(layer, torch.bfloat16), found))
        finally:
            torch.set_num_threads(threads)
