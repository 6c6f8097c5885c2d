"""The chunked coding of HTTP/1.1 (RFC 9112, section 7.1)."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recall_sdk._codings import MAX_LINE, decode_chunks

bodies = st.lists(st.one_of(st.binary(min_size=1, max_size=20), st.sampled_from([b"\r\n", b"0\r\n\r\n", b"x" * 300])), max_size=8)
extensions = st.sampled_from([b"", b";a=b", b' ; name="value;0"', b" "])
trailers = st.sampled_from([b"", b"X-Trailer: yes\r\n", b"A: 1\r\nB: 2\r\n", b"A: 1\n"])
cuts = st.lists(st.integers(0, 400), max_size=12)


def coded(body, extension=b"", trailer=b""):
    """Code pieces of a body as one chunk each."""
    return b"".join(b"%X%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in body) + b"0" + extension + b"\r\n" + trailer + b"\r\n"


def split(stream, places):
    """Cut bytes at some places."""
    ends = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    return [stream[start:end] for start, end in zip(ends, ends[1:]) if start < end]


class Source:
    """What is received bit by bit, in the place of the file of a response and of its reader."""

    is_reusable = False

    def __init__(self, received):
        self.rest = list(received)

    def read1(self, _size):
        return self.rest.pop(0) if self.rest else b""


def decoder_of(received):
    """Return the decoder of what is received."""
    source = Source(received)
    return decode_chunks(source.read1, source)


def decode(received):
    """Decode what is received bit by bit; return the pieces of the body, and whether more came after the end."""
    source = Source(received)
    pieces = list(decode_chunks(source.read1, source))
    return pieces, not source.is_reusable or bool(source.rest)


@given(bodies, extensions, trailers, st.sampled_from([b"", b"\r\n", b"HTTP/1.1 200 OK"]), cuts)
@example([b"one", b"two"], b"", b"", b"", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
def test_chunks_are_decoded_however_they_arrive(body, extension, trailer, surplus, places):
    """The body is the same for each split, its pieces are not empty, and bytes after its end are noticed."""
    pieces, has_more = decode(split(coded(body, extension, trailer) + surplus, places))
    assert b"".join(pieces) == b"".join(body)
    assert all(pieces)
    assert has_more == bool(surplus)


@given(bodies.filter(any), cuts, st.data())
def test_truncated_chunks_are_never_complete(body, places, data):
    """A body that was cut before its last chunk raises, after all that arrived of it was yielded."""
    stream = coded(body)
    length = data.draw(st.integers(0, len(stream) - len(b"0\r\n\r\n")))
    received = split(stream[:length], places)
    decoder = decoder_of(received)
    got = []
    with pytest.raises(ConnectionError):
        got.extend(decoder)
    assert b"".join(body).startswith(b"".join(got))


def test_chunks_that_arrive_together_are_one_piece():
    """What has arrived is yielded at once, so that many small events take little time."""
    stream = coded([b"one", b"two", b"three"])
    assert decode([stream]) == ([b"onetwothree"], False)
    assert decode([stream[:15], stream[15:]])[0] == [b"onetwo", b"three"]


@pytest.mark.parametrize("size", [b"", b"zz", b"-5", b"0x", b"5 5", b"\xff", b"1" * (MAX_LINE + 2)])
@pytest.mark.parametrize("step", [1_000, 1_000_000])
def test_nonsense_for_a_size_raises(size, step):
    """A size that is none ends the body, after the chunks before it."""
    stream = b"3\r\none\r\n" + size + (b"\r\n" if len(size) < MAX_LINE else b"")
    received = [stream[at : at + step] for at in range(0, len(stream), step)] + [b"more"] * 3
    decoder = decoder_of(received)
    assert next(decoder) == b"one"
    with pytest.raises(ConnectionError):
        next(decoder)


@pytest.mark.parametrize("end", [b"0\r\n", b"0\r\nX-Trailer: ye", b"0\r\nX-Trailer: yes\r\n", b"0\r\n" + b"x" * 3 * MAX_LINE])
def test_unfinished_trailers_end_the_body(end):
    """A body is complete with its last chunk; without the end of the trailers, its connection is not used again."""
    stream = b"3\r\none\r\n" + end
    received = [stream[at : at + 1_000] for at in range(0, len(stream), 1_000)]
    assert decode(received) == ([b"one"], True)
