"""Which error a status is, what it says, and whether the workflow may have run."""

import math
from typing import Any, Dict, NamedTuple, Optional, Tuple, Type, Union

from recall_sdk import errors
from recall_sdk._bodies import OBJECT, as_dict, as_str, envelope, is_html, json_or, message_of, reason_of, shown
from recall_sdk._rate_limits import rate_limit_info, retry_after
from recall_sdk._response import Response
from recall_sdk.models import WorkflowExecutionResult
from recall_sdk.retry import MAX_RETRY_AFTER

_Kind = Tuple[Type[errors.RecallError], str]
"""The class of an error, and the advice for the caller."""

_FAILED_RUN: _Kind = (errors.ExecutionError, "")

_KINDS: Dict[Union[int, str, None], _Kind] = {
    401: (errors.AuthenticationError, "check the API key, passed as api_key= or in RECALL_API_KEY"),
    **dict.fromkeys((402, "USAGE_LIMIT_EXCEEDED"), (errors.UsageLimitError, "raise the limit or the plan; get_usage_limits() shows both")),
    403: (errors.PermissionDeniedError, "check that the API key may do this, and that the workflow is deployed"),
    404: (errors.NotFoundError, "this is not the API: check the base_url"),
    407: (errors.InvalidRequestError, "the proxy requires credentials: set them in HTTPS_PROXY, or on your session"),
    408: (errors.RecallTimeoutError, "the workflow takes longer than the server allows"),
    429: (errors.RateLimitError, ""),
    503: (errors.ServerError, "the server is overloaded or down; try again later"),
    **dict.fromkeys((502, 520, 521, 522, 523, 530), (errors.ServerError, "a gateway could not reach the server; try again later")),
    **dict.fromkeys((504, 524, 598), (errors.RecallTimeoutError, "a gateway stopped waiting, and the workflow may still be running")),
    "EXECUTION_ID_CONFLICT": (errors.InvalidRequestError, "the input has an executionId that was used before; omit it, or send a new one"),
}
"""The error for a server's code, with any status, or for a status. From 520 on they are those of content delivery networks and proxies."""

_TAKE_THE_CODE = (errors.PermissionDeniedError, errors.NotFoundError, errors.InvalidRequestError, errors.ServerError)
"""The classes whose code is the server's, if it sends one; the others have the documented code."""

_REJECTIONS = (401, 402, 403, 404, 429)
"""Statuses with which a server also rejects a run: with one of these, only a body with data of the run is a failed run."""

_MAY_HAVE_STARTED = (408, 409, 422, 499)
"""The 4xx statuses after which the workflow may have run."""

_REFUSAL = {"error", "message", "code", "detail", "title", "errors"}
"""Each refusal of the API has one of these fields. JSON without any of them is the workflow's own response."""

_HTML_PAGE = "an HTML page came instead of JSON: something in front of the API responded, such as a gateway or bot protection"

_NOT_JSON = object()


class _Body(NamedTuple):
    """The body of a response: its JSON value, else its text, else ``None``; whether it is a page, or comes from the workflow itself."""

    value: Any
    is_page: bool
    is_own: bool


def error_of(response: Response) -> errors.RecallError:
    """Return the error for a response with a status other than 2xx."""
    body = _body(response, response.read())
    fields = as_dict(body.value)
    server_code = errors.one_line(as_str(as_dict(fields.get("error")).get("code")) or as_str(fields.get("code")) or "") or None
    wait = retry_after(response, body.value)
    kind, advice = _kind(response, body, server_code)
    reason = _reason(body)
    advice = _advice(response, body, kind, advice, wait)
    if kind is errors.ExecutionError and not body.is_own:
        reason = f"the workflow failed: {reason}"
    facts: Dict[str, Any] = {"server_code": server_code, "retry_after": wait, "code": server_code if kind in _TAKE_THE_CODE else None}
    if kind is errors.RateLimitError:
        facts["rate_limit"] = rate_limit_info(response, wait)
    elif kind in (errors.RecallTimeoutError, errors.ExecutionError):
        own = WorkflowExecutionResult(success=False, output=body.value, error=f"the workflow responded with HTTP {response.status}")
        facts["result"] = own if body.is_own else envelope(body.value)
    return _build(kind, f"{reason} (HTTP {response.status})" + (f": {advice}" if advice else ""), response, body, **facts)


def unreadable(response: Response, what: str, content: Optional[bytes] = None) -> errors.RecallError:
    """Return the error for a 2xx response that is not what the API sends.

    Args:
        response: The response.
        what: Continues "the response ...".
        content: Its body; by default it is read.
    """
    body = _body(response, response.read() if content is None else content)
    return _build(errors.InvalidResponseError, f"the response {what} (HTTP {response.status})", response, body)


def not_json(response: Response) -> errors.RecallError:
    """Return the error for a 2xx response whose body is not JSON."""
    body = _body(response, response.read())
    encoding = response.headers.get("Content-Encoding")
    if body.is_page or body.value is None:
        what = "an HTML page instead of JSON" if body.is_page else "empty"
        return unreadable(response, f"is {what}: check the base_url, and whether a proxy responded")
    if encoding:
        return unreadable(response, f"is not JSON, or encoded in a way that can't be read (Content-Encoding: {encoding})")
    return unreadable(response, f"is not JSON: {message_of(body.value)}")


def request_id(response: Response, body: object = None) -> Optional[str]:
    """Return the server's id of a response, if it has one."""
    return response.headers.get("X-Request-Id") or as_str(as_dict(body).get("requestId"))


def _build(kind: Type[errors.RecallError], message: str, response: Response, body: _Body, **facts: Any) -> errors.RecallError:
    status, request = response.status, response.request
    refused = 400 <= status < 500 and status not in _MAY_HAVE_STARTED and kind is not errors.ExecutionError
    facts.update(status=status, body=body.value, request_id=request_id(response, body.value))
    return errors.build_error(kind, message, may_have_executed=request.executes and (response.exchange.may_repeat or not refused), **facts)


def _body(response: Response, content: bytes) -> _Body:
    value = json_or(content, _NOT_JSON)
    if value is not _NOT_JSON:
        is_own = response.request.executes and response.status >= 400 and _REFUSAL.isdisjoint(as_dict(value))
        return _Body(value, is_page=False, is_own=is_own)
    text = content.decode("utf-8", "replace")
    value = text if text.strip() else None
    return _Body(value, is_page=bool(value) and is_html(text, response.headers.get("Content-Type") or ""), is_own=False)


def _kind(response: Response, body: _Body, server_code: Optional[str]) -> _Kind:
    status, executes, fields = response.status, response.request.executes, as_dict(body.value)
    reports_failure = executes and fields.get("success") is False and bool(fields.get("error")) and status != 408
    if body.is_own or (reports_failure and (status not in _REJECTIONS or "output" in fields or "metadata" in fields)):
        return _FAILED_RUN
    if server_code in _KINDS:
        return _KINDS[server_code]
    if executes and status == 500:
        return _FAILED_RUN
    other = errors.ServerError if status >= 500 else errors.InvalidRequestError if status >= 400 else errors.InvalidResponseError
    return _KINDS.get(status, (other, ""))


def _reason(body: _Body) -> str:
    if body.is_page or body.is_own:
        return _HTML_PAGE if body.is_page else f"the workflow's own response: {shown(body.value)}"
    reason = errors.one_line(reason_of(body.value))
    known = body.value and not isinstance(body.value, str)
    return reason or (f"the server gave no reason, only {shown(body.value)}" if known else "the server gave no reason")


def _advice(response: Response, body: _Body, kind: Type[errors.RecallError], advice: str, wait: Optional[float]) -> str:
    """Return the advice that fits this request and this response."""
    request = response.request
    may_not = kind in (errors.AuthenticationError, errors.PermissionDeniedError)
    if kind is errors.NotFoundError and isinstance(body.value, OBJECT):
        advice = f"check the id {request.id!r} and the base_url"
    elif may_not and body.is_page:
        advice = "check the base_url, and what is between here and the API"
    elif may_not and "deployed" in _reason(body).lower():
        advice = "deploy it in Recall first"
    elif kind is errors.RateLimitError:
        advice = f"wait {math.ceil(wait)} s and retry" if wait else "wait and retry"
        if request.executes and (wait or 0.0) <= MAX_RETRY_AFTER:
            advice = f"{advice}; execute_with_retry() does so, up to max_retries times"
    elif kind is errors.RecallTimeoutError and not request.executes:
        advice = "the server ran out of time; try again later"
    elif kind is errors.RecallTimeoutError and not request.asynchronous:
        advice = f"{advice}; async_execution=True queues it instead"
    return advice
