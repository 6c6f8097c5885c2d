"""The limiter of a batch against simulated servers, on a simulated clock."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.limiter_grid import LATENCY, Bucket, Concurrent, Load, Lump, Noisy, simulate, unknown, window
from recall_sdk._batch import POLL_SECONDS
from recall_sdk._limiter import LONGEST, SAMPLE, Limiter

HINTS = ["none", "exact", "whole seconds"]


@pytest.mark.parametrize("latency", [0.001, 0.005, 0.02])
@pytest.mark.parametrize(("hint", "bar"), [("none", 1.10), ("exact", 1.10), ("whole seconds", 1.30)])
def test_limiter_uses_bucket_fully(hint, bar, latency):
    """Under 50 calls/s with a burst of 10, 400 calls take at most 1.10 of the least time, 1.30 with whole-second pauses."""
    outcome = simulate(Bucket(50, 10), Load(16, 0.0, hint, calls=400, latency=latency))
    assert outcome.seconds <= bar * (400 - 10) / 50
    assert outcome.rejected <= 0.04


@pytest.mark.parametrize("hint", ["none", "whole seconds"])
@pytest.mark.parametrize("workers", [8, 32])
def test_limiter_counts_down_lump(hint, workers):
    """A bucket that is refilled once a minute is used fully at each refill, with few rejections."""
    outcome = simulate(Lump(20, 40, seconds=60.0), Load(workers, 0.5, hint, calls=80))
    assert outcome.seconds < 1.05 * 120
    assert outcome.rejected <= 0.2


@pytest.mark.parametrize("run", [0.0, 0.5])
@pytest.mark.parametrize(("limit", "seconds"), [(10, 10.0), (100, 60.0)])
def test_limiter_counts_down_window(limit, seconds, run):
    """A fixed window is used fully in each window."""
    outcome = simulate(window(limit, seconds), Load(16, run))
    assert outcome.seconds < 1.1 * max((math.ceil(200 / limit) - 1) * seconds, 200 / 16 * (LATENCY + run))
    assert outcome.rejected <= 0.1


@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize("rate", [1, 20])
@pytest.mark.parametrize("burst", [1, 60])
def test_limiter_learns_rate_from_refusals(rate, burst, hint):
    """If the server says nothing about its limits, slow and fast buckets, small and large, are still used reasonably."""
    outcome = simulate(Bucket(rate, burst), Load(16, 0.0, hint, usage=unknown))
    assert outcome.seconds < 3 * (200 - burst) / rate
    assert outcome.rejected <= 0.5


@pytest.mark.parametrize("hint", HINTS)
def test_limiter_believes_headers(hint):
    """The levels in the headers of the responses do as well as the usage limits, which this server does not report."""
    outcome = simulate(Bucket(50, 10), Load(16, 0.0, hint, calls=400, usage=unknown, headers=True, latency=0.003))
    assert outcome.seconds <= 1.3 * (400 - 10) / 50
    assert outcome.asked <= 0.01


@pytest.mark.parametrize("batches", [2, 4])
@pytest.mark.parametrize("hint", ["none", "exact"])
def test_limiter_shares_bucket(batches, hint):
    """Several batches on one bucket use it together, as each believes what really flows in for it."""
    outcome = simulate(Bucket(20, 10), Load(16, 0.0, hint, batches=batches, calls=100))
    assert outcome.seconds < 3 * (100 * batches - 10) / 20
    assert outcome.rejected <= 0.5


def test_limiter_shares_bucket_with_others():
    """If others take half of what flows in, at random, the batch gets at least the other half."""
    outcome = simulate(Noisy(20, 20), Load(16, 0.0, calls=300))
    assert outcome.seconds < 1.2 * 2 * (300 - 20) / 20


def test_limiter_shares_limit_of_one_with_others():
    """If the limit holds one request, others take half of them at random and each refusal costs a second, the batch still gets its part."""
    seconds = []
    for seed in range(8):
        server = Noisy(50, 1)
        server.random.seed(seed)
        seconds.append(simulate(server, Load(8, 0.0, "whole seconds", calls=300)).seconds)
    assert statistics.median(seconds) < 18 * 2 * (300 - 1) / 50


@pytest.mark.parametrize("headers", [False, True])
def test_limiter_does_not_mistake_contended_limit_of_one_for_a_lump(headers):
    """If others take the one request that has flowed in before the second report, the limit still counts as one that is refilled."""
    limiter = Limiter()
    limiter.rejected(limiter.sent(0.0), 0.03, None)
    limiter.wait(0.03)
    for moment in (0.06, 0.3):
        if headers:
            limiter.reported(limiter.sent(moment), moment, 0, 0.2, 1)
        else:
            limiter.usage(moment, (0, 1, 0.2))
    assert limiter.rate > 2


def test_limiter_does_not_mistake_rounded_reset_for_rate_of_limit_of_one():
    """A reset that is rounded up to a whole second does not make a quick limit of one request slow."""
    outcome = simulate(Bucket(50, 1), Load(8, 0.0, usage=lambda limits: (limits[0], limits[1], math.ceil(limits[2])), headers=True))
    assert outcome.seconds < 10 * (200 - 1) / 50


@pytest.mark.parametrize(("rate", "then"), [(10, 100), (100, 10)])
def test_limiter_follows_rate(rate, then):
    """A rate that changes tenfold is followed."""
    bucket = Bucket(rate, 20, 5.0, then)
    calls = 20 + 5 * rate + 20 * then
    outcome = simulate(bucket, Load(16, 0.0, calls=calls))
    assert outcome.seconds < 2 * 25
    assert outcome.rejected <= 0.6


@pytest.mark.parametrize("hint", ["none", "exact", "zero"])
@pytest.mark.parametrize("usage", [Load().usage, unknown])
@pytest.mark.parametrize(("count", "run"), [(1, 0.1), (4, 1.0), (20, 1.0)])
def test_limiter_keeps_to_runs_at_a_time(count, run, usage, hint):
    """If the server limits the number of runs at a time, about as many are in flight, and tries of more are rare."""
    outcome = simulate(Concurrent(count=count), Load(32, run, hint, usage=usage, calls=300))
    assert outcome.seconds < 1.5 * 300 / count * (LATENCY + run) + 5
    assert outcome.rejected <= 0.2


@pytest.mark.parametrize(("count", "then"), [(4, 12), (12, 4)])
def test_limiter_follows_runs_at_a_time(count, then):
    """If the number of runs at a time changes, the batch follows within some pauses, and does not flood the server."""
    outcome = simulate(Concurrent(count=count, count_then=then, change_at=20.0), Load(32, 1.0, "exact", calls=600))
    assert outcome.seconds < 2 * (20 + (600 - 20 * count) / then)
    assert outcome.rejected <= 0.2


@pytest.mark.parametrize(
    ("usage", "most"),
    [
        (lambda limits: (limits[1], limits[1], 60.0), 2.0),
        (lambda limits: (59, 60, 60.0), 10.0),
        (lambda limits: (0, limits[1], 1.0), 30.0),
        (lambda limits: (10**400, 10**400, 1e308), 2.0),
        (lambda limits: (-1, 0, -1.0), 2.0),
        (lambda limits: (limits[0], limits[1], math.nan), 2.0),
        (lambda limits: (limits[0], limits[1], limits[2] * 10), 3.0),
        (lambda limits: (limits[0], limits[1], limits[2] / 10), 2.0),
    ],
)
def test_limiter_survives_misleading_reports(usage, most):
    """Usage limits of another limit, or of absurd numbers, cost some time but stall nothing."""
    outcome = simulate(Bucket(20, 20), Load(16, 0.0, usage=usage))
    assert outcome.seconds < most * (200 - 20) / 20


def rounded_up(limits):
    """Report the reset in whole seconds."""
    return limits[0], limits[1], math.ceil(limits[2])


def without_limit(limits):
    """Report the reset in whole seconds, and no limit: then what remains counts as the limit."""
    return limits[0], limits[0], math.ceil(limits[2])


@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize("limit", [0, 1, 2, 5, 100])
def test_limiter_ends_though_nothing_ever_remains(limit, headers):
    """A server that always says that nothing remains for the next minute, of a limit of one or more, ends a batch nevertheless."""

    def nothing(_limits):
        return 0, limit, LONGEST

    outcome = simulate(Bucket(20, 10), Load(16, 0.0, calls=20, usage=nothing, headers=headers, level=nothing, poll=POLL_SECONDS))
    assert outcome.seconds < 20 * 1.5 * LONGEST


@pytest.mark.parametrize("limit", [0, 1, 100])
def test_limiter_ends_though_nothing_ever_remains_of_a_slow_limit(limit):
    """The same holds if the server accepts one request in ten minutes: the measured rate is so low that many questions lie between."""
    load = Load(2, 0.0, "whole seconds", calls=5, usage=lambda _limits: (0, limit, LONGEST), poll=POLL_SECONDS)
    assert simulate(Bucket(1 / 600, 1), load).seconds < 1.1 * 4 * 600


@pytest.mark.parametrize("headers", [False, True])
def test_limiter_uses_limit_of_one_per_minute(headers):
    """The questions between two requests take nothing back of what has flowed in."""
    load = Load(2, 0.0, calls=10, headers=headers, level=rounded_up, poll=POLL_SECONDS)
    assert simulate(Bucket(1 / 60, 1), load).seconds < 1.2 * 9 * 60


def test_limiter_does_not_mistake_unknown_limit_for_limit_of_one():
    """If the server does not say the limit, the rule for a limit of one request does not apply when nothing remains."""
    load = Load(8, 0.0, calls=120, usage=unknown, headers=True, level=without_limit, poll=POLL_SECONDS)
    assert simulate(window(100, 10.0), load).seconds < 1.2 * 10


@pytest.mark.parametrize(("workers", "run"), [(8, 0.0), (16, 2.0)])
def test_limiter_is_not_held_up_by_false_headers_without_limit(workers, run):
    """Headers that always say that nothing remains for a minute, without a limit, cost at most half a minute for each request."""
    load = Load(workers, run, calls=120, usage=unknown, headers=True, level=lambda _limits: (0, 0, 60.0), poll=POLL_SECONDS)
    assert simulate(Bucket(20, 10), load).seconds < 120 * 60 / 2


@pytest.mark.parametrize("hint", ["none", "whole seconds"])
@pytest.mark.parametrize("run", [2.0, 3.0])
def test_limiter_does_not_mistake_run_for_reset_of_limit_of_one(run, hint):
    """A reset that was near when the run started does not count as far ahead because the run was long."""

    def at_start(limits):
        return limits[0], limits[1], math.ceil(limits[2]) + run

    load = Load(16, run, hint, calls=120, headers=True, level=at_start, poll=POLL_SECONDS)
    assert simulate(window(1, 1.0), load).seconds < 1.3 * 120


@pytest.mark.parametrize("headers", [False, True])
def test_limiter_does_not_mistake_slow_question_for_rate(headers):
    """A question about the usage limits that takes seconds is neither measured as a low rate nor asked often."""
    outcome = simulate(Bucket(50, 10), Load(16, 0.0, calls=400, asking=100.0, headers=headers))
    assert outcome.seconds < 2 * (400 - 10) / 50


def test_limiter_without_limit_never_waits():
    """Without a 429 nothing waits after the first requests."""
    limiter = Limiter()
    for number in range(1, SAMPLE + 1):
        assert limiter.wait(float(number)) == 0.0
        limiter.sent(float(number))
    assert limiter.wait(float(number)) == 0.0
    limiter.accepted(limiter.sent(float(number)), float(number))
    assert limiter.wait(float(number)) == 0.0


def test_limiter_late_429_measures_nothing():
    """A 429 of a request sent before the first one was known extends the pause if it has a Retry-After, and measures nothing."""
    limiter = Limiter()
    first, second = limiter.sent(0.0), limiter.sent(0.01)
    limiter.rejected(first, 0.02, 2.0)
    rate = limiter.rate
    limiter.usage(0.03, None)
    limiter.rejected(second, 0.03, None)
    assert limiter.wait(0.03) == pytest.approx(1.99)
    assert limiter.rate == rate
    third, fourth = limiter.sent(3.0), limiter.sent(3.0)
    limiter.rejected(third, 3.1, None)
    limiter.rejected(fourth, 3.1, 5.0)
    assert limiter.wait(3.1) == pytest.approx(5.0)


def test_limiter_asks_twice_and_then_at_each_reset():
    """After a 429 it asks once, and again when a token should be there; then only at each reset, and it sends what remains."""
    limiter = Limiter()
    limiter.rejected(limiter.sent(0.0), 0.1, None)
    assert limiter.wait(0.1) == math.inf
    assert limiter.ask
    limiter.usage(0.2, (0, 10, 60.0))
    assert not limiter.ask
    assert 0 < limiter.wait(6.0) < 1
    assert limiter.wait(7.0) == math.inf
    limiter.usage(7.0, (0, 10, 53.2))
    assert limiter.wait(7.0) == pytest.approx(53.2, abs=0.2)
    assert limiter.wait(60.4) == math.inf
    limiter.usage(60.4, (2, 10, 59.9))
    for moment in (60.5, 60.6):
        assert limiter.wait(moment) == 0.0
        limiter.accepted(limiter.sent(moment), moment)
    assert limiter.wait(60.7) > 50


def test_limiter_takes_reported_rate():
    """If requests flow in before the reset, their rate is what is missing over the seconds until nothing is."""
    limiter = Limiter()
    limiter.rejected(limiter.sent(0.0), 0.1, None)
    limiter.wait(0.1)
    limiter.usage(0.1, (0, 11, 2.2))
    assert limiter.wait(0.5) == math.inf
    limiter.usage(0.5, (1, 11, 2.0))
    assert limiter.rate == pytest.approx(5.0)


def test_limiter_probes_once_if_nothing_remains_after_reset():
    """If the reset has passed and still nothing remains, one request finds out whether it is refused, too."""
    limiter = Limiter()
    limiter.rejected(limiter.sent(0.0), 0.0, None)
    now, sent = 0.0, 0
    for _ in range(40):
        delay = limiter.wait(now)
        if limiter.ask:
            limiter.usage(now, (0, 10, 1.0))
        elif delay:
            now += delay
        else:
            sent += 1
            limiter.rejected(limiter.sent(now), now, None)
    assert sent > 2


def test_limiter_probes_at_growing_intervals_if_nothing_is_accepted():
    """While nothing at all is accepted, single requests are sent at doubling intervals of at most a minute."""
    limiter, now, times = Limiter(), 0.0, []
    for _ in range(60):
        delay = limiter.wait(now)
        if limiter.ask:
            limiter.usage(now, None)
        elif delay:
            now += delay
        else:
            times.append(now)
            limiter.rejected(limiter.sent(now), now, None)
    pauses = [later - earlier for earlier, later in zip(times, times[1:])]
    assert pauses == pytest.approx(sorted(pauses))
    assert pauses[-1] == pytest.approx(LONGEST)
    assert len(pauses) > 10


def test_limiter_waits_a_minute_at_most_for_a_reset():
    """A reset further ahead, as with a wrong clock, is asked for again after a minute."""
    limiter = Limiter()
    limiter.rejected(limiter.sent(0.0), 0.0, None)
    for moment in (0.0, 100.0):
        limiter.wait(moment)
        limiter.usage(moment, (0, 10, 3600.0))
    assert limiter.wait(100.0) <= LONGEST + 1


def test_limiter_waits_for_reset_in_headers():
    """If a response reports that nothing remains until a reset some seconds ahead, the limiter waits; a nearer reset is mostly rounding."""
    limiter = Limiter()
    limiter.reported(limiter.sent(0.0), 0.1, 5, 30.0, 10)
    assert limiter.wait(0.1) == 0.0
    limiter.reported(limiter.sent(1.0), 1.1, 0, 1.0, 10)
    assert limiter.wait(1.1) == 0.0
    limiter.reported(limiter.sent(2.0), 2.1, 0, 30.0, 10)
    assert limiter.wait(2.1) > 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["send", "accept", "refuse", "report", "usage", "none"]),
            st.floats(0, 100),
            st.one_of(st.none(), st.just(0.0), st.floats(0.001, 3600)),
            st.integers(),
            st.one_of(st.integers(), st.just(10**400)),
        ),
        max_size=60,
    )
)
def test_limiter_wait_always_ends(events):
    """For any reports in any order, the wait is a finite number of seconds or one question, and no arithmetic fails."""
    limiter = Limiter()
    now, sent = 0.0, []
    for kind, seconds, pause, remaining, limit in events:
        now += seconds
        if kind == "send":
            sent.append(limiter.sent(now))
        elif kind == "accept" and sent:
            limiter.accepted(sent.pop(), now)
        elif kind == "refuse" and sent:
            limiter.rejected(sent.pop(), now, pause)
        elif kind == "report" and sent:
            limiter.reported(sent[-1], now, remaining, pause or 0.0, limit)
        elif kind in {"usage", "none"}:
            limiter.usage(now, None if kind == "none" else (remaining, limit, pause or 0.0))
        delay = limiter.wait(now)
        if limiter.ask:
            limiter.usage(now, None)
            delay = limiter.wait(now)
        assert 0 <= delay < 2 * 3600
        assert limiter.rate >= 0


@pytest.mark.parametrize("idle", [1.0, 60.0, 3600.0])
def test_limiter_does_not_take_idle_time_for_the_rate(idle):
    """A refusal after a time in which nothing was sent does not make the rate low: the next request waits seconds at most."""
    limiter = Limiter()
    limiter.accepted(limiter.sent(0.0), 0.03)
    limiter.rejected(limiter.sent(idle), idle + 0.03, None)
    limiter.usage(idle + 0.1, None)
    assert limiter.wait(idle + 0.1) < 1.0
