"""The chunked coding of HTTP/1.1 (RFC 9112, section 7.1).

http.client returns each chunk on its own, and takes longer for it than a stream of one event per chunk takes for all the rest.
"""

import re
from http.client import IncompleteRead
from typing import Any, Iterator, List

READ_SIZE = 64 * 1024
"""Maximum bytes of one read. It returns what has arrived."""

MAX_LINE = 64 * 1024
"""Bytes of a line with the size of a chunk, and of all trailers."""

_BLANK_LINE = re.compile(rb"\n\r?\n")


def decode_chunks(file: Any, reader: Any) -> Iterator[bytes]:
    """Yield the data of a body, all chunks that arrive together at once.

    Args:
        file: Where to read the body from.
        reader: An object whose ``surplus`` is set at the end: whether anything came after the body.

    Raises:
        IncompleteRead: The body was cut, or is not in this coding. What came before was yielded.
    """
    buffer, start = b"", 0
    size, missing = 1, 0  # of the current chunk; what is missing includes its line end
    while size > 0:
        received: bytes = file.read1(READ_SIZE)
        if not received or len(buffer) - start > MAX_LINE:
            raise IncompleteRead(b"")
        buffer, start = buffer[start:] + received, 0
        pieces: List[bytes] = []
        while size > 0:
            if missing:
                pieces.append(buffer[start : start + max(missing - 2, 0)])
                start += missing
                missing = max(start - len(buffer), 0)
                if missing:
                    start = len(buffer)
            line_end = buffer.find(b"\n", start)
            if missing or line_end < 0:
                break
            try:
                size = int(buffer[start:line_end].partition(b";")[0], 16)
            except ValueError:
                size = -1
            start = line_end + 1
            missing = size + 2
        data = b"".join(pieces)
        if data:
            yield data
    if size:
        raise IncompleteRead(b"")
    reader.surplus = _has_surplus(file, b"\n" + buffer[start:])


def _has_surplus(file: Any, trailers: bytes) -> bool:
    """Read the trailers to their end, and return whether the connection holds more, or anything else than trailers."""
    while len(trailers) <= MAX_LINE:
        blank_line = _BLANK_LINE.search(trailers)
        if blank_line is not None:
            return blank_line.end() < len(trailers)
        received = file.read1(READ_SIZE)
        if not received:
            break
        trailers += received
    return True
