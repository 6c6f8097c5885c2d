"""Tools that hook into requests keep working: with the client's own session, and with one of the user's."""

import logging
from contextlib import contextmanager

import pytest
import requests
import requests_mock
import responses
import vcr
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from requests.adapters import BaseAdapter, HTTPAdapter

from rawserver import KEY, LAST_CHUNK, answers, chunk, echo, envelope, head, http
from recall_sdk import (
    AuthenticationError,
    PermissionDeniedError,
    RateLimitError,
    RecallClient,
    RecallConnectionError,
    RecallTimeoutError,
    RedirectError,
    StreamInterruptedError,
)
from recall_sdk.testing import RecallServer

URL = "http://recall.example"
EXECUTE = f"{URL}/api/workflows/w/execute"
STATUS = f"{URL}/api/workflows/w/status"
EVENTS = b'data: {"blockId": "a", "chunk": "One"}\n\ndata: {"event": "done", "success": true, "output": "hello"}\n\ndata: [DONE]\n\n'


@pytest.fixture
def client(session, connect):
    """A client of a server that does not exist."""
    return connect(URL, session=session)


class TestResponses:
    """The package responses."""

    @pytest.fixture
    def mocked(self):
        """Send nothing to the network."""
        with responses.RequestsMock() as mocked:
            yield mocked

    def test_calls(self, mocked, client):
        """Calls are answered, and the requests are recorded."""
        mocked.add(responses.POST, EXECUTE, json=envelope(), headers={"X-RateLimit-Limit": "9"})
        mocked.add(responses.GET, STATUS, json={"isDeployed": True})
        assert client.execute_workflow("w", {"a": 1}).output == "hello"
        assert client.validate_workflow("w") is True
        assert client.get_rate_limit_info().limit == 9
        assert mocked.calls[0].request.headers["X-API-Key"] == KEY
        assert mocked.calls[0].request.body == b'{"a":1}'

    def test_matchers(self, mocked, client):
        """A matcher can read our body and headers."""
        matchers = [responses.matchers.json_params_matcher({"a": 1}), responses.matchers.header_matcher({"X-API-Key": KEY})]
        mocked.add(responses.POST, EXECUTE, json=envelope(), match=matchers)
        assert client.execute_workflow("w", {"a": 1}).success

    def test_streams(self, mocked, client):
        """A stream is read event by event."""
        mocked.add(responses.POST, EXECUTE, body=EVENTS, content_type="text/event-stream")
        with client.stream_workflow("w") as stream:
            assert [event.type for event in stream] == ["chunk", "done"]
        assert (stream.result.text, stream.result.output) == ("One", "hello")

    def test_a_stream_that_is_cut(self, mocked, client):
        """A stream without an end counts as cut here, too."""
        mocked.add(responses.POST, EXECUTE, body=EVENTS[:40], content_type="text/event-stream")
        with pytest.raises(StreamInterruptedError) as caught:
            list(client.stream_workflow("w"))
        assert caught.value.partial.text == "One"

    def test_a_stream_that_is_left(self, mocked, client):
        """Closing early works without a connection."""
        mocked.add(responses.POST, EXECUTE, body=EVENTS, content_type="text/event-stream")
        with client.stream_workflow("w") as stream:
            next(stream)

    def test_errors(self, mocked, client):
        """Statuses become our errors, and a 429 is retried."""
        mocked.add(responses.POST, EXECUTE, json={"error": "Invalid API key"}, status=401)
        with pytest.raises(AuthenticationError):
            client.execute_workflow("w")
        mocked.replace(responses.POST, EXECUTE, json={"error": "slow"}, status=429, headers={"Retry-After": "0"})
        mocked.add(responses.POST, EXECUTE, json=envelope())
        assert client.execute_with_retry("w").success

    @pytest.mark.parametrize(
        ("thrown", "raised"),
        [
            (requests.ConnectionError("no"), RecallConnectionError),
            (requests.ConnectTimeout("no"), RecallTimeoutError),
            (requests.ReadTimeout("no"), RecallTimeoutError),
            (requests.exceptions.ChunkedEncodingError("no"), RecallConnectionError),
        ],
        ids=lambda value: getattr(value, "__name__", type(value).__name__),
    )
    def test_thrown_errors(self, thrown, raised, mocked, client):
        """An error of requests that a mock throws is translated."""
        mocked.add(responses.POST, EXECUTE, body=thrown)
        with pytest.raises(raised) as caught:
            client.execute_workflow("w")
        assert caught.value.__cause__ is not None

    def test_other_thrown_error(self, mocked, client):
        """An error that requests would never raise reaches the caller unchanged, as from any adapter of the caller's."""
        mocked.add(responses.POST, EXECUTE, body=ConnectionResetError(104, "no"))
        with pytest.raises(ConnectionResetError):
            client.execute_workflow("w")

    def test_a_timeout_thrown_where_none_was_set(self, mocked, client):
        """A timeout raised by the tool is a RecallTimeoutError, also without a timeout of the call."""
        mocked.add(responses.POST, EXECUTE, body=requests.ReadTimeout("no"))
        with pytest.raises(RecallTimeoutError):
            client.execute_workflow("w", timeout=None)

    def test_nothing_is_mocked(self, mocked, client):
        """A call without a mock raises a connection error."""
        with pytest.raises(RecallConnectionError):
            client.execute_workflow("w")

    def test_redirects(self, mocked, client):
        """Redirects are checked, also mocked ones."""
        mocked.add(responses.POST, EXECUTE, status=307, headers={"Location": "/elsewhere"})
        mocked.add(responses.POST, f"{URL}/elsewhere", json=envelope())
        assert client.execute_workflow("w").output == "hello"
        mocked.replace(responses.POST, f"{URL}/elsewhere", status=307, headers={"Location": "https://other.example/"})
        with pytest.raises(RedirectError):
            client.execute_workflow("w")


class TestRequestsMock:
    """The package requests-mock."""

    @pytest.fixture
    def mocked(self, session):
        """Send nothing to the network from this session, or from any."""
        with requests_mock.Mocker(session=session) as mocked:
            yield mocked

    def test_calls(self, mocked, client):
        """Calls are answered, and the requests are recorded."""
        mocked.post(EXECUTE, json=envelope())
        mocked.get(STATUS, json={"isDeployed": True})
        assert client.execute_workflow("w", {"a": 1}).output == "hello"
        assert client.validate_workflow("w") is True
        assert mocked.request_history[0].json() == {"a": 1}
        assert mocked.request_history[0].headers["X-API-Key"] == KEY

    def test_streams(self, mocked, client):
        """A stream is read event by event."""
        mocked.post(EXECUTE, content=EVENTS, headers={"Content-Type": "text/event-stream"})
        with client.stream_workflow("w") as stream:
            assert [event.type for event in stream] == ["chunk", "done"]
        assert stream.result.text == "One"

    def test_errors(self, mocked, client):
        """Statuses and thrown errors become ours."""
        mocked.post(EXECUTE, [{"status_code": 429, "json": {"error": "slow"}}, {"exc": requests.ConnectTimeout}, {"json": envelope()}])
        with pytest.raises(RateLimitError):
            client.execute_workflow("w")
        with pytest.raises(RecallTimeoutError):
            client.execute_workflow("w")
        assert client.execute_workflow("w").success

    def test_nothing_is_mocked(self, mocked, client):
        """The tool's own error about a call without a mock is raised."""
        with pytest.raises(requests_mock.NoMockAddress):
            client.execute_workflow("w")


class TestVcr:
    """VCR.py, which replaces urllib3's connections."""

    @pytest.fixture(autouse=True)
    def _quiet(self):
        logging.getLogger("vcr").setLevel(logging.ERROR)

    @staticmethod
    def calls(client):
        """Make calls of every kind, and return their results."""
        with client.stream_workflow("count") as stream:
            pieces = list(stream.text())
        with pytest.raises(PermissionDeniedError):
            client.execute_workflow("not-deployed")
        return [
            pieces,
            stream.result.text,
            client.execute_workflow("count", stream=True).text,
            client.execute_workflow("greet", {"name": "Ada"}).output,
            client.get_workflow_status("greet").is_deployed,
            client.get_usage_limits().usage["plan"],
        ]

    def test_recorded_and_replayed(self, session, tmp_path):
        """Recorded calls are replayed without the server, streams included, and the key can be removed."""
        cassette = tmp_path / "calls.yaml"

        def count(input):
            yield from ("One", ", two")

        recorder = vcr.VCR(filter_headers=["X-API-Key"], match_on=["method", "path", "body"])
        with RecallServer() as server:
            server.workflow("greet")(lambda input: {"content": f"Hello {input['name']}"})
            server.workflow("count")(count)
            server.workflow("not-deployed", deployed=False)(lambda input: None)
            with recorder.use_cassette(str(cassette)), RecallClient(server.api_key, server.base_url, session=session) as client:
                recorded = self.calls(client)
        assert recorded[:3] == [["One", ", two"], "One, two", "One, two"]
        assert server.api_key not in cassette.read_text("utf-8")
        with recorder.use_cassette(str(cassette), record_mode="none") as tape, RecallClient(
            KEY, server.base_url, session=session
        ) as client:
            assert self.calls(client) == recorded
            assert tape.all_played


@contextmanager
def traced(session):
    """Record the spans within the block."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = RequestsInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        yield exporter.get_finished_spans
    finally:
        instrumentor.uninstrument()
        provider.shutdown()


class TestOpenTelemetry:
    """OpenTelemetry's instrumentation of requests."""

    def test_each_call_is_a_span(self, session, serve, connect):
        """A call is a span with its method and status, and the trace is sent in a header."""
        server = serve(answers(http(envelope()), http({"error": "no"}, status="401 No")))
        with traced(session) as spans:
            client = connect(server, session=session)
            client.execute_workflow("w")
            with pytest.raises(AuthenticationError):
                client.execute_workflow("w")
        good, bad = spans()
        assert good.attributes["http.method"] == "POST"
        assert (good.attributes["http.status_code"], bad.attributes["http.status_code"]) == (200, 401)
        assert server.requests[0].headers["traceparent"].split("-")[1] == f"{good.context.trace_id:032x}"
        assert KEY not in str([span.to_json() for span in spans()])

    def test_a_stream_stays_prompt(self, session, serve, connect):
        """An instrumented stream is yielded as it arrives."""

        def handler(connection):
            connection.request()
            connection.send(head("Content-Type: text/event-stream", "Transfer-Encoding: chunked"))
            for event in EVENTS.split(b"\n\n")[:2]:
                connection.wait_for_go()
                connection.send(chunk(event + b"\n\n"))
            connection.send(LAST_CHUNK)

        server = serve(handler)
        with traced(session), connect(server, session=session).stream_workflow("w", timeout=3.0) as stream:
            server.go()
            assert next(stream).chunk == "One"
            server.go()
            assert next(stream).type == "done"


class TestHttpserver:
    """The package pytest-httpserver."""

    def test_calls(self, session, connect, httpserver):
        """Calls to the tool's server work."""
        httpserver.expect_request("/api/workflows/w/execute", method="POST", json={"a": 1}, headers={"X-API-Key": KEY}).respond_with_json(
            envelope()
        )
        client = connect(httpserver.url_for("").rstrip("/"), session=session)
        assert client.execute_workflow("w", {"a": 1}).output == "hello"
        httpserver.check_assertions()

    def test_streams(self, session, connect, httpserver):
        """Streams of the tool's server work."""
        httpserver.expect_request("/api/workflows/w/execute").respond_with_data(EVENTS, content_type="text/event-stream")
        client = connect(httpserver.url_for("").rstrip("/"), session=session)
        with client.stream_workflow("w") as stream:
            assert list(stream.text()) == ["One"]
        assert stream.result.output == "hello"


class TestAdapters:
    """Adapters that users write and mount."""

    def test_an_adapter_that_never_touches_the_network(self, connect):
        """An adapter may create answers itself, without urllib3."""

        class Canned(BaseAdapter):
            def send(self, request, **settings):
                response = requests.Response()
                response.status_code = 200
                response.request = request
                response.url = request.url
                response.headers["Content-Type"] = "text/event-stream" if b'"stream"' in request.body else "application/json"
                response._content = EVENTS if b'"stream"' in request.body else b'{"success": true, "output": "hello"}'
                return response

            def close(self):
                pass

        with requests.Session() as own:
            own.mount(URL, Canned())
            client = connect(URL, session=own)
            assert client.execute_workflow("w").output == "hello"
            with client.stream_workflow("w") as stream:
                assert list(stream.text()) == ["One"]
            assert stream.result.output == "hello"

    def test_an_adapter_that_adds_a_header(self, serve, connect):
        """An adapter may change what is sent."""

        class Signing(HTTPAdapter):
            def send(self, request, **settings):
                request.headers["X-Signature"] = str(len(request.body))
                return super().send(request, **settings)

        server = serve(echo)
        with requests.Session() as own:
            own.mount("http://", Signing())
            connect(server, session=own).execute_workflow("w", {"a": 1})
        assert server.requests[0].headers["x-signature"] == "7"

    def test_an_adapter_that_looks_at_the_timeout(self, serve, connect):
        """The timeout passed to adapters is urllib3's own."""
        seen = []

        class Watching(HTTPAdapter):
            def send(self, request, **settings):
                seen.append(settings["timeout"])
                return super().send(request, **settings)

        with requests.Session() as own:
            own.mount("http://", Watching())
            connect(serve(echo), session=own).execute_workflow("w", timeout=5)
        assert 0 < seen[0].connect_timeout <= 5
        assert 0 < seen[0].read_timeout <= 5
        assert repr(seen[0])
