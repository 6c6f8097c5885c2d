"""An async job: queue a long run, show a progress bar, and read its output.

Run it with: python examples/async_job.py
"""

import sys
import threading
import time
from typing import Any, Dict

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import ExecutionError, RecallClient

EXPECTED = 3.0  # seconds that such a run usually takes


def draw_bar(started: float, state: Dict[str, Any], ended: threading.Event) -> None:
    """Draw the bar ten times a second.

    The server reports no percentage, so the bar shows the time against the usual time.
    """
    width = 30
    while not ended.wait(0.1):
        part = min((time.monotonic() - started) / EXPECTED, 0.99)
        bar = "#" * int(part * width)
        status = state.get("status", "queued")
        sys.stderr.write(f"\r[{bar:<{width}}] {status:<12}")
        sys.stderr.flush()
    sys.stderr.write(f"\r[{'#' * width}] {state.get('status', ''):<12}\n")


with RecallClient() as client:
    job = client.execute_workflow("slow", {"seconds": 2}, async_execution=True)
    print("Queued as", job.task_id)  # any process can wait for the job with this id

    state: Dict[str, Any] = {}
    ended = threading.Event()
    bar = threading.Thread(target=draw_bar, args=(time.monotonic(), state, ended))
    bar.start()
    try:
        done = client.wait_for_job(
            job, poll_interval=0.2, max_poll_interval=1.0, on_update=state.update
        )
    except ExecutionError as error:
        sys.exit(f"The run failed: {error}")
    finally:
        ended.set()
        bar.join()
    print("Output:", done["output"])
    print("It ran for", done["metadata"]["duration"], "ms")
