"""Run the soak: ``python -m tests.soak [--seconds N] [--seed S] [--threads N] [--skip KIND]``."""

import argparse
import os
import re
import subprocess
import sys
import tempfile

from .faults import KINDS
from .run import soak

OUT_OF_STACK = r"Exception ignored in.*\n(?:Traceback .*\n(?: .*\n)+)?RecursionError: .*\n"
"""What Python prints if it collects garbage while it parses a body that is nested too deeply: there is no stack left for a finalizer."""


def main() -> int:
    """Run the soak in a process of its own, whose standard error stays empty, and return 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Use one client in many threads against a hostile server.")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="N", help="how long (default: %(default)g)")
    parser.add_argument("--seed", default="1", metavar="S", help="what chance starts from (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=16, metavar="N", help="threads that share the client (default: %(default)s)")
    parser.add_argument("--skip", action="append", default=[], choices=sorted(KINDS), metavar="KIND", help="leave out a kind of response")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return soak(options.seconds, options.seed, options.threads, options.skip)

    # The second filter is for Python 3.12 and later, which warn of each fork of a process with threads.
    strict = ["-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        command = [sys.executable, *strict, "-m", "tests.soak", "--inside"]
        status = subprocess.run([*command, *sys.argv[1:]], check=False, stderr=errors).returncode
        errors.seek(0)
        noise = re.sub(OUT_OF_STACK, "", errors.read())
    if noise:
        print(f"VIOLATION: standard error is not empty:\n{noise[:20_000]}")
    if status not in (0, 1):
        print(f"VIOLATION: the process ended with status {status}")
    print("soak:", "failed" if status or noise else "passed", flush=True)
    return 1 if status or noise else 0


if __name__ == "__main__":
    os.environ.pop("RECALL_API_KEY", None)
    sys.exit(main())
