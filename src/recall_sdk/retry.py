"""Retries after a 429: the delays, and the loop. The clock and the random numbers are passed in.

Only a 429 is retried, because only a 429 proves that the workflow did not start.
"""

import logging
from typing import Callable, Optional, TypeVar

from recall_sdk._arguments import MAX_TIMEOUT, check_count, check_number
from recall_sdk.errors import RateLimitError

__all__ = ["MAX_RETRY_AFTER", "Backoff", "call_with_retry"]

MAX_RETRY_AFTER = 3600.0
"""Seconds. If a server asks for a longer wait, the error is raised at once."""

JITTER = 0.25
"""Maximum change of a delay, as a fraction, so that clients that failed together do not retry together."""

_T = TypeVar("_T")
_log = logging.getLogger("recall_sdk")


class Backoff:
    """Exponential backoff with jitter.

    Args:
        max_retries: Retries after the first attempt; 0 or more.
        initial_delay: Delay before the first retry in seconds; 0 or more.
        max_delay: Maximum delay in seconds; 0 or more.
        multiplier: Factor from one delay to the next; 1 or more.

    Raises:
        ValueError: An argument is out of bounds, or not finite.
        TypeError: An argument is not a number.

    Example:
        >>> backoff = Backoff(3, initial_delay=1.0, max_delay=30.0, multiplier=2.0)
        >>> [backoff.delay(retry, random=lambda: 0.5) for retry in range(4)]
        [1.0, 2.0, 4.0, 8.0]

    See the reference page, "execute_with_retry()".
    """

    def __init__(self, max_retries: int, initial_delay: float, max_delay: float, multiplier: float) -> None:
        self.max_retries: int = check_count("max_retries", max_retries, least=0)
        self.initial_delay: float = check_number("initial_delay", initial_delay, least=0)
        self.max_delay: float = min(check_number("max_delay", max_delay, least=0), MAX_TIMEOUT)
        self.multiplier: float = check_number("backoff_multiplier", multiplier, least=1)

    def delay(self, retry: int, random: Callable[[], float]) -> float:
        """Return the delay before a retry.

        With ``d = min(max_delay, initial_delay * multiplier ** retry)`` the delay is uniformly distributed in
        ``[0.75 * d, min(1.25 * d, max_delay)]``.

        Args:
            retry: Number of the retry, from 0.
            random: Returns a number in [0, 1), as :func:`random.random` does.

        Returns:
            The delay in seconds.

        Example:
            >>> Backoff(3, initial_delay=1.0, max_delay=30.0, multiplier=2.0).delay(2, random=lambda: 0.5)
            4.0
        """
        try:
            ideal = min(self.max_delay, self.initial_delay * self.multiplier**retry)
        except OverflowError:
            ideal = self.max_delay if self.initial_delay else 0.0
        least, most = ideal * (1 - JITTER), min(ideal * (1 + JITTER), self.max_delay)
        return least + (most - least) * random()

    def wait_after(self, error: RateLimitError, retry: int, random: Callable[[], float]) -> Optional[float]:
        """Return how long to wait after a 429.

        Args:
            error: The 429.
            retry: Number of the retry that would follow, from 0.
            random: As for :meth:`delay`.

        Returns:
            Seconds, never less than the server asks for; ``None`` if there is no retry.

        Example:
            >>> error = RateLimitError("slow down")
            >>> error.retry_after = 7.0
            >>> backoff = Backoff(3, initial_delay=1.0, max_delay=5.0, multiplier=2.0)
            >>> backoff.wait_after(error, 0, random=lambda: 0.5)
            7.0
        """
        if retry >= self.max_retries or error.may_have_executed:  # an adapter may have sent the request before, too
            return None
        if error.retry_after is None:
            return self.delay(retry, random)
        return error.retry_after if error.retry_after <= MAX_RETRY_AFTER else None


def call_with_retry(call: Callable[[], _T], backoff: Backoff, *, sleep: Callable[[float], None], random: Callable[[], float]) -> _T:
    """Call a function until it does not raise :class:`RateLimitError`, or no retry remains.

    Args:
        call: The function, without arguments.
        backoff: The number of retries and their delays.
        sleep: Waits for the given seconds, as :func:`time.sleep` does.
        random: Returns a number in [0, 1), as :func:`random.random` does.

    Returns:
        The result of the call.

    Raises:
        RateLimitError: The last one, after all retries.

    Example:
        >>> statuses = iter([429, 200])
        >>> def call():
        ...     if next(statuses) == 429:
        ...         raise RateLimitError("slow down")
        ...     return "done"
        >>> backoff = Backoff(3, initial_delay=1.0, max_delay=30.0, multiplier=2.0)
        >>> call_with_retry(call, backoff, sleep=lambda seconds: print(f"wait {seconds} s"), random=lambda: 0.5)
        wait 1.0 s
        'done'
    """
    retry = 0
    while True:
        try:
            return call()
        except RateLimitError as error:
            wait = backoff.wait_after(error, retry, random)
            if wait is None:
                raise
        retry += 1
        _log.info("rate limited: retry %d of %d in %.2f s", retry, backoff.max_retries, wait)
        sleep(wait)
