# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The pruning benchmark's table: every row beside the dense network and beside dense networks of its speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pruning_lines import PAYS, Line
from pruning_measure import Measured
from pruning_rows import DENSE, TUNED, Row
from pruning_score import Interval
from pruning_timing import WIDE

SCHEMA = 2
WIDE_TARGET, NARROW_TARGET, OFFSETS_TARGET, BEST_TARGET, HEADLINE = 0.8, 0.65, 1.6, 3.0, 4.5


@dataclass
class Target:
    """Something to reach, and what was reached."""

    text: str
    wanted: float
    reached: float | None
    by: str

    @property
    def met(self) -> bool:
        """Nothing measured is not met."""
        return self.reached is not None and self.reached >= self.wanted


@dataclass
class Table:
    """Everything that a run found."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    lines: list[Line] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def holds(line: Line, reference: Row, half: bool = False) -> bool:
    """Whether a pruned row keeps 99 % of the mIoU of `DENSE`, or of `TUNED`, which was trained with as many steps as the row.

    half: the row fused and in bfloat16, the other in float32 all the same.
    """
    if reference == DENSE:
        of: Interval | None = line.half_of_dense if half else line.of_dense
    else:
        of = line.half_of_trained_on if half else line.of_trained_on
    return of is not None and of.holds


def find_targets(lines: Sequence[Line]) -> list[Target]:
    """What the benchmark was made to reach."""
    found = []
    for what, wanted, title in (
        (
            "wide",
            WIDE_TARGET,
            f"time ratio over MACs ratio, convolutions alone, layers that keep {WIDE} channels or more",
        ),
        ("narrow", NARROW_TARGET, "the same, layers that keep fewer"),
        ("whole", NARROW_TARGET, "the same, end to end"),
    ):
        gains = {
            line.row.name: line.gains[f"{what}, 1"] for line in lines if "channels" in line.row.granularity
        }
        values = {name: gain.efficiency for name, gain in gains.items() if gain is not None}
        worst = min(values, key=lambda name: values[name], default="")
        found.append(
            Target(f"{title}: the lowest of the rows that prune channels", wanted, values.get(worst), worst)
        )
    for title, kind, what, wanted in (
        ("offsets alone", "offsets", "whole", OFFSETS_TARGET),
        ("best row", "", "whole", BEST_TARGET),
        ("best row, fused and in bfloat16, beside the dense network in float32", "", "deployed", HEADLINE),
    ):
        for reference in (DENSE, TUNED):
            rows = [
                line
                for line in lines
                if line.row.stages
                and line.row.granularity.startswith(kind)
                and holds(line, reference, half=what == "deployed")
            ]
            best = max(rows, key=lambda line: line.speedup(what), default=None)
            text = f"{title}: times faster end to end at 99 % (lower bound) of the mIoU of: {reference.name}"
            name = best.row.name if best else "no row holds 99 %"
            found.append(Target(text, wanted, best.speedup(what) if best else None, name))
    return found


def as_json(table: Table) -> dict[str, Any]:
    """Everything as plain data."""
    return {
        "schema": SCHEMA,
        "machine": table.machine,
        "settings": table.settings,
        "lines": [
            {
                **asdict(line),
                "holds": holds(line, DENSE),
                "holds_trained_on": holds(line, TUNED),
                "half_holds": holds(line, DENSE, half=True),
                "half_holds_trained_on": holds(line, TUNED, half=True),
            }
            for line in table.lines
        ],
        "timing": [asdict(m) for m in table.measured],
        "targets": [{**asdict(t), "met": t.met} for t in table.targets],
        "notes": table.notes,
    }


HEADER = (
    "network", "seeds", "mIoU", "of dense, %", "99 % held", "of dense trained on, %", "99 % held", "parameters, M",
    "MACs fewer", "ms", "times faster", "2 threads", "fused", "convolutions alone", "efficiency: wide", "narrow", "end to end",
    "mIoU of a dense one as fast", "pays", "bfloat16: ms", "times faster", "than dense float32", "mIoU of dense float32, %",
)  # fmt: skip


def cells(line: Line) -> list[str]:
    """A line as text, in the order of `HEADER`."""

    def percent(of: Interval | None) -> str:
        return "" if of is None else f"{100 * of.value:.1f} ({100 * of.low:.1f}-{100 * of.high:.1f})"

    def faster(what: str) -> str:
        gain = line.gains[what]
        return "" if gain is None else f"{gain.faster.median:.2f}"

    def efficiency(what: str) -> str:
        gain = line.gains[what]
        return "" if gain is None or line.row in (DENSE, TUNED) else f"{gain.efficiency:.2f}"

    whole, of = line.gains["whole, 1"], line.of_dense
    base = "" if line.baseline_miou is None else f"{line.baseline_miou:.4f}"
    base += f" ({line.baseline})" if line.baseline else ""
    pruned = bool(line.row.stages)
    return [
        line.row.name,
        str(len(line.seeds)),
        f"{line.miou:.4f}",
        "" if line.row == DENSE else percent(of),
        ("yes" if holds(line, DENSE) else "no") if pruned else "",
        "" if line.row in (DENSE, TUNED) else percent(line.of_trained_on),
        ("yes" if holds(line, TUNED) else "no") if pruned else "",
        f"{line.nonzero / 1e6:.2f}",
        "" if whole is None else f"{whole.fewer:.2f}",
        f"{line.milliseconds:.0f}",
        "" if whole is None else f"{whole.faster.median:.2f} ({whole.faster.q1:.2f}-{whole.faster.q3:.2f})",
        faster("whole, 2"),
        faster("fused, 1"),
        faster("convolutions, 1"),
        efficiency("wide, 1"),
        efficiency("narrow, 1"),
        efficiency("whole, 1"),
        base,
        line.pays,
        f"{line.half_milliseconds:.0f}",
        faster("half, 1"),
        faster("deployed, 1"),
        percent(line.half_of_dense),
    ]


def markdown(table: Table, pictures: Sequence[Path] = ()) -> str:
    """The table, the targets and the notes."""
    m, s = table.machine, table.settings
    lines = ["# Pruning", "", f"{m['name']}, {m['instruction_set']}; {m['date']}.", ""]
    lines += [
        f"MinkUNet18 at width {s['task']['width']:g}, trained {s['task']['dense_steps']} steps of {s['task']['batch']} half "
        f"sweeps; pruned rows and `{TUNED.name}` {s['task']['tune_steps']} more of {s['task']['tune_batch']}; narrower dense "
        "networks all of these from nothing. "
        f"mIoU over {s['task']['test_sweeps']} held-out simulated half sweeps, means over seeds; in brackets the 95 % "
        "bootstrap interval over scans. Times: whole sweeps "
        f"({', '.join(dict.fromkeys(x.scan for x in table.measured))}), one thread where nothing else is said, maps "
        "included, interleaved; geometric means over sweeps, quartiles of rounds in brackets. Efficiency: times faster over "
        f"times fewer multiply-accumulates, of convolution layers alone that keep {WIDE} channels or more (wide) or fewer "
        "(narrow), and end to end. The last four columns are of networks fused and in bfloat16: beside the dense network in the "
        "same form, then beside the dense network as it was trained, unfused and in float32.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---|" + "---:|" * (len(HEADER) - 1),
        *("| " + " | ".join(cells(line)) + " |" for line in table.lines),
        "",
        "## To reach",
        "",
        "| | wanted | reached | by | met |",
        "|---|---:|---:|---|---|",
    ]
    for t in table.targets:
        reached = "" if t.reached is None else f"{t.reached:.2f}"
        lines.append(f"| {t.text} | {t.wanted:g} | {reached} | {t.by} | {'yes' if t.met else 'no'} |")
    lines += ["", *(f"- {note}" for note in table.notes), "", *(f"![{p.stem}]({p.name})" for p in pictures)]
    return "\n".join(lines).rstrip() + "\n"


def verdicts(lines: Sequence[Line]) -> list[str]:
    """A sentence for each granularity: whether a row of it beats a dense network of its speed."""
    by_kind: dict[str, list[Line]] = {}
    for line in lines:
        if line.row.stages:
            by_kind.setdefault(line.row.granularity, []).append(line)
    said = []
    for kind, rows in by_kind.items():
        winners = [line.row.name for line in rows if line.pays == PAYS]
        what = (
            f"pays ({', '.join(winners)})"
            if winners
            else "does not pay: no row beats a dense network as fast"
        )
        said.append(f"{kind[0].upper()}{kind[1:]}: {what}.")
    return said


def grouped(lines: Sequence[Line]) -> Mapping[str, list[Line]]:
    """Lines by granularity, baselines under a name of their own."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault("dense, narrower" if line.row.beside else line.row.granularity, []).append(line)
    return found
