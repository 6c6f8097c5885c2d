"""A pytest plugin with one fixture, ``recall_server``. It comes with the package; there is nothing to switch on."""

from typing import Iterator

import pytest

from recall_sdk import testing  # it loads Werkzeug when RecallServer is first asked for
from recall_sdk.testing._loopback import no_proxy


@pytest.fixture
def recall_server(monkeypatch: pytest.MonkeyPatch) -> "Iterator[testing.RecallServer]":
    """A running :class:`recall_sdk.testing.RecallServer` of the test's own, with no workflows and no limits.

    Example::

        def test_greeting(recall_server):
            @recall_server.workflow("greet")
            def greet(input):
                return {"content": "Hello " + input["name"]}

            result = recall_server.client().execute_workflow("greet", {"name": "Ada"})
            assert result.output == {"content": "Hello Ada"}
    """
    monkeypatch.setenv("no_proxy", no_proxy("127.0.0.1"))
    with testing.RecallServer() as server:
        yield server
