"""The checks of the soak: each of them notices what it is there for."""

import logging
from itertools import islice
from random import Random

import pytest

from recall_sdk import RecallError
from soak.faults import KINDS, Asked
from soak.operations import Book, LogCheck, Thread
from soak.report import Quiet, late_ones, leaks
from soak.server import Ledger


@pytest.fixture
def book():
    """A book whose server is never asked."""
    return Book(0)


def received(*requests, denied=()):
    """Return what a ledger says after executions of these kinds and tokens were received."""
    ledger = Ledger()
    for name, token in requests:
        ledger.receive(name, token, redirected=name.startswith("redirect-"))
    ledger.deny(denied)
    return dict(ledger.violations.counts)


def test_ledger_notices_run_that_is_sent_twice():
    """A second request of a run is reported, unless the first was refused or redirected and may be sent again."""
    assert received(("ok-length", "tok-1-1r"), ("ok-length", "tok-1-1r")) == {"sent twice": 1}
    assert received(("status-503", "tok-1-1r"), ("ok-length", "tok-1-1r")) == {"sent twice": 1}
    assert received(("status-429-plain", "tok-1-1p"), ("ok-length", "tok-1-1p")) == {"sent twice": 1}
    assert received(("status-429-own-response", "tok-1-1r"), ("ok-length", "tok-1-1r")) == {"sent twice": 1}
    assert received(("redirect-302", "tok-1-1p"), ("ok-length", "tok-1-1p")) == {"sent twice": 1}
    assert received(("status-429-plain", "tok-1-1r"), ("ok-length", "tok-1-1r")) == {}
    assert received(("redirect-307", "tok-1-1p"), ("ok-length", "tok-1-1p")) == {}


def test_ledger_lets_run_recover():
    """A run that is refused at its first request is accepted at the next one, and not sent a third time."""
    ledger = Ledger()
    for expected in ("status-429-plain", "ok-length", "ok-length"):
        assert ledger.resolve("limited-plain", "tok-1-1r") == expected
        ledger.receive(expected, "tok-1-1r", redirected=False)
    assert dict(ledger.violations.counts) == {"sent twice": 1}
    assert ledger.resolve("ok-gzip", "tok-1-2r") == "ok-gzip"


def test_ledger_notices_wrong_may_have_executed():
    """A run that executed although the client denied it is reported, whichever came first."""
    assert received(("drop-reset", "tok-1-1p"), denied=["tok-1-1p"]) == {"executed although may_have_executed=False": 1}
    assert received(("status-400", "tok-1-1p"), denied=["tok-1-1p"]) == {}
    ledger = Ledger()
    ledger.deny(["tok-1-1p"])
    ledger.receive("ok-length", "tok-1-1p", redirected=False)
    assert dict(ledger.violations.counts) == {"executed although may_have_executed=False": 1}


def test_check_notices_wrong_response_and_foreign_exception(book):
    """A token of another run, an exception that is no RecallError, and a late end are reported."""
    thread = Thread(None, book, "1", None)
    thread.check("call", "ok", "tok-1-1p", lambda: {"token": "tok-1-1p"}, 9.0)
    assert dict(book.violations.counts) == {}
    thread.check("call", "ok", "tok-1-2p", lambda: {"token": "tok-1-1p"}, 9.0)
    thread.check("call", "ok", "tok-1-2p", lambda: 1 / 0, 9.0)
    thread.check("call", "ok", "tok-1-2p", lambda: None, -9.0)
    assert dict(book.violations.counts) == {"a response to the wrong caller": 1, "a foreign exception": 1}
    assert len(late_ones(book, [])) == 1


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (RecallError("tok-1-1p failed", "CODE"), []),
        (RecallError("tok-1-2p failed", "CODE"), ["a response to the wrong caller"]),
        (RecallError("key-5-secret is wrong", "CODE"), ["the key in an error"]),
        (RecallError("two\nlines", "CODE"), ["a message or a code that is not one clean line"]),
        (RecallError("no", "CO\x1bDE"), ["a message or a code that is not one clean line"]),
    ],
)
def test_check_notices_bad_error(book, error, found):
    """An error that names another run or the key, or that is not one clean line, is reported."""
    Thread(None, book, "1", Random(1)).check_error("call", "ok", "tok-1-1p", error, executes=False)
    assert list(book.violations.counts) == found


def test_log_check_notices_key_and_control_characters(book):
    """A log line with the key or with a control character is reported."""
    check = LogCheck(book)
    for text in ("GET /api 200", "GET /key-1-secret 200", "GET /api\x1b 200"):
        check.emit(logging.LogRecord("recall_sdk", logging.DEBUG, "", 0, text, (), None))
    assert dict(book.violations.counts) == {"the key or a control character in the log": 2}


def test_late_ones_allow_busy_machine(book):
    """What is late by no more than the machine stood still meanwhile, or than its load explains, is not reported."""
    book.late = [(10.0, 13.0, 2.0, 1.0, "a call"), (20.0, 23.0, 2.0, 1.0, "another"), (30.0, 33.0, 0.9, 2.0, "a third")]
    found = late_ones(book, [[9.0, 10.5], [11.0, 12.5], [20.0, 20.1]])
    assert found == ["another: 2.00 s later than its timeout, at 1.0 times the usual load"]


def test_leaks_are_noticed():
    """Threads and descriptors that are left after a round, and memory that grows, are reported."""
    flat = Quiet(1, 8, 26_000, 300_000, 60.0)
    assert leaks([flat] * 5) == []
    assert leaks([flat, flat._replace(threads=2), flat, flat, flat]) == ["threads left: 1"]
    assert leaks([flat, flat, flat, flat._replace(descriptors=9), flat]) == ["descriptors left: 1"]
    found = leaks([flat, flat, flat, flat, flat._replace(objects=90_000, blocks=900_000, resident=900.0)])
    assert [text.partition(":")[0] for text in found] == ["objects", "blocks", "memory"]
    nowhere = flat._replace(descriptors=None, resident=None)
    assert leaks([nowhere] * 5) == []


@pytest.mark.parametrize("name", KINDS)
def test_kind_sends_something(name):
    """Each kind of fault yields bytes to send, pauses, or an end of the connection."""
    steps = list(islice(KINDS[name].send(Asked("tok-1-1p", "key-1-secret", "http://127.0.0.1:1", Random(1))), 5))
    assert steps
    assert all(isinstance(step, (bytes, float)) or step in ("close", "reset", "hang") for step in steps)
