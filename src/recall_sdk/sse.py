"""Server-sent events: a decoder that follows the WHATWG HTML standard, section 9.2 "Server-sent events"."""

import re
from typing import Iterable, Iterator, List, NamedTuple, Optional, Tuple

__all__ = ["ServerSentEvent", "iter_events"]

MAX_EVENT_SIZE = 1024**3
"""Bytes of one event that are kept while its end has not arrived: 1 GiB."""

_BOM = "\ufeff"
_RETRY = "[0-9]{1,18}"  # more than any time needs, and no more than int() reads on every Python


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
        self._rest = bytearray()  # the events whose end has not arrived
        self._has_begun = self._after_cr = False
        self._id = ""

    def feed(self, chunk: bytes) -> List[Tuple[str, str, str, Optional[int]]]:
        """Return the fields of the events that a chunk completes: type, data, last id and retry.

        Raises:
            ValueError: An event is longer than ``MAX_EVENT_SIZE``.
        """
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_line_feeds(chunk)
        rest = self._rest
        searched = max(len(rest) - 1, 0)
        rest += chunk
        end = rest.rfind(b"\n\n", searched) + 2
        if end < 2:
            if len(rest) > MAX_EVENT_SIZE:
                raise ValueError(f"an event has more than {MAX_EVENT_SIZE} bytes")
            return []
        text = rest[:end].decode("utf-8", "replace")
        del rest[:end]
        if not self._has_begun:
            self._has_begun = True
            text = text[1:] if text.startswith(_BOM) else text
        if text.startswith("data: "):
            datas = text[6:-2].split("\n\ndata: ")
            if text.count("\n") == 2 * len(datas):  # nearly always: each event is a single line
                return [("message", data, self._id, None) for data in datas]
        return self._decode_lines(text)

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        """Replace each other line end by a line feed. A CRLF may be split."""
        start = 1 if self._after_cr and chunk.startswith(b"\n") else 0
        self._after_cr = chunk.endswith(b"\r") if chunk else self._after_cr
        return chunk[start:].replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _decode_lines(self, text: str) -> List[Tuple[str, str, str, Optional[int]]]:
        events: List[Tuple[str, str, str, Optional[int]]] = []
        event, retry = "", None
        data: List[str] = []
        for line in text.split("\n"):
            name, _, value = line.partition(":")
            value = value[1:] if value.startswith(" ") else value
            if name == "data":
                data.append(value)
            elif name == "event":
                event = value
            elif name == "id" and "\0" not in value:
                self._id = value
            elif name == "retry" and re.fullmatch(_RETRY, value):
                retry = int(value)
            elif not line:
                if data:
                    events.append((event or "message", "\n".join(data), self._id, retry))
                event, retry, data = "", None, []
        return events
