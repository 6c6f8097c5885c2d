"""The scripts in ``examples``: each runs unchanged, in its own process, with the test server."""

import ast
import contextlib
import importlib
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Callable, Dict, Iterator, List

import pytest
import requests

from recall_sdk import RecallClient
from recall_sdk.testing import RecallServer
from recall_sdk.testing._workflows import add_workflows

EXAMPLES = Path(__file__).parent.parent / "examples"
SHARED_LINE = "import recall_sdk.testing.demo  # a test server; with a key, delete this line"
NOTE = re.compile(r"RECALL_API_KEY is not set: running on a test server at http://127\.0\.0\.1:\d+\n")

PRINTS: Dict[str, List[str]] = {
    "quickstart": [
        r"Output: \{'content': 'Hello Ada'\}",
        r"Stream: One, two, three, four, five",
        r"Rate limit: \d+ of 10 requests remain",
    ],
    "error_handling": [
        r"    \{'content': 'Hello Ada'\}",
        r"    NotFoundError, code WORKFLOW_NOT_FOUND, status 404",
        r"    PermissionDeniedError, code WORKFLOW_NOT_DEPLOYED, status 403",
        r"    ExecutionError, code EXECUTION_ERROR, status 500",
        r"    RecallTimeoutError, code TIMEOUT, status None",
        r"    -> check whether it ran before you send it again",
        r"    InvalidRequestError, code INVALID_JSON, status None",
        r"    input\.name: set is not JSON serializable; use list\(\)",
        r"    AuthenticationError, code UNAUTHORIZED, status 401",
        r"    RecallConnectionError, code CONNECTION_ERROR, status None",
        r"    -> send it again",
    ],
    "batch": [
        r"fail \{\}: the workflow failed: this workflow always fails .*",
        r"30 greetings in \d+\.\d s",
        r"The first: \{'content': 'Hello guest 1'\}, the last: \{'content': 'Hello guest 30'\}",
    ],
    "async_job": [r"Queued as task_\w+", r"Output: \{'content': 'That took 2 s'\}", r"It ran for 2\d\d\d[.\d]* ms"],
    "retry": [r"call 1: 9 of 10 left, all again at \d\d:\d\d:\d\d", r"call 13: \d of 10 left, .*"],
    "usage_report": [
        r" +limit +left  full again at +limited now",
        r"sync +10 +10  2\S+Z +no",
        r"async +10 +10  2\S+Z +no",
        r"plan free: \$0\.00 of \$100\.00 spent \(0\.0 %\)",
    ],
    "streaming": [
        r"One, two, three, four, five",
        r"Output: \{'content': 'One, two, three, four, five'\}",
        r"count-block wrote 27 characters",
    ],
    "flask_relay": [
        r"event: text",
        r'data: "One"',
        r'data: ", five"',
        r"event: done",
        r'data: \{"content": "One, two, three, four, five"\}',
    ],
    "service": [r"Ready: True", r"Hello Ada", r"Hello Alan", r"Hello Grace", r"Hello Edsger"],
    "files": [
        r"Sent: minutes\.txt text/plain data:text/plain;base64,V2Ug.*",
        r"Sent: dot\.png image/png",
        r"Rejected: input\.documents\[0\]: a file in text mode .*",
    ],
    "resume_batch": [r"0 of 30 are done", r"done: guest \d+", r"30 of 30 are done"],
    "dask_batch": [r"8 greetings, the last: \{'content': 'Hello guest 8'\}"],
}
"""Lines that each example prints, in this order, with others between them."""


def environment(**variables: str) -> Dict[str, str]:
    """The environment of this process, without servers and proxies (``conftest.py``), and these variables."""
    return {**os.environ, **variables}


def run(name: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run an example to its end."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")]
    return subprocess.run(command, env=environment(**variables), capture_output=True, text=True, encoding="utf-8", timeout=100, check=False)


@pytest.fixture
def account() -> Iterator[RecallServer]:
    """A server with its own key, in place of the reader's account."""
    with RecallServer(api_key="a-key-of-my-own", usage_limit=0.1) as server:
        add_workflows(server)
        yield server


def test_examples_are_all_listed():
    """Each script of the folder is in the table above."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == PRINTS.keys()


@pytest.mark.parametrize("name", PRINTS)
def test_example_without_key_uses_test_server(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The example prints what it should, says where it runs, and causes no warning."""
    monkeypatch.chdir(tmp_path)  # the folder for what it writes
    if name == "dask_batch":
        pytest.importorskip("distributed", reason="Dask is not installed")
    done = run(name)
    assert done.returncode == 0, done.stderr
    assert NOTE.match(done.stderr)
    lines = iter(done.stdout.replace("\r", "\n").splitlines())
    missing = [pattern for pattern in PRINTS[name] if not any(re.fullmatch(pattern, line) for line in lines)]
    assert missing == [], done.stdout


@pytest.mark.parametrize("name", PRINTS)
def test_example_has_header(name: str):
    """The example begins with a docstring that says what it shows and how to run it, and has the shared line."""
    text = (EXAMPLES / f"{name}.py").read_text("utf-8")
    header = ast.get_docstring(ast.parse(text)) or ""
    assert re.match(r"[A-Z].*: ", header)
    assert f"python examples/{name}.py" in header
    assert text.count(SHARED_LINE + "\n") == 1


@pytest.mark.parametrize("name", ["quickstart", "service"])
def test_example_with_key_uses_account(name: str, account: RecallServer):
    """With a key, the shared line does nothing."""
    done = run(name, RECALL_API_KEY=account.api_key, RECALL_BASE_URL=account.base_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert account.executions["greet"] > 0


def test_example_runs_without_demo_line(account: RecallServer, tmp_path: Path):
    """Without the line, the script needs nothing but the library and a key."""
    script = tmp_path / "quickstart.py"
    script.write_text((EXAMPLES / "quickstart.py").read_text("utf-8").replace(SHARED_LINE + "\n", ""), "utf-8")
    variables = environment(RECALL_API_KEY=account.api_key, RECALL_BASE_URL=account.base_url)
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Output: {'content': 'Hello Ada'}" in done.stdout


def test_usage_report_warns_near_limit(account: RecallServer):
    """Over 80 % of the spending limit, the report ends with a warning."""
    with account.client() as client:
        for _ in range(9):
            client.execute_workflow("greet", {"name": "Ada"})
    done = run("usage_report", RECALL_API_KEY=account.api_key, RECALL_BASE_URL=account.base_url)
    assert done.stdout.endswith("plan free: $0.09 of $0.10 spent (90.0 %)\nWARNING: more than 80 % of the spending limit is used\n")


def test_retry_example_prints_each_call():
    """If the server reports no limit, the example still prints a line for each call."""
    with RecallServer() as server:
        add_workflows(server)
        done = run("retry", RECALL_API_KEY=server.api_key, RECALL_BASE_URL=server.base_url)
    assert done.stdout.splitlines() == [f"call {number}: done; the server reports no limit" for number in range(1, 14)]


def test_streaming_example_keeps_partial_text(account: RecallServer):
    """If the stream is cut, the script prints what arrived."""
    account.respond_next(events=[{"blockId": "b", "chunk": "Once upon"}], cut=True)
    done = run("streaming", RECALL_API_KEY=account.api_key, RECALL_BASE_URL=account.base_url)
    assert done.returncode == 1
    assert done.stderr.endswith("The connection broke. Arrived so far: 'Once upon'\n")


def test_resume_example_continues_after_kill(tmp_path: Path):
    """Killed in the middle, the batch continues where it stopped: at most the items that were in flight run twice."""
    command = [sys.executable, str(EXAMPLES / "resume_batch.py"), str(tmp_path / "batch.db")]
    with RecallServer(rate_limit=20, burst=4) as server:
        add_workflows(server)
        variables = environment(RECALL_API_KEY=server.api_key, RECALL_BASE_URL=server.base_url)
        with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [next(process.stdout) for _ in range(6)]  # the first line, and five finished items
            process.kill()
            lines += process.stdout
        finished = sum(line.startswith("done: ") for line in lines)
        assert 5 <= finished < 30
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
        kept = int(done[0].split()[0])
        assert finished <= kept <= finished + 1  # one may be killed between its commit and its line
        assert done[0] == f"{kept} of 30 are done"
        assert done[-1] == "30 of 30 are done"
        assert len(done) == 2 + 30 - kept
        assert 30 <= server.executions["greet"] <= 30 + 2 * 4
    assert not (tmp_path / "batch.db").exists()


@contextlib.contextmanager
def served(example: str, **variables: str) -> Iterator[str]:
    """Serve an example with Flask's command, and return its address."""
    command = [sys.executable, "-m", "flask", "--app", str(EXAMPLES / example), "run", "--port", "0"]
    with subprocess.Popen(command, env=environment(**variables), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield next(found[0] for found in (re.search(r"http://127\.0\.0\.1:\d+$", line) for line in process.stderr) if found)
        finally:
            process.terminate()
            process.stderr.read()


def test_flask_relay_serves_browser(account: RecallServer):
    """The relay forwards the stream, reports a failed run at its end, and answers 502 with the code if there is no stream."""
    variables = {"RECALL_API_KEY": account.api_key, "RECALL_BASE_URL": account.base_url}
    with served("flask_relay", **variables) as address:
        good = requests.get(f"{address}/count?to=5", timeout=20)
        account.respond_next(events=[{"event": "done", "success": False, "error": "no luck"}])
        failed = requests.get(f"{address}/count", timeout=20)
        account.respond_next(401, json={"error": "Invalid API key"})
        bad = requests.get(f"{address}/count", timeout=20)
    assert good.headers["Content-Type"].startswith("text/event-stream")
    assert good.text.startswith('event: text\ndata: "One"\n\nevent: text\ndata: ", two"\n\n')
    assert failed.text == 'event: failed\ndata: "no luck"\n\n'
    assert account.requests[0].json == {"to": "5", "stream": True, "selectedOutputs": ["agent1.content"]}
    assert (bad.status_code, bad.json()) == (502, {"code": "UNAUTHORIZED"})


# ------------------------------------------------------------------------------------------------------- the shared line


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import the module again with this key in the environment, and restore the environment and the log."""
    logger = logging.getLogger("recall_sdk.testing")
    level = logger.level
    servers = []

    def imported(api_key: str) -> ModuleType:
        monkeypatch.setenv("RECALL_API_KEY", api_key)
        monkeypatch.setenv("RECALL_BASE_URL", "http://elsewhere.example.com")
        monkeypatch.delitem(sys.modules, "recall_sdk.testing.demo", raising=False)
        module = importlib.import_module("recall_sdk.testing.demo")
        servers.append(module.server)
        return module

    yield imported
    logger.setLevel(level)
    for server in filter(None, servers):
        server.stop()


def test_demo_starts_server(demo: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]):
    """Without a key, a client made from the environment reaches a server that limits executions; the import says so."""
    server = demo("").server
    with RecallClient() as client:
        assert client.base_url == server.base_url
        assert client.execute_workflow("greet", {"name": "Ada"}).output == {"content": "Hello Ada"}
        assert client.get_rate_limit_info() is not None
    assert NOTE.fullmatch(capsys.readouterr().err)


def test_demo_stops_its_server_before_the_interpreter_ends() -> None:
    """No thread of the server is alive when the interpreter ends: it could hold a lock that the end needs."""
    code = "import atexit, threading; atexit.register(lambda: print(threading.active_count())); import recall_sdk.testing.demo"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RECALL_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1\n"


def test_demo_does_nothing_with_key(demo: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]):
    """With a key, the import starts and changes nothing."""
    assert demo("a-key-of-my-own").server is None
    assert (os.environ["RECALL_API_KEY"], os.environ["RECALL_BASE_URL"]) == ("a-key-of-my-own", "http://elsewhere.example.com")
    assert capsys.readouterr().err == ""
