"""No error contains the key, whatever a server echoes."""

import json
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_responses import response_of
from recall_sdk import (
    ExecutionError,
    InvalidResponseError,
    RateLimitError,
    RateLimitInfo,
    RecallClient,
    RecallError,
    StreamedExecutionResult,
    StreamInterruptedError,
)
from recall_sdk import _decoding as decoding
from recall_sdk._statuses import error_of
from recall_sdk.errors import without_key
from recall_sdk.testing import RecallServer

KEY = 'sk-0123/"45+67&89'
FORMS = [
    KEY,
    "sk-0123%2F%2245%2B67%2689",  # in a URL
    'sk-0123/\\"45+67&89',  # in JSON
]


def shown(error):
    """Return all that an error can show."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return "".join([str(error), repr(error), repr(vars(error)), *lines])


def caught(function, *args):
    with pytest.raises(Exception) as info:  # noqa: PT011 -- whatever it is
        function(*args)
    return info.value


def response(body, status=400):
    return response_of(status=status, body=body)


@pytest.mark.parametrize("form", FORMS)
def test_key_is_masked_in_every_encoding(form):
    """The key as it is, as part of a URL, and inside JSON text."""
    error = without_key(RecallError(f"no access with {form}, sorry"), KEY)
    assert str(error) == "no access with [API key], sorry"
    assert error.args == ("no access with [API key], sorry",)


def test_key_is_masked_in_every_attribute():
    """Bodies, codes and results are masked at any depth, also field names; other values are unchanged."""
    error = RateLimitError("slow down", "CODE", 429)
    error.body = {KEY: [f"<{KEY}>", [KEY, 1, None, True, 1.5]], "n": 5}
    error.server_code = KEY
    error.rate_limit = RateLimitInfo(1, 2, 3, 4)
    assert without_key(error, KEY) is error
    assert error.body == {"[API key]": ["<[API key]>", ["[API key]", 1, None, True, 1.5]], "n": 5}
    assert (error.code, error.status, error.server_code) == ("CODE", 429, "[API key]")
    assert error.rate_limit == RateLimitInfo(1, 2, 3, 4)


def test_key_is_masked_in_results():
    """The result of a run and the partial text of a stream are masked, and stay models."""
    error = StreamInterruptedError("broken")
    error.partial = StreamedExecutionResult(False, {"echo": KEY}, KEY, text=f"a{KEY}b", text_by_block={"b": KEY})
    without_key(error, KEY)
    mask = "[API key]"
    assert error.partial == StreamedExecutionResult(False, {"echo": mask}, mask, text=f"a{mask}b", text_by_block={"b": mask})


def test_short_key_is_masked_as_a_whole_word():
    """A short key is masked where it stands by itself, and not within other words."""
    assert str(without_key(RecallError("the latest test: x-test, test"), "test")) == "the latest [API key]: x-[API key], [API key]"
    assert str(without_key(RecallError("the longest-key of all"), "longest-key")) == "the [API key] of all"


@pytest.mark.parametrize("body", [KEY.encode() + b" is no JSON", b"\xff" + KEY.encode()])
def test_cause_that_holds_the_key_is_dropped(body):
    """The errors of the JSON and UTF-8 decoders hold the whole response."""
    error = without_key(caught(decoding.execution, response(body, 200)), KEY)
    assert isinstance(error, InvalidResponseError)
    assert KEY not in shown(error)
    assert (error.__cause__, error.__context__) == (None, None)


def test_cause_without_the_key_is_kept():
    """A cause without the key is kept."""
    error = without_key(caught(decoding.execution, response(b"no JSON", 200)), KEY)
    assert isinstance(error.__cause__, ValueError)


@pytest.mark.parametrize("place", ["cause", "context", "reason", "argument"])
def test_key_is_found_wherever_a_cause_shows_it(place):
    """Causes, contexts, reasons and errors in arguments are searched; none of them is changed."""
    leak = ValueError(f"bad {KEY}")
    cause = OSError("outer", *[leak] * (place == "argument"))
    if place == "reason":
        cause.reason = leak
    cause.__cause__ = leak if place == "cause" else None
    cause.__context__ = leak if place == "context" else None
    error = RecallError("failed")
    error.__cause__ = cause
    leak.__context__ = error  # a circle does no harm
    without_key(error, KEY)
    assert (error.__cause__, error.__context__) == (None, None)
    assert str(leak) == f"bad {KEY}"


class OddError(Exception):
    """An error of the caller's that can't be shown."""

    def __str__(self):
        raise RuntimeError("working outside of request context")

    __repr__ = __str__


def test_foreign_exception_that_raises_is_ignored():
    """A call within an ``except`` has that error as its context."""
    error = RecallError(f"no {KEY}")
    error.__context__ = OddError()
    assert str(without_key(error, KEY)) == "no [API key]"
    assert isinstance(error.__context__, OddError)


def test_key_is_found_beside_what_can_not_be_shown():
    """A cause that shows the key is dropped, also if one of its attributes can't be shown."""
    error = RecallError("failed")
    error.__cause__ = OSError(f"bad {KEY}")
    error.__cause__.reason = OddError()
    without_key(error, KEY)
    assert error.__cause__ is None


def test_deeply_nested_body_is_dropped():
    """A body that can't be searched might contain the key, so it is dropped."""
    error = ExecutionError("failed")
    error.body = []
    for _ in range(5000):
        error.body = [error.body]
    without_key(error, KEY)
    assert error.body is None
    assert str(pickle.loads(pickle.dumps(error))) == "failed"


@given(st.integers(0, 700), st.integers(0, 80))
def test_shortened_message_has_no_part_of_key(before, after):
    """A shortened message does not end with the beginning of the key."""
    words = f"{'x ' * (before // 2)}{'' if before % 2 else ' '}key {KEY} {'y ' * after}"
    for body in (words.encode(), json.dumps({"error": words}).encode()):
        message = str(without_key(error_of(response(body)), KEY))
        assert "sk-0" not in message


json_values = st.recursive(
    st.one_of(st.none(), st.integers(), st.just(KEY), st.just(f"Bearer {KEY}"), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from([KEY, "error", "message", "code"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(json_values, st.sampled_from([200, 400, 401, 402, 403, 404, 408, 422, 429, 500, 503, 504]))
def test_echoed_key_is_masked_in_any_json(body, status):
    """If any part of a response of any status contains the key, no error shows it."""
    data = json.dumps(body).encode()
    failures = [without_key(error_of(response(data, status)), KEY)]
    for read in (decoding.workflow_status, decoding.job_status, decoding.usage_limits):
        try:
            read(response(data, status))
        except RecallError as error:
            failures.append(without_key(error, KEY))
    visible = "".join(f"{failure} {failure!r} {vars(failure)}" for failure in failures)
    assert [form for form in FORMS if form in visible] == []


def test_rejected_input_with_key_is_masked():
    """A rejected input that contains the key is reported by its place, without the key."""
    with RecallClient(KEY) as client:
        for call in (client.execute_workflow, client.execute_with_retry, client.stream_workflow):
            error = caught(call, "wf", {KEY: object()})
            assert str(error) == "input['[API key]']: object is not JSON serializable; use a dict, list, str, number, bool or None"


@pytest.mark.parametrize("status", [400, 401, 500])
def test_key_echoed_in_deep_json_is_masked(status):
    """A response that is nested too deeply for Python raises a RecallError."""
    deep = b'{"error": "no ' + KEY.replace('"', '\\"').encode() + b'", "x": ' + b"[" * 900 + b"]" * 900 + b"}"
    with RecallServer() as server, RecallClient(KEY, server.base_url) as client:
        server.respond_next(status, body=deep)
        error = caught(client.execute_workflow, "wf")
    assert isinstance(error, RecallError)
    assert error.status == status
    assert "sk-0123" not in str(error) + repr(error.body)
