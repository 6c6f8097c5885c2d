"""Fixtures for all tests."""

import os
import signal
import sys
import threading

import pytest
from hypothesis import settings

pytest_plugins = ["rawserver"]

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")

if hasattr(os, "register_at_fork"):
    # coverage takes a lock at each call that it measures. Held by another thread at a fork, it would stop the child forever.
    measured = threading.local()

    def _pause():
        measured.by = sys.gettrace()
        sys.settrace(None)

    os.register_at_fork(before=_pause, after_in_parent=lambda: sys.settrace(measured.by), after_in_child=lambda: threading.settrace(None))

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    """Keep the settings of the machine out of the tests."""
    ours = [name for name in os.environ if name.startswith("RECALL_")]
    for name in (*ours, *PROXIES, *map(str.lower, PROXIES), *CERTIFICATES, "COVERAGE_PROCESS_START"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ctrl_c():
    """Let Ctrl-C interrupt, also if the tests run in the background of a shell, which ignores it."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)
