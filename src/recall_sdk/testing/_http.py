"""HTTP on Werkzeug, with connections that stay open and responses that are sent at once."""

import socket
import threading
import time
from contextlib import suppress
from typing import Any, Callable, Dict, Iterable, Tuple, cast

from werkzeug import Request, Response
from werkzeug.exceptions import ClientDisconnected
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler, select_address_family

from recall_sdk.testing._runs import LOGGER

CONNECTION = "recall_sdk.connection"

_POLL_SECONDS = 0.02  # how long stop() may wait for the accepting thread
_GRACE_SECONDS = 0.5  # how long stop() waits for threads


class ConnectionDropped(Exception):  # noqa: N818  # a requested fault, not an error
    """Close the connection at once, whatever part of the response has been sent."""


class HttpServer(ThreadedWSGIServer):
    """A server with a thread for each connection, which can end them all.

    Args:
        host: The address to listen on.
        port: The port; 0 takes a free one.
        respond: Returns the response to a request. The environment has the connection's number under ``CONNECTION``.
    """

    def __init__(self, host: str, port: int, respond: Callable[[Request], Response]) -> None:
        self.respond = respond
        self.connections = 0
        self._open: Dict[socket.socket, Tuple[int, threading.Thread]] = {}
        family = select_address_family(host, port)
        # The socket is made here, since Werkzeug ends the interpreter when the port is taken.
        with socket.create_server((host, port), family=family, backlog=128) as listening:
            bound = listening.getsockname()[1]
            super().__init__(host, bound, Request.application(respond), _Handler, fd=listening.fileno())
        self._accepting = new_thread(self.serve_forever, _POLL_SECONDS)
        self._accepting.start()

    def stop(self) -> None:
        """Stop listening, close each connection, and wait a moment for the threads."""
        self.shutdown()
        self._accepting.join()
        connections = list(self._open.items())
        for connection, _ in connections:
            with suppress(OSError):  # it may just have been closed by its own thread, or by the client
                connection.shutdown(socket.SHUT_RDWR)
        join_all([thread for _, (_, thread) in connections])

    def number_of(self, connection: Any) -> int:
        """The running number of an open connection, from 1."""
        return self._open[connection][0]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, and remember it for ``stop``."""
        self.connections += 1
        thread = new_thread(self.process_request_thread, request, client_address)
        self._open[request] = (self.connections, thread)
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        self._open.pop(request, None)
        super().shutdown_request(request)


def new_thread(target: Callable[..., None], *args: Any) -> threading.Thread:
    """Return a thread that the interpreter does not wait for at its end. A subinterpreter may refuse those: there it is a plain thread."""
    try:
        return threading.Thread(target=target, args=args, daemon=True)
    except RuntimeError:
        return threading.Thread(target=target, args=args, daemon=False)


def join_all(threads: Iterable[threading.Thread]) -> None:
    """Wait briefly for threads to end. A thread inside a user's function may continue."""
    deadline = time.monotonic() + _GRACE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


class _Handler(WSGIRequestHandler):
    """Serves one connection. Werkzeug's own handler closes it after each response; this one keeps it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an event is sent when it is written

    def setup(self) -> None:
        super().setup()
        self._serving = cast("HttpServer", self.server)
        self._number = self._serving.number_of(self.connection)

    def run_wsgi(self) -> None:
        """Read a whole request, respond to it, and leave the connection ready for the next."""
        started = time.monotonic()
        request = Request({**self.make_environ(), CONNECTION: self._number})
        outcome = "dropped"
        try:
            request.get_data()
            response = self._serving.respond(request)
            self._send(response, request)
            outcome = str(response.status_code)
        except (ClientDisconnected, ConnectionDropped, OSError):
            self.close_connection = True
        LOGGER.info("%s  %-4s %s  %.0f ms", outcome, self.command, self.path, (time.monotonic() - started) * 1000)

    def _send(self, response: Response, request: Request) -> None:
        """Send a response with its own headers unchanged; those that it lacks are added."""
        headers = response.headers.copy()
        parts = response.get_app_iter(request.environ)  # none if the method or the status has no body
        bodiless = request.method == "HEAD" or response.status_code in (204, 304)
        if not bodiless and "Content-Length" not in headers and "Transfer-Encoding" not in headers:
            if response.is_sequence:
                headers["Content-Length"] = str(sum(map(len, response.iter_encoded())))
            elif self.request_version != "HTTP/1.0":
                headers["Transfer-Encoding"] = "chunked"
        chunked = not bodiless and headers.get("Transfer-Encoding", "").lower() == "chunked"
        ends_by_closing = not bodiless and not chunked and "Content-Length" not in headers
        if ends_by_closing:
            headers.setdefault("Connection", "close")
        headers.setdefault("Date", self.date_time_string())
        self.send_response_only(response.status_code, response.status.partition(" ")[2])
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = self.close_connection or ends_by_closing
        try:
            for part in parts:
                if part:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            if chunked:
                self.wfile.write(b"0\r\n\r\n")
        finally:
            response.close()

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002, ARG002  # Werkzeug's signature
        """Log nothing unless the logger is configured."""
        LOGGER.info(message, *args)
