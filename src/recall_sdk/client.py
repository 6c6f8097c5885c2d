"""The client: each method makes a request, opens its response, and decodes it."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import Executor
from functools import lru_cache, partial
from typing import Any, Callable, Dict, Iterable, Literal, Optional, Sequence, Tuple, TypeVar, Union, overload

from recall_sdk import _arguments, _decoding, _requests
from recall_sdk._arguments import ClientTimeout, Settings
from recall_sdk._batch import Batch, BatchIterator
from recall_sdk._executors import Attempts
from recall_sdk._jobs import wait_for_job
from recall_sdk._rate_limits import LIMIT_HEADERS, Level, rate_limit_info, reported_level, retry_after, usage_level
from recall_sdk._requests import Request
from recall_sdk._response import Response
from recall_sdk._statuses import error_of
from recall_sdk._transport import Session, Transport
from recall_sdk.errors import NotFoundError, RecallError, masked_text, without_key
from recall_sdk.models import (
    AsyncExecutionResult,
    RateLimitInfo,
    Result,
    StreamedExecutionResult,
    UsageLimits,
    WorkflowExecutionResult,
    WorkflowStatus,
)
from recall_sdk.retry import Backoff, call_with_retry
from recall_sdk.streaming import WorkflowStream, open_stream, read_execution

__all__ = ["RecallClient"]

_STARTS_OF_JSON = b"{["
"""First bytes that need no further look: what is called JSON may be a stream."""

MAX_ASKING = 5.0
"""Seconds for a batch's request of the usage limits, while its workers wait."""

_Client = TypeVar("_Client", bound="RecallClient")
_Timeout = Union[float, None, ClientTimeout]


class RecallClient:
    """A client for the Recall API. Threads may share it. After a fork, each process uses its own connections.

    Args:
        api_key: The API key; by default the environment variable ``RECALL_API_KEY``.
        base_url: The URL of the API, with an optional path prefix; by default ``RECALL_BASE_URL``, else ``https://tryrecall.com``.
        timeout: Seconds of wall-clock time for each whole call that does not set its own; ``None`` for no limit.
        session: Your own session, for proxies, TLS, adapters or hooks. The client does not close it.

    Raises:
        ValueError: The key is missing or can't be sent, the base URL is not usable, or the timeout is not above 0.
        TypeError: An argument of the wrong type.

    Example:
        >>> with RecallClient() as client:
        ...     result = client.execute_workflow("greet", {"name": "Ada"})
        >>> result.output
        {'content': 'Hello Ada'}

    See the reference page, "RecallClient".
    """

    def __init__(
        self,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        *,
        timeout: Optional[float] = 30.0,
        session: Optional[Session] = None,
    ) -> None:
        self._timeout = _arguments.check_timeout(timeout)
        self._transport = Transport(session)
        self._start(_arguments.read_settings(api_key, base_url))

    @property
    def api_key(self) -> str:
        """The current API key.

        Example:
            >>> RecallClient("a-key").api_key
            'a-key'
        """
        return self._target.settings.api_key

    @property
    def base_url(self) -> str:
        """The current base URL, without trailing slashes.

        Example:
            >>> RecallClient("a-key", "https://recall.example.com/").base_url
            'https://recall.example.com'
        """
        return self._target.settings.base_url

    def __repr__(self) -> str:
        return f"RecallClient(base_url={self.base_url!r})"

    # ------------------------------------------------------------------------------------------------------ executions

    @overload
    def execute_workflow(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        stream: Literal[True],
        selected_outputs: Optional[Sequence[str]] = None,
        async_execution: Literal[False] = False,
    ) -> StreamedExecutionResult: ...

    @overload
    def execute_workflow(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        stream: bool = False,
        selected_outputs: Optional[Sequence[str]] = None,
        async_execution: Literal[False] = False,
    ) -> WorkflowExecutionResult: ...

    @overload
    def execute_workflow(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        stream: Literal[False] = False,
        selected_outputs: Optional[Sequence[str]] = None,
        async_execution: Literal[True],
    ) -> AsyncExecutionResult: ...

    @overload
    def execute_workflow(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        stream: bool = False,
        selected_outputs: Optional[Sequence[str]] = None,
        async_execution: bool = False,
    ) -> Result: ...

    def execute_workflow(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        stream: bool = False,
        selected_outputs: Optional[Sequence[str]] = None,
        async_execution: bool = False,
    ) -> Result:
        """Execute a workflow once and return its result.

        Args:
            workflow_id: The id of the workflow.
            input: The input, any JSON value. The keys of a dict are sent at the root of the body, any other value as ``input``.
                It may contain files that are open for reading in binary mode.
            timeout: Seconds of wall-clock time for the whole call, ``None`` for no limit; by default the client's. With ``stream`` it
                bounds the wait for the response, and then each silence.
            stream: Request a stream, and read it to its end. :meth:`stream_workflow` yields its events as they arrive.
            selected_outputs: Outputs to stream, each as ``"blockName.attribute"``.
            async_execution: Queue the run and return at once; :meth:`wait_for_job` waits for it.

        Returns:
            :class:`StreamedExecutionResult` with ``stream=True``, :class:`AsyncExecutionResult` with ``async_execution=True``, else
            :class:`WorkflowExecutionResult`.
            Some servers report a failed run as a result with ``success=False``.

        Raises:
            ValueError: The id is empty or not usable, ``async_execution`` is combined with ``stream``, or the timeout is not above 0.
            InvalidRequestError: The input isn't JSON-serializable (``INVALID_JSON``), or the server rejects it (its code, else
                ``INVALID_REQUEST``).
            AuthenticationError: The key is wrong (``UNAUTHORIZED``).
            PermissionDeniedError: The key may not do this, or the workflow is not deployed (the server's code, such as
                ``WORKFLOW_NOT_DEPLOYED``, else ``FORBIDDEN``).
            NotFoundError: The workflow does not exist (the server's code, such as ``WORKFLOW_NOT_FOUND``, else ``NOT_FOUND``).
            RateLimitError: Too many requests (``RATE_LIMIT_EXCEEDED``).
            UsageLimitError: The spending limit is reached (``USAGE_LIMIT_EXCEEDED``).
            ExecutionError: The workflow failed (``EXECUTION_ERROR``).
            RecallTimeoutError: The time ran out (``TIMEOUT``).
            RecallConnectionError: The connection failed (``CONNECTION_ERROR``; in a stream ``STREAM_INTERRUPTED``).
            ServerError: The server failed (its code, else ``SERVER_ERROR``).
            RedirectError: The server redirects to a place that is not safe to follow (``REDIRECT_REFUSED``).
            InvalidResponseError: The response can't be read (``INVALID_RESPONSE``).
            RecallError: The base of all of these; ``may_have_executed`` says whether the workflow may have run.

        Example:
            >>> client.execute_workflow("greet", {"name": "Ada"}).output
            {'content': 'Hello Ada'}

        See the reference page, "execute_workflow()".
        """
        request = self._execution(workflow_id, input, stream=stream, selected_outputs=selected_outputs, asynchronous=async_execution)
        return self._execute(request, timeout)

    @overload
    def execute_with_retry(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        stream: Literal[True],
        selected_outputs: Optional[Sequence[str]] = None,
        async_execution: Literal[False] = False,
        max_retries: int = 3,
        initial_delay: float = 1.0,
        max_delay: float = 30.0,
        backoff_multiplier: float = 2.0,
    ) -> StreamedExecutionResult: ...

    @overload
    def execute_with_retry(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        stream: bool = False,
        selected_outputs: Optional[Sequence[str]] = None,
        async_execution: Literal[False] = False,
        max_retries: int = 3,
        initial_delay: float = 1.0,
        max_delay: float = 30.0,
        backoff_multiplier: float = 2.0,
    ) -> WorkflowExecutionResult: ...

    @overload
    def execute_with_retry(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        stream: Literal[False] = False,
        selected_outputs: Optional[Sequence[str]] = None,
        async_execution: Literal[True],
        max_retries: int = 3,
        initial_delay: float = 1.0,
        max_delay: float = 30.0,
        backoff_multiplier: float = 2.0,
    ) -> AsyncExecutionResult: ...

    @overload
    def execute_with_retry(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        stream: bool = False,
        selected_outputs: Optional[Sequence[str]] = None,
        async_execution: bool = False,
        max_retries: int = 3,
        initial_delay: float = 1.0,
        max_delay: float = 30.0,
        backoff_multiplier: float = 2.0,
    ) -> Result: ...

    def execute_with_retry(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        stream: bool = False,
        selected_outputs: Optional[Sequence[str]] = None,
        async_execution: bool = False,
        max_retries: int = 3,
        initial_delay: float = 1.0,
        max_delay: float = 30.0,
        backoff_multiplier: float = 2.0,
    ) -> Result:
        """Execute a workflow, and retry after a 429, which means that the run did not start.

        The delays grow exponentially, with 25 % jitter. If the server sends a ``Retry-After``, the SDK waits for that time instead, unless
        it is longer than an hour.

        Args:
            workflow_id: As for :meth:`execute_workflow`.
            input: As for :meth:`execute_workflow`; files are read once.
            timeout: Seconds for each attempt; ``None`` for no limit; by default the client's.
            stream: As for :meth:`execute_workflow`.
            selected_outputs: As for :meth:`execute_workflow`.
            async_execution: As for :meth:`execute_workflow`.
            max_retries: Retries after the first attempt.
            initial_delay: Seconds before the first retry.
            max_delay: Maximum seconds before a retry, unless the server asks for more.
            backoff_multiplier: Factor from one delay to the next, 1 or more.

        Returns:
            As :meth:`execute_workflow`.

        Raises:
            ValueError: As for :meth:`execute_workflow`, or a retry setting is out of bounds.
            RateLimitError: The last one, after all retries (``RATE_LIMIT_EXCEEDED``).
            RecallError: As for :meth:`execute_workflow`; only a 429 is retried.

        Example:
            >>> client.execute_with_retry("greet", {"name": "Ada"}, max_retries=5).success
            True

        See the reference page, "execute_with_retry()".
        """
        backoff = Backoff(max_retries, initial_delay, max_delay, backoff_multiplier)
        request = self._execution(workflow_id, input, stream=stream, selected_outputs=selected_outputs, asynchronous=async_execution)
        attempt = partial(self._execute, request, self._seconds(timeout))
        return call_with_retry(attempt, backoff, sleep=time.sleep, random=random.random)

    def stream_workflow(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        selected_outputs: Optional[Sequence[str]] = None,
    ) -> WorkflowStream:
        """Execute a workflow and return a stream of its events.

        Args:
            workflow_id: As for :meth:`execute_workflow`.
            input: As for :meth:`execute_workflow`.
            timeout: Seconds until the response begins, and then for each silence between bytes; ``None`` for no limit.
            selected_outputs: Outputs to stream, each as ``"blockName.attribute"``. Only these are streamed.

        Returns:
            A stream to iterate over, inside a ``with`` block.

        Raises:
            ValueError: As for :meth:`execute_workflow`.
            RecallError: As for :meth:`execute_workflow`, here and while iterating.

        Example:
            >>> with client.stream_workflow("count", selected_outputs=["agent1.content"]) as stream:
            ...     for piece in stream.text():
            ...         print(piece, end="")
            One, two
        """
        request = self._execution(workflow_id, input, stream=True, selected_outputs=selected_outputs)
        return open_stream(self._open(request, timeout))

    @overload
    def execute_batch(
        self,
        items: Iterable[Tuple[str, Any]],
        *,
        max_workers: int = 8,
        executor: Optional[Executor] = None,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        async_execution: Literal[False] = False,
        max_retries: int = 3,
        initial_delay: float = 1.0,
        max_delay: float = 30.0,
        backoff_multiplier: float = 2.0,
    ) -> BatchIterator[WorkflowExecutionResult]: ...

    @overload
    def execute_batch(
        self,
        items: Iterable[Tuple[str, Any]],
        *,
        max_workers: int = 8,
        executor: Optional[Executor] = None,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        async_execution: Literal[True],
        max_retries: int = 3,
        initial_delay: float = 1.0,
        max_delay: float = 30.0,
        backoff_multiplier: float = 2.0,
    ) -> BatchIterator[AsyncExecutionResult]: ...

    @overload
    def execute_batch(
        self,
        items: Iterable[Tuple[str, Any]],
        *,
        max_workers: int = 8,
        executor: Optional[Executor] = None,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        async_execution: bool = False,
        max_retries: int = 3,
        initial_delay: float = 1.0,
        max_delay: float = 30.0,
        backoff_multiplier: float = 2.0,
    ) -> BatchIterator[Result]: ...

    def execute_batch(
        self,
        items: Iterable[Tuple[str, Any]],
        *,
        max_workers: int = 8,
        executor: Optional[Executor] = None,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        async_execution: bool = False,
        max_retries: int = 3,
        initial_delay: float = 1.0,
        max_delay: float = 30.0,
        backoff_multiplier: float = 2.0,
    ) -> BatchIterator[Any]:
        """Execute many workflows in parallel, and yield each result as it finishes. Nothing is sent until you iterate.

        All workers share one limiter, which uses the server's rate limit fully with few rejected requests.

        Args:
            items: Pairs of a workflow id and its input, from any iterable, even infinite. The batch takes them as you read results.
            max_workers: How many runs you want at a time.
            executor: Runs the executions, any :class:`concurrent.futures.Executor`; by default the batch's own threads.
            timeout: Seconds for each attempt of each execution; ``None`` for no limit; by default the client's.
            async_execution: Queue the runs; each result holds a task id.
            max_retries: Rejections in a row, without any acceptance in the whole batch, after which an item fails. A connection that
                could not be made counts as a rejection.
            initial_delay: As for :meth:`execute_with_retry`.
            max_delay: As for :meth:`execute_with_retry`.
            backoff_multiplier: As for :meth:`execute_with_retry`.

        Returns:
            An iterator of :class:`BatchItem`, in the order in which they finish. Closing it stops what is queued; calls in flight finish.

        Raises:
            ValueError: A setting is out of bounds.
            TypeError: A setting has the wrong type, or, while iterating, an item is not a pair.

        Example:
            >>> items = [("greet", {"name": "Ada"}), ("greet", {"name": "Alan"})]
            >>> for item in sorted(client.execute_batch(items), key=lambda item: item.index):
            ...     print(item.index, item.result.output)
            0 {'content': 'Hello Ada'}
            1 {'content': 'Hello Alan'}
        """
        _arguments.check_flags(async_execution=async_execution)
        _arguments.check_items(items)
        _arguments.check_executor(executor)
        return BatchIterator(
            Batch(
                items,
                partial(self._execution, asynchronous=async_execution),
                Attempts(partial(self._attempt, timeout=self._seconds(timeout)), executor),
                partial(self._ask_limits, asynchronous=async_execution),
                max_workers=_arguments.check_count("max_workers", max_workers, least=1),
                policy=Backoff(max_retries, initial_delay, max_delay, backoff_multiplier),
            ),
            mask=partial(without_key, api_key=self.api_key),
        )

    # ---------------------------------------------------------------------------------------------------- reading

    def get_workflow_status(self, workflow_id: str) -> WorkflowStatus:
        """Return the deployment status of a workflow.

        Args:
            workflow_id: The id of the workflow.

        Returns:
            Its status.

        Raises:
            ValueError: The id is empty or not usable.
            NotFoundError: The workflow does not exist (``NOT_FOUND``, or the server's code).
            RecallError: Any other failure, with the codes of :meth:`execute_workflow`.

        Example:
            >>> client.get_workflow_status("greet").is_deployed
            True

        See the reference page, "get_workflow_status()".
        """
        with self._open(_requests.workflow_status(workflow_id)) as response:
            return _decoding.workflow_status(response)

    def validate_workflow(self, workflow_id: str) -> bool:
        """Return whether a workflow exists and is deployed.

        Args:
            workflow_id: The id of the workflow.

        Returns:
            ``False`` if it is not deployed or does not exist.

        Raises:
            ValueError: The id is empty or not usable.
            RecallError: Any failure except a 404, with the codes of :meth:`execute_workflow`.

        Example:
            >>> client.validate_workflow("greet"), client.validate_workflow("no-such-workflow")
            (True, False)

        See the reference page, "validate_workflow()".
        """
        try:
            return self.get_workflow_status(workflow_id).is_deployed
        except NotFoundError:
            return False

    def get_job_status(self, task_id: str) -> Dict[str, Any]:
        """Return the state of a queued run.

        Args:
            task_id: The ``task_id`` of its :class:`AsyncExecutionResult`.

        Returns:
            A dict with ``success``, ``taskId``, ``status`` (``queued``, ``processing``, ``completed``, ``failed`` or ``cancelled``),
            ``output``, ``error`` and ``metadata`` (``startedAt``, ``completedAt``, and ``duration`` in milliseconds), each ``None``
            if unknown, and any other fields that the server sends.

        Raises:
            ValueError: The id is empty or not usable.
            NotFoundError: The job does not exist (the server's code, such as ``TASK_NOT_FOUND``, else ``NOT_FOUND``).
            RecallError: Any other failure, with the codes of :meth:`execute_workflow`.

        Example:
            >>> job = client.execute_workflow("greet", {"name": "Ada"}, async_execution=True)
            >>> client.get_job_status(job.task_id)["taskId"] == job.task_id
            True

        See the reference page, "get_job_status()".
        """
        with self._open(_requests.job_status(task_id)) as response:
            return _decoding.job_status(response)

    def wait_for_job(
        self,
        job: Union[AsyncExecutionResult, str],
        *,
        timeout: Optional[float] = 3600.0,
        poll_interval: float = 1.0,
        max_poll_interval: float = 10.0,
        on_update: Optional[Callable[[Dict[str, Any]], object]] = None,
    ) -> Dict[str, Any]:
        """Wait until a queued run has ended and return its status. Temporary failures (connection, 429, 5xx) do not end the wait.

        Args:
            job: The :class:`AsyncExecutionResult`, or its task id, also from another process.
            timeout: Maximum seconds to wait; ``None`` for no limit.
            poll_interval: Seconds between the first two polls. Each later interval is half as long again, or the server's ``Retry-After``
                if that is longer.
            max_poll_interval: Maximum seconds between two polls.
            on_update: Called with the first status and each changed one, for example for a progress bar.

        Returns:
            The status of the completed job, as :meth:`get_job_status` returns it.

        Raises:
            ValueError: A setting is out of bounds.
            ExecutionError: The job failed (``EXECUTION_ERROR``) or was cancelled (``JOB_CANCELLED``).
            RecallTimeoutError: The time ran out (``TIMEOUT``); the job may still be running.
            RecallError: Any other failure, such as an unknown id or a wrong key, as for :meth:`get_job_status`.

        Example:
            >>> job = client.execute_workflow("greet", {"name": "Ada"}, async_execution=True)
            >>> client.wait_for_job(job, poll_interval=0.1)["output"]
            {'content': 'Hello Ada'}
        """
        task_id = _arguments.check_job(job)
        _arguments.check_on_update(on_update)
        request = _requests.job_status(task_id)
        api_key = self.api_key
        try:
            return wait_for_job(
                partial(self._poll, request),
                task_id,
                accepted=isinstance(job, AsyncExecutionResult),
                timeout=_arguments.check_timeout(timeout),
                poll_interval=poll_interval,
                max_poll_interval=max_poll_interval,
                on_update=on_update,
                clock=time.monotonic,
                sleep=time.sleep,
                shown=partial(masked_text, api_key=api_key),
            )
        except RecallError as error:
            without_key(error, api_key)
            raise

    def get_rate_limit_info(self) -> Optional[RateLimitInfo]:
        """Return the rate limit reported in the latest response. Nothing is sent.

        Returns:
            The last reported limit, or ``None`` if no response has reported one.

        Example:
            >>> client.get_rate_limit_info() is None
            True

        See the reference page, "get_rate_limit_info()".
        """
        return self._rate_limit

    def get_usage_limits(self) -> UsageLimits:
        """Return the account's rate limits and spending.

        Returns:
            The limits.

        Raises:
            RecallError: Any failure, with the codes of :meth:`execute_workflow`.

        Example:
            >>> client.get_usage_limits().usage["plan"]
            'free'

        See the reference page, "get_usage_limits()".
        """
        with self._open(_requests.usage_limits()) as response:
            return _decoding.usage_limits(response)

    # ------------------------------------------------------------------------------------------------ the client itself

    def set_api_key(self, api_key: str) -> None:
        """Use another key for all later calls.

        Args:
            api_key: The key.

        Raises:
            ValueError: The key can't be sent.
            TypeError: The key is not a ``str``.

        Example:
            >>> client.set_api_key("another-key")
        """
        self._change(api_key=_arguments.check_api_key(api_key))

    def set_base_url(self, base_url: str) -> None:
        """Use another server for all later calls.

        Args:
            base_url: Such as ``https://host``, with an optional port and path prefix.

        Raises:
            ValueError: The URL is not usable.
            TypeError: The URL is not a ``str``.

        Example:
            >>> client.set_base_url("https://recall.example.com")
        """
        self._change(base_url=_arguments.check_base_url(base_url))

    def close(self) -> None:
        """Close the idle connections, except those of your own session. A later call opens a new connection.

        Example:
            >>> client.close()
        """
        self._transport.close()

    def __enter__(self: _Client) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> Dict[str, Any]:
        if not self._transport.owns_session:
            raise TypeError("a client with its own session can't be pickled or copied: create one from the same arguments instead")
        attributes = {name: value for name, value in vars(self).items() if name not in _INTERNAL}  # of a subclass or a user
        return {"settings": self._target.settings, "timeout": self._timeout, "process": _this_process(), "attributes": attributes}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        for name, value in state["attributes"].items():
            setattr(self, name, value)
        self._timeout = state["timeout"]
        self._transport = Transport(None) if state["process"] == _this_process() else _shared_transport(state["settings"])
        self._start(state["settings"])

    # ------------------------------------------------------------------------------------------------------------ inside

    def _start(self, settings: Settings) -> None:
        self._target = self._transport.target(settings)
        self._lock = threading.Lock()
        self._rate_limit: Optional[RateLimitInfo] = None

    def _seconds(self, timeout: _Timeout) -> Optional[float]:
        return self._timeout if timeout is ClientTimeout.DEFAULT else _arguments.check_timeout(timeout)

    def _change(self, **settings: str) -> None:
        with self._lock:
            self._target = self._transport.target(self._target.settings._replace(**settings))

    def _execution(self, workflow_id: str, input: Any, **options: Any) -> Request:
        try:
            return _requests.execute(workflow_id, input, **options)
        except RecallError as error:
            without_key(error, self.api_key)
            raise

    def _open(self, request: Request, timeout: _Timeout = ClientTimeout.DEFAULT) -> Response:
        """Send a request once and return its response, if that is a 2xx; note the rate limit that it reports."""
        seconds = self._timeout if timeout is ClientTimeout.DEFAULT else _arguments.check_timeout(timeout)
        response = self._transport.open(request, self._target, seconds)
        if any(map(response.headers.__contains__, LIMIT_HEADERS)):
            self._rate_limit = rate_limit_info(response) or self._rate_limit
        if not 200 <= response.status < 300:
            with response:
                error = error_of(response)
                self._rate_limit = getattr(error, "rate_limit", None) or self._rate_limit
                raise error
        return response

    def _execute(self, request: Request, timeout: _Timeout) -> Result:
        with self._open(request, timeout) as response:
            is_json = response.is_json and not request.stream and response.read()[:1] in _STARTS_OF_JSON
            return _decoding.execution(response) if is_json else read_execution(response)

    def _attempt(self, request: Request, timeout: Optional[float]) -> Tuple[Result, Optional[Level]]:
        """Make an attempt for a batch; return its result, and what the response says about the rate limit."""
        with self._open(request, timeout) as response:
            is_json = response.is_json and response.read()[:1] in _STARTS_OF_JSON
            return _decoding.execution(response) if is_json else read_execution(response), reported_level(response)

    def _ask_limits(self, *, asynchronous: bool) -> Optional[Level]:
        """Return the rate limit that the server reports on request; ``None`` if it does not say."""
        try:
            with self._open(_requests.usage_limits(), MAX_ASKING) as response:
                return usage_level(response, asynchronous=asynchronous)
        except Exception:  # noqa: BLE001 -- a hook of the user's session may raise anything
            return None

    def _poll(self, request: Request, remaining: Optional[float]) -> Tuple[Dict[str, Any], Optional[float]]:
        """Return a job's state and the server's retry-after, within the remaining seconds."""
        timeout = remaining if self._timeout is None else self._timeout if remaining is None else min(remaining, self._timeout)
        with self._open(request, timeout) as response:
            return _decoding.job_status(response), retry_after(response)


_INTERNAL = ("_target", "_timeout", "_transport", "_rate_limit", "_lock")

MAX_SHARED = 32
"""Maximum number of transports that a worker process keeps for the clients that arrive in it."""

_RUN_ID = os.urandom(8).hex()


def _this_process() -> Tuple[str, int]:
    # The number distinguishes a parent from its forks, the rest one machine from another.
    return _RUN_ID, os.getpid()


@lru_cache(maxsize=MAX_SHARED)
def _shared_transport(_settings: Settings) -> Transport:
    """Return the transport of all clients that arrive in this worker process with these settings."""
    return Transport(None)
