"""Row 2: events of a stream per second."""

from typing import Callable

from .measure import Bar, Measured, Row, interleaved, ratio, spread
from .peers import DOCUMENTED, SDK, USUAL, Stream, streams
from .server import BURST_EVENTS, BURSTS

ROUNDS = 7
LOOP_LIMIT = 1.05
HTTPX_SSE_LIMIT = 2.5


def reading(stream: Stream, workflow: str) -> Callable[[], int]:
    """Read a whole stream as one unit of work."""

    def work() -> int:
        count = sum(1 for _ in stream(workflow))
        if count != BURST_EVENTS + 1:  # the end event is one too
            raise RuntimeError(f"{workflow}: {count} events instead of {BURST_EVENTS + 1}")
        return count

    return work


def measure(base_url: str) -> Row:
    """Measure all contenders in every framing."""
    row = Row("stream", "Stream throughput")
    contenders = streams(base_url)
    for framing, case in BURSTS.items():
        times = interleaved({who: reading(stream, "burst-" + framing) for who, stream in contenders.items() if stream is not None}, ROUNDS)
        for who in contenders:
            if who in times:
                cpu, wall = (spread([1 / seconds for seconds in clock]) for clock in (times[who].cpu, times[who].wall))
                row.measured.append(Measured(case, who, "events/s", cpu, wall))
            else:
                row.measured.append(Measured(case, who, "events/s", note="not installed"))
        for loop in (USUAL, DOCUMENTED):
            value = ratio(times[loop].cpu, times[SDK].cpu)
            row.bars.append(Bar(f"stream, events per CPU second against {loop} ({case})", value, LOOP_LIMIT, at_least=True, unit="x"))
        if framing == "chunked":
            against = ratio(times["httpx-sse"].cpu, times[SDK].cpu) if "httpx-sse" in times else None
            note = "" if against else "httpx-sse is not installed"
            what = f"stream, events per CPU second against httpx-sse ({case})"
            row.bars.append(Bar(what, against, HTTPX_SSE_LIMIT, at_least=True, unit="x", note=note))
    return row
