"""The codings of a body in HTTP: chunks (RFC 9112, section 7.1), and compression (RFC 9110, section 8.4.1)."""

import re
import zlib
from typing import Any, Callable, Iterator, List

from urllib3.exceptions import DecodeError

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
        reader: An object whose ``is_reusable`` is set at the end of the body: whether nothing came after it.

    Raises:
        ConnectionError: The body was cut, or is not in this coding. What came before was yielded.
    """
    received, buffer = b"", b"\r\n"
    end, size = 0, 1  # of the current chunk's data, whose end may lie beyond the buffer; here, of none
    while size > 0:
        received = read(READ_SIZE)
        if not received or len(buffer) > MAX_LINE:
            raise ConnectionError("the end of its body is missing")
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
        raise ConnectionError("a chunk of its body has no size")
    trailers = b"\n" + buffer
    while received and len(trailers) <= MAX_LINE and not re.search(_BLANK_LINE, trailers):
        received = read(READ_SIZE)
        trailers += received
    reader.is_reusable = re.split(_BLANK_LINE, trailers, maxsplit=1)[1:] == [b""]  # otherwise there is more, or no end of the trailers


# -------------------------------------------------------------------------------------------------------- decompression

MAX_ENCODINGS = 2
"""Entries in a Content-Encoding: a second one comes from a proxy, and each one multiplies what few bytes can become."""

_UNREADABLE = {"br", "zstd", "compress", "x-compress"}
"""Encodings that the SDK can't decode. With an unknown name, the body is read as it is."""

_GZIP_MAGIC = b"\x1f"

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def decoded(pieces: Iterator[bytes], header: str, *, is_stream: bool) -> Iterator[bytes]:
    """Yield a body without the encodings that its ``Content-Encoding`` names.

    Raises:
        DecodeError: They are too many, or those of a stream can't be decoded.
    """
    names = [name for name in (each.strip().lower() for each in header.split(",")) if name not in ("", "identity")]
    if len(names) > MAX_ENCODINGS:
        raise DecodeError(f"it has {len(names)} encodings")
    if is_stream and not _UNREADABLE.isdisjoint(names):
        raise DecodeError(f"encoding {header}")
    for name in reversed(names):
        if name in _WINDOW_BITS:
            pieces = _decompressed(pieces, name)
    yield from pieces


def _decompressed(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
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
    return zlib.decompressobj(_WINDOW_BITS[encoding] if has_header else -zlib.MAX_WBITS)
