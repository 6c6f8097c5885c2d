"""Quick start: execute a workflow, stream one, and look at the rate limit.

Run it with: python examples/quickstart.py
With a key of your own, put your workflows' ids in the place of "greet" and "count".
"""

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import RecallClient

with RecallClient() as client:  # takes RECALL_API_KEY from the environment
    result = client.execute_workflow("greet", {"name": "Ada"})
    print("Output:", result.output)

    print("Stream: ", end="")
    with client.stream_workflow("count", selected_outputs=["agent1.content"]) as stream:
        for text in stream.text():
            print(text, end="", flush=True)
    print()

    limit = client.get_rate_limit_info()
    if limit:
        print(f"Rate limit: {limit.remaining} of {limit.limit} requests left")
