"""A timeout bounds the whole call in wall-clock time, in every phase, however slowly bytes arrive."""

import gzip
import socket
import sys
import threading
import time
from contextlib import contextmanager, nullcontext

import pytest
import requests
import urllib3.util.connection

from rawserver import LAST_CHUNK, PATIENCE, answers, chunk, collect_quietly, envelope, head, http
from recall_sdk import RecallConnectionError, RecallError, RecallTimeoutError

TIMEOUT = 0.2
"""Seconds. Every server here would take more than ten times as long."""

SLACK = 1.0
"""Seconds that a busy machine may need in addition."""

JSON = b'{"success": true, "output": "' + b"o" * 400 + b'"}'
GZIPPED = gzip.compress(JSON)
NO_DELAY = {"initial_delay": 0, "max_delay": 0}

CALLS = {
    "execute_workflow": lambda client, **timeout: client.execute_workflow("w", {"a": 1}, **timeout),
    "asynchronous": lambda client, **timeout: client.execute_workflow("w", async_execution=True, **timeout),
    "execute_with_retry": lambda client, **timeout: client.execute_with_retry("w", {"a": 1}, **timeout),
    "stream=True": lambda client, **timeout: client.execute_workflow("w", stream=True, **timeout),
    "stream_workflow": lambda client, **timeout: client.stream_workflow("w", **timeout),
}
QUESTIONS = {
    "get_workflow_status": lambda client: client.get_workflow_status("w"),
    "validate_workflow": lambda client: client.validate_workflow("w"),
    "get_job_status": lambda client: client.get_job_status("t"),
    "get_usage_limits": lambda client: client.get_usage_limits(),
}


@contextmanager
def times_out(timeout=TIMEOUT, *, may_have_executed=True):
    """Check that the block ends with the right error at the right time."""
    start = time.monotonic()
    with pytest.raises(RecallTimeoutError) as caught:
        yield caught
    took = time.monotonic() - start
    assert timeout - 0.01 <= took <= timeout + SLACK
    assert caught.value.code == "TIMEOUT"
    assert caught.value.may_have_executed is may_have_executed
    assert caught.value.__cause__ is not None


def drips(start, rest):
    """Make a handler that sends the start of an answer at once and the rest a byte at a time."""

    def handler(connection):
        connection.request()
        connection.send(start)
        connection.drip(rest)

    return handler


def stalls(start):
    """Make a handler that sends the start of an answer, and then nothing."""

    def handler(connection):
        connection.request()
        connection.send(start)
        connection.idle()

    return handler


def never_reads(connection):
    """Accept a connection, and do nothing."""
    connection.server.ended.wait()


LENGTH = head(f"Content-Length: {len(JSON)}", "Content-Type: application/json")
ZIPPED_LENGTH = head(f"Content-Length: {len(GZIPPED)}", "Content-Encoding: gzip", "Content-Type: application/json")
CHUNKED = head("Transfer-Encoding: chunked", "Content-Type: application/json")
ZIPPED_CHUNKED = head("Transfer-Encoding: chunked", "Content-Encoding: gzip", "Content-Type: application/json")
UNTIL_CLOSE = head("Connection: close", "Content-Type: application/json")
HTTP_1_0 = head("Content-Type: application/json", version="1.0")

BODIES = {
    "length": (LENGTH, JSON),
    "length, gzip": (ZIPPED_LENGTH, GZIPPED),
    "one chunk": (CHUNKED, chunk(JSON) + LAST_CHUNK),
    "many chunks": (CHUNKED, b"".join(chunk(JSON[at : at + 1]) for at in range(len(JSON)))),
    "chunked, gzip": (ZIPPED_CHUNKED, chunk(GZIPPED) + LAST_CHUNK),
    "endless chunk size": (CHUNKED, b"0" * 500),
    "endless trailers": (CHUNKED + chunk(JSON) + b"0\r\n", b"a: b\r\n" * 100),
    "until close": (UNTIL_CLOSE, JSON),
    "until close, gzip": (UNTIL_CLOSE.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"), GZIPPED),
    "http/1.0": (HTTP_1_0, JSON),
    "error": (head("Content-Length: 400", status="500 Oh"), b"x" * 400),
}
HEADS = {
    "nothing": (b"", LENGTH),
    "status line": (b"HTTP/1.1 2", LENGTH[10:] + b"x: y\r\n" * 99),
    "headers": (LENGTH[:-2], b"x: y\r\n" * 99),
    "endless 100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
}


@pytest.mark.parametrize("phase", HEADS)
def test_deadline_covers_dripped_head(phase, serve, connect):
    """A head that arrives byte by byte does not extend the call."""
    client = connect(serve(drips(*HEADS[phase])))
    with times_out():
        client.execute_workflow("w", timeout=TIMEOUT)


@pytest.mark.parametrize("phase", HEADS)
def test_deadline_covers_stalled_head(phase, serve, connect):
    """A server that goes silent within its head does not extend the call."""
    client = connect(serve(stalls(HEADS[phase][0])))
    with times_out():
        client.execute_workflow("w", timeout=TIMEOUT)


EVERY_BODY = [(framing, False) for framing in BODIES] + [(framing, True) for framing in ("length", "chunked, gzip", "until close", "error")]


@pytest.mark.parametrize(("framing", "own_session"), EVERY_BODY)
def test_deadline_covers_dripped_body(framing, own_session, serve, connect):
    """A body that arrives byte by byte does not extend the call, also with the user's own session."""
    with requests.Session() as session:
        client = connect(serve(drips(*BODIES[framing])), session=session if own_session else None)
        with times_out():
            client.execute_workflow("w", timeout=TIMEOUT)


@pytest.mark.parametrize(("framing", "own_session"), EVERY_BODY)
def test_deadline_covers_silence_within_body(framing, own_session, serve, connect):
    """A body that stops halfway does not extend the call."""
    start, rest = BODIES[framing]
    with requests.Session() as session:
        client = connect(serve(stalls(start + rest[: len(rest) // 2])), session=session if own_session else None)
        with times_out():
            client.execute_workflow("w", timeout=TIMEOUT)


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_deadline_of_each_execution_with_silent_server(call, own_session, serve, connect):
    """Each kind of execution ends at its timeout, and says that the workflow may have run."""
    with requests.Session() as session:
        client = connect(serve(stalls(b"")), session=session if own_session else None)
        with times_out():
            CALLS[call](client, timeout=TIMEOUT)


@pytest.mark.parametrize("call", CALLS)
def test_deadline_of_each_execution_with_dripping_server(call, serve, connect):
    """Each kind of execution ends at its timeout if a body that is not a stream arrives byte by byte."""
    client = connect(serve(drips(LENGTH, JSON)))
    with times_out():
        CALLS[call](client, timeout=TIMEOUT)


@pytest.mark.parametrize("phase", ["silent", "dripping"])
@pytest.mark.parametrize("call", QUESTIONS)
def test_read_calls_use_client_timeout(call, phase, serve, connect):
    """Calls without their own timeout end at the client's, and have executed nothing."""
    client = connect(serve(stalls(b"") if phase == "silent" else drips(LENGTH, JSON)), timeout=TIMEOUT)
    with times_out(may_have_executed=False):
        QUESTIONS[call](client)


def test_execution_uses_client_timeout(serve, connect):
    """A call without a timeout uses the client's."""
    client = connect(serve(stalls(b"")), timeout=TIMEOUT)
    with times_out():
        client.execute_workflow("w")


def test_deadline_of_wait_covers_poll(serve, connect):
    """wait_for_job ends in time although its poll is not answered."""
    client = connect(serve(stalls(b"")))
    with times_out(TIMEOUT):
        client.wait_for_job("t", timeout=TIMEOUT)


@contextmanager
def full_backlog(host="127.0.0.1", port=0):
    """Return a loopback port that drops all packets, like a firewall."""
    with socket.socket() as listener:
        listener.bind((host, port))
        listener.listen(0)
        waiting = []
        try:
            for _ in range(4):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(listener.getsockname())
            yield listener.getsockname()[1]
        finally:
            for sock in waiting:
                sock.close()


@pytest.mark.parametrize("own_session", [False, True])
def test_deadline_covers_connect(own_session, connect):
    """An unreachable address does not extend the call, and nothing was executed."""
    with full_backlog() as port, requests.Session() as session:
        client = connect(f"http://127.0.0.1:{port}", session=session if own_session else None)
        with times_out(may_have_executed=False) as caught:
            client.execute_workflow("w", timeout=TIMEOUT)
        assert "could not connect" in str(caught.value)


@pytest.fixture
def two_addresses(monkeypatch):
    """Resolve the host "twofold" to two loopback addresses."""
    look_up = socket.getaddrinfo

    def both(host, *args):
        hosts = ("127.0.0.2", "127.0.0.1") if host == "twofold" else (host,)
        return [info for each in hosts for info in look_up(each, *args)]

    monkeypatch.setattr(socket, "getaddrinfo", both)


@pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8")
def test_host_name_is_connected_by_name(serve, connect, monkeypatch):
    """Tools that replace urllib3's way to connect get the host name."""
    seen = []

    def connects(address, *args, **kwargs):
        seen.append(address)
        return create((address[0].replace("single", "127.0.0.1"), address[1]), *args, **kwargs)

    def looks_up(host, *args):
        seen.append(host)
        if host == "nowhere":
            raise socket.gaierror(-2, "Name or service not known")
        return look_up("127.0.0.1" if host == "single" else host, *args)

    create, look_up = urllib3.util.connection.create_connection, socket.getaddrinfo
    monkeypatch.setattr(urllib3.util.connection, "create_connection", connects)
    monkeypatch.setattr(socket, "getaddrinfo", looks_up)
    server = serve(answers(http(envelope())))
    assert connect(f"http://single:{server.port}").execute_workflow("w").success
    assert ("single", server.port) in seen
    with pytest.raises(RecallConnectionError, match="the host of http://nowhere is unknown"):
        connect("http://nowhere").execute_workflow("w")


@pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8")
def test_deadline_covers_two_addresses(two_addresses, connect):
    """A host with several unreachable addresses does not get the timeout for each of them."""
    with full_backlog() as port, full_backlog("127.0.0.2", port):
        client = connect(f"http://twofold:{port}")
        start = time.monotonic()
        with times_out(1.0, may_have_executed=False):
            client.execute_workflow("w", timeout=1.0)
        assert time.monotonic() - start < 1.5


@pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8")
@pytest.mark.parametrize("timeout", [2.0, None])
def test_second_address_is_tried_before_deadline(timeout, two_addresses, serve, connect):
    """An unreachable address leaves time for the one that answers."""
    server = serve(answers(http(envelope())))
    with full_backlog("127.0.0.2", server.port) if timeout else nullcontext():
        client = connect(f"http://twofold:{server.port}")
        assert client.execute_workflow("w", timeout=timeout).success


@pytest.mark.parametrize("own_session", [False, True])
def test_deadline_covers_tls_handshake(own_session, serve, connect):
    """A server that accepts and never answers the TLS handshake does not extend the call."""
    server = serve(never_reads)
    with requests.Session() as session:
        client = connect(f"https://{server.origin}", session=session if own_session else None)
        with times_out(may_have_executed=False):
            client.execute_workflow("w", timeout=TIMEOUT)


def test_deadline_covers_dripping_proxy(serve, connect, monkeypatch):
    """A proxy whose answer to CONNECT arrives byte by byte does not extend the call; the request was not sent."""
    proxy = serve(drips(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 99))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    client = connect("https://recall.invalid")
    with times_out(may_have_executed=False):
        client.execute_workflow("w", timeout=TIMEOUT)
    assert proxy.requests[0].method == "CONNECT"
    collect_quietly()


LONG = 1.5
"""Seconds of the slow phase: if the next phase had the whole timeout, the call would take twice as long."""


def test_deadline_covers_slow_proxy_and_silent_server(serve, connect, monkeypatch):
    """The time for the tunnel counts against that for TLS."""

    def consents_late(connection):
        connection.request()
        connection.pause(0.8 * LONG)
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.idle()

    monkeypatch.setenv("HTTPS_PROXY", serve(consents_late).url)
    client = connect("https://recall.invalid")
    start = time.monotonic()
    with times_out(LONG, may_have_executed=False):
        client.execute_workflow("w", timeout=LONG)
    assert time.monotonic() - start < 1.4 * LONG
    collect_quietly()


def look_ups_take(seconds, monkeypatch):
    """Delay the first look-up of a host."""
    look_up = socket.getaddrinfo
    left = [seconds]

    def slow(*args):
        time.sleep(left.pop() if left else 0)
        return look_up(*args)

    monkeypatch.setattr(socket, "getaddrinfo", slow)


def test_deadline_covers_slow_lookup_and_silent_server(serve, connect, monkeypatch):
    """The time for connecting counts against that for TLS."""
    client = connect(f"https://{serve(never_reads).origin}")
    look_ups_take(0.8 * LONG, monkeypatch)
    start = time.monotonic()
    with times_out(LONG, may_have_executed=False):
        client.execute_workflow("w", timeout=LONG)
    assert time.monotonic() - start < 1.4 * LONG


@pytest.fixture
def agrees_late(tls_context, _trusted):
    """A handler with a slow TLS handshake that then reads nothing."""
    context = tls_context()

    def handler(connection):
        connection.pause(0.8 * LONG)
        with context.wrap_socket(connection.sock, server_side=True):
            connection.server.ended.wait()

    return handler


def test_connect_time_counts_against_deadline(agrees_late, serve, connect, monkeypatch):
    """After a quick connect, TLS gets all of the remaining time, not only the share of one address."""
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args: look_up(host, *args) + look_up("127.0.0.2", *args))
    client = connect(f"https://{serve(agrees_late).origin}")
    with times_out(LONG):  # once the handshake is done, for the request is never read
        client.execute_workflow("w", {"a": "x" * 20_000_000}, timeout=LONG)


def test_deadline_covers_slow_handshake_and_unread_request(agrees_late, serve, connect):
    """The time for TLS counts against that for sending."""
    client = connect(f"https://{serve(agrees_late).origin}")
    start = time.monotonic()
    with times_out(LONG):
        client.execute_workflow("w", {"a": "x" * 20_000_000}, timeout=LONG)
    assert time.monotonic() - start < 1.5 * LONG


@pytest.mark.parametrize("timeout", [TIMEOUT, 1.5 * TIMEOUT])
def test_slow_lookup_raises_timeout(timeout, serve, connect, monkeypatch):
    """A look-up can't be interrupted, but nothing is sent after the timeout."""
    server = serve(answers(http(envelope())))
    look_ups_take(2 * TIMEOUT, monkeypatch)
    with times_out(timeout, may_have_executed=False):
        connect(server).execute_workflow("w", timeout=timeout)
    assert server.requests == []


@pytest.mark.parametrize("call", ["execute_workflow", "execute_with_retry"])
def test_deadline_covers_unrequested_stream(call, serve, connect):
    """A server that answers with a stream does not extend a call that did not request one."""

    def handler(connection):
        connection.request()
        connection.send(head("Content-Type: text/event-stream", "Transfer-Encoding: chunked"))
        while True:
            connection.send(chunk(b": still here\n\n"))
            connection.pause(0.05)

    client = connect(serve(handler))
    with times_out() as caught:
        CALLS[call](client, timeout=TIMEOUT)
    assert "did not complete its response" in str(caught.value)


@pytest.mark.parametrize("own_session", [False, True])
def test_deadline_covers_unread_request(own_session, serve, connect):
    """A large body that the server does not read does not extend the call."""
    with requests.Session() as session:
        client = connect(serve(never_reads), session=session if own_session else None)
        with times_out():
            client.execute_workflow("w", {"a": "x" * 20_000_000}, timeout=TIMEOUT)


def test_deadline_covers_slowly_read_request(serve, connect):
    """A server that reads the request slowly does not extend the call."""

    def sips(connection):
        while True:
            connection.receive()
            connection.pause(0.05)

    client = connect(serve(sips))
    with times_out():
        client.execute_workflow("w", {"a": "x" * 20_000_000}, timeout=TIMEOUT)


def test_deadline_covers_unread_request_on_reused_connection(serve, connect):
    """Sending on a reused connection has this call's timeout, not the rest of the previous one."""

    def reads_once(connection):
        connection.request()
        connection.send(http(envelope()))
        connection.server.ended.wait()

    server = serve(reads_once)
    client = connect(server)
    client.execute_workflow("w", timeout=None)
    with times_out():
        client.execute_workflow("w", {"a": "x" * 20_000_000}, timeout=TIMEOUT)
    assert server.connections == 1


def test_deadline_is_not_inherited_by_next_call(serve, connect):
    """A large body on a reused connection has its whole timeout, although the previous call nearly timed out."""

    def handler(connection):
        connection.request()
        connection.pause(0.3)
        connection.send(http(envelope()))
        connection.pause(0.4)
        connection.request()
        connection.send(http(envelope("second")))

    server = serve(handler)
    client = connect(server)
    client.execute_workflow("w", timeout=0.5)
    assert client.execute_workflow("w", {"a": "x" * 20_000_000}, timeout=PATIENCE).output == "second"
    assert server.connections == 1


@pytest.mark.parametrize("own_session", [False, True])
def test_deadline_covers_slow_redirects(own_session, serve, connect):
    """If all redirects together take too long, the call ends."""

    def handler(connection):
        while True:
            request = connection.request()
            connection.pause(TIMEOUT * 0.6)
            connection.send(http(b"", f"Location: {request.path}", status="307 Elsewhere"))

    with requests.Session() as session:
        client = connect(serve(handler), session=session if own_session else None)
        with times_out():
            client.execute_workflow("w", timeout=TIMEOUT)


@pytest.mark.parametrize("own_session", [False, True])
def test_no_timeout_waits(own_session, serve, connect):
    """None means no limit, even if the client or the socket module has a timeout."""

    def handler(connection):
        connection.request()
        connection.pause(TIMEOUT)
        connection.send(LENGTH)
        connection.pause(TIMEOUT)
        connection.send(JSON)

    with requests.Session() as session:
        client = connect(serve(handler), timeout=TIMEOUT / 3, session=session if own_session else None)
        assert client.execute_workflow("w", timeout=None).success


def test_slow_answer_before_deadline_is_returned(serve, connect):
    """A slow answer that is complete before the timeout is returned."""
    client = connect(serve(drips(LENGTH + JSON[:-9], JSON[-9:])))
    assert client.execute_workflow("w", timeout=PATIENCE).output == "o" * 400


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("start", [b"", LENGTH[:-2], LENGTH + JSON[:9], CHUNKED + chunk(JSON)])
def test_timed_out_connection_is_closed(start, own_session, serve, connect):
    """The server sees the close at once, and the next call has its own connection and answer."""

    def handler(connection):
        connection.request()
        if connection.number > 1:
            connection.send(http(envelope("second")))
        else:
            connection.send(start)
            connection.wait_for_hang_up()

    server = serve(handler)
    with requests.Session() as session:
        client = connect(server, session=session if own_session else None)
        with pytest.raises(RecallTimeoutError):
            client.execute_workflow("w", timeout=TIMEOUT)
        server.wait_for_hang_up()
        assert client.execute_workflow("w").output == "second"
    assert server.connections == 2


def test_timed_out_call_is_not_retried(serve, connect):
    """A call that timed out is not retried, not even by execute_with_retry."""
    server = serve(stalls(b""))
    client = connect(server)
    with times_out():
        client.execute_with_retry("w", timeout=TIMEOUT, **NO_DELAY)
    assert len(server.requests) == 1


def test_each_attempt_has_whole_timeout(serve, connect):
    """The timeout of execute_with_retry is that of each attempt."""

    def handler(connection):
        while True:
            connection.request()
            connection.pause(0.2)
            many = len(connection.server.requests) < 4
            connection.send(http({"error": "slow down"}, status="429 Too Many") if many else http(envelope()))

    client = connect(serve(handler))
    assert client.execute_with_retry("w", timeout=0.5, **NO_DELAY).success


def test_concurrent_timeouts_are_independent(serve, connect):
    """Calls in many threads each end at their own timeout."""
    client = connect(serve(drips(LENGTH, JSON)))
    took = []

    def call():
        start = time.monotonic()
        try:
            client.execute_workflow("w", timeout=TIMEOUT)
        except RecallError:
            took.append(time.monotonic() - start)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(took) == 8
    assert all(TIMEOUT - 0.01 <= seconds <= TIMEOUT + SLACK for seconds in took)


def test_timeout_within_gzip_body_leaks_nothing(serve, connect):
    """The call after a failed one on a reused connection gets its own answer."""

    def handler(connection):
        connection.request()
        connection.send(http(envelope("first")))
        connection.request()
        connection.send(ZIPPED_CHUNKED + chunk(GZIPPED[:50]))
        connection.wait_for_hang_up()

    def dispatch(connection):
        return handler(connection) if connection.number == 1 else answers(http(envelope("third")))(connection)

    server = serve(dispatch)
    client = connect(server)
    assert client.execute_workflow("w").output == "first"
    with times_out():
        client.execute_workflow("w", timeout=TIMEOUT)
    server.wait_for_hang_up()
    assert client.execute_workflow("w").output == "third"
