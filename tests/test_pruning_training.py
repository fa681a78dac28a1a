# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Training after pruning: masks hold under any optimizer, distillation is its formula, schedules reach their end."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import zoo
from sparseconv.pruning import (
    Channels,
    Cubic,
    FineGrained,
    Global,
    HeldMasks,
    Iterative,
    Magnitude,
    Offsets,
    OneShot,
    analyze,
    distilled,
    fine_tune,
    make_plan,
    prune,
)
from torch import Tensor, nn

from sparseconv import SparseTensor


def loss(model: nn.Module, x: SparseTensor) -> Tensor:
    return (model(x).features - 1).square().mean()


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD with momentum and decay": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
    "Nesterov": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masks_survive_a_hundred_steps(name: str) -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    for _ in range(5):  # momentum from before the masks
        optimizer.zero_grad()
        loss(model, x).backward()
        optimizer.step()
    plan = make_plan(model, [x], granularity=FineGrained(), ratio=0.5)
    masks = plan.masks()
    with HeldMasks(model, masks, optimizer):
        for _ in range(100):
            optimizer.zero_grad()
            loss(model, x).backward()
            for key, mask in masks.items():
                grad = model.get_parameter(key).grad
                assert grad is None or not grad[~mask].any()
            optimizer.step()
            for key, mask in masks.items():
                assert not model.get_parameter(key)[~mask].any()
    moved = [
        not torch.equal(p, q)
        for p, q in zip(model.parameters(), zoo.create("Plain").parameters(), strict=True)
    ]
    assert any(moved)


def test_released_masks_let_go_and_without_them_weights_come_back() -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    plan = make_plan(model, [x], granularity=FineGrained(), ratio=0.5)
    model = plan.apply(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    held = HeldMasks(model, plan.masks(), optimizer)
    held.release()
    loss(model, x).backward()
    optimizer.step()
    revived = [bool(model.get_parameter(name)[~mask].any()) for name, mask in plan.masks().items()]
    assert any(revived)


def test_masks_of_another_shape_or_name_are_refused() -> None:
    model = zoo.create("Plain")
    name, weight = next((n, p) for n, p in model.named_parameters() if p.ndim == 3)
    with pytest.raises(ValueError, match="the mask is"):
        HeldMasks(model, {name: torch.ones(2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="no parameter"):
        HeldMasks(model, {"nothing": torch.ones(weight.shape, dtype=torch.bool)})


def test_fine_tune_lowers_the_loss_and_holds_what_was_pruned() -> None:
    model, x = zoo.create("Residual"), zoo.sites()
    plan = make_plan(model, [x], granularity=FineGrained(), ratio=0.6)
    smaller = plan.apply(model)
    before = float(loss(smaller.eval(), x).detach())
    seen: list[int] = []
    losses = fine_tune(
        smaller,
        [x, x],
        loss,
        steps=30,
        lr=1e-1,
        plan=plan,
        on_step=lambda i, _: seen.append(i),
        progress=False,
    )
    assert len(losses) == 30 and seen == list(range(30))
    assert losses[-1] < 0.9 * losses[0] and before > 0
    for name, mask in plan.masks().items():
        assert not smaller.get_parameter(name)[~mask].any()


def test_fine_tune_says_what_is_wrong() -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    with pytest.raises(ValueError, match="no batch"):
        fine_tune(model, [], loss, steps=1, lr=0.1, progress=False)
    with pytest.raises(ValueError, match="finite"):
        fine_tune(model, [x], lambda m, s: loss(m, s) * math.nan, steps=1, lr=0.1, progress=False)
    with pytest.raises(ValueError, match="positive"):
        fine_tune(model, [x], loss, steps=1, lr=0.0, progress=False)


def test_an_interrupt_leaves_a_masked_network() -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    plan = make_plan(model, [x], granularity=FineGrained(), ratio=0.5)
    smaller = plan.apply(model)

    def stop(step: int, _: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(smaller, [x], loss, steps=9, lr=0.1, plan=plan, on_step=stop, progress=False)
    for name, mask in plan.masks().items():
        assert not smaller.get_parameter(name)[~mask].any()
        assert not smaller.get_parameter(name)._backward_hooks


def test_distillation_is_its_formula() -> None:
    teacher, student, x = zoo.create("Plain", 0).train(), zoo.create("Plain", 1).eval(), zoo.sites()
    total = distilled(loss, teacher, weight=0.7, temperature=2.0)(student, x)
    s = (student(x).features / 2).detach().numpy()
    t = (copy.deepcopy(teacher).eval()(x).features / 2).detach().numpy()
    import numpy as np

    log_p = t - np.log(np.exp(t).sum(1, keepdims=True))
    log_q = s - np.log(np.exp(s).sum(1, keepdims=True))
    gap = (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    expected = float(loss(student, x).detach()) + 0.7 * 4 * gap
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)  # scores are compared in float32
    assert teacher.training and all(p.grad is None for p in teacher.parameters())
    total.backward()
    assert all(p.grad is None for p in teacher.parameters()) and any(
        p.grad is not None for p in student.parameters()
    )


def test_a_network_is_its_own_best_teacher() -> None:
    model, x = zoo.create("Plain").eval(), zoo.sites()
    assert float(distilled(loss, model)(model, x).detach()) == pytest.approx(
        float(loss(model, x).detach()), rel=1e-6
    )


def test_cubic_schedule() -> None:
    for start, final, goes in ((0.0, 0.9, 10), (0.3, 0.8, 4), (0.0, 0.5, 1)):
        levels = Cubic(goes, start).levels(final)
        assert levels[-1] == final and len(levels) == goes
        assert levels == sorted(levels)
        for t, level in enumerate(levels, start=1):
            assert level == pytest.approx(final + (start - final) * (1 - t / goes) ** 3)
    assert Cubic(10).levels(0.8)[4] == pytest.approx(0.8 * 7 / 8)  # half-way
    assert Iterative(4).levels(0.8) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert OneShot().levels(0.3) == [0.3]
    with pytest.raises(ValueError, match="at least one go"):
        Cubic(0)


@pytest.mark.parametrize("granularity", [Channels(round_to=1), FineGrained(), Offsets()])
@pytest.mark.parametrize("schedule", [OneShot(), Iterative(3), Cubic(3)])
def test_schedules_end_at_the_same_sparsity(granularity: object, schedule: object) -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    tuned: list[int] = []
    smaller, plan = prune(
        model,
        [x],
        0.5,
        schedule=schedule,  # type: ignore[arg-type]
        granularity=granularity,  # type: ignore[arg-type]
        criterion=Magnitude(1),
        tune=lambda m, p, go: tuned.append(go),
    )
    assert tuned == list(range(len(schedule.levels(0.5))))  # type: ignore[attr-defined]
    again = plan.apply(model)
    assert [p.shape for p in again.parameters()] == [p.shape for p in smaller.parameters()]
    if isinstance(granularity, Channels):
        kept = {
            layer.weight: smaller.get_parameter(layer.weight).shape
            for layer in analyze(smaller, [x]).layers.values()
        }
        start = {name: model.get_parameter(name).shape for name in kept}
        inner = [name for name in kept if kept[name][2] != start[name][2]]
        assert inner
        for name in inner:
            assert abs(kept[name][2] - start[name][2] / 2) <= 1
    if isinstance(granularity, FineGrained):
        stays = torch.cat([m.flatten() for m in plan.masks().values()])
        assert abs(float(stays.double().mean()) - 0.5) < 0.01


def test_a_ratio_of_the_whole_network() -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    _, plan = prune(model, [x], 0.5, schedule=Iterative(2), granularity=FineGrained(), ratio=Global)
    stays = torch.cat([m.flatten() for m in plan.masks().values()])
    assert abs(int((~stays).sum()) - len(stays) / 2) <= 2
