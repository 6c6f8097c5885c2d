"""The charts of a run, as inline SVG in the colour of the page's text: horizontal bars, and a line for each contender under load.

They are narrow, and each bar has its name above it, so that they can be read on a phone.
"""

import math
from html import escape
from typing import Dict, List, NamedTuple, Sequence

from .load import CASES
from .measure import Row
from .peers import SDK
from .report import number

WIDTH = 400
VALUES = 104  # room for the numbers at the right
LINE = 18
BAR = 13
LEAST = 0.1  # where a logarithmic axis begins
OURS, THEIRS = 'fill="#1a9b6c"', 'fill-opacity="0.35"'  # seen on white and on black


class Entry(NamedTuple):
    """One bar of a panel. Without a label it belongs to the bar above."""

    label: str
    value: float
    unit: str
    ours: bool


class Panel(NamedTuple):
    """Bars on a common axis, which is logarithmic with ``log``, because delays span four orders of magnitude."""

    title: str
    note: str
    entries: Sequence[Entry]
    log: bool = False


def panels(rows: Sequence[Row]) -> List[Panel]:
    """Return the three panels, if their rows were measured."""
    by_name = {row.name: row for row in rows}
    found: List[Panel] = []
    if "call" in by_name:
        calls = [one for one in by_name["call"].measured if one.case.startswith("response with")]
        entries = [Entry(one.who, one.cpu.median, one.unit, one.who == SDK) for one in calls if one.cpu]
        found.append(Panel("CPU time of one call", "in microseconds; less is better", entries))
    if "stream" in by_name:
        streams = [one for one in by_name["stream"].measured if one.case.startswith("one event")]
        entries = [Entry(one.who, one.cpu.median, one.unit, one.who == SDK) for one in streams if one.cpu]
        found.append(Panel("Streamed events read in one second of CPU time", "more is better", entries))
    if "delay" in by_name:
        delays = by_name["delay"].measured
        entries = [Entry(one.case if one.who == SDK else "", one.wall.median, one.unit, one.who == SDK) for one in delays if one.wall]
        note = "in milliseconds; less is better; grey: iter_lines(); logarithmic"
        found.append(Panel("Delay from the server's write to your loop", note, entries, log=True))
    return found


def ticks(panel: Panel) -> List[float]:
    """Return the numbers on the axis: powers of ten, or three to six round steps."""
    most = max(entry.value for entry in panel.entries)
    if panel.log:
        return [LEAST * 10**power for power in range(math.ceil(math.log10(max(most, 10 * LEAST) / LEAST)))]
    step = 10 ** math.floor(math.log10(most))
    step = next(step * factor for factor in (1, 0.5, 0.2, 0.1) if most / (step * factor) >= 3)
    return [step * count for count in range(int(most / step) + 1)]


def length(value: float, panel: Panel) -> float:
    """Return the length of a bar in pixels."""
    room = WIDTH - VALUES
    most = max(entry.value for entry in panel.entries)
    if panel.log:
        return max(1.0, room * math.log(max(value, LEAST) / LEAST) / math.log(max(most, 10 * LEAST) / LEAST))
    return room * value / most


def svg(rows: Sequence[Row]) -> str:
    """Draw the chart."""
    parts: List[str] = []
    y = 0
    for panel in panels(rows):
        y += LINE
        parts.append(f'<text y="{y}" font-weight="bold">{escape(panel.title)}</text>')
        y += LINE
        parts.append(f'<text y="{y}" font-size="12" opacity="0.8">{escape(panel.note)}</text>')
        top = y + 6
        for entry in panel.entries:
            if entry.label:
                y += LINE + 4
                parts.append(f'<text y="{y}">{escape(entry.label)}</text>')
            y += BAR + 4
            bar = length(entry.value, panel)
            parts.append(f'<rect y="{y - BAR + 2}" width="{bar:.1f}" height="{BAR}" rx="2" {OURS if entry.ours else THEIRS}/>')
            parts.append(f'<text x="{bar + 6:.1f}" y="{y}">{number(entry.value)} {escape(entry.unit)}</text>')
        y += 8
        for tick in ticks(panel):
            x = length(tick, panel) if tick > LEAST or not panel.log else 0.0
            parts.append(f'<path d="M{x + 0.5:.1f} {top}V{y}" stroke="currentColor" stroke-opacity="0.15"/>')
            anchor = "middle" if x else "start"
            parts.append(f'<text x="{x:.1f}" y="{y + 14}" font-size="11" opacity="0.8" text-anchor="{anchor}">{tick:,g}</text>')
        y += 2 * LINE
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" '
        'font-family="sans-serif" font-size="13" fill="currentColor">'
    )
    return "\n".join([head, "<title>recall-sdk beside other libraries</title>", *parts, "</svg>", ""])


HEIGHT = 300
LEFT, TOP, BOTTOM, NAMES = 48, 56, 44, 84  # room for the axes, and for the names at the right


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

    parts = ['<text y="18" font-weight="bold">Calls per second, by the number of threads</text>']
    parts.append('<text y="36" font-size="12" opacity="0.8">more is better</text>')
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
