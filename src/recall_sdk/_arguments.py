"""The caller's arguments, checked before anything is sent. Key and base URL come from the environment by default."""

from __future__ import annotations

import math
import os
import re
from enum import Enum
from typing import List, NamedTuple, Optional, Sequence
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


class ClientTimeout(Enum):
    """The default of a call's timeout: use that of the client."""

    DEFAULT = "the client's timeout"

    def __repr__(self) -> str:
        return f"<{self.value}>"


MAX_TIMEOUT = 2_000_000.0
"""Seconds (23 days): about the longest that a socket can wait on every platform. More means no limit."""


def check_timeout(timeout: Optional[float]) -> Optional[float]:
    """Return a timeout in seconds, or ``None`` for no limit; reject anything but a positive number."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds for the whole call, or None, not {type(timeout).__name__}")
    if not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, or None for no limit, not {timeout}")
    return float(timeout) if timeout <= MAX_TIMEOUT else None


def read_settings(api_key: Optional[str], base_url: Optional[str]) -> Settings:
    """Return the checked arguments, or the values in the environment, or the defaults."""
    if api_key is None:
        api_key = os.environ.get(API_KEY_VARIABLE)
        if api_key is None:
            raise ValueError(f"no API key: pass api_key=..., or set the environment variable {API_KEY_VARIABLE}")
    if base_url is None:
        base_url = os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL
    return Settings(check_api_key(api_key), check_base_url(base_url))


def check_api_key(api_key: str) -> str:
    """Return a key that can be sent in a header, or raise the error that says what is wrong with it."""
    if not isinstance(api_key, str):
        raise TypeError(f"api_key must be a str, not {type(api_key).__name__}")
    if not api_key:
        raise ValueError(f"the API key is empty: pass api_key=..., or set the environment variable {API_KEY_VARIABLE}")
    if not re.fullmatch(r"[\x21-\x7e]+", api_key):
        raise ValueError(
            "the API key contains white space, a control character or a non-ASCII character, perhaps a line break from a file: "
            "pass only the key, for example with .strip()"
        )
    return api_key


def check_base_url(base_url: str) -> str:
    """Return a base URL without trailing slashes, or raise the error that says what is wrong with it."""
    if not isinstance(base_url, str):
        raise TypeError(f"base_url must be a str, not {type(base_url).__name__}")
    try:
        url = urlsplit(base_url)
        url.port  # noqa: B018 -- reading it checks it
    except ValueError as error:
        raise ValueError(f"base_url is not a URL ({error}): {_NEEDED}") from error
    # The message does not show the value: it may be the key, passed in the wrong place.
    if url.scheme not in ("http", "https") or not url.hostname or re.search(r"[\s\\\x00-\x1f\x7f]", base_url):
        raise ValueError(f"base_url lacks http:// or https:// and a host, or contains white space: {_NEEDED}")
    if url.username is not None or "?" in base_url or "#" in base_url:
        raise ValueError(f"base_url must not contain a user name, query or fragment: {_NEEDED}")
    return base_url.rstrip("/")


_NEEDED = "use a URL such as https://host, with an optional port and path prefix"


def check_count(name: str, value: int, *, least: int) -> int:
    """Return an integer argument, or raise the error that says what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return value


def check_number(name: str, value: float, *, least: float) -> float:
    """Return a number argument as a float, or raise the error that says what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number >= least):
        raise ValueError(f"{name} must be a finite number of {least} or more, not {value}")
    return number


def check_flags(**flags: bool) -> None:
    """Reject anything but a bool: a string such as "false" would count as true."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be a bool, not {type(value).__name__}")


def path_segment(name: str, value: str) -> str:
    """Quote an id as one path segment; reject dot segments, which a server would resolve (RFC 3986, section 5.2.4)."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if value in ("", ".", ".."):
        raise ValueError(f"{name} must be an id, not {value!r}")
    return quote(value, safe="")


def check_outputs(selected_outputs: Sequence[str]) -> List[str]:
    """Return the names of outputs as a list."""
    if not isinstance(selected_outputs, (list, tuple)) or not all(isinstance(name, str) for name in selected_outputs):
        raise TypeError('selected_outputs must be a list of "blockName.attribute" strings')
    return list(selected_outputs)
