"""Streaming: print a workflow's output as it arrives, and keep what came when the stream breaks off.

Run it with: python examples/streaming.py
"""

import recall_sdk.testing.demo  # without RECALL_API_KEY: a stand-in server. Delete this line to use Recall.
from recall_sdk import ExecutionError, RecallClient, StreamInterruptedError

with RecallClient(timeout=60.0) as client:  # in a stream: seconds until it begins, and of silence at most
    try:
        # Servers stream only the outputs that are named, each as blockName.attribute.
        with client.stream_workflow("count", selected_outputs=["agent1.content"]) as stream:
            for event in stream:
                if event.type == "chunk":
                    print(event.chunk, end="", flush=True)
                elif event.type == "block_error":
                    print(f"\n[{event.block_id} failed: {event.data.get('error')}]")
            print()
            result = stream.result
    except StreamInterruptedError as error:
        arrived = error.partial.text if error.partial else ""
        raise SystemExit(f"\nThe connection broke. Arrived so far: {arrived!r}") from error
    except ExecutionError as error:
        raise SystemExit(f"\nThe workflow failed: {error}") from error

print("Output:", result.output)
for block_id, text in result.text_by_block.items():
    print(f"{block_id} wrote {len(text)} characters")
