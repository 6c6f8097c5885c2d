"""The test server."""

import re
import threading
import time
from inspect import isasyncgenfunction, iscoroutinefunction
from math import ceil, inf
from operator import index
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Type, TypeVar, Union

from werkzeug import Request, Response

from recall_sdk import RecallClient
from recall_sdk.testing._api import Api
from recall_sdk.testing._bucket import TokenBucket
from recall_sdk.testing._dialects import Documented, Observed
from recall_sdk.testing._http import ConnectionDropped, HttpServer, join_all
from recall_sdk.testing._recording import RecordedRequest, record
from recall_sdk.testing._runs import Workflow
from recall_sdk.testing._scripts import UNSET, Script, script

__all__ = ["RecallServer", "RecordedRequest"]

_DIALECTS = {"documented": Documented, "observed": Observed}

_Function = TypeVar("_Function", bound=Callable[[Any], Any])
_Server = TypeVar("_Server", bound="RecallServer")


class RecallServer:
    """A real HTTP server on loopback that implements this API and runs plain functions as workflows.

    Use it in a ``with`` block, or call :meth:`start` and :meth:`stop`.

    Args:
        host: The address to listen on.
        port: The port to listen on; 0 selects a free one.
        api_key: The only key that is accepted.
        rate_limit: Executions per second, or ``None`` for no limit.
        burst: Executions allowed at once; by default ``rate_limit``, rounded up.
        refill_interval: Seconds between refills of the rate limit, each of them all at once; ``None`` for a continuous refill.
        usage_limit: Spending in dollars above which executions are rejected with 402, or ``None`` for no limit. A run costs 0.01.
        dialect: ``"documented"``, or ``"observed"`` for the other field names that servers of this API use.
        retry_after: Whether a 429 in the documented dialect has a ``Retry-After``.

    Raises:
        ValueError: An argument is out of bounds.

    Example:
        >>> with RecallServer(rate_limit=1) as server:
        ...     @server.workflow("shout")
        ...     def shout(input):
        ...         return input.upper()
        ...     client = server.client()
        ...     client.execute_workflow("shout", "hello").output
        ...     client.get_rate_limit_info().remaining
        'HELLO'
        0
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str = "test-key",
        rate_limit: Optional[float] = None,
        burst: Optional[int] = None,
        refill_interval: Optional[float] = None,
        usage_limit: Optional[float] = None,
        dialect: str = "documented",
        retry_after: bool = True,
    ) -> None:
        if not re.fullmatch("[!-~]+", api_key):
            raise ValueError("api_key must be printable ASCII without spaces, and not empty")
        if not 0 <= index(port) <= 65535:
            raise ValueError(f"port must be from 0 to 65535, not {port!r}")
        if rate_limit is not None and not 0 < rate_limit < inf:
            raise ValueError(f"rate_limit must be executions per second, more than 0, not {rate_limit!r}")
        if burst is not None and (rate_limit is None or index(burst) < 1):
            raise ValueError(f"burst must be 1 or more, and needs a rate_limit; not {burst!r}")
        if refill_interval is not None and (rate_limit is None or not 0 < refill_interval < inf):
            raise ValueError(f"refill_interval must be seconds, more than 0, and needs a rate_limit; not {refill_interval!r}")
        if usage_limit is not None and not 0 <= usage_limit < inf:
            raise ValueError(f"usage_limit must be dollars from 0 on, not {usage_limit!r}")
        if dialect not in _DIALECTS:
            raise ValueError(f"dialect must be one of {', '.join(_DIALECTS)}, not {dialect!r}")
        bucket = None if rate_limit is None else TokenBucket(rate_limit, burst or ceil(rate_limit), refill_interval)
        self.api_key = api_key
        self._host = host
        self._port = port
        self._api = Api(api_key, _DIALECTS[dialect](), bucket, usage_limit, retry_after=retry_after)
        self._http: Optional[HttpServer] = None
        self._connections = 0  # of servers that have been stopped
        self._clients: List[RecallClient] = []
        self._lock = threading.Lock()  # for the scripts and the requests
        self._scripts: List[Script] = []
        self._requests: List[RecordedRequest] = []

    def start(self: _Server) -> _Server:
        """Listen, in a thread. A server that was stopped listens on the same port again.

        Returns:
            The server itself.

        Raises:
            RuntimeError: It is already running.
            OSError: The port is in use.

        Example:
            >>> server = RecallServer().start()
            >>> server.client().validate_workflow("greet")
            False
            >>> server.stop()
        """
        if self._http is not None:
            raise RuntimeError("this server is already running")
        self._api.stopping.clear()
        self._http = HttpServer(self._host, self._port, self._respond)
        self._port = self._http.port
        return self

    def stop(self) -> None:
        """Stop the server: close its clients and connections, and end its threads. Recorded requests are kept.

        Example:
            >>> server.stop()
        """
        if self._http is None:
            return
        for client in self._clients:
            client.close()
        self._clients.clear()
        self._api.stopping.set()
        self._http.stop()
        join_all(self._api.job_threads)
        self._connections += self._http.connections
        self._http = None

    def __enter__(self: _Server) -> _Server:
        return self.start()

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port it listens on.

        Raises:
            RuntimeError: It has not been started and has no fixed port.

        Example:
            >>> server.base_url == f"http://127.0.0.1:{server.port}"
            True
        """
        if not self._port:
            raise RuntimeError('this server has no port yet: use it in "with", or call start() first')
        return self._port

    @property
    def base_url(self) -> str:
        """The ``base_url`` for a client on this machine, even if the server listens on all addresses (``0.0.0.0``, ``::``).

        Example:
            >>> with RecallClient(server.api_key, server.base_url) as client:
            ...     client.validate_workflow("greet")
            True
        """
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104 -- compared, not bound to
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def requests(self) -> List[RecordedRequest]:
        """The requests received so far, oldest first.

        Example:
            >>> _ = client.execute_workflow("greet", {"name": "Ada"})
            >>> [(request.method, request.path, request.json) for request in server.requests]
            [('POST', '/api/workflows/greet/execute', {'name': 'Ada'})]
        """
        with self._lock:
            return list(self._requests)

    @property
    def executions(self) -> Dict[str, int]:
        """The number of runs of each workflow, by its id; 0 for one that never ran. Rejected and scripted requests do not count.

        Example:
            >>> _ = client.execute_workflow("greet")
            >>> server.executions["greet"], server.executions["echo"]
            (1, 0)
        """
        return self._api.executions

    @property
    def connections(self) -> int:
        """The number of TCP connections opened so far.

        Example:
            >>> _ = client.execute_workflow("greet"), client.execute_workflow("greet")
            >>> server.connections
            1
        """
        return self._connections + (self._http.connections if self._http else 0)

    def client(self, **settings: Any) -> RecallClient:
        """Create a client for this server. The server closes it when it stops.

        Args:
            **settings: For :class:`recall_sdk.RecallClient`, such as ``timeout``.

        Returns:
            The client.

        Example:
            >>> server.client(timeout=5.0).execute_workflow("greet", {"name": "Ada"}).output
            {'content': 'Hello Ada'}
        """
        client = RecallClient(self.api_key, self.base_url, **settings)
        self._clients.append(client)
        return client

    def workflow(self, workflow_id: str, *, deployed: bool = True) -> Callable[[_Function], _Function]:
        """Serve a function as a workflow.

        The function gets the input that was passed to ``execute_workflow`` and returns the output, which must have a JSON form. If it
        raises an exception, the run fails. A generator function streams: it yields text, or ``(block_id, text)`` to name the block, and may
        return the output, which is otherwise ``{"content": <the whole text>}``.

        Args:
            workflow_id: The id of the workflow. Registering an id again replaces its function.
            deployed: Whether it is deployed. Otherwise it exists, but can't be executed.

        Returns:
            A decorator that returns the function unchanged.

        Raises:
            ValueError: The id is empty, ``.`` or ``..``.
            TypeError: The id is not a ``str``, or the function is an ``async def``.

        Example::

            @server.workflow("count")
            def count(input):
                yield "One"
                yield ", two"
        """
        # A common mistake: the decorator without parentheses.
        if not isinstance(workflow_id, str):
            raise TypeError('workflow_id must be a str: write @server.workflow("my-id")')
        if workflow_id in ("", ".", ".."):
            raise ValueError(f"workflow_id must be a name that can be part of a path, not {workflow_id!r}")

        def register(function: _Function) -> _Function:
            if iscoroutinefunction(function) or isasyncgenfunction(function):
                raise TypeError(
                    f"the workflow {workflow_id!r} is an async function: write it with def, and run coroutines with asyncio.run()"
                )
            self._api.workflows[workflow_id] = Workflow(workflow_id, function, time.time() if deployed else None)
            return function

        return register

    def respond_next(
        self,
        status: Optional[int] = None,
        *,
        headers: Optional[Mapping[str, str]] = None,
        json: Any = UNSET,
        body: Union[bytes, str, None] = None,
        events: Optional[Iterable[Any]] = None,
        cut: bool = False,
        delay: float = 0.0,
        drop: bool = False,
        times: int = 1,
        path: Optional[str] = None,
    ) -> None:
        """Script the response to the next request, whatever it is. Scripted responses are queued.

        Without ``status``, ``headers``, ``json``, ``body`` and ``events`` the server sends its usual response, so that ``delay`` alone
        makes it slow.

        Args:
            status: The HTTP status; 200 by default.
            headers: Headers to send; they replace the usual ones.
            json: A body, as JSON.
            body: A body, sent unchanged.
            events: The events of a stream: bytes are sent unchanged, a ``str`` as the data of an event, any other value as JSON data. The
                server adds no end event.
            cut: Close the connection after this part of the response, as if the server had died.
            delay: Seconds to wait before the response.
            drop: Close the connection without a response.
            times: The number of requests that get this response.
            path: Only requests whose path contains this string get this response.

        Raises:
            ValueError: The arguments contradict each other, or are out of bounds, or a header is not one line of latin-1 text.
            TypeError: A value has no JSON form.

        Example::

            server.respond_next(429, headers={"Retry-After": "2"}, json={"error": "slow down"}, times=2)
            server.respond_next(delay=5)                     # slow
            server.respond_next(drop=True)                   # no response
            server.respond_next(events=[{"blockId": "b", "chunk": "Hel"}], cut=True)
        """
        if times < 1:
            raise ValueError(f"times must be 1 or more, not {times!r}")
        scripted = script(status, headers, json, body, events, cut=cut, delay=delay, drop=drop, path=path)
        with self._lock:
            self._scripts += [scripted] * times

    def _respond(self, request: Request) -> Response:
        received = record(request)
        scripted = self._take_script(received)
        if scripted is not None:
            if self._api.stopping.wait(scripted.delay) or scripted.drop:
                raise ConnectionDropped
            response = scripted.response()
            if response is not None:
                return response
        return self._api.respond(received)

    def _take_script(self, received: RecordedRequest) -> Optional[Script]:
        with self._lock:
            self._requests.append(received)
            scripted = next((one for one in self._scripts if one.path is None or one.path in received.path), None)
            if scripted is not None:
                self._scripts.remove(scripted)
            return scripted
