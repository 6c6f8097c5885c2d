"""The errors that calls raise.

::

    Exception
    └── RecallError                     every failure of a call
        ├── AuthenticationError         401: the key is wrong
        ├── UsageLimitError             402: the plan's spending limit is reached
        ├── PermissionDeniedError       403: the key may not do this, or the workflow is not deployed
        ├── NotFoundError               404: no such workflow or job
        ├── RateLimitError              429: too many requests
        ├── InvalidRequestError         other 4xx, and input that is no JSON (a ValueError too)
        ├── RecallTimeoutError          out of time: here, or on the server (408, 504, 524, 598)
        ├── ExecutionError              the workflow ran and failed
        ├── ServerError                 other 5xx
        ├── RecallConnectionError       no connection, or one that broke
        │   └── StreamInterruptedError  a stream that broke off before its end
        ├── RedirectError               a redirect that is not safe to follow
        └── InvalidResponseError        an answer that can't be read
"""

import re
from typing import Any, Optional

from recall_sdk.models import RateLimitInfo, StreamedExecutionResult, WorkflowExecutionResult

__all__ = [
    "AuthenticationError",
    "ExecutionError",
    "InvalidRequestError",
    "InvalidResponseError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "RecallConnectionError",
    "RecallError",
    "RecallTimeoutError",
    "RedirectError",
    "ServerError",
    "StreamInterruptedError",
    "UsageLimitError",
]


class RecallError(Exception):
    """A call failed. The base of the family: catch it to catch all.

    Args:
        message: One line that says what happened and what to do.
        code: The documented code, such as ``"TIMEOUT"``.
        status: The HTTP status, or ``None`` where no answer came.

    Attributes:
        code: The documented code.
        status: The HTTP status.
        body: The answer's body: parsed JSON, else its text, else ``None``.
        server_code: The code as the server sent it, or ``None``.
        retry_after: Seconds to wait before the next try, or ``None`` where the server does not say.
        may_have_executed: Whether the workflow could have run. ``False`` means: safe to send again.
        request_id: The server's id of its answer, for its support or its logs, or ``None``.

    Example:
        >>> error = RecallError("no such workflow", "NOT_FOUND", 404)
        >>> error.code, error.status
        ('NOT_FOUND', 404)
    """

    def __init__(self, message: str, code: Optional[str] = None, status: Optional[int] = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.body: Any = None
        self.server_code: Optional[str] = None
        self.retry_after: Optional[float] = None
        self.may_have_executed: bool = False
        self.request_id: Optional[str] = None


class AuthenticationError(RecallError):
    """The API key is missing, wrong or revoked (401, ``UNAUTHORIZED``).

    Example:
        >>> client.set_api_key("a-wrong-key")
        >>> try:
        ...     client.execute_workflow("greet")
        ... except AuthenticationError as error:
        ...     print(error.code)
        UNAUTHORIZED
    """


class UsageLimitError(RecallError):
    """The plan's spending limit is reached (402, ``USAGE_LIMIT_EXCEEDED``). Waiting does not help; never retried.

    Example:
        >>> server.respond_next(402, json={"error": "Usage limit exceeded"})
        >>> try:
        ...     client.execute_with_retry("greet")
        ... except UsageLimitError as error:
        ...     print(error.code)
        USAGE_LIMIT_EXCEEDED
    """


class PermissionDeniedError(RecallError):
    """The key may not do this, or the workflow is not deployed (403, the server's code or ``FORBIDDEN``).

    Example:
        >>> try:
        ...     client.execute_workflow("draft")
        ... except PermissionDeniedError as error:
        ...     print(error)
        Workflow is not deployed (HTTP 403): deploy it in Recall first
    """


class NotFoundError(RecallError):
    """There is no such workflow or job (404, the server's code or ``NOT_FOUND``).

    Example:
        >>> try:
        ...     client.execute_workflow("no-such-workflow")
        ... except NotFoundError as error:
        ...     print(error.code)
        WORKFLOW_NOT_FOUND
    """


class RateLimitError(RecallError):
    """Too many requests (429, ``RATE_LIMIT_EXCEEDED``). The workflow did not start.

    Attributes:
        rate_limit: What the answer told of the limit, or ``None``.

    Example:
        >>> server.respond_next(429, headers={"Retry-After": "2"})
        >>> try:
        ...     client.execute_workflow("greet")
        ... except RateLimitError as error:
        ...     print(error.retry_after, error.may_have_executed)
        2.0 False
    """

    rate_limit: Optional[RateLimitInfo] = None


class InvalidRequestError(RecallError, ValueError):
    """The request is wrong: the server refuses it (other 4xx, its code or ``INVALID_REQUEST``), or it can't be sent (``INVALID_JSON``).

    Example:
        >>> try:
        ...     client.execute_workflow("greet", {"name": {"Ada", "Alan"}})
        ... except InvalidRequestError as error:
        ...     print(error)
        input.name: set is not JSON serializable
    """


class RecallTimeoutError(RecallError):
    """Time ran out, here or on the server (408, 504, 524, 598; ``TIMEOUT``). The workflow may still be running.

    Attributes:
        result: What the server sent of the run, or ``None``.
        partial: What had arrived of a stream, or ``None``.

    Example:
        >>> try:
        ...     client.execute_workflow("slow", timeout=0.1)
        ... except RecallTimeoutError as error:
        ...     print(error.code, error.may_have_executed)
        TIMEOUT True
    """

    result: Optional[WorkflowExecutionResult] = None
    partial: Optional[StreamedExecutionResult] = None


class ExecutionError(RecallError):
    """The workflow ran and failed (``EXECUTION_ERROR``), or its job was cancelled (``JOB_CANCELLED``).

    Attributes:
        result: What the server sent of the run, or ``None``.

    Example:
        >>> try:
        ...     client.execute_workflow("fail")
        ... except ExecutionError as error:
        ...     print(error.result.error)
        this workflow always fails
    """

    result: Optional[WorkflowExecutionResult] = None


class ServerError(RecallError):
    """The server failed (5xx, its code or ``SERVER_ERROR``).

    Example:
        >>> server.respond_next(503)
        >>> try:
        ...     client.get_usage_limits()
        ... except ServerError as error:
        ...     print(error.code, error.status)
        SERVER_ERROR 503
    """


class RecallConnectionError(RecallError):
    """No connection, or one that broke before the answer was complete (``CONNECTION_ERROR``).

    Example:
        >>> server.respond_next(drop=True)
        >>> try:
        ...     client.execute_workflow("greet")
        ... except RecallConnectionError as error:
        ...     print(error.code, error.may_have_executed)
        CONNECTION_ERROR True
    """


class StreamInterruptedError(RecallConnectionError):
    """A stream broke off before its end (``STREAM_INTERRUPTED``).

    Attributes:
        partial: What had arrived.

    Example:
        >>> server.respond_next(events=[{"blockId": "b", "chunk": "Once upon"}], cut=True)
        >>> try:
        ...     client.execute_workflow("count", stream=True)
        ... except StreamInterruptedError as error:
        ...     print(error.partial.text)
        Once upon
    """

    partial: Optional[StreamedExecutionResult] = None


class RedirectError(RecallError):
    """The server redirects to where the key must not go, or a POST can't follow (``REDIRECT_REFUSED``).

    Example:
        >>> server.respond_next(301, headers={"Location": "https://www.example.com/"})
        >>> try:
        ...     client.execute_workflow("greet")
        ... except RedirectError as error:
        ...     print(error.code, error.status)
        REDIRECT_REFUSED 301
    """


class InvalidResponseError(RecallError):
    """The answer can't be read: not JSON, of the wrong shape, or badly encoded (``INVALID_RESPONSE``).

    Example:
        >>> server.respond_next(200, body="<html>Please log in</html>")
        >>> try:
        ...     client.execute_workflow("greet")
        ... except InvalidResponseError as error:
        ...     print(error)
        the answer is an HTML page instead of JSON: check the base_url, and whether a proxy answered (HTTP 200)
    """


def one_line(text: str) -> str:
    """Fold white space, control characters and halves of surrogate pairs."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+", " ", text).strip()
