"""The recorded answers of a running server, sent again byte by byte over real sockets: what the user gets of each."""

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
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RecallTimeoutError,
    StreamedExecutionResult,
    StreamInterruptedError,
    UsageLimitError,
    WorkflowExecutionResult,
    WorkflowStatus,
)

RECORDED = json.loads((Path(__file__).parent / "data" / "captures.json").read_text("utf-8"))


class Case:
    """One recorded exchange."""

    def __init__(self, recorded):
        self.name = recorded["case"]
        self.request = recorded["request"]
        answer = recorded["response"]
        self.status = answer["status"]
        self.framing = answer["framing"]
        self.complete = answer["complete"]
        self.head = head(*(f"{name}: {value}" for name, value in answer["headers"]), status=f"{answer['status']} {answer['reason']}")
        if "http_chunks" in answer:
            self.chunks = [text.encode() for text in answer["http_chunks"]]
        else:
            self.chunks = [b64decode(text) for text in answer["http_chunks_base64"]]
        self.kind = dict(answer["headers"]).get("Content-Type", "").partition(";")[0]
        self.encoded = "http_chunks" not in answer

    @property
    def bytes(self):
        """The answer as it came."""
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
        """The recorded request's body, parsed; what is not JSON as nothing."""
        try:
            return json.loads(self.request["body"] or "{}")
        except ValueError:
            return {}

    @property
    def is_async(self):
        """Whether the run was queued."""
        return dict(self.request["headers"]).get("X-Execution-Mode") == "async"

    def ask(self, client):
        """Make the call that the recorded request stands for."""
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
    """Name the cases that meet a condition."""
    return [name for name, case in CASES.items() if condition(case)]


@pytest.fixture
def replay(serve, connect):
    """Replay cases, one to a request, to a client."""

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
}
"""Answers of a workflow's own response block: no envelope."""

RESPONSE_BLOCK_LIKE_AN_ENVELOPE = "44-response-block-successfalse"


def is_run(case):
    """Whether a case is a plain run that went well."""
    return case.request["path"].endswith("/execute") and case.status in (200, 201) and case.kind == "application/json"


@pytest.mark.parametrize(
    "name", those(lambda case: is_run(case) and case.name not in (*BARE, RESPONSE_BLOCK_LIKE_AN_ENVELOPE) and not case.encoded)
)
def test_a_run(name, replay):
    """The output is the workflow's, and what the server tells of the run is in the metadata."""
    case = CASES[name]
    client = replay(name)
    result = case.ask(client)
    assert isinstance(result, WorkflowExecutionResult)
    assert result.success is True
    assert result.error is None
    assert result.output == case.body["output"]
    assert result.metadata == {**case.body["metadata"], "executionId": case.body["executionId"]}
    (request,) = client.server.requests
    assert (request.method, request.path) == ("POST", case.request["path"])
    assert request.json == case.sent


def test_a_gzipped_run(replay):
    """A compressed answer is an answer."""
    result = CASES["35-execute-gzip"].ask(replay("35-execute-gzip"))
    assert result.success is True
    assert result.output["result"]["upper"] == "ABC"


@pytest.mark.parametrize("name", BARE)
def test_a_response_block(name, replay):
    """An answer without an envelope is the output, all of it."""
    assert CASES[name].ask(replay(name)) == WorkflowExecutionResult(success=True, output=BARE[name])


def test_a_response_block_that_looks_like_an_envelope(replay):
    """An object with success and output is the envelope, whoever wrote it."""
    name = RESPONSE_BLOCK_LIKE_AN_ENVELOPE
    assert CASES[name].ask(replay(name)) == WorkflowExecutionResult(success=False, output="shadow")


@pytest.mark.parametrize("name", those(lambda case: case.status == 202))
def test_a_ticket(name, replay):
    """A queued run gives the documented ticket, whatever was asked for."""
    case = CASES[name]
    client = replay(name)
    ticket = case.ask(client)
    assert ticket == AsyncExecutionResult(True, case.body["jobId"], "queued", "", {"status": case.body["statusUrl"]})
    assert client.server.requests[0].headers["x-execution-mode"] == "async"


# ------------------------------------------------------------------------------------------------------------------ streams

TEXT = 'Hello from the fake model.\nSecond line "quoted" end'
STREAMS = {
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
    "220-stream-40s-silence": ("", {"ae7432cb-2304-4daf-a31c-af51e1776912": {"result": "done"}}),
}
"""What the streams that reach their end give: text and output."""

FAILED_STREAMS = {
    "68-stream-fails-after-agent": (TEXT, 'Boom: Line 1: `throw new Error("boom after stream")` - boom after stream'),
    "69-stream-fails-no-selected": ("", 'Boom: Line 1: `throw new Error("boom at run time")` - boom at run time'),
    "191-timeout-stream": ("", "Execution timed out after 2 seconds"),
}
"""What the streams of failed runs give: text and the server's words."""

BROKEN_STREAM = "71-stream-upstream-breaks"


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream(name, replay):
    """A stream gives its text as it comes, one done event, and the result."""
    case = CASES[name]
    text, output = STREAMS[name]
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


def test_a_block_that_fails_in_a_stream(replay):
    """One block's failure is an event among the others."""
    events = list(replay("71b-stream-upstream-error-chunk").stream_workflow("w"))
    (failed,) = [event for event in events if event.type == "block_error"]
    assert failed.block_id == "d5f5d5c9-f77e-4e9e-a2d6-e48f9fdddd4b"
    assert failed.data["error"] == "model crashed mid stream"


@pytest.mark.parametrize("name", FAILED_STREAMS)
def test_a_stream_of_a_failed_run(name, replay):
    """A run that fails in the middle raises, with the text so far."""
    text, words = FAILED_STREAMS[name]
    with pytest.raises(ExecutionError) as caught:
        list(replay(name).stream_workflow("w"))
    assert words in str(caught.value)
    assert caught.value.result.text == text
    assert caught.value.result.error == words


def test_a_stream_that_was_cut(replay):
    """The one recorded stream whose connection broke is told as that."""
    with pytest.raises(StreamInterruptedError) as caught:
        list(replay(BROKEN_STREAM).stream_workflow("w"))
    assert caught.value.partial.text == "Hello"


# ------------------------------------------------------------------------------------------------------------------- errors

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
}
"""What each refusal raises: class, code, the server's own code, words, and whether the workflow may have run."""


@pytest.mark.parametrize("name", ERRORS)
def test_a_refusal(name, replay):
    """Each refusal is an error with the server's words, the documented code, and what is known of the run."""
    case = CASES[name]
    kind, code, server_code, words, may_have_executed = ERRORS[name]
    with pytest.raises(kind) as caught:
        case.ask(replay(name))
    error = caught.value
    assert type(error) is kind
    assert words in str(error)
    assert "\n" not in str(error)
    assert (error.code, error.server_code, error.status, error.may_have_executed) == (code, server_code, case.status, may_have_executed)
    assert error.body == (case.body if case.kind == "application/json" else b"".join(case.chunks).decode())


@pytest.mark.parametrize("name", ["17-execute-runtime-failure", "190-timeout-sync"])
def test_the_result_of_a_failed_run(name, replay):
    """What the server tells of a failed run is kept."""
    with pytest.raises((ExecutionError, RecallTimeoutError)) as caught:
        CASES[name].ask(replay(name))
    body = CASES[name].body
    assert caught.value.result == WorkflowExecutionResult(False, body["output"], body["error"], metadata=body["metadata"])


@pytest.mark.parametrize("name", ["171-admission-second", "173-admission-async"])
def test_the_wait_that_the_admission_gate_asks_for(name, replay):
    """A Retry-After becomes the error's, and what is known of the rate limit."""
    client = replay(name)
    with pytest.raises(RateLimitError) as caught:
        CASES[name].ask(client)
    assert caught.value.retry_after == 5.0
    info = client.get_rate_limit_info()
    assert info == caught.value.rate_limit
    assert (info.limit, info.remaining, info.retry_after) == (0, 0, 5)


def test_a_rate_limit_without_facts(replay):
    """A 429 that tells nothing leaves nothing to know."""
    client = replay("160-ratelimit-5")
    with pytest.raises(RateLimitError) as caught:
        client.execute_workflow("w")
    assert (caught.value.retry_after, caught.value.rate_limit, client.get_rate_limit_info()) == (None, None, None)


# ---------------------------------------------------------------------------------------------------------------- questions

STATUSES = {
    "120-status-deployed": WorkflowStatus(True, "2026-11-23T21:20:32.651Z", needs_redeployment=False),
    "121-status-undeployed": WorkflowStatus(False, None, needs_redeployment=False),
    "122-status-drift": WorkflowStatus(True, "2026-11-23T21:20:32.690Z", needs_redeployment=True),
}


@pytest.mark.parametrize("name", STATUSES)
def test_a_status(name, replay):
    """A workflow's status in the documented form, and what validate_workflow makes of it."""
    client = replay(name)
    assert CASES[name].ask(client) == STATUSES[name]
    assert client.validate_workflow("w") is STATUSES[name].is_deployed


@pytest.mark.parametrize("name", those(lambda case: case.request["path"].endswith("/usage-limits") and case.status == 200))
def test_usage_limits(name, replay):
    """The limit is filled in from what the server calls it, and nothing is lost."""
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
    "204-cancel-job-later": ("completed", {"status": "completed", "waitDuration": 8000}, None),
}
PAUSED_JOB = "148-hitl-async-poll-00"


@pytest.mark.parametrize("name", JOBS)
def test_a_job(name, replay):
    """A job's status in the documented form: the workflow's own output, every documented key, the record beside it."""
    case = CASES[name]
    state, output, error = JOBS[name]
    job = case.ask(replay(name))
    assert (job["taskId"], job["status"], job["output"], job["error"]) == (case.id, state, output, error)
    assert {"startedAt", "completedAt", "duration"} <= job["metadata"].keys()
    assert case.body["metadata"].items() <= job["metadata"].items()
    assert job.get("run") == case.body["output"]


def test_a_job_that_waits_for_a_person(replay):
    """A paused run is handed over as the server tells it."""
    job = CASES[PAUSED_JOB].ask(replay(PAUSED_JOB))
    assert job["status"] == "completed"
    assert job["output"]["data"]["operation"] == "human"


def test_waiting_for_a_recorded_job(replay):
    """The polls of one job, one after the other, to its end."""
    names = ["93-async-wait-poll-00", "93-async-wait-poll-01", "93-async-wait-poll-03"]
    seen = []
    job = replay(*names).wait_for_job("run_faffda1d4e3d48be8a81", poll_interval=0.01, on_update=lambda job: seen.append(job["status"]))
    assert job["output"] == {"status": "completed", "waitDuration": 3000}
    assert seen == ["processing", "completed"]


@pytest.mark.parametrize("name", ["95-async-fail-poll-00", "194-timeout-async-job"])
def test_waiting_for_a_recorded_job_that_failed(name, replay):
    """A job that ended badly is an error, in whichever words the server says so."""
    with pytest.raises(ExecutionError) as caught:
        replay(name).wait_for_job(CASES[name].id)
    assert caught.value.code == "EXECUTION_ERROR"
    assert caught.value.result.error == JOBS[name][2]


# ---------------------------------------------------------------------------------------------------------------- redirects


@pytest.mark.parametrize("name", ["143-trailing-slash", "144-double-slash"])
def test_a_recorded_redirect(name, replay):
    """A 308 with a relative Location is followed with the same body."""
    client = replay(name, "01-execute-ok-dict")
    assert client.execute_workflow("7329d973-94e3-4c97-a6c8-b6a02c18c87b", {"message": "x"}).output == {"message": "hello", "n": 1}
    assert [request.json for request in client.server.requests] == [{"message": "x"}] * 2


# ---------------------------------------------------------------------------------------------------------------- all of it


def test_every_recorded_answer_is_replayed():
    """No case lies in the data unused."""
    used = {
        *those(lambda case: is_run(case) or case.status in (202, 308)),
        *those(lambda case: case.request["path"].endswith("/usage-limits") and case.status == 200),
        *(*STREAMS, *FAILED_STREAMS, BROKEN_STREAM, *ERRORS, *STATUSES, *JOBS, PAUSED_JOB),
    }
    assert set(CASES) - used == set()
