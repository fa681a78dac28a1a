# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""The EIE results as markdown and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

CLOSE = 0.15  # of the published time


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def tables(results: dict[str, Any]) -> str:
    """The markdown file; keys of sweeps may be numbers or, read back from JSON, text."""
    layers, published = results["layers"], results["published"]
    lines = ["# Cycles and bits of EIE on the paper's layers", ""]
    lines += [
        "Written by `python benchmarks/eie.py`; `docs/eie.md` says what the model does. Weights and activations are independent"
    ]
    lines += [
        "and random, with the published densities. 64 PEs, 800 MHz, queues of 8, batch 1, unless a column says otherwise.",
        "",
    ]
    lines += [f"Published: {published['tables']}.", ""]
    lines += ["## Time per layer, microseconds", ""]
    header = ["layer", "in x out", "weights", "activations", "theoretical, published", "model", "off"]
    header += [
        "actual, published",
        "model",
        "off",
        "load balance, published",
        "model",
        "off at the ends of the rounding",
    ]
    lines += _table(header, (_time_row(name, layer) for name, layer in layers.items()))
    lines += [
        "The published weight densities are whole percentages. The last column is theoretical, actual at half a percent less and"
    ]
    lines += ["half a percent more. Load balance, published, is theoretical over actual time.", ""]
    lines += [*_far(layers), "", f"Queues: {published['queues']} {published['definition']}", ""]
    for title, key, form in (
        ("Load-balance efficiency over the queue's depth", "queues", "{:.2f}"),
        ("Times faster over the number of PEs", "speedup", "{:.1f}"),
        ("Load-balance efficiency over the number of PEs", "load_balance_of_pes", "{:.2f}"),
        ("Fillers, share of the entries read, over the number of PEs", "filler_share_of_pes", "{:.3f}"),
    ):
        steps = list(next(iter(layers.values()))[key])
        rows = ([name, *(form.format(layer[key][s]) for s in steps)] for name, layer in layers.items())
        lines += [f"## {title}", "", *_table(["layer", *(str(s) for s in steps)], rows)]
    lines += [f"Over PEs: {published['scaling']}", "", "## Where the bits go, 64 PEs", ""]
    header = [
        "layer",
        "times fewer weights",
        "times fewer multiplications",
        "weights, Mbit",
        "fillers",
        "pointers",
        "pointer bits",
    ]
    header += [
        "fillers per weight",
        "theory",
        "times smaller than 4-bit codes",
        "without fillers and pointers",
        "than 32 bits",
    ]
    lines += _table(header, (_size_row(name, layer["sizes"]) for name, layer in layers.items()))
    lines += [published["abstract"], "", "![eie-cycles](eie-cycles.png)"]
    return "\n".join(lines) + "\n"


def _time_row(name: str, layer: dict[str, Any]) -> list[str]:
    paper, model = layer["published"], layer["model"]
    ends = [
        layer[f"model_{end}"][f"{what}_off"] for end in ("low", "high") for what in ("theoretical", "actual")
    ]
    return [
        name,
        f"{paper['inputs']} x {paper['outputs']}",
        f"{paper['weights']:.0%}",
        f"{paper['activations']:.1%}",
        f"{paper['theoretical_us']}",
        f"{model['theoretical_us']:.1f}",
        f"{model['theoretical_off']:+.0%}",
        f"{paper['actual_us']}",
        f"{model['actual_us']:.1f}",
        f"{model['actual_off']:+.0%}",
        f"{paper['theoretical_us'] / paper['actual_us']:.2f}",
        f"{model['load_balance']:.2f}",
        "{:+.0%}, {:+.0%} to {:+.0%}, {:+.0%}".format(*ends),
    ]


def _far(layers: dict[str, Any]) -> list[str]:
    """What is further from the published times than allowed."""
    far = [
        f"{name} ({what} {layer['model'][what + '_off']:+.0%})"
        for name, layer in layers.items()
        for what in ("theoretical", "actual")
        if abs(layer["model"][what + "_off"]) > CLOSE
    ]
    total = 2 * len(layers)
    within = f"{total - len(far)} of {total} times are within {CLOSE:.0%} of the published."
    return [within + (f" Not: {', '.join(far)}; `docs/eie.md` says what is missing." if far else "")]


def _size_row(name: str, sizes: dict[str, Any]) -> list[str]:
    bits = sizes["bits"]
    return [
        name,
        f"{sizes['weights_fewer']:.1f}",
        f"{sizes['multiplications_fewer']:.1f}",
        *(f"{bits[part] / 1e6:.1f}" for part in ("entries", "fillers", "pointers")),
        str(sizes["pointer_bits"]),
        f"{sizes['filler_rate']:.3f}",
        f"{sizes['filler_rate_theory']:.3f}",
        f"{sizes['smaller_than_dense_4']:.1f}",
        f"{sizes['smaller_without_fillers_and_pointers']:.1f}",
        f"{sizes['smaller_than_dense_32']:.0f}",
    ]


def draw(results: dict[str, Any], path: Path) -> None:
    """Times beside the published ones, load balance over queues, speed and fillers over PEs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    layers = results["layers"]
    figure, axes = plt.subplots(2, 2, figsize=(12, 8.5), constrained_layout=True)
    bars = axes[0, 0]
    for shift, what, colour in ((-0.3, "theoretical", "tab:blue"), (0.1, "actual", "tab:orange")):
        for part, (key, alpha) in enumerate((("published", 0.45), ("model", 1.0))):
            heights = [layer[key][f"{what}_us"] for layer in layers.values()]
            places = [i + shift + 0.2 * part for i in range(len(layers))]
            bars.bar(places, heights, 0.2, color=colour, alpha=alpha, label=f"{what}, {key}")
    bars.set_xticks(range(len(layers)), list(layers), rotation=30)
    bars.set(ylabel="microseconds", title="Time per layer, 64 PEs at 800 MHz")
    for axis, key, title, label in (
        (axes[0, 1], "queues", "Load-balance efficiency, 64 PEs", "queue depth"),
        (axes[1, 0], "speedup", "Times faster than one PE", "PEs"),
        (axes[1, 1], "filler_share_of_pes", "Fillers, share of the entries read", "PEs"),
    ):
        for name, layer in layers.items():
            steps = [int(s) for s in layer[key]]
            axis.plot(steps, list(layer[key].values()), marker="o", markersize=3, label=name)
        axis.set_xscale("log", base=2)
        axis.set(title=title, xlabel=label)
        axis.grid(alpha=0.3)
    steps = [int(s) for s in next(iter(layers.values()))["speedup"]]
    axes[1, 0].plot(steps, steps, color="grey", linestyle=":", label="linear")
    axes[1, 0].set_yscale("log", base=2)
    for axis in axes.flat:
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=90)
    plt.close(figure)
