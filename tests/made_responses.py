"""Responses for tests of pure functions."""

import json

import requests
from requests.structures import CaseInsensitiveDict

from recall_sdk import _requests as endpoints
from recall_sdk._response import Response
from recall_sdk._translation import Exchange

NOW = 1_800_000_000.0
"""When the responses arrive: Fri, 15 Jan 2027 08:00:00 GMT."""

RUN = endpoints.execute("wf", None, stream=False, selected_outputs=None, asynchronous=False)
STREAM = endpoints.execute("wf", None, stream=True, selected_outputs=None, asynchronous=False)
QUEUE = endpoints.execute("wf", None, stream=False, selected_outputs=None, asynchronous=True)
STATUS = endpoints.workflow_status("wf")
JOB = endpoints.job_status("job-1")
USAGE = endpoints.usage_limits()


def response_of(request=RUN, status=200, headers=None, body=b"", *, received=NOW, may_repeat=False):
    """Make a response that has arrived, without a connection; a body that is not bytes is encoded as JSON."""
    whole = requests.Response()
    whole.status_code = status
    whole.headers = CaseInsensitiveDict(headers or {})
    whole._content = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"http://127.0.0.1{request.path}"
    response = Response(Exchange(request, url, "http://127.0.0.1", "a-key", 30.0, {}, may_repeat), whole)
    response.received = received
    return response
