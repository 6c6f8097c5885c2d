"""The requests that the server received."""

from dataclasses import dataclass
from json import loads
from typing import Any, Mapping

from requests.structures import CaseInsensitiveDict
from werkzeug import Request

from recall_sdk.testing._http import CONNECTION


@dataclass(frozen=True)
class RecordedRequest:
    """A request that the server received.

    Attributes:
        method: Such as ``"POST"``.
        path: As it was sent, quoting included.
        headers: By name, in any case of letters.
        json: The body's JSON value, or ``None`` where it is no strict JSON.
        body: The body's bytes.
        connection: The running number of the TCP connection that it came on, from 1.

    Example:
        >>> client.validate_workflow("greet")
        True
        >>> request = server.requests[-1]
        >>> request.method, request.path, request.headers["x-api-key"]
        ('GET', '/api/workflows/greet/status', 'test-key')
    """

    method: str
    path: str
    headers: Mapping[str, str]
    json: Any
    body: bytes
    connection: int


def record(request: Request) -> RecordedRequest:
    """Record a request."""
    body = request.get_data()
    headers: Mapping[str, str] = CaseInsensitiveDict(request.headers)
    environ = request.environ
    return RecordedRequest(request.method, environ["REQUEST_URI"], headers, _strict_json(body), body, environ[CONNECTION])


def _strict_json(body: bytes) -> Any:
    try:
        return loads(body, parse_constant=_refuse)
    except ValueError:
        return None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
