"""A live stream of a running workflow."""

from __future__ import annotations

from io import StringIO
from typing import Any, Dict, Generator, Iterator, List, Optional, Tuple

from recall_sdk import _decoding, _statuses
from recall_sdk._redaction import without_key
from recall_sdk._transport import OpenResponse
from recall_sdk.errors import RecallConnectionError, RecallError, RecallTimeoutError, StreamInterruptedError
from recall_sdk.models import StreamedExecutionResult, StreamEvent, WorkflowExecutionResult
from recall_sdk.sse import iter_events

__all__ = ["WorkflowStream"]

LINGER = 0.1
"""Seconds to wait, after the result has arrived, for the end of the answer: only then can its connection be reused."""


class WorkflowStream:
    """The events of a running workflow, as they arrive. Made by :meth:`RecallClient.stream_workflow`.

    Iterate over it once, inside a ``with`` block: leaving the block early closes the connection. Only one thread may iterate over it; any
    thread may close it.

    Raises:
        ExecutionError: While iterating, the workflow failed (``EXECUTION_ERROR``); ``result`` holds the text so far.
        RecallTimeoutError: The server was silent for longer than the call's timeout (``TIMEOUT``); ``partial`` holds what arrived.
        StreamInterruptedError: The stream was cut before its end (``STREAM_INTERRUPTED``); ``partial`` holds what arrived.

    Example:
        >>> with client.stream_workflow("count", selected_outputs=["agent1.content"]) as stream:
        ...     for event in stream:
        ...         print(event.type, event.chunk)
        chunk One
        chunk , two
        done
    """

    def __init__(self, response: OpenResponse, api_key: str, result: Optional[WorkflowExecutionResult] = None) -> None:
        self._response = response
        self._progress = _Progress(result)
        self._events = _events(response, self._progress, api_key)

    def __iter__(self) -> Iterator[StreamEvent]:
        if self._progress.error is not None:
            raise self._progress.error  # so that a second iteration does not treat the cut stream as complete
        return self._events

    def __next__(self) -> StreamEvent:
        return next(self._events)

    def __enter__(self) -> WorkflowStream:
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
        for _ in self._events:
            pass
        return self._progress.result()

    def close(self) -> None:
        """Close the stream and its connection. After the end, this does nothing.

        Example:
            >>> stream = client.stream_workflow("count")
            >>> next(stream).chunk
            'One'
            >>> stream.close()
        """
        try:
            self._events.close()
        except ValueError:  # another thread is waiting for the next event, and ends when the connection does
            self._progress.closed = True
            self._response.abort()
        else:
            self._response.close()


class _Progress:
    """The part of a stream that has arrived."""

    def __init__(self, end: Optional[WorkflowExecutionResult]) -> None:
        self.text = StringIO()
        self.turns: List[Tuple[Optional[str], int]] = []
        """Block ids, each with the position in the text where its turn begins."""
        self.end = end
        self.whole: Optional[StreamedExecutionResult] = None
        self.error: Optional[RecallError] = None
        self.closed = False

    @property
    def unfinished(self) -> bool:
        return self.end is None and not self.closed

    def snapshot(self) -> StreamedExecutionResult:
        pieces: Dict[str, List[str]] = {}
        for block_id, text in self._pieces():
            if block_id is not None:
                pieces.setdefault(block_id, []).append(text)
        by_block = {block_id: "".join(parts) for block_id, parts in pieces.items()}
        end = self.end or WorkflowExecutionResult(success=False, error="the stream did not reach its end")
        facts: Dict[str, Any] = {**vars(end), "text": self.text.getvalue(), "text_by_block": by_block}
        return StreamedExecutionResult(**facts)

    def _pieces(self) -> List[Tuple[Optional[str], str]]:
        text = self.text.getvalue()
        stops = [start for _, start in self.turns[1:]] + [len(text)]
        return [(block_id, text[start:stop]) for (block_id, start), stop in zip(self.turns, stops)]

    def reset(self, block_id: Optional[str]) -> None:
        """Drop the text of a block."""
        kept = [(block, text) for block, text in self._pieces() if block != block_id]
        self.text.seek(0)
        self.text.truncate()
        self.turns.clear()
        for block, text in kept:
            self.turns.append((block, self.text.tell()))
            self.text.write(text)

    def result(self) -> StreamedExecutionResult:
        if self.end is not None:
            if self.whole is None:
                self.whole = self.snapshot()
                self.text, self.turns = StringIO(), []  # a long text is kept once, not twice
            return self.whole
        if self.error is not None:
            raise self.error
        raise self.interrupted("it was closed here")

    def interrupted(self, reason: str) -> StreamInterruptedError:
        partial = self.snapshot()
        error = StreamInterruptedError(
            f"the stream ended before the workflow did: {reason}. The workflow may still be running; "
            f"the {len(partial.text)} characters that arrived are in partial",
            "STREAM_INTERRUPTED",
        )
        error.partial = partial
        error.may_have_executed = True
        return error


def _events(response: OpenResponse, progress: _Progress, api_key: str) -> Generator[StreamEvent, None, None]:
    # Does not refer to the WorkflowStream, so that one without references is collected at once, with its connection.
    if not progress.unfinished:  # the server sent the result as a whole
        return
    try:
        yield from _arriving(response, progress)
        if progress.unfinished:
            raise progress.interrupted("the server closed it")
    except RecallError as error:
        if progress.unfinished:
            progress.error = without_key(_with_partial(error, progress), api_key)
            progress.error.request_id = _statuses.request_id(response.head)
            raise progress.error from error.__cause__
    finally:
        response.close()


def _arriving(response: OpenResponse, progress: _Progress) -> Iterator[StreamEvent]:
    write, tell, turns = progress.text.write, progress.text.tell, progress.turns
    turn: Optional[str] = ""
    for name, data, _, _ in iter_events(response.iter_bytes()):
        if progress.end is not None:
            continue  # the result has arrived; ignore the rest
        event = _decoding.stream_event(name, data)
        if event is None or event.type == "done":
            progress.end = _decoding.stream_end(event)
            if event is not None:
                yield event
            response.set_deadline(LINGER)
            continue
        if event.type == "chunk":
            if event.block_id != turn:
                turn = event.block_id
                turns.append((turn, tell()))
            write(event.chunk)
        elif event.type == "chunk_reset":
            progress.reset(event.block_id)
            turn = ""
        elif event.type == "error":
            raise _decoding.stream_failure(event, progress.snapshot())
        yield event


def _with_partial(error: RecallError, progress: _Progress) -> RecallError:
    if isinstance(error, RecallTimeoutError):
        error.partial = progress.snapshot()
    elif isinstance(error, RecallConnectionError) and not isinstance(error, StreamInterruptedError):
        interrupted = progress.interrupted(str(error))
        interrupted.__cause__ = error.__cause__ or error
        return interrupted
    return error
