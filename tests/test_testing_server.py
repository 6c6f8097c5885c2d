"""The test server, over real sockets."""

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import distribution
from math import inf

import pytest
import requests

import recall_sdk.testing
from rawserver import needs_reference_counts
from recall_sdk import ExecutionError, RateLimitError, RecallClient
from recall_sdk.testing import RecallServer, __main__, server
from recall_sdk.testing._bucket import TokenBucket

pytest_plugins = ["pytester"]


class Caller:
    """Calls a server with a plain `requests` session."""

    def __init__(self, server):
        self.server = server
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["X-API-Key"] = server.api_key

    def get(self, path, **settings):
        """Ask for a path."""
        return self.session.get(self.server.base_url + path, **settings)

    def execute(self, workflow_id, body=None, **settings):
        """Run a workflow."""
        return self.session.post(f"{self.server.base_url}/api/workflows/{workflow_id}/execute", json=body, **settings)

    def queue(self, workflow_id, body=None):
        """Queue a run."""
        return self.execute(workflow_id, body, headers={"X-Execution-Mode": "async"})

    def job(self, task_id):
        """Wait for a job to end."""
        for _ in range(500):
            status = self.get(f"/api/jobs/{task_id}").json()
            if status["status"] != "processing":
                return status
            time.sleep(0.01)
        raise AssertionError(f"{task_id} does not end")


@pytest.fixture(params=["documented", "observed"])
def dialect(request):
    """Either of the two dialects."""
    return request.param


@pytest.fixture
def serve():
    """Start servers with some workflows; return a caller for each."""
    callers = []

    def start(**settings):
        server = RecallServer(**settings)
        server.workflow("echo")(lambda input: input)
        server.workflow("fail")(lambda input: 1 / 0)
        server.workflow("draft", deployed=False)(lambda input: input)

        @server.workflow("count")
        def count(input):
            yield "One"
            yield "other", ", two"

        callers.append(Caller(server.start()))
        return callers[-1]

    yield start
    for caller in callers:
        caller.session.close()
        caller.server.stop()


def payloads(response):
    """Return the data of a stream's events."""
    return [line[len("data: ") :] for line in response.text.split("\n") if line]


def raw(server, request):
    """Send bytes, and read the response until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(request)
        response = b""
        while True:
            piece = connection.recv(65536)
            if not piece:
                return response
            response += piece


def test_run_in_documented_dialect(serve):
    """A run returns the whole documented envelope."""
    response = serve().execute("echo", {"name": "Ada"})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert body["metadata"]["duration"] == body["totalDuration"] >= 0
    assert body["metadata"]["executionId"]
    del body["metadata"], body["totalDuration"]
    assert body == {"success": True, "output": {"name": "Ada"}, "error": None, "logs": [], "traceSpans": []}


def test_run_in_observed_dialect(serve):
    """A run in the observed dialect has a top-level execution id, and is chunked, as recorded."""
    response = serve(dialect="observed").execute("echo", {"name": "Ada"})
    assert response.headers["Content-Type"] == "application/json;charset=utf-8"
    assert response.headers["Transfer-Encoding"] == "chunked"
    body = response.json()
    assert sorted(body) == ["executionId", "metadata", "output", "success"]
    assert sorted(body["metadata"]) == ["duration", "endTime", "startTime"]
    assert body["output"] == {"name": "Ada"}


@pytest.mark.parametrize(
    ("body", "given"),
    [
        ({}, {}),
        (None, {}),
        ({"input": "text"}, "text"),
        ({"input": None}, None),
        ({"input": [1, 2]}, [1, 2]),
        ({"input": {"a": 1}}, {"input": {"a": 1}}),
        ({"input": "text", "more": 1}, {"input": "text", "more": 1}),
        ({"input": "text", "stream": False, "selectedOutputs": []}, "text"),
    ],
)
def test_workflow_gets_input_unchanged(serve, body, given):
    """Control fields are removed, and a value that was sent as `input` is unwrapped."""
    caller = serve()
    seen = []
    caller.server.workflow("see")(seen.append)
    assert caller.execute("see", body).json()["output"] is None
    assert seen == [given]


def test_generator_without_stream_returns_text(serve):
    """Without a stream, the output of a generator is its text."""
    assert serve().execute("count").json()["output"] == {"content": "One, two"}


def test_stream_in_documented_dialect(serve):
    """A generator's pieces are chunks with block ids, then a done event and [DONE]."""
    response = serve().execute("count", {"stream": True})
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["Transfer-Encoding"] == "chunked"
    *chunks, end, done = payloads(response)
    assert [json.loads(chunk) for chunk in chunks] == [{"blockId": "count-block", "chunk": "One"}, {"blockId": "other", "chunk": ", two"}]
    end = json.loads(end)
    assert end.pop("metadata")["duration"] >= 0
    assert end == {"event": "done", "success": True, "output": {"content": "One, two"}}
    assert done == "[DONE]"


def test_stream_in_observed_dialect(serve):
    """In the other dialect a stream ends with a final event and [DONE] in JSON quotes."""
    end, done = payloads(serve(dialect="observed").execute("count", {"stream": True}))[-2:]
    assert json.loads(end) == {"event": "final", "data": {"success": True, "output": {"content": "One, two"}}}
    assert done == '"[DONE]"'


def test_generator_returns_output(serve):
    """The return value of a generator replaces the text as the output."""
    caller = serve()

    @caller.server.workflow("both")
    def both(input):
        yield "text"
        return {"result": 42}

    assert caller.execute("both").json()["output"] == {"result": 42}
    assert json.loads(payloads(caller.execute("both", {"stream": True}))[-2])["output"] == {"result": 42}


@pytest.mark.parametrize(("selected", "chunks"), [(["agent.content"], 1), ([], 0)])
def test_plain_function_streams_selected_content(serve, selected, chunks):
    """The content of a plain function is one chunk if outputs were selected."""
    response = serve().execute("echo", {"content": "Hi", "stream": True, "selectedOutputs": selected})
    assert len(payloads(response)) == chunks + 2


def test_stream_event_is_sent_when_yielded(serve):
    """A chunk reaches the client while the workflow is running."""
    caller = serve()
    go_on = threading.Event()

    @caller.server.workflow("wait")
    def wait(input):
        yield "first"
        assert go_on.wait(5)
        yield "second"

    with caller.execute("wait", {"stream": True}, stream=True) as response:
        lines = response.iter_lines(chunk_size=1)
        assert b"first" in next(lines)
        go_on.set()
        assert b"second" in next(line for line in lines if line)


@needs_reference_counts
def test_closed_stream_ends_workflow(serve):
    """When the reader closes the connection, the generator is closed, and the server continues."""
    caller = serve()
    closed = threading.Event()

    @caller.server.workflow("endless")
    def endless(input):
        try:
            while True:
                yield "x"
                time.sleep(0.001)
        finally:
            closed.set()

    with caller.execute("endless", {"stream": True}, stream=True) as response:
        next(response.iter_content(1))
    assert closed.wait(5)
    assert caller.execute("echo").status_code == 200


def test_workflow_exception_fails_run(serve, dialect):
    """An exception in the function is a 500 with the failed run, in both dialects."""
    response = serve(dialect=dialect).execute("fail")
    assert response.status_code == 500
    body = response.json()
    assert sorted(body.pop("metadata")) == ["duration", "endTime", "startTime"]
    assert body == {"success": False, "output": {}, "error": "division by zero"}


def test_workflow_exception_ends_stream_with_error(serve):
    """A failed run in a stream is an error event, and then the mark of the end."""
    failure = '{"event":"error","error":"division by zero"}'
    assert payloads(serve().execute("fail", {"stream": True})) == [failure, "[DONE]"]
    assert payloads(serve(dialect="observed").execute("fail", {"stream": True})) == [failure, '"[DONE]"']


def test_exception_without_text_is_shown_by_name(serve):
    """The message of a failed run is never empty."""
    caller = serve()

    @caller.server.workflow("silent")
    def silent(input):
        raise KeyboardInterrupt if input else ValueError

    assert caller.execute("silent").json()["error"] == "ValueError"


@pytest.mark.parametrize("piece", [5, ("a",), ("a", 5), ("a", "b", "c")])
def test_workflow_that_yields_non_text_fails(serve, piece):
    """Only text, and pairs of block id and text, can be streamed."""
    caller = serve()

    @caller.server.workflow("odd")
    def odd(input):
        yield piece

    assert caller.execute("odd").json()["error"].startswith("a workflow yields text")


@pytest.mark.parametrize("output", [float("nan"), datetime.now(timezone.utc), {1, 2}])
def test_output_without_json_form_fails_run(serve, output):
    """A value without a JSON form can't be an output."""
    caller = serve()
    caller.server.workflow("odd")(lambda input: output)
    assert caller.execute("odd").status_code == 500


def test_lone_surrogate_is_sent_as_escape(serve):
    """A lone surrogate in an output arrives."""
    assert serve().execute("echo", {"half": "\ud800"}).json()["output"] == {"half": "\ud800"}


def test_missing_key_is_reported(serve):
    """A KeyError is not reported as only the name of the key."""
    caller = serve()
    caller.server.workflow("odd")(lambda input: input["name"])
    assert caller.execute("odd").json()["error"] == "KeyError: 'name'"


def test_job_in_documented_dialect(serve):
    """A queued run has a task id, is processing while it runs, and then has its output and times."""
    caller = serve()
    go_on = threading.Event()
    caller.server.workflow("wait")(lambda input: go_on.wait(5))
    response = caller.queue("wait")
    assert response.status_code == 202
    ticket = response.json()
    task_id = ticket["taskId"]
    assert ticket.pop("createdAt").endswith("Z")
    assert ticket == {"success": True, "taskId": task_id, "status": "queued", "links": {"status": f"/api/jobs/{task_id}"}}
    status = caller.get(ticket["links"]["status"]).json()
    assert status["status"] == "processing"
    assert "output" not in status
    go_on.set()
    status = caller.job(task_id)
    assert sorted(status.pop("metadata")) == ["completedAt", "duration", "startedAt"]
    assert status == {"success": True, "taskId": task_id, "status": "completed", "output": True}


def test_job_in_observed_dialect(serve):
    """In the observed dialect a queued run has jobId and statusUrl, and the output is a run record."""
    caller = serve(dialect="observed")
    ticket = caller.queue("echo", {"a": 1}).json()
    assert sorted(ticket) == ["async", "executionId", "jobId", "message", "statusUrl", "success"]
    assert ticket["jobId"] == f"workflow-execution:{ticket['executionId']}"
    assert ticket["statusUrl"] == f"{caller.server.base_url}/api/jobs/{ticket['jobId']}"
    status = caller.job(ticket["jobId"])
    assert status["status"] == "completed"
    assert sorted(status["output"]) == ["executedAt", "executionId", "output", "success", "workflowId"]
    assert status["output"]["output"] == {"a": 1}


def test_running_job_in_observed_dialect(serve):
    """In the other dialect a job has a null output until it ends."""
    caller = serve(dialect="observed")
    go_on = threading.Event()
    caller.server.workflow("wait")(lambda input: go_on.wait(5))
    status = caller.get("/api/jobs/" + caller.queue("wait").json()["jobId"]).json()
    go_on.set()
    assert (status["status"], status["output"]) == ("processing", None)
    assert sorted(status["metadata"]) == ["correlation", "workflowId"]


def test_failed_job(serve):
    """The job of a failed run says why, in both dialects."""
    caller = serve()
    status = caller.job(caller.queue("fail").json()["taskId"])
    assert (status["status"], status["error"], "output" in status) == ("failed", "division by zero", False)
    caller = serve(dialect="observed")
    status = caller.job(caller.queue("fail").json()["jobId"])
    assert (status["status"], status["error"], status["output"]) == ("failed", "division by zero", None)


def test_workflow_status(serve, dialect):
    """A deployed workflow has a date, an undeployed one has none."""
    caller = serve(dialect=dialect)
    status = caller.get("/api/workflows/echo/status").json()
    assert datetime.strptime(status.pop("deployedAt"), "%Y-%m-%dT%H:%M:%S.%f%z")
    assert status == {"isDeployed": True, "needsRedeployment": False}
    assert caller.get("/api/workflows/draft/status").json() == {"isDeployed": False, "deployedAt": None, "needsRedeployment": False}


def test_rejections_in_documented_dialect(serve):
    """Each rejection has a status and a code."""
    caller = serve()
    responses = [
        (caller.execute("nope"), 404, "Workflow not found", "WORKFLOW_NOT_FOUND"),
        (caller.execute("draft"), 403, "Workflow is not deployed", "WORKFLOW_NOT_DEPLOYED"),
        (caller.get("/api/workflows/nope/status"), 404, "Workflow not found", "WORKFLOW_NOT_FOUND"),
        (caller.get("/api/jobs/nope"), 404, "Task not found", "TASK_NOT_FOUND"),
        (caller.get("/nowhere"), 404, "Not found", "NOT_FOUND"),
        (caller.get("/api/workflows/echo/execute"), 405, "Method not allowed", "METHOD_NOT_ALLOWED"),
        (caller.execute("echo", headers={"X-API-Key": "wrong"}), 401, "Invalid API key", "UNAUTHORIZED"),
        (caller.execute("echo", headers={"X-API-Key": None}), 401, "Unauthorized", "UNAUTHORIZED"),
    ]
    for response, status, error, code in responses:
        assert response.status_code == status
        assert response.json() == {"error": error, "code": code}
    assert caller.get("/api/workflows/echo/execute").headers["Allow"] == "POST"


def test_rejections_in_observed_dialect(serve):
    """In the other dialect errors of execute have no code, and others one made of the message."""
    caller = serve(dialect="observed")
    assert caller.execute("nope").json() == {"error": "Workflow not found"}
    assert caller.execute("echo", headers={"X-API-Key": "wrong"}).json() == {"error": "Invalid API key"}
    assert caller.get("/api/jobs/nope").json() == {"error": "Task not found", "code": "TASK_NOT_FOUND"}
    wrong_key = caller.get("/api/workflows/echo/status", headers={"X-API-Key": "wrong"})
    assert wrong_key.json() == {"error": "Invalid API key", "code": "INVALID_API_KEY"}


@pytest.mark.parametrize("body", [b'{"message": ', b'{"n": NaN}', b"[1, 2]", b"\xff"])
def test_body_without_json_object_is_rejected(serve, dialect, body):
    """A body that is no JSON object is a 400 in both dialects, and the workflow does not run."""
    caller = serve(dialect=dialect)
    response = caller.execute("echo", data=body)
    assert (response.status_code, response.json()["error"]) == (400, "The request's body must be a JSON object")
    assert response.json().get("code") == ("INVALID_JSON" if dialect == "documented" else None)
    assert caller.server.executions == {}


def test_usage_limit_rejects_executions(serve, dialect):
    """Each run costs a cent, and none begins after the limit is reached."""
    caller = serve(usage_limit=0.02, dialect=dialect)
    assert [caller.execute("echo").status_code for _ in range(3)] == [200, 200, 402]
    refused = caller.queue("echo")
    assert refused.status_code == 402
    assert refused.json()["error"] == "Usage limit exceeded: 0.02$ used of 0.02$ limit."
    assert refused.json().get("code") == ("USAGE_LIMIT_EXCEEDED" if dialect == "documented" else None)
    usage = caller.get("/api/users/me/usage-limits").json()
    assert usage["usage"] == {"currentPeriodCost": 0.02, "limit": 0.02, "plan": "free"}


def test_rate_limit_in_documented_dialect(serve):
    """Responses to executions report the limit; a 429 has a Retry-After."""
    caller = serve(rate_limit=0.5, burst=2)
    first, second, refused = [caller.execute("echo") for _ in range(3)]
    assert first.headers["X-RateLimit-Limit"] == "2"
    assert [response.headers["X-RateLimit-Remaining"] for response in (first, second, refused)] == ["1", "0", "0"]
    assert 0 < int(second.headers["X-RateLimit-Reset"]) - time.time() <= 5
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "2")
    assert refused.json() == {"error": "Rate limit exceeded", "code": "RATE_LIMIT_EXCEEDED"}
    assert caller.server.executions == {"echo": 2}
    rate = caller.get("/api/users/me/usage-limits").json()["rateLimit"]
    assert rate["authType"] == "api"
    assert rate["sync"].pop("resetAt").endswith("Z")
    assert rate["sync"] == {"isLimited": True, "limit": 2, "remaining": 0}
    assert rate["async"]["limit"] == 2


def test_rate_limit_in_observed_dialect(serve):
    """In the observed dialect a 429 has no headers, and the usage limits have other fields."""
    caller = serve(rate_limit=0.5, dialect="observed")
    first, refused = caller.execute("echo"), caller.execute("echo")
    assert (first.status_code, refused.status_code) == (200, 429)
    assert refused.json() == {"error": "Rate limit exceeded. Please try again later."}
    assert not [name for response in (first, refused) for name in response.headers if name.lower().startswith(("x-ratelimit", "retry"))]
    usage = caller.get("/api/users/me/usage-limits").json()
    assert sorted(usage["rateLimit"]["sync"]) == ["isLimited", "maxBurst", "remaining", "requestsPerMinute", "resetAt"]
    assert usage["rateLimit"]["sync"]["requestsPerMinute"] == 30
    assert sorted(usage["storage"]) == ["limitBytes", "percentUsed", "usedBytes"]


def test_rate_limit_without_retry_after(serve):
    """`retry_after=False` omits the header, and keeps the others."""
    caller = serve(rate_limit=0.5, retry_after=False)
    caller.execute("echo")
    refused = caller.execute("echo")
    assert refused.status_code == 429
    assert "Retry-After" not in refused.headers
    assert refused.headers["X-RateLimit-Remaining"] == "0"


def test_usage_limits_without_limit(serve):
    """An account without limits reports generous ones, so that documented code can divide by them."""
    usage = serve().get("/api/users/me/usage-limits").json()
    assert usage["rateLimit"]["sync"]["remaining"] == usage["rateLimit"]["sync"]["limit"] == 100
    assert usage["usage"] == {"currentPeriodCost": 0.0, "limit": 100.0, "plan": "free"}


def test_bucket_refills_over_time():
    """A token is added after 1/rate seconds, and the bucket never has more than its burst."""
    bucket = TokenBucket(2, 3)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.seconds_to_one(10.0) == 0.5
    assert bucket.seconds_to_reset(10.0) == 1.5
    assert bucket.take(10.5)
    assert not bucket.take(10.5)
    assert bucket.seconds_to_one(11.5) == 0
    assert bucket.remaining(1000.0) == 3


def test_scripted_responses_are_sent_in_order(serve):
    """Each scripted response is sent as often as requested, for any request; then the usual responses follow."""
    caller = serve()
    caller.server.respond_next(status=429, headers={"Retry-After": "7"}, json={"error": "slow down"}, times=2)
    caller.server.respond_next(status=503)
    responses = [caller.execute("echo"), caller.get("/api/users/me/usage-limits", headers={"X-API-Key": "wrong"}), caller.get("/")]
    assert [response.status_code for response in responses] == [429, 429, 503]
    assert responses[1].headers["Retry-After"] == "7"
    assert responses[1].json() == {"error": "slow down"}
    assert responses[1].headers["Content-Type"] == "application/json"
    assert responses[2].content == b""
    assert "Content-Type" not in responses[2].headers
    assert caller.execute("echo").status_code == 200
    assert caller.server.executions == {"echo": 1}


def test_respond_next_body(serve):
    """A body is sent unchanged; a header replaces the usual one."""
    caller = serve()
    caller.server.respond_next(body="<h1>Ü</h1>", headers={"Content-Type": "text/html; charset=utf-8"})
    caller.server.respond_next(body=b"\x00\xff")
    caller.server.respond_next(body="Ü")
    page, data, text = (caller.get("/") for _ in range(3))
    assert (page.status_code, page.text, page.headers["Content-Type"]) == (200, "<h1>Ü</h1>", "text/html; charset=utf-8")
    assert data.content == b"\x00\xff"
    assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert text.text == "Ü"


@pytest.mark.parametrize("events", [None, ["a"]], ids=["body", "events"])
@pytest.mark.parametrize(
    "line",
    [
        "Date: Thu, 01 Jan 1970 00:00:00 GMT",
        "date: yesterday",
        "Server: mine",
        "Content-Type: mine/type",
        "Content-Length: 10",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip",
        "Connection: close",
        "Location: http://[::1/ü",
        "X-Latin: \xe9\x7f",
    ],
)
def test_respond_next_header_is_sent_once(serve, line, events):
    """A scripted header is sent once, unchanged, instead of the usual one and of those that it excludes."""
    server = serve().server
    name, _, value = line.partition(": ")
    server.respond_next(headers={name: value}, events=events, body="0123456789" if events is None else None)
    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    head, _, body = raw(server, request).partition(b"\r\n\r\n")
    names = [sent.partition(b":")[0].lower() for sent in head.split(b"\r\n")[1:]]
    assert line.encode("latin-1") in head.split(b"\r\n")
    assert len(names) == len(set(names))
    assert b"date" in names
    assert not {b"content-length", b"transfer-encoding"} <= set(names)
    content = b"0123456789" if events is None else b"data: a\n\n"
    assert body == (b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if b"chunked" in head else content)


@pytest.mark.parametrize("value", ["\u20ac", "a\r\nB: c", "a\nb"])
def test_respond_next_rejects_header_that_cannot_be_sent(value):
    """A header that is not one line of latin-1 text is rejected at once."""
    with pytest.raises(ValueError, match=r"the header 'X-Custom' must be one line of latin-1 text"):
        RecallServer().respond_next(headers={"X-Custom": value})


def test_respond_next_events(serve):
    """Events are sent as passed: bytes, strings and JSON, with nothing added."""
    caller = serve()
    caller.server.respond_next(events=[{"chunk": "a"}, b"", "[DONE]", b": comment\r\n\r\n"])
    response = caller.execute("echo", {"stream": True})
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.content == b'data: {"chunk":"a"}\n\ndata: [DONE]\n\n: comment\r\n\r\n'


def test_respond_next_path(serve):
    """A script with a path waits for a request to it."""
    caller = serve()
    caller.server.respond_next(json="job", path="/api/jobs/")
    assert caller.execute("echo").json()["output"] == {}
    assert caller.get("/api/jobs/any").json() == "job"
    assert caller.get("/api/jobs/any").status_code == 404


def test_respond_next_without_headers(serve):
    """Headers alone make an empty 200, and null is a JSON body like any other."""
    caller = serve()
    caller.server.respond_next(headers={"X-Custom": "abc"})
    caller.server.respond_next(json=None)
    response = caller.get("/")
    assert (response.status_code, response.headers["X-Custom"], response.content) == (200, "abc", b"")
    assert caller.get("/").content == b"null"


def test_respond_next_delay(serve):
    """A delay alone delays the usual response."""
    caller = serve()
    caller.server.respond_next(delay=0.2)
    started = time.monotonic()
    assert caller.execute("echo", {"a": 1}).json()["output"] == {"a": 1}
    assert time.monotonic() - started >= 0.2


def test_respond_next_drop(serve):
    """A dropped request is recorded, and its connection is closed without a response."""
    caller = serve()
    caller.server.respond_next(drop=True)
    with pytest.raises(requests.exceptions.ConnectionError):
        caller.execute("echo")
    assert len(caller.server.requests) == 1
    caller.server.respond_next(drop=True)
    assert raw(caller.server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""


@pytest.mark.parametrize(
    "settings", [{"events": [{"chunk": "Hel"}]}, {"json": {"a": 1}}, {"body": b"abc", "headers": {"Content-Length": "9"}}]
)
def test_respond_next_cut(serve, settings):
    """The scripted part is sent, then the connection is closed within the response."""
    caller = serve()
    caller.server.respond_next(cut=True, **settings)
    response = raw(caller.server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"HTTP/1.1 200 OK" in head
    if b"Content-Length" in head:
        assert body == b"abc"
    else:
        assert b"Transfer-Encoding: chunked" in head
        assert body
        assert not body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "settings",
    [
        {"json": 1, "body": b""},
        {"body": "", "events": []},
        {"cut": True},
        {"cut": True, "status": 200},
        {"drop": True, "status": 500},
        {"drop": True, "json": {}},
        {"drop": True, "headers": {}},
        {"status": 99},
        {"status": 600},
        {"delay": -1},
        {"delay": float("nan")},
        {"delay": float("inf")},
        {"times": 0},
    ],
)
def test_respond_next_rejects_contradictions(settings):
    """A contradictory script is rejected at once."""
    with pytest.raises(ValueError, match=r"."):
        RecallServer().respond_next(**settings)


def test_respond_next_rejects_value_without_json_form():
    """A value without a JSON form is rejected at once."""
    with pytest.raises(TypeError):
        RecallServer().respond_next(json={1, 2})


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": ""},
        {"api_key": "a b"},
        {"port": -1},
        {"port": 65536},
        {"rate_limit": 0},
        {"rate_limit": float("nan")},
        {"rate_limit": float("inf")},
        {"burst": 5},
        {"burst": 0, "rate_limit": 1},
        {"usage_limit": -1},
        {"usage_limit": float("nan")},
        {"dialect": "klingon"},
    ],
)
def test_server_rejects_arguments_out_of_bounds(settings):
    """Arguments out of bounds are rejected at once, by name."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        RecallServer(**settings)


@pytest.mark.parametrize("settings", [{"api_key": 5}, {"port": "80"}, {"burst": 1.5, "rate_limit": 1}, {"rate_limit": "5"}])
def test_server_rejects_arguments_of_wrong_type(settings):
    """Arguments of a wrong type are rejected at once."""
    with pytest.raises(TypeError):
        RecallServer(**settings)


def test_workflow_decorator_without_parentheses_is_rejected():
    """This common mistake is reported at once."""
    server = RecallServer()
    with pytest.raises(TypeError, match=r'@server\.workflow\("my-id"\)'):

        @server.workflow
        def greet(input):
            raise AssertionError


@pytest.mark.parametrize("workflow_id", ["", ".", ".."])
def test_workflow_id_that_is_no_path_segment_is_rejected(workflow_id):
    """An id that can't be part of a path is rejected."""
    with pytest.raises(ValueError, match="workflow_id"):
        RecallServer().workflow(workflow_id)


def test_workflow_id_with_slash(serve):
    """A quoted id is read as one segment of the path."""
    caller = serve()
    caller.server.workflow("a/b c")(lambda input: "here")
    assert caller.execute("a%2Fb%20c").json()["output"] == "here"
    assert caller.server.requests[0].path == "/api/workflows/a%2Fb%20c/execute"


def test_requests_are_recorded(serve):
    """A request is recorded with its headers, body and connection."""
    caller = serve()
    caller.execute("echo", {"message": "hi"})
    caller.get("/nowhere")
    first, second = caller.server.requests
    assert (first.method, first.path) == ("POST", "/api/workflows/echo/execute")
    assert first.headers["x-api-KEY"] == "test-key"
    assert (first.json, json.loads(first.body)) == ({"message": "hi"}, {"message": "hi"})
    assert (second.method, second.json, second.body) == ("GET", None, b"")
    assert first.connection == second.connection == 1
    with pytest.raises(AttributeError):
        first.method = "PUT"


def test_connections_stay_open(serve, dialect):
    """One session uses one connection for all its calls, errors and streams included, without delays."""
    caller = serve(dialect=dialect)
    took = []
    for _ in range(50):
        started = time.perf_counter()
        assert caller.execute("echo", {"a": 1}).status_code == 200
        took.append(time.perf_counter() - started)
    caller.execute("count", {"stream": True})
    caller.execute("fail")
    caller.get("/nowhere", data=b"a body that nobody reads")
    assert caller.server.connections == 1
    assert sorted(took)[25] < 0.03  # with Nagle's algorithm and delayed acknowledgements it would be 0.04


def test_connections_are_counted(serve):
    """Each connection has its own number."""
    caller = serve()
    with requests.Session() as other:
        for _ in range(2):
            other.get(caller.server.base_url)
            caller.get("/")
    assert caller.server.connections == 2
    assert Counter(request.connection for request in caller.server.requests) == {1: 2, 2: 2}


def test_server_handles_concurrent_requests(serve):
    """Concurrent callers get their own responses, and every run is counted."""
    caller = serve()
    wrong = []

    def call(number):
        with requests.Session() as session:
            session.headers["X-API-Key"] = caller.server.api_key
            for turn in range(10):
                response = session.post(caller.server.base_url + "/api/workflows/echo/execute", json={"n": [number, turn]})
                if response.json()["output"] != {"n": [number, turn]}:
                    wrong.append(response.text)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert caller.server.executions == {"echo": 80}
    assert caller.server.executions["fail"] == 0
    assert len(caller.server.requests) == 80


def test_server_handles_old_http_clients(serve):
    """HTTP/1.0, HEAD, a whole URL as the target, a chunked body, Expect and a broken request line all get a response."""
    server = serve().server
    server.respond_next(events=["a"])
    response = raw(server, b"GET / HTTP/1.0\r\n\r\n")
    assert b"Connection: close" in response
    assert response.endswith(b"\r\n\r\ndata: a\n\n")
    server.respond_next(body="text", times=2)
    assert raw(server, b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").endswith(b"\r\n\r\n")
    assert raw(server, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").endswith(b"text")
    server.respond_next(status=204)
    assert b"Transfer-Encoding" not in raw(server, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    proxied = f"GET {server.base_url}/api/workflows/echo/status HTTP/1.0\r\nX-API-Key: test-key\r\n\r\n"
    assert b'"isDeployed":true' in raw(server, proxied.encode())
    execute = b"POST /api/workflows/echo/execute HTTP/1.1\r\nHost: x\r\nX-API-Key: test-key\r\nConnection: close\r\n"
    assert b'"output":{"a":1}' in raw(server, execute + b'Transfer-Encoding: chunked\r\n\r\n7\r\n{"a":1}\r\n0\r\n\r\n')
    waiting = raw(server, execute + b'Expect: 100-continue\r\nContent-Length: 7\r\n\r\n{"a":1}')
    assert waiting.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert b"400" in raw(server, b"NO SUCH THING AT ALL\r\n\r\n")


def test_incomplete_request_is_dropped(serve, capfd):
    """A client that disconnects within its body affects no other, and nothing is printed."""
    server = serve().server
    for head in (b"Content-Length: 100", b"Transfer-Encoding: chunked"):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\nabc")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
    assert server.requests == []
    assert capfd.readouterr() == ("", "")


def test_server_prints_nothing(serve, capfd):
    """Requests, rejections, failures and broken connections print nothing."""
    caller = serve()
    caller.execute("fail")
    caller.get("/nowhere")
    caller.server.respond_next(drop=True)
    with pytest.raises(requests.exceptions.ConnectionError):
        caller.get("/")
    raw(caller.server, b"rubbish\r\n\r\n")
    caller.server.stop()
    assert capfd.readouterr() == ("", "")


def test_stop_is_prompt():
    """`with` ends at once with an idle connection, an open stream, a delayed response and a running job; no thread remains."""
    before = threading.active_count()
    with RecallServer() as server, requests.Session() as idle, requests.Session() as reader:

        @server.workflow("endless")
        def endless(input):
            while True:
                yield "x"
                time.sleep(0.01)

        idle.headers["X-API-Key"] = reader.headers["X-API-Key"] = server.api_key
        url = server.base_url + "/api/workflows/endless/execute"
        assert idle.post(url, headers={"X-Execution-Mode": "async"}).status_code == 202
        stream = reader.post(url, json={"stream": True}, stream=True)
        next(stream.iter_content(1))
        server.respond_next(delay=60)
        slow = socket.create_connection(("127.0.0.1", server.port))
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while len(server.requests) < 3:
            time.sleep(0.001)
        started = time.monotonic()
        server.stop()
        took = time.monotonic() - started
        stream.close()
        assert slow.recv(100) == b""
        slow.close()
    assert took < 5  # seconds: nobody waits for the delay of a minute
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.001)  # a thread whose connection has just ended takes a moment
    assert threading.active_count() <= before


def test_stop_does_not_wait_for_stuck_workflow():
    """A function that does not end delays the stop by at most half a second."""
    go_on = threading.Event()
    with RecallServer() as server, requests.Session() as session:
        server.workflow("stuck")(lambda input: go_on.wait(30))
        session.headers["X-API-Key"] = server.api_key
        session.post(server.base_url + "/api/workflows/stuck/execute", headers={"X-Execution-Mode": "async"})
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 10  # seconds: far from the workflow's 30
    go_on.set()


def test_server_restarts_on_same_port():
    """A stopped server rejects connections, keeps its records, and starts again on its port."""
    server = RecallServer()
    server.workflow("echo")(lambda input: input)
    with server, requests.Session() as session:
        session.get(server.base_url)
        with pytest.raises(RuntimeError, match="already running"):
            server.start()
        server.stop()
        server.stop()
        url = server.base_url
        with pytest.raises(requests.exceptions.ConnectionError):
            session.get(url)
        server.start()
        assert server.base_url == url
        assert session.get(url).status_code == 404
        assert (server.connections, len(server.requests)) == (2, 2)


def test_unstarted_server_has_no_port():
    """Before its start a server has no port; the error says what to do."""
    with pytest.raises(RuntimeError, match=r"call start\(\) first"):
        _ = RecallServer().base_url
    assert RecallServer(port=8080).port == 8080
    assert RecallServer().connections == 0


def test_start_on_used_port_raises(serve):
    """A port that is in use raises an OSError."""
    taken = RecallServer(port=serve().server.port)
    with pytest.raises(OSError, match=r"."):
        taken.start()


def test_server_listens_on_other_address():
    """IPv6 works, brackets included."""
    try:
        with RecallServer(host="::1") as server, requests.Session() as session:
            assert server.base_url == f"http://[::1]:{server.port}"
            assert session.get(server.base_url).status_code == 404
    except OSError:  # pragma: no cover  # depends on the machine
        pytest.skip("no IPv6 here")


def test_stop_closes_clients_of_server():
    """Its client has the key and the address, accepts settings, and is closed with the server."""
    with RecallServer(api_key="another-key") as server:
        server.workflow("echo")(lambda input: input)
        client = server.client(timeout=7.0)
        assert (client.api_key, client.base_url) == ("another-key", server.base_url)
        assert client.execute_workflow("echo", "hello").output == "hello"
        assert client.execute_workflow("echo", {"a": 1}, stream=True).output == {"a": 1}
        assert server.requests[0].json == {"input": "hello"}


NO_WERKZEUG = 'recall_sdk.testing needs werkzeug: install the extra "testing", in a clone with pip install -e ".[testing]"'


@pytest.fixture
def no_werkzeug(monkeypatch):
    """An environment in which Werkzeug is not installed."""
    monkeypatch.setitem(sys.modules, "werkzeug", None)
    for name in [name for name in sys.modules if name.startswith("recall_sdk.testing.")]:
        monkeypatch.delitem(sys.modules, name)


def test_import_without_werkzeug_says_what_to_install(no_werkzeug):
    """Without Werkzeug the error says what to install."""
    with pytest.raises(ImportError, match=r'needs werkzeug: install the extra "testing"') as raised:
        _ = recall_sdk.testing.RecallServer
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_command_without_werkzeug_says_what_to_install(no_werkzeug, capsys):
    """The command says in one line what to install, without a traceback."""
    assert importlib.import_module("recall_sdk.testing.__main__").main(["--port", "0"]) == 2
    assert capsys.readouterr().err == f"error: {NO_WERKZEUG}\n"


def test_demo_without_werkzeug_says_what_to_install(no_werkzeug, monkeypatch):
    """With a key the import needs no Werkzeug; without one it says what to install."""
    monkeypatch.setenv("RECALL_API_KEY", "a-key-of-my-own")
    assert importlib.import_module("recall_sdk.testing.demo").server is None
    monkeypatch.delitem(sys.modules, "recall_sdk.testing.demo")
    monkeypatch.delenv("RECALL_API_KEY")
    with pytest.raises(ImportError, match=r'needs werkzeug: install the extra "testing"'):
        importlib.import_module("recall_sdk.testing.demo")


def test_testing_exports_documented_names():
    """The package has its public names, and no others."""
    assert recall_sdk.testing.RecordedRequest is server.RecordedRequest
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = recall_sdk.testing.Nonsense


def test_fixture_gives_each_test_a_server(pytester, monkeypatch):
    """The pytest fixture starts a server for each test."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        """
        import requests

        def test_one(recall_server):
            assert requests.get(recall_server.base_url).status_code == 404
            assert len(recall_server.requests) == 1

        def test_two(recall_server):
            assert recall_server.requests == []
        """
    )
    pytester.runpytest_inprocess("-p", "_recall_sdk_pytest").assert_outcomes(passed=2)


@pytest.mark.parametrize("others", ["", "intranet.example"])
def test_fixture_works_behind_proxy(others, pytester, monkeypatch, capsys, ctrl_c):
    """With a proxy in the environment, the fixture and the demo bypass it, and the command says how to."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", others)
    expected = f"{others},127.0.0.1" if others else "127.0.0.1"
    pytester.makepyfile(
        f"""
        import os

        def test_one(recall_server):
            assert recall_server.client().validate_workflow("w") is False
            assert os.environ["no_proxy"] == {expected!r}
        """
    )
    pytester.runpytest_inprocess("-p", "_recall_sdk_pytest").assert_outcomes(passed=1)
    assert "no_proxy" not in os.environ
    code = "import recall_sdk.testing.demo, recall_sdk; recall_sdk.RecallClient().execute_workflow('greet')"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False, timeout=60).returncode == 0
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    assert __main__.main(["--port", "0"]) == 0
    assert f"    export no_proxy={expected}\n" in capsys.readouterr().out


def test_plugin_imports_pytest_alone(tmp_path):
    """A pytest run that does not use the fixture imports no more than pytest, neither before the first conftest.py nor later."""
    print_modules = "import sys\nprint('MODULES', *sorted(sys.modules))\n"
    (tmp_path / "conftest.py").write_text(print_modules, encoding="utf-8")
    (tmp_path / "test_it.py").write_text(f"def test_it():\n    {print_modules.replace(chr(10), '; ')}\n", encoding="utf-8")

    def modules(*arguments):
        """Return the modules that were imported before conftest.py, and those in a test."""
        command = [sys.executable, "-m", "pytest", "-s", *arguments, str(tmp_path), "-c", os.devnull, f"--rootdir={tmp_path}"]
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        run = subprocess.run(command, check=True, timeout=60, env=environment, stdout=subprocess.PIPE, text=True)
        return [set(line.split()) for line in run.stdout.splitlines() if "MODULES" in line]

    (early, late), (early_without, late_without) = modules("-p", "_recall_sdk_pytest"), modules()
    assert "_recall_sdk_pytest" in early
    unwanted = {"recall_sdk", "requests", "urllib3", "werkzeug", "ssl"}
    assert early & unwanted == early_without & unwanted  # on Python 3.8, pytest imports ssl itself
    assert late & unwanted == late_without & unwanted
    assert "recall_sdk" not in late


def test_plugin_is_registered():
    """The plugin is found by its entry point, a module outside the package."""
    found = [point for point in distribution("recall-sdk").entry_points if point.group == "pytest11"]
    assert [(point.name, point.value) for point in found] == [("recall_sdk", "_recall_sdk_pytest")]


def test_command_serves_demonstration_workflows(capsys, ctrl_c):
    """The command prints what to export, serves its demonstrations, and logs each request until Ctrl-C."""
    responses = {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()

    def visit():
        try:
            ask()
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def ask():
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(address):
                break
            time.sleep(0.01)
        with requests.Session() as session:
            session.headers["X-API-Key"] = "a-key"
            for name, body in (
                ("greet", {"name": "Ada"}),
                ("echo", {"input": 1}),
                ("count", {}),
                ("slow", {"seconds": 0}),
                ("fail", {}),
                ("draft", {}),
            ):
                response = session.post(f"http://127.0.0.1:{address[1]}/api/workflows/{name}/execute", json=body)
                responses[name] = (response.status_code, response.json().get("output"))

    visitor = threading.Thread(target=visit)
    visitor.start()
    assert __main__.main(["--port", str(address[1]), "--api-key", "a-key"]) == 0
    visitor.join()
    assert responses == {
        "greet": (200, {"content": "Hello Ada"}),
        "echo": (200, 1),
        "count": (200, {"content": "One, two, three, four, five"}),
        "slow": (200, {"content": "That took 0 s"}),
        "fail": (500, {}),
        "draft": (403, None),
    }
    text = capsys.readouterr().out  # only now: the capture is for one thread
    assert f"\n    export RECALL_API_KEY=a-key\n    export RECALL_BASE_URL=http://127.0.0.1:{address[1]}\n" in text
    assert "no_proxy" not in text
    assert "200  POST /api/workflows/greet/execute" in text
    assert text.endswith("stopped\n")


def test_command_waits_in_slices(monkeypatch):
    """The command waits in short sleeps: on Windows, Ctrl-C does not interrupt the wait for an event."""
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    assert __main__.main(["--port", "0"]) == 0
    assert waited == [1.0] * 3


def test_command_that_cannot_start_exits_with_2(serve, capsys):
    """An invalid setting or a used port ends the command with one line, which says what to do."""
    assert __main__.main(["--port", "0", "--burst", "5"]) == 2
    assert "error: burst" in capsys.readouterr().err
    assert __main__.main(["--port", str(serve().server.port)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: can't listen on 127.0.0.1, port ")
    assert message.endswith("choose another with --port; 0 selects a free one\n")


def test_command_help_lists_workflows(capsys, monkeypatch):
    """--help names the demonstration workflows and every option."""
    monkeypatch.setattr(sys, "argv", ["recall_sdk.testing", "--help"])
    with pytest.raises(SystemExit) as raised:
        runpy.run_path(__main__.__file__, run_name="__main__")
    assert raised.value.code == 0
    text = capsys.readouterr().out
    for word in ("greet", "--port", "--dialect", "--rate-limit", "--burst", "--usage-limit", "--no-retry-after", "--api-key", "--host"):
        assert word in text


@pytest.mark.parametrize("stop", [lambda: pytest.fail("no name"), lambda: sys.exit("no name")])
@pytest.mark.parametrize("mode", ["sync", "stream", "async"])
def test_workflow_that_raises_no_exception(stop, mode, serve):
    """pytest.fail() and sys.exit() in a workflow make the run fail with a reason."""
    place = serve()

    @place.server.workflow("w")
    def w(_input):
        stop()

    client = place.server.client()

    def execute():
        if mode == "async":
            client.wait_for_job(client.execute_workflow("w", async_execution=True), poll_interval=0.01)
        client.execute_workflow("w", stream=mode == "stream")

    with pytest.raises(ExecutionError, match="no name") as caught:
        execute()
    assert "no name" in caught.value.result.error


def test_workflow_rejects_async_function(serve):
    """An async function is rejected by the decorator."""
    server = serve().server

    async def coroutine(_input):
        """Never run."""

    async def generator(_input):
        yield "never run"

    for function in (coroutine, generator):
        with pytest.raises(TypeError, match="the workflow 'w' is an async function: write it with def"):
            server.workflow("w")(function)


@pytest.mark.parametrize("arguments", [[], ["--host", "0.0.0.0"]])
def test_command_ends_on_sigterm(arguments):
    """SIGTERM ends the command like Ctrl-C, and the printed address works, also if it listens on all addresses."""
    command = [sys.executable, "-u", "-m", "recall_sdk.testing", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = []
        while not lines or "RECALL_BASE_URL=" not in lines[-1]:
            lines.append(process.stdout.readline())
        url = lines[-1].strip().partition("=")[2]
        assert url.startswith("http://127.0.0.1:")
        with RecallClient("test-key", url) as client:
            assert client.validate_workflow("greet") is True
        process.terminate()
        assert process.stdout.read().endswith("stopped\n")
        assert process.wait(30) == 0


def test_base_url_of_all_addresses_ipv6():
    """A server on all IPv6 addresses is reached by the loopback address."""
    server = RecallServer(host="::")
    server._port = 8787
    assert server.base_url == "http://[::1]:8787"


def test_bucket_filled_at_intervals():
    """Tokens come all at once at the end of each interval, up to the burst, and the reset is the next such moment."""
    bucket = TokenBucket(10, 40, 2.0)
    assert [bucket.take(100.0) for _ in range(41)] == [True] * 40 + [False]
    assert (bucket.seconds_to_one(101.5), bucket.seconds_to_reset(101.5), bucket.remaining(101.5)) == (0.5, 0.5, 0)
    assert (bucket.remaining(102.0), bucket.seconds_to_one(102.5), bucket.seconds_to_reset(102.5)) == (20, 0.0, 1.5)
    assert bucket.remaining(110.0) == 40


def test_bucket_filled_at_short_intervals():
    """If an interval adds less than one token, the next token comes after several intervals."""
    bucket = TokenBucket(0.25, 1, 2.0)
    assert bucket.take(0.0) is True
    assert bucket.seconds_to_one(1.0) == 3.0


def test_rate_limit_refilled_in_a_lump(serve):
    """A server in the observed dialect refills all at once, sends no hint with a 429, and reports correct usage limits."""
    place = serve(dialect="observed", rate_limit=1, burst=2, refill_interval=60)
    client = place.server.client()
    for _ in range(2):
        client.execute_workflow("echo")
    with pytest.raises(RateLimitError) as caught:
        client.execute_workflow("echo")
    assert (caught.value.retry_after, caught.value.rate_limit) == (None, None)
    limits = client.get_usage_limits().rate_limit["sync"]
    reset = datetime.fromisoformat(limits["resetAt"].replace("Z", "+00:00")).timestamp()
    assert (limits["remaining"], limits["limit"]) == (0, 2)
    assert 50 < reset - time.time() <= 61


def test_observed_dialect_names_its_responses(serve):
    """Each response in the observed dialect has a request id, which errors have, too."""
    client = serve(dialect="observed").server.client()
    ids = set()
    for _ in range(2):
        with pytest.raises(ExecutionError) as caught:
            client.execute_workflow("fail")
        ids.add(caught.value.request_id)
    assert len(ids) == 2
    assert None not in ids


@pytest.mark.parametrize(
    "settings", [{"refill_interval": 1}, {"refill_interval": 0, "rate_limit": 1}, {"refill_interval": inf, "rate_limit": 1}]
)
def test_refill_interval_is_checked(settings):
    """An invalid interval, or one without a limit, is rejected."""
    with pytest.raises(ValueError, match="refill_interval must be seconds"):
        RecallServer(**settings)


class Subserver(RecallServer):
    """A server with a workflow of its own."""

    def greeting(self):
        return self.client().execute_workflow("greet").output


def test_subclass_keeps_its_type():
    """`with` and `start()` return the server itself, whatever its class."""
    with Subserver() as server:
        server.workflow("greet")(lambda _input: "hello")
        assert server.greeting() == "hello"
    started = Subserver().start()
    started.stop()
    assert isinstance(started, Subserver)


USE_A_SERVER = """
from recall_sdk.testing import RecallServer

with RecallServer() as server:
    server.workflow("echo")(lambda input: input)
    client = server.client()
    assert client.execute_workflow("echo", "hello").output == "hello"
    job = client.execute_workflow("echo", "later", async_execution=True)
    assert client.wait_for_job(job, poll_interval=0.01)["output"] == "later"
"""


def test_server_starts_without_daemon_threads(monkeypatch):
    """Where daemon threads are refused, the server uses plain ones, which end with it."""
    before = set(threading.enumerate())
    made = []

    class Refusing(threading.Thread):
        def __init__(self, *args, daemon=None, **settings):
            made.append(daemon)
            if daemon:
                raise RuntimeError("daemon threads are disabled in this (sub)interpreter")
            super().__init__(*args, daemon=daemon, **settings)

    monkeypatch.setattr(threading, "Thread", Refusing)
    exec(USE_A_SERVER, {})
    assert False in made
    assert not [thread for thread in set(threading.enumerate()) - before if not thread.daemon]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="before Python 3.13, subinterpreters have no threads or crash at their end")
def test_server_runs_in_subinterpreter():
    """The server and its client work in a subinterpreter, which refuses daemon threads."""
    pytest.importorskip("_interpreters", reason="this Python has no subinterpreters")
    code = f"""
import sys, _interpreters
failed = _interpreters.exec(_interpreters.create(), {USE_A_SERVER!r})
sys.exit(failed and failed.errdisplay)
"""
    run = subprocess.run([sys.executable, "-c", code], check=False, timeout=60, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr
