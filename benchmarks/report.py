# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""What a run found: rows of timings, checks and notes; as JSON, as markdown and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from timing import Spread, Timings, ratios

SCHEMA = 1
OURS = "sparseconv"


@dataclass
class Row:
    """One measurement: the engines' times and what follows from them. Percentages are medians of rounds, 0 to 100."""

    suite: str
    part: str  # heading of the table the row belongs to
    scan: str
    case: str
    threads: int
    milliseconds: dict[str, Spread]
    times_faster: dict[str, Spread] = field(
        default_factory=dict
    )  # than the engine named; ours over the others
    numbers: dict[str, float] = field(default_factory=dict)  # voxels, pairs, GFLOP/s, % of FMA peak ...


@dataclass(frozen=True)
class Check:
    """Whether two results agree: the largest difference and what is allowed."""

    case: str
    against: str
    what: str
    error: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Not a number counts as a disagreement."""
        return self.error <= self.tolerance


def row_of(
    place: tuple[str, str, str],
    case: str,
    threads: int,
    timings: Timings,
    engines: Iterable[str],
    base: str = OURS,
) -> Row:
    """A row from timings: the engines' milliseconds, and `base` against each of the others; place = suite, part, scan."""
    names = list(engines)
    milliseconds = {name: Spread.of(timings.seconds[name]).scaled(1e3) for name in names}
    faster = {name: ratios(timings, name, base) for name in names if name != base}
    return Row(*place, case, threads, milliseconds, faster)


class Report:
    """Collects rows, checks and notes, and says them while they come."""

    def __init__(
        self, machine: dict[str, Any], settings: dict[str, Any], console: Console | None = None
    ) -> None:
        self.machine = machine
        self.settings = settings
        self.rows: list[Row] = []
        self.checks: list[Check] = []
        self.notes: list[str] = []
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    def add(self, row: Row) -> None:
        """Keeps a row and prints it in one line."""
        self.rows.append(row)
        times = ", ".join(f"{name} {_time(s)}" for name, s in row.milliseconds.items())
        faster = ", ".join(f"{s.median:.2f}x {name}" for name, s in row.times_faster.items())
        said = ("% of FMA peak", "% of byte floor", "FMA peak, times one thread")
        extra = "".join(f", {_number(row.numbers[name])} {name}" for name in said if name in row.numbers)
        if not row.milliseconds:
            times = ", ".join(f"{name} {_number(value)}" for name, value in row.numbers.items())
        head = f"{row.scan} | {row.case}, {row.part.rsplit(', ')[-1]}"
        self.console.print(f"{head}: {times}{'; ' if faster else ''}{faster}{extra}", markup=False)

    def check(self, check: Check) -> bool:
        """Keeps a check; says so loudly where results disagree."""
        self.checks.append(check)
        if not check.agrees:
            self.console.print(
                f"DISAGREES: {check.case}, {check.what} against {check.against}: "
                f"{check.error:.3g}, allowed {check.tolerance:.3g}",
                style="bold red",
                markup=False,
            )
        return check.agrees

    def note(self, text: str) -> None:
        """Keeps a sentence for the report, once."""
        if text not in self.notes:
            self.notes.append(text)
            self.console.print(f"note: {text}", markup=False)

    @property
    def disagreements(self) -> list[Check]:
        """The checks that failed."""
        return [c for c in self.checks if not c.agrees]

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {
            "schema": SCHEMA,
            "machine": self.machine,
            "settings": self.settings,
            "rows": [asdict(r) for r in self.rows],
            "checks": [{**asdict(c), "agrees": c.agrees} for c in self.checks],
            "notes": self.notes,
        }

    def tables(self) -> Iterable[tuple[str, list[str], list[list[str]]]]:
        """Title, header and cells of each part on each scan, in the order they were measured."""
        parts: dict[tuple[str, str, str], list[Row]] = {}
        for row in self.rows:
            parts.setdefault((row.suite, row.part, row.scan), []).append(row)
        for (suite, part, scan), rows in parts.items():
            engines = _union(r.milliseconds for r in rows)
            peers = _union(r.times_faster for r in rows)
            numbers = _union(r.numbers for r in rows)
            header = ["case", *(f"{e}, ms" for e in engines), *(f"times {p}" for p in peers), *numbers]
            cells = [
                [
                    r.case,
                    *(_time_cell(r.milliseconds.get(e)) for e in engines),
                    *(_faster_cell(r.times_faster.get(p)) for p in peers),
                    *(_number(r.numbers.get(n)) for n in numbers),
                ]
                for r in rows
            ]
            yield f"{suite}: {scan}, {part}", header, cells

    def show(self) -> None:
        """All tables on the terminal's standard output."""
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=200)
        for title, header, cells in self.tables():
            shown = [i for i, name in enumerate(header) if name not in ("rows", "pairs", "FMA peak GFLOP/s")]
            table = Table(title=title, title_justify="left")
            for i in shown:
                table.add_column(header[i], justify="left" if i < 1 else "right")
            for row in cells:
                table.add_row(*(row[i] for i in shown))
            console.print(table)
        for note in self.notes:
            console.print(f"- {note}", markup=False)

    def write_json(self, path: Path) -> None:
        """Writes the JSON file, a line for each row and check; makes its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = []
        for name, value in rounded(self.as_json()).items():
            lines = [json.dumps(entry) for entry in value] if isinstance(value, list) else []
            body = "[\n" + ",\n".join(lines) + "\n]" if lines else json.dumps(value)
            parts.append(f"{json.dumps(name)}: {body}")
        path.write_text("{\n" + ",\n".join(parts) + "\n}\n")

    def write_markdown(self, path: Path, pictures: Sequence[Path] = ()) -> None:
        """Writes the tables, the notes and links to the pictures beside the file."""
        m = self.machine
        lines = ["# Throughput", "", f"{m['name']}, {m['instruction_set']}; {m['date']}.", ""]
        lines += [f"{name} {version}" + "  " for name, version in m["versions"].items()]
        lines += [
            "",
            "Milliseconds are medians, ± half the distance of the quartiles. `times X` is how many times longer X took,",
        ]
        lines += ["the median of the ratios of interleaved rounds, its quartiles in brackets.", ""]
        agreed = len(self.checks) - len(self.disagreements)
        lines += [f"- {agreed} of {len(self.checks)} comparisons of results agree."]
        lines += [
            f"- Disagrees: {c.case}, {c.what} against {c.against}: {c.error:.3g}, allowed {c.tolerance:.3g}"
            for c in self.disagreements
        ]
        lines += [f"- {note}" for note in self.notes]
        lines += ["", *(f"![{p.stem}]({p.name})" for p in pictures)]
        for title, header, cells in self.tables():
            lines += ["", f"## {title[0].upper()}{title[1:]}", ""]
            lines += ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
            lines += ["| " + " | ".join(row) + " |" for row in cells]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


def _union(groups: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _time(s: Spread) -> str:
    digits = 1 if s.median >= 100 else 2 if s.median >= 0.1 else 4
    return f"{s.median:.{digits}f}"


def _time_cell(s: Spread | None) -> str:
    if s is None:
        return ""
    digits = 1 if s.median >= 100 else 2 if s.median >= 0.1 else 4
    return f"{s.median:.{digits}f} ± {(s.q3 - s.q1) / 2:.{digits}f}"


def _faster_cell(s: Spread | None) -> str:
    return "" if s is None else f"{s.median:.2f} ({s.q1:.2f}-{s.q3:.2f})"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def rounded(value: Any) -> Any:
    """Six digits are more than any timing has; it keeps the file small."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value
