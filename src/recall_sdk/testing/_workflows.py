"""What the command, the demonstration and the fixture share: workflows to try, and the environment of a client on the same machine."""

import os
import time
from typing import TYPE_CHECKING, Any, Dict, Iterator, List
from urllib.parse import urlsplit
from urllib.request import getproxies

if TYPE_CHECKING:
    from recall_sdk.testing.server import RecallServer

SUMMARY = """\
  greet   returns {"content": "Hello NAME"} for the input {"name": NAME}
  echo    returns its input
  count   streams the numbers from one to five
  slow    takes 3 seconds, or {"seconds": SECONDS}: try it with async_execution=True
  fail    fails
  draft   is not deployed"""

PAUSE = 0.2
"""Seconds between two pieces of a stream: slow enough to see."""


def no_proxy(host: str) -> str:
    """Return a value of the variable ``no_proxy`` that adds this host to the current ones."""
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return f"{others},{host}" if others else host


def exports(api_key: str, base_url: str) -> List[str]:
    """Return the shell lines to run before a client of this server."""
    host = str(urlsplit(base_url).hostname)
    lines = [f"export RECALL_API_KEY={api_key}", f"export RECALL_BASE_URL={base_url}"]
    return [*lines, f"export no_proxy={no_proxy(host)}"] if "http" in getproxies() else lines


def add_workflows(server: "RecallServer") -> None:
    """Register the workflows that ``SUMMARY`` lists.

    Args:
        server: The server that runs them.
    """

    @server.workflow("greet")
    def greet(input: Dict[str, Any]) -> Any:
        return {"content": f"Hello {input.get('name', 'you')}"}

    @server.workflow("echo")
    def echo(input: Any) -> Any:
        return input

    @server.workflow("count")
    def count(_input: Any) -> Iterator[str]:
        for text in ("One", ", two", ", three", ", four", ", five"):
            yield text
            time.sleep(PAUSE)

    @server.workflow("slow")
    def slow(input: Dict[str, Any]) -> Any:
        seconds = float(input.get("seconds", 3))
        time.sleep(seconds)
        return {"content": f"That took {seconds:g} s"}

    @server.workflow("fail")
    def fail(_input: Any) -> Any:
        raise RuntimeError("this workflow always fails")

    server.workflow("draft", deployed=False)(echo)
