"""When a batch may send its next request. This is pure arithmetic: the time is passed in.

The limiter prefers what the server reports. After a 429 it asks for ``remaining``, ``limit`` and ``reset`` (see :attr:`Limiter.ask`), the
first time twice. If ``remaining`` grows before the reset, the limit is a token bucket that is refilled continuously. Otherwise the server
refills everything at the reset: the limiter counts down what remains, waits for the reset, and asks again.

For a token bucket, the limiter keeps its own bucket with the server's burst and rate. If the server does not report the rate, the limiter
measures it: the first 429 of an episode means that the server's bucket is empty, so the requests accepted between two such moments are
those that were refilled. Between 429s the rate approaches and then exceeds the measured one on a cubic curve, as in CUBIC (RFC 9438), but
counted in requests instead of seconds.
"""

from math import inf
from typing import NamedTuple, Optional, Tuple

FIRST_RATE = 100.0
"""Requests per second for the first ``KNOWN`` requests, so that the first 429 returns before every worker has sent one."""

SHORT_HOLD = 0.05
"""Seconds to wait after a 429 without a ``Retry-After``, and after a reset, because clocks and timers are not exact."""

BETA = 0.95
"""Factor on the rate after a 429. CUBIC's 0.7 is for network queues; a measured bucket only needs room for jitter."""

KNOWN = 50
"""Requests after which the curve reaches a measured rate again and exceeds it. Each 429 costs one request or a pause."""

EVIDENCE = 4
"""Minimum requests for a measurement. Without a measurement it replaces ``KNOWN``, because the true rate may be far higher."""

UNSURE = 0.83
"""Factor on a rate from fewer requests than ``EVIDENCE``: too low a rate soon grows, but each 429 of too high a rate costs a pause."""

FIRST_GUESS = 8.0
"""Rate after the first 429 if it has a ``Retry-After`` of whole seconds, in bursts per pause: such pauses are rounded up."""

MIN_RESET = 3.0
"""Seconds. A reset in a header that is nearer is mostly rounding, because headers have whole seconds."""

MAX_RESET = 60.0
"""Maximum seconds to wait for a reset: limits are per minute or shorter, and clocks differ."""


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
        self._empty: Optional[Sent] = None  # the first 429 of the newest episode
        self._episode_end, self._rejected = 0, 0  # the last request that was sent before that 429 was known; 429s up to it
        self._resume = self._pause_end = 0.0
        self._step, self._plateau = 0, KNOWN  # the position on the curve, in requests, and where it is flat
        self._refilled_at_once: Optional[bool] = None
        self._first_remaining = inf  # what remained at the first question
        self._remaining, self._ask_at = inf, inf  # requests until the next question, and its time

    def wait(self, now: float) -> float:
        """Return the seconds until the next request may be sent; 0 if it may be sent now."""
        if self._remaining <= 0:
            self.ask = self.ask or now >= self._ask_at
            return max(self._ask_at - now, SHORT_HOLD)
        if now < self._resume or self._remaining < inf:
            return max(0.0, self._resume - now)
        pace = self._pace()
        if self.rate is None:
            return max(0.0, self._last.time + 1 / pace - now)
        self._tokens = min(self.burst, self._tokens + (now - self._updated) * pace)
        self._updated = now
        return max(0.0, (1 - self._tokens) / pace)

    def sent(self, now: float) -> Sent:
        """Record that a request is sent, and return its record."""
        self._tokens -= 1
        self._remaining -= 1
        self._step += 1
        self._last = Sent(self._last.number + 1, now)
        return self._last

    def reported(self, sent: Sent, now: float, remaining: int, reset: float) -> None:
        """Record the headers of an answer: remaining requests, and seconds until the reset."""
        in_flight = self._last.number - sent.number
        if remaining <= in_flight and reset >= MIN_RESET:
            self._resume = max(self._resume, now + min(reset, MAX_RESET))

    def usage(self, now: float, limits: Optional[Tuple[int, int, float]]) -> None:
        """Record the usage limits: remaining requests, their limit, and seconds until the reset; ``None`` if the server does not say."""
        self.ask, self._remaining, self._answers = False, inf, limits is not None
        remaining, limit, seconds = limits or (0, 0, 0.0)
        used, seconds = limit - remaining, min(seconds, MAX_RESET)
        if seconds <= 0:  # nothing is missing, or the server does not say
            return
        if self._refilled_at_once is None:
            if self._first_remaining == inf and used > 1:
                self._first_remaining = remaining
                self._remaining, self._ask_at = 0, now + 1.1 * seconds / used  # a bucket has one token more by then
                return
            self._refilled_at_once = limit > 1 and remaining <= self._first_remaining
        if self._refilled_at_once:
            self._remaining, self._ask_at = remaining, now + seconds + SHORT_HOLD
        else:
            self.burst = max(1.0, limit - 1.0)  # keep one token in reserve for jitter
            self._tokens, self._updated = min(self.burst, remaining), now
            if self._plateau == EVIDENCE and used > 0:
                known = used > EVIDENCE  # remaining is rounded down, so up to one token less is missing
                self.rate = (used - 1 if known else UNSURE * used) / seconds
                self._step, self._plateau = 0, KNOWN if known else EVIDENCE

    def rejected(self, sent: Sent, now: float, retry_after: Optional[float]) -> None:
        """Record a 429, and its ``Retry-After`` in seconds, if any."""
        if sent.number <= self._episode_end:
            self._rejected += 1
            self._resume = max(self._resume, now + (retry_after or 0.0))
            return
        self._measure(sent, retry_after)
        pause = retry_after or SHORT_HOLD
        if self._plateau == KNOWN:
            lost = pause * (self.rate or 0.0) - self.burst  # tokens lost during the pause, because the bucket is full
            self._plateau = max(KNOWN, int(EVIDENCE * lost))
        self._empty, self._episode_end, self._rejected, self._step = sent, self._last.number, 0, 0
        self._tokens, self._updated = 0.0, sent.time
        self._resume = self._pause_end = max(self._resume, now + pause)
        self.ask, self._first_remaining = self._answers, inf

    def _measure(self, sent: Sent, retry_after: Optional[float]) -> None:
        """Measure the rate at a 429, when the server's bucket is empty."""
        if self._empty is None:
            self._plateau, self.burst = EVIDENCE, max(1.0, sent.number - 1.0)
            if retry_after is not None and retry_after >= 1:
                self.rate = FIRST_GUESS * self.burst / retry_after
            return
        accepted = max(1, sent.number - self._empty.number - 1 - self._rejected)
        beyond_burst = accepted - self.burst  # if the bucket was full after the pause, these were refilled since then
        known = beyond_burst >= EVIDENCE or EVIDENCE <= accepted < self.burst / 2  # so few that the bucket was never full
        rates = accepted / max(sent.time - self._empty.time, SHORT_HOLD), beyond_burst / max(sent.time - self._pause_end, SHORT_HOLD)
        self.rate = min(max(*rates, 0.0 if known else UNSURE * (self.rate or 0.0)), self._pace())
        self._plateau = KNOWN if known else EVIDENCE
        self.burst = min(self.burst, float(accepted))

    def _pace(self) -> float:
        if self.rate is None:
            return FIRST_RATE if self._step < KNOWN else inf
        return self.rate * (1 + (1 - BETA) * ((self._step - self._plateau) / self._plateau) ** 3)
