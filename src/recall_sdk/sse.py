"""Server-sent events: a decoder that follows the WHATWG HTML standard, section 9.2 "Server-sent events"."""

from typing import Iterable, Iterator, List, NamedTuple, Optional, Tuple

__all__ = ["ServerSentEvent", "iter_events"]

MAX_EVENT_SIZE = 1024**3
"""Bytes of one event that are kept while its end has not arrived: 1 GiB."""

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

    Raises:
        ValueError: While iterating, an event is longer than 1 GiB.

    Example:
        >>> [event.data for event in iter_events([b"data: on", b"e\n\ndata: two\r", b"\n\r\n"])]
        ['one', 'two']

    See https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """
    decoder = EventDecoder()
    for chunk in chunks:
        for event in decoder.feed(chunk):
            yield ServerSentEvent(*event)


class EventDecoder:
    """Decodes an event stream whose chunks are passed in as they arrive."""

    def __init__(self) -> None:
        self._start: Optional[bytes] = b""  # the stream so far, as long as it may be a part of a byte order mark
        self._line = bytearray()  # the start of a line whose end has not arrived
        self._after_cr = False
        self._data = bytearray()  # lines, each with a newline
        self._event = self._id = ""
        self._retry: Optional[int] = None
        self._is_between_events = True

    def feed(self, chunk: bytes) -> List[Tuple[str, str, str, Optional[int]]]:
        """Return the fields of the events that a chunk completes: type, data, last id and retry.

        Raises:
            ValueError: An event is longer than ``MAX_EVENT_SIZE``.
        """
        is_whole = self._is_between_events and chunk.endswith(b"\n\n")
        if is_whole and chunk[:6] == b"data: ":  # nearly always
            try:
                text = chunk[6:-2].decode()
            except UnicodeDecodeError:
                return self._decode_lines(chunk)
            if "\r" not in text:
                self._start = None
                if "\n" not in text:
                    return [("message", text, self._id, None)]
                datas = text.split("\n\ndata: ")
                if text.count("\n") == 2 * len(datas) - 2:  # each event is a single line
                    return [("message", data, self._id, None) for data in datas]
        if not is_whole:
            first = 0 if self._is_between_events else chunk.find(b"\n\n") + 2
            last = chunk.rfind(b"\n\n") + 2
            if last - first >= 2:  # only the ends of the chunk belong to events that are split
                return self._decode_lines(chunk[:first]) + self.feed(chunk[first:last]) + self._decode_lines(chunk[last:])
        return self._decode_lines(chunk)

    def _decode_lines(self, chunk: bytes) -> List[Tuple[str, str, str, Optional[int]]]:
        events: List[Tuple[str, str, str, Optional[int]]] = []
        data = self._data
        for line in self._complete_lines(chunk):
            if line:
                name, _, value = line.partition(b":")
                if value[:1] == b" ":
                    value = value[1:]
                if name == b"data":
                    data += value
                    data += b"\n"
                elif name == b"event":
                    self._event = _text(value)
                elif name == b"id" and b"\0" not in value:
                    self._id = _text(value)
                elif name == b"retry" and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
                    self._retry = int(value)
            else:
                if data:
                    events.append((self._event or "message", data[:-1].decode("utf-8", "replace"), self._id, self._retry))
                    data.clear()
                self._event = ""
                self._retry = None
        if len(self._line) + len(data) + len(self._event) + len(self._id) > MAX_EVENT_SIZE:
            raise ValueError(f"an event has more than {MAX_EVENT_SIZE} bytes")
        is_pending = self._start or self._line or self._after_cr or data or self._event or self._retry is not None
        self._is_between_events = not is_pending
        return events

    def _complete_lines(self, chunk: bytes) -> List[bytes]:
        """Return the lines that a chunk completes."""
        if self._start is not None:
            chunk = self._start + chunk
            self._start = chunk if len(chunk) < len(_BOM) and _BOM.startswith(chunk) else None
            chunk = b"" if self._start is not None else chunk[len(_BOM) :] if chunk.startswith(_BOM) else chunk
        if not chunk:
            return []
        rest = chunk[1:] if self._after_cr and chunk[:1] == b"\n" else chunk  # a CRLF may be split
        self._after_cr = chunk[-1:] == b"\r"
        lines = rest.splitlines()  # splits bytes only at LF, CR and CRLF, as the standard does
        cut = [] if not lines or rest.endswith(_LINE_ENDS) else [lines.pop()]
        if lines and self._line:
            lines[0] = bytes(self._line + lines[0])
            self._line.clear()
        self._line += b"".join(cut)
        return lines


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
