"""The Python SDK for Recall: execute workflows, follow their streams and jobs, run batches."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, List

from recall_sdk._version import __version__

if TYPE_CHECKING:
    from recall_sdk._batch import BatchItem
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

_HOMES = ("models", "errors", "streaming", "_batch", "client")
"""Where the public names live, those that load least first."""


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562), so that the import alone costs next to nothing."""
    for home in _HOMES if name in __all__ else ():
        module = import_module(f"recall_sdk.{home}")
        if name in module.__all__:
            value = globals()[name] = getattr(module, name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> List[str]:
    return sorted(__all__)
