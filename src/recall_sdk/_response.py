"""The owner of an exchange, from the head of its response to the close: it reads, translates errors, masks the key and closes."""

from __future__ import annotations

import io
import os
import socket
from contextlib import suppress
from functools import partial
from itertools import chain
from threading import RLock
from time import monotonic, time
from typing import Any, Callable, Iterator, Mapping, Optional, Type, TypeVar

from recall_sdk._codings import READ_SIZE, decode_chunks, decoded
from recall_sdk._connections import remaining
from recall_sdk._requests import Request
from recall_sdk._translation import RECEIVING_ERRORS, Exchange, translate
from recall_sdk.errors import InvalidResponseError, RecallError, build_error, without_key

MAX_BODY = 1024 * 1024 * 1024
"""Bytes after decompression. A larger body is not read to its end."""

_NO_BODY = (*range(100, 200), 204, 304)
"""Statuses without a body. Anything sent after one would be mistaken for the response to the next request."""

_MAPPING: Any = Mapping

_Self = TypeVar("_Self", bound="Response")


class Response:
    """A response whose head has arrived. Use it in a ``with`` block: leaving it closes the exchange, and masks the key in an error.

    Attributes:
        exchange: What the errors of the exchange need to know.
        request: Its request.
        status: HTTP status.
        headers: Its headers, by name in any case.
        received: When its head arrived, in seconds since the epoch.
        is_json: Whether the server calls the body JSON.
        is_event_stream: Whether the server calls the body a stream of events.
    """

    def __init__(self, exchange: Exchange, response: Any, deadline: Optional[float] = None) -> None:
        self.exchange = exchange
        self.request: Request = exchange.request
        self.status: int = int(response.status_code)
        self.headers: Any = response.headers if isinstance(response.headers, _MAPPING) else {}  # a bare mock has none
        self.received: float = time()
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self.is_json: bool = kind == "application/json"
        self.is_event_stream: bool = kind == "text/event-stream" and 200 <= self.status < 300 and self.status not in _NO_BODY
        self._response = response
        self._pid = os.getpid()
        original: Any = getattr(response.raw, "_original_response", None)  # requests reads cookies from it, too
        has_body = isinstance(getattr(original, "fp", None), io.BufferedReader) and not original.isclosed()
        self._original = original if has_body else None
        reader = getattr(original, "reader", None)
        self._reader: Any = reader or _UserSocket(response.raw, deadline)
        self._pieces: Iterator[bytes]
        if not has_body:
            self._pieces = filter(None, _body_without_socket(response))
        else:
            # The read1() of http.client returns at once what has arrived, but one chunk at a time, and requests waits for more.
            read: Any = original.fp.read1 if reader else partial(self._reader.read1, original.fp)
            self._pieces = decode_chunks(read, self._reader) if original.chunked else _delimited(read, self._reader, original.length)
            if "Content-Encoding" in self.headers:
                self._pieces = decoded(self._pieces, self.headers["Content-Encoding"], is_stream=self.is_event_stream)
        self._body: Optional[bytes] = None
        self._is_live = self._is_closed = False
        self._closing = RLock()  # no thread may abort a connection that another one has returned to the pool

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, _kind: Optional[Type[BaseException]], error: Optional[BaseException], _traceback: object) -> None:
        self.close()
        if isinstance(error, RecallError):
            without_key(error, self.exchange.api_key)

    def read(self) -> bytes:
        """Read the whole body within the remaining time. A second call returns it again."""
        if self._body is None:
            body = io.BytesIO()  # many small pieces would take far more memory than their bytes
            for piece in iter(self.receive, b""):
                body.write(piece)
                if body.tell() > MAX_BODY:
                    message = f"the response of {self.exchange.where} has more than {MAX_BODY} bytes (HTTP {self.status})"
                    raise build_error(InvalidResponseError, message, may_have_executed=self.request.executes, status=self.status)
            self._body = body.getvalue()
        return self._body

    def receive(self) -> bytes:
        """Return the next bytes of the body as they arrive, decompressed; nothing at its end."""
        try:
            if self._pid != os.getpid():
                raise ConnectionError("the connection belongs to the parent of this process")
            data = next(self._pieces, b"")
            if not data and self._original is not None:
                self._original.close()
        except RECEIVING_ERRORS as error:
            raise translate(error, self.exchange, streaming=self._is_live) from error
        return data

    def unread(self, data: bytes) -> None:
        """Take back bytes that were received: the next :meth:`receive` returns them again."""
        if data:
            self._pieces = chain([data], self._pieces)

    def set_live(self) -> None:
        """From now on, the timeout bounds each silence instead of the whole exchange, as for a stream."""
        self._is_live = True
        self._reader.bound(None, self.exchange.timeout)

    def finish(self, seconds: float) -> None:
        """Receive the rest of the body within some seconds, so that the connection can be reused, and close."""
        if not self._is_closed:
            with suppress(RecallError):
                self._reader.bound(monotonic() + seconds, seconds)
                for _ in iter(self.receive, b""):
                    pass
            self.close()

    def abort(self) -> None:
        """Shut down the connection, also from another thread than the one that reads."""
        if self._pid != os.getpid() or self._original is None:
            return
        with self._closing, suppress(OSError, AttributeError, ValueError):  # it was closed in between
            if self._is_closed:
                return
            sock = self._reader.sock
            if isinstance(sock, socket.socket):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # that of a TLS socket would end the decryption under a reader
            else:
                borrowed = socket.socket(fileno=self._original.fileno())  # needs no further descriptor
                try:
                    borrowed.shutdown(socket.SHUT_RDWR)
                finally:
                    borrowed.detach()

    def close(self) -> None:
        """Return the connection to the pool if its response was read to the end, and nothing came after it; else close it."""
        if self._pid != os.getpid():
            return  # the connection is the parent's
        with self._closing:
            if self._is_closed:
                return
            is_reusable = self._reader.is_reusable and self.status not in _NO_BODY
            if not is_reusable:
                self.abort()  # closing alone would not end the connection if a child of a fork has a copy of the socket
            self._is_closed = True
        if is_reusable:
            self._response.raw.release_conn()
        elif self._response.raw is not None:
            self._response.close()


def _body_without_socket(response: Any) -> Iterator[bytes]:
    """Yield the body of a response that was made by an adapter of the user's, or that a hook of the user's has read."""
    if response.raw is None:
        yield response.content or b""
    else:
        yield from response.iter_content(READ_SIZE)


def _delimited(read: Callable[[int], bytes], reader: Any, length: Optional[int]) -> Iterator[bytes]:
    """Yield the data of a body that has a length, or ends with the connection; ``reader`` as for :func:`decode_chunks`."""
    missing, surplus = length, b""
    while missing != 0:
        data = read(READ_SIZE)
        if not data and missing is None:
            return
        if not data:
            raise ConnectionError(f"{missing} bytes of its body are missing")
        if missing is not None:
            data, surplus = data[:missing], data[missing:]  # which would be mistaken for the response to the next request
            missing -= len(data)
        yield data
    reader.is_reusable = not surplus


class _UserSocket:
    """The socket of a response that the user's own session received, if it is accessible."""

    def __init__(self, raw: Any, deadline: Optional[float]) -> None:
        self.is_reusable = False
        self.sock: Any = getattr(getattr(raw, "connection", None), "sock", None)
        self._deadline = deadline
        self._timeout: Optional[float] = None

    def read1(self, file: Any, size: int) -> bytes:
        """Read what has arrived, within the time that remains."""
        if self._deadline is not None and self._deadline <= monotonic():
            raise socket.timeout("timed out")
        if self.sock is not None and self.sock.fileno() >= 0:  # CPython 3.13 closes it when the body's length is reached
            self.sock.settimeout(self._timeout if self._deadline is None else remaining(self._deadline))
        data: bytes = file.read1(size)
        return data

    def bound(self, deadline: Optional[float], timeout: Optional[float]) -> None:
        self._deadline, self._timeout = deadline, timeout
