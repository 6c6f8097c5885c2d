"""Retries: keep calling while the rate limit rejects calls.

If the server reports its limit, print what remains.
Run it with: python examples/retry.py
"""

import logging
from datetime import datetime

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import RateLimitError, RecallClient

logging.basicConfig(format="    %(message)s")
logging.getLogger("recall_sdk").setLevel(logging.INFO)  # one line for each wait

with RecallClient() as client:
    for number in range(1, 14):  # more than the test server allows at once
        try:
            client.execute_with_retry(
                "greet",
                {"name": f"guest {number}"},
                max_retries=5,
                initial_delay=1.0,
                max_delay=30.0,
            )
        except RateLimitError as error:
            raise SystemExit(f"Still rejected after five retries: {error}") from error
        said = "done; the server reports no limit"
        limit = client.get_rate_limit_info()
        if limit:
            reset = f"{datetime.fromtimestamp(limit.reset).astimezone():%H:%M:%S}"
            said = f"{limit.remaining} of {limit.limit} left, all again at {reset}"
        print(f"call {number}: {said}")
