"""Row 6: a batch against a server with a token bucket."""

import time

import requests

from recall_sdk import RecallClient

from .measure import Bar, Measured, Row, spread
from .peers import INPUT, KEY, SDK
from .server import BUCKET_RATE, BUCKET_SIZE

CALLS = 400
WORKERS = 16
IDEAL = (CALLS - BUCKET_SIZE) / BUCKET_RATE  # seconds that the bucket itself takes
REJECTED_LIMIT = 3.0  # percent of all requests
KINDS = {"plain": ("429 without Retry-After", 1.10), "ordered": ("429 with Retry-After: 1", 1.30)}


def measure(base_url: str) -> Row:
    """Run one batch for each kind of 429."""
    row = Row(
        "batch",
        f"A batch of {CALLS} calls, {WORKERS} workers, {BUCKET_RATE:.0f} calls/s (burst {BUCKET_SIZE:.0f}): {IDEAL:.1f} s at best",
    )
    for kind, (case, limit) in KINDS.items():
        workflow = f"bucket-{kind}-{time.monotonic_ns()}"
        with RecallClient(KEY, base_url) as client:
            cpu, wall = time.process_time(), time.perf_counter()
            items = list(client.execute_batch(((workflow, INPUT) for _ in range(CALLS)), max_workers=WORKERS))
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        failed = sum(1 for item in items if item.error is not None)
        counts = requests.get(f"{base_url}/api/workflows/{workflow}/counts", timeout=10).json()
        rejected = 100.0 * counts["rejected"] / (counts["rejected"] + counts["accepted"])
        note = f"{counts['rejected']} rejected, {failed} failed"
        row.measured.append(Measured(case, SDK, "s", spread([cpu]), spread([wall]), note))
        row.bars += [
            Bar(f"batch, time against the bucket's own ({case})", spread([wall / IDEAL]), limit, unit="x"),
            Bar(f"batch, rejected requests ({case})", spread([rejected]), REJECTED_LIMIT, unit="%"),
            Bar(f"batch, failed calls ({case})", spread([float(failed)]), 0.0),
        ]
    return row
