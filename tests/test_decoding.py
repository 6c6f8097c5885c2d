"""Decode responses into models: both dialects, and unexpected data."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_responses import JOB, QUEUE, RUN, STATUS, STREAM, USAGE, response_of
from recall_sdk import (
    AsyncExecutionResult,
    InvalidResponseError,
    RecallError,
    UsageLimits,
    WorkflowExecutionResult,
    WorkflowStatus,
)
from recall_sdk import _decoding as decoding
from recall_sdk._bodies import NO_REASON
from recall_sdk._rate_limits import rate_limit_info, reported_level, retry_after, usage_level
from recall_sdk._requests import job_status as job_request

READERS = [
    (RUN, decoding.execution),
    (STREAM, decoding.execution_of_stream),
    (QUEUE, decoding.execution),
    (STATUS, decoding.workflow_status),
    (JOB, decoding.job_status),
    (USAGE, decoding.usage_limits),
]
MODELS = (WorkflowExecutionResult, AsyncExecutionResult, WorkflowStatus, UsageLimits, dict)


def reply(body=b"", status=200, request=RUN, headers=()):
    """Make a response; a body that is not bytes is encoded as JSON."""
    return response_of(request, status, dict(headers), body)


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
    assert decoding.execution(reply(body)) == WorkflowExecutionResult(True, {"a": 1}, None, [1], {"duration": 5}, [2], 7.5)


@pytest.mark.parametrize("metadata", [{}, {"metadata": {"a": 1}}, {"metadata": None}, {"metadata": "odd"}])
def test_envelope_keeps_execution_id(metadata):
    """A top-level ``executionId`` is added to the metadata."""
    result = decoding.execution(reply({"success": True, "output": 1, "executionId": "e-1", **metadata}))
    known = metadata.get("metadata")
    assert result.metadata == {**(known if isinstance(known, dict) else {}), "executionId": "e-1"}


@pytest.mark.parametrize(
    ("fields", "duration"),
    [
        ({"totalDuration": 7.5, "metadata": {"duration": 5}}, 7.5),
        ({"totalDuration": 0, "metadata": {"duration": 5}}, 0),
        ({"metadata": {"duration": 5}}, 5),
        ({"totalDuration": None, "metadata": {"duration": 5.25}}, 5.25),
        *(({"totalDuration": odd, "metadata": {"duration": odd}}, None) for odd in (True, "5", None, [], math.nan, math.inf, 10**400)),
        ({"metadata": None}, None),
        ({}, None),
    ],
)
def test_total_duration(fields, duration):
    """The duration is ``totalDuration``, else ``metadata.duration``, if it is a finite number."""
    assert decoding.execution(reply({"success": True, "output": 1, **fields})).total_duration == duration


RESUME = {"apiUrl": "http://host/api/resume/w/e/c", "uiUrl": "http://host/resume/w/e"}


@pytest.mark.parametrize("output", [{"data": {"operation": "human", "_resume": RESUME}, "status": 200}, {"_resume": RESUME}])
def test_paused_run(output):
    """A run that waits for a person is a success whose metadata says that it is paused, in a response and in a job."""
    result = decoding.execution(reply({"success": True, "output": output, "metadata": {"x": 1}}))
    assert (result.success, result.output, result.metadata) == (True, output, {"x": 1, "status": "paused"})
    job = decoding.job_status(reply({"status": "completed", "output": record(output=output)}, request=JOB))
    assert (job["status"], job["metadata"]["status"], job["output"]) == ("completed", "paused", output)


@pytest.mark.parametrize("output", [{"data": {"a": 1}}, {"data": ["_resume"]}, ["_resume"], "_resume", None, {}])
def test_run_that_is_not_paused(output):
    """Only the output of a paused run holds the addresses to resume it."""
    assert decoding.execution(reply({"success": True, "output": output})).metadata is None


def test_paused_run_keeps_the_servers_word():
    """A status that the server sends itself is not changed."""
    result = decoding.execution(reply({"success": True, "output": {"_resume": RESUME}, "status": "waiting"}))
    assert result.metadata == {"status": "waiting"}


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
    assert decoding.execution(reply(body, status)) == WorkflowExecutionResult(success=True, output=body)


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ({"success": False, "output": "shadow"}, WorkflowExecutionResult(False, "shadow", NO_REASON)),
        ({"success": False, "output": {}, "error": ""}, WorkflowExecutionResult(False, {}, NO_REASON)),
        (
            {"success": True, "output": 1, "status": "paused", "executionId": "e", "metadata": {"x": 2}},
            WorkflowExecutionResult(True, 1, metadata={"x": 2, "status": "paused", "executionId": "e"}),
        ),
        ({"success": False, "error": "boom"}, WorkflowExecutionResult(False, None, "boom")),
        ({"success": False, "error": {"message": "boom"}}, WorkflowExecutionResult(False, None, "boom")),
        ({"success": False, "error": ["boom", 1]}, WorkflowExecutionResult(False, None, "boom; 1")),
        ({"success": True, "output": None, "logs": "odd", "totalDuration": True}, WorkflowExecutionResult(True)),
    ],
)
def test_envelope_other_shapes(body, result):
    """A 200 with ``success: false`` is a result; its error is text; fields of other types than documented are left out."""
    assert decoding.execution(reply(body)) == result


def test_status_204_is_success():
    """A 204 is a success without output."""
    assert decoding.execution(reply(status=204)) == WorkflowExecutionResult(success=True, output=None)


@pytest.mark.parametrize("request_", [RUN, QUEUE])
def test_queued_run_documented(request_):
    """A 202 with a task id is a queued run, also without async_execution."""
    body = {"success": True, "taskId": "t", "status": "queued", "createdAt": "then", "links": {"status": "/api/jobs/t"}}
    assert decoding.execution(reply(body, 202, request_)) == AsyncExecutionResult(True, "t", "queued", "then", {"status": "/api/jobs/t"})


@pytest.mark.parametrize(
    ("body", "ticket"),
    [
        ({"jobId": "j", "statusUrl": "http://h/j"}, AsyncExecutionResult(True, "j", "queued", "", {"status": "http://h/j"})),
        ({"success": False, "taskId": "t"}, AsyncExecutionResult(False, "t", "queued", "", {"status": "/api/jobs/t"})),
        ({"taskId": "t", "status": "pending"}, AsyncExecutionResult(True, "t", "queued", "", {"status": "/api/jobs/t"})),
        ({"taskId": "t", "links": {"status": 5, "x": 1}}, AsyncExecutionResult(True, "t", "queued", "", {"status": "/api/jobs/t"})),
        ({"jobId": 4711}, AsyncExecutionResult(True, "4711", "queued", "", {"status": "/api/jobs/4711"})),
        ({"taskId": 0}, AsyncExecutionResult(True, "0", "queued", "", {"status": "/api/jobs/0"})),
        ({"taskId": True, "jobId": "j"}, AsyncExecutionResult(True, "j", "queued", "", {"status": "/api/jobs/j"})),
        ({"taskId": "a\nb/c"}, AsyncExecutionResult(True, "a\nb/c", "queued", "", {"status": "/api/jobs/a\nb/c"})),
    ],
)
def test_queued_run_observed(body, ticket):
    """``jobId`` and ``statusUrl`` are read, too; missing fields get defaults."""
    assert decoding.execution(reply(body, 202, QUEUE)) == ticket


@pytest.mark.parametrize("body", [{"success": True}, {"taskId": 5.0}, {"taskId": True}, {"taskId": None}, {"taskId": ""}, [1]])
def test_queued_run_without_task_id(body):
    """An async response without a task id is unreadable, and the run may be in flight."""
    with pytest.raises(InvalidResponseError, match="has no task id") as caught:
        decoding.execution(reply(body, 202, QUEUE))
    assert (caught.value.code, caught.value.may_have_executed, caught.value.body) == ("INVALID_RESPONSE", True, body)


@pytest.mark.parametrize("request_", [RUN, STREAM, QUEUE])
@pytest.mark.parametrize("name", ["taskId", "jobId"])
@pytest.mark.parametrize("task_id", [".", "..", "a\ud83d"])
def test_queued_run_with_unusable_task_id(task_id, name, request_):
    """A task id that can't be part of a path is reported at once, and the run may be in flight."""
    with pytest.raises(InvalidResponseError, match=r"has the task id .*, which can't be part of a path") as caught:
        decoding.execution(reply({name: task_id}, 202, request_))
    assert caught.value.may_have_executed is True
    str(caught.value).encode()


def test_queued_run_with_usable_task_id():
    """Each other id of a queued run can be asked for, and shown."""
    ticket = decoding.execution(reply({"taskId": "a\x1b[31m/..\n\u202e"}, 202, QUEUE))
    assert job_request(ticket.task_id).path == "/api/jobs/a%1B%5B31m%2F..%0A%E2%80%AE"


def test_stream_request_with_json_response():
    """If a server responds to a stream request with JSON, that is the result."""
    assert decoding.execution_of_stream(reply({"success": True, "output": 1}, request=STREAM)) == WorkflowExecutionResult(True, 1)


def test_stream_request_with_queued_run():
    """A queued run in response to a stream request is an error that says how to get the result."""
    with pytest.raises(InvalidResponseError, match=r"wait_for_job\('t'\)") as caught:
        decoding.execution_of_stream(reply({"taskId": "t"}, 202, STREAM))
    assert caught.value.body == {"taskId": "t"}


# ------------------------------------------------------------------------------------------------------ other requests


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"isDeployed": True, "deployedAt": "then", "needsRedeployment": True}, WorkflowStatus(True, "then", True)),
        ({"isDeployed": False, "deployedAt": None}, WorkflowStatus(False)),
    ],
)
def test_workflow_status(body, status):
    """The status of a workflow is as documented."""
    assert decoding.workflow_status(reply(body, request=STATUS)) == status


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
    assert decoding.job_status(reply({"status": said}, request=JOB))["status"] == state


def test_job_has_documented_keys():
    """A job has all documented keys, however little the server sends."""
    metadata = {"startedAt": None, "completedAt": None, "duration": None}
    wanted = {"success": True, "taskId": "job-1", "status": "queued", "metadata": metadata, "output": None, "error": None}
    assert decoding.job_status(reply({"status": "queued"}, request=JOB)) == wanted


def test_job_keeps_other_fields():
    """Other keys, also of the metadata, are kept; ``jobId`` becomes ``taskId``."""
    body = {"status": "queued", "jobId": "j", "metadata": {"x": 1, "duration": 2}, "estimatedDuration": 3}
    job = decoding.job_status(reply(body, request=JOB))
    assert (job["taskId"], job["estimatedDuration"], job["metadata"]["x"], job["metadata"]["duration"]) == ("j", 3, 1, 2)


@pytest.mark.parametrize(
    ("fields", "task_id"),
    [
        ({"taskId": 4711}, "4711"),
        ({"jobId": 0}, "0"),
        ({"taskId": True}, "job-1"),
        ({"taskId": 4.5}, "job-1"),
        ({"taskId": ["x"]}, "job-1"),
    ],
)
def test_job_id_is_text(fields, task_id):
    """The id of a job is always text: that of the response, a whole number too, else that of the request."""
    assert decoding.job_status(reply({"status": "queued", **fields}, request=JOB))["taskId"] == task_id


def record(**fields):
    """Make a run record, as the other dialect wraps it around the output."""
    return {"success": True, "output": {"a": 1}, "workflowId": "w", "executionId": "e", **fields}


def test_job_output_from_run_record():
    """The output of a job is the workflow's; the record around it is kept under ``run``."""
    job = decoding.job_status(reply({"status": "completed", "output": record()}, request=JOB))
    assert (job["status"], job["output"], job["run"]) == ("completed", {"a": 1}, record())


@pytest.mark.parametrize("missing", ["success", "output", "workflowId", "executionId"])
def test_job_output_that_is_no_run_record(missing):
    """An output that only looks like a record is the workflow's own."""
    output = {key: value for key, value in record().items() if key != missing}
    job = decoding.job_status(reply({"status": "completed", "output": output}, request=JOB))
    assert job["output"] == output
    assert "run" not in job


@pytest.mark.parametrize(("fields", "reason"), [({"error": "boom"}, "boom"), ({}, "the server does not say why")])
def test_job_completed_with_failed_run(fields, reason):
    """A completed job whose record says ``success: false`` has failed, and has an error."""
    job = decoding.job_status(reply({"status": "completed", "output": record(success=False, **fields)}, request=JOB))
    assert job["status"] == "failed"
    assert reason in job["error"]


@pytest.mark.parametrize("state", ["failed", "cancelled", "error"])
def test_job_failure_reason_from_run_record(state):
    """A job that is reported as failed keeps its state, and gets its reason from the run record."""
    for success in (False, True):
        job = decoding.job_status(reply({"status": state, "output": record(success=success, error="boom")}, request=JOB))
        assert (job["status"], job["error"]) == (decoding.JOB_STATES.get(state, state), "boom")


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
    read = decoding.usage_limits(reply({"success": True, "rateLimit": limits, "usage": {"plan": "free"}}, request=USAGE))
    assert read.usage == {"plan": "free"}
    assert read.rate_limit["sync"] == limits["sync"]
    assert read.rate_limit["async"] == {"limit": 9, **limits["async"]}
    assert read.rate_limit["null"] == {"limit": 9, "maxBurst": 9}
    assert read.rate_limit["other"] == {"limit": 3, "requestsPerMinute": 3}
    assert (read.rate_limit["none"], read.rate_limit["authType"]) == ({"remaining": 1}, "api")


@pytest.mark.parametrize("usage", [{}, {"usage": None}])
def test_usage_limits_without_usage(usage):
    """Usage that is absent or null is empty."""
    assert decoding.usage_limits(reply({"rateLimit": {}, **usage}, request=USAGE)) == UsageLimits(True, {}, {})


@pytest.mark.parametrize(
    ("request_", "read", "body"),
    [
        (STATUS, decoding.workflow_status, {"isDeployed": "yes"}),
        (STATUS, decoding.workflow_status, [True]),
        (JOB, decoding.job_status, {}),
        (JOB, decoding.job_status, {"status": 5}),
        (USAGE, decoding.usage_limits, {"usage": {}, "rateLimit": []}),
    ],
)
def test_response_of_wrong_shape(request_, read, body):
    """A response of the wrong shape is unreadable; reading executes nothing."""
    with pytest.raises(InvalidResponseError, match=r"the response (has|is) no") as caught:
        read(reply(body, request=request_))
    assert (caught.value.body, caught.value.may_have_executed, caught.value.status) == (body, False, 200)


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (b"", {}, "is empty: check the base_url"),
        (b" \n", {}, "is empty"),
        (b"<!DOCTYPE html><p>hello", {}, "is an HTML page"),
        (b"\n <HTML>", {}, "is an HTML page"),
        (b"please log in", {"Content-Type": "text/html"}, "is an HTML page"),
        (b"hello", {}, "is not JSON"),
        (b'{"a": ', {}, "is not JSON"),
        (b'"\xff"', {}, "is not JSON"),
        (b"[" * 100_000, {}, "is not JSON"),
        (b"\x1b\x03\x00", {"Content-Encoding": "br"}, "Content-Encoding: br"),
    ],
)
def test_response_that_is_not_json(body, headers, said):
    """A response that is not JSON is unreadable; the error says what it is, and that the workflow may have run."""
    with pytest.raises(InvalidResponseError, match=said) as caught:
        decoding.execution(reply(body, headers=headers))
    assert caught.value.may_have_executed
    assert caught.value.__cause__ is not None


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
    st.sampled_from(
        ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After", "Date", "Content-Encoding", "Content-Type"]
    ),
    st.text(max_size=12) | st.integers().map(str),
)


@given(
    st.sampled_from(READERS),
    st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([200, 202, 204, 400, 429, 500]) | st.integers(100, 999),
    HEADERS,
)
def test_any_response_gives_model_or_recall_error(reader, body, status, headers):
    """Any response is read as a model, or raises a RecallError with a message of one line."""
    request, read = reader
    response = reply(body, status, request, headers)
    rate_limit_info(response, retry_after(response))
    reported_level(response)
    usage_level(response, asynchronous=False)
    try:
        outcome = read(response)
    except RecallError as error:
        outcome = error
    assert isinstance(outcome, (*MODELS, RecallError))
    if isinstance(outcome, RecallError):
        assert len(str(outcome).splitlines()) == 1
        assert outcome.code
        assert outcome.retry_after is None or math.isfinite(outcome.retry_after)


@given(JSON, st.sampled_from(["completed", "failed", "cancelled", "odd"]))
def test_any_job_can_be_reported(value, state):
    """Whatever a failed job holds, its error can be built."""
    job = decoding.job_status(reply({"status": state, "output": value, "error": value, "metadata": value}, request=JOB))
    failure = decoding.job_failure(job)
    assert failure.may_have_executed
    assert len(str(failure).splitlines()) == 1
