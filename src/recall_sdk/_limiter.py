"""When a batch may send its next request. This is pure arithmetic: the time is passed in.

The limiter believes what the server reports: two levels of ``remaining`` between which no reset passed tell how many requests flow in per
second, whoever else takes some, and a refusal is a level of 0. If nothing flows in before the reset, it sends what remains, waits for the
reset and asks again. A refusal although requests remain is about the number of runs at a time: then at most as many are in flight as were
running, and more are tried so rarely that the tries cost little. If the server does not say what remains, refusals are the only known
levels, and between them the rate creeps up, as in CUBIC (RFC 9438), but counted in requests. If nothing at all is accepted, or the reports
prove wrong, single requests at growing intervals find out when and how fast the server accepts again.
"""

from math import inf
from typing import Dict, List, NamedTuple, Optional, Tuple

FIRST_RATE = 100.0
"""Requests per second at first and after each refusal, so that a refusal is known before every worker has sent one."""

SAMPLE = 25
"""Requests until the measured rate is exceeded, and requests or seconds until the server is asked again: either costs about 4 %."""

ROUNDING = 3
"""Requests or seconds by which a report may be wrong: ``remaining`` and resets are rounded, and others send at the same time."""

CAUTION = 0.1
"""Share by which the rate is reduced after a refusal: room for the jitter of the network."""

FLOOR = 0.25
"""Minimum fraction of the rate that remains after a refusal if the limit holds one request: others may have taken it by chance."""

LONGEST = 60.0
"""Maximum seconds of each wait that the server has not ordered: most limits are per minute or shorter, and reports may be wrong."""


class Sent(NamedTuple):
    """A request that was sent: its number, from 1, and the time in seconds."""

    number: int
    time: float


class Limiter:
    """The limiter that all workers of a batch share.

    Attributes:
        ask: Whether to ask for the usage limits now, and to report them to :meth:`usage`. Until then nothing may be sent.
        rate: Requests per second that flow in: infinite until a refusal, 0 if all come at the reset.
        in_flight: By number, the time of each request without a response.
    """

    def __init__(self) -> None:
        self.ask, self.rate = False, inf
        self.in_flight: Dict[int, float] = {}
        self._refused: List[int] = []  # since the level was known
        # The last request, the last moment at which the level was known (how many requests remain), and the level now
        self._last, self._known, self._known_level = Sent(0, -inf), Sent(0, 0.0), 0.0
        self._level, self._updated, self._burst, self._was_full = inf, 0.0, 1.0, True
        # Refusals: the last request of the newest episode, which is a refusal and all that was sent before it was known
        self._episode_end, self._plateau = 0, float(SAMPLE)
        self._trip = self._resume = self._probe_pause = self._idle = 0.0
        # The number of runs at a time: unlimited, until a refusal is about it
        self._max_running, self._most_running, self._next_try, self._try_pause = inf, 0, 0.0, 0.0
        # Reports of the server: how many of the first two are there, and the last one; the seconds of the last question, infinite if the
        # server does not say; the least rate that was reported; and the reset, or when to ask again while nothing remains
        self._reports, self._report, self._asking_time, self._supposed_rate, self._reset = 0, Sent(-SAMPLE, -inf), 0.0, inf, inf

    def wait(self, now: float) -> float:
        """Return the seconds until the next request may be sent: 0 if it may be sent now, infinite if only :meth:`usage` helps."""
        pace, age = self._pace(self._last.number), now - self._report.time
        if pace < inf:
            self._level, self._updated = max(self._level, min(self._burst, self._level + (now - self._updated) * pace)), now
            self._was_full = self._was_full or self._level >= self._burst
        empty = self._level < 1 and not pace
        due = max(age, self._last.number - self._report.number) >= SAMPLE and age >= SAMPLE * max(self._trip, self._asking_time)
        if self._asking_time < inf and (now >= self._reset if empty else 0 < pace < inf and due):
            self.ask, self._report = True, Sent(self._last.number, now)
            return inf
        spacing = 1 / FIRST_RATE if self._last.number - self._episode_end < SAMPLE else 0.0
        until_token = self._reset - now if empty else (1 - self._level) / pace if self._level < 1 else 0.0
        return max(0.0, self._last.time + spacing - now, self._resume - now, until_token) or self._wait_for_run(now)

    def _pace(self, number: int) -> float:
        """Return the rate to send at: a little less than measured, then for a while as measured, then slowly more."""
        beyond = (number - max(self._known.number, self._episode_end)) / self._plateau - 1
        return self.rate * (1 + CAUTION * beyond**3)

    def _wait_for_run(self, now: float) -> float:
        """Return the seconds until one more may be in flight. While the tries of one more are not refused, the next one follows soon."""
        if len(self.in_flight) >= self._max_running and now >= self._next_try:
            self._max_running, self._next_try = self._max_running + 1, now + 2 * self._trip
        return self._next_try - now if len(self.in_flight) >= self._max_running else 0.0

    def sent(self, now: float) -> Sent:
        """Record that a request is sent, and return its record."""
        if self.rate == inf and not self.in_flight and now - self._last.time > SAMPLE / FIRST_RATE:
            self._known = Sent(self._last.number, now)  # the time without requests says nothing about the server's rate
        self._level, self._last = self._level - 1, Sent(self._last.number + 1, now)
        self.in_flight[self._last.number] = now
        return self._last

    def accepted(self, sent: Sent, now: float) -> None:  # noqa: ARG002 -- a response has a time
        """Record a response that is no 429."""
        del self.in_flight[sent.number]

    def rejected(self, sent: Sent, now: float, retry_after: Optional[float]) -> None:
        """Record a 429, and its ``Retry-After`` in seconds, if any."""
        del self.in_flight[sent.number]
        self._refused.append(sent.number)
        self._level, self._trip, pause = self._level + 1, now - sent.time, retry_after or 0.0
        self._resume = max(self._resume, now + pause)
        if sent.number <= self._episode_end:
            return
        running = sum(time < sent.time for time in self.in_flight.values())
        if running and (self._level >= ROUNDING if self._reset < inf else running >= self._most_running):
            self._try_pause = min(2 * self._try_pause, LONGEST) if running <= self._most_running else 2 * max(pause, self._trip)
            self._max_running, self._next_try = running, self._resume + self._try_pause
        else:
            self._refused_by_rate(sent, pause)
        self._most_running, self._episode_end = max(self._most_running, running), self._last.number

    def _refused_by_rate(self, sent: Sent, pause: float) -> None:
        """Measure the rate: when a request is refused, nothing remains."""
        nothing_accepted, pace = sent.number == self._episode_end + 1, self._pace(sent.number)
        gained, seconds = self._measure(sent, 0.0, keep=nothing_accepted)
        if self.rate == inf:
            self._burst, self.rate = max(1.0, gained), max(1.0, gained) / seconds
        elif self.rate and gained > 0 and not nothing_accepted:
            most = pace if self._was_full else min(pace, (gained + 1) / seconds)
            least = min(most, gained / seconds)
            if self._burst == 1:
                # Nothing is saved up: each of some accepted requests took what had flowed in since the one before, so the pace was right,
                # and others took what was missing later. A lower pace would only leave them more, while each refusal costs a long pause.
                least = max(least, most if gained >= ROUNDING and self._idle * self.rate >= ROUNDING else most * FLOOR)
            self.rate = (least * most) ** 0.5
            self._plateau = max(1, min(SAMPLE, gained))
        self._probe_pause = min(LONGEST, 2 * self._probe_pause or 2 / (self.rate or FIRST_RATE)) if nothing_accepted else 0.0
        self._resume = max(self._resume, sent.time + self._probe_pause)
        # During the rest of the pause the bucket is full, and nothing is sent.
        self._was_full, self._idle = self._was_full and nothing_accepted, max(0.0, pause - self._burst / self.rate) if self.rate else 0.0
        self._plateau += ROUNDING * self._idle * self.rate

    def _measure(self, moment: Sent, level: float, *, keep: bool) -> Tuple[float, float]:
        """Set the level, and return how many requests flowed in since it was last known, and in how many seconds."""
        refused = sum(self._known.number < number <= moment.number for number in self._refused)
        gained = level - self._known_level + moment.number - self._known.number - refused
        seconds = max(moment.time - self._known.time - self._idle, 1 / FIRST_RATE)
        reserve = level > 1 and self.rate > 0  # of a bucket, for the jitter of the network
        self._level, self._updated = level - reserve - sum(number > moment.number for number in self.in_flight), moment.time
        if not keep:
            self._known, self._known_level, self._idle = moment, level, max(0.0, min(self._idle, self._resume - moment.time))
            self._refused = [number for number in self._refused if number > moment.number]
        return gained, seconds

    def usage(self, now: float, limits: Optional[Tuple[int, int, float]]) -> None:
        """Record the usage limits: remaining requests, their limit, and seconds until the reset; ``None`` if the server does not say."""
        self.ask, self._asking_time = False, now - self._report.time if limits else inf
        self.rate = self.rate or (0.0 if limits else inf)  # nobody says any more when a limit is refilled at once
        if limits:
            # What remains is rounded down. If the next question may come before the next request, as the rate is so slow, a 0 takes nothing
            # back of what has flowed in already: otherwise nothing would ever be sent.
            accrued = min(self._level, 1.0) if self.rate < 2 / SAMPLE else -inf
            self._reported(self._report, limits[0], limits[1], min(limits[2], LONGEST) + self._asking_time / 2, 0)
            self._level = max(self._level, accrued)

    def reported(self, sent: Sent, now: float, remaining: int, reset: float, limit: int) -> None:
        """Record the headers of a response: remaining requests, seconds until the reset, and the limit."""
        if sent.number > self._report.number and (self._reports != 1 or sent.time >= self._reset):
            self._report = sent
            self._reported(sent, remaining, limit, min(reset, LONGEST) + now - sent.time, ROUNDING + now - sent.time)

    def _reported(self, moment: Sent, level: float, limit: float, seconds: float, least_seconds: float) -> None:
        """Take over what the server reports. Its numbers may be absurd, and rounded."""
        is_one, limit, seconds = limit == 1, max(1.0, min(limit, 1e9)), max(1 / FIRST_RATE, seconds)
        used = limit - max(0.0, min(level, limit))
        keep = self._known_level + self._known.number > 0 and (is_one or moment.number - self._known.number < SAMPLE)
        gained, span = self._measure(moment, limit - used, keep=keep)
        if self._reports == 2 and not self.rate and moment.time >= self._reset:
            self._level = max(1.0, self._level)  # a single request finds out if the report is wrong
        self._burst, self._reset = max(1.0, limit - 1.0), moment.time + seconds + self._trip
        if is_one and used:
            # One request flows in at this rate, all at once or not. The rate seems higher if a part of it is there, or lower by rounding.
            self._supposed_rate = min(self._supposed_rate, (1 - CAUTION) * used / seconds)
            self.rate = self._supposed_rate if seconds >= max(ROUNDING, least_seconds) else max(self.rate, self._supposed_rate)
        elif not self._reports and used and self._level < 1 and seconds >= least_seconds:
            # Either the limit is refilled at this rate, and then one request more remains soon; or all at once at the reset.
            self._reports, self.rate, self._supposed_rate, self._reset = 1, 0.0, used / seconds, moment.time + seconds / used + self._trip
        elif self._reports == 1:
            self._reports, self.rate = 2, min(self._supposed_rate, used / seconds if used else inf) if gained >= 1 else 0.0
        elif gained >= 2 and not keep and self.rate:
            # A full bucket says only that the rate is too low
            self.rate = 2 * self.rate if used <= 1 else min(max(self.rate, (gained - 1) / span), (gained + 1) / span)
