"""For any bytes from a server, a call returns a model or raises a RecallError, before its deadline."""

import gzip
import json
import socket
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawserver import KEY, LAST_CHUNK, chunk, head, http
from recall_sdk import (
    AsyncExecutionResult,
    RecallClient,
    RecallError,
    StreamEvent,
    UsageLimits,
    WorkflowExecutionResult,
    WorkflowStatus,
)

TIMEOUT = 2.0
"""Seconds for a call. The server closes after its bytes, so no call should need any of it."""

CALLS = {
    "execute": (lambda client: client.execute_workflow("w"), (WorkflowExecutionResult, AsyncExecutionResult)),
    "async": (lambda client: client.execute_workflow("w", async_execution=True), AsyncExecutionResult),
    "stream": (lambda client: client.execute_workflow("w", stream=True), (WorkflowExecutionResult, AsyncExecutionResult)),
    "live": (lambda client: list(client.stream_workflow("w")), list),
    "status": (lambda client: client.get_workflow_status("w"), WorkflowStatus),
    "job": (lambda client: client.get_job_status("t"), dict),
    "usage": (lambda client: client.get_usage_limits(), UsageLimits),
}


class Parrot:
    """A server that responds to every request with the same bytes, and closes."""

    def __init__(self):
        self.response = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        """Serve one connection after the other."""
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with sock:
                try:
                    sock.recv(65536)
                    sock.sendall(self.response)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65536):
                        pass
                except OSError:
                    pass

    def close(self):
        """End."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self.listener.close()


@pytest.fixture(scope="module")
def parrot():
    """The server, once for all examples."""
    server = Parrot()
    yield server
    server.close()


@pytest.fixture(scope="module")
def check(parrot):
    """Make a call whose response is these bytes, and check the outcome."""

    def make_one(call, response):
        parrot.response = response
        make, models = CALLS[call]
        start = time.monotonic()
        try:
            got = make(client)
        except RecallError as error:
            fine = bool(error.code) and "\n" not in str(error)
        else:
            fine = isinstance(got, models) and (call != "live" or all(isinstance(event, StreamEvent) for event in got))
        assert fine
        assert time.monotonic() - start < TIMEOUT + 1

    with RecallClient(KEY, f"http://127.0.0.1:{parrot.listener.getsockname()[1]}", timeout=TIMEOUT) as client:
        yield make_one


FIELDS = (
    *("success", "output", "error", "code", "message", "status", "taskId", "jobId", "statusUrl", "links", "createdAt", "isDeployed"),
    *("deployedAt", "needsRedeployment", "metadata", "logs", "traceSpans", "totalDuration", "executionId", "workflowId", "rateLimit"),
    *("usage", "sync", "async", "limit", "maxBurst", "requestsPerMinute", "details", "path", "retryAfterSeconds", "event", "data"),
    *("chunk", "blockId", "detail", "title", "errors", "msg", "loc", "_resume", "duration", "remaining", "resetAt", "requestId"),
)
NAMES = (
    *("Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding", "Connection", "Location", "Retry-After", "Set-Cookie"),
    *("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Date", "Trailer", "X"),
)
VALUES = (
    *(":" * 32768, "0" * 5000, "Thu, 01 Jan 1970 00:00:00 GMT", "9999-12-31T23:59:59.9-23:59", "unlimited", "1800000000000"),
    *("text/event-stream", "application/json", "text/html", "gzip", "deflate", "br", "identity", "chunked", "close", "keep-alive"),
    *("0", "7", "-1", "1e999", "nan", "inf", "9" * 20, "1_0", "Mon,", "2026-11-23T21:23:35Z", "/elsewhere", "http://[", "//"),
)

KEYS = st.sampled_from(FIELDS) | st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=6)
STATUS = st.sampled_from(
    [200, 201, 202, 204, 206, 299, 300, 304, 307, 400, 401, 402, 403, 404, 408, 409, 418, 422, 429, 500, 502, 503, 504, 599, 999]
)
HEADER_NAMES = st.sampled_from(NAMES)
HEADER_VALUES = st.sampled_from(VALUES) | st.text(st.characters(max_codepoint=255), max_size=12).map(
    lambda text: text.replace("\r", "").replace("\n", "")
)
HEADERS = st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES).map(": ".join), max_size=4)

fuzz = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@fuzz
@given(call=st.sampled_from(list(CALLS)), response=st.binary(max_size=300))
def test_any_bytes_give_result_or_recall_error(check, call, response):
    """Noise instead of a response."""
    check(call, response)


@fuzz
@given(call=st.sampled_from(list(CALLS)), status=STATUS, headers=HEADERS, body=st.binary(max_size=200))
def test_any_head_and_body_give_result_or_recall_error(check, call, status, headers, body):
    """Any status with any headers over any bytes."""
    check(call, head(*headers, status=f"{status} Odd") + body)


@fuzz
@given(call=st.sampled_from(list(CALLS)), status=STATUS, body=OBJECTS | JSON, headers=HEADERS)
def test_any_json_gives_result_or_recall_error(check, call, status, body, headers):
    """Any JSON under any status, properly framed."""
    check(call, http(body, *headers, status=f"{status} Odd"))


@fuzz
@given(
    call=st.sampled_from(["execute", "stream", "live"]),
    payloads=st.lists(OBJECTS | JSON, max_size=4),
    tail=st.binary(max_size=20),
    zipped=st.booleans(),
)
def test_any_stream_gives_result_or_recall_error(check, call, payloads, tail, zipped):
    """Any events, and some noise at the end."""
    body = b"".join(b"data: " + json.dumps(payload).encode() + b"\n\n" for payload in payloads) + tail
    encoding = ["Content-Encoding: gzip"] if zipped else []
    response = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked", *encoding)
    check(call, response + chunk(gzip.compress(body) if zipped else body or b"\n") + LAST_CHUNK)


GOOD = [
    http({"success": True, "output": {"a": 1}, "metadata": {"duration": 3}}),
    http({"success": True, "taskId": "t"}, status="202 Accepted"),
    http({"isDeployed": True, "deployedAt": None}),
    http({"error": "Too many", "retryAfterSeconds": 5}, "Retry-After: 5", "X-RateLimit-Reset: 99", status="429 Too Many"),
    head("Transfer-Encoding: chunked", "Content-Encoding: gzip") + chunk(gzip.compress(b'{"success": true, "output": 1}')) + LAST_CHUNK,
    head("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    + chunk(b'data: {"blockId": "a", "chunk": "x"}\n\n')
    + chunk(b'data: {"event": "done", "success": true}\n\ndata: [DONE]\n\n')
    + LAST_CHUNK,
]


@fuzz
@given(
    call=st.sampled_from(list(CALLS)),
    response=st.sampled_from(GOOD),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4),
)
def test_mutated_responses_give_result_or_recall_error(check, call, response, edits):
    """A good response with a few bytes changed, lost or added."""
    for place, removed, added in edits:
        at = int(place * len(response))
        response = response[:at] + added + response[at + removed :]
    check(call, response)


DEEP = [b"[" * depth + b"]" * depth for depth in (400, 900, 3_000, 100_000)]


@pytest.mark.parametrize(
    "form",
    [b"%s", b'{"success": true, "output": %s}', b'{"success": false, "error": %s}', b'{"error": %s}', b'{"status": "failed", "error": %s}'],
)
@pytest.mark.parametrize("deep", DEEP, ids=len)
@pytest.mark.parametrize("status", [200, 202, 400, 500])
def test_deeply_nested_json(status, deep, form, check):
    """However deeply a response is nested, the call returns a model or raises a RecallError."""
    for call in ("execute", "job"):
        check(call, http(form % deep, "Content-Type: application/json", status=f"{status} Odd"))


@pytest.mark.parametrize(
    "form", [b'{"event": "error", "error": %s}', b'{"event": "done", "success": false, "error": %s}', b"%s", b'{"data": %s}']
)
@pytest.mark.parametrize("deep", DEEP, ids=len)
def test_deeply_nested_events(deep, form, check):
    """The same for the events of a stream."""
    check("live", http(b"data: " + form % deep + b"\n\n", "Content-Type: text/event-stream"))


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "1" * 4000, "1" * 5000, "-" + "9" * 400])
def test_numbers_beyond_float(number, check):
    """Huge numbers in a body or a header break nothing."""
    fields = {"success": "true", "error": '"x"', "status": '"x"', "output": number, "totalDuration": number, "retryAfterSeconds": number}
    body = "{{{}}}".format(", ".join(f'"{name}": {value}' for name, value in fields.items())).encode()
    for status in (200, 429):
        response = http(
            body, f"Retry-After: {number}", f"X-RateLimit-Reset: {number}", f"X-RateLimit-Limit: {number}", status=f"{status} Odd"
        )
        for call in ("execute", "job"):
            check(call, response)
