"""What is done to each error before it leaves the client: the API key is masked, also where a server echoes it, and the message is cut."""

import json
from typing import Any, Iterator, Set, TypeVar
from urllib.parse import quote

from recall_sdk import models
from recall_sdk.errors import RecallError

_E = TypeVar("_E", bound=RecallError)

_MASK = "[API key]"

MIN_SECRET = 4
"""Characters. Masking a key like "k" would only garble messages."""

_START_OF_MESSAGE, _END_OF_MESSAGE = 420, 180
"""Characters that are kept of a message that is too long for a person to read. The end says what to do."""

_MAX_MESSAGE = _START_OF_MESSAGE + len(" ... ") + _END_OF_MESSAGE


def without_key(error: _E, api_key: str) -> _E:
    """Mask the key in an error, drop the causes if it shows in one of them, and cut a message that is too long; return the error.

    The causes themselves are not changed: the last of them may be what the caller is handling.
    """
    if len(api_key) >= MIN_SECRET:
        secrets = {api_key, quote(api_key, safe=""), json.dumps(api_key)[1:-1]}
        error.args = tuple(_mask(each, secrets) for each in error.args)
        for name, value in vars(error).items():
            try:
                setattr(error, name, _mask(value, secrets))
            except RecursionError:
                setattr(error, name, None)  # nested too deeply to be searched, and so not kept
        seen = {id(error)}
        shown = "".join(map(_shown, (*_chain(error.__cause__, seen), *_chain(error.__context__, seen))))
        if any(secret in shown for secret in secrets):
            error.__cause__ = error.__context__ = None
    message = str(error)
    if len(message) > _MAX_MESSAGE:  # only now: half a key would not be recognized as one
        error.args = (f"{message[:_START_OF_MESSAGE]} ... {message[-_END_OF_MESSAGE:]}",)
    return error


def _mask(value: Any, secrets: Set[str]) -> Any:
    """Return a JSON value, or a model that holds such, with the secrets in its texts masked."""
    kind: Any = value.__class__
    if kind is str:
        for secret in secrets:
            value = value.replace(secret, _MASK)
    elif kind is list:
        value = [_mask(item, secrets) for item in value]
    elif kind is dict:
        value = {_mask(key, secrets): _mask(item, secrets) for key, item in value.items()}
    elif kind.__module__ == models.__name__:
        value = kind(**_mask(vars(value), secrets))
    return value


def _chain(error: Any, seen: Set[int]) -> Iterator[BaseException]:
    if isinstance(error, BaseException) and id(error) not in seen:
        seen.add(id(error))
        yield error
        for each in (error.__cause__, error.__context__, vars(error).get("reason"), *error.args):
            yield from _chain(each, seen)


def _shown(error: BaseException) -> str:
    """Return what an error shows; those of decoders hold all that they could not read."""
    try:
        return repr((str(error), error.args, getattr(error, "doc", ""), getattr(error, "object", "")))
    except Exception:  # noqa: BLE001 -- somebody else's error, which the caller was handling, may do as it likes
        return ""
