"""The owner of an exchange, from the head of its response to the close: it reads, translates errors, masks the key and closes."""

from __future__ import annotations

import http.client
import io
import os
import socket
from contextlib import suppress
from functools import partial
from itertools import chain
from threading import RLock
from time import monotonic, time
from typing import Any, Iterator, List, Mapping, Optional, Type, TypeVar

from urllib3.exceptions import DecodeError

from recall_sdk._codings import READ_SIZE, UNREADABLE, WINDOW_BITS, decode_chunks, decompressed
from recall_sdk._connections import OF_THE_PARENT, remaining
from recall_sdk._requests import Request
from recall_sdk._translation import RECEIVING_ERRORS, Exchange, translate
from recall_sdk.errors import InvalidResponseError, RecallError, build_error, without_key

MAX_BODY = 1024 * 1024 * 1024
"""Bytes after decompression. A larger body is not read to its end."""

MAX_ENCODINGS = 2
"""Entries in a Content-Encoding: a second one comes from a proxy, and each one multiplies what few bytes can become."""

_NO_BODY = (*range(100, 200), 204, 304)
"""Statuses without a body. Anything sent after one would be mistaken for the response to the next request."""

_MAPPING: Any = Mapping

_Self = TypeVar("_Self", bound="Response")


class Response:
    """A response whose head has arrived. Use it in a ``with`` block: leaving it closes the exchange, and masks the key in an error.

    Attributes:
        request: The request.
        url: Where it was sent, after redirects.
        status: HTTP status.
        headers: Its headers, by name in any case.
        received: When its head arrived, in seconds since the epoch.
        may_repeat: Whether an adapter of the user's may have sent the request more than once.
        is_json: Whether the server calls the body JSON.
        is_event_stream: Whether the server calls the body a stream of events.
    """

    def __init__(self, exchange: Exchange, response: Any, deadline: Optional[float] = None) -> None:
        self.request: Request = exchange.request
        self.url: str = exchange.url
        self.status: int = int(response.status_code)
        self.headers: Any = response.headers if isinstance(response.headers, _MAPPING) else {}  # a bare mock has none
        self.received: float = time()
        self.may_repeat: bool = exchange.may_repeat
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self.is_json: bool = kind == "application/json"
        self.is_event_stream: bool = kind == "text/event-stream" and 200 <= self.status < 300 and self.status not in _NO_BODY
        self._exchange = exchange
        self._response = response
        self._pid = os.getpid()
        original: Any = getattr(response.raw, "_original_response", None)  # requests reads cookies from it, too
        has_body = isinstance(getattr(original, "fp", None), io.BufferedReader) and not original.isclosed()
        self._original = original if has_body else None
        self._missing: Optional[int] = original.length if has_body and not original.chunked else None
        reader = getattr(original, "reader", None)
        self._reader: Any = reader or _UserSocket(response.raw, deadline)
        # The read1() of http.client returns at once what has arrived, but one chunk at a time, and requests waits for more.
        read: Any = has_body and (original.fp.read1 if reader else partial(self._reader.read1, original.fp))
        self._read = read
        self._chunks = decode_chunks(read, self._reader) if has_body and original.chunked else None
        self._pieces: Optional[Iterator[bytes]] = None
        if not has_body or "Content-Encoding" in self.headers:
            self._pieces = self._iter_decoded()
        self._body: Optional[bytes] = None
        self._is_live = self._is_closed = False
        self._closing = RLock()  # no thread may abort a connection that another one has returned to the pool
        self._is_complete = False  # read to its end by us, which alone makes the connection fit for another request

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, _kind: Optional[Type[BaseException]], error: Optional[BaseException], _traceback: object) -> None:
        self.close()
        if isinstance(error, RecallError):
            without_key(error, self._exchange.api_key)

    def read(self) -> bytes:
        """Read the whole body within the remaining time. A second call returns it again."""
        if self._body is None:
            body = io.BytesIO()  # many small pieces would take far more memory than their bytes
            while body.tell() <= MAX_BODY:
                piece = self.receive()
                body.write(piece)
                if not piece or (self._is_complete and self._pieces is None):
                    break
            if body.tell() > MAX_BODY:
                message = f"the response of {self._exchange.where} has more than {MAX_BODY} bytes (HTTP {self.status})"
                raise build_error(InvalidResponseError, message, may_have_executed=self.request.executes, status=self.status)
            self._body = body.getvalue()
        return self._body

    def receive(self) -> bytes:
        """Return the next bytes of the body as they arrive, decompressed; nothing at its end."""
        try:
            return self._receive_raw() if self._pieces is None else next(self._pieces, b"")
        except RECEIVING_ERRORS as error:
            raise translate(error, self._exchange, streaming=self._is_live) from error

    def unread(self, data: bytes) -> None:
        """Take back bytes that were received: the next :meth:`receive` returns them again."""
        if data:
            self._pieces = chain([data], iter(self._receive_raw, b"") if self._pieces is None else self._pieces)

    def _receive_raw(self) -> bytes:
        if self._is_complete:
            return b""
        original: Any = self._original
        missing = self._missing
        data = b""
        if self._chunks is not None:
            data = next(self._chunks, b"")
        elif missing != 0:
            data = self._read(READ_SIZE)
            if missing is not None and len(data) > missing:
                self._reader.surplus = True  # which would be mistaken for the response to the next request
                data = data[:missing]
        if missing is not None:
            self._missing = missing = missing - len(data)
            if missing and not data:
                original.close()
                raise http.client.IncompleteRead(b"", missing)
        if not data or missing == 0:
            original.close()
            self._is_complete = True
        return data

    def _iter_decoded(self) -> Iterator[bytes]:
        if self._response.raw is None:  # made by an adapter of the user's
            pieces: Iterator[bytes] = iter([self._response.content or b""])
        elif self._original is None:
            # Without a socket, or after a hook of the user's session has read it, the response holds the body.
            pieces = self._response.iter_content(READ_SIZE)
        else:
            pieces = iter(self._receive_raw, b"")
            for encoding in reversed(self._encodings()):
                pieces = decompressed(pieces, encoding)
        yield from filter(None, pieces)

    def _encodings(self) -> List[str]:
        header: str = self.headers.get("Content-Encoding") or ""
        names = [name for name in (each.strip().lower() for each in header.split(",")) if name not in ("", "identity")]
        if len(names) > MAX_ENCODINGS:
            raise DecodeError(f"it has {len(names)} encodings")
        if self.is_event_stream and not UNREADABLE.isdisjoint(names):
            raise DecodeError(f"encoding {header}")
        return [name for name in names if name in WINDOW_BITS]

    def set_live(self) -> None:
        """From now on, the timeout bounds each silence instead of the whole exchange, as for a stream."""
        self._is_live = True
        self._reader.bound(None, self._exchange.timeout)

    def finish(self, seconds: float) -> None:
        """Receive the rest of the body within some seconds, so that the connection can be reused, and close."""
        if not self._is_closed:
            with suppress(RecallError):
                self._reader.bound(monotonic() + seconds, seconds)
                while self.receive():
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
            is_reusable = self._is_complete and not self._reader.surplus and self.status not in _NO_BODY
            if not is_reusable:
                self.abort()  # closing alone would not end the connection if a child of a fork has a copy of the socket
            self._is_closed = True
        if is_reusable:
            self._response.raw.release_conn()
        elif self._response.raw is not None:
            self._response.close()


class _UserSocket:
    """The socket of a response that the user's own session received, if it is accessible."""

    surplus = False

    def __init__(self, raw: Any, deadline: Optional[float]) -> None:
        self.sock: Any = getattr(getattr(raw, "connection", None), "sock", None)
        self._pid = os.getpid()
        self._deadline = deadline
        self._timeout: Optional[float] = None

    def read1(self, file: Any, size: int) -> bytes:
        """Read what has arrived, within the time that remains."""
        if self._pid != os.getpid():
            raise ConnectionError(OF_THE_PARENT)
        if self._deadline is not None and self._deadline <= monotonic():
            raise socket.timeout("timed out")
        if self.sock is not None and self.sock.fileno() >= 0:  # CPython 3.13 closes it when the body's length is reached
            self.sock.settimeout(self._timeout if self._deadline is None else remaining(self._deadline))
        data: bytes = file.read1(size)
        return data

    def bound(self, deadline: Optional[float], timeout: Optional[float]) -> None:
        self._deadline, self._timeout = deadline, timeout
