# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Plans: what goes, as data. A plan can be printed, stored as JSON, and applied to any network of the same shape."""

from __future__ import annotations

import base64
import copy
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .columns import aligned
from .points import skip_points
from .ratios import check_ratio
from .surgery import check_cut, cut, tensor_of, write, zero
from .units import select, spread

Model = TypeVar("Model", bound=nn.Module)
FORMAT = 1
LIMIT = 2**29  # elements that a plan read from a file may speak of: half a gigabyte of memory


@dataclass(frozen=True)
class Entry:
    """A row of a plan's table: a layer or group, its units, and how many of them go."""

    name: str
    units: int
    removed: int
    macs: float = 0.0  # per scan, of the removed units, each taken alone: coupled channels share some


@dataclass(frozen=True, eq=False)
class Step:
    """One pruning: what it chose among and by what, as text, and what goes.

    Attributes:
        cuts: tensor name -> axis -> bool [positions], True = stays. Taken out of the network. Axes as in `Member`.
        masks: parameter name -> bool of its shape, True = stays. Set to zero.
        points: layer name -> share of rows whose work is skipped.
        entries, left: for the table: what was chosen, and layers left as they were with the reason.
        updates: new values of parameters before the cut, from criteria that make up for what goes; not in the JSON, since the
            weights of a pruned network are stored with it.
    """

    granularity: str
    criterion: str
    ratio: str
    cuts: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    points: Mapping[str, float] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    updates: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps that are applied one after the other; each speaks of the network that the steps before it leave."""

    steps: tuple[Step, ...]

    def then(self, other: Plan) -> Plan:
        """This plan followed by one made on its result: `plan.then(make_plan(plan.apply(model), ...))`."""
        return Plan(self.steps + other.steps)

    def apply(self, model: Model, *, remove: bool = True, values: bool = True) -> Model:
        """A pruned copy of `model`, which is not changed.

        Args:
            remove: take out what can be taken out, so that the network is smaller and faster; otherwise it is set to zero, which
                gives the same outputs.
            values: also write the new weights that the criterion computed, if any; leave them where trained weights follow.

        Raises:
            ValueError: where the model has not the tensors or shapes that the plan was made for.
        """
        model = copy.deepcopy(model)
        for step in self.steps:
            if values:
                write(model, step.updates)
            zero(model, step.masks)
            if remove:
                cut(model, step.cuts)
            else:
                zero(model, _as_masks(model, step.cuts))
            skip_points(model, step.points)
        return model

    def masks(self) -> dict[str, Tensor]:
        """Parameter name -> bool, True = stays, in the shapes after `apply`: what fine-tuning has to hold at zero."""
        masks: dict[str, Tensor] = {}
        for step in self.steps:
            for name, mask in step.masks.items():
                masks[name] = masks[name] & mask if name in masks else mask
            for name, axes in step.cuts.items():
                for axis, stays in axes.items() if name in masks else ():
                    masks[name] = select(masks[name], axis, stays.nonzero()[:, 0])
        return masks

    # --- as text ----------------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        return "\n\n".join(_table(step) for step in self.steps)

    def to_json(self) -> str:
        """The plan as JSON; `from_json` reads it."""
        return json.dumps({"format": FORMAT, "steps": [_to_data(step) for step in self.steps]})

    @staticmethod
    def from_json(text: str) -> Plan:
        """Reads what `to_json` wrote; raises ValueError for anything else."""
        try:
            data = json.loads(text)
            if not isinstance(data, dict) or data.get("format") != FORMAT:
                found = data.get("format") if isinstance(data, dict) else type(data).__name__
                raise ValueError(f"expected format {FORMAT}, got {found!r:.80}")
            reader = _Reader()
            return Plan(tuple(reader.step(step) for step in data["steps"]))
        except KeyError as error:
            raise ValueError(f"not a pruning plan: there is no {error}") from error
        except RecursionError as error:
            raise ValueError("not a pruning plan: nested too deeply") from error
        except (TypeError, AttributeError, ValueError, ArithmeticError, zlib.error) as error:
            raise ValueError(f"not a pruning plan: {error}") from error


def _as_masks(model: nn.Module, cuts: Mapping[str, Mapping[int, Tensor]]) -> dict[str, Tensor]:
    """Cuts as masks of parameters."""
    masks = {}
    parameters = dict(model.named_parameters())
    for name, axes in cuts.items():
        tensor = tensor_of(model, name)
        check_cut(name, tensor, axes)
        if name not in parameters:
            continue
        mask = torch.ones(tensor.shape, dtype=torch.bool)
        for axis, stays in axes.items():
            mask &= spread(stays, axis, tensor.shape)
        masks[name] = mask
    return masks


def _table(step: Step) -> str:
    head = f"{step.granularity} by {step.criterion}, {step.ratio}"
    rows = [(e.name, str(e.units), str(e.units - e.removed), f"{e.macs / 1e6:.1f}") for e in step.entries]
    lines = [head, *aligned([("group", "units", "kept", "MMACs of what goes"), *rows])]
    lines += [f"left: {name}: {reason}" for name, reason in step.left.items()]
    return "\n".join(lines)


def _to_data(step: Step) -> dict[str, Any]:
    return {
        "granularity": step.granularity,
        "criterion": step.criterion,
        "ratio": step.ratio,
        "cuts": {
            name: {
                str(axis): {"of": len(stays), "removed": (~stays).nonzero()[:, 0].tolist()}
                for axis, stays in axes.items()
            }
            for name, axes in step.cuts.items()
        },
        "masks": {
            name: {"shape": list(mask.shape), "stays": _pack(mask)} for name, mask in step.masks.items()
        },
        "points": dict(step.points),
        "entries": [[e.name, e.units, e.removed, e.macs] for e in step.entries],
        "left": dict(step.left),
    }


class _Reader:
    """Checks what a file says before memory is taken for it: `budget` counts down over the whole plan."""

    def __init__(self) -> None:
        self.budget = LIMIT

    def step(self, data: Any) -> Step:
        cuts = {
            name: {self.axis(axis): self.cut(_table_of(p), name) for axis, p in _table_of(axes).items()}
            for name, axes in _table_of(data["cuts"]).items()
        }
        masks = {name: self.mask(_table_of(m), name) for name, m in _table_of(data["masks"]).items()}
        points = {name: check_ratio(_number(ratio)) for name, ratio in _table_of(data["points"]).items()}
        entries = tuple(Entry(_text(n), _size(u), _size(r), _number(m)) for n, u, r, m in data["entries"])
        left = {name: _text(reason) for name, reason in _table_of(data["left"]).items()}
        words = [_text(data[key]) for key in ("granularity", "criterion", "ratio")]
        return Step(words[0], words[1], words[2], cuts, masks, points, entries, left)

    def axis(self, value: str) -> int:
        if value not in ("-2", "-1") and not (value.isascii() and value.isdigit() and len(value) < 3):
            raise ValueError(f"an axis must be a number from 0 on, or -2 or -1 of a matrix, got {value!r}")
        return int(value)

    def cut(self, data: Mapping[str, Any], name: str) -> Tensor:
        count = self.take(_size(data["of"]), name)
        removed = [_size(n) for n in data["removed"]]
        if removed and max(removed) >= count:
            raise ValueError(f"{name}: removed positions must lie in [0, {count}), got {max(removed)}")
        if len(set(removed)) >= count:
            raise ValueError(f"{name}: at least one of {count} positions must stay")
        stays = torch.ones(count, dtype=torch.bool)
        stays[removed] = False
        return stays

    def mask(self, data: Mapping[str, Any], name: str) -> Tensor:
        sizes = [_size(n) for n in data["shape"]]
        count = self.take(math.prod(sizes), name)
        length = (count + 7) // 8
        reader = zlib.decompressobj()
        packed = reader.decompress(
            base64.b64decode(_text(data["stays"]), validate=True), length + 1
        )  # no bombs
        if len(packed) != length:
            raise ValueError(
                f"{name}: a mask of shape {sizes} takes {length} bytes, got {len(packed)} or more"
            )
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=count) if count else np.empty(0, np.uint8)
        return torch.from_numpy(bits.astype(bool)).view(sizes)

    def take(self, count: int, name: str) -> int:
        self.budget -= count
        if self.budget < 0:
            raise ValueError(f"{name}: a plan may speak of at most {LIMIT} elements in all")
        return count


def _table_of(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, got {value!r:.80}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value!r:.80}")
    return float(value)


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError(f"a size or position must be an int in [0, 2^31), got {value!r:.80}")
    return value


def _pack(mask: Tensor) -> str:
    return base64.b64encode(zlib.compress(np.packbits(mask.cpu().numpy().reshape(-1)).tobytes())).decode()
