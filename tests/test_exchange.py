"""One response owns an exchange: its time, its memory, its connection, and errors that are true, whatever the server sends."""

import errno
import gc
import gzip
import http.client
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import traceback
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path
from time import monotonic
from unittest import mock

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.util import Retry

from rawserver import KEY, LAST_CHUNK, PATIENCE, answers, chunk, collect_quietly, echo, envelope, head, http
from recall_sdk import (
    InvalidRequestError,
    InvalidResponseError,
    RateLimitError,
    RecallConnectionError,
    RecallError,
    RecallTimeoutError,
    RedirectError,
    StreamInterruptedError,
    _response,
)
from recall_sdk._requests import workflow_status
from recall_sdk._translation import Exchange, translate

OK = http(envelope())
EVENTS = head("Content-Type: text/event-stream", "Connection: close")


def forever(*start, data):
    """Make a handler that sends a start, and then the same bytes for ever without a pause."""

    def handler(connection):
        connection.request()
        connection.send(b"".join(start))
        while True:
            connection.send(data)

    return handler


# --------------------------------------------------------------------------------------------------------------------- time

ENDLESS = {
    "a chunked body": forever(head("Transfer-Encoding: chunked"), data=chunk(b"x" * 1000)),
    "a body of one-byte chunks": forever(head("Transfer-Encoding: chunked"), data=chunk(b"x")),
    "a body that ends by closing": forever(head("Connection: close"), data=b"x" * 1000),
    "a body with a length": forever(head("Content-Length: 1000000000000"), data=b"x" * 1000),
    "an error body": forever(head("Transfer-Encoding: chunked", status="503 Down"), data=chunk(b"x" * 1000)),
    "a compressed body": forever(head("Transfer-Encoding: chunked", "Content-Encoding: gzip"), data=chunk(gzip.compress(b"x"))),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_deadline_covers_endless_body(kind, session, serve, connect):
    """A body whose bytes never pause ends the call at its timeout."""
    client = connect(serve(ENDLESS[kind]), session=session)
    start = monotonic()
    with pytest.raises(RecallTimeoutError):
        client.execute_workflow("w", timeout=0.5)
    assert monotonic() - start < 3


def test_deadline_covers_dripping_chunk_size(session, serve, connect):
    """A line with the size of a chunk that arrives byte by byte does not outlast the timeout."""

    def handler(connection):
        connection.request()
        connection.send(head("Transfer-Encoding: chunked"))
        connection.drip(b"5;" + b"x" * 1000, pause=0.05)

    client = connect(serve(handler), session=session)
    start = monotonic()
    with pytest.raises(RecallTimeoutError):
        client.execute_workflow("w", timeout=0.5)
    assert monotonic() - start < 3


FLOODS = {
    "interim responses": forever(data=b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
    "early hints": forever(data=b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50),
    "trailers": forever(head("Transfer-Encoding: chunked"), chunk(b"{}"), b"0\r\n", data=b"X-Trailer: x\r\n" * 50),
    "a redirect's body": forever(head("Transfer-Encoding: chunked", "Location: /x", status="302 Found"), data=chunk(b"x" * 1000)),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_deadline_covers_flood(kind, serve, connect):
    """A call does not outlast its timeout for interim responses, trailers or the body of a redirect that never end."""
    client = connect(serve(FLOODS[kind]))
    start = monotonic()
    with suppress(RecallError):  # a body is complete before its trailers are
        client.execute_workflow("w", timeout=0.5)
    assert monotonic() - start < 3


def test_refused_redirect_body_is_not_read(session, serve, connect):
    """The error of a redirect that is not followed does not wait for its body."""
    client = connect(serve(FLOODS["a redirect's body"]), session=session)
    start = monotonic()
    with pytest.raises(RedirectError):
        client.execute_workflow("w", timeout=PATIENCE)
    assert monotonic() - start < PATIENCE / 2


@pytest.mark.parametrize("end", [{"event": "done", "success": True}, "[DONE]"])
def test_deadline_covers_bytes_after_end_of_stream(end, session, serve, connect):
    """Bytes that keep coming after the end event do not hold the result back."""
    event = b"data: " + json.dumps(end).encode() + b"\n\n"
    client = connect(serve(forever(EVENTS, event, data=b": more\n\n")), session=session)
    start = monotonic()
    assert client.execute_workflow("w", stream=True, timeout=PATIENCE).success is True
    assert monotonic() - start < PATIENCE / 2


@pytest.mark.parametrize("status", ["102 Processing", "103 Early Hints"])
def test_interim_responses_are_passed_over(status, serve, connect):
    """The response is the one after all interim ones, and the connection is used again."""
    interim = head("Link: </style.css>", status=status)
    server = serve(answers(interim + head(status="100 Continue") + interim + OK))
    client = connect(server)
    for _ in range(2):
        assert client.execute_workflow("w").output == "hello"
    assert server.connections == 1


# ------------------------------------------------------------------------------------------------------------------- memory


def test_body_is_bounded(session, serve, connect, monkeypatch):
    """A body above the bound raises an error, and its bytes are not kept."""
    monkeypatch.setattr(_response, "MAX_BODY", 1_000_000)
    client = connect(serve(forever(head("Transfer-Encoding: chunked"), data=chunk(b" " * 1000))), session=session)
    with pytest.raises(InvalidResponseError, match="more than 1000000 bytes") as caught:
        client.execute_workflow("w")
    assert caught.value.may_have_executed is True


@pytest.mark.skipif(not hasattr(sys, "getallocatedblocks"), reason="this Python does not count its memory")
def test_calls_leave_nothing_in_memory(serve):
    """Memory stays the same from call to call; not even a name stays in one of Python's caches."""
    script = """if True:
        import gc, sys
        from concurrent.futures import ThreadPoolExecutor
        from recall_sdk import RecallClient

        with RecallClient("key", sys.argv[1]) as client, ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                list(pool.map(client.execute_workflow, ["w"] * 1000))
                gc.collect()
                print(sys.getallocatedblocks())
    """
    command = [sys.executable, "-c", script, serve(echo).url]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=6 * PATIENCE).stdout
    blocks = list(map(int, output.split()))
    assert min(after - before for before, after in zip(blocks, blocks[1:])) < 5  # a cache of Python's may grow once


@pytest.mark.parametrize("status", ["200 OK", "500 Failed"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip"])
def test_decompression_is_bounded(encoding, status, session, serve, connect, monkeypatch):  # noqa: PLR0917 -- fixtures
    """A few bytes that become many are decompressed piece by piece, with memory near the bound."""
    monkeypatch.setattr(_response, "MAX_BODY", 1_000_000)
    data = b" " * 300_000_000
    for name in encoding.split(", "):
        data = gzip.compress(data, 1) if name == "gzip" else zlib.compress(data, 1)
    client = connect(serve(answers(http(data, f"Content-Encoding: {encoding}", status=status))), session=session)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidResponseError, match="more than 1000000 bytes"):
            client.execute_workflow("w")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "encoding", ["gzip, gzip, gzip", ", ".join(["gzip"] * 13_000), "gzip\r\nContent-Encoding: gzip\r\nContent-Encoding: gzip"]
)
@pytest.mark.parametrize("streaming", [False, True])
def test_content_encoding_has_at_most_two_entries(encoding, streaming, session, serve, connect):
    """More encodings than two are rejected, however many there are."""
    lines = [encoding[start : start + 50_000] for start in range(0, len(encoding), 50_000)]
    client = connect(serve(answers(http(b"", *(f"Content-Encoding: {line}" for line in lines)))), session=session)
    with pytest.raises(InvalidResponseError, match="encodings"):
        client.execute_workflow("w", stream=streaming)


MEMBERS = {
    "two encodings": ("gzip, deflate", zlib.compress(gzip.compress(b'{"success": true, "output": 1}'))),
    "two members": ("gzip", gzip.compress(b'{"success": true,') + gzip.compress(b' "output": 1}')),
    "garbage after the end": ("x-gzip", gzip.compress(b'{"success": true, "output": 1}') + b"garbage"),
    "deflate without a header": ("deflate", zlib.compress(b'{"success": true, "output": 1}')[2:-4]),
    "identity": ("identity", b'{"success": true, "output": 1}'),
    "large": ("gzip", gzip.compress(b'{"success": true, "output": 1}' + b" " * 1_000_000)),
}


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("kind", MEMBERS)
def test_decompression(kind, bytewise, session, serve, connect):
    """All forms of compressed bodies are read, however they are split."""
    encoding, body = MEMBERS[kind]
    pieces = [body[index : index + 1] for index in range(len(body))] if bytewise else [body]
    message = head("Transfer-Encoding: chunked", f"Content-Encoding: {encoding}") + b"".join(map(chunk, pieces)) + LAST_CHUNK
    assert connect(serve(answers(message)), session=session).execute_workflow("w").output == 1


# -------------------------------------------------------------------------------------------------------------- connections


def test_stream_dropped_in_a_cycle_harms_no_later_call(session, serve, connect):
    """A stream that only the garbage collector closes leaves no closed connection in the pool."""
    body = b'data: {"blockId": "a", "chunk": "x"}\n\ndata: [DONE]\n\n'
    stream = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked") + chunk(body) + LAST_CHUNK

    def handler(connection):
        while True:
            connection.send(stream if connection.request().json else OK)

    client = connect(serve(handler), session=session)

    def drop():
        events = client.stream_workflow("w")
        try:
            for _ in events:
                raise KeyError
        except KeyError as error:
            kept = error
        return kept.args

    for _ in range(3):
        drop()
        gc.collect()
        assert client.validate_workflow.__self__.execute_workflow("w").output == "hello"


SURPLUS = {
    "a line end": http(envelope()) + b"\r\n",
    "a second response": http(envelope()) + http(envelope("foreign")),
    "a body longer than its length": head("Content-Length: 36") + b'{"success": true, "output": "hello"}}}',
    "a second response after chunks": head("Transfer-Encoding: chunked")
    + chunk(b'{"success": true, "output": "hello"}')
    + LAST_CHUNK
    + http(envelope("foreign")),
    "a second response after an error": http({"error": "gone"}, status="410 Gone") + http(envelope("foreign")),
}


@pytest.mark.parametrize("kind", SURPLUS)
def test_surplus_bytes_end_the_connection(kind, session, serve, connect):
    """Bytes beyond the end of a response reach no other call, and make none fail."""

    def handler(connection):
        connection.request()
        if connection.number == 1:
            connection.send(SURPLUS[kind])
            connection.idle()
        connection.send(http(envelope("ours")))

    server = serve(handler)
    client = connect(server, session=session)
    with suppress(RecallError):
        assert client.execute_workflow("w").output == "hello"
    assert client.execute_workflow("w").output == "ours"
    assert server.connections == 2


@pytest.mark.usefixtures("_trusted")
def test_surplus_bytes_end_the_connection_under_tls(secure, connect):
    """The same where the bytes are in the TLS layer already."""
    pad = b" " * 8192

    def handler(connection):
        connection.request()
        if connection.number == 1:
            body = b'{"success": true, "output": "hello"}'
            connection.send(head(f"Content-Length: {len(body)}") + body + pad + http(envelope("foreign")))
            connection.idle()
        connection.send(http(envelope("ours")))

    server = secure(handler)
    client = connect(server)
    assert client.execute_workflow("w").output == "hello"
    assert client.execute_workflow("w").output == "ours"


def is_open(sock):
    """Return whether the other side of a connection has not closed it."""
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors as Linux shows them")
def test_close_from_another_thread_without_free_descriptors(session, serve, connect):
    """Closing a stream ends its reader in another thread, also if the process can open nothing more."""
    import resource  # noqa: PLC0415 -- Windows has none

    def handler(connection):
        connection.request()
        connection.send(EVENTS + b'data: {"blockId": "a", "chunk": "One"}\n\n')
        connection.idle()

    stream = connect(serve(handler), session=session).stream_workflow("w")
    assert next(stream).chunk == "One"
    ended = []

    def read():
        with pytest.raises(StreamInterruptedError, match="closed here") as caught:
            next(stream)
        ended.append(caught.value.partial.text)

    reader = threading.Thread(target=read)
    reader.start()
    usual, held = resource.getrlimit(resource.RLIMIT_NOFILE), []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 2, usual[1]))
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        stream.close()
        reader.join(PATIENCE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
        for descriptor in held:
            os.close(descriptor)
    assert ended == ["One"]


def test_former_hosts_keep_no_sockets(serve, connect):
    """A client that was used with many servers leaves the idle connections of at most ten open."""
    servers = [serve(echo) for _ in range(15)]
    client = connect(servers[0])
    for server in servers:
        client.set_base_url(server.url)
        client.execute_workflow("w")
    gc.collect()
    assert sum(is_open(sock) for server in servers for sock in server._socks) <= 10


def test_host_name_is_looked_up_once_for_each_connection(serve, connect, monkeypatch):
    """A slow resolver is asked once."""
    names, real = [], socket.getaddrinfo

    def look_up(host, *args, **kwargs):
        names.append(host)
        return real("127.0.0.1" if host == "server.test" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    server = serve(echo)
    connect(server.url.replace("127.0.0.1", "server.test")).execute_workflow("w")
    assert names.count("server.test") == 1


def test_call_goes_on_if_client_is_closed_at_the_last_moment(serve, connect, monkeypatch):
    """A call whose pool another thread closes before it has a connection is sent once, on another one."""
    verify = HTTPAdapter.cert_verify  # called between the choice of a pool and that of its connection
    pools = []

    def close_once(adapter, pool, *args):
        if not pools:
            adapter.close()
        pools.append(pool)
        return verify(adapter, pool, *args)

    monkeypatch.setattr(HTTPAdapter, "cert_verify", close_once)
    server = serve(answers(OK))
    assert connect(server).execute_workflow("w").success is True
    assert (len(pools), len(server.requests)) == (2, 1)


def test_calls_go_on_while_client_is_closed(serve, connect):
    """Calls work while another thread closes the client and changes its key all the time."""
    client = connect(serve(echo))
    failures, done = [], threading.Event()

    def disturb():
        for number in itertools.count():
            if done.is_set():
                return
            client.close()
            client.set_api_key(f"key-{number}")

    def call():
        try:
            for number in range(100):
                assert client.execute_workflow("w", {"n": number}).output == {"n": number}
        except Exception as error:  # noqa: BLE001 -- shown below
            failures.append(error)

    disturber = threading.Thread(target=disturb)
    callers = [threading.Thread(target=call) for _ in range(4)]
    for thread in (disturber, *callers):
        thread.start()
    for thread in callers:
        thread.join()
    done.set()
    disturber.join()
    assert failures == []


# ------------------------------------------------------------------------------------------------------ errors that are true


class CallersError(Exception):
    """An exception of the caller's own."""


CALLERS = [
    FileNotFoundError("token.json"),
    ValueError("no token"),
    ConnectionResetError("the cache is down"),
    CallersError(),
    socket.timeout("x"),
]


@pytest.mark.parametrize("error", CALLERS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["auth", "hook", "adapter"])
@pytest.mark.parametrize("streaming", [False, True])
def test_error_of_callers_code_reaches_the_caller(error, place, streaming, serve, connect):
    """What an auth callable, a hook or an adapter raises is the same object in the caller's hands."""

    def fail(*_, **__):
        raise error

    class Adapter(HTTPAdapter):
        send = fail

    session = requests.Session()
    if place == "auth":
        session.auth = fail
    elif place == "hook":
        session.hooks["response"].append(fail)
    else:
        session.mount("http://", Adapter())
    client = connect(serve(echo), session=session)
    with pytest.raises(type(error)) as caught:
        client.execute_workflow("w", stream=streaming)
    assert caught.value is error
    session.close()


def test_timeout_of_the_operating_system():
    """A connection that the operating system gives up on is broken; the timeout of the call has not passed."""
    exchange = Exchange(workflow_status("w"), "http://server.test/x", "http://server.test", KEY, 30.0, {}, may_repeat=False)
    error = translate(TimeoutError(errno.ETIMEDOUT, "Connection timed out"), exchange)
    assert type(error) is RecallConnectionError
    assert "Connection timed out" in str(error)


def test_error_of_a_hook_with_an_empty_response(serve, connect):
    """A hook may raise requests' own error with a response of its own making, and that is the caller's error."""
    error = requests.HTTPError("not this one", response=requests.Response())

    def fail(response, **_):
        response.close()
        raise error

    with requests.Session() as session:
        session.hooks["response"].append(fail)
        with pytest.raises(requests.HTTPError) as caught:
            connect(serve(echo), session=session).execute_workflow("w")
    assert caught.value is error


def test_session_without_an_adapter_for_the_scheme(serve, connect):
    """A session that has no adapter for the base URL can't connect, and nothing was sent."""
    with requests.Session() as session:
        session.adapters.clear()
        with pytest.raises(RecallConnectionError) as caught:
            connect(serve(echo), session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False


def test_error_of_a_request_of_an_auth_callable(serve, connect):
    """An auth callable that fetches a token with requests may fail as requests does, and that is the caller's error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        token_url = f"http://127.0.0.1:{listener.getsockname()[1]}/token"

    def auth(request):
        requests.post(token_url, timeout=1)
        return request

    session = requests.Session()
    session.auth = auth
    server = serve(echo)
    with pytest.raises(requests.ConnectionError):
        connect(server, session=session).execute_workflow("w")
    assert server.requests == []
    session.close()


@pytest.mark.parametrize(("place", "may_have_executed"), [("auth", False), ("hook", True)])
def test_error_of_callers_code_in_a_batch(place, may_have_executed, serve, connect):
    """In a batch it is the cause of its item's error, which says whether anything was sent, and shows no key."""
    error = CallersError(f"with {KEY}") if place == "hook" else CallersError("no token")

    def fail(*_, **__):
        raise error

    session = requests.Session()
    if place == "auth":
        session.auth = fail
    else:
        session.hooks["response"].append(fail)
    (item,) = connect(serve(echo), session=session).execute_batch([("w", {})])
    assert item.error.may_have_executed is may_have_executed
    assert item.error.__cause__ is (error if place == "auth" else None)  # one that shows the key is dropped
    assert KEY not in "".join(traceback.format_exception(type(item.error), item.error, item.error.__traceback__))
    assert "CallersError" in str(item.error)
    session.close()


@pytest.mark.parametrize("value", [42, "Zo\u00eb \u2713", "a\r\nb"])
def test_header_that_can_not_be_sent(value, serve, connect):
    """A header of the session that has no form on the wire is named, and nothing was sent."""
    session = requests.Session()
    session.headers["X-Team"] = value
    server = serve(echo)
    with pytest.raises(InvalidRequestError, match="X-Team") as caught:
        connect(server, session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False
    assert server.requests == []
    session.close()


def test_header_of_an_auth_callable_that_can_not_be_sent(serve, connect):
    """A header that an auth callable sets is rejected by http.client, and nothing was sent."""
    session = requests.Session()

    def auth(request):
        request.headers["X-Team"] = "\u2713"
        return request

    session.auth = auth
    with pytest.raises(InvalidRequestError, match="header") as caught:
        connect(serve(echo), session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False
    session.close()


def test_session_closed_before_sending(serve, connect):
    """Where another thread has closed the connection pool of the user's session, nothing was sent."""
    session = requests.Session()
    server = serve(echo)
    client = connect(server, session=session)
    client.execute_workflow("w")
    pools = session.get_adapter(server.url).poolmanager.pools
    for key in pools.keys():  # noqa: SIM118 -- it can't be iterated
        pools[key].close()
    with pytest.raises(RecallConnectionError, match="your session was closed") as caught:
        client.execute_workflow("w")
    assert caught.value.may_have_executed is False
    assert len(server.requests) == 1


def test_no_connection_of_the_session_is_free(serve, connect):
    """Where the user's session has no more connections than are in use, nothing was sent, and the error names the remedy."""

    class Impatient(HTTPConnectionPool):
        def urlopen(self, *args, **settings):
            return super().urlopen(*args, **settings, pool_timeout=0.01)

    session = requests.Session()
    adapter = HTTPAdapter(pool_maxsize=1, pool_block=True)
    adapter.poolmanager.pool_classes_by_scheme = {"http": Impatient}
    session.mount("http://", adapter)
    server = serve(answers(http(b"data: {}\n\n", "Content-Type: text/event-stream")))
    client = connect(server, session=session)
    with client.stream_workflow("w"):
        with pytest.raises(RecallConnectionError, match="set a larger pool_maxsize") as caught:
            client.execute_workflow("w")
        assert caught.value.may_have_executed is False
    assert len(server.requests) == 1


@pytest.mark.parametrize("methods", [None, frozenset({"POST"})])
def test_adapter_that_sends_twice(methods, connect):
    """Where the first attempt reached the server, an error of the second one does not say that nothing was executed."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def break_once():
        sock, _ = listener.accept()
        sock.recv(65536)
        listener.close()
        sock.close()

    thread = threading.Thread(target=break_once)
    thread.start()
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=Retry(total=1, allowed_methods=methods)))
    with pytest.raises(RecallConnectionError, match="could not connect") as caught:
        connect(f"http://127.0.0.1:{port}", session=session).execute_workflow("w")
    thread.join()
    assert caught.value.may_have_executed is True
    session.close()


def test_adapter_that_does_not_repeat_posts(connect):
    """The usual retries of an adapter do not repeat a POST, so a refused connection has executed nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=2))
    with pytest.raises(RecallConnectionError) as caught:
        connect(f"http://127.0.0.1:{port}", session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False
    session.close()


def test_rate_limit_behind_a_repeating_adapter_is_not_retried(serve, connect):
    """After a 429 that an earlier attempt of the adapter may have preceded, nothing is sent again."""
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=Retry(total=1, allowed_methods=None)))
    server = serve(answers(http({"error": "slow down"}, status="429 Too Many")))
    with pytest.raises(RateLimitError) as caught:
        connect(server, session=session).execute_with_retry("w", initial_delay=0)
    assert caught.value.may_have_executed is True
    assert len(server.requests) == 1
    session.close()


def test_client_certificate_of_garbage(tmp_path, connect, secure):
    """A client certificate that can't be loaded is named, and nothing was sent."""
    garbage = tmp_path / "client.pem"
    garbage.write_text("garbage")
    session = requests.Session()
    session.cert = str(garbage)
    with pytest.raises(RecallConnectionError, match=r"could not connect.*client\.pem.*can't be read.*cert of your session") as caught:
        connect(secure(echo), session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False
    session.close()
    del caught
    collect_quietly()  # urllib3 1.26 leaves the socket open


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", None])
def test_ca_bundle_of_garbage(variable, tmp_path, connect, secure, monkeypatch):
    """A file of authorities that can't be loaded is named, with the variable that points to it."""
    garbage = tmp_path / "ca.pem"
    garbage.write_text("garbage")
    session = None
    if variable:
        monkeypatch.setenv(variable, str(garbage))
    else:
        session = requests.Session()
        session.verify = str(garbage)
    with pytest.raises(RecallConnectionError, match=rf"ca\.pem.*can't be read.*check {variable or 'verify of your session'}") as caught:
        connect(secure(echo), session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False
    if session:
        session.close()
    del caught
    collect_quietly()  # urllib3 1.26 leaves the socket open


@pytest.mark.usefixtures("_trusted")
def test_certificate_for_another_name(session, connect, secure):
    """A certificate for another name advises to check the base URL."""
    with pytest.raises(RecallConnectionError, match=r"for another name.*check the base_url") as caught:
        connect(secure(echo, "other.example"), session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False


BAD_LOCATIONS = [b"http://[::1", b"/caf\xe9\xff", b"http://", b"http://a b/", b"//[", b"http://host:port/"]


@pytest.mark.parametrize("location", BAD_LOCATIONS)
@pytest.mark.parametrize("method", ["execute_workflow", "validate_workflow"])
def test_bad_location(location, method, session, serve, connect):
    """A Location that is no URL, or leads elsewhere, is a refused redirect."""

    def handler(connection):
        while True:
            connection.request()
            connection.send(b"HTTP/1.1 307 Moved\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")

    client = connect(serve(handler), session=session)
    with pytest.raises(RedirectError) as caught:
        getattr(client, method)("w")
    assert caught.value.code == "REDIRECT_REFUSED"


# ------------------------------------------------------------------------------------------------------------------ secrets


def test_key_in_chunk_size_of_stream_is_not_shown(session, serve, connect):
    """A stream whose chunk size is the key: neither the error nor its printed traceback shows it."""
    message = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked") + KEY.encode() + b"\r\n"
    client = connect(serve(answers(message)), session=session)
    for call in (client.execute_workflow, client.stream_workflow):
        with pytest.raises(RecallError) as caught:
            list(call("w", stream=True) if call == client.execute_workflow else call("w"))
        assert KEY not in "".join(traceback.format_exception(type(caught.value), caught.value, caught.value.__traceback__))
        assert caught.value.__cause__ is None or KEY not in repr(caught.value.__cause__)


def test_key_in_request_id_is_not_logged(session, serve, connect, caplog):
    """A request id that echoes the key, or holds control characters, appears masked and clean in the log."""
    caplog.set_level("DEBUG", "recall_sdk")
    client = connect(serve(answers(http(envelope(), f"X-Request-Id: \x1b[31m{KEY}"))), session=session)
    client.execute_workflow("w")
    assert KEY not in caplog.text
    assert "\x1b" not in caplog.text
    assert "[API key]" in caplog.text


def test_key_in_job_state_is_not_logged(serve, connect, caplog):
    """A job state that echoes the key, or holds control characters, appears masked and clean in the log and in the error."""
    caplog.set_level("INFO", "recall_sdk")
    client = connect(serve(answers(http({"taskId": "t", "status": f"\x1b[31m{KEY}\n\u202e"}))))
    with pytest.raises(RecallTimeoutError) as caught:
        client.wait_for_job("t", timeout=0.1, poll_interval=0.05)
    shown = caplog.text + str(caught.value)
    assert [each for each in (KEY, "\x1b", "\u202e") if each in shown] == []
    assert "has the unknown state '[API key]'" in shown


@pytest.mark.parametrize("proxy", ["socks://bob:hunter2@127.0.0.1:9", "ftp://bob:hunter2@127.0.0.1:9", "socks6://bob:hunter2@127.0.0.1:9"])
def test_proxy_of_unknown_scheme(proxy, session, connect, monkeypatch):
    """A proxy with a scheme that can't be used is blamed as the proxy, without its password."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    client = connect("https://recall.example", session=session)
    with pytest.raises(RecallConnectionError, match="proxy") as caught:
        client.execute_workflow("w")
    shown = "".join(traceback.format_exception(type(caught.value), caught.value, caught.value.__traceback__))
    assert "hunter2" not in shown
    assert caught.value.may_have_executed is False


@pytest.mark.parametrize("proxy", ["http://", "http:///x"])
def test_proxy_that_the_users_session_adds(proxy, serve, connect):
    """A proxy without a host that a subclass of the session adds to each call is blamed as the proxy, too."""

    class Proxied(requests.Session):
        def request(self, *args, **settings):
            return super().request(*args, **{**settings, "proxies": {"http": proxy}})

    with pytest.raises(RecallConnectionError, match="through the proxy") as caught:
        connect(serve(echo), session=Proxied()).execute_workflow("w")
    assert caught.value.may_have_executed is False


# ------------------------------------------------------------------------------------------------------- other people's tools


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("name", ["request", "post"])
def test_patched_session_is_used(name, own_session, serve, connect):
    """A patch of the class of the session sees the call, with the client's own session too."""
    given = requests.Response()
    given.status_code, given._content = 200, b'{"success": true, "output": "patched"}'
    server = serve(echo)
    client = connect(server, session=requests.Session() if own_session else None)
    with mock.patch(f"requests.Session.{name}", return_value=given) as patched:
        assert client.execute_workflow("w", {"a": 1}).output == "patched"
    assert patched.call_args[1]["data"] == b'{"a":1}'
    assert server.requests == []
    assert client.execute_workflow("w").output == {}


def test_bare_mock_in_place_of_a_session_method(session, serve, connect):
    """A mock that nobody gave a response is called, and what it returns is reported as no response."""
    client = connect(serve(echo), session=session)
    with mock.patch("requests.Session.request") as patched, pytest.raises(InvalidResponseError):
        client.execute_workflow("w")
    assert patched.call_count == 1


def test_patched_get_is_used(serve, connect):
    """The same for a GET."""
    given = requests.Response()
    given.status_code, given._content = 200, b'{"isDeployed": true}'
    client = connect(serve(echo))
    with mock.patch("requests.Session.get", return_value=given) as patched:
        assert client.validate_workflow("w") is True
    assert patched.call_count == 1


def test_wrapped_session_method_is_used(session, serve, connect, monkeypatch):
    """A wrapper of the class's request() sees each call and passes it on, as tracing tools do."""
    seen, real = [], requests.Session.request

    def request(self, method, url, **arguments):
        seen.append((method, url))
        return real(self, method, url, **arguments)

    client = connect(serve(echo), session=session)
    monkeypatch.setattr(requests.Session, "request", request)
    assert client.execute_workflow("w", {"a": 1}).output == {"a": 1}
    assert client.execute_workflow("w", [1]).output == {"input": [1]}
    assert [method for method, _ in seen] == ["POST", "POST"]


def test_session_of_a_replaced_class_is_taken(serve, connect, monkeypatch):
    """After a tool has put another class in the place of requests.Session, sessions of either class are taken."""
    before = requests.Session()

    class Replacement(requests.Session):
        pass

    monkeypatch.setattr(requests, "Session", Replacement)
    server = serve(echo)
    for session in (before, Replacement()):
        assert connect(server, session=session).execute_workflow("w", {"a": 1}).output == {"a": 1}
        session.close()
    monkeypatch.setattr(requests, "Session", mock.Mock())
    assert connect(server, session=before).execute_workflow("w").output == {}


def test_session_of_length_zero_is_used(serve, connect):
    """A session that counts as false, because its length is 0, is used all the same."""

    class Empty(requests.Session):
        def __len__(self):
            return 0

    session = Empty()
    session.headers["X-Team"] = "blue"
    server = serve(echo)
    connect(server, session=session).execute_workflow("w")
    assert server.requests[0].headers["x-team"] == "blue"
    session.close()


def test_package_imports_without_ssl():
    """Without the module ssl the package imports, as requests does, and plain calls work."""
    script = """if True:
        import sys
        sys.modules["ssl"] = None
        sys.modules["_ssl"] = None
        import requests
        from recall_sdk import RecallClient, RecallConnectionError
        try:
            RecallClient("key", "http://127.0.0.1:9").execute_workflow("w")
        except RecallConnectionError as error:
            print("could not connect" in str(error))
    """
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.strip() == "True", result.stderr


def test_own_session_keeps_no_cookies(serve, connect):
    """However many cookies a server sets, none is sent."""
    cookies = [f"Set-Cookie: c{number}={'x' * 100}; Path=/" for number in range(90)]
    server = serve(answers(http(envelope(), *cookies)))
    client = connect(server)
    for _ in range(5):
        client.execute_workflow("w")
    assert all("cookie" not in request.headers for request in server.requests)
