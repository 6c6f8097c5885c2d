"""A test server for scripts without an API key: ``import recall_sdk.testing.demo`` starts it.

If ``RECALL_API_KEY`` is not set, the import starts a server in this process, with the workflows that
``python -m recall_sdk.testing --help`` lists and a limit of 10 executions per second, and sets ``RECALL_API_KEY`` and ``RECALL_BASE_URL``
to it. If it is set, the import does nothing, and does not need Werkzeug.
"""

import atexit
import logging
import os
import sys
from typing import Optional

from recall_sdk import testing  # it imports Werkzeug on first use of RecallServer
from recall_sdk.testing._workflows import add_workflows, no_proxy

__all__ = ["server"]


def _start() -> "Optional[testing.RecallServer]":
    if os.environ.get("RECALL_API_KEY"):
        return None
    logging.getLogger("recall_sdk.testing").setLevel(logging.WARNING)  # its log is not the script's
    started = testing.RecallServer(rate_limit=10)
    add_workflows(started)
    started.start()
    atexit.register(started.stop)  # a thread that is stopped by the end of the interpreter may hold a lock of logging
    os.environ.update(RECALL_API_KEY=started.api_key, RECALL_BASE_URL=started.base_url, no_proxy=no_proxy("127.0.0.1"))
    sys.stderr.write(f"RECALL_API_KEY is not set: running on a test server at {started.base_url}\n")
    return started


server: "Optional[testing.RecallServer]" = _start()
"""The running server, or ``None`` if the script has a key."""
