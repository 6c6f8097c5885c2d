"""Retries: the delays, and the loop with a fake clock and fixed random numbers."""

import inspect
import logging
import math
import re
import sys
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawserver import answers, http
from recall_sdk import ExecutionError, RateLimitError, RecallClient, RecallConnectionError, ServerError, UsageLimitError
from recall_sdk._arguments import MAX_TIMEOUT
from recall_sdk.retry import MAX_RETRY_AFTER, Backoff, call_with_retry
from recall_sdk.testing import RecallServer

HIGHEST_ROLL = math.nextafter(1.0, 0.0) if sys.version_info >= (3, 9) else 1.0 - 2.0**-53

delays = st.floats(0, sys.float_info.max)
multipliers = st.floats(1, sys.float_info.max)
rolls = st.floats(0, 1, exclude_max=True)
retries = st.integers(0, 10**6)


def limited(retry_after=None):
    error = RateLimitError("slow down", "RATE_LIMIT_EXCEEDED", 429)
    error.retry_after = retry_after
    return error


class Story:
    """A call that fails a number of times, then returns; it records the sleeps."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.calls = 0
        self.slept = []

    def __call__(self):
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"

    def run(self, backoff=None, random=lambda: 0.5):
        backoff = backoff or Backoff(3, 1.0, 30.0, 2.0)
        return call_with_retry(self, backoff, sleep=self.slept.append, random=random)


# -------------------------------------------------------------------------------------------------------- the arithmetic


def test_backoff_doubles_up_to_maximum():
    """Without jitter, the documented settings give 1, 2, 4, 8, 16 seconds, and then max_delay."""
    backoff = Backoff(9, initial_delay=1.0, max_delay=30.0, multiplier=2.0)
    assert [backoff.delay(retry, lambda: 0.5) for retry in range(6)] == [1.0, 2.0, 4.0, 8.0, 16.0, 26.25]


@pytest.mark.parametrize(("random_number", "delay"), [(0.0, 3.0), (0.5, 4.0), (HIGHEST_ROLL, 5.0)])
def test_backoff_jitter_is_a_quarter(random_number, delay):
    """The jitter changes a delay of 4 seconds to between 3 and 5."""
    assert Backoff(3, 1.0, 30.0, 2.0).delay(2, lambda: random_number) == pytest.approx(delay)


@given(delays, delays, multipliers, retries, rolls)
def test_backoff_delay_is_within_formula(initial, max_delay, multiplier, retry, random_number):
    """With d = min(max_delay, initial * multiplier ** n), a delay is in [0.75 d, min(1.25 d, max_delay)], also where powers overflow."""
    max_delay = min(max_delay, MAX_TIMEOUT)
    try:
        power = multiplier**retry
    except OverflowError:
        power = math.inf
    ideal = min(max_delay, initial * power) if initial else 0.0
    delay = Backoff(1, initial, max_delay, multiplier).delay(retry, lambda: random_number)
    assert 0 <= 0.75 * ideal <= delay <= min(1.25 * ideal, max_delay)


@given(delays, delays, multipliers, retries, rolls)
def test_backoff_never_exceeds_maximum(initial, max_delay, multiplier, retry, random_number):
    """No delay is below 0 or above max_delay, and the machine can sleep each."""
    assert 0 <= Backoff(1, initial, max_delay, multiplier).delay(retry, lambda: random_number) <= min(max_delay, MAX_TIMEOUT)


@given(retries, rolls)
def test_backoff_without_initial_delay_is_zero(retry, random_number):
    """An initial delay of 0 stays 0."""
    assert Backoff(1, 0.0, 30.0, 1e300).delay(retry, lambda: random_number) == 0.0


@given(st.floats(0, MAX_RETRY_AFTER), delays, rolls)
def test_retry_after_replaces_delay(retry_after, max_delay, random_number):
    """A Retry-After is neither limited by max_delay nor jittered."""
    assert Backoff(1, 1.0, max_delay, 2.0).wait_after(limited(retry_after), 0, lambda: random_number) == retry_after


def test_retry_after_above_an_hour_is_not_retried():
    """A Retry-After of an hour is waited for; a longer one is not retried."""
    backoff = Backoff(3, 1.0, 30.0, 2.0)
    assert backoff.wait_after(limited(3600.0), 0, lambda: 0.5) == 3600.0
    assert backoff.wait_after(limited(3600.1), 0, lambda: 0.5) is None


# -------------------------------------------------------------------------------------------------------------- the loop


def test_call_with_retry_until_success():
    """Each 429 is followed by a wait and a retry."""
    story = Story(limited(), limited(7.0), limited())
    assert story.run() == "done"
    assert (story.calls, story.slept) == (4, [1.0, 7.0, 4.0])


def test_call_with_retry_raises_after_last_retry():
    """After max_retries, the last RateLimitError is raised without a wait."""
    failures = [limited() for _ in range(5)]
    story = Story(*failures)
    with pytest.raises(RateLimitError) as caught:
        story.run()
    assert caught.value is failures[3]
    assert (story.calls, story.slept) == (4, [1.0, 2.0, 4.0])


def test_call_with_retry_without_retries_calls_once():
    """max_retries=0 means one attempt."""
    story = Story(limited())
    with pytest.raises(RateLimitError):
        story.run(Backoff(0, 1.0, 30.0, 2.0))
    assert (story.calls, story.slept) == (1, [])


def test_call_with_retry_does_not_wait_more_than_an_hour():
    """If the server asks for more than an hour, there is no retry."""
    story = Story(limited(3601.0))
    with pytest.raises(RateLimitError):
        story.run()
    assert (story.calls, story.slept) == (1, [])


def test_call_with_retry_does_not_repeat_what_may_have_executed():
    """A 429 after which the workflow may have run, as when an adapter of the user's sent the request twice, is raised at once."""
    failure = limited()
    failure.may_have_executed = True
    story = Story(failure)
    with pytest.raises(RateLimitError):
        story.run()
    assert (story.calls, story.slept) == (1, [])


@pytest.mark.parametrize("kind", [UsageLimitError, RecallConnectionError, ServerError, ExecutionError])
def test_call_with_retry_retries_only_rate_limits(kind):
    """A usage limit, a broken connection, a failed server or run is reported, not repeated."""
    story = Story(kind("no"))
    with pytest.raises(kind):
        story.run()
    assert (story.calls, story.slept) == (1, [])


def test_call_with_retry_logs_wait(caplog):
    """Each wait is one line at INFO of the logger recall_sdk."""
    with caplog.at_level(logging.INFO, logger="recall_sdk"):
        Story(limited()).run()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("recall_sdk", "INFO")
    assert record.getMessage() == "rate limited: retry 1 of 3 in 1.00 s"


# ------------------------------------------------------------------------------------------------------------ bad settings

SETTINGS = {"max_retries": 3, "initial_delay": 1.0, "max_delay": 30.0, "backoff_multiplier": 2.0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_retries", -1),
        *(("initial_delay", value) for value in (-0.1, math.nan, math.inf, -math.inf, 10**400)),
        *(("max_delay", value) for value in (-1, math.nan, math.inf)),
        *(("backoff_multiplier", value) for value in (0.99, 0, -2, math.nan, math.inf, 10**400)),
    ],
)
def test_backoff_rejects_setting_out_of_bounds(name, value):
    """An invalid retry setting is rejected with its name and value, before anything is sent (nothing listens here)."""
    client = RecallClient("a-key", "http://127.0.0.1:1")
    with pytest.raises(ValueError, match=f"{name} must be .*not {str(value)[:30]}"):
        client.execute_with_retry("workflow", **{**SETTINGS, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_retries", True), ("max_retries", 1.0), ("max_retries", None), ("initial_delay", "1"), ("max_delay", None), ("max_delay", True)],
)
def test_backoff_rejects_setting_of_wrong_type(name, value):
    """A bool, a str or None is rejected."""
    client = RecallClient("a-key", "http://127.0.0.1:1")
    with pytest.raises(TypeError, match=f"{name} must be an? .*not {type(value).__name__}"):
        client.execute_with_retry("workflow", **{**SETTINGS, name: value})


def test_retry_defaults_are_documented():
    """Three retries, from 1 second to 30, doubling."""
    parameters = inspect.signature(RecallClient.execute_with_retry).parameters
    assert {name: parameters[name].default for name in SETTINGS} == SETTINGS


def test_backoff_accepts_ints():
    """An int is accepted like a float."""
    assert Backoff(1, 1, 30, 2).delay(1, lambda: 0.5) == 2.0


# ------------------------------------------------------------------------------------------------------- over real sockets

FAILED_RUN = {"success": False, "output": {}, "error": "Second: field not found", "metadata": {"duration": 12}}


@pytest.fixture
def server():
    with RecallServer() as server:
        server.workflow("echo")(lambda input: input)
        yield server


@pytest.fixture
def client(server):
    return server.client()


def test_failed_run_is_never_sent_again(server, client):
    """A 429 with a failed run means that the run took place: neither a retry nor a batch sends it again."""
    server.respond_next(429, json=FAILED_RUN, times=4)
    with pytest.raises(ExecutionError, match="Second: field not found"):
        client.execute_with_retry("echo", initial_delay=0.0)
    (item,) = client.execute_batch([("echo", {})], initial_delay=0.0)
    assert isinstance(item.error, ExecutionError)
    assert item.error.may_have_executed is True
    assert len(server.requests) == 2


@pytest.mark.parametrize("minutes", [-10, 0, 10])
def test_retry_after_by_the_servers_clock(minutes, serve, connect):
    """A date is read by the server's clock, however wrong this machine's is."""
    now = time.time() + 60 * minutes
    headers = [f"Date: {formatdate(now, usegmt=True)}", f"Retry-After: {formatdate(now + 2, usegmt=True)}"]
    client = connect(serve(answers(http({"error": "slow down"}, *headers, status="429 Too Many Requests"))))
    with pytest.raises(RateLimitError) as caught:
        client.execute_workflow("echo")
    assert caught.value.retry_after == 2.0
    assert 1 <= client.get_rate_limit_info().reset - time.time() <= 3


def test_retry_after_moment(server, client):
    """A Retry-After in seconds since the epoch is a time."""
    server.respond_next(429, headers={"Retry-After": f"{time.time() + 2:.0f}"})
    with pytest.raises(RateLimitError) as caught:
        client.execute_workflow("echo")
    assert 0 <= caught.value.retry_after <= 4


def test_request_id_in_the_log(server, client, caplog):
    """The log line of a request has the server's request id."""
    server.respond_next(200, headers={"X-Request-Id": "r-1"}, json={"success": True, "output": 1})
    with caplog.at_level(logging.DEBUG, "recall_sdk"):
        client.execute_workflow("echo")
    (line,) = (record.getMessage() for record in caplog.records if record.name == "recall_sdk")
    assert re.fullmatch(r"POST /api/workflows/echo/execute 200 \[r-1\] \d+ ms", line)
