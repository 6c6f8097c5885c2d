"""Server-sent events: a decoder that follows the WHATWG HTML standard, section 9.2 "Server-sent events"."""

from typing import Iterable, Iterator, List, NamedTuple, Optional

__all__ = ["ServerSentEvent", "iter_events"]

_BOM = b"\xef\xbb\xbf"
_LINE_ENDS = (b"\n", b"\r")
_MAX_RETRY_DIGITS = 18  # more than any time needs, and no more than int() reads on every Python


class ServerSentEvent(NamedTuple):
    r"""One event of an event stream.

    Attributes:
        event: Its type; ``"message"`` by default.
        data: Its ``data`` lines, joined by newlines.
        id: The last event id that the stream has set; empty if it has set none.
        retry: The reconnection time in milliseconds that came with this event, or ``None``.

    Example:
        >>> list(iter_events([b"event: ping\nid: 7\ndata: hello\n\n"]))
        [ServerSentEvent(event='ping', data='hello', id='7', retry=None)]
    """

    event: str
    data: str
    id: str = ""
    retry: Optional[int] = None


def iter_events(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    r"""Decode an event stream. It does not matter how the bytes are split into chunks.

    Yields each event as soon as its last chunk arrives, and discards an event that is incomplete at the end of the stream.

    Args:
        chunks: The stream's bytes, in order.

    Returns:
        An iterator of events.

    Example:
        >>> [event.data for event in iter_events([b"data: on", b"e\n\ndata: two\r", b"\n\r\n"])]
        ['one', 'two']

    See https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """
    data: List[bytes] = []
    event = last_id = ""
    retry = None
    for lines in _complete_lines(chunks):
        for line in lines:
            if line[:6] == b"data: ":  # nearly every line
                data.append(line[6:])
            elif line:
                name, _, value = line.partition(b":")
                if value[:1] == b" ":
                    value = value[1:]
                if name == b"data":
                    data.append(value)
                elif name == b"event":
                    event = _text(value)
                elif name == b"id" and b"\0" not in value:
                    last_id = _text(value)
                elif name == b"retry" and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
                    retry = int(value)
            else:
                if data:
                    yield ServerSentEvent(event or "message", _text(b"\n".join(data)), last_id, retry)
                    data = []
                event = ""
                retry = None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _complete_lines(chunks: Iterable[bytes]) -> Iterator[List[bytes]]:
    """Yield for each chunk the lines that it completes."""
    started: List[bytes] = []  # pieces of a line whose end has not arrived yet
    after_cr = False
    for chunk in _without_bom(chunks):
        if chunk[-1:] == b"\n" and not started and not after_cr:  # nearly always: whole lines, and nothing before them
            yield chunk.splitlines()
            continue
        rest = chunk[1:] if after_cr and chunk[:1] == b"\n" else chunk  # a CRLF may be split
        after_cr = chunk[-1:] == b"\r" if chunk else after_cr
        lines = rest.splitlines()  # splits bytes only at LF, CR and CRLF, as the standard does
        if not lines:
            continue
        complete = rest.endswith(_LINE_ENDS)
        if len(lines) == 1 and not complete:
            started.append(rest)
            continue
        if started:
            started.append(lines[0])
            lines[0] = b"".join(started)
            started = []
        if not complete:
            started = [lines.pop()]
        yield lines


def _without_bom(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Drop one byte order mark at the start."""
    rest = iter(chunks)
    head = b""
    for chunk in rest:
        head += chunk
        if head[:3] == _BOM:
            head = head[3:]
            break
        if not _BOM.startswith(head):
            break
    yield head
    yield from rest
