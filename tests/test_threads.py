"""One client with many threads, and clients closed during calls."""

import json
import logging
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests

from rawserver import KEY, PATIENCE, echo, envelope, head, http
from recall_sdk import (
    AuthenticationError,
    RateLimitInfo,
    RecallClient,
    RecallConnectionError,
    RecallError,
    RecallTimeoutError,
)

THREADS = 32
CALLS = 2_500
CLOSED_AMONG = 400
SCRAMBLE = 1e-5
"""Seconds between two thread switches: short, to provoke races."""


@pytest.fixture
def scrambled():
    """Make Python switch threads as often as possible."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SCRAMBLE)
    yield
    sys.setswitchinterval(usual)


@contextmanager
def meanwhile(work):
    """Repeat this in another thread."""
    done = threading.Event()
    failures = []

    def repeat():
        try:
            while not done.is_set():
                work()
        except BaseException as failure:  # noqa: BLE001 -- raised below, where the test sees it
            failures.append(failure)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert failures == []


def at_once(*works):
    """Run these in threads that start together; return their results."""
    barrier = threading.Barrier(len(works))

    def start(work):
        barrier.wait(PATIENCE)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(start, works))


# ---------------------------------------------------------------------------------------------------------------- many calls


def test_threads_get_their_own_answers(serve, connect, caplog):
    """32 threads that share a client get their own answers, over reused connections."""

    def limited_echo(connection):
        while True:
            number = connection.request().json["number"]
            limits = (
                f"X-RateLimit-Limit: {number}",
                f"X-RateLimit-Remaining: {number + 1}",
                f"X-RateLimit-Reset: {number + 2_000_000_000}",
            )
            connection.send(http(envelope({"number": number}), *limits))

    server = serve(limited_echo)
    client = connect(server, timeout=60)

    def call(number):
        output = client.execute_workflow("w", {"number": number}).output
        return output["number"], client.get_rate_limit_info()

    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(call, range(CALLS)))
    assert [number for number, _ in answers] == list(range(CALLS))
    assert Counter(request.json["number"] for request in server.requests) == Counter(range(CALLS))  # none was sent twice
    assert server.connections <= THREADS
    assert caplog.records == []  # "Connection pool is full" would be one
    for _, info in answers:  # what one answer told, never parts of two
        assert info == RateLimitInfo(limit=info.limit, remaining=info.limit + 1, reset=info.limit + 2_000_000_000)


def test_hundred_threads_have_own_connections(serve, connect, caplog):
    """A hundred concurrent calls use a hundred connections, and all of them are kept."""
    threads = 100
    waiting = threading.Barrier(threads, timeout=PATIENCE)

    def together(connection):
        while True:
            connection.request()
            waiting.wait()
            connection.send(http(envelope()))

    server = serve(together)
    client = connect(server, timeout=60)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            results = at_once(*[lambda: client.execute_workflow("w").success] * threads)
            assert all(results)
    assert server.connections == threads
    assert caplog.records == []


def test_late_answer_reaches_no_other_call(serve, connect):
    """A late answer to a timed-out call reaches no other call."""

    def late_echo(connection):
        while True:
            sent = connection.request().json
            connection.pause(sent["late"])
            connection.send(http(envelope(sent)))

    client = connect(serve(late_echo), timeout=60)
    randomness = random.Random(7)

    def call(number):
        late = randomness.choice([0, 0, 0, 0.05])
        try:
            return client.execute_workflow("w", {"number": number, "late": late}, timeout=0.03 if late else None).output["number"] == number
        except RecallTimeoutError:
            return None

    with ThreadPoolExecutor(16) as pool:
        outcomes = Counter(pool.map(call, range(400)))
    assert outcomes[False] == 0
    assert outcomes[True]
    assert outcomes[None]


# ------------------------------------------------------------------------------------------------------- changes on the way


def test_key_is_never_sent_to_other_origin(scrambled, serve, connect):
    """While the key and the server are changed, each call uses a pair that the client really had."""
    servers = [serve(echo), serve(echo)]
    client = connect(f"{servers[0].url}/0")
    client.set_api_key("key-0")
    steps = iter(range(1, 10**9))

    def move():
        # The key goes first, so that the key is as old as the place or one step newer, and never the other way round.
        step = next(steps)
        client.set_api_key(f"key-{step}")
        client.set_base_url(f"{servers[step % 2].url}/{step}")
        time.sleep(0.0005)

    with meanwhile(move), ThreadPoolExecutor(8) as pool:
        for number, output in enumerate(pool.map(lambda number: client.execute_workflow("w", number).output, range(500))):
            assert output == {"input": number}
    assert len(servers[0].requests) + len(servers[1].requests) == 500
    for parity, server in enumerate(servers):
        for request in server.requests:
            key, place = int(request.headers["x-api-key"].partition("-")[2]), int(request.path.split("/")[1])
            assert place % 2 == parity
            assert key - place in (0, 1)


def test_concurrent_setters_lose_no_change(scrambled):
    """A key and a base URL set at the same time in two threads both apply."""
    with RecallClient("key", "http://host") as client:
        for number in range(200):
            key, url = f"key-{number}", f"http://host-{number}"
            at_once(lambda key=key: client.set_api_key(key), lambda url=url: client.set_base_url(url))
            assert (client.api_key, client.base_url) == (key, url)


@pytest.mark.parametrize("streaming", [False, True])
def test_key_is_masked_after_it_was_changed(streaming, serve, connect):
    """An error does not show the key of its call, even if the client has another one by then."""

    def tell(connection):
        words = {"error": f"bad key {connection.request().headers['x-api-key']}"}
        connection.server.client_closed.release()
        connection.wait_for_go()
        if streaming:
            connection.send(head("Content-Type: text/event-stream", "Connection: close"))
        connection.send(b"data: %s\n\n" % json.dumps({"event": "error", **words}).encode() if streaming else http(words, status="401 No"))

    server = serve(tell)
    client = connect(server)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.execute_workflow, "w", stream=streaming)
        server.wait_for_hang_up()  # here: the request has arrived
        client.set_api_key("another-key-9876543210")
        server.go()
        error = call.exception(PATIENCE)
    assert isinstance(error, RecallError if streaming else AuthenticationError)
    assert "bad key" in str(error)
    assert KEY not in f"{error} {error!r} {vars(error)}"


@pytest.mark.parametrize("own_session", [False, True])
def test_close_during_calls(own_session, serve, connect):
    """Closing a client breaks no call of another thread; at worst a call reports that nothing was sent."""
    server = serve(echo)
    session = requests.Session() if own_session else None
    client = connect(server, session=session)

    def close():
        (session or client).close()
        time.sleep(0.0005)

    def call(number):
        try:
            assert client.execute_workflow("w", {"number": number}).output == {"number": number}
        except RecallConnectionError as error:
            return error
        return None

    with meanwhile(close), ThreadPoolExecutor(8) as pool:
        errors = [error for error in pool.map(call, range(CLOSED_AMONG)) if error]
    if session:
        session.close()
    assert [error for error in errors if error.may_have_executed] == []
    assert len(server.requests) == CLOSED_AMONG - len(errors)


def test_close_with_open_stream(serve, connect):
    """Closing a client closes its idle connections at once, even if the caller has a stream that ended on one."""

    def handler(connection):
        connection.request()
        connection.send(http(b'data: {"event": "done", "success": true}\n\n', "Content-Type: text/event-stream"))
        connection.wait_for_hang_up()

    server = serve(handler)
    client = connect(server)
    stream = client.stream_workflow("w")
    assert stream.result.success
    client.close()
    server.wait_for_hang_up()
    del stream
