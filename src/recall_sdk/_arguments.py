"""The caller's arguments, checked before anything is sent. Key and base URL come from the environment by default.

No message shows an API key, nor a base URL that may be a key passed in the wrong place.
"""

import builtins
import math
import numbers
import os
import re
import reprlib
from collections import abc
from enum import Enum
from typing import Any, List, NamedTuple, Optional, Sequence
from urllib.parse import quote, urlsplit

DEFAULT_BASE_URL = "https://tryrecall.com"

API_KEY_VARIABLE = "RECALL_API_KEY"
BASE_URL_VARIABLE = "RECALL_BASE_URL"


class Settings(NamedTuple):
    """A checked key and base URL. ``repr`` does not show the key."""

    api_key: str
    base_url: str

    def __repr__(self) -> str:
        return f"Settings(base_url={self.base_url!r})"


def read_settings(api_key: Optional[str], base_url: Optional[str]) -> Settings:
    """Return the checked arguments, or the values in the environment, or the defaults."""
    key = os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key
    url = (os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL) if base_url is None else base_url
    if key is None:
        raise ValueError(f"no API key: pass api_key=..., or set the environment variable {API_KEY_VARIABLE}")
    return Settings(check_api_key(key), check_base_url(url))


# ------------------------------------------------------------------------------------------------------------- the API key

_KEY_FAULTS = (
    (r"", f"is empty: pass api_key=..., or set the environment variable {API_KEY_VARIABLE}"),
    (rf"\s*(export\s+)?{API_KEY_VARIABLE}\s*=.*", f"starts with {API_KEY_VARIABLE}=: pass only what follows"),
    (r"\s*(['\"`]).*\1\s*", "has quotes around it: pass it without them, also in the environment variable"),
    (r"(?i)\s*(authorization:\s*)?bearer\s.*", 'starts with "Bearer": pass only what follows'),
    (r".*[\r\n].*", "contains a line break, perhaps from a file: pass only the key, for example with .strip()"),
    (r"\s.*|.*\s", "has white space around it: pass only the key, for example with .strip()"),
    (r".*[^\x21-\x7e].*", "contains white space, a control character or a non-ASCII character: copy the whole key again, and nothing else"),
)
"""What a key that can't be sent looks like, and what is wrong with it. The first match counts."""


def check_api_key(api_key: str) -> str:
    """Return a key that can be sent in a header, or raise the error that says what is wrong with it."""
    _check_type("api_key", api_key, str, "a str")
    for pattern, fault in _KEY_FAULTS:
        if re.fullmatch(pattern, api_key, re.DOTALL):
            raise ValueError(f"the API key {fault}")
    return api_key


# ------------------------------------------------------------------------------------------------------------ the base URL

_NEEDED = "use a URL such as https://host, with an optional port and path prefix"

_BARE_HOST = r"(localhost|(\d{1,3}\.){3}\d{1,3}|([a-z0-9-]{1,63}\.)+[a-z]{2,13})(:\d{1,5})?(/[\w.~/-]{0,80})?"
"""A host without a scheme. In a key with dots, such as a JWT, the part after the last dot does not look like a top-level domain."""


def check_base_url(base_url: str) -> str:
    """Return a base URL without trailing slashes, or raise the error that says what is wrong with it."""
    _check_type("base_url", base_url, str, "a str")
    try:
        url = urlsplit(base_url)
        url.port  # noqa: B018 -- reading it checks it
    except ValueError as error:
        raise ValueError(f"base_url is not a URL ({error}): {_NEEDED}") from error
    if url.scheme not in ("http", "https") or not url.hostname or re.search(r"[\s\\\x00-\x1f\x7f]", base_url):
        host = base_url.lstrip("/")
        scheme = "http" if host.startswith(("localhost", "127.")) else "https"
        advice = f"did you mean '{scheme}://{host}'?" if re.fullmatch(_BARE_HOST, host, re.ASCII) else _NEEDED
        raise ValueError(f"base_url lacks http:// or https:// and a host, or contains quotes or white space: {advice}")
    if url.username is not None or "?" in base_url or "#" in base_url:
        raise ValueError(f"base_url must not contain a user name, query or fragment: {_NEEDED}")
    return base_url.rstrip("/")


# ----------------------------------------------------------------------------------------------------------------- numbers


class ClientTimeout(Enum):
    """The default of a call's timeout: use that of the client."""

    DEFAULT = "the client's timeout"


MAX_TIMEOUT = 2_000_000.0
"""Seconds (23 days): about the longest that a program can sleep, and a socket can wait, on every platform. More means no limit."""


def check_timeout(timeout: Optional[float]) -> Optional[float]:
    """Return a timeout in seconds, or ``None`` for no limit; reject anything but a positive number."""
    if timeout is None:
        return None
    seconds = _to_float("timeout", timeout, "a number of seconds for the whole call, or None")
    if not seconds > 0:
        raise ValueError(f"timeout must be more than 0 seconds, or None for no limit, not {timeout}")
    return seconds if seconds <= MAX_TIMEOUT else None


def check_count(name: str, value: int, *, least: int) -> int:
    """Return an integer argument, or raise the error that says what is wrong with it."""
    _check_type(name, value, numbers.Integral, "an int")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return int(value)


def check_number(name: str, value: float, *, least: float) -> float:
    """Return a number argument as a float, or raise the error that says what is wrong with it."""
    number = _to_float(name, value, "a number")
    if not (math.isfinite(number) and number >= least):
        raise ValueError(f"{name} must be a finite number of {least} or more, not {value}")
    return number


def _to_float(name: str, value: float, needed: str) -> float:
    _check_type(name, value, numbers.Real, needed)
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


# -------------------------------------------------------------------------------------------------- ids, flags and outputs


def path_segment(name: str, value: str) -> str:
    """Quote an id as one path segment; reject dot segments, which a server would resolve (RFC 3986, section 5.2.4)."""
    _check_type(name, value, str, "a str")
    if value in ("", ".", ".."):
        raise ValueError(f"{name} must be an id, not {value!r}")
    return quote(value, safe="")


def check_job(job: Any) -> str:
    """Return the task id of a queued run, which may be given by its id itself."""
    task_id: str = getattr(job, "task_id", job)
    _check_type("job", task_id, str, "an AsyncExecutionResult or a task id")
    return task_id


def check_items(items: object) -> None:
    """Reject what a batch can't draw its items from."""
    _check_type("items", items, abc.Iterable, "an iterable of pairs of a workflow id and an input")


_PAIRS: Any = (tuple, list)


def check_pair(index: int, pair: Any) -> None:
    """Reject an item of a batch that is not a pair."""
    if not isinstance(pair, _PAIRS) or len(pair) != 2:  # a string of two letters is not a pair
        example = "a pair of a workflow id and an input, such as ('greet', {})"
        raise TypeError(f"item {index} of the batch is not {example}: {type(pair).__name__}")


def check_executor(executor: object) -> None:
    """Reject what a batch can't submit its attempts to."""
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}")


def check_on_update(on_update: object) -> None:
    """Reject what can't be called with a job's status."""
    if on_update is not None and not callable(on_update):
        raise TypeError(f"on_update must be callable, not {type(on_update).__name__}")


def check_flags(**flags: bool) -> None:
    """Reject anything but a bool: a string such as "false" would count as true."""
    for name, value in flags.items():
        _check_type(name, value, bool, "a bool")


_SEQUENCE: Any = abc.Sequence  # a type checker would not expect another type


def check_outputs(selected_outputs: Sequence[str]) -> List[str]:
    """Return the names of outputs as a list."""
    is_list = isinstance(selected_outputs, _SEQUENCE) and not isinstance(selected_outputs, (str, bytes))
    if not is_list or not all(isinstance(name, str) for name in selected_outputs):
        raise TypeError(f'selected_outputs must be a list of "blockName.attribute" strings, not {reprlib.repr(selected_outputs)}')
    return list(selected_outputs)


# ------------------------------------------------------------------------------------------------------------- wrong types


def _check_type(name: str, value: object, kind: Any, needed: str) -> None:
    """Raise an error unless a value is of a type; a bool is no number."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        kind_name = type_name(type(value))
        advice = f": pass str({name})" if kind is str and kind_name in ("int", "UUID") else ""
        raise TypeError(f"{name} must be {needed}, not {kind_name}{advice}")


def type_name(kind: Any) -> str:
    """Return the name of a type, with its module if it has the name of a builtin, as numpy.bool has."""
    misleads = hasattr(builtins, kind.__name__) and kind.__module__ != "builtins"
    return f"{kind.__module__}.{kind.__name__}" if misleads else kind.__name__
