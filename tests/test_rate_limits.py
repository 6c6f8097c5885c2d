"""Read the times and limits that servers name, in every form, and by the server's clock."""

import json
import math
import time
from datetime import datetime, timezone
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_responses import NOW, USAGE, response_of
from recall_sdk import RateLimitInfo
from recall_sdk._rate_limits import Level, rate_limit_info, reported_level, retry_after, usage_level, with_limit

GENEROUS = 2.0
"""Seconds of CPU time for what takes microseconds if it is bounded, and hours if it is not."""


def wait(value, date=None, body=None):
    """Read a Retry-After header."""
    headers = {"Retry-After": value, "Date": date}
    return retry_after(response_of(headers={name: text for name, text in headers.items() if text is not None}), body)


def limits(**fields):
    """Make headers of a rate limit."""
    return {f"X-RateLimit-{name}": value for name, value in fields.items()}


def date(offset):
    """Make a Date header of a clock that differs from ours by some seconds."""
    return formatdate(NOW + offset, usegmt=True)


# ------------------------------------------------------------------------------------------------------- retry-after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("1.5", 1.5),
        ("86400", 86_400.0),
        ("3, 9", 3.0),
        ("9, " * 30_000, 9.0),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
        ("Fri, 15 Jan 2027 10:01:00 +0200", 60.0),
        ("Friday, 15-Jan-27 08:01:00 GMT", 60.0),
        ("Fri Jan 15 08:01:00 2027", 60.0),
        ("2027-01-15T08:01:00Z", 60.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sat, 01 Jan 1000 00:00:00 GMT", 0.0),
        *(
            (none, None)
            for none in ("", "soon", "-5", "nan", "inf", "1_0", "1e3", "Nov Z , .", "Jan 1 , 2", "99 Jan 99999999 99:99:99 GMT", "\u00b2")
        ),
    ],
)
def test_retry_after_forms(value, seconds):
    """Seconds, also with a fraction, and the three forms of an HTTP date (RFC 9110, section 5.6.7), are read; others are None."""
    assert wait(value) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1800000002", 2.0), ("1800000002000", 2.0), ("1799999995", 0.0), ("999999999", 999999999.0), ("100000000000", 0.0)],
)
def test_retry_after_moment(value, seconds):
    """A number of 1e9 or more is a time in seconds since the epoch, and one of 1e11 or more in milliseconds."""
    assert wait(value) == seconds


@pytest.mark.parametrize("offset", [600, -600, 1, 0])
@pytest.mark.parametrize("form", [lambda offset: date(offset + 2), lambda offset: f"{NOW + offset + 2:.0f}"])
def test_retry_after_by_the_servers_clock(form, offset):
    """A moment is read by the server's own Date, however wrong this machine's clock is."""
    assert wait(form(offset), date(offset)) == 2.0


def test_retry_after_in_seconds_needs_no_clock():
    """A number of seconds does not depend on the Date, which may be unreadable."""
    assert wait("7", "soon") == wait("7", date(600)) == 7.0
    assert wait(date(60), "soon") == 60.0


def test_retry_after_date_is_not_rounded_down():
    """The time until a date keeps its fraction of a second."""
    assert retry_after(response_of(headers={"Retry-After": date(60)}, received=NOW + 0.25)) == 59.75


@pytest.mark.parametrize(
    ("header", "body", "seconds"),
    [
        (None, 5, 5.0),
        ("3", 5, 3.0),
        ("0", 5, 0.0),
        ("soon", 5, 5.0),
        (None, 0.5, 0.5),
        (None, "5", 5.0),
        (None, NOW + 5, 5.0),
        *((None, value, None) for value in (-1, 1e300, 10**400, math.nan, math.inf, True, None, [5])),
    ],
)
def test_retry_after_sources(header, body, seconds):
    """The header takes precedence over ``retryAfterSeconds`` in the body; what is no time is ignored."""
    assert wait(header, body={"retryAfterSeconds": body}) == seconds


@given(st.text(max_size=80), st.text(max_size=40))
def test_retry_after_accepts_any_text(value, clock):
    """Any header is parsed to seconds or None."""
    seconds = wait(value, clock)
    assert seconds is None or 0 <= seconds < math.inf


# ----------------------------------------------------------------------------------------------------- what is reported


@pytest.mark.parametrize(
    ("reset", "epoch"),
    [
        ("1800000060", 1_800_000_060),
        ("1800000060000", 1_800_000_060),
        ("1800000060500", 1_800_000_061),
        ("60", NOW + 60),
        ("0.5", NOW + 1),
        ("2027-01-15T08:01:00Z", 1_800_000_060),
        ("2027-01-15t08:01:00z", 1_800_000_060),
        ("2027-01-15 08:01:00", 1_800_000_060),
        ("2027-01-15T08:01", 1_800_000_060),
        ("2027-01-15T10:01:00+02:00", 1_800_000_060),
        ("2027-01-15T10:01:00+0200", 1_800_000_060),
        ("2027-01-15T10:01:00+02", 1_800_000_060),
        ("2027-01-15T06:31:00.000-01:30", 1_800_000_060),
        ("2027-01-15", NOW - 8 * 3600),
        ("2027-01-15T08:00:59.5Z", 1_800_000_060),
        ("2027-01-15T08:00:59,5Z", 1_800_000_060),
        ("2027-01-15T08:00:59.9999999Z", 1_800_000_060),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 1_800_000_060),
        ("nonsense", NOW),
        ("nan", NOW),
        ("-5", NOW),
        ("1e300", NOW),
        ("2027-13-15T08:01:00Z", NOW),
        ("2027-01-15T08:01:00+99:00", NOW),
        ("0000-01-01", NOW),
        ("", NOW),
    ],
)
def test_reset_forms(reset, epoch):
    """A reset of any form becomes seconds since the epoch; an unreadable one becomes now."""
    info = rate_limit_info(response_of(headers=limits(Limit="10", Reset=reset)))
    assert info == RateLimitInfo(10, 0, int(epoch))
    datetime.fromtimestamp(info.reset, tz=timezone.utc)


@pytest.mark.parametrize("reset", ["1800000030", "1800000030000", "2027-01-15T08:00:30Z"])
@pytest.mark.parametrize(("offset", "seconds"), [(0, 30), (-1, 30), (2, 30), (600, -570), (-600, 630)])
def test_reset_by_the_servers_clock(reset, offset, seconds):
    """A reset is converted to this machine's clock if the clocks differ by more than the rounding of a Date header."""
    assert rate_limit_info(response_of(headers={**limits(Reset=reset), "Date": date(offset)})).reset == NOW + seconds


def test_reset_in_seconds_from_now():
    """A reset in seconds from now does not depend on the server's clock."""
    assert rate_limit_info(response_of(headers={**limits(Reset="30"), "Date": date(600)})).reset == NOW + 30


def test_rate_limit_info_headers():
    """The headers are read by name in any case; unreadable numbers count as 0."""
    headers = {"x-ratelimit-limit": "50, 50;w=60", "x-ratelimit-remaining": "-1", "x-ratelimit-reset": "5"}
    assert rate_limit_info(response_of(headers=headers)) == RateLimitInfo(50, 0, int(NOW) + 5)


def test_rate_limit_info_absent():
    """Without headers there is no rate limit, unless a 429 has a retry-after."""
    assert rate_limit_info(response_of()) is None
    assert rate_limit_info(response_of(status=503), 5.0) is None
    assert rate_limit_info(response_of(status=429)) is None


def test_rate_limit_info_from_retry_after():
    """A 429 with only a retry-after has limit 0 and remaining 0; a part of a second counts as a whole one."""
    assert rate_limit_info(response_of(status=429), 1.5) == RateLimitInfo(0, 0, int(NOW) + 2, 2)


@pytest.mark.parametrize(
    ("headers", "level"),
    [
        (limits(Remaining="3", Reset="60", Limit="10"), Level(3, 10, 60.0)),
        (limits(Remaining="3, 20", Reset="1800000060", Limit="10, 100"), Level(3, 10, 60.0)),
        (limits(Remaining="0", Reset="2027-01-15T08:01:00Z"), Level(0, 0, 60.0)),
        (limits(Remaining="3", Reset="60"), Level(3, 3, 60.0)),
        (limits(Remaining="3", Reset="60", Limit="unlimited"), Level(3, 3, 60.0)),
        (limits(Remaining="3", Reset="1799999990", Limit="10"), Level(3, 10, 0.0)),
        ({}, None),
        (limits(Reset="60"), None),
        (limits(Limit="10", Reset="60"), None),
        *((limits(Limit="10", Reset="60", Remaining=said), None) for said in ("", "unlimited", "-1", "nan", "9" * 30, "1e3")),
        *((limits(Limit="10", Remaining="3", Reset=said), None) for said in ("", "soon", "-1")),
        (limits(Limit="10", Remaining="3"), None),
    ],
)
def test_reported_level(headers, level):
    """Only what the server really sent counts: without usable remaining requests and reset, no limit is known."""
    assert reported_level(response_of(headers=headers)) == level


# ----------------------------------------------------------------------------------------------------- the usage limits


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({"sync": {"remaining": 3, "maxBurst": 40, "resetAt": NOW + 20}}, Level(3, 40, 20.0)),
        ({"sync": {"remaining": 3.0, "limit": "40", "resetAt": "2027-01-15T08:00:20.000Z"}}, Level(3, 40, 20.0)),
        ({"sync": {"remaining": 3, "resetAt": 20}}, Level(3, 3, 20.0)),
        *(({"sync": {"remaining": 3, "limit": odd, "resetAt": 20}}, Level(3, 3, 20.0)) for odd in (10**400, -1, math.nan, True, [])),
        *(({"sync": {"remaining": odd, "limit": 40, "resetAt": 20}}, None) for odd in (10**400, -1, math.inf, True, "some", None)),
        *(({"sync": {"remaining": 3, "limit": 40, "resetAt": odd}}, None) for odd in (10**400, -1, math.nan, ":" * 32768, None, {})),
        ({"sync": {"remaining": 3, "limit": 40}}, None),
        ({"async": {"remaining": 3, "limit": 40, "resetAt": NOW + 20}}, None),
        ({"sync": None}, None),
        ([], None),
        (None, None),
    ],
)
def test_usage_level(fields, level):
    """A batch reads the remaining requests, of how many, and the seconds until the reset; absurd numbers count as absent."""
    body = {"success": True, "rateLimit": fields, "usage": {}}
    assert usage_level(response_of(USAGE, body=body), asynchronous=False) == (pytest.approx(level) if level else None)


def test_usage_level_of_queued_runs():
    """Queued runs have their own limits."""
    body = {"rateLimit": {"async": {"remaining": 3, "limit": 40, "resetAt": 20}}}
    assert usage_level(response_of(USAGE, body=body), asynchronous=True) == Level(3, 40, 20.0)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[" * 100_000, b"\xff", b'{"rateLimit": 5}', b'{"rateLimit": {"sync": ' + b"9" * 5000 + b"}}"]
)
def test_usage_level_of_other_bodies(body):
    """A body that holds no usage limits says nothing."""
    assert usage_level(response_of(USAGE, body=body), asynchronous=False) is None


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ({"limit": 5, "maxBurst": 9}, 5),
        ({"maxBurst": 9, "requestsPerMinute": 3, "remaining": -1}, 9),
        ({"requestsPerMinute": 3}, 3),
        ({"limit": None, "maxBurst": 9}, 9),
    ],
)
def test_with_limit(said, limit):
    """``maxBurst``, else ``requestsPerMinute``, replaces a missing limit; nothing else is changed."""
    assert with_limit(said) == {**said, "limit": limit}


@pytest.mark.parametrize("said", [{"remaining": 1}, {}, "api", None, [1]])
def test_with_limit_unknown(said):
    """Without any of the known fields the value is unchanged."""
    assert with_limit(said) == said


# ------------------------------------------------------------------------------------------------------- hostile values

HOSTILE = [
    *(character * 32768 for character in (":", " ", "0", "9", "-", "+", ",", ".", "T", "\t", "1:", "0.", "Jan ", "(", '"', "Z", "-01")),
    "2027-01-15T08:00:00." + "9" * 32768,
    "2027-01-15T08:00:00" + "+00:00" * 8192,
    "1" * 5000,
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_times_of_any_length_are_read_at_once(value):
    """However long a header or a field is, only its start is parsed: the time does not grow with it."""
    body = {"rateLimit": {"sync": {"remaining": value, "limit": value, "resetAt": value}}, "retryAfterSeconds": value}
    headers = {**limits(Limit=value, Remaining=value, Reset=value), "Retry-After": value, "Date": value}
    start = time.process_time()
    response = response_of(status=429, headers=headers, body=body)
    rate_limit_info(response, retry_after(response, body))
    reported_level(response)
    usage_level(response, asynchronous=False)
    assert time.process_time() - start < GENEROUS


@given(st.floats(allow_nan=False) | st.integers(), st.text(max_size=70), st.none() | st.datetimes() | st.text(max_size=40))
def test_any_reset_is_parsed_or_ignored(number, text, clock):
    """Any reset becomes an int that can be converted to a date, whatever the server's clock shows."""
    headers = {"Date": formatdate(clock.replace(tzinfo=timezone.utc).timestamp()) if isinstance(clock, datetime) else clock or ""}
    for reset in (str(number), text):
        info = rate_limit_info(response_of(headers={**headers, **limits(Reset=reset)}))
        assert 0 <= info.reset < 250_000_000_000
        datetime.fromtimestamp(info.reset, tz=timezone.utc)
        body = {"rateLimit": {"sync": {"remaining": number, "resetAt": reset}}}
        level = usage_level(response_of(USAGE, headers=headers, body=json.dumps(body).encode()), asynchronous=False)
        assert level is None or (level.remaining >= 0 and 0 <= level.seconds < math.inf)
