"""Row 3: the time from the server's write of an event to the user's loop."""

import time
from typing import List

from .measure import Bar, Measured, Row, spread
from .peers import SDK, USUAL, Stream, streams
from .server import FRAMINGS, PACED_EVENTS, PACED_PAUSE

LIMIT = 5.0  # milliseconds


def delays(stream: Stream, workflow: str) -> List[float]:
    """Return the milliseconds that each event of a paced stream took to arrive."""
    arrived = [(time.monotonic_ns(), payload.get("sent")) for payload in stream(workflow)]
    found = [(now - int(sent)) / 1e6 for now, sent in arrived if sent is not None]
    if len(found) != PACED_EVENTS:
        raise RuntimeError(f"{workflow}: {len(found)} events instead of {PACED_EVENTS}")
    return found


def measure(base_url: str) -> Row:
    """Measure this library and the usual loop in every framing."""
    row = Row("delay", f"From the server's write to the loop, an event each {PACED_PAUSE * 1000:.0f} ms")
    contenders = streams(base_url)
    for framing, case in FRAMINGS.items():
        if framing == "large":  # paced, every event is an HTTP chunk of its own: that is "chunked" again
            continue
        for who in (SDK, USUAL):
            stream = contenders[who]
            assert stream is not None  # for the type checker: these two are always installed
            found = delays(stream, "paced-" + framing)
            row.measured.append(Measured(case, who, "ms", wall=spread(found), note=f"worst {max(found):.1f} ms"))
            if who == SDK:
                row.bars.append(Bar(f"delay of an event ({case})", spread(found), LIMIT, unit="ms", note=f"worst {max(found):.1f} ms"))
    return row
