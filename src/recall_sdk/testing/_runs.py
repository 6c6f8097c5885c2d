"""Workflows as plain functions, and their runs."""

import logging
import time
import uuid
from inspect import isgenerator
from json import dumps
from typing import Any, Callable, Dict, Generator, Iterator, NamedTuple, Optional, Tuple, cast

LOGGER = logging.getLogger("recall_sdk.testing")

Piece = Tuple[str, str]  # a block's id, and a piece of text from it


class Workflow(NamedTuple):
    """A function that the server runs under an id."""

    id: str
    function: Callable[[Any], Any]
    deployed_at: Optional[float]  # seconds since the epoch; None: not deployed


class Run:
    """One run. Iterate over it for the pieces of a stream; after that its outcome is available. It never raises.

    Attributes:
        execution_id: The run's own id.
        started: When it began, in seconds since the epoch.
        ended: When it ended, or ``None`` while it runs.
        output: The output of the workflow.
        error: Why the run failed, or ``None``.
    """

    def __init__(self, workflow: Workflow, given: Any, *, stream_content: bool = False) -> None:
        self.workflow_id = workflow.id
        self.execution_id = str(uuid.uuid4())
        self.started = time.time()
        self.ended: Optional[float] = None
        self.output: Any = {}
        self.error: Optional[str] = None
        self._workflow = workflow
        self._given = given
        self._stream_content = stream_content

    @property
    def milliseconds(self) -> float:
        """How long it took in seconds; 0 while it runs."""
        return 0.0 if self.ended is None else round((self.ended - self.started) * 1000, 3)

    def __iter__(self) -> Iterator[Piece]:
        try:
            output = yield from self._pieces()
            dumps(output, allow_nan=False)  # an output without a JSON form makes the run fail
            self.output = output
        except (KeyboardInterrupt, GeneratorExit):  # Ctrl-C, and a client that closed its stream
            raise
        # A workflow is the user's code: any exception makes the run fail, as on a real server. Those of pytest.fail() and sys.exit()
        # are not subclasses of Exception.
        except BaseException as error:
            LOGGER.debug("workflow %r failed", self.workflow_id, exc_info=True)
            name = type(error).__name__
            # The text of a KeyError is only the key, and that of a SystemExit only the status.
            self.error = f"{name}: {error}" if isinstance(error, (KeyError, SystemExit)) else str(error) or name
        finally:
            self.ended = time.time()

    def finish(self) -> "Run":
        """Run to the end."""
        for _ in self:
            pass
        return self

    def _pieces(self) -> Generator[Piece, None, Any]:
        outcome = self._workflow.function(self._given)
        if not isgenerator(outcome):
            content = cast("Dict[str, Any]", outcome).get("content") if isinstance(outcome, dict) else None
            if self._stream_content and isinstance(content, str):
                yield self._piece(content)
            return cast("Any", outcome)
        text = ""
        try:
            while True:
                try:
                    yielded = next(outcome)
                except StopIteration as end:
                    return {"content": text} if end.value is None else end.value
                piece = self._piece(yielded)
                text += piece[1]
                yield piece
        finally:
            outcome.close()

    def _piece(self, yielded: Any) -> Piece:
        piece = cast("Piece", yielded) if isinstance(yielded, tuple) else (f"{self.workflow_id}-block", yielded)
        if [type(part) for part in piece] != [str, str]:
            raise TypeError(f"a workflow yields text, or (block id, text), not {yielded!r}")
        return piece


def input_of(body: Dict[str, Any]) -> Any:
    """Return the input of a request: without the control fields, and unwrapped from ``{"input": value}`` if it is not a dict."""
    given = {key: value for key, value in body.items() if key not in ("stream", "selectedOutputs")}
    if list(given) == ["input"] and not isinstance(given["input"], dict):
        return given["input"]
    return given
