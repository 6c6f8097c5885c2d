"""Run the test server from the command line: ``python -m recall_sdk.testing``."""

import argparse
import logging
import signal
import sys
import time
from contextlib import suppress
from typing import Optional, Sequence

from recall_sdk import testing  # it imports Werkzeug on first use of RecallServer
from recall_sdk.testing._workflows import SUMMARY, add_workflows, exports

SLICE_SECONDS = 1.0

_DESCRIPTION = f"""\
A test server on loopback, for trying recall-sdk without an account.

It has these workflows:
{SUMMARY}
"""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        arguments: The command-line arguments, without the program's name; by default those of this process.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        server = testing.RecallServer(**vars(options))
        add_workflows(server)
        server.start()
    except (ImportError, ValueError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"can't listen on {options.host}, port {options.port} ({error}): choose another with --port; 0 selects a free one")
    log = logging.StreamHandler(sys.stdout)
    log.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("recall_sdk.testing")
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    print(f"Serving on {server.base_url} (stop with Ctrl-C). In another terminal:\n")
    print(*(f"    {line}" for line in exports(server.api_key, server.base_url)), "", sep="\n", flush=True)
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)  # process 1 of a container would ignore it
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(SLICE_SECONDS)  # on Windows, Ctrl-C interrupts no wait of a lock, an event or a thread
    signal.signal(signal.SIGTERM, usual)
    server.stop()
    logger.removeHandler(log)
    print("stopped")
    return 0


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recall_sdk.testing", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8787, help="the port; 0 selects a free one (default: %(default)s)")
    parser.add_argument("--api-key", default="test-key", metavar="KEY", help="the key that is accepted (default: %(default)s)")
    parser.add_argument(
        "--dialect", choices=["documented", "observed"], default="documented", help="the dialect of the responses (default: %(default)s)"
    )
    parser.add_argument("--rate-limit", type=float, metavar="N", help="executions per second (default: no limit)")
    parser.add_argument("--burst", type=int, metavar="N", help="executions allowed at once (default: the rate limit, rounded up)")
    parser.add_argument("--no-retry-after", dest="retry_after", action="store_false", help="send no Retry-After with a 429")
    parser.add_argument("--usage-limit", type=float, metavar="DOLLARS", help="spending allowed; a run costs 0.01 (default: no limit)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
