"""A Flask relay: pass a workflow's stream on to a browser, so that the API key stays on the server.

See what a browser would get: python examples/flask_relay.py
Serve it for real:            flask --app examples/flask_relay run
"""

import json
from typing import Iterator

from flask import Flask, Response, request

import recall_sdk.testing.demo  # without RECALL_API_KEY: a stand-in server. Delete this line to use Recall.
from recall_sdk import RecallClient, RecallError

app = Flask(__name__)
client = RecallClient()  # one for all requests: threads may share it, and connections are kept


@app.get("/count")
def count() -> Response:
    """Relay one stream as server-sent events."""
    stream = client.stream_workflow("count", dict(request.args), selected_outputs=["agent1.content"])

    def events() -> Iterator[str]:
        with stream:  # a browser that leaves ends the stream too
            try:
                for text in stream.text():
                    yield f"data: {json.dumps({'text': text})}\n\n"
                yield f"event: done\ndata: {json.dumps(stream.result.output)}\n\n"
            except RecallError as error:  # the status has been sent: all that is left is an event
                yield f"event: failed\ndata: {json.dumps({'code': error.code})}\n\n"

    return Response(events(), mimetype="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})


@app.errorhandler(RecallError)
def failed(error: RecallError) -> Response:
    """Answer for a stream that did not begin. The browser learns the code; the message is for the log."""
    app.logger.error("%s", error)
    return Response(json.dumps({"code": error.code}), status=502, mimetype="application/json")


if __name__ == "__main__":
    for part in app.test_client().get("/count").response:
        print(part.decode() if isinstance(part, bytes) else part, end="", flush=True)
