# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""A report as one self-contained HTML file: text, tables, and figures embedded as PNG."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import replacing
from .plan import Plan
from .profile import Profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; }
th, td { padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid #eee; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 2px solid #999; }
tr.mark { background: #eef6ee; } figure { margin: 1rem 0; } img { max-width: 100%; }
figcaption, caption { color: #666; font-size: 13px; text-align: left; caption-side: top; }
.scroll { overflow-x: auto; }
"""


class Report:
    """Parts in the order they are added; `write` makes the file."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """A section begins."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def preformatted(self, text: str) -> None:
        """Text in columns, such as a printed plan."""
        self._parts.append(f'<div class="scroll"><pre>{html.escape(text)}</pre></div>')

    def table(
        self,
        head: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        caption: str = "",
        mark: int | None = None,
    ) -> None:
        """A table; the row with the number `mark` is highlighted."""
        lines = ["<tr>" + "".join(f"<th>{html.escape(str(c))}</th>" for c in head) + "</tr>"]
        for number, row in enumerate(rows):
            if len(row) != len(head):
                raise ValueError(f"a row of the table must have {len(head)} cells, got {len(row)}")
            cells = "".join(f"<td>{html.escape(str(c))}</td>" for c in row)
            lines.append(f"<tr{' class=mark' if number == mark else ''}>{cells}</tr>")
        title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
        self._parts.append(f'<div class="scroll"><table>{title}{"".join(lines)}</table></div>')

    def figure(self, picture: Figure | Path | str, caption: str = "") -> None:
        """A matplotlib figure or a PNG file, embedded."""
        if isinstance(picture, Path | str):
            data = Path(picture).read_bytes()
        else:
            buffer = io.BytesIO()
            picture.savefig(buffer, format="png", dpi=110)
            data = buffer.getvalue()
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        text = html.escape(caption)
        self._parts.append(
            f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'
        )

    # --- what a pruning run has to show -------------------------------------------------------------------------------------

    def networks(
        self, profile: Profile, accuracy: Mapping[str, float], *, label: str, mark: int | None = None
    ) -> None:
        """One row for each network: accuracy, size, multiply-accumulates, measured milliseconds, efficiency."""
        head = (
            "network",
            label,
            "of the first",
            "M parameters",
            "MB",
            "GMACs",
            "ms",
            "ms, maps kept",
            "faster",
            "efficiency",
        )
        first = profile.networks[0].name
        rows = []
        for n in profile.networks:
            got = accuracy.get(n.name, float("nan"))
            rows.append(
                (n.name, f"{got:.4f}", f"{got / accuracy[first]:.1%}" if accuracy.get(first) else "-",
                 f"{n.parameters / 1e6:.3f}", f"{n.size / 1e6:.2f}", f"{n.macs / 1e9:.3f}", f"{n.milliseconds:.2f}",
                 f"{n.cached:.2f}", f"{profile.speedup(n.name):.2f}", f"{profile.efficiency(n.name):.2f}")
            )  # fmt: skip
        caption = (
            f"Medians of interleaved rounds in one run, {profile.threads} threads, a scan; efficiency is the time ratio over the "
            "ratio of multiply-accumulates."
        )
        self.table(head, rows, caption=caption, mark=mark)

    def layers(self, profile: Profile, first: str, second: str) -> None:
        """Every layer of two networks side by side."""
        a, b = profile[first], profile[second]
        after = {layer.name: layer for layer in b.layers}
        rows = []
        for layer in a.layers:
            other = after.get(layer.name)
            if other is not None:
                faster = layer.milliseconds / other.milliseconds if other.milliseconds else float("nan")
                fewer = layer.macs / other.macs if other.macs else float("nan")
                rows.append(
                    (layer.name, layer.parameters, other.parameters, f"{layer.macs / 1e6:.2f}", f"{other.macs / 1e6:.2f}",
                     f"{layer.milliseconds:.3f}", f"{other.milliseconds:.3f}", f"{faster:.2f}", f"{faster / fewer:.2f}")
                )  # fmt: skip
        head = ("layer", "parameters", "after", "MMACs", "after", "ms", "after", "faster", "efficiency")
        self.table(head, rows, caption=f"{first} and {second}, layer by layer (kernel maps at hand)")

    def plan(self, plan: Plan) -> None:
        """What goes, and what was left as it was and why."""
        self.preformatted(str(plan))

    def front(self, points: Mapping[str, tuple[float, float]], *, label: str, first: str) -> None:
        """Accuracy against milliseconds, one point for each network: name -> (milliseconds, accuracy)."""
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt

        figure, axis = plt.subplots(figsize=(8, 5))
        for name, (ms, accuracy) in points.items():
            axis.plot(
                ms, accuracy, "o", ms=9 if name == first else 7, color="#444" if name == first else None
            )
            axis.annotate(name, (ms, accuracy), xytext=(6, 4), textcoords="offset points", fontsize=8)
        axis.axhline(0.99 * points[first][1], lw=0.8, ls="--", color="#888")
        axis.set_xlim(left=0)
        axis.set_xlabel("milliseconds a scan, kernel maps included")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        figure.tight_layout()
        self.figure(figure, f"Accuracy against measured time; the dashed line is 99 % of {first}")
        plt.close(figure)

    def write(self, path: Path | str) -> None:
        """Writes the file in one step."""
        title = html.escape(self.title)
        body = "\n".join(self._parts)
        text = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}\n</body></html>\n"
        )
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
