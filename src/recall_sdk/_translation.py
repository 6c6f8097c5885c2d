"""Translate the errors of requests, urllib3 and http.client, of an executor, and of the caller's own code into ours."""

from __future__ import annotations

import http.client
import os
import re
import socket
import sys
import traceback
import zlib
from pathlib import Path
from types import CodeType
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Set, Type

import requests
from requests.adapters import HTTPAdapter
from urllib3 import exceptions as urllib3_errors
from urllib3.connection import BaseSSLError, HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

from recall_sdk import errors
from recall_sdk._requests import Request
from recall_sdk.errors import RecallError, build_error

_KINDS: Dict[type, Type[RecallError]] = {
    requests.Timeout: errors.RecallTimeoutError,
    requests.exceptions.ContentDecodingError: errors.InvalidResponseError,
    requests.exceptions.InvalidHeader: errors.InvalidRequestError,
    urllib3_errors.HTTPError: errors.RecallConnectionError,
    urllib3_errors.TimeoutError: errors.RecallTimeoutError,
    urllib3_errors.NewConnectionError: errors.RecallConnectionError,  # a subclass of the timeout in urllib3 1.26
    urllib3_errors.LocationValueError: errors.RecallConnectionError,
    urllib3_errors.DecodeError: errors.InvalidResponseError,
    urllib3_errors.InvalidHeader: errors.InvalidResponseError,
    http.client.HTTPException: errors.InvalidResponseError,
    http.client.IncompleteRead: errors.RecallConnectionError,
    socket.timeout: errors.RecallTimeoutError,
    OSError: errors.RecallConnectionError,
    zlib.error: errors.InvalidResponseError,
    ValueError: errors.InvalidResponseError,  # Python could not parse a number or a URL in the response
}
"""What an error of the libraries becomes. A class that is not listed counts as the nearest of its bases, most of them as ``OSError``."""

SENDING_ERRORS = (urllib3_errors.HTTPError, http.client.HTTPException, OSError, ValueError)
"""What the libraries raise until the head of the response is there. The caller's code runs there too: see :func:`translate_sending`."""

RECEIVING_ERRORS = (*SENDING_ERRORS, zlib.error)
"""What they raise while the body is read. No code of the caller's runs there, except for signal handlers."""


def _codes(*functions: Any) -> Set[CodeType]:
    return {function.__code__ for function in functions if hasattr(function, "__code__")}  # tools put other callables in their place


_Adapter: Any = HTTPAdapter
_PATHS: Any = (str, os.PathLike)

_BEFORE_SENDING = _codes(
    *(HTTPConnection.connect, getattr(HTTPSConnection, "connect", None), _Adapter.cert_verify, _Adapter.proxy_manager_for),
    *(http.client.HTTPConnection.putheader, http.client.HTTPConnection.putrequest),
)
"""The code of the libraries in which an error means that nothing was sent."""

_PREPARING = _codes(requests.Session.prepare_request)
"""The code of requests that calls what the caller has given for a request, such as an auth callable, before anything is sent."""

_PROXY_CODE = _codes(_Adapter.proxy_manager_for)
_HEADER_CODE = _codes(http.client.HTTPConnection.putheader)

_POOL_FAULTS: Dict[type, str] = {
    urllib3_errors.ClosedPoolError: "your session was closed during the call",
    urllib3_errors.EmptyPoolError: "all connections of your session are in use; set a larger pool_maxsize on its adapter",
}
"""Why the user's session had no connection for a request."""


class Exchange(NamedTuple):
    """What the errors of an exchange need to know.

    Attributes:
        request: The request.
        url: Where it goes.
        where: The server, as scheme and host.
        api_key: The key, which no error may show.
        timeout: Seconds for the exchange, or ``None``.
        settings: The settings of the session for it: ``verify``, ``cert`` and ``proxies``.
        may_repeat: Whether an adapter of the user's session may send the request more than once.
    """

    request: Request
    url: str
    where: str
    api_key: str
    timeout: Optional[float]
    settings: Mapping[str, Any]
    may_repeat: bool


def translate_sending(error: Exception, exchange: Exchange) -> Exception:
    """Translate an error of sending; return one that the caller's own code raised as it is."""
    if isinstance(error, requests.RequestException):
        # An auth callable may have sent requests of its own, with errors of their own.
        url = getattr(error.request, "url", None)
        is_ours = (url is None or url.startswith(exchange.url)) and not isinstance(error, requests.HTTPError)  # from raise_for_status()
    else:
        is_ours = isinstance(error, (urllib3_errors.HTTPError, http.client.HTTPException)) or _passes(error, _BEFORE_SENDING)
    return translate(error, exchange) if is_ours else error


def translate(error: Exception, exchange: Exchange, *, streaming: bool = False) -> RecallError:
    """Translate an error of the libraries. One that the caller's signal handler raised is raised unchanged.

    Args:
        error: The error.
        exchange: The exchange in which it was raised.
        streaming: Whether the timeout bounded each silence of a stream instead of the whole call.
    """
    causes = list(_causes(error))
    handlers = _signal_handlers()
    for cause in reversed(causes):
        if _passes(cause, handlers):
            raise cause
    if isinstance(error, requests.RequestException):
        error.request = error.response = None  # their headers hold the key
    kind = next(filter(None, map(_kind, reversed(causes))), errors.RecallConnectionError)
    unsent = kind is errors.InvalidRequestError or any(map(_is_before_sending, causes))
    may_have_executed = exchange.request.executes and (exchange.may_repeat or not unsent)
    reason = _without_password(str(causes[-1]) or type(causes[-1]).__name__)
    if kind is errors.RecallTimeoutError:
        message = _timeout_message(exchange, unsent=unsent, streaming=streaming)
    elif kind is errors.InvalidRequestError:
        message = f"a header can't be sent ({reason}): check the headers of your session"
    elif unsent:
        kind, message = errors.RecallConnectionError, _unsent_message(causes, reason, exchange)
    elif kind is errors.InvalidResponseError:
        message = f"the response of {exchange.where} can't be read ({reason}): check the base_url"
    else:
        message = f"the connection to {exchange.where} broke before the response was complete ({reason})"
        if exchange.request.executes and not streaming:
            message = f"{message}: the workflow may have run"
    return build_error(kind, message, may_have_executed=may_have_executed)


def unusable_proxy(exchange: Exchange) -> RecallError:
    """Return the error for a proxy whose URL can't be used. The message does not show it: it may hold a password."""
    return build_error(
        errors.RecallConnectionError,
        f"the URL of the proxy for {exchange.where} can't be used: check HTTPS_PROXY and HTTP_PROXY, or the proxies of your session; "
        "it begins with http://, https://, socks5:// or another socks scheme with its version, and in a user name or password, characters "
        "such as # / ? and @ are percent-encoded",
        may_have_executed=False,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that an error wraps, outermost first, but not those that the caller was handling."""
    yield error
    wrapped = [error.__cause__, getattr(error, "reason", None), *error.args]
    if isinstance(error, (urllib3_errors.NewConnectionError, urllib3_errors.ReadTimeoutError)):
        wrapped.append(error.__context__)  # urllib3 1.26 sets no cause
    inner = next((each for each in wrapped if isinstance(each, BaseException)), None)
    if inner is not None:
        yield from _causes(inner)


def _kind(error: BaseException) -> Optional[Type[RecallError]]:
    if isinstance(error, OSError) and error.errno and isinstance(error, socket.timeout):
        return errors.RecallConnectionError  # the operating system's own timeout, not ours
    if _passes(error, _HEADER_CODE):
        return errors.InvalidRequestError
    if isinstance(error, http.client.BadStatusLine) and not str(error).endswith("\n"):
        return errors.RecallConnectionError  # the connection ended within the line
    return next((_KINDS[base] for base in type(error).__mro__ if base in _KINDS), None)


def _passes(error: BaseException, codes: Set[CodeType]) -> bool:
    """Return whether an error was raised in one of these functions, or in what they call."""
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def _is_before_sending(error: BaseException) -> bool:
    unsent = (
        *_POOL_FAULTS,
        urllib3_errors.NewConnectionError,
        urllib3_errors.ConnectTimeoutError,
        urllib3_errors.LocationValueError,
        requests.exceptions.InvalidSchema,
        requests.exceptions.InvalidURL,
    )
    return isinstance(error, (*unsent, requests.ConnectTimeout)) or _passes(error, _BEFORE_SENDING)


def _signal_handlers() -> Set[CodeType]:
    signal = sys.modules.get("signal")  # a program that has not imported it has no handlers
    handlers = [signal.getsignal(number) for number in signal.valid_signals()] if signal else []
    return _codes(*handlers, *(getattr(each, name, None) for each in handlers for name in ("__call__", "func")))


def status_given_up_on(error: Exception) -> Optional[int]:
    """Return the status of the last response, if an adapter of the user's session gave up on it (``Retry(status_forcelist=...)``)."""
    given_up = isinstance(error, requests.exceptions.RetryError) and re.search(r"'too many (\d+) error responses'\)+$", str(error))
    return int(given_up[1]) if given_up else None


# ------------------------------------------------------------------------------------------------------------- messages


def _without_password(text: str) -> str:
    return re.sub(r"//[^/\s]*@", "//", text)


def _timeout_message(exchange: Exchange, *, unsent: bool, streaming: bool) -> str:
    seconds = "the available time" if exchange.timeout is None else f"{exchange.timeout:g} s"
    if unsent:
        return f"could not connect to {exchange.where} within {seconds}: check the base_url and the network"
    did = "sent nothing for" if streaming else "did not complete its response within"
    message = f"{exchange.where} {did} {seconds}"
    if not exchange.request.executes:
        return message
    return f"{message}: the workflow may still be running; for more time, use a longer timeout= or async_execution=True"


def _unsent_message(causes: Any, reason: str, exchange: Exchange) -> str:
    cause, where = causes[-1], exchange.where
    proxy_errors = (urllib3_errors.ProxyError, requests.exceptions.InvalidProxyURL)
    if any(isinstance(each, proxy_errors) or _passes(each, _PROXY_CODE) for each in causes):
        if "SOCKS support" in reason:
            return "the SOCKS proxy needs the package PySocks: install requests[socks]"
        return (
            f"could not connect through the proxy for {where} ({reason}): check HTTPS_PROXY and HTTP_PROXY and their credentials, "
            "or the proxies of your session"
        )
    if isinstance(cause, socket.gaierror):
        return f"the host of {where} is unknown ({cause.strerror}): check the base_url and the network"
    fault = next((fault for kind, fault in _POOL_FAULTS.items() if isinstance(cause, kind)), "")
    if isinstance(cause, OSError):
        fault = _broken_tls_file(exchange.settings)
    if fault:
        return f"could not connect to {where}: {fault}"
    if isinstance(cause, BaseSSLError) or type(cause).__name__ == "CertificateError":  # urllib3's own, where OpenSSL does not check names
        return _tls_message(getattr(cause, "verify_message", ""), reason, where)
    return f"could not connect to {where} ({reason}): check the base_url, and that the server is running"


def _tls_message(fault: str, reason: str, where: str) -> str:
    """Return the message for a TLS handshake that failed; ``fault`` is what is wrong with the certificate, if anything."""
    if "match" in (fault or reason):
        return f"the certificate of {where} is for another name ({fault or reason}): check the base_url"
    if fault:
        return (
            f"the certificate of {where} can't be verified ({fault}): "
            "set REQUESTS_CA_BUNDLE to the file of the authority that signed it, or verify on your own session"
        )
    return f"could not agree on TLS with {where} ({reason}): check the base_url; the server may support http:// only"


def _broken_tls_file(tls: Mapping[str, Any]) -> str:
    """Return which file for TLS can't be loaded, and where it is set; an empty text if none."""
    verify: Any = tls.get("verify")
    cert: Any = tls.get("cert")
    if isinstance(verify, _PATHS):
        try:
            is_folder = Path(verify).is_dir()
            create_urllib3_context().load_verify_locations(None if is_folder else verify, verify if is_folder else None)
        except OSError as error:
            variables = [name for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(name) == verify]
            source = variables[0] if variables else "verify of your session"
            return f"the CA file {os.fspath(verify)!r} can't be read ({error}): check {source}"
    if cert:
        try:
            create_urllib3_context().load_cert_chain(*([cert] if isinstance(cert, _PATHS) else cert))
        except OSError as error:
            return f"the client certificate {cert!r} can't be read ({error}): check cert of your session"
    return ""


# ------------------------------------------------------------------------------------------------------- the caller's code


def invalid_argument(error: Exception) -> RecallError:
    """Return the error for an argument with which nothing could be sent."""
    if isinstance(error, RecallError):
        return error
    invalid = build_error(errors.InvalidRequestError, str(error), may_have_executed=False)
    invalid.__cause__ = error
    return invalid


def foreign_failure(cause: BaseException, what: str, *, may_have_executed: bool) -> RecallError:
    """Return the error for one of the caller's code or of an executor; our own errors are returned as they are."""
    if isinstance(cause, RecallError):
        return cause
    may_have_executed = may_have_executed and not _passes(cause, _PREPARING)
    shown = traceback.format_exception_only(type(cause), cause)[-1]  # also if its own text can't be made
    error = build_error(RecallError, f"{what}: {shown}", may_have_executed=may_have_executed)
    error.__cause__ = cause
    return error
