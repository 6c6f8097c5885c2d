"""What the constructor and the calls reject before anything is sent, and what they read from the environment."""

import math
import numbers
from collections import UserList, UserString, deque
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import urllib3

from recall_sdk import AsyncExecutionResult, RecallClient
from recall_sdk._arguments import DEFAULT_BASE_URL, MAX_TIMEOUT, ClientTimeout, Settings, check_count, check_number, check_timeout
from recall_sdk._requests import execute, job_status, usage_limits, workflow_status

CALLS = [
    lambda client, id: client.execute_workflow(id),
    lambda client, id: client.execute_with_retry(id),
    lambda client, id: client.stream_workflow(id),
    lambda client, id: client.get_workflow_status(id),
    lambda client, id: client.validate_workflow(id),
    lambda client, id: client.get_job_status(id),
    lambda client, id: client.wait_for_job(id),
]


@pytest.fixture
def client():
    """A client whose server does not exist, so a ValueError means that nothing was sent."""
    with RecallClient("a-key", "http://127.0.0.1:1") as client:
        yield client


def test_client_has_documented_defaults():
    """With only a key, the client uses the documented server."""
    client = RecallClient("a-key")
    assert (client.api_key, client.base_url) == ("a-key", DEFAULT_BASE_URL) == ("a-key", "https://tryrecall.com")


def test_client_reads_environment(monkeypatch):
    """Key and base URL come from the environment by default."""
    monkeypatch.setenv("RECALL_API_KEY", "from-there")
    monkeypatch.setenv("RECALL_BASE_URL", "http://there.test/prefix/")
    client = RecallClient()
    assert (client.api_key, client.base_url) == ("from-there", "http://there.test/prefix")


def test_empty_base_url_in_environment_means_default(monkeypatch):
    """An empty variable counts as not set."""
    monkeypatch.setenv("RECALL_BASE_URL", "")
    assert RecallClient("a-key").base_url == DEFAULT_BASE_URL


def test_swapped_arguments_are_rejected_without_showing_key():
    """A key passed as the base URL is not shown."""
    for swap in (lambda: RecallClient("https://host", "sk-secret"), lambda: RecallClient("a-key").set_base_url("sk-secret")):
        with pytest.raises(ValueError, match=r"base_url lacks http:// or https://") as caught:
            swap()
        assert "sk-secret" not in str(caught.value)


def test_arguments_override_environment(monkeypatch):
    """An explicit argument takes precedence over the environment."""
    monkeypatch.setenv("RECALL_API_KEY", "from-there")
    monkeypatch.setenv("RECALL_BASE_URL", "http://there.test")
    client = RecallClient("from-here", "http://here.test")
    assert (client.api_key, client.base_url) == ("from-here", "http://here.test")


def test_empty_key_in_environment_is_rejected(monkeypatch):
    """An empty variable is reported as an empty key."""
    monkeypatch.setenv("RECALL_API_KEY", "")
    with pytest.raises(ValueError, match=r"empty.*RECALL_API_KEY"):
        RecallClient()


def test_missing_key_is_rejected():
    """Without a key the error names the argument and the variable."""
    with pytest.raises(ValueError, match=r"no API key: pass api_key=\.\.\., or set the environment variable RECALL_API_KEY"):
        RecallClient()


@pytest.mark.parametrize("key", ["", " ", "a key", "key\n", "\tkey", "key\x00", "k\x7fey", "schl\u00fcssel", "key\u2028"])
def test_unsendable_key_is_rejected(key):
    """A key that is empty, or contains white space, control or non-ASCII characters, is rejected, and not shown."""
    with pytest.raises(ValueError, match="API key") as caught:
        RecallClient(key)
    assert not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("'sk-1'", "has quotes around it: pass it without them, also in the environment variable"),
        ('"sk-1"\n', "has quotes around it: pass it without them, also in the environment variable"),
        ("`sk-1`", "has quotes around it: pass it without them, also in the environment variable"),
        ("Bearer sk-1", 'starts with "Bearer": pass only what follows'),
        ("authorization: bearer sk-1\n", 'starts with "Bearer": pass only what follows'),
        ("Bearer\tsk-1", 'starts with "Bearer": pass only what follows'),
        ("RECALL_API_KEY=sk-1", "starts with RECALL_API_KEY=: pass only what follows"),
        ("export RECALL_API_KEY='sk-1'\n", "starts with RECALL_API_KEY=: pass only what follows"),
        ("sk-1\n", "contains a line break, perhaps from a file: pass only the key, for example with .strip()"),
        ("sk-1\r\nsk-1", "contains a line break, perhaps from a file: pass only the key, for example with .strip()"),
        (" sk-1", "has white space around it: pass only the key, for example with .strip()"),
        ("sk-1\t", "has white space around it: pass only the key, for example with .strip()"),
        ("sk-1 sk-1", "contains white space, a control character or a non-ASCII character: copy the whole key again, and nothing else"),
        ("sk-1\u2026", "contains white space, a control character or a non-ASCII character: copy the whole key again, and nothing else"),
    ],
)
def test_message_says_what_is_wrong_with_key(monkeypatch, client, key, message):
    """Each mistake has its own message, which says what to do and does not show the key, wherever the key comes from."""
    monkeypatch.setenv("RECALL_API_KEY", key)
    for use in (lambda: RecallClient(key), RecallClient, lambda: client.set_api_key(key)):
        with pytest.raises(ValueError, match="API key") as caught:
            use()
        assert str(caught.value) == f"the API key {message}"


@pytest.mark.parametrize("key", ["bearer-1", "a\"b'c", '"half', "RECALL_API_KEY"])
def test_odd_key_is_accepted(key):
    """A key that can be sent, and is not clearly a mistake, is accepted."""
    assert RecallClient(key).api_key == key


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (b"a-key", "bytes"),
        (5, "int: pass str(api_key)"),
        (["a-key"], "list"),
    ],
)
def test_key_of_wrong_type_is_rejected(key, message):
    """A key that is not a str raises a TypeError that names its type."""
    with pytest.raises(TypeError, match="api_key") as caught:
        RecallClient(key)
    assert str(caught.value) == f"api_key must be a str, not {message}"


@pytest.mark.parametrize(
    "url",
    [
        "tryrecall.com",
        "//tryrecall.com",
        "ftp://tryrecall.com",
        "https://",
        "https:///api",
        "",
        "http://host:port",
        "http://host:99999",
        "http://[::1",
        "http://ho st",
        "http://host\n",
        "http://host\\@other",
        "http://user:password@host",
        "http://host/?a=b",
        "http://host/#here",
        "http://*.host",
    ],
)
def test_invalid_base_url_is_rejected(url):
    """A base URL without scheme or host, with credentials, query, fragment or odd characters is rejected before any request."""
    with pytest.raises(ValueError, match=r".") as caught:
        RecallClient("a-key", url)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("tryrecall.com", "https://tryrecall.com"),
        ("//recall.example.com", "https://recall.example.com"),
        ("recall.example.com:8443/api-v1/", "https://recall.example.com:8443/api-v1/"),
        ("10.0.0.5:3000", "https://10.0.0.5:3000"),
        ("localhost", "http://localhost"),
        ("localhost:3000/prefix", "http://localhost:3000/prefix"),
        ("127.0.0.1:3000", "http://127.0.0.1:3000"),
    ],
)
def test_base_url_without_scheme_is_suggested_with_one(client, url, meant):
    """A host without a scheme is shown with one: http for this machine, else https."""
    with pytest.raises(ValueError, match="lacks http:// or https://") as caught:
        client.set_base_url(url)
    assert str(caught.value).endswith(f": did you mean '{meant}'?")


@pytest.mark.parametrize(
    "value",
    [
        "sk-secret",
        "sk_secret:1",
        "sk.secret1",
        "SK.secret",
        "eyJhbGciOi.eyJzdWIiOi.SflKxwRJSM",
        "user:secret@host.com",
        "secret.com?a",
        "secret .com",
        "secret.com\n",
        "'https://secret.com'",
    ],
)
def test_base_url_that_may_be_a_key_is_not_shown(value):
    """What does not look like a host may be the key, passed in the wrong place."""
    with pytest.raises(ValueError, match="base_url") as caught:
        RecallClient("a-key", value)
    assert "secret" not in str(caught.value)
    assert "eyJ" not in str(caught.value)
    assert "https://host" in str(caught.value)


def test_base_url_with_quotes_is_rejected(monkeypatch):
    """Quotes around the URL, as some tools leave them in the environment, are named as such."""
    monkeypatch.setenv("RECALL_BASE_URL", '"https://host.test"')
    with pytest.raises(ValueError, match="or contains quotes"):
        RecallClient("a-key")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (b"http://host", "bytes"),
        (urlsplit("http://host"), "SplitResult"),
        (PurePosixPath("http://host"), "PurePosixPath"),
    ],
)
def test_base_url_of_wrong_type_is_rejected(url, message):
    """A base URL that is not a str raises a TypeError that names its type."""
    with pytest.raises(TypeError, match="base_url") as caught:
        RecallClient("a-key", url)
    assert str(caught.value) == f"base_url must be a str, not {message}"


@pytest.mark.parametrize("url", ["http://host", "http://host/", "http://host//"])
def test_base_url_loses_trailing_slashes(url):
    """The base URL loses its trailing slashes."""
    assert RecallClient("a-key", url).base_url == "http://host"


def test_setters_check_like_the_constructor(client):
    """A setter rejects what the constructor rejects, without a change."""
    with pytest.raises(ValueError, match="white space"):
        client.set_api_key("a key")
    with pytest.raises(TypeError):
        client.set_api_key(None)
    with pytest.raises(ValueError, match="use a URL such as https://host"):
        client.set_base_url("host")
    assert (client.api_key, client.base_url) == ("a-key", "http://127.0.0.1:1")


def test_setters_change_key_and_base_url(client):
    """Setters change what the client shows and sends."""
    client.set_api_key("another")
    client.set_base_url("https://other.test/p/")
    assert (client.api_key, client.base_url) == ("another", "https://other.test/p")


def test_repr_does_not_show_key(client):
    """Neither the client nor its settings show the key."""
    assert repr(client) == "RecallClient(base_url='http://127.0.0.1:1')"
    assert repr(Settings("a-key", "http://host")) == "Settings(base_url='http://host')"


def test_session_of_wrong_type_is_rejected():
    """An object that is not a session of requests raises TypeError."""
    with pytest.raises(TypeError, match=r"session must be a requests\.Session, not dict"):
        RecallClient("a-key", session={})


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("id", ["", ".", ".."])
def test_invalid_id_is_rejected(client, call, id):
    """An empty id and dot segments, which a server would resolve (RFC 3986, section 5.2.4), raise a ValueError."""
    with pytest.raises(ValueError, match="must be an id"):
        call(client, id)


@pytest.mark.parametrize("call", CALLS)
def test_id_of_wrong_type_is_rejected(client, call):
    """An id that is not a str raises a TypeError that names it."""
    with pytest.raises(TypeError, match=r"must be .*, not int"):
        call(client, 7)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        (7, "int: pass str(workflow_id)"),
        (UUID(int=7), "UUID: pass str(workflow_id)"),
        (b"7", "bytes"),
        (None, "NoneType"),
        (7.0, "float"),
    ],
)
def test_id_of_wrong_type_comes_with_advice(client, id, message):
    """The message names the type of an id, and says how to make a str of a number or a UUID."""
    for call in (client.execute_workflow, client.get_workflow_status):
        with pytest.raises(TypeError, match="workflow_id") as caught:
            call(id)
        assert str(caught.value) == f"workflow_id must be a str, not {message}"


def test_job_in_place_of_its_id_is_rejected(client):
    """A queued run passed as its own id is rejected."""
    job = AsyncExecutionResult(True, "t-1", "queued", "", {})
    with pytest.raises(TypeError, match="task_id must be a str, not AsyncExecutionResult"):
        client.get_job_status(job)


def test_flag_of_numpy_is_rejected(client):
    """A NumPy bool, which has the name of the builtin, is named with its module."""
    flag = type("bool", (), {"__module__": "numpy"})()
    with pytest.raises(TypeError, match=r"stream must be a bool, not numpy\.bool"):
        client.execute_workflow("w", stream=flag)


@pytest.mark.parametrize("flag", ["false", 0, None, [1]])
@pytest.mark.parametrize("name", ["stream", "async_execution"])
def test_flag_of_wrong_type_is_rejected(client, name, flag):
    """A str such as "false" is rejected as a flag: it would count as true."""
    for call in (client.execute_workflow, client.execute_with_retry):
        with pytest.raises(TypeError, match=f"{name} must be a bool, not {type(flag).__name__}"):
            call("w", **{name: flag})


@pytest.mark.parametrize(
    ("id", "segment"), [("a/b", "a%2Fb"), ("a b", "a%20b"), ("%2e", "%252e"), ("\u00fc?#", "%C3%BC%3F%23"), ("...", "...")]
)
def test_id_is_quoted_as_one_path_segment(id, segment):
    """Any id is quoted as one path segment."""
    assert workflow_status(id).path == f"/api/workflows/{segment}/status"
    assert job_status(id).path == f"/api/jobs/{segment}"
    call = execute(id, None, stream=False, selected_outputs=None, asynchronous=False)
    assert call.path == f"/api/workflows/{segment}/execute"


def test_async_execution_with_stream_is_rejected(client):
    """``async_execution=True`` with ``stream=True`` raises a ValueError."""
    for method in (client.execute_workflow, client.execute_with_retry):
        with pytest.raises(ValueError, match="contradict each other"):
            method("id", async_execution=True, stream=True)


@pytest.mark.parametrize(
    "outputs", ["agent1.content", b"agent1.content", UserString("a.b"), {"agent1.content"}, {"a.b": 1}, [1], range(2), 5]
)
def test_selected_outputs_of_wrong_type_are_rejected(client, outputs):
    """Selected outputs that are not a list of strings raise a TypeError that shows the form."""
    with pytest.raises(TypeError, match=r'list of "blockName\.attribute" strings'):
        client.execute_workflow("id", selected_outputs=outputs)


@pytest.mark.parametrize("outputs", [["a.b"], ("a.b",), deque(["a.b"]), UserList(["a.b"]), []])
def test_selected_outputs_are_sent(outputs):
    """Selected outputs of any sequence are sent unchanged, also an empty list; None is omitted."""
    call = execute("id", None, stream=True, selected_outputs=outputs, asynchronous=False)
    assert call.body == b'{"stream":true,"selectedOutputs":%s}' % (b'["a.b"]' if outputs else b"[]")
    assert execute("id", None, stream=False, selected_outputs=None, asynchronous=False).body == b"{}"


def test_control_fields_replace_input_fields():
    """``stream`` and ``selectedOutputs`` given as arguments override keys of the same name in the input; the input stays as it is."""
    input = {"stream": "yes", "selectedOutputs": 5, "a": 1}
    call = execute("id", input, stream=True, selected_outputs=["x.y"], asynchronous=False)
    assert call.body == b'{"stream":true,"selectedOutputs":["x.y"],"a":1}'
    assert input == {"stream": "yes", "selectedOutputs": 5, "a": 1}


def test_headers_of_each_call():
    """Each call has the headers for what it accepts and sends; a queued one has the header for it, and what is read is not cached."""
    json = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
    for call in (usage_limits(), workflow_status("w"), job_status("j")):
        assert call.headers == {**json, "Cache-Control": "no-cache"}
    assert execute("id", None, stream=False, selected_outputs=None, asynchronous=False).headers == {
        **json,
        "Content-Type": "application/json",
    }
    assert usage_limits().path == "/api/users/me/usage-limits"
    queued = execute("id", None, stream=False, selected_outputs=None, asynchronous=True)
    assert queued.headers == {**json, "Content-Type": "application/json", "X-Execution-Mode": "async"}
    streamed = execute("id", None, stream=True, selected_outputs=None, asynchronous=False)
    assert streamed.headers == {
        "Accept": "text/event-stream, application/json",
        "Accept-Encoding": "identity",  # a proxy that compresses holds events back
        "Content-Type": "application/json",
    }
    assert [call.executes for call in (usage_limits(), job_status("j"), queued)] == [False, False, True]


@pytest.mark.parametrize("timeout", [0, -1, -0.0, Fraction(-1, 3), -(10**400), math.nan, -math.inf])
def test_invalid_timeout_is_rejected(client, timeout):
    """A timeout that is not above 0 raises a ValueError, for the client and for each call."""
    with pytest.raises(ValueError, match="more than 0 seconds"):
        RecallClient("a-key", timeout=timeout)
    with pytest.raises(ValueError, match="more than 0 seconds"):
        client.execute_workflow("id", timeout=timeout)
    with pytest.raises(ValueError, match="more than 0 seconds"):
        client.wait_for_job("id", timeout=timeout)


@pytest.mark.parametrize(
    ("timeout", "message"),
    [
        (True, "bool"),
        ("5", "str"),
        (Decimal(5), "Decimal"),
        (timedelta(seconds=5), "timedelta"),
        ((3, 30), "tuple"),
        (urllib3.Timeout(5), "Timeout"),
    ],
)
def test_timeout_of_wrong_type_is_rejected(client, timeout, message):
    """A timeout that is not a number, such as the pair of requests, raises a TypeError that says what it bounds."""
    for call in (lambda: client.execute_workflow("id", timeout=timeout), lambda: RecallClient("a-key", timeout=timeout)):
        with pytest.raises(TypeError, match="timeout") as caught:
            call()
        assert str(caught.value) == f"timeout must be a number of seconds for the whole call, or None, not {message}"


def test_very_long_timeout_means_no_limit():
    """A timeout longer than a socket can wait means no limit."""
    assert check_timeout(None) is check_timeout(math.inf) is check_timeout(10**400) is check_timeout(MAX_TIMEOUT * 2) is None
    assert check_timeout(MAX_TIMEOUT) == MAX_TIMEOUT
    assert check_timeout(5) == 5.0
    assert type(check_timeout(Fraction(5))) is float


class Whole(numbers.Integral):
    """As the integers of NumPy, which are registered as integral."""

    def __int__(self):
        return 3

    def __lt__(self, other):
        return other > 3

    def __float__(self):
        return 3.0

    def missing(self, *_):
        raise AssertionError("never called")

    locals().update(dict.fromkeys(numbers.Integral.__abstractmethods__ - {"__int__", "__lt__", "__float__"}, missing))


def test_any_number_is_accepted():
    """Numbers of any class that is registered as one, such as those of NumPy, become Python's own."""
    assert (type(check_count("n", Whole(), least=0)), check_count("n", Whole(), least=0)) == (int, 3)
    with pytest.raises(ValueError, match="n must be 4 or more"):
        check_count("n", Whole(), least=4)
    for number in (Whole(), 3, 3.0, Fraction(3)):
        assert (type(check_number("n", number, least=0)), check_number("n", number, least=0)) == (float, 3.0)
        assert check_timeout(number) == 3.0


def test_default_timeout_has_readable_repr():
    """The signature of a call shows that the default timeout is the client's."""
    assert "the client's timeout" in repr(ClientTimeout.DEFAULT)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_retries": -1},
        {"initial_delay": -0.1},
        {"initial_delay": math.nan},
        {"max_delay": -1},
        {"max_delay": math.inf},
        {"backoff_multiplier": 0.5},
        {"backoff_multiplier": math.nan},
    ],
)
def test_retry_setting_out_of_bounds_is_rejected(client, settings):
    """Invalid retry settings raise a ValueError before anything is sent, for a call and for a batch."""
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"):
        client.execute_with_retry("id", **settings)
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"):
        client.execute_batch([], **settings)
