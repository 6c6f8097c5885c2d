"""Common mistakes: each message says what happened and what to do next, as the page on troubleshooting shows it."""

import errno
import os
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Tuple, Type

import pytest

from recall_sdk import (
    AuthenticationError,
    InvalidRequestError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RecallClient,
    RecallConnectionError,
    RecallTimeoutError,
    RedirectError,
)
from recall_sdk.testing import RecallServer
from recall_sdk.testing._workflows import add_workflows

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "troubleshooting.md"

SHOWN_ADDRESS = "http://127.0.0.1:8787"  # the test server's, as the page has it


@pytest.fixture
def server() -> Iterator[RecallServer]:
    """A server with the demonstration workflows."""
    with RecallServer() as server:
        add_workflows(server)
        yield server


def execute(server: RecallServer, workflow_id: str = "greet", input: Any = None, **settings: Any) -> None:
    server.client(**settings).execute_workflow(workflow_id, input)


def with_a_wrong_key(server: RecallServer) -> None:
    with RecallClient("a-wrong-key", server.base_url) as client:
        client.execute_workflow("greet")


def on_a_server_that_is_down(server: RecallServer) -> None:
    client = server.client()
    server.stop()
    client.execute_workflow("greet")


def of_an_unknown_host(server: RecallServer) -> None:
    with RecallClient("a-key", "https://recall.invalid") as client:
        client.execute_workflow("greet")


def through_a_proxy_that_is_down(server: RecallServer) -> None:
    proxy = server.base_url
    server.stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTPS_PROXY", proxy)
        of_an_unknown_host(server)


def with_a_missing_ca_file(server: RecallServer) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent/ca.pem")
        of_an_unknown_host(server)


def behind_bot_protection(server: RecallServer) -> None:
    server.respond_next(403, body="<!doctype html><title>Just a moment</title>")
    execute(server)


def behind_a_login_page(server: RecallServer) -> None:
    server.respond_next(headers={"Content-Type": "text/html"}, body="<!doctype html><title>Please log in</title>")
    execute(server)


def redirected(server: RecallServer) -> None:
    server.respond_next(308, headers={"Location": "https://www.example.com/api/workflows/greet/execute"})
    execute(server)


MISTAKES: Dict[str, Tuple[Callable[[RecallServer], object], Type[Exception], str]] = {
    "no key": (
        lambda server: RecallClient(),
        ValueError,
        "no API key: pass api_key=..., or set the environment variable RECALL_API_KEY",
    ),
    "a key with a newline": (
        lambda server: RecallClient("a-key\n"),
        ValueError,
        "the API key contains a line break, perhaps from a file: pass only the key, for example with .strip()",
    ),
    "a key with quotes": (
        lambda server: RecallClient("'a-key'"),
        ValueError,
        "the API key has quotes around it: pass it without them, also in the environment variable",
    ),
    "a base URL without a scheme": (
        lambda server: RecallClient("a-key", "recall.example.com"),
        ValueError,
        "base_url lacks http:// or https:// and a host, or contains quotes or white space: did you mean 'https://recall.example.com'?",
    ),
    "a wrong key": (
        with_a_wrong_key,
        AuthenticationError,
        "Invalid API key (HTTP 401): check the API key, passed as api_key= or in RECALL_API_KEY",
    ),
    "a wrong id": (
        lambda server: execute(server, "greeet"),
        NotFoundError,
        "Workflow not found (HTTP 404): check the id 'greeet' and the base_url",
    ),
    "a workflow that is not deployed": (
        lambda server: execute(server, "draft"),
        PermissionDeniedError,
        "Workflow is not deployed (HTTP 403): deploy it in Recall first",
    ),
    "a server that is down": (
        on_a_server_that_is_down,
        RecallConnectionError,
        "could not connect to http://127.0.0.1:8787 ([Errno 111] Connection refused): check the base_url, and that the server is running",
    ),
    "an unknown host": (
        of_an_unknown_host,
        RecallConnectionError,
        "the host of https://recall.invalid is unknown (Name or service not known): check the base_url and the network",
    ),
    "a proxy that is down": (
        through_a_proxy_that_is_down,
        RecallConnectionError,
        (
            "could not connect through the proxy for https://recall.invalid ([Errno 111] Connection refused): check HTTPS_PROXY and "
            "HTTP_PROXY and their credentials, or the proxies of your session"
        ),
    ),
    "authorities that can't be read": (
        with_a_missing_ca_file,
        RecallConnectionError,
        (
            "could not connect to https://recall.invalid: the CA file '/nonexistent/ca.pem' can't be read "
            "([Errno 2] No such file or directory): check REQUESTS_CA_BUNDLE"
        ),
    ),
    "a page instead of JSON": (
        behind_a_login_page,
        InvalidResponseError,
        "the response is an HTML page instead of JSON: check the base_url, and whether a proxy responded (HTTP 200)",
    ),
    "bot protection": (
        behind_bot_protection,
        PermissionDeniedError,
        (
            "an HTML page came instead of JSON: something in front of the API responded, such as a gateway or bot protection (HTTP 403): "
            "check the base_url, and what is between here and the API"
        ),
    ),
    "a time-out": (
        lambda server: execute(server, "slow", {"seconds": 1}, timeout=0.5),
        RecallTimeoutError,
        (
            "http://127.0.0.1:8787 did not complete its response within 0.5 s: the workflow may still be running; "
            "for more time, use a longer timeout= or async_execution=True"
        ),
    ),
    "a redirect to another host": (
        redirected,
        RedirectError,
        (
            "the server redirects to https://www.example.com/api/workflows/greet/execute (HTTP 308): the API key is sent only "
            "to the origin of the base_url; if you trust the other origin, set base_url='https://www.example.com'"
        ),
    ),
    "an input that isn't JSON-serializable": (
        lambda server: execute(server, input={"user": {"created_at": datetime(2026, 11, 24, tzinfo=timezone.utc)}}),
        InvalidRequestError,
        "input.user.created_at: datetime is not JSON serializable; use .isoformat()",
    ),
}


def of_this_system(text: str) -> str:
    """Replace the system's messages on the page by those of this system."""
    text = text.replace("[Errno 111] Connection refused", f"[Errno {errno.ECONNREFUSED}] {os.strerror(errno.ECONNREFUSED)}")
    if "Name or service not known" in text:
        with pytest.raises(socket.gaierror) as caught:
            socket.getaddrinfo("recall.invalid", 443)
        text = text.replace("Name or service not known", str(caught.value.strerror))
    return text


@pytest.mark.parametrize("mistake", MISTAKES)
def test_message_of_common_mistake(mistake: str, server: RecallServer):
    """The message is exactly this one."""
    make, kind, text = MISTAKES[mistake]
    base_url = server.base_url
    with pytest.raises(kind) as caught:
        make(server)
    assert type(caught.value) is kind
    assert str(caught.value).replace(base_url, SHOWN_ADDRESS) == of_this_system(text)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_troubleshooting_shows_message(mistake: str):
    """Each message is on the page."""
    assert f"\n> `{MISTAKES[mistake][2]}`\n" in PAGE.read_text("utf-8")


def test_troubleshooting_shows_no_other_messages():
    """The page has no obsolete message."""
    quoted = [line[3:-1] for line in PAGE.read_text("utf-8").splitlines() if line.startswith("> `")]
    assert sorted(quoted) == sorted(text for _, _, text in MISTAKES.values())
