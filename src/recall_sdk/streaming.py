"""A live stream of a running workflow."""

from __future__ import annotations

import re
from array import array
from collections import deque
from contextlib import ExitStack, suppress
from itertools import chain, islice
from threading import Lock, RLock
from typing import Any, Deque, Dict, Iterator, Optional, Tuple, TypeVar
from weakref import finalize

from recall_sdk import _decoding
from recall_sdk._bodies import envelope
from recall_sdk._response import Response
from recall_sdk._stream_events import stream_end, stream_event, stream_failure
from recall_sdk.errors import (
    ExecutionError,
    InvalidResponseError,
    RecallConnectionError,
    RecallError,
    RecallTimeoutError,
    StreamInterruptedError,
    build_error,
    one_line,
)
from recall_sdk.models import Result, StreamedExecutionResult, StreamEvent, WorkflowExecutionResult
from recall_sdk.sse import EventDecoder

__all__ = ["WorkflowStream"]

LINGER = 0.1
"""Seconds to wait, after the result has arrived, for the end of the response: only then can its connection be reused."""

_Self = TypeVar("_Self", bound="WorkflowStream")


class WorkflowStream:
    """The events of a running workflow, as they arrive. Made by :meth:`RecallClient.stream_workflow`.

    Iterate over it once, inside a ``with`` block: leaving the block early closes the connection. Only one thread may iterate over it; any
    thread may close it.

    Raises:
        ExecutionError: While iterating, the workflow failed (``EXECUTION_ERROR``); ``result`` holds the text so far.
        RecallTimeoutError: The server was silent for longer than the call's timeout (``TIMEOUT``); ``partial`` holds what arrived.
        StreamInterruptedError: The stream was cut, or closed here, before its end (``STREAM_INTERRUPTED``); ``partial`` holds what arrived.
        RecallError: The stream is iterated over again after its end.

    Example:
        >>> with client.stream_workflow("count", selected_outputs=["agent1.content"]) as stream:
        ...     for event in stream:
        ...         print(event.type, event.chunk)
        chunk One
        chunk , two
        done
    """

    def __init__(self, response: Response, result: Optional[WorkflowExecutionResult] = None) -> None:
        self._response = response
        self._text = _Text()
        self._decoder = EventDecoder()
        self._ready: Deque[StreamEvent] = deque()  # events that arrived, and that the reader has not taken yet
        self._has_begun = False
        self._end = result
        self._result: Optional[StreamedExecutionResult] = None
        self._error: Optional[RecallError] = None
        self._is_exhausted = False
        self._is_closed = False
        self._reading = Lock()  # held by the thread that receives
        self._releasing = RLock()  # no thread may abort a connection while another one returns it to the pool
        self._finalizer = finalize(self, response.close)  # closes a stream that is dropped, before the collector ends its parts
        self._finalizer.atexit = False
        if response.request.stream and result is None:
            response.set_live()

    def __iter__(self: _Self) -> _Self:
        if self._is_exhausted:
            message = "the stream was already read to its end, and its events arrive only once: use result"
            raise build_error(RecallError, message, may_have_executed=True)
        if self._error is not None and not self._ready:
            raise self._error
        return self

    def __next__(self) -> StreamEvent:
        if not self._ready or self._is_closed:
            self._fill()
        return self._ready.popleft()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def text(self) -> Iterator[str]:
        """Return an iterator of the text only.

        Returns:
            An iterator of the texts of the ``"chunk"`` events.

        Raises:
            RecallError: As for iterating over the stream.

        Example:
            >>> with client.stream_workflow("count", selected_outputs=["agent1.content"]) as stream:
            ...     print("".join(stream.text()))
            One, two
        """
        events = iter(self)
        return chain((event.chunk for event in events if event.chunk), self._last_text())

    def _last_text(self) -> Iterator[str]:
        self._text.end()
        if self._text.unpaired:
            yield self._text.unpaired

    @property
    def result(self) -> StreamedExecutionResult:
        """The result of the run. Before the end of the stream, this reads the rest first.

        Raises:
            StreamInterruptedError: The stream was closed before its end (``STREAM_INTERRUPTED``).
            RecallError: As for iterating over the stream.

        Example:
            >>> with client.stream_workflow("count") as stream:
            ...     stream.result.text
            'One, two'
        """
        if self._result is None:
            with suppress(StopIteration):
                while True:
                    next(self)
            self._result = self._snapshot()
            self._text = _Text()  # a long text is kept once
        return self._result

    def close(self) -> None:
        """Close the stream and its connection. After the end, this does nothing. Any thread may call it at any time.

        Example:
            >>> stream = client.stream_workflow("count")
            >>> next(stream).chunk
            'One'
            >>> stream.close()
        """
        self._is_closed = True
        if not self._finalizer.alive:
            return
        if self._reading.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._reading.release()
        else:  # a thread is receiving: it closes the connection, which must not happen under it
            with self._releasing:
                if self._finalizer.alive:
                    self._response.abort()

    def _release(self) -> None:
        with self._releasing:
            self._finalizer()

    def _fill(self) -> None:
        """Receive until an event is ready. Raise the failure of the stream, or ``StopIteration`` at its end."""
        self._reading.acquire()  # a third of the time of a with statement
        try:
            while not self._ready or self._is_closed:
                if self._error is not None:
                    raise self._error
                if self._end is not None and not self._ready:
                    self._finish()
                    raise StopIteration
                try:
                    self._receive()
                except RecallError as error:
                    self._fail(error)
                except BaseException:  # such as KeyboardInterrupt
                    self._release()
                    raise
        finally:
            self._reading.release()
            if self._is_closed:  # by another thread, which could not close the connection
                self.close()  # type: ignore[unreachable]  # mypy knows no other threads

    def _receive(self) -> None:
        """Receive once, and decode the events that are complete."""
        if self._is_closed:
            raise self._interrupted("it was closed here")
        piece = self._response.receive()
        if not self._has_begun and not piece.startswith(b"data:"):
            self._response.unread(piece)
            if not _is_stream(self._response):
                self._end = self._read_whole()
                return
            piece = self._response.receive()
        self._has_begun = True
        if not piece:
            raise self._interrupted("the server closed it")
        try:
            arrived = self._decoder.feed(piece)
        except ValueError as error:
            message = f"the stream can't be read: {error}"
            raise build_error(InvalidResponseError, message, may_have_executed=True, status=self._response.status) from error
        for name, data, _, _ in arrived:
            event = stream_event(name, data)
            if event is None or event.type == "done":
                self._end = stream_end(event)
                if event is not None:
                    self._ready.append(event)
                break
            if event.type == "chunk":
                event.chunk = self._text.add(event.block_id, event.chunk)
            elif event.type == "chunk_reset":
                self._text.reset(event.block_id)
            elif event.type == "error":
                raise stream_failure(event, self._snapshot())
            self._ready.append(event)

    def _read_whole(self) -> WorkflowExecutionResult:
        """Read a body that is not a stream, although the server calls it one."""
        event = stream_event("message", self._response.read().decode("utf-8-sig", "replace"))
        if event is not None and event.type == "error" and envelope(event.data) is None:
            raise stream_failure(event, self._snapshot())
        return _decoding.execution_of_stream(self._response)

    def _finish(self) -> None:
        """Wait for the end of the response, so that its connection can be reused."""
        if self._finalizer.alive:
            with suppress(RecallError):  # the result is complete
                self._response.set_deadline(LINGER)
                while self._response.receive():
                    pass
            self._release()
        self._is_exhausted = True

    def _fail(self, error: RecallError) -> None:
        """Close the connection, and keep the error for the reader."""
        if self._is_closed and not isinstance(error, ExecutionError):
            error = self._interrupted("it was closed here")
        elif isinstance(error, RecallTimeoutError):
            error.partial = self._snapshot()
        elif isinstance(error, RecallConnectionError) and not isinstance(error, StreamInterruptedError):
            error = self._interrupted(str(error), error.__cause__ or error)
        request_id = self._response.headers.get("X-Request-Id")
        error.request_id = request_id and one_line(request_id)
        self._error = error
        self._release()
        with suppress(RecallError), self._response:  # which masks the key
            raise error

    def _interrupted(self, reason: str, cause: Optional[BaseException] = None) -> StreamInterruptedError:
        partial = self._snapshot()
        message = (
            f"the stream ended before the workflow did: {reason}. The workflow may still be running; "
            f"the {len(partial.text)} characters that arrived are in partial"
        )
        error = build_error(StreamInterruptedError, message, may_have_executed=True)
        error.partial = partial
        error.__cause__ = cause
        return error

    def _snapshot(self) -> StreamedExecutionResult:
        end = self._end or WorkflowExecutionResult(success=False, error="the stream did not reach its end")
        text, by_block = self._text.snapshot()
        facts: Dict[str, Any] = {**vars(end), "text": text, "text_by_block": by_block}
        return StreamedExecutionResult(**facts)


class _Text:
    """The text of a stream: in memory little more than its bytes, and in time linear in them, whatever is retracted.

    Attributes:
        unpaired: What stands at the end for halves of characters whose other half did not arrive.
    """

    def __init__(self) -> None:
        self.unpaired = ""
        self._bytes = bytearray()  # in UTF-8
        self._turns = array("I")  # for each turn of a block, the block's number
        self._starts = array("Q")  # for each turn, its position in the bytes
        self._numbers: Dict[Optional[str], int] = {}
        self._first_turns: Dict[int, int] = {}  # for each block with retracted text, its first turn that is valid
        self._halves: Dict[Optional[str], str] = {}  # for each block, the half of a character that waits for the other half
        self._block_id: object = _NO_BLOCK  # that of the current turn
        self._next_drop = MIN_DROP

    def add(self, block_id: Optional[str], chunk: str) -> str:
        """Add a chunk, and return it without halves of characters: one at its end is kept for the block's next chunk."""
        if block_id != self._block_id:
            self._block_id = block_id
            self._turns.append(self._numbers.setdefault(block_id, len(self._numbers)))
            self._starts.append(len(self._bytes))
        if self._halves:
            chunk = self._halves.pop(block_id, "") + chunk
        try:
            self._bytes += chunk.encode()
        except UnicodeEncodeError:
            if "\ud800" <= chunk[-1] <= "\udbff":
                self._halves[block_id], chunk = chunk[-1], chunk[:-1]
            chunk = chunk.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            self._bytes += chunk.encode()
        return chunk

    def reset(self, block_id: Optional[str]) -> None:
        """Retract the text of a block."""
        self._halves.pop(block_id, None)
        self._block_id = _NO_BLOCK
        if block_id in self._numbers:
            self._first_turns[self._numbers[block_id]] = len(self._turns)
        if len(self._bytes) + len(self._turns) > self._next_drop:
            self._drop_retracted()
            self._next_drop = 2 * (len(self._bytes) + len(self._turns)) + MIN_DROP

    def end(self) -> None:
        """Add U+FFFD for each half of a character that still waits for the other half."""
        for block_id in list(self._halves):
            del self._halves[block_id]
            self.unpaired += self.add(block_id, "\ufffd")

    def snapshot(self) -> Tuple[str, Dict[str, str]]:
        """Return the whole text, and that of each block."""
        if self._halves:
            self.end()
        if self._first_turns:
            self._drop_retracted()
        view = memoryview(self._bytes)
        by_number: Dict[int, bytearray] = {}
        for number, start, stop in zip(self._turns, self._starts, chain(islice(self._starts, 1, None), [len(view)])):
            by_number.setdefault(number, bytearray()).extend(view[start:stop])
        block_ids = list(self._numbers)
        by_block = {block_ids[number]: text.decode() for number, text in by_number.items()}
        return self._bytes.decode(), {block_id: text for block_id, text in by_block.items() if block_id is not None}

    def _drop_retracted(self) -> None:
        kept, turns, starts = bytearray(), array("I"), array("Q")
        stops = chain(islice(self._starts, 1, None), [len(self._bytes)])
        for turn, (number, start, stop) in enumerate(zip(self._turns, self._starts, stops)):
            if turn >= self._first_turns.get(number, 0):
                turns.append(number)
                starts.append(len(kept))
                kept += self._bytes[start:stop]
        self._bytes, self._turns, self._starts, self._first_turns = kept, turns, starts, {}


_NO_BLOCK = object()

MIN_DROP = 64 * 1024
"""Bytes and turns that are kept at least before retracted text is dropped from memory."""


# ------------------------------------------------------------------------------------------------ what a response holds

_FIELD = re.compile(rb"(?:^|(?<=[\r\n]))(?:data|event|id|retry)?:")
"""The start of a field or a comment of an event stream, at the start of a line."""

_LONGEST_NAME = len("event")

_BLANK = b"\xef\xbb\xbf\r\n"
"""A byte order mark, and line ends."""

_STARTS_OF_OTHERS = b'{["<'
"""First bytes of JSON and of pages."""


def open_stream(response: Response) -> WorkflowStream:
    """Return the stream in a response; one with a result and no events if the server sent the result as a whole.

    Raises:
        RecallError: The response is neither.
    """
    if response.is_event_stream:
        return WorkflowStream(response)
    with ExitStack() as stack:
        stack.enter_context(response)
        if _is_stream(response):
            stack.pop_all()
            return WorkflowStream(response)
        return WorkflowStream(response, _decoding.execution_of_stream(response))


def read_execution(response: Response) -> Result:
    """Read the response to an execution to its end, whether it is a stream or not."""
    if response.is_event_stream and response.request.asynchronous:
        raise build_error(
            InvalidResponseError, "the response is a stream, and has no task id", may_have_executed=True, status=response.status
        )
    if response.is_event_stream or _is_stream(response):
        return WorkflowStream(response).result
    result = _decoding.execution(response)
    return StreamedExecutionResult(**vars(result)) if response.request.stream and isinstance(result, WorkflowExecutionResult) else result


def _is_stream(response: Response) -> bool:
    """Receive until it is clear whether a body is an event stream.

    What the server calls one may also begin with lines that the standard ignores.
    """
    if response.request.asynchronous or not 200 <= response.status < 300:
        return False
    is_named_so = response.is_event_stream
    body = bytearray()
    try:
        while True:
            piece = response.receive()
            start = max(len(body) - _LONGEST_NAME, 0)
            body += piece if body else piece.lstrip(_BLANK)
            if body and body[0] in _STARTS_OF_OTHERS:
                return False
            if _FIELD.search(body, start) if is_named_so else _FIELD.match(body):
                return True
            if not piece:
                return is_named_so and not body
            if len(body) > _LONGEST_NAME and not is_named_so:
                return False
    finally:
        response.unread(bytes(body))
