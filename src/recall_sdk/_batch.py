"""Many executions in parallel: worker threads between two queues, and one limiter for all of them.

The reader takes items from the source, prepares them and queues them. Each worker takes a queued item, waits for the limiter, makes the
attempt or submits it to the executor, retries if nothing was executed, and puts the finished item on the second queue. Where no thread can
be started, the reader does a worker's work.
"""

import contextvars
import logging
import os
import queue
import random
import threading
import time
import weakref
from concurrent.futures import Executor, Future
from contextlib import suppress
from copy import copy
from typing import Any, Callable, Dict, Iterable, Iterator, Optional, Tuple

from recall_sdk._failures import foreign_failure, invalid_argument
from recall_sdk._limiter import Limiter, Sent
from recall_sdk._rate_limits import Level
from recall_sdk._requests import Request
from recall_sdk.errors import RateLimitError, RecallConnectionError, RecallError, build_error
from recall_sdk.models import BatchItem, R_co, Result
from recall_sdk.retry import MAX_RETRY_AFTER, Backoff, checked_count

_log = logging.getLogger("recall_sdk")

LOOK_AHEAD = 2
"""Items taken ahead of the reader, in multiples of ``max_workers``: one round in flight, and one to follow."""

POLL_SECONDS = 0.05
"""Seconds of each wait, after which a thread looks whether the batch was closed. On Windows, a wait without a timeout can't be interrupted by
Ctrl-C before Python 3.14. Also the time after which the reader gets a finished item even if more items could be taken ahead.
"""

IDLE_SECONDS = 1.0
"""Seconds of each wait of a thread that has no item: it ends that long after the batch."""

Outcome = Tuple[Optional[Result], Optional[Level], Optional[RecallError]]
Attempt = Callable[[Request], Tuple[Result, Optional[Level]]]


class Batch(Iterator[BatchItem[R_co]]):
    """The reader's side of a batch: an iterator of the finished items. Any thread may close it.

    Args:
        items: Pairs of a workflow id and its input; any iterable, even infinite.
        prepare: Builds the request of an item, in the reader's thread and before the next item is taken: the source may then close a file
            in the input, or change the input.
        attempt: Makes one execution and returns its result, and the level reported in this response. With an executor of processes it must
            be picklable.
        ask_limits: Asks for the usage limits; ``None`` if unknown.
        max_workers: Maximum attempts in flight.
        executor: Runs the attempts; ``None`` for the batch's own threads. The batch does not shut it down.
        policy: The retries of an item.

    Raises:
        ValueError: ``max_workers`` is below 1.
        TypeError: An argument has the wrong type, or, while iterating, an item is not a pair.
    """

    def __init__(
        self,
        items: Iterable[Tuple[str, Any]],
        prepare: Callable[[str, Any], Request],
        attempt: Attempt,
        ask_limits: Callable[[], Optional[Level]],
        *,
        max_workers: int,
        executor: Optional[Executor],
        policy: Backoff,
    ) -> None:
        if not isinstance(items, Iterable):
            raise TypeError(f"items must be an iterable of pairs of a workflow id and an input, not {type(items).__name__}")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise TypeError(f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}")
        self._look_ahead = LOOK_AHEAD * checked_count("max_workers", max_workers, least=1)
        self._workers = Workers(attempt, ask_limits, max_workers, executor, policy)
        self._source, self._prepare, self._reading = enumerate(items), prepare, threading.Lock()
        self._held = 0  # items taken and not yet yielded
        self._end: Optional[Exception] = None  # of the source
        self._finalizer = weakref.finalize(self, self._workers.stop)  # threads refer to the workers only, so that a forgotten batch ends

    def close(self) -> None:
        """Stop what is queued. Calls in flight finish, and their results are dropped."""
        self._finalizer()

    def __next__(self) -> BatchItem[R_co]:
        resumed = time.monotonic()
        try:
            with self._reading:
                while not self._workers.stopped:
                    late = time.monotonic() > resumed + POLL_SECONDS  # with a slow source, the reader does not wait for more items
                    if self._end is None and self._held < self._look_ahead and not (late and self._workers.finished.qsize()):
                        self._take()
                    elif not self._held:
                        raise self._end or StopIteration
                    elif item := self._workers.next_finished():
                        self._held -= 1
                        return item
                raise StopIteration
        except BaseException:  # the end, an error of the source, or Ctrl-C
            self.close()
            raise

    def _take(self) -> None:
        try:
            index, pair = next(self._source)
            if not isinstance(pair, _PAIRS) or len(pair) != 2:  # a string of two letters is not a pair
                raise TypeError(f"item {index} of the batch is not a pair of a workflow id and an input: {type(pair).__name__}")
        except Exception as error:  # it reaches the reader after the items in flight
            self._end = error
            return
        item: BatchItem[Any] = BatchItem(index, pair[0], pair[1], None, None)
        self._held += 1
        try:
            self._workers.add(item, self._prepare(item.workflow_id, item.input))
        except Exception as error:
            item.error = invalid_argument(error)
            self._workers.finished.put(item)


class Workers:
    """What the threads of a batch share. They are daemons where possible: a call that never ends does not keep Python from exiting.

    Attributes:
        finished: The items with a result or an error.
        stopped: Whether the batch was closed.
    """

    def __init__(
        self, attempt: Attempt, ask_limits: Callable[[], Optional[Level]], most: int, executor: Optional[Executor], policy: Backoff
    ) -> None:
        self._attempt, self._ask_limits, self._most, self._executor, self._policy = attempt, ask_limits, most, executor, policy
        self._process, self._name = os.getpid(), os.urandom(8).hex()
        self._pending: queue.SimpleQueue[Tuple[BatchItem[Any], Request]] = queue.SimpleQueue()
        self.finished: queue.SimpleQueue[BatchItem[Any]] = queue.SimpleQueue()
        self._futures: Dict[int, Future[Outcome]] = {}  # the newest of each thread
        self.stopped, self._threads, self._submitting = False, 0, threading.Lock()
        self._turn = threading.Lock()  # for the one thread that waits for the limiter
        self._limiter, self._changed = Limiter(), threading.Condition()  # the condition is also the lock of the limiter and of all below
        self._refusal, self._hopeless, self._accepted, self._resume = RateLimitError("refused"), False, False, 0.0
        self._refusals = self._refusals_before = 0  # while nothing else was in flight: all of them, and those before the last acceptance

    def add(self, item: BatchItem[Any], request: Request) -> None:
        """Queue an item, and start a thread if there are fewer than allowed."""
        self._pending.put((item, request))
        for daemon in (True, False) if self._threads < self._most else ():
            with suppress(RuntimeError):  # a subinterpreter allows no daemons, or the system no more threads
                run = contextvars.copy_context().run
                threading.Thread(target=run, args=(self._work,), name="recall_sdk-batch-worker", daemon=daemon).start()
                self._threads += 1
                return

    def next_finished(self) -> Optional[BatchItem[Any]]:
        """Return a finished item, or ``None`` if none finishes soon. Without threads, finish one first."""
        with suppress(queue.Empty):
            if not self._threads and self.finished.empty():
                self._execute(*self._pending.get_nowait())
            return self.finished.get(timeout=POLL_SECONDS)
        return None

    def stop(self) -> None:
        """End the threads. It takes no lock: a garbage collection may call it, in any thread and at any moment."""
        if self._process == os.getpid():  # a child of a fork has no threads to stop
            self.stopped = True
            for future in list(self._futures.values()):
                future.cancel()

    def _work(self) -> None:
        while not self.stopped and threading.main_thread().is_alive():  # Python waits at its end for threads that are no daemons
            with suppress(queue.Empty):
                self._execute(*self._pending.get(timeout=IDLE_SECONDS))

    def _execute(self, item: BatchItem[Any], request: Request) -> None:
        try:
            item.result, item.error = self._retry(item.index, request)
        except BaseException as error:  # whatever happens, the reader gets the item
            item.error = foreign_failure(error, "the item failed", may_have_executed=True)
        if not self._threads and item.error and isinstance(item.error.__cause__, KeyboardInterrupt):
            raise item.error.__cause__  # this is the reader's thread
        self.finished.put(item)

    def _retry(self, index: int, request: Request) -> Tuple[Optional[Result], Optional[RecallError]]:
        refusals, unsent = self._refusals, 0
        while sent := self._wait_for_limiter(refusals):
            result, level, error = self._send(sent.number, request)
            self._learn(sent, level, error)
            if error is None or error.may_have_executed:
                return result, error
            if isinstance(error, RecallConnectionError) and unsent < self._policy.max_retries:
                self._rest(self._policy.delay(unsent, random.random))
                unsent += 1
            elif not isinstance(error, RateLimitError) or self._given_up(refusals):
                return None, error
            with suppress(Exception):  # a failing log handler must not make the item fail
                _log.info("nothing was executed: retry of item %d after: %s", index, error)
        return None, build_error(RecallError, "the batch was closed", may_have_executed=False) if self.stopped else copy(self._refusal)

    def _given_up(self, refusals: int) -> bool:
        """Return whether an item is not sent again, after so many refusals before it, and perhaps acceptances since then."""
        return self._hopeless or self._refusals - max(refusals, self._refusals_before) > self._policy.max_retries

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (seconds := until - time.monotonic()) > 0 and not self.stopped:
            time.sleep(min(seconds, POLL_SECONDS))

    def _wait_for_limiter(self, refusals: int) -> Optional[Sent]:
        """Wait until the next request may be sent; return ``None`` if none is sent. One thread at a time waits, and asks if need be."""
        with self._turn:
            while not (self.stopped or self._given_up(refusals)):
                with self._changed:
                    now = time.monotonic()
                    delay = max(0.0, self._resume - now) or self._limiter.wait(now)
                    if not delay:
                        return self._limiter.sent(now)
                    if not self._limiter.ask:
                        self._changed.wait(min(delay, POLL_SECONDS))
                if self._limiter.ask:
                    limits = None
                    with suppress(BaseException):  # of a hook: then the server does not say
                        limits = self._ask_limits()
                    with self._changed:
                        self._limiter.usage(time.monotonic(), limits)
        return None

    def _send(self, number: int, request: Request) -> Outcome:
        if self._executor is None:
            return _attempt(number, self._attempt, request)
        future: Optional[Future[Outcome]] = None
        try:
            with self._submitting:  # the user's executor may not be thread-safe
                future = self._executor.submit(_attempt, (self._name, number), self._attempt, request)
            self._futures[threading.get_ident()] = future
            return future.result()
        except (ValueError, TypeError) as error:  # the request did not pickle: nothing was sent
            return None, None, invalid_argument(error)
        except BaseException as error:  # a broken executor, a dead worker process, a cancelled future
            return None, None, foreign_failure(error, "the executor did not run the item", may_have_executed=future is not None)

    def _learn(self, sent: Sent, level: Optional[Level], error: Optional[RecallError]) -> None:
        with self._changed:
            now = time.monotonic()
            if level is not None:
                self._limiter.reported(sent, now, level.remaining, level.seconds, level.limit)
            if isinstance(error, RateLimitError):
                self._limiter.rejected(sent, now, error.retry_after)
                self._refusal, self._hopeless = error, self._hopeless or (error.retry_after or 0.0) > MAX_RETRY_AFTER
                if not self._limiter.in_flight:  # nothing runs: this refusal counts
                    self._refusals += 1
                    retry = (
                        self._refusals - self._refusals_before - 1 - self._accepted
                    )  # the first after an acceptance is left to the limiter
                    if retry >= 0 and not error.retry_after:
                        self._resume = now + self._policy.delay(retry, random.random)
            else:
                self._limiter.accepted(sent, now)
                if error is None or error.may_have_executed or not isinstance(error, RecallConnectionError):
                    self._accepted, self._refusals_before = True, self._refusals
            self._changed.notify()


_PAIRS: Any = (tuple, list)


def _attempt(_number: object, attempt: Attempt, request: Request) -> Outcome:
    """Make one attempt. The number makes the task unique, also among batches, because Dask reuses the result of an identical task."""
    try:
        return (*attempt(request), None)
    except BaseException as error:  # a foreign one is from a hook of the user's session, perhaps after sending
        return None, None, foreign_failure(error, "the item failed", may_have_executed=True)
