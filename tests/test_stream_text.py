"""The text of a stream: characters that were cut apart, text that was retracted, and the time and memory that it takes."""

import json
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawserver import LAST_CHUNK, answers, chunk
from recall_sdk import ExecutionError, StreamInterruptedError
from recall_sdk.streaming import _Text
from streams import CHUNKED, DONE, sse, streams, text

HIGH, LOW = "\ud83d", "\ude00"
SMILE = "\U0001f600"
RESET = {"event": "chunk_reset"}

MAX_SECONDS = 20.0
"""For what takes about a second, and would take minutes if its time grew with the square of its size."""


def stream_of(serve, connect, *payloads):
    """Open a stream of these payloads."""
    return connect(serve(streams(*map(sse, payloads)))).stream_workflow("w")


def piece(chunk, block_id="a"):
    """Make the payload of a chunk."""
    return {"blockId": block_id, "chunk": chunk}


# ------------------------------------------------------------------------------------------------ halves of characters


@pytest.mark.parametrize("read", ["text", "chunks", "result"])
def test_stream_joins_halves_of_a_character(read, serve, connect):
    """A character that was cut into two chunks is whole in each form of the text, and the payloads stay as they were received."""
    payloads = [piece("Hi " + HIGH), piece(LOW + "!"), {"event": "done", "success": True}]
    stream = stream_of(serve, connect, *payloads)
    if read == "text":
        assert list(stream.text()) == ["Hi ", SMILE + "!"]
    elif read == "chunks":
        events = list(stream)
        assert [event.chunk for event in events] == ["Hi ", SMILE + "!", ""]
        assert [event.data for event in events] == payloads
    assert stream.result.text == f"Hi {SMILE}!"
    assert stream.result.text_by_block == {"a": f"Hi {SMILE}!"}


def test_stream_joins_halves_of_each_block(serve, connect):
    """Blocks that interleave do not mix their halves; text without a block is one of them."""
    payloads = [
        piece("1" + HIGH, "a"),
        piece("2" + HIGH, "b"),
        {"chunk": HIGH},
        piece("x", "c"),
        {"chunk": LOW},
        piece(LOW, "b"),
        piece(LOW, "a"),
    ]
    stream = stream_of(serve, connect, *payloads, "[DONE]")
    assert list(stream.text()) == ["1", "2", "x", SMILE, SMILE, SMILE]
    assert stream.result.text_by_block == {"a": "1" + SMILE, "b": "2" + SMILE, "c": "x"}


@pytest.mark.parametrize(
    ("chunks", "whole"),
    [
        (["a" + HIGH, "b"], "a\ufffdb"),
        (["a" + HIGH, HIGH, LOW], f"a\ufffd{SMILE}"),
        ([LOW + "b"], "\ufffdb"),
        (["a" + HIGH + "b" + LOW + "c"], "a\ufffdb\ufffdc"),
        (["a" + HIGH], "a\ufffd"),
        ([HIGH], "\ufffd"),
        ([HIGH, "", LOW], SMILE),
        (["é" + HIGH, LOW + "漢"], f"é{SMILE}漢"),
    ],
)
def test_stream_replaces_halves_without_partner(chunks, whole, serve, connect):
    """A half whose other half never comes is U+FFFD, also at the end."""
    stream = stream_of(serve, connect, *map(piece, chunks), {"event": "done", "success": True})
    pieces = list(stream.text())
    assert "".join(pieces) == whole
    assert "" not in pieces
    assert stream.result.text == whole
    assert stream.result.text_by_block == {"a": whole}


@pytest.mark.parametrize("end", [[{"event": "done", "success": True}], []])
def test_stream_events_hold_halves_without_partner(end, serve, connect):
    """Whoever joins the chunks of the events gets the text of the result, also after halves in several blocks."""
    stream = stream_of(serve, connect, piece("1" + HIGH, "a"), piece("2" + HIGH, "b"), *end, "[DONE]")
    events = list(stream)
    assert "".join(event.chunk for event in events) == stream.result.text == "12\ufffd\ufffd"
    assert [(event.type, event.block_id) for event in events[2:4]] == [("chunk", "a"), ("chunk", "b")]
    assert stream.result.text_by_block == {"a": "1\ufffd", "b": "2\ufffd"}


def test_stream_reset_drops_half_of_a_character(serve, connect):
    """A half that was retracted is not joined with what comes after it."""
    stream = stream_of(serve, connect, piece("x" + HIGH), {"blockId": "a", **RESET}, piece(LOW + "y"), "[DONE]")
    assert stream.result.text == "\ufffdy"


@pytest.mark.parametrize("end", [[], [{"event": "error", "error": "boom"}]])
def test_partial_has_no_halves(end, serve, connect):
    """What arrived of a stream that broke or failed can be encoded."""
    with pytest.raises((StreamInterruptedError, ExecutionError)) as caught:
        list(stream_of(serve, connect, piece("Hi " + HIGH), *end))
    partial = caught.value.result if end else caught.value.partial
    assert partial.text == "Hi \ufffd"


@given(st.text(st.characters(exclude_categories=[]), max_size=20), st.lists(st.integers(0, 40), max_size=8), st.booleans())
def test_split_of_text_does_not_matter(whole, cuts, by_turns):
    """However a server in JavaScript cuts a text into chunks, its characters arrive, and nothing else."""
    units = whole.encode("utf-16-le", "surrogatepass")
    places = [0, *sorted(2 * cut for cut in cuts if 2 * cut <= len(units)), len(units)]
    text = _Text()
    got = ""
    for start, end in zip(places, places[1:]):
        if by_turns:
            text.add("other", "-")
        got += text.add("a", json.loads(json.dumps(units[start:end].decode("utf-16-le", "surrogatepass"))))
    got += "".join(text.end(block_id).chunk for block_id in list(text.halves))
    expected = units.decode("utf-16-le", "replace")
    assert got == expected
    assert text.snapshot(None).text_by_block.get("a", "") == expected


# ----------------------------------------------------------------------------------------------------- time and memory


@pytest.mark.parametrize("other", [0, 100_000])
def test_stream_of_resets_takes_linear_time(other, serve, connect):
    """Eight thousand retractions take no longer than the events themselves, also beside a long text of another block."""
    body = text("b" * other, "b") + (text("x") + sse({"blockId": "a", **RESET})) * 8_000 + DONE
    start = time.monotonic()
    with connect(serve(answers(CHUNKED + chunk(body) + LAST_CHUNK))).stream_workflow("w") as stream:
        assert len(list(stream)) == 16_002
    assert time.monotonic() - start < MAX_SECONDS
    assert stream.result.text == "b" * other


def test_text_of_interleaved_blocks_takes_little_memory():
    """Short chunks of blocks that take turns need a few times the bytes of their text, and no object each."""
    count = 200_000
    tracemalloc.start()
    collected = _Text()
    for number in range(count):
        collected.add("ab"[number % 2], "12345")
    result = collected.snapshot(None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(result.text) == 5 * count
    assert result.text_by_block == {"a": "12345" * (count // 2), "b": "12345" * (count // 2)}
    assert peak < 10 * len(result.text)


def test_retracted_text_does_not_stay_in_memory():
    """A block that is retracted again and again needs the memory of one attempt, and other blocks keep their text."""
    tracemalloc.start()
    collected = _Text()
    for number in range(300):
        collected.add("b", f"{number} ")
        collected.add("a", "x" * 100_000)
        collected.reset("a")
    collected.reset("never seen")
    collected.add("a", "!")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000
    numbers = "".join(f"{number} " for number in range(300))
    result = collected.snapshot(None)
    assert (result.text, result.text_by_block) == (numbers + "!", {"b": numbers, "a": "!"})
