"""An attempt of a batch, made in the calling thread or by the caller's executor."""

import os
import sys
import threading
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Callable, Dict, Optional, Tuple

from recall_sdk._rate_limits import Level
from recall_sdk._requests import Request
from recall_sdk._translation import foreign_failure, invalid_argument
from recall_sdk.errors import RecallError
from recall_sdk.models import Result

Attempt = Callable[[Request], Tuple[Result, Optional[Level]]]
Outcome = Tuple[Optional[Result], Optional[Level], Optional[RecallError]]


class Attempts:
    """Makes attempts. Threads may share it.

    Args:
        attempt: Makes one execution and returns its result, and the level reported in this response. With an executor of processes it must
            be picklable.
        executor: Runs the attempts; ``None`` for the calling threads. It is not shut down here.
    """

    def __init__(self, attempt: Attempt, executor: Optional[Executor]) -> None:
        self._attempt, self._executor = attempt, executor
        self._submitting = threading.Lock()  # the executor may not be thread-safe
        self._futures: Dict[int, Future[Outcome]] = {}  # the newest of each thread

    def make(self, request: Request) -> Outcome:
        """Make an attempt, and return its result or its error. It raises nothing."""
        if self._executor is None:
            return _outcome(b"", self._attempt, request)
        future: Optional[Future[Outcome]] = None
        try:
            with self._submitting:
                future = self._futures[threading.get_ident()] = self._executor.submit(_outcome, os.urandom(16), self._attempt, request)
            return future.result()
        except BaseException as error:  # a broken executor, a dead worker process, a cancelled future
            if isinstance(error, (ValueError, TypeError)) and not (future and _pickles((self._attempt, request))):
                return None, None, invalid_argument(error)  # nothing was sent
            return None, None, foreign_failure(error, "the executor did not run the item", may_have_executed=future is not None)

    def cancel(self) -> None:
        """Cancel what the executor has not begun. It takes no lock: a garbage collection may call it, in any thread and at any moment."""
        for future in list(self._futures.values()):
            future.cancel()


def _outcome(_unique: bytes, attempt: Attempt, request: Request) -> Outcome:
    """Make an attempt. No two tasks have the same random bytes, because Dask reuses the result of an identical task."""
    try:
        return (*attempt(request), None)
    except BaseException as error:  # a foreign one is from a hook of the user's session, perhaps after sending
        return None, None, foreign_failure(error, "the item failed", may_have_executed=True)


def _pickles(task: object) -> bool:
    pickle = sys.modules.get("pickle")  # an executor that pickles has imported it
    with suppress(Exception):  # of any object of the caller's
        return pickle is None or bool(pickle.dumps(task))
    return False
