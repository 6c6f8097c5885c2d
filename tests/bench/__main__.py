"""Run the benchmark: ``python -m tests.bench --help`` lists the options."""

import argparse
import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator

from . import batches, calls, chart, deadlines, imports, limiter_grid, load, memory, promptness, report, server, throughput
from .measure import Row

ROWS: Dict[str, Callable[[str], Row]] = {
    "call": calls.measure,
    "stream": throughput.measure,
    "delay": promptness.measure,
    "memory": memory.measure,
    "import": imports.measure,
    "batch": batches.measure,
    "limiter": limiter_grid.measure,
    "deadline": deadlines.measure,
    "load": load.measure,
}


@contextmanager
def running_server() -> Iterator[str]:
    """Start the server in a separate process and yield its base URL; it ends with its standard input."""
    process = subprocess.Popen([sys.executable, str(Path(server.__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None  # for the type checker: a pipe was asked for
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.communicate()


def main() -> int:
    """Measure, write the reports, and return 1 if ``--check`` finds an unmet requirement."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure recall-sdk beside other libraries.")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed or could not be measured")
    parser.add_argument("--only", action="append", choices=sorted(ROWS), help="measure this row alone (may be repeated)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the short table here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the chart here")
    parser.add_argument("--load-svg", type=Path, metavar="FILE", help="write the chart of the load here")
    options = parser.parse_args()

    started = time.perf_counter()
    rows = []
    with running_server() as base_url:
        for name in options.only or ROWS:
            since = time.perf_counter()
            rows.append(ROWS[name](base_url))
            print(f"measured {name} in {time.perf_counter() - since:.0f} s", file=sys.stderr, flush=True)
    where = report.environment(time.perf_counter() - started)

    text = report.markdown(rows, where)
    print(text)
    if options.summary:
        options.summary.write_text(report.summary(rows), encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(rows, where), indent=2) + "\n", encoding="utf-8")
    if options.svg:
        options.svg.write_text(chart.svg(rows), encoding="utf-8")

    if options.load_svg:
        options.load_svg.write_text(chart.load_svg(rows), encoding="utf-8")

    missed = [bar.what for row in rows for bar in row.bars if not bar.kept]
    for what in missed:
        print(f"bar missed: {what}", file=sys.stderr)
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
