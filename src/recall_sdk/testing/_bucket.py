"""A token bucket: the arithmetic of the test server's rate limit. The clock is passed in."""

from math import ceil
from typing import Optional


class TokenBucket:
    """Allows ``burst`` at once, and ``rate`` per second on average.

    Args:
        rate: Tokens that flow in per second.
        burst: Tokens that fit in; the bucket starts full.
        interval: Seconds after which the tokens of that time flow in, all at once; ``None`` for a steady flow.
    """

    def __init__(self, rate: float, burst: int, interval: Optional[float] = None) -> None:
        self.rate = rate
        self.burst = burst
        self._interval = interval
        self._tokens = float(burst)
        self._at: Optional[float] = None  # when tokens were last added

    def take(self, now: float) -> bool:
        """Take one token, if there is one.

        Args:
            now: The time in seconds, on a clock that never goes back.
        """
        self._fill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def remaining(self, now: float) -> int:
        """Return the number of whole tokens in the bucket."""
        self._fill(now)
        return int(self._tokens)

    def seconds_to_one(self, now: float) -> float:
        """Return the seconds until there is a token to take."""
        return self._seconds_to(1, now)

    def seconds_to_reset(self, now: float) -> float:
        """Return the seconds until the bucket is full, or, if it is filled at intervals, until the next time."""
        if self._interval is None:
            return self._seconds_to(self.burst, now)
        return self._fill(now) + self._interval - now

    def _seconds_to(self, tokens: int, now: float) -> float:
        at = self._fill(now)
        seconds = max(0.0, tokens - self._tokens) / self.rate
        return seconds if self._interval is None or not seconds else at + ceil(seconds / self._interval) * self._interval - now

    def _fill(self, now: float) -> float:
        if self._at is None:
            self._at = now
        elapsed = now - self._at
        if self._interval is not None:
            elapsed = elapsed // self._interval * self._interval
        self._tokens = min(float(self.burst), self._tokens + elapsed * self.rate)
        self._at += elapsed
        return self._at
