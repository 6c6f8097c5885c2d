"""Row 8: the limiter of a batch against many kinds of servers, on a simulated clock."""

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from recall_sdk._limiter import Limiter

from .measure import Bar, Measured, Row, spread

LATENCY = 0.03  # seconds
DEADLINE = 100_000.0  # simulated seconds after which a batch counts as one that hangs


@dataclass
class Bucket:
    """A token bucket that is refilled continuously. From the second ``change_at`` on its rate is ``rate_then``."""

    rate: float
    burst: float
    change_at: float = math.inf
    rate_then: float = 0.0

    def __post_init__(self) -> None:
        self.tokens, self.time = float(self.burst), 0.0

    def refill(self, now: float) -> None:
        if self.time < self.change_at <= now:
            self.refill_at(self.change_at)
            self.rate = self.rate_then
        self.refill_at(now)

    def refill_at(self, now: float) -> None:
        self.tokens = min(self.burst, self.tokens + (now - self.time) * self.rate)
        self.time = now

    def accept(self, now: float, end: float) -> bool:
        """Return whether a request is accepted that arrives now and would run until ``end``."""
        self.refill(now)
        accepted = self.tokens >= 1
        self.tokens -= accepted
        return accepted

    def next_token(self, now: float) -> float:
        return now + max(0.0, (1 - self.tokens) / self.rate)

    def usage(self, now: float) -> Tuple[int, int, float]:
        """Return the remaining requests, their limit, and the seconds until nothing is missing."""
        self.refill(now)
        return int(self.tokens), int(self.burst), (self.burst - self.tokens) / self.rate

    def least_time(self, calls: int) -> float:
        if self.change_at == math.inf:
            return (calls - self.burst) / self.rate
        return self.change_at + (calls - self.burst - self.rate * self.change_at) / self.rate_then


@dataclass
class Lump(Bucket):
    """A bucket that gets ``rate`` tokens all at once, every ``seconds``."""

    seconds: float = 60.0

    def refill_at(self, now: float) -> None:
        rounds = int(now / self.seconds) - int(self.time / self.seconds)
        self.tokens = min(self.burst, self.tokens + rounds * self.rate)
        self.time = now

    def next_token(self, now: float) -> float:
        return (int(now / self.seconds) + 1) * self.seconds

    def usage(self, now: float) -> Tuple[int, int, float]:
        self.refill(now)
        return int(self.tokens), int(self.burst), self.next_token(now) - now

    def least_time(self, calls: int) -> float:
        return math.ceil((calls - self.burst) / min(self.rate, self.burst)) * self.seconds


def window(limit: float, seconds: float) -> Lump:
    """Return a fixed window: a number of requests in each period of seconds."""
    return Lump(limit, limit, seconds=seconds)


@dataclass
class Noisy(Bucket):
    """A bucket of which others take half of what flows in, at random moments."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.random, self.next_other = random.Random(2), 0.0

    def refill(self, now: float) -> None:
        while self.next_other <= now:
            self.refill_at(max(self.next_other, self.time))
            self.tokens -= self.tokens >= 1
            self.next_other += self.random.expovariate(self.rate / 2)
        self.refill_at(now)

    def least_time(self, calls: int) -> float:
        return 2 * (calls - self.burst) / self.rate


@dataclass
class Concurrent(Bucket):
    """At most ``count`` runs at a time, within a bucket that is large by default; from the second ``change_at`` on ``count_then``."""

    rate: float = 1e6
    burst: float = 1e6
    count: int = 10
    count_then: int = 10
    pause: float = 1.0
    ends: List[float] = field(default_factory=list)

    def accept(self, now: float, end: float) -> bool:
        self.full = False
        while self.ends and self.ends[0] <= now:
            heapq.heappop(self.ends)
        if len(self.ends) >= (self.count if now < self.change_at else self.count_then):
            self.full = True
            return False
        self.refill_at(now)
        if accepted := super().accept(now, end):
            heapq.heappush(self.ends, end)
        return accepted

    def refill(self, now: float) -> None:
        self.refill_at(now)

    def next_token(self, now: float) -> float:
        return now + self.pause if self.full else super().next_token(now)

    def least_time(self, calls: int) -> float:
        return (calls - self.burst) / self.rate


class Load(NamedTuple):
    """What batches send, and what the server and the network do.

    ``retry_after`` is what a 429 orders: "exact", "whole seconds", "zero" or "none". ``usage`` is what the server says about its usage
    limits: it receives the truth and returns what is sent, ``None`` for nothing. ``headers``: each response reports the level, and
    ``level`` is what it says, like ``usage``. ``poll``: the longest wait until the limiter is asked again; that of a real batch is 0.05.
    """

    workers: int = 16
    run: float = 0.0
    retry_after: str = "none"
    calls: int = 200
    batches: int = 1
    latency: float = LATENCY
    jitter: float = 0.2  # in latencies, on average for "tail", at most otherwise
    tail: bool = False
    usage: Callable[[Tuple[int, int, float]], Optional[Tuple[int, int, float]]] = lambda limits: limits
    asking: float = 1.0  # in latencies
    headers: bool = False
    level: Callable[[Tuple[int, int, float]], Tuple[int, int, float]] = lambda limits: limits
    poll: float = math.inf


class Outcome(NamedTuple):
    """What a simulation has measured: seconds, and the share of rejected requests and of questions, per call."""

    seconds: float
    rejected: float
    asked: float


class Simulation:
    """Batches against one server on a simulated clock."""

    def __init__(self, server: Bucket, load: Load) -> None:
        self.server, self.load, self.random = server, load, random.Random(1)
        self.limiters = [Limiter() for _ in range(load.batches)]
        self.missing, self.in_flight = [load.calls] * load.batches, [0] * load.batches
        self.asking, self.wakes = [False] * load.batches, [0] * load.batches
        self.now, self.rejected, self.asked, self.order = 0.0, 0, 0, itertools.count()
        self.events: List[Tuple[float, int, Callable[..., None], Tuple[Any, ...]]] = []

    def run(self) -> Outcome:
        for batch in range(self.load.batches):
            self.act(batch)
        while any(self.missing) and self.events and self.now < DEADLINE:
            self.now, _, action, args = heapq.heappop(self.events)
            action(*args)
        total = self.load.calls * self.load.batches
        return Outcome(DEADLINE if any(self.missing) else self.now, self.rejected / total, self.asked / total)

    def after(self, seconds: float, action: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.order), action, args))

    def way(self) -> float:
        """Return the seconds of one way: half a latency, with jitter."""
        chance = self.random.expovariate(1.0) if self.load.tail else self.random.random()
        return self.load.latency / 2 * (1 + self.load.jitter * chance)

    def act(self, batch: int) -> None:
        """Send all that the limiter lets pass now, and wake up when it says."""
        limiter = self.limiters[batch]
        self.wakes[batch] += 1
        while not self.asking[batch] and self.in_flight[batch] < min(self.load.workers, self.missing[batch]):
            delay = limiter.wait(self.now)
            if limiter.ask:
                self.asking[batch] = True
                self.asked += 1
                self.after(self.way() * self.load.asking, self.question_arrives, batch)
            elif delay > 0:
                self.after(min(delay, self.load.poll) + 1e-9, self.wake, batch, self.wakes[batch])
                break
            else:
                self.in_flight[batch] += 1
                self.after(self.way(), self.arrives, batch, limiter.sent(self.now))

    def wake(self, batch: int, number: int) -> None:
        if number == self.wakes[batch]:
            self.act(batch)

    def question_arrives(self, batch: int) -> None:
        self.after(self.way() * self.load.asking, self.usage, batch, self.load.usage(self.server.usage(self.now)), self.now)

    def usage(self, batch: int, limits: Optional[Tuple[int, int, float]], read: float) -> None:
        self.asking[batch] = False
        self.limiters[batch].usage(self.now, limits and (limits[0], limits[1], limits[2] - (self.now - read)))
        self.act(batch)

    def arrives(self, batch: int, sent: Any) -> None:
        run = self.load.run * (0.5 + self.random.random() if isinstance(self.server, Concurrent) else 1.0)
        accepted, pause = self.server.accept(self.now, self.now + run), None
        if not accepted and self.load.retry_after != "none":
            exact = self.server.next_token(self.now) - self.now
            pause = {"exact": exact, "whole seconds": max(1.0, math.ceil(exact)), "zero": 0.0}[self.load.retry_after]
        reported = self.load.level(self.server.usage(self.now)) if self.load.headers and accepted else None
        self.after(run * accepted + self.way(), self.responds, batch, sent, (accepted, pause, reported, self.now))

    def responds(self, batch: int, sent: Any, response: Tuple[bool, Optional[float], Optional[Tuple[int, int, float]], float]) -> None:
        limiter, (accepted, pause, reported, read) = self.limiters[batch], response
        self.in_flight[batch] -= 1
        if reported:
            limiter.reported(sent, self.now, reported[0], reported[2] - (self.now - read), reported[1])
        if accepted:
            self.missing[batch] -= 1
            limiter.accepted(sent, self.now)
        else:
            self.rejected += 1
            limiter.rejected(sent, self.now, pause)
        self.act(batch)


def simulate(server: Bucket, load: Load) -> Outcome:
    """Return what the batches of a load measure on a server."""
    return Simulation(server, load).run()


# ----------------------------------------------------------------------------------------------------------------- the grid

Case = Tuple[str, Callable[[], Bucket], Load]

HINTS = ("none", "exact", "whole seconds")

BARS = {
    "bucket": (1.10, 2.0, 10.0),
    "bucket, whole seconds": (1.15, 3.0, 10.0),
    "lump or window": (1.05, 1.5, 10.0),
    "other networks": (1.15, 3.0, 10.0),
    "shared": (1.30, 3.0, 30.0),
    "noisy or changing": (1.15, 3.0, 15.0),
    "no usage limits": (1.10, 2.0, 20.0),
    "headers": (1.15, 4.0, 10.0),
    "misleading reports": (1.20, 4.0, 20.0),
    "runs at a time": (1.15, 2.0, 10.0),
    "runs and rate": (1.15, 1.5, 10.0),
}
"""For each kind the time over the least possible (median and ninth decile), and the rejected requests in percent (median)."""


def unknown(_limits: object) -> None:
    """Say nothing about the usage limits."""


def grid() -> Iterator[Case]:
    """Yield each kind with a function that makes its server, and the load."""
    loads = [(0.0, 4), (0.0, 32), (0.5, 16), (5.0, 8)]
    for rate, burst, (run, workers), hint in itertools.product((0.5, 5, 50, 200), (1, 10, 60), loads, HINTS):
        kind = "bucket, whole seconds" if hint == "whole seconds" else "bucket"
        yield kind, partial(Bucket, rate, burst), Load(workers, run, hint)
        yield "headers", partial(Bucket, rate, burst), Load(workers, run, hint, headers=True, usage=unknown)
    for limit, amount, seconds, (run, workers), hint in itertools.product((10, 100), (10, 100), (1.0, 10.0, 60.0), loads, HINTS):
        yield "lump or window", partial(Lump, min(amount, limit), limit, seconds=seconds), Load(workers, run, hint)
    for rate, burst, (run, workers), hint in itertools.product((2, 10, 100), (3, 20, 100), loads[:3], HINTS):
        load, bucket = Load(workers, run, hint), partial(Bucket, rate, burst)
        yield "other networks", bucket, load._replace(latency=0.25)
        yield "other networks", bucket, load._replace(jitter=1.0, tail=True)
        yield "other networks", bucket, load._replace(asking=60.0)
        for batches in (2, 4):
            yield "shared", bucket, load._replace(batches=batches, calls=100)
        yield "noisy or changing", partial(Noisy, rate, burst), load
        yield "noisy or changing", partial(Bucket, rate, burst, 5.0, rate * 5), load._replace(calls=burst + 30 * rate)
        yield "noisy or changing", partial(Bucket, rate * 5, burst, 3.0, rate), load._replace(calls=burst + 40 * rate)
        yield "no usage limits", bucket, load._replace(usage=unknown)
        yield "misleading reports", bucket, load._replace(usage=lambda limits: (limits[1], limits[1], 60.0))
        yield "misleading reports", bucket, load._replace(usage=lambda limits: (limits[0], limits[1], 10 * limits[2]))
        yield "misleading reports", bucket, load._replace(usage=lambda limits: (limits[0], limits[1], limits[2] / 10))
    for count, run, workers, hint in itertools.product((1, 3, 8, 20), (0.1, 1.0, 4.0), (16, 64), ("none", "exact", "zero")):
        if workers > count:
            load = Load(workers, run, hint, calls=300)
            yield "runs at a time", partial(Concurrent, count=count), load
            yield "runs at a time", partial(Concurrent, count=count), load._replace(usage=unknown)
            yield "runs and rate", partial(Concurrent, rate=10.0, burst=20.0, count=count), load
            yield "runs and rate", partial(Concurrent, rate=10.0, burst=20.0, count=count), load._replace(usage=unknown)


def ninth_decile(values: List[float]) -> float:
    """Return the ninth decile."""
    return sorted(values)[min(len(values) - 1, int(0.9 * len(values)))]


def least_time(server: Bucket, load: Load) -> float:
    """Return the seconds that a batch takes which knows everything."""
    calls, slots = load.calls * load.batches, load.workers * load.batches
    if isinstance(server, Concurrent):
        slots = min(slots, server.count)
    return max(server.least_time(calls), calls / slots * (load.latency + load.run))


def measure(_base_url: str) -> Row:
    """Simulate the whole grid; nothing is sent."""
    row = Row("limiter", "The limiter of a batch, simulated: time over the least possible, and rejected requests")
    times: Dict[str, List[float]] = {}
    rejections: Dict[str, List[float]] = {}
    for kind, make, load in grid():
        outcome = simulate(make(), load)
        times.setdefault(kind, []).append(outcome.seconds / least_time(make(), load))
        rejections.setdefault(kind, []).append(100.0 * outcome.rejected)
    for kind, (median, tenth, rejected) in BARS.items():
        row.measured.append(Measured(kind, "time over the least possible", "x", wall=spread(times[kind])))
        row.measured.append(Measured(kind, "rejected", "%", wall=spread(rejections[kind])))
        row.bars += [
            Bar(f"limiter, time ({kind})", spread(times[kind]), median, unit="x"),
            Bar(f"limiter, time, ninth decile ({kind})", spread([ninth_decile(times[kind])]), tenth, unit="x"),
            Bar(f"limiter, rejected ({kind})", spread(rejections[kind]), rejected, unit="%"),
        ]
    return row
