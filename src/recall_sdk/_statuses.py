"""Which error a status is, what it says, and whether the workflow may have run."""

from __future__ import annotations

import math
from typing import Any, Dict, NamedTuple, Optional, Tuple, Type, TypeVar

from recall_sdk import errors
from recall_sdk._bodies import OBJECT, as_dict, as_str, envelope, is_html, json_or, message_of, reason_of, shown
from recall_sdk._rate_limits import rate_limit_info, retry_after
from recall_sdk._response import Response
from recall_sdk.errors import build_error, one_line
from recall_sdk.models import WorkflowExecutionResult
from recall_sdk.retry import MAX_RETRY_AFTER

_Error = TypeVar("_Error", bound=errors.RecallError)
_Kind = Tuple[Type[errors.RecallError], str]
"""The class of an error, and the advice for the caller."""

_FAILED_RUN: _Kind = (errors.ExecutionError, "")
_BAD_GATEWAY: _Kind = (errors.ServerError, "a gateway could not reach the server; try again later")
_GATEWAY_TIMEOUT: _Kind = (errors.RecallTimeoutError, "a gateway stopped waiting, and the workflow may still be running")

_KINDS: Dict[int, _Kind] = {
    401: (errors.AuthenticationError, "check the API key, passed as api_key= or in RECALL_API_KEY"),
    402: (errors.UsageLimitError, "raise the limit or the plan; get_usage_limits() shows both"),
    403: (errors.PermissionDeniedError, "check that the API key may do this, and that the workflow is deployed"),
    404: (errors.NotFoundError, ""),
    407: (errors.InvalidRequestError, "the proxy requires credentials: set them in HTTPS_PROXY, or on your session"),
    408: (errors.RecallTimeoutError, "the workflow takes longer than the server allows"),
    429: (errors.RateLimitError, ""),
    503: (errors.ServerError, "the server is overloaded or down; try again later"),
    **dict.fromkeys((502, 520, 521, 522, 523, 530), _BAD_GATEWAY),
    **dict.fromkeys((504, 524, 598), _GATEWAY_TIMEOUT),
}
"""The error for each status. From 520 on they are those of content delivery networks and proxies."""

_KINDS_BY_CODE: Dict[Optional[str], _Kind] = {
    "USAGE_LIMIT_EXCEEDED": _KINDS[402],
    "EXECUTION_ID_CONFLICT": (errors.InvalidRequestError, "the input has an executionId that was used before; omit it, or send a new one"),
}
"""The error for a server's code, with any status."""

_TAKE_THE_CODE = (errors.PermissionDeniedError, errors.NotFoundError, errors.InvalidRequestError, errors.ServerError)
"""The classes whose code is the server's, if it sends one; the others have the documented code."""

_REJECTIONS = (401, 402, 403, 404, 429)
"""Statuses with which a server also rejects a run: with one of these, only a body with data of the run is a failed run."""

_MAY_HAVE_STARTED = (408, 409, 422, 499)
"""The 4xx statuses after which the workflow may have run."""

_REFUSAL = {"error", "message", "code", "detail", "title", "errors"}
"""Each refusal of the API has one of these fields. JSON without any of them is the workflow's own response."""

_HTML_PAGE = "an HTML page came instead of JSON: something in front of the API answered, such as a gateway or a bot wall"


_NOT_JSON = object()


class _Body(NamedTuple):
    """The body of a response: its JSON value, else its text, else ``None``."""

    value: Any
    is_json: bool
    is_page: bool


def error_of(response: Response) -> errors.RecallError:
    """Return the error for a response with a status other than 2xx."""
    status, request = response.status, response.request
    body = _body(response, response.read())
    fields = as_dict(body.value)
    server_code = one_line(as_str(as_dict(fields.get("error")).get("code")) or as_str(fields.get("code")) or "") or None
    wait = retry_after(response, body.value)
    is_own = request.executes and _is_own_response(status, body)
    kind, advice = _FAILED_RUN if is_own else _kind(response, body, server_code)
    if is_own:
        message = f"the workflow's own response: {shown(body.value)} (HTTP {status})"
    else:
        reason = _reason(body)
        message = f"the workflow failed: {reason} (HTTP {status})" if kind is errors.ExecutionError else f"{reason} (HTTP {status})"
        advice = _advice(response, body, kind, advice, wait)
    message = f"{message}: {advice}" if advice else message
    refused = 400 <= status < 500 and status not in _MAY_HAVE_STARTED and kind is not errors.ExecutionError
    code = server_code if kind in _TAKE_THE_CODE else None
    error = _build(kind, message, response, body, refused=refused, code=code, server_code=server_code, retry_after=wait)
    if isinstance(error, errors.RateLimitError):
        error.rate_limit = rate_limit_info(response, wait)
    elif isinstance(error, (errors.RecallTimeoutError, errors.ExecutionError)):
        own = WorkflowExecutionResult(success=False, output=body.value, error=f"the workflow responded with HTTP {status}")
        error.result = own if is_own else envelope(body.value)
    return error


def unreadable(response: Response, what: str, content: Optional[bytes] = None) -> errors.InvalidResponseError:
    """Return the error for a 2xx response that is not what the API sends.

    Args:
        response: The response.
        what: Continues "the response ...".
        content: Its body; by default it is read.
    """
    body = _body(response, response.read() if content is None else content)
    return _build(errors.InvalidResponseError, f"the response {what} (HTTP {response.status})", response, body)


def not_json(response: Response) -> errors.InvalidResponseError:
    """Return the error for a 2xx response whose body is not JSON."""
    body = _body(response, response.read())
    encoding = response.headers.get("Content-Encoding")
    if body.is_page:
        what = "is an HTML page instead of JSON: check the base_url, and whether a proxy answered"
    elif not response.read().strip():
        what = "is empty: check the base_url, and whether a proxy answered"
    elif encoding:
        what = f"is not JSON, or encoded in a way that can't be read (Content-Encoding: {encoding})"
    else:
        what = f"is not JSON: {message_of(body.value)}"
    return unreadable(response, what)


def request_id(response: Response, body: object = None) -> Optional[str]:
    """Return the server's id of a response, if it has one."""
    return response.headers.get("X-Request-Id") or as_str(as_dict(body).get("requestId"))


def _build(kind: Type[_Error], message: str, response: Response, body: _Body, *, refused: bool = False, **facts: Any) -> _Error:
    may_have_executed = response.request.executes and (response.may_repeat or not refused)
    facts.update(status=response.status, body=body.value, request_id=request_id(response, body.value))
    return build_error(kind, message, may_have_executed=may_have_executed, **facts)


def _body(response: Response, content: bytes) -> _Body:
    value = json_or(content, _NOT_JSON)
    if value is not _NOT_JSON:
        return _Body(value, is_json=True, is_page=False)
    text = content.decode("utf-8", "replace")
    is_page = bool(text.strip()) and is_html(text, response.headers.get("Content-Type") or "")
    return _Body(text or None, is_json=False, is_page=is_page)


def _kind(response: Response, body: _Body, server_code: Optional[str]) -> _Kind:
    status, executes = response.status, response.request.executes
    if executes and _is_failed_run(status, body):
        return _FAILED_RUN
    if server_code in _KINDS_BY_CODE:
        return _KINDS_BY_CODE[server_code]
    if executes and status == 500:
        return _FAILED_RUN
    other = errors.ServerError if status >= 500 else errors.InvalidRequestError if status >= 400 else errors.InvalidResponseError
    return _KINDS.get(status, (other, ""))


def _is_failed_run(status: int, body: _Body) -> bool:
    fields = as_dict(body.value)
    if fields.get("success") is not False or not fields.get("error") or status == 408:
        return False
    return status not in _REJECTIONS or "output" in fields or "metadata" in fields


def _is_own_response(status: int, body: _Body) -> bool:
    return status >= 400 and body.is_json and _REFUSAL.isdisjoint(as_dict(body.value))


def _reason(body: _Body) -> str:
    if body.is_page:
        return _HTML_PAGE
    reason = one_line(reason_of(body.value))
    known = body.is_json and body.value
    return reason or (f"the server gave no reason, only {shown(body.value)}" if known else "the server gave no reason")


def _advice(response: Response, body: _Body, kind: Type[errors.RecallError], advice: str, wait: Optional[float]) -> str:
    """Return the advice that fits this request and this response."""
    request = response.request
    if kind is errors.NotFoundError:
        known = isinstance(body.value, OBJECT)
        advice = f"check the id {request.id!r} and the base_url" if known else "this is not the API: check the base_url"
    elif kind in (errors.AuthenticationError, errors.PermissionDeniedError):
        if body.is_page:
            advice = "check the base_url, and what is between here and the API"
        elif "deployed" in _reason(body).lower():
            advice = "deploy it in Recall first"
    elif kind is errors.RateLimitError:
        advice = f"wait {math.ceil(wait)} s and retry" if wait else "wait and retry"
        if request.executes and (wait or 0.0) <= MAX_RETRY_AFTER:
            advice = f"{advice}; execute_with_retry() does so, up to max_retries times"
    elif kind is errors.RecallTimeoutError:
        if not request.executes:
            advice = "the server ran out of time; try again later"
        elif not request.asynchronous:
            advice = f"{advice}; async_execution=True queues it instead"
    return advice
