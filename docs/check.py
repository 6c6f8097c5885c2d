"""Check what only the built pages show: ``python docs/check.py FOLDER [REPOSITORY]``, as ``nox -s docs`` does.

``REPOSITORY`` is the address that the pages should link, if any.
"""

import re
import sys
from html import unescape
from pathlib import Path
from typing import Dict, Iterator, Tuple

SHOWN = [
    ("index", "a description for search engines", r'<meta content="[^"]{40,}" name="description"'),
    ("index", "a favicon", r'<link rel="[\w ]*icon" href="_static/favicon\.svg"'),
    ("index", "an install box", r'<div class="[\w ]*\binstall admonition">'),
    ("index", "six cards with icons", r'(?s)(<div class="sd-card .*?class="sd-octicon .*){6}'),
    ("performance", "two charts that shrink on a phone", r'(?s)<div class="diagram [^>]*>\s*<svg.*?</svg>\s*<svg'),
    (
        "reference/errors",
        "a table of four columns, which stack on a phone",
        r'<div class="table-wrapper [^>]*>\s*<table.*\s*<thead>\s*.*(<th .*\s*){4}</tr>',
    ),
    ("reference/client", "a link to the page about Recall's own docs", r'Compare <a [^>]*href="published\.html"'),
    ("reference/client", "a link to the class of each error", r'<a [^>]*href="exceptions\.html#recall_sdk\.RateLimitError"[^>]*><strong>'),
]
"""A page, what it shows, and a pattern for that."""

FROM_SOURCE = r"=\s*\.\.\.|Ellipsis|ClientTimeout|BatchIterator|server\.respond_next|See the reference page"
"""What the source code and its tests have, and the reference of the client should not show."""

SUMMARIZED = [("client", "RecallClient"), ("client", "WorkflowStream"), ("testing", "testing.RecallServer")]
"""Pages of the reference, and their classes with a table of methods."""

RESULTS = {
    "execute_workflow": ["WorkflowExecutionResult", "StreamedExecutionResult", "AsyncExecutionResult"],
    "execute_with_retry": ["WorkflowExecutionResult", "StreamedExecutionResult", "AsyncExecutionResult"],
    "execute_batch": ["WorkflowExecutionResult", "AsyncExecutionResult"],
    "stream_workflow": ["WorkflowStream"],
    "get_usage_limits": ["UsageLimits"],
}
"""The result in each signature of a method."""


def text_of(page: str) -> str:
    """Return what a reader sees of a page."""
    return unescape(re.sub(r"<[^>]+>", "", page))


def reference(pages: Dict[str, str]) -> Iterator[Tuple[str, bool]]:
    """Yield what the reference promises, and whether it is so."""
    for page, name in SUMMARIZED:
        summary, _, members = pages[f"reference/{page}"].partition(f'<dt class="sig sig-object py" id="recall_sdk.{name}">')
        target = re.escape(f"recall_sdk.{name}.") + r'(\w+)"'
        listed, described = (
            set(re.findall(found + target, part)) for found, part in [('<td><p><a .*href="#', summary), ('<dt .*id="', members)]
        )
        yield f"a table above {name} has each of its methods", listed == described != set()
    client = pages["reference/client"]
    for method, results in RESULTS.items():
        signatures = re.findall(rf'<dt class="sig.*\s*<span class="sig-name descname"><span class="pre">{method}<.*</dt>', client)
        linked = [re.findall(r'title="recall_sdk\.(\w+)"', signature)[-1:] for signature in signatures]
        yield f"{method} has a signature for each result, which is linked", linked == [[result] for result in results]
    yield f"the reference of the client has none of {FROM_SOURCE}", re.search(FROM_SOURCE, text_of(client)) is None
    fields = [re.findall(r'<dt class="field-\w+">(\w+)', each) for each in re.findall(r'(?s)<dl class="field-list.*?</dl>', client)]
    both = [labels for labels in fields if {"Returns", "Raises"} <= set(labels)]
    yield "what is returned stands before what is raised", len(both) > 5 and all(labels[-1] == "Raises" for labels in both)


def claims(pages: Dict[str, str], style: str, repository: str) -> Iterator[Tuple[str, bool]]:
    """Yield each thing that the pages promise, and whether it is so."""
    for page, what, pattern in SHOWN:
        yield f"{page} has {what}", re.search(pattern, pages[page]) is not None
    yield from reference(pages)
    links = re.findall(r'<a [^>]*href="(https?://[^"]*)"[^>]*>(?:the repository|<svg)', pages["index"])
    yield (
        "the install box and the end of the front page link the repository, if it has an address",
        links == [repository] * bool(repository) * 2,
    )
    heads = text_of("".join(re.findall(r"(?s)<th[ >].*?</th>", "".join(pages.values()))))
    yield "no table says what must be", "class" in heads and "must be" not in heads
    styled = set(re.findall(r"\.([a-z][\w-]*)", "".join(re.findall(r"^(.*)\{", style, re.MULTILINE))))
    used = {name for page in pages.values() for names in re.findall(r'class="([^"]*)"', page) for name in names.split()}
    yield f"each class with a style is used: {styled - used}", styled != set() and styled <= used


def main(folder: Path, repository: str = "") -> str:
    """Return what does not hold."""
    pages = {path.relative_to(folder).with_suffix("").as_posix(): path.read_text("utf-8") for path in folder.rglob("*.html")}
    style = (folder / "_static" / "custom.css").read_text("utf-8")
    return "\n".join(f"not so: {claim}" for claim, holds in claims(pages, style, repository) if not holds)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]) or None)
