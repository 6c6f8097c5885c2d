"""One client, many threads; and calls that are given up."""

import random
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from recall_sdk import AuthenticationError, RecallConnectionError
from recall_sdk._connections import MOST_CONNECTIONS, hang_up
from recall_sdk.testing import RecallServer

THREADS = 32
CALLS = 2_000


@pytest.fixture
def server():
    """A stand-in server with one workflow that gives its input back."""
    with RecallServer(rate_limit=1_000_000) as server:

        @server.workflow("echo")
        def echo(input):
            return input

        yield server


def test_each_thread_gets_its_own_answers(server, caplog):
    """32 threads that share a client get the answers to their own calls, each over its own kept connection, none thrown away."""
    client = server.client(timeout=60)

    def call(number):
        return client.execute_workflow("echo", {"number": number}).output["number"]

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(call, range(CALLS))) == list(range(CALLS))
    assert server.executions["echo"] == CALLS
    assert server.connections <= THREADS < MOST_CONNECTIONS
    assert "pool is full" not in caplog.text
    assert client.get_rate_limit_info().limit > 0


def test_a_key_never_meets_another_origin(server):
    """While threads switch the key and the server of a shared client, each request carries one of its keys to one of its servers."""
    with RecallServer(api_key="second-key") as other:
        client = server.client()
        done = threading.Event()

        def switch(setter, values):
            while not done.is_set():
                setter(random.choice(values))

        switchers = [
            threading.Thread(target=switch, args=(client.set_api_key, ["first-key", "second-key"])),
            threading.Thread(target=switch, args=(client.set_base_url, [server.base_url, other.base_url])),
        ]
        for thread in switchers:
            thread.start()
        try:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _: _outcome(client), range(200)))
        finally:
            done.set()
            for thread in switchers:
                thread.join()
        requests = [*server.requests, *other.requests]
        assert len(requests) == 200
        for request in requests:
            assert request.headers["X-API-Key"] in ("test-key", "first-key", "second-key")
        hosts = {request.headers["Host"] for request in server.requests}
        assert hosts <= {server.base_url.partition("//")[2]}


def _outcome(client):
    try:
        return client.validate_workflow("echo")
    except AuthenticationError as error:
        return error


def test_the_pool_never_warns(server):
    """More threads than kept connections were never seen to warn: the pool is large enough for any sensible number."""
    client = server.client()
    barrier = threading.Barrier(60)

    def call(_):
        barrier.wait(timeout=30)
        return client.execute_workflow("echo", {}).success

    with warnings.catch_warnings(), ThreadPoolExecutor(60) as pool:
        warnings.simplefilter("error")
        assert all(pool.map(call, range(60)))


def test_a_call_that_is_hung_up():
    """Hanging up on a thread ends its call at once, with an error that says that the workflow may have run."""
    release, started = threading.Event(), threading.Event()
    with RecallServer() as server:

        @server.workflow("slow")
        def slow(input):
            started.set()
            release.wait(20)
            return input

        client = server.client(timeout=60)
        caught = []

        def call():
            try:
                client.execute_workflow("slow")
            except RecallConnectionError as error:
                caught.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        try:
            assert started.wait(20)
            hang_up([thread.ident, -1])
            thread.join(10)
            assert not thread.is_alive()
        finally:
            release.set()
        hang_up([thread.ident])  # over by now: nothing to break
        assert caught[0].may_have_executed
