"""Quick start: execute a workflow, stream one, and read the rate limit.

Run it with: python examples/quickstart.py
With your own key, replace "greet" and "count" by the ids of your workflows.
"""

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import RecallClient

with RecallClient() as client:  # reads RECALL_API_KEY
    result = client.execute_workflow("greet", {"name": "Ada"})
    print("Output:", result.output)

    print("Stream: ", end="")
    with client.stream_workflow("count", selected_outputs=["agent1.content"]) as stream:
        for text in stream.text():
            print(text, end="", flush=True)
    print()

    limit = client.get_rate_limit_info()
    if limit:
        print(f"Rate limit: {limit.remaining} of {limit.limit} requests remain")
