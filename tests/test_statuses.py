"""Which error a status is: its class, code, reason and advice, and whether the workflow may have run."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_responses import JOB, NOW, QUEUE, RUN, STATUS, STREAM, USAGE, response_of
from recall_sdk import (
    AuthenticationError,
    ExecutionError,
    InvalidRequestError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RateLimitInfo,
    RecallError,
    RecallTimeoutError,
    ServerError,
    UsageLimitError,
    WorkflowExecutionResult,
)
from recall_sdk._statuses import error_of, request_id, unreadable
from recall_sdk.testing import RecallServer

GENEROUS = 2.0
"""Seconds of CPU time for what takes milliseconds if it is linear, and minutes if it is not."""

HTML_PAGE = "an HTML page came instead of JSON: something in front of the API responded, such as a gateway or bot protection"


def error(body=b"", status=400, request=RUN, headers=None, may_repeat=False):
    """Return the error for a response."""
    return error_of(response_of(request, status, headers, body, may_repeat=may_repeat))


TABLE = [
    # status, the server's code, request -> class, code, may_have_executed
    (401, "INVALID_API_KEY", RUN, AuthenticationError, "UNAUTHORIZED", False),
    (402, None, RUN, UsageLimitError, "USAGE_LIMIT_EXCEEDED", False),
    (429, "USAGE_LIMIT_EXCEEDED", RUN, UsageLimitError, "USAGE_LIMIT_EXCEEDED", False),
    (400, "USAGE_LIMIT_EXCEEDED", RUN, UsageLimitError, "USAGE_LIMIT_EXCEEDED", False),
    (403, None, RUN, PermissionDeniedError, "FORBIDDEN", False),
    (403, "ACCESS_DENIED", RUN, PermissionDeniedError, "ACCESS_DENIED", False),
    (404, None, RUN, NotFoundError, "NOT_FOUND", False),
    (404, "TASK_NOT_FOUND", JOB, NotFoundError, "TASK_NOT_FOUND", False),
    (429, "TOO_MANY", RUN, RateLimitError, "RATE_LIMIT_EXCEEDED", False),
    (400, None, RUN, InvalidRequestError, "INVALID_REQUEST", False),
    (400, "BAD_FIELD", RUN, InvalidRequestError, "BAD_FIELD", False),
    (409, None, RUN, InvalidRequestError, "INVALID_REQUEST", True),
    (422, "E_CUSTOM", RUN, InvalidRequestError, "E_CUSTOM", True),
    (499, None, RUN, InvalidRequestError, "INVALID_REQUEST", True),
    (524, None, RUN, RecallTimeoutError, "TIMEOUT", True),
    (598, "SLOW", RUN, RecallTimeoutError, "TIMEOUT", True),
    (520, None, RUN, ServerError, "SERVER_ERROR", True),
    (418, None, RUN, InvalidRequestError, "INVALID_REQUEST", False),
    (408, "SLOW", RUN, RecallTimeoutError, "TIMEOUT", True),
    (408, None, JOB, RecallTimeoutError, "TIMEOUT", False),
    (504, "GATEWAY", RUN, RecallTimeoutError, "TIMEOUT", True),
    (500, "ANY", RUN, ExecutionError, "EXECUTION_ERROR", True),
    (500, None, QUEUE, ExecutionError, "EXECUTION_ERROR", True),
    (500, None, JOB, ServerError, "SERVER_ERROR", False),
    (500, "DATABASE", STATUS, ServerError, "DATABASE", False),
    (502, None, RUN, ServerError, "SERVER_ERROR", True),
    (503, "DOWN", RUN, ServerError, "DOWN", True),
    (599, None, USAGE, ServerError, "SERVER_ERROR", False),
    (304, "ODD", RUN, InvalidResponseError, "INVALID_RESPONSE", True),
    (101, None, STATUS, InvalidResponseError, "INVALID_RESPONSE", False),
]


@pytest.mark.parametrize("row", TABLE)
def test_error_for_each_status(row):
    """Each status has its class and code; the server's own code and the body are kept; the error says whether the run may have begun."""
    status, server_code, request, kind, code, may_have_executed = row
    body = {"error": "their words", **({"code": server_code} if server_code else {})}
    failure = error(body, status, request)
    assert type(failure) is kind
    assert (failure.code, failure.status, failure.server_code, failure.body) == (code, status, server_code, body)
    assert failure.may_have_executed is may_have_executed
    assert "their words" in str(failure)
    assert f"(HTTP {status})" in str(failure)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429])
def test_error_after_repeated_request(status):
    """Where an adapter of the user's may have sent the request twice, the workflow may have run, whatever the last status."""
    assert error({"error": "no"}, status, may_repeat=True).may_have_executed is True
    assert error({"error": "no"}, status, JOB, may_repeat=True).may_have_executed is False


# ---------------------------------------------------------------------------------------------------------- the reason


@pytest.mark.parametrize(
    ("body", "text", "code"),
    [
        ({"error": "a"}, "a", None),
        ({"error": "a", "code": "C"}, "a", "C"),
        ({"error": "a", "message": "b"}, "a: b", None),
        ({"error": "a", "message": "a"}, "a", None),
        ({"error": {"message": "a", "code": "C"}}, "a", "C"),
        ({"error": {"error": "a"}, "message": "b", "code": "C"}, "a: b", "C"),
        ({"error": {}, "message": "a"}, "a", None),
        ({"error": {"code": ""}, "code": "C"}, '{"code": ""}', "C"),
        ({"error": "a", "code": ""}, "a", None),
        ({"error": "a", "code": "\u202e"}, "a", None),
        ({"error": {}}, 'the server gave no reason, only {"error": {}}', None),
        ({"error": {"a": 1}}, '{"a": 1}', None),
        ({"message": "b"}, "b", None),
        ({"msg": "b", "code": "C"}, "b", "C"),
        ({"detail": "key expired"}, "key expired", None),
        ({"detail": ["key expired", "ask for another"]}, "key expired; ask for another", None),
        ({"detail": [{"loc": ["body", "items", 0], "msg": "required", "type": "missing"}]}, "body.items.0: required", None),
        ({"title": "no", "detail": "bad thing", "status": 422}, "no: bad thing", None),
        ({"errors": [{"message": "one"}, {"message": "two"}]}, "one; two", None),
        ({"errors": {"name": ["too short"]}}, '{"name": ["too short"]}', None),
        ({"error": "a", "details": [{"path": "x", "message": "y"}, "odd"]}, "a [x: y]", None),
        ({"error": "a", "details": [{"path": ["b", "c"], "message": "y"}, {"message": "z"}]}, "a [b.c: y; z]", None),
        ({"error": "a", "details": [{"path": [], "message": "y"}, {"path": 5, "message": "z"}]}, "a [y; z]", None),
        ({"error": {"message": "a", "details": [{"path": ["b"], "message": "y"}]}}, "a [b: y]", None),
        ({"code": "C", "details": [{"path": "x", "message": "y"}]}, "[x: y]", "C"),
        ({"error": True, "message": "a"}, "a", None),
        ({"error": 404, "message": "a"}, "a", None),
        ({"error": ["a", 5, "Grüße"]}, "a; 5; Grüße", None),
        ({"error": "a\n\tb\x1b[31m", "code": 5}, "a b", None),
        ({"error": "Gr\ud83d"}, "Gr", None),
        ({"error": "", "code": "C"}, 'the server gave no reason, only {"error": "", "code": "C"}', "C"),
        (b"", "the server gave no reason", None),
        (b"\x1b[0m", "the server gave no reason", None),
        (b"plain", "plain", None),
        (b"<html><p>x", HTML_PAGE, None),
        (b"\xff\xfe", "\ufffd\ufffd", None),
    ],
)
def test_error_reason(body, text, code):
    """The server's reason is found in each of the known forms, and is one line."""
    failure = error(body, 409)
    assert str(failure) == f"{text} (HTTP 409)"
    assert (failure.server_code, failure.code) == (code, code or "INVALID_REQUEST")


def test_error_reason_in_list():
    """The body itself may be a list of reasons."""
    assert str(error([{"message": "one"}, "two"], 400, STATUS)) == "one; two (HTTP 400)"


@pytest.mark.parametrize("body", [{"fault": {"faultstring": "quota"}}, {"ok": False}])
def test_error_without_reason_shows_body(body):
    """JSON without a reason is shown."""
    assert str(error(body, 403, STATUS)).startswith(f"the server gave no reason, only {json.dumps(body)} (HTTP 403): check")


@pytest.mark.parametrize("body", [{}, [], None, "", 0, False])
def test_error_with_empty_body(body):
    """JSON without any content has no reason."""
    assert str(error(body, 400, STATUS)) == "the server gave no reason (HTTP 400)"


def test_error_without_reason_is_shortened():
    """A long body without a reason, or of the workflow's own, is shortened in the message of a call, and kept whole."""
    with RecallServer() as server:
        for call in (lambda client: client.get_usage_limits(), lambda client: client.execute_workflow("w")):
            server.respond_next(418, json={"x": "y" * 100_000})
            with pytest.raises(RecallError, match=r"\{\"x\": \"yyy.* \.\.\. .*yyy\"\} \(HTTP 418\)") as caught:
                call(server.client())
            assert len(str(caught.value)) < 700
            assert caught.value.body == {"x": "y" * 100_000}


def test_error_is_one_clean_line():
    """What a server sends is shown without line breaks, escape sequences and bidirectional marks."""
    body = {"error": "a\u202eb\r\nc", "code": "C\x1b[31m\nD", "requestId": "r\n1"}
    failure = error(body, 403)
    assert str(failure).startswith("a b c (HTTP 403)")
    assert (failure.code, failure.server_code, failure.request_id) == ("C D", "C D", "r 1")


@pytest.mark.parametrize("form", [b"%s", b'{"error": %s}', b'{"error": "x", "details": [{"path": %s, "message": "y"}]}', b'{"errors": %s}'])
@pytest.mark.parametrize("depth", [400, 900, 100_000])
def test_error_deeply_nested(depth, form):
    """A reason that is nested too deeply to show still leads to an error."""
    failure = error(form % (b"[" * depth + b"1" + b"]" * depth), 400)
    assert isinstance(failure, (InvalidRequestError, ExecutionError))
    assert "(HTTP 400)" in str(failure)


# ---------------------------------------------------------------------------------------------------------------- pages

PAGES = [
    b"<html>",
    b"\r\n <!DOCTYPE html><p>hello",
    b"<!doctype\nHTML PUBLIC>",
    b"<!-- x --><html>...",
    b"<!-- a -- b - > --> <!----><head>",
    b"\xef\xbb\xbf<html>",
    b'<?xml version="1.0"?>\n<!-- x -->\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML">',
    b"<body><h1>",
    b"<title>x",
]


@pytest.mark.parametrize("page", PAGES)
def test_page_by_its_first_tag(page):
    """A page is known by its first tag, after white space, comments, a byte order mark and an XML declaration."""
    failure = error(page, 403)
    assert str(failure) == f"{HTML_PAGE} (HTTP 403): check the base_url, and what is between here and the API"
    assert failure.body == page.decode()


@pytest.mark.parametrize("kind", ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml"])
def test_page_by_its_type(kind):
    """A page is known by its type, too, but JSON is JSON under any type."""
    assert HTML_PAGE in str(error(b"<font>Forbidden", 403, headers={"Content-Type": kind}))
    assert "Forbidden" in str(error({"error": "Forbidden"}, 403, headers={"Content-Type": kind}))
    assert str(error(b" ", 400, headers={"Content-Type": kind})) == "the server gave no reason (HTTP 400)"


@pytest.mark.parametrize("text", [b"<Error><Code>AccessDenied</Code></Error>", b"<header>", b"<!-- html>", b"a <html>", b"<?php", b"<"])
def test_text_that_is_not_a_page(text):
    """Other text is the reason itself."""
    assert str(error(text, 400)) == f"{text.decode()} (HTTP 400)"


@pytest.mark.parametrize(
    "piece", [b"<!--", b"<!-- -->", b"<!---", b"-->", b"<?", b"<??>", b"<?x?><!-- -->", b" ", b"<!doctype ", b"\xef\xbb\xbf", b"-", b"<!"]
)
def test_page_detection_is_linear(piece):
    """A hostile body takes no longer than its length."""
    start = time.process_time()
    error(piece * 200_000, 403)
    error(b"<!--" + piece * 200_000, 403)
    error(b"<!doctype" + piece * 200_000, 403)
    assert time.process_time() - start < GENEROUS


# --------------------------------------------------------------------------------------------------------------- advice


@pytest.mark.parametrize(
    ("status", "body", "advice"),
    [
        (401, {"error": "no"}, "check the API key, passed as api_key= or in RECALL_API_KEY"),
        (402, {"error": "no"}, "get_usage_limits() shows both"),
        (403, {"error": "Workflow is not deployed"}, "deploy it in Recall first"),
        (403, {"error": "no"}, "check that the API key may do this"),
        (404, {"error": "no"}, "check the id 'wf' and the base_url"),
        (404, b"<html>", "this is not the API: check the base_url"),
        (407, b"", "HTTPS_PROXY"),
        (408, {"error": "no"}, "async_execution=True"),
        (429, {"error": "no"}, "wait and retry; execute_with_retry() does so, up to max_retries times"),
        (429, {"error": "no", "retryAfterSeconds": 0.5}, "wait 1 s and retry; execute_with_retry() does so"),
        (502, b"", "try again later"),
        (503, b"", "try again later"),
        (504, b"", "async_execution=True"),
        (401, b"<html>", "check the base_url, and what is between here and the API"),
        (403, b"<!doctype html>", "check the base_url, and what is between here and the API"),
        *((status, b"<html>", "a gateway could not reach the server; try again later") for status in (502, 520, 521, 522, 523, 530)),
        *((status, b"<html>", "a gateway stopped waiting") for status in (504, 524, 598)),
        (409, {"error": "used", "code": "EXECUTION_ID_CONFLICT"}, "omit it, or send a new one"),
    ],
)
def test_advice(status, body, advice):
    """For common mistakes the message says what to do next."""
    assert advice in str(error(body, status))


@pytest.mark.parametrize(
    ("status", "body", "request_", "advice"),
    [
        (429, {"error": "no", "code": "USAGE_LIMIT_EXCEEDED"}, RUN, "raise the limit or the plan; get_usage_limits() shows both"),
        (429, {"error": "no"}, USAGE, "wait and retry"),
        (429, {"error": "no", "retryAfterSeconds": 1234567}, RUN, "wait 1234567 s and retry"),
        (408, {"error": "no"}, QUEUE, "the workflow takes longer than the server allows"),
        (504, {"error": "no"}, STATUS, "the server ran out of time; try again later"),
        (500, {"error": "no"}, JOB, ""),
    ],
)
def test_advice_fits_the_request(status, body, request_, advice):
    """The advice never suggests what was already done or does not help for this request."""
    message = f"no (HTTP {status})"
    assert str(error(body, status, request_)) == (f"{message}: {advice}" if advice else message)


# ------------------------------------------------------------------------------------------------------------ failed runs

FAILED_RUN = {"success": False, "output": {"a": 1}, "error": "Second: field not found", "metadata": {"duration": 12}}


@pytest.mark.parametrize("request_", [RUN, STREAM, QUEUE])
@pytest.mark.parametrize("status", [302, 400, 401, 402, 403, 404, 409, 413, 423, 429, 499, 500, 502, 503, 504, 524])
def test_failed_run_with_any_status(status, request_):
    """A body with data of a failed run is an ExecutionError with its result, and the workflow may have run."""
    failure = error(FAILED_RUN, status, request_)
    assert type(failure) is ExecutionError
    assert (failure.code, failure.may_have_executed) == ("EXECUTION_ERROR", True)
    result = WorkflowExecutionResult(False, {"a": 1}, "Second: field not found", metadata={"duration": 12}, total_duration=12)
    assert failure.result == result
    assert str(failure) == f"the workflow failed: Second: field not found (HTTP {status})"


@pytest.mark.parametrize("status", [400, 413, 423, 500, 503])
def test_failed_run_without_output(status):
    """With any other status, success: false and an error are enough."""
    assert type(error({"success": False, "error": "no"}, status)) is ExecutionError


@pytest.mark.parametrize("status", [401, 402, 403, 404, 429])
def test_rejection_with_success_false(status):
    """With a status that rejects a run, a body without output or metadata is a rejection."""
    failure = error({"success": False, "error": "no"}, status)
    assert type(failure) is not ExecutionError
    assert failure.may_have_executed is False


@pytest.mark.parametrize("body", [{"success": True, "error": "x", "output": 1}, {"error": "x", "output": 1}])
def test_no_failed_run_without_success_false(body):
    """Without success: false, a 400 with an error is a rejection."""
    assert type(error(body, 400)) is InvalidRequestError


def test_failed_run_of_the_servers_time_limit():
    """A 408 stays a timeout, with its result."""
    failure = error(FAILED_RUN, 408)
    assert type(failure) is RecallTimeoutError
    assert failure.result.output == {"a": 1}


def test_failed_run_only_for_executions():
    """For a request that executes nothing, such a body is an ordinary error."""
    assert type(error(FAILED_RUN, 400, STATUS)) is InvalidRequestError


@pytest.mark.parametrize("body", [{"success": False, "output": {"a": 1}, "error": "boom"}, {"error": "boom"}])
@pytest.mark.parametrize("status", [408, 500, 504])
def test_failed_run_has_result(status, body):
    """What the server sent of a failed or timed-out run is in ``result``, or it is None."""
    assert error(body, status).result == (WorkflowExecutionResult(False, {"a": 1}, "boom") if "success" in body else None)


# ----------------------------------------------------------------------------------------------- the workflow's own response

OWN = [{"a": 1}, {"data": {"n": 404}}, {}, [1, 2], [], "text", 5, None, False, {"success": False}, {"success": False, "output": {"a": 1}}]


@pytest.mark.parametrize("body", OWN)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 410, 425, 429, 451, 500, 503, 504, 599])
@pytest.mark.parametrize("request_", [RUN, STREAM, QUEUE])
def test_own_response(request_, status, body):
    """JSON without a word of refusal comes from the workflow itself: it ran, and its whole body is the output."""
    failure = error(body, status, request_, headers={"Retry-After": "2"})
    assert type(failure) is ExecutionError
    assert (failure.code, failure.status, failure.body, failure.result.output) == ("EXECUTION_ERROR", status, body, body)
    assert (failure.may_have_executed, failure.result.success, failure.retry_after) == (True, False, 2.0)
    assert str(failure) == f"the workflow's own response: {json.dumps(body)} (HTTP {status})"
    assert failure.result.error == f"the workflow responded with HTTP {status}"


@pytest.mark.parametrize("word", ["error", "message", "code", "detail", "title", "errors"])
@pytest.mark.parametrize("status", [400, 404, 429])
def test_own_response_not_with_a_word_of_refusal(status, word):
    """An object with one of these fields is a refusal, whatever its value."""
    for value in ("no", None, 5, []):
        failure = error({word: value, "a": 1}, status)
        assert type(failure) is not ExecutionError
        assert failure.may_have_executed is False


@pytest.mark.parametrize("body", [b"", b"plain", b"<html>", b'{"a": ', b"\xff", b"1" * 5000 + b"x"])
def test_own_response_only_if_json(body):
    """Text and pages come from whatever is in front of the workflow."""
    assert type(error(body, 429)) is RateLimitError


def test_own_response_only_for_executions():
    """Nothing else than an execution has a response of the workflow's own, and a 3xx is none."""
    assert type(error({"a": 1}, 404, JOB)) is NotFoundError
    assert type(error({"a": 1}, 300)) is InvalidResponseError


# -------------------------------------------------------------------------------------------------------- further facts


@pytest.mark.parametrize(("headers", "body"), [({"X-Request-Id": "r-1"}, {"requestId": "other"}), ({}, {"requestId": "r-1"})])
def test_request_id(headers, body):
    """An error has the server's request id, from the header or the body, also if the response can't be read."""
    assert error({"error": "no", **body}, 500, headers=headers).request_id == "r-1"
    assert unreadable(response_of(STATUS, 200, headers, body), "is odd").request_id == "r-1"
    assert request_id(response_of(headers=headers), body) == "r-1"
    assert request_id(response_of(body=body)) is None


@pytest.mark.parametrize("odd", [5, None, ["r"], {"r": 1}, True])
def test_request_id_of_another_type(odd):
    """An id or a code that is no text is ignored."""
    failure = error({"error": {"code": odd}, "code": odd, "requestId": odd}, 400)
    assert (failure.request_id, failure.server_code, failure.code) == (None, None, "INVALID_REQUEST")


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 500, 503, 504])
def test_error_has_retry_after(status):
    """Errors of every status have the retry-after."""
    assert error({"error": "no"}, status, headers={"Retry-After": "7"}).retry_after == 7.0
    assert error({"error": "no", "retryAfterSeconds": 7}, status).retry_after == 7.0


def test_rate_limit_of_error():
    """A 429 has the rate limit that its head reports, or what its retry-after says."""
    assert error({"error": "no"}, 429).rate_limit is None
    assert error({"error": "no", "retryAfterSeconds": 1.5}, 429).rate_limit == RateLimitInfo(0, 0, int(NOW) + 2, 2)
    assert error({"error": "no"}, 429, headers={"X-RateLimit-Limit": "9"}).rate_limit == RateLimitInfo(9, 0, int(NOW))


def test_unreadable():
    """A response that can't be read says what it is, with its body; only an execution may have run."""
    failure = unreadable(response_of(RUN, body={"a": 1}), "is\nodd")
    assert type(failure) is InvalidResponseError
    assert str(failure) == "the response is odd (HTTP 200)"
    assert (failure.code, failure.status, failure.body, failure.may_have_executed) == ("INVALID_RESPONSE", 200, {"a": 1}, True)
    assert unreadable(response_of(STATUS), "is odd").may_have_executed is False


def test_unreadable_stream_is_not_read():
    """The body of a stream, which may be endless, is left alone."""
    assert unreadable(response_of(body=b"data: x"), "is a stream", content=b"").body is None


@given(
    st.dictionaries(
        st.sampled_from(["error", "message", "code", "detail", "title", "errors", "msg", "details", "path", "loc"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["message", "path", "msg", "loc"]), inner),
        ),
    ),
    st.integers(300, 999),
    st.sampled_from([RUN, QUEUE, STATUS, JOB, USAGE]),
)
def test_any_error_body_is_one_line(body, status, request_):
    """Whatever the fields of an error hold, the error has a message of one line that ends with the status or the advice."""
    failure = error(body, status, request_)
    assert f"(HTTP {status})" in str(failure)
    assert len(str(failure).splitlines()) == 1
    str(failure).encode()
