"""A batch: many executions in parallel, as fast as the rate limit allows.

Run it with: python examples/batch.py
"""

import time

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import RecallClient, WorkflowExecutionResult

NAMES = [f"guest {number}" for number in range(1, 31)]

# Any iterable of (workflow id, input) works, also a generator.
items = [("greet", {"name": name}) for name in NAMES]
items.append(("fail", {}))  # one failure does not stop the others

started = time.monotonic()
outputs = {}
with RecallClient() as client:
    # Nothing is sent before this loop. Items come in the order in which they finish.
    for item in client.execute_batch(items, max_workers=8):
        if isinstance(item.result, WorkflowExecutionResult):
            outputs[item.index] = item.result.output
            print(f"{len(outputs)} of {len(items)}", end="\r", flush=True)
        else:
            print(f"{item.workflow_id} {item.input}: {item.error}")

print(f"{len(outputs)} greetings in {time.monotonic() - started:.1f} s")
print(f"The first: {outputs[0]}, the last: {outputs[29]}")
