"""Translate the errors of requests, urllib3 and http.client, of an executor, and of the caller's own code into ours."""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
import traceback
import zlib
from typing import Iterator, NamedTuple, Optional

import requests
from urllib3.exceptions import (
    ClosedPoolError,
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    InvalidHeader,
    LocationValueError,
    NewConnectionError,
    ProxyError,
    ProxySchemeUnknown,
    ReadTimeoutError,
    ResponseError,
)

from recall_sdk.errors import (
    InvalidRequestError,
    InvalidResponseError,
    RecallConnectionError,
    RecallError,
    RecallTimeoutError,
    build_error,
    one_line,
)

TRANSPORT_ERRORS = (HTTPError, OSError, http.client.HTTPException, zlib.error, ValueError)
"""The errors that requests, urllib3, http.client, ssl and zlib raise."""

_BEFORE_SENDING = (
    *(NewConnectionError, ConnectTimeoutError, ClosedPoolError, LocationValueError, ssl.SSLCertVerificationError),
    *(requests.ConnectTimeout, requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema),
)

_SAID_BEFORE_SENDING = ("Could not find a suitable TLS", "Could not find the TLS", "Tunnel connection failed")
"""Messages of requests about certificates and of http.client about a proxy, whose errors have no specific class."""

_OF_THE_PROXY = (ProxyError, ProxySchemeUnknown, requests.exceptions.InvalidProxyURL)


class CallContext(NamedTuple):
    """What an error message needs to know about the call.

    Attributes:
        where: The server, as scheme and host.
        executes: Whether the call executes a workflow.
        timeout: Seconds that it had, or ``None``.
        streaming: Whether the timeout bounded each silence of a stream instead of the whole call.
    """

    where: str
    executes: bool
    timeout: Optional[float]
    streaming: bool = False


def translate(error: Exception, call: CallContext) -> RecallError:
    """Translate an error of the libraries. An error that the caller's signal handler raised is raised unchanged."""
    causes = list(_causes(error))
    for cause in filter(_is_of_signal_handler, reversed(causes)):
        raise cause
    if isinstance(error, requests.RequestException):
        error.request = error.response = None  # their headers hold the key
    unsent = any(map(_is_before_sending, causes))
    translated: RecallError
    if any(map(_is_timeout, causes)):
        translated = RecallTimeoutError(_timeout_message(call, unsent=unsent), "TIMEOUT")
    elif any(map(_is_unreadable, causes)):
        message = f"the answer of {call.where} can't be read ({_reason(causes[-1])}): check the base_url"
        translated = InvalidResponseError(one_line(message), "INVALID_RESPONSE")
    else:
        at_proxy = unsent and any(isinstance(each, _OF_THE_PROXY) for each in causes)
        message = _proxy_message(causes[-1], call) if at_proxy else _connection_message(causes[-1], call, unsent=unsent)
        translated = RecallConnectionError(one_line(message), "CONNECTION_ERROR")
    translated.may_have_executed = call.executes and not unsent
    return translated


def unusable_proxy(call: CallContext) -> RecallError:
    """Return the error for a proxy whose URL can't be parsed. The message does not show it: it may hold a password."""
    return build_error(
        RecallConnectionError,
        f"the URL of the proxy for {call.where} can't be parsed: check HTTPS_PROXY and HTTP_PROXY, or the proxies of your "
        "session; in a user name or password, percent-encode characters such as # / ? and @",
        may_have_executed=False,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that an error wraps, outermost first, but not those that the caller was handling."""
    yield error
    wrapped = [error.__cause__, getattr(error, "reason", None), *error.args]
    if isinstance(error, (NewConnectionError, ReadTimeoutError)):
        wrapped.append(error.__context__)  # urllib3 1.26 sets no cause
    inner = next((each for each in wrapped if isinstance(each, BaseException)), None)
    if inner is not None:
        yield from _causes(inner)


def _is_of_signal_handler(error: BaseException) -> bool:
    signal = sys.modules.get("signal")  # a program that has not imported it has no handlers
    handlers = [signal.getsignal(number) for number in signal.valid_signals()] if signal else []
    functions = [getattr(each, name, None) for each in handlers for name in ("__call__", "func")] + handlers
    codes = [getattr(function, "__code__", None) for function in functions]
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def _is_before_sending(error: BaseException) -> bool:
    if isinstance(error, _BEFORE_SENDING) or (isinstance(error, OSError) and str(error).startswith(_SAID_BEFORE_SENDING)):
        return True
    return "before_sending" in vars(error) or (isinstance(error, socket.timeout) and "handshake" in str(error))


def _is_timeout(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno:
        return False  # an error of the operating system, not our timeout
    refused = isinstance(error, NewConnectionError)  # a subclass of the connect timeout in urllib3 1.26
    return isinstance(error, (socket.timeout, ReadTimeoutError, ConnectTimeoutError, requests.Timeout)) and not refused


def _is_unreadable(error: BaseException) -> bool:
    if isinstance(error, (http.client.RemoteDisconnected, http.client.IncompleteRead)):
        return False
    if isinstance(error, http.client.BadStatusLine) and not str(error).endswith("\n"):  # the connection ended within the line
        return False
    # A plain ValueError means that Python could not parse a number or a URL in the answer.
    return isinstance(error, (DecodeError, zlib.error, InvalidHeader, http.client.HTTPException)) or type(error) is ValueError


def status_given_up_on(error: Exception) -> Optional[int]:
    """Return the status of the last answer, if an adapter of the user's session gave up on it (``Retry(status_forcelist=...)``)."""
    before, after = ResponseError.SPECIFIC_ERROR.split("{status_code}")
    texts = (str(each) for each in _causes(error) if isinstance(each, ResponseError))
    statuses = (text[len(before) : -len(after)] for text in texts if text.startswith(before) and text.endswith(after))
    return next((int(status) for status in statuses if status.isdigit()), None)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _timeout_message(call: CallContext, *, unsent: bool) -> str:
    seconds = "the available time" if call.timeout is None else f"{call.timeout:g} s"
    if unsent:
        return f"could not connect to {call.where} within {seconds}: check the base_url and the network"
    did = "sent nothing for" if call.streaming else "did not complete its answer within"
    message = f"{call.where} {did} {seconds}"
    if not call.executes:
        return message
    return f"{message}: the workflow may still be running; for more time, use a longer timeout= or async_execution=True"


def _proxy_message(reason: BaseException, call: CallContext) -> str:
    return (
        f"could not connect through the proxy for {call.where} ({_reason(reason)}): check HTTPS_PROXY and HTTP_PROXY and their "
        "credentials, or the proxies of your session"
    )


def _connection_message(reason: BaseException, call: CallContext, *, unsent: bool) -> str:
    if isinstance(reason, socket.gaierror):
        return f"the host of {call.where} is unknown ({reason.strerror}): check the base_url and the network"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {call.where} can't be verified ({getattr(reason, 'verify_message', reason)}): "
            "set REQUESTS_CA_BUNDLE to the file of the authority that signed it, or verify on your own session"
        )
    if isinstance(reason, ssl.SSLError) and unsent:
        return f"could not agree on TLS with {call.where} ({_reason(reason)}): check the base_url; the server may support http:// only"
    if unsent:
        return f"could not connect to {call.where} ({_reason(reason)}): check the base_url, and that the server is running"
    message = f"the connection to {call.where} broke before the answer was complete ({_reason(reason)})"
    return f"{message}: the workflow may have run" if call.executes and not call.streaming else message


def invalid_argument(error: Exception) -> RecallError:
    """Return the error for an argument with which nothing could be sent."""
    if isinstance(error, RecallError):
        return error
    invalid = build_error(InvalidRequestError, str(error), may_have_executed=False)
    invalid.__cause__ = error
    return invalid


def foreign_failure(cause: BaseException, what: str, *, may_have_executed: bool) -> RecallError:
    """Return the error for one of the caller's code or of an executor; our own errors are returned as they are."""
    if isinstance(cause, RecallError):
        return cause
    error = build_error(RecallError, f"{what}: {type(cause).__name__}: {cause}".rstrip(": "), may_have_executed=may_have_executed)
    error.__cause__ = cause
    return error
