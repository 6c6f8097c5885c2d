"""The errors that calls raise.

::

    Exception
    └── RecallError                     any failed call
        ├── AuthenticationError         401: the key is wrong
        ├── UsageLimitError             402: the plan's spending limit is reached
        ├── PermissionDeniedError       403: the key may not do this, or the workflow is not deployed
        ├── NotFoundError               404: no such workflow or job
        ├── RateLimitError              429: too many requests
        ├── InvalidRequestError         other 4xx, and input that isn't JSON-serializable (also a ValueError)
        ├── RecallTimeoutError          a timeout of the SDK or the server (408, 504, 524, 598)
        ├── ExecutionError              the workflow ran and failed
        ├── ServerError                 other 5xx
        ├── RecallConnectionError       the connection failed
        │   └── StreamInterruptedError  a stream that was cut before its end
        ├── RedirectError               a redirect that is not safe to follow
        └── InvalidResponseError        a response that can't be read
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any, Optional, Pattern, Set, Type, TypeVar
from urllib.parse import quote

if TYPE_CHECKING:
    from recall_sdk.models import RateLimitInfo, StreamedExecutionResult, WorkflowExecutionResult

_REFUSALS = {"UNAUTHORIZED", "USAGE_LIMIT_EXCEEDED", "FORBIDDEN", "NOT_FOUND", "RATE_LIMIT_EXCEEDED"}
"""The codes of the classes for which ``may_have_executed`` is never True."""


class RecallError(Exception):
    """A call failed. This is the base class of all errors that calls raise.

    Args:
        message: One line that says what happened and what to do.
        code: The documented code, such as ``"TIMEOUT"``; by default that of the class.
        status: The HTTP status, or ``None`` if there was no response.

    Attributes:
        code: The documented code.
        status: The HTTP status.
        body: The response body as parsed JSON, else as text, or ``None``.
        server_code: The code as the server sent it, or ``None``.
        retry_after: Seconds to wait before the next attempt, or ``None`` if the server does not say.
        may_have_executed: Whether the workflow may have run. If ``False``, it is safe to send the call again.
        request_id: The server's id of the response, to quote to Recall support, or ``None``.

    Example:
        >>> error = RecallError("no such workflow", "NOT_FOUND", 404)
        >>> error.code, error.status
        ('NOT_FOUND', 404)
    """

    _code: Optional[str] = None

    def __init_subclass__(cls, code: Optional[str] = None) -> None:
        super().__init_subclass__()
        cls._code = code or cls._code

    def __init__(self, message: str, code: Optional[str] = None, status: Optional[int] = None) -> None:
        super().__init__(message)
        self.code: Optional[str] = self._code if code is None else code
        self.status = status
        self.body: Any = None
        self.server_code: Optional[str] = None
        self.retry_after: Optional[float] = None
        self.may_have_executed: bool = self._code not in _REFUSALS  # of an error that is rebuilt from its message alone
        self.request_id: Optional[str] = None


class AuthenticationError(RecallError, code="UNAUTHORIZED"):
    """The API key is missing, wrong or revoked (401, ``UNAUTHORIZED``).

    Example:
        >>> client.set_api_key("a-wrong-key")
        >>> try:
        ...     client.execute_workflow("greet")
        ... except AuthenticationError as error:
        ...     print(error.code)
        UNAUTHORIZED
    """


class UsageLimitError(RecallError, code="USAGE_LIMIT_EXCEEDED"):
    """The plan's spending limit is reached (402, ``USAGE_LIMIT_EXCEEDED``). Waiting does not help, so it is never retried.

    Example:
        >>> server.respond_next(402, json={"error": "Usage limit exceeded"})
        >>> try:
        ...     client.execute_with_retry("greet")
        ... except UsageLimitError as error:
        ...     print(error.code)
        USAGE_LIMIT_EXCEEDED
    """


class PermissionDeniedError(RecallError, code="FORBIDDEN"):
    """The key may not do this, or the workflow is not deployed (403, the server's code or ``FORBIDDEN``).

    Example:
        >>> try:
        ...     client.execute_workflow("draft")
        ... except PermissionDeniedError as error:
        ...     print(error)
        Workflow is not deployed (HTTP 403): deploy it in Recall first
    """


class NotFoundError(RecallError, code="NOT_FOUND"):
    """There is no such workflow or job (404, the server's code or ``NOT_FOUND``).

    Example:
        >>> try:
        ...     client.execute_workflow("no-such-workflow")
        ... except NotFoundError as error:
        ...     print(error.code)
        WORKFLOW_NOT_FOUND
    """


class RateLimitError(RecallError, code="RATE_LIMIT_EXCEEDED"):
    """Too many requests (429, ``RATE_LIMIT_EXCEEDED``). The workflow did not start.

    Attributes:
        rate_limit: The rate limit reported in the response, or ``None``.

    Example:
        >>> server.respond_next(429, headers={"Retry-After": "2"})
        >>> try:
        ...     client.execute_workflow("greet")
        ... except RateLimitError as error:
        ...     print(error.retry_after, error.may_have_executed)
        2.0 False
    """

    rate_limit: Optional[RateLimitInfo] = None


class InvalidRequestError(RecallError, ValueError, code="INVALID_REQUEST"):
    """The server rejects the request (other 4xx, its code or ``INVALID_REQUEST``), or the input isn't JSON-serializable (``INVALID_JSON``).

    Example:
        >>> try:
        ...     client.execute_workflow("greet", {"name": {"Ada", "Alan"}})
        ... except InvalidRequestError as error:
        ...     print(error)
        input.name: set is not JSON serializable; use list()
    """


class RecallTimeoutError(RecallError, code="TIMEOUT"):
    """The time ran out, in the SDK or on the server (408, 504, 524, 598; ``TIMEOUT``). The workflow may still be running.

    Attributes:
        result: What the server reported about the run, or ``None``.
        partial: The part of a stream that arrived, or ``None``.

    Example:
        >>> try:
        ...     client.execute_workflow("slow", timeout=0.1)
        ... except RecallTimeoutError as error:
        ...     print(error.code, error.may_have_executed)
        TIMEOUT True
    """

    result: Optional[WorkflowExecutionResult] = None
    partial: Optional[StreamedExecutionResult] = None


class ExecutionError(RecallError, code="EXECUTION_ERROR"):
    """The workflow ran and failed (``EXECUTION_ERROR``), or its job was cancelled (``JOB_CANCELLED``).

    Attributes:
        result: What the server reported about the run, or ``None``.

    Example:
        >>> try:
        ...     client.execute_workflow("fail")
        ... except ExecutionError as error:
        ...     print(error.result.error)
        this workflow always fails
    """

    result: Optional[WorkflowExecutionResult] = None


class ServerError(RecallError, code="SERVER_ERROR"):
    """The server failed (5xx, its code or ``SERVER_ERROR``).

    Example:
        >>> server.respond_next(503)
        >>> try:
        ...     client.get_usage_limits()
        ... except ServerError as error:
        ...     print(error.code, error.status)
        SERVER_ERROR 503
    """


class RecallConnectionError(RecallError, code="CONNECTION_ERROR"):
    """The connection failed, or broke before the response was complete (``CONNECTION_ERROR``).

    Example:
        >>> server.respond_next(drop=True)
        >>> try:
        ...     client.execute_workflow("greet")
        ... except RecallConnectionError as error:
        ...     print(error.code, error.may_have_executed)
        CONNECTION_ERROR True
    """


class StreamInterruptedError(RecallConnectionError, code="STREAM_INTERRUPTED"):
    """A stream was cut before its end (``STREAM_INTERRUPTED``).

    Attributes:
        partial: The part that arrived.

    Example:
        >>> server.respond_next(events=[{"blockId": "b", "chunk": "Once upon"}], cut=True)
        >>> try:
        ...     client.execute_workflow("count", stream=True)
        ... except StreamInterruptedError as error:
        ...     print(error.partial.text)
        Once upon
    """

    partial: Optional[StreamedExecutionResult] = None


class RedirectError(RecallError, code="REDIRECT_REFUSED"):
    """The server redirects to another origin, or in a way that a POST can't follow (``REDIRECT_REFUSED``).

    Example:
        >>> server.respond_next(301, headers={"Location": "https://www.example.com/"})
        >>> try:
        ...     client.execute_workflow("greet")
        ... except RedirectError as error:
        ...     print(error.code, error.status)
        REDIRECT_REFUSED 301
    """


class InvalidResponseError(RecallError, code="INVALID_RESPONSE"):
    """The response can't be read: not JSON, of the wrong shape, or badly encoded (``INVALID_RESPONSE``).

    Example:
        >>> server.respond_next(200, body="<html>Please log in</html>")
        >>> try:
        ...     client.execute_workflow("greet")
        ... except InvalidResponseError as error:
        ...     print(error)
        the response is an HTML page instead of JSON: check the base_url, and whether a proxy responded (HTTP 200)
    """


_Error = TypeVar("_Error", bound=RecallError)


def build_error(
    kind: Type[_Error], message: str, *, may_have_executed: bool, code: Optional[str] = None, status: Optional[int] = None, **facts: Any
) -> _Error:
    """Build an error with further attributes, and clean each text that a server may have chosen. All errors are built here."""
    error = kind(one_line(message), code and one_line(code), status)
    error.may_have_executed = may_have_executed
    for name, value in facts.items():
        is_short_text = isinstance(value, str) and name != "body"
        setattr(error, name, one_line(value) if is_short_text else value)
    return error


_MAX_LENGTH = 64 * 1024
"""Characters of a text that are searched and kept. A regular expression over more would stop all threads for too long."""

_ESCAPE_SEQUENCE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-_])"  # ECMA-48, section 5.4
_NOT_PRINTED = r"[\s\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"  # bidirectional marks among them
_UNCLEAN = f"(?:{_ESCAPE_SEQUENCE}|{_NOT_PRINTED})+"


def one_line(text: str) -> str:
    """Replace white space, control characters, escape sequences, bidirectional marks and lone surrogates by single spaces."""
    if len(text) > _MAX_LENGTH:
        text = f"{text[: _MAX_LENGTH // 2]} ... {text[-_MAX_LENGTH // 2 :]}"
    return re.sub(_UNCLEAN, " ", text).strip()


# ------------------------------------------------------------------------------------------------------ masking the key

_MASK = "[API key]"

SHORT_KEY = 8
"""Characters. A shorter key is masked only as a whole word: "test" within "latest" is no key."""

_START_OF_MESSAGE, _END_OF_MESSAGE = 420, 180
"""Characters to keep of the start and the end of a long message. The end says what to do."""


def without_key(error: RecallError, api_key: str) -> RecallError:
    """Mask the key in an error, drop its causes if one of them shows the key, and shorten a long message; return the error.

    The causes are not changed: one of them may be the exception that the caller is handling.
    """
    secret = _pattern(api_key)
    error.args = tuple(_mask(each, secret) for each in error.args)
    for name, value in vars(error).items():
        try:
            setattr(error, name, _mask(value, secret))
        except RecursionError:
            setattr(error, name, None)  # nested too deeply to be searched, so drop it
    seen = {id(error)}
    visible = _visible_text(error.__cause__, seen) + _visible_text(error.__context__, seen)
    if secret.search(visible):
        error.__cause__ = error.__context__ = None
    message = str(error)
    if len(message) > _START_OF_MESSAGE + _END_OF_MESSAGE:  # only now: half a key would not be recognized
        error.args = (f"{message[:_START_OF_MESSAGE]} ... {message[-_END_OF_MESSAGE:]}",)
    return error


def masked_text(text: str, api_key: str) -> str:
    """Return a text as one clean line without the key, for a log."""
    return _pattern(api_key).sub(_MASK, one_line(text))


def _pattern(api_key: str) -> Pattern[str]:
    forms = {api_key, quote(api_key, safe=""), json.dumps(api_key)[1:-1]}
    any_form = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    return re.compile(any_form if len(api_key) >= SHORT_KEY else rf"(?<!\w)(?:{any_form})(?!\w)")


def _mask(value: Any, secret: Pattern[str]) -> Any:
    """Return a JSON value, or a model of JSON values, with the secret in its strings masked."""
    kind: Any = value.__class__
    if kind is str:
        value = secret.sub(_MASK, value)
    elif kind is list:
        value = [_mask(item, secret) for item in value]
    elif kind is dict:
        value = {_mask(key, secret): _mask(item, secret) for key, item in value.items()}
    elif is_dataclass(kind):
        value = replace(value, **_mask(vars(value), secret))
    return value


def _visible_text(error: Optional[BaseException], seen: Set[int]) -> str:
    """Return what an error and its causes show. The errors of decoders hold the text that they could not decode."""
    if error is None or id(error) in seen:
        return ""
    seen.add(id(error))
    text = ""
    for facts in (error, error.args, vars(error)):
        with suppress(Exception):  # a foreign exception may raise anything
            text += f"{facts} "
    return text + _visible_text(error.__cause__, seen) + _visible_text(error.__context__, seen)
