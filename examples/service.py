"""In a service: one client for the whole process, shared by its threads.

Run it with: python examples/service.py
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Dict, Optional

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import RecallClient, RecallError


class GreetingService:
    """Greets people. Use it in a ``with`` block, which closes its connections."""

    def __init__(self) -> None:
        self._client = RecallClient(timeout=10.0)

    def __enter__(self) -> "GreetingService":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def is_ready(self) -> bool:
        """Return whether the workflow is deployed, for a health check."""
        return self._client.validate_workflow("greet")

    def greet(self, name: str) -> Optional[str]:
        """Return a greeting, or None if the call fails, after its retries."""
        try:
            result = self._client.execute_with_retry("greet", {"name": name})
        except RecallError as error:
            print(f"no greeting for {name}: {error}")
            return None
        output: Dict[str, str] = result.output or {}
        return output.get("content")


with GreetingService() as service, ThreadPoolExecutor(max_workers=4) as pool:
    print("Ready:", service.is_ready())
    for greeting in pool.map(service.greet, ["Ada", "Alan", "Grace", "Edsger"]):
        print(greeting)
