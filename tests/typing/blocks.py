"""Type-check the Python blocks of the README and the documentation: what is printed there is what a user may write.

Run it with ``python tests/typing/blocks.py``; its arguments go to mypy.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def module_of(page: Path) -> str:
    """Join the blocks of a page in their order, each line where it stands on the page."""
    text = page.read_text("utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        code = block[1].splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines) + "\n"


def main() -> int:
    """Check every page, each as a module of its own."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    with tempfile.TemporaryDirectory() as folder:
        for page in pages:
            name = page.relative_to(ROOT).with_suffix("").as_posix().replace("/", "_").replace("-", "_")
            (Path(folder) / f"{name}.py").write_text(module_of(page), "utf-8")
        # A test server and a page's variables are typed; frameworks that are not installed here are not, and output is Optional[Any].
        lenient = ("--allow-redefinition", "--ignore-missing-imports", "--allow-untyped-decorators", "--allow-subclassing-any")
        options = ("--strict", *lenient, "--python-version", "3.9", "--disable-error-code", "index")
        return subprocess.run([sys.executable, "-m", "mypy", *options, *sys.argv[1:], folder], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
