"""Row 9: many threads at a time, with one client: calls per second, and a thousand streams."""

import threading
import time
from typing import Any, Callable, Dict, List, Optional

import requests

from recall_sdk import RecallClient

from .measure import Bar, Measured, Row, interleaved, ratio, spread
from .peers import HEADERS, INPUT, KEY, SDK, USUAL, Call, Stream, httpx, openai, path_of, sdk_stream, usual_stream
from .server import CROWD, CROWD_EVENTS, allow_connections

THREADS = (1, 4, 16, 64, 256)
SECONDS = 0.4  # of one round
ROUNDS = 3
LIMIT = 1.3  # times the calls per second of requests

CASES = {threads: f"{threads} thread{'s' if threads > 1 else ''}" for threads in THREADS}
DELAY = f"{CROWD:,} streams at a time"


def callers(base_url: str) -> Dict[str, Optional[Callable[[], Call]]]:
    """Return, for each contender, what makes the call of one thread. All share one client, but a session of requests can't be shared."""
    path = path_of("call-length")
    client = RecallClient(KEY, base_url)

    def session_of_a_thread() -> Call:
        session = requests.Session()
        session.headers.update(HEADERS)
        return lambda: session.post(base_url + path, json=INPUT).json()

    found: Dict[str, Optional[Callable[[], Call]]] = {
        SDK: lambda: lambda: client.execute_workflow("call-length", INPUT),
        "requests": session_of_a_thread,
        "httpx": None,
        "openai": None,
    }
    if httpx is not None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        shared = httpx.Client(headers=HEADERS, limits=limits, timeout=60)
        found["httpx"] = lambda: lambda: shared.post(base_url + path, json=INPUT).json()
    if openai is not None:
        theirs = openai.OpenAI(api_key=KEY, base_url=base_url, default_headers=HEADERS)
        found["openai"] = lambda: lambda: theirs.post(path, body=INPUT, cast_to=object)
    return found


def in_threads(calls: List[Call]) -> Callable[[], int]:
    """Make calls in one thread each, for a while, as one piece of work that returns their number."""

    def work() -> int:
        counts: List[int] = []
        end = time.perf_counter() + SECONDS

        def repeat(call: Call) -> None:
            count = 0
            while time.perf_counter() < end:
                call()
                count += 1
            counts.append(count)

        threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(counts) != len(calls):
            raise RuntimeError(f"{len(calls) - len(counts)} of {len(calls)} threads failed")
        return sum(counts)

    return work


def crowd(streams: List[Stream], workflow: str) -> List[float]:
    """Read streams in one thread each, all at the same time, and return the milliseconds that each of their events took to arrive."""
    delays: List[float] = []

    def read(stream: Stream) -> None:
        arrived = [(time.monotonic_ns(), payload.get("sent")) for payload in stream(workflow)]
        delays.extend((now - int(sent)) / 1e6 for now, sent in arrived if sent is not None)

    threads = [threading.Thread(target=read, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(delays) != len(streams) * CROWD_EVENTS:
        raise RuntimeError(f"{workflow}: {len(delays)} events instead of {len(streams) * CROWD_EVENTS}")
    return delays


def measure(base_url: str) -> Row:
    """Measure all contenders with each number of threads, and a crowd of streams."""
    row = Row("load", "Many threads, one client")
    contenders = callers(base_url)
    for threads, case in CASES.items():
        work = {who: in_threads([make() for _ in range(threads)]) for who, make in contenders.items() if make is not None}
        times = interleaved(work, ROUNDS)
        for who in contenders:
            if who in times:
                row.measured.append(Measured(case, who, "calls/s", wall=spread([1 / seconds for seconds in times[who].wall])))
            else:
                row.measured.append(Measured(case, who, "calls/s", note="not installed"))
        value = ratio(times["requests"].wall, times[SDK].wall)
        row.bars.append(Bar(f"calls per second against requests ({case})", value, LIMIT, at_least=True, unit="x"))
    readers: Dict[str, List[Any]] = {SDK: [sdk_stream(base_url)] * CROWD}
    readers[USUAL] = [usual_stream(base_url) for _ in range(CROWD)]
    for who, streams in readers.items():
        if not allow_connections():
            row.measured.append(Measured(DELAY, who, "ms", note="the system allows too few open files"))
            continue
        found = crowd(streams, f"crowd-{time.monotonic_ns()}")
        row.measured.append(Measured(DELAY, who, "ms", wall=spread(found), note=f"from the write to the loop; worst {max(found):,.0f} ms"))
    return row
