"""What servers report of their rate limits."""

from typing import NamedTuple


class Level(NamedTuple):
    """How many requests remain of a limit, and the seconds until the reset."""

    remaining: int
    limit: int
    seconds: float
