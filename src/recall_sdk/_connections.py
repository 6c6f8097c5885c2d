"""Connections that keep a deadline, on the extension points of requests, urllib3 and http.client."""

from __future__ import annotations

import http.client
import io
import os
import socket
from time import monotonic
from typing import Any, Dict, List, Optional

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.connection import allowed_gai_family

MAX_POOL_SIZE = 512
"""Maximum idle connections of a client. More threads still get connections, which are closed after the call."""

KEEP_ALIVE_IDLE = 60
"""Seconds of silence before the first TCP keep-alive probe: less than the idle timeouts of common NATs and load balancers."""

ONE_PACKET = 64 * 1024
"""Bytes. A body up to this size is sent together with its head."""

MIN_WAIT = 0.001
"""Seconds. To a socket, a timeout of 0 means "do not block", not "no time remains"."""


def remaining(deadline: float) -> float:
    """Return the seconds until a deadline as a socket's timeout."""
    return max(deadline - monotonic(), MIN_WAIT)


def check_process(pid: int) -> None:
    """Raise an error in a child of a fork, because the connection belongs to its parent."""
    if pid != os.getpid():
        raise ConnectionError("it belongs to the parent of this process")


class Reader(io.RawIOBase):
    """The receiving side of a socket. After each receive, the socket's timeout is the time that remains.

    http.client reads its answers from this instead of the socket, so one rule bounds the head, the body, and a proxy's answer to CONNECT.
    """

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self._file = sock.makefile("rb", 0)  # keeps the socket open until the answer is read, after the connection has closed it
        self._pid = os.getpid()
        timeout = sock.gettimeout()  # which urllib3 has just set
        self._deadline: Optional[float] = None if timeout is None else monotonic() + timeout

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        check_process(self._pid)
        count: int = self.sock.recv_into(buffer)
        if self._deadline is not None:
            self.sock.settimeout(remaining(self._deadline))
        return count

    def fileno(self) -> int:
        return int(self.sock.fileno())

    def close(self) -> None:
        self._file.close()
        super().close()

    def set_deadline(self, seconds: float) -> None:
        """Bound all that is still to be received."""
        self._deadline = monotonic() + seconds
        self._set_timeout(seconds)

    def set_read_timeout(self, seconds: Optional[float]) -> None:
        """Bound each receive, and drop the deadline."""
        self._deadline = None
        self._set_timeout(seconds)

    def _set_timeout(self, seconds: Optional[float]) -> None:
        if not self.closed:
            self.sock.settimeout(seconds)


class Response(http.client.HTTPResponse):
    """An answer with a deadline: the socket's timeout at the time when it is made."""

    reader: Optional[Reader] = None

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        if hasattr(sock, "gettimeout"):  # pyOpenSSL's sockets don't have it
            sock = self.reader = Reader(sock)
        super().__init__(sock, *args, **kwargs)


class _Connection(HTTPConnection):
    """A connection with one deadline: the time for connecting counts against the time for sending."""

    response_class: Any = Response
    _deadline: Optional[float] = None
    _parts: Optional[List[bytes]] = None

    def connect(self) -> None:
        self._deadline = None if self.timeout is None else monotonic() + self.timeout
        try:
            super().connect()
            self._keep_deadline(self.sock)
        except Exception as error:
            error.before_sending = True  # type: ignore[attr-defined]  # the errors of the libraries do not say so
            raise

    def _new_conn(self) -> Any:
        seconds = self.timeout
        if self._deadline is not None:
            addresses = self._count_addresses()
            self.timeout = remaining(self._deadline) / addresses  # urllib3 uses this for each address
        try:
            sock = super()._new_conn()
        finally:
            self.timeout = seconds
        self._keep_deadline(sock)
        return sock

    def _count_addresses(self) -> int:
        try:
            return max(len(socket.getaddrinfo(self.host, self.port, allowed_gai_family(), socket.SOCK_STREAM)), 1)
        except (OSError, UnicodeError):
            return 1  # urllib3 reports it, unless its way to connect was replaced

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
    """The adapter of the client's own session. It caches the connection pool of each host."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=MAX_POOL_SIZE)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        base: Any = super()
        base.init_poolmanager(*args, socket_options=_socket_options(), **kwargs)
        self._use_our_pools(self.poolmanager)
        self._pools: Dict[Any, Any] = {}

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
        pool = self._pools.get(key)
        if pool is None or pool.pool is None:  # none yet, or closed
            pool = self._pools[key] = super().get_connection_with_tls_context(request, verify, proxies, cert)
        return pool

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        # requests would search each answer for cookies here, although its session does so again, and guess an encoding for text.
        if 300 <= resp.status < 400:
            req.prepare_cookies({})  # requests adds those of the session to a copy of them
        response = requests.Response()
        response.status_code, response.reason = resp.status, resp.reason
        response.headers = CaseInsensitiveDict(resp.headers)
        response.raw, response.url, response.request = resp, req.url, req
        return response

    def close(self) -> None:
        self._pools.clear()
        for manager in [self.poolmanager, *self.proxy_manager.values()]:
            for key in manager.pools.keys():  # noqa: SIM118 -- it can't be iterated
                manager.pools[key].close()  # urllib3 2 leaves this to the garbage collector, but a stored error may refer to a pool
        base: Any = super()
        base.close()

    @staticmethod
    def _use_our_pools(manager: Any) -> Any:
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager


def new_session() -> requests.Session:
    """Create the session of a client without a session of the user's."""
    session = requests.Session()
    if issubclass(HTTPConnection, http.client.HTTPConnection):  # not so with urllib3-future in the place of urllib3
        adapter = _Adapter()
        session.mount("http://", adapter)
        session.mount("https://", adapter)
    return session
