"""Turn a response into a model. Both dialects of the API are read, and the documented form is returned."""

import json
from typing import Any, Dict

from recall_sdk._bodies import OBJECT, as_dict, as_str, envelope, is_paused, message_of
from recall_sdk._rate_limits import with_limit
from recall_sdk._response import Response
from recall_sdk._statuses import not_json, unreadable
from recall_sdk.errors import ExecutionError, build_error
from recall_sdk.models import AsyncExecutionResult, Result, UsageLimits, WorkflowExecutionResult, WorkflowStatus

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
    return envelope(body) or WorkflowExecutionResult(success=True, output=body)


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
