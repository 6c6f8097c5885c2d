"""Decode answers into models and errors: both dialects, the error table, and unexpected data."""

import json
import math
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from recall_sdk import (
    AsyncExecutionResult,
    AuthenticationError,
    ExecutionError,
    InvalidRequestError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RateLimitInfo,
    RecallError,
    RecallTimeoutError,
    ServerError,
    StreamEvent,
    UsageLimitError,
    UsageLimits,
    WorkflowExecutionResult,
    WorkflowStatus,
)
from recall_sdk import _decoding as decoding
from recall_sdk import _requests as endpoints
from recall_sdk._redaction import without_key

NOW = 1_800_000_000.0

RUN = endpoints.execute("wf", None, stream=False, selected_outputs=None, asynchronous=False)
STREAM = endpoints.execute("wf", None, stream=True, selected_outputs=None, asynchronous=False)
QUEUE = endpoints.execute("wf", None, stream=False, selected_outputs=None, asynchronous=True)
STATUS = endpoints.workflow_status("wf")
JOB = endpoints.job_status("job-1")
USAGE = endpoints.usage_limits()

READERS = [
    (RUN, decoding.execution),
    (STREAM, decoding.execution_of_stream),
    (QUEUE, decoding.execution),
    (STATUS, decoding.workflow_status),
    (JOB, decoding.job_status),
    (USAGE, decoding.usage_limits),
]
MODELS = (WorkflowExecutionResult, AsyncExecutionResult, WorkflowStatus, UsageLimits, dict)


def answer(body=b"", status=200, call=RUN, headers=(), retry_after=None):
    """Make an answer; a body that is not bytes is encoded as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decoding.Answer(call, status, CaseInsensitiveDict(headers), data, NOW, retry_after)


def error_of(*args, **kwargs):
    """Return the error for an answer."""
    with pytest.raises(RecallError) as caught:
        decoding.check(answer(*args, **kwargs))
    return caught.value


# ------------------------------------------------------------------------------------------------------- executions


def test_envelope_documented():
    """Every field of the documented envelope is in the result."""
    body = {
        "success": True,
        "output": {"a": 1},
        "error": None,
        "logs": [1],
        "metadata": {"duration": 5},
        "traceSpans": [2],
        "totalDuration": 7.5,
    }
    assert decoding.execution(answer(body)) == WorkflowExecutionResult(True, {"a": 1}, None, [1], {"duration": 5}, [2], 7.5)


@pytest.mark.parametrize("metadata", [{}, {"metadata": {"duration": 1}}, {"metadata": None}, {"metadata": "odd"}])
def test_envelope_keeps_execution_id(metadata):
    """A top-level ``executionId`` is added to the metadata."""
    result = decoding.execution(answer({"success": True, "output": 1, "executionId": "e-1", **metadata}))
    known = metadata.get("metadata")
    assert result.metadata == {**(known if isinstance(known, dict) else {}), "executionId": "e-1"}


@pytest.mark.parametrize(
    "body",
    [
        {"success": True},
        {"success": "yes", "output": 1},
        {"success": 1, "output": 1},
        {"success": True, "error": "x"},
        {"success": False},
        {"output": 1},
        {"error": "not acceptable", "code": "E"},
        {},
        [],
        [1, 2],
        "text",
        5,
        0,
        False,
        None,
    ],
)
@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_response_block_is_output(body, status):
    """A body that is not an envelope is the output as a whole, for any 2xx."""
    assert decoding.execution(answer(body, status)) == WorkflowExecutionResult(success=True, output=body)


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ({"success": False, "output": "shadow"}, WorkflowExecutionResult(False, "shadow", decoding.NO_REASON)),
        ({"success": False, "output": {}, "error": ""}, WorkflowExecutionResult(False, {}, decoding.NO_REASON)),
        (
            {"success": True, "output": 1, "status": "paused", "executionId": "e", "metadata": {"duration": 2}},
            WorkflowExecutionResult(True, 1, metadata={"duration": 2, "status": "paused", "executionId": "e"}),
        ),
        ({"success": False, "error": "boom"}, WorkflowExecutionResult(False, None, "boom")),
        ({"success": False, "error": {"message": "boom"}}, WorkflowExecutionResult(False, None, "boom")),
        ({"success": False, "error": ["boom", 1]}, WorkflowExecutionResult(False, None, '["boom", 1]')),
        ({"success": True, "output": None, "logs": "odd", "totalDuration": True}, WorkflowExecutionResult(True)),
    ],
)
def test_envelope_other_shapes(body, result):
    """A 200 with ``success: false`` is a result; its error is text; fields of other types than documented are left out."""
    assert decoding.execution(answer(body)) == result


def test_status_204_is_success():
    """A 204 is a success without output."""
    assert decoding.execution(answer(status=204)) == WorkflowExecutionResult(success=True, output=None)


@pytest.mark.parametrize("call", [RUN, QUEUE])
def test_queued_run_documented(call):
    """A 202 with a task id is a queued run, also without async_execution."""
    body = {"success": True, "taskId": "t", "status": "queued", "createdAt": "then", "links": {"status": "/api/jobs/t"}}
    assert decoding.execution(answer(body, 202, call)) == AsyncExecutionResult(True, "t", "queued", "then", {"status": "/api/jobs/t"})


@pytest.mark.parametrize(
    ("body", "ticket"),
    [
        ({"jobId": "j", "statusUrl": "http://h/j"}, AsyncExecutionResult(True, "j", "queued", "", {"status": "http://h/j"})),
        ({"success": False, "taskId": "t"}, AsyncExecutionResult(False, "t", "queued", "", {"status": "/api/jobs/t"})),
        ({"taskId": "t", "status": "pending"}, AsyncExecutionResult(True, "t", "queued", "", {"status": "/api/jobs/t"})),
        ({"taskId": "t", "links": {"status": 5, "x": 1}}, AsyncExecutionResult(True, "t", "queued", "", {"status": "/api/jobs/t"})),
    ],
)
def test_queued_run_observed(body, ticket):
    """``jobId`` and ``statusUrl`` are read, too; missing fields get defaults."""
    assert decoding.execution(answer(body, 202, QUEUE)) == ticket


@pytest.mark.parametrize("body", [{"success": True}, {"taskId": 5}, {"taskId": ""}, [1]])
def test_queued_run_without_task_id(body):
    """An async answer without a task id is unreadable, and the run may be in flight."""
    with pytest.raises(InvalidResponseError, match="has no task id") as caught:
        decoding.execution(answer(body, 202, QUEUE))
    assert (caught.value.code, caught.value.may_have_executed, caught.value.body) == ("INVALID_RESPONSE", True, body)


def test_stream_answered_with_json():
    """If a server answers a stream request with JSON, that is the result."""
    assert decoding.execution_of_stream(answer({"success": True, "output": 1}, call=STREAM)) == WorkflowExecutionResult(True, 1)


def test_stream_answered_with_queued_run():
    """A queued run in answer to a stream request is an error that says how to get the result."""
    with pytest.raises(InvalidResponseError, match=r"wait_for_job\('t'\)") as caught:
        decoding.execution_of_stream(answer({"taskId": "t"}, 202, STREAM))
    assert caught.value.body == {"taskId": "t"}


# ------------------------------------------------------------------------------------------------------ other calls


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"isDeployed": True, "deployedAt": "then", "needsRedeployment": True}, WorkflowStatus(True, "then", True)),
        ({"isDeployed": False, "deployedAt": None}, WorkflowStatus(False)),
    ],
)
def test_workflow_status(body, status):
    """The status of a workflow is as documented."""
    assert decoding.workflow_status(answer(body, call=STATUS)) == status


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("queued", "queued"),
        ("processing", "processing"),
        ("completed", "completed"),
        ("failed", "failed"),
        ("cancelled", "cancelled"),
        ("pending", "queued"),
        ("running", "processing"),
        ("success", "completed"),
        ("error", "failed"),
        ("canceled", "cancelled"),
        ("COMPLETED", "completed"),
        ("paused", "paused"),
    ],
)
def test_job_states(said, state):
    """Each known state is returned as the documented one, and an unknown state unchanged."""
    assert decoding.job_status(answer({"status": said}, call=JOB))["status"] == state


def test_job_has_documented_keys():
    """A job has all documented keys, however little the server sends."""
    metadata = {"startedAt": None, "completedAt": None, "duration": None}
    wanted = {"success": True, "taskId": "job-1", "status": "queued", "metadata": metadata, "output": None, "error": None}
    assert decoding.job_status(answer({"status": "queued"}, call=JOB)) == wanted


def test_job_keeps_other_fields():
    """Other keys, also of the metadata, are kept; ``jobId`` becomes ``taskId``."""
    body = {"status": "queued", "jobId": "j", "metadata": {"x": 1, "duration": 2}, "estimatedDuration": 3}
    job = decoding.job_status(answer(body, call=JOB))
    assert (job["taskId"], job["estimatedDuration"], job["metadata"]["x"], job["metadata"]["duration"]) == ("j", 3, 1, 2)


def record(**fields):
    """Make a run record, as the other dialect wraps it around the output."""
    return {"success": True, "output": {"a": 1}, "workflowId": "w", "executionId": "e", **fields}


def test_job_output_from_run_record():
    """The output of a job is the workflow's; the record around it is kept under ``run``."""
    job = decoding.job_status(answer({"status": "completed", "output": record()}, call=JOB))
    assert (job["status"], job["output"], job["run"]) == ("completed", {"a": 1}, record())


@pytest.mark.parametrize("missing", ["success", "output", "workflowId", "executionId"])
def test_job_output_that_is_no_run_record(missing):
    """An output that only looks like a record is the workflow's own."""
    output = {key: value for key, value in record().items() if key != missing}
    job = decoding.job_status(answer({"status": "completed", "output": output}, call=JOB))
    assert job["output"] == output
    assert "run" not in job


@pytest.mark.parametrize(("fields", "reason"), [({"error": "boom"}, "boom"), ({}, "the server does not say why")])
def test_job_completed_with_failed_run(fields, reason):
    """A completed job whose record says ``success: false`` has failed, and has an error."""
    job = decoding.job_status(answer({"status": "completed", "output": record(success=False, **fields)}, call=JOB))
    assert job["status"] == "failed"
    assert reason in job["error"]


@pytest.mark.parametrize("state", ["failed", "cancelled", "error"])
def test_job_failure_reason_from_run_record(state):
    """A job that is reported as failed keeps its state, and gets its reason from the run record."""
    for success in (False, True):
        job = decoding.job_status(answer({"status": state, "output": record(success=success, error="boom")}, call=JOB))
        assert (job["status"], job["error"]) == (decoding.JOB_STATES.get(state, state), "boom")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"sync": {"remaining": 3, "maxBurst": 40, "resetAt": NOW + 20}}, (3, 40, 20.0)),
        ({"sync": {"remaining": 3, "limit": 40}}, None),
        ({"sync": {"remaining": "some", "limit": 40, "resetAt": NOW + 20}}, None),
        ({"async": {"remaining": 3, "limit": 40, "resetAt": NOW + 20}}, None),
        ({"sync": None}, None),
    ],
)
def test_remaining_requests(limits, expected):
    """A batch reads the requests that remain, of how many, and the seconds until the reset; or nothing, if one is missing."""
    read = answer({"success": True, "rateLimit": limits, "usage": {}}, call=USAGE)
    assert decoding.remaining_requests(read, asynchronous=False) == (pytest.approx(expected) if expected else None)


def test_usage_limits():
    """Documented limits are unchanged; ``maxBurst``, else ``requestsPerMinute``, replaces a missing ``limit``."""
    limits = {
        "sync": {"limit": 5, "maxBurst": 9},
        "async": {"maxBurst": 9, "requestsPerMinute": 3, "remaining": -1},
        "other": {"requestsPerMinute": 3},
        "none": {"remaining": 1},
        "null": {"limit": None, "maxBurst": 9},
        "authType": "api",
    }
    read = decoding.usage_limits(answer({"success": True, "rateLimit": limits, "usage": {"plan": "free"}}, call=USAGE))
    assert read.usage == {"plan": "free"}
    assert read.rate_limit["sync"] == limits["sync"]
    assert read.rate_limit["async"] == {"limit": 9, **limits["async"]}
    assert read.rate_limit["null"] == {"limit": 9, "maxBurst": 9}
    assert read.rate_limit["other"] == {"limit": 3, "requestsPerMinute": 3}
    assert (read.rate_limit["none"], read.rate_limit["authType"]) == ({"remaining": 1}, "api")


@pytest.mark.parametrize(
    ("call", "read", "body"),
    [
        (STATUS, decoding.workflow_status, {"isDeployed": "yes"}),
        (STATUS, decoding.workflow_status, [True]),
        (JOB, decoding.job_status, {}),
        (JOB, decoding.job_status, {"status": 5}),
        (USAGE, decoding.usage_limits, {"rateLimit": {}}),
        (USAGE, decoding.usage_limits, {"usage": {}, "rateLimit": []}),
    ],
)
def test_answer_of_wrong_shape(call, read, body):
    """An answer of the wrong shape is unreadable; a read call executes nothing."""
    with pytest.raises(InvalidResponseError, match=r"the answer (has|is) no") as caught:
        read(answer(body, call=call))
    assert (caught.value.body, caught.value.may_have_executed, caught.value.status) == (body, False, 200)


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (b"", {}, "is empty: check the base_url"),
        (b" \n", {}, "is empty"),
        (b"<!DOCTYPE html><p>hello", {}, "is an HTML page"),
        (b"\n <HTML>", {}, "is an HTML page"),
        (b"hello", {}, "is not JSON"),
        (b'{"a": ', {}, "is not JSON"),
        (b'"\xff"', {}, "is not JSON"),
        (b"[" * 100_000, {}, "is not JSON"),
        (b"\x1b\x03\x00", {"Content-Encoding": "br"}, "Content-Encoding: br"),
    ],
)
def test_answer_that_is_not_json(body, headers, said):
    """An answer that is not JSON is unreadable; the error says what it is, and that the workflow may have run."""
    with pytest.raises(InvalidResponseError, match=said) as caught:
        decoding.execution(answer(body, headers=headers))
    assert caught.value.may_have_executed
    assert caught.value.__cause__ is not None


# ----------------------------------------------------------------------------------------------------------- errors

TABLE = [
    # status, the server's code, call -> class, code, may_have_executed
    (401, "INVALID_API_KEY", RUN, AuthenticationError, "UNAUTHORIZED", False),
    (402, None, RUN, UsageLimitError, "USAGE_LIMIT_EXCEEDED", False),
    (429, "USAGE_LIMIT_EXCEEDED", RUN, UsageLimitError, "USAGE_LIMIT_EXCEEDED", False),
    (400, "USAGE_LIMIT_EXCEEDED", RUN, UsageLimitError, "USAGE_LIMIT_EXCEEDED", False),
    (403, None, RUN, PermissionDeniedError, "FORBIDDEN", False),
    (403, "ACCESS_DENIED", RUN, PermissionDeniedError, "ACCESS_DENIED", False),
    (404, None, RUN, NotFoundError, "NOT_FOUND", False),
    (404, "TASK_NOT_FOUND", JOB, NotFoundError, "TASK_NOT_FOUND", False),
    (429, "TOO_MANY", RUN, RateLimitError, "RATE_LIMIT_EXCEEDED", False),
    (400, None, RUN, InvalidRequestError, "INVALID_REQUEST", False),
    (400, "BAD_FIELD", RUN, InvalidRequestError, "BAD_FIELD", False),
    (409, None, RUN, InvalidRequestError, "INVALID_REQUEST", True),
    (422, "E_CUSTOM", RUN, InvalidRequestError, "E_CUSTOM", True),
    (499, None, RUN, InvalidRequestError, "INVALID_REQUEST", True),
    (524, None, RUN, RecallTimeoutError, "TIMEOUT", True),
    (598, "SLOW", RUN, RecallTimeoutError, "TIMEOUT", True),
    (520, None, RUN, ServerError, "SERVER_ERROR", True),
    (418, None, RUN, InvalidRequestError, "INVALID_REQUEST", False),
    (408, "SLOW", RUN, RecallTimeoutError, "TIMEOUT", True),
    (408, None, JOB, RecallTimeoutError, "TIMEOUT", False),
    (504, "GATEWAY", RUN, RecallTimeoutError, "TIMEOUT", True),
    (500, "ANY", RUN, ExecutionError, "EXECUTION_ERROR", True),
    (500, None, QUEUE, ExecutionError, "EXECUTION_ERROR", True),
    (500, None, JOB, ServerError, "SERVER_ERROR", False),
    (500, "DATABASE", STATUS, ServerError, "DATABASE", False),
    (502, None, RUN, ServerError, "SERVER_ERROR", True),
    (503, "DOWN", RUN, ServerError, "DOWN", True),
    (599, None, USAGE, ServerError, "SERVER_ERROR", False),
    (304, "ODD", RUN, InvalidResponseError, "INVALID_RESPONSE", True),
    (101, None, STATUS, InvalidResponseError, "INVALID_RESPONSE", False),
]


@pytest.mark.parametrize("row", TABLE)
def test_error_for_each_status(row):
    """Each status has its class and code; the server's own code and the body are kept; the error says whether the run may have begun."""
    status, server_code, call, kind, code, may_have_executed = row
    body = {"error": "their words", **({"code": server_code} if server_code else {})}
    error = error_of(body, status, call)
    assert type(error) is kind
    assert (error.code, error.status, error.server_code, error.body) == (code, status, server_code, body)
    assert error.may_have_executed is may_have_executed
    assert "their words" in str(error)
    assert f"(HTTP {status})" in str(error)


@pytest.mark.parametrize(
    ("body", "text", "code"),
    [
        ({"error": "a"}, "a", None),
        ({"error": "a", "code": "C"}, "a", "C"),
        ({"error": "a", "message": "b"}, "a: b", None),
        ({"error": "a", "message": "a"}, "a", None),
        ({"error": {"message": "a", "code": "C"}}, "a", "C"),
        ({"error": {"error": "a"}, "message": "b", "code": "C"}, "a: b", "C"),
        ({"message": "b"}, "b", None),
        ({"error": "a", "details": [{"path": "x", "message": "y"}, "odd"]}, "a [x: y]", None),
        ({"error": True, "message": "a"}, "a", None),
        ({"error": 404, "message": "a"}, "a", None),
        ({"error": ["a", 5]}, '["a", 5]', None),
        ({"error": "a\n\tb\x1b[31m", "code": 5}, "a b [31m", None),
        ({}, "the server gave no reason", None),
        ([1], "the server gave no reason", None),
        (b"", "the server gave no reason", None),
        (b"plain", "plain", None),
        (b"<html><p>x", "an HTML page came instead of JSON: something in front of the API answered, such as a gateway or a bot wall", None),
        (b"\xff\xfe", "\ufffd\ufffd", None),
    ],
)
def test_error_body_forms(body, text, code):
    """The server's reason is found in each of the known forms, and is one line."""
    error = error_of(body, 409)
    assert str(error) == f"{text} (HTTP 409)"
    assert error.server_code == code


@pytest.mark.parametrize(
    ("status", "body", "advice"),
    [
        (401, {"error": "no"}, "check the API key, passed as api_key= or in RECALL_API_KEY"),
        (402, {"error": "no"}, "get_usage_limits() shows both"),
        (403, {"error": "Workflow is not deployed"}, "deploy it in Recall first"),
        (403, {"error": "no"}, "check that the API key may do this"),
        (404, {"error": "no"}, "check the id 'wf' and the base_url"),
        (404, b"<html>", "this is not the API: check the base_url"),
        (407, b"", "HTTPS_PROXY"),
        (408, {"error": "no"}, "async_execution=True"),
        (429, {"error": "no"}, "wait and retry; execute_with_retry() does so, up to max_retries times"),
        (429, {"error": "no", "retryAfterSeconds": 0.5}, "wait 1 s and retry; execute_with_retry() does so"),
        (502, b"", "try again later"),
        (503, b"", "try again later"),
        (504, b"", "async_execution=True"),
        (401, b"<html>", "check the base_url, and what is between here and the API"),
        (403, b"<!doctype html>", "check the base_url, and what is between here and the API"),
        *((status, b"<html>", "a gateway could not reach the server; try again later") for status in (502, 520, 521, 522, 523, 530)),
        *((status, b"<html>", "a gateway stopped waiting") for status in (504, 524, 598)),
        (409, {"error": "used", "code": "EXECUTION_ID_CONFLICT"}, "omit it, or send a new one"),
    ],
)
def test_advice(status, body, advice):
    """For common mistakes the message says what to do next."""
    assert advice in str(error_of(body, status))


FAILED_RUN = {"success": False, "output": {"a": 1}, "error": "Second: field not found", "metadata": {"duration": 12}}


@pytest.mark.parametrize("call", [RUN, STREAM, QUEUE])
@pytest.mark.parametrize("status", [302, 400, 401, 402, 403, 404, 409, 413, 423, 429, 499, 500, 502, 503, 504, 524])
def test_failed_run_with_any_status(status, call):
    """A body with data of a failed run is an ExecutionError with its result, and the workflow may have run."""
    error = error_of(FAILED_RUN, status, call=call)
    assert type(error) is ExecutionError
    assert (error.code, error.may_have_executed) == ("EXECUTION_ERROR", True)
    assert error.result == WorkflowExecutionResult(False, {"a": 1}, "Second: field not found", metadata={"duration": 12})
    assert str(error) == f"the workflow failed: Second: field not found (HTTP {status})"


@pytest.mark.parametrize("status", [400, 413, 423, 500, 503])
def test_failed_run_without_output(status):
    """With any other status, success: false and an error are enough."""
    assert type(error_of({"success": False, "error": "no"}, status)) is ExecutionError


@pytest.mark.parametrize("status", [401, 402, 403, 404, 429])
def test_rejection_with_success_false(status):
    """With a status that rejects a run, a body without output or metadata is a rejection."""
    error = error_of({"success": False, "error": "no"}, status)
    assert type(error) is not ExecutionError
    assert error.may_have_executed is False


@pytest.mark.parametrize(
    "body", [{"success": False, "output": {}}, {"success": True, "error": "x", "output": 1}, {"error": "x", "output": 1}]
)
def test_no_failed_run_without_success_false_and_error(body):
    """Without success: false, or without an error, a 400 is a rejection."""
    assert type(error_of(body, 400)) is InvalidRequestError


def test_failed_run_of_the_servers_time_limit():
    """A 408 stays a timeout, with its result."""
    error = error_of(FAILED_RUN, 408)
    assert type(error) is RecallTimeoutError
    assert error.result.output == {"a": 1}


def test_failed_run_only_for_executions():
    """For a call that executes nothing, such a body is an ordinary error."""
    assert type(error_of(FAILED_RUN, 400, call=STATUS)) is InvalidRequestError


@pytest.mark.parametrize(("headers", "body"), [({"X-Request-Id": "r-1"}, {"requestId": "other"}), ({}, {"requestId": "r-1"})])
def test_request_id_of_errors(headers, body):
    """An error has the server's request id, from the header or the body, also if the answer can't be read."""
    with pytest.raises(RecallError) as caught:
        decoding.check(answer({"error": "no", **body}, 500, headers=headers))
    assert caught.value.request_id == "r-1"
    with pytest.raises(InvalidResponseError) as caught:
        decoding.workflow_status(answer(body, call=STATUS, headers=headers))
    assert caught.value.request_id == "r-1"


@pytest.mark.parametrize("reset", ["1800000030", "1800000030000", "2027-01-15T08:00:30Z"])
@pytest.mark.parametrize(("offset", "seconds"), [(0.0, 30), (-1.5, 30), (600.0, -570), (-600.0, 630)])
def test_rate_limit_reset_by_the_servers_clock(reset, offset, seconds):
    """A reset is converted to this machine's clock if the clocks differ by more than the rounding of a Date header."""
    message = answer(headers={"X-RateLimit-Reset": reset})._replace(clock_offset=offset)
    assert decoding.rate_limit(message).reset == NOW + seconds


def test_rate_limit_reset_in_seconds_from_now():
    """A reset in seconds from now does not depend on the server's clock."""
    message = answer(headers={"X-RateLimit-Reset": "30"})._replace(clock_offset=600.0)
    assert decoding.rate_limit(message).reset == NOW + 30


@pytest.mark.parametrize(
    ("status", "body", "call", "advice"),
    [
        (429, {"error": "no", "code": "USAGE_LIMIT_EXCEEDED"}, RUN, "raise the limit or the plan; get_usage_limits() shows both"),
        (429, {"error": "no"}, USAGE, "wait and retry"),
        (429, {"error": "no", "retryAfterSeconds": 1234567}, RUN, "wait 1234567 s and retry"),
        (408, {"error": "no"}, QUEUE, "the workflow takes longer than the server allows"),
        (504, {"error": "no"}, STATUS, "the server ran out of time; try again later"),
        (500, {"error": "no"}, JOB, ""),
    ],
)
def test_advice_fits_the_call(status, body, call, advice):
    """The advice never suggests what was already done or does not help for this call."""
    message = f"no (HTTP {status})"
    assert str(error_of(body, status, call=call)) == (f"{message}: {advice}" if advice else message)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 500, 503, 504])
def test_error_has_retry_after(status):
    """Errors of every status have the retry-after."""
    assert error_of({"error": "no"}, status, retry_after=7.0).retry_after == 7.0


def test_long_message_is_shortened():
    """A long message is shortened in the middle: the start of the reason and the advice remain."""
    for long in ("word " * 1000, "https://" + "x" * 5000, json.dumps([{"a": 1}] * 1000, separators=(",", ":"))):
        message = str(without_key(error_of({"error": long}, 401), "key"))
        assert len(message) < 620
        assert message.startswith(long[:400])
        assert message.endswith(f"{long.strip()[-20:]} (HTTP 401): check the API key, passed as api_key= or in RECALL_API_KEY")


@pytest.mark.parametrize("body", [{"success": False, "output": {"a": 1}, "error": "boom"}, {"error": "boom"}])
@pytest.mark.parametrize("status", [408, 500, 504])
def test_failed_run_has_result(status, body):
    """What the server sent of a failed or timed-out run is in ``result``, or it is None."""
    result = error_of(body, status).result
    assert result == (WorkflowExecutionResult(False, {"a": 1}, "boom") if "success" in body else None)


def test_deeply_nested_reason():
    """A reason that is nested too deeply to show still leads to an error."""
    deep = json.loads("[" * 900 + "]" * 900)
    assert decoding.message_of(deep).startswith(("[[", "a reason nested"))
    assert error_of(b'{"error": "x", "details": ' + b"[" * 100_000, 400).code == "INVALID_REQUEST"


# ------------------------------------------------------------------------------------------------------ rate limits


@pytest.mark.parametrize(
    ("reset", "epoch"),
    [
        ("1800000060", 1_800_000_060),
        ("1800000060000", 1_800_000_060),
        ("1800000060500", 1_800_000_061),
        ("60", NOW + 60),
        ("0.5", NOW + 1),
        ("2027-01-15T08:01:00Z", 1_800_000_060),
        ("2027-01-15T08:01:00", 1_800_000_060),
        ("2027-01-15T10:01:00+02:00", 1_800_000_060),
        ("2027-01-15T10:01:00+0200", 1_800_000_060),
        ("2027-01-15T10:01:00+02", 1_800_000_060),
        ("2027-01-15", NOW - 8 * 3600),
        ("2027-01-15T08:00:59.5Z", 1_800_000_060),
        ("2027-01-15T08:00:59.9999999Z", 1_800_000_060),
        ("nonsense", NOW),
        ("nan", NOW),
        ("-5", NOW),
        ("1e300", NOW),
        ("", NOW),
    ],
)
def test_reset_forms(reset, epoch):
    """A reset of any form becomes seconds since the epoch; an unreadable one becomes now."""
    info = decoding.rate_limit(answer(headers={"X-RateLimit-Limit": "10", "X-RateLimit-Reset": reset}))
    assert info == RateLimitInfo(10, 0, int(epoch))
    datetime.fromtimestamp(info.reset, tz=timezone.utc)


def test_rate_limit_headers():
    """The headers are read by name in any case; unreadable numbers count as 0."""
    headers = {"x-ratelimit-limit": "50, 50;w=60", "x-ratelimit-remaining": "-1", "x-ratelimit-reset": "5"}
    assert decoding.rate_limit(answer(headers=headers)) == RateLimitInfo(50, 0, int(NOW) + 5)


def test_no_rate_limit_reported():
    """Without headers there is no rate limit, unless a 429 has a Retry-After."""
    assert decoding.rate_limit(answer()) is None
    assert decoding.rate_limit(answer(status=503, retry_after=5.0)) is None
    assert decoding.rate_limit(answer(status=429)) is None


def test_rate_limit_from_retry_after():
    """A 429 with only a retry-after gives limit 0, remaining 0, and the reset when it is over; a part of a second counts as a whole one."""
    error = error_of({}, 429, retry_after=1.5)
    assert (error.retry_after, error.rate_limit) == (1.5, RateLimitInfo(0, 0, int(NOW) + 2, 2))


@pytest.mark.parametrize(
    ("header", "body", "seconds"),
    [(None, 5, 5.0), (3.0, 5, 3.0), (0.0, 5, 0.0), (None, -1, None), (None, "5", None), (None, 1e300, None), (None, True, None)],
)
def test_retry_after_sources(header, body, seconds):
    """A Retry-After header takes precedence over ``retryAfterSeconds`` in the body; an invalid one is ignored."""
    error = error_of({"error": "x", "retryAfterSeconds": body}, 429, retry_after=header)
    assert error.retry_after == seconds
    assert (error.rate_limit is None) == (seconds is None)


@given(st.floats(allow_nan=False), st.text(max_size=40))
def test_any_reset_is_parsed_or_ignored(number, text):
    """Any reset becomes an int that can be converted to a date."""
    for reset in (str(number), text):
        info = decoding.rate_limit(answer(headers={"X-RateLimit-Reset": reset}))
        datetime.fromtimestamp(info.reset, tz=timezone.utc) if info.reset < 250_000_000_000 else pytest.fail(str(info))


# ---------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize(
    ("data", "event"),
    [
        ('{"blockId":"b","chunk":"One"}', StreamEvent("chunk", "b", "One", {"blockId": "b", "chunk": "One"})),
        (' {"chunk":""} ', StreamEvent("chunk", None, "", {"chunk": ""})),
        ('{"event":"chunk","chunk":"x","blockId":5}', StreamEvent("chunk", None, "x", {"event": "chunk", "chunk": "x", "blockId": 5})),
        ('{"event":"chunk"}', StreamEvent("message", None, "", {"event": "chunk"})),
        ('{"chunk":5}', StreamEvent("message", None, "", {"chunk": 5})),
        ('{"event":"done","chunk":"x"}', StreamEvent("done", None, "", {"event": "done", "chunk": "x"})),
        ('{"event":"final","data":{}}', StreamEvent("done", None, "", {"event": "final", "data": {}})),
        ('{"event":"stream_error","blockId":"b"}', StreamEvent("block_error", "b", "", {"event": "stream_error", "blockId": "b"})),
        ('{"event":"tool","x":1}', StreamEvent("tool", None, "", {"event": "tool", "x": 1})),
        ("{}", StreamEvent("message", None, "", {})),
        ("not json", StreamEvent("message", None, "", {"data": "not json"})),
        ("", StreamEvent("message", None, "", {"data": ""})),
        ("[1]", StreamEvent("message", None, "", {"data": [1]})),
        ("null", StreamEvent("message", None, "", {"data": None})),
        ("5 6", StreamEvent("message", None, "", {"data": "5 6"})),
    ],
)
def test_stream_event_payloads(data, event):
    """Each payload becomes one typed event, JSON or not."""
    assert decoding.stream_event("message", data) == event


@pytest.mark.parametrize("data", ["[DONE]", '"[DONE]"', " [DONE]", ' "[DONE]" '])
def test_stream_event_end_marks(data):
    """``[DONE]``, bare or as a JSON string, is not an event."""
    assert decoding.stream_event("message", data) is None


def test_stream_event_named():
    """The name of a server-sent event is its type if the payload has none."""
    assert decoding.stream_event("ping", "{}").type == "ping"


@pytest.mark.parametrize(
    ("payload", "result"),
    [
        ({"success": True, "output": {}, "metadata": {"duration": 610}}, WorkflowExecutionResult(True, {}, metadata={"duration": 610})),
        ({"data": {"success": False, "output": 1, "error": "e"}}, WorkflowExecutionResult(False, 1, "e")),
        ({}, WorkflowExecutionResult(True)),
        ({"success": "odd", "data": [1]}, WorkflowExecutionResult(True)),
    ],
)
def test_stream_end_forms(payload, result):
    """Both forms of the end event are decoded to the result."""
    assert decoding.stream_end(StreamEvent("done", None, "", payload)) == result
    assert decoding.stream_end(None) == WorkflowExecutionResult(True)


# ------------------------------------------------------------------------------------------------------- properties

KEYS = [
    *("success", "output", "error", "logs", "metadata", "executionId", "taskId", "jobId", "status", "links", "statusUrl", "message"),
    *("code", "details", "rateLimit", "usage", "sync", "maxBurst", "isDeployed", "retryAfterSeconds", "workflowId"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(max_size=4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
HEADERS = st.dictionaries(
    st.sampled_from(["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Content-Encoding"]), st.text(max_size=12)
)


@given(
    st.sampled_from(READERS),
    st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()),
    st.integers(100, 999),
    HEADERS,
    st.none() | st.floats(0, 1e18),
)
def test_any_answer_gives_result_or_recall_error(reader, body, status, headers, retry_after):
    """For any answer, each call returns a model or raises a RecallError with a message of one line."""
    call, read = reader
    message = answer(body, status, call, headers, retry_after)
    decoding.rate_limit(message)
    try:
        outcome = read(message)
    except RecallError as error:
        outcome = error
    assert isinstance(outcome, (*MODELS, RecallError))
    if isinstance(outcome, RecallError):
        assert str(outcome)
        assert "\n" not in str(outcome)
        assert outcome.code
        assert outcome.retry_after is None or math.isfinite(outcome.retry_after)


@given(st.text(max_size=20), st.text(max_size=60) | JSON.map(json.dumps))
def test_any_payload_gives_event(name, data):
    """Any payload of a stream becomes an event or the mark of the end."""
    event = decoding.stream_event(name, data)
    assert event is None or (isinstance(event.type, str) and isinstance(event.chunk, str) and isinstance(event.data, dict))
