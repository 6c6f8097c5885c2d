"""Row 5: the cost of the import, each time in a fresh interpreter."""

import os
import subprocess
import sys
from typing import Dict, List, Tuple

from .measure import Bar, Measured, Row, ratio, spread
from .peers import openai

ROUNDS = 15
PEER_ROUNDS = 3  # openai takes its time
LIMIT = 1.2
CODE = """
import time
started = time.perf_counter()
{first}
between = time.perf_counter()
{then}
print(between - started, time.perf_counter() - between)
"""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as pip leaves it: with byte code
OURS = "from recall_sdk import RecallClient"


def timed(first: str, then: str) -> Tuple[float, float]:
    """Return the milliseconds for two statements in a fresh interpreter."""
    code = CODE.format(first=first, then=then)
    output = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True, env=ENVIRONMENT).stdout
    one, two = output.split()
    return float(one) * 1000, float(two) * 1000


def measure(_base_url: str) -> Row:
    """Measure the import of requests, of this library after requests, and of openai."""
    row = Row("import", "Import, in fresh interpreters")
    statements = [OURS] + (["import openai"] if openai is not None else [])
    found: Dict[str, List[float]] = {statement: [] for statement in ["import requests", *statements]}
    for number in range(ROUNDS + 1):
        for statement in statements if number <= PEER_ROUNDS else [OURS]:
            requests_alone, above = timed("import requests", statement)
            if number:  # the first round writes the byte code
                found["import requests"].append(requests_alone)
                found[statement].append(above)
    for statement, values in found.items():
        case = "from nothing" if statement == "import requests" else "above `import requests`"
        row.measured.append(Measured(case, statement, "ms", wall=spread(values)))
    if openai is None:
        row.measured.append(Measured("above `import requests`", "import openai", "ms", note="not installed"))
    alone = found["import requests"]
    row.bars.append(
        Bar(f"`{OURS}` against `import requests`", ratio([one + more for one, more in zip(alone, found[OURS])], alone), LIMIT, unit="x")
    )
    return row
