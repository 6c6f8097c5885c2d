"""A test server for this API, on loopback, for tests and for trying the SDK without an account.

It needs Werkzeug, which the extra ``testing`` installs: in a clone of the repository, ``pip install -e ".[testing]"``.

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
    """Import the server on first use, so that the command and the demonstration can say what to install."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module("recall_sdk.testing.server"), name)
    except ModuleNotFoundError as error:
        message = f'recall_sdk.testing needs {error.name}: install the extra "testing", in a clone with pip install -e ".[testing]"'
        raise ImportError(message, name=error.name) from error
