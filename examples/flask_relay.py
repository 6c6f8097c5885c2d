"""A Flask relay: relay a stream to a browser; the API key stays on the server.

It needs Flask:               pip install flask
See what a browser would get: python examples/flask_relay.py
Serve it:                     flask --app examples/flask_relay run
"""

import json
from typing import Any, Iterator

from flask import Flask, Response, request

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import RecallClient, RecallError, WorkflowStream

app = Flask(__name__)
client = RecallClient()  # one for all requests: threads may share it


def event(name: str, data: Any) -> str:
    """Format one server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def events(stream: WorkflowStream) -> Iterator[str]:
    """Yield a stream as server-sent events: text, and then done or failed."""
    with stream:  # closed when the browser disconnects
        try:
            for text in stream.text():
                yield event("text", text)
            if stream.result.success:
                yield event("done", stream.result.output)
            else:
                yield event("failed", stream.result.error)
        except RecallError as error:  # the status was sent: report it as an event
            yield event("failed", error.code)


@app.get("/count")
def count() -> Response:
    """Relay one stream.

    Each request starts a run, a HEAD too: put this behind your login.
    """
    stream = client.stream_workflow(
        "count", dict(request.args), selected_outputs=["agent1.content"]
    )
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return Response(events(stream), mimetype="text/event-stream", headers=headers)


@app.errorhandler(RecallError)
def failed(error: RecallError) -> Response:
    """Return the response for a stream that did not begin.

    The browser learns the code; the message is for the log.
    """
    app.logger.error("%s", error)
    body = json.dumps({"code": error.code})
    return Response(body, status=502, mimetype="application/json")


if __name__ == "__main__":
    for part in app.test_client().get("/count").response:
        print(part.decode() if isinstance(part, bytes) else part, end="", flush=True)
