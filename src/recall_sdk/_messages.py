"""The plain values that pass between the layers: a call to send, the answer to it, and an item of a batch."""

from dataclasses import dataclass
from typing import Any, Dict, Generic, Mapping, NamedTuple, Optional, TypeVar, Union

from recall_sdk.errors import RecallError
from recall_sdk.models import AsyncExecutionResult, WorkflowExecutionResult

Result = Union[WorkflowExecutionResult, AsyncExecutionResult]
R_co = TypeVar("R_co", bound=Result, covariant=True)

REQUEST_ID = "X-Request-Id"
"""The header with the id of an answer in the server's logs."""


class Call(NamedTuple):
    """One request, without the base URL, the key and the timeout."""

    method: str
    path: str
    body: Optional[bytes] = None
    stream: bool = False
    asynchronous: bool = False
    id: str = ""

    @property
    def executes(self) -> bool:
        """Whether it executes a workflow."""
        return self.body is not None

    @property
    def headers(self) -> Dict[str, str]:
        # Only encodings that can be decoded piece by piece.
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
        if self.stream:
            headers["Accept"] = "text/event-stream, application/json"
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        if self.asynchronous:
            headers["X-Execution-Mode"] = "async"
        return headers


class Answer(NamedTuple):
    """One whole answer.

    Attributes:
        call: The request.
        status: HTTP status.
        headers: Its headers, by name in any case.
        body: Its body, decompressed.
        received: When its head arrived, in seconds since the epoch.
        retry_after: Seconds, from the ``Retry-After`` header, or ``None``.
        clock_offset: Seconds by which the server's clock is ahead of ours, by its ``Date`` header; 0 if it sends none.
    """

    call: Call
    status: int
    headers: Mapping[str, str]
    body: bytes
    received: float
    retry_after: Optional[float]
    clock_offset: float = 0.0


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
