"""Streaming: print a workflow's output as it arrives.

If the stream is cut, keep what arrived.
Run it with: python examples/streaming.py
"""

import sys

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import ExecutionError, RecallClient, StreamInterruptedError

# In a stream, the timeout bounds the wait for its start, and each silence.
with RecallClient(timeout=60.0) as client:
    try:
        # Only these outputs are streamed, each named as blockName.attribute.
        outputs = ["agent1.content"]
        with client.stream_workflow("count", selected_outputs=outputs) as stream:
            for event in stream:
                if event.type == "chunk":
                    print(event.chunk, end="", flush=True)
                elif event.type == "block_error":
                    print(f"\n[{event.block_id} failed: {event.data.get('error')}]")
            print()
            result = stream.result
    except StreamInterruptedError as error:
        arrived = error.partial.text if error.partial else ""
        sys.exit(f"\nThe connection broke. Arrived so far: {arrived!r}")
    except ExecutionError as error:
        sys.exit(f"\nThe workflow failed: {error}")

print("Output:", result.output)
for block_id, text in result.text_by_block.items():
    print(f"{block_id} wrote {len(text)} characters")
