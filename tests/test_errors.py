"""The errors: their classes, their attributes, pickling and copying."""

import copy
import pickle
import re
import time

import pytest

import recall_sdk
from recall_sdk import (
    ExecutionError,
    InvalidRequestError,
    RateLimitError,
    RateLimitInfo,
    RecallConnectionError,
    RecallError,
    RecallTimeoutError,
    StreamedExecutionResult,
    StreamEvent,
    StreamInterruptedError,
    WorkflowExecutionResult,
    errors,
)
from recall_sdk import _decoding as decoding
from recall_sdk._bodies import message_of, shown
from recall_sdk._decoding import stream_failure
from recall_sdk.errors import build_error, one_line

FAMILY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]

CODES = {
    errors.RecallError: None,
    errors.AuthenticationError: "UNAUTHORIZED",
    errors.UsageLimitError: "USAGE_LIMIT_EXCEEDED",
    errors.PermissionDeniedError: "FORBIDDEN",
    errors.NotFoundError: "NOT_FOUND",
    errors.RateLimitError: "RATE_LIMIT_EXCEEDED",
    errors.InvalidRequestError: "INVALID_REQUEST",
    errors.RecallTimeoutError: "TIMEOUT",
    errors.ExecutionError: "EXECUTION_ERROR",
    errors.ServerError: "SERVER_ERROR",
    errors.RecallConnectionError: "CONNECTION_ERROR",
    errors.StreamInterruptedError: "STREAM_INTERRUPTED",
    errors.RedirectError: "REDIRECT_REFUSED",
    errors.InvalidResponseError: "INVALID_RESPONSE",
}
"""The documented code of each class."""

NEVER_EXECUTED = {
    *(errors.AuthenticationError, errors.UsageLimitError, errors.PermissionDeniedError, errors.NotFoundError, errors.RateLimitError),
}
"""The classes of refusals."""

OWN_FACTS = {
    RateLimitError: {"rate_limit": RateLimitInfo(10, 0, 1_800_000_000, 2)},
    RecallTimeoutError: {"result": WorkflowExecutionResult(False, error="late"), "partial": StreamedExecutionResult(False, text="so far")},
    ExecutionError: {"result": WorkflowExecutionResult(False, {"a": [1]}, "boom")},
    StreamInterruptedError: {"partial": StreamedExecutionResult(False, text="so far", text_by_block={"b": "so far"})},
}


def filled(kind):
    error = kind("what happened", "A_CODE", 418)
    facts = {
        "body": {"error": ["what"]},
        "server_code": "THEIR_CODE",
        "retry_after": 1.5,
        "may_have_executed": True,
        "request_id": "req-1",
        **OWN_FACTS.get(kind, {}),
    }
    vars(error).update(facts)
    return error, {"code": "A_CODE", "status": 418, **facts}


def test_errors_docstring_tree_matches_classes():
    """The tree at the top of the module shows each class below its parent, and no other."""
    drawn, path = {}, []
    for line in errors.__doc__.splitlines():
        match = re.match(r"( *(?:│   |    )*(?:[├└]── )?)(\w*(?:Error|Exception)) *", line)
        if match:
            depth = (len(match.group(1)) - 4) // 4
            path[depth:] = [match.group(2)]
            drawn[match.group(2)] = path[depth - 1] if depth else None
    real = {kind.__name__: kind.__bases__[0].__name__ for kind in FAMILY}
    assert drawn == {"Exception": None, **real}


@pytest.mark.parametrize("kind", FAMILY)
def test_errors_share_constructor(kind):
    """Each class accepts (message, code=None, status=None), as documented, and starts with default attributes."""
    plain, full = kind("what happened"), kind("what happened", code="A_CODE", status=418)
    assert (str(plain), plain.code, plain.status) == ("what happened", CODES[kind], None)
    assert (str(full), full.code, full.status) == ("what happened", "A_CODE", 418)
    assert full.args == ("what happened",)
    assert [plain.body, plain.server_code, plain.retry_after, plain.request_id] == [None] * 4
    assert all(getattr(plain, name) is None for name in OWN_FACTS.get(kind, {}))


@pytest.mark.parametrize("kind", FAMILY)
def test_errors_rebuilt_from_message(kind):
    """An error that is rebuilt from its message alone says False only if it is a refusal, and has the code of its class."""
    again = kind(str(kind("what happened", "A_CODE", 418)))
    assert (again.code, again.may_have_executed) == (CODES[kind], kind not in NEVER_EXECUTED)


@pytest.mark.parametrize("kind", FAMILY)
def test_build_error(kind):
    """The builder sets every attribute, and shows what a server sends as one clean line."""
    odd = "a\r\n\tb\x1b[31m\u202ec\ud83d"
    error = build_error(kind, odd, may_have_executed=True, code=odd, status=418, body=odd, server_code=odd, retry_after=1.5, request_id=odd)
    assert type(error) is kind
    assert (str(error), error.code, error.server_code, error.request_id) == ("a b c", "a b c", "a b c", "a b c")
    assert (error.status, error.body, error.retry_after, error.may_have_executed) == (418, odd, 1.5, True)
    plain = build_error(kind, "no", may_have_executed=False)
    assert (plain.code, plain.may_have_executed) == (CODES[kind], False)
    assert [plain.status, plain.body, plain.server_code, plain.retry_after, plain.request_id] == [None] * 5


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" a \n b ", "a b"),
        ("a\x00\x1b]0;title\x07b", "a 0;title b"),
        ("a\u2028\u2066b\ufeff", "a b"),
        ("Grüße 世界 😀", "Grüße 世界 😀"),
        ("", ""),
    ],
)
def test_one_line(text, line):
    """White space, control characters, escape sequences and bidirectional marks become one space."""
    assert one_line(text) == line


@pytest.mark.parametrize("piece", ["\x1b[", "\x1b", " ", "\x1b[0", "\n", "a "])
def test_one_line_is_linear(piece):
    """A text of any length is cleaned at once, and shortened in the middle."""
    start = time.process_time()
    line = one_line("begin " + piece * 500_000 + "\nend")
    assert time.process_time() - start < 2.0
    assert len(line) < 70_000
    assert (line[:5], line[-3:]) == ("begin", "end")


@pytest.mark.parametrize("kind", FAMILY)
def test_errors_derive_from_recall_error(kind):
    """``except RecallError`` catches all of them, and each is public and documented."""
    assert issubclass(kind, RecallError)
    assert getattr(recall_sdk, kind.__name__) is kind
    assert kind.__doc__


def test_invalid_request_error_is_value_error():
    """InvalidRequestError is also a ValueError; StreamInterruptedError is a connection error."""
    assert issubclass(InvalidRequestError, ValueError)
    assert issubclass(StreamInterruptedError, RecallConnectionError)
    assert [kind.__name__ for kind in FAMILY if issubclass(kind, (ValueError, OSError))] == ["InvalidRequestError"]


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("kind", FAMILY)
def test_errors_pickle_and_copy_with_attributes(kind, travel):
    """Pickle, copy and deepcopy keep class, message and every attribute."""
    error, facts = filled(kind)
    twin = travel(error)
    assert type(twin) is kind
    assert twin is not error
    assert (str(twin), vars(twin)) == ("what happened", facts)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_pickle_with_every_protocol(protocol):
    """Every protocol works, also the oldest one, which some queues use."""
    error, facts = filled(ExecutionError)
    assert vars(pickle.loads(pickle.dumps(error, protocol))) == facts


def test_errors_do_not_share_attributes():
    """Attributes of one error do not affect another."""
    filled(RateLimitError)
    assert RateLimitError("another").rate_limit is None


# ---------------------------------------------------------------------------------------------------- failures of a run

JOB = {"taskId": "t-1", "status": "failed", "output": {"a": 1}, "error": "Boom:\n line 1", "metadata": {"duration": 5}}


def test_job_failure_of_failed_job():
    """The error has the reason as text, the server's data about the run, and the whole status."""
    error = decoding.job_failure(JOB)
    assert type(error) is ExecutionError
    assert str(error) == "job t-1 failed: Boom: line 1"
    assert (error.code, error.status, error.body, error.may_have_executed) == ("EXECUTION_ERROR", None, JOB, True)
    assert error.result == WorkflowExecutionResult(False, {"a": 1}, "Boom:\n line 1", metadata={"duration": 5})


def test_job_failure_of_cancelled_job():
    """A cancelled job has its own code."""
    error = decoding.job_failure({**JOB, "status": "cancelled", "error": None})
    assert str(error) == "job t-1 was cancelled: the server does not say why"
    assert error.code == "JOB_CANCELLED"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ({"message": "no memory", "code": 5}, "no memory"),
        ({"error": "no memory"}, "no memory"),
        ({"code": 5}, '{"code": 5}'),
        (["no", "memory"], "no; memory"),
        (7, "7"),
        ("", "the server does not say why"),
        (None, "the server does not say why"),
    ],
)
def test_job_failure_shows_any_reason_as_text(reason, text):
    """The documented ``error (any)`` of a job or a stream becomes readable text."""
    assert decoding.job_failure({**JOB, "error": reason}).result.error == text
    event = StreamEvent("error", None, "", {"event": "error", "error": reason})
    error = stream_failure(event, StreamedExecutionResult(False, text="so far"))
    assert error.result.error == text
    assert str(error) == f"the workflow failed: {text}"


def test_job_failure_is_one_clean_line():
    """What the server sends of a job is shown without line breaks and escape sequences; the data is kept as received."""
    error = decoding.job_failure({**JOB, "taskId": "t\n\x1b[31m1", "error": "no\r\nmemory\u202e"})
    assert str(error) == "job t 1 failed: no memory"
    assert error.result.error == "no\r\nmemory\u202e"


def test_message_of_deeply_nested_reason():
    """A reason that is nested too deeply for Python is reported without a RecursionError."""
    reason = []
    for _ in range(200_000):
        reason = [reason]
    assert message_of(reason) == shown(reason) == "a reason nested too deeply to show"
    while reason:  # taken apart by hand: old Pythons do not survive doing it themselves
        reason = reason.pop()
