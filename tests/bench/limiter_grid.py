"""Row 8: the limiter of a batch against many kinds of servers, on a simulated clock."""

import heapq
import itertools
import math
import random
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Tuple

from recall_sdk._limiter import Limiter, Sent

from .measure import Bar, Measured, Row, spread

CALLS = 200
LATENCY = 0.03  # seconds
JITTER = 0.2  # of the latency

BARS = {
    ("bucket", "exact"): (1.06, 1.25, 13.5, 28.0),
    ("bucket", "whole seconds"): (1.13, 1.62, 10.0, 18.0),
    ("bucket", "none"): (1.08, 1.54, 10.0, 18.0),
    ("lump each minute", "whole seconds"): (1.35, 1.90, 10.0, 18.0),
    # Nine of these 36 cases can't be below 1.33: a burst of 40 that gets 60 at once keeps 40 of them. So its second bar is missed.
    ("lump each minute", "none"): (1.05, 1.30, 10.0, 18.0),
    ("window", "whole seconds"): (1.25, 1.50, 10.0, 18.0),
    ("window", "none"): (1.05, 1.50, 10.0, 18.0),
}
"""Time over the least possible, median and ninth decile; rejected requests in percent, median and ninth decile."""


@dataclass
class Bucket:
    """A token bucket that is refilled continuously."""

    rate: float
    burst: float

    def __post_init__(self) -> None:
        self.tokens, self.time = self.burst, 0.0

    def refill(self, now: float) -> None:
        self.tokens = min(self.burst, self.tokens + (now - self.time) * self.rate)
        self.time = now

    def take(self, now: float) -> bool:
        self.refill(now)
        accepted = self.tokens >= 1
        self.tokens -= accepted
        return accepted

    def next_token(self, now: float) -> float:
        return now + max(0.0, (1 - self.tokens) / self.rate)

    def usage(self, now: float) -> Tuple[int, int, float]:
        self.refill(now)
        return int(self.tokens), int(self.burst), (self.burst - self.tokens) / self.rate

    def least_time(self) -> float:
        return (CALLS - self.burst) / self.rate


@dataclass
class Lump(Bucket):
    """A bucket that gets ``rate`` tokens all at once, every ``seconds``."""

    seconds: float

    def refill(self, now: float) -> None:
        rounds = int(now / self.seconds) - int(self.time / self.seconds)
        self.tokens = min(self.burst, self.tokens + rounds * self.rate)
        self.time = now

    def next_token(self, now: float) -> float:
        return (int(now / self.seconds) + 1) * self.seconds

    def usage(self, now: float) -> Tuple[int, int, float]:
        self.refill(now)
        return int(self.tokens), int(self.burst), self.next_token(now) - now

    def least_time(self) -> float:
        return math.ceil((CALLS - self.burst) / self.rate) * self.seconds


def window(limit: float, seconds: float) -> Lump:
    """Return a fixed window: a number of requests in each period of seconds."""
    return Lump(limit, limit, seconds)


def simulate(
    server: Bucket, *, workers: int, run: float, hint: str, answers: bool = True, calls: int = CALLS, latency: float = LATENCY
) -> Tuple[float, int]:
    """Return the seconds that a batch takes, and how many requests are rejected.

    Each answer takes the latency with some jitter, and the seconds of the run if the request is accepted. ``hint`` is what a 429 says in
    its Retry-After: "exact", "whole seconds" or "none". ``answers``: whether the server answers the question about the usage limits.
    """
    limiter, chance = Limiter(), random.Random(1)
    now, missing, rejected = 0.0, calls, 0
    in_flight: List[Tuple[float, Sent, bool, Optional[float]]] = []
    while missing:
        if limiter.ask:
            limiter.usage(now, server.usage(now) if answers else None)
        ends = in_flight[0][0] if in_flight else math.inf
        delay = limiter.wait(now) if len(in_flight) < min(workers, missing) else math.inf
        if delay <= 0 and ends > now:
            sent = limiter.sent(now)
            trip = latency * (1 + JITTER * chance.random())
            accepted = server.take(now + trip / 2)
            pause = None if accepted or hint == "none" else server.next_token(now + trip / 2) - now
            if pause is not None and hint == "whole seconds":
                pause = max(1.0, math.ceil(pause))
            heapq.heappush(in_flight, (now + trip + run * accepted, sent, accepted, pause))
        elif now + delay < ends:
            now += delay + 1e-9
        else:
            now, sent, accepted, pause = heapq.heappop(in_flight)
            if accepted:
                missing -= 1
            else:
                rejected += 1
                limiter.rejected(sent, now, pause)
    return now, rejected


def grid() -> Iterator[Tuple[str, Bucket, float, int, str]]:
    """Yield each kind of server with the seconds of a run, the number of workers, and the hint in a 429."""
    loads = list(itertools.product((0.0, 0.5, 5.0), (8, 16, 32)))
    for rate, burst, (run, workers), hint in itertools.product((1, 5, 20, 50), (1, 10, 60), loads, ("none", "exact", "whole seconds")):
        yield "bucket", Bucket(rate, burst), run, workers, hint
    for amount, burst, (run, workers), hint in itertools.product((20, 60), (40, 120), loads, ("none", "whole seconds")):
        yield "lump each minute", Lump(amount, burst, 60.0), run, workers, hint
    for limit, seconds, (run, workers), hint in itertools.product((10, 100), (1.0, 10.0, 60.0), loads, ("none", "whole seconds")):
        yield "window", window(limit, seconds), run, workers, hint


def ninth_decile(values: List[float]) -> float:
    """Return the ninth decile."""
    return sorted(values)[min(len(values) - 1, int(0.9 * len(values)))]


def measure(_base_url: str) -> Row:
    """Simulate the whole grid; nothing is sent."""
    row = Row("limiter", f"The limiter of a batch of {CALLS} calls, simulated: time over the least possible, and rejected requests")
    times: Dict[Tuple[str, str], List[float]] = {}
    rejections: Dict[Tuple[str, str], List[float]] = {}
    for kind, server, run, workers, hint in grid():
        least = max(server.least_time(), CALLS / workers * (LATENCY + run))
        seconds, rejected = simulate(server, workers=workers, run=run, hint=hint)
        times.setdefault((kind, hint), []).append(seconds / least)
        rejections.setdefault((kind, hint), []).append(100.0 * rejected / CALLS)
    for (kind, hint), (median, tenth, refused_median, refused_tenth) in BARS.items():
        case = f"{kind}, Retry-After: {hint}"
        row.measured.append(Measured(case, "time over the least possible", "x", wall=spread(times[kind, hint])))
        row.measured.append(Measured(case, "rejected", "%", wall=spread(rejections[kind, hint])))
        row.bars += [
            Bar(f"limiter, time ({case})", spread(times[kind, hint]), median, unit="x"),
            Bar(f"limiter, time, ninth decile ({case})", spread([ninth_decile(times[kind, hint])]), tenth, unit="x"),
            Bar(f"limiter, rejected ({case})", spread(rejections[kind, hint]), refused_median, unit="%"),
            Bar(f"limiter, rejected, ninth decile ({case})", spread([ninth_decile(rejections[kind, hint])]), refused_tenth, unit="%"),
        ]
    return row
