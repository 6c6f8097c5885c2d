"""Connections that keep a deadline, survive no fork, and can be hung up: what requests and urllib3 leave open."""

import http.client
import os
import queue
import socket
import threading
from contextlib import suppress
from time import monotonic
from typing import Any, Dict, Iterable, List, Optional, Tuple
from weakref import WeakSet, finalize

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util import Timeout
from urllib3.util.connection import allowed_gai_family

MAX_POOL_SIZE = 512
"""Idle connections that a client keeps. A thread beyond them still gets one of its own; it is just not kept."""

KEEP_ALIVE_IDLE = 60
"""Seconds of silence before the first TCP keep-alive probe: less than the idle limits of usual NATs and load balancers."""

WORTH_SETTING = 0.05
"""Seconds by which a receive may overrun its deadline, for the sake of a system call less."""

ONE_PACKET = 64 * 1024
"""Bytes. A body up to this size goes out together with its head."""

MIN_WAIT = 0.001
"""Seconds. A socket takes 0 for "do not wait at all", which is another thing than "no time is left"."""


# ----------------------------------------------------------------------------------------------------------- deadlines


class Deadline(Timeout):
    """A urllib3 timeout that ends at a moment: connecting, sending and waiting each get what is left of it.

    Args:
        until: The moment, in seconds of :func:`time.monotonic`, or ``None``.
    """

    def __init__(self, until: Optional[float]) -> None:
        super().__init__()
        self._until = until

    @property
    def connect_timeout(self) -> Optional[float]:
        return None if self._until is None else max(self._until - monotonic(), MIN_WAIT)

    @property
    def read_timeout(self) -> Optional[float]:
        return self.connect_timeout

    def clone(self) -> "Deadline":
        return self

    def start_connect(self) -> float:
        return monotonic()


class TimedReader(socket.SocketIO):
    """The reading side of a socket, with a deadline: each receive may take what is left of it, however slowly bytes drip."""

    _sock: Any
    until: Optional[float] = None
    granted = 0.0
    """Seconds that the socket waits as it is set now."""

    def readinto(self, b: Any) -> Optional[int]:
        if self.until is not None:
            left = self.until - monotonic()
            if left <= 0:
                raise socket.timeout("timed out")
            if not left <= self.granted <= left + WORTH_SETTING:
                self._sock.settimeout(left)
                self.granted = left
        return super().readinto(b)

    def set_read_timeout(self, seconds: Optional[float]) -> None:
        """Let each receive take that long, and drop the deadline."""
        self.until = None
        self._sock.settimeout(seconds)
        self.granted = 0.0

    @property
    def sock(self) -> Any:
        return self._sock

    def abort(self) -> None:
        """Break the connection, from another thread than the one that reads."""
        _shut_down(self._sock)


def timed_reader(response: Any) -> Optional[TimedReader]:
    """Find the reading side of the socket behind an answer of http.client; ``None`` where there is none, or none any more."""
    reader = getattr(getattr(response, "fp", None), "raw", None)
    if type(reader) is socket.SocketIO:
        reader.__class__ = TimedReader  # its buffer may hold bytes already, so that it can't be replaced
    if not isinstance(reader, TimedReader):
        return None
    _sockets.add(reader.sock)
    return reader


class _TimedResponse(http.client.HTTPResponse):
    """An answer whose head has a deadline as well."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        reader = timed_reader(self)
        left = sock.gettimeout()  # as urllib3 has just set it
        if reader is not None and left is not None:
            reader.until = monotonic() + left
            reader.granted = left

    def _read_status(self) -> Tuple[str, int, str]:
        base: Any = super()
        version, status, reason = base._read_status()
        interim = http.client.SWITCHING_PROTOCOLS < status < http.client.OK
        return version, http.client.CONTINUE if interim else status, reason  # http.client knows no other that it could skip


class _TimedConnection:
    """What our connections do beyond urllib3's: each step of the way leaves the next only what is left of the time."""

    response_class: Any = _TimedResponse
    port: Any
    sock: Any
    timeout: Any
    _dns_host: str
    _until: float  # the moment by which the connection must be there
    _held: Optional[bytes] = None

    def _new_conn(self) -> Any:
        sock = self._try_each_address() if self.timeout is not None else self._super._new_conn()
        self._leave_what_is_left(sock)
        return sock

    def _try_each_address(self) -> Any:
        """Share the time among the host's addresses: urllib3 would give all of it to each."""
        host, seconds = self._dns_host, self.timeout
        try:
            addresses = self._addresses(host)
            while True:
                self.timeout = max((self._until - monotonic()) / len(addresses), MIN_WAIT)
                self._dns_host = addresses.pop(0)
                try:
                    return self._super._new_conn()
                except (NewConnectionError, ConnectTimeoutError):
                    if not addresses:
                        raise
        finally:
            self._dns_host, self.timeout = host, seconds

    def _addresses(self, host: str) -> List[str]:
        """Give the host's addresses if it has several, else its name."""
        try:
            infos = socket.getaddrinfo(host, self.port, allowed_gai_family(), socket.SOCK_STREAM)
        except UnicodeError:  # urllib3 tells what is wrong with the name
            return [host]
        except OSError as error:
            connection: Any = self
            raise NewConnectionError(connection, f"the look-up failed: {error}") from error
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV  # which keeps the scope of a link-local address
        addresses = dict.fromkeys(socket.getnameinfo(info[4], numeric)[0] for info in infos)
        return list(addresses) if len(addresses) > 1 else [host]

    def _tunnel(self) -> None:
        self._super._tunnel()
        self._leave_what_is_left(self.sock)

    def connect(self) -> None:
        self._until = 0.0 if self.timeout is None else monotonic() + self.timeout
        try:
            self._super.connect()
            self._leave_what_is_left(self.sock)
        except Exception as error:
            vars(error)["before_sending"] = True
            raise
        _sockets.add(self.sock)

    def request(self, method: str, url: str, body: Any = None, *args: Any, **kwargs: Any) -> None:
        _in_use[threading.get_ident()] = self
        if self.sock is not None:
            self.sock.settimeout(self.timeout)  # urllib3 1.26 would send with what is left of the call before
        self._held = b"" if body and len(body) <= ONE_PACKET else None
        self._super.request(method, url, body, *args, **kwargs)

    def send(self, data: Any) -> None:
        if self._held == b"":
            self._held = data  # the head waits for the body: one packet and one system call instead of two
            return
        if self._held:
            data, self._held = self._held + data, None
        self._super.send(data)

    @property
    def _super(self) -> Any:
        return super()  # one of urllib3's connections, into which this is mixed

    def _leave_what_is_left(self, sock: Any) -> None:
        if self.timeout is not None:
            self.timeout = self._until - monotonic()
            if self.timeout <= 0:
                sock.close()
                raise socket.timeout("timed out")
            sock.settimeout(self.timeout)


class _TimedHTTPConnection(_TimedConnection, HTTPConnection):
    pass


class _TimedHTTPSConnection(_TimedConnection, HTTPSConnection):
    pass


def _unless_replaced(pool: Any, standard: Any, ours: Any) -> Any:
    """Give our kind of connection, but where a tool such as VCR.py has put its own into urllib3's pool."""
    return property(lambda _: ours if pool.ConnectionCls is standard else pool.ConnectionCls)


class _ClosedWhenForgotten:
    """What urllib3's pools do since 2.0: a client that is forgotten leaves no connection open."""

    pool: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        finalize(self, _close_all, self.pool)


def _close_all(idle: Any) -> None:
    with suppress(queue.Empty):
        while True:
            connection = idle.get(block=False)
            if connection is not None:
                connection.close()


class _HTTPPool(_ClosedWhenForgotten, HTTPConnectionPool):
    ConnectionCls: Any = _unless_replaced(HTTPConnectionPool, HTTPConnection, _TimedHTTPConnection)


class _HTTPSPool(_ClosedWhenForgotten, HTTPSConnectionPool):
    ConnectionCls: Any = _unless_replaced(HTTPSConnectionPool, HTTPSConnection, _TimedHTTPSConnection)


# -------------------------------------------------------------------------------------------------------- the session


def _socket_options() -> List[Any]:
    names = [name for name in ("TCP_KEEPIDLE", "TCP_KEEPALIVE") if hasattr(socket, name)]  # Linux and Windows; macOS
    return [
        *HTTPConnection.default_socket_options,
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        *((socket.IPPROTO_TCP, getattr(socket, name), KEEP_ALIVE_IDLE) for name in names),
    ]


class _Adapter(HTTPAdapter):
    """The adapter of the client's own session. It looks a connection pool up once, not anew for each request."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=MAX_POOL_SIZE)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        base: Any = super()
        base.init_poolmanager(*args, socket_options=_socket_options(), **kwargs)
        self._use_our_pools(self.poolmanager)
        self._pools: Dict[Any, Any] = {}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        base: Any = super()
        if proxy.lower().startswith("socks"):  # its connections are of another kind
            return base.proxy_manager_for(proxy, **kwargs)
        return self._use_our_pools(base.proxy_manager_for(proxy, socket_options=_socket_options(), **kwargs))

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        url: str = request.url
        key = (url[: url.find("/", len("https://"))], verify, tuple(proxies.items()))
        pool = self._pools.get(key)
        if pool is None or pool.pool is None:  # none yet, or closed
            base: Any = super()
            pool = self._pools[key] = base.get_connection_with_tls_context(request, verify, proxies, cert)
        return pool

    def close(self) -> None:
        self._pools.clear()
        for manager in [self.poolmanager, *self.proxy_manager.values()]:
            for key in manager.pools.keys():  # noqa: SIM118 -- it can't be iterated
                manager.pools[key].close()  # urllib3 2 leaves that to the garbage collector, but a kept error may refer to a pool
        base: Any = super()
        base.close()

    @staticmethod
    def _use_our_pools(manager: Any) -> Any:
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager


def own_session() -> requests.Session:
    """Make the session of a client that was given none."""
    session = requests.Session()
    adapter = _Adapter()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


# ------------------------------------------------------------------------------------------ forks, and calls given up

_sockets: "WeakSet[Any]" = WeakSet()
_sessions: "WeakSet[requests.Session]" = WeakSet()
_in_use: Dict[int, Any] = {}


def part_after_fork(session: requests.Session) -> None:
    """Have a session start with connections of its own in each child that is forked from now on."""
    _sessions.add(session)


def _after_fork() -> None:
    # Threads that do not exist here may have held any lock at the fork, so that nothing may be taken that has one: the
    # parent's pools are neither used nor ended, and its sockets are closed below all buffers and TLS.
    for sock in list(_sockets):
        with suppress(OSError):  # closed already
            os.close(getattr(sock, "socket", sock).detach())  # TLS within TLS has the socket inside
    _sockets.clear()
    _in_use.clear()
    for session in list(_sessions):
        with suppress(Exception):  # an adapter of the user's that can't be set up anew must not keep the others from it
            _part(session)


def _part(session: Any) -> None:
    session.cookies._cookies_lock = threading.RLock()  # each request takes it
    for adapter in list(session.adapters.values()):
        if hasattr(adapter, "poolmanager"):  # of the kind that requests has
            managers = [adapter.poolmanager, *adapter.proxy_manager.values()]
            pools = [pool for manager in managers for pool in manager.pools._container.values()]
            adapter.__setstate__(adapter.__getstate__())  # as after pickling: set up alike, with no connections
            for pool in pools:
                if pool.pool is not None:  # a queue with a lock of its own, which closing a forgotten pool takes
                    pool.pool.__init__(pool.pool.maxsize)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def abort(threads: Iterable[int]) -> None:
    """Break the connections that these threads, by their idents, are waiting on, so that their calls end at once."""
    for thread in threads:
        connection = _in_use.get(thread)
        if connection is not None:
            _shut_down(connection.sock)


def in_use(thread: int, reader: Optional[TimedReader]) -> None:
    """Note what a thread is reading; ``None`` once its call is over."""
    if reader is None:
        _in_use.pop(thread, None)
    else:
        _in_use[thread] = reader


def _shut_down(sock: Any) -> None:
    with suppress(OSError, TypeError):  # closed meanwhile: just what is wanted
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of the bare socket, below TLS
