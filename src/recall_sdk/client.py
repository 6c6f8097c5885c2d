"""The client: each method builds a call, sends it, and decodes the answer."""

import os
import random
import threading
import time
from concurrent.futures import Executor
from functools import partial
from types import TracebackType
from typing import Any, Callable, Dict, Generator, Iterable, Literal, Optional, Sequence, Tuple, Type, TypeVar, Union, overload

from recall_sdk import _decoding, _endpoints
from recall_sdk._batch import Batch, BatchItem, Result
from recall_sdk._jobs import wait_for_job
from recall_sdk._messages import Answer, Call
from recall_sdk._redaction import without_key
from recall_sdk._settings import ClientTimeout, Settings, check_api_key, check_base_url, check_timeout, read_settings
from recall_sdk._transport import OpenResponse, Session, Transport
from recall_sdk.errors import NotFoundError, RateLimitError, RecallError
from recall_sdk.models import (
    AsyncExecutionResult,
    RateLimitInfo,
    StreamedExecutionResult,
    UsageLimits,
    WorkflowExecutionResult,
    WorkflowStatus,
)
from recall_sdk.retry import Backoff, call_with_retry
from recall_sdk.streaming import WorkflowStream

__all__ = ["RecallClient"]

MAX_ASKING = 5.0
"""Seconds for a batch's question about the usage limits: its workers wait meanwhile."""

_T = TypeVar("_T")
_Timeout = Union[float, None, ClientTimeout]


class RecallClient:
    """A client of the Recall API. Threads may share one; after a fork, each process goes on with connections of its own.

    Args:
        api_key: The API key; without one, that of the environment variable ``RECALL_API_KEY``.
        base_url: Where the API is; without one, ``RECALL_BASE_URL``, else ``https://tryrecall.com``. It may have a path prefix.
        timeout: Seconds of wall clock for each whole call that is given none of its own; ``None`` waits for ever.
        session: A session of your own, for proxies, TLS, adapters or hooks. The client does not close it.

    Raises:
        ValueError: No key, or one that can't be sent; no usable base URL; a timeout that is not above 0.
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
        self._timeout = check_timeout(timeout)
        self._transport = Transport(session)
        self._target = self._transport.target(read_settings(api_key, base_url))
        self._lock = threading.Lock()
        self._rate_limit: Optional[RateLimitInfo] = None

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
        """Execute a workflow once, and wait for its result.

        Args:
            workflow_id: The id of the workflow.
            input: Its input, any JSON value. A dict is spread at the root of the body, anything else is sent as ``input``.
                A file open for reading in binary, anywhere inside, is sent along as the API takes files.
            timeout: Seconds of wall clock for the whole call, ``None`` for no limit; by default the client's. With ``stream`` it bounds
                the wait for the answer, and then each silence.
            stream: Ask for a stream, and read it to its end; :meth:`stream_workflow` hands it over as it arrives.
            selected_outputs: Outputs to stream, each as ``"blockName.attribute"``.
            async_execution: Queue the run and return its ticket at once; :meth:`wait_for_job` waits for it.

        Returns:
            The result; a :class:`StreamedExecutionResult` of a stream; the :class:`AsyncExecutionResult` of a queued run.
            A run that failed may come as a result with ``success=False``.

        Raises:
            ValueError: An id that can't be one, ``async_execution`` with ``stream``, or a timeout that is not above 0.
            InvalidRequestError: The input has no JSON form (``INVALID_JSON``), or the server refuses it (its code, else
                ``INVALID_REQUEST``).
            AuthenticationError: Wrong key (``UNAUTHORIZED``).
            PermissionDeniedError: Not allowed, or not deployed (the server's code, such as ``WORKFLOW_NOT_DEPLOYED``, else ``FORBIDDEN``).
            NotFoundError: No such workflow (the server's code, such as ``WORKFLOW_NOT_FOUND``, else ``NOT_FOUND``).
            RateLimitError: Too many requests (``RATE_LIMIT_EXCEEDED``).
            UsageLimitError: Spending limit reached (``USAGE_LIMIT_EXCEEDED``).
            ExecutionError: The workflow failed (``EXECUTION_ERROR``).
            RecallTimeoutError: Out of time (``TIMEOUT``).
            RecallConnectionError: No connection, or one that broke (``CONNECTION_ERROR``; in a stream ``STREAM_INTERRUPTED``).
            ServerError: The server failed (its code, else ``SERVER_ERROR``).
            RedirectError: A redirect that is not safe to follow (``REDIRECT_REFUSED``).
            InvalidResponseError: An answer that can't be read (``INVALID_RESPONSE``).
            RecallError: All of these; ``may_have_executed`` says whether the workflow could have run.

        Example:
            >>> client.execute_workflow("greet", {"name": "Ada"}).output
            {'content': 'Hello Ada'}

        See the reference page, "execute_workflow()".
        """
        call = self._execution(workflow_id, input, stream=stream, selected_outputs=selected_outputs, asynchronous=async_execution)
        return self._execute(call, self._seconds(timeout))[0]

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
        """Execute a workflow, and try again where the rate limit refuses it: a 429 says that the run did not start.

        The delays grow exponentially, with 25 % jitter. A retry-after of the server is kept to the second instead; one of more than an
        hour is not waited for.

        Args:
            workflow_id: As for :meth:`execute_workflow`.
            input: As for :meth:`execute_workflow`; files are read once.
            timeout: Seconds for each try, not for all; ``None`` for no limit; by default the client's.
            stream: As for :meth:`execute_workflow`.
            selected_outputs: As for :meth:`execute_workflow`.
            async_execution: As for :meth:`execute_workflow`.
            max_retries: Retries after the first try.
            initial_delay: Seconds before the first retry.
            max_delay: Seconds before a retry at most, unless the server asks for more.
            backoff_multiplier: Growth from one delay to the next, 1 or more.

        Returns:
            As :meth:`execute_workflow`.

        Raises:
            ValueError: Also for retry settings out of their bounds.
            RateLimitError: The last one, after all retries (``RATE_LIMIT_EXCEEDED``).
            RecallError: As for :meth:`execute_workflow`; nothing but a 429 is retried.

        Example:
            >>> client.execute_with_retry("greet", {"name": "Ada"}, max_retries=5).success
            True

        See the reference page, "execute_with_retry()".
        """
        backoff = Backoff(max_retries, initial_delay, max_delay, backoff_multiplier)
        call = self._execution(workflow_id, input, stream=stream, selected_outputs=selected_outputs, asynchronous=async_execution)
        attempt = partial(self._execute, call, self._seconds(timeout))
        return call_with_retry(attempt, backoff, sleep=time.sleep, random=random.random)[0]

    def stream_workflow(
        self,
        workflow_id: str,
        input: Any = None,
        *,
        timeout: _Timeout = ClientTimeout.DEFAULT,
        selected_outputs: Optional[Sequence[str]] = None,
    ) -> WorkflowStream:
        """Execute a workflow, and hand over its events as they arrive.

        Args:
            workflow_id: As for :meth:`execute_workflow`.
            input: As for :meth:`execute_workflow`.
            timeout: Seconds until the answer begins, and then for each silence between bytes; ``None`` for no limit.
            selected_outputs: Outputs to stream, each as ``"blockName.attribute"``; servers stream no others.

        Returns:
            A stream to iterate, best inside ``with``.

        Raises:
            ValueError: As for :meth:`execute_workflow`.
            RecallError: As for :meth:`execute_workflow`, here and while iterating.

        Example:
            >>> with client.stream_workflow("count", selected_outputs=["agent1.content"]) as stream:
            ...     for piece in stream.text():
            ...         print(piece, end="")
            One, two
        """
        call = self._execution(workflow_id, input, stream=True, selected_outputs=selected_outputs)

        def read(response: OpenResponse, api_key: str) -> WorkflowStream:
            whole = None if response.is_event_stream else _decoding.execution_of_stream(response.read())
            return WorkflowStream(response, api_key, whole)

        return self._send(call, read, self._seconds(timeout))[0]

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
    ) -> Generator[BatchItem[WorkflowExecutionResult], None, None]: ...

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
    ) -> Generator[BatchItem[AsyncExecutionResult], None, None]: ...

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
    ) -> Generator[BatchItem[Result], None, None]: ...

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
    ) -> Generator[BatchItem[Any], None, None]:
        """Execute many workflows side by side, and hand over each as it ends. Nothing is sent before the first is asked for.

        The workers share what they learn of the server's rate limit, so that it is used fully with next to no refused requests.

        Args:
            items: Pairs of a workflow id and its input; any iterable, also an endless one. It is drawn from as results are read.
            max_workers: Executions in flight at most.
            executor: Where to run them, any :class:`concurrent.futures.Executor`; by default threads of the batch's own.
            timeout: Seconds for each try of each execution; ``None`` for no limit; by default the client's.
            async_execution: Queue the runs; each result is a ticket.
            max_retries: Retries of one item after 429s.
            initial_delay: As for :meth:`execute_with_retry`.
            max_delay: As for :meth:`execute_with_retry`.
            backoff_multiplier: As for :meth:`execute_with_retry`.

        Returns:
            An iterator of :class:`BatchItem`, in the order in which they finish. Closing it early stops what is queued; calls in flight end
            on their own.

        Raises:
            ValueError: Settings out of their bounds.
            TypeError: Settings, or, while iterating, an item of the wrong type.

        Example:
            >>> items = [("greet", {"name": "Ada"}), ("greet", {"name": "Alan"})]
            >>> for item in sorted(client.execute_batch(items), key=lambda item: item.index):
            ...     print(item.index, item.result.output)
            0 {'content': 'Hello Ada'}
            1 {'content': 'Hello Alan'}
        """
        _endpoints.check_flags(async_execution=async_execution)
        return Batch(
            items,
            partial(self._execution, asynchronous=async_execution),
            partial(self._execute, timeout=self._seconds(timeout)),
            partial(self._ask_limits, asynchronous=async_execution),
            max_workers=max_workers,
            executor=executor,
            policy=Backoff(max_retries, initial_delay, max_delay, backoff_multiplier),
            random=random.random,
        ).run()

    # ---------------------------------------------------------------------------------------------------- questions

    def get_workflow_status(self, workflow_id: str) -> WorkflowStatus:
        """Ask whether a workflow is deployed.

        Args:
            workflow_id: The id of the workflow.

        Returns:
            Its status.

        Raises:
            ValueError: An id that can't be one.
            NotFoundError: No such workflow (``NOT_FOUND``, or the server's code).
            RecallError: Every other failure, with the codes of :meth:`execute_workflow`.

        Example:
            >>> client.get_workflow_status("greet").is_deployed
            True

        See the reference page, "get_workflow_status()".
        """
        return self._ask(_endpoints.workflow_status(workflow_id), _decoding.workflow_status)

    def validate_workflow(self, workflow_id: str) -> bool:
        """Tell whether a workflow exists and is deployed.

        Args:
            workflow_id: The id of the workflow.

        Returns:
            ``False`` where it is not deployed, or does not exist.

        Raises:
            ValueError: An id that can't be one.
            RecallError: Every failure but a 404, with the codes of :meth:`execute_workflow`: a wrong key does not mean "not deployed".

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
        """Ask for the state of a queued run.

        Args:
            task_id: The ``task_id`` of its ticket.

        Returns:
            A dict with ``success``, ``taskId``, ``status`` (``queued``, ``processing``, ``completed``, ``failed`` or ``cancelled``),
            ``output``, ``error`` and ``metadata`` (``startedAt``, ``completedAt``, and ``duration`` in milliseconds), each ``None``
            where it is not known yet, and whatever else the server sends.

        Raises:
            ValueError: An id that can't be one.
            NotFoundError: No such job (the server's code, such as ``TASK_NOT_FOUND``, else ``NOT_FOUND``).
            RecallError: Every other failure, with the codes of :meth:`execute_workflow`.

        Example:
            >>> ticket = client.execute_workflow("greet", {"name": "Ada"}, async_execution=True)
            >>> client.get_job_status(ticket.task_id)["taskId"] == ticket.task_id
            True

        See the reference page, "get_job_status()".
        """
        return self._ask(_endpoints.job_status(task_id), _decoding.job_status)

    def wait_for_job(
        self,
        job: Union[AsyncExecutionResult, str],
        *,
        timeout: Optional[float] = 3600.0,
        poll_interval: float = 1.0,
        max_poll_interval: float = 10.0,
        on_update: Optional[Callable[[Dict[str, Any]], object]] = None,
    ) -> Dict[str, Any]:
        """Wait until a queued run has ended. Failures that may pass (connection, 429, 5xx) are survived until the time is up.

        Args:
            job: The ticket, or its task id, also from another process.
            timeout: Seconds to wait at most; ``None`` waits for ever.
            poll_interval: Seconds between the first two polls; the next intervals grow by half, and keep the server's retry-after.
            max_poll_interval: Seconds between two polls at most.
            on_update: Called with the first status and each changed one, for a progress bar.

        Returns:
            The status of the completed job, as :meth:`get_job_status` gives it.

        Raises:
            ValueError: Settings out of their bounds.
            ExecutionError: It failed (``EXECUTION_ERROR``) or was cancelled (``JOB_CANCELLED``).
            RecallTimeoutError: Time is up (``TIMEOUT``); the job goes on.
            RecallError: Every other failure, such as an unknown id or a wrong key, as :meth:`get_job_status`.

        Example:
            >>> ticket = client.execute_workflow("greet", {"name": "Ada"}, async_execution=True)
            >>> client.wait_for_job(ticket, poll_interval=0.1)["output"]
            {'content': 'Hello Ada'}
        """
        task_id = job.task_id if isinstance(job, AsyncExecutionResult) else job
        if not isinstance(task_id, str):
            raise TypeError(
                f"job must be the ticket of a queued run, or its task id, not {type(job).__name__}: "
                "execute_workflow(..., async_execution=True) gives one"
            )
        if on_update is not None and not callable(on_update):
            raise TypeError(f"on_update must be callable, not {type(on_update).__name__}")
        call = _endpoints.job_status(task_id)
        api_key = self.api_key
        try:
            return wait_for_job(
                partial(self._poll, call),
                task_id,
                timeout=check_timeout(timeout),
                poll_interval=poll_interval,
                max_poll_interval=max_poll_interval,
                on_update=on_update,
                clock=time.monotonic,
                sleep=time.sleep,
            )
        except RecallError as error:
            without_key(error, api_key)
            raise

    def get_rate_limit_info(self) -> Optional[RateLimitInfo]:
        """Tell what the newest answer said of the rate limit. Nothing is sent.

        Returns:
            The newest known, or ``None`` before an answer told anything.

        Example:
            >>> client.get_rate_limit_info() is None
            True

        See the reference page, "get_rate_limit_info()".
        """
        return self._rate_limit

    def get_usage_limits(self) -> UsageLimits:
        """Ask for the account's rate limits and spending.

        Returns:
            The limits.

        Raises:
            RecallError: Every failure, with the codes of :meth:`execute_workflow`.

        Example:
            >>> client.get_usage_limits().usage["plan"]
            'free'

        See the reference page, "get_usage_limits()".
        """
        return self._ask(_endpoints.usage_limits(), _decoding.usage_limits)

    # ------------------------------------------------------------------------------------------------ the client itself

    def set_api_key(self, api_key: str) -> None:
        """Use another key from the next call on. The cookies that the server set for the former one are dropped.

        Args:
            api_key: The key.

        Raises:
            ValueError: A key that can't be sent.
            TypeError: It is no str.

        Example:
            >>> client.set_api_key("another-key")
        """
        self._change(api_key=check_api_key(api_key))
        self._transport.forget_cookies()

    def set_base_url(self, base_url: str) -> None:
        """Use another server from the next call on.

        Args:
            base_url: Like ``https://host``, with a port or a path prefix if need be.

        Raises:
            ValueError: No such URL.
            TypeError: It is no str.

        Example:
            >>> client.set_base_url("https://recall.example.com")
        """
        self._change(base_url=check_base_url(base_url))

    def close(self) -> None:
        """Close the idle connections. A session of your own stays as it is. A call after this opens a new connection.

        Example:
            >>> client.close()
        """
        self._transport.close()

    def __enter__(self) -> "RecallClient":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]) -> None:
        self.close()

    def __reduce__(self) -> Tuple[Any, ...]:
        if not self._transport.owns_session:
            raise TypeError("a client with a session of your own can't be pickled or copied: make one from the same arguments instead")
        return _revive, (type(self), self._target.settings, self._timeout, _this_process(), _own_attributes(self))

    # ------------------------------------------------------------------------------------------------------------ inside

    def _seconds(self, timeout: _Timeout) -> Optional[float]:
        return self._timeout if timeout is ClientTimeout.DEFAULT else check_timeout(timeout)

    def _change(self, **settings: str) -> None:
        with self._lock:
            self._target = self._transport.target(self._target.settings._replace(**settings))

    def _execution(
        self,
        workflow_id: str,
        input: Any,
        *,
        stream: bool = False,
        selected_outputs: Optional[Sequence[str]] = None,
        asynchronous: bool = False,
    ) -> Call:
        try:
            return _endpoints.execute(workflow_id, input, stream=stream, selected_outputs=selected_outputs, asynchronous=asynchronous)
        except RecallError as error:
            without_key(error, self.api_key)
            raise

    def _send(self, call: Call, read: Callable[[OpenResponse, str], _T], timeout: Optional[float]) -> Tuple[_T, Optional[RateLimitInfo]]:
        """Send a call once; return what ``read`` makes of its answer and the key, and the rate limit reported in this very answer."""
        target = self._target  # with the key that is sent, whatever is set meanwhile
        try:
            response = self._transport.open(call, target, timeout)
            rate_limit = _decoding.rate_limit(response.head)
            self._note(rate_limit)
            return read(response, target.settings.api_key), rate_limit
        except RecallError as error:
            if isinstance(error, RateLimitError):
                self._note(error.rate_limit)
            without_key(error, target.settings.api_key)
            raise

    def _note(self, rate_limit: Optional[RateLimitInfo]) -> None:
        if rate_limit is not None:
            self._rate_limit = rate_limit

    def _execute(self, call: Call, timeout: Optional[float]) -> Tuple[Result, Optional[RateLimitInfo]]:
        return self._send(call, _read_execution, timeout)

    def _ask(self, call: Call, decode: Callable[[Answer], _T], timeout: _Timeout = ClientTimeout.DEFAULT) -> _T:
        return self._send(call, lambda response, _: decode(response.read()), self._seconds(timeout))[0]

    def _ask_limits(self, *, asynchronous: bool) -> Optional[Tuple[int, int, float]]:
        """Ask for the requests that remain, of how many, and for the seconds until the reset; ``None`` if the server does not say."""
        try:
            return self._ask(_endpoints.usage_limits(), partial(_decoding.remaining_requests, asynchronous=asynchronous), MAX_ASKING)
        except RecallError:
            return None

    def _poll(self, call: Call, left: Optional[float]) -> Tuple[Dict[str, Any], Optional[float]]:
        """Ask for a job's state within the seconds that are left; give the server's retry-after too."""
        timeout = left if self._timeout is None else self._timeout if left is None else min(left, self._timeout)
        return self._ask(call, lambda answer: (_decoding.job_status(answer), answer.retry_after), timeout)


def _read_execution(response: OpenResponse, api_key: str) -> Result:
    call = response.head.call
    if not response.is_event_stream:
        result = _decoding.execution(response.read())
        return StreamedExecutionResult(**vars(result)) if call.stream and isinstance(result, WorkflowExecutionResult) else result
    if call.asynchronous:
        response.close()
        raise _decoding.unreadable(response.head, "is a stream, and has no task id")
    return WorkflowStream(response, api_key).result


_INTERNAL = ("_target", "_timeout", "_transport", "_rate_limit", "_lock")

MAX_REVIVED = 32
"""Clients that a worker process keeps. Of more, the oldest is dropped; what still uses it goes on."""

_revived: Dict[Tuple[Any, ...], RecallClient] = {}
_RUN_ID = os.urandom(8).hex()


def _this_process() -> Tuple[str, int]:
    # The number distinguishes a parent from its forks, the rest one machine from another.
    return _RUN_ID, os.getpid()


def _own_attributes(client: RecallClient) -> Dict[str, Any]:
    """Return what a subclass, or anybody else, has set on a client."""
    return {name: value for name, value in vars(client).items() if name not in _INTERNAL}


def _revive(
    kind: Type[RecallClient], settings: Settings, timeout: Optional[float], origin: Tuple[str, int], attributes: Dict[str, Any]
) -> RecallClient:  # no method: cloudpickle, and so Ray and loky, pickles a function of a module by its name alone
    """Make a copy: at home a new client; in a worker process one for all equal ones that arrive there, so that connections are kept."""
    if origin == _this_process():
        return _copy(kind, settings, timeout, attributes)
    key = (kind, settings, timeout)
    client = _revived.get(key) or _revived.setdefault(key, _copy(kind, settings, timeout, attributes))
    # The settings of the one that is here may have been changed.
    if (client.api_key, client.base_url, _own_attributes(client)) != (*settings, attributes):
        client = _revived[key] = _copy(kind, settings, timeout, attributes)
    for oldest in list(_revived)[:-MAX_REVIVED]:
        _revived.pop(oldest, None)
    return client


def _copy(kind: Type[RecallClient], settings: Settings, timeout: Optional[float], attributes: Dict[str, Any]) -> RecallClient:
    client = kind.__new__(kind)  # a subclass may have a constructor with other arguments
    RecallClient.__init__(client, *settings, timeout=timeout)
    vars(client).update(attributes)
    return client
