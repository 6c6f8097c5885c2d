"""Row 4: the memory for a stream of 200 MB, each time in a fresh process.

As a script (``python -m tests.bench.memory WHO WORKFLOW BASE_URL``) it is that process, and prints what it found as JSON.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

from recall_sdk import RecallClient

from .measure import Bar, Measured, Row, spread
from .peers import INPUT, KEY, SDK, USUAL, usual_stream

LIMIT = 10.0  # MB above the start and the text
CASES = {"tokens": "200 MB in 600,000 tokens", "others": "200 MB of larger events without text"}
MB = 1024.0 * 1024.0
STATUS = Path("/proc/self/status")


def resident(field: str) -> float:
    """Return the MB in memory: ``VmRSS`` now, ``VmHWM`` at the peak; ``getrusage`` would include the parent's peak."""
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    return int(found.group(1)) / 1024.0 if found else 0.0


def read_ours(workflow: str, base_url: str) -> Dict[str, float]:
    """Read the stream with this library, which keeps its text for ``result``."""
    text = 0
    with RecallClient(KEY, base_url) as client:
        start = resident("VmRSS")
        with client.stream_workflow(workflow, INPUT) as stream:
            for event in stream:
                text += len(event.chunk)
            peak = resident("VmHWM")
            kept = len(stream.result.text)
    if kept != text:
        raise RuntimeError(f"{workflow}: {text} characters streamed, {kept} in the result")
    return {"growth": peak - start, "with_result": resident("VmHWM") - start, "text": text / MB}


def read_usually(workflow: str, base_url: str) -> Dict[str, float]:
    """Read the stream with the usual loop, which keeps nothing."""
    stream = usual_stream(base_url)
    start = resident("VmRSS")
    for _ in stream(workflow):
        pass
    growth = resident("VmHWM") - start
    return {"growth": growth, "with_result": growth, "text": 0.0}


def child(who: str, case: str, base_url: str) -> "subprocess.Popen[str]":
    """Start the process that reads one stream."""
    command = [sys.executable, "-m", "tests.bench.memory", who, "memory-" + case, base_url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measure(base_url: str) -> Row:
    """Measure this library and the usual loop at the same time."""
    row = Row("memory", "Memory for a stream of 200 MB")
    for case, title in CASES.items():
        what = f"memory above the start and the text ({title})"
        if not STATUS.exists():
            row.bars.append(Bar(what, None, LIMIT, unit="MB", note="needs /proc"))
            continue
        children = {who: child(who, case, base_url) for who in (SDK, USUAL)}
        for who, process in children.items():
            output, _ = process.communicate()
            if process.returncode:
                raise RuntimeError(f"the process that reads {title} with {who} failed")
            found: Dict[str, Any] = json.loads(output)
            note = f"text {found['text']:.1f} MB, {found['with_result']:.1f} MB after `.result`" if who == SDK else "keeps nothing"
            row.measured.append(Measured(title, who, "MB", wall=spread([found["growth"]]), note="peak growth; " + note))
            if who == SDK:
                row.bars.append(Bar(what, spread([found["growth"] - found["text"]]), LIMIT, unit="MB"))
    return row


if __name__ == "__main__":
    print(json.dumps((read_ours if sys.argv[1] == SDK else read_usually)(*sys.argv[2:])))
