"""The requests that the client sends. All their paths, headers and field names are here."""

from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence

from recall_sdk._arguments import check_flags, check_outputs, path_segment
from recall_sdk._inputs import encode_body

_ACCEPT = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate"}  # only encodings that can be decoded piece by piece
_READ = {**_ACCEPT, "Cache-Control": "no-cache"}  # a cache in between must not return an old state of a job
_EXECUTE = {**_ACCEPT, "Content-Type": "application/json"}
_QUEUE = {**_EXECUTE, "X-Execution-Mode": "async"}
# A proxy that compresses a stream may hold its events back until the end.
_STREAM = {**_EXECUTE, "Accept": "text/event-stream, application/json", "Accept-Encoding": "identity"}


class Request(NamedTuple):
    """One request, without the base URL, the key and the timeout."""

    method: str
    path: str
    body: Optional[bytes] = None
    stream: bool = False
    asynchronous: bool = False
    id: str = ""
    headers: Mapping[str, str] = _READ

    @property
    def executes(self) -> bool:
        """Whether it executes a workflow."""
        return self.body is not None


def execute(
    workflow_id: str, input: Any, *, stream: bool = False, selected_outputs: Optional[Sequence[str]] = None, asynchronous: bool = False
) -> Request:
    """Execute a workflow: at once, as a stream, or queued."""
    check_flags(stream=stream, async_execution=asynchronous)
    if asynchronous and stream:
        raise ValueError("async_execution=True and stream=True contradict each other: choose one")
    path = f"/api/workflows/{path_segment('workflow_id', workflow_id)}/execute"
    control: Dict[str, Any] = {"stream": True} if stream else {}
    if selected_outputs is not None:
        control["selectedOutputs"] = check_outputs(selected_outputs)
    headers = _STREAM if stream else _QUEUE if asynchronous else _EXECUTE
    return Request("POST", path, encode_body(input, control), stream, asynchronous, workflow_id, headers)


def workflow_status(workflow_id: str) -> Request:
    """Ask whether a workflow is deployed."""
    return Request("GET", f"/api/workflows/{path_segment('workflow_id', workflow_id)}/status", id=workflow_id)


def job_status(task_id: str) -> Request:
    """Ask for the state of a queued run."""
    return Request("GET", f"/api/jobs/{path_segment('task_id', task_id)}", id=task_id)


def usage_limits() -> Request:
    """Ask for the account's limits."""
    return Request("GET", "/api/users/me/usage-limits")
