"""A live stream: events as they arrive, a reliable end, and connections that are closed or reused."""

import copy
import gc
import gzip
import json
import pickle
import threading
import time
import zlib
from contextlib import contextmanager, suppress

import pytest
import requests

from rawserver import LAST_CHUNK, PATIENCE, answers, chunk, envelope, head, http, needs_reference_counts
from recall_sdk import (
    AsyncExecutionResult,
    AuthenticationError,
    ExecutionError,
    InvalidResponseError,
    RateLimitError,
    RecallConnectionError,
    RecallError,
    RecallTimeoutError,
    StreamedExecutionResult,
    StreamEvent,
    StreamInterruptedError,
    WorkflowStream,
)
from streams import CHUNKED, DONE, FINAL, MARK, ONE_TWO, STREAM, UNTIL_CLOSE, sse, streams, text

SILENCE = 0.2
"""Seconds of silence before the timeout that a test waits for."""

SLACK = 1.0
"""Seconds that a busy machine may need in addition."""

# ------------------------------------------------------------------------------------------------------------- promptness


class Framing:
    """A framing of a stream: how it starts, how each event is wrapped, how it ends."""

    def __init__(self, start, wrap, end=b""):
        self.start = start
        self.wrap = wrap
        self.end = end


def zipped(start, wrap, end, bits):
    """Return a framing that flushes the compression at each event."""
    compressor = zlib.compressobj(wbits=bits)

    def squeeze(data):
        return wrap(compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))

    return Framing(start, squeeze, end)


def same(data):
    """Send an event unchanged."""
    return data


def in_pieces(data):
    """Send each event in many HTTP chunks."""
    return b"".join(chunk(data[at : at + 5]) for at in range(0, len(data), 5))


def framings(size):
    """Return all framings, for a stream of so many bytes."""
    return {
        "chunked": Framing(CHUNKED, chunk, LAST_CHUNK),
        "many chunks to an event": Framing(CHUNKED, in_pieces, LAST_CHUNK),
        "one chunk over time": Framing(CHUNKED + b"%x;proxy=yes\r\n" % size, same, b"\r\n" + LAST_CHUNK),
        "chunked, with trailers": Framing(CHUNKED, chunk, b"0\r\nX-Trailer: yes\r\n\r\n"),
        "until close": Framing(UNTIL_CLOSE, same),
        "http/1.0": Framing(head(STREAM, version="1.0"), same),
        "length": Framing(head(f"Content-Length: {size}", STREAM), same),
        "chunked, gzip": zipped(head("Transfer-Encoding: chunked", "Content-Encoding: gzip", STREAM), chunk, LAST_CHUNK, 31),
        "until close, gzip": zipped(head("Connection: close", "Content-Encoding: gzip", STREAM), same, b"", 31),
        "chunked, x-gzip": zipped(head("Transfer-Encoding: chunked", "Content-Encoding: X-GZIP", STREAM), chunk, LAST_CHUNK, 31),
        "chunked, deflate": zipped(head("Transfer-Encoding: chunked", "Content-Encoding: deflate", STREAM), chunk, LAST_CHUNK, 15),
        "until close, an unknown encoding": Framing(head("Connection: close", "Content-Encoding: none", STREAM), same),
        "chunked, raw deflate": zipped(head("Transfer-Encoding: chunked", "Content-Encoding: deflate", STREAM), chunk, LAST_CHUNK, -15),
    }


FRAMINGS = list(framings(0))


def paced(framing, events):
    """Make a handler that waits for the test before each event, and before the end."""

    def handler(connection):
        connection.request()
        way = framings(sum(map(len, events)))[framing]
        connection.send(way.start)
        for event in events:
            connection.wait_for_go()
            connection.send(way.wrap(event))
        connection.wait_for_go()
        connection.send(way.end)

    return handler


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_stream_yields_event_before_next_is_sent(framing, own_session, serve, connect):
    """An event is yielded as soon as it arrives: the server sends the next one only after the loop got it."""
    server = serve(paced(framing, [*ONE_TWO, text(" three"), DONE, MARK]))
    with requests.Session() as session:
        client = connect(server, session=session if own_session else None)
        with client.stream_workflow("w", timeout=3.0) as stream:
            for expected in ("One", ", two", " three"):
                server.go()
                assert next(stream).chunk == expected
            server.go()
            assert next(stream).type == "done"
            server.go()
            server.go()
            assert stream.result.output == {"content": "One, two"}
            assert stream.result.text == "One, two three"


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_stream_yields_event_with_every_line_end(end, serve, connect):
    """The blank line that ends an event is enough, with any line ends."""
    events = [event.decode().replace("\n", end).encode() for event in [*ONE_TWO, DONE]]
    server = serve(paced("until close", events))
    with connect(server).stream_workflow("w", timeout=3.0) as stream:
        for event_type in ("chunk", "chunk", "done"):
            server.go()
            assert next(stream).type == event_type


def test_stream_returns_before_first_event(serve, connect):
    """The stream is returned as soon as the head arrives."""
    server = serve(paced("chunked", [text("One"), DONE]))
    with connect(server).stream_workflow("w", timeout=3.0) as stream:
        assert isinstance(stream, WorkflowStream)
        assert iter(stream) is not None


# ------------------------------------------------------------------------------------------------------- both ends, both words

ENDS = {
    "documented": [DONE, MARK],
    "observed": [FINAL, sse('"[DONE]"')],
    "documented, no mark": [DONE],
    "observed, no mark": [FINAL],
    "named by the event field": [b"event: done\n" + sse({"success": True, "output": {"content": "One, two"}})],
}


@pytest.mark.parametrize("framing", ["chunked", "until close"])
@pytest.mark.parametrize("end", ENDS)
def test_stream_end_in_both_dialects(end, framing, serve, connect):
    """In either dialect the user gets one done event and one result."""
    events = [*ONE_TWO, *ENDS[end]]
    way = framings(0)[framing]
    server = serve(lambda connection: connection.request() and connection.send(way.start + b"".join(map(way.wrap, events)) + way.end))
    stream = connect(server).stream_workflow("w")
    assert [event.type for event in stream] == ["chunk", "chunk", "done"]
    assert stream.result.success is True
    assert stream.result.output == {"content": "One, two"}
    assert stream.result.text == "One, two"


@pytest.mark.parametrize("mark", ["[DONE]", '"[DONE]"', " [DONE] ", ' "[DONE]" '])
def test_stream_ends_with_done_mark(mark, serve, connect):
    """The mark without an end event means success, and is not an event."""
    stream = connect(serve(streams(*ONE_TWO, sse(mark)))).stream_workflow("w")
    assert [event.chunk for event in stream] == ["One", ", two"]
    assert stream.result == StreamedExecutionResult(success=True, text="One, two", text_by_block={"a": "One, two"})


def test_stream_result_from_documented_end(serve, connect):
    """All fields of the end event are in the result."""
    end = {"event": "done", "success": True, "output": 5, "metadata": {"duration": 7}, "logs": [1], "traceSpans": [2], "totalDuration": 3}
    result = connect(serve(streams(*ONE_TWO, sse(end), MARK))).stream_workflow("w").result
    assert result == StreamedExecutionResult(True, 5, None, [1], {"duration": 7}, [2], 3, "One, two", {"a": "One, two"})


@pytest.mark.parametrize(
    "end",
    [
        {"event": "done", "success": False, "error": "no luck"},
        {"event": "final", "data": {"success": False, "error": "no luck", "output": {}}},
    ],
)
def test_stream_end_with_success_false_is_result(end, serve, connect):
    """A run that ended without success has a result that says so."""
    stream = connect(serve(streams(text("One"), sse(end), MARK))).stream_workflow("w")
    assert [event.type for event in stream] == ["chunk", "done"]
    assert (stream.result.success, stream.result.error, stream.result.text) == (False, "no luck", "One")


# ------------------------------------------------------------------------------------------------------------------ events


def test_stream_chunk_event(serve, connect):
    """A chunk has its text, its block and the payload."""
    events = list(connect(serve(streams(text("One"), sse({"chunk": "two"}), DONE))).stream_workflow("w"))
    assert events[0] == StreamEvent("chunk", "a", "One", {"blockId": "a", "chunk": "One"})
    assert events[1] == StreamEvent("chunk", None, "two", {"chunk": "two"})
    assert events[2].block_id is None
    assert events[2].chunk == ""


def test_stream_continues_after_block_error(serve, connect):
    """A failed block is an event, and the run continues."""
    failed = {"event": "stream_error", "blockId": "b", "error": "model crashed"}
    stream = connect(serve(streams(text("One"), sse(failed), text(", two"), FINAL, MARK))).stream_workflow("w")
    events = list(stream)
    assert [event.type for event in events] == ["chunk", "block_error", "chunk", "done"]
    assert events[1] == StreamEvent("block_error", "b", "", failed)
    assert stream.result.success


@pytest.mark.parametrize(
    ("payload", "value"), [("no JSON {", "no JSON {"), ("[1, 2]", [1, 2]), ('"words"', "words"), ("7", 7), ("null", None), ("", "")]
)
def test_stream_message_event(payload, value, serve, connect):
    """A payload that is not a JSON object is a message, and does not end the stream."""
    stream = connect(serve(streams(sse(payload), DONE))).stream_workflow("w")
    assert next(stream) == StreamEvent("message", None, "", {"data": value})
    assert stream.result.success


@pytest.mark.parametrize("space", [" ", "  ", "\t"])
def test_stream_payload_with_white_space(space, serve, connect):
    """White space around JSON is ignored."""
    payload = space + json.dumps({"blockId": "a", "chunk": "One"}) + space
    stream = connect(serve(streams(sse(payload), DONE))).stream_workflow("w")
    assert next(stream).chunk == "One"


def test_stream_unknown_event_keeps_type(serve, connect):
    """An undocumented event keeps its type, from the payload or from the event field."""
    stream = connect(
        serve(streams(sse({"event": "progress", "at": 3}), b"event: ping\n" + sse({}), b": heartbeat\n\n", DONE))
    ).stream_workflow("w")
    assert [event.type for event in stream] == ["progress", "ping", "done"]


def test_stream_text_yields_chunks(serve, connect):
    """text() yields only text."""
    failed = sse({"event": "stream_error", "blockId": "b", "error": "x"})
    stream = connect(serve(streams(text("One"), failed, sse("?"), text(", two"), DONE))).stream_workflow("w")
    assert list(stream.text()) == ["One", ", two"]
    assert stream.result.text == "One, two"


def test_stream_text_by_block(serve, connect):
    """The text of each block is separate, in any order of blocks; text without a block is only in the whole."""
    turns = [text("a1", "a"), text("b1", "b"), text("a2", "a"), text("a3", "a"), sse({"chunk": "?"}), text("b2", "b"), text("", "c")]
    result = connect(serve(streams(*turns, DONE))).stream_workflow("w").result
    assert result.text == "a1b1a2a3?b2"
    assert result.text_by_block == {"a": "a1a2a3", "b": "b1b2", "c": ""}


def test_stream_result_reads_rest(serve, connect):
    """Before the end, the result waits for it and has all of the text."""
    stream = connect(serve(streams(*ONE_TWO, text(" three"), DONE, MARK))).stream_workflow("w")
    assert next(stream).chunk == "One"
    assert stream.result.text == "One, two three"
    assert stream.result == stream.result


def test_stream_very_large_event(serve, connect):
    """A line far longer than any buffer is one event."""
    stream = connect(serve(streams(text("x" * 5_000_000), DONE))).stream_workflow("w")
    assert len(next(stream).chunk) == 5_000_000


def test_stream_two_at_once(serve, connect):
    """Two streams of one client are independent."""

    def handler(connection):
        name = connection.request().json["name"]
        connection.send(CHUNKED)
        for number in range(3):
            connection.send(chunk(text(f"{name}{number}")))
        connection.send(chunk(DONE) + LAST_CHUNK)

    client = connect(serve(handler))
    with client.stream_workflow("w", {"name": "x"}) as one, client.stream_workflow("w", {"name": "y"}) as other:
        pairs = list(zip(one.text(), other.text()))
    assert pairs == [("x0", "y0"), ("x1", "y1"), ("x2", "y2")]


def test_stream_request(serve, connect):
    """A stream is requested in the body and in the Accept header."""
    server = serve(streams(DONE))
    with connect(server).stream_workflow("w", {"a": 1}, selected_outputs=["agent1.content"]):
        pass
    (request,) = server.requests
    assert request.json == {"a": 1, "stream": True, "selectedOutputs": ["agent1.content"]}
    assert request.headers["accept"].startswith("text/event-stream")


def test_stream_reports_rate_limit(serve, connect):
    """The headers of a stream are read like those of any answer."""
    client = connect(serve(answers(CHUNKED[:-2] + b"X-RateLimit-Limit: 9\r\nX-RateLimit-Remaining: 8\r\n\r\n" + chunk(DONE) + LAST_CHUNK)))
    client.stream_workflow("w").close()
    assert client.get_rate_limit_info().limit == 9


# ---------------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("tail", [[], [MARK], [text("never"), DONE]])
def test_stream_error_event_raises_execution_error(tail, serve, connect):
    """A failed run raises, with the text so far in the result, and again when the result is read."""
    payload = {"event": "error", "error": "boom at line 1"}
    stream = connect(serve(streams(*ONE_TWO, sse(payload), *tail))).stream_workflow("w")
    got = []
    with pytest.raises(ExecutionError, match="boom at line 1") as caught:
        got.extend(event.chunk for event in stream)
    assert caught.value.code == "EXECUTION_ERROR"
    assert caught.value.may_have_executed is True
    assert caught.value.body == payload
    assert (caught.value.result.success, caught.value.result.error, caught.value.result.text) == (False, "boom at line 1", "One, two")
    with pytest.raises(ExecutionError, match="boom at line 1"):
        _ = stream.result


FAILURES = {
    "an error event of the event stream, with an object": b'event: error\ndata: {"message": "model overloaded"}\n\n',
    "an error event of the event stream, with text": b"event: error\ndata: model overloaded\n\n",
    "an error event of the event stream, with a JSON string": b'event: error\ndata: "model overloaded"\n\n',
    "an error event of the event stream, with a chunk": b'event: error\ndata: {"error": "model overloaded", "chunk": "x"}\n\n',
    "event error": sse({"event": "error", "error": "model overloaded"}),
    "type error": sse({"type": "error", "error": {"message": "model overloaded"}}),
    "type error, with a chunk": sse({"type": "error", "message": "model overloaded", "chunk": "x"}),
    "an error alone": sse({"error": "model overloaded"}),
    "no success": sse({"blockId": "a", "success": False, "error": "model overloaded"}),
    "no success, with a chunk": sse({"blockId": "a", "chunk": "x", "success": False, "error": "model overloaded"}),
    "an end with an error and without success": sse({"event": "done", "error": "model overloaded"}),
    "a final with an error and without success": sse({"event": "final", "data": {"error": "model overloaded"}}),
}


@pytest.mark.parametrize("frame", FAILURES)
@pytest.mark.parametrize("tail", [[], [MARK], [DONE, MARK]])
def test_stream_failure_in_each_frame(frame, tail, serve, connect):
    """A failure in any known form raises an ExecutionError with the text so far, whatever follows."""
    client = connect(serve(streams(text("Hel"), FAILURES[frame], *tail)))
    with pytest.raises(ExecutionError, match="the workflow failed: model overloaded") as caught:
        client.execute_workflow("w", stream=True)
    assert (caught.value.result.success, caught.value.result.error, caught.value.result.text) == (False, "model overloaded", "Hel")
    assert caught.value.may_have_executed is True


@pytest.mark.parametrize(
    "harmless",
    [{"blockId": "a", "chunk": "lo", "error": None}, {"event": "message", "chunk": "lo", "blockId": "a", "error": ""}],
)
def test_stream_empty_error_is_no_failure(harmless, serve, connect):
    """An empty error field does not fail a stream."""
    result = connect(serve(streams(text("Hel"), sse(harmless), DONE))).execute_workflow("w", stream=True)
    assert (result.success, result.text_by_block) == (True, {"a": "Hello"})


def test_stream_error_of_one_block_is_no_failure(serve, connect):
    """An error with a block id belongs to that block."""
    events = list(connect(serve(streams(sse({"blockId": "a", "error": "no luck"}), DONE))).stream_workflow("w"))
    assert [event.type for event in events] == ["message", "done"]


def test_stream_chunk_reset_drops_text_of_block(serve, connect):
    """Retracted text is in no result, and that of other blocks keeps its order."""
    reset = sse({"blockId": "a", "event": "chunk_reset"})
    events = [text("Let me "), text("Hi, ", "b"), text("look"), reset, text("20 degrees"), text("!", "b")]
    with connect(serve(streams(*events, DONE))).stream_workflow("w") as stream:
        types = [event.type for event in stream]
    assert types == ["chunk", "chunk", "chunk", "chunk_reset", "chunk", "chunk", "done"]
    assert stream.result.text == "Hi, 20 degrees!"
    assert stream.result.text_by_block == {"b": "Hi, !", "a": "20 degrees"}


def test_stream_chunk_reset_drops_text_of_partial(serve, connect):
    """The partial result of a cut stream has no retracted text."""
    events = [text("Let me look"), sse({"blockId": "a", "event": "chunk_reset"}), text("20")]
    with pytest.raises(StreamInterruptedError) as caught:
        connect(serve(streams(*events))).execute_workflow("w", stream=True)
    assert (caught.value.partial.text, caught.value.partial.text_by_block) == ("20", {"a": "20"})


@pytest.mark.parametrize("tail", [[sse({"event": "error", "error": "boom"})], []])
def test_stream_error_has_request_id(tail, serve, connect):
    """An error of a stream has the server's request id."""
    message = http(text("One") + b"".join(tail), "Content-Type: text/event-stream", "X-Request-Id: r-7")
    with pytest.raises(RecallError) as caught:
        connect(serve(answers(message))).execute_workflow("w", stream=True)
    assert caught.value.request_id == "r-7"


@pytest.mark.parametrize(
    "events", [[sse({"event": "error", "error": "boom", "requestId": "r-7"})], [b'{"error": "x", "requestId": "r-7"}']]
)
def test_stream_error_has_request_id_of_its_body(events, serve, connect):
    """The id in the body of an error is found under any type of body, as it is in a plain call."""
    message = http(b"".join(events), "Content-Type: text/event-stream")
    with pytest.raises(RecallError) as caught:
        connect(serve(answers(message))).execute_workflow("w", stream=True)
    assert caught.value.request_id == "r-7"


def cut(*parts):
    """Make a handler that answers with these bytes and closes."""

    def handler(connection):
        connection.request()
        connection.send(b"".join(parts))

    return handler


def broken_by_reset(connection):
    """Send half a stream, and break the connection when the test has read it."""
    connection.request()
    connection.send(CHUNKED + chunk(text("One")))
    connection.wait_for_go()
    connection.reset()


_ZIPPED = gzip.compress(text("One") + text("x" * 999) * 3)
BREAKS = {
    "chunked, cut between chunks": cut(CHUNKED, chunk(text("One"))),
    "chunked, cut within a chunk": cut(CHUNKED, chunk(text("One")), chunk(text(", two"))[:-9]),
    "chunked, cut within a size": cut(CHUNKED, chunk(text("One")), b"1"),
    "chunked, ended without an end": cut(CHUNKED, chunk(text("One")), LAST_CHUNK),
    "chunked, nonsense for a size": cut(CHUNKED, chunk(text("One")), b"zz\r\n", text("two")),
    "until close": cut(UNTIL_CLOSE, text("One")),
    "until close, an unfinished event": cut(UNTIL_CLOSE, text("One"), text(", two")[:-1]),
    "until close, an unfinished end": cut(UNTIL_CLOSE, text("One"), DONE[:-1]),
    "length, too short": cut(head("Content-Length: 999", STREAM), text("One")),
    "length, ended without an end": cut(head(f"Content-Length: {len(text('One'))}", STREAM), text("One")),
    "gzip, until close": cut(head("Content-Encoding: gzip", "Connection: close", STREAM), gzip.compress(text("One"))),
    "reset": broken_by_reset,
}


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("kind", BREAKS)
def test_stream_cut_raises_with_partial(kind, own_session, serve, connect):
    """Without an end event a stream counts as cut, and everything that arrived is in partial."""
    server = serve(BREAKS[kind])
    with requests.Session() as session:
        stream = connect(server, session=session if own_session else None).stream_workflow("w")
        assert next(stream).chunk == "One"
        server.go()
        with pytest.raises(StreamInterruptedError) as caught:
            next(stream)
    error = caught.value
    assert error.code == "STREAM_INTERRUPTED"
    assert error.may_have_executed is True
    assert isinstance(error, RecallConnectionError)
    assert error.partial.text == "One"
    assert error.partial.text_by_block == {"a": "One"}
    assert error.partial.success is False
    assert str(error).count("the workflow") == str(error).count("may still be running") == 1
    assert str(error).endswith("; partial holds what arrived")
    for again in (lambda: stream.result, lambda: list(stream), stream.text):
        with pytest.raises(StreamInterruptedError):
            again()
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert twin.partial == error.partial
        assert str(twin) == str(error)


@pytest.mark.parametrize("call", ["execute_workflow", "execute_with_retry"])
def test_stream_cut_raises_again_on_second_read(call, serve, connect):
    """stream=True raises the same error, and nothing is sent twice."""
    server = serve(BREAKS["chunked, cut between chunks"])
    with pytest.raises(StreamInterruptedError) as caught:
        getattr(connect(server), call)("w", stream=True)
    assert caught.value.partial.text == "One"
    assert len(server.requests) == 1


def test_stream_with_corrupt_gzip(serve, connect):
    """Bytes that can't be decompressed raise a RecallError."""
    server = serve(cut(head("Content-Encoding: gzip", "Connection: close", STREAM), b"no gzip at all" * 9))
    with pytest.raises(InvalidResponseError) as caught:
        list(connect(server).stream_workflow("w"))
    assert caught.value.may_have_executed is True


@pytest.mark.parametrize("after", [b"", chunk(b"data: half an ev"), b"zz\r\n"])
def test_stream_cut_after_end_is_complete(after, serve, connect):
    """After the end event, nothing can change the result."""
    stream = connect(serve(cut(CHUNKED, chunk(text("One")), chunk(DONE), after))).stream_workflow("w")
    assert [event.type for event in stream] == ["chunk", "done"]
    assert stream.result.success


@pytest.mark.parametrize("more", [b": tick\n\n", DONE, MARK, text("more")])
def test_stream_ignores_data_after_end(more, serve, connect):
    """A server that sends on after the end does not delay the reader."""

    def handler(connection):
        connection.request()
        connection.send(CHUNKED + chunk(DONE))
        while True:
            connection.send(chunk(more))
            connection.pause(0.02)

    start = time.monotonic()
    assert connect(serve(handler)).execute_workflow("w", stream=True).success
    assert time.monotonic() - start < SLACK


def test_stream_does_not_wait_after_end(serve, connect):
    """The result does not wait for a server that keeps its answer open."""
    server = serve(lambda connection: connection.request() and (connection.send(CHUNKED + chunk(DONE)), connection.wait_for_hang_up()))
    start = time.monotonic()
    assert connect(server).execute_workflow("w", stream=True).success
    assert time.monotonic() - start < SLACK
    server.wait_for_hang_up()


def test_stream_with_unsupported_encoding(serve, connect):
    """It can't be read, and raises at once."""
    server = serve(
        lambda connection: (connection.request() and connection.send(CHUNKED[:-2] + b"Content-Encoding: br\r\n\r\n")) or connection.idle()
    )
    with pytest.raises(InvalidResponseError, match=r"can't be read \(encoding br\)"):
        list(connect(server).stream_workflow("w"))


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("framing", ["chunked", "until close", "chunked, gzip", "one chunk over time"])
def test_stream_silence_raises_timeout(framing, own_session, serve, connect):
    """A silence longer than the timeout raises, with what arrived, and closes the connection."""

    def handler(connection):
        connection.request()
        way = framings(9999)[framing]
        connection.send(way.start + way.wrap(text("One")))
        connection.wait_for_hang_up()

    server = serve(handler)
    with requests.Session() as session:
        stream = connect(server, session=session if own_session else None).stream_workflow("w", timeout=SILENCE)
        assert next(stream).chunk == "One"
        start = time.monotonic()
        with pytest.raises(RecallTimeoutError) as caught:
            next(stream)
        assert SILENCE - 0.05 <= time.monotonic() - start <= SILENCE + SLACK
        server.wait_for_hang_up()
    assert caught.value.code == "TIMEOUT"
    assert caught.value.partial.text == "One"
    assert caught.value.may_have_executed is True


def test_stream_runs_longer_than_timeout(serve, connect):
    """The timeout bounds each silence, not the stream: any bytes, also incomplete events, keep it alive."""

    def handler(connection):
        connection.request()
        connection.send(CHUNKED)
        for piece in (text("One")[:9], text("One")[9:], text(", two"), DONE):
            connection.pause(0.2)
            connection.send(chunk(piece))
        connection.send(LAST_CHUNK)

    assert connect(serve(handler)).stream_workflow("w", timeout=0.5).result.text == "One, two"


def test_stream_slow_reader_gets_everything(serve, connect):
    """Time that the user spends between events does not count as the server's silence."""
    stream = connect(serve(streams(*ONE_TWO, DONE))).stream_workflow("w", timeout=SILENCE)
    assert next(stream).chunk == "One"
    time.sleep(SILENCE * 1.5)
    assert stream.result.text == "One, two"


def test_stream_without_timeout_waits(serve, connect):
    """Without a timeout a silence may be of any length."""

    def handler(connection):
        connection.request()
        connection.send(CHUNKED)
        connection.pause(SILENCE * 2)
        connection.send(chunk(DONE) + LAST_CHUNK)

    assert connect(serve(handler), timeout=SILENCE).stream_workflow("w", timeout=None).result.success


# -------------------------------------------------------------------------------------------------- giving the connection up


def unfinished(connection):
    """Start a stream on the first connection, and notice its close; answer everything else at once."""
    if connection.number > 1:
        answers(http(envelope("second")))(connection)
    connection.request()
    connection.send(CHUNKED + chunk(text("One")) + chunk(text(", two")))
    connection.wait_for_hang_up()


def closed_before_the_first_event(client):
    client.stream_workflow("w").close()


def closed_after_an_event(client):
    stream = client.stream_workflow("w")
    next(stream)
    stream.close()
    stream.close()


def left_by_with(client):
    with client.stream_workflow("w") as stream:
        next(stream)


def left_by_an_exception(client):
    with suppress(KeyError), client.stream_workflow("w") as stream:
        raise KeyError(next(stream))


def forgotten_before_the_first_event(client):
    client.stream_workflow("w")


def forgotten_after_an_event(client):
    stream = client.stream_workflow("w")
    next(stream)
    del stream


def forgotten_by_a_loop(client):
    for _ in client.stream_workflow("w"):
        break


def forgotten_text(client):
    pieces = client.stream_workflow("w").text()
    next(pieces)
    del pieces


LEFT = [
    closed_before_the_first_event,
    closed_after_an_event,
    left_by_with,
    left_by_an_exception,
    *(
        pytest.param(each, marks=needs_reference_counts)
        for each in (forgotten_before_the_first_event, forgotten_after_an_event, forgotten_by_a_loop, forgotten_text)
    ),
]


@contextmanager
def without_collector():
    """Disable the garbage collector, so that objects are freed only by their last reference."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: getattr(leave, "__name__", None))
def test_stream_left_early_closes_connection(leave, own_session, serve, connect):
    """The server sees the close at once, without the garbage collector, and the next call does not see the rest of the stream."""
    server = serve(unfinished)
    with requests.Session() as session, without_collector():
        client = connect(server, session=session if own_session else None)
        leave(client)
        server.wait_for_hang_up()
        assert client.execute_workflow("w").output == "second"
    assert server.connections == 2


@pytest.mark.parametrize("tail", [[sse({"event": "error", "error": "boom"})], [b"event: error\n" + sse({"error": "boom"})]])
def test_stream_failure_closes_connection(tail, serve, connect):
    """After an error event the client does not wait for the rest."""

    def handler(connection):
        if connection.number > 1:
            answers(http(envelope("second")))(connection)
        connection.request()
        connection.send(CHUNKED + b"".join(map(chunk, tail)))
        connection.wait_for_hang_up()

    server = serve(handler)
    client = connect(server)
    stream = client.stream_workflow("w")
    with pytest.raises(ExecutionError):
        next(stream)
    server.wait_for_hang_up()
    assert client.execute_workflow("w").output == "second"


READS = {
    "iterated": list,
    "its next event": next,
    "its text": lambda stream: list(stream.text()),
    "its result": lambda stream: stream.result,
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("leave", ["close", "with", "before the first event"])
def test_stream_closed_early_raises(leave, read, serve, connect):
    """A stream that was closed before its end raises an error that says so, each time it is read."""
    stream = connect(serve(unfinished)).stream_workflow("w")
    if leave == "with":
        with stream:
            next(stream)
    elif leave == "close":
        next(stream)
    stream.close()
    for _ in range(2):
        with pytest.raises(StreamInterruptedError, match="it was closed here") as caught:
            READS[read](stream)
        assert caught.value.partial.text in ([""] if leave == "before the first event" else ["One", "One, two"])  # what had arrived
        assert caught.value.may_have_executed is True


def test_stream_closed_with_events_ready_raises(serve, connect):
    """It does not matter whether the rest had arrived already when the stream was closed."""
    with connect(serve(answers(http(b"".join([*ONE_TWO, DONE]), STREAM)))).stream_workflow("w") as stream:
        assert next(stream).chunk == "One"
    with pytest.raises(StreamInterruptedError, match="it was closed here"):
        _ = stream.result


def test_stream_left_by_break_goes_on(serve, connect):
    """A loop that was left, without a close, can be taken up again."""
    stream = connect(serve(streams(*ONE_TWO, DONE))).stream_workflow("w")
    for event in stream:
        assert event.chunk == "One"
        break
    assert [event.type for event in stream] == ["chunk", "done"]


@pytest.mark.parametrize("read", [iter, list, WorkflowStream.text])
def test_stream_iterated_again_raises(read, serve, connect):
    """After the end, a second iteration raises an error that points to the result, which stays readable."""
    stream = connect(serve(streams(*ONE_TWO, DONE))).stream_workflow("w")
    assert len(list(stream)) == 3
    for _ in range(2):
        with pytest.raises(RecallError, match=r"read to its end.*use result"):
            read(stream)
    assert next(stream, "the end") == "the end"
    assert stream.result.text == "One, two"
    stream.close()
    assert stream.result.text == "One, two"


@pytest.mark.parametrize("closed", [False, True])
def test_stream_failure_is_raised_again(closed, serve, connect):
    """After a failure, each further read raises that failure, never the end of the iteration."""
    stream = connect(serve(streams(text("One"), sse({"event": "error", "error": "boom"}), DONE))).stream_workflow("w")
    assert next(stream).chunk == "One"
    with pytest.raises(ExecutionError, match="boom") as first:
        next(stream)
    if closed:
        stream.close()
    for read in READS.values():
        with pytest.raises(ExecutionError) as again:
            read(stream)
        assert again.value is first.value


def test_stream_failure_comes_after_events_before_it(serve, connect):
    """Events that arrive in one piece with a failure are yielded first, also by a second loop."""
    body = b"".join([*ONE_TWO, sse({"event": "error", "error": "boom"})])
    stream = connect(serve(answers(http(body, STREAM)))).stream_workflow("w")
    for event in stream:
        assert event.chunk == "One"
        break
    got = []
    with pytest.raises(ExecutionError, match="boom"):
        got.extend(event.chunk for event in stream)
    assert got == [", two"]


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("framing", ["chunked", "length", "chunked, gzip", "one chunk over time", "chunked, with trailers"])
def test_stream_end_returns_connection_to_pool(framing, own_session, serve, connect):
    """After the end of a stream, the next call reuses its connection."""
    events = [*ONE_TWO, DONE, MARK]

    def handler(connection):
        while True:
            connection.request()
            way = framings(sum(map(len, events)))[framing]
            connection.send(way.start + b"".join(map(way.wrap, events)) + way.end)

    server = serve(handler)
    with requests.Session() as session:
        client = connect(server, session=session if own_session else None)
        for _ in range(3):
            assert client.stream_workflow("w").result.text == "One, two"
    assert server.connections == 1


def test_stream_slow_reader_of_end_keeps_connection(serve, connect):
    """The connection is reused even if the user spends time on the last event."""

    def handler(connection):
        while True:
            connection.request()
            connection.send(CHUNKED + chunk(DONE))
            connection.wait_for_go()
            connection.send(chunk(MARK) + LAST_CHUNK)

    server = serve(handler)
    client = connect(server)
    for _ in range(2):
        for event in client.stream_workflow("w"):
            assert event.type == "done"
            server.go()
            time.sleep(0.3)
    assert server.connections == 1


@pytest.mark.parametrize("framing", ["chunked", "until close", "length"])
def test_stream_closed_by_other_thread(framing, serve, connect):
    """A close from another thread ends the wait of the one that iterates, with an error that says so."""

    def handler(connection):
        connection.request()
        way = framings(9999)[framing]
        connection.send(way.start + way.wrap(text("One")))
        connection.wait_for_hang_up()

    server = serve(handler)
    stream = connect(server).stream_workflow("w")
    first = threading.Event()
    got = []

    def read():
        try:
            for event in stream:
                got.append(event.chunk)
                first.set()
        except StreamInterruptedError as error:
            got.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert first.wait(PATIENCE)
    stream.close()
    reader.join(PATIENCE)
    assert got[0] == "One"
    assert "it was closed here" in str(got[1])
    assert got[1].partial.text == "One"
    server.wait_for_hang_up()


# --------------------------------------------------------------------------------------------------- when it is not a stream


def test_stream_answered_with_json(serve, connect):
    """If a server answers with JSON, the stream has a result and no events, and the connection is reused."""
    server = serve(answers(http(envelope("whole"))))
    client = connect(server)
    for _ in range(2):
        with client.stream_workflow("w") as stream:
            assert list(stream) == []
        assert stream.result == StreamedExecutionResult(True, "whole")
    assert server.connections == 1


def test_execute_stream_answered_with_json(serve, connect):
    """With stream=True the result has its streamed form also then."""
    result = connect(serve(answers(http(envelope("whole"))))).execute_workflow("w", stream=True)
    assert result == StreamedExecutionResult(True, "whole")


def test_stream_answered_with_html(serve, connect):
    """An HTML page in answer to a stream request raises."""
    with pytest.raises(InvalidResponseError, match="HTML"):
        connect(serve(answers(http(b"<!DOCTYPE html><p>hi", "Content-Type: text/html")))).stream_workflow("w")


def test_stream_answered_with_queued_run(serve, connect):
    """If the run was queued, the error names its task id."""
    ticket = http({"success": True, "taskId": "task-7"}, status="202 Accepted")
    with pytest.raises(InvalidResponseError, match="task-7") as caught:
        connect(serve(answers(ticket))).stream_workflow("w")
    assert caught.value.may_have_executed is True
    result = connect(serve(answers(ticket))).execute_workflow("w", stream=True)
    assert isinstance(result, AsyncExecutionResult)
    assert result.task_id == "task-7"


def test_stream_answered_with_error(serve, connect):
    """An error before the stream starts is raised by the call."""
    with pytest.raises(AuthenticationError):
        connect(serve(answers(http({"error": "Invalid API key"}, status="401 No")))).stream_workflow("w")


def test_event_stream_with_error_status(serve, connect):
    """The status decides, whatever the content type is."""
    with pytest.raises(RateLimitError):
        connect(serve(answers(http(DONE, STREAM, status="429 Too Many Requests")))).stream_workflow("w")


@pytest.mark.parametrize("content_type", ["text/event-stream", "TEXT/Event-Stream; charset=utf-8"])
def test_unrequested_stream_is_read(content_type, serve, connect):
    """A plain call answered with a stream reads it to its end."""
    body = b"".join([*ONE_TWO, DONE, MARK])
    result = connect(serve(answers(http(body, f"Content-Type: {content_type}")))).execute_workflow("w")
    assert isinstance(result, StreamedExecutionResult)
    assert (result.text, result.output) == ("One, two", {"content": "One, two"})


def test_queued_run_answered_with_stream(serve, connect):
    """A stream in answer to a queued run raises: it has no task id."""
    with pytest.raises(InvalidResponseError) as caught:
        connect(serve(streams(*ONE_TWO, DONE))).execute_workflow("w", async_execution=True)
    assert caught.value.may_have_executed is True


def test_stream_is_not_retried_after_it_begins(serve, connect):
    """A 429 before the stream is retried, and then the stream is read."""

    def handler(connection):
        connection.request()
        connection.send(http({"error": "slow down"}, status="429 Too Many Requests"))
        connection.request()
        connection.send(CHUNKED + b"".join(map(chunk, [*ONE_TWO, DONE])) + LAST_CHUNK)

    server = serve(handler)
    result = connect(server).execute_with_retry("w", stream=True, initial_delay=0)
    assert result.text == "One, two"
    assert len(server.requests) == 2
