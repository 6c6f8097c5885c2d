"""What the threads of the soak do with their client, and what they check of each result.

An operation returns nothing. It reports its outcome to a :class:`Book`, and whatever must not happen as a violation.
"""

import http.client
import json
import logging
import os
import re
import threading
import time
import traceback
from random import Random
from typing import Any, Callable, Container, Counter, Dict, List, Optional, Sequence, Tuple

from recall_sdk import AsyncExecutionResult, RateLimitError, RecallClient, RecallError, WorkflowStream

from .faults import JOBS, KINDS, RECOVERING
from .server import TOKEN, Violations

GRACE = 0.5  # seconds that a call may take longer than its timeout
USUAL_LOAD = 1.5  # runnable processes per processor
HUNG = 90.0  # seconds after which a batch counts as hung
SECRET = re.compile(r"key-\d+-secret")

PLAIN = [name for name in KINDS if not name.startswith("ticket-")]
STREAMS = [name for name in KINDS if name.startswith("stream-")]
TICKETS = [name for name in KINDS if name.startswith("ticket-")]
ENDLESS_STREAMS = ["stream-endless", "stream-comments", "stream-one-line"]
HEADS = ["late-silence", "late-head", "endless-interim", "endless-headers", "endless-status-line", "endless-redirect"]
"""Kinds whose head is late. The other late and endless ones have bytes that keep coming, which a stream rightly reads on and on."""
FINITE = [name for name in PLAIN if not name.startswith(("late-", "endless-")) and name not in ENDLESS_STREAMS]
LIMITED = [name for name in KINDS if name.startswith("status-429")]
BATCHED = [name for name in PLAIN if name not in LIMITED and not name.startswith("head-bad-")] + [*RECOVERING] * 2
"""Not those that refuse a run each time it is sent, or report odd limits: a batch rightly slows down for them."""


def machine_load() -> float:
    """Return how many times more the machine has to do than it has with this soak alone; 1 where that is unknown."""
    if not hasattr(os, "getloadavg"):
        return 1.0
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / USUAL_LOAD)


class Book:
    """The outcomes of all threads."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.lock = threading.Lock()
        self.outcomes: Counter[Tuple[str, str]] = Counter()  # by operation and class
        self.violations = Violations()
        self.overshoots: Counter[int] = Counter()  # by milliseconds
        self.late: List[Tuple[float, float, float, float, str]] = []  # start, end, overshoot, load, what
        self.denied: List[str] = []

    def outcome(self, operation: str, word: str) -> None:
        with self.lock:
            self.outcomes[operation, word] += 1

    def took(self, started: float, bound: float, what: str) -> None:
        """Note how much longer than allowed something took."""
        ended = time.monotonic()
        over = ended - started - bound
        with self.lock:
            if over > 0:
                self.overshoots[round(over * 1000)] += 1
            if over > GRACE and len(self.late) < 1_000:
                self.late.append((started, ended, over, machine_load(), what))

    def deny(self, tokens: List[str]) -> None:
        """Tell the server of which runs an error says that they did not execute."""
        with self.lock:
            self.denied += tokens
            enough = len(self.denied) >= 200
        if enough:
            self.send_denied()

    def send_denied(self) -> None:
        with self.lock:
            tokens, self.denied = self.denied, []
        self.control("POST", "/soak/denied", tokens)

    def control(self, method: str, path: str, value: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, json.dumps(value))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


class LogCheck(logging.Handler):
    """Checks each line of the client's log."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self.book = book

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if SECRET.search(text) or not text.isprintable():
            self.book.violations.add("the key or a control character in the log", repr(text))


class Thread:
    """One thread of the soak, with random numbers of its own."""

    def __init__(self, client: RecallClient, book: Book, name: str, random: Random, skip: Container[str] = ()) -> None:
        self.client = client
        self.book = book
        self.name = name
        self.random = random
        self.skip = skip
        self.count = 0

    def run_until(self, end: float) -> None:
        """Do one operation after the other."""
        while time.monotonic() < end:
            (operation,) = self.random.choices(list(OPERATIONS), list(OPERATIONS.values()))
            try:
                operation(self)
            except Exception:  # noqa: BLE001 -- it is reported
                self.book.violations.add("a foreign exception", f"{operation.__name__}: {traceback.format_exc()}")

    def token(self, letter: str = "p") -> str:
        self.count += 1
        return f"tok-{self.name}-{self.count}{letter}"

    def pick(self, kinds: List[str]) -> str:
        return self.random.choice([name for name in kinds if name not in self.skip])

    def timeout(self) -> float:
        return self.random.uniform(0.2, 0.8)

    def check(self, operation: str, kind: str, token: str, call: Callable[[], Any], bound: float, *, executes: bool = True) -> Any:
        """Make a call, check its outcome, and return its result, or ``None`` after an error."""
        started = time.monotonic()
        result, error = None, None
        try:
            result = call()
        except RecallError as caught:
            error = caught
        except Exception:  # noqa: BLE001 -- it is reported
            self.book.violations.add("a foreign exception", f"{operation} {kind}: {traceback.format_exc()}")
            self.book.outcome(operation, "a foreign exception")
            return None
        self.book.took(started, bound, f"{operation} {kind}")
        if error is None:
            self.check_text(operation, kind, token, repr(result))
            self.book.outcome(operation, type(result).__name__)
        else:
            self.check_error(operation, kind, token, error, executes=executes)
        return result

    def check_error(
        self, operation: str, kind: str, token: str, error: RecallError, *, executes: bool = True, shared: Sequence[str] = ()
    ) -> None:
        facts = [str(error), repr(vars(error))]
        if self.random.random() < 0.1:
            facts += traceback.format_exception(type(error), error, error.__traceback__)
        self.check_text(operation, kind, token, " ".join(facts), shared)
        if SECRET.search(" ".join(facts)):
            self.book.violations.add("the key in an error", f"{operation} {kind}: {error}")
        words = [str(error), error.code or "", error.server_code or "", error.request_id or ""]
        if not "".join(words).isprintable():
            self.book.violations.add("a message or a code that is not one clean line", f"{operation} {kind}: {words!r}")
        if executes and not error.may_have_executed:
            self.book.deny([token])
        self.book.outcome(operation, type(error).__name__)

    def check_text(self, operation: str, kind: str, token: str, text: str, shared: Sequence[str] = ()) -> None:
        """Check that no token of another request is in what this one got, but for those with which it shares a reason."""
        foreign = set(TOKEN.findall(text)) - {token, *shared}
        if foreign:
            self.book.violations.add(
                "a response to the wrong caller", f"{operation} {kind}: {token} got that of {sorted(foreign)}: {text[:300]}"
            )

    # ----------------------------------------------------------------------------------------------------- calls

    def call(self) -> None:
        kind, token, timeout = self.pick(PLAIN), self.token(), self.timeout()
        value = {"token": token, "filler": "x" * self.random.choice([0, 0, 0, 100_000])}
        self.check("call", kind, token, lambda: self.client.execute_workflow(kind, value, timeout=timeout), timeout)

    def retried_call(self) -> None:
        kind, token, timeout, retries = (
            self.pick([*LIMITED, *RECOVERING, *PLAIN[:5]]),
            self.token("r"),
            self.timeout(),
            self.random.randrange(3),
        )
        settings: Any = {"timeout": timeout, "max_retries": retries, "initial_delay": 0.01, "max_delay": 0.05}
        bound = timeout + retries * (timeout + 2.0)  # a Retry-After here is at most 2 seconds, or too long to be waited for
        self.check("retried call", kind, token, lambda: self.client.execute_with_retry(kind, {"token": token}, **settings), bound)

    def streamed_call(self) -> None:
        kind, token, timeout = self.pick(STREAMS + HEADS), self.token(), self.timeout()
        if kind not in ENDLESS_STREAMS:
            settings: Any = {"timeout": timeout, "stream": True}
            self.check(
                "streamed call", kind, token, lambda: self.client.execute_workflow(kind, {"token": token}, **settings), timeout + 5.0
            )

    def question(self) -> None:
        kind, token = self.pick(PLAIN + ["status"] * 50), self.token()
        ask = self.random.choice([self.client.get_workflow_status, self.client.validate_workflow])
        self.check("question", kind, token, lambda: ask(f"{kind}~{token}"), CLIENT_TIMEOUT, executes=False)

    def limits(self) -> None:
        self.check("limits", "usage", "", self.client.get_usage_limits, CLIENT_TIMEOUT, executes=False)
        self.client.get_rate_limit_info()

    # --------------------------------------------------------------------------------------------------- streams

    def open(self, kinds: List[str]) -> Tuple[str, str, float, Optional[WorkflowStream]]:
        kind, token, timeout = self.pick(kinds), self.token(), self.timeout()
        # What is no event stream is read here to its end, and its bytes may come slowly.
        bound = timeout if kind in (*STREAMS, *HEADS) else timeout + 5.0
        opened = self.check(
            "stream opened", kind, token, lambda: self.client.stream_workflow(kind, {"token": token}, timeout=timeout), bound
        )
        return kind, token, timeout, opened

    def read(self) -> None:
        kind, token, timeout, stream = self.open(FINITE + HEADS)
        if stream is not None:
            with stream:
                self.read_rest("stream read", kind, token, stream, timeout + 5.0)

    def read_rest(self, operation: str, kind: str, token: str, stream: WorkflowStream, bound: float) -> None:
        self.check(operation, kind, token, lambda: ([event.data for event in stream], stream.result), bound)

    def leave(self) -> None:
        kind, token, _, stream = self.open(STREAMS)
        if stream is not None:
            with stream:
                self.read_some("stream left", kind, token, stream)

    def abandon(self) -> None:
        kind, token, _, stream = self.open(STREAMS)
        if stream is not None:
            self.read_some("stream abandoned", kind, token, stream)

    def read_some(self, operation: str, kind: str, token: str, stream: WorkflowStream) -> None:
        if kind in ("stream-comments", "stream-one-line"):
            return  # no event ever comes
        for _ in range(self.random.randrange(4)):
            if self.check(operation, kind, token, lambda: next(stream, None), 5.0) is None:
                return

    def close_from_elsewhere(self) -> None:
        kind, token, _, stream = self.open(STREAMS)
        if stream is None:
            return
        delay = self.random.uniform(0, 0.2)
        closer = threading.Timer(delay, stream.close)
        closer.start()
        self.read_rest("stream closed elsewhere", kind, token, stream, delay)
        closer.join()
        self.check("stream read again", kind, token, lambda: list(stream), 0.0)

    # ------------------------------------------------------------------------------------------- jobs and batches

    def job(self) -> None:
        kind, token, timeout = self.pick(TICKETS + ["ticket-plain"] * 5 + ["status-400", "drop-reset"]), self.token(), self.timeout()
        settings: Any = {"timeout": timeout, "async_execution": True}
        ticket = self.check("queued", kind, token, lambda: self.client.execute_workflow(kind, {"token": token}, **settings), timeout)
        if not isinstance(ticket, AsyncExecutionResult):
            return
        seen: List[Dict[str, Any]] = []
        patience = self.random.uniform(0.1, 1.5)
        passed: Any = self.random.choice([ticket, ticket.task_id])
        settings = {"timeout": patience, "poll_interval": 0.01, "max_poll_interval": 0.05, "on_update": seen.append}
        self.check("job", kind, token, lambda: self.client.wait_for_job(passed, **settings), patience, executes=False)
        self.check_text("job update", kind, token, repr(seen))

    def job_status(self) -> None:
        name, token = self.random.choice([*JOBS, "unknown"]), self.token()
        self.check("job status", name, token, lambda: self.client.get_job_status(f"{name}~{token}"), CLIENT_TIMEOUT, executes=False)

    def batch(self) -> None:
        items = [(self.pick(BATCHED), {"token": self.token("r")}) for _ in range(self.random.randrange(1, 12))]
        settings: Any = {"timeout": self.timeout(), "max_retries": 2, "initial_delay": 0.01, "max_delay": 0.05}
        started = time.monotonic()
        results = self.client.execute_batch(items, max_workers=self.random.randrange(1, 5), **settings)
        for _ in range(self.random.choice([len(items), len(items), self.random.randrange(len(items) + 1)])):
            item = next(results)
            if item.error is not None:
                # An item that was not sent has the reason of the one that was refused.
                shared = [each["token"] for _, each in items] if isinstance(item.error, RateLimitError) else []
                self.check_error("batch item", item.workflow_id, item.input["token"], item.error, shared=shared)
            else:
                self.check_text("batch item", item.workflow_id, item.input["token"], repr(item.result))
                self.book.outcome("batch item", type(item.result).__name__)
        if self.random.random() < 0.5:
            results.close()
        self.book.took(started, HUNG, f"batch of {[kind for kind, _ in items]}")


CLIENT_TIMEOUT = 0.6  # seconds: of the client, for calls without one of their own

OPERATIONS: Dict[Callable[[Thread], None], int] = {
    Thread.call: 30,
    Thread.retried_call: 6,
    Thread.streamed_call: 6,
    Thread.question: 5,
    Thread.limits: 2,
    Thread.read: 12,
    Thread.leave: 8,
    Thread.abandon: 8,
    Thread.close_from_elsewhere: 8,
    Thread.job: 6,
    Thread.job_status: 4,
    Thread.batch: 2,
}
"""What threads do, and how often."""
