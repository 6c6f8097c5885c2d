"""The codings of a body in HTTP: chunks (RFC 9112, section 7.1), and compression (RFC 9110, section 8.4.1)."""

import re
import zlib
from http.client import IncompleteRead
from typing import Any, Callable, Iterator, List

READ_SIZE = 64 * 1024
"""Maximum bytes of one read. It returns what has arrived."""

MAX_LINE = 64 * 1024
"""Bytes of a line with the size of a chunk, and of all trailers."""

_BLANK_LINE = rb"\n\r?\n"


def decode_chunks(read: Callable[[int], bytes], reader: Any) -> Iterator[bytes]:
    """Yield the data of a chunked body, all chunks that arrive together at once.

    http.client returns each chunk on its own, and takes longer for it than a stream of one event per chunk takes for all the rest.

    Args:
        read: Returns what has arrived of the body, at most so many bytes; nothing at the end of the connection.
        reader: An object whose ``surplus`` is set at the end: whether anything came after the body.

    Raises:
        IncompleteRead: The body was cut, or is not in this coding. What came before was yielded.
    """
    received, buffer = b"", b"\r\n"
    end, size = 0, 1  # of the current chunk's data, whose end may lie beyond the buffer; here, of none
    while size > 0:
        received = read(READ_SIZE)
        if not received or len(buffer) > MAX_LINE:
            raise IncompleteRead(b"")
        buffer += received
        pieces: List[bytes] = []
        start = 0
        while size > 0:
            pieces.append(buffer[start:end])
            start = buffer.find(b"\n", end + len(b"\r\n")) + 1
            if not start:
                break
            try:
                size = int(buffer[end:start].partition(b";")[0], 16)
            except ValueError:
                size = -1
            end = start + size
        data = b"".join(pieces)
        if data:
            yield data
        kept = min(end, len(buffer))
        buffer, end = buffer[kept:], end - kept
    if size:
        raise IncompleteRead(b"")
    trailers = b"\n" + buffer
    while received and len(trailers) <= MAX_LINE and not re.search(_BLANK_LINE, trailers):
        received = read(READ_SIZE)
        trailers += received
    reader.surplus = re.split(_BLANK_LINE, trailers, maxsplit=1)[1:] != [b""]  # the connection holds more, or anything else than trailers


# -------------------------------------------------------------------------------------------------------- decompression

UNREADABLE = {"br", "zstd", "compress", "x-compress"}
"""Encodings that the SDK can't decode (RFC 9110, section 8.4.1). With an unknown name, the body is read as it is."""

_GZIP_MAGIC = b"\x1f"

WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def decompressed(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Decompress piece by piece, because a few bytes may become gigabytes."""
    decoder: Any = None
    for piece in pieces:
        rest, has_more = piece, True
        while has_more:
            if decoder is None:
                decoder = _decoder(encoding, rest)
            elif decoder.eof:  # gzip may have several members; anything else after the end is ignored
                if encoding == "deflate" or rest[:1] != _GZIP_MAGIC:
                    break
                decoder = _decoder(encoding, rest)
            data = decoder.decompress(rest, READ_SIZE)
            rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if data:
                yield data
            has_more = bool(rest) or (len(data) == READ_SIZE and not decoder.eof)


def _decoder(encoding: str, first: bytes) -> Any:
    has_header = encoding != "deflate" or first[0] & 0x0F == zlib.DEFLATED  # many servers leave out the header of deflate
    return zlib.decompressobj(WINDOW_BITS[encoding] if has_header else -zlib.MAX_WBITS)
