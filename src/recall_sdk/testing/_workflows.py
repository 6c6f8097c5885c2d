"""The demonstration workflows, which the documentation and the examples execute."""

import time
from typing import TYPE_CHECKING, Any, Dict, Iterator

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


def add_workflows(server: "RecallServer") -> None:
    """Register all of them.

    Args:
        server: Who is to serve them.
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
