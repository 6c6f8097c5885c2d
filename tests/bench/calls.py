"""Row 1: the cost of one call, from the arguments to the parsed response."""

import sys
from typing import Callable

from .measure import Bar, Measured, Row, interleaved, ratio, spread
from .peers import SDK, Call, calls

CALLS = 50  # in one round
ROUNDS = 15
RESPONSES = {"length": "response with Content-Length", "chunked": "chunked response"}
# On 3.11 the SDK saves the most; older and newer interpreters have other costs.
LIMITS = {"requests": 0.55 if sys.version_info[:2] == (3, 11) else 0.65, "httpx": 1.0, "openai": 1.0}


def repeated(call: Call) -> Callable[[], int]:
    """``CALLS`` calls as one unit of work."""

    def work() -> int:
        for _ in range(CALLS):
            call()
        return CALLS

    return work


def measure(base_url: str) -> Row:
    """Measure all contenders, with both framings of the response."""
    row = Row("call", "One call, kept alive")
    for framing, case in RESPONSES.items():
        contenders = calls(base_url, "call-" + framing)
        times = interleaved({who: repeated(call) for who, call in contenders.items() if call is not None}, ROUNDS)
        for who in contenders:
            if who in times:
                cpu, wall = spread(times[who].cpu).scaled(1e6), spread(times[who].wall).scaled(1e6)
                row.measured.append(Measured(case, who, "µs", cpu, wall))
            else:
                row.measured.append(Measured(case, who, "µs", note="not installed"))
        for who, limit in LIMITS.items():
            value = ratio(times[SDK].cpu, times[who].cpu) if who in times else None
            note = "" if value else f"{who} is not installed"
            row.bars.append(Bar(f"call, CPU time against {who} ({case})", value, limit, unit="x", note=note))
    return row
