"""HTTP: the only module that knows requests and urllib3.

A call goes out through :meth:`requests.Session.send`, so that adapters, hooks and the tools that instrument requests keep working, and
its answer is always opened as a stream, so that deadlines, the translation of errors and closing exist once.
"""

import http.client
import logging
import math
import os
import socket
import ssl
import sys
import threading
import zlib
from time import monotonic, time
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple
from urllib.parse import urljoin, urlsplit
from weakref import WeakSet

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, DecodeError, HTTPError, InvalidHeader, NewConnectionError, ReadTimeoutError
from urllib3.response import DeflateDecoder, GzipDecoder
from urllib3.util import Retry, Timeout

from recall_sdk._decoding import Answer, one_line
from recall_sdk._endpoints import Call
from recall_sdk._settings import Settings
from recall_sdk._version import __version__
from recall_sdk.errors import InvalidResponseError, RecallConnectionError, RecallError, RecallTimeoutError, RedirectError

Session = requests.Session

_log = logging.getLogger("recall_sdk")
_log.addHandler(logging.NullHandler())  # silent, until the application says otherwise

USER_AGENT = "recall-sdk/{} requests/{} Python/{}.{}.{}".format(__version__, requests.__version__, *sys.version_info)

MOST_CONNECTIONS = 512
"""Idle connections that a client keeps. A thread beyond them still gets one of its own; it is just not kept."""

MOST_REDIRECTS = 10

KEEP_ALIVE_IDLE = 60
"""Seconds of silence before the first TCP keep-alive probe: less than the idle limits of usual NATs and load balancers."""

WORTH_SETTING = 0.05
"""Seconds by which a receive may overrun its deadline, for the sake of a system call less."""

READ_SIZE = 64 * 1024
"""Bytes asked for at a time. What is there is taken at once."""

_REDIRECTS = 10

KEEP_ALIVE_IDLE = 60
"""Seconds of silence before the first TCP keep-alive probe: less than the idle limits of usual NATs and load balancers."""

WORTH_SETTING = 0.05
"""Seconds by which a receive may overrun its deadline, for the sake of a system call less."""

READ_SIZE = 64 * 1024
"""Bytes asked for at a time; what is there is taken at once."""

_REDIRECTS = (301, 302, 303, 307, 308)
_REDIRECTS_AS_IT_IS = (307, 308)


# -------------------------------------------------------------------------------------------- deadlines on a connection


class _Deadline(Timeout):
    """A urllib3 timeout that ends at a moment: connecting, sending and waiting each get what is left of it."""

    def __init__(self, until: Optional[float]) -> None:
        super().__init__()
        self.until = until

    @property
    def left(self) -> Optional[float]:
        # A socket takes 0 for "do not wait at all".
        return None if self.until is None else max(self.until - monotonic(), 0.001)

    connect_timeout = left
    read_timeout = left

    def clone(self) -> "_Deadline":
        return self

    def start_connect(self) -> float:
        return monotonic()


class _TimedReader(socket.SocketIO):
    """The reading side of a socket, with a deadline: each receive may take what is left of it, however slowly bytes drip."""

    until: Optional[float] = None
    granted = 0.0
    """Seconds that the socket waits as it is set now."""

    def readinto(self, buffer: Any) -> Optional[int]:
        if self.until is not None:
            left = self.until - monotonic()
            if left <= 0:
                raise socket.timeout("timed out")
            if not left <= self.granted <= left + WORTH_SETTING:
                self._sock.settimeout(left)
                self.granted = left
        return super().readinto(buffer)

    @property
    def socket(self) -> Any:
        return self._sock

    def bound_silence(self, seconds: Optional[float]) -> None:
        """Let each receive take that long, and drop the deadline."""
        self.until = None
        self._sock.settimeout(seconds)
        self.granted = 0.0


def _timed_reader(response: Any) -> Optional[_TimedReader]:
    """Find the reading side of the socket behind an answer; ``None`` where there is no socket, or none any more."""
    reader = getattr(getattr(response, "fp", None), "raw", None)
    if type(reader) is socket.SocketIO:
        reader.__class__ = _TimedReader  # it is wrapped in a buffer that may hold bytes already, and so can't be replaced
    return reader if isinstance(reader, _TimedReader) else None


class _TimedResponse(http.client.HTTPResponse):
    """An answer whose head has a deadline as well."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        reader = _timed_reader(self)
        left = sock.gettimeout()  # as urllib3 has just set it
        if reader is not None and left is not None:
            reader.until = monotonic() + left
            reader.granted = left


class _TimedConnection:
    """What our connections do beyond urllib3's: each step leaves the next only what is left of the time."""

    response_class = _TimedResponse
    sock: Any
    timeout: Optional[float]
    _held: Optional[bytes] = None

    def _new_conn(self) -> socket.socket:
        start = monotonic()
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]  # mixed into urllib3's connections
        self._spend(sock, start)
        return sock

    def connect(self) -> None:
        start = monotonic()
        try:
            super().connect()  # type: ignore[misc]  # mixed into urllib3's connections
        except Exception as error:
            vars(error)["before_sending"] = True
            raise
        self._spend(self.sock, start)
        _sockets.add(self.sock)

    def request(self, method: str, url: str, body: Any = None, *args: Any, **kwargs: Any) -> None:
        _in_use[threading.get_ident()] = self
        self._held = b"" if body and len(body) <= READ_SIZE else None
        super().request(method, url, body, *args, **kwargs)  # type: ignore[misc]  # mixed into urllib3's connections

    def send(self, data: Any) -> None:
        if self._held is None:
            super().send(data)  # type: ignore[misc]  # mixed into urllib3's connections
        elif not self._held:
            self._held = data  # the head, which goes out with the body: one packet and one system call instead of two
        else:
            data, self._held = self._held + data, None
            super().send(data)  # type: ignore[misc]  # mixed into urllib3's connections

    def _spend(self, sock: Any, start: float) -> None:
        if self.timeout is not None:
            self.timeout = max(self.timeout - (monotonic() - start), 0.001)
            sock.settimeout(self.timeout)


class _TimedHTTPConnection(_TimedConnection, HTTPConnection):
    pass


class _TimedHTTPSConnection(_TimedConnection, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    @property
    def ConnectionCls(self) -> Any:  # noqa: N802 -- urllib3's name
        standard = HTTPConnectionPool.ConnectionCls
        return _TimedHTTPConnection if standard is HTTPConnection else standard  # VCR.py puts its own there


class _HTTPSPool(HTTPSConnectionPool):
    @property
    def ConnectionCls(self) -> Any:  # noqa: N802 -- urllib3's name
        standard = HTTPSConnectionPool.ConnectionCls
        return _TimedHTTPSConnection if standard is HTTPSConnection else standard


class _Adapter(HTTPAdapter):
    """The adapter of the client's own session. It looks a connection pool up once, not anew for each request."""

    def __init__(self) -> None:
        self._pools: Dict[Any, Any] = {}
        super().__init__(pool_maxsize=MOST_CONNECTIONS)

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        url = request.url
        key = (url[: url.find("/", len("https://"))], verify, *(proxies or {}).items())
        pool = self._pools.get(key)
        if pool is None or pool.pool is None:  # none yet, or closed
            pool = self._pools[key] = super().get_connection_with_tls_context(request, verify, proxies, cert)
        return pool

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, socket_options=_SOCKET_OPTIONS, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        socks = proxy.lower().startswith("socks")  # has connections of its own kind
        manager = super().proxy_manager_for(proxy, **({} if socks else {"socket_options": _SOCKET_OPTIONS}), **kwargs)
        if not socks:
            manager.pool_classes_by_scheme = _POOLS
        return manager


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


def _socket_options() -> List[Tuple[int, int, int]]:
    options = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name in ("TCP_KEEPIDLE", "TCP_KEEPALIVE"):  # Linux and Windows; macOS
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), KEEP_ALIVE_IDLE))
    return options


_SOCKET_OPTIONS = _socket_options()


class _Session(requests.Session):
    """The client's own session: redirects are judged here, and not even looked at by requests."""

    def __init__(self) -> None:
        super().__init__()
        adapter = _Adapter()
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def get_redirect_target(self, resp: Any) -> None:
        return None


# ------------------------------------------------------------------------------------------------ forks and abandoned calls

_sockets: "WeakSet[Any]" = WeakSet()
_transports: "WeakSet[Transport]" = WeakSet()
_in_use: Dict[int, _TimedConnection] = {}
_left_behind: List[Any] = []


def _after_fork() -> None:
    """Drop in a child what it shares with its parent. Locks may be held by threads that do not exist here, so none is taken."""
    for sock in list(_sockets):
        os.close(sock.detach())
    for transport in list(_transports):
        transport.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def hang_up(threads: Iterable[int]) -> None:
    """Break the connections that these threads, by their idents, are waiting on, so that their calls end at once."""
    for thread in threads:
        connection = _in_use.get(thread)
        if connection is not None:
            _shut_down(connection.sock)


def _shut_down(sock: Any) -> None:
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of the bare socket, below TLS
    except (OSError, TypeError):
        pass  # closed meanwhile: just what was wanted


# ---------------------------------------------------------------------------------------------------------- one answer


class Reply:
    """An answer whose head is here, and whose body is still to come. Whoever gets one closes it."""

    def __init__(self, call: Call, route: "Route", response: requests.Response, timeout: Optional[float], until: Optional[float]) -> None:
        self.call = call
        self.status = response.status_code
        self.headers = response.headers
        self.head = Answer(call, self.status, self.headers, b"", time(), _retry_after(self.headers.get("Retry-After")))
        self._route = route
        self._response = response
        self._timeout = timeout
        self._reader = _timed_reader(getattr(response.raw, "_original_response", None))
        if self._reader is not None:
            self._reader.until = until

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of events."""
        kind = self.headers.get("Content-Type", "")
        return 200 <= self.status < 300 and kind.partition(";")[0].strip().lower() == "text/event-stream"

    def answer(self) -> Answer:
        """Read the whole body within the time that is left, and close."""
        try:
            body = b"".join(self._decoded())
        except _FAILURES as error:
            raise failure(error, self.call, self._route, self._timeout) from error
        finally:
            self.close()
        return self.head._replace(body=body)

    def chunks(self) -> Iterator[bytes]:
        """Give the body's bytes as they arrive; each silence may take the call's timeout."""
        try:
            if self._reader is not None:
                self._reader.bound_silence(self._timeout)
            yield from self._decoded()
        except _FAILURES as error:
            raise failure(error, self.call, self._route, self._timeout, silence=True) from error

    def _decoded(self) -> Iterator[bytes]:
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if self._reader is None or encoding not in _DECODERS:
            # Without a socket, or read by a hook of the user's session, the body is with the response.
            return self._response.iter_content(READ_SIZE)
        arriving = _arriving(self._response.raw._original_response)
        decoder = _DECODERS[encoding]
        return map(decoder().decompress, arriving) if decoder else arriving

    def finish_within(self, seconds: float) -> None:
        """Bound what is still to come, once it is known that nothing of worth comes."""
        if self._reader is not None:
            self._reader.until = monotonic() + seconds

    def hang_up(self) -> None:
        """Break the connection, from another thread than the one that reads."""
        if self._reader is not None:
            _shut_down(self._reader.socket)

    def close(self) -> None:
        """Give the connection up: to the pool where the body was read to its end, else for good."""
        raw = self._response.raw
        original = getattr(raw, "_original_response", None)
        if isinstance(original, http.client.HTTPResponse) and original.isclosed():
            raw.release_conn()
        self._response.close()
        _in_use.pop(threading.get_ident(), None)


_DECODERS: Dict[str, Any] = {"identity": None, "gzip": GzipDecoder, "x-gzip": GzipDecoder, "deflate": DeflateDecoder}


def _arriving(response: http.client.HTTPResponse) -> Iterator[bytes]:
    # Straight from http.client, whose read1() is prompt under every framing; urllib3 1.26 has none, and what requests offers
    # waits for a whole chunk, or for the end.
    left = None if response.chunked else response.length
    while left is None or left > 0:
        data = response.read1(READ_SIZE if left is None else min(left, READ_SIZE))
        if not data:
            break
        if left is not None:
            left -= len(data)
        yield data
    response.close()
    if left:
        raise http.client.IncompleteRead(b"", left)


def _retry_after(value: Optional[str]) -> Optional[float]:
    if value is None:
        return None
    try:
        seconds = float(Retry().parse_retry_after(value))
    except (InvalidHeader, ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None


# ---------------------------------------------------------------------------------------------------------- sending


class Route:
    """Where a client's requests go: its settings, and what requests makes of them, resolved once.

    Raises:
        ValueError: The base URL can't be prepared.
    """

    def __init__(self, settings: Settings) -> None:
        prepared = requests.PreparedRequest()
        prepared.prepare_url(settings.base_url, None)
        self.settings = settings
        self.base_url = str(prepared.url).rstrip("/")
        self.origin = _origin(self.base_url)
        self.name = "{0.scheme}://{0.netloc}".format(urlsplit(settings.base_url))
        self.templates: Dict[Tuple[str, bool, bool], requests.PreparedRequest] = {}
        self.sending: Dict[str, Any] = {}


class Transport:
    """Sends calls over one session.

    Args:
        session: The user's own session, or ``None`` for one of the transport's.
    """

    def __init__(self, session: Optional[requests.Session]) -> None:
        if not isinstance(session, (requests.Session, type(None))):
            raise TypeError(f"session must be a requests.Session, not {type(session).__name__}")
        self.owns_session = session is None
        self._session = session or _Session()
        _transports.add(self)

    def open(self, call: Call, route: Route, timeout: Optional[float]) -> Reply:
        """Send a call, follow the redirects that are safe, and return when the head of the answer is here.

        Args:
            call: What to send.
            route: Where to.
            timeout: Seconds for the whole call, or ``None``.
        """
        until = None if timeout is None else monotonic() + timeout
        request = self._prepare(call, route)
        for _ in range(MOST_REDIRECTS + 1):
            response = self._send(request, call, route, timeout, until)
            target = response.headers.get("Location")
            if target is None or response.status_code not in _REDIRECTS:
                return Reply(call, route, response, timeout, until)
            response.close()
            request.url = _redirected(request, response.status_code, target, call, route)
        raise _redirect_error(f"the server redirected {MOST_REDIRECTS} times: check the base_url", call, response.status_code)

    def _prepare(self, call: Call, route: Route) -> requests.PreparedRequest:
        if not self.owns_session:
            return self._prepare_anew(call, route)
        kind = (call.method, call.stream, call.asynchronous)
        template = route.templates.get(kind)
        if template is None:
            template = self._prepare_anew(call, route)
            template.headers.pop("Cookie", None)
            route.templates[kind] = template
        request = requests.PreparedRequest()
        vars(request).update(vars(template))
        request.headers = template.headers.copy()
        request.url = route.base_url + call.path
        if call.body is not None:
            request.body = call.body
            request.headers["Content-Length"] = str(len(call.body))
        if len(self._session.cookies):
            request.prepare_cookies(self._session.cookies)
        return request

    def _prepare_anew(self, call: Call, route: Route) -> requests.PreparedRequest:
        headers = {"X-API-Key": route.settings.api_key, "User-Agent": USER_AGENT, **call.headers}
        auth = self._session.auth or _leave_as_it_is  # with none at all, requests would consult ~/.netrc
        request = requests.Request(call.method, route.base_url + call.path, headers, data=call.body, auth=auth)
        return self._session.prepare_request(request)

    def _send(
        self, request: requests.PreparedRequest, call: Call, route: Route, timeout: Optional[float], until: Optional[float]
    ) -> requests.Response:
        start = monotonic()
        outcome: Any = "failed"
        try:
            response = self._session.send(request, timeout=_Deadline(until), allow_redirects=False, **self._sending(request, route))
            outcome = response.status_code
            return response
        except _FAILURES as error:
            raise failure(error, call, route, timeout) from error
        finally:
            _log.debug("%s %s %s %.0f ms", call.method, call.path, outcome, (monotonic() - start) * 1000)

    def _sending(self, request: requests.PreparedRequest, route: Route) -> Dict[str, Any]:
        sending = route.sending
        if not sending:
            sending = self._session.merge_environment_settings(request.url, {}, True, None, None)
            if self.owns_session:
                route.sending = sending
        return sending

    def start_anew(self) -> None:
        """Forget all connections, in a child that must not share its parent's."""
        if self.owns_session:
            _left_behind.append(self._session)  # ending it might wait for a lock for ever
            self._session = _Session()
        else:
            for adapter in self._session.adapters.values():
                adapter.close()

    def close(self) -> None:
        """Close the idle connections, unless the session is the user's own."""
        if self.owns_session:
            self._session.close()


def _leave_as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


# ------------------------------------------------------------------------------------------------------------ redirects


def _origin(url: str) -> Tuple[str, str, Optional[int]]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _redirected(request: requests.PreparedRequest, status: int, location: str, call: Call, route: Route) -> str:
    """Give the URL to follow to; refuse where the key would leave its origin, or the call would not arrive as it is."""
    try:
        url = urljoin(str(request.url), location)
        origin = _origin(url)
    except ValueError:
        raise _redirect_error(f"the server redirects to {location!r}, which is no URL: check the base_url", call, status) from None
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    path = parts.path.rstrip("/")
    base_url = shown[: len(shown.rstrip("/")) - len(call.path)] if path.endswith(call.path) else shown
    if origin != route.origin:
        reason = "the API key goes to the base_url's own origin alone; if you trust the other, "
    elif call.method != "GET" and status not in _REDIRECTS_AS_IT_IS:
        reason = "a POST that is redirected so would arrive as a GET, and execute nothing; "
    else:
        return url
    raise _redirect_error(f"the server redirects to {shown} (HTTP {status}): {reason}set base_url={base_url!r}", call, status)


def _redirect_error(message: str, call: Call, status: int) -> RedirectError:
    error = RedirectError(one_line(message), "REDIRECT_REFUSED", status)
    error.may_have_executed = call.executes and status == http.client.SEE_OTHER  # RFC 9110, section 15.4.4
    return error


# ------------------------------------------------------------------------------------------------------------- failures

_FAILURES = (HTTPError, OSError, http.client.HTTPException, zlib.error, ValueError)
"""All that requests, urllib3, http.client, ssl and zlib raise."""


def failure(error: Exception, call: Call, route: Route, timeout: Optional[float], *, silence: bool = False) -> RecallError:
    """Translate an error of the libraries below.

    Args:
        error: The error.
        call: What was asked.
        route: Of whom.
        timeout: Seconds that the call had, or ``None``.
        silence: Whether they bounded a silence in a stream, and not the whole call.
    """
    causes = list(_causes(error))
    unsent = any(
        isinstance(cause, (NewConnectionError, ConnectTimeoutError, ssl.SSLCertVerificationError)) or "before_sending" in vars(cause)
        for cause in causes
    )
    translated: RecallError
    if any(map(_is_timeout, causes)):
        translated = RecallTimeoutError(_timeout_message(call, route, timeout, unsent=unsent, silence=silence), "TIMEOUT")
    elif any(map(_is_unreadable, causes)):
        message = f"the answer of {route.name} can't be read ({causes[-1] or type(causes[-1]).__name__}): check the base_url"
        translated = InvalidResponseError(one_line(message), "INVALID_RESPONSE")
    else:
        translated = RecallConnectionError(one_line(_connection_message(causes, route, unsent=unsent)), "CONNECTION_ERROR")
    translated.may_have_executed = call.executes and not unsent
    return translated


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give the errors that an error wraps, outermost first; not those of whatever the caller was handling meanwhile."""
    yield error
    wrapped = [error.__cause__, getattr(error, "reason", None), *error.args]
    if isinstance(error, NewConnectionError):
        wrapped.append(error.__context__)  # urllib3 1.26 sets no cause
    inner = next((each for each in wrapped if isinstance(each, BaseException)), None)
    if inner is not None:
        yield from _causes(inner)


def _is_timeout(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno:
        return False  # the system's own verdict on a connection, whatever our limit
    refused = isinstance(error, NewConnectionError)  # counts as a connect time-out in urllib3 1.26
    return isinstance(error, (socket.timeout, ReadTimeoutError, ConnectTimeoutError)) and not refused


def _is_unreadable(error: BaseException) -> bool:
    if isinstance(error, (http.client.RemoteDisconnected, http.client.IncompleteRead)):
        return False
    return isinstance(error, (DecodeError, zlib.error, InvalidHeader, http.client.HTTPException))


def _timeout_message(call: Call, route: Route, timeout: Optional[float], *, unsent: bool, silence: bool) -> str:
    if unsent:
        return f"could not connect to {route.name} within {timeout} s: check the base_url and the network"
    what = f"{route.name} sent nothing for {timeout} s" if silence else f"{route.name} gave no complete answer within {timeout} s"
    return f"{what}: the workflow may still be running; a longer timeout= or async_execution=True gives it more time" if call.executes else what


def _connection_message(causes: List[BaseException], route: Route, *, unsent: bool) -> str:
    reason = causes[-1]
    if isinstance(reason, socket.gaierror):
        return f"the host of {route.name} is unknown ({reason.strerror}): check the base_url and the network"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {route.name} can't be verified ({reason.verify_message}): "
            "set REQUESTS_CA_BUNDLE to the file of the authority that signed it, or verify= on a session of your own"
        )
    if unsent:
        return f"could not connect to {route.name} ({reason}): check the base_url, and that the server is up"
    return f"the connection to {route.name} broke before the answer was complete ({reason})"
