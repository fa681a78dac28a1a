# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Norms against torch's: over all rows, per sample, with too few rows, and synchronised over two processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from engine import random_tensor

import sparseconv
import sparseconv.nn as spnn


def rows(n: int, channels: int = 6) -> sparseconv.SparseTensor:
    coords = torch.stack([torch.zeros(n), torch.arange(n)], 1).int()
    return sparseconv.SparseTensor(torch.randn(n, channels, dtype=torch.float64), coords, batch_size=1)


def twins(ours: nn.Module, theirs: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Two layers in float64 with the same random parameters, through the state dict."""
    ours.double(), theirs.double()
    for p in ours.parameters():
        nn.init.normal_(p)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def compare(ours: nn.Module, x: sparseconv.SparseTensor, reference) -> None:
    """Outputs, input gradients and parameter gradients of `ours(x)` against `reference(features)`."""
    f, g = (x.features.detach().clone().requires_grad_() for _ in range(2))
    y, z = ours(x.replace(f)).features, reference(g)
    torch.testing.assert_close(y, z, rtol=0, atol=1e-10)
    cotangent = torch.randn_like(y)
    y.backward(cotangent)
    z.backward(cotangent)
    torch.testing.assert_close(f.grad, g.grad, rtol=0, atol=1e-10)


def test_batch_norm_is_torchs_on_the_rows() -> None:
    ours, theirs = twins(spnn.BatchNorm(6), nn.BatchNorm1d(6))
    for _ in range(3):
        compare(ours, rows(50), theirs)
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[key])
    compare(ours.eval(), rows(1), theirs.eval())


@pytest.mark.parametrize("n", [0, 1])
def test_batch_norm_with_fewer_than_two_rows_uses_its_running_statistics(n: int) -> None:
    norm = spnn.BatchNorm(6).double()
    norm(rows(50))
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    x = rows(n)
    f = x.features.requires_grad_()
    y = norm(x)
    y.features.sum().backward()
    assert torch.equal(y.features, norm.eval()(x).features)
    assert f.grad.shape == f.shape and norm.weight.grad.shape == (6,)
    for key, value in norm.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} must not change"
    bare = spnn.BatchNorm(6, track_running_stats=False).double()
    assert torch.equal(bare(x).features, torch.zeros(n, 6, dtype=torch.float64))
    assert bare.eval()(x).features.shape == (n, 6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (spnn.InstanceNorm(6), nn.InstanceNorm1d(6)),
        (spnn.InstanceNorm(6, affine=True), nn.InstanceNorm1d(6, affine=True)),
        (spnn.GroupNorm(3, 6), nn.GroupNorm(3, 6)),
        (spnn.GroupNorm(6, 6, affine=False), nn.GroupNorm(6, 6, affine=False)),
    ],
)
def test_per_sample_norms_are_torchs_on_each_sample(ours: nn.Module, theirs: nn.Module) -> None:
    ours, theirs = twins(ours, theirs)

    def per_sample(x: sparseconv.SparseTensor):
        batch = x.coords[:, 0].long()

        def reference(features: torch.Tensor) -> torch.Tensor:
            out = torch.empty_like(features)
            for b in batch.unique():
                out = out.index_put((batch == b,), theirs(features[batch == b].T[None])[0].T)
            return out

        return reference

    for x in (rows(40), random_tensor(3, 60, 6, extent=6, batch_size=3, dtype=torch.float64)):
        compare(ours, x, per_sample(x))
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-10)
    one = ours(rows(1)).features
    assert one.isfinite().all() and ours(rows(0)).features.shape == (0, 6)


def test_instance_norm_of_one_row_is_its_bias() -> None:
    norm = spnn.InstanceNorm(6, affine=True).double()
    nn.init.normal_(norm.bias)
    assert torch.equal(norm(rows(1)).features[0], norm.bias)


def test_norms_gradcheck_and_half_precision() -> None:
    x = random_tensor(2, 12, 4, extent=4, batch_size=2, dtype=torch.float64)
    for norm in (spnn.InstanceNorm(4), spnn.GroupNorm(2, 4), spnn.BatchNorm(4), spnn.LayerNorm(4)):
        norm.double()
        features = x.features.detach().requires_grad_()
        assert torch.autograd.gradcheck(lambda f, norm=norm: norm(x.replace(f)).features, features)
        half = norm.float()(x.replace(x.features.bfloat16())).features
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(
            half.float(), norm(x.replace(x.features.float())).features, atol=0.05, rtol=0.05
        )


def test_compiled_training_takes_any_number_of_rows() -> None:
    """A compiled graph may not know the number of rows: the formula without a branch equals the eager layer."""
    for n in (0, 1, 2, 40):
        eager, other = spnn.BatchNorm(6).double(), spnn.BatchNorm(6).double()
        for norm in (eager, other):
            norm.running_mean.fill_(0.5)
            norm.running_var.fill_(2.0)
        x = rows(n)
        want = eager(x).features
        got = other._normalize_any(x.features, lambda total: total)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
        for key, value in eager.state_dict().items():
            torch.testing.assert_close(other.state_dict()[key], value, rtol=0, atol=1e-12)


# --- synchronised ----------------------------------------------------------------------------------------------------


def test_conversion_keeps_parameters_and_hooks() -> None:
    net = nn.ModuleDict(
        {"a": spnn.Sequential(spnn.SubMConv3d(6, 6, 3), spnn.BatchNorm(6)), "b": spnn.BatchNorm(6)}
    )
    before = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    calls = []
    net["b"].register_forward_hook(lambda *_: calls.append(1))
    assert spnn.convert_sync_batchnorm(net) is net
    assert type(net["a"][1]) is spnn.SyncBatchNorm and type(net["b"]) is spnn.SyncBatchNorm
    after = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    assert before.keys() == after.keys() and all(before[k] is after[k] for k in before)
    assert type(spnn.convert_sync_batchnorm(spnn.BatchNorm(3))) is spnn.SyncBatchNorm
    x, reference = rows(20), spnn.BatchNorm(6).double()
    assert torch.equal(net["b"].double()(x).features, reference(x).features)  # one process: as BatchNorm
    assert calls == [1]


def test_torchs_own_conversion_does_not_pass_in_silence() -> None:
    alone = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(spnn.BatchNorm(6)))
    assert type(alone[0]) is nn.SyncBatchNorm
    with pytest.raises((TypeError, AttributeError)):
        alone.double()(rows(20))
    inside = nn.SyncBatchNorm.convert_sync_batchnorm(spnn.Sequential(spnn.BatchNorm(6))).double()
    x = rows(20)  # our Sequential hands a plain layer the features, so there torch's layer works
    torch.testing.assert_close(inside(x).features, spnn.BatchNorm(6).double()(x).features)


SYNC = """
    import sys
    import torch, torch.distributed as dist
    import sparseconv, sparseconv.nn as spnn

    rank, world, store, out = int(sys.argv[1]), 2, sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    norm = spnn.convert_sync_batchnorm(spnn.BatchNorm(4)).double()
    result = []
    for sizes in ((7, 5), (0, 6), (1, 1), (1, 0), (0, 0)):
        values = torch.randn(sum(sizes), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(len(result)))
        cotangent = torch.cos(values)
        mine = slice(0, sizes[0]) if rank == 0 else slice(sizes[0], None)
        f = values[mine].clone().requires_grad_()
        coords = torch.stack([torch.zeros(len(f)), torch.arange(len(f))], 1).int()
        norm.zero_grad()
        y = norm(sparseconv.SparseTensor(f, coords, batch_size=1)).features
        (y * cotangent[mine]).sum().backward()
        grads = [norm.weight.grad.clone(), norm.bias.grad.clone()]
        for g in grads:
            dist.all_reduce(g)
        state = {k: v.clone() for k, v in norm.state_dict().items()}
        result.append({"sizes": sizes, "y": y.detach(), "grad": f.grad, "grads": grads, "state": state})
    torch.save(result, f"{out}.{rank}")
    dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_sync_batch_norm_over_two_processes_equals_one_batch(tmp_path: Path) -> None:
    script = tmp_path / "sync.py"
    script.write_text(textwrap.dedent(SYNC))
    out = tmp_path / "out"
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(r), str(tmp_path / "store"), str(out)], stderr=subprocess.PIPE
        )
        for r in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()
    results = [torch.load(f"{out}.{r}", weights_only=False) for r in range(2)]
    norm = spnn.BatchNorm(4).double()
    for step, (a, b) in enumerate(zip(*results, strict=True)):
        n = sum(a["sizes"])
        values = torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        f = values.clone().requires_grad_()
        coords = torch.stack([torch.zeros(n), torch.arange(n)], 1).int()
        norm.zero_grad()
        y = norm(sparseconv.SparseTensor(f, coords, batch_size=1)).features
        (y * torch.cos(values)).sum().backward()
        torch.testing.assert_close(torch.cat([a["y"], b["y"]]), y.detach(), rtol=0, atol=1e-10)
        torch.testing.assert_close(torch.cat([a["grad"], b["grad"]]), f.grad, rtol=0, atol=1e-10)
        for got, want in zip(a["grads"], (norm.weight.grad, norm.bias.grad), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
        for key, value in norm.state_dict().items():
            torch.testing.assert_close(a["state"][key], value, rtol=0, atol=1e-10)
            assert torch.equal(a["state"][key], b["state"][key])
