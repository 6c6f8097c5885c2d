"""Row 7: how long after its timeout a call returns."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, Dict, Tuple

import requests

from recall_sdk import RecallClient, RecallTimeoutError

from .measure import Bar, Measured, Row, spread
from .peers import HEADERS, INPUT, KEY, SDK, httpx, openai, path_of
from .server import DRIP_SECONDS

TIMEOUT = 1.0  # seconds
LIMIT = 0.25  # seconds more
PHASES = {
    "silence": "no response",
    "head": "head byte by byte",
    "body": "body byte by byte",
    "half": "half a body, then silence",
    "chunked": "chunked body byte by byte",
    "gzip": "gzip body byte by byte",
    "close": "Connection: close, byte by byte",
}


def taken(call: Callable[[], Any]) -> Tuple[float, str, bool]:
    """Return the seconds until a call returns, its outcome, and whether that was this library's timeout."""
    started = time.perf_counter()
    try:
        call()
        ended, ours = "a response", False
    except Exception as error:  # noqa: BLE001 - each library has errors of its own, and the table names them
        ended, ours = type(error).__name__, isinstance(error, RecallTimeoutError)
    return time.perf_counter() - started, ended, ours


def peers(base_url: str) -> Dict[str, Callable[[], Any]]:
    """Measure the same call with the timeouts of other libraries, against a slow body."""
    path = path_of("slow-body")
    found: Dict[str, Callable[[], Any]] = {
        "requests": lambda: requests.post(base_url + path, json=INPUT, headers=HEADERS, timeout=TIMEOUT).json()
    }
    if httpx is not None:
        found["httpx"] = lambda: httpx.post(base_url + path, json=INPUT, headers=HEADERS, timeout=TIMEOUT).json()
    if openai is not None:
        client = openai.OpenAI(api_key=KEY, base_url=base_url, timeout=TIMEOUT, max_retries=0)
        found["openai"] = lambda: client.post(path, body=INPUT, cast_to=object)
    return found


def measure(base_url: str) -> Row:
    """Measure all phases at the same time, because all of them only wait."""
    row = Row("deadline", f"A call with timeout={TIMEOUT:.0f} against a server that takes {DRIP_SECONDS:.0f} s")
    others = peers(base_url)
    with RecallClient(KEY, base_url) as client, ThreadPoolExecutor(len(PHASES) + len(others)) as pool:
        ours = {phase: pool.submit(taken, partial(client.execute_workflow, "slow-" + phase, INPUT, timeout=TIMEOUT)) for phase in PHASES}
        theirs = {who: pool.submit(taken, call) for who, call in others.items()}
    for phase, case in PHASES.items():
        seconds, ended, timed_out = ours[phase].result()
        row.measured.append(Measured(case, SDK, "s", wall=spread([seconds]), note=ended))
        value = spread([seconds - TIMEOUT]) if timed_out else None
        row.bars.append(Bar(f"deadline, overshoot ({case})", value, LIMIT, unit="s", note="" if timed_out else f"ended with {ended}"))
    for who in ("requests", "httpx", "openai"):
        if who in theirs:
            seconds, ended, _ = theirs[who].result()
            row.measured.append(Measured(PHASES["body"], who, "s", wall=spread([seconds]), note=ended))
        else:
            row.measured.append(Measured(PHASES["body"], who, "s", note="not installed"))
    return row
