"""The payloads of a stream, in both dialects: events, ends, failures."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recall_sdk import StreamedExecutionResult, StreamEvent, WorkflowExecutionResult
from recall_sdk._decoding import stream_end, stream_event, stream_failure


@pytest.mark.parametrize(
    ("data", "event"),
    [
        ('{"blockId":"b","chunk":"One"}', StreamEvent("chunk", "b", "One", {"blockId": "b", "chunk": "One"})),
        (' {"chunk":""} ', StreamEvent("chunk", None, "", {"chunk": ""})),
        ('{"event":"chunk","chunk":"x","blockId":5}', StreamEvent("chunk", None, "x", {"event": "chunk", "chunk": "x", "blockId": 5})),
        ('{"event":"chunk"}', StreamEvent("message", None, "", {"event": "chunk"})),
        ('{"chunk":5}', StreamEvent("message", None, "", {"chunk": 5})),
        ('{"event":"done","chunk":"x"}', StreamEvent("done", None, "", {"event": "done", "chunk": "x"})),
        ('{"event":"final","data":{}}', StreamEvent("done", None, "", {"event": "final", "data": {}})),
        ('{"event":"stream_error","blockId":"b"}', StreamEvent("block_error", "b", "", {"event": "stream_error", "blockId": "b"})),
        ('{"event":"tool","x":1}', StreamEvent("tool", None, "", {"event": "tool", "x": 1})),
        ("{}", StreamEvent("message", None, "", {})),
        ("not json", StreamEvent("message", None, "", {"data": "not json"})),
        ("", StreamEvent("message", None, "", {"data": ""})),
        ("[1]", StreamEvent("message", None, "", {"data": [1]})),
        ("null", StreamEvent("message", None, "", {"data": None})),
        ("5 6", StreamEvent("message", None, "", {"data": "5 6"})),
    ],
)
def test_stream_event_payloads(data, event):
    """Each payload becomes one typed event, JSON or not."""
    assert stream_event("message", data) == event


@pytest.mark.parametrize("data", ["[DONE]", '"[DONE]"', " [DONE]", ' "[DONE]" '])
def test_stream_event_end_marks(data):
    """``[DONE]``, bare or as a JSON string, is not an event."""
    assert stream_event("message", data) is None


def test_stream_event_named():
    """The name of a server-sent event is its type if the payload has none."""
    assert stream_event("ping", "{}").type == "ping"


@pytest.mark.parametrize(
    ("payload", "result"),
    [
        (
            {"success": True, "output": {}, "metadata": {"duration": 610}},
            WorkflowExecutionResult(True, {}, metadata={"duration": 610}, total_duration=610),
        ),
        ({"data": {"success": False, "output": 1, "error": "e"}}, WorkflowExecutionResult(False, 1, "e")),
        ({}, WorkflowExecutionResult(True)),
        ({"success": "odd", "data": [1]}, WorkflowExecutionResult(True)),
    ],
)
def test_stream_end_forms(payload, result):
    """Both forms of the end event are decoded to the result."""
    assert stream_end(StreamEvent("done", None, "", payload)) == result
    assert stream_end(None) == WorkflowExecutionResult(True)


def test_stream_failure_keeps_text_payload_and_code():
    """The error of a stream keeps the text that arrived, the payload, and the server's code."""
    payload = {"event": "error", "error": "boom", "code": "MODEL_DOWN"}
    error = stream_failure(StreamEvent("error", None, "", payload), StreamedExecutionResult(False, text="so far"))
    assert (error.code, error.server_code, error.body, error.may_have_executed) == ("EXECUTION_ERROR", "MODEL_DOWN", payload, True)
    assert error.result == StreamedExecutionResult(False, error="boom", text="so far")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["event", "type", "data", "blockId", "chunk", "error", "success", "output", "message"]) | st.text(max_size=4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.text(max_size=20), st.text(max_size=60) | JSON.map(json.dumps))
def test_any_payload_gives_event(name, data):
    """Any payload of a stream becomes an event or the mark of the end."""
    event = stream_event(name, data)
    assert event is None or (isinstance(event.type, str) and isinstance(event.chunk, str) and isinstance(event.data, dict))
