"""A stand-in for the owner of an exchange, until it is there."""

from __future__ import annotations

from itertools import chain
from typing import Any, Iterator, Optional, TypeVar

from recall_sdk._redaction import without_key
from recall_sdk._transport import OpenResponse
from recall_sdk.errors import RecallError

_Self = TypeVar("_Self", bound="Response")


class Response:
    def __init__(self, opened: OpenResponse, api_key: str) -> None:
        head = opened.head
        self.request = self.call = head.call
        self.status = head.status
        self.headers = head.headers
        self.received = head.received
        self.retry_after = head.retry_after
        self.clock_offset = head.clock_offset
        self.may_repeat = False
        self._opened = opened
        self._api_key = api_key
        self._pieces: Optional[Iterator[bytes]] = None
        self._body: Optional[bytes] = None

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, _kind: Any, error: Any, _traceback: Any) -> None:
        self.close()
        if isinstance(error, RecallError):
            without_key(error, self._api_key)

    @property
    def is_event_stream(self) -> bool:
        return self._opened.is_event_stream

    @property
    def body(self) -> bytes:
        return self.read()

    def read(self) -> bytes:
        if self._body is None:
            self._body = b"".join(iter(self.receive, b""))
        return self._body

    def receive(self) -> bytes:
        if self._pieces is None:
            self._pieces = filter(None, self._opened.iter_bytes())
        return next(self._pieces, b"")

    def unread(self, data: bytes) -> None:
        self._pieces = chain([data] if data else [], self._pieces or ())

    def set_deadline(self, seconds: float) -> None:
        self._opened.set_deadline(seconds)

    def abort(self) -> None:
        self._opened.abort()

    def close(self) -> None:
        self._opened.close()
