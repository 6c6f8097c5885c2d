"""Turn a response, or an event of a stream, into a model. All dialects of the API are read, and the documented form is returned."""

import json
from typing import Any, Dict, Optional

from recall_sdk._bodies import OBJECT, as_dict, as_str, envelope, enveloped, is_paused, json_or, message_of
from recall_sdk._rate_limits import with_limit
from recall_sdk._response import Response
from recall_sdk._statuses import not_json, request_id, unreadable
from recall_sdk.errors import ExecutionError, build_error
from recall_sdk.models import (
    AsyncExecutionResult,
    Result,
    StreamedExecutionResult,
    StreamEvent,
    UsageLimits,
    WorkflowExecutionResult,
    WorkflowStatus,
)

JOB_STATES = {"pending": "queued", "running": "processing", "success": "completed", "error": "failed", "canceled": "cancelled"}
"""Other servers' names for the states of a job, and the documented ones."""


# -------------------------------------------------------------------------------------------------------- executions


def execution(response: Response) -> Result:
    """Read the response to an execution."""
    asynchronous = response.request.asynchronous
    if response.status == 204 and not asynchronous:
        return WorkflowExecutionResult(success=True)
    body = _parse(response)
    if asynchronous or (response.status == 202 and _task_id(as_dict(body))):
        return _queued_run(response, as_dict(body))
    result = envelope(body)
    if result is None and response.is_event_stream and _is_failure(as_dict(body).get("event", "message"), as_dict(body)):
        event = StreamEvent("error", None, "", as_dict(body))
        raise stream_failure(event, StreamedExecutionResult(success=False), request_id(response, body))
    return result or WorkflowExecutionResult(success=True, output=body)


def execution_of_stream(response: Response) -> WorkflowExecutionResult:
    """Read the response to a request for a live stream, if it is not a stream."""
    result = execution(response)
    if isinstance(result, WorkflowExecutionResult):
        return result
    raise unreadable(response, f"is not a stream: the run was queued, and wait_for_job({result.task_id!r}) returns its result")


def _queued_run(response: Response, body: Dict[str, Any]) -> AsyncExecutionResult:
    task_id = _task_id(body)
    if not task_id:
        raise unreadable(response, "has no task id")
    if task_id in (".", "..") or task_id != task_id.encode("utf-8", "ignore").decode():  # a lone surrogate can't be quoted
        raise unreadable(response, f"has the task id {task_id!r}, which can't be part of a path")
    links = {name: link for name, link in as_dict(body.get("links")).items() if isinstance(link, str)}
    links.setdefault("status", as_str(body.get("statusUrl")) or f"/api/jobs/{task_id}")
    state, created_at = _job_state(as_str(body.get("status")) or "queued"), as_str(body.get("createdAt")) or ""
    return AsyncExecutionResult(body.get("success") is not False, task_id, state, created_at, links)


def _task_id(body: Dict[str, Any]) -> str:
    """Return the id of a job as text; an empty text if there is none."""
    ids = (str(value) if type(value) is int else as_str(value) for value in (body.get("taskId"), body.get("jobId")))
    return next(filter(None, ids), "")


# ---------------------------------------------------------------------------------------------------- other requests


def workflow_status(response: Response) -> WorkflowStatus:
    """Read the response about a workflow."""
    body = _object(response, "isDeployed", bool, "has no boolean isDeployed")
    return WorkflowStatus(body["isDeployed"], as_str(body.get("deployedAt")), body.get("needsRedeployment") is True)


def job_status(response: Response) -> Dict[str, Any]:
    """Read the response about a job, into the documented form."""
    body = _object(response, "status", str, "has no status")
    job: Dict[str, Any] = {"success": True, "output": None, "error": None, **body}
    job.update(taskId=_task_id(body) or response.request.id, status=_job_state(body["status"]))
    job["metadata"] = {"startedAt": None, "completedAt": None, "duration": None, **as_dict(body.get("metadata"))}
    record = job["output"]
    if isinstance(record, OBJECT) and {"success", "output", "workflowId", "executionId"} <= record.keys():
        job.update(run=record, output=record["output"], error=job["error"] or record.get("error"))
        if record["success"] is False and job["status"] == "completed":
            job.update(status="failed", error=job["error"] or "the run did not succeed; the server does not say why")
    if is_paused(job["output"]):
        job["metadata"].setdefault("status", "paused")
    return job


def _job_state(state: str) -> str:
    return JOB_STATES.get(state.lower(), state.lower())


def job_failure(job: Dict[str, Any]) -> ExecutionError:
    """Return the error of a job that failed or was cancelled."""
    what, code = ("was cancelled", "JOB_CANCELLED") if job["status"] == "cancelled" else ("failed", None)
    reason = message_of(job["error"]) if job["error"] else "the server does not say why"
    result = WorkflowExecutionResult(success=False, output=job["output"], error=reason, metadata=job["metadata"])
    message = f"job {job['taskId']} {what}: {reason}"
    return build_error(ExecutionError, message, may_have_executed=True, code=code, body=job, result=result)


def usage_limits(response: Response) -> UsageLimits:
    """Read the response about the account's limits."""
    body = _object(response, "rateLimit", dict, "has no rateLimit and usage")
    limits = {name: with_limit(value) for name, value in body["rateLimit"].items()}
    return UsageLimits(body.get("success") is not False, limits, as_dict(body.get("usage")))


def _parse(response: Response) -> Any:
    try:
        return json.loads(response.read())
    except (ValueError, RecursionError) as error:
        raise not_json(response) from error


def _object(response: Response, field: str, kind: type, fault: str) -> Dict[str, Any]:
    """Parse a JSON object that has a field of a type."""
    body = _parse(response)
    if not isinstance(body, OBJECT) or not isinstance(body.get(field), kind):
        raise unreadable(response, fault if isinstance(body, OBJECT) else "is not a JSON object")
    return as_dict(body)


# --------------------------------------------------------------------------------------------------- events of a stream

_ENDS = ("done", "final")
_EVENT_TYPES = {"final": "done", "stream_error": "block_error", "chunk": "message"}
"""Servers' names for an event, and our types for them; a chunk without text is a message."""

_OF_A_BLOCK = {"blockId", "chunk"}
_NOT_JSON = object()

_raw_decode = json.JSONDecoder().raw_decode  # in less time than json.loads()


def stream_event(name: str, data: str) -> Optional[StreamEvent]:
    """Read one server-sent event; return ``None`` for the mark that ends a stream."""
    payload: Any = None
    try:
        payload, end = _raw_decode(data)
    except (ValueError, RecursionError):
        end = -1
    if end != len(data):
        payload = json_or(data, _NOT_JSON)
    if not isinstance(payload, OBJECT):
        return _other_event(name, data, payload)
    block_id, chunk = payload.get("blockId"), payload.get("chunk")
    if len(payload) == 2 and isinstance(block_id, str) and isinstance(chunk, str) and name != "error":
        return StreamEvent("chunk", block_id, chunk, payload)  # nearly every event; nothing in it can report a failure
    block_id, chunk, event = (value if isinstance(value, str) else None for value in (block_id, chunk, payload.get("event")))
    event_type = event or name
    if name == "error" or _is_failure(event_type, payload):
        return StreamEvent("error", block_id, "", payload)
    if chunk is not None and event in (None, "message", "chunk"):
        return StreamEvent("chunk", block_id, chunk, payload)
    return StreamEvent(_EVENT_TYPES.get(event_type, event_type), block_id, "", payload)


def _other_event(name: str, data: str, payload: Any) -> Optional[StreamEvent]:
    """Read an event whose data is not a JSON object."""
    value = data if payload is _NOT_JSON else payload
    if isinstance(value, str) and value.strip() == "[DONE]":
        return None
    event_type = _EVENT_TYPES.get(name, name) if payload is _NOT_JSON or name == "error" else "message"
    return StreamEvent(event_type, None, "", {"data": value})


def _is_failure(event_type: str, payload: Dict[str, Any]) -> bool:
    """Return whether an event reports that the run failed, in any of the known forms."""
    if event_type == "error" or payload.get("type") == "error":
        return True
    if event_type in _ENDS:
        end = _end_of(payload)
        return bool(end.get("error")) and not isinstance(end.get("success"), bool)  # otherwise the end itself says how the run ended
    return bool(payload.get("error")) and (payload.get("success") is False or not _OF_A_BLOCK & payload.keys())


def _end_of(payload: Dict[str, Any]) -> Dict[str, Any]:
    inner: Any = payload.get("data")
    return {**payload, **inner} if isinstance(inner, OBJECT) else payload


def stream_end(event: Optional[StreamEvent]) -> WorkflowExecutionResult:
    """Read the result from the event that ends a stream; the mark alone means success."""
    end = _end_of(event.data) if event else {}
    return enveloped({**end, "success": end.get("success") is not False})


def stream_failure(event: StreamEvent, so_far: StreamedExecutionResult, request_id: Optional[str] = None) -> ExecutionError:
    """Return the error for the event that reports a failed run."""
    data = _end_of(event.data)
    reason = message_of(data.get("error") or data.get("message") or data.get("data") or "the server does not say why")
    facts: Dict[str, Any] = {"body": event.data, "server_code": as_str(event.data.get("code")), "request_id": request_id}
    error = build_error(ExecutionError, f"the workflow failed: {reason}", may_have_executed=True, result=so_far, **facts)
    so_far.error = reason
    return error
