"""Run the code blocks of pages."""

import ast
import contextlib
import io
from typing import Any, Dict, Optional


def run(code: str, names: Dict[str, Any], *, source: str = "<block>", line: int = 1, printed: Optional[io.StringIO] = None) -> str:
    """Run a block with these names, and return what it prints.

    Args:
        code: The block.
        names: The names that it finds and leaves behind.
        source: The file that it stands in, for tracebacks.
        line: Its first line there.
        printed: Where it prints to, for blocks that share it.
    """
    tree = ast.parse(code, source)
    ast.increment_lineno(tree, line - 1)
    printed = io.StringIO() if printed is None else printed
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, source, "exec"), names)
    return printed.getvalue()
