"""The event stream decoder, compared with the HTML standard, section 9.2 "Server-sent events"."""

import re
import time
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recall_sdk import sse
from recall_sdk.sse import EventDecoder, ServerSentEvent, iter_events

BOM = b"\xef\xbb\xbf"

MAX_SECONDS = 20.0
"""For what takes about a second, and would take minutes if its time grew with the square of its size."""

PIECES = [
    *(b"data", b"data:", b"data: ", b"event:", b"event: add", b"id", b"id:", b"id: 7", b"retry:", b"retry: 250", b"Data: x", b"other: x"),
    *(b"\n", b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b"\n\r", b":", b": comment", b" ", b"  ", b"\t"),
    *(BOM, b"\xef", b"\xbb\xbf", b"\0", b"\xff", b"\xe2\x80", b"\xe2\x80\xa8", b"\xc2\x85", b"\x0b", b"\x0c", b"\x1c", b"\xf0\x9f\x8e\x89"),
    *(b"x", b"1", b"-5", b"1_0", "\u0663".encode(), b"9" * 19, b'{"chunk": "a"}'),
]

BLOCKS = [
    *(
        b"data: a\n\n",
        b"data: \n\n",
        b"data:  b\n\n",
        b"data:c\n\n",
        b"data\n\n",
        "data: \u6f22\u2028\n\n".encode(),
        b"data: \xff\xe2\x80\n\n",
    ),
    *(b"data: a\ndata: b\n\n", b"data: a\r\n\n", b"data: a\rdata: b\n\n", b"data: a\r\n\r\n", b"data: a\n\r", b"data: \n\n\n"),
    *(
        b"event: add\ndata: d\n\n",
        b"id: 7\ndata: e\n\n",
        b"id: 8\n\n",
        b"retry: 5\ndata: f\n\n",
        b": comment\n\n",
        b"\n",
        b"\n\n",
        b"foo\n\n",
        BOM,
    ),
]

streams = st.one_of(
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=40).map(b"".join),
    st.lists(st.sampled_from(BLOCKS), max_size=20).map(b"".join),
)


def decode(*chunks):
    return list(iter_events(chunks))


def datas(*chunks):
    return [event.data for event in iter_events(chunks)]


def literal(stream):
    """Follow the standard's section 9.2.6 sentence by sentence.

    Two things are ours: a ``retry`` goes with the event of its block, and one of more than 18 digits is ignored.
    """
    if stream.startswith(BOM):  # "UTF-8 decode" strips one
        stream = stream[len(BOM) :]
    text = stream.decode("utf-8", "replace")
    lines = re.split("\r\n|\n|\r", text)[:-1]  # what follows the last line end is discarded with the pending data
    events = []
    data, event_type, last_event_id, retry = "", "", "", None
    for line in lines:
        if line == "":
            if data != "":
                events.append(ServerSentEvent(event_type or "message", data[:-1], last_event_id, retry))  # without the last LF
            data, event_type, retry = "", "", None
            continue
        if line.startswith(":"):
            continue
        field, colon, value = line.partition(":")
        if colon and value.startswith(" "):
            value = value[1:]
        if field == "event":
            event_type = value
        elif field == "data":
            data += value + "\n"
        elif field == "id":
            if "\0" not in value:
                last_event_id = value
        elif field == "retry" and re.fullmatch("[0-9]{1,18}", value):
            retry = int(value)
    return events


# ------------------------------------------------------------------------------------------- the standard's own examples


def test_whatwg_example_1_joins_data_lines():
    """Example 1 of section 9.2.6: three data lines are one event, its data joined by newlines."""
    assert decode(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [ServerSentEvent("message", "YHOO\n+2\n10")]


def test_whatwg_example_2_comments_ids_and_incomplete_event():
    """Example 2: a comment is no event, a bare id resets the id, one space is taken off, the unfinished event is discarded."""
    stream = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n"
    assert decode(stream) == [ServerSentEvent("message", "first event", "1"), ServerSentEvent("message", "second event", "")]
    assert datas(stream + b"\n")[2] == " third event"


def test_whatwg_example_3_empty_data_lines():
    """Example 3: the first block is an event with empty data, the second one with a single newline, the last is discarded."""
    assert datas(b"data\n\ndata\ndata\n\ndata:") == ["", "\n"]


def test_whatwg_example_4_optional_space():
    """Example 4: the space after the colon makes no difference."""
    first, second = decode(b"data:test\n\ndata: test\n\n")
    assert first == second == ServerSentEvent("message", "test")


# ------------------------------------------------------------------------------------------------------------- each rule


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_lf_cr_and_crlf_end_lines(end):
    """The standard: "CRLF pair, single LF, single CR": each ends a line."""
    assert decode(b"event: add" + end + b"data: 1" + end + end) == [ServerSentEvent("add", "1")]


@pytest.mark.parametrize("other", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_other_characters_do_not_end_lines(other):
    """Other line ends of Python's str.splitlines() are data in the standard."""
    assert datas(f"data: a{other}b\n\n".encode()) == [f"a{other}b"]


def test_byte_order_mark_is_dropped_once():
    """The standard: "One leading U+FEFF BYTE ORDER MARK character must be ignored if any are present": one, and at the start alone."""
    assert datas(BOM + b"data: a\n\n" + BOM + b"data: b\n\ndata: c\n\n") == ["a", "c"]
    assert datas(BOM + BOM + b"data: a\n\n") == []


@pytest.mark.parametrize("stream", [b"", BOM, BOM[:2], b"\n", b"\r\n\r\n", b": x\n\n", b"event: add\n\n", b"id: 1\n\n", b"retry: 1\n\n"])
def test_block_without_data_is_no_event(stream):
    """The standard: "If the data buffer is an empty string", nothing is dispatched."""
    assert decode(stream) == []


def test_block_without_data_resets_type():
    """The standard: "Set the data buffer and the event type buffer to the empty string": the next event does not inherit them."""
    assert decode(b"event: add\nretry: 5\n\ndata: x\n\n") == [ServerSentEvent("message", "x")]


def test_id_persists():
    """The last event ID buffer "does not get reset, so once set, the event source keeps it"; also one that came without data."""
    stream = b"id: 1\n\ndata: a\n\ndata: b\nid: 2\n\ndata: c\nid:\n\n"
    assert [event.id for event in decode(stream)] == ["1", "2", ""]


def test_id_with_nul_is_ignored():
    """The standard: "If the field value does not contain U+0000 NULL", it sets the id; "otherwise, ignore the field"."""
    assert decode(b"id: 1\nid: 2\0\ndata: a\n\n") == [ServerSentEvent("message", "a", "1")]


@pytest.mark.parametrize(
    ("value", "retry"), [(b"250", 250), (b"0", 0), (b"007", 7), (b"-5", None), (b"1_0", None), (b"1.5", None), (b"", None), (b" 5", None)]
)
def test_retry_of_digits(value, retry):
    """The standard: "If the field value consists of only ASCII digits", it is a time in milliseconds; otherwise it is ignored."""
    assert decode(b"retry: " + value + b"\ndata: a\n\n") == [ServerSentEvent("message", "a", "", retry)]


def test_invalid_retry_is_ignored():
    """Digits beyond ASCII, and numbers that no time needs, are ignored."""
    assert decode("retry: \u0663\n".encode() + b"retry: " + b"9" * 5000 + b"\ndata: a\n\n") == [ServerSentEvent("message", "a")]


def test_unknown_fields_are_ignored():
    """The standard: "Otherwise: the field is ignored"; names are compared as they are, with no change of case."""
    assert decode(b"Data: x\ndata : y\n data: z\nfoo\nEVENT: add\ndata: a\n\n") == [ServerSentEvent("message", "a")]


def test_invalid_utf_8_is_replaced():
    """The standard: "Streams must be decoded using the UTF-8 decode algorithm": errors become U+FFFD, one for each maximal part."""
    assert datas(b"data: a\xffb\xe2\x80c\xf0\x9f\n\n") == ["a\ufffdb\ufffdc\ufffd"]


def test_event_is_yielded_with_its_last_byte():
    """No event waits for the next one, also if a CR ends it and an LF may follow."""
    for end in (b"\n\n", b"\r\r", b"\r\n\r"):
        taken = []

        def chunks(end=end, taken=taken):
            for byte in b"data: x" + end + b"\ndata: y\n\n":
                taken.append(byte)
                yield bytes([byte])

        assert next(iter_events(chunks())).data == "x"
        assert bytes(taken) == b"data: x" + end


def test_crlf_split_across_empty_chunks():
    """The LF of a CRLF that arrives later, also after empty reads, does not end a second line."""
    assert datas(b"data: a\r", b"", b"\ndata: b\r", b"", b"", b"\n\r", b"\n") == ["a\nb"]


def test_long_line_in_many_chunks():
    """A line is joined from any number of reads."""
    pieces = [b"data: "] + [b"x" * 1000] * 500 + [b"\n", b"\n"]
    assert datas(*pieces) == ["x" * 500_000]


@pytest.mark.parametrize("size", [1, 3, 1_000])
@pytest.mark.parametrize("line", ["one long line", "many lines of data", "many events", "a comment", "an unfinished event"])
def test_decoding_takes_linear_time(line, size):
    """Whatever the split is, the time grows with the bytes, not with their square."""
    stream = {
        "one long line": b"data: " + b"x" * 1_000_000 + b"\n\n",
        "many lines of data": b"data: x\n" * 120_000 + b"\n",
        "many events": b"data: x\n\n" * 100_000,
        "a comment": b":" * 1_000_000 + b"\n\n",
        "an unfinished event": b"data\n" * 200_000,
    }[line]
    start = time.monotonic()
    for _ in iter_events(stream[at : at + size] for at in range(0, len(stream), size)):
        pass
    assert time.monotonic() - start < MAX_SECONDS


def in_one_line(piece):
    """Make chunks that never end a line."""
    return [b"data: ", *[piece] * 300]


def in_many_lines(piece):
    """Make chunks that never end an event."""
    return [b"data: " + piece + b"\n"] * 300


def in_a_name(piece):
    """Make chunks of an event whose name is too long."""
    return [b"event: " + piece * 200 + b"\n"]


@pytest.mark.parametrize("kind", [in_one_line, in_many_lines, in_a_name])
def test_event_beyond_the_bound_is_rejected(kind, monkeypatch):
    """An event that is not complete when it has grown too large raises, with memory near the bound."""
    monkeypatch.setattr(sse, "MAX_EVENT_SIZE", 100_000)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 100000 bytes"):
            list(iter_events([b"data: first\n\n", *kind(b"x" * 1_000)]))
        assert tracemalloc.get_traced_memory()[1] < 1_500_000
    finally:
        tracemalloc.stop()


def test_events_within_the_bound_are_decoded(monkeypatch):
    """The bound is one for each event, not for the stream."""
    monkeypatch.setattr(sse, "MAX_EVENT_SIZE", 1_000)
    chunks = [b"data: " + b"x" * 400, b"x" * 400, b"\n", b"\n"]
    assert datas(*chunks * 20) == ["x" * 800] * 20


def test_decoder_returns_events_of_each_chunk():
    """Chunks that are passed in one by one return the events that they complete."""
    decoder = EventDecoder()
    assert decoder.feed(b"data: a\n\nda") == [("message", "a", "", None)]
    assert decoder.feed(b"ta: b\n") == []
    assert decoder.feed(b"\ndata: c\n\nid: 7\ndata: d\n\n") == [
        ("message", "b", "", None),
        ("message", "c", "", None),
        ("message", "d", "7", None),
    ]


# ------------------------------------------------------------------------------------------------------------ properties


@given(streams)
@example(b"data: a\r\n\rdata: b\r\r\n\n")
@example(BOM + BOM + b"data: a\n\n")
@example(b"id: 1\n\n\n\ndata\n\n")
def test_decoder_matches_literal_standard(stream):
    """For any stream, the decoder yields what a literal implementation of the standard yields."""
    assert decode(stream) == literal(stream)


@given(streams, st.lists(st.integers(0, 200), max_size=20))
@example(BOM + b"data: a\r\n\r\n", [1, 2, 2, 10, 11, 12])
def test_split_of_bytes_does_not_matter(stream, cuts):
    """It does not matter how the bytes are split into reads, also into empty ones."""
    places = [0, *sorted(cuts), len(stream)]
    chunks = [stream[start:end] for start, end in zip(places, places[1:])]
    assert b"".join(chunks) == stream
    assert decode(*chunks) == decode(stream)


@given(streams)
def test_single_bytes_give_same_events(stream):
    """Single bytes yield the same events as the whole stream."""
    assert decode(*(stream[index : index + 1] for index in range(len(stream)))) == decode(stream)
