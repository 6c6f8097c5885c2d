"""A test server for this API, on loopback, for tests and for trying the SDK without an account.

It needs Werkzeug: ``pip install "recall-sdk[testing]"``.

Example:
    >>> from recall_sdk.testing import RecallServer
    >>> with RecallServer() as server:
    ...     @server.workflow("greet")
    ...     def greet(input):
    ...         return {"content": "Hello " + input["name"]}
    ...     server.client().execute_workflow("greet", {"name": "Ada"}).output
    {'content': 'Hello Ada'}
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recall_sdk.testing.server import RecallServer, RecordedRequest

__all__ = ["RecallServer", "RecordedRequest"]


def __getattr__(name: str) -> Any:
    """Import the server on first use, so that the pytest plugin costs nothing to those who don't use it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module("recall_sdk.testing.server"), name)
    except ModuleNotFoundError as error:
        raise ImportError(f'recall_sdk.testing needs {error.name}: pip install "recall-sdk[testing]"', name=error.name) from error
