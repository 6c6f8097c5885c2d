"""What is done to each error before the caller gets it: the API key is masked, also where a server echoes it, and the message is cut."""

import html
import json
from typing import Any, Dict, Set, TypeVar
from urllib.parse import quote

from recall_sdk import models
from recall_sdk.errors import RecallError

_E = TypeVar("_E", bound=RecallError)

_MASK = "[API key]"

MIN_SECRET = 4
"""Characters. Masking a key like "k" would only garble messages."""


_START_OF_MESSAGE, _END_OF_MESSAGE = 420, 180
"""Characters that are kept of a message that is too long for a person to read. The end says what to do."""

_LONGEST_MESSAGE = _START_OF_MESSAGE + len(" ... ") + _END_OF_MESSAGE


def without_key(error: _E, api_key: str) -> _E:
    """Mask the key in all that an error holds, and in the errors behind it, and cut a message that is too long; return the error."""
    if len(api_key) >= MIN_SECRET:
        chain: Dict[int, BaseException] = {}
        _collect(error, chain)
        for each in chain.values():
            for secret in _forms(api_key):
                _redact(each, secret)
    message = str(error)
    if len(message) > _LONGEST_MESSAGE:  # only now, for half a key would not be known for one
        error.args = (f"{message[:_START_OF_MESSAGE]} ... {message[-_END_OF_MESSAGE:]}",)
    return error


def _forms(api_key: str) -> Set[str]:
    """Give the key as it stands alone, in URLs, in JSON, in HTML, and in ``repr``."""
    in_urls = {quote(api_key, safe=safe) for safe in ("", _RESERVED)}
    return {api_key, *in_urls, json.dumps(api_key)[1:-1], html.escape(api_key), repr(api_key)[1:-1]}


_RESERVED = "!#$%&'()*+,/:;=?@[]~"
"""What may stand in a URL as it is (RFC 3986, section 2.2)."""


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
    sent: Any = vars(error).get("request")
    if type(sent).__qualname__ == "PreparedRequest" and sent.headers:  # which errors of requests bring along
        # A copy: the caller may want to send its own again.
        sent = vars(error)["request"] = sent.copy()
        sent.headers.update(_mask(dict(sent.headers), secret))
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
