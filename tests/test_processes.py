"""Clients across forks, in worker processes, pickled and copied, seen from the server and from the user."""

import copy
import ctypes
import dataclasses
import itertools
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from typing import ClassVar

import pytest
import requests

from rawserver import KEY, answers, chunk, cloudpickle, echo, envelope, head, http
from recall_sdk import (
    AsyncExecutionResult,
    AuthenticationError,
    BatchItem,
    ExecutionError,
    InvalidRequestError,
    RateLimitError,
    RateLimitInfo,
    RecallClient,
    RecallError,
    StreamedExecutionResult,
    StreamEvent,
    StreamInterruptedError,
    UsageLimits,
    WorkflowExecutionResult,
    WorkflowStatus,
)
from recall_sdk.client import MAX_SHARED
from recall_sdk.testing import RecallServer

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    # To fork with threads is what is tested here; Python 3.12 and newer warn of it.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

PATIENCE = 20.0
"""Seconds until a child that hangs fails the test."""


@pytest.fixture
def server():
    """A test server whose workflow returns its caller."""
    with RecallServer(api_key=KEY) as server:

        @server.workflow("echo")
        def echo(input):
            return input

        @server.workflow("fail")
        def fail(input):
            raise RuntimeError("boom")

        yield server


def ask(client, count=3):
    """Execute a few times with the id of this process as the input, and return it."""
    for _ in range(count):
        assert client.execute_workflow("echo", {"pid": os.getpid()}).output == {"pid": os.getpid()}
    return os.getpid()


@pytest.fixture(autouse=True)
def _no_child_left():
    """No child outlives its test."""
    yield
    while Forked.alive:
        pid = Forked.alive.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class ChildHungError(AssertionError):
    """A child did not end."""


class Forked:
    """A child that does some work and ends. :meth:`result` returns its outcome, also if it hung or printed an ignored exception."""

    alive: ClassVar[set] = set()

    def __init__(self, work):
        self.outcome, result_pipe = multiprocessing.Pipe(duplex=False)
        ignored = []
        usual, sys.unraisablehook = sys.unraisablehook, lambda each: ignored.append(traceback.format_exception(*each[:3]))
        try:
            self.pid = os.fork()
            if not self.pid:
                _work_and_exit(work, result_pipe, ignored)
        finally:
            sys.unraisablehook = usual
        result_pipe.close()
        self.alive.add(self.pid)

    def result(self):
        """Wait for the child, and return the result of its work."""
        with self.outcome:
            hangs = not self.outcome.poll(PATIENCE)
            if hangs:
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.alive.remove(self.pid)
            if hangs:
                raise ChildHungError
            result, failure = self.outcome.recv()
        assert failure is None, failure
        return result


def _work_and_exit(work, result_pipe, ignored):
    Forked.alive.clear()  # these are not the child's
    result = failure = None
    try:
        result = work()
    except BaseException:  # noqa: BLE001 -- result_pipe to the parent, whose test it fails
        failure = traceback.format_exc()
    result_pipe.send((result, failure or "\n".join(map("".join, ignored)) or None))
    os._exit(0)


def in_child(work):
    """Do some work in a forked child; return its result."""
    return Forked(work).result()


def processes_by_connection(server):
    """For each connection of the server, the processes that used it."""
    seen = defaultdict(set)
    for request in server.requests:
        seen[request.connection].add(request.json["pid"])
    return seen


def while_held(lock, work):
    """Do some work while another thread holds a lock."""
    held, release = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        return work()
    finally:
        release.set()
        thread.join()


# --------------------------------------------------------------------------------------------------------------------- fork


def test_fork_child_opens_own_connections(server, session):
    """A client that was used before a fork uses one new connection in each process."""
    with RecallClient(KEY, server.base_url, session=session) as client:
        parent = ask(client)
        child = in_child(lambda: ask(client))
        ask(client)
        child_2, grandchild = in_child(lambda: (ask(client), in_child(lambda: ask(client)), ask(client)))[:2]
        ask(client)
    assert sorted(processes_by_connection(server).values(), key=str) == sorted([{parent}, {child}, {child_2}, {grandchild}], key=str)


def test_fork_with_busy_threads(server, session):
    """Children forked while eight threads are making calls neither hang nor share connections.

    On a free-threaded Python, one of forty may hang under load, in a lock of the interpreter that a thread of the parent had.
    """
    done = threading.Event()
    hung = 0
    with RecallClient(KEY, server.base_url, session=session, timeout=PATIENCE) as client:

        def work():
            while not done.is_set():
                ask(client, 1)

        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(work) for _ in range(8)]
            try:
                for _ in range(10):
                    children = [Forked(lambda: ask(client, 2)) for _ in range(4)]
                    for child in children:
                        try:
                            child.result()
                        except ChildHungError:
                            hung += 1
            finally:
                done.set()
            for each in running:
                each.result(PATIENCE)
    seen = processes_by_connection(server)
    assert hung <= (0 if getattr(sys, "_is_gil_enabled", lambda: True)() else 1)
    assert [processes for processes in seen.values() if len(processes) > 1] == []
    assert len(seen) <= 8 + 40


def test_fork_with_held_lock(session, serve, connect):
    """No lock that another thread held at the fork blocks the child: neither that of the cookies nor that of the pool."""
    client = connect(serve(echo), session=session)
    client.execute_workflow("w")
    sending = client._transport._session
    pools = sending.get_adapter(client.base_url).poolmanager
    pool = pools.connection_from_url(client.base_url)
    for lock in (sending.cookies._cookies_lock, pools.pools.lock, pool.pool.mutex):
        child = while_held(lock, lambda: Forked(lambda: client.execute_workflow("w", {"a": 1}).output))
        assert child.result() == {"a": 1}


def test_fork_shares_no_hooks(session, serve, connect):
    """Neither two requests nor a child and its parent share the dict of hooks.

    On a free-threaded Python its lock, held by a thread that is gone after the fork, would block the child for ever.
    """
    client = connect(serve(echo), session=session)
    sending = client._transport._session
    hooks = sending.hooks
    adapter = sending.get_adapter(client.base_url)
    sent = []
    send, adapter.send = adapter.send, lambda request, **kwargs: sent.append(request) or send(request, **kwargs)
    for _ in range(2):
        client.execute_workflow("w")
    assert sent[0].hooks is not sent[1].hooks
    assert in_child(lambda: (client.execute_workflow("w"), sending.hooks is hooks, sending.hooks == hooks))[1:] == (False, True)


def test_fork_with_session_without_hooks(serve, connect):
    """A session whose hooks are ``None``, which requests allows, works in a child."""
    with requests.Session() as session:
        session.hooks = None
        client = connect(serve(echo), session=session)
        assert in_child(lambda: client.execute_workflow("w", {"a": 1}).output) == {"a": 1}


def test_fork_child_closes_batch(server):
    """A child may close its parent's batch, even if its lock was held at the fork."""
    with RecallClient(KEY, server.base_url) as client:
        items = client.execute_batch(itertools.repeat(("echo", {})), max_workers=2)
        next(items)
        lock = items._batch._changed
        assert while_held(lock, lambda: in_child(items.close)) is None
        assert next(items).error is None
        items.close()


def two_pieces(connection):
    """Send half of a stream, and wait for the test before the other half."""
    connection.request()
    connection.send(head("Content-Type: text/event-stream", "Transfer-Encoding: chunked") + chunk(b'data: {"chunk": "One"}\n\n'))
    connection.wait_for_go()
    connection.send(chunk(b'data: {"chunk": ", two"}\n\ndata: {"event": "done", "success": true}\n\n') + b"0\r\n\r\n")


def test_fork_child_does_not_read_open_stream(session, serve, connect):
    """The child gets no byte of the parent's stream, and does not disturb it."""
    server = serve(two_pieces)
    with connect(server, session=session).stream_workflow("w") as stream:
        assert next(stream).chunk == "One"

        def work():
            try:
                return list(stream)
            except StreamInterruptedError as error:
                return error.partial.text

        child = Forked(work)
        child.outcome.poll(0.2)  # gives a child that reads the time to be the first
        server.go()
        assert child.result() == "One"
        assert "".join(stream.text()) == ", two"
        assert stream.result.text == "One, two"


@pytest.mark.parametrize("leave", ["close", "forget"])
def test_fork_child_closes_stream(leave, session, serve, connect):
    """The child may close or drop the parent's stream without an effect on the parent."""
    server = serve(two_pieces)
    client = connect(server, session=session)
    streams = [client.stream_workflow("w")]
    assert next(streams[0]).chunk == "One"
    pool = client._transport._session.get_adapter(client.base_url).poolmanager.connection_from_url(client.base_url)

    def work():
        if leave == "close":
            streams[0].close()
        streams.clear()

    child = while_held(pool.pool.mutex, lambda: Forked(work))
    child.result()
    server.go()
    assert streams[0].result.text == "One, two"


def test_fork_child_closes_stream_read_by_thread(session, serve, connect):
    """Closing a stream in the child does not break it for a waiting thread of the parent."""
    server = serve(two_pieces)
    stream = connect(server, session=session).stream_workflow("w")
    assert next(stream).chunk == "One"
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(lambda: list(stream.text()))
        assert not rest.done()
        in_child(stream.close)
        server.go()
        assert rest.result(PATIENCE) == [", two"]


def test_fork_server_sees_end_of_stream(session, serve, connect):
    """If the parent closes a stream early, the server sees it, although a child of a fork is alive."""

    def answer_and_wait(connection):
        connection.request()
        connection.send(head("Content-Type: text/event-stream", "Transfer-Encoding: chunked") + chunk(b'data: {"chunk": "One"}\n\n'))
        connection.wait_for_hang_up()

    server = serve(answer_and_wait)
    stream = connect(server, session=session).stream_workflow("w")
    next(stream)
    here, there = socket.socketpair()

    def live():
        here.close()
        there.send(b"!")
        there.recv(1)  # until the parent closes its end

    with here, there:
        child = Forked(live)
        here.recv(1)
        stream.close()
        server.wait_for_hang_up()
        here.close()
        there.close()
        child.result()


@pytest.mark.usefixtures("_trusted")
def test_fork_with_tls(secure, connect):
    """A child starts a new TLS session, and does not disturb that of the parent."""
    server = secure(echo)
    client = connect(server)

    def ask():
        return client.execute_workflow("w", {"pid": os.getpid()}).output == {"pid": os.getpid()}

    assert ask()
    assert in_child(lambda: ask() and ask())
    assert ask()
    assert server.connections == 2


def test_fork_with_closed_connections(serve, connect):
    """Connections that were closed before the fork do not affect a child."""
    server = serve(answers(http(envelope()), b"garbage\r\n\r\n"))
    client = connect(server)
    errors = []
    for _ in range(3):
        client.execute_workflow("w")
        with pytest.raises(RecallError) as caught:
            client.execute_workflow("w")
        errors.append(caught)
    client.execute_workflow("w")
    client.close()
    assert in_child(lambda: client.execute_workflow("w").output) == "hello"


def test_fork_before_first_call(server, session):
    """Children of a parent that has sent nothing do not share connections."""
    with RecallClient(KEY, server.base_url, session=session) as client:
        children = [Forked(lambda: ask(client)) for _ in range(4)]
        pids = {child.result() for child in children}
    assert len(pids) == 4
    assert sorted(map(sorted, processes_by_connection(server).values())) == sorted([pid] for pid in pids)


class AdapterOfAnotherKind(requests.adapters.BaseAdapter):
    """An adapter that has no connections."""

    def close(self):
        pass


def test_other_process_id_means_other_connections(session, serve, connect, monkeypatch):
    """Done here without a fork, so that it is measured: under another process id, calls use new connections, and streams are not read."""
    here = os.getpid()
    server, streaming = serve(echo), serve(two_pieces)
    client = connect(server, session=session)
    client._transport._session.mount("http+mock://", AdapterOfAnotherKind())
    client.execute_workflow("w")
    parts = connect(streaming, session=session)
    stream, other = parts.stream_workflow("w"), parts.stream_workflow("w")
    assert next(stream).chunk == next(other).chunk == "One"
    batch = connect(server).execute_batch([("w", {})])
    assert next(batch).error is None
    running = batch._batch
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: here + 1)
        parts.close()
        stream._response.close()
        stream._response.abort()
        assert client.execute_workflow("w", {"a": 1}).output == {"a": 1}
        assert client.execute_workflow("w", {"a": 2}).output == {"a": 2}
        with pytest.raises(StreamInterruptedError, match="parent of this process"):
            next(other)
        batch.close()
    streaming.go()
    streaming.go()  # for each of the two streams
    assert stream.result.text == "One, two"
    assert server.connections == 2 + 1  # the batch's own
    running.stop()
    other._response.close()
    for kept in filter(None, client._transport._left_to_parent):
        kept.clear()  # as the parent would, which this process is too


FORK_IN_C = """\
import ctypes, os, sys
from recall_sdk import RecallClient

def ask(count):
    for _ in range(count):
        assert client.execute_workflow("echo", {"pid": os.getpid()}).output == {"pid": os.getpid()}

client = RecallClient()
ask(1)
pid = ctypes.PyDLL(None).fork()
if not pid:
    try:
        ask(3)
    finally:
        os._exit(0)
os.waitpid(pid, 0)
ask(2)
"""


@pytest.mark.skipif(not (hasattr(os, "fork") and hasattr(ctypes, "PyDLL")), reason="needs fork of the C library")
def test_fork_past_the_hooks_of_python(server):
    """A child that is forked in C, as by uWSGI, where no hook of Python runs, uses its own connections."""
    environment = {**os.environ, "RECALL_API_KEY": KEY, "RECALL_BASE_URL": server.base_url}
    subprocess.run([sys.executable, "-c", FORK_IN_C], env=environment, check=True, timeout=PATIENCE)
    seen = processes_by_connection(server)
    assert sorted(map(len, seen.values())) == [1, 1]
    assert len(server.requests) == 1 + 3 + 2


# ---------------------------------------------------------------------------------------------------------- worker processes


METHODS = ["fork", "forkserver", "spawn"]


@pytest.mark.parametrize("method", METHODS)
def test_client_as_process_argument(server, method):
    """A client passed to a process works there, on connections of that process."""
    context = multiprocessing.get_context(method)
    with RecallClient(KEY, server.base_url) as client:
        parent = ask(client)
        children = [context.Process(target=ask, args=(client,)) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(PATIENCE)
            assert child.exitcode == 0
        ask(client)
    assert sorted(map(sorted, processes_by_connection(server).values())) == sorted(
        [pid] for pid in [parent, *(child.pid for child in children)]
    )


@pytest.mark.parametrize("method", METHODS)
def test_worker_process_keeps_one_client(server, method):
    """A client sent repeatedly to worker processes is one client in each, which reuses its connection."""
    context = multiprocessing.get_context(method)
    with RecallClient(KEY, server.base_url) as client, ProcessPoolExecutor(2, mp_context=context) as pool:
        ask(client)
        pids = {future.result(PATIENCE) for future in [pool.submit(ask, client, 2) for _ in range(12)]}
    seen = processes_by_connection(server)
    assert [processes for processes in seen.values() if len(processes) > 1] == []
    assert len(seen) == 1 + len(pids)


APPLICATION = """\
import os
from recall_sdk import RecallClient

client = RecallClient()
client.execute_workflow("echo", {"pid": os.getpid()})  # as an application that warms up while it is loaded

def application(environ, start_response):
    output = client.execute_workflow("echo", {"pid": os.getpid()}).output
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [str(output["pid"]).encode()]
"""


def test_gunicorn_preload(server, tmp_path):
    """Under ``gunicorn --preload`` the workers inherit a client that the master has used, and share no connection."""
    pytest.importorskip("gunicorn")
    (tmp_path / "application.py").write_text(APPLICATION, "utf-8")
    settings = ["--preload", "--workers", "3", "--chdir", str(tmp_path), "--log-level", "error", "--graceful-timeout", "1"]
    environment = {**os.environ, "RECALL_API_KEY": KEY, "RECALL_BASE_URL": server.base_url, "PYTHONWARNINGS": "ignore"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = "http://{}:{}".format(*listener.getsockname())
        command = [sys.executable, "-m", "gunicorn", *settings, "--bind", f"fd://{listener.fileno()}", "application:application"]
        gunicorn = subprocess.Popen(command, pass_fds=[listener.fileno()], env=environment, cwd=str(tmp_path))
    try:
        with ThreadPoolExecutor(6) as pool:
            pids = {int(answer.text) for answer in pool.map(lambda _: requests.get(url, timeout=PATIENCE), range(60))}
    finally:
        gunicorn.terminate()
        gunicorn.wait(PATIENCE)
    seen = processes_by_connection(server)
    assert gunicorn.pid in set().union(*seen.values())
    assert gunicorn.pid not in pids
    assert sorted(map(sorted, seen.values())) == sorted([pid] for pid in [gunicorn.pid, *pids])


# ----------------------------------------------------------------------------------------------------------- pickle and copy


def by_cloudpickle(client):
    """Send a client like Ray and loky, as a part of its call."""
    return pickle.loads(cloudpickle().dumps(client.execute_workflow)).__self__


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, by_cloudpickle, *(lambda it, n=n: pickle.loads(pickle.dumps(it, n)) for n in range(2, 6))]
)
def test_copy_has_own_connections(server, duplicate):
    """A copy has the same settings, and works after the original is closed or changed."""
    client = RecallClient(KEY, server.base_url, timeout=7.0)
    twin, other = duplicate(client), duplicate(client)
    assert len({id(client), id(twin), id(other)}) == 3
    assert (twin.api_key, twin.base_url, twin._timeout) == (client.api_key, client.base_url, 7.0)
    assert KEY not in repr(twin)
    client.set_api_key("another-key")
    client.close()
    ask(twin)
    with pytest.raises(AuthenticationError):
        ask(client)
    ask(other)
    assert len({request.connection for request in server.requests}) == 3
    for each in (client, twin, other):
        each.close()


def test_copy_keeps_settings(server):
    """Attributes of a client are copied, and those of its copy are separate."""
    with RecallClient("first-key", "http://first", timeout=None) as client:
        client.set_api_key(KEY)
        client.set_base_url(server.base_url)
        with pickle.loads(pickle.dumps(client)) as twin:
            assert twin._timeout is None
            ask(twin)
            twin.set_api_key("another-key")
        ask(client)


class Subclass(RecallClient):
    """A subclass of the user's."""


def test_copy_keeps_class():
    """A copy of a subclass is of that subclass, also in a worker process."""
    client = Subclass(KEY)
    assert type(copy.copy(client)) is Subclass
    pickled = pickle.dumps(client)
    plain = pickle.dumps(RecallClient(KEY))
    assert in_child(lambda: [type(pickle.loads(each)) for each in (pickled, plain)]) == [Subclass, RecallClient]


class TenantClient(RecallClient):
    """A client with its own constructor."""

    def __init__(self, tenant):
        super().__init__(KEY, "http://127.0.0.1:1", timeout=7.0)
        self.tenant = tenant


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client)), by_cloudpickle])
def test_copy_of_subclass_with_its_own_constructor(duplicate):
    """A copy is of the same class, with its attributes and its settings as they are now."""
    client = TenantClient({"name": "acme"})
    client.set_api_key("another-key")
    twin = duplicate(client)
    assert type(twin) is TenantClient
    assert twin is not client
    assert (twin.tenant, twin.api_key, twin.base_url, twin._timeout) == ({"name": "acme"}, "another-key", "http://127.0.0.1:1", 7.0)


class Incomparable:
    """A value of the user's that can't be compared."""

    def __eq__(self, other):
        raise TypeError("not comparable")

    __hash__ = None


def test_worker_clients_share_connections(server):
    """In a worker process, all clients of one server and key share connections, whatever their class, attributes and timeouts are."""
    acme, initech = TenantClient("acme"), TenantClient(Incomparable())
    plain, patient = RecallClient(KEY), RecallClient(KEY, timeout=99.0)
    for client in (acme, initech, plain, patient):
        client.set_base_url(server.base_url)
    pickled = [pickle.dumps(each) for each in (acme, acme, initech, plain, patient)]

    def work():
        arrived = [pickle.loads(each) for each in pickled]
        for client in arrived:
            ask(client)
        return len(set(map(id, arrived))), arrived[0].tenant, type(arrived[2].tenant), arrived[4]._timeout

    assert in_child(work) == (5, "acme", Incomparable, 99.0)
    assert len({request.connection for request in server.requests}) == 1


def test_worker_clients_of_other_settings_share_nothing():
    """In a worker process, clients of another server or key have other connections, and a client that was changed harms no other."""
    clients = [RecallClient(KEY), RecallClient("another-key"), RecallClient(KEY, "http://host"), RecallClient(KEY)]
    pickled = [pickle.dumps(each) for each in clients]

    def work():
        arrived = [pickle.loads(each) for each in pickled]
        arrived[0].set_api_key("changed-key")
        late = pickle.loads(pickled[0])
        transports = [each._transport for each in arrived]
        return [transports.index(each) for each in transports], [arrived[0].api_key, arrived[3].api_key, late.api_key], KEY in repr(late)

    assert in_child(work) == ([0, 1, 2, 0], ["changed-key", KEY, KEY], False)


def test_worker_keeps_bounded_number_of_connections():
    """A worker process keeps the connections of a bounded number of servers, those used last."""
    pickled = [pickle.dumps(RecallClient(KEY, f"http://host-{number}")) for number in range(MAX_SHARED + 1)]

    def work():
        clients = [pickle.loads(each) for each in pickled]
        return [pickle.loads(pickled[index])._transport is clients[index]._transport for index in (-1, 0)]

    assert in_child(work) == [True, False]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_client_with_own_session_does_not_pickle(duplicate):
    """A client with its own session can be neither copied nor pickled; the error says what to do instead."""
    with requests.Session() as session, pytest.raises(TypeError, match="its own session can't be pickled or copied") as refused:
        duplicate(RecallClient(KEY, session=session))
    assert KEY not in str(refused.value)


def test_client_unpickled_at_home_is_new():
    """A client that returns from a worker process works at home."""
    with RecallClient(KEY, timeout=3.0) as client, ProcessPoolExecutor(1) as pool:
        returned = pool.submit(copy.copy, client).result(PATIENCE)
        assert (returned.api_key, returned.base_url, returned._timeout) == (client.api_key, client.base_url, 3.0)


@pytest.fixture(scope="module")
def workers():
    """One worker process of each kind."""
    with ExitStack() as stack:
        contexts = {method: multiprocessing.get_context(method) for method in ("fork", "spawn")}
        yield {method: stack.enter_context(ProcessPoolExecutor(1, mp_context=context)) for method, context in contexts.items()}


def facts(error):
    """All attributes of an error."""
    return type(error), error.args, vars(error)


LIMITED = {"Retry-After": "7", "X-RateLimit-Limit": "3", "X-RateLimit-Reset": "2000000000"}  # the same moment, whenever it is asked

FAILURES = {
    "ExecutionError": ("execute_workflow", ("fail",), {"status": 500, "json": {"success": False, "error": "boom", "output": {"a": 1}}}),
    "AuthenticationError": ("get_usage_limits", (), {"status": 401, "json": {"error": "no"}}),
    "RateLimitError": ("execute_workflow", ("echo",), {"status": 429, "headers": LIMITED}),
    "StreamInterruptedError": ("execute_workflow", ("echo", None), {"events": [{"blockId": "b", "chunk": "Hel"}], "cut": True}),
    "RecallConnectionError": ("execute_workflow", ("echo",), {"drop": True}),
    "InvalidRequestError": ("execute_workflow", ("echo", {"a": b""}), None),
    "NotFoundError": ("get_job_status", ("nowhere",), None),
}


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("failure", FAILURES)
def test_worker_error_pickles(failure, method, workers, server):
    """An error raised in a worker process reaches the parent with all its attributes."""
    name, arguments, scripted = FAILURES[failure]
    raised = []
    with RecallClient(KEY, server.base_url) as client:
        call = getattr(client, name)
        for run in (call, lambda *arguments: workers[method].submit(call, *arguments).result(PATIENCE)):
            if scripted:
                server.respond_next(**scripted)
            with pytest.raises(RecallError) as caught:
                run(*arguments)
            raised.append(caught.value)
    here, there = raised
    assert type(here).__name__ == failure
    assert facts(here) == facts(there) == facts(copy.copy(there)) == facts(copy.deepcopy(there))


def test_worker_error_keeps_attributes(server):
    """The result of a failed run, the limits, the partial text and the place in the input are pickled, too."""
    arrived = {}
    with RecallClient(KEY, server.base_url) as client, ProcessPoolExecutor(1) as pool:
        for name, (call, arguments, scripted) in FAILURES.items():
            if scripted:
                server.respond_next(**scripted)
            arrived[name] = pool.submit(getattr(client, call), *arguments).exception(PATIENCE)
    failed, limited, broken, refused = (
        arrived[kind.__name__] for kind in (ExecutionError, RateLimitError, StreamInterruptedError, InvalidRequestError)
    )
    assert (failed.result.error, failed.result.output, failed.may_have_executed) == ("boom", {"a": 1}, True)
    assert (limited.retry_after, limited.rate_limit.retry_after, limited.may_have_executed) == (7.0, 7, False)
    assert (broken.partial.text, broken.partial.text_by_block, broken.may_have_executed) == ("Hel", {"b": "Hel"}, True)
    assert (refused.code, "input.a" in str(refused)) == ("INVALID_JSON", True)


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
def test_worker_model_pickles(model):
    """Every model can be pickled and copied."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(model, protocol)) == model
    assert copy.copy(model) == copy.deepcopy(model) == dataclasses.replace(model) == model


def test_batch_item_with_error_pickles():
    """The item of a run that failed pickles with its error."""
    error = RateLimitError("slow down", "RATE_LIMIT_EXCEEDED", 429)
    error.rate_limit = RateLimitInfo(1, 0, 3)
    item = BatchItem(1, "w", None, None, error)
    for twin in (pickle.loads(pickle.dumps(item)), copy.deepcopy(item)):
        assert facts(twin.error) == facts(error)
        assert dataclasses.replace(twin, error=None) == dataclasses.replace(item, error=None)
