"""A live stream of a running workflow."""

from __future__ import annotations

import re
import sys
from array import array
from collections import defaultdict, deque
from contextlib import ExitStack, suppress
from http import HTTPStatus
from io import BytesIO
from itertools import chain
from threading import Lock
from typing import Any, DefaultDict, Deque, Dict, Iterator, Optional, Tuple, TypeVar
from weakref import finalize

from recall_sdk import _decoding, errors
from recall_sdk._decoding import stream_end, stream_event, stream_failure
from recall_sdk._response import Response
from recall_sdk._statuses import request_id, unreadable
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
        self._has_begun = False
        self._decoder = EventDecoder()
        self._text = _Text()
        self._ready: Deque[StreamEvent] = deque()  # events that arrived, and that the reader has not taken yet
        self._end = result
        self._error: Optional[errors.RecallError] = None
        self._result: Optional[StreamedExecutionResult] = None
        self._is_exhausted = self._is_closed = False
        self._reading = Lock()  # held by the thread that receives
        finalize(self, response.close).atexit = False  # closes a stream that is dropped, before the collector ends its parts
        if response.request.stream and result is None:
            response.set_live()

    def __iter__(self: _Self) -> _Self:
        if self._is_exhausted:
            message = "the stream was already read to its end, and its events arrive only once: use result"
            raise errors.build_error(errors.RecallError, message, may_have_executed=True)
        if self._error is not None and not self._ready:
            raise self._error
        return self

    def __next__(self) -> StreamEvent:
        while not self._ready or self._is_closed:
            self._advance()
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
        return (event.chunk for event in events if event.chunk)

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
                while not self._is_exhausted:
                    next(self)
            self._result = self._text.snapshot(self._end)
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
        if self._reading.acquire(blocking=False):
            try:
                self._response.close()
            finally:
                self._reading.release()
        else:  # a thread is receiving: it closes the connection, which must not happen under it
            self._response.abort()

    def _advance(self) -> None:
        """Receive once. Raise the failure of the stream, or ``StopIteration`` at its end."""
        if self._error is not None:
            raise self._error
        with self._reading:
            try:
                if self._is_closed and (self._ready or self._end is None):
                    raise errors.StreamInterruptedError("it was closed here")
                if self._end is None:
                    self._receive()
                else:
                    self._response.finish(LINGER)
                    self._is_exhausted = True
                    raise StopIteration
            except errors.RecallError as error:
                self._fail(error)
            except BaseException:  # such as KeyboardInterrupt
                self._is_closed = True
                self._response.close()
                raise

    def _receive(self) -> None:
        """Receive once, and decode the events that are complete."""
        if self._has_begun:
            piece = self._response.receive()
        else:
            self._has_begun = True
            piece, is_stream = _start_of(self._response)
            if piece and not is_stream:  # although the server calls it one
                self._response.unread(piece)
                self._end = _decoding.execution_of_stream(self._response)
                return
        if not piece:
            raise errors.StreamInterruptedError("the server closed it")
        try:
            arrived = self._decoder.feed(piece)
        except ValueError as error:
            raise unreadable(self._response, f"can't be read: {error}", b"") from error
        for name, data, _, _ in arrived:
            event = stream_event(name, data)
            if event is None or event.type == "done":
                self._end = stream_end(event)
                self._ready.extend(map(self._text.end, list(self._text.halves)))
                if event is not None:
                    self._ready.append(event)
                break
            if event.type == "chunk":
                event.chunk = self._text.add(event.block_id, event.chunk)
            elif event.type == "chunk_reset":
                self._text.reset(event.block_id)
            elif event.type == "error":
                raise stream_failure(event, self._text.snapshot(None))
            self._ready.append(event)

    def _fail(self, error: errors.RecallError) -> None:
        """Close the connection, and keep the error for the reader."""
        partial = self._text.snapshot(self._end)
        if isinstance(error, errors.RecallConnectionError) or (self._is_closed and not isinstance(error, errors.ExecutionError)):
            reason, cause = "it was closed here" if self._is_closed else str(error), error.__cause__
            message = f"the stream ended before the workflow did: {reason}. The workflow may still be running; partial holds what arrived"
            error = errors.build_error(errors.StreamInterruptedError, message, may_have_executed=True)
            error.__cause__ = cause
        if isinstance(error, (errors.RecallTimeoutError, errors.StreamInterruptedError)):
            error.partial = partial
        found = request_id(self._response, error.body)
        error.request_id = found and errors.one_line(found)
        self._error = error
        with suppress(errors.RecallError), self._response:  # which closes it, and masks the key
            raise error


class _Text:
    """The text of a stream: in memory little more than its bytes, and in time linear in them, whatever is retracted."""

    def __init__(self) -> None:
        self._blocks: DefaultDict[Optional[str], BytesIO] = defaultdict(BytesIO)  # the text of each block, in UTF-8
        self._turns = [BytesIO()]  # the blocks in the order in which their texts arrived; the first one is empty
        self._ends = array("Q")  # for each turn but the last, its end within the text of its block
        self.halves: Dict[Optional[str], str] = {}  # for each block, the half of a character that waits for the other half

    def add(self, block_id: Optional[str], chunk: str) -> str:
        """Add a chunk, and return it without halves of characters: one at its end is kept for the block's next chunk."""
        block = self._blocks[block_id]
        if block is not self._turns[-1]:
            self._ends.append(self._turns[-1].tell())
            self._turns.append(block)
        if self.halves:
            chunk = self.halves.pop(block_id, "") + chunk
        try:
            block.write(chunk.encode())
        except UnicodeEncodeError:
            if "\ud800" <= chunk[-1] <= "\udbff":
                self.halves[block_id], chunk = chunk[-1], chunk[:-1]
            chunk = chunk.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            block.write(chunk.encode())
        return chunk

    def reset(self, block_id: Optional[str]) -> None:
        """Retract the text of a block."""
        self.halves.pop(block_id, None)
        self._blocks.pop(block_id, BytesIO()).truncate(0)

    def end(self, block_id: Optional[str]) -> StreamEvent:
        """Add U+FFFD for the half of a character whose other half did not arrive, and return the event for that."""
        del self.halves[block_id]
        return StreamEvent("chunk", block_id, self.add(block_id, "\ufffd"), {})

    def snapshot(self, end: Optional[WorkflowExecutionResult]) -> StreamedExecutionResult:
        """Return the result with the text so far: the whole, and that of each block."""
        for block_id in list(self.halves):
            self.end(block_id)
        whole = BytesIO()
        for block in self._blocks.values():
            block.seek(0)
        for block, stop in zip(self._turns, chain(self._ends, [sys.maxsize])):
            whole.write(block.read(stop - block.tell()))
        by_block = {block_id: block.getvalue().decode() for block_id, block in self._blocks.items() if block_id is not None}
        end = end or WorkflowExecutionResult(success=False, error="the stream did not reach its end")
        facts: Dict[str, Any] = {**vars(end), "text": whole.getvalue().decode(), "text_by_block": by_block}
        return StreamedExecutionResult(**facts)


# ------------------------------------------------------------------------------------------------ what a response holds

_BEGIN = rb"(?:data|event|id|retry)?:"
"""A field or a comment: a body that begins with one is an event stream, whatever the server calls it."""

_FIELD = rb"[\r\n](?:data|event|id|retry):"
"""A field in a later line, after those that the standard ignores."""

_STARTS_OF_OTHERS = b'{["<'
"""First bytes of JSON and of pages, in which a line may look like a field: only a whole event makes a stream of them."""

_MAX_NAME = len("event:")

_MAX_NOISE = 64 * 1024
"""Bytes without a field, after which a body that the server calls a stream is none."""

_BLANK = b"\xef\xbb\xbf\r\n"
"""A byte order mark, and line ends."""


def _start_of(response: Response) -> Tuple[bytes, bool]:
    """Receive until it is clear whether a body is an event stream; return what was received, and whether it is one."""
    start, is_stream = b"", False
    limit = _MAX_NOISE if response.is_event_stream else _MAX_NAME
    for piece in iter(response.receive, b""):
        start = (start + piece).lstrip(_BLANK)
        is_stream = bool(re.match(_BEGIN, start)) or (response.is_event_stream and _begins_later(start))
        if is_stream or len(start) >= limit:
            break
    return start, is_stream


def _begins_later(start: bytes) -> bool:
    """Return whether a stream follows on something that was printed before it, or on fields that the standard ignores."""
    if start[:1] not in _STARTS_OF_OTHERS:
        return re.search(_FIELD, start) is not None
    _, *rest = re.split(rb"[\r\n]data:", start, maxsplit=1)
    return bool(rest) and re.search(rb"\n\r?\n|\r\r", rest[0]) is not None


def open_stream(response: Response) -> WorkflowStream:
    """Return the stream in a response; one with a result and no events if the server sent the result as a whole.

    Raises:
        RecallError: The response is neither.
    """
    if response.is_event_stream:
        return WorkflowStream(response)
    with ExitStack() as stack:
        stack.enter_context(response)
        start, is_stream = _start_of(response)
        response.unread(start)
        if not is_stream:
            return WorkflowStream(response, _decoding.execution_of_stream(response))
        stack.pop_all()
    return WorkflowStream(response)


def read_execution(response: Response) -> Result:
    """Read the response to an execution to its end, whether it is a stream or not."""
    request = response.request
    if response.is_json and not request.stream:
        response.unread(response.read())  # which the client has read
    is_stream = response.is_event_stream and not request.asynchronous and response.status != HTTPStatus.ACCEPTED
    if not is_stream:  # or the server has queued the run, whatever it calls that response
        start, is_stream = _start_of(response)
        response.unread(start)
    if is_stream and request.asynchronous:
        raise unreadable(response, "is a stream, and has no task id", b"")
    if is_stream:
        return WorkflowStream(response).result
    result = _decoding.execution(response)
    was_asked_for = request.stream or response.is_event_stream
    return StreamedExecutionResult(**vars(result)) if was_asked_for and isinstance(result, WorkflowExecutionResult) else result
