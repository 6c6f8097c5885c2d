"""Read what a body holds: JSON, text, an HTML page, the envelope of a run, or a reason, in each form that servers use.

Each function returns for any body, in time linear in its length. A field of another type than expected counts as absent.
"""

import json
import re
from typing import Any, Callable, Dict, List, Optional, Union

from recall_sdk.models import WorkflowExecutionResult

OBJECT: Any = dict
ARRAY: Any = list
"""The containers of JSON as ``Any``, so that a type checker does not treat their contents as unknown."""


# -------------------------------------------------------------------------------------------------------- small readers


def json_or(text: Union[str, bytes], fallback: Any) -> Any:
    """Parse JSON; return the fallback if that is not possible."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return fallback


def as_number(value: Any) -> Optional[float]:
    """Return a finite number. Neither a bool is one, nor an integer that is too large for a float."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300
    return value if is_number else None


def as_str(value: object) -> Optional[str]:
    """Return a text."""
    return value if isinstance(value, str) else None


def as_list(value: Any) -> Optional[List[Any]]:
    """Return a list."""
    return value if isinstance(value, ARRAY) else None


def as_dict(value: Any) -> Dict[str, Any]:
    """Return an object; an empty one instead of any other value."""
    return value if isinstance(value, OBJECT) else {}


# ------------------------------------------------------------------------------------------------------- kinds of bodies

_PAGE = (
    # Each character can be matched in one way only, so that the time is linear.
    r"(?:[\s\x00\ufeff]|<!--(?:[^-]|-(?!->))*-->|<\?(?:[^?]|\?(?!>))*\?>)*"
    r"<(?:!doctype\s+html|html|head|body|title|meta|script|style|center|div|p|h[1-6])\b"
)


def is_html(text: str, content_type: str) -> bool:
    """Return whether a text that is not JSON is an HTML page: by its type, or by its first tag, if that is in the first 64 KiB."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml") or re.match(_PAGE, text[: 64 * 1024], re.IGNORECASE) is not None


# --------------------------------------------------------------------------------------------------------- the envelope

NO_REASON = "the server gave no reason; the run may have been cancelled"


def envelope(body: object) -> Optional[WorkflowExecutionResult]:
    """Read the envelope around a workflow's output; return ``None`` if there is none and the body is the output."""
    fields = as_dict(body)
    success = fields.get("success")
    is_envelope = isinstance(success, bool) and ("output" in fields or (not success and "error" in fields))
    return enveloped(fields) if is_envelope else None


def enveloped(fields: Dict[str, Any]) -> WorkflowExecutionResult:
    """Read the fields of an envelope, of which ``success`` is a bool."""
    beside = {name: fields[name] for name in ("executionId", "status") if name in fields}
    if is_paused(fields.get("output")):
        beside.setdefault("status", "paused")
    metadata: Any = fields.get("metadata")
    metadata = {**as_dict(metadata), **beside} if beside or isinstance(metadata, OBJECT) else None
    duration = as_number(fields.get("totalDuration"))
    if duration is None:
        duration = as_number(as_dict(metadata).get("duration"))
    error = None if fields.get("error") is None else message_of(fields["error"])
    error = error if error or fields["success"] else NO_REASON
    logs, spans = as_list(fields.get("logs")), as_list(fields.get("traceSpans"))
    return WorkflowExecutionResult(fields["success"], fields.get("output"), error, logs, metadata, spans, duration)


def is_paused(output: object) -> bool:
    """Return whether the output is that of a run that waits for a person: it holds the addresses that resume it."""
    fields = as_dict(output)
    return "_resume" in fields or "_resume" in as_dict(fields.get("data"))


# -------------------------------------------------------------------------------------------------------------- reasons

_REASONS = ("error", "message", "title", "detail", "msg", "errors")


def shown(value: object) -> str:
    """Return a JSON value as the text that a message shows."""
    return _unless_deep(_dumps, value)


def message_of(value: object) -> str:
    """Return a server's reason as text, whether it is a text, an object, or a list of them."""
    return _unless_deep(_text, value)


def reason_of(body: object) -> str:
    """Return the reason in the body of an error as text; an empty one if it holds none."""
    return _unless_deep(_reason if isinstance(body, OBJECT) else _text, body) if body else ""


def _unless_deep(read: Callable[[Any], str], value: object) -> str:
    try:
        return read(value)
    except RecursionError:
        return "a reason nested too deeply to show"


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, ARRAY):
        return "; ".join(map(_text, value))
    reason = _reason(as_dict(value))
    if not reason:
        return "" if value == {} else _dumps(value)
    path = value.get("path", value.get("loc"))
    place = ".".join(map(_text, path)) if isinstance(path, ARRAY) else as_str(path)
    return f"{place}: {reason}" if place else reason


def _reason(fields: Dict[str, Any]) -> str:
    said = [_text(fields[name]) for name in _REASONS if isinstance(fields.get(name), (str, OBJECT, ARRAY))]
    faults = [_text(fault) for fault in as_list(fields.get("details")) or () if isinstance(fault, OBJECT)]
    reason = ": ".join(dict.fromkeys(part for part in said if part))
    return f"{reason} [{'; '.join(faults)}]".strip() if faults else reason
