"""Many executions side by side: worker threads between two queues, and one limiter for all of them.

The reader draws items, prepares them and puts them on a queue. Each worker takes one, waits for the limiter, makes the attempt, or
submits it to the executor and waits for it, tries again after a 429, and puts the outcome on the queue of finished items.
"""

import logging
import os
import queue
import threading
import time
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable, Generator, Generic, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple, TypeVar, Union

from recall_sdk._limiter import Limiter, Sent
from recall_sdk._messages import Call
from recall_sdk.errors import InvalidRequestError, RateLimitError, RecallError
from recall_sdk.models import AsyncExecutionResult, RateLimitInfo, WorkflowExecutionResult
from recall_sdk.retry import MAX_RETRY_AFTER, Backoff

__all__ = ["BatchItem"]

_log = logging.getLogger("recall_sdk")

Result = Union[WorkflowExecutionResult, AsyncExecutionResult]
Attempt = Callable[[Call], Tuple[Result, Optional[RateLimitInfo]]]
AskLimits = Callable[[], Optional[Tuple[int, int, float]]]
Random = Callable[[], float]

LOOK_AHEAD = 2
"""Items drawn ahead of the reader, in multiples of ``max_workers``: one round in flight, and one ready to follow."""

SLICE = 0.05
"""Seconds of each wait. On Windows, a wait without a timeout can't be interrupted by Ctrl-C before Python 3.14."""

CLOSING_TIME = 0.1
"""Seconds for idle threads to end when the batch is closed. Those whose call is under way end later, with it."""

R_co = TypeVar("R_co", bound=Result, covariant=True)


@dataclass
class BatchItem(Generic[R_co]):
    """One finished item of a batch: with a result, or with an error.

    Attributes:
        index: Its place in the source, from 0.
        workflow_id: The workflow's id, as passed in.
        input: The input, as passed in.
        result: The result of its execution, or ``None`` if it failed.
        error: Why it failed, or ``None``.

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


class _Work(NamedTuple):
    number: int
    workflow_id: str
    input: Any
    call: Call


def run_batch(
    items: Iterable[Tuple[str, Any]],
    prepare: Callable[[str, Any], Call],
    attempt: Attempt,
    ask_limits: AskLimits,
    *,
    max_workers: int,
    executor: Optional[Executor],
    policy: Backoff,
    random: Random,
) -> Generator[BatchItem[Result], None, None]:
    """Execute items side by side, and yield each as it finishes.

    Args:
        items: Pairs of a workflow id and its input; any iterable, also an endless one.
        prepare: Makes a call of an item. That is done when the item is drawn, in the reader's thread: a file in the input may be closed,
            or anything in it be changed, before the next item is drawn.
        attempt: Makes one execution and returns its result, and the rate limit reported in that very answer. With an executor of processes
            it must pickle.
        ask_limits: Asks the server for the requests that remain, of how many, and for the seconds until the reset; ``None`` if unknown.
        max_workers: Attempts in flight at most.
        executor: Runs the attempts; ``None`` for the batch's own threads. It is never shut down.
        policy: How often and when an item is tried again after a 429.
        random: Returns a number in [0, 1), as :func:`random.random` does.

    Returns:
        The items in the order in which they finish. Closing the iterator stops the batch. The work begins with the first ``next()``.

    Raises:
        ValueError: ``max_workers`` is below 1.
        TypeError: An argument of the wrong type; while iterating, an item that is no pair.
    """
    if not isinstance(items, Iterable):
        raise TypeError(f"items must be an iterable of pairs of a workflow id and an input, not {type(items).__name__}")
    if isinstance(max_workers, bool) or not isinstance(max_workers, int):
        raise TypeError(f"max_workers must be an int, not {type(max_workers).__name__}")
    if max_workers < 1:
        raise ValueError(f"max_workers must be 1 or more, not {max_workers}")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}")
    workers = _Workers(attempt, ask_limits, max_workers=max_workers, executor=executor, policy=policy, random=random)
    return _read(iter(items), prepare, workers, max_workers)


def _read(
    source: Iterator[Any], prepare: Callable[[str, Any], Call], workers: "_Workers", max_workers: int
) -> Generator[BatchItem[Result], None, None]:
    process = os.getpid()
    drawn = yielded = 0
    more = True
    failure: Optional[Exception] = None
    try:
        while True:
            fresh = False  # has an item been drawn since the last one was yielded?
            while True:
                finished = workers.finished.qsize()
                working = drawn - yielded - finished
                # A finished item waits for one draw at most, and for none while all workers are busy: the source may be slow.
                if not more or drawn - yielded >= LOOK_AHEAD * max_workers or (finished and (fresh or working >= max_workers)):
                    break
                try:
                    workflow_id, input = _pair(next(source), drawn)
                except StopIteration:
                    more = False
                except Exception as error:  # whatever the source raises, it reaches the reader, after what is in flight
                    more, failure = False, error
                else:
                    try:
                        workers.add(_Work(drawn, workflow_id, input, prepare(workflow_id, input)))
                    except (RecallError, ValueError, TypeError) as error:  # the caller's own mistake: nothing was sent
                        workers.finished.put(BatchItem(drawn, workflow_id, input, None, _refusal(error)))
                    drawn += 1
                    fresh = True
            if drawn == yielded:
                break
            item = workers.next_finished()
            yielded += 1
            yield item
        if failure is not None:
            raise failure
    finally:
        if process == os.getpid():  # in a process forked meanwhile there are no threads to stop
            workers.stop()


def _refusal(error: Exception) -> RecallError:
    if isinstance(error, RecallError):
        return error
    refusal = InvalidRequestError(str(error), "INVALID_REQUEST")
    refusal.__cause__ = error
    return refusal


_PAIRS: Any = (tuple, list)


def _pair(item: Any, index: int) -> Tuple[str, Any]:
    if not isinstance(item, _PAIRS) or len(item) != 2:  # a string of two letters is no pair
        raise TypeError(f"item {index} of the batch is no pair of a workflow id and an input: {type(item).__name__}")
    return item[0], item[1]


class _Workers:
    """The threads of a batch, which are daemons, so that a call which never ends can't keep the interpreter from ending."""

    def __init__(
        self, attempt: Attempt, ask_limits: AskLimits, *, max_workers: int, executor: Optional[Executor], policy: Backoff, random: Random
    ) -> None:
        self.finished: queue.SimpleQueue[BatchItem[Result]] = queue.SimpleQueue()
        self._pending: queue.SimpleQueue[Optional[_Work]] = queue.SimpleQueue()
        self._attempt, self._ask_limits, self._executor = attempt, ask_limits, executor
        self._max_workers, self._policy, self._random = max_workers, policy, random
        self._name = os.urandom(8).hex()
        self._limiter = Limiter()
        self._lock = threading.Lock()  # of the limiter
        self._turn = threading.Lock()  # of the one worker that waits for the limiter
        self._submitting = threading.Lock()
        self._stopped = threading.Event()
        self._threads: List[threading.Thread] = []
        self._futures: Set[Future[Any]] = set()

    def add(self, work: _Work) -> None:
        """Queue an item, and start a thread for it unless there are enough."""
        if len(self._threads) < self._max_workers:
            thread = threading.Thread(target=self._work, name="recall_sdk-batch-worker", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system grants no more threads
                if not self._threads:
                    raise _foreign_failure(error, "no thread could be started", may_have_executed=False) from error
            else:
                self._threads.append(thread)
        self._pending.put(work)

    def next_finished(self) -> BatchItem[Result]:
        while True:
            try:
                return self.finished.get(timeout=SLICE)
            except queue.Empty:
                pass

    def stop(self) -> None:
        """Stop what is queued. What is in flight ends by itself."""
        self._stopped.set()
        for _ in self._threads:
            self._pending.put(None)
        for future in list(self._futures):
            future.cancel()
        deadline = time.monotonic() + CLOSING_TIME
        for thread in self._threads:
            if thread is not threading.current_thread():  # a forgotten batch may be collected in any thread, also in one of its own
                thread.join(max(deadline - time.monotonic(), 0.0))

    def _work(self) -> None:
        for work in iter(self._pending.get, None):
            if self._stopped.is_set():
                return
            result: Optional[Result] = None
            failure: Optional[RecallError] = None
            try:
                result = self._execute(work)
            except RecallError as error:
                failure = error
            except Exception as error:  # of a hook of the user's session, perhaps after sending
                failure = _foreign_failure(error, "the item failed", may_have_executed=True)
            self.finished.put(BatchItem(work.number, work.workflow_id, work.input, result, failure))

    def _execute(self, work: _Work) -> Result:
        refusals = 0
        while True:
            sent = self._pass_limiter()
            try:
                result, info = self._send(sent, work.call)
            except RateLimitError as error:
                delay = self._policy.wait_after(error, refusals, self._random)
                self._refused(sent, error)
                if delay is None or self._stopped.is_set():
                    raise
                if error.retry_after is None and refusals == 0 and self._limiter.rate is not None:
                    delay = 0.0  # the limiter knows when a request may be sent again
                refusals += 1
                with suppress(Exception):  # a log handler of the user's that fails must not cost the item
                    _log.info("rate limited: item %d, retry %d of %d in %.2f s", work.number, refusals, self._policy.max_retries, delay)
                self._stopped.wait(delay)
            else:
                self._reported(sent, info)
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
                    self._ask()
                else:
                    self._stopped.wait(min(delay, SLICE))

    def _ask(self) -> None:
        limits = self._ask_limits()
        now = time.monotonic()
        with self._lock:
            if limits is None:
                self._limiter.no_usage()
            else:
                remaining, limit, seconds = limits
                self._limiter.usage(now, remaining, limit, now + seconds)

    def _reported(self, sent: Sent, info: Optional[RateLimitInfo]) -> None:
        if info is not None:
            with self._lock:
                self._limiter.reported(sent, time.monotonic(), info.remaining, info.reset - time.time())

    def _refused(self, sent: Sent, error: RateLimitError) -> None:
        if error.retry_after is None:
            self._reported(sent, error.rate_limit)
        if error.retry_after is None or error.retry_after <= MAX_RETRY_AFTER:
            with self._lock:
                self._limiter.refused(sent, time.monotonic(), error.retry_after)

    def _send(self, sent: Sent, call: Call) -> Tuple[Result, Optional[RateLimitInfo]]:
        if self._stopped.is_set():
            raise RecallError("the batch was closed")
        if self._executor is None:
            return self._attempt(call)
        number = (self._name, sent.number)
        try:
            with self._submitting:  # an executor of the user's may not be made for several threads
                future: Future[Any] = self._executor.submit(_attempt, number, self._attempt, call)
        except Exception as error:  # an executor that is broken or shut down fails this item, and no other
            raise _foreign_failure(error, "the executor did not run the item", may_have_executed=False) from error
        self._futures.add(future)
        try:
            answer: Tuple[Result, Optional[RateLimitInfo]] = future.result()
            return answer
        except RecallError:
            raise
        except (ValueError, TypeError) as error:  # the call did not pickle: nothing was sent
            raise _refusal(error) from error
        except BaseException as error:  # a worker process that died, a cancelled future: this item's error, and no other's
            raise _foreign_failure(error, "the executor did not run the item", may_have_executed=True) from error
        finally:
            self._futures.discard(future)


def _attempt(_number: Tuple[str, int], attempt: Attempt, call: Call) -> Tuple[Result, Optional[RateLimitInfo]]:
    """Make one attempt. Its number distinguishes it from all others: Dask answers a task that looks like an earlier one from memory."""
    try:
        return attempt(call)
    except RecallError:
        raise
    except Exception as error:  # of a hook of the user's session, perhaps after sending, and not to be mistaken for the executor's
        raise _foreign_failure(error, "the item failed", may_have_executed=True) from error


def _foreign_failure(cause: BaseException, what: str, *, may_have_executed: bool) -> RecallError:
    error = RecallError(f"{what}: {type(cause).__name__}: {cause}".rstrip(": "))
    error.may_have_executed = may_have_executed
    error.__cause__ = cause
    return error
