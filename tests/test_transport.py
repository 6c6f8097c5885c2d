"""Each phase of a call and its failures: what is raised, what it says, and what is never sent twice or elsewhere."""

import copy
import enum
import functools
import gc
import gzip
import itertools
import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from rawserver import KEY, LAST_CHUNK, answers, chunk, collect_quietly, echo, envelope, head, http
from recall_sdk import (
    AuthenticationError,
    ExecutionError,
    InvalidResponseError,
    NotFoundError,
    RateLimitError,
    RecallClient,
    RecallConnectionError,
    RecallError,
    RecallTimeoutError,
    RedirectError,
    ServerError,
    StreamInterruptedError,
    __version__,
    _connections,
)
from recall_sdk._connections import Reader
from recall_sdk.testing import RecallServer

BODY = b'{"success": true, "output": "hello"}'
OK = http(envelope())


def cut(*parts):
    """Make a handler that answers each connection's first request with these bytes, and closes."""

    def handler(connection):
        connection.request()
        connection.send(b"".join(parts))

    return handler


def resets(connection):
    """Break the connection after the request."""
    connection.request()
    connection.reset()


def free_port():
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# -------------------------------------------------------------------------------------------------------------- connections


def test_connection_refused(session, connect):
    """Without a listener nothing was executed, and the message says what to check."""
    client = connect(f"http://127.0.0.1:{free_port()}", session=session)
    with pytest.raises(RecallConnectionError, match=r"could not connect to http://127\.0\.0\.1.*check the base_url") as caught:
        client.execute_workflow("w")
    assert caught.value.code == "CONNECTION_ERROR"
    assert caught.value.status is None
    assert caught.value.may_have_executed is False
    assert isinstance(caught.value.__cause__, requests.RequestException)


def test_unknown_host(session, connect):
    """An unknown host: nothing was executed, and the message names the host."""
    client = connect("http://nosuch.invalid", session=session)
    with pytest.raises(RecallConnectionError, match=r"nosuch\.invalid.*check the base_url") as caught:
        client.execute_workflow("w")
    assert caught.value.code == "CONNECTION_ERROR"
    assert caught.value.may_have_executed is False


@pytest.mark.parametrize("timeout", [5.0, None])
def test_ipv6_address(timeout):
    """A base URL may have an IPv6 address in brackets."""
    try:
        server = RecallServer(host="::1").start()
    except OSError:
        pytest.skip("this machine has no IPv6")
    try:
        assert server.client(timeout=timeout).validate_workflow("w") is False
    finally:
        server.stop()


def test_invalid_host_name(session, connect):
    """A host name with a label of more than 63 characters can't be looked up: nothing was sent."""
    with pytest.raises(RecallConnectionError, match="check the base_url") as caught:
        connect(f"http://{'a' * 64}.example", session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False


BROKEN = {
    "reset": resets,
    "closed without an answer": cut(),
    "short of its length": cut(head("Content-Length: 999"), BODY),
    "short of its length, empty": cut(head("Content-Length: 999")),
    "short of its length, of an error": cut(head("Content-Length: 999", status="404 Gone"), BODY),
    "short of its length, gzip": cut(head("Content-Length: 999", "Content-Encoding: gzip"), gzip.compress(BODY, mtime=0)),
    "short of its length, an encoding without a name": cut(head("Content-Length: 9", "Content-Encoding: "), b"123"),
    "short of its length, an unknown encoding": cut(head("Content-Length: 999", "Content-Encoding: zip-it"), BODY),
    "cut between chunks": cut(head("Transfer-Encoding: chunked"), chunk(BODY)),
    "cut within a chunk": cut(head("Transfer-Encoding: chunked"), chunk(BODY)[:-9]),
    "cut within a chunk size": cut(head("Transfer-Encoding: chunked"), b"1"),
    "cut before the first chunk": cut(head("Transfer-Encoding: chunked")),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_connection_closed_before_answer(kind, session, serve, connect):
    """A break after sending is reported with its cause, and not retried."""
    server = serve(BROKEN[kind])
    with pytest.raises(RecallConnectionError) as caught:
        connect(server, session=session).execute_with_retry("w")
    assert caught.value.code == "CONNECTION_ERROR"
    assert caught.value.may_have_executed is True
    assert caught.value.__cause__ is not None
    assert not isinstance(caught.value, StreamInterruptedError)
    if kind.startswith(("short", "cut")):
        assert re.search(r"complete \((the end|\d+ bytes) of its body (is|are) missing\): the workflow may have run$", str(caught.value))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "start", [b"H", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Le", head("Content-Type: x")[:-2]]
)
def test_connection_closed_within_head(start, session, serve, connect):
    """An incomplete head raises an error."""
    server = serve(cut(start))
    with pytest.raises((RecallConnectionError, InvalidResponseError)) as caught:
        connect(server, session=session).execute_with_retry("w")
    assert caught.value.may_have_executed is True
    assert len(server.requests) == 1


def test_failed_read_call_has_not_executed(session, serve, connect):
    """A call that executes nothing has may_have_executed=False after a broken connection."""
    with pytest.raises(RecallConnectionError) as caught:
        connect(serve(resets), session=session).get_workflow_status("w")
    assert caught.value.may_have_executed is False


UNREADABLE = {
    "a garbage status line": cut(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "a status line that speaks as a proxy would": cut(b"Tunnel connection failed: 407\r\n\r\n"),
    "a status that is no number": cut(b"HTTP/1.1 two hundred\r\n\r\n"),
    "a header line of a megabyte": cut(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n"),
    "a thousand headers": cut(head(*[f"x{number}: y" for number in range(1000)]), BODY),
    "bad gzip": cut(http(b"no gzip at all", "Content-Encoding: gzip")),
    "gzip that is cut": cut(http(gzip.compress(BODY, mtime=0)[:-12], "Content-Encoding: gzip")),
    "gzip that is flipped": cut(http(gzip.compress(BODY * 9, mtime=0)[:-20] + b"\xff" * 20, "Content-Encoding: gzip")),
    "an unknown encoding": cut(http(b"\x01\x02", "Content-Encoding: zip-it")),
    "an encoding that was not asked for": cut(http(b"\x01\x02", "Content-Encoding: gzip, br")),
    "two lengths": cut(head("Content-Length: 36", "Content-Length: 35"), BODY),
    "no text at all": cut(http(b"\xff\xfe\x00\xd8\xff")),
    "an empty body": cut(http(b"")),
    "white space": cut(http(b"  \n")),
    "an HTML page": cut(http(b"<html>hi</html>", "Content-Type: text/html")),
    "NUL bytes": cut(http(b"\0" * 40)),
    "a status of no meaning here": cut(http(b"", status="304 Not Modified")),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_answer(kind, session, serve, connect):
    """An unreadable answer raises InvalidResponseError; the workflow may have run."""
    server = serve(UNREADABLE[kind])
    with pytest.raises(InvalidResponseError) as caught:
        connect(server, session=session).execute_with_retry("w")
    assert caught.value.code == "INVALID_RESPONSE"
    assert caught.value.may_have_executed is True
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [b"zz", b"-5", b"", b"0x10", b"99999999999999999999999999"])
def test_invalid_chunk_size(size, session, serve, connect):
    """An invalid chunk size raises an error."""
    server = serve(cut(head("Transfer-Encoding: chunked"), size, b"\r\n", BODY))
    with pytest.raises((RecallConnectionError, InvalidResponseError)) as caught:
        connect(server, session=session).execute_workflow("w")
    assert caught.value.may_have_executed is True


@pytest.mark.parametrize(
    "answer",
    [
        head("Content-Length: 36") + BODY,
        head("Connection: close") + BODY,
        head(version="1.0") + BODY,
        head("Transfer-Encoding: chunked") + b"".join(chunk(BODY[at : at + 1]) for at in range(len(BODY))) + LAST_CHUNK,
        head("Transfer-Encoding: chunked") + b"24;name=value\r\n" + BODY + b"\r\n0\r\nTrailer: x\r\n\r\n",
        http(gzip.compress(BODY, mtime=0), "Content-Encoding: gzip"),
        http(gzip.compress(BODY, mtime=0), "Content-Encoding: GZip"),
        http(gzip.compress(gzip.compress(BODY, mtime=0), mtime=0), "Content-Encoding: gzip, gzip"),
        http(gzip.compress(BODY, mtime=0), "Content-Encoding: identity, gzip"),
        head("Content-Length: nonsense", "Connection: close") + BODY,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200\r\nContent-Length: 36\r\n\r\n" + BODY,
        head("Content-Length: 36", "X-Odd: \xff\xfe", "No colon here") + BODY,
        http("\ufeff".encode() + BODY),
    ],
)
def test_unusual_valid_answer(answer, session, serve, connect):
    """Every framing that HTTP allows, and harmless mistakes."""
    assert connect(serve(cut(answer)), session=session).execute_workflow("w").output == "hello"


# ---------------------------------------------------------------------------------------------------------------------- TLS


def test_tls_unknown_authority(session, secure, connect):
    """A certificate that can't be verified: nothing was sent, and the message says what to do."""
    server = secure(echo)
    with pytest.raises(RecallConnectionError, match="REQUESTS_CA_BUNDLE") as caught:
        connect(server, session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False
    assert server.requests == []


@pytest.mark.usefixtures("_trusted")
def test_tls_wrong_host(session, secure, connect):
    """A certificate for another name is rejected."""
    with pytest.raises(RecallConnectionError, match="is for another name") as caught:
        connect(secure(echo, "other.example.com"), session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False


@pytest.mark.usefixtures("_trusted")
def test_tls_requests_ca_bundle(session, secure, connect):
    """The authority in the environment is trusted, and the connection is reused."""
    server = secure(echo)
    client = connect(server, session=session)
    for _ in range(2):
        assert client.execute_workflow("w", {"a": 1}).output == {"a": 1}
    assert server.connections == 1


def test_tls_curl_ca_bundle(secure, connect, bundle, monkeypatch):
    """The variable of curl is read, too."""
    monkeypatch.setenv("CURL_CA_BUNDLE", bundle)
    assert connect(secure(echo)).execute_workflow("w", {"a": 1}).output == {"a": 1}


def test_tls_verify_of_own_session(secure, connect, bundle):
    """The user's own session has its own authority."""
    with requests.Session() as own:
        own.verify = bundle  # which counts as long as the environment names no other
        assert connect(secure(echo), session=own).execute_workflow("w", {"a": 1}).output == {"a": 1}


@pytest.mark.usefixtures("_trusted")
def test_tls_stream(session, secure, connect):
    """Events are prompt over TLS, too."""

    def handler(connection):
        connection.request()
        connection.send(head("Content-Type: text/event-stream", "Connection: close"))
        for event in (b'data: {"chunk": "One"}\n\n', b'data: {"event": "done", "success": true}\n\n'):
            connection.wait_for_go()
            connection.send(event)

    server = secure(handler)
    with connect(server, session=session).stream_workflow("w", timeout=3.0) as stream:
        server.go()
        assert next(stream).chunk == "One"
        server.go()
        assert next(stream).type == "done"


def test_https_to_http_port(serve, connect):
    """The wrong scheme raises a RecallError, and nothing was sent."""

    def plain(connection):
        connection.receive()
        connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    server = serve(plain)
    with pytest.raises(RecallConnectionError) as caught:
        connect(f"https://{server.origin}").execute_workflow("w")
    assert caught.value.may_have_executed is False


def test_http_to_https_port(session, secure, connect):
    """The wrong scheme, the other way round."""
    server = secure(echo)
    with pytest.raises((RecallConnectionError, InvalidResponseError)):
        connect(f"http://{server.origin}", session=session).execute_workflow("w")


# ---------------------------------------------------------------------------------------------------------------- redirects


def moving(status, location="/elsewhere", *, body=b""):
    """Make a handler that redirects everything but ``/elsewhere``."""

    def handler(connection):
        while True:
            request = connection.request()
            if request.path.startswith("/elsewhere"):
                connection.send(http({**envelope(request.method), "isDeployed": True, "sent": request.body.decode()}))
            else:
                connection.send(http(body, f"Location: {location}", status=f"{status} Moved"))

    return handler


@pytest.mark.parametrize("status", [307, 308])
def test_redirect_that_keeps_method_is_followed(status, session, serve, connect):
    """Within the origin, an execution is redirected with its method, body and key."""
    server = serve(moving(status))
    assert connect(server, session=session).execute_workflow("w", {"a": 1}).output == "POST"
    first, second = server.requests
    assert second.body == first.body == b'{"a":1}'
    assert second.headers["x-api-key"] == KEY
    assert second.headers["content-type"] == "application/json"
    assert second.headers["content-length"] == "7"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_of_get_is_followed(status, session, serve, connect):
    """Within the origin, a GET is redirected anywhere."""
    server = serve(moving(status))
    assert connect(server, session=session).get_workflow_status("w").is_deployed is True
    assert [request.method for request in server.requests] == ["GET", "GET"]


@pytest.mark.parametrize("status", [301, 302, 303])
def test_redirect_that_drops_body_is_rejected(status, session, serve, connect):
    """A POST that would become a GET is not redirected."""
    server = serve(moving(status))
    with pytest.raises(RedirectError, match="base_url=") as caught:
        connect(server, session=session).execute_workflow("w", {"a": 1})
    assert caught.value.code == "REDIRECT_REFUSED"
    assert caught.value.status == status
    assert "/elsewhere" in str(caught.value)
    assert caught.value.may_have_executed is (status == 303)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("ask", ["execute_workflow", "get_workflow_status", "stream_workflow"])
def test_redirect_to_other_origin_is_rejected(ask, status, session, serve, connect):
    """A redirect to another port is rejected, naming the target and the base URL to set; nothing arrives there."""
    other = serve(echo)
    server = serve(moving(status, f"{other.url}/api/workflows/w/{'status' if ask == 'get_workflow_status' else 'execute'}?x=1"))
    with pytest.raises(RedirectError, match=re.escape(f"base_url='{other.url}'")) as caught:
        getattr(connect(server, session=session), ask)("w")
    assert other.url in str(caught.value)
    assert other.connections == 0


TARGETS = [
    "http://localhost:{port}/x",
    "https://127.0.0.1:{port}/x",
    "http://127.0.0.1/x",
    "//other.invalid/x",
    "http://127.0.0.1:{port}@{other}/x",
    "http://{other}\\@127.0.0.1:{port}/x",
    "http://{other}#@127.0.0.1:{port}/x",
    "http://{other}?@127.0.0.1:{port}/x",
    "\\\\{other}/x",
    "/\\{other}/x",
    "ftp://127.0.0.1:{port}/x",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "http://[::1/x",
    "http://127.0.0.1:99999/x",
    "http://127.0.0.1:abc/x",
    "http://",
    "http:///x",
    "\x00",
    "http://{other}\t@127.0.0.1:{port}/x",
    "HTTP:\\\\{other}\\x",
]


@pytest.mark.parametrize("target", TARGETS)
def test_redirect_with_ambiguous_url_is_rejected(target, session, serve, connect):
    """Whatever the Location is, no other server receives the key, and the call raises a RecallError."""
    other = serve(echo)
    servers = []

    def handler(connection):
        while True:
            connection.request()
            location = target.format(port=servers[0].port, other=other.origin)
            connection.send(http(b"", f"Location: {location}", status="307 Moved"))

    servers.append(serve(handler))
    with pytest.raises(RecallError) as caught:
        connect(servers[0], session=session).execute_workflow("w", {"a": 1})
    assert other.connections == 0
    assert caught.value.code in ("REDIRECT_REFUSED", "INVALID_RESPONSE")


@pytest.mark.parametrize(
    "target", ["/a b/ü?x=ä", "/a%20b?x=%C3%A4", "elsewhere", "./elsewhere", "../../../elsewhere", "?x=1", "/x#fragment"]
)
def test_redirect_with_unusual_url_within_origin_is_followed(target, session, serve, connect):
    """A Location within the origin is followed, however it is written."""

    def handler(connection):
        connection.request()
        connection.send(http(b"", f"Location: {target.encode().decode('latin-1')}", status="307 Moved"))
        answers(OK)(connection)

    server = serve(handler)

    def dispatch(connection):
        if server.requests:
            answers(OK)(connection)
        handler(connection)

    server._handler = dispatch
    assert connect(server, session=session).execute_workflow("w").output == "hello"
    assert re.fullmatch(r"/[!-~]*", server.requests[1].path)


@pytest.mark.parametrize("ask", ["execute_workflow", "get_workflow_status"])
def test_redirect_loop_ends(ask, session, serve, connect):
    """A redirect loop ends after a limit."""
    server = serve(moving(307, "/loop"))
    with pytest.raises(RedirectError) as caught:
        getattr(connect(server, session=session), ask)("w")
    assert caught.value.code == "REDIRECT_REFUSED"
    assert 2 < len(server.requests) <= 31


@pytest.mark.parametrize("status", [300, 304, 305, 306])
def test_other_3xx_is_not_a_redirect(status, session, serve, connect):
    """Another 3xx is an unreadable answer."""
    with pytest.raises(InvalidResponseError):
        connect(serve(cut(http(b"", "Location: /elsewhere", status=f"{status} Hm"))), session=session).execute_workflow("w")


def test_redirect_without_location(session, serve, connect):
    """A redirect without a Location is an unreadable answer."""
    with pytest.raises(InvalidResponseError):
        connect(serve(cut(http(b"", status="307 Hm"))), session=session).execute_workflow("w")


def test_redirect_cookies_of_own_session_are_kept(serve, connect):
    """A load balancer's cookie in a redirect is sent with the next request of the user's session."""

    def handler(connection):
        while True:
            request = connection.request()
            if "cookie" in request.headers:
                connection.send(OK)
            else:
                connection.send(http(b"", "Location: /elsewhere", "Set-Cookie: node=7; Path=/", status="307 Moved"))

    server = serve(handler)
    with requests.Session() as own:
        assert connect(server, session=own).execute_workflow("w").output == "hello"
    assert server.requests[1].headers["cookie"] == "node=7"


# ----------------------------------------------------------------------------------------------------------------- requests


def test_request_headers(session, serve, connect):
    """Every request has the user agent, the accepted types and the key."""
    server = serve(answers(OK, http({"isDeployed": True})))
    client = connect(server, session=session)
    client.execute_workflow("w", {"a": "ü"}, async_execution=False)
    client.get_workflow_status("w")
    execute, status = server.requests
    for request in (execute, status):
        assert request.headers["x-api-key"] == KEY
        assert re.match(rf"recall-sdk/{re.escape(__version__)}( |$)", request.headers["user-agent"])
        assert request.headers["accept"] == "application/json"
        assert request.headers["host"] == server.origin
        assert request.head.lower().count(b"\r\nx-api-key:") == 1
    assert execute.method == "POST"
    assert execute.path == "/api/workflows/w/execute"
    assert execute.headers["content-type"] == "application/json"
    assert int(execute.headers["content-length"]) == len(execute.body)
    assert "content-type" not in status.headers
    assert status.body == b""


def test_set_api_key_applies_to_next_call(session, serve, connect):
    """set_api_key and set_base_url apply at once, and can be reverted."""
    one, two = serve(echo), serve(echo)
    client = connect(one, session=session)
    client.execute_workflow("w")
    client.set_api_key("another-key")
    client.execute_workflow("w")
    client.set_base_url(two.url + "/prefix/")
    client.execute_workflow("w")
    assert [request.headers["x-api-key"] for request in one.requests] == [KEY, "another-key"]
    assert [(request.path, request.headers["host"]) for request in two.requests] == [("/prefix/api/workflows/w/execute", two.origin)]


@pytest.mark.parametrize("workflow_id", ["a/b", "a b", "ü", "%2e", "a?b#c", "..a", "a\\b", "a;b", "a+b", "\n"])
def test_id_arrives_as_one_path_segment(workflow_id, session, serve, connect):
    """Any id stays one path segment, and is not unquoted on its way."""
    server = serve(echo)
    connect(server, session=session).execute_workflow(workflow_id)
    assert server.requests[0].path == f"/api/workflows/{requests.utils.quote(workflow_id, safe='')}/execute"


def test_connection_is_reused(session, serve, connect):
    """Calls of all kinds share one connection."""
    server = serve(answers(OK, http({"isDeployed": True}), http({"error": "no"}, status="404 No"), OK))
    client = connect(server, session=session)
    client.execute_workflow("w")
    client.get_workflow_status("w")
    with pytest.raises(NotFoundError):
        client.get_job_status("t")
    client.execute_workflow("w")
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer", [http({"error": "x" * 100_000}, status="500 Oh"), http(gzip.compress(BODY * 999, mtime=0), "Content-Encoding: gzip")]
)
def test_connection_is_reused_after_long_error_body(answer, session, serve, connect):
    """An error's body is read to its end, so its connection serves the next call."""
    server = serve(answers(answer, OK))
    client = connect(server, session=session)
    with pytest.raises(RecallError):
        client.execute_workflow("w")
    client.execute_workflow("w")
    assert server.connections == 1


def test_closed_client_opens_new_connection(serve, connect):
    """close() closes the connections; a later call opens a new one."""

    def handler(connection):
        connection.request()
        connection.send(OK)
        connection.wait_for_hang_up()

    server = serve(handler)
    client = connect(server)
    client.execute_workflow("w")
    client.close()
    server.wait_for_hang_up()
    client.execute_workflow("w")
    assert server.connections == 2


def test_close_works_while_error_is_referenced(serve, connect):
    """A referenced error does not keep a connection open."""

    def handler(connection):
        connection.request()
        connection.send(http(b"data: 1\n\n", STREAMED))
        connection.wait_for_hang_up()

    server = serve(handler)
    client = connect(server)
    with pytest.raises(StreamInterruptedError) as kept:
        client.execute_workflow("w")
    client.close()
    server.wait_for_hang_up()
    assert kept.value.partial is not None


def test_close_does_not_close_own_session(serve, connect):
    """A session that the client did not create stays open."""
    server = serve(echo)
    with requests.Session() as own:
        with RecallClient(KEY, server.url, session=own) as client:
            client.execute_workflow("w")
        own.post(f"{server.url}/x", json={})
        assert server.connections == 1


def test_stale_connection_is_replaced(session, serve, connect):
    """An idle connection that the server closed is replaced, and nothing is sent twice."""

    def once(connection):
        connection.request()
        connection.send(OK)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.server.client_closed.release()

    server = serve(once)
    client = connect(server, session=session)
    for _ in range(3):
        assert client.execute_workflow("w").output == "hello"
        server.wait_for_hang_up()
    assert server.connections == 3
    assert len(server.requests) == 3


def test_connection_closed_while_sending_is_not_retried(session, serve, connect):
    """If there is no way to tell whether the request arrived, it is reported and not retried."""

    def twice(connection):
        connection.request()
        connection.send(OK)
        connection.request()
        connection.reset()

    server = serve(twice)
    client = connect(server, session=session)
    client.execute_workflow("w")
    with pytest.raises(RecallConnectionError) as caught:
        client.execute_with_retry("w")
    assert caught.value.may_have_executed is True
    assert server.connections == 1
    assert len(server.requests) == 2


STRAY = [b"0\r\n\r\n", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot yours"]


NOTHING = [http(b"", status="204 No Content"), head(status="101 Switching Protocols")]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("empty", "stray"), list(itertools.product(NOTHING, STRAY)))
def test_stray_bytes_are_not_read_as_answer(empty, stray, together, serve, connect):
    """What a server sends beyond an answer is not treated as the next one."""

    def handler(connection):
        if connection.number > 1:
            answers(OK)(connection)
        connection.request()
        connection.send(empty + stray if together else empty)
        connection.wait_for_go()
        connection.send(b"" if together else stray)
        connection.idle()

    for own in (None, requests.Session()):
        server = serve(handler)
        client = connect(server, session=own)
        if empty is NOTHING[0]:
            assert client.execute_workflow("w").output is None
        else:
            with pytest.raises(InvalidResponseError):
                client.execute_workflow("w")
        server.go()
        assert client.execute_workflow("w").output == "hello"
        (own or client).close()


INTERIM = [head(status="102 Processing"), head("Link: </style.css>; rel=preload", status="103 Early Hints")]


def test_interim_answer_with_own_session(serve, connect):
    """If the library treats it as the answer, the call fails, and the next one does not get this answer."""

    def handler(connection):
        connection.request()
        if connection.number > 1:
            connection.send(http(envelope("second")))
        connection.send(INTERIM[1])
        connection.wait_for_go()
        connection.send(http(envelope("first")))

    server = serve(handler)
    with requests.Session() as session:
        client = connect(server, session=session)
        with pytest.raises(InvalidResponseError):
            client.execute_workflow("w")
        server.go()
        assert client.execute_workflow("w").output == "second"


def test_collected_client_closes_connections(serve):
    """A client without references leaves no connection open, and causes no warning."""

    def handler(connection):
        connection.request()
        connection.send(OK)
        connection.wait_for_hang_up()

    server = serve(handler)
    RecallClient(KEY, server.url).execute_workflow("w")
    gc.collect()
    server.wait_for_hang_up()


# ------------------------------------------------------------------------------------------------- what requests users count on


def test_proxy_of_environment(session, serve, connect, monkeypatch):
    """Requests use the proxy in the environment, except for hosts in no_proxy."""
    proxy, server = serve(echo), serve(echo)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    connect("http://recall.invalid", session=session).execute_workflow("w")
    assert proxy.requests[0].head.startswith(b"POST http://recall.invalid/api/workflows/w/execute HTTP/1.1\r\n")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    connect(server, session=session).execute_workflow("w")
    assert len(proxy.requests) == len(server.requests) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["127.0.0.1", "proxy.invalid"])
def test_proxy_is_down(host, scheme, session, connect, monkeypatch):
    """If the proxy is unreachable, nothing was sent, and the message names the proxy."""
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://{host}:{free_port()}")
    with pytest.raises(RecallConnectionError, match=r"^could not connect through the proxy for .*recall.invalid .* HTTPS_PROXY") as caught:
        connect(f"{scheme}://recall.invalid", session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False


def test_proxy_rejects_tunnel(serve, connect, monkeypatch):
    """A proxy that requires other credentials: nothing was sent to the server."""
    proxy = serve(cut(http(b"", status="407 Proxy Authentication Required")))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with pytest.raises(RecallConnectionError, match=r"407 .*their credentials") as caught:
        connect("https://recall.invalid").execute_workflow("w")
    assert caught.value.may_have_executed is False
    assert KEY.encode() not in b"".join(request.head for request in proxy.requests)
    del caught
    collect_quietly()


def test_missing_certificate_file(session, serve, connect, monkeypatch):
    """A missing certificate file is reported; nothing was sent."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")
    with pytest.raises(RecallConnectionError, match=r"/no/such/bundle\.pem") as caught:
        connect("https://recall.invalid", session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False


@pytest.mark.parametrize(
    ("status", "kind"), [(401, AuthenticationError), (404, NotFoundError), (429, RateLimitError), (500, ExecutionError)]
)
def test_hook_that_raises_for_status(status, kind, serve, connect):
    """A session that raises for each status leads to the errors of these statuses."""
    server = serve(answers(http({"error": "no"}, status=f"{status} No")))
    with requests.Session() as session:
        session.hooks["response"].append(lambda response, **_: response.raise_for_status())
        with pytest.raises(kind, match="no") as caught:
            connect(server, session=session).execute_workflow("w")
    assert caught.value.status == status


def audit(response, **_):
    """Ask another server, which rejects."""
    refusal = requests.Response()
    refusal.status_code, refusal.request = 429, requests.Request("GET", "http://audit.invalid").prepare()
    refusal.raise_for_status()


def reject(response, **_):
    """Raise for every answer."""
    raise requests.HTTPError("not this one", response=response)


def fail(response, **_):
    """Raise an unrelated error."""
    raise OSError("the disk is full")


def give_up(response, **_):
    """Raise without an answer."""
    raise requests.HTTPError("not this one")


@pytest.mark.parametrize("hook", [audit, reject, fail, give_up])
def test_hook_that_raises_other_error(hook, serve, connect):
    """An unrelated error of a hook reaches the caller unchanged, and the call is not retried."""
    server = serve(echo)
    with requests.Session() as session:
        session.hooks["response"].append(hook)
        with pytest.raises((OSError, requests.HTTPError), match=r"429|not this one|the disk is full") as caught:
            connect(server, session=session).execute_with_retry("w", initial_delay=0)
    assert not isinstance(caught.value, RecallError)
    assert len(server.requests) == 1
    del caught
    collect_quietly()  # requests leaves a response open of which a hook raises


@pytest.mark.usefixtures("_trusted")
def test_tls_failure_after_request(session, secure, connect):
    """If TLS fails after the request, the workflow may have run."""

    def handler(connection):
        connection.request()
        os.write(connection.sock.fileno(), b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        connection.idle()

    with pytest.raises(RecallConnectionError) as caught:
        connect(secure(handler), session=session).execute_workflow("w")
    assert caught.value.may_have_executed is True


def test_rate_limit_info_is_of_last_answer(serve, connect):
    """An answer without a rate limit, also a 429, does not change the last known one."""
    limited = http(envelope(), "X-RateLimit-Limit: 9", "X-RateLimit-Remaining: 8", "X-RateLimit-Reset: 2000000000")
    server = serve(
        answers(limited, OK, http({"error": "no"}, status="429 Slow"), http({"error": "no"}, "Retry-After: 2", status="429 Slow"))
    )
    client = connect(server)
    known = []
    for _ in range(4):
        with suppress(RateLimitError):
            client.execute_workflow("w")
        known.append(client.get_rate_limit_info().limit)
    assert known == [9, 9, 9, 0]


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 503])
def test_validate_workflow_raises_other_errors(status, serve, connect):
    """If validate_workflow gets no answer, it raises instead of returning False."""
    server = serve(answers(http({"error": "no"}, status=f"{status} No")))
    with pytest.raises(RecallError) as caught:
        connect(server).validate_workflow("w")
    assert (caught.value.status, caught.value.may_have_executed) == (status, False)


def test_stream_with_status_204(serve, connect):
    """A 204 is a run without output, with any content type."""
    server = serve(answers(http(b"", "Content-Type: text/event-stream", status="204 No Content")))
    result = connect(server).execute_workflow("w", stream=True)
    assert (result.success, result.output, result.text) == (True, None, "")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "nonsense://127.0.0.1"])
def test_unusable_proxy_setting(url, session, connect, monkeypatch):
    """A proxy that requests can't use: nothing was sent."""
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(RecallConnectionError, match="check HTTPS_PROXY") as caught:
        connect("https://recall.invalid", session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False


def test_socks_proxy(connect, monkeypatch):
    """Without PySocks, or with the proxy down, nothing was sent."""
    monkeypatch.setenv("HTTPS_PROXY", f"socks5://127.0.0.1:{free_port()}")
    with pytest.raises(RecallConnectionError, match="SOCKS") as caught:
        connect("https://recall.invalid").execute_workflow("w")
    assert caught.value.may_have_executed is False


@pytest.mark.usefixtures("_trusted")
def test_https_through_proxy(session, secure, serve, connect, monkeypatch):
    """An https server is reached through a proxy's tunnel, and the proxy never sees the key."""
    server = secure(echo, "recall.invalid")

    def tunnel(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", server.port)) as beyond:
            connection.server._socks.append(beyond)
            connection.server._start(pump, beyond, connection.sock)
            pump(connection.sock, beyond)

    def pump(source, target):
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    return
                target.sendall(data)
        except OSError:
            return

    proxy = serve(tunnel)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    client = connect("https://recall.invalid", session=session)
    for _ in range(2):
        assert client.execute_workflow("w", {"a": 1}).output == {"a": 1}
    assert server.connections == proxy.connections == 1
    assert server.requests[0].headers["x-api-key"] == KEY
    assert KEY.encode() not in proxy.requests[0].head
    client.close()


def test_netrc_is_not_read(session, serve, connect, tmp_path, monkeypatch):
    """A password in ~/.netrc is not sent."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(answers(OK, http(b"", "Location: /elsewhere", status="307 Moved"), OK))
    client = connect(server, session=session)
    client.execute_workflow("w")
    client.execute_workflow("w")
    assert all("authorization" not in request.headers for request in server.requests)


def test_own_session_adds_auth_headers_and_parameters(serve, connect):
    """Headers and parameters of the session are added; our own headers take precedence."""
    server = serve(echo)
    with requests.Session() as own:
        own.auth = ("ada", "secret")
        own.headers["X-Team"] = "blue"
        own.headers["X-API-Key"] = "another"
        own.headers["User-Agent"] = "mine/1.0"
        own.params = {"tenant": "7"}
        connect(server, session=own).execute_workflow("w")
    (request,) = server.requests
    assert request.headers["authorization"].startswith("Basic ")
    assert request.headers["x-team"] == "blue"
    assert request.headers["x-api-key"] == KEY
    assert request.path == "/api/workflows/w/execute?tenant=7"
    assert own.headers["X-API-Key"] == "another"


def test_auth_of_own_session_survives_a_redirect(serve, connect):
    """The authentication of the user's session is kept in a redirect within the origin."""
    server = serve(answers(http(b"", "Location: /elsewhere", status="307 Go"), http(envelope())))
    with requests.Session() as own:
        own.auth = ("ada", "secret")
        assert connect(server, session=own).execute_workflow("w").output == "hello"
    assert [request.headers["authorization"][:6] for request in server.requests] == ["Basic "] * 2


def test_closed_reader_ignores_timeout():
    """Setting a timeout on a closed response does nothing, nor does closing it again."""
    here, there = socket.socketpair()
    with here, there:
        reader = Reader(here)
        buffer = reader.makefile()
        buffer.close()
        buffer.close()
        reader.bound(None, 1.0)
        assert here.gettimeout() is None


def test_cookies_of_own_session_are_sent_back(serve, connect):
    """A cookie of the server is sent with the next call of the user's session, until it is deleted."""
    server = serve(
        answers(http(envelope(), "Set-Cookie: node=7; Path=/"), OK, http(envelope(), "Set-Cookie: node=; Max-Age=0; Path=/"), OK)
    )
    with requests.Session() as own:
        client = connect(server, session=own)
        for _ in range(4):
            client.execute_workflow("w")
    assert [request.headers.get("cookie") for request in server.requests] == [None, "node=7", "node=7", None]


@pytest.mark.parametrize("kind", ["json", "stream"])
def test_hook_that_reads_body(kind, serve, connect):
    """A hook that reads the answer first loses nothing, and the connection is reused."""
    seen = []
    stream = b'data: {"chunk": "One"}\n\ndata: {"event": "done", "success": true, "output": "hello"}\n\n'
    server = serve(answers(OK if kind == "json" else http(stream, "Content-Type: text/event-stream")))
    with requests.Session() as own:
        own.hooks["response"].append(lambda response, **_: seen.append(response.content))
        client = connect(server, session=own)
        for _ in range(2):
            assert client.execute_workflow("w").output == "hello"
            assert client.stream_workflow("w").result.output == "hello"
    assert len(seen) == 4
    assert server.connections == 1


def test_hook_that_raises(serve, connect):
    """An error of the user's hook is raised unchanged."""
    with requests.Session() as own:
        own.hooks["response"].append(lambda response, **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            connect(serve(echo), session=own).execute_workflow("w")


def test_own_adapter(serve, connect):
    """An adapter that the user mounts is used."""
    sent = []

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, request, **settings):
            sent.append(request.url)
            return super().send(request, **settings)

    server = serve(echo)
    with requests.Session() as own:
        own.mount(server.url, Adapter())
        connect(server, session=own).execute_workflow("w")
    assert sent == [f"{server.url}/api/workflows/w/execute"]


def test_session_of_wrong_type_raises():
    """Anything but a session raises a TypeError."""
    with pytest.raises(TypeError, match=r"requests\.Session"):
        RecallClient(KEY, session=object())


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="needs the name of the option")
def test_sockets_have_tcp_keep_alive(serve, connect, monkeypatch):
    """An idle connection, also to a proxy, is probed after a minute, so that a NAT keeps it."""
    server = serve(echo)
    client = connect(server)
    client.execute_workflow("w")
    proxy = serve(echo)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    connect("http://recall.invalid").execute_workflow("w")
    for line in itertools.chain(open_sockets(server.port), open_sockets(proxy.port)):
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def open_sockets(port):
    """Return copies of this process's sockets that are connected to a port."""
    found = []
    for descriptor in range(3, 256):
        try:
            copied = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            continue
        try:
            leads_there = copied.getpeername()[1] == port
        except (OSError, IndexError):
            leads_there = False
        if leads_there:
            found.append(copied)
        else:
            copied.close()
    assert found
    try:
        yield from found
    finally:
        for copied in found:
            copied.close()


# ------------------------------------------------------------------------------------------------------------------ logging


def test_request_is_logged_at_debug(session, serve, connect, caplog):
    """The line has method, path, status and milliseconds, and nothing secret."""
    caplog.set_level(logging.DEBUG, "recall_sdk")
    client = connect(serve(answers(OK, http({"error": "no"}, status="404 No"))), session=session)
    client.execute_workflow("w", {"password": "hidden"})
    with pytest.raises(NotFoundError):
        client.get_workflow_status("w")
    lines = [record.getMessage() for record in caplog.records if record.name == "recall_sdk"]
    assert len(lines) == 2
    assert re.fullmatch(r"POST /api/workflows/w/execute 200 \d+ ms", lines[0])
    assert re.fullmatch(r"GET /api/workflows/w/status 404 \d+ ms", lines[1])


def test_failed_request_is_logged_at_debug(session, serve, connect, caplog):
    """A request without an answer is logged, too."""
    caplog.set_level(logging.DEBUG, "recall_sdk")
    with pytest.raises(RecallConnectionError):
        connect(serve(resets), session=session).execute_workflow("w")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "recall_sdk"]
    assert re.fullmatch(r"POST /api/workflows/w/execute failed \d+ ms", line)


def test_retry_is_logged_at_info(serve, connect, caplog):
    """A wait for the rate limit is logged."""
    caplog.set_level(logging.INFO, "recall_sdk")
    client = connect(serve(answers(http({"error": "slow"}, status="429 No"), OK)))
    client.execute_with_retry("w", initial_delay=0)
    (record,) = [record for record in caplog.records if record.name == "recall_sdk"]
    assert record.levelname == "INFO"


def test_logging_is_silent_by_default(serve, connect, capfd, monkeypatch):
    """Without a logging configuration, nothing is printed."""
    monkeypatch.setattr(logging.getLogger("recall_sdk"), "propagate", False)
    with pytest.raises(ServerError):
        connect(serve(answers(http({"error": "x"}, status="503 Busy")))).execute_workflow("w")
    assert capfd.readouterr() == ("", "")


# -------------------------------------------------------------------------------------------------------- the key is a secret


def visible_texts(error):
    """Return all that an error shows: as text, in a traceback, pickled, in its attributes and in its causes."""
    yield from traceback.format_exception(type(error), error, error.__traceback__)
    yield repr(pickle.dumps(error))
    while error is not None:
        yield repr(error)
        yield str(error)
        yield repr({name: value for name, value in vars(error).items() if name not in ("request", "response")})
        error = error.__cause__ or error.__context__


ECHOES = {
    "json": http({"error": f"bad key {KEY}", "code": KEY, "details": [{"path": KEY, "message": {KEY: [KEY]}}]}, status="401 No"),
    "text": http(f"bad key {KEY}".encode(), status="500 Oh"),
    "html": http(f"<html>{KEY}</html>".encode(), status="404 No"),
    "escaped json": http(b'{"error": "' + "".join(f"\\u{ord(letter):04x}" for letter in KEY).encode() + b'"}', status="400 No"),
    "broken json": http(f'{{"error": "{KEY}"'.encode()),
    "bad utf-8": http(b"\xff" + KEY.encode()),
    "result of a failed run": http({"success": False, "output": {KEY: KEY}, "error": KEY, "logs": [KEY]}, status="500 Oh"),
    "result of a run out of time": http({"success": False, "output": {KEY: KEY}, "error": KEY}, status="408 Late"),
    "reason": http({}, status=f"500 {KEY}"),
    "status line": f"{KEY} garbage\r\n\r\n".encode(),
    "status": f"HTTP/1.1 {KEY} OK\r\n\r\n".encode(),
    "header": http({"error": "x"}, f"Retry-After: {KEY}", f"X-RateLimit-Reset: {KEY}", status="429 Slow"),
    "content length": head(f"Content-Length: {KEY}, 7"),
    "content encoding": http(b"x", f"Content-Encoding: {KEY}"),
    "chunk size": head("Transfer-Encoding: chunked") + f"{KEY}\r\n".encode(),
    "location": http(b"", f"Location: https://other.invalid/?key={KEY}#{KEY}", status="302 Moved"),
    "location host": http(b"", f"Location: https://{KEY}.invalid/{KEY}", status="307 Moved"),
    "location user": http(b"", f"Location: https://{KEY}:{KEY}@other.invalid/", status="307 Moved"),
    "location that is none": http(b"", f"Location: http://[{KEY}", status="307 Moved"),
    "location port": http(b"", f"Location: http://127.0.0.1:{KEY}/", status="307 Moved"),
}


@pytest.mark.parametrize("kind", ECHOES)
def test_echoed_key_is_masked(kind, session, serve, connect):
    """If a server echoes the key, no error shows it."""
    with pytest.raises(RecallError) as caught:
        connect(serve(cut(ECHOES[kind])), session=session).execute_workflow("w")
    assert [line for line in visible_texts(caught.value) if KEY in line] == []


STREAMED = "Content-Type: text/event-stream"
STREAM_ECHOES = {
    "error event": [f'{{"blockId": "{KEY}", "chunk": "{KEY}"}}', f'{{"event": "error", "error": "{KEY}"}}'],
    "partial": [f'{{"blockId": "{KEY}", "chunk": "x{KEY}y"}}'],
    "partial, over two events": [f'{{"blockId": "a", "chunk": "x{KEY[:9]}"}}', f'{{"blockId": "a", "chunk": "{KEY[9:]}y"}}'],
}


@pytest.mark.parametrize("kind", STREAM_ECHOES)
def test_key_echoed_in_stream_is_masked(kind, session, serve, connect):
    """The errors of a stream have what arrived, with the key masked."""
    body = "".join(f"data: {payload}\n\n" for payload in STREAM_ECHOES[kind]).encode()
    server = serve(cut(head("Connection: close", STREAMED), body))
    with pytest.raises((ExecutionError, StreamInterruptedError)) as caught:
        list(connect(server, session=session).stream_workflow("w"))
    assert [line for line in visible_texts(caught.value) if KEY in line] == []


def test_key_is_in_no_repr_and_no_log(session, serve, connect, caplog):
    """Neither the client, a stream nor the logs of the libraries show the key."""
    caplog.set_level(logging.DEBUG)
    server = serve(answers(OK, http(b'data: {"event": "done"}\n\n', STREAMED), http({"error": KEY}, status="401 No")))
    client = connect(server, session=session)
    client.execute_workflow("w")
    stream = client.stream_workflow("w")
    assert KEY not in repr(client) + str(client) + repr(stream) + repr(stream.result)
    with pytest.raises(RecallError):
        client.execute_workflow("w")
    assert KEY not in caplog.text
    if session is None:
        assert KEY not in repr(copy.copy(client))


def test_key_in_base_url_is_not_shown(connect):
    """An error about an unreachable server does not show the key."""
    with pytest.raises(RecallConnectionError) as caught:
        connect(f"http://127.0.0.1:{free_port()}").execute_workflow("w")
    assert [line for line in visible_texts(caught.value) if KEY in line] == []


# ------------------------------------------------------------------------------------------------- the field's other troubles


@pytest.mark.parametrize("start", [b"H", b"HTTP/1.1", b"HTTP/1.1 2"])
def test_execute_cut_in_status_line(start, serve, connect):
    """A connection that closes within the status line raises RecallConnectionError."""
    with pytest.raises(RecallConnectionError) as caught:
        connect(serve(cut(start))).execute_workflow("w")
    assert type(caught.value) is RecallConnectionError
    assert (caught.value.code, caught.value.may_have_executed) == ("CONNECTION_ERROR", True)
    assert "base_url" not in str(caught.value)


def test_set_api_key_leaves_own_session_alone(serve, connect):
    """The cookies of the user's own session are kept."""
    server = serve(answers(http(envelope())))
    with requests.Session() as session:
        session.cookies.set("mine", "1")
        client = connect(server, session=session)
        client.set_api_key("second")
        client.execute_workflow("w")
    assert server.requests[0].headers["cookie"] == "mine=1"


@pytest.mark.parametrize(("status", "kind"), [(503, ServerError), (429, RateLimitError), (504, RecallTimeoutError)])
def test_adapter_that_gave_up_on_a_status(status, kind, serve, connect):
    """The user's adapter that retries statuses leads to the error of the last one."""
    server = serve(answers(http({"error": "no"}, status=f"{status} No")))
    retry = Retry(total=1, status_forcelist=[status], backoff_factor=0, allowed_methods=None)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        with pytest.raises(kind) as caught:
            connect(server, session=session).execute_workflow("w")
    assert (type(caught.value), caught.value.status) == (kind, status)
    assert len(server.requests) == 2


SECRET_PROXIES = [
    "http://bob:hunter2#1@{}",
    "http://bob:80#hunter2@{}",
    "http://bob:hunter2/x@{}",
    "http://bob:80/hunter2@{}",
    "http://bob:80?hunter2@{}",
    "bob:hunter2#1@{}",
    "http://bob:hunter2@[{}",
]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("proxy", SECRET_PROXIES)
def test_proxy_url_is_not_shown(proxy, scheme, session, connect, monkeypatch):
    """A proxy whose URL can't be parsed is reported; neither the message nor a cause shows its user name or password."""
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.format("127.0.0.1:1"))
    with pytest.raises(RecallConnectionError, match=r"the URL of the proxy .* can't be used") as caught:
        connect(f"{scheme}://recall.invalid", session=session).execute_workflow("w")
    assert caught.value.may_have_executed is False
    assert "base_url" not in str(caught.value)
    assert [line for line in visible_texts(caught.value) if "hunter2" in line or "bob" in line] == []


def test_proxy_credentials_are_not_shown(session, connect, monkeypatch):
    """An unreachable proxy is reported without the user name and password in its URL."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://bob:hunter2@127.0.0.1:{free_port()}")
    with pytest.raises(RecallConnectionError, match="through the proxy") as caught:
        connect("https://recall.invalid", session=session).execute_workflow("w")
    assert [line for line in visible_texts(caught.value) if "hunter2" in line] == []


class Colour(enum.Enum):
    RED = "red"


class JobError(Exception):
    """An error of the caller's, with any attributes."""

    def __init__(self, *held):
        super().__init__("job failed", *held)
        self.held = held
        self.colour = Colour.RED


@pytest.mark.parametrize("status", [404, 200])
def test_error_handled_by_the_caller_is_not_changed(status, session, serve, connect):
    """A call inside an ``except`` does not change the error that is handled there."""
    held = ([KEY], {KEY: KEY}, (KEY,), object())
    body = {"error": f"no {KEY}"} if status == 404 else KEY.encode()
    client = connect(serve(answers(http(body, status=f"{status} No"))), session=session)
    mine = JobError(*held)
    try:
        raise mine
    except JobError:
        with pytest.raises(RecallError):
            client.execute_workflow("w")
    assert all(one is other for one, other in zip((*mine.args[1:], *mine.held), held * 2))
    assert held[:3] == ([KEY], {KEY: KEY}, (KEY,))
    assert mine.colour is Colour.RED


class TenantSession(requests.Session):
    """A session that adds a token to each request, like those of OAuth libraries."""

    def request(self, method, url, *args, **kwargs):
        kwargs["headers"] = {**kwargs["headers"], "X-Tenant": "acme"}
        return super().request(method, url, *args, **kwargs)


def test_request_of_a_session_subclass_is_honoured(serve, connect):
    """Additions of a subclass's ``request()`` are sent, and those of the session are sent once."""
    server = serve(answers(http(envelope(), "Set-Cookie: seen=1")))
    with TenantSession() as session:
        session.params = {"page": "1"}
        client = connect(server, session=session)
        client.execute_workflow("w")
        client.execute_workflow("w")
    assert [request.headers["x-tenant"] for request in server.requests] == ["acme", "acme"]
    assert server.requests[0].path == "/api/workflows/w/execute?page=1"
    assert [request.headers.get("cookie") for request in server.requests] == [None, "seen=1"]


@pytest.mark.parametrize(("agent", "sent"), [("mine/1.0", "mine/1.0 recall-sdk/"), (None, "recall-sdk/")])
def test_user_agent_of_own_session_comes_first(agent, sent, serve, connect):
    """A ``User-Agent`` of the user's own session is sent before ours."""
    server = serve(answers(http(envelope())))
    with requests.Session() as session:
        session.headers["User-Agent"] = agent
        connect(server, session=session).execute_workflow("w")
    assert server.requests[0].headers["user-agent"].startswith(sent)


class Alarm:
    """A signal handler that is not a function."""

    def __call__(self, *_):
        raise TimeoutError("mine")


def raise_timeout(*_):
    """Raise the usual error of a SIGALRM handler."""
    raise TimeoutError("mine")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
@pytest.mark.parametrize("handler", [raise_timeout, Alarm(), functools.partial(raise_timeout, 1)], ids=["function", "object", "partial"])
@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"], ids=["head", "body"])
def test_error_of_a_signal_handler_reaches_the_caller(start, handler, session, serve, connect):
    """An exception of the caller's signal handler during a call is raised unchanged."""

    def handle(connection):
        connection.request()
        connection.send(start)
        connection.idle()

    client = connect(serve(handle), session=session)
    gc.collect()  # an exception that a handler raises while something is collected is lost
    usual = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(TimeoutError, match="mine"):
            client.execute_workflow("w")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs SIGALRM")
def test_stream_interrupted_by_a_signal_handler_is_closed(session, serve, connect):
    """After an exception of the caller's signal handler, a stream is closed, and says so when it is read again."""

    def handle(connection):
        connection.request()
        connection.send(head("Content-Type: text/event-stream", "Connection: close") + b'data: {"blockId": "a", "chunk": "One"}\n\n')
        connection.idle()

    stream = connect(serve(handle), session=session).stream_workflow("w")
    assert next(stream).chunk == "One"
    gc.collect()
    usual = signal.signal(signal.SIGALRM, raise_timeout)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(TimeoutError, match="mine"):
            next(stream)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
    with pytest.raises(StreamInterruptedError, match="closed here"):
        next(stream)


def test_error_without_signal_module():
    """A program that does not import ``signal`` gets the usual error."""
    code = """
import sys
from recall_sdk import RecallClient, RecallConnectionError
sys.modules.pop("signal", None)
try:
    RecallClient("key", "http://127.0.0.1:1").get_usage_limits()
except RecallConnectionError as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "CONNECTION_ERROR\n"


# --------------------------------------------------------------------------------------------- what other tools put in place


def test_replaced_look_up(session, serve, connect, monkeypatch):
    """A ``getaddrinfo`` that returns the name, as in the usual recipe for SOCKS, works as with requests."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, *_: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))])
    server = serve(answers(http(envelope())))
    assert connect(f"http://localhost:{server.port}", session=session).execute_workflow("w").output == "hello"


def test_wrapped_create_connection(session, serve, connect, monkeypatch):
    """A ``create_connection`` with its own host names works as with requests."""
    create = urllib3.util.connection.create_connection
    monkeypatch.setattr(urllib3.util.connection, "create_connection", lambda address, *a, **k: create(("127.0.0.1", address[1]), *a, **k))
    server = serve(answers(http(envelope())))
    assert connect(f"http://recall.invalid:{server.port}", session=session).execute_workflow("w").output == "hello"


def test_session_is_plain_if_urllib3_does_not_build_on_http_client(serve, connect, monkeypatch):
    """With urllib3-future in the place of urllib3, whose connections are of another kind, calls work as with requests."""
    monkeypatch.setattr(_connections, "HTTPConnection", object)
    server = serve(answers(http(envelope()), b""))
    client = connect(server)
    assert type(client._transport._session.get_adapter("http://")) is HTTPAdapter
    assert client.execute_workflow("w").output == "hello"


@pytest.mark.usefixtures("_trusted")
def test_sockets_of_pyopenssl(session, secure, connect):
    """With pyOpenSSL's sockets in urllib3, calls and streams over TLS work, and end in time."""
    inject = pytest.importorskip("urllib3.contrib.pyopenssl", reason="needs pyOpenSSL", exc_type=ImportError)
    inject.inject_into_urllib3()
    try:
        server = secure(echo)
        client = connect(server, session=session)
        for _ in range(2):
            assert client.execute_workflow("w", {"a": 1}).output == {"a": 1}
        assert server.connections == 1
        silent = connect(secure(lambda connection: connection.request() and connection.idle()), session=session)
        with pytest.raises(RecallTimeoutError):
            silent.execute_workflow("w", timeout=0.3)
    finally:
        inject.extract_from_urllib3()
