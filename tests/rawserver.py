"""A server on raw sockets, where each fault is a handler of a few lines.

A handler is a function of a :class:`Connection`, run in a thread of its own for each connection that a client opens. It reads requests and
sends whatever bytes it likes; when it returns, the connection is closed. Nothing here sleeps: a handler that has to wait does so
on the server, and the server's end wakes it up.
"""

import gc
import importlib
import json
import platform
import socket
import ssl
import struct
import sys
import threading
import warnings
from contextlib import suppress

import pytest
import requests

from recall_sdk import RecallClient

KEY = "key-0123456789-secret"
PATIENCE = 10.0
"""Seconds until a waiting test fails."""


def collect_quietly():
    """Collect what libraries leave open, such as Python 3.8's ``_tunnel`` when a proxy rejects it."""
    usual, sys.unraisablehook = sys.unraisablehook, lambda _: None  # http.client flushes an answer whose file was collected before it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    sys.unraisablehook = usual


class Ended(Exception):  # noqa: N818 -- no fault, only the server's end
    """The server ends, or the client has closed the connection."""


class Request:
    """One request, as received."""

    def __init__(self, head, body):
        self.head = head
        self.body = body
        self.method, self.path, _ = head.split(b"\r\n")[0].decode().split(" ")
        lines = head.decode("latin-1").split("\r\n")[1:]
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}

    @property
    def json(self):
        """The body, parsed."""
        return json.loads(self.body)


class Connection:
    """One connection that a client opened."""

    def __init__(self, server, sock, number):
        self.server = server
        self.sock = sock
        self.number = number
        self.buffer = b""

    def receive(self):
        """Receive some bytes; raise at the end."""
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            raise Ended
        self.buffer += data

    def request(self):
        """Read one request with its body, and record it."""
        while b"\r\n\r\n" not in self.buffer:
            self.receive()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        request = Request(head + b"\r\n", b"")
        length = int(request.headers.get("content-length", 0))
        while len(self.buffer) < length:
            self.receive()
        request.body, self.buffer = self.buffer[:length], self.buffer[length:]
        self.server.requests.append(request)
        return request

    def send(self, data):
        """Send bytes."""
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise Ended from error

    def drip(self, data, pause=0.03):
        """Send bytes one by one."""
        for byte in data:
            self.send(bytes([byte]))
            self.pause(pause)

    def pause(self, seconds):
        """Wait, unless the server ends."""
        if self.server.ended.wait(seconds):
            raise Ended

    def idle(self):
        """Send nothing until the client closes the connection or the server ends."""
        while True:
            self.receive()

    def wait_for_go(self):
        """Wait for the test."""
        assert self.server.go_signals.acquire(timeout=PATIENCE), "the test never said go"
        if self.server.ended.is_set():
            raise Ended

    def wait_for_hang_up(self):
        """Wait until the client closes the connection, and tell the test."""
        try:
            self.idle()
        except Ended:
            self.server.client_closed.release()
            raise

    def reset(self):
        """Reset the connection."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Ended


class RawServer:
    """A server on a free port of loopback; ``with`` ends it.

    Attributes:
        requests: The requests that handlers read, in order.
        connections: How many connections clients opened.
    """

    def __init__(self, handler, *, tls=None):
        self.requests = []
        self.connections = 0
        self.go_signals = threading.Semaphore(0)
        self.client_closed = threading.Semaphore(0)
        self.ended = threading.Event()
        self._handler = handler
        self._tls = tls
        self._faults = []
        self._socks = []
        self._threads = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.origin = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.origin}"
        self._start(self._accept)

    def go(self):
        """Let a waiting handler continue."""
        self.go_signals.release()

    def wait_for_hang_up(self):
        """Wait until a handler has seen its client close the connection."""
        assert self.client_closed.acquire(timeout=PATIENCE), "the client kept the connection"

    def close(self):
        """Stop everything, and raise the error of a handler, if any."""
        self.ended.set()
        for _ in range(100):
            self.go_signals.release()
        for sock in [self._listener, *self._socks]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()
        assert not self._faults, self._faults

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _start(self, target, *args):
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._socks.append(sock)
            self._start(self._serve, sock, self.connections)

    def _serve(self, sock, number):
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._socks.append(sock)
            self._handler(Connection(self, sock, number))
        except (Ended, OSError):
            pass
        except BaseException as fault:  # noqa: BLE001 -- shown to the test at the end
            self._faults.append(fault)
        finally:
            sock.close()


# ------------------------------------------------------------------------------------------------------------ bytes to send


needs_reference_counts = pytest.mark.skipif(
    platform.python_implementation() != "CPython", reason="what is forgotten is freed at once only where references are counted"
)


def cloudpickle():
    """Return the module with which Ray and loky pickle, or skip the test: it has no release for PyPy 3.11 that loads."""
    if platform.python_implementation() == "PyPy":
        pytest.skip("cloudpickle does not load on PyPy 3.11")
    return importlib.import_module("cloudpickle")


def head(*headers, status="200 OK", version="1.1"):
    """Make the head of an answer."""
    return "\r\n".join([f"HTTP/{version} {status}", *headers, "", ""]).encode("latin-1")


def http(body=b"", *headers, status="200 OK"):
    """Make a whole answer; a body that is not bytes is encoded as JSON."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers = ("Content-Type: application/json", *headers)
    return head(f"Content-Length: {len(body)}", *headers, status=status) + body


def chunk(data):
    """Make one HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def envelope(output="hello"):
    """Make the envelope of a successful run."""
    return {"success": True, "output": output}


# ----------------------------------------------------------------------------------------------------------------- handlers


def answers(*messages):
    """Make a handler that answers each request of a connection with the next of these messages, and then repeats the last one."""

    def handler(connection):
        left = list(messages)
        while True:
            connection.request()
            connection.send(left.pop(0) if len(left) > 1 else left[0])

    return handler


def echo(connection):
    """Answer each execution with its own input."""
    while True:
        connection.send(http(envelope(connection.request().json)))


# ----------------------------------------------------------------------------------------------------------------- fixtures


@pytest.fixture
def serve():
    """Start a server for a handler; it ends with the test."""
    servers = []

    def start(handler, **settings):
        servers.append(RawServer(handler, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(params=["session of the client", "session of the user"])
def session(request):
    """Either of the two kinds of session: None for the client's own."""
    if request.param == "session of the client":
        yield None
    else:
        with requests.Session() as own:
            own.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=100))  # room for the threads of the tests
            yield own


@pytest.fixture
def connect():
    """Make a client of a server or of a URL; it is closed with the test, and so is a session of its own."""
    opened = []

    def make(server, **settings):
        client = RecallClient(KEY, getattr(server, "url", server), **{"timeout": PATIENCE, **settings})
        opened.append(client)
        if settings.get("session") is not None:
            opened.append(settings["session"])
        return client

    yield make
    for each in opened:
        each.close()


# ---------------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="session")
def authority():
    """Make a certificate authority that nobody trusts, or skip the test: cryptography has no release for every interpreter."""
    return pytest.importorskip("trustme", reason="trustme needs cryptography, which has no release for this interpreter").CA()


@pytest.fixture
def tls_context(authority):
    """Return the context of a server with a certificate for a name."""

    def make(name="127.0.0.1"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        return context

    return make


@pytest.fixture
def secure(serve, tls_context):
    """Start a server that speaks TLS."""

    def start(handler, name="127.0.0.1"):
        return serve(handler, tls=tls_context(name))

    return start


@pytest.fixture
def bundle(authority, tmp_path):
    """Return the path of a file with the authority's certificate."""
    path = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def _trusted(bundle, monkeypatch):
    """Trust the authority through the environment."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
