"""Prepare each error before it leaves the client: mask the API key, even if a server echoes it, and shorten the message."""

import json
import re
from contextlib import suppress
from dataclasses import is_dataclass, replace
from typing import Any, Optional, Pattern, Set
from urllib.parse import quote

from recall_sdk.errors import RecallError, one_line

_MASK = "[API key]"

SHORT_KEY = 8
"""Characters. A shorter key is masked only as a whole word: "test" within "latest" is no key."""

_START_OF_MESSAGE, _END_OF_MESSAGE = 420, 180
"""Characters to keep of the start and the end of a long message. The end says what to do."""


def without_key(error: RecallError, api_key: str) -> RecallError:
    """Mask the key in an error, drop its causes if one of them shows the key, and shorten a long message; return the error.

    The causes are not changed: one of them may be the exception that the caller is handling.
    """
    secret = _pattern(api_key)
    error.args = tuple(_mask(each, secret) for each in error.args)
    for name, value in vars(error).items():
        try:
            setattr(error, name, _mask(value, secret))
        except RecursionError:
            setattr(error, name, None)  # nested too deeply to be searched, so drop it
    seen = {id(error)}
    visible = _visible_text(error.__cause__, seen) + _visible_text(error.__context__, seen)
    if secret.search(visible):
        error.__cause__ = error.__context__ = None
    message = str(error)
    if len(message) > _START_OF_MESSAGE + _END_OF_MESSAGE:  # only now: half a key would not be recognized
        error.args = (f"{message[:_START_OF_MESSAGE]} ... {message[-_END_OF_MESSAGE:]}",)
    return error


def masked_text(text: str, api_key: str) -> str:
    """Return a text as one clean line without the key, for a log."""
    return _pattern(api_key).sub(_MASK, one_line(text))


def _pattern(api_key: str) -> Pattern[str]:
    forms = {api_key, quote(api_key, safe=""), json.dumps(api_key)[1:-1]}
    any_form = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    return re.compile(any_form if len(api_key) >= SHORT_KEY else rf"(?<!\w)(?:{any_form})(?!\w)")


def _mask(value: Any, secret: Pattern[str]) -> Any:
    """Return a JSON value, or a model of JSON values, with the secret in its strings masked."""
    kind: Any = value.__class__
    if kind is str:
        value = secret.sub(_MASK, value)
    elif kind is list:
        value = [_mask(item, secret) for item in value]
    elif kind is dict:
        value = {_mask(key, secret): _mask(item, secret) for key, item in value.items()}
    elif is_dataclass(kind):
        value = replace(value, **_mask(vars(value), secret))
    return value


def _visible_text(error: Optional[BaseException], seen: Set[int]) -> str:
    """Return what an error and its causes show. The errors of decoders hold the text that they could not decode."""
    if error is None or id(error) in seen:
        return ""
    seen.add(id(error))
    text = ""
    for facts in (error, error.args, vars(error)):
        with suppress(Exception):  # a foreign exception may raise anything
            text += f"{facts} "
    return text + _visible_text(error.__cause__, seen) + _visible_text(error.__context__, seen)
