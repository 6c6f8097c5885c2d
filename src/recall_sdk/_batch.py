"""Many executions in parallel: worker threads between two queues, and one limiter for all of them.

The reader takes items from the source, prepares them and queues them. Each worker takes a queued item, waits for the limiter, makes the
attempt, retries if nothing was executed, and puts the finished item on the second queue. Where no thread can be started, the reader does a
worker's work.
"""

import logging
import os
import queue
import random
import threading
import time
from contextlib import suppress
from contextvars import copy_context
from copy import copy
from dataclasses import dataclass
from typing import Any, Callable, Generator, Iterable, Iterator, Optional, Tuple

from recall_sdk._arguments import check_pair
from recall_sdk._executors import Attempts
from recall_sdk._limiter import Limiter, Sent
from recall_sdk._rate_limits import Level
from recall_sdk._requests import Request
from recall_sdk._translation import foreign_failure, invalid_argument
from recall_sdk.errors import RateLimitError, RecallConnectionError, RecallError, build_error
from recall_sdk.models import BatchItem, R_co
from recall_sdk.retry import MAX_RETRY_AFTER, Backoff

_log = logging.getLogger("recall_sdk")

LOOK_AHEAD = 2
"""Items taken ahead of the reader, in multiples of ``max_workers``: one round in flight, and one to follow."""

POLL_SECONDS = 0.05
"""Seconds of each wait, after which a thread looks whether the batch was closed. On Windows, a wait without a timeout can't be
interrupted by Ctrl-C before Python 3.14. Also the time after which the reader gets a finished item even if more could be taken ahead.
"""

IDLE_SECONDS = 1.0
"""Seconds of each wait of a thread without an item: it ends that long after the batch."""


@dataclass
class Batch:
    """Many executions in parallel. The threads are daemons where possible: a call that never ends does not keep Python from exiting.

    Attributes:
        items: Pairs of a workflow id and its input; any iterable, even infinite.
        prepare: Builds the request of an item, in the reader's thread and before the next item is taken: the source may then close a file
            in the input, or change the input.
        attempts: Makes the attempts of the items.
        ask_limits: Asks for the usage limits; ``None`` if unknown.
        max_workers: Maximum attempts in flight.
        policy: The retries of an item.
    """

    items: Iterable[Tuple[str, Any]]
    prepare: Callable[[str, Any], Request]
    attempts: Attempts
    ask_limits: Callable[[], Optional[Level]]
    max_workers: int
    policy: Backoff

    def __post_init__(self) -> None:
        self._pending: queue.SimpleQueue[Tuple[BatchItem[Any], Request]] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[BatchItem[Any]] = queue.SimpleQueue()
        self._process, self._stopped, self._threads = os.getpid(), False, 0
        self._turn = threading.Lock()  # of the thread that waits for the limiter
        self._limiter, self._changed = Limiter(), threading.Condition()  # the condition is also the lock of the limiter and of all below
        # The newest refusal
        self._refusal = build_error(RecallError, "the batch ended before the item was sent", may_have_executed=False)
        # The number of refusals while nothing else was in flight, and of those before the last acceptance; and the end of the pause
        self._refusals, self._refusals_before, self._resume = 0, -1, 0.0

    def run(self) -> Generator[BatchItem[Any], None, None]:
        """Execute the items, and yield each as it finishes. Closing the generator stops the batch.

        Raises:
            TypeError: An item is not a pair.
        """
        source, held, resumed = enumerate(self.items), 0, time.monotonic()
        end: Optional[Exception] = None
        try:
            while not self._stopped and (held or end is None):
                late = time.monotonic() > resumed + POLL_SECONDS  # with a slow source, the reader does not wait for more items
                if end is None and held < LOOK_AHEAD * self.max_workers and not (late and self._finished.qsize()):
                    try:
                        self._add(*next(source))
                        held += 1
                    except Exception as error:  # an error of the source reaches the reader after the items in flight
                        end = error
                elif (item := self._next_finished()) and not self._stopped:
                    yield item
                    held, resumed = held - 1, time.monotonic()
            if end is not None and not isinstance(end, StopIteration):
                raise end
        finally:
            self.stop()

    def _add(self, index: int, pair: Any) -> None:
        check_pair(index, pair)
        item: BatchItem[Any] = BatchItem(index, pair[0], pair[1], None, None)
        try:
            self._pending.put((item, self.prepare(item.workflow_id, item.input)))
            self._start_thread()
        except Exception as error:
            item.error = invalid_argument(error)
            self._finished.put(item)

    def _start_thread(self) -> None:
        for daemon in (True, False) if self._threads < self.max_workers else ():
            with suppress(Exception):  # a subinterpreter allows no daemons, or the system no more threads
                threading.Thread(target=copy_context().run, args=(self._work,), name="recall_sdk-batch-worker", daemon=daemon).start()
                self._threads += 1
                return

    def _next_finished(self) -> Optional[BatchItem[Any]]:
        """Return a finished item, or ``None`` if none finishes soon. Without threads, finish one first."""
        with suppress(queue.Empty):
            if not self._threads and self._finished.empty():
                item, request = self._pending.get_nowait()
                self._execute(item, request)
                if item.error and isinstance(item.error.__cause__, KeyboardInterrupt):
                    raise item.error.__cause__  # this is the reader's thread
            return self._finished.get(timeout=POLL_SECONDS)
        return None

    def stop(self) -> None:
        """End the threads. It takes no lock: a garbage collection may call it, in any thread and at any moment."""
        if self._process == os.getpid():  # a child of a fork has no threads to stop
            self._stopped = True
            self.attempts.cancel()

    def _is_over(self) -> bool:
        # Python waits at its end for threads that are no daemons; daemons serve a reader whose thread is none
        return self._stopped or not (threading.current_thread().daemon or threading.main_thread().is_alive())

    def _work(self) -> None:
        while not self._is_over():
            with suppress(queue.Empty):
                self._execute(*self._pending.get(timeout=IDLE_SECONDS))

    def _execute(self, item: BatchItem[Any], request: Request) -> None:
        try:
            self._retry(item, request)
        except BaseException as error:  # whatever happens, the reader gets the item
            item.result, item.error = None, foreign_failure(error, "the item failed", may_have_executed=True)
        self._finished.put(item)

    def _retry(self, item: BatchItem[Any], request: Request) -> None:
        refusals = self._refusals
        while sent := self._wait_for_limiter(refusals):
            item.result, level, item.error = self.attempts.make(request)
            if not self._learn(sent, level, item.error) or self._given_up(refusals):
                return
            with suppress(Exception):  # a failing log handler must not make the item fail
                _log.info("nothing was executed: retry of item %d after: %s", item.index, item.error)
        item.error = item.error or copy(self._refusal)  # its own refusal, or that for which it was not sent

    def _given_up(self, refusals: int) -> bool:
        """Return whether an item is not sent again that has seen all refusals but the first ones, whose number is passed."""
        hopeless = (self._refusal.retry_after or 0.0) > MAX_RETRY_AFTER
        return hopeless or self._refusals - max(refusals, self._refusals_before) > self.policy.max_retries

    def _wait_for_limiter(self, refusals: int) -> Optional[Sent]:
        """Wait until the next request may be sent; return ``None`` if none is sent. One thread at a time waits, and asks if need be."""
        with self._turn, self._changed:
            while not (self._is_over() or self._given_up(refusals)):
                now = time.monotonic()
                delay = max(0.0, self._resume - now) or self._limiter.wait(now)
                if self._limiter.ask:
                    limits = None
                    self._changed.release()  # responses arrive meanwhile
                    with suppress(BaseException):  # of a hook: then the server does not say
                        limits = self.ask_limits()
                    self._changed.acquire()
                    self._limiter.usage(time.monotonic(), limits)
                elif delay:
                    self._changed.wait(min(delay, POLL_SECONDS))
                else:
                    return self._limiter.sent(now)
        return None

    def _learn(self, sent: Sent, level: Optional[Level], error: Optional[RecallError]) -> bool:
        """Learn from an attempt, and return whether it was refused: whether nothing was executed, and a retry may succeed."""
        now, pause = time.monotonic(), error.retry_after if error else None
        with self._changed:
            if level is not None:
                self._limiter.reported(sent, now, level.remaining, level.seconds, level.limit)
            if isinstance(error, RateLimitError):
                self._limiter.rejected(sent, now, pause)
            else:
                self._limiter.accepted(sent, now)
            self._changed.notify()
            if not isinstance(error, (RateLimitError, RecallConnectionError)) or error.may_have_executed:
                self._refusals_before = self._refusals
                return False
            self._refusal = error
            is_unsent = isinstance(error, RecallConnectionError) and sent.time >= self._resume  # by a server that accepts nothing now
            if is_unsent or not self._limiter.in_flight:  # otherwise one of the others may have been accepted
                self._refusals += 1
                retry = self._refusals - self._refusals_before - 2  # the limiter copes with the first refusal after an acceptance
                if is_unsent or (retry >= 0 and not pause):
                    self._resume = now + self.policy.delay(min(max(retry, 0), self.policy.max_retries), random.random)
        return True


class BatchIterator(Iterator[BatchItem[R_co]]):
    """The finished items of a batch. Any thread may close it, also while another one waits for an item."""

    def __init__(self, batch: Batch, mask: Callable[[RecallError], object]) -> None:
        self._batch, self._items = batch, batch.run()  # threads don't refer to the generator, so that a forgotten batch ends
        self._mask = mask  # hides the key in an error, also in one of the caller's code

    def __next__(self) -> BatchItem[R_co]:
        item = next(self._items)
        if item.error is not None:
            self._mask(item.error)
        return item

    def close(self) -> None:
        """Stop what is queued. Calls in flight finish, and their results are dropped."""
        self._batch.stop()
