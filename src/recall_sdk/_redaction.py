"""Keeping the API key out of errors, also where a server echoes it."""

import json
from typing import Any, Dict, MutableMapping, TypeVar, cast
from urllib.parse import quote

from recall_sdk import models
from recall_sdk.errors import RecallError

_E = TypeVar("_E", bound=RecallError)

_MASK = "[API key]"

SHORTEST_SECRET = 4
"""Characters. Masking a key like "k" would only garble messages."""


def redacted(error: _E, api_key: str) -> _E:
    """Mask the key in all that an error holds, and in the errors behind it; return the error."""
    if len(api_key) >= SHORTEST_SECRET:
        chain: Dict[int, BaseException] = {}
        _collect(error, chain)
        for each in chain.values():
            for secret in {api_key, quote(api_key, safe=""), json.dumps(api_key)[1:-1]}:
                _redact(each, secret)
    return error


def _collect(error: BaseException, chain: Dict[int, BaseException]) -> None:
    chain[id(error)] = error
    for each in (error.__cause__, error.__context__, vars(error).get("reason"), *error.args):
        if isinstance(each, BaseException) and id(each) not in chain:
            _collect(each, chain)


def _redact(error: BaseException, secret: str) -> None:
    # Past any __setattr__ of its own: it may be what the caller was handling meanwhile, and frozen.
    BaseException.__setattr__(error, "args", _mask(error.args, secret))
    for name, value in vars(error).items():
        try:
            masked = _mask(value, secret)
        except RecursionError:
            masked = None  # nested too deeply to be looked through, and so not kept
        vars(error)[name] = masked
    sent: Any = getattr(vars(error).get("request"), "headers", None)  # requests' errors bring the request along
    if isinstance(sent, MutableMapping):
        headers = cast("MutableMapping[str, Any]", sent)
        headers.update(_mask(dict(headers), secret))
    if isinstance(error, UnicodeDecodeError):
        error.object = _mask(error.object, secret)


_SEQUENCES: Any = (list, tuple)


def _mask(value: Any, secret: str) -> Any:
    if isinstance(value, str):
        return value.replace(secret, _MASK)
    if isinstance(value, bytes):
        return value.replace(secret.encode(), _MASK.encode())
    kind: Any = value.__class__
    if kind in _SEQUENCES:
        return kind(_mask(item, secret) for item in value)
    if kind is dict:
        return {_mask(key, secret): _mask(item, secret) for key, item in value.items()}
    if kind.__module__ == models.__name__:
        return kind(**_mask(vars(value), secret))
    return value
