"""Reports of a run, as Markdown and as JSON."""

import os
import platform
import re
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, Optional

from recall_sdk import __version__

from .measure import Bar, Row, Spread

SUMMARIZED = {
    "call": "CPU time of a call, as a multiple of `requests`",
    "stream": "events per second of CPU time, as a multiple of `iter_lines()` and `json.loads`",
    "delay": "delay of an event",
    "memory": "memory for a stream of 200 MB, beside its text",
    "batch": "time of a batch, as a multiple of the least that the rate limit allows",
    "deadline": "overrun of a timeout",
    "load": "calls per second of many threads, as a multiple of `requests` with a session for each",
}
"""The rows of the short table, each with what it says to a user."""

LIBRARIES = ("requests", "urllib3", "httpx", "httpx-sse", "sseclient-py", "openai")


def cpu_model() -> str:
    """Return the processor's name, if the platform reports it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def version_of(distribution: str) -> Optional[str]:
    """Return the version of a library, or ``None`` if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def environment(seconds: float) -> Dict[str, Any]:
    """Describe the machine and the libraries of a run."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "os": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": {"recall-sdk": __version__, **{name: version_of(name) for name in LIBRARIES}},
    }


def number(value: float) -> str:
    """Format a number with three significant digits and thousands separators."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread_text(value: Optional[Spread]) -> str:
    """Format a median, with its quartiles if there are several values."""
    if value is None:
        return ""
    if value.low == value.high:
        return number(value.median)
    return f"{number(value.median)} ({number(value.low)} to {number(value.high)})"


def bar_line(bar: Bar) -> str:
    """Format one line of the first table."""
    value = f"{spread_text(bar.value)} {bar.unit}".strip() if bar.value else "not measured"
    note = f" ({bar.note})" if bar.note else ""
    return f"| {bar.what} | {value}{note} |"


def summary(rows: List[Row]) -> str:
    """Format the worst case of each summarized row as a short Markdown table for users."""
    lines = ["| what | measured, in the worst case |", "|---|---|"]
    for row in rows:
        if row.name in SUMMARIZED:
            alike = [bar for bar in row.bars if bar.value and bar.what.partition(" (")[0] == row.bars[0].what.partition(" (")[0]]
            worst = sorted(alike, key=lambda bar: bar.value.median if bar.value else 0.0)[0 if row.bars[0].at_least else -1]
            lines.append(f"| {SUMMARIZED[row.name]} | {spread_text(worst.value)} {worst.unit} |")
    return "\n".join(lines) + "\n"


def markdown(rows: List[Row], where: Dict[str, Any]) -> str:
    """Format the whole report as Markdown, without a heading of its own."""
    libraries = ", ".join(f"{name} {version or 'not installed'}" for name, version in where["libraries"].items())
    lines = [
        f"Measured on {where['date']} in {where['seconds']:.0f} s.",
        f"{where['cpu']}, {where['cores']} cores, {where['os']}, {where['python']}; {libraries}.",
        "Medians, in parentheses the quartiles. Server and clients are on one machine, over loopback, in processes of their own.",
        "",
        "| what | measured |",
        "|---|---|",
    ]
    lines += [bar_line(bar) for row in rows for bar in row.bars]
    for row in rows:
        lines += ["", f"### {row.title}", "", "| case | who | CPU time | wall time | |", "|---|---|---|---|---|"]
        for found in row.measured:
            cpu, wall = (f"{spread_text(value)} {found.unit}" if value else "" for value in (found.cpu, found.wall))
            lines.append(f"| {found.case} | {found.who} | {cpu} | {wall} | {found.note} |")
    return "\n".join(lines) + "\n"


def as_json(rows: List[Row], where: Dict[str, Any]) -> Dict[str, Any]:
    """Return the report as plain data."""
    found = [asdict(row) for row in rows]
    for row, data in zip(rows, found):
        for bar, bar_data in zip(row.bars, data["bars"]):
            bar_data["kept"] = bar.kept
    return {"environment": where, "rows": found}
