"""When the next request of a batch may be sent. Pure arithmetic: the time is passed in.

What the server says comes first. After a 429 the limiter asks for ``remaining``, ``limit`` and ``reset`` (see :attr:`Limiter.ask`), twice
at first: if ``remaining`` has grown before the reset, the limit is a token bucket that is refilled all the time; else all is refilled at
once at each reset, and the limiter counts down what remains, waits for the reset, and asks again.

For a token bucket it keeps a bucket of its own, with the server's burst and rate. If the server does not say the rate, it is measured: at
the first 429 of an episode the server's bucket is empty, so what was accepted since the last one is what was refilled. From 429 to 429 the
rate is approached and then passed on a cubic curve, as in CUBIC (RFC 9438), but counted in requests.
"""

from collections import deque
from math import inf
from typing import Deque, NamedTuple, Optional, Tuple

__all__ = ["Limiter", "Sent"]

FIRST_RATE = 100.0
"""Requests per second for the first ``KNOWN`` requests: so the first 429 returns after a few of them, not after one of each worker."""

SHORT_HOLD = 0.05
"""Seconds to hold after a 429 if neither a pause nor a rate is known, and to wait after a reset: clocks and timers are not exact."""

BETA = 0.9
"""Factor on the rate after a 429. CUBIC's 0.7 is for queues; a bucket that was measured only needs room for jitter."""

HALF = 0.5
"""The same after a 429 that measured nothing: halved, as in AIMD (RFC 5681)."""

KNOWN = 45
"""Requests until a measured rate is reached again, and after which it is passed. Each 429 costs one request or a pause."""

EVIDENCE = 4
"""Requests that a measurement must rest on. After a 429 that measured nothing it replaces ``KNOWN``: the true rate may be far higher."""

FIRST_GUESS = 8.0
"""Rate after a first 429 that orders a pause, in bursts per pause: such pauses are rounded up to whole seconds."""

MIN_RESET = 3.0
"""Seconds. A reset in a header that is nearer is mostly rounding: it comes in whole seconds."""

MAX_RESET = 60.0
"""Seconds to wait for a reset at most: limits are counted by the minute or faster, and clocks differ."""

TICK = 0.016
"""Seconds between two ticks of a slow clock, as on Windows. Requests that are nearer measure nothing."""

REMEMBERED = 1000
"""Times that are kept, so that memory stays bounded."""


class Sent(NamedTuple):
    """A request that was sent: its number, from 1, and the time in seconds."""

    number: int
    time: float


class Limiter:
    """A limiter that all workers of a batch share.

    Attributes:
        ask: Whether to ask for the usage limits now, and to report them to :meth:`usage`.
    """

    def __init__(self) -> None:
        self.ask = False
        self.rate: Optional[float] = None
        self.burst = 1.0
        self._answers = True
        self._tokens, self._updated = 0.0, 0.0
        self._last = Sent(0, -inf)
        self._times: Deque[float] = deque(maxlen=REMEMBERED)
        self._empty: Optional[Sent] = None  # the first 429 of the newest episode
        self._episode_end = 0  # requests up to this number were sent before that 429 was known
        self._refused = 0
        self._resume = 0.0
        self._step, self._plateau = 0, KNOWN  # the place on the curve, in requests, and where it is flat
        self._refilled_at_once: Optional[bool] = None
        self._first_remaining = inf  # what remained at the first question
        self._remaining, self._ask_at = inf, inf  # requests until the next question, and its time

    def wait(self, now: float) -> float:
        """Return the seconds until the next request may be sent; 0 if it may be sent now."""
        if self._remaining <= 0:
            self.ask = self.ask or now >= self._ask_at
            return max(self._ask_at - now, SHORT_HOLD)
        if now < self._resume:
            return self._resume - now
        if self._remaining < inf:
            return 0.0
        if self.rate is None:
            return max(0.0, self._last.time + 1 / self._pace() - now)
        self._refill(now)
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._pace()

    def sent(self, now: float) -> Sent:
        """Note that a request is sent; return what stands for it."""
        self._refill(now)
        self._tokens -= 1
        self._remaining -= 1
        self._step += 1
        self._times.append(now)
        self._last = Sent(self._last.number + 1, now)
        return self._last

    def reported(self, sent: Sent, now: float, remaining: int, reset: float) -> None:
        """Note what the headers of an answer report: requests that remain, and seconds until the reset."""
        in_flight = self._last.number - sent.number
        if remaining <= in_flight and reset >= MIN_RESET:
            self._resume = max(self._resume, now + min(reset, MAX_RESET))

    def usage(self, now: float, limits: Optional[Tuple[int, int, float]]) -> None:
        """Note the usage limits: requests that remain, of how many, and seconds until the reset; ``None`` if the server does not say."""
        self.ask, self._remaining = False, inf
        if limits is None:
            self._answers = False
            return
        remaining, limit, seconds = limits
        used, seconds = limit - remaining, min(seconds, MAX_RESET)
        if self._refilled_at_once is None and used > 0 and seconds > 0:
            if self._first_remaining == inf and used > 1:
                self._first_remaining = remaining
                self._remaining, self._ask_at = 0, now + 1.1 * seconds / used  # a bucket has one token more by then
                return
            self._refilled_at_once = limit > 1 and remaining <= self._first_remaining
        if self._refilled_at_once:
            self._remaining, self._ask_at = remaining, now + seconds + SHORT_HOLD
        elif self._refilled_at_once is False:
            self.burst = max(1.0, limit - 1.0)  # one token is kept in reserve for jitter
            self._tokens, self._updated = min(self.burst, remaining), now
            if self._plateau == EVIDENCE < used and seconds > 0:
                self.rate = (used - 1) / seconds  # what remains is rounded down, so this is never too high
                self._step, self._plateau = 0, KNOWN

    def refused(self, sent: Sent, now: float, retry_after: Optional[float]) -> None:
        """Note a 429, and the pause in seconds that it orders, if any."""
        self._refused += 1
        if sent.number > self._episode_end:
            plateau = self._measure(sent, retry_after)
            pause = retry_after or SHORT_HOLD
            lost = pause * (self.rate or 0.0) - self.burst  # what flows over during the pause
            self._step, self._plateau = 0, max(plateau, int(EVIDENCE * lost)) if plateau == KNOWN else plateau
            self._empty, self._episode_end, self._refused = sent, self._last.number, 0
            self._tokens, self._updated = 0.0, sent.time
            self._times.clear()
            self._resume = max(self._resume, now + pause)
            self.ask = self._answers
        elif retry_after is not None:
            self._resume = max(self._resume, now + retry_after)

    def _measure(self, sent: Sent, retry_after: Optional[float]) -> int:
        """Measure the rate at a 429, when the server's bucket is empty; return for how many requests it is good."""
        if self._empty is None:
            self.burst = max(1.0, sent.number - 1.0)
            if retry_after is not None and retry_after >= 1:
                self.rate = FIRST_GUESS * self.burst / retry_after
            return EVIDENCE
        accepted = max(1, sent.number - self._empty.number - self._refused)
        seconds = max(sent.time - self._empty.time, TICK)
        if EVIDENCE <= accepted < self.burst / 2:  # so the bucket was not full meanwhile
            self.rate = accepted / seconds
            return KNOWN
        # It may have been full, for how long is unknown. In no stretch of time does it give more than burst + rate * time.
        stretches = (
            (accepted - number - self.burst, sent.time - time) for number, time in enumerate(self._times) if time < sent.time - TICK
        )
        rates = [more / time for more, time in stretches if more >= EVIDENCE]
        plateau = KNOWN if rates else EVIDENCE
        if not rates:
            self.burst = min(self.burst, float(accepted))
            rates = [HALF * (self.rate or 0.0)]
        self.rate = min(max(accepted / seconds, *rates), self._pace())
        return plateau

    def _pace(self) -> float:
        if self.rate is None:
            return FIRST_RATE if self._step < KNOWN else inf
        return self.rate * (1 + (1 - BETA) * ((self._step - self._plateau) / self._plateau) ** 3)

    def _refill(self, now: float) -> None:
        if self.rate is not None:
            self._tokens = min(self.burst, self._tokens + (now - self._updated) * self._pace())
            self._updated = now
