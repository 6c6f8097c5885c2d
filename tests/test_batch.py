"""Batches against a real server: lazy, isolated, within the rate limit, and stopped when closed."""

import contextvars
import gc
import itertools
import json
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from datetime import datetime, timezone
from email.utils import formatdate

import pytest
import requests

from rawserver import answers, collect_quietly, envelope, http, needs_reference_counts
from recall_sdk import (
    AsyncExecutionResult,
    ExecutionError,
    InvalidRequestError,
    NotFoundError,
    RateLimitError,
    RecallClient,
    RecallConnectionError,
    RecallError,
    UsageLimitError,
    _batch,
)
from recall_sdk._batch import Batch
from recall_sdk._executors import Attempts
from recall_sdk.errors import build_error
from recall_sdk.retry import Backoff
from recall_sdk.testing import RecallServer

try:
    import _interpreters
except ImportError:  # before Python 3.13
    _interpreters = None

PATIENCE = 30.0

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def stand_in(**settings):
    """Make a server with the workflows of these tests."""
    server = RecallServer(**settings)
    server.workflow("echo")(lambda input: input)

    @server.workflow("fail")
    def fail(input):
        raise RuntimeError("boom")

    return server


@pytest.fixture
def server():
    """A test server without limits."""
    with stand_in() as server:
        yield server


def numbered(count):
    """Return items with distinct inputs."""
    return [("echo", {"number": number}) for number in range(count)]


def batch_threads():
    """Return the threads of batches that are still running."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("recall_sdk-batch")]


def wait_for_threads():
    """Wait until no thread of a batch is running: calls in flight finish, those of other tests too."""
    deadline = time.monotonic() + 6 * PATIENCE
    while batch_threads():
        frames = sys._current_frames()
        where = [traceback.format_stack(frames[thread.ident]) for thread in batch_threads() if thread.ident in frames]
        assert time.monotonic() < deadline, f"a thread of the batch did not end: {where}"
        gc.collect()  # the error of another test may refer to a batch that was not read to its end
        time.sleep(0.01)


@pytest.mark.parametrize("source", [list, tuple, iter, lambda items: (list(item) for item in items)])
def test_batch_yields_every_item_once(server, source):
    """Each item is yielded once, with its index, id, input and result, from any iterable."""
    items = list(server.client().execute_batch(source(numbered(50)), max_workers=4))
    assert sorted(item.index for item in items) == list(range(50))
    for item in items:
        assert (item.workflow_id, item.input, item.error) == ("echo", {"number": item.index}, None)
        assert item.result.output == {"number": item.index}
    assert server.executions["echo"] == 50
    wait_for_threads()


def test_batch_without_items(server):
    """A batch without items yields nothing."""
    assert list(server.client().execute_batch([])) == []


def test_batch_of_queued_runs(server):
    """With ``async_execution=True`` each result is a queued run."""
    items = list(server.client().execute_batch(numbered(3), async_execution=True))
    assert all(isinstance(item.result, AsyncExecutionResult) for item in items)


def test_batch_failure_stops_no_other_item(server):
    """Each item has its own error: a failed run, an unknown id, an invalid id, an input that is not JSON."""
    bad = [("fail", {}), ("unknown", {}), ("", {}), (7, {}), ("echo", {"when": object()})]
    items = sorted(server.client().execute_batch([*bad, *numbered(5)]), key=lambda item: item.index)
    kinds = [ExecutionError, NotFoundError, InvalidRequestError, InvalidRequestError, InvalidRequestError]
    assert [type(item.error) for item in items[:5]] == kinds
    assert [item.error.may_have_executed for item in items[:5]] == [True, False, False, False, False]
    assert isinstance(items[2].error.__cause__, ValueError)
    assert isinstance(items[3].error.__cause__, TypeError)
    assert items[4].error.code == "INVALID_JSON"
    assert all(item.result is None for item in items[:5])
    assert [item.result.output["number"] for item in items[5:]] == list(range(5))


@pytest.mark.parametrize("bad", ["no", ("a", "b", "c"), None, 5])
def test_batch_item_that_is_not_a_pair(server, bad):
    """An item that is not a pair raises TypeError in the reader, after the items in flight."""
    seen = []
    with pytest.raises(TypeError, match=r"item 2 of the batch is not a pair.*, such as \('greet', \{\}\): (str|tuple|NoneType|int)$"):
        seen.extend(item.index for item in iterate(server.client().execute_batch([*numbered(2), bad]), seen))
    assert sorted(seen) == [0, 1]


def iterate(items, seen):
    """Record each item before the end of all."""
    for item in items:
        seen.append(item.index)
    return ()


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be 1 or more"),
        ({"max_workers": True}, TypeError, "max_workers must be an int"),
        ({"max_workers": 2.0}, TypeError, "max_workers must be an int"),
        ({"executor": 5}, TypeError, "Executor, not int"),
        ({"async_execution": "false"}, TypeError, "async_execution must be a bool"),
        ({"max_retries": -1}, ValueError, "max_retries"),
        ({"timeout": 0}, ValueError, "timeout"),
    ],
)
def test_batch_rejects_invalid_settings(server, settings, kind, words):
    """Invalid settings are rejected by the call, before any item is taken."""
    with pytest.raises(kind, match=words):
        server.client().execute_batch(iter([]), **settings)
    with pytest.raises(TypeError, match="items must be an iterable of pairs of a workflow id and an input, not int"):
        server.client().execute_batch(5)


def test_batch_reads_endless_source_lazily(server):
    """The batch takes at most twice the workers ahead of the reader, and nothing before the first item is read."""
    drawn = itertools.count()
    latest = []

    def source():
        for number in drawn:
            latest.append(number)
            yield "echo", {"number": number}

    items = server.client().execute_batch(source(), max_workers=3)
    assert latest == []
    for read in range(1, 20):
        next(items)
        assert len(latest) <= read + 2 * 3
    items.close()
    wait_for_threads()


def test_batch_bounds_work_in_flight(server):
    """At most ``max_workers`` executions are in flight at once."""
    lock, now, most = threading.Lock(), [0], [0]

    @server.workflow("count")
    def count(input):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1

    assert len(list(server.client().execute_batch([("count", {})] * 40, max_workers=5))) == 40
    assert most[0] <= 5


def test_batch_yields_items_as_they_finish(server):
    """A slow item does not delay a quick one."""
    release = threading.Event()

    @server.workflow("slow")
    def slow(input):
        release.wait(PATIENCE)

    items = server.client().execute_batch([("slow", {}), *numbered(6)], max_workers=2)
    quick = [next(items).index for _ in range(6)]
    release.set()
    assert sorted(quick) == [1, 2, 3, 4, 5, 6]
    assert [item.index for item in items] == [0]


def test_batch_works_while_reader_is_busy(server):
    """Items are executed while the reader is busy."""
    items = server.client().execute_batch(numbered(8), max_workers=2)
    next(items)
    until = time.monotonic() + PATIENCE
    while server.executions["echo"] < 4 and time.monotonic() < until:
        time.sleep(0.01)
    assert server.executions["echo"] >= 4
    items.close()


def slow_source(server, drawn, count):
    """Yield items and record them in ``drawn``; after each, wait until the first has been executed, and a little longer."""
    for item in numbered(count):
        drawn.append(item)
        yield item
        until = time.monotonic() + PATIENCE
        while not server.executions["echo"] and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)


def test_batch_yields_while_source_is_slow(server):
    """With a slow source, a finished item is yielded before the batch has taken all that it may take ahead."""
    drawn = []
    items = server.client().execute_batch(slow_source(server, drawn, 40), max_workers=20)
    next(items)
    assert len(drawn) < 40
    items.close()


def test_batch_looks_ahead_although_item_has_finished(server, monkeypatch):
    """With a quick source, the batch first takes all that it may take ahead, so that its workers are busy while the reader is."""
    drawn = []
    monkeypatch.setattr(_batch, "POLL_SECONDS", PATIENCE)  # so that this source counts as quick
    items = server.client().execute_batch(slow_source(server, drawn, 40), max_workers=2)
    next(items)
    assert len(drawn) == 4
    items.close()


def test_batch_raises_error_of_source_last(server):
    """An exception of the source reaches the reader after the items in flight."""

    def source():
        yield from numbered(3)
        raise LookupError("no more")

    seen = []
    with pytest.raises(LookupError, match="no more"):
        iterate(server.client().execute_batch(source(), max_workers=2), seen)
    assert sorted(seen) == [0, 1, 2]
    wait_for_threads()


def test_batch_close_stops_queued_items(server):
    """Closing stops what is queued and does not wait for a slow server; calls in flight finish, and then their threads end."""
    release, started = threading.Event(), threading.Semaphore(0)

    @server.workflow("slow")
    def slow(input):
        started.release()
        release.wait(PATIENCE)

    items = server.client(timeout=60).execute_batch(itertools.chain(numbered(1), itertools.repeat(("slow", {}))), max_workers=3)
    assert next(items).index == 0
    assert started.acquire(timeout=PATIENCE)
    begin = time.monotonic()
    items.close()
    assert time.monotonic() - begin < 10
    release.set()
    wait_for_threads()
    assert server.executions["slow"] <= 2 * 3


@needs_reference_counts
def test_batch_without_references_stops(server):
    """A batch without references stops as if it were closed."""
    for item in server.client().execute_batch(itertools.repeat(("echo", {}))):
        assert item.result
        break
    until = time.monotonic() + PATIENCE
    while batch_threads() and time.monotonic() < until:
        time.sleep(0.01)
    wait_for_threads()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals for a thread")
def test_batch_stops_on_ctrl_c(server, ctrl_c):
    """Ctrl-C stops a waiting batch at once, and leaves nothing running."""
    release = threading.Event()

    @server.workflow("slow")
    def slow(input):
        threading.Timer(0.05, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
        release.wait(PATIENCE)

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(server.client(timeout=60).execute_batch([("slow", {})]))
    assert time.monotonic() - begin < 15
    release.set()
    wait_for_threads()


# ------------------------------------------------------------------------------------------------------ the rate limit


@pytest.mark.parametrize("settings", [{"retry_after": False}, {"dialect": "observed"}, {}])
def test_batch_uses_rate_limit_fully(settings):
    """400 calls with 16 workers under 50 calls/s with a burst of 10 all succeed, each once, in little more than the least possible time."""
    with stand_in(rate_limit=50, burst=10, **settings) as server:
        begin = time.monotonic()
        items = list(server.client().execute_batch(numbered(400), max_workers=16))
        seconds = time.monotonic() - begin
        assert [item.error for item in items if item.error] == []
        assert sorted(item.result.output["number"] for item in items) == list(range(400))
        assert server.executions["echo"] == 400
        assert len(server.requests) - 400 <= 40
        assert seconds < 5 * (400 - 10) / 50  # nox -s bench measures; this is for a machine that is busy with other things


def test_batch_counts_down_a_limit_that_is_refilled_at_once():
    """A bucket that is refilled all at once is used fully without hints, with one question for each refill and one more."""
    with stand_in(dialect="observed", rate_limit=10, burst=40, refill_interval=2) as server:
        begin = time.monotonic()
        items = list(server.client().execute_batch(numbered(80), max_workers=8))
        seconds = time.monotonic() - begin
        assert [item.error for item in items if item.error] == []
        methods = [request.method for request in server.requests]
        assert methods.count("POST") - 80 <= 2 * 8  # those in flight when the first refusal arrived
        assert methods.count("GET") <= 6
        assert seconds < 1.1 * 4 + 1  # of the bucket's own time; and a second for a machine that is busy with other things


def test_batch_waits_for_reset_in_headers(server):
    """If an answer reports that nothing remains until a reset, the batch waits for it instead of being rejected."""
    headers = {"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 5)}
    server.respond_next(headers=headers, json={"success": True, "output": 1})
    begin = time.monotonic()
    assert len(list(server.client().execute_batch(numbered(2), max_workers=1))) == 2
    assert time.monotonic() - begin > 2


def test_batch_retry_delay(server):
    """A rejected item waits for its own delay, which starts at initial_delay, less at most a quarter."""
    server.respond_next(status=429, json={"error": "slow down"})
    begin = time.monotonic()
    (item,) = server.client().execute_batch(numbered(1), initial_delay=1.0)
    assert item.error is None
    assert time.monotonic() - begin > 0.7


class BadHandler(logging.Handler):
    """A log handler that fails for the lines of the client."""

    def emit(self, record):
        if "retry" in record.getMessage():
            raise OSError("the disk is full")


def test_batch_survives_failing_log_handler(server, caplog):
    """A log handler that raises does not make an item fail."""
    server.respond_next(status=429, json={"error": "slow down"})
    logger, handler = logging.getLogger("recall_sdk"), BadHandler()
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "recall_sdk"):
            items = list(server.client().execute_batch(numbered(3), initial_delay=0.01, max_workers=1))
    finally:
        logger.removeHandler(handler)
    assert [item.error for item in items] == [None] * 3


def test_batch_raises_last_429(server):
    """After ``max_retries`` retries the item's error is the last 429."""
    server.respond_next(status=429, json={"error": "slow down"}, times=9)
    (item,) = server.client().execute_batch(numbered(1), max_retries=2, initial_delay=0.01)
    assert isinstance(item.error, RateLimitError)
    assert [request.method for request in server.requests] == ["POST", "GET", "POST", "POST"]  # one question, which is refused too


def test_batch_does_not_wait_more_than_an_hour(server):
    """If the server asks for more than an hour, all items that are not sent yet fail at once, unsent, with the same reason."""
    server.respond_next(status=429, headers={"Retry-After": "7200"}, json={"error": "come back later"}, times=300)
    items = list(server.client().execute_batch(numbered(300), max_workers=4))
    assert len(items) == 300
    assert {type(item.error) for item in items} == {RateLimitError}
    assert {(item.error.retry_after, item.error.may_have_executed) for item in items} == {(7200.0, False)}
    assert all("come back later" in str(item.error) for item in items)
    assert len(server.requests) <= 2 * 4
    assert len({id(item.error) for item in items}) == 300


def test_batch_does_not_retry_usage_limit(server):
    """A usage limit becomes the item's error at once."""
    server.respond_next(status=402, json={"error": "enough"})
    items = list(server.client().execute_batch(numbered(2), max_workers=1))
    assert isinstance(items[0].error, UsageLimitError)
    assert len(server.requests) == 2


def test_batch_does_not_retry_broken_connection(server):
    """A broken connection becomes the item's error, which says that the workflow may have run."""
    server.respond_next(drop=True)
    (item,) = server.client().execute_batch(numbered(1))
    assert isinstance(item.error, RecallConnectionError)
    assert item.error.may_have_executed
    assert len(server.requests) == 1


class AtMost:
    """A handler of a server that runs a number of executions at a time. Its usage limits say that plenty remains."""

    def __init__(self, count, seconds, *headers):
        self.count, self.seconds, self.headers = count, seconds, headers
        self.lock, self.running, self.refused = threading.Lock(), 0, 0

    def __call__(self, connection):
        while True:
            request = connection.request()
            connection.send(self.run(connection) if request.method == "POST" else http(usage_limits(999999, 999999, 60)))

    def run(self, connection):
        with self.lock:
            accepted = self.running < self.count
            self.running += accepted
            self.refused += not accepted
        if not accepted:
            return http({"error": "too many runs at a time"}, *self.headers, status="429 Too Many Requests")
        connection.pause(self.seconds)
        with self.lock:
            self.running -= 1
        return http(envelope())


def usage_limits(remaining, limit, seconds):
    """Make the body of the usage limits, with a reset in so many seconds."""
    reset = datetime.fromtimestamp(time.time() + seconds, timezone.utc).isoformat()
    rate = {"requestsPerMinute": limit, "maxBurst": limit, "remaining": remaining, "resetAt": reset}
    return {"success": True, "rateLimit": {"sync": rate, "async": rate}, "usage": {}}


@pytest.mark.parametrize("headers", [("Retry-After: 1",), ()])
def test_batch_keeps_to_the_number_of_runs_at_a_time(serve, connect, headers):
    """On a server that runs four at a time, few requests are refused, no item fails, and the four are used."""
    handler = AtMost(4, 0.2, *headers)
    begin = time.monotonic()
    items = list(connect(serve(handler), timeout=PATIENCE).execute_batch([("w", number) for number in range(60)], max_workers=16))
    assert [item.error for item in items if item.error] == []
    assert handler.refused <= 24
    assert time.monotonic() - begin < 5 * 60 / 4 * 0.2


def test_batch_yields_items_while_it_asks():
    """While the batch asks for the usage limits, which may take seconds, items in flight finish and are yielded."""
    with RecallServer(rate_limit=1, burst=1) as server, server.client() as client:
        server.workflow("slow")(lambda input: time.sleep(0.5))
        server.respond_next(delay=4.0, path="usage-limits")
        start = time.monotonic()
        items = client.execute_batch([("slow", {})] * 2, max_workers=2)
        assert next(items).error is None
        assert time.monotonic() - start < 3.0
        assert next(items).error is None


def test_batch_ends_if_nothing_ever_remains(serve, connect):
    """If the usage limits stay at 0, each item fails with a 429 after max_retries waits in which nothing was accepted."""

    def handler(connection):
        while True:
            asked = connection.request().method == "GET"
            connection.send(http(usage_limits(0, 10, 1)) if asked else http({"error": "no"}, status="429 Too Many Requests"))

    server = serve(handler)
    items = list(connect(server).execute_batch([("w", 1)] * 5, max_workers=4, max_retries=1, initial_delay=0.01))
    assert [type(item.error) for item in items] == [RateLimitError] * 5
    assert sum(request.method == "POST" for request in server.requests) <= 5 * 2


def test_batch_counts_refusals_of_all_items_in_a_row(serve, connect):
    """Each acceptance of any item lets all others be refused max_retries times again; none fails while the batch goes on."""
    count = itertools.count(1)
    lock = threading.Lock()

    def handler(connection):
        while True:
            if connection.request().method == "GET":
                connection.send(http({"error": "unknown"}, status="404 Not Found"))
                continue
            with lock:
                accepted = next(count) % 2 == 0
            connection.send(http(envelope()) if accepted else http({"error": "no"}, "Retry-After: 0", status="429 Too Many Requests"))

    items = list(connect(serve(handler)).execute_batch([("w", 1)] * 12, max_workers=3, max_retries=1, initial_delay=0.01))
    assert [item.error for item in items] == [None] * 12


def test_batch_survives_absurd_usage_limits(serve, connect):
    """Numbers of the server that no arithmetic can handle make no batch hang."""
    refused = iter([True])

    def handler(connection):
        while True:
            asked = connection.request().method == "GET"
            if asked:
                body = json.dumps(usage_limits(1, 2, 1)).replace(": 2,", ": 1" + "0" * 400 + ",")
                connection.send(http(body.encode(), "Content-Type: application/json"))
            else:
                connection.send(http({"error": "no"}, status="429 Too Many Requests") if next(refused, False) else http(envelope()))

    items = list(connect(serve(handler)).execute_batch([("w", 1)] * 5, max_workers=2, initial_delay=0.01))
    assert [item.error for item in items] == [None] * 5


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("with_executor", [False, True])
def test_batch_survives_hook_that_exits(server, kind, with_executor):
    """A hook that raises SystemExit, KeyboardInterrupt or GeneratorExit in a worker fails its item instead of the batch."""

    def hook(response, **_):
        response.close()
        raise kind

    with requests.Session() as session, RecallClient("test-key", server.base_url, session=session) as client, ThreadPoolExecutor(1) as pool:
        session.hooks["response"].append(hook)
        items = list(client.execute_batch(numbered(3), max_workers=2, executor=pool if with_executor else None))
    assert [type(item.error.__cause__) for item in items] == [kind] * 3
    assert all(item.error.may_have_executed for item in items)


def test_batch_survives_hook_that_exits_while_asking(server):
    """A hook that calls sys.exit() for the question about the usage limits ends no worker."""

    def hook(response, **_):
        if response.request.method == "GET":
            response.close()
            sys.exit()

    server.respond_next(status=429, json={"error": "slow down"})
    with requests.Session() as session, RecallClient("test-key", server.base_url, session=session) as client:
        session.hooks["response"].append(hook)
        items = list(client.execute_batch(numbered(3), max_workers=2, initial_delay=0.01))
    assert [item.error for item in items] == [None] * 3


def test_batch_survives_fault_of_its_own():
    """Whatever fails in a worker becomes the error of an item, which may have been executed."""

    def attempt(request):
        return object()  # not a pair

    batch = Batch([("w", 1)] * 2, lambda *_: None, Attempts(attempt, None), lambda: None, max_workers=1, policy=Backoff(3, 1.0, 30.0, 2.0))
    batch._limiter.accepted = None
    items = list(batch.run())
    assert [item.error.may_have_executed for item in items] == [True, True]


def test_batch_workers_see_context_of_caller(server):
    """The workers run in the reader's context, so that hooks find its parent span or request id."""
    variable, seen = contextvars.ContextVar("variable"), []

    def hook(response, **_):
        seen.append(variable.get())

    variable.set(1)
    with requests.Session() as session, RecallClient("test-key", server.base_url, session=session) as client:
        session.hooks["response"].append(hook)
        items = list(client.execute_batch(numbered(4), max_workers=2))
    assert [item.error for item in items] == [None] * 4
    assert seen == [1] * 4


def test_batch_closes_from_another_thread(server):
    """Any thread may close a batch, also while the reader waits for an item: the reader's loop then ends."""
    release, started, seen = threading.Event(), threading.Event(), []

    @server.workflow("slow")
    def slow(input):
        started.set()
        release.wait(PATIENCE)

    items = server.client(timeout=60).execute_batch([("slow", {})] * 4, max_workers=2)
    reader = threading.Thread(target=lambda: seen.extend(items))
    reader.start()
    assert started.wait(PATIENCE)
    items.close()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert seen == []
    release.set()
    wait_for_threads()


def test_batch_survives_restart_of_server(connect):
    """Items whose connection is refused wait and are sent again, so that a server that is away for a moment fails none of them."""
    with stand_in() as server:
        port, client = server.port, server.client()
        assert next(client.execute_batch(numbered(1))).error is None
    timer = threading.Timer(1.0, lambda: servers.append(stand_in(port=port).__enter__()))
    servers = []
    timer.start()
    items = list(client.execute_batch(numbered(8), max_workers=4, initial_delay=0.5))
    timer.join()
    servers[0].__exit__(None, None, None)
    assert [item.error for item in items] == [None] * 8
    assert servers[0].executions["echo"] == 8


def test_batch_of_many_workers_gives_up_on_a_server_that_stays_away(connect):
    """With many workers, whose connections fail at different moments, the batch ends as well, after few attempts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    begin = time.monotonic()
    items = list(connect(f"http://127.0.0.1:{port}").execute_batch([("w", 1)] * 20, max_workers=8, max_retries=2, initial_delay=0.05))
    assert {type(item.error) for item in items} == {RecallConnectionError}
    assert not any(item.error.may_have_executed for item in items)
    assert time.monotonic() - begin < 30


def test_batch_survives_hook_whose_error_has_no_text(server):
    """An exception of a hook that can't be shown fails its item, and nothing else."""

    class Bad(Exception):  # noqa: N818 -- a caller may name it so
        def __str__(self):
            raise RuntimeError

    failures = iter([Bad()])

    def hook(response, **_):
        response.close()
        for failure in failures:
            raise failure

    with requests.Session() as session, RecallClient("test-key", server.base_url, session=session) as client:
        session.hooks["response"].append(hook)
        items = list(client.execute_batch(numbered(3), max_workers=1))
    assert len(items) == 3
    assert "Bad" in str(items[0].error)


def test_batch_reports_server_that_stays_away():
    """If no connection can be made, each item fails after its retries, unsent."""
    with stand_in() as server:
        client = server.client()
    items = list(client.execute_batch(numbered(3), max_workers=2, max_retries=1, initial_delay=0.01))
    assert [type(item.error) for item in items] == [RecallConnectionError] * 3
    assert [item.error.may_have_executed for item in items] == [False] * 3


def test_batch_does_not_retry_429_after_which_it_may_have_run():
    """A 429 that says that the workflow may have run, as after a repeat by the user's own adapter, is the item's error at once."""
    calls = []

    def attempt(request):
        calls.append(request)
        raise build_error(RateLimitError, "no", may_have_executed=True)

    batch = Batch([("w", 1)], lambda *_: None, Attempts(attempt, None), lambda: None, max_workers=1, policy=Backoff(3, 0.0, 0.0, 2.0))
    (item,) = batch.run()
    assert item.error.may_have_executed is True
    assert len(calls) == 1


# ------------------------------------------------------------------------------------------------------------ executors


def test_batch_with_thread_pool(server):
    """The user's executor is used, and stays open."""
    with ThreadPoolExecutor(2) as pool:
        items = list(server.client().execute_batch(numbered(20), executor=pool, max_workers=4))
        assert pool.submit(len, "ab").result() == 2
    assert sorted(item.result.output["number"] for item in items) == list(range(20))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_batch_with_process_pool(method):
    """Worker processes keep one connection each; a 429 in one pauses all; nothing runs twice."""
    context = multiprocessing.get_context(method)
    with stand_in(rate_limit=50, burst=10) as server, ProcessPoolExecutor(2, mp_context=context) as pool:
        items = list(server.client().execute_batch(numbered(30), executor=pool, max_workers=4))
        assert [item.error for item in items if item.error] == []
        assert sorted(item.result.output["number"] for item in items) == list(range(30))
        assert server.executions["echo"] == 30
        assert server.connections <= 2 + 1  # one for the question about the usage limits


def test_batch_sends_files_through_process_pool(server, tmp_path):
    """A file is read when its item is taken, so that the source may close it, also with another process."""
    (tmp_path / "a.txt").write_text("hello", "utf-8")

    def source():
        with (tmp_path / "a.txt").open("rb") as file:
            yield "echo", {"file": file}
        yield "echo", {"file": lambda: 0}

    with ProcessPoolExecutor(1) as pool:
        good, bad = sorted(server.client().execute_batch(source(), executor=pool), key=lambda item: item.index)
    assert good.result.output["file"]["data"] == "data:text/plain;base64,aGVsbG8="
    assert bad.error.code == "INVALID_JSON"


def test_batch_with_client_that_does_not_pickle(server):
    """A client with its own session can't be sent to worker processes: nothing is sent, and the error says so."""
    with requests.Session() as session, ProcessPoolExecutor(1) as pool, RecallClient(
        "test-key", server.base_url, session=session
    ) as client:
        (item,) = client.execute_batch(numbered(1), executor=pool)
    assert isinstance(item.error, InvalidRequestError)
    assert "its own session can't be pickled" in str(item.error)
    assert item.error.may_have_executed is False
    assert server.requests == []


@pytest.mark.parametrize("with_executor", [False, True])
def test_batch_survives_failing_hook(with_executor, server):
    """An error of a hook after the answer is not treated as a call that was not sent."""

    def hook(response, **_):
        raise TypeError("not a number")

    with requests.Session() as session, RecallClient("test-key", server.base_url, session=session) as client:
        session.hooks["response"].append(hook)
        with ThreadPoolExecutor(1) as pool:
            (item,) = client.execute_batch(numbered(1), executor=pool if with_executor else None)
    assert str(item.error) == "the item failed: TypeError: not a number"
    assert item.error.may_have_executed is True
    assert server.executions["echo"] == 1
    wait_for_threads()  # which refer to the answer until they end
    del item
    collect_quietly()  # requests leaves an answer open of which a hook raises


def test_batch_survives_failing_hook_while_asking(server):
    """A hook that fails for the question about the usage limits fails no item: the server then counts as one that does not say."""
    asked = []

    def hook(response, **_):
        if response.request.method == "GET":
            asked.append(response.url)
            response.close()
            raise TypeError("not a number")

    server.respond_next(status=429, json={"error": "slow down"})
    with requests.Session() as session, RecallClient("test-key", server.base_url, session=session) as client:
        session.hooks["response"].append(hook)
        items = list(client.execute_batch(numbered(3), max_workers=1, initial_delay=0.01))
    assert [item.error for item in items] == [None] * 3
    assert len(asked) == 1


class Refusing(Executor):
    """An executor whose futures fail, as if a call could not be pickled."""

    def submit(self, function, *args):
        future = Future()
        future.set_exception(TypeError("it does not pickle"))
        return future


def test_batch_call_that_does_not_pickle_was_not_sent(server):
    """A call that can't be pickled fails its item with an error that says that nothing was sent; errors of runs are unchanged."""
    client = server.client()
    client.lock = threading.Lock()  # which does not pickle
    (item,) = client.execute_batch(numbered(1), executor=Refusing())
    assert isinstance(item.error, InvalidRequestError)
    assert item.error.may_have_executed is False
    (item,) = server.client().execute_batch(numbered(1), executor=Refusing())  # an error of the same class that has another cause
    assert item.error.may_have_executed is True
    with ThreadPoolExecutor(1) as pool:
        (item,) = server.client().execute_batch([("fail", {})], executor=pool)
    assert isinstance(item.error, ExecutionError)


def die(*_):
    """End this process at once."""
    os._exit(1)


def test_batch_survives_dead_worker_process(server):
    """A broken pool fails the items that it had and those that it can't accept, each with its own error."""
    with ProcessPoolExecutor(1) as pool:
        pool.submit(die)
        time.sleep(0.3)
        items = list(server.client().execute_batch(numbered(3), executor=pool))
    assert all(isinstance(item.error, RecallError) and item.error.__cause__ is not None for item in items)
    assert pickle.loads(pickle.dumps(items[0].error)).may_have_executed is items[0].error.may_have_executed


def test_batch_with_cancelled_future(server):
    """A cancelled future becomes an error of its item, and closing cancels what has not begun."""
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(release.wait, PATIENCE)
        items = server.client().execute_batch(itertools.repeat(("echo", {})), executor=pool, max_workers=2)
        reader = threading.Thread(target=lambda: next(items, None), daemon=True)
        reader.start()
        time.sleep(0.1)
        release.set()
        reader.join(PATIENCE)
        items.close()
    wait_for_threads()


class OneAtOnce(Executor):
    """Runs the first call at once, and does not begin the others."""

    def __init__(self):
        self.futures = []

    def submit(self, function, *args):
        self.futures.append(Future())
        if len(self.futures) == 1:
            self.futures[0].set_result(function(*args))
        return self.futures[-1]


def test_batch_close_cancels_futures(server):
    """Closing the batch cancels what the executor has queued."""
    executor = OneAtOnce()
    items = server.client().execute_batch(itertools.repeat(("echo", {})), executor=executor, max_workers=3)
    next(items)
    until = time.monotonic() + PATIENCE
    while len(executor.futures) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    items.close()
    assert len(executor.futures) >= 2
    assert all(future.cancelled() for future in executor.futures[1:])
    assert server.executions["echo"] == 1


class OneCaller(Executor):
    """Fails if two threads submit at once, and keeps what makes each task unique."""

    def __init__(self):
        self.busy = threading.Lock()
        self.numbers = []

    def submit(self, function, number, *args):
        assert self.busy.acquire(blocking=False), "two threads submit at once"
        try:
            time.sleep(0.05)
            self.numbers.append(number)
        finally:
            self.busy.release()
        future = Future()
        future.set_result(function(number, *args))
        return future


def test_batch_submits_one_at_a_time(server):
    """An executor that is not thread-safe is used by one thread at a time, and no two tasks are equal, also of two batches."""
    executor = OneCaller()
    for _ in range(2):
        items = list(server.client().execute_batch([("echo", {})] * 20, executor=executor, max_workers=4))
        assert [item.error for item in items] == [None] * 20
    assert len(set(executor.numbers)) == 40


@pytest.mark.parametrize("granted", [1, 2])
def test_batch_runs_on_the_threads_that_the_system_grants(granted, server, monkeypatch):
    """If the system allows fewer threads than max_workers, the batch uses those, and no item fails."""
    start = threading.Thread.start
    workers = []

    def start_while_granted(thread):
        if thread.name == "recall_sdk-batch-worker":
            if len(workers) == granted:
                raise RuntimeError("can't start new thread")
            workers.append(thread)
        start(thread)

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", start_while_granted)
        items = list(server.client().execute_batch(numbered(30), max_workers=8))
    assert [item.error for item in items] == [None] * 30
    assert sorted(item.index for item in items) == list(range(30))


def refuse_threads(monkeypatch, *, of_daemons_only):
    """Refuse the threads of batches, as a subinterpreter does with daemons, and Pyodide with all."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "recall_sdk-batch-worker" and (thread.daemon or not of_daemons_only):
            raise RuntimeError("daemon threads are disabled in this (sub)interpreter")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_batch_runs_on_plain_threads(server, monkeypatch):
    """Where daemon threads are refused, the batch uses plain ones."""
    with monkeypatch.context() as limited:
        refuse_threads(limited, of_daemons_only=True)
        items = list(server.client().execute_batch(numbered(8), max_workers=2))
    assert [item.error for item in items] == [None] * 8
    wait_for_threads()


@pytest.mark.skipif(not hasattr(_interpreters, "create"), reason="needs subinterpreters with their own GIL")
def test_batch_runs_in_subinterpreter(server):
    """In a subinterpreter, which allows no daemon threads, a batch runs, and the interpreter ends."""
    script = f"""if True:
        from recall_sdk import RecallClient
        with RecallClient({server.api_key!r}, {server.base_url!r}) as client:
            items = list(client.execute_batch([("echo", {{"number": number}}) for number in range(5)], max_workers=2))
        assert [item.error for item in items] == [None] * 5, items
    """
    code = f"""if True:
        import _interpreters
        interpreter = _interpreters.create("isolated")
        failure = _interpreters.exec(interpreter, {script!r})
        assert failure is None, failure
        _interpreters.destroy(interpreter)
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


def test_batch_outlives_main_thread(server):
    """A batch that is read in a thread that is no daemon goes on when the main thread has ended."""
    code = f"""if True:
        import threading
        from recall_sdk import RecallClient

        def read():
            threading.main_thread().join()
            with RecallClient({server.api_key!r}, {server.base_url!r}) as client:
                print(len(list(client.execute_batch([("echo", {{}})] * 9, max_workers=2))))

        threading.Thread(target=read).start()
    """
    process = subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE, stdout=subprocess.PIPE)
    assert process.stdout.split() == [b"9"]


def test_batch_runs_without_any_thread(server, monkeypatch):
    """Where no thread can be started, the reader's own thread executes the items, one at a time and only as it reads them."""
    threads = set()
    server.workflow("where")(lambda input: None)

    def hook(response, **_):
        threads.add(threading.get_ident())

    with requests.Session() as session, RecallClient("test-key", server.base_url, session=session) as client:
        session.hooks["response"].append(hook)
        with monkeypatch.context() as limited:
            refuse_threads(limited, of_daemons_only=False)
            items = client.execute_batch(numbered(7), max_workers=2)
            assert next(items).error is None
            assert server.executions["echo"] == 1
            assert [item.error for item in items] == [None] * 6
    assert threads == {threading.get_ident()}


def test_batch_without_threads_stops_on_ctrl_c(server, monkeypatch):
    """Without threads, Ctrl-C during a call reaches the reader, and ends the batch."""

    def hook(response, **_):
        response.close()
        raise KeyboardInterrupt

    with requests.Session() as session, RecallClient("test-key", server.base_url, session=session) as client:
        session.hooks["response"].append(hook)
        with monkeypatch.context() as limited:
            refuse_threads(limited, of_daemons_only=False)
            items = client.execute_batch(numbered(7), max_workers=2)
            with pytest.raises(KeyboardInterrupt):
                next(items)
            assert list(items) == []
    assert len(server.requests) == 1


def test_batch_reset_by_the_servers_clock(serve, connect):
    """A reset is read by the server's clock, even if this machine's clock is wrong."""
    ahead = time.time() + 600
    headers = ("X-RateLimit-Limit: 10", "X-RateLimit-Remaining: 0", f"X-RateLimit-Reset: {ahead + 4:.0f}")
    client = connect(serve(answers(http(envelope(), f"Date: {formatdate(ahead, usegmt=True)}", *headers), http(envelope()))))
    started = time.monotonic()
    items = list(client.execute_batch([("w", 1), ("w", 2)], max_workers=1))
    assert [item.error for item in items] == [None, None]
    assert time.monotonic() - started < 20
