"""Many executions in parallel: worker threads between two queues, and one limiter for all of them.

The reader takes items from the source, prepares them and queues them. Each worker takes a queued item, waits for the limiter, makes the
attempt or submits it to the executor, retries after a 429, and puts the finished item on the second queue.
"""

import logging
import os
import queue
import threading
import time
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable, Generator, Generic, Iterable, Optional, Set, Tuple, TypeVar, Union

from recall_sdk._limiter import Limiter, Sent
from recall_sdk._messages import Call
from recall_sdk.errors import InvalidRequestError, RateLimitError, RecallError
from recall_sdk.models import AsyncExecutionResult, RateLimitInfo, WorkflowExecutionResult
from recall_sdk.retry import MAX_RETRY_AFTER, Backoff, checked_count

__all__ = ["BatchItem"]

_log = logging.getLogger("recall_sdk")

Result = Union[WorkflowExecutionResult, AsyncExecutionResult]
Outcome = Tuple[Result, Optional[RateLimitInfo]]

LOOK_AHEAD = 2
"""Items taken ahead of the reader, in multiples of ``max_workers``: one round in flight, and one to follow."""

SLICE = 0.05
"""Seconds of each wait. On Windows, a wait without a timeout can't be interrupted by Ctrl-C before Python 3.14."""

R_co = TypeVar("R_co", bound=Result, covariant=True)


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


class Batch:
    """Many executions in parallel. The threads are daemons, so that a call which never ends does not keep the interpreter from exiting.

    Args:
        items: Pairs of a workflow id and its input; any iterable, also an endless one.
        prepare: Builds the call of an item, in the reader's thread and before the next item is taken: the source may then close a file
            in the input, or change the input.
        attempt: Makes one execution and returns its result, and the rate limit reported in this answer. With an executor of processes
            it must be picklable.
        ask_limits: Returns the remaining requests, their limit, and the seconds until the reset; ``None`` if unknown.
        max_workers: Maximum attempts in flight.
        executor: Runs the attempts; ``None`` for the batch's own threads. The batch does not shut it down.
        policy: The retries after a 429.
        random: Returns a number in [0, 1), as :func:`random.random` does.

    Raises:
        ValueError: ``max_workers`` is below 1.
        TypeError: An argument has the wrong type.
    """

    def __init__(
        self,
        items: Iterable[Tuple[str, Any]],
        prepare: Callable[[str, Any], Call],
        attempt: Callable[[Call], Outcome],
        ask_limits: Callable[[], Optional[Tuple[int, int, float]]],
        *,
        max_workers: int,
        executor: Optional[Executor],
        policy: Backoff,
        random: Callable[[], float],
    ) -> None:
        if not isinstance(items, Iterable):
            raise TypeError(f"items must be an iterable of pairs of a workflow id and an input, not {type(items).__name__}")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise TypeError(f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}")
        self._source, self._prepare, self._attempt, self._ask_limits = iter(items), prepare, attempt, ask_limits
        self._executor, self._policy, self._random = executor, policy, random
        self._max_workers = checked_count("max_workers", max_workers, least=1)
        self._pending: queue.SimpleQueue[Optional[Tuple[BatchItem[Result], Call]]] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[BatchItem[Result]] = queue.SimpleQueue()
        self._name = os.urandom(8).hex()
        self._limiter = Limiter()
        self._lock = threading.Lock()  # for the limiter
        self._turn = threading.Lock()  # for the one worker that waits for the limiter
        self._submitting = threading.Lock()
        self._stopped = threading.Event()
        self._threads = 0
        self._futures: Set[Future[Outcome]] = set()

    def run(self) -> Generator[BatchItem[Result], None, None]:
        """Execute the items, and yield each as it finishes. Closing the iterator stops the batch.

        Raises:
            TypeError: An item is not a pair.
        """
        process = os.getpid()
        drawn = yielded = 0
        fresh = False  # whether an item was taken since the last one was yielded
        end: Exception = StopIteration()
        more = True
        try:
            while more or drawn > yielded:
                held, finished = drawn - yielded, self._finished.qsize()
                # The source may be slow: a finished item waits for at most one new item, and for none while all workers are busy.
                due = finished and (fresh or held - finished >= self._max_workers)
                if more and not due and held < LOOK_AHEAD * self._max_workers:
                    try:
                        self._add(drawn, next(self._source))
                    except Exception as error:  # an error of the source reaches the reader after the items in flight
                        more, end = False, error
                    else:
                        drawn += 1
                        fresh = True
                else:
                    item = self._next_finished()
                    yielded += 1
                    fresh = False
                    yield item
            if not isinstance(end, StopIteration):
                raise end
        finally:
            if process == os.getpid():  # a child of a fork has no threads to stop
                self._stop()

    def _add(self, index: int, pair: Any) -> None:
        if not isinstance(pair, _PAIRS) or len(pair) != 2:  # a string of two letters is not a pair
            raise TypeError(f"item {index} of the batch is not a pair of a workflow id and an input: {type(pair).__name__}")
        item: BatchItem[Result] = BatchItem(index, pair[0], pair[1], None, None)
        try:
            call = self._prepare(item.workflow_id, item.input)
            if self._threads < self._max_workers:
                self._start_thread()
        except (RecallError, ValueError, TypeError) as error:  # a wrong argument: nothing was sent
            item.error = _not_sent(error)
            self._finished.put(item)
        else:
            self._pending.put((item, call))

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._work, name="recall_sdk-batch-worker", daemon=True).start()
            self._threads += 1
        except RuntimeError as error:  # the system grants no more threads
            if not self._threads:
                raise _foreign_failure(error, "no thread could be started", may_have_executed=False) from error

    def _next_finished(self) -> BatchItem[Result]:
        while True:
            with suppress(queue.Empty):
                return self._finished.get(timeout=SLICE)

    def _stop(self) -> None:
        self._stopped.set()
        for _ in range(self._threads):
            self._pending.put(None)
        for future in list(self._futures):
            future.cancel()

    def _work(self) -> None:
        for item, call in iter(self._pending.get, None):
            if self._stopped.is_set():
                return
            try:
                item.result = self._execute(item.index, call)
            except RecallError as error:
                item.error = error
            except Exception as error:  # from a hook of the user's session, perhaps after sending
                item.error = _foreign_failure(error, "the item failed", may_have_executed=True)
            self._finished.put(item)

    def _execute(self, index: int, call: Call) -> Result:
        rejections = 0
        while True:
            sent = self._pass_limiter()
            try:
                result, info = self._send(sent, call)
            except RateLimitError as error:
                delay = self._policy.wait_after(error, rejections, self._random)
                self._learn(sent, error.rate_limit if error.retry_after is None else None, error)
                if delay is None or self._stopped.is_set():
                    raise
                if error.retry_after is None and rejections == 0 and self._limiter.rate is not None:
                    delay = 0.0  # the limiter knows when a request may be sent again
                rejections += 1
                with suppress(Exception):  # a failing log handler must not make the item fail
                    _log.info("rate limited: item %d, retry %d of %d in %.2f s", index, rejections, self._policy.max_retries, delay)
                self._stopped.wait(delay)
            else:
                self._learn(sent, info)
                return result

    def _pass_limiter(self) -> Sent:
        """Wait until the next request may be sent. One worker at a time does so, and asks for the usage limits if need be."""
        with self._turn:
            while True:
                with self._lock:
                    delay, ask = self._limiter.wait(time.monotonic()), self._limiter.ask
                    if delay <= 0 or self._stopped.is_set():
                        return self._limiter.sent(time.monotonic())
                if ask:
                    limits = self._ask_limits()
                    with self._lock:
                        self._limiter.usage(time.monotonic(), limits)
                else:
                    self._stopped.wait(min(delay, SLICE))

    def _learn(self, sent: Sent, info: Optional[RateLimitInfo], rejection: Optional[RateLimitError] = None) -> None:
        with self._lock:
            if info is not None:
                self._limiter.reported(sent, time.monotonic(), info.remaining, info.reset - time.time())
            if rejection is not None and (rejection.retry_after or 0.0) <= MAX_RETRY_AFTER:
                self._limiter.rejected(sent, time.monotonic(), rejection.retry_after)

    def _send(self, sent: Sent, call: Call) -> Outcome:
        if self._stopped.is_set():
            raise RecallError("the batch was closed")
        if self._executor is None:
            return self._attempt(call)
        future: Optional[Future[Outcome]] = None
        try:
            with self._submitting:  # the user's executor may not be thread-safe
                future = self._executor.submit(_attempt, (self._name, sent.number), self._attempt, call)
            self._futures.add(future)
            return future.result()
        except RecallError:
            raise
        except (ValueError, TypeError) as error:  # the call did not pickle: nothing was sent
            raise _not_sent(error) from error
        except BaseException as error:  # a broken executor, a dead worker process, a cancelled future
            raise _foreign_failure(error, "the executor did not run the item", may_have_executed=future is not None) from error
        finally:
            if future is not None:
                self._futures.discard(future)


_PAIRS: Any = (tuple, list)


def _attempt(_number: Tuple[str, int], attempt: Callable[[Call], Outcome], call: Call) -> Outcome:
    """Make one attempt. The number makes the task unique, because Dask reuses the result of an identical task."""
    try:
        return attempt(call)
    except RecallError:
        raise
    except Exception as error:  # from a hook of the user's session, perhaps after sending; not an error of the executor
        raise _foreign_failure(error, "the item failed", may_have_executed=True) from error


def _not_sent(error: Exception) -> RecallError:
    if isinstance(error, RecallError):
        return error
    invalid = InvalidRequestError(str(error), "INVALID_REQUEST")
    invalid.__cause__ = error
    return invalid


def _foreign_failure(cause: BaseException, what: str, *, may_have_executed: bool) -> RecallError:
    error = RecallError(f"{what}: {type(cause).__name__}: {cause}".rstrip(": "))
    error.may_have_executed = may_have_executed
    error.__cause__ = cause
    return error
