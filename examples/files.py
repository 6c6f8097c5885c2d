"""Files: send a file as part of a workflow's input.

Open it in binary mode, and put it where the workflow expects it.
Run it with: python examples/files.py
"""

import io
import tempfile
from pathlib import Path
from typing import Any, Dict

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import InvalidRequestError, RecallClient

client = RecallClient()


def echo(data: Dict[str, Any]) -> Dict[str, Any]:
    """Execute a workflow that returns its input."""
    return client.execute_workflow("echo", data).output or {}


with client, tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "minutes.txt"
    path.write_text("We met, and were brief.\n", encoding="utf-8")

    with path.open("rb") as document:
        output = echo({"question": "What happened?", "documents": [document]})
    sent = output["documents"][0]
    print("Sent:", sent["name"], sent["mime"], sent["data"])

    # Bytes in memory: set a name, from which the type is guessed.
    picture = io.BytesIO(b"\x89PNG...")
    picture.name = "dot.png"
    sent = echo({"picture": picture})["picture"]
    print("Sent:", sent["name"], sent["mime"])

    # A file in text mode is rejected before anything is sent.
    with path.open(encoding="utf-8") as text:
        try:
            echo({"documents": [text]})
        except InvalidRequestError as error:
            print("Rejected:", error)
