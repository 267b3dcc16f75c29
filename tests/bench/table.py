"""The table of a benchmark, and its picture."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from pathlib import Path
from statistics import median, quantiles

import servers
from load import Samples

SIDES = ("devserver", "peer", "floor")
COLORS = {"devserver": "#2563eb", "peer": "#f59e0b", "floor": "#9ca3af"}
NAMES = {"devserver": "devserver", "peer": "langgraph dev", "floor": "the graph in-process"}


@dataclass(frozen=True)
class Row:
    """A line of the table. `<=` says that less is better; the aim is absolute or a multiple of the floor."""

    key: str
    label: str
    unit: str
    better: str
    aim: float | None = None
    of_floor: bool = False


def about(peer_venv: Path) -> list[str]:
    """The machine and the versions that were measured."""
    return [
        f"machine: {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        f"devserver and floor: {servers.versions(Path(sys.executable), 'langgraph')}",
        f"peer: {servers.versions(peer_venv / 'bin/python', 'langgraph', 'langgraph-api')}",
    ]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(key: str, values: list[float]) -> str:
    many = key.endswith("_ms") and len(values) >= 15
    p95 = f" (p95 {number(quantiles(values, n=20)[-1])})" if many else ""
    return number(median(values)) + p95 if values else "-"


def line(row: Row, sides: Mapping[str, Samples]) -> list[str]:
    """The cells of a row: label, sides, times better than the peer, multiple of the floor, aim, met."""
    samples = [sides[who].get(row.key, []) for who in SIDES]
    ours, peer, floor = (median(values) if values else None for values in samples)
    less = row.better == "<="
    to_peer = (peer / ours if less else ours / peer) if ours and peer else None
    to_floor = ours / floor if ours and floor else None
    aim = f"{row.better} {row.aim:,g}{' x floor' if row.of_floor else ''}" if row.aim else ""
    value = to_floor if row.of_floor else ours
    met = ""
    if row.aim and value:
        met = "yes" if (value <= row.aim if less else value >= row.aim) else "NO"
    ratios = [f"{number(ratio)} x" if ratio else "-" for ratio in (to_peer, to_floor)]
    return [f"{row.label}, {row.unit}", *(cell(row.key, values) for values in samples), *ratios, aim, met]


def table(rows: Sequence[Row], sides: Mapping[str, Samples]) -> str:
    """An aligned Markdown table, with a line for whatever was measured."""
    heading = ["", *SIDES, "times better than peer", "devserver / floor", "aim", "met"]
    lines = [heading, *(line(row, sides) for row in rows if any(sides[who].get(row.key) for who in SIDES))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, cells, widths))} |" for cells in lines)


def picture(rows: Sequence[Row], medians: Mapping[str, Mapping[str, float]]) -> str:
    """Bars of the medians as SVG, a group per row, each on a logarithmic scale of its own."""
    shown = [row for row in rows if sum(row.key in medians[who] for who in SIDES) > 1]
    parts, y = [], 46
    for number_of_side, who in enumerate(SIDES):
        x = 290 + 160 * number_of_side
        parts.append(f'<rect x="{x}" y="12" width="12" height="12" fill="{COLORS[who]}"/>')
        parts.append(f'<text x="{x + 18}" y="22">{NAMES[who]}</text>')
    for row in shown:
        # a difference may be 0 or less
        values = {who: max(0.01, medians[who][row.key]) for who in SIDES if row.key in medians[who]}
        low, high = min(values.values()) / 3, max(values.values())
        better = "less is better" if row.better == "<=" else "more is better"
        label = escape(row.label.lstrip("- "))
        parts.append(f'<text x="318" y="{y + 11}" text-anchor="end">{label}</text>')
        parts.append(f'<text x="318" y="{y + 25}" text-anchor="end" class="small">{row.unit}, {better}</text>')
        for who, value in values.items():
            width = 8 + 330 * (log10(value / low) / log10(high / low) if value > 0 else 0)
            parts.append(f'<rect x="330" y="{y}" width="{width:.0f}" height="13" fill="{COLORS[who]}"/>')
            parts.append(f'<text x="{338 + width:.0f}" y="{y + 11}">{number(value)}</text>')
            y += 16
        y += max(0, 32 - 16 * len(values)) + 12
    style = "text{font:13px system-ui,sans-serif;fill:#374151}.small{font-size:11px;fill:#6b7280}"
    note = "Medians; each group has a logarithmic scale of its own."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {y + 22}"><style>{style}</style>'
        f'<rect width="780" height="{y + 22}" fill="white"/>{"".join(parts)}'
        f'<text x="12" y="{y + 14}" class="small">{note}</text></svg>\n'
    )
