# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Usage: python benchmarks/throughput.py [maps] [conv] [network] [fc] [--scan PATH@0.05] [--against spconv,torch] ...

Measures this package beside other engines. `--help` names the options; docs/benchmarks.md says how to read the results.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import memory
import overhead
import scaling
import suite_conv
import suite_fc
import suite_maps
import suite_network
import torch
from engines import DenseEngine, Engine, Ours, TorchEngine
from machine import describe
from report import Report
from scans import Scan, open_scan
from settings import Settings, parse


def load_engines(settings: Settings) -> tuple[list[Engine], list[str]]:
    """Ours and the peers asked for that can be imported; a sentence for each that cannot."""
    engines: list[Engine] = [Ours()]
    missing = []
    for peer in settings.against:
        try:
            if peer == "spconv":
                if settings.threads > 1:
                    missing.append("spconv is left out: its CPU results are wrong with more than one thread.")
                    continue
                from spconv_engine import SpconvEngine

                engines.append(SpconvEngine())
            elif peer == "minkowski":
                from minkowski_engine import MinkowskiEngine

                engines.append(MinkowskiEngine())
            else:
                engines.append(TorchEngine() if peer == "torch" else DenseEngine())
        except ImportError as error:
            missing.append(f"{peer} is left out: it cannot be imported ({error}).")
    return engines, missing


def load_scans(settings: Settings) -> list[Scan]:
    """All scans; exits with a message for one that cannot be read."""
    try:
        scans = [scan for name in settings.scans for scan in open_scan(name, settings.voxel)]
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"throughput.py: {error}") from error
    return [scan.in_scan_order() for scan in scans] if settings.scan_order else scans


def check_spconv_threads(scans: list[Scan], report: Report) -> None:
    """Says what spconv's CPU build computes with two threads, on the largest scan."""
    from spconv_engine import rows_wrong_with_two_threads

    scan = max(scans, key=len)
    rows, worst = rows_wrong_with_two_threads(scan)
    report.note(
        f"spconv with two threads, {len(rows)} runs of SubM k3 32->32 on {scan.label}: {', '.join(map(str, rows))} of "
        f"{len(scan)} rows differ from its own one-thread result, by up to {worst:.2g}"
        + (
            "; so it is compared on one thread."
            if any(rows)
            else "; none did this time. Its scatter-add has a data race."
        )
    )


def as_plain(settings: Settings) -> dict[str, Any]:
    """The settings for the JSON file, without the paths of this machine."""
    plain = asdict(settings)
    for path in ("json", "markdown", "plot", "output", "scans", "machine"):
        del plain[path]
    plain["options"]["dtype"] = str(settings.options.dtype).removeprefix("torch.")
    return plain


def main(arguments: Sequence[str] | None = None) -> Report:
    """Runs what the command line asks for."""
    settings = parse(arguments)
    torch.set_num_threads(settings.threads)
    if settings.options.device != "cpu":
        raise SystemExit(
            f"throughput.py: the core runs on the CPU only, got --device {settings.options.device}"
        )
    engines, missing = load_engines(settings)
    scans = [] if settings.suites == ("fc",) else load_scans(settings)
    machine = describe(settings.machine, {e.name: e.version() for e in engines})
    report = Report(machine, {**as_plain(settings), "scans": [s.label for s in scans]})
    for sentence in missing:
        report.note(sentence)
    names = [e.name for e in engines]
    if "maps" in settings.suites:
        suite_maps.run(scans, engines, settings, report)
        scaling.threads_maps(scaling.extremes(scans), settings, report)
        scaling.sizes(settings, report)
    if "conv" in settings.suites:
        suite_conv.run(scans, engines, settings, report)
        scaling.threads_conv(scaling.extremes(scans), settings, report)
        scaling.bfloat16(scaling.extremes(scans), settings, report)
        overhead.run(names, settings, report)
        memory.run(scans, names, settings, report)
    if "network" in settings.suites:
        suite_network.run(scans, names, settings, report)
    if "fc" in settings.suites:
        suite_fc.run(settings, report)
    if "spconv" in names and scans:
        check_spconv_threads(scans, report)
    report.machine["load_after"] = round(os.getloadavg()[0], 2)
    say_whether_idle(report)
    report.show()
    write(report, settings)
    return report


def say_whether_idle(report: Report) -> None:
    """Notes what other programs may have done to the times."""
    before = report.machine["load_before"]
    if before > 0.5:
        report.note(f"The machine was not idle when this began (load {before}): times may be too long.")
    gains = [row.numbers[scaling.PEAK_GAIN] for row in report.rows if scaling.PEAK_GAIN in row.numbers]
    low = sum(gain < 1.7 for gain in gains)
    if low:
        report.note(
            f"In {low} of {len(gains)} comparisons of two threads the register loop itself gained less than 1.7 times: "
            "the second core was not free, and those rows say nothing about the engine."
        )


def write(report: Report, settings: Settings) -> None:
    """The files that were asked for."""
    stem = re.sub(
        r"[^a-z0-9]+", "-", f"{report.machine['name']} {report.machine['instruction_set']}".lower()
    ).strip("-")
    pictures = []
    folder = settings.plot or settings.output
    if folder:
        from plots import draw

        pictures = draw(report, folder, stem)
    for file, suffix in ((settings.json, ".json"), (settings.markdown, ".md")):
        path = file or (settings.output / f"{stem}{suffix}" if settings.output else None)
        if path is None:
            continue
        if suffix == ".json":
            report.write_json(path)
        else:
            report.write_markdown(path, pictures if folder == path.parent else ())
        report.console.print(f"wrote {path}", markup=False)


if __name__ == "__main__":
    sys.exit(1 if main().disagreements else 0)
