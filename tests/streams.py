"""Bytes and handlers of event streams."""

import json

from rawserver import LAST_CHUNK, answers, chunk, head

STREAM = "Content-Type: text/event-stream"
CHUNKED = head("Transfer-Encoding: chunked", STREAM)
UNTIL_CLOSE = head("Connection: close", STREAM)


def sse(payload):
    """Make one event; a payload that is not a str is encoded as JSON."""
    return f"data: {payload if isinstance(payload, str) else json.dumps(payload)}\n\n".encode()


def text(chunk, block_id="a"):
    """Make an event with a piece of text."""
    return sse({"blockId": block_id, "chunk": chunk})


DONE = sse({"event": "done", "success": True, "output": {"content": "One, two"}, "metadata": {"duration": 7}})
FINAL = sse({"event": "final", "data": {"success": True, "output": {"content": "One, two"}}})
MARK = sse("[DONE]")
ONE_TWO = [text("One"), text(", two")]


def streams(*events):
    """Make a handler that answers each request with a complete stream of these events, one per HTTP chunk."""
    return answers(CHUNKED + b"".join(map(chunk, events)) + LAST_CHUNK)
