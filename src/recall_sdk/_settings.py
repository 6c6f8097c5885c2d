"""The key, the base URL and the timeout, from arguments or the environment, checked before anything is sent."""

import os
import re
from enum import Enum
from typing import NamedTuple, Optional
from urllib.parse import urlsplit

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
