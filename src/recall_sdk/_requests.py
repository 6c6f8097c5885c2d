"""The requests that the client sends: their paths, headers and fields, and the caller's input as JSON.

Files in the input are encoded; a value that JSON can't hold is rejected with its place in the input. The body must be strict JSON: servers
treat a body that they can't parse as empty, and run the workflow without input.
"""

import io
import json
import math
import mimetypes
import os
import re
from base64 import b64encode
from contextlib import ExitStack, suppress
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple

from recall_sdk._arguments import check_flags, check_outputs, path_segment, type_name
from recall_sdk.errors import InvalidRequestError, build_error

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


# ---------------------------------------------------------------------------------------------------- the input as JSON

_MAX_KEY = 80
"""Maximum characters of a key in a message."""

_OBJECT: Any = dict
_ARRAYS: Any = (list, tuple)
_PATHS: Any = (str, bytes, os.PathLike)
"""Types as ``Any``, so that a type checker does not treat their contents as unknown."""


def encode_body(input: Any, control: Mapping[str, Any]) -> bytes:
    """Encode the body of an execution.

    Args:
        input: The workflow's input: the keys of a dict go to the root, any other value becomes ``input``, ``None`` means no input.
        control: Fields of the call itself; they replace fields of the same name in the input.

    Returns:
        The JSON text.

    Raises:
        InvalidRequestError: The input isn't JSON-serializable (``INVALID_JSON``); the message says where.
    """
    try:
        # A subclass of dict holds what its items() returns, as in json. Unpacking Django's QueryDict would return the lists behind it.
        fields = dict(input.items()) if isinstance(input, _OBJECT) else {"input": input}
        if input is None:
            fields = {}
        # What UTF-8 has no form for, lone surrogates, stands in strings only, where a backslash and the number are JSON's own escape.
        return _ENCODER.encode({**fields, **control}).encode("utf-8", "backslashreplace")
    except Exception as error:  # the caller's object may raise anything
        fault = f"input: {_reason(error)}"
        with suppress(Exception):  # it is nested too deeply, or can't be shown, such as an int of thousands of digits as a key
            fault = next(_find_faults(input, "input", ()), fault)
        raise build_error(InvalidRequestError, fault, may_have_executed=False, code="INVALID_JSON") from error


def _find_faults(value: Any, place: str, above: Tuple[int, ...]) -> Iterator[str]:
    """Yield the places in a value that aren't JSON-serializable, each with the reason."""
    if id(value) in above:
        yield f"{place}: contains itself; JSON has no form for a cycle: leave it out"
    elif isinstance(value, _OBJECT):
        for key, item in value.items():
            if not (math.isfinite(key) if isinstance(key, float) else key is None or isinstance(key, (str, int))):
                yield f"{place}: the key {key!r:.{_MAX_KEY}} ({type(key).__name__}) is not JSON serializable; keys in JSON are strings"
            yield from _find_faults(item, _place_of(place, key), (*above, id(value)))
    elif isinstance(value, _ARRAYS):
        for index, item in enumerate(value):
            yield from _find_faults(item, f"{place}[{index}]", (*above, id(value)))
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place}: {value} is not JSON serializable; use None or a finite number"
    else:
        try:
            _ENCODER.encode(value)
        except Exception as error:
            yield f"{place}: {_reason(error)}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _place_of(place: str, key: Any) -> str:
    plain = isinstance(key, str) and key.isidentifier() and len(key) <= _MAX_KEY
    return f"{place}.{key}" if plain else f"{place}[{key!r:.{_MAX_KEY}}]"


def _encode_file(value: Any) -> Dict[str, str]:
    """Return the form in which the API accepts a file; reject everything else."""
    if isinstance(value, type) or not callable(getattr(value, "read", None)):
        raise TypeError(f"{type_name(type(value))} is not JSON serializable; use {_replacement(value)}")
    content = _content(value)
    name = _file_name(value)
    mime = _mime(value, name)
    return {"type": "file", "data": f"data:{mime};base64,{b64encode(content).decode()}", "name": name or "file", "mime": mime}


def _replacement(value: Any) -> str:
    """Return what to pass instead of a value."""
    kind = value.__class__  # of a proxy, such as those of Flask, the class of what it stands for
    traits = {each.__name__ for each in kind.__mro__}.union(f".{name}" for name in dir(kind))
    fitting = (advice.format(name) for names, advice in _ADVICE for name in names.split() if name in traits)
    return next(fitting, "a dict, list, str, number, bool or None")


_ADVICE = (
    ("Enum", ".value"),
    (".model_dump", '.model_dump(mode="json")'),  # Pydantic
    (".__fields__", ".dict()"),  # Pydantic 1
    (".__dataclass_fields__", "dataclasses.asdict()"),
    (".isoformat .total_seconds", "{}()"),
    ("bytes bytearray memoryview", "io.BytesIO() for a file, .decode() for text, or base64"),
    ("Decimal Fraction", "str() or float()"),
    ("PurePath", "str(), or open it with mode 'rb' to send the file"),
    ("UUID complex BaseException datetime64 timedelta64 .casefold", "str()"),
    (".tolist .to_dicts", "{}()"),  # NumPy and the series of pandas, Polars
    (".to_records", '.to_dict("records")'),  # pandas
    (".keys", "dict()"),
    (".__iter__", "list()"),
)
"""What to pass instead of a value: names of its type and the types that it inherits from, or of attributes, and the advice.

The first match counts. Names rather than types: most of these are from modules that the client does not import.
"""


def _file_name(file: Any) -> str:
    # Uploads of web frameworks have a filename; their name is that of the form's field. The name of a file that was opened from a
    # file descriptor is a number.
    paths = (getattr(file, attribute, None) for attribute in ("filename", "name"))
    return next((Path(os.fsdecode(path)).name for path in paths if path and isinstance(path, _PATHS)), "")


def _mime(file: Any, name: str) -> str:
    """Return the type of a web framework's upload, without parameters such as the charset, else that of the name."""
    declared = str(getattr(file, "content_type", "")).partition(";")[0].strip().lower()
    if re.fullmatch(r"[\w.+-]+/[\w.+-]+", declared, re.ASCII):
        return declared
    guessed, compression = mimetypes.guess_type(name)
    return guessed if guessed and not compression else "application/octet-stream"  # for a.tar.gz it would be the type of the tar


def _content(file: Any) -> Any:
    if iscoroutinefunction(file.read):
        raise TypeError("an asynchronous file is not JSON serializable; await its read() and pass the bytes in an io.BytesIO")
    if hasattr(file, "readable") and not file.readable():
        raise TypeError("a file open for writing only is not JSON serializable; open it with mode 'rb'")
    if isinstance(file, io.TextIOBase):
        raise TypeError(_TEXT_MODE)
    try:
        with ExitStack() as stack:
            if file.seekable() if hasattr(file, "seekable") else hasattr(file, "seek"):  # SpooledTemporaryFile has it since 3.11
                stack.callback(file.seek, file.tell())
            content = file.read()
    except Exception as error:  # a file-like object may raise anything, a damaged archive an EOFError
        raise ValueError(f"the file can't be read ({error})") from error
    if isinstance(content, str):
        raise TypeError(_TEXT_MODE)
    return content


_TEXT_MODE = "a file in text mode is not JSON serializable; open it with mode 'rb'"


_ENCODER = json.JSONEncoder(default=_encode_file, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
