"""Keeping the API key out of errors, also where a server echoes it."""

import json
from typing import Any, TypeVar
from urllib.parse import quote

from recall_sdk.errors import RecallError

_E = TypeVar("_E", bound=RecallError)

_MASK = "[API key]"

SHORTEST_SECRET = 4
"""Characters. Masking a key like "k" would only garble messages."""


def redacted(error: _E, api_key: str) -> _E:
    """Replace the key in all that an error holds, and return the error."""
    if len(api_key) < SHORTEST_SECRET:
        return error
    for secret in {api_key, quote(api_key, safe="")}:
        error.args = _mask(error.args, secret)
        for name, value in vars(error).items():
            setattr(error, name, _mask(value, secret))
        if isinstance(error.__cause__, json.JSONDecodeError):
            error.__cause__.doc = _mask(error.__cause__.doc, secret)
    return error


def _mask(value: Any, secret: str) -> Any:
    if isinstance(value, str):
        return value.replace(secret, _MASK)
    if isinstance(value, (list, tuple)):
        return type(value)(_mask(item, secret) for item in value)
    if isinstance(value, dict):
        return {_mask(key, secret): _mask(item, secret) for key, item in value.items()}
    if hasattr(type(value), "__dataclass_fields__"):
        return type(value)(**_mask(vars(value), secret))
    return value
