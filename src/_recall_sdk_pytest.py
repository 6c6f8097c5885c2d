"""A pytest plugin with one fixture, ``recall_server``. It comes with the package; there is nothing to switch on.

pytest imports every installed plugin in each of its runs, before the first ``conftest.py``. So this module imports pytest alone, and it is
outside the package, whose import brings ``requests`` and ``ssl``: a ``conftest.py`` can still call ``gevent.monkey.patch_all()``.
"""

from typing import TYPE_CHECKING, Iterator

import pytest

if TYPE_CHECKING:
    from recall_sdk.testing import RecallServer


@pytest.fixture
def recall_server(monkeypatch: pytest.MonkeyPatch) -> "Iterator[RecallServer]":
    """A running :class:`recall_sdk.testing.RecallServer` for one test, with no workflows and no limits.

    Example::

        def test_greeting(recall_server):
            @recall_server.workflow("greet")
            def greet(input):
                return {"content": "Hello " + input["name"]}

            result = recall_server.client().execute_workflow("greet", {"name": "Ada"})
            assert result.output == {"content": "Hello Ada"}
    """
    from recall_sdk.testing import RecallServer  # noqa: PLC0415 -- only now: the docstring of the module says why
    from recall_sdk.testing._workflows import no_proxy  # noqa: PLC0415 -- the same

    monkeypatch.setenv("no_proxy", no_proxy("127.0.0.1"))
    with RecallServer() as server:
        yield server
