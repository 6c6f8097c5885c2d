"""Each code block of the README, of the pages in ``docs`` and of the public docstrings runs, and prints what is shown below it.

A page is one session on one test server with the demonstration workflows, started as the page tells its reader to
(``python -m recall_sdk.testing ...``). The rules for what stands in a page:

- A ``text`` block right after a ``python`` block is what that block prints; without one it prints nothing. ``...`` stands for anything,
  and ``<!-- any order -->`` before it allows its lines in any order.
- A block with tests runs under pytest, and one with a ``__main__`` guard as a script too.
- A block after ``<!-- not run: REASON -->`` is compiled only: it needs something that is not installed here.
- Of the engines for many machines, Dask is the real one. Ray and MPI are no part of the test environment: where they are missing, threads
  stand in for their executors.
"""

import asyncio
import code
import contextlib
import doctest
import importlib
import inspect
import io
import json
import logging
import pickle
import re
import shlex
import subprocess
import sys
import textwrap
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set

import pytest

import recall_sdk
from blocks import run
from rawserver import cloudpickle, collect_quietly
from recall_sdk import _decoding, _statuses, errors
from recall_sdk.testing import RecallServer, __main__
from recall_sdk.testing._workflows import add_workflows
from test_package import LADDER

ROOT = Path(__file__).parent.parent
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)(?P=fence)$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A code block of a page, and the shown output that follows it."""

    language: str
    line: int
    code: str
    shown: str
    any_order: bool
    runs: bool


def blocks_of(text: str) -> List[Block]:
    """Find the blocks of a page, each with its output."""
    found = list(FENCE.finditer(text))
    blocks = []
    for before, match, after in zip([None, *found], found, [*found[1:], None]):
        between = text[match.end() : after.start()].strip() if after else ""
        is_output = after is not None and after["language"] == "text" and between in ("", "<!-- any order -->")
        shown = unindented(after) if after and is_output else ""
        line = text.count("\n", 0, match.start("code")) + 1
        runs = "<!-- not run: " not in text[before.end() if before else 0 : match.start()]
        blocks.append(Block(match["language"].strip(), line, unindented(match), shown, any_order=bool(between), runs=runs))
    return blocks


def unindented(fence: "re.Match[str]") -> str:
    """Return the lines of a block without the indentation of its fence."""
    return re.sub("^" + fence["indent"], "", fence["code"], flags=re.MULTILINE)


def same(shown: str, printed: str) -> bool:
    """Compare shown and printed output; ``...`` matches anything, and spaces at the end of a line and the last line's end are ignored."""
    printed = re.sub(r" +$", "", printed, flags=re.MULTILINE)
    printed = printed if printed.endswith("\n") or not printed else printed + "\n"
    return shown == printed or doctest.OutputChecker().check_output(shown, printed, doctest.ELLIPSIS)


def serve(text: str) -> RecallServer:
    """Make the server that the page tells its reader to start."""
    command = re.search(r"^\$? ?python -m recall_sdk\.testing(.*)$", text, re.MULTILINE)
    settings = vars(__main__._parser().parse_args(shlex.split(command[1]) if command else []))
    server = RecallServer(**{**settings, "port": 0})
    add_workflows(server)
    return server


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def to_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Python 3.8, a function that does what the pages tell its users to do instead of ``asyncio.to_thread``."""

    async def to_thread(function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)

    if sys.version_info < (3, 9):
        monkeypatch.setattr(asyncio, "to_thread", to_thread, raising=False)


@contextlib.contextmanager
def fresh_logging() -> Iterator[None]:
    """Logging as in a new process, without the log of the server, which is in another process for the reader."""
    loggers = [logging.getLogger(name) for name in ("", "recall_sdk", "recall_sdk.testing")]
    root, _, server = loggers
    handlers, levels = root.handlers[:], [logger.level for logger in loggers]
    root.handlers.clear()
    server.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


class ThreadsForRay:
    """The names of Ray that the documentation uses, on threads. Calls are pickled, as by Ray."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(4)

    def init(self) -> None:
        pass

    def remote(self, *, max_retries: int) -> Callable[[Callable[..., Any]], Any]:
        def decorate(function: Callable[..., Any]) -> Any:
            def submit(*args: Any) -> Any:
                sent = pickle.loads(cloudpickle().dumps((function, args)))
                future = self._threads.submit(sent[0], *sent[1])
                return types.SimpleNamespace(future=lambda: future)

            return types.SimpleNamespace(remote=submit)

        return decorate


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads instead of the systems that are not installed."""
    absent: Dict[str, Dict[str, Any]] = {
        "ray": {name: getattr(ThreadsForRay(), name) for name in ("init", "remote")},
        "mpi4py": {},
        "mpi4py.futures": {"MPIPoolExecutor": ThreadPoolExecutor},
    }
    for name, contents in absent.items():
        try:
            importlib.import_module(name)
        except ImportError:
            module = types.ModuleType(name)
            vars(module).update(contents)
            monkeypatch.setitem(sys.modules, name, module)


def as_script(code: str, folder: Path) -> str:
    """Run a block as a script, and return what it prints."""
    (folder / "block.py").write_text(code, "utf-8")
    done = subprocess.run([sys.executable, "block.py"], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def under_pytest(blocks: List[str], folder: Path) -> None:
    """Run blocks of tests, each as a module."""
    for number, block in enumerate(blocks):
        (folder / f"test_block_{number}.py").write_text(block, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def check_without_running(block: Block, where: str) -> None:
    """Check what can be checked of a block that is not run."""
    assert block.language not in ("py", "python3", "pycon"), f"{where}: call it python, so that it is run"
    if block.language == "json":
        json.loads(block.code)
    elif block.language == "python":
        compile(block.code, where, "exec")


STARTS_A_SERVER = re.compile(
    r"\b[Ii]n a second terminal.*\n+```sh\npython -m recall_sdk\.testing\b.*\n```$|^import recall_sdk\.testing\.demo$", re.MULTILINE
)
"""One command in a second terminal, or one import."""


@pytest.mark.parametrize("page", PAGES)
def test_page_blocks_run(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engines: None):
    """Each block of the page runs, from top to bottom, and prints what is shown. The page says how to start the server that they need."""
    text = PAGES[page].read_text("utf-8")
    if "distributed" in text:
        pytest.importorskip("distributed", reason="Dask is not installed")
    module = types.ModuleType("page")  # Django and pickle look names up in it
    monkeypatch.setitem(sys.modules, "page", module)
    names, printed = vars(module), io.StringIO()
    tests: List[str] = []
    with serve(text) as server, fresh_logging():
        monkeypatch.setenv("RECALL_API_KEY", server.api_key)
        monkeypatch.setenv("RECALL_BASE_URL", server.base_url)
        for block in blocks_of(text):
            where = f"{page}, line {block.line}"
            if block.language != "python" or not block.runs:
                check_without_running(block, where)
            elif re.search(r"^def test_", block.code, re.MULTILINE):
                tests.append(block.code)
            else:
                before = printed.tell()
                run(block.code, names, source=page, line=block.line, printed=printed)
                if "__main__" in block.code:
                    printed.write(as_script(block.code, tmp_path))
                output = printed.getvalue()[before:].replace(server.base_url, "http://127.0.0.1:8787")
                shown = block.shown
                if block.any_order:
                    output, shown = ("".join(sorted(lines.splitlines(keepends=True))) for lines in (output, shown))
                assert same(shown, output), f"{where} prints\n{output}\nbut shows\n{shown}"
        assert not server.requests or STARTS_A_SERVER.search(text), f"{page} does not say how to start the test server"
    for value in names.values():
        if isinstance(value, recall_sdk.RecallClient):
            value.close()
    if "distributed" in text:
        names.clear()
        collect_quietly()  # Dask leaves the sockets of an event loop
    if tests:
        under_pytest(tests, tmp_path)


PASTED = ("README.md", "docs/index.md", "docs/tutorial.md")
"""Pages whose blocks a reader pastes into the interpreter."""


@pytest.mark.parametrize("page", PASTED)
def test_page_blocks_can_be_pasted(page: str, monkeypatch: pytest.MonkeyPatch):
    """Each block can be pasted into the interactive interpreter, line by line, and prints what is shown."""
    text = PAGES[page].read_text("utf-8")
    errors = io.StringIO()
    with serve(text) as server, contextlib.redirect_stderr(errors):
        monkeypatch.setenv("RECALL_API_KEY", server.api_key)
        monkeypatch.setenv("RECALL_BASE_URL", server.base_url)
        console = code.InteractiveConsole()
        for block in blocks_of(text):
            if block.language == "python" and block.runs:
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    incomplete = [console.push(line) for line in block.code.splitlines()]
                assert not errors.getvalue(), f"{page}, line {block.line}: {errors.getvalue()}"
                assert not incomplete[-1], f"{page}, line {block.line}: the block must end with a blank line"
                outputs = [printed.getvalue(), block.shown]
                if block.any_order:
                    outputs = ["".join(sorted(output.splitlines(keepends=True))) for output in outputs]
                assert same(outputs[1], outputs[0]), f"{page}, line {block.line} prints\n{outputs[0]}"
        for value in console.locals.values():
            if isinstance(value, recall_sdk.RecallClient):
                value.close()


@pytest.mark.parametrize("page", PAGES)
def test_page_links_exist(page: str):
    """Each link to a file of this project leads to an existing file."""
    text = FENCE.sub("", PAGES[page].read_text("utf-8"))
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|mailto:|#", target)]
    assert [target for target in targets if not (PAGES[page].parent / target).exists()] == []


def test_examples_page_shows_each_example():
    """The page of examples shows each script of the folder."""
    shown = re.findall(r"literalinclude\} \.\./examples/(.+)", PAGES["docs/examples.md"].read_text("utf-8"))
    assert sorted(shown) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def test_architecture_page_matches_module_levels():
    """The table of modules has each one, from the bottom up in the order of their imports; within a level any order is right."""
    order = [*(module for module in LADDER if not module.startswith("testing.")), "testing"]
    rows = re.findall(r"^\| \d \| (.+?) \|", PAGES["docs/architecture.md"].read_text("utf-8"), re.MULTILINE)
    shown = [re.findall(r"`(\w+)`", row) for row in reversed(rows)]
    assert sorted(name for row in shown for name in row) == sorted(order)
    assert [name for row in shown for name in sorted(row, key=order.index)] == order


def test_wire_page_responses_are_decoded():
    """Each response on the page about the wire format, and the stream on the page about streams, is decoded as documented."""
    wire, streams = (blocks_of(PAGES[f"docs/{page}.md"].read_text("utf-8")) for page in ("reference/wire", "explanation/streams"))
    execution, ticket, job, status, limits, error = (json.loads(block.code) for block in wire if block.language == "json")
    with RecallServer() as server:
        client = server.client()
        for response in (execution, ticket, job, status, limits):
            server.respond_next(json=response)
        server.respond_next(404, json=error)
        server.respond_next(headers={"Content-Type": "text/event-stream"}, body=streams[0].code + "\n")
        executed = client.execute_workflow("w")
        assert executed == recall_sdk.WorkflowExecutionResult(
            True, execution["output"], None, [], execution["metadata"], [], execution["totalDuration"]
        )
        queued = client.execute_workflow("w", async_execution=True)
        assert queued == recall_sdk.AsyncExecutionResult(True, ticket["taskId"], "queued", ticket["createdAt"], ticket["links"])
        assert client.get_job_status("task_1") == {**job, "error": None}
        assert client.get_workflow_status("w") == recall_sdk.WorkflowStatus(True, status["deployedAt"], False)
        assert client.get_usage_limits() == recall_sdk.UsageLimits(True, limits["rateLimit"], limits["usage"])
        with pytest.raises(recall_sdk.NotFoundError, match=error["error"]) as caught:
            client.execute_workflow("w")
        assert caught.value.code == error["code"]
        streamed = client.execute_workflow("w", stream=True)
    assert streamed == recall_sdk.StreamedExecutionResult(
        True,
        {"content": "One, two"},
        metadata={"duration": 402},
        total_duration=402,
        text="One, two",
        text_by_block={"count-block": "One, two"},
    )


SENT_BY_SERVERS = {"WORKFLOW_NOT_DEPLOYED", "WORKFLOW_NOT_FOUND", "TASK_NOT_FOUND", "EXECUTION_ID_CONFLICT"}
"""Codes that servers send."""


def codes_by_class() -> Dict[str, Set[str]]:
    """The codes of each error, from its docstring."""
    names = [name for name in recall_sdk.__all__ if name.endswith("Error") and name != "RecallError"]
    return {name: set(re.findall("``([A-Z_]+)``", getattr(recall_sdk, name).__doc__)) for name in names}


ERROR_ROW = re.compile(r"^\|(?: `(\w+Error)`)? \|[^|]+\|([^|]+)\|[^|]+\|$", re.MULTILINE)


def test_error_table_matches_classes():
    """The table of errors has each error, with its codes, those that servers send, and no other."""
    table: Dict[str, Set[str]] = {}
    name = ""
    for first, codes in ERROR_ROW.findall(PAGES["docs/reference/errors.md"].read_text("utf-8")):
        name = first or name
        table.setdefault(name, set()).update(re.findall("`([A-Z_]+)`", codes))
    assert {name: codes - SENT_BY_SERVERS for name, codes in table.items()} == codes_by_class()
    known = set().union(*table.values())
    assert known >= SENT_BY_SERVERS
    sources = "".join(inspect.getsource(module) for module in (_decoding, _statuses, errors))
    assert set(re.findall('"([A-Z_]{4,})"', sources)) <= known


def test_only_one_table_of_errors():
    """No other page repeats the table of errors."""
    rows = {page: len(re.findall(r"^\| `\w+Error` \|", path.read_text("utf-8"), re.MULTILINE)) for page, path in PAGES.items()}
    assert [page for page, count in rows.items() if count] == ["docs/reference/errors.md"]


@pytest.mark.parametrize(
    ("page", "summarized"), [("client", recall_sdk.RecallClient), ("client", recall_sdk.WorkflowStream), ("testing", RecallServer)]
)
def test_reference_summarizes_each_method(page: str, summarized: type):
    """The table at the top of a class in the reference has each public method and property, and no other."""
    text = PAGES[f"docs/reference/{page}.md"].read_text("utf-8")
    members = {name for name in vars(summarized) if not name.startswith("_")}
    assert set(re.findall(rf"^   {summarized.__name__}\.(\w+)$", text, re.MULTILINE)) == members


FROM_THE_INDEX = re.compile(r"(?:pip[3x]? install|uv add|poetry add)\b(?!.*git\+https)[^\n]*?(?<![/\w.-])recall[-_]sdk\b", re.IGNORECASE)


def test_nothing_installs_the_name_from_the_index():
    """No line that can be copied installs the name from the package index, where it belongs to another project."""
    texts = [*PAGES.values(), *(path for folder in ("examples", "src") for path in (ROOT / folder).rglob("*.py"))]
    found = [(path.name, line) for path in texts for line in path.read_text("utf-8").splitlines() if FROM_THE_INDEX.search(line)]
    assert found == []


def test_measurements_have_no_limits():
    """A page for users shows what was measured, not what had to be."""
    limits = re.compile(r"^\|.*\| must be \|", re.MULTILINE)
    assert [page for page, path in PAGES.items() if limits.search(path.read_text("utf-8"))] == []


NOT_PUBLISHED = "its name on the package index belongs to another project"

PROMISES = [
    # titles that say what the reader wants
    ("docs/howto/streaming.md", "# Stream output\n"),
    ("docs/howto/machines.md", "# Run a batch on a cluster\n"),
    ("docs/howto/observability.md", "# Logging and tracing\n"),
    ("docs/architecture.md", "# Architecture\n"),
    ("docs/reference/published.md", "# Where Recall's own docs are ambiguous or wrong\n"),
    # appendices, below the page that they belong to
    ("docs/contributing.md", ":hidden:\n\narchitecture\n"),
    ("docs/performance.md", ":hidden:\n\nmeasurements\n"),
    # what is not offered, or not yet
    ("docs/changelog.md", "## [0.1.0] - unreleased\n"),
    ("docs/changelog.md", "Nothing is published yet."),
    ("README.md", NOT_PUBLISHED),
    ("docs/index.md", NOT_PUBLISHED),
    ("docs/tutorial.md", NOT_PUBLISHED),
    ("docs/howto/recipes.md", "The SDK has no limiter that several processes share."),
    ("docs/howto/recipes.md", "client.execute_batch(items, max_workers=16, executor=pool)"),
    # what keeps a key out of a record
    ("docs/howto/observability.md", "diagnose=False"),
    ("docs/howto/observability.md", "include_local_variables=False"),
    ("docs/howto/testing.md", 'filter_headers=["X-API-Key"]'),
    # what callers stumble over
    ("docs/howto/testing.md", 'mock.patch("requests.Session.send", respond)'),
    ("docs/howto/testing.md", "Prefer the test server"),
    ("docs/howto/asyncio.md", "await asyncio.to_thread(next, stream, None)"),
    ("docs/howto/relay.md", "FastAPI's `StreamingResponse` drops it without closing it"),
    ("docs/howto/relay.md", "stream.close()  # also when the browser disconnects"),
    ("docs/howto/batches.md", "HTTPAdapter(pool_maxsize=50)"),
    ("docs/howto/network.md", "HTTPAdapter(pool_maxsize=50)"),
    ("docs/howto/troubleshooting.md", "**Ctrl-C does not end a call on Windows.**"),
    ("docs/explanation/time.md", "On Windows, Python can't interrupt a wait on a socket"),
    # what a figure means
    ("README.md", "takes one to two minutes"),
    ("docs/performance.md", "**urllib3 alone is faster**, because it does less"),
    ("docs/performance.md", "still takes about half of what `requests.Session.post` does: it prepares"),
]
"""What a page says or shows because a reader missed it once."""


@pytest.mark.parametrize(("page", "phrase"), PROMISES)
def test_page_says_what_readers_missed(page: str, phrase: str):
    """The page says it."""
    assert phrase in PAGES[page].read_text("utf-8")


HAVE_IT = {"recall_sdk", "requests", "pytest", "loguru", "sentry_sdk"}
"""Packages that a reader of the SDK, of its page about tests, and of the advice about these tools has."""


@pytest.mark.skipif(sys.version_info < (3, 10), reason="this Python does not list its modules")
def test_pages_name_what_to_install():
    """What a block imports is a part of Python or of the SDK, or the text above it says what to install."""
    missing = []
    for page, path in PAGES.items():
        text = path.read_text("utf-8")
        for found in re.finditer(r"^(?:from|import) (\w+)", text, re.MULTILINE):
            is_here = found[1] in {*sys.stdlib_module_names, *HAVE_IT}
            if not is_here and not re.search(rf"[Ii]nstall[^\n]*\b{found[1]}", text[: found.start()]):
                missing.append((page, found[1]))
    assert missing == []


def test_how_tos_are_in_groups():
    """The menu and the README have the how-tos in the same three groups, each in one of them; the recipes stand first."""
    menu, readme = (PAGES[page].read_text("utf-8") for page in ("docs/index.md", "README.md"))
    in_menu = re.findall(r':caption: "How to: (\w+)"\n(.*?)^```', menu, re.MULTILINE | re.DOTALL)
    in_readme = re.findall(r"^- (\w+): (\[.*?)(?=^- )", readme, re.MULTILINE | re.DOTALL)
    groups = {name: re.findall(r"^howto/(.+)$", entries, re.MULTILINE) for name, entries in in_menu}
    assert list(groups) == ["basics", "scale", "operate"]
    assert groups == {name.lower(): re.findall(r"docs/howto/([\w-]+)\.md", links) for name, links in in_readme}
    assert sorted(sum(groups.values(), ["recipes"])) == [path.stem for path in sorted((ROOT / "docs" / "howto").glob("*.md"))]


def test_readme_follows_the_order_of_a_newcomer():
    """The README says why before how: the problem, the installation, the first call, then the rest."""
    titles = re.findall(r"^## (.+)", FENCE.sub("", PAGES["README.md"].read_text("utf-8")), re.MULTILINE)
    assert titles == ["Why", "Install", "First call", "Stream", "Batch", "A test server", "Work on the SDK", "Read on"]


def test_readme_links_to_readable_pages():
    """The README has relative links only to pages that can be read without a build, and to folders."""
    targets = re.findall(r"\]\(([^)\s#]+)", PAGES["README.md"].read_text("utf-8"))
    pages = [ROOT / target for target in targets if target.endswith(".md")]
    assert len(pages) > 10
    for page in pages:
        assert not re.search(r"^(?:`{3,}|:{3,})\{(?!toctree)|\{py:\w+\}`", page.read_text("utf-8"), re.MULTILINE), page


def test_howto_resumes_a_paused_run():
    """What the how-to on jobs does to resume a paused run sends the input to the address in the output, and never the key elsewhere."""
    page = PAGES["docs/howto/jobs.md"].read_text("utf-8")
    (resume,) = (block.code for block in blocks_of(page) if "def resume" in block.code)
    with RecallServer() as server, server.client() as client:
        names: Dict[str, Any] = {"client": client}
        run(resume, names)
        output = {"data": {"operation": "human", "_resume": {"apiUrl": f"{server.base_url}/api/resume/w/e/c"}}}
        server.respond_next(202, json={"success": True, "async": True, "jobId": "run_1", "message": "Resume execution queued"})
        server.respond_next(json={"success": True, "taskId": "run_1", "status": "completed", "output": {"approved": True}})
        resumed = names["resume"](output, {"approved": True})
        assert client.wait_for_job(resumed["jobId"])["output"] == {"approved": True}
        assert (server.requests[0].method, server.requests[0].path) == ("POST", "/api/resume/w/e/c")
        assert server.requests[0].json == {"input": {"approved": True}}
        output["data"]["_resume"] = {"apiUrl": "https://elsewhere.example.com/api/resume/w/e/c"}
        with pytest.raises(ValueError, match="the key is not sent"):
            names["resume"](output, {})


def test_howto_relay_closes_its_stream(monkeypatch: pytest.MonkeyPatch):
    """Under ASGI, the relay closes its stream as soon as the browser has left, while a thread waits for the next event."""
    page = PAGES["docs/howto/relay.md"].read_text("utf-8")
    names: Dict[str, Any] = {}
    left = threading.Event()
    with RecallServer() as server:

        @server.workflow("pause")
        def pause(input: Any) -> Iterator[str]:
            yield "One"
            left.wait(30)
            yield ", two"

        monkeypatch.setenv("RECALL_API_KEY", server.api_key)
        monkeypatch.setenv("RECALL_BASE_URL", server.base_url)
        for block in blocks_of(page):
            if "def events" in block.code or "def async_events" in block.code:
                run(block.code, names)
        stream = names["client"].stream_workflow("pause")

        async def visit() -> None:
            relayed = names["async_events"](stream)
            assert await relayed.__anext__() == 'event: text\ndata: "One"\n\n'
            reader = asyncio.ensure_future(relayed.__anext__())
            await asyncio.sleep(0.1)
            reader.cancel()  # as a server does when the browser leaves
            with pytest.raises(asyncio.CancelledError):
                await reader

        asyncio.run(visit())
        with pytest.raises(recall_sdk.StreamInterruptedError, match="closed here"):
            next(stream)
        left.set()
        names["client"].close()


def test_command_options_are_documented():
    """The reference has each option of ``python -m recall_sdk.testing`` and each demonstration workflow, and no other."""
    text = PAGES["docs/reference/testing.md"].read_text("utf-8")
    options = {option for action in __main__._parser()._actions for option in action.option_strings} - {"-h", "--help"}
    with serve("") as server:
        workflows = set(server._api.workflows)
    rows = re.findall(r"^\| `([-\w]+)", text, re.MULTILINE)
    assert set(rows) == options | workflows


# ------------------------------------------------------------------------------------------------------------ docstrings


def public_objects() -> Dict[str, Any]:
    """Objects with docstrings for users: the public names, and the public members of classes."""
    modules = ["recall_sdk", "recall_sdk.errors", "recall_sdk.sse", "recall_sdk.retry", "recall_sdk.testing", "_recall_sdk_pytest"]
    found: Dict[str, Any] = {}
    for module in map(importlib.import_module, modules):
        found[module.__name__] = module
        for name in [*getattr(module, "__all__", ()), *(["recall_server"] if module.__name__.endswith("plugin") else [])]:
            value = getattr(module, name)
            found[f"{module.__name__}.{name}"] = value
            if inspect.isclass(value):
                members = {each: member for each, member in vars(value).items() if not each.startswith("_")}
                found.update((f"{module.__name__}.{name}.{each}", member) for each, member in members.items())
    return {name: value for name, value in found.items() if docstring(value)}


def docstring(value: Any) -> str:
    """Return an object's own docstring, a fixture's too."""
    own = inspect.getdoc(getattr(value, "_fixture_function", getattr(value, "__wrapped__", value)))
    return own if own and not isinstance(value, (str, int)) else ""


@pytest.fixture
def docstring_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dict[str, Any]]:
    """The names that the examples in docstrings use."""
    with RecallServer() as server:
        add_workflows(server)

        @server.workflow("count")
        def count(input: Any) -> Iterator[str]:
            yield "One"
            yield ", two"

        monkeypatch.setenv("RECALL_API_KEY", server.api_key)
        monkeypatch.setenv("RECALL_BASE_URL", server.base_url)
        names = {name: getattr(recall_sdk, name) for name in recall_sdk.__all__}
        names.update(vars(importlib.import_module("recall_sdk.retry")))
        names.update(iter_events=importlib.import_module("recall_sdk.sse").iter_events)
        yield {**names, "RecallServer": RecallServer, "server": server, "client": server.client()}


@pytest.mark.parametrize("name", [name for name, value in public_objects().items() if ">>>" in docstring(value)])
def test_docstring_example_runs(name: str, docstring_names: Dict[str, Any]):
    """The example prints what is shown."""
    example = doctest.DocTestParser().get_doctest(docstring(public_objects()[name]), docstring_names, name, None, 0)
    report: List[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example, out=report.append)
    assert not report, "".join(report)


def literal_example(text: str) -> Optional[str]:
    """Return the block after ``Example::``."""
    found = re.search(r"^Example::\n\n((?:[ ]{4}.*\n?|\n)+)", text, re.MULTILINE)
    return textwrap.dedent(found[1]) if found else None


@pytest.mark.parametrize("name", [name for name, value in public_objects().items() if literal_example(docstring(value))])
def test_docstring_block_runs(name: str, docstring_names: Dict[str, Any], tmp_path: Path):
    """The block runs; tests run under pytest."""
    code = literal_example(docstring(public_objects()[name])) or ""
    if "def test_" in code:
        under_pytest([code], tmp_path)
    else:
        run(code, docstring_names, source=f"<{name}>")
