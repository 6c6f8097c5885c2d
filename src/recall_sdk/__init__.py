"""The Python SDK for Recall: execute workflows, follow their streams and jobs, run batches."""

from recall_sdk._version import __version__
from recall_sdk.client import RecallClient
from recall_sdk.errors import (
    AuthenticationError,
    ExecutionError,
    InvalidRequestError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RecallConnectionError,
    RecallError,
    RecallTimeoutError,
    RedirectError,
    ServerError,
    StreamInterruptedError,
    UsageLimitError,
)
from recall_sdk.models import (
    AsyncExecutionResult,
    BatchItem,
    RateLimitInfo,
    StreamedExecutionResult,
    StreamEvent,
    UsageLimits,
    WorkflowExecutionResult,
    WorkflowStatus,
)
from recall_sdk.streaming import WorkflowStream

__all__ = [
    "AsyncExecutionResult",
    "AuthenticationError",
    "BatchItem",
    "ExecutionError",
    "InvalidRequestError",
    "InvalidResponseError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "RateLimitInfo",
    "RecallClient",
    "RecallConnectionError",
    "RecallError",
    "RecallTimeoutError",
    "RedirectError",
    "ServerError",
    "StreamEvent",
    "StreamInterruptedError",
    "StreamedExecutionResult",
    "UsageLimitError",
    "UsageLimits",
    "WorkflowExecutionResult",
    "WorkflowStatus",
    "WorkflowStream",
    "__version__",
]
