"""When the next request of a batch may go: one gate for all its workers. Pure arithmetic; the clock's reading is passed in.

The gate pictures the server's rate limit as a bucket that holds ``burst`` tokens, is refilled at ``rate`` tokens a second, and gives each
request one. It starts wide open. A 429 says that the bucket is empty; so all hold off, as long as the server orders, else until a token is
there again. What was accepted between two such moments tells the rate, because in no stretch of time does a bucket give more than
``burst + rate * time``. From then on requests go at a pace just below that rate, which creeps up: slowly, as each 429 has its cost, and the
more slowly the more calls the rate was measured on. So a rate that was measured badly is soon measured again, and a raised limit is found.
"""

from collections import deque
from math import ceil, inf, log2, sqrt
from typing import Deque, NamedTuple, Optional, Tuple

__all__ = ["Gate", "Ticket"]

FIRST_HOLD = 0.05
"""Seconds of the first hold where the server orders none: short, so that no bucket runs over; a handful of them cost nobody anything."""

MARGIN = 0.04
"""Part by which the pace begins below the measured rate, so that the bucket fills a little and no jitter empties it."""

MARGIN_AFTER_ORDER = 0.01
"""The same where the server orders pauses: after one the bucket is full, and its tokens even out the jitter."""

COST = 0.03
"""Part of all requests that may be lost to 429s: refused, or not sent during the pause that one orders."""

FIRST_GUESS = 4.0
"""Pace after the first ordered pause, in bursts per pause: such pauses are rounded up to whole seconds, so it is surely too careful."""

GOOD_EVIDENCE = 8
"""Calls that a rate must rest on to be held for known; it is then right to one in eight."""

LONG_STRETCH = 20
"""Calls after which a new measurement starts; up to then the older calls make it the better."""

WORTHWHILE_RESET = 3.0
"""Seconds that a reset must lie ahead to be waited for: it comes in whole seconds, so that the wait for a nearer one is mostly rounding."""

FRESH = 0.05
"""Seconds since a request went, within which its answer tells what is left now: a workflow that takes longer tells of the past."""

CLIMB = 1.0
"""Part of the hold in which the pace first doubles while the rate is unknown: long enough to count a few refills on the way, short beside
what the hold itself costs."""

FEW_MISSES = 10
"""Measurements in a row that told too little, beyond which the next is not made longer still."""

FASTEST = 1e-6
"""Seconds between two requests at least: no server is faster, and it keeps the arithmetic away from zero."""

MAX_RESET = 60.0
"""Seconds for which a reset is waited for at most: limits are counted by the minute or faster, and clocks may differ."""

MIN_ORDER = 0.001
"""Seconds. A pause that is shorter is none, and would make of the pace a number beyond all bounds."""

LATE = 0.01
"""Seconds by which a timer may wake late; a request later than that was not waiting for the gate."""

PATIENCE = 200
"""Calls after which the pace is above the rate at the latest, where 429s order no pauses: one or two refused then are one in a hundred."""

REMEMBERED = 1000
"""Times of requests that are kept: more would not make a measurement better, and memory stays bounded."""


class Ticket(NamedTuple):
    """Stands for a request that went through the gate.

    Attributes:
        number: The number of the request, from 1.
        time: When it went, in seconds of the caller's clock.
    """

    number: int
    time: float


class Gate:
    """Paces the requests of all workers of a batch. Not safe for threads: the caller holds a lock.

    Args:
        longest_hold: Seconds to hold off at most where the server orders no pause.

    Attributes:
        rate: Requests a second that the server was measured to take, or ``None`` while that is not known.

    Example:
        >>> gate = Gate(30.0)
        >>> ticket = gate.sent(now=5.0)
        >>> gate.refused(ticket, now=5.25, retry_after=1.0)
        >>> gate.wait(now=5.5)
        0.75
    """

    def __init__(self, longest_hold: float) -> None:
        self.rate: Optional[float] = None
        self._longest_hold = max(longest_hold, FIRST_HOLD)
        self._next = -inf  # when the next request may go
        self._gap = 0.0  # seconds between two requests; 0 while no limit was met
        self._doubling = inf  # seconds of steady requests in which the pace doubles
        self._quickening = 1.0  # factor of that for each request
        self._at_once = 0  # requests that may go without a gap
        self._last = Ticket(0, 0.0)
        self._held = 0  # number of the last request that went before the newest hold
        self._held_at = 0.0  # when it began
        self._hold = FIRST_HOLD  # how long it was to last
        self._ordered = False  # whether the server ordered it
        self._order = 0.0  # the newest pause that the server ordered
        self._holding = False  # whether no request has gone since
        self._misses = 0  # measurements in a row that told too little
        # What the measurement rests on, since the bucket was last found empty:
        self._since: Optional[float] = None
        self._counted_from = 0  # number of the last request before it
        self._accepted = 0
        self._pause = 0.0  # the ordered pause with which it began
        self._times: Deque[float] = deque(maxlen=REMEMBERED)  # when its requests went
        # What was accepted before the first 429, and the seconds that it took:
        self._burst = 0.0
        self._burst_time: Optional[float] = None

    def wait(self, now: float) -> float:
        """Say how many seconds the next request has to wait: 0 where it may go."""
        return max(0.0, self._next - now)

    def sent(self, now: float) -> Ticket:
        """Take note of a request that goes now, and give its ticket."""
        if self._holding:
            self._holding = False
            self._set_pace()
        if self._since is None:
            self._since = now
        if self._at_once:
            self._at_once -= 1
        elif self._gap:
            gap = self._gap
            if now - self._next <= gap + LATE:  # else the gate was not what held it back
                self._gap = max(gap / 2 ** min(1.0, gap / self._doubling), FASTEST)
                self._doubling = max(self._doubling * self._quickening, FASTEST)
            self._next = max(self._next + gap, now)
        self._times.append(now)
        self._accepted += 1
        self._last = Ticket(self._last.number + 1, now)
        return self._last

    def told(self, ticket: Ticket, now: float, remaining: int, reset: float) -> None:
        """Take note of what the headers of an answer tell of the rate limit.

        Args:
            ticket: The request's.
            now: The time in seconds.
            remaining: Requests that are left, by the headers.
            reset: Seconds from now until the limit starts anew, by the headers.
        """
        if remaining > self._last.number - ticket.number:
            return
        # Those under way take what is left.
        if reset >= WORTHWHILE_RESET:
            self._empty(ticket, now, min(reset, MAX_RESET))
        elif self._gap and self.rate is None and now - ticket.time < FRESH and self._measured()[1] >= GOOD_EVIDENCE:
            self._empty(ticket, now, None)  # all that a 429 would tell is known

    def refused(self, ticket: Ticket, now: float, retry_after: Optional[float]) -> None:
        """Take note of a 429.

        Args:
            ticket: The request's.
            now: The time in seconds.
            retry_after: The pause in seconds that the server orders, if any.
        """
        if ticket.number > self._counted_from:
            self._accepted -= 1
        elif self._burst_time:  # a late one of the first burst
            self._burst = max(0.0, self._burst - 1)
        self._empty(ticket, now, retry_after if (retry_after or 0.0) >= MIN_ORDER else None)

    def _empty(self, ticket: Ticket, now: float, pause: Optional[float]) -> None:
        if ticket.number <= self._held:  # it was on its way when the hold began, and tells nothing new
            self._next = max(self._next, now + (pause or 0.0))
            return
        if pause is not None:
            self._hold = max(pause, FASTEST)
        elif self._accepted <= 0:
            self._hold = min(2 * self._hold, self._longest_hold)
        else:
            seconds = FIRST_HOLD if self._burst_time is None else 2 / self._measured()[0]  # for one token, and one in reserve
            self._hold = min(max(seconds, now - ticket.time), self._longest_hold)  # and for the other refusals to arrive
        self._ordered = pause is not None
        self._order = pause or self._order
        self._holding = True
        self._held = self._last.number
        self._held_at = now
        self._next = now + self._hold

    def _measured(self) -> Tuple[float, int]:
        """Give the rate, and the number of calls that it rests on."""
        span = max(self._last.time - (self._since or 0.0), 1e-6)
        rate = self._accepted / span
        evidence = 0 if rate * self._pause > self._burst else self._accepted  # in such a pause the bucket ran over
        times = list(self._times)[: self._accepted + 1]  # the refused ones are the last
        least = ceil(self._burst) + GOOD_EVIDENCE
        for calls in range(least, len(times)):
            time = times[-1] - times[-1 - calls]
            steady = (calls - self._burst) / max(time - (self._burst_time or 0.0), time / 2, 1e-6)
            if steady > rate:
                rate, evidence = steady, int(calls - self._burst)
        return rate, evidence

    def _set_pace(self) -> None:
        """Go on after a hold, at a pace by what was measured before it."""
        pause = self._hold if self._ordered else 0.0
        self._at_once = 0
        if self._burst_time is None:
            self._burst = max(0.0, self._accepted)
            self._burst_time = self._held_at - (self._since or 0.0)
            self._climb(FIRST_GUESS * max(1.0, self._burst) / pause if pause else 1 / FIRST_HOLD)
        elif self._accepted <= 0:
            self._climb(1 / self._hold)
            return
        else:
            rate, evidence = self._measured()
            if self._pause:
                self._burst = min(self._burst, self._accepted)
            self._burst = max(1.0, self._burst - rate * self._burst_time)
            self._burst_time = 0.0
            if evidence < GOOD_EVIDENCE and self._pause:
                self._misses += 1
                self._climb(sqrt(rate / self._gap))  # the pace at the end was too high
            else:
                self._misses = 0
                self._cruise(rate, evidence, pause)
            if not pause and self._accepted < LONG_STRETCH:
                return
        self._since = self._last.time
        self._counted_from = self._last.number
        self._accepted = 0
        self._pause = pause
        self._times.clear()

    def _climb(self, pace: float) -> None:
        """Look for an unknown rate: from a pace upwards, the more slowly the more often that failed."""
        self.rate = None
        self._gap = max(1 / pace, FASTEST)
        self._quickening = 1.0
        self._doubling = max(CLIMB * self._hold, self._gap) * 2 ** min(self._misses, FEW_MISSES)

    def _cruise(self, rate: float, evidence: int, pause: float) -> None:
        """Use a known rate: from just below it upwards, so slowly that the next 429 is worth its cost."""
        self.rate = rate
        margin = MARGIN_AFTER_ORDER if pause else MARGIN
        self._gap = 1 / (rate * (1 - margin))
        calls = min(self._accepted * min(3.0, evidence / 10), PATIENCE)  # until the pace is above the rate
        if self._order or evidence >= LONG_STRETCH:
            calls = max(calls, (1 + rate * self._order) / COST)
        self._doubling = calls / rate / -log2(1 - margin)
        self._quickening = 1 - 1 / max(calls, 1 / COST)
        self._at_once = int(min(self._burst, rate * pause) / 2)
