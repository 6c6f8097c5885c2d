"""The values that calls return, as plain dataclasses."""

from dataclasses import dataclass, field
from typing import Any, Dict, Generic, List, Optional, TypeVar, Union

from recall_sdk.errors import RecallError


@dataclass
class WorkflowExecutionResult:
    """The result of one run of a workflow.

    Attributes:
        success: Whether the workflow succeeded. If ``False``, ``error`` says why.
        output: The output of the workflow, any JSON value.
        error: The server's reason for the failure, or ``None``.
        logs: One entry for each executed block, or ``None`` if the server sends none.
        metadata: Facts about the run, such as ``duration`` (milliseconds) and ``executionId``, or ``None``.
        trace_spans: Timing of the blocks, or ``None``.
        total_duration: Duration of the whole run in milliseconds, or ``None``.

    Example:
        >>> result = client.execute_workflow("greet", {"name": "Ada"})
        >>> result.success, result.output, result.error
        (True, {'content': 'Hello Ada'}, None)

    See the reference page, "WorkflowExecutionResult".
    """

    success: bool
    output: Optional[Any] = None
    error: Optional[str] = None
    logs: Optional[List[Any]] = None
    metadata: Optional[Dict[str, Any]] = None
    trace_spans: Optional[List[Any]] = None
    total_duration: Optional[float] = None


def _no_text() -> Dict[str, str]:
    return {}


@dataclass
class StreamedExecutionResult(WorkflowExecutionResult):
    """The result of one streamed run, with the streamed text.

    Attributes:
        text: All streamed text, in order of arrival.
        text_by_block: The streamed text of each block, by block id.

    Example:
        >>> result = client.execute_workflow("count", stream=True)
        >>> result.text, result.text_by_block
        ('One, two', {'count-block': 'One, two'})
    """

    text: str = ""
    text_by_block: Dict[str, str] = field(default_factory=_no_text)


@dataclass
class AsyncExecutionResult:
    """A queued run. Pass it to :meth:`RecallClient.wait_for_job`.

    Attributes:
        success: Whether the server accepted the run.
        task_id: The id for :meth:`RecallClient.get_job_status`.
        status: ``"queued"``.
        created_at: When it was queued (ISO 8601), or an empty string if the server does not say.
        links: The address of its status, under ``"status"``.

    Example:
        >>> job = client.execute_workflow("greet", async_execution=True)
        >>> job.status, job.links["status"] == f"/api/jobs/{job.task_id}"
        ('queued', True)

    See the reference page, "AsyncExecutionResult".
    """

    success: bool
    task_id: str
    status: str
    created_at: str
    links: Dict[str, str]


Result = Union[WorkflowExecutionResult, AsyncExecutionResult]
R_co = TypeVar("R_co", bound=Result, covariant=True)


@dataclass
class BatchItem(Generic[R_co]):
    """One finished item of a batch, with either a result or an error.

    Attributes:
        index: Its position in the source, from 0.
        workflow_id: The id of the workflow, as passed in.
        input: The input, as passed in.
        result: The result of the execution, or ``None`` if it failed.
        error: The error of the execution, or ``None``.

    Example:
        >>> (item,) = client.execute_batch([("greet", {"name": "Ada"})])
        >>> item.index, item.result.output, item.error
        (0, {'content': 'Hello Ada'}, None)
    """

    index: int
    workflow_id: str
    input: Any
    result: Optional[R_co]
    error: Optional[RecallError]


@dataclass
class WorkflowStatus:
    """Whether a workflow can be executed.

    Attributes:
        is_deployed: Whether it is deployed.
        deployed_at: When it was deployed (ISO 8601), or ``None``.
        needs_redeployment: Whether it was changed since then.

    Example:
        >>> client.get_workflow_status("draft")
        WorkflowStatus(is_deployed=False, deployed_at=None, needs_redeployment=False)

    See the reference page, "WorkflowStatus".
    """

    is_deployed: bool
    deployed_at: Optional[str] = None
    needs_redeployment: bool = False


@dataclass
class RateLimitInfo:
    """The rate limit reported in a response.

    Attributes:
        limit: Requests allowed in a window.
        remaining: Requests that remain in the window.
        reset: When the window ends, in seconds since the epoch.
        retry_after: Whole seconds to wait before the next request, rounded up, or ``None``.

    Example:
        >>> info = RateLimitInfo(limit=60, remaining=15, reset=1800000000)
        >>> f"{info.remaining} of {info.limit} requests remain"
        '15 of 60 requests remain'

    See the reference page, "RateLimitInfo".
    """

    limit: int
    remaining: int
    reset: int
    retry_after: Optional[int] = None


@dataclass
class UsageLimits:
    """Rate limits and spending of the account.

    Attributes:
        success: Whether the server reports success.
        rate_limit: ``sync`` and ``async``, each with ``isLimited``, ``limit``, ``remaining`` and ``resetAt``; ``authType``.
        usage: ``currentPeriodCost``, ``limit`` and ``plan``.

    Example:
        >>> limits = client.get_usage_limits()
        >>> limits.rate_limit["sync"]["isLimited"], limits.usage["plan"]
        (False, 'free')

    See the reference page, "UsageLimits".
    """

    success: bool
    rate_limit: Dict[str, Any]
    usage: Dict[str, Any]


@dataclass
class StreamEvent:
    """One event of a live stream.

    Attributes:
        type: ``"chunk"``, ``"chunk_reset"`` (the server retracts all text of the block), ``"block_error"``, ``"done"``, ``"message"``,
            or a type of the server's own.
        block_id: The block that it comes from, or ``None``.
        chunk: The piece of text of a ``"chunk"``; empty for others.
        data: The payload as received.

    Example:
        >>> with client.stream_workflow("count") as stream:
        ...     event = next(stream)
        >>> event.type, event.block_id, event.chunk
        ('chunk', 'count-block', 'One')
    """

    type: str
    block_id: Optional[str]
    chunk: str
    data: Dict[str, Any]
