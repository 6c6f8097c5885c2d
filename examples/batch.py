"""A batch: many executions side by side, at the speed that the server's rate limit allows.

Run it with: python examples/batch.py
"""

import time

import recall_sdk.testing.demo  # without RECALL_API_KEY: a stand-in server. Delete this line to use Recall.
from recall_sdk import RecallClient, WorkflowExecutionResult

NAMES = [f"guest {number}" for number in range(1, 31)]

items = [("greet", {"name": name}) for name in NAMES]  # any iterable of (workflow id, input), also a generator
items.append(("fail", {}))  # one failure does not stop the others

started = time.monotonic()
outputs = {}
with RecallClient() as client:
    for item in client.execute_batch(items, max_workers=8):  # in the order in which they end
        if isinstance(item.result, WorkflowExecutionResult):
            outputs[item.index] = item.result.output
            print(f"{len(outputs)} of {len(items)}", end="\r", flush=True)
        else:
            print(f"{item.workflow_id} {item.input}: {item.error}")

print(f"{len(outputs)} greetings in {time.monotonic() - started:.1f} s, the first: {outputs[0]}, the last: {outputs[29]}")
