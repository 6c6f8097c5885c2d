"""Clients across forks, in worker processes, pickled and copied: as the server sees it, and as the user does."""

import copy
import gc
import multiprocessing
import os
import pickle
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import requests

from recall_sdk import (
    AsyncExecutionResult,
    AuthenticationError,
    BatchItem,
    ExecutionError,
    NotFoundError,
    RateLimitInfo,
    RecallClient,
    RecallError,
    StreamedExecutionResult,
    StreamEvent,
    UsageLimits,
    WorkflowExecutionResult,
    WorkflowStatus,
)
from recall_sdk.testing import RecallServer

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    # To fork with threads is what is tested here; Python 3.12 and newer warn of it.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

KEY = "key-0123456789-secret"
PATIENCE = 30.0
"""Seconds until a child that hangs fails the test."""


@pytest.fixture
def server():
    """A stand-in server whose workflow tells who asked."""
    with RecallServer(api_key=KEY) as server:

        @server.workflow("echo")
        def echo(input):
            return input

        @server.workflow("fail")
        def fail(input):
            raise RuntimeError("boom")

        yield server


def ask(client, count=3):
    """Execute a few times, with the number of this process as the input."""
    for _ in range(count):
        assert client.execute_workflow("echo", {"pid": os.getpid()}).output == {"pid": os.getpid()}
    return os.getpid()


def in_child(work):
    """Fork; have the child do some work and end; give its number once it has ended well."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0, "the child failed"
            return pid
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


def processes_by_connection(server):
    """For each connection of the server, the processes that spoke on it."""
    seen = {}
    for request in server.requests:
        seen.setdefault(request.connection, set()).add(request.json["pid"])
    return seen


@pytest.mark.parametrize("own", [False, True], ids=["session of the client", "session of the user"])
def test_a_child_has_connections_of_its_own(server, own):
    """A client that was used before the fork works in parent and child, and no connection ever carries two processes."""
    session = requests.Session() if own else None
    with RecallClient(KEY, server.base_url, session=session) as client:
        ask(client)
        child = in_child(lambda: ask(client))
        ask(client)
        grandchild = in_child(lambda: in_child(lambda: ask(client)) and ask(client))
    seen = processes_by_connection(server)
    assert all(len(processes) == 1 for processes in seen.values())
    assert {os.getpid(), child, grandchild} <= set().union(*seen.values())
    assert [processes for processes in seen.values() if processes == {os.getpid()}] == [{os.getpid()}]
    if session is not None:
        session.close()


def test_a_fork_with_busy_threads(server):
    """Children that are forked while eight threads are in the middle of calls neither hang nor share."""
    done = threading.Event()
    with RecallClient(KEY, server.base_url) as client:

        def work():
            while not done.is_set():
                ask(client, 1)

        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(work) for _ in range(8)]
            try:
                for _ in range(10):
                    in_child(lambda: ask(client, 2))
            finally:
                done.set()
            for each in running:
                each.result(PATIENCE)
    assert all(len(processes) == 1 for processes in processes_by_connection(server).values())


def test_a_stream_that_is_open_at_the_fork(serve, connect):
    """The parent's stream goes on undisturbed; the child can neither read it nor end it."""

    def two_events(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        connection.send(b'data: {"chunk": "One"}\n\n')
        connection.wait_for_go()
        connection.send(b'data: {"chunk": ", two"}\n\ndata: {"event": "done", "success": true}\n\ndata: [DONE]\n\n')

    server = serve(two_events)
    with connect(server).stream_workflow("count") as stream:
        assert next(stream).chunk == "One"

        def work():
            with pytest.raises(RecallError):
                next(stream)
            stream.close()

        in_child(work)
        server.go()
        assert "".join(stream.text()) == ", two"
        assert stream.result.text == "One, two"


def test_the_server_sees_the_end_while_a_child_lives(serve, connect):
    """When the parent closes its client the server sees it, although a child that was forked meanwhile lives on."""

    def answer_and_wait(connection):
        connection.request()
        connection.send(b'HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{"success":true,"output":null}')
        connection.wait_for_hang_up()

    server = serve(answer_and_wait)
    client = connect(server)
    client.execute_workflow("w")
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writer)
        os.read(reader, 1)  # lives until the parent lets go
        os._exit(0)
    os.close(reader)
    try:
        client.close()
        gc.collect()
        server.wait_for_hang_up()
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_share_one_client_each(server, method):
    """A client that is sent to worker processes again and again is one client in each, which keeps its connection."""
    context = multiprocessing.get_context(method)
    with RecallClient(KEY, server.base_url) as client, ProcessPoolExecutor(2, mp_context=context) as pool:
        ask(client)
        pids = {future.result(PATIENCE) for future in [pool.submit(ask, client, 2) for _ in range(12)]}
    seen = processes_by_connection(server)
    assert all(len(processes) == 1 for processes in seen.values())
    assert len(seen) == 1 + len(pids)


def test_errors_of_workers_arrive_whole(server):
    """An error that was raised in a worker process reaches the parent with all that it knows."""
    with RecallClient(KEY, server.base_url) as client, ProcessPoolExecutor(1) as pool:
        with pytest.raises(ExecutionError, match="boom") as failed:
            pool.submit(client.execute_workflow, "fail").result(PATIENCE)
        with pytest.raises(NotFoundError) as missing:
            pool.submit(client.get_job_status, "nowhere").result(PATIENCE)
    assert (failed.value.code, failed.value.status, failed.value.may_have_executed) == ("EXECUTION_ERROR", 500, True)
    assert failed.value.result.error == "boom"
    assert (missing.value.server_code, missing.value.may_have_executed) == ("TASK_NOT_FOUND", False)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))])
def test_copies_are_clients_of_their_own(server, duplicate):
    """A copy has the same settings, lives on its own, and goes on when the first is closed or changed."""
    client = RecallClient(KEY, server.base_url, timeout=7.0)
    twin = duplicate(client)
    assert twin is not client
    assert (twin.api_key, twin.base_url, repr(twin)) == (client.api_key, client.base_url, repr(client))
    client.set_api_key("another-key")
    client.close()
    ask(twin)
    with pytest.raises(AuthenticationError):
        ask(client)
    twin.close()
    client.close()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_session_of_the_users_own_does_not_travel(duplicate):
    """A client with a session of the user's own can be neither copied nor pickled, and says what to do instead."""
    with requests.Session() as session, pytest.raises(TypeError, match="session of your own can't be pickled or copied"):
        duplicate(RecallClient(KEY, session=session))


def arrive(pickled, key=None):
    """Take a client in a process other than its own; give who it is, and the key that it came with."""
    client = pickle.loads(pickled)
    arrived = client.api_key
    if key:
        client.set_api_key(key)
    return id(client), arrived


def test_a_changed_client_is_not_handed_out():
    """In a worker a client that was changed there does not serve for others that arrive with the old settings."""
    pickled = pickle.dumps(RecallClient(KEY))
    with ProcessPoolExecutor(1) as pool:
        first, _ = pool.submit(arrive, pickled).result(PATIENCE)
        second, _ = pool.submit(arrive, pickled, "changed-key").result(PATIENCE)
        third, key = pool.submit(arrive, pickled).result(PATIENCE)
    assert first == second != third
    assert key == KEY


@pytest.mark.parametrize(
    "model",
    [
        WorkflowExecutionResult(True, {"a": [1]}, None, [1], {"b": 2}, [3], 4.5),
        StreamedExecutionResult(True, text="x", text_by_block={"b": "x"}),
        AsyncExecutionResult(True, "t", "queued", "", {"status": "/s"}),
        WorkflowStatus(True, "then", True),
        RateLimitInfo(1, 2, 3, 4),
        UsageLimits(True, {"sync": {}}, {"plan": "free"}),
        StreamEvent("chunk", "b", "x", {"chunk": "x"}),
        BatchItem(1, "w", {"a": 1}, WorkflowExecutionResult(True), None),
    ],
    ids=lambda model: type(model).__name__,
)
def test_models_travel(model):
    """Every model pickles and copies."""
    assert pickle.loads(pickle.dumps(model)) == copy.copy(model) == copy.deepcopy(model) == model
