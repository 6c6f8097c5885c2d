"""Scripted responses, including faults."""

import math
import re
from dataclasses import dataclass
from json import dumps
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Tuple, Union

from werkzeug import Response

from recall_sdk.testing._http import ConnectionDropped

UNSET: Any = object()


@dataclass(frozen=True)
class Script:
    """One scripted response. Without a ``response`` the usual response follows after ``delay`` seconds."""

    delay: float
    drop: bool
    path: Optional[str]
    status: Optional[int]
    headers: Mapping[str, str]
    parts: List[bytes]
    content_type: Optional[str]
    streamed: bool
    cut: bool

    def response(self) -> Optional[Response]:
        """The scripted response, or ``None`` for the usual one."""
        if self.status is None:
            return None
        # A generator has no known length, so it is sent in chunks.
        response = Response(self._parts() if self.streamed or self.cut else self.parts, self.status, content_type=self.content_type)
        del response.headers["Content-Type"]
        if self.content_type:
            response.headers["Content-Type"] = self.content_type
        for name, value in self.headers.items():
            response.headers[name] = value
        return response

    def _parts(self) -> Iterator[bytes]:
        yield from self.parts
        if self.cut:
            raise ConnectionDropped


def script(
    status: Optional[int],
    headers: Optional[Mapping[str, str]],
    json: Any,
    body: Union[bytes, str, None],
    events: Optional[Iterable[Any]],
    *,
    cut: bool,
    delay: float,
    drop: bool,
    path: Optional[str],
) -> Script:
    """Check the arguments, and encode the response."""
    bodies = [json is not UNSET, body is not None, events is not None]
    if sum(bodies) > 1:
        raise ValueError("json, body and events exclude each other: pass one")
    if cut and not any(bodies):
        raise ValueError("cut=True needs something to send first: pass json, body or events")
    if drop and (any(bodies) or status is not None or headers is not None):
        raise ValueError("drop=True sends nothing: pass no status, headers, json, body or events with it")
    if status is not None and not 200 <= status <= 599:
        raise ValueError(f"status must be from 200 to 599, not {status!r}")
    if not 0 <= delay < math.inf:
        raise ValueError(f"delay must be seconds from 0 on, not {delay!r}")
    for name, value in (headers or {}).items():
        if re.fullmatch(r"[^\r\n\u0100-\U0010ffff]*", f"{name}{value}") is None:
            raise ValueError(f"the header {name!r} must be one line of latin-1 text, not {value!r}")
    if status is None and (any(bodies) or headers is not None):
        status = 200
    parts, content_type = _content(json, body, events)
    return Script(delay, drop, path, status, dict(headers or {}), parts, content_type, events is not None, cut)


def _content(json: Any, body: Union[bytes, str, None], events: Optional[Iterable[Any]]) -> Tuple[List[bytes], Optional[str]]:
    if json is not UNSET:
        return [encode(json)], "application/json"
    if events is not None:
        return [event_bytes(event) for event in events], "text/event-stream"
    if isinstance(body, str):
        return [body.encode()], "text/plain; charset=utf-8"
    return [] if body is None else [body], None


def encode(value: Any) -> bytes:
    """Encode a value as compact JSON, without escapes except for lone surrogates."""
    return dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "backslashreplace")


def event_bytes(payload: Any) -> bytes:
    """Encode one event: bytes are sent unchanged, a string as the event's data, any other value as JSON data."""
    if isinstance(payload, bytes):
        return payload
    return b"data: %b\n\n" % (payload.encode() if isinstance(payload, str) else encode(payload))
