"""Responses for tests of pure functions."""

import json

from requests.structures import CaseInsensitiveDict

from recall_sdk import _requests as requests
from recall_sdk._response import Response

NOW = 1_800_000_000.0
"""When the responses arrive: Fri, 15 Jan 2027 08:00:00 GMT."""

RUN = requests.execute("wf", None, stream=False, selected_outputs=None, asynchronous=False)
STREAM = requests.execute("wf", None, stream=True, selected_outputs=None, asynchronous=False)
QUEUE = requests.execute("wf", None, stream=False, selected_outputs=None, asynchronous=True)
STATUS = requests.workflow_status("wf")
JOB = requests.job_status("job-1")
USAGE = requests.usage_limits()


def response_of(request=RUN, status=200, headers=None, body=b"", received=NOW, may_repeat=False):
    """Make a response; a body that is not bytes is encoded as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(request, status, CaseInsensitiveDict(headers or {}), content, received, may_repeat)
