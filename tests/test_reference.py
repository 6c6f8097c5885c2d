"""The published documentation of the SDK (``data/python-sdk.txt``): each of its code blocks runs as it is printed there."""

import ast
import dataclasses
import inspect
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

import recall_sdk
from blocks import run
from recall_sdk import RecallClient, RecallError
from recall_sdk.testing import RecallServer

PAGE = (Path(__file__).parent / "data" / "python-sdk.txt").read_text("utf-8")
LINES = PAGE.split("\n")

KEY = "your-api-key-here"

BLOCKS = {
    "install": (11, 11),
    "quick start": (17, 30),
    "constructor": (38, 38),
    "execute_workflow": (51, 55),
    "get_workflow_status": (74, 75),
    "validate_workflow": (87, 90),
    "get_job_status": (102, 105),
    "execute_with_retry": (126, 134),
    "get_rate_limit_info": (157, 161),
    "get_usage_limits": (169, 173),
    "usage structure": (179, 201),
    "set_api_key": (206, 206),
    "set_base_url": (211, 211),
    "close": (216, 216),
    "WorkflowExecutionResult": (222, 230),
    "AsyncExecutionResult": (234, 240),
    "WorkflowStatus": (244, 248),
    "RateLimitInfo": (252, 257),
    "UsageLimits": (261, 265),
    "RecallError": (269, 273),
    "basic example": (295, 325),
    "errors example": (331, 354),
    "context manager example": (360, 367),
    "batch example": (373, 414),
    "async example": (420, 458),
    "retry example": (464, 493),
    "usage example": (499, 535),
    "streaming example": (541, 561),
    "event stream": (565, 571),
    "flask example": (575, 626),
    "development settings": (632, 639),
    "production settings": (640, 651),
}
"""First and last line of each block."""

USED = set()


def block(name: str) -> str:
    """Return a block as it is printed."""
    first, last = BLOCKS[name]
    return "\n".join(LINES[first - 1 : last])


@pytest.fixture(params=["documented", "observed"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecallServer]:
    """A server on which the page's calls succeed, in either dialect; the environment points at it."""
    with RecallServer(api_key=KEY, dialect=request.param, rate_limit=100) as server:

        def receive(input: Any) -> Any:
            return {"content": f"received {input}"}

        for workflow_id in ("workflow-id", "my-workflow-id", "workflow-1", "workflow-2", "WORKFLOW_ID"):
            server.workflow(workflow_id)(receive)
        monkeypatch.setenv("RECALL_API_KEY", KEY)
        monkeypatch.setenv("RECALL_BASE_URL", server.base_url)
        yield server


@pytest.fixture
def names(server: RecallServer) -> Iterator[Dict[str, Any]]:
    """What the blocks of the methods take for granted."""
    with server.client() as client:
        yield {"client": client, "datetime": datetime}


def show(name: str, server: RecallServer, names: Optional[Dict[str, Any]] = None) -> str:
    """Run a block as printed, but for the server's address."""
    names = {"__name__": "page"} if names is None else names
    printed = run(block(name).replace("{{APP_URL}}", server.base_url), names, source="python-sdk.txt", line=BLOCKS[name][0])
    if isinstance(names.get("client"), RecallClient):
        names["client"].close()
    return printed


def received(server: RecallServer) -> List[Any]:
    """Return the bodies of the executions that the server received."""
    return [request.json for request in server.requests if request.path.endswith("/execute")]


def test_every_code_line_is_in_a_block():
    """Every line of the page that looks like code belongs to one of the blocks."""
    inside = {number for first, last in BLOCKS.values() for number in range(first, last + 1)}
    code = re.compile(r"(import|from|class|def|@|if|for|try:|except|print|pip|data:|client|result|[a-z_]+ = |[a-z_]+\(\)$)|[{}()\]]+$| {4}")
    prose = re.compile(r"[a-z_]+\(\)$")  # the headings of the methods
    outside = [
        (number, line)
        for number, line in enumerate(LINES, 1)
        if code.match(line) and number not in inside and not (prose.match(line) and hasattr(RecallClient, line[:-2]))
    ]
    assert outside == []


def test_quick_start(server: RecallServer):
    """The quick start executes a workflow and prints its result."""
    assert show("quick start", server).startswith("Workflow executed successfully: WorkflowExecutionResult(success=True, output={'content'")
    assert received(server) == [{}]


def test_constructor():
    """The client takes the documented arguments by name and by place, in this order."""
    signature = ast.parse("def " + block("constructor") + ": ...").body[0]
    assert isinstance(signature, ast.FunctionDef)
    documented = [argument.arg for argument in signature.args.args]
    parameters = list(inspect.signature(RecallClient).parameters.values())
    assert [parameter.name for parameter in parameters[:2]] == documented
    assert all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters[:2])


def test_install_command():
    """The distribution has the name that the page installs."""
    assert block("install") == "pip install recall-sdk"


def test_execute_workflow(server: RecallServer, names: Dict[str, Any]):
    """A dict is the body of the request."""
    show("execute_workflow", server, names)
    assert names["result"].success
    assert received(server) == [{"message": "Hello, world!"}]


def test_get_workflow_status(server: RecallServer, names: Dict[str, Any]):
    """A deployed workflow is deployed."""
    assert show("get_workflow_status", server, names) == "Is deployed: True\n"


def test_validate_workflow(server: RecallServer, names: Dict[str, Any]):
    """A deployed workflow is ready."""
    show("validate_workflow", server, names)
    assert names["is_ready"] is True


@pytest.mark.parametrize(
    ("sent", "printed"),
    [
        ({"status": "queued"}, "Status: queued\n"),
        ({"status": "completed", "output": {"content": "done"}}, "Status: completed\nOutput: {'content': 'done'}\n"),
        ({"status": "failed", "error": "no luck"}, "Status: failed\n"),
    ],
)
def test_get_job_status(sent: Any, printed: str, server: RecallServer, names: Dict[str, Any]):
    """A job's state is shown, and its output once there is one."""
    task_id = "task-id-from-async-execution"
    server.respond_next(json={"success": True, "taskId": task_id, **sent}, path=f"/api/jobs/{task_id}")
    assert show("get_job_status", server, names) == printed
    assert {"startedAt", "completedAt", "duration"} <= names["status"]["metadata"].keys()


def test_execute_with_retry(server: RecallServer, names: Dict[str, Any]):
    """A refused call is sent again, after the time that the server orders."""
    server.respond_next(429, headers={"Retry-After": "0"}, json={"error": "slow down"}, times=2)
    show("execute_with_retry", server, names)
    assert names["result"].success
    assert received(server) == [{"message": "Hello"}] * 3


def test_get_rate_limit_info(server: RecallServer, names: Dict[str, Any]):
    """What the last response reported about the rate limit is shown, with its reset as a time."""
    assert show("get_rate_limit_info", server, names) == ""
    server.respond_next(headers={"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "59", "X-RateLimit-Reset": "1790000000"}, json={})
    names["client"].execute_workflow("workflow-id")
    reset = datetime.fromtimestamp(1790000000)  # noqa: DTZ006 -- as the page does it
    assert show("get_rate_limit_info", server, names) == f"Limit: 60\nRemaining: 59\nReset: {reset}\n"


def test_get_usage_limits(server: RecallServer, names: Dict[str, Any]):
    """Limits, spending and plan are shown."""
    printed = show("get_usage_limits", server, names)
    assert printed == "Sync requests remaining: 100\nAsync requests remaining: 100\nCurrent period cost: 0.0\nPlan: free\n"


def test_usage_limits_structure(server: RecallServer):
    """The response has each documented field, of the documented type."""
    with server.client() as client:
        limits = client.get_usage_limits()
    structure = eval(block("usage structure"))

    def check(value: Any, wanted: Any) -> None:
        if isinstance(wanted, dict):
            for name, inner in wanted.items():
                check(value[name], inner)
        else:
            assert isinstance(value, wanted)

    check({"success": limits.success, "rateLimit": limits.rate_limit, "usage": limits.usage}, structure)


def test_setters(server: RecallServer, names: Dict[str, Any]):
    """A new key and a new address are taken over at once, and the client can be closed."""
    for name in ("set_api_key", "set_base_url", "close"):
        show(name, server, names)
    client = names["client"]
    assert (client.api_key, client.base_url) == ("new-api-key", "https://my-custom-domain.com")


@pytest.mark.parametrize("name", ["WorkflowExecutionResult", "AsyncExecutionResult", "WorkflowStatus", "RateLimitInfo", "UsageLimits"])
def test_data_classes(name: str):
    """Each data class has exactly the documented fields, in this order, with these types and defaults."""
    names: Dict[str, Any] = {}
    run("from dataclasses import dataclass\nfrom typing import *\n" + block(name), names)
    documented, ours = (
        [(field.name, field.type, field.default) for field in dataclasses.fields(kind)] for kind in (names[name], getattr(recall_sdk, name))
    )
    assert ours == documented


def test_recall_error_class():
    """The error is made from the documented arguments, and has the documented attributes."""
    names: Dict[str, Any] = {}
    run("from typing import *\n" + block("RecallError"), names)
    documented = names["RecallError"]
    ours, theirs = (list(inspect.signature(kind).parameters.values()) for kind in (RecallError, documented))
    assert [(each.name, each.kind, each.default) for each in ours] == [(each.name, each.kind, each.default) for each in theirs]
    assert vars(documented("no", "TIMEOUT", 408)).items() <= vars(RecallError("no", "TIMEOUT", 408)).items()
    assert str(RecallError("no")) == str(documented("no")) == "no"


def test_error_codes():
    """Each code that the page names is one that the library uses."""
    codes = re.findall(r"^  • ([A-Z_]+): ", PAGE, re.MULTILINE)
    documented_by_us = " ".join(filter(None, (getattr(recall_sdk, name).__doc__ for name in recall_sdk.__all__)))
    assert len(codes) == 5
    assert all(code in documented_by_us for code in codes)


def test_basic_example(server: RecallServer):
    """The workflow is validated, executed, and its output and duration are shown."""
    printed = show("basic example", server)
    assert re.fullmatch(r"Output: \{'content': .*'Process this data'.*\}\nDuration: [\d.]+\n", printed)
    assert received(server) == [{"message": "Process this data", "user_id": "12345"}]


def test_basic_example_not_deployed(server: RecallServer):
    """What is not deployed is not executed."""
    server.workflow("my-workflow-id", deployed=False)(len)
    assert show("basic example", server) == "Error: Workflow is not deployed or ready\n"
    assert received(server) == []


def test_errors_example(server: RecallServer):
    """Without an error, the example gives the result."""
    names: Dict[str, Any] = {}
    show("errors example", server, names)
    assert names["execute_with_error_handling"]().success


@pytest.mark.parametrize(
    ("status", "body", "printed"),
    [
        (401, {"error": "Invalid API key"}, "Invalid API key\n"),
        (408, {"error": "Execution timed out"}, "Workflow execution timed out\n"),
        (402, {"error": "over"}, "Usage limit exceeded\n"),
        (429, {"error": "over", "code": "USAGE_LIMIT_EXCEEDED"}, "Usage limit exceeded\n"),
        (400, {"error": "no JSON", "code": "INVALID_JSON"}, "Invalid JSON in request body\n"),
        (500, {"error": "it broke"}, "Workflow error: the workflow failed: it broke (HTTP 500)\n"),
    ],
)
def test_errors_example_branches(status: int, body: Any, printed: str, server: RecallServer):
    """Each documented code reaches its branch, and the error goes on to the caller."""
    names: Dict[str, Any] = {}
    show("errors example", server, names)
    server.respond_next(status, json=body)
    shown = run("try:\n    execute_with_error_handling()\nexcept RecallError as error:\n    caught = error", names)
    assert shown == printed
    assert isinstance(names["caught"], RecallError)
    names["client"].close()


def test_context_manager_example(server: RecallServer):
    """The client is closed at the end of ``with``."""
    assert show("context manager example", server).startswith("Result: WorkflowExecutionResult(success=True")


def test_batch_example(server: RecallServer):
    """Each workflow is validated and executed."""
    assert show("batch example", server) == "Workflow workflow-1: Success\nWorkflow workflow-2: Success\n"
    assert received(server) == [{"type": "analysis", "data": "sample1"}, {"type": "processing", "data": "sample2"}]


def test_async_example(server: RecallServer):
    """The run is queued, asked for, and its output and duration are shown."""
    printed = show("async example", server).splitlines()
    assert re.fullmatch(r"Task ID: [\w:-]+", printed[0])
    assert printed[1].startswith("Status endpoint: ")
    assert printed[-3:-1] == ["Workflow completed!", "Output: {'content': \"received {'data': 'large dataset'}\"}"]
    assert re.fullmatch(r"Duration: ([\d.]+|None)", printed[-1])


def test_async_example_failed_run(server: RecallServer):
    """A failed run is reported as such, with its reason."""

    @server.workflow("workflow-id")
    def fail(input: Any) -> Any:
        raise RuntimeError("no luck")

    assert show("async example", server).endswith("Workflow failed: no luck\n")


def test_retry_example(server: RecallServer):
    """The call that is rejected twice succeeds at the third try."""
    server.respond_next(429, headers={"Retry-After": "0"}, json={"error": "slow down"}, times=2)
    assert show("retry example", server).startswith("Success: WorkflowExecutionResult(success=True")
    assert len(received(server)) == 3


def test_retry_example_out_of_retries(server: RecallServer):
    """After five retries, the example tells when the limit starts anew."""
    server.respond_next(429, headers={"Retry-After": "0"}, json={"error": "slow down"}, times=6)
    printed = show("retry example", server)
    assert re.fullmatch(r"Rate limit exceeded after all retries\nRate limit resets at: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n", printed)
    assert len(received(server)) == 6


def test_usage_example(server: RecallServer):
    """Limits and spending are shown."""
    printed = show("usage example", server).splitlines()
    assert printed[2:4] == ["  Limit: 100", "  Remaining: 100"]
    assert printed[-4:] == ["Current period cost: $0.00", "Limit: $100.00", "Plan: free", "Usage: 0.0%"]


def test_usage_example_near_limit(server: RecallServer):
    """Over 80 percent, it warns."""
    sync = {"isLimited": False, "limit": 10, "remaining": 9, "resetAt": "2026-11-24T00:00:00Z"}
    usage = {"currentPeriodCost": 8.5, "limit": 10.0, "plan": "pro"}
    server.respond_next(json={"success": True, "rateLimit": {"sync": sync, "async": sync, "authType": "api"}, "usage": usage})
    printed = show("usage example", server).splitlines()
    assert printed[-2] == "Usage: 85.0%"
    assert "Warning: You are approaching your usage limit!" in printed[-1]


def test_streaming_example(server: RecallServer):
    """The stream is read to its end; the result holds its text."""

    @server.workflow("workflow-id")
    def count(input: Any) -> Iterator[str]:
        yield "One"
        yield ", two"

    printed = show("streaming example", server)
    assert printed.startswith("Workflow result: StreamedExecutionResult(success=True, output={'content': 'One, two'}")
    assert "text='One, two'" in printed
    assert received(server) == [{"message": "Count to five", "stream": True, "selectedOutputs": ["agent1.content"]}]


def test_event_stream(server: RecallServer):
    """The stream that the page shows is read as it says."""
    server.respond_next(headers={"Content-Type": "text/event-stream"}, body=block("event stream") + "\n\n")
    with server.client() as client, client.stream_workflow("workflow-id") as stream:
        assert list(stream.text()) == ["One", ", two"]
        assert stream.result.text_by_block == {"7b7735b9-19e5-4bd6-818b-46aae2596e9f": "One, two"}
        assert stream.result.metadata == {"duration": 610}


@pytest.mark.parametrize("server", ["documented"], indirect=True)
def test_flask_example(server: RecallServer):
    """The relay of the page uses no SDK, and so knows the documented dialect alone."""

    @server.workflow("WORKFLOW_ID")
    def tell(input: Any) -> Iterator[str]:
        yield "Once"
        yield " upon"

    names: Dict[str, Any] = {"__name__": "page"}
    show("flask example", server, names)
    response = names["app"].test_client().get("/stream-workflow")
    assert response.mimetype == "text/event-stream"
    events = response.get_data(as_text=True).split("\n\n")
    assert ['"chunk": "Once"' in events[0], '"chunk": " upon"' in events[1]] == [True, True]
    assert received(server) == [{"message": "Generate a story", "stream": True, "selectedOutputs": ["agent1.content"]}]


def test_development_settings(server: RecallServer):
    """Key and address come from the environment. The page lacks a comma here."""
    as_printed = block("development settings")
    with_comma = as_printed.replace('os.getenv("RECALL_API_KEY")\n', 'os.getenv("RECALL_API_KEY"),\n')
    assert with_comma != as_printed
    names: Dict[str, Any] = {}
    run(with_comma, names)
    assert (names["client"].api_key, names["client"].base_url) == (KEY, server.base_url)


def test_production_settings(server: RecallServer, monkeypatch: pytest.MonkeyPatch):
    """Key and address come from the environment; a missing key is reported."""
    names: Dict[str, Any] = {}
    show("production settings", server, names)
    assert (names["client"].api_key, names["client"].base_url) == (KEY, server.base_url)
    monkeypatch.delenv("RECALL_API_KEY")
    with pytest.raises(ValueError, match="RECALL_API_KEY environment variable is required"):
        show("production settings", server)


def test_every_block_has_a_test():
    """Each block of the table is used by a test."""
    text = Path(__file__).read_text("utf-8")
    assert [name for name in BLOCKS if text.count(f'"{name}"') < 2] == []
