"""Many executions: drawn from any iterable, run side by side behind one gate, and handed over as they end.

Three kinds of threads meet here. The reader's own draws from the source and hands over, only inside ``next()``. One dispatcher sends
off what is due when the gate lets it. The executor's run the attempts; each ends in a callback that judges it: an item for the reader,
or another try.
"""

import heapq
import logging
import os
import random
import threading
import time
from collections import deque
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Callable, Deque, Generator, Generic, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple, TypeVar, Union

from recall_sdk._gate import Gate, Ticket
from recall_sdk._messages import Call
from recall_sdk.errors import InvalidRequestError, RateLimitError, RecallError
from recall_sdk.models import AsyncExecutionResult, RateLimitInfo, WorkflowExecutionResult
from recall_sdk.retry import MAX_RETRY_AFTER, Backoff

__all__ = ["BatchItem", "Executor", "run_batch"]

Result = Union[WorkflowExecutionResult, AsyncExecutionResult]
R_co = TypeVar("R_co", bound=Result, covariant=True)
Attempt = Callable[[Call], Tuple[Result, Optional[RateLimitInfo]]]

LOOK_AHEAD = 2
"""Items drawn and not yet handed over, for each worker: one to work on, and one for when it is done."""

FIRST_ROUND = 0.1
"""Seconds that a worker whose first call is done waits for the first calls of the others at most: a 429 among them is for all to know."""

CLOSING_TIME = 0.1
"""Seconds that closing a batch waits for its threads; their calls were broken off, so it takes milliseconds."""

CLOSING_STEP = 0.05
"""Seconds after which a thread that is still there is hung up on again: its call may just have been about to begin."""

_log = logging.getLogger("recall_sdk")


@dataclass
class BatchItem(Generic[R_co]):
    """One item of a batch that has ended: with a result, or with an error.

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
    due: float  # on the clock; orders the retries
    number: int  # its place in the source
    workflow_id: str
    input: Any
    call: Call
    refusals: int  # 429s so far


def run_batch(
    items: Iterable[Tuple[str, Any]],
    prepare: Callable[[str, Any], Call],
    attempt: Attempt,
    *,
    max_workers: int,
    executor: Optional[Executor],
    policy: Backoff,
    clock: Callable[[], float] = time.monotonic,
    dice: Callable[[], float] = random.random,
) -> Generator[BatchItem[Result], None, None]:
    """Execute items side by side, and hand over each as it ends.

    Args:
        items: Pairs of a workflow id and its input; any iterable, also an endless one.
        prepare: Makes a call of an item. That is done when the item is drawn, in the reader's thread: a file in the input may be closed,
            or anything in it be changed, before the next item is drawn.
        attempt: Makes one execution and gives its result, and what the headers of that very answer tell of the rate limit. With an executor
            of processes it must pickle.
        max_workers: Attempts in flight at most.
        executor: Runs the attempts; ``None`` for threads of the batch's own. It is never shut down.
        policy: How often and when an item is tried again after a 429.
        clock: Seconds that never run backwards, as :func:`time.monotonic` gives them.
        dice: Gives a number in [0, 1), as :func:`random.random` does.

    Returns:
        The items in the order in which they end. Closing the iterator stops the batch. The work begins with the first ``next()``.

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
    threads = _Threads() if executor is None else None
    crew = _Crew(attempt, executor=threads or executor, max_workers=max_workers, policy=policy, clock=clock, dice=dice)
    return _read(iter(items), prepare, crew, threads, max_workers)


def _read(
    source: Iterator[Any], prepare: Callable[[str, Any], Call], crew: "_Crew", threads: Optional["_Threads"], max_workers: int
) -> Generator[BatchItem[Result], None, None]:
    process = os.getpid()
    drawn = handed_over = 0
    more = True
    failure: Optional[Exception] = None
    crew.start()
    try:
        while True:
            fresh = False  # has an item been drawn since the last was handed over?
            while True:
                ended = crew.ended()
                working = drawn - handed_over - ended
                # An item that has ended waits for one draw at most, and for none while all have work: the source may be slow.
                if not more or drawn - handed_over >= LOOK_AHEAD * max_workers or (ended and (fresh or working >= max_workers)):
                    break
                try:
                    workflow_id, input = _pair(next(source), drawn)
                except StopIteration:
                    more = False
                except Exception as error:  # whatever the source raises, it reaches the reader, after what is under way
                    more, failure = False, error
                else:
                    try:
                        crew.add(_Work(0.0, drawn, workflow_id, input, prepare(workflow_id, input), 0))
                    except (RecallError, ValueError, TypeError) as error:  # the caller's own mistake: nothing was sent
                        crew.refuse(BatchItem(drawn, workflow_id, input, None, _refusal(error)))
                    drawn += 1
                    fresh = True
            if drawn == handed_over:
                break
            item = crew.take()
            handed_over += 1
            yield item
        if failure is not None:
            raise failure
    finally:
        if process == os.getpid():  # in a process forked meanwhile there are no threads to stop, and their lock may be held for ever
            crew.stop()
            if threads is not None:
                threads.stop()


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


class _Crew:
    """The dispatcher, and all that it, the reader and the executor's callbacks share, under one lock."""

    def __init__(
        self,
        attempt: Attempt,
        *,
        executor: Any,
        max_workers: int,
        policy: Backoff,
        clock: Callable[[], float],
        dice: Callable[[], float],
    ) -> None:
        self._name = os.urandom(8).hex()
        self._attempt = attempt
        self._executor = executor
        self._max_workers = max_workers
        self._policy = policy
        self._clock = clock
        self._dice = dice
        self._gate = Gate(policy.max_delay)
        self._changed = threading.Condition()
        self._stopped = False
        self._new: Deque[_Work] = deque()
        self._retries: List[_Work] = []  # a heap
        self._in_flight = 0
        self._sent = self._answered = 0
        self._first_round_ends = 0.0
        self._futures: Set[Future[Any]] = set()
        self._ended: Deque[BatchItem[Result]] = deque()
        self._dispatcher = threading.Thread(target=self._dispatch, name="recall_sdk-batch", daemon=True)

    # ---------------------------------------------------------------------------------------------- for the reader

    def start(self) -> None:
        self._dispatcher.start()

    def add(self, work: _Work) -> None:
        with self._changed:
            self._new.append(work)
            self._changed.notify_all()

    def refuse(self, item: BatchItem[Result]) -> None:
        with self._changed:
            self._ended.append(item)

    def ended(self) -> int:
        return len(self._ended)

    def take(self) -> BatchItem[Result]:
        with self._changed:
            while not self._ended:
                self._changed.wait()
            return self._ended.popleft()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        _join(self._dispatcher, CLOSING_TIME)
        with self._changed:
            futures = list(self._futures)
        for future in futures:  # without the lock: a cancelled future's callback takes it, in whatever thread
            future.cancel()

    # ------------------------------------------------------------------------------------------------ the dispatcher

    def _dispatch(self) -> None:
        while True:
            with self._changed:
                work = self._next_due()
                if work is None:
                    return
                now = self._clock()
                if not self._sent:
                    self._first_round_ends = now + FIRST_ROUND
                ticket = self._gate.sent(now)
                self._sent += 1
                self._in_flight += 1
            self._send_off(work, ticket)

    def _next_due(self) -> Optional[_Work]:
        """Wait for what may go now; ``None`` once the batch is stopped."""
        while not self._stopped:
            now = self._clock()
            wait: Optional[float] = None
            if self._in_flight < self._max_workers and (self._new or self._retries):
                due = 0.0 if self._new else self._retries[0].due - now
                first_round = self._sent >= self._max_workers > self._answered
                wait = max(due, self._gate.wait(now), self._first_round_ends - now if first_round else 0.0)
                if wait <= 0:
                    # Until the rate is known, those go that were not refused yet, so that no item is refused again and again.
                    retry = self._retries and self._retries[0].due <= now and (self._gate.rate is not None or not self._new)
                    return heapq.heappop(self._retries) if retry else self._new.popleft()
            self._changed.wait(wait)
        return None

    def _send_off(self, work: _Work, ticket: Ticket) -> None:
        try:
            future: Future[Any] = self._executor.submit(_attempt, (self._name, ticket.number), self._attempt, work.call)
        except Exception as error:  # an executor that is broken or shut down fails this item, and no other
            self._end(work, None, _foreign_failure(error, "the executor did not run the item", may_have_executed=False))
            return
        with self._changed:
            self._futures.add(future)
        future.add_done_callback(partial(self._judge, work, ticket))

    # ------------------------------------------------------------------------------------------------- the callbacks

    def _judge(self, work: _Work, ticket: Ticket, future: "Future[Any]") -> None:
        with self._changed:
            self._futures.discard(future)
            self._answered += 1
        try:
            result, info = future.result()
        except RateLimitError as error:
            self._refused(work, ticket, error)
        except RecallError as error:
            self._end(work, None, error)
        except (ValueError, TypeError) as error:  # the call did not pickle: nothing was sent
            self._end(work, None, _refusal(error))
        except BaseException as error:  # a worker process that died, a cancelled future: this item's error, and no other's
            self._end(work, None, _foreign_failure(error, "the executor did not run the item", may_have_executed=True))
        else:
            self._heed(ticket, info)
            self._end(work, result, None)

    def _heed(self, ticket: Ticket, info: Optional[RateLimitInfo]) -> None:
        if info is not None:
            with self._changed:
                self._gate.told(ticket, self._clock(), info.remaining, info.reset - time.time())

    def _refused(self, work: _Work, ticket: Ticket, error: RateLimitError) -> None:
        wait = self._policy.wait_after(error, work.refusals, self._dice)
        order = error.retry_after
        with self._changed:
            now = self._clock()
            if order is None:
                self._heed(ticket, error.rate_limit)
            if order is None or order <= MAX_RETRY_AFTER:
                self._gate.refused(ticket, now, order)
            if wait is not None:
                if order is None and work.refusals == 0 and self._gate.rate is not None:
                    wait = 0.0  # when a request may go again is known, and need not be guessed
                heapq.heappush(self._retries, work._replace(due=now + wait, refusals=work.refusals + 1))
                self._in_flight -= 1
                self._changed.notify_all()
        if wait is None:
            self._end(work, None, error)
        else:
            _log.info("rate limited: item %d, retry %d of %d in %.2f s", work.number, work.refusals + 1, self._policy.max_retries, wait)

    def _end(self, work: _Work, result: Optional[Result], error: Optional[RecallError]) -> None:
        with self._changed:
            self._in_flight -= 1
            self._ended.append(BatchItem(work.number, work.workflow_id, work.input, result, error))
            self._changed.notify_all()


def _attempt(_number: Tuple[str, int], attempt: Attempt, call: Call) -> Tuple[Result, Optional[RateLimitInfo]]:
    """Make one attempt. Its number sets it apart from all others: Dask answers a task that looks like an earlier one from memory."""
    try:
        return attempt(call)
    except RecallError:
        raise
    except Exception as error:  # of a hook of the user's session, perhaps after sending, and not to be taken for the executor's
        raise _foreign_failure(error, "the item failed", may_have_executed=True) from error


def _foreign_failure(cause: BaseException, what: str, *, may_have_executed: bool) -> RecallError:
    error = RecallError(f"{what}: {type(cause).__name__}: {cause}".rstrip(": "))
    error.may_have_executed = may_have_executed
    error.__cause__ = cause
    return error


class _Threads:
    """A batch's own executor. Its threads are daemons, so that a call which never ends can't keep the interpreter from ending."""

    def __init__(self) -> None:
        self._threads: List[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._calls: SimpleQueue[Optional[Tuple[Future[Any], Callable[..., Any], Tuple[Any, ...]]]] = SimpleQueue()

    def submit(self, call: Callable[..., Any], *args: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        if not self._idle.acquire(blocking=False):
            thread = threading.Thread(target=self._work, name="recall_sdk-batch-worker", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system grants no more threads: those that there are take the call when they can
                if not self._threads:
                    raise
            else:
                self._threads.append(thread)
        self._calls.put((future, call, args))
        return future

    def _work(self) -> None:
        for future, call, args in iter(self._calls.get, None):
            if not future.set_running_or_notify_cancel():
                continue  # the batch ends
            try:
                result = call(*args)
            except BaseException as error:  # it belongs to whoever asks for the result
                self._idle.release()
                future.set_exception(error)
            else:
                self._idle.release()
                future.set_result(result)

    def stop(self) -> None:
        for _ in self._threads:
            self._calls.put(None)
        deadline = time.monotonic() + CLOSING_TIME
        left = self._threads
        while left and time.monotonic() < deadline:
            for thread in left:
                _join(thread, CLOSING_STEP / len(left))
            left = [thread for thread in left if thread.is_alive() and thread is not threading.current_thread()]


def _join(thread: threading.Thread, seconds: float) -> None:
    if thread is not threading.current_thread():  # the iterator of a batch may be collected in any thread, also in one of its own
        thread.join(seconds)
