"""What a response to a request for a stream holds: a stream, whatever its type says, or a result, an error, a page, a text."""

import json
import tracemalloc

import pytest

from rawserver import LAST_CHUNK, answers, chunk, envelope, head, http
from recall_sdk import (
    AsyncExecutionResult,
    ExecutionError,
    InvalidResponseError,
    RecallTimeoutError,
    StreamedExecutionResult,
    StreamInterruptedError,
)
from streams import DONE, MARK, ONE_TWO, STREAM, UNTIL_CLOSE, sse, text

BOM = b"\xef\xbb\xbf"
EVENTS = b"".join([*ONE_TWO, DONE, MARK])

READS = {
    "stream_workflow": lambda client: client.stream_workflow("w").result,
    "execute_workflow with stream": lambda client: client.execute_workflow("w", stream=True),
    "execute_workflow": lambda client: client.execute_workflow("w"),
}


def whole(body, *headers):
    """Make a handler that answers with this body, of a known length."""
    return answers(http(body, *headers))


def dripped(body, *headers):
    """Make a handler that answers with one byte to an HTTP chunk."""
    pieces = [chunk(body[at : at + 1]) for at in range(len(body))]
    return answers(head("Transfer-Encoding: chunked", *headers) + b"".join(pieces) + LAST_CHUNK)


@pytest.fixture(params=[whole, dripped])
def sends(request):
    """Either way of sending a body."""
    return request.param


@pytest.fixture(params=READS)
def read(request):
    """Each call that reads a stream to its end."""
    return READS[request.param]


# ------------------------------------------------------------------------------- no stream, although it is called a stream


@pytest.mark.parametrize("start", [b"", BOM, b"\n", b"\r\n\n", BOM + b"\r\n"])
def test_error_called_a_stream_raises_its_reason(start, sends, read, serve, connect):
    """An error body under text/event-stream raises the server's reason, with the body."""
    error = {"error": "not deployed", "code": "NOT_DEPLOYED"}
    client = connect(serve(sends(start + json.dumps(error).encode(), STREAM, "X-Request-Id: r-7")))
    with pytest.raises(ExecutionError, match="the workflow failed: not deployed") as caught:
        read(client)
    assert caught.value.body == error
    assert caught.value.server_code == "NOT_DEPLOYED"
    assert caught.value.request_id == "r-7"
    assert caught.value.may_have_executed is True


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted"])
def test_error_called_a_stream_raises_with_every_status_of_success(status, read, session, serve, connect):
    """The error body raises too where the status could announce a task, as its batch does."""
    client = connect(serve(answers(http(b'{"error": "not deployed"}', STREAM, "X-Request-Id: r-7", status=status))), session=session)
    with pytest.raises(ExecutionError, match="the workflow failed: not deployed") as caught:
        read(client)
    assert caught.value.request_id == "r-7"
    [item] = client.execute_batch([("w", {})])
    assert isinstance(item.error, ExecutionError)


@pytest.mark.parametrize("indent", [None, 2])
def test_result_called_a_stream_is_read(indent, sends, read, serve, connect):
    """An envelope under text/event-stream is the result, on one line or on many."""
    body = json.dumps({**envelope({"data": "x", "id": 7}), "metadata": {"duration": 7}}, indent=indent).encode()
    server = serve(sends(body, STREAM))
    client = connect(server)
    for _ in range(2):
        assert read(client) == StreamedExecutionResult(True, {"data": "x", "id": 7}, metadata={"duration": 7}, total_duration=7)
    assert server.connections == 1


def test_failed_result_called_a_stream_is_a_result(sends, read, serve, connect):
    """A 200 with an envelope of a failed run is a result, as under application/json."""
    body = json.dumps({"success": False, "output": {}, "error": "no luck"}).encode()
    result = read(connect(serve(sends(body, STREAM))))
    assert (result.success, result.error) == (False, "no luck")


@pytest.mark.parametrize("value", [{"a": 1}, [1, 2], "data: x", 7, None, True])
def test_other_json_called_a_stream_is_output(value, sends, read, serve, connect):
    """JSON without an envelope is the output of a workflow with a response of its own."""
    assert read(connect(serve(sends(json.dumps(value).encode(), STREAM)))) == StreamedExecutionResult(True, value)


def test_json_called_a_stream_has_no_events(serve, connect):
    """The stream returns at its head, yields nothing, and has a result."""
    with connect(serve(whole(json.dumps(envelope("whole")).encode(), STREAM))).stream_workflow("w") as stream:
        assert list(stream) == []
    assert stream.result.output == "whole"


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>hi", b"\n<html><script>\ndata: 1\n</script></html>"])
def test_page_called_a_stream_raises(page, sends, read, serve, connect):
    """A page under text/event-stream is reported as a page."""
    with pytest.raises(InvalidResponseError, match="HTML page"):
        read(connect(serve(sends(page, STREAM))))


@pytest.mark.parametrize(
    "body", [b"upstream is down", b"upstream is down\n", b"upstream is down\nat: data: x\n", b"Error: upstream is down\n\n"]
)
def test_text_called_a_stream_raises_with_the_text(body, sends, read, serve, connect):
    """A text under text/event-stream is in the error's message and body."""
    with pytest.raises(InvalidResponseError, match="upstream is down") as caught:
        read(connect(serve(sends(body, STREAM))))
    assert caught.value.body == body.decode()
    assert caught.value.may_have_executed is True


@pytest.mark.parametrize("body", [b'{"error": "no\n\n', b"<p>hi\n\ndata: x\n"])
def test_start_of_something_else_called_a_stream_raises(body, read, serve, connect):
    """The start of JSON or of a page, with blank lines, is reported as it is."""
    with pytest.raises(InvalidResponseError) as caught:
        read(connect(serve(whole(body, STREAM))))
    assert caught.value.body == body.decode()


@pytest.mark.parametrize(
    "body", [b"", BOM, b"\n\n", b": hello\n\n", b"foo: bar\nid: 7\n", b"data: {", BOM + b'\r\ndata: {"chunk": "x"}\r\n']
)
def test_empty_body_called_a_stream_is_interrupted(body, read, serve, connect):
    """A stream without an event was cut before its end."""
    with pytest.raises(StreamInterruptedError, match="the server closed it"):
        read(connect(serve(whole(body, STREAM))))


def test_ticket_called_a_stream_raises_with_its_id(sends, serve, connect):
    """The error for a queued run names its task id."""
    ticket = head("Content-Length: 38", STREAM, status="202 Accepted") + b'{"success": true, "taskId": "task-77"}'
    with pytest.raises(InvalidResponseError, match="task-77"):
        _ = connect(serve(answers(ticket))).stream_workflow("w").result


def test_incomplete_json_called_a_stream_raises(serve, connect):
    """JSON that was cut short is a connection that broke."""
    with pytest.raises(StreamInterruptedError, match="broke"):
        _ = (
            connect(serve(lambda connection: (connection.request(), connection.send(head("Content-Length: 99", STREAM) + b'{"error": '))))
            .stream_workflow("w")
            .result
        )


# --------------------------------------------------------------------------------- a stream, whatever the server calls it

STARTS = [b"", BOM, b"\n", BOM + b"\r\n\r\n", b": hello\n\n", b"id: 7\n", b"retry:250\n\n", b"event: message\n"]


JSON = "Content-Type: application/json"


@pytest.mark.parametrize("headers", [[JSON], ["Content-Type: text/plain"], [], [STREAM]])
@pytest.mark.parametrize("start", STARTS)
def test_stream_under_any_type_is_read(start, headers, read, serve, connect):
    """A body that begins as an event stream is one, whatever its type is."""
    for way in (whole, dripped):
        check_stream(read(connect(serve(way(start + EVENTS, *headers)))))


def check_stream(result):
    """Check the result of the stream."""
    assert result == StreamedExecutionResult(
        True, {"content": "One, two"}, metadata={"duration": 7}, total_duration=7, text="One, two", text_by_block={"a": "One, two"}
    )


def test_stream_called_json_in_a_batch_is_read(serve, connect):
    """A batch reads a stream under application/json, too."""
    (item,) = connect(serve(whole(EVENTS, JSON))).execute_batch([("w", {})])
    assert item.result.text == "One, two"


@pytest.mark.parametrize("body", [b"", b"data", b"events", b"datum: 1", b"x", b'"unfinished', b"nul"])
def test_other_body_called_json_raises(body, sends, serve, connect):
    """What only resembles a stream, or is nothing, is reported as not JSON."""
    with pytest.raises(InvalidResponseError, match=r"is (not JSON|empty)"):
        connect(serve(sends(body, JSON))).execute_workflow("w")


@pytest.mark.parametrize("value", ["data: x", 7, None, True])
def test_simple_json_value_is_output(value, sends, read, serve, connect):
    """JSON that is no container is the output of a workflow with a response of its own."""
    result = read(connect(serve(sends(b"\n " + json.dumps(value).encode(), JSON))))
    assert (result.success, result.output) == (True, value)


def test_queued_run_with_stream_called_json_raises(serve, connect):
    """A queued run is never read as a stream, also under application/json."""
    with pytest.raises(InvalidResponseError, match="is a stream, and has no task id"):
        connect(serve(whole(EVENTS, JSON))).execute_workflow("w", async_execution=True)


NOISE = [
    *(b"foo: bar\n", b"foo\n\n", b"data\n", b"hello: x" * 99 + b"\r", b"".join(b"foo%d: bar\n" % number for number in range(500))),
    *(b"<br />\nWarning: x\n\n", b"[info] starting\n\n", b'{"noise": 1}\n\n', b'"begin"\r\n\r\n'),
]


@pytest.mark.parametrize("start", NOISE)
def test_stream_may_begin_with_unknown_fields(start, sends, read, serve, connect):
    """A stream that is called one may begin with fields that the standard ignores, whatever their first byte is."""
    assert read(connect(serve(sends(start + EVENTS, STREAM)))).text == "One, two"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_after_noise_may_have_fields_after_their_data(end, sends, read, serve, connect):
    """The data of an event is found after other output, with every line end, also if it is not the last field of the event."""
    events = [each.decode().strip().replace("\n", end) for each in [*ONE_TWO, DONE]]
    body = "".join(f"{each}{end}id: 7{end}{end}" for each in ["<br />", *events]).encode()
    assert read(connect(serve(sends(body, STREAM)))).text == "One, two"


def test_noise_before_a_stream_holds_no_event_back(serve, connect):
    """Also after something else was printed, an event is read as it arrives, not at the end of the response."""

    def handler(connection):
        connection.request()
        connection.send(head("Transfer-Encoding: chunked", STREAM) + chunk(b"<br />\n\n" + ONE_TWO[0]))
        connection.wait_for_go()

    server = serve(handler)
    with connect(server).stream_workflow("w") as stream:
        assert next(stream).chunk == "One"
    server.go()


@pytest.mark.parametrize("content_type", [["Content-Type: text/plain"], []])
def test_stream_under_another_type_yields_events_at_once(content_type, serve, connect):
    """Its events are yielded as they arrive, its silence is bounded, and its connection is reused."""

    def handler(connection):
        for _ in range(2):
            connection.request()
            connection.send(head("Transfer-Encoding: chunked", *content_type))
            for event in [*ONE_TWO, DONE]:
                connection.send(chunk(event))
                connection.wait_for_go()
            connection.send(LAST_CHUNK)

    server = serve(handler)
    client = connect(server)
    for _ in range(2):
        with client.stream_workflow("w", timeout=3.0) as stream:
            types = []
            for event in stream:
                types.append(event.type)
                server.go()
        assert types == ["chunk", "chunk", "done"]
    assert server.connections == 1


def test_stream_under_another_type_that_falls_silent(serve, connect):
    """Its silence raises with what arrived."""

    def handler(connection):
        connection.request()
        connection.send(head("Transfer-Encoding: chunked") + chunk(text("One")))
        connection.wait_for_hang_up()

    server = serve(handler)
    stream = connect(server).stream_workflow("w", timeout=0.2)
    with pytest.raises(RecallTimeoutError) as caught:
        list(stream)
    assert caught.value.partial.text == "One"
    server.wait_for_hang_up()


def test_silent_body_under_another_type_is_bounded(serve, connect):
    """A body that stops before it is clear what it is raises, and closes the connection."""

    def handler(connection):
        connection.request()
        connection.send(head("Transfer-Encoding: chunked") + chunk(b"da"))
        connection.wait_for_hang_up()

    server = serve(handler)
    with pytest.raises(RecallTimeoutError):
        connect(server).stream_workflow("w", timeout=0.2)
    server.wait_for_hang_up()


@pytest.mark.parametrize("body", [b"dat", b"datum: 1", b"x data: 1", b"events", b"idea: x"])
def test_other_text_is_no_stream(body, sends, read, serve, connect):
    """What only resembles a field of a stream is not taken for one."""
    with pytest.raises(InvalidResponseError, match="is not JSON"):
        read(connect(serve(sends(body, "Content-Type: text/plain"))))


def test_failed_stream_under_another_type_raises(sends, read, serve, connect):
    """A failure in it is a failure."""
    with pytest.raises(ExecutionError, match="boom") as caught:
        read(connect(serve(sends(text("One") + sse({"error": "boom"}), "Content-Type: text/plain"))))
    assert caught.value.result.text == "One"


def test_queued_run_answered_with_stream_under_another_type(serve, connect):
    """A queued run is never read as a stream."""
    with pytest.raises(InvalidResponseError):
        connect(serve(whole(EVENTS))).execute_workflow("w", async_execution=True)


@pytest.mark.parametrize("options", [{}, {"stream": True}, {"async_execution": True}])
@pytest.mark.parametrize("content_type", [[STREAM], []])
def test_ticket_is_a_ticket_whatever_was_asked_for(content_type, options, serve, connect):
    """A queued run is never lost, whatever was asked for, and whatever the server calls its ticket."""
    body = json.dumps({"success": True, "taskId": "t"}).encode()
    client = connect(serve(answers(head(f"Content-Length: {len(body)}", *content_type, status="202 Accepted") + body)))
    result = client.execute_workflow("w", **options)
    assert isinstance(result, AsyncExecutionResult)
    assert result.task_id == "t"


# ------------------------------------------------------------------------------------------------------------ named events


@pytest.mark.parametrize(
    ("event", "type_", "data"),
    [
        (b"event: ping\ndata: ping\n\n", "ping", {"data": "ping"}),
        (b"event: ping\ndata:\n\n", "ping", {"data": ""}),
        (b"data: ping\n\n", "message", {"data": "ping"}),
        (b"event: ping\ndata: [1]\n\n", "message", {"data": [1]}),
        (b"event: ping\ndata: {}\n\n", "ping", {}),
        (b"event: chunk\ndata: words\n\n", "message", {"data": "words"}),
        (b"event: stream_error\ndata: words\n\n", "block_error", {"data": "words"}),
    ],
)
def test_named_event_keeps_its_name(event, type_, data, serve, connect):
    """An event whose data is not JSON has its own name as its type; JSON that is no object is a message."""
    stream = connect(serve(whole(event + DONE, STREAM))).stream_workflow("w")
    first = next(stream)
    assert (first.type, first.data, first.chunk) == (type_, data, "")
    assert stream.result.success


def test_comments_before_the_first_event_are_not_kept(serve, connect):
    """A stream with nothing but comments for a long time takes no memory for them."""
    comments = b": still here\n\n" * 5000

    def handler(connection):
        connection.request()
        connection.send(UNTIL_CLOSE)
        for _ in range(300):
            connection.send(comments)
        connection.send(DONE)

    client = connect(serve(handler))
    tracemalloc.start()
    try:
        assert client.execute_workflow("w", stream=True).success
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
