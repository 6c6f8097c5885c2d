"""Read every time and every limit that a server names, in its headers or in a body.

No clock is used: a response holds the time of its arrival. A moment is read by the server's own clock, from its ``Date`` header, because
this machine's clock may be minutes off. Whatever is sent, at most 64 characters of it are parsed.
"""

import math
import re
from datetime import datetime
from email.utils import mktime_tz, parsedate_tz
from typing import Any, Iterable, NamedTuple, Optional

from recall_sdk._bodies import as_dict, as_number, json_or
from recall_sdk._response import Response
from recall_sdk.models import RateLimitInfo

EPOCH_THRESHOLD = 1e9
"""Seconds. A larger number is a time in seconds since the epoch (September 2001 or later); a smaller one is a duration."""

END_OF_TIME = 1e11
"""Seconds since the epoch: the year 5138. A larger number is a time in milliseconds."""

CLOCKS_AGREE = 2.0
"""Seconds by which the server's clock may differ from ours before a reset is shifted. A ``Date`` header has whole seconds."""

MAX_LENGTH = 64
"""Characters of a number or a date that are parsed."""

MAX_NUMBER = 1e15
"""A larger number is neither a time nor a count of requests."""


LIMIT_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


class Level(NamedTuple):
    """How many requests a server accepts until a reset.

    Attributes:
        remaining: The requests that remain.
        limit: All requests between two resets; ``remaining`` if the server does not say.
        seconds: Seconds until the reset, from the arrival of the response; 0 or more.
    """

    remaining: int
    limit: int
    seconds: float


def retry_after(response: Response, body: object = None) -> Optional[float]:
    """Return for how many seconds the server asks to wait: by its ``Retry-After`` header, else by ``retryAfterSeconds`` in the body."""
    times = map(_time, (response.headers.get("Retry-After"), as_dict(body).get("retryAfterSeconds")))
    time = next((time for time in times if time is not None), None)
    return time if time is None or time < EPOCH_THRESHOLD else max(0.0, time - _server_time(response))


def rate_limit_info(response: Response, retry_after: Optional[float] = None) -> Optional[RateLimitInfo]:
    """Read the rate limit from the head of a response, or return ``None`` if it reports none.

    Args:
        response: The response.
        retry_after: Seconds to wait, as :func:`retry_after` returns them.
    """
    limit, remaining, reset = map(response.headers.get, LIMIT_HEADERS)
    if (limit, remaining, reset) == (None, None, None) and (response.status != 429 or retry_after is None):
        return None
    until = _moment(reset, response) or response.received + (retry_after or 0.0)
    wait = None if retry_after is None else math.ceil(retry_after)
    return RateLimitInfo(_count(limit) or 0, _count(remaining) or 0, math.ceil(max(0.0, min(until, END_OF_TIME))), wait)


def reported_level(response: Response) -> Optional[Level]:
    """Read the level from the head of a response; ``None`` unless the server sent the remaining requests and the reset."""
    return _level(response, map(response.headers.get, LIMIT_HEADERS))


def usage_level(response: Response, *, asynchronous: bool) -> Optional[Level]:
    """Read the level from the account's usage limits; ``None`` unless they hold the remaining requests and the reset."""
    limits = as_dict(as_dict(json_or(response.read(), None)).get("rateLimit"))
    fields = as_dict(with_limit(limits.get("async" if asynchronous else "sync")))
    return _level(response, map(fields.get, ("limit", "remaining", "resetAt")))


def with_limit(limits: object) -> Any:
    """Fill in the ``limit`` of usage limits from the fields of other servers: what ``remaining`` counts down from, else the rate."""
    fields = as_dict(limits)
    known = [fields[name] for name in ("limit", "maxBurst", "requestsPerMinute") if fields.get(name) is not None]
    return {**fields, "limit": known[0]} if known else limits


def _level(response: Response, facts: Iterable[object]) -> Optional[Level]:
    limit, remaining, reset = facts
    count, moment = _count(remaining), _moment(reset, response)
    if count is None or moment is None:
        return None
    return Level(count, max(count, _count(limit) or 0), max(0.0, moment - response.received))


# --------------------------------------------------------------------------------------------------------- numbers and times

_NUMBER = r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(?:[,;]|$)"  # of several, separated by commas, the first counts


def _number(value: object) -> Optional[float]:
    match = re.match(_NUMBER, value[:MAX_LENGTH]) if isinstance(value, str) else None
    number = float(match[1]) if match else as_number(value)
    return number if number is not None and 0 <= number < MAX_NUMBER else None


def _count(value: object) -> Optional[int]:
    number = _number(value)
    return None if number is None else int(number)


def _moment(value: object, response: Response) -> Optional[float]:
    """Return a time in seconds since the epoch, on this machine's clock."""
    time = _time(value)
    if time is None or time < EPOCH_THRESHOLD:
        return None if time is None else response.received + time
    offset = _server_time(response) - response.received
    return time - offset if abs(offset) > CLOCKS_AGREE else time


def _server_time(response: Response) -> float:
    return _date(response.headers.get("Date") or "") or response.received


def _time(value: object) -> Optional[float]:
    """Return a time as seconds from now if it is below the threshold, else as seconds since the epoch, on the server's clock."""
    number = _number(value)
    if number is not None:
        return max(number / 1000, EPOCH_THRESHOLD) if number >= END_OF_TIME else float(number)
    date = _date(value) if isinstance(value, str) else None
    return None if date is None else max(date, EPOCH_THRESHOLD)  # an older date has passed, too


_ISO_DATE = (
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:[.,]([0-9]{1,30}))?(?:[Zz]|([+-][0-9]{2}):?([0-9]{2})?)?)?"
)


def _date(text: str) -> Optional[float]:
    """Parse a date of ISO 8601 or of HTTP (RFC 9110, section 5.6.7); without a zone it is UTC."""
    text = text[:MAX_LENGTH].strip()
    match = re.fullmatch(_ISO_DATE, text)
    try:
        if match is None:
            date = parsedate_tz(text)
            return date and mktime_tz((*date[:9], date[9] or 0))
        day, time, fraction, hours, minutes = match.groups()
        moment = datetime.fromisoformat(f"{day}T{time or '00:00'}{hours or '+00'}:{minutes or '00'}")
        return moment.timestamp() + float(f"0.{fraction or 0}")
    except (ValueError, OverflowError, TypeError, IndexError):  # odd dates raise any of these, depending on the version of Python
        return None
