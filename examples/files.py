"""Files: send a file as part of a workflow's input. Open it in binary mode and put it where the workflow expects it.

Run it with: python examples/files.py
"""

import io
import tempfile
from pathlib import Path

import recall_sdk.testing.demo  # without RECALL_API_KEY: a stand-in server. Delete this line to use Recall.
from recall_sdk import InvalidRequestError, RecallClient

with RecallClient() as client, tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "minutes.txt"
    path.write_text("We met, and were brief.\n", encoding="utf-8")

    with path.open("rb") as document:
        result = client.execute_workflow("echo", {"question": "What happened?", "documents": [document]})
    sent = result.output["documents"][0]  # this workflow gives back what it received
    print("Sent:", sent["name"], sent["mime"], sent["data"])

    # Bytes that are no file yet: give them a name, from which the type is guessed.
    picture = io.BytesIO(b"\x89PNG...")
    picture.name = "dot.png"
    result = client.execute_workflow("echo", {"picture": picture})
    print("Sent:", result.output["picture"]["name"], result.output["picture"]["mime"])

    # A file in text mode is refused before anything is sent.
    with path.open(encoding="utf-8") as document:
        try:
            client.execute_workflow("echo", {"documents": [document]})
        except InvalidRequestError as error:
            print("Refused:", error)
