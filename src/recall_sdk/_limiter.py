"""When a batch may send its next request. This is pure arithmetic: the time is passed in.

The limiter prefers what the server reports. After a 429 it asks for ``remaining``, ``limit`` and ``reset`` (see :attr:`Limiter.ask`), the
first time twice. If ``remaining`` grows before the reset, the limit is a token bucket that is refilled continuously. Otherwise the server
refills everything at the reset: the limiter counts down what remains, waits for the reset, and asks again.

For a token bucket, the limiter keeps its own bucket with the server's burst and rate. If the server does not report the rate, the limiter
measures it: the first 429 of an episode means that the server's bucket is empty, so the requests accepted between two such moments are
those that were refilled. Between 429s the rate approaches and then exceeds the measured one on a cubic curve, as in CUBIC (RFC 9438), but
counted in requests instead of seconds.
"""

from collections import deque
from math import inf
from typing import Deque, NamedTuple, Optional, Tuple

__all__ = ["Limiter", "Sent"]

FIRST_RATE = 100.0
"""Requests per second for the first ``KNOWN`` requests, so that the first 429 returns before every worker has sent one."""

SHORT_HOLD = 0.05
"""Seconds to wait after a 429 without a ``Retry-After``, and after a reset, because clocks and timers are not exact."""

BETA = 0.9
"""Factor on the rate after a 429. CUBIC's 0.7 is for network queues; a measured bucket only needs room for jitter."""

HALF = 0.5
"""Factor on the rate after a 429 from which no rate could be measured, as in AIMD (RFC 5681)."""

KNOWN = 45
"""Requests after which the curve reaches a measured rate again and exceeds it. Each 429 costs one request or a pause."""

EVIDENCE = 4
"""Minimum requests for a measurement. Without a measurement it replaces ``KNOWN``, because the true rate may be far higher."""

FIRST_GUESS = 8.0
"""Rate after the first 429 if it has a ``Retry-After`` of whole seconds, in bursts per pause: such pauses are rounded up."""

MIN_RESET = 3.0
"""Seconds. A reset in a header that is nearer is mostly rounding, because headers have whole seconds."""

MAX_RESET = 60.0
"""Maximum seconds to wait for a reset: limits are per minute or shorter, and clocks differ."""

TICK = 0.016
"""Seconds between two ticks of a slow clock, as on Windows. Shorter times are not measured."""

REMEMBERED = 1000
"""Maximum times to keep, so that memory is bounded."""


class Sent(NamedTuple):
    """A request that was sent: its number, from 1, and the time in seconds."""

    number: int
    time: float


class Limiter:
    """The limiter that all workers of a batch share.

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
        self._rejected = 0
        self._resume = 0.0
        self._step, self._plateau = 0, KNOWN  # the position on the curve, in requests, and where it is flat
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
        """Record that a request is sent, and return its record."""
        self._refill(now)
        self._tokens -= 1
        self._remaining -= 1
        self._step += 1
        self._times.append(now)
        self._last = Sent(self._last.number + 1, now)
        return self._last

    def reported(self, sent: Sent, now: float, remaining: int, reset: float) -> None:
        """Record the headers of an answer: remaining requests, and seconds until the reset."""
        in_flight = self._last.number - sent.number
        if remaining <= in_flight and reset >= MIN_RESET:
            self._resume = max(self._resume, now + min(reset, MAX_RESET))

    def usage(self, now: float, limits: Optional[Tuple[int, int, float]]) -> None:
        """Record the usage limits: remaining requests, their limit, and seconds until the reset; ``None`` if the server does not say."""
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
            self.burst = max(1.0, limit - 1.0)  # keep one token in reserve for jitter
            self._tokens, self._updated = min(self.burst, remaining), now
            if self._plateau == EVIDENCE < used and seconds > 0:
                self.rate = (used - 1) / seconds  # remaining is rounded down, so this is never too high
                self._step, self._plateau = 0, KNOWN

    def rejected(self, sent: Sent, now: float, retry_after: Optional[float]) -> None:
        """Record a 429, and its ``Retry-After`` in seconds, if any."""
        self._rejected += 1
        if sent.number > self._episode_end:
            plateau = self._measure(sent, retry_after)
            pause = retry_after or SHORT_HOLD
            lost = pause * (self.rate or 0.0) - self.burst  # tokens lost during the pause, because the bucket is full
            self._step, self._plateau = 0, max(plateau, int(EVIDENCE * lost)) if plateau == KNOWN else plateau
            self._empty, self._episode_end, self._rejected = sent, self._last.number, 0
            self._tokens, self._updated = 0.0, sent.time
            self._times.clear()
            self._resume = max(self._resume, now + pause)
            self.ask = self._answers
        elif retry_after is not None:
            self._resume = max(self._resume, now + retry_after)

    def _measure(self, sent: Sent, retry_after: Optional[float]) -> int:
        """Measure the rate at a 429, when the server's bucket is empty; return the plateau of the curve."""
        if self._empty is None:
            self.burst = max(1.0, sent.number - 1.0)
            if retry_after is not None and retry_after >= 1:
                self.rate = FIRST_GUESS * self.burst / retry_after
            return EVIDENCE
        accepted = max(1, sent.number - self._empty.number - self._rejected)
        seconds = max(sent.time - self._empty.time, TICK)
        if EVIDENCE <= accepted < self.burst / 2:  # the bucket was not full in between
            self.rate = accepted / seconds
            return KNOWN
        # It may have been full for an unknown time. In any period it allows at most burst + rate * time.
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
