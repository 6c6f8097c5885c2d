"""Streams that other threads close, that are dropped anywhere, and that hold more than they may."""

import gc
import io
import random
import sys
import threading
import traceback
import warnings
from contextlib import suppress

import pytest
import requests

from rawserver import KEY, PATIENCE, answers, chunk, envelope, head, http
from recall_sdk import InvalidResponseError, RecallError, StreamInterruptedError, sse, streaming
from streams import CHUNKED, DONE, ONE_TWO, STREAM, UNTIL_CLOSE, streams, text
from streams import sse as event_of

ROUNDS = 150


def endless(start=CHUNKED, wrap=chunk):
    """Make a handler that sends text until the client closes; on each connection, it answers plain calls too."""

    def handler(connection):
        while True:
            if b'"stream"' not in connection.request().body:
                connection.send(http(envelope("next")))
                continue
            connection.send(start)
            for number in range(100_000):
                connection.send(wrap(text(f"{connection.number}-{number} ")))

    return handler


def ending(connection):
    """Send streams that end by themselves, and answer plain calls."""
    while True:
        if b'"stream"' in connection.request().body:
            connection.send(CHUNKED + b"".join(map(chunk, [*ONE_TWO, DONE])) + b"0\r\n\r\n")
        else:
            connection.send(http(envelope("next")))


def read_to_its_end(stream, outcomes):
    """Iterate over a stream in a thread, and keep what it came to."""
    try:
        for _ in stream:
            pass
        outcomes.append("end")
    except BaseException as error:  # noqa: BLE001 -- shown by the test
        outcomes.append(error)


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("handler", [endless(), endless(UNTIL_CLOSE, bytes), ending], ids=["chunked", "until close", "ending"])
def test_stream_closed_at_any_moment(handler, own_session, serve, connect):
    """Whenever another thread closes a stream, its reader had the end or gets an error that says so, and other calls go on."""
    server = serve(handler)
    chance = random.Random(7)
    outcomes = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads meet at many places
    try:
        with requests.Session() as session:
            client = connect(server, session=session if own_session else None)
            for _ in range(ROUNDS):
                stream = client.stream_workflow("w")
                reader = threading.Thread(target=read_to_its_end, args=(stream, outcomes))
                closers = [threading.Thread(target=stream.close) for _ in range(2)]
                reader.start()
                threading.Event().wait(chance.random() * 0.004)
                for closer in closers:
                    closer.start()
                assert client.execute_workflow("w").output == "next"
                for thread in (reader, *closers):
                    thread.join(PATIENCE)
                    assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
    assert len(outcomes) == ROUNDS
    for outcome in outcomes:
        assert outcome == "end" or (type(outcome) is StreamInterruptedError and "it was closed here" in str(outcome)), outcome
    if handler is not ending:
        assert "end" not in outcomes


def test_stream_closed_by_reader_of_text(serve, connect):
    """A close within the loop ends it with the error that says so."""
    stream = connect(serve(endless())).stream_workflow("w")
    pieces = stream.text()
    assert next(pieces) == "1-0 "
    stream.close()
    with pytest.raises(StreamInterruptedError, match="it was closed here"):
        next(pieces)


@pytest.mark.parametrize("framing", ["chunked", "until close"])
def test_stream_closed_under_its_reader_leaves_no_connection(framing, serve, connect):
    """The reader closes the connection that another thread could only shut down."""
    server = serve(endless() if framing == "chunked" else endless(UNTIL_CLOSE, bytes))
    client = connect(server)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for _ in range(30):
            stream = client.stream_workflow("w")
            reader = threading.Thread(target=read_to_its_end, args=(stream, []))
            reader.start()
            stream.close()
            reader.join(PATIENCE)
            assert stream._response._is_closed


def in_a_cycle_with_an_error(client):
    """Keep a stream in a reference cycle, as an exception that is kept does."""
    stream = client.stream_workflow("w")
    try:
        for _ in stream:
            raise KeyError
    except KeyError as error:
        kept = error  # noqa: F841 -- its traceback refers to this frame, which refers to it


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.filterwarnings("error")
def test_stream_dropped_in_a_cycle_does_not_disturb_the_next_call(own_session, serve, connect):
    """However the garbage collector takes a stream apart, its connection is not used again."""
    server = serve(endless())
    with requests.Session() as session:
        client = connect(server, session=session if own_session else None)
        for _ in range(5):
            in_a_cycle_with_an_error(client)
            gc.collect()
            assert client.execute_workflow("w").output == "next"


# ------------------------------------------------------------------------------------------------------------- bounds


def test_event_larger_than_the_bound_raises(monkeypatch, serve, connect):
    """An event whose end does not come is given up at the bound, with the connection."""
    monkeypatch.setattr(sse, "MAX_EVENT_SIZE", 100_000)
    server = serve(
        lambda connection: (connection.request(), connection.send(CHUNKED + chunk(text("One")) + chunk(b"data: "))) and flood(connection)
    )
    stream = connect(server).stream_workflow("w")
    assert next(stream).chunk == "One"
    for _ in range(2):
        with pytest.raises(InvalidResponseError, match="100000 bytes") as caught:
            next(stream)
        assert caught.value.may_have_executed is True
    server.wait_for_hang_up()


def flood(connection):
    """Send without a pause until the client closes."""
    with suppress(Exception):
        while True:
            connection.send(chunk(b"x" * 1_000))
    connection.server.client_closed.release()


@pytest.mark.parametrize("own_session", [False, True])
def test_stream_that_floods_after_its_end_is_complete(own_session, monkeypatch, serve, connect):
    """Bytes that keep coming after the end do not delay the result."""
    monkeypatch.setattr(streaming, "LINGER", 0.05)
    server = serve(lambda connection: (connection.request(), connection.send(CHUNKED + chunk(text("One") + DONE))) and flood(connection))
    with requests.Session() as session:
        client = connect(server, session=session if own_session else None)
        assert client.execute_workflow("w", stream=True).text == "One"
    server.wait_for_hang_up()


# -------------------------------------------------------------------------------------------------------------- secrets

ECHOES = {
    "a chunk size": CHUNKED + chunk(text("One")) + KEY.encode() + b"\r\n",
    "an error event": CHUNKED + chunk(text("One")) + chunk(event_of({"error": f"bad key {KEY}"})),
    "a request id": head("Transfer-Encoding: chunked", STREAM, f"X-Request-Id: {KEY}") + chunk(text("One")) + b"0\r\n\r\n",
    "text": CHUNKED + chunk(text(f"One {KEY}")) + b"0\r\n\r\n",
    "no stream": head("Content-Length: 26", STREAM) + f"bad {KEY} ".encode(),
    "a page": head("Content-Length: 31", STREAM) + f"<html>{KEY}   ".encode(),
    "an encoding": head("Content-Length: 9", "Content-Encoding: gzip", STREAM) + KEY.encode(),
}


@pytest.mark.parametrize("echo", ECHOES)
def test_stream_error_shows_no_key(echo, serve, connect):
    """The key is in no printed traceback of a stream's error, whenever it is raised, and in none of its facts."""
    stream = connect(serve(lambda connection: connection.request() and connection.send(ECHOES[echo]))).stream_workflow("w")
    for _ in range(2):
        with pytest.raises(RecallError) as caught:
            _ = stream.result
        error = caught.value
        shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        assert KEY not in shown
        assert KEY not in repr(vars(error))
        assert error.__cause__ is None or KEY not in repr(error.__cause__)


def test_stream_interrupted_inside_a_wait_is_closed(connect):
    """What is raised inside a wait that is no error of a call, such as Ctrl-C, closes the response and comes through."""
    closed = []

    class InterruptedResponse(requests.Response):
        def iter_content(self, *_args, **_kwargs):
            yield text("One")
            raise KeyboardInterrupt

        def close(self):
            closed.append(self)

    class Adapter(requests.adapters.BaseAdapter):
        def send(self, request, **_):
            response = InterruptedResponse()
            response.status_code, response.request, response.url, response.raw = 200, request, request.url, io.BytesIO()
            response.headers["Content-Type"] = "text/event-stream"
            return response

        def close(self):
            pass

    with requests.Session() as session:
        session.mount("http://", Adapter())
        stream = connect("http://127.0.0.1:9", session=session).stream_workflow("w")
        assert next(stream).chunk == "One"
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert closed
        with pytest.raises(StreamInterruptedError):
            next(stream)


def test_stream_is_its_own_iterator(serve, connect):
    """A stream is its own iterator and context manager."""
    stream = connect(serve(streams(DONE))).stream_workflow("w")
    assert iter(stream) is stream
    with stream as entered:
        assert entered is stream


def test_stream_closed_after_its_end_keeps_the_connection(serve, connect):
    """A stream that was read to its end leaves its connection to the next call, also if it is closed then."""
    server = serve(answers(CHUNKED + chunk(DONE) + b"0\r\n\r\n", http(envelope("next"))))
    client = connect(server)
    stream = client.stream_workflow("w")
    assert stream.result.success
    stream.close()
    assert client.execute_workflow("w").output == "next"
    assert server.connections == 1


def test_abort_after_the_close_does_nothing(serve, connect):
    """A thread that aborts a response late does not disturb the connection, which is in the pool again."""
    server = serve(answers(CHUNKED + chunk(DONE) + b"0\r\n\r\n", http(envelope("next"))))
    client = connect(server)
    stream = client.stream_workflow("w")
    assert stream.result.success
    stream._response.abort()
    assert client.execute_workflow("w").output == "next"
    assert server.connections == 1
