"""Send a call with requests and receive its answer.

A session of requests sends each call, so that adapters, hooks and instrumentation of requests work. The answer is always opened as a
stream, so that deadlines, the translation of errors and closing are implemented once.
"""

from __future__ import annotations

import copy
import http.client
import io
import logging
import os
import socket
import sys
from contextlib import suppress
from time import monotonic, time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit
from weakref import finalize

import requests
from requests.structures import CaseInsensitiveDict
from requests.utils import default_user_agent, select_proxy
from urllib3.exceptions import DecodeError, LocationParseError
from urllib3.response import DeflateDecoder, GzipDecoder
from urllib3.util import Timeout, parse_url

from recall_sdk._connections import check_process, new_session, remaining
from recall_sdk._failures import TRANSPORT_ERRORS, CallContext, status_given_up_on, translate, unusable_proxy
from recall_sdk._messages import REQUEST_ID
from recall_sdk._requests import Request
from recall_sdk._response import Response
from recall_sdk._settings import Settings
from recall_sdk._version import __version__
from recall_sdk.errors import RedirectError, one_line

Session = requests.Session

_log = logging.getLogger("recall_sdk")
_log.addHandler(logging.NullHandler())  # print nothing until the application configures logging

USER_AGENT = "recall-sdk/{} requests/{} Python/{}.{}.{}".format(__version__, requests.__version__, *sys.version_info)

MAX_REDIRECTS = 10

READ_SIZE = 64 * 1024
"""Maximum bytes of one read. It returns what has arrived."""

_UNREADABLE = {"br", "zstd", "compress", "x-compress"}
"""Encodings that the SDK can't decode (RFC 9110, section 8.4.1). With an unknown name, the body is read as it is."""

_NO_BODY = (*range(100, 200), 204, 304)
"""Statuses without a body. Anything sent after one would be mistaken for the answer to the next call."""


# ---------------------------------------------------------------------------------------------------------- one answer


class OpenResponse:
    """An answer whose head has arrived and whose body has not. The caller closes it."""

    def __init__(self, call: Request, response: Any, context: CallContext, deadline: Optional[float]) -> None:
        self.head: Response = Response(call, response.status_code, response.headers, b"", time())
        self._response = response
        self._context = context
        self._pid = os.getpid()
        original = getattr(response.raw, "_original_response", None)  # requests reads cookies from it, too
        self._original = original if isinstance(getattr(original, "fp", None), io.BufferedReader) else None
        self._body: Any = getattr(original, "reader", None) or _ForeignSocket(response.raw, deadline)

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of events."""
        status, kind = self.head.status, self.head.headers.get("Content-Type", "")
        return 200 <= status < 300 and status not in _NO_BODY and kind.partition(";")[0].strip().lower() == "text/event-stream"

    def read(self) -> Response:
        """Read the whole body within the remaining time, and close."""
        try:
            body = b"".join(self._iter_decoded())
        except TRANSPORT_ERRORS as error:
            raise translate(error, self._context) from error
        finally:
            self.close()
        return Response(self.head.request, self.head.status, self.head.headers, body, self.head.received)

    def iter_bytes(self) -> Iterator[bytes]:
        """Yield the body's bytes as they arrive. For a stream, the call's timeout bounds each silence."""
        streaming = self.head.request.stream
        try:
            if _UNREADABLE.intersection(self._encodings):
                raise DecodeError(f"encoding {', '.join(self._encodings)}")
            if streaming:
                self._body.set_read_timeout(self._context.timeout)
            yield from self._iter_decoded()
        except TRANSPORT_ERRORS as error:
            raise translate(error, self._context._replace(streaming=streaming)) from error

    def _iter_decoded(self) -> Iterator[bytes]:
        if self._response.raw is None:  # made by an adapter of the user's
            return iter([self._response.content or b""])
        if self._original is None or self._original.isclosed():
            # Without a socket, or after a hook of the user's session has read it, the response holds the body.
            whole: Iterator[bytes] = self._response.iter_content(READ_SIZE)
            return whole
        pieces = self._iter_raw(self._original)
        for encoding in reversed(self._encodings):
            if encoding in _DECODERS:
                pieces = map(_DECODERS[encoding]().decompress, pieces)
        return pieces

    def _iter_raw(self, original: http.client.HTTPResponse) -> Iterator[bytes]:
        # http.client's read1() returns at once what has arrived, under every framing. urllib3 1.26 has no such method, and requests
        # waits for a whole chunk or for the end.
        missing = None if original.chunked else original.length
        foreign = self._body if isinstance(self._body, _ForeignSocket) else None
        read = original.read1  # looked up once: some streams have many small pieces
        while missing is None or missing > 0:
            if foreign is not None:
                foreign.before_receive()
            data = read(READ_SIZE if missing is None else min(missing, READ_SIZE))
            if not data:
                break
            if missing is not None:
                missing -= len(data)
            yield data
        original.close()
        if missing:
            raise http.client.IncompleteRead(b"", missing)

    @property
    def _encodings(self) -> List[str]:
        return [each.strip().lower() for each in self.head.headers.get("Content-Encoding", "").split(",")]

    def set_deadline(self, seconds: float) -> None:
        """Bound the time for the rest of the body."""
        self._body.set_deadline(seconds)

    def abort(self) -> None:
        """Shut down the connection, also from another thread than the one that reads."""
        if self._pid == os.getpid() and self._original is not None:
            with suppress(OSError, AttributeError, ValueError):  # it was closed in between
                sock = socket.fromfd(self._original.fileno(), socket.AF_INET, socket.SOCK_STREAM)
                with sock:
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Return the connection to the pool if the body was read to its end; else close it."""
        if self._pid != os.getpid():
            return  # the connection is the parent's
        if self._original is not None:
            if self._original.isclosed() and self.head.status not in _NO_BODY:
                self._response.raw.release_conn()
                return
            self.abort()  # close() would not end the connection if a child of a fork has a copy of the socket
        if self._response.raw is not None:
            self._response.close()


class _ForeignSocket:
    """The socket of an answer that the user's own session received, if it is accessible."""

    def __init__(self, raw: Any, deadline: Optional[float]) -> None:
        self._sock: Any = getattr(getattr(raw, "connection", None), "sock", None)
        self._pid = os.getpid()
        self._deadline = deadline
        self._timeout: Optional[float] = None

    def before_receive(self) -> None:
        check_process(self._pid)
        if self._deadline is not None and self._deadline <= monotonic():
            raise socket.timeout("timed out")
        if self._sock is not None and self._sock.fileno() >= 0:  # CPython 3.13 closes it when the body's length is reached
            self._sock.settimeout(self._timeout if self._deadline is None else remaining(self._deadline))

    def set_deadline(self, seconds: float) -> None:
        self._deadline = monotonic() + seconds

    def set_read_timeout(self, seconds: Optional[float]) -> None:
        self._deadline, self._timeout = None, seconds


_DECODERS: Dict[str, Any] = {"gzip": GzipDecoder, "x-gzip": GzipDecoder, "deflate": DeflateDecoder}


# ---------------------------------------------------------------------------------------------------------- sending


class Target(NamedTuple):
    """Where a client's requests go.

    Attributes:
        settings: The key and the base URL.
        base_url: The base URL as requests prepares it.
        origin: Its scheme, host and port.
        name: Its scheme and host, for messages.
        settings_of_session: Proxies and certificates, resolved once; empty with the user's own session or an unusable proxy.
    """

    settings: Settings
    base_url: str
    origin: Tuple[str, str, int]
    name: str
    settings_of_session: Dict[str, Any]


class Transport:
    """Sends calls over one session.

    Args:
        session: The user's own session, or ``None`` for one of the transport's.

    Raises:
        TypeError: It is not a session of requests.
    """

    def __init__(self, session: Optional[Session]) -> None:
        if not isinstance(session, (requests.Session, type(None))):
            raise TypeError(f"session must be a requests.Session, not {type(session).__name__}")
        self.owns_session = session is None
        self._session: Any = session or new_session()
        self._pid = os.getpid()
        self._left_to_parent: List[Any] = []
        if self.owns_session:
            finalize(self, _close, self._session, self._pid).atexit = False

    def target(self, settings: Settings) -> Target:
        """Prepare everything that depends only on the settings.

        Raises:
            ValueError: requests can't prepare the base URL.
        """
        prepared: Any = requests.PreparedRequest()
        prepared.prepare_url(settings.base_url, None)
        base_url = prepared.url.rstrip("/")
        name = "{0.scheme}://{0.netloc}".format(urlsplit(settings.base_url))
        settings_of_session = self._settings_of_session(base_url) if self.owns_session else {}
        return Target(settings, base_url, _origin(base_url), name, settings_of_session)

    def open(self, call: Request, target: Target, timeout: Optional[float]) -> OpenResponse:
        """Send a call, follow safe redirects, and return when the head of the answer has arrived.

        Args:
            call: What to send.
            target: Where to.
            timeout: Seconds for the whole call, or ``None``.

        Raises:
            RecallError: No answer arrived, or it is a redirect that is not safe.
        """
        self._leave_connections_to_parent()
        deadline = None if timeout is None else monotonic() + timeout
        context = CallContext(target.name, call.executes, timeout)
        request: Any = None
        response: Any = None
        for _ in range(1 + MAX_REDIRECTS):
            response = self._send(request, call, target, deadline, context)
            if response.next is None:
                return OpenResponse(call, response, context, deadline)
            response.close()
            request = _checked_redirect(response, call, target)
        message = f"the server redirects too often, the last time to {request.url}: check the base_url"
        raise _redirect_error(message, call, response.status_code)

    def _send(self, request: Any, call: Request, target: Target, deadline: Optional[float], context: CallContext) -> Any:
        """Send a redirected request, or else the call itself."""
        start = monotonic()
        response: Any = None
        arguments = {"timeout": self._timeout(call, deadline, context), "allow_redirects": False}
        try:
            settings = target.settings_of_session or self._settings_of_session(target.base_url)
            if not settings:
                raise unusable_proxy(context)
            if request is None and not self.owns_session:
                response = self._session.request(**self._as_arguments(call, target), stream=True, **arguments)
            else:
                response = self._session.send(request or self._prepared(call, target), **arguments, **settings)
            return response
        except TRANSPORT_ERRORS as error:
            response = _answer_in(error, request.url if request else target.base_url + call.path)
            if response is None:
                raise translate(error, context) from error
            return response
        finally:
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("%s %s %s %.0f ms", call.method, call.path, _outcome(response), (monotonic() - start) * 1000)

    def _timeout(self, call: Request, deadline: Optional[float], context: CallContext) -> Timeout:
        seconds = None if deadline is None else remaining(deadline)
        if call.stream and not self.owns_session:
            # If the socket is not accessible, this timeout also bounds each silence of the body.
            return Timeout(connect=seconds, read=context.timeout)
        return Timeout(total=seconds, connect=seconds, read=seconds)

    def _prepared(self, call: Request, target: Target) -> Any:
        request: Any = requests.PreparedRequest()
        request.method, request.url, request.body = call.method, target.base_url + call.path, call.body
        headers = {"X-API-Key": target.settings.api_key, "User-Agent": USER_AGENT, **call.headers}
        if call.body is not None:
            headers["Content-Length"] = str(len(call.body))
        request.headers = CaseInsensitiveDict(headers)
        if self._session.cookies:
            request.prepare_cookies(self._session.cookies)
        return request

    def _as_arguments(self, call: Request, target: Target) -> Dict[str, Any]:
        """Return the arguments for ``request()`` of the user's own session, which a subclass may override."""
        agent = self._session.headers.get("User-Agent")
        agents = [USER_AGENT] if agent in (None, default_user_agent()) else [agent, USER_AGENT]
        headers = {**call.headers, "X-API-Key": target.settings.api_key, "User-Agent": " ".join(agents)}
        auth = self._session.auth or _unchanged  # otherwise requests would read ~/.netrc
        return {"method": call.method, "url": target.base_url + call.path, "data": call.body, "headers": headers, "auth": auth}

    def _settings_of_session(self, url: str) -> Dict[str, Any]:
        """Return proxies and certificates, or nothing if the proxy is not usable."""
        settings: Dict[str, Any] = self._session.merge_environment_settings(url, proxies={}, stream=True, verify=None, cert=None)
        return settings if _is_usable(select_proxy(url, settings["proxies"])) else {}

    def _leave_connections_to_parent(self) -> None:
        """In a child of a fork, start with new connections, without touching those of the parent or their locks."""
        if self._pid == os.getpid():
            return
        adapters: List[Any] = list(self._session.adapters.values())
        for adapter in adapters:
            # Keep a reference, so that the parent's connections are not closed here.
            self._left_to_parent += [getattr(adapter, name, None) for name in ("poolmanager", "proxy_manager")]
            with suppress(AttributeError):  # not an adapter of requests
                adapter.__setstate__(adapter.__getstate__())  # as after pickling: the same configuration, without connections
        session: Any = self._session
        session.cookies = copy.copy(session.cookies)  # with a new lock
        # On a free-threaded Python a dict has a lock too, which its methods take, but a subscript does not.
        session.hooks = {event: session.hooks[event] for event in session.hooks or ()}
        self._pid = os.getpid()

    def forget_cookies(self) -> None:
        """Drop the cookies that servers have set, except those of the user's own session."""
        if self.owns_session:
            self._session.cookies.clear()

    def close(self) -> None:
        """Close the idle connections, except those of the user's own session."""
        if self.owns_session:
            _close(self._session, self._pid)


def _close(session: Session, pid: int) -> None:
    if pid == os.getpid():
        session.close()


def _unchanged(request: Any) -> Any:
    return request


def _outcome(response: Any) -> str:
    if response is None:
        return "failed"
    request_id = response.headers.get(REQUEST_ID)
    return f"{response.status_code} [{request_id}]" if request_id else str(response.status_code)


def _answer_in(error: Any, url: str) -> Any:
    """Return the answer from which the user's session made an error of its own, or ``None``."""
    status = status_given_up_on(error)
    if status is not None:
        given_up = requests.Response()  # its body is lost
        given_up.status_code = status
        return given_up
    response: Any = getattr(error, "response", None)  # from raise_for_status() in a hook
    is_ours = response is not None and response.request.url.startswith(url) and response.status_code >= http.client.BAD_REQUEST
    return response if is_ours else None


def _is_usable(proxy: Optional[str]) -> bool:
    if not proxy:
        return True
    try:
        parts = parse_url(proxy if "://" in proxy else f"http://{proxy}")
    except LocationParseError:
        return False
    # An "@" in the rest means that the user name or the password holds a character that ends the host.
    return bool(parts.host) and "@" not in f"{parts.path}{parts.query}{parts.fragment}"


# ------------------------------------------------------------------------------------------------------------ redirects


def _origin(url: str) -> Tuple[str, str, int]:
    """Return scheme, host and port; reject a URL that urllib3, which connects, and Python parse differently."""
    parts = urlsplit(url)
    seen: Any = parse_url(url)
    if (seen.scheme, seen.auth, (seen.host or "").strip("[]"), seen.port) != (parts.scheme, None, parts.hostname, parts.port):
        raise ValueError(f"ambiguous URL: {url!r}")
    return parts.scheme, str(parts.hostname), parts.port or {"https": 443}.get(parts.scheme, 80)


def _checked_redirect(response: Any, call: Request, target: Target) -> Any:
    """Return the redirected request; reject it if the key would leave its origin, or the call would be changed."""
    request: Any = response.next
    status: int = response.status_code
    try:
        origin = _origin(request.url)
    except (ValueError, LocationParseError):
        location = response.headers.get("Location")
        raise _redirect_error(f"the server redirects to {location!r}, which is not a valid URL: check the base_url", call, status) from None
    parts = urlsplit(str(request.url))
    shown = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    base_url = shown[: -len(call.path)] if shown.endswith(call.path) else shown
    if origin != target.origin:
        reason = "the API key is sent only to the origin of the base_url; if you trust the other origin"
    elif request.method != call.method:
        reason = "a POST would become a GET and execute nothing; if that is the API"
    else:
        if "Authorization" not in response.request.headers:
            request.headers.pop("Authorization", None)  # requests has read it from ~/.netrc
        return request
    raise _redirect_error(f"the server redirects to {shown} (HTTP {status}): {reason}, set base_url={base_url!r}", call, status)


def _redirect_error(message: str, call: Request, status: int) -> RedirectError:
    error = RedirectError(one_line(message), "REDIRECT_REFUSED", status)
    # A 303 is the answer to a POST that was carried out (RFC 9110, section 15.4.4).
    error.may_have_executed = call.executes and status == http.client.SEE_OTHER
    return error
