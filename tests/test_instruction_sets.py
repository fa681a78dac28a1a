# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The native tests on every instruction set that this machine can run, chosen by SPARSECONV_ISA."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sparseconv

ORDER = ["generic", "avx2", "avx512", "avx512bf16"]
BEST = str(sparseconv.show_config()["instruction_set"])
NATIVE = Path(__file__).with_name("test_native.py")
PRINT = "import sparseconv; print(sparseconv.show_config()['instruction_set'])"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SPARSECONV_ISA": name}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, env=environment
    )


@pytest.mark.parametrize("name", ORDER[: ORDER.index(BEST) + 1])
def test_native_tests_on(name: str) -> None:
    assert run(name, "-c", PRINT).stdout.strip() == name
    options = ("-q", "--noconftest", "-p", "no:cacheprovider", "-k", "gather or pool or column or strides")
    done = run(name, "-m", "pytest", str(NATIVE), *options)
    assert done.returncode == 0, done.stdout[-3000:]


def test_an_unknown_instruction_set_is_an_error() -> None:
    done = run("sse9", "-c", PRINT)
    assert done.returncode != 0 and "sse9" in done.stderr and "avx2" in done.stderr


def test_the_variable_lowers_and_never_raises_the_instruction_set() -> None:
    assert run("generic", "-c", PRINT).stdout.strip() == "generic"
    for name in ORDER[ORDER.index(BEST) + 1 :]:  # what this machine cannot run
        done = run(name, "-c", PRINT)
        assert done.returncode != 0 or done.stdout.strip() in ORDER[: ORDER.index(BEST) + 1]


DIGEST = """
import hashlib, torch, sparseconv
torch.manual_seed(0)
coords = torch.cat([torch.zeros(4000, 1, dtype=torch.int32), torch.randint(0, 20, (4000, 3), dtype=torch.int32)], 1).unique(dim=0)
found = hashlib.sha256()
for dtype in (torch.float32, torch.bfloat16):
    for c_in, c_out in ((1, 16), (16, 16), (33, 48), (64, 100), (130, 24)):
        layer = sparseconv.nn.SubMConv3d(c_in, c_out, 3).to(dtype)
        x = sparseconv.SparseTensor(torch.randn(len(coords), c_in).to(dtype).requires_grad_(), coords)
        y = layer(x).features
        y.backward(torch.randn(y.shape).to(dtype))
        found.update(y.detach().float().numpy().tobytes() + x.features.grad.float().numpy().tobytes())
print(found.hexdigest())
"""


def test_sets_with_fused_multiply_add_give_the_same_bits() -> None:
    """Forward and gradient of the input; bfloat16 is widened, or multiplied in pairs where the processor can."""
    names = ORDER[1 : ORDER.index(BEST) + 1]
    digests = {name: run(name, "-c", DIGEST).stdout.strip() for name in names}
    assert all(len(digest) == 64 for digest in digests.values()), digests
    assert len(set(digests.values())) <= 1, digests
