"""The limiter of a batch against simulated servers, on a simulated clock."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.limiter_grid import LATENCY, Bucket, Lump, simulate, window
from recall_sdk._limiter import KNOWN, MAX_RESET, Limiter


@pytest.mark.parametrize("latency", [0.001, 0.005, 0.02])
@pytest.mark.parametrize(("hint", "bar"), [("none", 1.10), ("exact", 1.10), ("whole seconds", 1.30)])
def test_limiter_uses_bucket_fully(hint, bar, latency):
    """Under 50 calls/s with a burst of 10, 400 calls take at most 1.10 of the bucket's time, 1.30 with ordered pauses; 3 % are rejected."""
    seconds, rejected = simulate(Bucket(50, 10), workers=16, run=0.0, hint=hint, calls=400, latency=latency)
    assert seconds <= bar * (400 - 10) / 50
    assert rejected <= 0.03 * 400


@pytest.mark.parametrize("hint", ["none", "whole seconds"])
@pytest.mark.parametrize("workers", [8, 32])
def test_limiter_counts_down_lump(hint, workers):
    """A bucket that is refilled once a minute is used fully at each refill, with few rejections."""
    seconds, rejected = simulate(Lump(20, 40, 60.0), workers=workers, run=0.5, hint=hint, calls=80)
    assert seconds < 1.05 * 120
    assert rejected <= 5


@pytest.mark.parametrize("run", [0.0, 0.5])
@pytest.mark.parametrize(("limit", "seconds"), [(10, 10.0), (100, 60.0)])
def test_limiter_counts_down_window(limit, seconds, run):
    """A fixed window is used fully in each window."""
    taken, rejected = simulate(window(limit, seconds), workers=16, run=run, hint="none")
    assert taken < 1.1 * max((math.ceil(200 / limit) - 1) * seconds, 200 / 16 * (LATENCY + run))
    assert rejected <= 0.1 * 200


@pytest.mark.parametrize("hint", ["none", "exact", "whole seconds"])
@pytest.mark.parametrize("rate", [1, 20])
@pytest.mark.parametrize("burst", [1, 60])
def test_limiter_learns_rate_from_refusals(rate, burst, hint):
    """If the server does not answer the question, slow and fast buckets, small and large, are still used reasonably."""
    seconds, rejected = simulate(Bucket(rate, burst), workers=16, run=0.0, hint=hint, answers=False)
    assert seconds < 3 * (200 - burst) / rate
    assert rejected <= 0.3 * 200


def test_limiter_without_limit_never_waits():
    """Without a 429 nothing waits after the first requests."""
    limiter = Limiter()
    for number in range(KNOWN):
        assert limiter.wait(float(number)) == 0.0
        limiter.sent(float(number))
    assert limiter.wait(float(number)) == 0.0
    limiter.sent(float(number))
    assert limiter.wait(float(number)) == 0.0


def test_limiter_late_429_measures_nothing():
    """A 429 of a request sent before the pause extends the pause if it has a Retry-After, and measures nothing."""
    limiter = Limiter()
    first, second = limiter.sent(0.0), limiter.sent(0.01)
    limiter.rejected(first, 0.02, 2.0)
    rate = limiter.rate
    limiter.usage(0.03, None)
    limiter.rejected(second, 0.03, None)
    assert limiter.wait(0.03) == pytest.approx(1.99)
    limiter.rejected(second, 0.03, 5.0)
    assert limiter.wait(0.03) == pytest.approx(5.0)
    assert limiter.rate == rate


def test_limiter_asks_twice_and_then_at_each_reset():
    """After a 429 it asks once, and again when a token should be available; then only at each reset."""
    limiter = Limiter()
    limiter.rejected(limiter.sent(0.0), 0.1, None)
    assert limiter.ask
    limiter.usage(0.2, (0, 10, 60.0))
    assert not limiter.ask
    assert limiter.wait(6.0) > 0
    assert not limiter.ask
    limiter.wait(7.0)
    assert limiter.ask
    limiter.usage(7.0, (0, 10, 53.2))
    assert limiter.wait(7.0) == pytest.approx(53.2, abs=0.1)
    assert not limiter.ask
    limiter.wait(60.3)
    assert limiter.ask
    limiter.usage(60.3, (2, 10, 59.9))
    for _ in range(2):
        assert limiter.wait(60.3) == 0.0
        limiter.sent(60.3)
    assert limiter.wait(60.3) > 50


def test_limiter_asks_once_if_one_request_is_missing():
    """If a single token is missing there is no time for a second question: the limit is treated as refilled at once."""
    limiter = Limiter()
    limiter.rejected(limiter.sent(0.0), 0.0, None)
    limiter.usage(0.1, (9, 10, 30.0))
    for _ in range(9):
        assert limiter.wait(1.0) == 0.0
        limiter.sent(1.0)
    assert limiter.wait(1.0) > 20


def test_limiter_takes_reported_rate():
    """A bucket's rate is what is missing over the seconds until it is full; as ``remaining`` is rounded down, it takes a little less."""
    limiter = Limiter()
    limiter.rejected(limiter.sent(0.0), 0.1, None)
    limiter.usage(0.2, (0, 11, 2.1))
    limiter.usage(0.5, (1, 11, 2.0))
    assert limiter.rate == pytest.approx(4.5)
    limiter = Limiter()
    limiter.rejected(limiter.sent(0.0), 0.1, None)
    limiter.usage(0.2, (0, 1, 0.5))
    assert 1.5 < limiter.rate < 2.0


def test_limiter_ignores_full_bucket():
    """An answer after which nothing is missing says neither how the limit is refilled nor how fast."""
    limiter = Limiter()
    limiter.rejected(limiter.sent(0.0), 0.0, None)
    limiter.usage(1.0, (10, 10, 0.0))
    assert limiter.wait(1.0) == 0.0
    assert limiter.rate is None


def test_limiter_compares_answers_of_one_episode_only():
    """If the second answer came when nothing was missing any more, the next 429 is followed by two questions again.

    Otherwise its first answer, with nothing remaining, would make a token bucket look like a limit that is refilled at once.
    """
    limiter = Limiter()
    limiter.rejected(limiter.sent(0.0), 0.0, None)
    limiter.usage(0.1, (1, 11, 1.0))
    limiter.usage(3.0, (11, 11, 0.0))
    limiter.rejected(limiter.sent(3.0), 3.0, None)
    limiter.usage(3.1, (0, 11, 1.1))
    limiter.usage(3.3, (2, 11, 0.9))
    assert limiter.rate == pytest.approx(80 / 9)


def test_limiter_waits_a_minute_at_most_for_a_reset():
    """A reset further ahead, as with a wrong clock, is asked for again after a minute."""
    limiter = Limiter()
    limiter.rejected(limiter.sent(0.0), 0.0, None)
    for moment in (0.0, 100.0):
        limiter.usage(moment, (0, 10, 3600.0))
    assert limiter.wait(100.0) <= MAX_RESET + 1


def test_limiter_waits_for_reset_in_headers():
    """If an answer reports that nothing remains until a reset some seconds ahead, the limiter waits; a nearer reset is mostly rounding."""
    limiter = Limiter()
    sent = limiter.sent(0.0)
    limiter.reported(sent, 0.1, 5, 30.0)
    limiter.reported(sent, 0.1, 0, 1.0)
    assert limiter.wait(0.1) == 0.0
    limiter.reported(sent, 0.1, 0, 30.0)
    assert limiter.wait(0.1) == pytest.approx(30.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["send", "refuse", "report", "usage", "none"]),
            st.floats(0, 100),
            st.one_of(st.none(), st.floats(0.001, 3600)),
            st.integers(0, 100),
            st.integers(0, 100),
        ),
        max_size=60,
    )
)
def test_limiter_wait_always_ends(events):
    """For any reports in any order, the wait is a finite number of seconds, and the rate is above 0."""
    limiter = Limiter()
    now, sent = 0.0, []
    for kind, seconds, pause, remaining, limit in events:
        now += seconds
        if kind == "send":
            sent.append(limiter.sent(now))
        elif kind == "refuse" and sent:
            limiter.rejected(sent.pop(), now, pause)
        elif kind == "report" and sent:
            limiter.reported(sent.pop(), now, remaining, pause or 0.0)
        elif kind == "usage":
            limiter.usage(now, (remaining, limit, pause or 0.0))
        elif kind == "none":
            limiter.usage(now, None)
        assert 0 <= limiter.wait(now) < 2 * 3600
        assert limiter.rate is None or limiter.rate > 0
