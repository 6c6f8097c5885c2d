"""A batch that survives a crash: finished items are kept in a small SQLite table.

Run it with: python examples/resume_batch.py
Kill it and run it again: it continues where it stopped. Items that were in flight
when it was killed run again.
"""

import json
import sqlite3
import sys
from pathlib import Path

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import RecallClient, WorkflowExecutionResult

NAMES = [f"guest {number}" for number in range(1, 31)]

path = Path(sys.argv[1] if len(sys.argv) > 1 else "resume_batch.db")
database = sqlite3.connect(str(path))
database.execute("CREATE TABLE IF NOT EXISTS done (name TEXT PRIMARY KEY, output TEXT)")

done = {name for (name,) in database.execute("SELECT name FROM done")}
items = [("greet", {"name": name}) for name in NAMES if name not in done]
print(f"{len(done)} of {len(NAMES)} are done", flush=True)

with RecallClient() as client:
    for item in client.execute_batch(items, max_workers=4):
        if isinstance(item.result, WorkflowExecutionResult) and item.result.success:
            row = (item.input["name"], json.dumps(item.result.output))
            with database:  # a transaction: on disk before the next item
                database.execute("INSERT INTO done VALUES (?, ?)", row)
            print("done:", item.input["name"], flush=True)
        else:
            print("failed:", item.input["name"], item.error)

((finished,),) = database.execute("SELECT count(*) FROM done")
database.close()
print(f"{finished} of {len(NAMES)} are done")
if finished == len(NAMES):
    path.unlink()
