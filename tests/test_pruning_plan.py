# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Plans as text: round trips, files that mean harm, networks that a plan was not made for."""

from __future__ import annotations

import base64
import copy
import json
import math
import random
import tracemalloc
import zlib

import pytest
import torch
import zoo
from engine import refuses
from hypothesis import given
from hypothesis import strategies as st
from sparseconv.pruning import (
    NM,
    Channels,
    Entry,
    FineGrained,
    Offsets,
    Plan,
    Points,
    Random,
    Step,
    make_plan,
)
from torch import nn

import sparseconv.nn as snn


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


names = st.text(min_size=1, max_size=12)


@st.composite
def kept(draw: st.DrawFn) -> torch.Tensor:
    """Positions of an axis, at least one of which stays."""
    stays = draw(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
    return torch.tensor(stays)


@st.composite
def masks(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 6), max_size=4))
    seed = draw(st.integers(0, 1000))
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < draw(
        st.sampled_from([0.0, 0.5, 1.0])
    )


finite = st.floats(allow_nan=False, allow_infinity=False)
entries = st.builds(Entry, names, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), finite)
steps = st.builds(
    Step,
    st.text(max_size=20),
    st.text(max_size=20),
    st.text(max_size=20),
    cuts=st.dictionaries(names, st.dictionaries(st.integers(0, 5), kept(), max_size=3), max_size=3),
    masks=st.dictionaries(names, masks(), max_size=3),
    points=st.dictionaries(names, st.floats(0, 1), max_size=3),
    entries=st.lists(entries, max_size=3).map(tuple),
    left=st.dictionaries(names, st.text(max_size=20), max_size=3),
)
plans = st.lists(steps, max_size=3).map(lambda s: Plan(tuple(s)))


def equal(a: Plan, b: Plan) -> None:
    assert len(a.steps) == len(b.steps)
    for one, other in zip(a.steps, b.steps, strict=True):
        for key in ("granularity", "criterion", "ratio", "points", "entries", "left"):
            assert getattr(one, key) == getattr(other, key), key
        assert {n: {d: s.tolist() for d, s in x.items()} for n, x in one.cuts.items()} == {
            n: {d: s.tolist() for d, s in x.items()} for n, x in other.cuts.items()
        }
        assert list(one.masks) == list(other.masks)
        for name, mask in one.masks.items():
            assert mask.dtype == torch.bool and torch.equal(mask, other.masks[name]), name


@given(plans)
def test_json_round_trip(plan: Plan) -> None:
    text = plan.to_json()
    again = Plan.from_json(text)
    equal(plan, again)
    assert again.to_json() == text
    str(again)


def sample() -> Plan:
    """Channels, then taps, then single weights, then points, of one network."""
    model, x = zoo.create("Plain"), zoo.sites()
    plan = make_plan(model, [x], granularity=Channels(round_to=1))
    for granularity in (Offsets(), FineGrained(), NM(1, 2), Points()):
        plan = plan.then(
            make_plan(plan.apply(model), [x], granularity=granularity, criterion=Random(1), ratio=0.3)
        )
    return plan


@pytest.fixture(scope="module")
def text() -> str:
    torch.set_num_threads(1)
    return sample().to_json()


def test_all_granularities_round_trip_and_apply(text: str) -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    plan = Plan.from_json(text)
    assert len(plan.steps) == 5 and plan.to_json() == text
    with torch.no_grad():
        got, expected = plan.apply(model)(x).features, sample().apply(model)(x).features
    assert torch.equal(got, expected)
    assert "left: head: output of the network" in str(plan)


def test_masks_follow_later_cuts() -> None:
    """The masks of a plan have the shapes of the network that it leaves."""
    model, x = zoo.create("Plain"), zoo.sites()
    first = make_plan(model, [x], granularity=FineGrained(), ratio=0.5)
    both = first.then(make_plan(first.apply(model), [x], granularity=Channels(round_to=1), ratio=0.5))
    both = both.then(make_plan(both.apply(model), [x], granularity=Offsets(), ratio=0.5))
    smaller = both.apply(model)
    for name, mask in both.masks().items():
        weight = smaller.get_parameter(name)
        assert mask.shape == weight.shape and bool((weight[~mask] == 0).all()) and bool((~mask).any()), name


# --- hostile files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        "", "null", "[]", "3", '"plan"', "{}", '{"format": 1}', '{"format": 2, "steps": []}', '{"format": 1, "steps": 3}',
        '{"format": 1, "steps": [3]}', '{"format": 1, "steps": "abc"}', '{"format": 1, "steps": {"cuts": 1}}',
        '{"format": 1, "steps": [null]}', '{"format": 1, "steps": [[]]}', "NaN", "\x00", "{" * 100_000, "[" * 100_000,
        '{"format": 1, "steps": ' + "[" * 100_000, "9" * 10_000, '{"format": ' + "9" * 10_000 + "}",
    ],
)  # fmt: skip
def test_what_is_no_plan(bad: str) -> None:
    refuses(lambda: Plan.from_json(bad), "not a pruning plan")


@pytest.mark.parametrize("bad", [None, 3, b"\xff\xfe", ["a"], {"format": 1, "steps": []}])
def test_what_is_no_text(bad) -> None:
    refuses(lambda: Plan.from_json(bad), "not a pruning plan")


def test_truncated_files(text: str) -> None:
    for length in [*range(0, len(text) - 1, max(1, len(text) // 60)), len(text) - 1]:
        refuses(lambda n=length: Plan.from_json(text[:n]), "not a pruning plan")


def with_step(**changes) -> str:
    step = {
        "granularity": "g",
        "criterion": "c",
        "ratio": "r",
        "cuts": {},
        "masks": {},
        "points": {},
        "entries": [],
        "left": {},
    }
    return json.dumps({"format": 1, "steps": [{**step, **changes}]})


def mask(shape, data: bytes) -> dict:
    return {"m": {"shape": shape, "stays": base64.b64encode(data).decode()}}


WRONG = {
    "cuts is a list": {"cuts": []},
    "an axis that is no number": {"cuts": {"w": {"x": {"of": 4, "removed": []}}}},
    "a negative axis": {"cuts": {"w": {"-3": {"of": 4, "removed": [1]}}}},
    "a negative size": {"cuts": {"w": {"0": {"of": -4, "removed": []}}}},
    "a size that is true": {"cuts": {"w": {"0": {"of": True, "removed": []}}}},
    "a fraction": {"cuts": {"w": {"0": {"of": 4, "removed": [0.5]}}}},
    "a position that is true": {"cuts": {"w": {"0": {"of": 4, "removed": [True]}}}},
    "a negative position": {"cuts": {"w": {"0": {"of": 4, "removed": [-1]}}}},
    "a position too large": {"cuts": {"w": {"0": {"of": 4, "removed": [4]}}}},
    "a position of 70 bits": {"cuts": {"w": {"0": {"of": 4, "removed": [2**70]}}}},
    "nested positions": {"cuts": {"w": {"0": {"of": 4, "removed": [[0]]}}}},
    "a string of positions": {"cuts": {"w": {"0": {"of": 4, "removed": "012"}}}},
    "nothing stays": {"cuts": {"w": {"0": {"of": 2, "removed": [0, 1]}}}},
    "a huge axis": {"cuts": {"w": {"0": {"of": 2**31 - 1, "removed": []}}}},
    "many large axes": {"cuts": {str(i): {"0": {"of": 2**28, "removed": []}} for i in range(50)}},
    "no shape": {"masks": {"m": {"stays": ""}}},
    "no base64": {"masks": {"m": {"shape": [8], "stays": "???"}}},
    "not compressed": {"masks": mask([8], b"\xff")},
    "too few bits": {"masks": mask([80], zlib.compress(b"\xff"))},
    "too many bits": {"masks": mask([8], zlib.compress(b"\xff" * 2))},
    "a shape that wraps around": {"masks": mask([2**30, 2**30, 16], zlib.compress(b""))},
    "a huge shape": {"masks": mask([2**31 - 1] * 3, zlib.compress(b"\xff"))},
    "a negative shape": {"masks": mask([-8, -1], zlib.compress(b"\xff"))},
    "a bomb": {"masks": mask([8], zlib.compress(b"\xff" * 10**8))},
    "a bomb that its shape allows": {"masks": mask([2**20, 2**20], zlib.compress(b"\xff" * 10**8))},
    "a NaN ratio": {"points": {"p": math.nan}},
    "a ratio above one": {"points": {"p": 1.5}},
    "a ratio in words": {"points": {"p": "0.5"}},
    "an infinite ratio": {"points": {"p": math.inf}},
    "entries of the wrong length": {"entries": [["a", 1]]},
    "entries of the wrong type": {"entries": [["a", "1", 0, 0.0]]},
    "infinite entries": {"entries": [["a", math.inf, 0, 0.0]]},
    "entries of NaN": {"entries": [["a", 1, 0, math.nan]]},
    "entries are a number": {"entries": 3},
    "reasons are pairs": {"left": [["a", "b"]]},
    "a reason is a number": {"left": {"a": 3}},
    "a name is a number": {"granularity": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values(name: str) -> None:
    bad = with_step(**WRONG[name])
    tracemalloc.start()
    try:
        refuses(lambda: Plan.from_json(bad), "not a pruning plan")
        assert tracemalloc.get_traced_memory()[1] < 20 * len(bad) + 2**20  # NumPy's and Python's memory
    finally:
        tracemalloc.stop()


def test_random_damage(text: str) -> None:
    """One value after the other is replaced: a ValueError, or a plan that can be written again."""
    junk = [None, True, -1, 0.5, math.nan, 2**40, "x", [], {}, [[]], {"a": 1}, "9" * 30]
    rng = random.Random(0)

    def places(value, at=()):
        yield at
        pairs = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, inner in pairs:
            yield from places(inner, (*at, key))

    data = json.loads(text)
    spots = list(places(data))[1:]
    refused = accepted = 0
    for at in rng.sample(spots, min(150, len(spots))):
        broken = copy.deepcopy(data)
        parent = broken
        for key in at[:-1]:
            parent = parent[key]
        parent[at[-1]] = rng.choice(junk)
        try:
            plan = Plan.from_json(json.dumps(broken))
        except ValueError as error:
            refused += "not a pruning plan" in str(error)
            continue
        plan.to_json(), str(plan)
        accepted += 1
    assert refused > 50 and refused + accepted == min(150, len(spots))


# --- other networks -------------------------------------------------------------------------------------------------


def other() -> nn.Module:
    """As `Plain`, with other numbers of channels."""
    torch.manual_seed(0)
    model = zoo.create("Plain")
    model.body, model.head = zoo.block(16, 12).double(), zoo.conv(12, 5, 1).double()
    return model


@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("granularity", [Channels(round_to=1), FineGrained(), Offsets(), Points()])
def test_a_plan_for_another_network(granularity, remove: bool) -> None:
    x = zoo.sites()
    plan = make_plan(zoo.create("Plain"), [x], granularity=granularity, criterion=Random(0))
    if not isinstance(granularity, Offsets):  # the taps are the same
        refuses(lambda: plan.apply(other(), remove=remove), r"body\.0")
    refuses(lambda: plan.apply(nn.Sequential(nn.Linear(3, 3)), remove=remove), r"stem\.0|body\.0")
    model = zoo.create("Plain")
    model.stem[0], model.body[0] = snn.SubMConv3d(4, 16, 1).double(), snn.SubMConv3d(16, 15, 1).double()
    if not isinstance(granularity, Points):
        refuses(lambda: plan.apply(model, remove=remove), r"stem\.0|body\.0")
    once = plan.apply(zoo.create("Plain"))
    if isinstance(granularity, Channels | Offsets):
        refuses(lambda: plan.apply(once, remove=remove), r"stem\.0")


def test_no_scan_and_wrong_choices() -> None:
    model, x = zoo.create("Plain"), zoo.sites()
    refuses(lambda: make_plan(model, []), "at least one scan")
    refuses(lambda: make_plan(model, [x], granularity=Channels), "granularity", kind=TypeError)
    refuses(lambda: make_plan(model, [x], criterion="magnitude"), "criterion", kind=TypeError)
    refuses(lambda: make_plan(model, [x], ratio="half"), "ratio", kind=TypeError)
    refuses(lambda: make_plan(nn.Sequential(snn.ReLU()), [x]), "parameters")
