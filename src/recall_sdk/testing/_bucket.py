"""A token bucket: the arithmetic of the stand-in server's rate limit. The clock is passed in."""


class TokenBucket:
    """Allows ``burst`` at once, and ``rate`` per second on average.

    Args:
        rate: Tokens that flow in per second.
        burst: Tokens that fit in; the bucket starts full.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._at = 0.0

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
        """Whole tokens that are left."""
        self._fill(now)
        return int(self._tokens)

    def seconds_to_one(self, now: float) -> float:
        """Seconds until there is a token to take."""
        self._fill(now)
        return max(0.0, (1 - self._tokens) / self.rate)

    def seconds_to_full(self, now: float) -> float:
        """Seconds until nothing is missing."""
        self._fill(now)
        return (self.burst - self._tokens) / self.rate

    def _fill(self, now: float) -> None:
        self._tokens = min(float(self.burst), self._tokens + (now - self._at) * self.rate)
        self._at = now
