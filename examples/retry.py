"""Retries: keep calling while a rate limit holds you back, and see what the server says of the limit.

Run it with: python examples/retry.py
"""

import logging
from datetime import datetime

import recall_sdk.testing.demo  # without RECALL_API_KEY: a stand-in server. Delete this line to use Recall.
from recall_sdk import RateLimitError, RecallClient

logging.basicConfig(format="    %(message)s")
logging.getLogger("recall_sdk").setLevel(logging.INFO)  # one line for each wait

with RecallClient() as client:
    for number in range(1, 14):  # more than the stand-in server takes at once
        try:
            client.execute_with_retry("greet", {"name": f"guest {number}"}, max_retries=5, initial_delay=1.0, max_delay=30.0)
        except RateLimitError as error:
            raise SystemExit(f"Still refused after five retries: {error}") from error
        limit = client.get_rate_limit_info()
        if limit:
            reset = datetime.fromtimestamp(limit.reset).astimezone()
            print(f"call {number}: {limit.remaining} of {limit.limit} left, all of them again at {reset:%H:%M:%S}")
