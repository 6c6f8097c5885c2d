"""Turn arguments into calls. All paths and field names of requests are here."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence
from urllib.parse import quote

from recall_sdk._inputs import encode_body
from recall_sdk._messages import Call


def execute(workflow_id: str, input: Any, *, stream: bool, selected_outputs: Optional[Sequence[str]], asynchronous: bool) -> Call:
    """Execute a workflow: at once, as a stream, or queued."""
    check_flags(stream=stream, async_execution=asynchronous)
    if asynchronous and stream:
        raise ValueError("async_execution=True and stream=True contradict each other: choose one")
    path = f"/api/workflows/{_segment('workflow_id', workflow_id)}/execute"
    control: Dict[str, Any] = {}
    if stream:
        control["stream"] = True
    if selected_outputs is not None:
        control["selectedOutputs"] = _names("selected_outputs", selected_outputs)
    return Call("POST", path, encode_body(input, control), stream, asynchronous, workflow_id)


def workflow_status(workflow_id: str) -> Call:
    """Ask whether a workflow is deployed."""
    return Call("GET", f"/api/workflows/{_segment('workflow_id', workflow_id)}/status", id=workflow_id)


def job_status(task_id: str) -> Call:
    """Ask for the state of a queued run."""
    return Call("GET", f"/api/jobs/{_segment('task_id', task_id)}", id=task_id)


def usage_limits() -> Call:
    """Ask for the account's limits."""
    return Call("GET", "/api/users/me/usage-limits")


def check_flags(**flags: bool) -> None:
    """Reject anything but a bool: a string such as "false" would count as true."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be a bool, not {type(value).__name__}")


def _segment(name: str, value: str) -> str:
    """Quote an id as one path segment; reject dot segments, which a server would resolve (RFC 3986, section 5.2.4)."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if value in ("", ".", ".."):
        raise ValueError(f"{name} must be an id, not {value!r}")
    return quote(value, safe="")


def _names(name: str, values: Sequence[str]) -> List[str]:
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise TypeError(f'{name} must be a list of "blockName.attribute" strings')
    return list(values)
