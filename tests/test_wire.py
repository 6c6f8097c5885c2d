"""The recorded responses of a running server, replayed byte by byte over real sockets."""

import gzip
import json
from base64 import b64decode
from pathlib import Path

import pytest

from rawserver import LAST_CHUNK, chunk, head
from recall_sdk import (
    AsyncExecutionResult,
    AuthenticationError,
    ExecutionError,
    InvalidRequestError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RecallTimeoutError,
    ServerError,
    StreamedExecutionResult,
    StreamInterruptedError,
    UsageLimitError,
    WorkflowExecutionResult,
    WorkflowStatus,
)

DATA = Path(__file__).parent / "data"
RECORDED = [
    case for name in ("captures", "captures_2026_08", "captures_2026_11") for case in json.loads((DATA / f"{name}.json").read_text("utf-8"))
]


class Case:
    """One recorded exchange."""

    def __init__(self, recorded):
        self.name = recorded["case"]
        self.request = recorded["request"]
        response = recorded["response"]
        self.headers = {name.lower(): value for name, value in response["headers"]}
        self.status = response["status"]
        self.framing = response["framing"]
        self.complete = response["complete"]
        self.head = head(*(f"{name}: {value}" for name, value in response["headers"]), status=f"{response['status']} {response['reason']}")
        if "http_chunks" in response:
            self.chunks = [text.encode() for text in response["http_chunks"]]
        else:
            self.chunks = [b64decode(text) for text in response["http_chunks_base64"]]
        self.kind = self.headers.get("content-type", "").partition(";")[0]
        self.encoded = "http_chunks" not in response

    @property
    def bytes(self):
        """The response as recorded."""
        if self.framing != "chunked":
            return self.head + b"".join(self.chunks)
        return self.head + b"".join(map(chunk, self.chunks)) + (LAST_CHUNK if self.complete else b"")

    @property
    def body(self):
        """The recorded body, parsed."""
        return json.loads(b"".join(self.chunks))

    @property
    def id(self):
        """The id in the recorded path."""
        parts = self.request["path"].strip("/").split("/")
        return parts[2] if len(parts) > 2 else ""

    @property
    def sent(self):
        """The recorded request's body, parsed; empty if it is not a JSON object."""
        try:
            body = json.loads(self.request["body"] or "{}")
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}

    @property
    def is_async(self):
        """Whether the run was queued."""
        return dict(self.request["headers"]).get("X-Execution-Mode") == "async"

    @property
    def request_id(self):
        """The server's id of its response."""
        return self.headers.get("x-request-id")

    def ask(self, client):
        """Make the call of the recorded request."""
        path = self.request["path"]
        if path.endswith("/usage-limits"):
            return client.get_usage_limits()
        if path.startswith("/api/jobs/"):
            return client.get_job_status(self.id)
        if path.endswith("/status"):
            return client.get_workflow_status(self.id)
        sent = dict(self.sent)
        selected = sent.pop("selectedOutputs", None)
        stream = sent.get("stream") is True and not self.is_async
        if stream:
            del sent["stream"]
        return client.execute_workflow(self.id, sent, stream=stream, selected_outputs=selected, async_execution=self.is_async)


CASES = {case.name: case for case in map(Case, RECORDED)}


def those(condition):
    """Return the names of the cases that meet a condition."""
    return [name for name, case in CASES.items() if condition(case)]


@pytest.fixture
def replay(serve, connect):
    """Replay cases to a client, one per request."""

    def start(*names):
        left = list(names)

        def handler(connection):
            while True:
                connection.request()
                case = CASES[left.pop(0) if len(left) > 1 else left[0]]
                connection.send(case.bytes)
                if case.framing == "until-close" or not case.complete:
                    return

        server = serve(handler)
        client = connect(server)
        client.server = server
        return client

    return start


# --------------------------------------------------------------------------------------------------------------- executions

BARE = {
    "40-response-block-201": {"ok": True, "echo": "yo", "list": [1, 2]},
    "41-response-block-200": {"answer": 42},
    "45-response-block-list": [1, 2, 3],
    "400-resp-201": {"made": True},
    "400-resp-list": [1, 2, 3],
    **{name: {"a": 1} for name in ("820-resp-octet", "820-resp-cookie", "820-resp-conn", "820-resp-unihdr")},
    "820-resp-charset": {"a": "é"},
    "820-resp-err200": {"error": "in a 200"},
    "820-resp-s205": {"data": {"n": 205}, "note": "own"},
}
"""Responses of a workflow's own response block: no envelope."""

BADLY_ENCODED = "820-resp-gzip"
"""A response block that claims an encoding that its body does not have."""

PAUSED = ("145-hitl-sync", "914-sync-resume-second-pause")
"""Plain runs that wait for a person."""

RESUMED = "910-job-resume"
"""A queued run in response to a request that the SDK does not make."""

RESPONSE_BLOCK_LIKE_AN_ENVELOPE = "44-response-block-successfalse"
CANCELLED = ("560-sync-cancelled", "n560-sync-cancelled")
NO_REASON = "the server gave no reason; the run may have been cancelled"

OTHER_ENDPOINTS = (
    *("552-cancel", "563-cancel-stream", "564-cancel-finished", "736-waitasync-cancel", "741-noredis-cancel"),
    *("745-noredis-cancel-sync", "n561-cancel-sync", "558-execution-status", "731-hitl-execution", "n378-options"),
)
"""Responses of endpoints that the SDK does not call; for us they are a workflow's own responses, without an envelope."""


def is_run(case):
    """Whether a case is a successful plain run."""
    own = case.name in (*BARE, *CANCELLED, *PAUSED, RESPONSE_BLOCK_LIKE_AN_ENVELOPE, BADLY_ENCODED)
    return case.request["path"].endswith("/execute") and case.status in (200, 201) and case.kind == "application/json" and not own


@pytest.mark.parametrize("name", those(lambda case: is_run(case) and not case.encoded))
def test_execute_run(name, replay):
    """The output is the workflow's, and the server's data about the run is in the metadata."""
    case = CASES[name]
    client = replay(name)
    result = case.ask(client)
    assert isinstance(result, WorkflowExecutionResult)
    assert result.success is True
    assert result.error is None
    assert result.output == case.body["output"]
    assert result.metadata == {**case.body["metadata"], "executionId": case.body["executionId"]}
    assert result.total_duration == case.body["metadata"]["duration"]
    (request,) = client.server.requests
    assert (request.method, request.path) == ("POST", case.request["path"])
    assert request.json == case.sent


@pytest.mark.parametrize("name", those(lambda case: is_run(case) and case.encoded))
def test_execute_gzipped(name, replay):
    """A compressed response has the same result as a plain one."""
    case = CASES[name]
    body = json.loads(gzip.decompress(b"".join(case.chunks)))
    result = case.ask(replay(name))
    assert (result.success, result.output) == (True, body["output"])


@pytest.mark.parametrize("name", CANCELLED)
def test_execute_cancelled_run(name, replay):
    """A run that was cancelled elsewhere has success=False, and an error that claims only what is known."""
    result = CASES[name].ask(replay(name))
    assert (result.success, result.output, result.error) == (False, {}, NO_REASON)


@pytest.mark.parametrize("name", PAUSED)
def test_execute_paused_run(name, replay):
    """A plain run that waits for a person is a success whose metadata says that it is paused."""
    result = replay(name).execute_workflow("w")
    assert result.success is True
    assert result.output == CASES[name].body["output"]
    assert result.output["data"]["_resume"]["apiUrl"].startswith("http://127.0.0.1:")
    assert result.metadata["status"] == "paused"


def test_execute_badly_encoded(replay):
    """A body that can't be decoded is an InvalidResponseError, and the workflow ran."""
    with pytest.raises(InvalidResponseError) as caught:
        CASES[BADLY_ENCODED].ask(replay(BADLY_ENCODED))
    assert caught.value.may_have_executed is True


@pytest.mark.parametrize("name", OTHER_ENDPOINTS)
def test_execute_foreign_response(name, replay):
    """A 2xx response without an envelope is the output."""
    case = CASES[name]
    body = case.body if b"".join(case.chunks) else None
    assert replay(name).execute_workflow("w") == WorkflowExecutionResult(success=True, output=body)


@pytest.mark.parametrize("name", BARE)
def test_execute_response_block(name, replay):
    """A response without an envelope is the output as a whole."""
    assert CASES[name].ask(replay(name)) == WorkflowExecutionResult(success=True, output=BARE[name])


def test_execute_response_block_like_envelope(replay):
    """An object with success and output is treated as the envelope."""
    name = RESPONSE_BLOCK_LIKE_AN_ENVELOPE
    assert CASES[name].ask(replay(name)) == WorkflowExecutionResult(success=False, output="shadow", error=NO_REASON)


@pytest.mark.parametrize("name", those(lambda case: case.status == 202))
def test_execute_queued(name, replay):
    """A queued run is returned as documented, also without async_execution."""
    case = CASES[name]
    client = replay(name)
    ticket = client.execute_workflow("w") if name == RESUMED else case.ask(client)
    assert ticket == AsyncExecutionResult(True, case.body["jobId"], "queued", "", {"status": case.body["statusUrl"]})
    if name != RESUMED:
        assert client.server.requests[0].headers["x-execution-mode"] == "async"


# ------------------------------------------------------------------------------------------------------------------ streams

TEXT = 'Hello from the fake model.\nSecond line "quoted" end'
COUNTED = "One, two, three, four, five"
COUNTED_SLOWLY = "One, two, three, four, five, six, seven, eight"
STREAMS = {
    "401-resp-stream": (
        "",
        {"data": {"made": True}, "status": 201, "headers": {"Content-Type": "application/json", "X-Custom": "yes"}},
    ),
    **dict.fromkeys(("450-stream-agent", "468-stream-think-header", "720-tool-loop", "n450-stream-agent"), (COUNTED, {})),
    **dict.fromkeys(("451-stream-slow", "453-stream-gzip", "n453-stream-gzip"), (COUNTED_SLOWLY, {})),
    "456-stream-functions": (
        "",
        {
            "5b647e81-dcfa-504e-9f89-d1eff4e007e0": {"result": {"a": 1}},
            "91b0624a-269b-50fa-ad0f-31924343bc74": {"result.b": [1, 2]},
        },
    ),
    "458-stream-two-agents": (COUNTED + "\n\nGrüße 世界 😀\u2028line end", {}),
    **dict.fromkeys(("478-stream-wait2", "n478-stream-wait2"), ("", {"result": {"done": True}, "stdout": ""})),
    "486-stream-wait-async": ("", {"waitDuration": 60000, "resumeAt": "2026-11-27T03:02:31.908Z"}),
    "47-response-block-stream": (
        "",
        {
            "data": {"ok": True, "echo": "yo", "list": [1, 2]},
            "status": 201,
            "headers": {"Content-Type": "application/json", "X-Custom": "abc"},
        },
    ),
    "60-stream-agent-selected": (TEXT, {}),
    "62-stream-plain-selected": (
        "",
        {
            "4604d172-6549-41ab-aa86-dbd5ea21ae21": {"result": "alpha text"},
            "e81f2f57-ee00-4950-a434-d38593aaf252": {"result": {"x": 1, "y": "two\nlines"}, "result.x": 1, "stdout": ""},
        },
    ),
    "63-stream-plain-no-selected": ("", {"result": {"x": 1, "y": "two\nlines"}, "stdout": ""}),
    "65-stream-selected-multi-same-block": (TEXT, {}),
    "66-stream-agent-then-fn": (TEXT, {"62221e94-a2ff-4b3b-afa5-a0cbf60b6e27": {"result": {"len": 7}}}),
    "71b-stream-upstream-error-chunk": ("Hello from the fake", {}),
    "73-stream-unknown-selected": ("", {}),
    "74-stream-selected-missing-dot": ("", {}),
    "76-stream-unicode": ("Zoë 🎉日本\u2028sep ok", {}),
    "77-stream-header": (TEXT, {}),
    "79-stream-slow-gzip": (TEXT, {}),
    "83-stream-echo-only": ("", {"message": "x"}),
    "831-stream-loop": ("\n\n".join(["t0 t1 t2 t3 t4 "] * 5), None),
    "833-stream-hitl-agent": ("t0 t1 t2 t3 t4 ", None),
    "835-stream-resp": ("t0 t1 t2 t3 t4 ", {}),
    "220-stream-40s-silence": ("", {"ae7432cb-2304-4daf-a31c-af51e1776912": {"result": "done"}}),
}
"""The text and output of the complete streams."""

SOCKET_CLOSED = (
    "Agent 1: The socket connection was closed unexpectedly. For more information, pass `verbose: true` in the second argument to fetch()"
)
FAILED_STREAMS = {
    "68-stream-fails-after-agent": (TEXT, 'Boom: Line 1: `throw new Error("boom after stream")` - boom after stream'),
    "69-stream-fails-no-selected": ("", 'Boom: Line 1: `throw new Error("boom at run time")` - boom at run time'),
    "191-timeout-stream": ("", "Execution timed out after 2 seconds"),
    "461-stream-throws": ("", 'Boom: Line 1: `throw new Error("no luck today")` - no luck today'),
    "464-stream-cut": (
        "One, two, three",
        SOCKET_CLOSED,
    ),
    "622-timeout-stream-agent": ("One, two, three, four", "Execution timed out after 2 seconds"),
    "693-selected-too-large2": ("", "Selected output is too large to inline; select a nested field or use pagination/preview."),
}
"""The text and the server's reason of the streams of failed runs."""

BROKEN_STREAMS = {"71-stream-upstream-breaks": "Hello", "800-stream-100k": "t0 t1 t2 "}
"""The text of the streams without an end: one whose connection broke, and one that was shortened for the record."""

CANCELLED_STREAM = "562-stream-cancelled"
RESET_STREAM = "721-tool-loop-header"


@pytest.mark.parametrize("name", STREAMS)
def test_stream_text_and_result(name, replay):
    """A stream yields its text as it arrives, one done event, and the result."""
    case = CASES[name]
    text, output = STREAMS[name]
    if output is None:
        output = json.loads(case.chunks[-2][len("data: ") :])["data"]["output"]
    client = replay(name)
    with client.stream_workflow(case.id) as stream:
        events = list(stream)
    assert "".join(event.chunk for event in events) == text
    assert [event.type for event in events].count("done") == 1
    assert stream.result.success is True
    assert stream.result.output == output
    assert "".join(stream.result.text_by_block.values()) == stream.result.text == text
    result = client.execute_workflow(case.id, stream=True)
    assert result == stream.result
    assert isinstance(result, StreamedExecutionResult)
    assert client.server.connections == 1


def test_stream_block_error(replay):
    """A failed block is an event among the others."""
    events = list(replay("71b-stream-upstream-error-chunk").stream_workflow("w"))
    (failed,) = [event for event in events if event.type == "block_error"]
    assert failed.block_id == "d5f5d5c9-f77e-4e9e-a2d6-e48f9fdddd4b"
    assert failed.data["error"] == "model crashed mid stream"


@pytest.mark.parametrize("name", FAILED_STREAMS)
def test_stream_failed_run(name, replay):
    """A run that fails in the middle raises, with the text so far."""
    text, words = FAILED_STREAMS[name]
    with pytest.raises(ExecutionError) as caught:
        list(replay(name).stream_workflow("w"))
    assert words in str(caught.value)
    assert caught.value.result.text == text
    assert caught.value.result.error == words


@pytest.mark.parametrize("name", BROKEN_STREAMS)
def test_stream_cut(name, replay):
    """A recorded stream without an end is reported as cut."""
    with pytest.raises(StreamInterruptedError) as caught:
        list(replay(name).stream_workflow("w"))
    assert caught.value.partial.text == BROKEN_STREAMS[name]


def test_stream_cancelled(replay):
    """A stream that ends without success or reason has such a result, with its text."""
    result = replay(CANCELLED_STREAM).execute_workflow("w", stream=True)
    assert (result.success, result.output, result.error, result.text) == (False, {}, NO_REASON, "tick tick tick tick ")


def test_stream_chunk_reset(replay):
    """Retracted text is a separate event, and is in no result."""
    with replay(RESET_STREAM).stream_workflow("w") as stream:
        events = list(stream)
    reset = [event.type for event in events].index("chunk_reset")
    assert "".join(event.chunk for event in events[:reset]).startswith("Let me look that")
    assert stream.result.text == COUNTED
    assert list(stream.result.text_by_block.values()) == [COUNTED]


def test_stream_paused(replay):
    """A run that waits for a person or a time is a success whose metadata says that it is paused."""
    result = replay("486-stream-wait-async").execute_workflow("w", stream=True)
    assert (result.success, result.metadata) == (True, {"status": "paused"})


# ------------------------------------------------------------------------------------------------------------------- errors

CONFLICT = "EXECUTION_ID_CONFLICT"
ERRORS = {
    "10-execute-bad-control-type": (InvalidRequestError, "INVALID_REQUEST", None, "stream: Expected boolean, received string", False),
    "11-execute-invalid-key": (AuthenticationError, "UNAUTHORIZED", None, "Invalid API key", False),
    "13-execute-bearer-key": (AuthenticationError, "UNAUTHORIZED", None, "Unauthorized", False),
    "14-execute-unknown-workflow": (NotFoundError, "NOT_FOUND", None, "Workflow not found", False),
    "16-execute-undeployed": (PermissionDeniedError, "FORBIDDEN", None, "Workflow is not deployed", False),
    "17-execute-runtime-failure": (ExecutionError, "EXECUTION_ERROR", None, "boom at run time", True),
    "19-execute-no-permission": (PermissionDeniedError, "FORBIDDEN", None, "Access denied to read this workflow", False),
    "20-execute-wrong-workspace-key": (PermissionDeniedError, "FORBIDDEN", None, "Access denied to read this workflow", False),
    "22-execute-deployed-flag-but-no-version": (InvalidRequestError, "INVALID_REQUEST", None, "has no active deployment", False),
    "26-execute-draft-forbidden": (InvalidRequestError, "INVALID_REQUEST", None, "cannot execute draft workflow state", False),
    "42-response-block-422": (InvalidRequestError, "E_CUSTOM", "E_CUSTOM", "not acceptable", True),
    "55-files-url-unreachable": (InvalidRequestError, "INVALID_REQUEST", None, "Failed to upload file: a.txt", False),
    "80-stream-undeployed": (PermissionDeniedError, "FORBIDDEN", None, "Workflow is not deployed", False),
    "99-async-undeployed": (PermissionDeniedError, "FORBIDDEN", None, "Workflow is not deployed", False),
    "100-async-bad-key": (AuthenticationError, "UNAUTHORIZED", None, "Invalid API key", False),
    "108-job-bad-key": (AuthenticationError, "UNAUTHORIZED", "INVALID_API_KEY", "Invalid API key", False),
    "109-job-no-key": (AuthenticationError, "UNAUTHORIZED", "UNAUTHORIZED", "Unauthorized", False),
    "111-job-other-workspace-key": (PermissionDeniedError, "ACCESS_DENIED", "ACCESS_DENIED", "Access denied", False),
    "124-status-bad-key": (AuthenticationError, "UNAUTHORIZED", "INVALID_API_KEY", "Invalid API key", False),
    "125-status-no-key": (AuthenticationError, "UNAUTHORIZED", "UNAUTHORIZED", "Unauthorized", False),
    "127-status-unknown-bad-key": (NotFoundError, "WORKFLOW_NOT_FOUND", "WORKFLOW_NOT_FOUND", "Workflow not found", False),
    "132-usage-limits-bad-key": (AuthenticationError, "UNAUTHORIZED", "AUTHENTICATION_REQUIRED", "Authentication required", False),
    "133-usage-limits-no-key": (AuthenticationError, "UNAUTHORIZED", "AUTHENTICATION_REQUIRED", "Authentication required", False),
    "160-ratelimit-5": (RateLimitError, "RATE_LIMIT_EXCEEDED", None, "Rate limit exceeded", False),
    "161-ratelimit-stream": (RateLimitError, "RATE_LIMIT_EXCEEDED", None, "Rate limit exceeded", False),
    "164-ratelimit-job": (NotFoundError, "TASK_NOT_FOUND", "TASK_NOT_FOUND", "Task not found", False),
    "171-admission-second": (RateLimitError, "RATE_LIMIT_EXCEEDED", None, "Server is at capacity", False),
    "173-admission-async": (RateLimitError, "RATE_LIMIT_EXCEEDED", None, "Server is at capacity", False),
    "180-usage-exceeded": (UsageLimitError, "USAGE_LIMIT_EXCEEDED", None, "99.50$ used of 5.00$ limit", False),
    "182-usage-exceeded-async": (UsageLimitError, "USAGE_LIMIT_EXCEEDED", None, "99.50$ used of 5.00$ limit", False),
    "190-timeout-sync": (RecallTimeoutError, "TIMEOUT", None, "Execution timed out after 2 seconds", True),
    "205-workflow-id-with-slash": (NotFoundError, "NOT_FOUND", None, "HTML page", False),
    "310-malformed-json": (InvalidRequestError, "INVALID_REQUEST", None, "Invalid JSON in request body", False),
    "313-json-list": (InvalidRequestError, "INVALID_REQUEST", None, "expected object, received array", False),
    "315-bad-control": (InvalidRequestError, "INVALID_REQUEST", None, "stream: Invalid input: expected boolean", False),
    "328-novers": (InvalidRequestError, "INVALID_REQUEST", None, "has no active deployment", False),
    "334-get": (InvalidRequestError, "INVALID_REQUEST", None, "HTTP 405", False),
    "339-triggertype": (InvalidRequestError, "INVALID_REQUEST", None, "External callers cannot override triggerType", False),
    "346-timeout-header-sync": (InvalidRequestError, "INVALID_REQUEST", None, "supported only for async runs", False),
    "349-reserved-isClientSession": (InvalidRequestError, "INVALID_REQUEST", None, "cannot set isClientSession", False),
    "351-reserved-base64MaxBytes": (InvalidRequestError, "INVALID_REQUEST", None, "base64MaxBytes: Invalid input", False),
    "352-includeThinking": (InvalidRequestError, "INVALID_REQUEST", None, "X-Sim-Stream-Protocol", False),
    "355-via": (InvalidRequestError, "INVALID_REQUEST", None, "Maximum workflow call chain depth", True),
    "431-status-nul": (InvalidRequestError, "INVALID_REQUEST", None, "Value cannot contain a NUL character", False),
    "517-async-selected": (InvalidRequestError, "INVALID_REQUEST", None, "Async execution does not support", False),
    "526-async-base64": (InvalidRequestError, "INVALID_REQUEST", None, "Async execution does not support", False),
    "660-oversize": (InvalidRequestError, "INVALID_REQUEST", None, "exceeds maximum size", False),
    "733-hitl-resume-again": (InvalidRequestError, "INVALID_REQUEST", None, "Paused execution is not resumable", True),
    "748-long-execution-id": (InvalidRequestError, "INVALID_REQUEST", None, "Execution ID too long", False),
    "n334-get": (InvalidRequestError, "INVALID_REQUEST", None, "HTTP 405", False),
    "400-resp-422": (InvalidRequestError, "X", "X", "unprocessable", True),
    "342-executionId-body-again": (InvalidRequestError, CONFLICT, CONFLICT, "an executionId that was used before", True),
    "344-execution-id-header-again": (InvalidRequestError, CONFLICT, CONFLICT, "an executionId that was used before", True),
    "524-async-execution-id-again": (InvalidRequestError, CONFLICT, CONFLICT, "an executionId that was used before", True),
    "747-same-id-1": (InvalidRequestError, CONFLICT, CONFLICT, "an executionId that was used before", True),
    "752-429-same-id": (InvalidRequestError, CONFLICT, CONFLICT, "an executionId that was used before", True),
    "320-invalid-key": (AuthenticationError, "UNAUTHORIZED", None, "Invalid API key", False),
    "325-unknown-bad-key": (AuthenticationError, "UNAUTHORIZED", None, "Invalid API key", False),
    "333-public-bad-key": (AuthenticationError, "UNAUTHORIZED", None, "Invalid API key", False),
    "424-status-bad-key": (AuthenticationError, "UNAUTHORIZED", None, "Unauthorized", False),
    "441-usage-bad": (AuthenticationError, "UNAUTHORIZED", "AUTHENTICATION_REQUIRED", "Authentication required", False),
    "541-job-bad-key": (AuthenticationError, "UNAUTHORIZED", "INVALID_API_KEY", "Invalid API key", False),
    "701-db-down": (AuthenticationError, "UNAUTHORIZED", None, "Invalid API key", False),
    "705-db-down-job": (AuthenticationError, "UNAUTHORIZED", "INVALID_API_KEY", "Invalid API key", False),
    "327-undeployed": (PermissionDeniedError, "FORBIDDEN", None, "deploy it in Recall first", False),
    "354-parentWorkspaceId": (PermissionDeniedError, "FORBIDDEN", None, "belongs to a different workspace", False),
    "473-stream-undeployed": (PermissionDeniedError, "FORBIDDEN", None, "Workflow is not deployed", False),
    "543-job-stranger": (PermissionDeniedError, "ACCESS_DENIED", "ACCESS_DENIED", "Access denied", False),
    "347-reserved-startBlockId": (ExecutionError, "EXECUTION_ERROR", None, "Trigger block not found: x", True),
    "361-throws": (ExecutionError, "EXECUTION_ERROR", None, "no luck today", True),
    "362-badref": (ExecutionError, "EXECUTION_ERROR", None, "Available fields: result, stdout", True),
    "364-agent-fail": (ExecutionError, "EXECUTION_ERROR", None, "the model is on fire", True),
    "400-resp-500": (ExecutionError, "EXECUTION_ERROR", "OWN", "own 500", True),
    "650-hosted-key-missing": (ExecutionError, "EXECUTION_ERROR", None, "No hosted keys configured for exa", True),
    "n400-resp-204": (ExecutionError, "EXECUTION_ERROR", None, "Invalid response status code 204", True),
    "374-unknown-route": (NotFoundError, "NOT_FOUND", None, "something in front of the API responded", False),
    "556-cancel-unknown": (NotFoundError, "NOT_FOUND", None, "Execution not found", False),
    "423-status-unknown": (NotFoundError, "WORKFLOW_NOT_FOUND", "WORKFLOW_NOT_FOUND", "Workflow not found", False),
    "427-status-stranger": (NotFoundError, "WORKFLOW_NOT_FOUND", "WORKFLOW_NOT_FOUND", "Workflow not found", False),
    "540-job-unknown": (NotFoundError, "TASK_NOT_FOUND", "TASK_NOT_FOUND", "Task not found", False),
    "400-resp-429": (RateLimitError, "RATE_LIMIT_EXCEEDED", None, "my own limit", False),
    "600-ratelimit-4": (RateLimitError, "RATE_LIMIT_EXCEEDED", None, "Rate limit exceeded", False),
    "605-ratelimit-async-0": (RateLimitError, "RATE_LIMIT_EXCEEDED", None, "Rate limit exceeded", False),
    "611-admission-second": (RateLimitError, "RATE_LIMIT_EXCEEDED", "ADMISSION_GATE_CAPACITY", "Server is at capacity", False),
    "636-concurrency-second": (RateLimitError, "RATE_LIMIT_EXCEEDED", None, "Too many concurrent executions", False),
    "751-429-with-id": (RateLimitError, "RATE_LIMIT_EXCEEDED", None, "Rate limit exceeded", False),
    "620-timeout-sync": (RecallTimeoutError, "TIMEOUT", None, "Execution timed out after 2 seconds", True),
    "804-archived-ws": (NotFoundError, "NOT_FOUND", None, "Workflow not found", False),
    "806-personal-denied-status": (
        *(PermissionDeniedError, "PERSONAL_API_KEYS_ARE_NOT_ALLOWED_FOR_THIS_WORKSPACE"),
        *("PERSONAL_API_KEYS_ARE_NOT_ALLOWED_FOR_THIS_WORKSPACE", "Personal API keys are not allowed for this workspace", False),
    ),
    "810-empty-workflow": (ExecutionError, "EXECUTION_ERROR", None, "No start block found. Add a start block", True),
    "812-child-fail": (ExecutionError, "EXECUTION_ERROR", None, 'Child: "fail" failed: Fail: Line 1', True),
    "820-resp-problem": (InvalidRequestError, "INVALID_REQUEST", None, "no: bad thing (HTTP 422)", True),
    "820-resp-errors": (InvalidRequestError, "INVALID_REQUEST", None, "one; two (HTTP 400)", False),
    "820-resp-retryafter503": (ExecutionError, "EXECUTION_ERROR", None, "the workflow's own response: ", True),
    "820-resp-s300": (InvalidResponseError, "INVALID_RESPONSE", None, "HTTP 300", True),
    "820-resp-s410": (ExecutionError, "EXECUTION_ERROR", None, "the workflow's own response: ", True),
    "820-resp-s508": (ExecutionError, "EXECUTION_ERROR", None, "the workflow's own response: ", True),
    "820-resp-s599": (ExecutionError, "EXECUTION_ERROR", None, "the workflow's own response: ", True),
    "820-resp-envfalse400": (ExecutionError, "EXECUTION_ERROR", None, "the workflow failed: mine", True),
    "820-resp-env429": (RateLimitError, "RATE_LIMIT_EXCEEDED", None, "mine", False),
    "892-blocked": (UsageLimitError, "USAGE_LIMIT_EXCEEDED", None, "Billing issue detected", False),
    "900-concurrency-v1": (RateLimitError, "RATE_LIMIT_EXCEEDED", None, "Too many concurrent executions are in progress", False),
    "630-usage-exceeded": (UsageLimitError, "USAGE_LIMIT_EXCEEDED", None, "Usage limit exceeded", False),
    "640-redis-down": (ServerError, "SERVER_ERROR", None, "Usage admission is temporarily unavailable", True),
}
"""For each rejection: class, code, the server's code, its reason, and whether the workflow may have run."""


JSON_TYPES = ("application/json", "application/problem+json")


@pytest.mark.parametrize("name", ["820-resp-s410", "820-resp-s508", "820-resp-s599", "820-resp-retryafter503"])
def test_execute_own_response_with_error_status(name, replay):
    """A response block's own JSON is the output of a run, which is never sent again."""
    client = replay(name)
    with pytest.raises(ExecutionError) as caught:
        client.execute_with_retry("w", initial_delay=0.0)
    assert caught.value.result.output == CASES[name].body
    assert len(client.server.requests) == 1


@pytest.mark.parametrize("name", ERRORS)
def test_execute_rejected(name, replay):
    """Each rejection is an error with the server's reason, the documented code, and the data of the run."""
    case = CASES[name]
    kind, code, server_code, words, may_have_executed = ERRORS[name]
    with pytest.raises(kind) as caught:
        case.ask(replay(name))
    error = caught.value
    assert type(error) is kind
    assert error.request_id == case.request_id
    assert words in str(error)
    assert "\n" not in str(error)
    assert (error.code, error.server_code, error.status, error.may_have_executed) == (code, server_code, case.status, may_have_executed)
    assert error.body == (case.body if case.kind in JSON_TYPES else b"".join(case.chunks).decode() or None)


@pytest.mark.parametrize(
    "name",
    [
        *("17-execute-runtime-failure", "190-timeout-sync", "361-throws", "362-badref", "364-agent-fail"),
        *("620-timeout-sync", "650-hosted-key-missing"),
    ],
)
def test_execute_failed_run_has_result(name, replay):
    """The server's data about a failed run is kept."""
    with pytest.raises((ExecutionError, RecallTimeoutError)) as caught:
        CASES[name].ask(replay(name))
    body = CASES[name].body
    metadata = body["metadata"]
    result = WorkflowExecutionResult(False, body["output"], body["error"], metadata=metadata, total_duration=metadata["duration"])
    assert caught.value.result == result


@pytest.mark.parametrize("name", ["171-admission-second", "173-admission-async", "611-admission-second"])
def test_execute_retry_after_in_body(name, replay):
    """A Retry-After is in the error and in the rate limit."""
    client = replay(name)
    with pytest.raises(RateLimitError) as caught:
        CASES[name].ask(client)
    assert caught.value.retry_after == 5.0
    info = client.get_rate_limit_info()
    assert info == caught.value.rate_limit
    assert (info.limit, info.remaining, info.retry_after) == (0, 0, 5)


@pytest.mark.parametrize("name", ["160-ratelimit-5", "600-ratelimit-4", "636-concurrency-second", "900-concurrency-v1"])
def test_rate_limit_without_headers(name, replay):
    """A 429 without limits has no rate limit."""
    client = replay(name)
    with pytest.raises(RateLimitError) as caught:
        client.execute_workflow("w")
    assert (caught.value.retry_after, caught.value.rate_limit, client.get_rate_limit_info()) == (None, None, None)


# ---------------------------------------------------------------------------------------------------------------- read calls

STATUSES = {
    "420-status": WorkflowStatus(True, "2026-11-27T02:56:13.848Z", needs_redeployment=False),
    "421-status-undeployed": WorkflowStatus(False, None, needs_redeployment=False),
    "604-ratelimit-status": WorkflowStatus(True, "2026-11-27T02:56:13.848Z", needs_redeployment=False),
    "120-status-deployed": WorkflowStatus(True, "2026-11-23T21:20:32.651Z", needs_redeployment=False),
    "121-status-undeployed": WorkflowStatus(False, None, needs_redeployment=False),
    "122-status-drift": WorkflowStatus(True, "2026-11-23T21:20:32.690Z", needs_redeployment=True),
}


@pytest.mark.parametrize("name", STATUSES)
def test_workflow_status(name, replay):
    """A workflow's status in the documented form, and the result of validate_workflow."""
    client = replay(name)
    assert CASES[name].ask(client) == STATUSES[name]
    assert client.validate_workflow("w") is STATUSES[name].is_deployed


@pytest.mark.parametrize("name", those(lambda case: case.request["path"].endswith("/usage-limits") and case.status == 200))
def test_usage_limits(name, replay):
    """The limit is filled in from the server's field, and nothing is lost."""
    body = CASES[name].body
    limits = CASES[name].ask(replay(name))
    assert limits.success is True
    assert limits.usage == body["usage"]
    assert limits.rate_limit["authType"] == "api"
    for kind in ("sync", "async"):
        assert limits.rate_limit[kind] == {**body["rateLimit"][kind], "limit": body["rateLimit"][kind]["maxBurst"]}


JOBS = {
    "91-async-ok-poll-00": ("completed", {"message": "hi"}, None),
    "93-async-wait-poll-00": ("processing", None, None),
    "93-async-wait-poll-01": ("processing", None, None),
    "93-async-wait-poll-03": ("completed", {"status": "completed", "waitDuration": 3000}, None),
    "95-async-fail-poll-00": ("failed", None, 'Boom: Line 1: `throw new Error("boom at run time")` - boom at run time'),
    "97-async-response-poll-00": (
        "completed",
        {
            "data": {"ok": True, "echo": "hi", "list": [1, 2]},
            "status": 201,
            "headers": {"X-Custom": "abc", "Content-Type": "application/json"},
        },
        None,
    ),
    "106-async-files-poll-00": (
        "completed",
        {"files": [{"data": "data:text/plain;base64,aGVsbG8gZmlsZQ==", "mime": "text/plain", "name": "a.txt", "type": "file"}]},
        None,
    ),
    "112-job-workspace-key": ("completed", {"message": "hi"}, None),
    "194-timeout-async-job": ("failed", {}, "the run did not succeed; the server does not say why"),
    "501-async-poll-00": ("processing", None, None),
    "501-async-poll-01": ("completed", {"result": {"message": "hello"}, "stdout": ""}, None),
    "503-async-wait-poll-00": ("processing", None, None),
    "503-async-wait-poll-01": ("processing", None, None),
    "503-async-wait-poll-02": ("completed", {"result": {"done": True}, "stdout": ""}, None),
    "505-async-fail-poll-00": ("failed", None, 'Boom: Line 1: `throw new Error("no luck today")` - no luck today'),
    "509-async-resp-poll-00": (
        "completed",
        {"data": {"made": True}, "status": 201, "headers": {"X-Custom": "yes", "Content-Type": "application/json"}},
        None,
    ),
    "513-async-waitasync-poll-00": ("completed", {"resumeAt": "2026-11-27T03:04:11.751Z", "waitDuration": 60000}, None),
    "521-async-timeout-header-poll-00": ("processing", None, None),
    "521-async-timeout-header-poll-01": ("failed", None, "Execution timed out after 2 seconds"),
    "551-cancel-async-before": ("processing", None, None),
    "553-cancel-async-after": ("cancelled", None, "Cancelled"),
    "625-timeout-async-job": ("failed", None, "Execution timed out after 2 seconds"),
    **dict.fromkeys(("906-job-orphan", "911-job-resume-poll"), ("processing", None, None)),
    "912-job-resume-poll-done": ("completed", {"result": {"was": "q", "approved": True}, "stdout": ""}, None),
    "204-cancel-job-later": ("completed", {"status": "completed", "waitDuration": 8000}, None),
}
PAUSED_JOBS = ("148-hitl-async-poll-00", "913-job-of-paused-after")
FAILED_TO_SAVE = "841-async-nul-job"


@pytest.mark.parametrize("name", JOBS)
def test_job_status(name, replay):
    """A job's status in the documented form: the workflow's own output, every documented key, the record beside it."""
    case = CASES[name]
    state, output, error = JOBS[name]
    job = case.ask(replay(name))
    assert (job["taskId"], job["status"], job["output"], job["error"]) == (case.id, state, output, error)
    assert {"startedAt", "completedAt", "duration"} <= job["metadata"].keys()
    assert case.body["metadata"].items() <= job["metadata"].items()
    assert job.get("run") == case.body["output"]


@pytest.mark.parametrize("name", PAUSED_JOBS)
def test_job_paused(name, replay):
    """A paused run is completed for the server; its metadata says that it is paused, and its output how to resume it."""
    job = CASES[name].ask(replay(name))
    assert (job["status"], job["metadata"]["status"]) == ("completed", "paused")
    assert job["output"]["data"]["operation"] == "human"
    assert "/api/resume/" in job["output"]["data"]["_resume"]["apiUrl"]


def test_job_failed_to_save(replay):
    """A reason of the server's of many lines is shown as one, and kept as it is."""
    with pytest.raises(ExecutionError) as caught:
        replay(FAILED_TO_SAVE).wait_for_job(CASES[FAILED_TO_SAVE].id)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.result.error == CASES[FAILED_TO_SAVE].body["error"]


def test_wait_for_job_of_a_server_that_died(replay):
    """A job whose server was killed stays processing: nobody knows whether it still runs."""
    with pytest.raises(RecallTimeoutError, match=r"is still processing after 0\.05 s; it may still be running"):
        replay("906-job-orphan").wait_for_job(CASES["906-job-orphan"].id, timeout=0.05, poll_interval=0.01)


def test_wait_for_resumed_job(replay):
    """A paused job that was resumed is a new job, which can be waited for."""
    client = replay("910-job-resume", "911-job-resume-poll", "912-job-resume-poll-done")
    job = client.wait_for_job(client.execute_workflow("w"), poll_interval=0.01)
    assert job["output"] == {"result": {"was": "q", "approved": True}, "stdout": ""}


def test_wait_for_recorded_job(replay):
    """The polls of one job, one after the other, to its end."""
    names = ["93-async-wait-poll-00", "93-async-wait-poll-01", "93-async-wait-poll-03"]
    seen = []
    job = replay(*names).wait_for_job("run_faffda1d4e3d48be8a81", poll_interval=0.01, on_update=lambda job: seen.append(job["status"]))
    assert job["output"] == {"status": "completed", "waitDuration": 3000}
    assert seen == ["processing", "completed"]


@pytest.mark.parametrize(
    "name",
    [
        "95-async-fail-poll-00",
        "194-timeout-async-job",
        "505-async-fail-poll-00",
        "521-async-timeout-header-poll-01",
        "625-timeout-async-job",
    ],
)
def test_wait_for_recorded_job_failed(name, replay):
    """A failed job raises an error, in any form."""
    with pytest.raises(ExecutionError) as caught:
        replay(name).wait_for_job(CASES[name].id)
    assert caught.value.code == "EXECUTION_ERROR"
    assert caught.value.result.error == JOBS[name][2]


def test_wait_for_recorded_job_cancelled(replay):
    """A cancelled job raises an error with its own code."""
    with pytest.raises(ExecutionError) as caught:
        replay("551-cancel-async-before", "553-cancel-async-after").wait_for_job("w", poll_interval=0.01)
    assert (caught.value.code, caught.value.result.error) == ("JOB_CANCELLED", "Cancelled")


def test_wait_for_recorded_job_survives_lost_database(replay):
    """A server that has lost its database rejects a valid key for a while, and the wait continues."""
    names = ["503-async-wait-poll-00", "705-db-down-job", "503-async-wait-poll-02"]
    job = replay(*names).wait_for_job("w", poll_interval=0.01)
    assert job["output"] == {"result": {"done": True}, "stdout": ""}


# ---------------------------------------------------------------------------------------------------------------- redirects


@pytest.mark.parametrize("name", ["143-trailing-slash", "144-double-slash", "371-http-slash"])
def test_redirect_of_recorded_server(name, replay):
    """A 308 with a relative Location is followed with the same body."""
    client = replay(name, "01-execute-ok-dict")
    assert client.execute_workflow("7329d973-94e3-4c97-a6c8-b6a02c18c87b", {"message": "x"}).output == {"message": "hello", "n": 1}
    assert [request.json for request in client.server.requests] == [{"message": "x"}] * 2


# ---------------------------------------------------------------------------------------------------------------- all of it


def test_redirect_of_a_response_block(replay):
    """A response block that redirects within the server is followed."""
    assert CASES["820-resp-loc307same"].ask(replay("820-resp-loc307same", "808-locked")).output == {}


def test_recorded_responses_are_all_replayed():
    """Every recorded case is used."""
    used = {
        *those(lambda case: is_run(case) or case.status in (202, 307, 308)),
        *(*BARE, *PAUSED, BADLY_ENCODED, RESPONSE_BLOCK_LIKE_AN_ENVELOPE, FAILED_TO_SAVE),
        *those(lambda case: case.request["path"].endswith("/usage-limits") and case.status == 200),
        *(*OTHER_ENDPOINTS, *CANCELLED, *STREAMS, *FAILED_STREAMS, *BROKEN_STREAMS, CANCELLED_STREAM, RESET_STREAM),
        *(*ERRORS, *STATUSES, *JOBS, *PAUSED_JOBS),
    }
    assert set(CASES) - used == set()
