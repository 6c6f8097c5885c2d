"""The package as a whole: its public names, its version, its layout."""

import ast
import inspect
import re
from concurrent.futures import Executor
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Dict, Iterator, Set, get_type_hints

import pytest

import recall_sdk

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "recall_sdk"

TOP_LEVEL = {"LICENSE", "README.md", "docs", "examples", "noxfile.py", "pyproject.toml", "src", "tests"}
MADE_BY_TOOLS = {"PKG-INFO", "__pycache__", "build", "dist", "htmlcov"}

PUBLIC = {
    # the client
    "RecallClient",
    "WorkflowStream",
    "__version__",
    # the models
    "AsyncExecutionResult",
    "BatchItem",
    "RateLimitInfo",
    "StreamEvent",
    "StreamedExecutionResult",
    "UsageLimits",
    "WorkflowExecutionResult",
    "WorkflowStatus",
    # the errors
    "AuthenticationError",
    "ExecutionError",
    "InvalidRequestError",
    "InvalidResponseError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "RecallConnectionError",
    "RecallError",
    "RecallTimeoutError",
    "RedirectError",
    "ServerError",
    "StreamInterruptedError",
    "UsageLimitError",
}

LADDER = (
    "_version",
    "errors",
    "models",
    "sse",
    "_arguments",
    "retry",
    "_limiter",
    "_requests",
    "_translation",
    "_codings",
    "_connections",
    "_response",
    "_bodies",
    "_rate_limits",
    "_statuses",
    "_decoding",
    "_executors",
    "_transport",
    "streaming",
    "_jobs",
    "_batch",
    "client",
    "__init__",
    "testing._bucket",
    "testing._runs",
    "testing._http",
    "testing._dialects",
    "testing._recording",
    "testing._scripts",
    "testing._api",
    "testing.server",
    "testing._workflows",
    "testing.__init__",
    "testing.demo",
    "testing.__main__",
)
"""The modules from the bottom up: each imports only from those before it."""


MODULES: Dict[str, ast.Module] = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts): ast.parse(path.read_text("utf-8")) for path in sorted(SOURCE.rglob("*.py"))
}


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Return each import as a dotted name; ``from a import b`` as ``a.b``, which may be a module; not those for type checkers."""
    annotations = [node for node in ast.walk(tree) if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"]
    for node in set(ast.walk(tree)).difference(*map(ast.walk, annotations)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_module(name: str) -> str:
    """Find which module of ours a dotted name ``recall_sdk...`` means, or is defined in."""
    parts = name.split(".")[1:]
    candidates = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    for candidate in candidates:
        for module in (candidate, f"{candidate}.__init__"):
            if module in MODULES:
                return module
    return "__init__"


def test_package_exports_documented_names():
    """``__all__`` is the documented list, and nothing else is public but the modules."""
    public = {name for name in dir(recall_sdk) if not name.startswith("_") and not isinstance(getattr(recall_sdk, name), ModuleType)}
    assert list(recall_sdk.__all__) == sorted(PUBLIC)
    assert public == PUBLIC - {"__version__"}


def test_version_is_installed_version():
    """The version in the code is the version in the metadata."""
    assert recall_sdk.__version__ == version("recall-sdk")


def test_top_level_of_repository():
    """The top level has exactly the designed files and folders."""
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - MADE_BY_TOOLS == TOP_LEVEL


def test_every_module_has_a_level():
    """The list of levels has each module once."""
    assert sorted(LADDER) == sorted(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_lower_levels(module: str):
    """A module imports only from lower ones."""
    below = LADDER[: LADDER.index(module)]
    needed = {own_module(name) for name in imported_names(MODULES[module]) if name.split(".")[0] == "recall_sdk"}
    assert needed <= set(below)


@pytest.mark.parametrize("library", ["requests", "urllib3"])
def test_only_transport_modules_import_requests(library: str):
    """Only the transport modules import an HTTP library (the test server is not part of the client)."""
    users = {module for module, tree in MODULES.items() if library in {name.split(".")[0] for name in imported_names(tree)}}
    assert {module for module in users if not module.startswith("testing.")} <= {
        "_connections",
        "_response",
        "_transport",
        "_translation",
        "_codings",
        "client",
    }


FOREIGN_PRIVATE_NAMES = {
    "_original_response": "the answer of http.client, whose read1() is prompt; requests itself looks there for cookies",
    "_new_conn": "where urllib3 connects; its own SOCKS connection overrides it",
}


def own_private_names() -> Set[str]:
    """Return the names with a leading underscore that the package itself binds: functions, classes, attributes, fields."""
    names: Set[str] = set()
    for tree in MODULES.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {name for name in names if name.startswith("_")} - set(FOREIGN_PRIVATE_NAMES)


def test_only_two_foreign_private_names():
    """The client uses no private names of other libraries but those with a reason, whether as attributes or in ``getattr``."""
    used: Set[str] = set()
    for module, tree in MODULES.items():
        if not module.startswith("testing."):
            used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            used |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
            used |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    private = {name for name in used if re.fullmatch(r"_[a-z]\w*", name)}
    assert private - own_private_names() - {"_replace"} == set(FOREIGN_PRIVATE_NAMES)  # a NamedTuple's own method, and public


def test_no_foreign_object_is_modified():
    """No class is reassigned, no ``__dict__`` is written, and there are no fork hooks."""
    for tree in MODULES.values():
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        stored = {node.attr for node in attributes if isinstance(node.ctx, ast.Store) and node.attr.startswith("__")}
        assert stored <= {"__cause__", "__context__"}
        assert {"__dict__", "register_at_fork"}.isdisjoint(node.attr for node in attributes)


def test_no_module_level_registry():
    """No module has a mutable collection or a lock; the bounded cache of connections in worker processes is a function's."""
    kept = [
        f"{module}.{node.target.id}"
        for module, tree in MODULES.items()
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id.startswith("_")
        if isinstance(node.value, (ast.Dict, ast.List, ast.Set, ast.Call)) and not getattr(node.value, "keys", None)
    ]
    assert [name for name in kept if not name.startswith("testing.")] == []


@pytest.mark.parametrize("module", MODULES)
def test_no_import_inside_function(module: str):
    """All imports are at the top of their modules."""
    functions = [node for node in ast.walk(MODULES[module]) if isinstance(node, ast.FunctionDef)]
    hidden = [name for function in functions for name in imported_names(function)]
    assert hidden == []


def public_callables() -> Dict[str, Any]:
    """What users call: the public names and, of the classes, their public methods and properties."""
    modules = ("recall_sdk", "recall_sdk.sse", "recall_sdk.retry", "recall_sdk.testing")
    found: Dict[str, Any] = {}
    for module in map(import_module, modules):
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                found[f"{module.__name__}.{name}"] = value
            if inspect.isclass(value):
                fields = getattr(value, "_fields", ())  # of a NamedTuple, which PyPy makes properties
                members = {each: member for each, member in vars(value).items() if not each.startswith("_") and each not in fields}
                documented = (property, FunctionType)
                found.update((f"{module.__name__}.{name}.{each}", one) for each, one in members.items() if isinstance(one, documented))
    return found


@pytest.mark.parametrize("name", public_callables())
def test_docstrings_are_complete(name: str):
    """A public docstring names each argument, says what is returned, and shows an example."""
    value = public_callables()[name]
    text = inspect.getdoc(value) or ""
    assert "Example:" in text
    if inspect.isfunction(value):
        arguments = [each for each in inspect.signature(value).parameters if each != "self"]
        assert [each for each in arguments if not re.search(rf"^    \*{{0,2}}{each}: ", text, re.MULTILINE)] == []
        returned = get_type_hints(value, localns={"Executor": Executor}).get("return")
        assert ("Returns:" in text) == (returned is not type(None))


def test_every_test_states_its_promise():
    """Each test has a docstring: one sentence that says what is promised."""
    silent = [
        f"{path.name}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []
