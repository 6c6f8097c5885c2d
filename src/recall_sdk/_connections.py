"""Connections that keep a deadline, on the extension points of requests, urllib3 and http.client."""

from __future__ import annotations

import http.client
import io
import socket
from contextlib import suppress
from time import monotonic
from typing import Any, List, Optional, Tuple

import requests
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ClosedPoolError, ConnectTimeoutError, NewConnectionError
from urllib3.util import connection as urllib3_connection
from urllib3.util.ssl_ import is_ipaddress

STANDARD_SESSION = requests.Session
"""The class as it was at import. Tools such as requests-cache put another one in its place."""

MAX_POOL_SIZE = 512
"""Maximum idle connections of a client. More threads still get connections, which are closed after the call."""

KEEP_ALIVE_IDLE = 60
"""Seconds of silence before the first TCP keep-alive probe: less than the idle timeouts of common NATs and load balancers."""

ONE_PACKET = 64 * 1024
"""Bytes. A body up to this size is sent together with its head."""

REDIRECTS = (301, 302, 303, 307, 308)
KEPT_LOCATION = "X-Recall-Location"
"""The header to which the Location of a redirect is moved."""

MIN_WAIT = 0.001
"""Seconds. To a socket, a timeout of 0 means "do not block", not "no time remains"."""


def remaining(deadline: float) -> float:
    """Return the seconds until a deadline as a socket's timeout."""
    return max(deadline - monotonic(), MIN_WAIT)


class Reader(io.RawIOBase):
    """The receiving side of a socket. Each receive is checked against the deadline, also while bytes keep coming.

    http.client reads its responses from this instead of the socket, so one rule bounds the head, the body, and a proxy's response to
    CONNECT.

    Attributes:
        sock: The socket.
        is_ended: Whether nothing more is received.
        is_reusable: Whether the response was read to its end, and nothing came after it.
    """

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.is_reusable = False
        self._file = sock.makefile("rb", 0)  # keeps the socket open until the response is read, after the connection has closed it
        self.is_ended = False
        timeout = sock.gettimeout()  # which urllib3 has just set
        self._deadline: Optional[float] = None if timeout is None else monotonic() + timeout

    def makefile(self, *_: Any) -> io.BufferedReader:
        return _Buffer(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.is_ended:
            return 0
        count: int = self.sock.recv_into(buffer)
        if self._deadline is not None:
            now = monotonic()
            if count and self._deadline <= now:
                raise socket.timeout("timed out")
            self.sock.settimeout(max(self._deadline - now, MIN_WAIT))
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    def bound(self, deadline: Optional[float], timeout: Optional[float]) -> None:
        """Bound all that is still to be received by a deadline, or each receive by a timeout."""
        self._deadline = deadline
        if not self.closed:
            self.sock.settimeout(timeout)


class _Buffer(io.BufferedReader):
    """The buffer from which http.client reads. It closes it at the end of the response, and would drop what it holds beyond."""

    def close(self) -> None:
        reader: Any = self.raw
        if not self.closed:
            reader.is_ended = True  # receive nothing more
            if self.peek(1) or getattr(reader.sock, "pending", int)():  # the latter is in the TLS layer
                reader.is_reusable = False
        super().close()


class _HTTPResponse(http.client.HTTPResponse):
    """A response with a deadline: the socket's timeout at the time when it is made."""

    reader: Optional[Reader] = None

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        if hasattr(sock, "gettimeout"):  # pyOpenSSL's sockets don't have it
            sock = self.reader = Reader(sock)
        super().__init__(sock, *args, **kwargs)

    def begin(self) -> None:
        super().begin()
        while http.client.SWITCHING_PROTOCOLS < self.status < http.client.OK:  # an interim response, such as 103 Early Hints
            self.headers: Any = None
            super().begin()


class _Connection(HTTPConnection):
    """A connection with one deadline: the time for connecting counts against the time for sending."""

    response_class: Any = _HTTPResponse
    _deadline: Optional[float] = None
    _parts: Optional[List[bytes]] = None

    def connect(self) -> None:
        self._deadline = None if self.timeout is None else monotonic() + self.timeout
        super().connect()
        self._keep_deadline(self.sock)

    def _new_conn(self) -> Any:
        host, addresses = self.host, self._addresses()
        sock: Any = None
        try:
            while sock is None:
                self.host = addresses.pop(0)
                if self._deadline is not None:
                    self.timeout = remaining(self._deadline) / (1 + len(addresses))
                try:
                    sock = super()._new_conn()
                except (NewConnectionError, ConnectTimeoutError):
                    if not addresses:
                        raise
        finally:
            self.host = host
        self._keep_deadline(sock)
        return sock

    def _addresses(self) -> List[str]:
        """Return the addresses of the host, or its name if urllib3 or a tool that replaces a part of it has to look it up."""
        found: List[str] = []
        if urllib3_connection.create_connection.__module__ == urllib3_connection.__name__:
            try:
                infos = socket.getaddrinfo(self.host, self.port, urllib3_connection.allowed_gai_family(), socket.SOCK_STREAM)
                found = [str(info[4][0]) for info in infos]
            except (OSError, UnicodeError):
                pass  # urllib3 reports it
        return found if found and all(map(is_ipaddress, found)) else [self.host]

    def _keep_deadline(self, sock: Any) -> None:
        if self._deadline is None:
            return
        self.timeout = self._deadline - monotonic()
        if self.timeout <= 0:
            sock.close()
            raise socket.timeout("timed out")
        sock.settimeout(self.timeout)

    def request(self, method: str, url: str, body: Any = None, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            self.sock.settimeout(self.timeout)  # urllib3 1.26 would use the timeout of the previous call
        self._parts = [] if body is not None and len(body) <= ONE_PACKET else None
        super().request(method, url, body, *args, **kwargs)
        if self._parts:
            parts, self._parts = self._parts, None
            super().send(b"".join(parts))

    def send(self, data: Any) -> None:
        if self._parts is None:
            super().send(data)
        else:
            self._parts.append(data)  # one packet and one system call for head and body


class _TLSConnection(_Connection, HTTPSConnection):
    pass


def _unless_replaced(pool: Any, standard: Any, ours: Any) -> Any:
    """Return our connection class, unless a tool such as VCR.py has replaced that of urllib3's pool."""
    return property(lambda _: ours if pool.ConnectionCls is standard else pool.ConnectionCls)


class _Pool(HTTPConnectionPool):
    ConnectionCls: Any = _unless_replaced(HTTPConnectionPool, HTTPConnection, _Connection)


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls: Any = _unless_replaced(HTTPSConnectionPool, HTTPSConnection, _TLSConnection)


def _socket_options() -> List[Any]:
    names = [name for name in ("TCP_KEEPIDLE", "TCP_KEEPALIVE") if hasattr(socket, name)]  # Linux and Windows; macOS
    return [
        *HTTPConnection.default_socket_options,
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        *((socket.IPPROTO_TCP, getattr(socket, name), KEEP_ALIVE_IDLE) for name in names),
    ]


class _Adapter(HTTPAdapter):
    """The adapter of the client's own session. It remembers the connection pool of the latest host."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=MAX_POOL_SIZE)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        base: Any = super()
        base.init_poolmanager(*args, socket_options=_socket_options(), **kwargs)
        self._use_our_pools(self.poolmanager)
        self._latest: Tuple[Any, Any] = (None, None)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        base: Any = super()
        if proxy.lower().startswith("socks"):  # its connections are of another class
            return base.proxy_manager_for(proxy, **kwargs)
        return self._use_our_pools(base.proxy_manager_for(proxy, socket_options=_socket_options(), **kwargs))

    def request_url(self, request: Any, proxies: Any) -> Any:
        base: Any = super()
        return base.request_url(request, proxies) if proxies else request.path_url

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        url: str = request.url
        key = (url[: url.find("/", len("https://"))], verify, tuple(proxies.items()))
        latest, pool = self._latest
        if latest != key or pool.pool is None:  # another host, or the pool was closed
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            self._latest = key, pool
        return pool

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        while True:
            try:
                return super().send(*args, **kwargs)
            except requests.ConnectionError as error:
                # Another thread has closed the client, or urllib3 the pool of a former host: nothing was sent.
                if not isinstance(error.args[0], ClosedPoolError):
                    raise

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        # requests would search each response for cookies here, and guess an encoding for text.
        response = requests.Response()
        response.status_code, response.reason = resp.status, resp.reason
        response.headers = CaseInsensitiveDict(resp.headers)
        response.raw, response.url, response.request = resp, req.url, req
        if response.status_code in REDIRECTS:
            keep_redirect(response)
        return response

    def close(self) -> None:
        self._latest = (None, None)
        for manager in [self.poolmanager, *self.proxy_manager.values()]:
            for key in manager.pools.keys():  # noqa: SIM118 -- it can't be iterated
                with suppress(KeyError):  # another thread closes the client, too
                    manager.pools[key].close()  # urllib3 2 leaves this to the garbage collector, but a stored error may refer to a pool
        base: Any = super()
        base.close()

    @staticmethod
    def _use_our_pools(manager: Any) -> Any:
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager


def keep_redirect(response: Any, **_: Any) -> None:
    """Hide a redirect from requests, which would read its whole body, however large, before it offers the next request."""
    if response.status_code in REDIRECTS and "Location" in response.headers:
        response.headers[KEPT_LOCATION] = response.headers.pop("Location")


class _NoCookies(RequestsCookieJar):
    """A jar that stays empty: an API with keys has no use for cookies, and none can outlive its key."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        del response, request


def new_session() -> requests.Session:
    """Create the session of a client without a session of the user's."""
    session = STANDARD_SESSION()
    session.cookies = _NoCookies()
    if issubclass(HTTPConnection, http.client.HTTPConnection):  # not so with urllib3-future in the place of urllib3
        adapter = _Adapter()
        session.mount("http://", adapter)
        session.mount("https://", adapter)
    return session
