"""Many executions in parallel: worker threads between two queues, and one limiter for all of them.

The reader takes items from the source, prepares them and queues them. Each worker takes a queued item, waits for the limiter, makes the
attempt or submits it to the executor, retries if nothing was executed, and puts the finished item on the second queue. Where no thread can
be started, the reader does a worker's work.
"""

from __future__ import annotations

import contextvars
import logging
import os
import queue
import random
import threading
import time
import weakref
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, Optional, Tuple

from recall_sdk._arguments import check_count
from recall_sdk._limiter import Limiter, Sent
from recall_sdk._rate_limits import Level
from recall_sdk._requests import Request
from recall_sdk._translation import foreign_failure, invalid_argument
from recall_sdk.errors import RateLimitError, RecallConnectionError, RecallError, build_error
from recall_sdk.models import BatchItem, R_co, Result
from recall_sdk.retry import MAX_RETRY_AFTER, Backoff

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_log = logging.getLogger("recall_sdk")

LOOK_AHEAD = 2
"""Items taken ahead of the reader, in multiples of ``max_workers``: one round in flight, and one to follow."""

POLL_SECONDS = 0.05
"""Seconds of each wait, after which a worker looks whether the batch was closed. On Windows, a wait without a timeout can't be interrupted
by Ctrl-C before Python 3.14.

Also the time after which the reader gets a finished item even if more items could be taken ahead.
"""


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
        self._look_ahead = LOOK_AHEAD * check_count("max_workers", max_workers, least=1)
        self._source, self._prepare, self._taken = iter(items), prepare, 0
        self._workers = Workers(attempt, ask_limits, max_workers, executor, policy)
        self._reading = threading.Lock()
        self._held = 0  # items taken and not yet yielded
        self._end: Optional[Exception] = None  # of the source
        self._close = weakref.finalize(self, self._workers.stop)  # the threads refer to the workers only, so that a forgotten batch ends

    def close(self) -> None:
        """Stop what is queued. Calls in flight finish, and their results are dropped."""
        self._close()

    def __next__(self) -> BatchItem[R_co]:
        try:
            with self._reading:
                return self._next()
        except BaseException:  # the end, an error of the source, or Ctrl-C
            self.close()
            raise

    def _next(self) -> BatchItem[R_co]:
        resumed = time.monotonic()
        while not self._workers.stopped:
            late = time.monotonic() > resumed + POLL_SECONDS and self._workers.finished.qsize()  # with a slow source, do not wait for more
            if self._end is None and self._held < self._look_ahead and not late:
                try:
                    pair = next(self._source)
                except Exception as error:  # an error of the source reaches the reader after the items in flight
                    self._end = error
                else:
                    self._add(pair)
            elif not self._held:
                raise self._end or StopIteration
            else:
                with suppress(queue.Empty):
                    item = self._workers.next_finished()
                    self._held -= 1
                    return item
        raise StopIteration

    def _add(self, pair: Any) -> None:
        index = self._taken
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:  # a string of two letters is not a pair
            self._end = TypeError(f"item {index} of the batch is not a pair of a workflow id and an input: {type(pair).__name__}")
            return
        item: BatchItem[Any] = BatchItem(index, pair[0], pair[1], None, None)
        self._taken, self._held = self._taken + 1, self._held + 1
        try:
            request = self._prepare(item.workflow_id, item.input)
        except Exception as error:
            item.error = invalid_argument(error)
            self._workers.finished.put(item)
        else:
            self._workers.add(item, request)


class Workers:
    """What the threads of a batch share. They are daemons where possible, so that a call that never ends does not keep Python from exiting."""

    def __init__(
        self, attempt: Attempt, ask_limits: Callable[[], Optional[Level]], most: int, executor: Optional[Executor], policy: Backoff
    ) -> None:
        self._attempt, self._ask_limits, self._most, self._executor, self._policy = attempt, ask_limits, most, executor, policy
        self._process, self._name = os.getpid(), os.urandom(8).hex()
        self._pending: queue.SimpleQueue[Optional[Tuple[BatchItem[Any], Request]]] = queue.SimpleQueue()
        self.finished: queue.SimpleQueue[BatchItem[Any]] = queue.SimpleQueue()
        self.stopped = False
        self._threads = 0
        self._turn = threading.Lock()  # for the one worker that waits for the limiter
        self._changed = threading.Condition()  # for all below
        self._limiter, self._in_flight = Limiter(), 0
        # Refusals while nothing else was in flight, how many of them there were at the last acceptance, and the newest
        self._refusals, self._refusals_before, self._resume = 0, 0, 0.0
        self._accepted, self._refusal, self._hopeless = False, RateLimitError("refused"), False
        self._submitting = threading.Lock()
        self._futures: Dict[int, Future[Outcome]] = {}  # the newest of each thread

    def add(self, item: BatchItem[Any], request: Request) -> None:
        """Queue an item, and start a thread if there are fewer than allowed."""
        self._pending.put((item, request))
        for daemon in (True, False) if self._threads < self._most else ():
            with suppress(RuntimeError):  # the system grants no more threads, or a subinterpreter no daemons
                target = contextvars.copy_context().run
                threading.Thread(target=target, args=(self._work,), name="recall_sdk-batch-worker", daemon=daemon).start()
                self._threads += 1
                break

    def next_finished(self) -> BatchItem[Any]:
        """Return a finished item; without threads, finish one first. Raises ``queue.Empty`` if none finishes soon."""
        if not self._threads and self.finished.empty() and (queued := self._pending.get_nowait()):
            self._execute(*queued)
            if queued[0].error and isinstance(queued[0].error.__cause__, KeyboardInterrupt):
                raise queued[0].error.__cause__  # this is the reader's thread
        return self.finished.get(timeout=POLL_SECONDS)

    def stop(self) -> None:
        """End the threads. It takes no lock: a garbage collection may call it, in any thread and at any moment."""
        if self._process == os.getpid():  # a child of a fork has no threads to stop
            self.stopped = True
            for _ in range(self._threads):
                self._pending.put(None)
            for future in self._futures.copy().values():
                future.cancel()

    def _work(self) -> None:
        while threading.main_thread().is_alive():  # where threads are no daemons, Python waits for them at its end
            with suppress(queue.Empty):
                queued = self._pending.get(timeout=1.0)
                if queued is None:
                    return
                self._execute(*queued)

    def _execute(self, item: BatchItem[Any], request: Request) -> None:
        try:
            item.result, item.error = self._retry(item.index, request)
        except BaseException as error:  # whatever happens, the reader gets the item
            item.error = foreign_failure(error, "the item failed", may_have_executed=True)
        self.finished.put(item)

    def _retry(self, index: int, request: Request) -> Tuple[Optional[Result], Optional[RecallError]]:
        begun, unsent = self._refusals, 0
        while True:
            sent = self._wait_for_limiter(begun)
            if sent is None:
                return None, self._reason()
            result, level, error = self._send(sent.number, request)
            self._learn(sent, level, error)
            if error is None or error.may_have_executed:
                return result, error
            if isinstance(error, RecallConnectionError) and unsent < self._policy.max_retries:
                self._rest(time.monotonic() + self._policy.delay(unsent, random.random))
                unsent += 1
            elif not isinstance(error, RateLimitError) or self._given_up(begun):
                return None, error
            with suppress(Exception):  # a failing log handler must not make the item fail
                _log.info("nothing was executed: retry of item %d after: %s", index, error)

    def _given_up(self, begun: int) -> bool:
        """Return whether an item is not sent again: it has seen too many refusals in a row, or the server asks for too long a pause."""
        return self._hopeless or self._refusals - max(begun, self._refusals_before) > self._policy.max_retries

    def _reason(self) -> RecallError:
        return build_error(RecallError, "the batch was closed", may_have_executed=False) if self.stopped else copy(self._refusal)

    def _rest(self, until: float) -> None:
        while (seconds := until - time.monotonic()) > 0 and not self.stopped:
            time.sleep(min(seconds, POLL_SECONDS))

    def _wait_for_limiter(self, begun: int) -> Optional[Sent]:
        """Wait until the next request may be sent; return ``None`` if none is sent. One worker at a time waits, and asks if need be."""
        with self._turn:
            while True:
                with self._changed:
                    if self.stopped or self._given_up(begun):
                        return None
                    now = time.monotonic()
                    delay = max(0.0, self._resume - now) or self._limiter.wait(now)
                    if delay <= 0:
                        self._in_flight += 1
                        return self._limiter.sent(now)
                    if not self._limiter.ask:
                        self._changed.wait(min(delay, POLL_SECONDS))
                        continue
                limits = None
                with suppress(BaseException):  # of a hook: then the server does not say
                    limits = self._ask_limits()
                with self._changed:
                    self._limiter.usage(time.monotonic(), limits)

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
            self._in_flight -= 1
            now, refused = time.monotonic(), isinstance(error, RateLimitError)
            if level is not None:
                self._limiter.reported(sent, now, level.remaining, level.seconds, level.limit)
            if isinstance(error, RateLimitError) and (error.retry_after or 0.0) <= MAX_RETRY_AFTER:
                self._limiter.rejected(sent, now, error.retry_after)
            else:
                self._limiter.accepted(sent, now)
            if isinstance(error, RateLimitError):
                self._refusal, self._hopeless = error, self._hopeless or (error.retry_after or 0.0) > MAX_RETRY_AFTER
                if not self._in_flight:  # otherwise one of the others may have been accepted
                    self._refused(now, error)
            elif not isinstance(error, RecallConnectionError) or error.may_have_executed:
                self._accepted, self._refusals_before = True, self._refusals
            self._changed.notify()

    def _refused(self, now: float, error: RateLimitError) -> None:
        """Count a refusal. The first after an acceptance is a matter of the limiter, the others of the backoff."""
        self._refusals += 1
        retry = self._refusals - self._refusals_before - 1 - self._accepted
        if retry >= 0 and not error.retry_after:
            self._resume = now + self._policy.delay(retry, random.random)


def _attempt(_number: object, attempt: Attempt, request: Request) -> Outcome:
    """Make one attempt. The number makes the task unique, also among batches, because Dask reuses the result of an identical task."""
    try:
        return (*attempt(request), None)
    except BaseException as error:  # a foreign one is from a hook of the user's session, perhaps after sending
        return None, None, foreign_failure(error, "the item failed", may_have_executed=True)
