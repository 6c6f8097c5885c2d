"""What a run found, as Markdown and as JSON."""

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

LIBRARIES = ("requests", "urllib3", "httpx", "httpx-sse", "sseclient-py", "openai")


def cpu_model() -> str:
    """The processor's name, as well as the platform tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def version_of(distribution: str) -> Optional[str]:
    """The version of a library, ``None`` where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def circumstances(seconds: float) -> Dict[str, Any]:
    """Where and with what a run took place."""
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
    """Three digits that count, with thousands set apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def shown(value: Optional[Spread]) -> str:
    """A median with its quartiles, where there are several values."""
    if value is None:
        return ""
    if value.low == value.high:
        return number(value.median)
    return f"{number(value.median)} ({number(value.low)} to {number(value.high)})"


def bar_line(bar: Bar) -> str:
    """One line of the table of bars."""
    limit = f"{'at least' if bar.at_least else 'at most'} {bar.limit:g} {bar.unit}".strip()
    value = f"{shown(bar.value)} {bar.unit}".strip() if bar.value else "not measured"
    note = f" ({bar.note})" if bar.note else ""
    return f"| {bar.what} | {limit} | {value}{note} | {'yes' if bar.kept else '**no**'} |"


def markdown(rows: List[Row], where: Dict[str, Any]) -> str:
    """The report as Markdown, without a heading of its own."""
    libraries = ", ".join(f"{name} {version or 'not installed'}" for name, version in where["libraries"].items())
    lines = [
        f"Measured on {where['date']} in {where['seconds']:.0f} s.",
        f"{where['cpu']}, {where['cores']} cores, {where['os']}, {where['python']}; {libraries}.",
        "Medians, in parentheses the quartiles. Server and clients are on one machine, over loopback, in processes of their own.",
        "",
        "| what | bar | measured | kept |",
        "|---|---|---|---|",
    ]
    lines += [bar_line(bar) for row in rows for bar in row.bars]
    for row in rows:
        lines += ["", f"### {row.title}", "", "| case | who | CPU time | wall time | |", "|---|---|---|---|---|"]
        for found in row.measured:
            cpu, wall = (f"{shown(value)} {found.unit}" if value else "" for value in (found.cpu, found.wall))
            lines.append(f"| {found.case} | {found.who} | {cpu} | {wall} | {found.note} |")
    return "\n".join(lines) + "\n"


def as_json(rows: List[Row], where: Dict[str, Any]) -> Dict[str, Any]:
    """The report as plain data."""
    found = [asdict(row) for row in rows]
    for row, data in zip(rows, found):
        for bar, bar_data in zip(row.bars, data["bars"]):
            bar_data["kept"] = bar.kept
    return {"circumstances": where, "rows": found}
