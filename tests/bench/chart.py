"""The charts of a run, as inline SVG in the colour of the page's text: horizontal bars, and a line for each contender under load."""

import math
from html import escape
from typing import Dict, List, NamedTuple, Sequence

from .load import CASES
from .measure import Row
from .peers import SDK
from .report import number

WIDTH = 640
LABELS = 176  # room for the names at the left
VALUES = 112  # room for the numbers at the right
LINE = 22
OURS, THEIRS = 'fill="#1a9b6c"', 'fill-opacity="0.35"'  # seen on white and on black


class Entry(NamedTuple):
    """One bar of a panel. Without a label it belongs to the bar above."""

    label: str
    value: float
    unit: str
    ours: bool


class Panel(NamedTuple):
    """Bars with a common scale. With ``log`` they start at a hundredth of a unit, because delays span four orders of magnitude."""

    title: str
    entries: Sequence[Entry]
    log: bool = False


def panels(rows: Sequence[Row]) -> List[Panel]:
    """Return the three panels, if their rows were measured."""
    by_name = {row.name: row for row in rows}
    found: List[Panel] = []
    if "call" in by_name:
        calls = [one for one in by_name["call"].measured if one.case.startswith("answer with")]
        entries = [Entry(one.who, one.cpu.median, one.unit, one.who == SDK) for one in calls if one.cpu]
        found.append(Panel("CPU time of one call (less is better)", entries))
    if "stream" in by_name:
        streams = [one for one in by_name["stream"].measured if one.case.startswith("one event")]
        entries = [Entry(one.who, one.cpu.median, one.unit, one.who == SDK) for one in streams if one.cpu]
        found.append(Panel("Events per CPU second, one event per HTTP chunk (more is better)", entries))
    if "delay" in by_name:
        delays = by_name["delay"].measured
        entries = [Entry(one.case if one.who == SDK else "", one.wall.median, one.unit, one.who == SDK) for one in delays if one.wall]
        found.append(Panel("From the server's write to the loop; grey: iter_lines() (less is better; logarithmic)", entries, log=True))
    return found


def length(value: float, panel: Panel) -> float:
    """Return the length of a bar in pixels."""
    room = WIDTH - LABELS - VALUES
    most = max(entry.value for entry in panel.entries)
    if panel.log:
        return max(1.0, room * math.log(max(value, 0.01) / 0.01) / math.log(max(most, 0.02) / 0.01))
    return room * value / most


def svg(rows: Sequence[Row]) -> str:
    """Draw the chart."""
    parts: List[str] = []
    y = 0
    for panel in panels(rows):
        y += LINE
        parts.append(f'<text y="{y}" font-weight="bold">{escape(panel.title)}</text>')
        for entry in panel.entries:
            y += LINE if entry.label else LINE - 5
            bar = length(entry.value, panel)
            if entry.label:
                parts.append(f'<text x="{LABELS - 8}" y="{y}" text-anchor="end">{escape(entry.label)}</text>')
            parts.append(f'<rect x="{LABELS}" y="{y - 12}" width="{bar:.1f}" height="15" rx="2" {OURS if entry.ours else THEIRS}/>')
            parts.append(f'<text x="{LABELS + bar + 6:.1f}" y="{y}">{number(entry.value)} {escape(entry.unit)}</text>')
        y += LINE
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" '
        'font-family="sans-serif" font-size="13" fill="currentColor">'
    )
    return "\n".join([head, "<title>recall-sdk beside other libraries</title>", *parts, "</svg>", ""])


HEIGHT = 300
LEFT, TOP, BOTTOM, NAMES = 56, 40, 44, 92  # room for the axes, and for the names at the right


def load_svg(rows: Sequence[Row]) -> str:
    """Draw the calls per second by the number of threads: one line for each contender, named at its end."""
    (row,) = [row for row in rows if row.name == "load"]
    lines: Dict[str, List[float]] = {}
    for one in row.measured:
        if one.wall and one.case in CASES.values():
            lines.setdefault(one.who, []).append(one.wall.median)
    top = max(max(line) for line in lines.values())
    step = next(step for step in (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000) if step * 6 > top)
    most = math.ceil(top / step) * step

    def x(number: int) -> float:
        return LEFT + (WIDTH - LEFT - NAMES) * number / (len(CASES) - 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / most

    parts = ['<text y="18" font-weight="bold">Calls per second by the number of threads (more is better)</text>']
    for mark in range(0, most + 1, step):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - NAMES}" y1="{y(mark):.1f}" y2="{y(mark):.1f}" stroke="currentColor" opacity="0.2"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:,}</text>')
    parts += [f'<text x="{x(place):.1f}" y="{HEIGHT - 24}" text-anchor="middle">{count}</text>' for place, count in enumerate(CASES)]
    parts.append(f'<text x="{(LEFT + WIDTH - NAMES) / 2:.1f}" y="{HEIGHT - 4}" text-anchor="middle">threads</text>')
    label = HEIGHT * 2.0
    for who, line in sorted(lines.items(), key=lambda item: item[1][-1]):
        colour = 'stroke="#1a9b6c" stroke-width="3"' if who == SDK else 'stroke="currentColor" stroke-width="2" opacity="0.5"'
        points = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate(line))
        parts.append(f'<polyline points="{points}" fill="none" {colour}/>')
        label = min(y(line[-1]) + 4, label - 15)  # above the one below
        weight = ' font-weight="bold"' if who == SDK else ""
        parts.append(f'<text x="{WIDTH - NAMES + 8}" y="{label:.1f}"{weight}>{escape(who)}</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="13" fill="currentColor">'
    )
    return "\n".join([head, "<title>Calls per second under load, recall-sdk beside other libraries</title>", *parts, "</svg>", ""])
