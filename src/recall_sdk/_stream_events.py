"""Read the payloads of a stream, in both dialects: its events, its end, and its failure."""

from __future__ import annotations

import json
from typing import Any, Dict, Optional

from recall_sdk._bodies import OBJECT, as_str, enveloped, json_or, message_of
from recall_sdk.errors import ExecutionError, build_error
from recall_sdk.models import StreamedExecutionResult, StreamEvent, WorkflowExecutionResult

_ENDS = ("done", "final")
_EVENT_TYPES = {"final": "done", "stream_error": "block_error", "chunk": "message"}
"""Servers' names for an event, and our types for them; a chunk without text is a message."""

_OF_A_BLOCK = {"blockId", "chunk"}
_NOT_JSON = object()

_raw_decode = json.JSONDecoder().raw_decode  # in less time than json.loads()


def stream_event(name: str, data: str) -> Optional[StreamEvent]:
    """Read one server-sent event; return ``None`` for the mark that ends a stream."""
    payload: Any = None
    try:
        payload, end = _raw_decode(data)
    except (ValueError, RecursionError):
        end = -1
    if end != len(data):
        payload = json_or(data, _NOT_JSON)
    if not isinstance(payload, OBJECT):
        return _other_event(name, data, payload)
    block_id, chunk = payload.get("blockId"), payload.get("chunk")
    if len(payload) == 2 and isinstance(block_id, str) and isinstance(chunk, str) and name != "error":
        return StreamEvent("chunk", block_id, chunk, payload)  # nearly every event; nothing in it can report a failure
    block_id, chunk, event = (value if isinstance(value, str) else None for value in (block_id, chunk, payload.get("event")))
    event_type = event or name
    if name == "error" or _is_failure(event_type, payload):
        return StreamEvent("error", block_id, "", payload)
    if chunk is not None and event in (None, "message", "chunk"):
        return StreamEvent("chunk", block_id, chunk, payload)
    return StreamEvent(_EVENT_TYPES.get(event_type, event_type), block_id, "", payload)


def _other_event(name: str, data: str, payload: Any) -> Optional[StreamEvent]:
    """Read an event whose data is not a JSON object."""
    value = data if payload is _NOT_JSON else payload
    if isinstance(value, str) and value.strip() == "[DONE]":
        return None
    event_type = _EVENT_TYPES.get(name, name) if payload is _NOT_JSON or name == "error" else "message"
    return StreamEvent(event_type, None, "", {"data": value})


def _is_failure(event_type: str, payload: Dict[str, Any]) -> bool:
    """Return whether an event reports that the run failed, in any of the known forms."""
    if event_type == "error" or payload.get("type") == "error":
        return True
    if event_type in _ENDS:
        end = _end_of(payload)
        return bool(end.get("error")) and not isinstance(end.get("success"), bool)  # otherwise the end itself says how the run ended
    return bool(payload.get("error")) and (payload.get("success") is False or not _OF_A_BLOCK & payload.keys())


def _end_of(payload: Dict[str, Any]) -> Dict[str, Any]:
    inner: Any = payload.get("data")
    return {**payload, **inner} if isinstance(inner, OBJECT) else payload


def stream_end(event: Optional[StreamEvent]) -> WorkflowExecutionResult:
    """Read the result from the event that ends a stream; the mark alone means success."""
    end = _end_of(event.data) if event else {}
    return enveloped({**end, "success": end.get("success") is not False})


def stream_failure(event: StreamEvent, so_far: StreamedExecutionResult) -> ExecutionError:
    """Return the error for the event that reports a failed run."""
    data = _end_of(event.data)
    reason = message_of(data.get("error") or data.get("message") or data.get("data") or "the server does not say why")
    server_code = as_str(event.data.get("code"))
    error = build_error(ExecutionError, f"the workflow failed: {reason}", may_have_executed=True, body=event.data, server_code=server_code)
    error.result = so_far
    so_far.error = reason
    return error
