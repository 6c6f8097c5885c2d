"""Many executions in parallel: worker threads between two queues, and one limiter for all of them.

The reader takes items from the source, prepares them and queues them. Each worker takes a queued item, waits for the limiter, makes the
attempt or submits it to the executor, retries after a 429, and puts the finished item on the second queue.
"""

import logging
import os
import queue
import random
import threading
import time
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, Callable, Dict, Generator, Iterable, Optional, Tuple

from recall_sdk._failures import foreign_failure, invalid_argument
from recall_sdk._limiter import Limiter, Sent
from recall_sdk._requests import Request
from recall_sdk.errors import RateLimitError, RecallError, build_error
from recall_sdk.models import BatchItem, RateLimitInfo, Result
from recall_sdk.retry import MAX_RETRY_AFTER, Backoff, checked_count

_log = logging.getLogger("recall_sdk")

Outcome = Tuple[Optional[Result], Optional[RateLimitInfo], Optional[RecallError]]

LOOK_AHEAD = 2
"""Items taken ahead of the reader, in multiples of ``max_workers``: one round in flight, and one to follow."""

SLICE = 0.05
"""Seconds of each wait. On Windows, a wait without a timeout can't be interrupted by Ctrl-C before Python 3.14.

Also the time after which the reader gets a finished item even if more items could be taken ahead.
"""


class Batch:
    """Many executions in parallel. The threads are daemons, so that a call which never ends does not keep the interpreter from exiting.

    Args:
        items: Pairs of a workflow id and its input; any iterable, also an endless one.
        prepare: Builds the call of an item, in the reader's thread and before the next item is taken: the source may then close a file
            in the input, or change the input.
        attempt: Makes one execution and returns its result, and the rate limit reported in this answer. With an executor of processes
            it must be picklable.
        ask_limits: Returns the remaining requests, their limit, and the seconds until the reset; ``None`` if unknown. Never raises.
        max_workers: Maximum attempts in flight.
        executor: Runs the attempts; ``None`` for the batch's own threads. The batch does not shut it down.
        policy: The retries after a 429.

    Raises:
        ValueError: ``max_workers`` is below 1.
        TypeError: An argument has the wrong type.
    """

    def __init__(
        self,
        items: Iterable[Tuple[str, Any]],
        prepare: Callable[[str, Any], Request],
        attempt: Callable[[Request], Tuple[Result, Optional[RateLimitInfo]]],
        ask_limits: Callable[[], Optional[Tuple[int, int, float]]],
        *,
        max_workers: int,
        executor: Optional[Executor],
        policy: Backoff,
    ) -> None:
        if not isinstance(items, Iterable):
            raise TypeError(f"items must be an iterable of pairs of a workflow id and an input, not {type(items).__name__}")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise TypeError(f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}")
        self._source, self._prepare, self._attempt, self._ask_limits = enumerate(items), prepare, attempt, ask_limits
        self._executor, self._policy = executor, policy
        self._max_workers = checked_count("max_workers", max_workers, least=1)
        self._pending: queue.SimpleQueue[Optional[Tuple[BatchItem[Result], Request]]] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[BatchItem[Result]] = queue.SimpleQueue()
        self._name = os.urandom(8).hex()
        self._limiter = Limiter()
        self._lock = threading.Lock()  # for the limiter
        self._turn = threading.Lock()  # for the one worker that waits for the limiter
        self._submitting = threading.Lock()
        self._stopped = threading.Event()
        self._threads = 0
        self._futures: Dict[int, Future[Outcome]] = {}  # the newest of each worker

    def run(self) -> Generator[BatchItem[Result], None, None]:
        """Execute the items, and yield each as it finishes. Closing the iterator stops the batch.

        Raises:
            TypeError: An item is not a pair.
        """
        process, held, resumed = os.getpid(), 0, time.monotonic()
        end: Exception = StopIteration()
        try:
            while True:
                try:
                    self._add(*next(self._source))
                except Exception as error:  # an error of the source reaches the reader after the items in flight
                    end = error
                    break
                held += 1
                # With a slow source, the reader does not wait for more items.
                if held == LOOK_AHEAD * self._max_workers or (self._finished.qsize() and time.monotonic() > resumed + SLICE):
                    yield self._next_finished()
                    held, resumed = held - 1, time.monotonic()
            for _ in range(held):
                yield self._next_finished()
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
        except (RecallError, ValueError, TypeError) as error:
            item.error = invalid_argument(error)
            self._finished.put(item)
        else:
            self._pending.put((item, call))

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._work, name="recall_sdk-batch-worker", daemon=True).start()
            self._threads += 1
        except RuntimeError as error:  # the system grants no more threads
            if not self._threads:
                raise foreign_failure(error, "no thread could be started", may_have_executed=False) from error

    def _next_finished(self) -> BatchItem[Result]:
        while True:
            with suppress(queue.Empty):
                return self._finished.get(timeout=SLICE)

    def _stop(self) -> None:
        self._stopped.set()
        for _ in range(self._threads):
            self._pending.put(None)
        for future in self._futures.copy().values():
            future.cancel()

    def _work(self) -> None:
        for item, call in iter(self._pending.get, None):
            item.result, item.error = self._execute(item.index, call)
            self._finished.put(item)

    def _execute(self, index: int, call: Request) -> Tuple[Optional[Result], Optional[RecallError]]:
        retry = 0
        while True:
            sent = self._pass_limiter()
            result, info, error = self._send(sent.number, call)
            self._learn(sent, info, error)
            if not isinstance(error, RateLimitError) or (delay := self._policy.wait_after(error, retry, random.random)) is None:
                return result, error
            if error.retry_after is None and retry == 0 and self._limiter.rate is not None:
                delay = 0.0  # the limiter knows when a request may be sent again
            retry += 1
            with suppress(Exception):  # a failing log handler must not make the item fail
                _log.info("rate limited: item %d, retry %d of %d in %.2f s", index, retry, self._policy.max_retries, delay)
            self._stopped.wait(delay)

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

    def _send(self, number: int, call: Request) -> Outcome:
        if self._stopped.is_set():
            return None, None, build_error(RecallError, "the batch was closed", may_have_executed=False)
        if self._executor is None:
            return _attempt(number, self._attempt, call)
        future: Optional[Future[Outcome]] = None
        try:
            with self._submitting:  # the user's executor may not be thread-safe
                future = self._futures[threading.get_ident()] = self._executor.submit(_attempt, (self._name, number), self._attempt, call)
            return future.result()
        except (ValueError, TypeError) as error:  # the call did not pickle: nothing was sent
            return None, None, invalid_argument(error)
        except BaseException as error:  # a broken executor, a dead worker process, a cancelled future
            return None, None, foreign_failure(error, "the executor did not run the item", may_have_executed=future is not None)

    def _learn(self, sent: Sent, info: Optional[RateLimitInfo], error: Optional[RecallError]) -> None:
        with self._lock:
            if info is not None and info.retry_after is None:
                self._limiter.reported(sent, time.monotonic(), info.remaining, info.reset - time.time(), info.limit)
            if isinstance(error, RateLimitError) and (error.retry_after or 0.0) <= MAX_RETRY_AFTER:
                self._limiter.rejected(sent, time.monotonic(), error.retry_after)
            else:
                self._limiter.accepted(sent, time.monotonic())


_PAIRS: Any = (tuple, list)


def _attempt(_number: object, attempt: Callable[[Request], Tuple[Result, Optional[RateLimitInfo]]], call: Request) -> Outcome:
    """Make one attempt. The number makes the task unique, also among batches, because Dask reuses the result of an identical task."""
    try:
        return (*attempt(call), None)
    except Exception as error:  # a foreign one is from a hook of the user's session, perhaps after sending
        info = error.rate_limit if isinstance(error, RateLimitError) else None
        return None, info, foreign_failure(error, "the item failed", may_have_executed=True)
