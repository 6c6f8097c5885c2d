"""Turn an answer into a model or an error. This is the only module that knows the fields of answers, in both dialects.

It uses neither the clock nor the network: an answer holds the time when it arrived.
"""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timezone
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Type, Union

from recall_sdk._messages import REQUEST_ID, Answer
from recall_sdk.errors import (
    AuthenticationError,
    ExecutionError,
    InvalidRequestError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RecallError,
    RecallTimeoutError,
    ServerError,
    UsageLimitError,
    one_line,
)
from recall_sdk.models import (
    AsyncExecutionResult,
    RateLimitInfo,
    StreamedExecutionResult,
    StreamEvent,
    UsageLimits,
    WorkflowExecutionResult,
    WorkflowStatus,
)
from recall_sdk.retry import FIRST_MOMENT, MAX_RETRY_AFTER

_OBJECT: Any = dict
_ARRAY: Any = list
"""The containers of JSON as ``Any``, so that a type checker does not treat their contents as unknown."""

JOB_STATES = {
    "pending": "queued",
    "running": "processing",
    "success": "completed",
    "error": "failed",
    "canceled": "cancelled",
}
"""Other servers' names for the states of a job, and the documented ones."""


# ---------------------------------------------------------------------------------------------------- executions

NO_REASON = "the server gave no reason; the run may have been cancelled"


def execution(answer: Answer) -> Union[WorkflowExecutionResult, AsyncExecutionResult]:
    """Read the answer to an execution."""
    check(answer)
    if answer.status == 204 and not answer.call.asynchronous:
        return WorkflowExecutionResult(success=True)
    body = parse(answer)
    queued = _queued_run(_dict(body)) if answer.call.asynchronous or answer.status == 202 else None
    if answer.call.asynchronous and queued is None:
        raise unreadable(answer, "has no task id")
    return queued or envelope(body) or WorkflowExecutionResult(success=True, output=body)


def execution_of_stream(answer: Answer) -> WorkflowExecutionResult:
    """Read the answer to a request for a stream that is not a stream."""
    result = execution(answer)
    if isinstance(result, WorkflowExecutionResult):
        return result
    raise unreadable(answer, f"is not a stream: the run was queued, and wait_for_job({result.task_id!r}) returns its result")


def envelope(body: Any) -> Optional[WorkflowExecutionResult]:
    """Read the envelope around a workflow's output; ``None`` if there is none and the body is the output."""
    fields = _dict(body)
    success = fields.get("success")
    is_envelope = isinstance(success, bool) and ("output" in fields or (not success and "error" in fields))
    return _enveloped(fields) if is_envelope else None


def _enveloped(fields: Dict[str, Any]) -> WorkflowExecutionResult:
    metadata: Optional[Dict[str, Any]] = fields["metadata"] if isinstance(fields.get("metadata"), _OBJECT) else None
    beside = {name: fields[name] for name in ("executionId", "status") if name in fields}
    if beside:
        metadata = {**(metadata or {}), **beside}
    error = None if fields.get("error") is None else message_of(fields["error"])
    return WorkflowExecutionResult(
        success=fields["success"],
        output=fields.get("output"),
        error=error if error or fields["success"] else NO_REASON,
        logs=_list(fields.get("logs")),
        metadata=metadata,
        trace_spans=_list(fields.get("traceSpans")),
        total_duration=_number(fields.get("totalDuration")),
    )


def _queued_run(body: Dict[str, Any]) -> Optional[AsyncExecutionResult]:
    task_id = _str(body.get("taskId")) or _str(body.get("jobId"))
    if not task_id:
        return None
    links = {name: link for name, link in _dict(body.get("links")).items() if isinstance(link, str)}
    links.setdefault("status", _str(body.get("statusUrl")) or f"/api/jobs/{task_id}")
    return AsyncExecutionResult(
        success=body.get("success") is not False,
        task_id=task_id,
        status=_job_state(_str(body.get("status")) or "queued"),
        created_at=_str(body.get("createdAt")) or "",
        links=links,
    )


# ---------------------------------------------------------------------------------------------------- other calls


def workflow_status(answer: Answer) -> WorkflowStatus:
    """Read the answer about a workflow."""
    body = _object(answer)
    is_deployed = body.get("isDeployed")
    if not isinstance(is_deployed, bool):
        raise unreadable(answer, "has no boolean isDeployed")
    return WorkflowStatus(is_deployed, _str(body.get("deployedAt")), body.get("needsRedeployment") is True)


def job_status(answer: Answer) -> Dict[str, Any]:
    """Read the answer about a job, into the documented form."""
    body = _object(answer)
    state = body.get("status")
    if not isinstance(state, str):
        raise unreadable(answer, "has no status")
    job: Dict[str, Any] = {
        **body,
        "success": body.get("success", True),
        "taskId": body.get("taskId") or body.get("jobId") or answer.call.id,
        "status": _job_state(state),
        "metadata": {"startedAt": None, "completedAt": None, "duration": None, **_dict(body.get("metadata"))},
        "output": body.get("output"),
        "error": body.get("error"),
    }
    record = job["output"]
    if isinstance(record, _OBJECT) and {"success", "output", "workflowId", "executionId"} <= record.keys():
        job.update(run=record, output=record["output"])
        if record["success"] is False and job["status"] == "completed":
            job["status"] = "failed"
            job["error"] = job["error"] or record.get("error") or "the run did not succeed; the server does not say why"
        elif job["status"] in ("failed", "cancelled"):
            job["error"] = job["error"] or record.get("error")
    return job


def _job_state(state: str) -> str:
    return JOB_STATES.get(state.lower(), state.lower())


def job_failure(job: Dict[str, Any]) -> ExecutionError:
    """Return the error of a job that failed or was cancelled."""
    cancelled = job["status"] == "cancelled"
    reason = message_of(job["error"]) if job["error"] else "the server does not say why"
    what = "was cancelled" if cancelled else "failed"
    error = ExecutionError(one_line(f"job {job['taskId']} {what}: {reason}"), "JOB_CANCELLED" if cancelled else "EXECUTION_ERROR")
    error.result = WorkflowExecutionResult(success=False, output=job["output"], error=reason, metadata=job["metadata"])
    error.body = job
    error.may_have_executed = True
    return error


def usage_limits(answer: Answer) -> UsageLimits:
    """Read the answer about the account's limits."""
    body = _object(answer)
    if not isinstance(body.get("rateLimit"), _OBJECT) or not isinstance(body.get("usage"), _OBJECT):
        raise unreadable(answer, "has no rateLimit and usage")
    return UsageLimits(
        success=body.get("success") is not False,
        rate_limit={name: _with_limit(value) for name, value in body["rateLimit"].items()},
        usage=body["usage"],
    )


def remaining_requests(answer: Answer, *, asynchronous: bool) -> Optional[Tuple[int, int, float]]:
    """Read from the account's limits the remaining requests, their limit, and the seconds until the reset."""
    limits = _dict(usage_limits(answer).rate_limit.get("async" if asynchronous else "sync"))
    remaining, limit, reset = (str(limits.get(name)) for name in ("remaining", "limit", "resetAt"))
    moment = _epoch(reset, answer)
    if moment is None or not (remaining.isdecimal() and limit.isdecimal()):
        return None
    return int(remaining), int(limit), moment - answer.received


def _with_limit(value: Any) -> Any:
    if not isinstance(value, _OBJECT) or value.get("limit") is not None:
        return value
    known = [value[name] for name in ("maxBurst", "requestsPerMinute") if value.get(name) is not None]
    return {**value, "limit": known[0]} if known else value


# ---------------------------------------------------------------------------------------------------- rate limits

CLOCKS_AGREE = 2.0
"""Seconds by which the server's clock may differ from ours before its times are shifted."""

_END_OF_TIME = 1e11
"""Seconds: the year 5138. A larger number is not a time in seconds; as a reset, it is in milliseconds."""


def rate_limit(answer: Answer, retry_after: Optional[float] = None) -> Optional[RateLimitInfo]:
    """Read the rate limit from the head of an answer, or return ``None`` if it reports none."""
    if retry_after is None:
        retry_after = answer.retry_after
    limit, remaining, reset = (answer.headers.get(f"X-RateLimit-{name}") for name in ("Limit", "Remaining", "Reset"))
    if limit is None and remaining is None and reset is None and (answer.status != 429 or retry_after is None):
        return None
    until = None if reset is None else _epoch(reset, answer)
    if until is None:
        until = answer.received + (retry_after or 0.0)
    wait = None if retry_after is None else math.ceil(retry_after)
    return RateLimitInfo(_count(limit), _count(remaining), math.ceil(min(until, _END_OF_TIME)), wait)


def _count(text: Optional[str]) -> int:
    match = re.match(r"\s*(\d{1,18})", text or "", re.ASCII)
    return int(match.group(1)) if match else 0


def _epoch(text: str, answer: Answer) -> Optional[float]:
    """Read a reset as seconds since the epoch, on this machine's clock."""
    try:
        value = float(text)
    except ValueError:
        date = _iso_date(text)
        return None if date is None else _local(date, answer)
    if not 0 <= value < _END_OF_TIME * 1000:
        return None
    if value < FIRST_MOMENT:
        return answer.received + value
    return _local(value / 1000 if value >= _END_OF_TIME else value, answer)


def _local(moment: float, answer: Answer) -> float:
    # A Date header has whole seconds, so two clocks that agree may seem to differ by one.
    return moment - answer.clock_offset if abs(answer.clock_offset) > CLOCKS_AGREE else moment


def _iso_date(text: str) -> Optional[float]:
    try:
        # Python 3.8 requires six digits of a fraction, and an offset in hours and minutes.
        text = re.sub(r"[.,](\d+)", lambda fraction: f".{fraction[1][:6]:<06}", re.sub(r"[Zz]$", "+00:00", text.strip()))
        date = datetime.fromisoformat(re.sub(r"(:\S*[+-]\d\d):?(\d\d)?$", lambda end: f"{end[1]}:{end[2] or '00'}", text))
        return max((date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp(), 0.0)
    except (ValueError, OverflowError):
        return None


# ---------------------------------------------------------------------------------------------------- errors


class _Kind(NamedTuple):
    """The error for an answer."""

    error: Type[RecallError]
    code: str
    advice: str = ""
    keeps_code: bool = False  # otherwise the server's code takes precedence


_USAGE_LIMIT = _Kind(UsageLimitError, "USAGE_LIMIT_EXCEEDED", "raise the limit or the plan; get_usage_limits() shows both", keeps_code=True)
_FAILED_RUN = _Kind(ExecutionError, "EXECUTION_ERROR", keeps_code=True)

_BAD_GATEWAY = _Kind(ServerError, "SERVER_ERROR", "a gateway could not reach the server; try again later")
_GATEWAY_TIMEOUT = _Kind(RecallTimeoutError, "TIMEOUT", "a gateway stopped waiting, and the workflow may still be running", keeps_code=True)
_INVALID_REQUEST = _Kind(InvalidRequestError, "INVALID_REQUEST")
_SERVER_ERROR = _Kind(ServerError, "SERVER_ERROR")
_INVALID_RESPONSE = _Kind(InvalidResponseError, "INVALID_RESPONSE", keeps_code=True)

_KINDS = {
    401: _Kind(AuthenticationError, "UNAUTHORIZED", "check the API key, passed as api_key= or in RECALL_API_KEY", keeps_code=True),
    402: _USAGE_LIMIT,
    403: _Kind(PermissionDeniedError, "FORBIDDEN", "check that the API key may do this, and that the workflow is deployed"),
    404: _Kind(NotFoundError, "NOT_FOUND"),
    407: _Kind(InvalidRequestError, "INVALID_REQUEST", "the proxy requires credentials: set them in HTTPS_PROXY, or on your session"),
    408: _Kind(RecallTimeoutError, "TIMEOUT", "the workflow takes longer than the server allows", keeps_code=True),
    429: _Kind(RateLimitError, "RATE_LIMIT_EXCEEDED", keeps_code=True),
    503: _Kind(ServerError, "SERVER_ERROR", "the server is overloaded or down; try again later"),
    **dict.fromkeys((502, 520, 521, 522, 523, 530), _BAD_GATEWAY),
    **dict.fromkeys((504, 524, 598), _GATEWAY_TIMEOUT),
}
"""The error for each status. From 520 on they are those of content delivery networks and proxies."""

_KINDS_BY_CODE = {
    _USAGE_LIMIT.code: _USAGE_LIMIT,
    "EXECUTION_ID_CONFLICT": _Kind(
        InvalidRequestError, "INVALID_REQUEST", "the input has an executionId that was used before; omit it, or send a new one"
    ),
}
"""The error for a server's code, with any status."""

_REJECTIONS = (401, 402, 403, 404, 429)
"""Statuses with which a server also rejects a run: with one of these, only a body with data of the run is a failed run."""

_MAY_HAVE_STARTED = (408, 409, 422, 499)
"""The 4xx statuses after which the workflow may have run."""


def check(answer: Answer) -> None:
    """Raise the error for an answer, unless it is a 2xx."""
    if not 200 <= answer.status < 300:
        raise error_of(answer)


def error_of(answer: Answer) -> RecallError:
    """Return the error for an answer with a status other than 2xx."""
    status = answer.status
    body = _error_body(answer)
    reason, server_code = _reason_and_code(body)
    kind = _kind(answer, body, server_code)
    retry_after = answer.retry_after if answer.retry_after is not None else _wait(_dict(body).get("retryAfterSeconds"))
    advice = _advice(answer, kind, reason, body, retry_after)
    reason = one_line(reason) or "the server gave no reason"
    message = f"the workflow failed: {reason} (HTTP {status})" if kind is _FAILED_RUN else f"{reason} (HTTP {status})"
    code = kind.code if kind.keeps_code else server_code or kind.code
    error = kind.error(f"{message}: {advice}" if advice else message, code, status)
    error.body = body
    error.server_code = server_code
    error.request_id = request_id(answer, body)
    refused = 400 <= status < 500 and status not in _MAY_HAVE_STARTED and kind is not _FAILED_RUN
    error.may_have_executed = answer.call.executes and not refused
    error.retry_after = retry_after
    if isinstance(error, RateLimitError):
        error.rate_limit = rate_limit(answer, retry_after)
    elif isinstance(error, (RecallTimeoutError, ExecutionError)):
        error.result = envelope(body)
    return error


def request_id(answer: Answer, body: Any = None) -> Optional[str]:
    """Return the server's id of an answer, if it has one."""
    return answer.headers.get(REQUEST_ID) or _str(_dict(body).get("requestId"))


def _is_failed_run(status: int, body: Any) -> bool:
    fields = _dict(body)
    if fields.get("success") is not False or not fields.get("error") or status == 408:
        return False
    return status not in _REJECTIONS or "output" in fields or "metadata" in fields


def _kind(answer: Answer, body: Any, server_code: Optional[str]) -> _Kind:
    status = answer.status
    if answer.call.executes and _is_failed_run(status, body):
        return _FAILED_RUN
    if server_code in _KINDS_BY_CODE:
        return _KINDS_BY_CODE[server_code]
    if status == 500 and answer.call.executes:
        return _FAILED_RUN
    other = _SERVER_ERROR if status >= 500 else _INVALID_REQUEST if status >= 400 else _INVALID_RESPONSE
    return _KINDS.get(status, other)


def _advice(answer: Answer, kind: _Kind, reason: str, body: Any, retry_after: Optional[float]) -> str:
    """Return the advice for the caller of this call."""
    call = answer.call
    advice = kind.advice
    if kind.error is NotFoundError:
        advice = f"check the id {call.id!r} and the base_url" if isinstance(body, _OBJECT) else "this is not the API: check the base_url"
    elif kind.error in (AuthenticationError, PermissionDeniedError):
        if reason == _HTML_PAGE:
            advice = "check the base_url, and what is between here and the API"
        elif "deployed" in reason.lower():
            advice = "deploy it in Recall first"
    elif kind.error is RateLimitError:
        advice = f"wait {math.ceil(retry_after)} s and retry" if retry_after else "wait and retry"
        if call.executes and (retry_after or 0.0) <= MAX_RETRY_AFTER:
            advice = f"{advice}; execute_with_retry() does so, up to max_retries times"
    elif kind.error is RecallTimeoutError:
        if not call.executes:
            advice = "the server ran out of time; try again later"
        elif not call.asynchronous:
            advice = f"{advice}; async_execution=True queues it instead"
    return advice


def parse(answer: Answer) -> Any:
    """Parse an answer's body as JSON."""
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise unreadable(answer, _what_it_is(answer)) from error


def unreadable(answer: Answer, what: str) -> InvalidResponseError:
    """Return the error for a 2xx answer that is not what the API sends."""
    error = InvalidResponseError(one_line(f"the answer {what} (HTTP {answer.status})"), "INVALID_RESPONSE", answer.status)
    error.body = _error_body(answer)
    error.request_id = request_id(answer, error.body)
    error.may_have_executed = answer.call.executes
    return error


def _what_it_is(answer: Answer) -> str:
    if not answer.body.strip():
        return "is empty: check the base_url, and whether a proxy answered"
    if _is_html(answer.body.decode("utf-8", "replace")):
        return "is an HTML page instead of JSON: check the base_url, and whether a proxy answered"
    encoding = answer.headers.get("Content-Encoding")
    return f"is not JSON, or encoded in a way that can't be read (Content-Encoding: {encoding})" if encoding else "is not JSON"


def _object(answer: Answer) -> Dict[str, Any]:
    check(answer)
    body = parse(answer)
    if not isinstance(body, _OBJECT):
        raise unreadable(answer, "is not a JSON object")
    return _dict(body)


def _error_body(answer: Answer) -> Any:
    return _json_or(answer.body, answer.body.decode("utf-8", "replace") or None)


def _reason_and_code(body: Any) -> Tuple[str, Optional[str]]:
    """Return the server's reason and code, in any of the known forms."""
    if isinstance(body, str):
        return (_HTML_PAGE if _is_html(body) else body), None
    if not isinstance(body, _OBJECT):
        return "", None
    inner: Dict[str, Any] = body["error"] if isinstance(body.get("error"), _OBJECT) else body
    said = [message_of(inner[name]) for name in ("error", "message") if isinstance(inner.get(name), (str, _OBJECT, _ARRAY))]
    if inner is not body:
        said.append(_str(body.get("message")) or "")
    text = ": ".join(dict.fromkeys(part for part in said if part))
    details = _list(body.get("details")) or []
    faults = [f"{message_of(fault.get('path'))}: {message_of(fault.get('message'))}" for fault in details if isinstance(fault, _OBJECT)]
    if faults:
        text = f"{text} [{'; '.join(faults)}]"
    return text, _str(inner.get("code")) or _str(body.get("code"))


_HTML_PAGE = "an HTML page came instead of JSON: something in front of the API answered, such as a gateway or a bot wall"


def _is_html(text: str) -> bool:
    return text.lstrip()[:14].lower().startswith(("<!doctype html", "<html"))


# ---------------------------------------------------------------------------------------------------- streams


_raw_decode = json.JSONDecoder().raw_decode


def stream_event(name: str, data: str) -> Optional[StreamEvent]:
    """Read one server-sent event; return ``None`` for the mark that ends a stream."""
    payload: Any = None
    try:
        payload, end = _raw_decode(data)  # twice as fast as json.loads()
    except (ValueError, RecursionError):
        end = -1
    if end != len(data):
        payload = _json_or(data, data)
    if not isinstance(payload, _OBJECT):
        if isinstance(payload, str) and payload.strip() == "[DONE]":
            return None
        return StreamEvent("error" if name == "error" else "message", None, "", {"data": payload})
    block_id, chunk = payload.get("blockId"), payload.get("chunk")
    if len(payload) == 2 and isinstance(block_id, str) and isinstance(chunk, str) and name != "error":
        return StreamEvent("chunk", block_id, chunk, payload)  # nearly every event; nothing in it can report a failure
    block_id, chunk, event = _str(block_id), _str(chunk), _str(payload.get("event"))
    event_type = event or name
    if name == "error" or _is_failure(event_type, payload):
        return StreamEvent("error", block_id, "", payload)
    if chunk is not None and event in (None, "message", "chunk"):
        return StreamEvent("chunk", block_id, chunk, payload)
    return StreamEvent(_EVENT_TYPES.get(event_type, event_type), block_id, "", payload)


def _is_failure(event_type: str, payload: Dict[str, Any]) -> bool:
    """Return whether an event reports that the run failed, in any of the known forms."""
    if event_type == "error" or payload.get("type") == "error":
        return True
    if event_type in _ENDS:
        end = _end_of(payload)
        return bool(end.get("error")) and not isinstance(end.get("success"), bool)  # otherwise the end itself says how the run ended
    if not payload.get("error"):
        return False
    return payload.get("success") is False or ("blockId" not in payload and "chunk" not in payload)


def _end_of(payload: Dict[str, Any]) -> Dict[str, Any]:
    return {**payload, **_dict(payload.get("data"))}


_ENDS = ("done", "final")
_EVENT_TYPES = {"final": "done", "stream_error": "block_error", "chunk": "message"}
"""Servers' names for an event, and our types for them; a chunk without text is a message."""


def stream_end(event: Optional[StreamEvent]) -> WorkflowExecutionResult:
    """Read the result from the event that ends a stream; the mark alone means success."""
    end = _end_of(event.data) if event else {}
    return _enveloped({**end, "success": end.get("success") is not False})


def stream_failure(event: StreamEvent, so_far: StreamedExecutionResult) -> ExecutionError:
    """Return the error for the event that reports a failed run."""
    data = _end_of(event.data)
    reason = message_of(data.get("error") or data.get("message") or data.get("data") or "the server does not say why")
    error = ExecutionError(one_line(f"the workflow failed: {reason}"), "EXECUTION_ERROR")
    error.result = so_far
    so_far.error = reason
    error.body = event.data
    error.server_code = _str(event.data.get("code"))
    error.may_have_executed = True
    return error


# ---------------------------------------------------------------------------------------------------- small readers


def message_of(value: Any) -> str:
    """Return a server's reason as text, even if it is an object."""
    if isinstance(value, _OBJECT):
        value = value.get("message") or value.get("error") or value
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except RecursionError:
        return "a reason nested too deeply to show"


def _json_or(text: Union[str, bytes], fallback: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return fallback


def _wait(value: Any) -> Optional[float]:
    seconds = _number(value)
    return float(seconds) if seconds is not None and 0 <= seconds < _END_OF_TIME else None


def _number(value: Any) -> Optional[float]:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _str(value: Any) -> Optional[str]:
    return value if isinstance(value, str) else None


def _list(value: Any) -> Optional[List[Any]]:
    return value if isinstance(value, _ARRAY) else None


def _dict(value: Any) -> Dict[str, Any]:
    return value if isinstance(value, _OBJECT) else {}
