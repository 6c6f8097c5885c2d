"""Settings of the documentation; ``nox -s docs`` builds it."""

import re
from concurrent.futures import Executor
from importlib.metadata import metadata
from inspect import Parameter, Signature, getdoc, isfunction, signature
from typing import Any, Dict, Iterable, Iterator, List, Optional, get_type_hints

from docutils import nodes
from sphinx import addnodes
from sphinx.domains.python import PyObject
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms import SphinxTransform
from sphinx.util.inspect import DefaultValue
from sphinx_design.icons import get_octicon

import recall_sdk
from recall_sdk import BatchItem, RecallClient, RecallError, __version__
from recall_sdk.testing import RecallServer

project = "recall-sdk"
copyright = "2026, recall-sdk contributors"
version = release = __version__

urls = dict(url.split(", ", 1) for url in metadata("recall-sdk").get_all("Project-URL") or [])
repository = urls.get("Repository", "")  # pyproject.toml is the one place that has its address, if any

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_design"]
exclude_patterns = ["_static", "requirements.txt"]
root_doc = "index"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_html_meta = {"description": "The Python SDK for Recall: execute workflows, stream their output, wait for jobs and run batches."}

autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False

html_theme = "furo"
html_title = f"recall-sdk {version}"
html_favicon = "_static/favicon.svg"
html_theme_options = {
    "light_logo": "logo-light.svg",
    "dark_logo": "logo-dark.svg",
    "sidebar_hide_name": True,
    "light_css_variables": {"color-brand-primary": "#0f7a55", "color-brand-content": "#0b6b4a"},
    "dark_css_variables": {"color-brand-primary": "#4fd1a1", "color-brand-content": "#6fdcb4"},
}
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


class Shown:
    """A default that the pages show under this name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


NOT_GIVEN: Dict[Any, Any] = {
    (RecallClient.execute_workflow.__kwdefaults__ or {})["timeout"]: ("Optional[float]", Optional[float], Shown("client_timeout")),
    (RecallServer.respond_next.__kwdefaults__ or {})["json"]: ("Any", Any, Shown("nothing")),
}
"""Private defaults that stand for an argument that is not given: the type of one that is, as text and as a type, and what to show."""


def typed(name: str, overload: Signature, names: Dict[str, Any]) -> str:
    """Format a signature on one line, with types but without ``self``."""
    shown = []
    for parameter in list(overload.parameters.values())[1:]:
        annotation, default = parameter.annotation, parameter.default
        if default is not Parameter.empty:
            value = eval(default.value, names) if isinstance(default, DefaultValue) else default  # noqa: S307 -- source code of our own
            if value in NOT_GIVEN:
                annotation, _, default = NOT_GIVEN[value]
        if parameter.kind is Parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        shown.append(f"{parameter.name}: {annotation}" + ("" if default is Parameter.empty else f" = {default!r}"))
    returned = re.sub(r"\bBatchIterator\[(\w+)\]", r"Iterator[BatchItem[\1]]", str(overload.return_annotation))
    return f"{name}({', '.join(shown)}) -> {returned}"


def show_typed_signatures(_app: Any) -> None:
    """Put the typed signatures of each method of the client, one for each overload, where autodoc looks for them: before its docstring.

    The last of several overloads is for flags that are not literals. It says nothing that a reader needs.
    """
    analyzer = ModuleAnalyzer.for_module("recall_sdk.client")
    analyzer.analyze()
    for name, function in vars(RecallClient).items():
        if isfunction(function) and not name.startswith("_"):
            overloads = analyzer.overloads.get(f"RecallClient.{name}", [])[:-1] or [signature(function)]
            lines = [typed(name, overload, function.__globals__) for overload in overloads]
            lines.sort(key=lambda line: "Literal[True]" in line)  # the plain call first
            function.__doc__ = " \\\n".join(lines) + "\n\n" + (getdoc(function) or "")
    analyzer.overloads.clear()


def show_no_private_names(_app: Any) -> None:
    """Replace the private defaults and the private type of a batch, and resolve the types while it can be done."""
    for function in filter(isfunction, [*vars(RecallClient).values(), *vars(RecallServer).values(), RecallError.__init__]):
        function.__annotations__ = get_type_hints(function, localns={"Executor": Executor})
        defaults = function.__kwdefaults__ or {}
        for name in [name for name, default in defaults.items() if default in NOT_GIVEN]:
            _, function.__annotations__[name], defaults[name] = NOT_GIVEN[defaults[name]]
    RecallClient.execute_batch.__annotations__["return"] = Iterator[BatchItem[Any]]


def link_repository(_app: Any, config: Any) -> None:
    """Link the repository at the bottom of each page, if its address is known."""
    if config.repository:
        icon = {"name": "Repository", "url": config.repository, "html": get_octicon("repo", "1.4em"), "class": ""}
        config.html_theme_options["footer_icons"] = [icon]


def link_repository_on_front_page(app: Any, page: str, source: List[str]) -> None:
    """Link the repository in the install box, too."""
    if page == "index" and app.config.repository:
        source[0] = source[0].replace("a clone", f"a clone of [the repository]({app.config.repository})", 1)


def speak_to_users(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: List[str]) -> None:
    """Name types by the address that users import from, link Recall's own docs, and leave out what only the tests of an example need."""
    link = r"Compare :doc:`Recall's own docs <published>`, \1."
    lines[:] = [re.sub(r'See the reference page, (".+")\.', link, line) for line in lines if ">>> server." not in line]
    lines[:] = [re.sub(r"\brecall_sdk\.\w+\.", "~recall_sdk.", line) if line.startswith(":vartype") else line for line in lines]


def returns_before_raises(_app: Any, _domain: str, _kind: str, content: nodes.Element) -> None:
    """Order the fields of a description: arguments, what is returned, what is raised."""
    for fields in content.findall(nodes.field_list):
        fields[:] = sorted(fields, key=lambda field: field[0].astext().split()[0] == "raises")


def public_names() -> Iterable[str]:
    """Return the names that a page may mention, each with its module."""
    yield from (f"recall_sdk.{name}" for name in recall_sdk.__all__)
    methods = {name for name, value in vars(RecallClient).items() if isfunction(value) and not name.startswith("_")} - {"close"}
    yield from (f"recall_sdk.RecallClient.{name}" for name in methods)
    yield from ("recall_sdk.testing.RecallServer", "recall_sdk.sse.iter_events", "recall_sdk.retry.Backoff")


TARGETS = {target.rsplit(".", 1)[1]: target for target in public_names()}


class LinkNames(SphinxTransform):
    """Link each public name in code type to its reference, so that the pages can be plain Markdown."""

    default_priority = 5

    def apply(self, **_: Any) -> None:
        """Replace the names by references, except in titles and links."""
        for literal in list(self.document.findall(nodes.literal)):
            name = re.fullmatch(r"(?:client\.)?(\w+)(?:\(.*\))?", literal.astext())
            inside = (nodes.title, nodes.reference, addnodes.pending_xref)
            if name and name[1] in TARGETS and not isinstance(literal.parent, inside):
                options = {"refdomain": "py", "reftype": "obj", "reftarget": TARGETS[name[1]], "refdoc": self.env.docname}
                reference = addnodes.pending_xref("", literal.deepcopy(), refexplicit=True, refwarn=True, **options)
                literal.replace_self(reference)


def setup(app: Any) -> None:
    """Adjust what the settings above can't."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # Sphinx says "Variables"
    app.connect("builder-inited", show_typed_signatures)
    app.connect("builder-inited", show_no_private_names)
    app.add_config_value("repository", "", "env")
    app.connect("config-inited", link_repository)
    app.connect("source-read", link_repository_on_front_page)
    app.connect("autodoc-process-docstring", speak_to_users, priority=600)  # after Napoleon
    app.connect("object-description-transform", returns_before_raises, priority=600)  # after autodoc
    app.add_transform(LinkNames)
